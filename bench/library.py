#!/usr/bin/env python3
"""libhawser beside QEMU in one process and nbdkit over libnbd: 4 KiB reads at far places, CPU a request.

  bench/library.py [--build BUILD] [--rounds 5] [--count 200000] [--folder /dev/shm] [--size-mib 1024]

libhawser and QEMU (`qemu-img bench`, which has its block layer in its own process) read a qcow2 that is
fully allocated; nbdkit's file plugin serves the same data as a raw file, its CPU time and the client's are
added up. Every round measures each case with each reader in turn. Prints medians over the rounds, with the
least and the most in brackets. What starting costs is measured with one request, and taken off.
"""
import argparse
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time

STEP = 4096 * 10007
WAYS = ["blocking", "caller", "thread", "event-caller", "event-thread"]


def children():
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def run(*command, **options):
    return subprocess.run(command, check=True, capture_output=True, text=True, **options).stdout


def told(text):
    """(requests a second, us of CPU a request) of our own programs."""
    rate, cpu = re.match(r"([\d.]+) requests/s, ([\d.]+) us", text).groups()
    return float(rate), float(cpu)


def by_library(o, way, depth):
    if way == "blocking" and depth > 1:
        return None
    return told(run(f"{o.build}/bench/bench-library", o.image, way, str(depth), str(o.count)))


def qemu_once(o, depth, count):
    before = children()
    text = run("qemu-img", "bench", "-f", "qcow2", "-d", str(depth), "-c", str(count), "-s", "4096", "-S",
               str(STEP), "-t", "writeback", o.image)
    seconds = float(re.search(r"completed in ([\d.]+) seconds", text).group(1))
    return seconds, children() - before


def by_qemu(o, depth):
    _, idle = qemu_once(o, depth, depth)
    seconds, cpu = qemu_once(o, depth, o.count)
    return o.count / seconds, (cpu - idle) * 1e6 / o.count


def server_cpu(pid):
    fields = open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def by_nbdkit(o, depth):
    before = server_cpu(o.nbdkit.pid)
    rate, cpu = told(run(f"{o.build}/bench/bench-library-nbd", o.socket, str(depth), str(o.count)))
    return rate, cpu + (server_cpu(o.nbdkit.pid) - before) * 1e6 / o.count


def show(values, form):
    return f"{form(statistics.median(values))} ({form(min(values))}-{form(max(values))})"


def measure(o):
    readers = [(f"libhawser, {way}", lambda depth, way=way: by_library(o, way, depth)) for way in WAYS]
    readers += [("qemu-img bench", lambda depth: by_qemu(o, depth)),
                ("nbdkit, raw file, libnbd", lambda depth: by_nbdkit(o, depth))]
    found = {}
    for _ in range(o.rounds):
        for depth in (1, 32):
            for name, reader in readers:
                result = reader(depth)
                if result:
                    found.setdefault((depth, name), []).append(result)
    print("| reader | depth | requests a second | CPU a request |\n|---|---|---|---|")
    for (depth, name), results in sorted(found.items(), key=lambda item: item[0][0]):
        print(f"| {name} | {depth} | {show([r[0] for r in results], lambda v: f'{v / 1000:.0f}k')} | "
              f"{show([r[1] for r in results], lambda v: f'{v:.2f}')} us |")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--build", default="build")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--count", type=int, default=200000)
    parser.add_argument("--folder", default="/dev/shm")
    parser.add_argument("--size-mib", type=int, default=1024)
    o = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=o.folder, prefix="hawser-bench.") as folder:
        raw, o.image, o.socket = (os.path.join(folder, name) for name in ("raw", "qcow2", "socket"))
        with open(raw, "wb") as file:
            for _ in range(o.size_mib):
                file.write(os.urandom(1 << 20))
        run("qemu-img", "convert", "-O", "qcow2", raw, o.image)
        o.nbdkit = subprocess.Popen(["nbdkit", "-f", "-r", "-U", o.socket, "file", raw])
        try:
            while not os.path.exists(o.socket):
                time.sleep(0.05)
            measure(o)
        finally:
            o.nbdkit.terminate()
            o.nbdkit.wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
