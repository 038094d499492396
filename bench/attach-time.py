#!/usr/bin/env python3
"""Time from the command to a usable block device: `hawser attach` against qemu-storage-daemon (FUSE) and
losetup, which is the least that a user of Debian's tools needs for the same.

  bench/attach-time.py HAWSER [--rounds N]

Interleaved rounds on an image in memory. "usable" is the first successful read of the device. Prints
medians and spread in milliseconds, what the command says about its own parts, and the kernel's share:
FUSE mount and loop device, timed inside the engine as "export". Needs root.
"""
import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import tempfile
import time


def now_ms():
    return time.monotonic() * 1000


def first_read(device):
    with open(device, "rb", buffering=0) as file:
        assert len(file.read(4096)) == 4096


def time_hawser(hawser, image, parts):
    started = now_ms()
    told = json.loads(subprocess.run([hawser, "attach", "--output=json", image], check=True, capture_output=True,
                                     text=True).stdout)
    first_read(told["device"])
    took = now_ms() - started
    parts.append({name: value / 1000 for name, value in told["times-us"].items()})
    started = now_ms()
    subprocess.run([hawser, "detach", told["name"]], check=True)
    return took, now_ms() - started


def time_storage_daemon(image, mount):
    open(mount, "w").close()
    started = now_ms()
    server = subprocess.Popen(
        ["qemu-storage-daemon", "--blockdev", f"file,node-name=f,filename={image}",
         "--blockdev", "qcow2,node-name=q,file=f", "--export",
         f"fuse,id=e,node-name=q,mountpoint={mount},writable=on"])
    while os.path.getsize(mount) == 0:
        time.sleep(0.0005)
    device = subprocess.run(["losetup", "--direct-io=on", "--show", "-f", mount], check=True, capture_output=True,
                            text=True).stdout.strip()
    first_read(device)
    took = now_ms() - started
    started = now_ms()
    subprocess.run(["losetup", "-d", device], check=True)
    time.sleep(0.02)
    server.send_signal(signal.SIGTERM)
    server.wait()
    return took, now_ms() - started


def show(name, values):
    print(f"{name:38} {statistics.median(values):8.2f} ms ({min(values):.2f}..{max(values):.2f})")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("hawser")
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    hawser = os.path.abspath(options.hawser)
    folder = tempfile.mkdtemp(prefix="hawser-bench-", dir="/dev/shm")
    os.environ["HAWSER_RUN_DIR"] = os.path.join(folder, "run")
    image = os.path.join(folder, "disk.qcow2")
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", image, "10G"], check=True)
    ours, theirs, parts = [], [], []
    for _ in range(options.rounds):
        ours.append(time_hawser(hawser, image, parts))
        if shutil.which("qemu-storage-daemon"):
            theirs.append(time_storage_daemon(image, os.path.join(folder, "mount")))
    shutil.rmtree(folder)
    show("hawser attach, to the first read", [sample[0] for sample in ours])
    for part in ("spawn", "open", "export", "total"):
        show(f"  of it {part}", [sample[part] for sample in parts])
    show("  total without export", [sample["total"] - sample["export"] for sample in parts])
    show("hawser detach", [sample[1] for sample in ours])
    if theirs:
        show("qemu-storage-daemon and losetup", [sample[0] for sample in theirs])
        ratios = [a[0] / b[0] for a, b in zip(ours, theirs)]
        print(f"hawser / theirs: {statistics.median(ratios):.2f} ({min(ratios):.2f}..{max(ratios):.2f})")


main()
