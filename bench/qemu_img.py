#!/usr/bin/env python3
"""`hawser` beside `qemu-img`: whole processes, run alternately, medians and spread of CPU and wall time.

    bench/qemu_img.py --hawser BUILD/src/cli/hawser [--rounds 7] [--size-gib 100] [--case check]
    bench/qemu_img.py ... --json FILE         the figures for a machine as well

The images are made at once, without their data: 70 % of the guest's clusters are allocated, in order
("contiguous") or all over the file ("random"); the host file is sparse. Add a case by adding a row to
CASES. SPDX-License-Identifier: Apache-2.0
"""
import argparse
import array
import json
import multiprocessing
import os
import random
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import time

CLUSTER = 65536
COPIED = 1 << 63


def make_image(path, size, share, order):
    """A qcow2 image of @size bytes in which @share of the clusters are allocated; data are holes."""
    rng = random.Random(1)
    clusters = size // CLUSTER
    if order == "random":
        guests = sorted(rng.sample(range(clusters), int(clusters * share)))
    else:
        guests = range(int(clusters * share))
    entries = CLUSTER // 8
    tables = -(-clusters // entries)
    l1_clusters = -(-tables * 8 // CLUSTER)
    used, per_block = 2 + l1_clusters + tables + len(guests), CLUSTER // 2
    blocks = -(-used // (per_block - 1)) + 1
    first_block, first_l1 = 2, 2 + blocks
    first_l2 = first_l1 + l1_clusters
    first_data = first_l2 + tables
    total = first_data + len(guests)
    assert blocks <= CLUSTER // 8 and blocks * per_block >= total
    hosts = list(range(first_data, total))
    if order == "random":
        rng.shuffle(hosts)

    def be64(values):
        words = array.array("Q", values)
        words.byteswap()
        return words.tobytes()

    l2 = array.array("Q", bytes(8 * tables * entries))
    for guest, host in zip(guests, hosts):
        l2[guest] = host * CLUSTER | COPIED
    l2.byteswap()
    header = struct.pack(">IIQIIQIIQQIIQQQQII", 0x514649fb, 3, 0, 0, 16, size, 0, tables,
                         first_l1 * CLUSTER, CLUSTER, 1, 0, 0, 0, 0, 0, 4, 112) + bytes(8)
    with open(path, "wb") as file:
        file.write(header)
        file.seek(CLUSTER)
        file.write(be64((first_block + i) * CLUSTER for i in range(blocks)))
        file.seek(first_block * CLUSTER)
        file.write(b"\0\1" * total)
        file.seek(first_l1 * CLUSTER)
        file.write(be64((first_l2 + i) * CLUSTER | COPIED for i in range(tables)))
        file.seek(first_l2 * CLUSTER)
        file.write(l2.tobytes())
        file.truncate(total * CLUSTER)


def run(command):
    """@return wall, CPU (user and system) in seconds, and the largest resident size in MiB."""
    start = time.monotonic()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    told = child.stderr.read()
    _, status, usage = os.wait4(child.pid, 0)
    wall = time.monotonic() - start
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"{' '.join(command)}: exit code {child.returncode}: {told.decode()}")
    return wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


# name, arguments of both programs ({a} and {b} are two images of one layout)
CASES = (
    ("check", ["check", "-q", "-f", "qcow2", "{a}"]),
    ("map", ["map", "--output=json", "-f", "qcow2", "{a}"]),
    ("compare", ["compare", "-q", "-f", "qcow2", "-F", "qcow2", "{a}", "{b}"]),
)


def spread(values):
    return f"{min(values) * 1e3:.0f}-{max(values) * 1e3:.0f}"


def measure(programs, arguments, rounds):
    figures = {name: [] for name in programs}
    for i in range(rounds + 1):
        for name, program in programs.items():
            figure = run([program, *arguments])
            if i:  # the first round warms the page cache
                figures[name].append(figure)
    return figures


def report(label, figures):
    row = {"case": label}
    for name, runs in figures.items():
        wall, cpu, memory = zip(*runs)
        row[name] = {"wall_ms": statistics.median(wall) * 1e3, "cpu_ms": statistics.median(cpu) * 1e3,
                     "memory_mib": max(memory)}
        print(f"{label:22} {name:9} wall {row[name]['wall_ms']:8.1f} ms ({spread(wall)})  "
              f"CPU {row[name]['cpu_ms']:8.1f} ms ({spread(cpu)})  {row[name]['memory_mib']:.0f} MiB")
    for kind in ("wall", "cpu"):
        row[f"{kind}_ratio"] = row["hawser"][f"{kind}_ms"] / row["qemu-img"][f"{kind}_ms"]
    print(f"{label:22} ratio     wall {row['wall_ratio']:8.2f}     CPU {row['cpu_ratio']:.2f}", flush=True)
    return row


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hawser", required=True)
    parser.add_argument("--qemu-img", default="qemu-img")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--size-gib", type=int, default=100)
    parser.add_argument("--share", type=float, default=0.7, help="of the clusters that are allocated")
    parser.add_argument("--case", help="only cases whose name contains this")
    parser.add_argument("--folder", help="where the images are made (not tmpfs)")
    parser.add_argument("--json", help="write the figures to this file")
    options = parser.parse_args()
    programs = {"qemu-img": shutil.which(options.qemu_img), "hawser": os.path.abspath(options.hawser)}
    rows = []
    with tempfile.TemporaryDirectory(prefix="hawser-bench-", dir=options.folder) as folder:
        for order in ("contiguous", "random"):
            paths = {name: os.path.join(folder, f"{order}-{name}.qcow2") for name in "ab"}
            for path in paths.values():
                # In a child: a process's largest size is inherited by what it starts.
                maker = multiprocessing.Process(target=make_image, args=(
                    path, options.size_gib << 30, options.share, order))
                maker.start()
                maker.join()
                if maker.exitcode:
                    raise SystemExit("making an image failed")
            for name, arguments in CASES:
                label = f"{name} {order}"
                if options.case and options.case not in label:
                    continue
                command = [part.format(**paths) for part in arguments]
                rows.append(report(label, measure(programs, command, options.rounds)))
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(rows, file, indent=2)
    return 0


if __name__ == "__main__":
    sys.exit(main())
