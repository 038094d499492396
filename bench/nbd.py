#!/usr/bin/env python3
"""The NBD server against qemu-nbd, qemu-storage-daemon and nbdkit: images in memory, fio's nbd engine.

  bench/nbd.py [--hawser BUILD/src/cli/hawser] [--rounds 5] [--seconds 2] [--size-mib N] [--only WORD]
               [--json FILE]

All servers run at once, each on its own copy of the image: qcow2, but nbdkit's file plugin on a raw file.
Every round measures each case with each server in turn, so that a noisy machine is noisy for all. Prints,
for each case and server, medians of IOPS and of the server's CPU time (utime + stime) a request, and
the ratio to qemu-nbd as the median over rounds, with its spread.

Cases named "first touch" write to images that hold nothing yet, once each offset: plain, over a backing
file, and both with subclusters; a new image for each round. Cases named "chain" read from the lowest of that
many images. Needs fio, qemu-nbd, qemu-storage-daemon, qemu-img, nbdkit.
"""
import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
SERVERS = ["hawser", "qemu-nbd", "qsd", "nbdkit"]
# name, fio's rw, block size, depth, image
CASES = [
    ("randread 4k, depth 1", "randread", "4k", 1, "full"),
    ("randread 4k, depth 32", "randread", "4k", 32, "full"),
    ("randwrite 4k, allocated, depth 32", "randwrite", "4k", 32, "full"),
    ("read 256k, depth 8", "read", "256k", 8, "full"),
    ("first touch, depth 32", "randwrite", "4k", 32, "empty"),
    ("first touch over backing, depth 32", "randwrite", "4k", 32, "overlay"),
    ("first touch, subclusters", "randwrite", "4k", 32, "empty-sub"),
    ("first touch over backing, subclusters", "randwrite", "4k", 32, "overlay-sub"),
    ("randread 4k, depth 32, chain 0", "randread", "4k", 32, "chain-0"),
    ("randread 4k, depth 32, chain 8", "randread", "4k", 32, "chain-8"),
    ("randread 4k, depth 32, chain 32", "randread", "4k", 32, "chain-32"),
    ("randread 4k, depth 32, chain 128", "randread", "4k", 32, "chain-128"),
]
SUBCLUSTERS = ["-o", "extended_l2=on,cluster_size=128k"]


def run(*command):
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def create(path, size, *options, backing=None):
    behind = ["-b", backing, "-F", "qcow2"] if backing else []
    run("qemu-img", "create", "-q", "-f", "qcow2", *options, *behind, path, f"{size}")


def fill(path, size, fmt="qcow2"):
    step = 256 << 20
    commands = []
    for at in range(0, size, step):
        commands += ["-c", f"write -q -P {1 + at // step % 250} {at} {min(step, size - at)}"]
    run("qemu-io", "-f", fmt, "-t", "unsafe", *commands, path)


def make_image(kind, folder, size):
    """@return (path, format) of a fresh image."""
    path = os.path.join(folder, "image")
    if kind == "raw":
        run("qemu-img", "create", "-q", "-f", "raw", path, str(size))
        fill(path, size, "raw")
        return path, "raw"
    base = os.path.join(folder, "base")
    if kind.startswith("overlay"):
        options = SUBCLUSTERS if kind.endswith("sub") else []
        create(base, size)
        fill(base, size)
        create(path, size, *options, backing="base")
    elif kind.startswith("chain"):
        depth = int(kind.split("-")[1])
        names = [f"layer{i}" for i in range(depth)] + ["image"]
        for i, name in enumerate(names):
            create(os.path.join(folder, name), size, backing=names[i - 1] if i else None)
            if i == 0:
                fill(os.path.join(folder, name), size)
    else:
        create(path, size, *(SUBCLUSTERS if kind.endswith("sub") else []))
        if kind == "full":
            fill(path, size)
    return path, "qcow2"


class Server:
    """One server of one image, on a unix socket."""

    def __init__(self, name, hawser, folder, path, fmt):
        self.socket = os.path.join(folder, name + ".sock")
        command = {
            "hawser": [hawser, "serve", "--log-level=error", "--name=x", "-f", fmt, f"--nbd=unix:{self.socket}", path],
            "qemu-nbd": ["qemu-nbd", "-f", fmt, "-k", self.socket, "-t", "-e", "8", "-x", "x", path],
            "qsd": ["qemu-storage-daemon",
                    "--blockdev", f"driver=file,filename={path},node-name=f",
                    "--blockdev", f"driver={fmt},file=f,node-name=x",
                    "--nbd-server", f"addr.type=unix,addr.path={self.socket}",
                    "--export", "type=nbd,id=e,node-name=x,name=x,writable=on"],
            "nbdkit": ["nbdkit", "-f", "-U", self.socket, "file", path],
        }[name]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        for _ in range(500):
            if os.path.exists(self.socket):
                break
            if self.process.poll() is not None:
                sys.exit(f"{name}: ended with {self.process.returncode}")
            time.sleep(0.01)
        time.sleep(0.1)

    def cpu_s(self):
        # The process's CPU clock: threads that have ended count, too.
        return time.clock_gettime(~self.process.pid << 3 | 2)

    def private_mib(self):
        with open(f"/proc/{self.process.pid}/smaps_rollup") as file:
            return sum(int(line.split()[1]) for line in file if line.startswith("Private")) / 1024

    def stop(self):
        for sign in (signal.SIGTERM, signal.SIGTERM, signal.SIGKILL):
            self.process.send_signal(sign)
            try:
                self.process.wait(5)
                return
            except subprocess.TimeoutExpired:
                pass


def measure(server, rw, block, depth, size, seconds, once):
    """@return (IOPS, server's CPU microseconds a request)."""
    uri = f"nbd+unix:///x?socket={server.socket}"
    command = ["fio", "--name=x", "--ioengine=nbd", f"--uri={uri}", f"--rw={rw}", f"--bs={block}", f"--iodepth={depth}",
               f"--size={size}", "--output-format=json", "--randseed=7", "--norandommap=" + ("0" if once else "1")]
    if once:
        command += [f"--number_ios={size // (64 << 10)}"]
    else:
        command += ["--time_based", f"--runtime={seconds}"]
    before = server.cpu_s()
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    used = server.cpu_s() - before
    job = json.loads(done.stdout[done.stdout.index("{"):])["jobs"][0]
    ios = job["read"]["total_ios"] + job["write"]["total_ios"]
    return job["read"]["iops"] + job["write"]["iops"], used / max(ios, 1) * 1e6


def one_case(case, options, folder):
    name, rw, block, depth, kind = case
    fresh = kind.startswith(("empty", "overlay"))
    samples = {server: [] for server in SERVERS}
    memory = {}
    running = {}
    size = options.size_mib << 20

    def start(server):
        if server == "nbdkit" and kind != "full":
            return None
        home = tempfile.mkdtemp(prefix=server + "-", dir=folder)
        return Server(server, options.hawser, home, *make_image("raw" if server == "nbdkit" else kind, home, size))

    def clear(server):
        if running.get(server):
            running[server].stop()
            run("rm", "-rf", os.path.dirname(running[server].socket))
        running[server] = None

    for round_number in range(options.rounds):
        order = SERVERS if round_number % 2 == 0 else SERVERS[::-1]
        for server in order:
            if fresh or round_number == 0:
                clear(server)
                running[server] = start(server)
            if running[server]:
                samples[server].append(measure(running[server], rw, block, depth, size, options.seconds, fresh))
                memory[server] = running[server].private_mib()
    for server in SERVERS:
        clear(server)
    return samples, memory


def report(name, samples, memory):
    print(name)
    result = {}
    base = samples["qemu-nbd"]
    for server, values in samples.items():
        if not values:
            continue
        iops, cpu = [v[0] for v in values], [v[1] for v in values]
        speed = [v[0] / b[0] for v, b in zip(values, base)]
        cost = [v[1] / b[1] for v, b in zip(values, base)]
        median = statistics.median
        print(f"  {server:9} {median(iops) / 1000:8.1f}k/s {median(cpu):7.2f} us   x{median(speed):5.2f} "
              f"({min(speed):.2f}-{max(speed):.2f})   CPU x{median(cost):5.2f} ({min(cost):.2f}-{max(cost):.2f})"
              f"   {memory[server]:5.1f} MiB", flush=True)
        result[server] = {"iops": median(iops), "cpu-us": median(cpu), "speed": median(speed),
                          "cpu": median(cost), "private-mib": memory[server]}
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hawser", default=os.path.join(HERE, "..", "build", "src", "cli", "hawser"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2)
    parser.add_argument("--size-mib", type=int, default=1024)
    parser.add_argument("--only", default="")
    parser.add_argument("--json")
    options = parser.parse_args()
    results = {}
    with tempfile.TemporaryDirectory(prefix="hawser-bench-", dir="/dev/shm") as folder:
        for case in CASES:
            if options.only in case[0]:
                results[case[0]] = report(case[0], *one_case(case, options, folder))
    if options.json:
        with open(options.json, "w") as file:
            json.dump(results, file, indent=1)


main()
