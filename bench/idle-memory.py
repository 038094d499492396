#!/usr/bin/env python3
"""Private memory of an idle server with one qcow2 image: `hawser attach` against qemu-nbd and
qemu-storage-daemon of this machine.

  bench/idle-memory.py HAWSER [--rounds N]

Interleaved: a round starts each server in turn on a fresh 10 GiB image, reads its
/proc/PID/smaps_rollup (Private_Clean + Private_Dirty) once it serves, once more after 32 MiB were
written and read through it, and stops it. qemu-nbd serves a unix socket, qemu-storage-daemon a FUSE file.
Prints the median and the spread in KiB, and the ratio to each. Needs root.
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


def private_kib(pid):
    return sum(int(line.split()[1]) for line in open(f"/proc/{pid}/smaps_rollup")
               if line.startswith(("Private_Clean:", "Private_Dirty:")))


def use(path):
    """Writes and reads 32 MiB."""
    with open(path, "r+b", buffering=0) as device:
        for i in range(32):
            os.pwrite(device.fileno(), os.urandom(1 << 20), i << 20)
        os.fsync(device.fileno())
        for i in range(32):
            os.pread(device.fileno(), 1 << 20, i << 20)


def wait_for(what):
    deadline = time.monotonic() + 20
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def measure_hawser(hawser, folder, image):
    told = json.loads(subprocess.run([hawser, "attach", "--via=fuse", "--output=json", image], check=True,
                                     capture_output=True, text=True).stdout)
    idle = private_kib(told["pid"])
    use(told["device"])
    used = private_kib(told["pid"])
    subprocess.run([hawser, "detach", told["name"]], check=True)
    return idle, used


def measure_storage_daemon(folder, image):
    mount = os.path.join(folder, "mount")
    open(mount, "w").close()
    server = subprocess.Popen(
        ["qemu-storage-daemon", "--blockdev", f"file,node-name=f,filename={image}",
         "--blockdev", "qcow2,node-name=q,file=f", "--export",
         f"fuse,id=e,node-name=q,mountpoint={mount},writable=on"])
    wait_for(lambda: os.path.getsize(mount) > 0)
    time.sleep(0.2)
    idle = private_kib(server.pid)
    use(mount)
    used = private_kib(server.pid)
    server.send_signal(signal.SIGTERM)
    server.wait()
    return idle, used


def measure_nbd(folder, image):
    path = os.path.join(folder, "nbd.sock")
    server = subprocess.Popen(["qemu-nbd", "-f", "qcow2", "-k", path, "-t", image])
    wait_for(lambda: os.path.exists(path))
    time.sleep(0.2)
    idle = private_kib(server.pid)
    subprocess.run(["qemu-io", "-f", "raw", "-c", "write -P 1 0 32M", "-c", "flush", "-c", "read 0 32M",
                    f"nbd+unix:///?socket={path}"], check=True, capture_output=True)
    used = private_kib(server.pid)
    server.send_signal(signal.SIGTERM)
    server.wait()
    return idle, used


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("hawser")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    hawser = os.path.abspath(options.hawser)
    folder = tempfile.mkdtemp(prefix="hawser-bench-")
    os.environ["HAWSER_RUN_DIR"] = os.path.join(folder, "run")
    servers = {"hawser": lambda image: measure_hawser(hawser, folder, image)}
    if shutil.which("qemu-storage-daemon"):
        servers["qemu-storage-daemon"] = lambda image: measure_storage_daemon(folder, image)
    if shutil.which("qemu-nbd"):
        servers["qemu-nbd"] = lambda image: measure_nbd(folder, image)
    results = {name: [] for name in servers}
    for i in range(options.rounds):
        for name, measure in servers.items():
            image = os.path.join(folder, f"{name}-{i}.qcow2")
            subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", image, "10G"], check=True)
            results[name].append(measure(image))
            os.unlink(image)
    shutil.rmtree(folder)
    for index, state in enumerate(("idle", "after 32 MiB")):
        for name, samples in results.items():
            values = [sample[index] for sample in samples]
            ratios = [ours[index] / value for ours, value in zip(results["hawser"], values)]
            print(f"{state:13} {name:20} {statistics.median(values):7.0f} KiB ({min(values)}..{max(values)})"
                  f"  hawser / this: {statistics.median(ratios):.2f} ({min(ratios):.2f}..{max(ratios):.2f})")


main()
