#!/usr/bin/env python3
"""The FUSE export against Debian's qemu-storage-daemon: one image in memory, 4 KiB fio requests.

  bench/fuse.py [--hawser BUILD/src/cli/hawser] [--format qcow2] [--rounds 3] [--seconds 2]
                [--threads N] [--size-mib N] [--json FILE]

All servers run at once, each on its own copy of the image; every round measures each case with each
server in turn, so that a noisy machine is noisy for all. Prints medians, and the ratio to
qemu-storage-daemon as the median over rounds with its spread. CPU is utime+stime of the server process
divided by requests. Needs root, fio, qemu-storage-daemon, qemu-img, losetup; switches FUSE over io_uring
on while it runs, where the kernel has it.
"""
import argparse
import fcntl
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time

URING = "/sys/module/fuse/parameters/enable_uring"
CASES = [  # name, target, fio's rw, depth
    ("file randread qd1", "file", "randread", 1),
    ("file randread qd32", "file", "randread", 32),
    ("loop randread qd1", "loop", "randread", 1),
    ("loop randread qd32", "loop", "randread", 32),
    ("loop randwrite qd32", "loop", "randwrite", 32),
]
TICK = os.sysconf("SC_CLK_TCK")


def run(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


class Server:
    """One server on its own image, mounted, with a loop device on the mount."""

    def __init__(self, name, folder, command):
        self.name = name
        self.state = os.path.join(folder, name + ".state")
        self.mount = os.path.join(folder, name + ".mnt")
        open(self.mount, "w").close()
        self.process = subprocess.Popen(
            [part.replace("MOUNT", self.mount).replace("STATE", self.state) for part in command])
        self.loop = None
        self.wait()
        self.idle = self.private_kib()

    def wait(self):
        for _ in range(500):
            if os.stat(self.mount).st_size > 0:
                break
            if self.process.poll() is not None:
                sys.exit(f"{self.name}: server ended with {self.process.returncode}")
            time.sleep(0.01)
        time.sleep(0.5)
        if os.path.exists(self.state) and f'"{self.name}"' not in open(self.state).read():
            sys.exit(f"{self.name}: the engine chose another transport: " + open(self.state).read())

    def attach(self):
        self.loop = run("losetup", "--direct-io=on", "-f", "--show", self.mount).strip()

    def cpu_s(self):
        fields = open(f"/proc/{self.process.pid}/stat").read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / TICK

    def private_kib(self):
        lines = open(f"/proc/{self.process.pid}/smaps_rollup").read().split("\n")
        return sum(int(l.split()[1]) for l in lines if l.startswith("Private_"))

    def measure(self, target, rw, depth, seconds):
        """@return (IOPS, server CPU microseconds a request)"""
        path = self.loop if target == "loop" else self.mount
        before = self.cpu_s()
        out = json.loads(run(
            "fio", "--name=b", f"--filename={path}", "--ioengine=libaio", "--direct=1", "--bs=4k",
            f"--rw={rw}", f"--iodepth={depth}", f"--runtime={seconds}", "--time_based",
            "--randrepeat=0", "--norandommap", "--output-format=json"))
        used = self.cpu_s() - before
        job = out["jobs"][0]["read" if rw == "randread" else "write"]
        return job["iops"], used * 1e6 / max(job["total_ios"], 1)

    def end(self):
        if self.loop:
            subprocess.run(["losetup", "-d", self.loop], check=False)
            time.sleep(0.3)
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
        subprocess.run(["umount", "-l", self.mount], check=False, capture_output=True)


def make_image(folder, fmt, size_mib):
    raw, image = os.path.join(folder, "content.raw"), os.path.join(folder, "image." + fmt)
    with open(raw, "wb") as f:
        for _ in range(size_mib):
            f.write(os.urandom(1 << 20))
    run("qemu-img", "convert", "-f", "raw", "-O", fmt, raw, image)
    os.unlink(raw)
    return image


def switch_uring(value):
    """FUSE over io_uring for connections made from here; False where the kernel has not got it."""
    if not os.path.exists(URING):
        return False
    open(URING, "w").write(value)
    return True


def start_servers(args, folder, master):
    def copy(name):
        image = os.path.join(folder, name + ".img")
        run("cp", master, image)
        return image

    def hawser(name):
        return Server(name, folder, [args.hawser, "serve", "--path=MOUNT", "--state-file=STATE", "--via=fuse",
                                     "--log-level=error", f"--format={args.format}"]
                      + ([f"--queues={args.threads}"] if args.threads else []) + [copy(name)])

    yield Server("qemu", folder, [
        "qemu-storage-daemon", "--blockdev", f"file,filename={copy('qemu')},node-name=p",
        "--blockdev", f"{args.format},file=p,node-name=q", "--export",
        "type=fuse,id=e,node-name=q,mountpoint=MOUNT,writable=on,growable=off"])
    switch_uring("N")
    yield hawser("device")
    if switch_uring("Y"):
        yield hawser("io_uring")


def measure_all(servers, args):
    results = {}
    for number in range(args.rounds):
        order = servers[number % len(servers):] + servers[:number % len(servers)]
        for name, target, rw, depth in CASES:
            for server in order:
                results.setdefault((name, server.name), []).append(
                    server.measure(target, rw, depth, args.seconds))
        print(f"round {number + 1} of {args.rounds} done", file=sys.stderr)
    return results


def spread(values, digits=2):
    return f"{statistics.median(values):.{digits}f} [{min(values):.{digits}f}..{max(values):.{digits}f}]"


def report(servers, results, args):
    print(f"{args.format} in memory, {args.rounds} rounds of {args.seconds} s; medians; ratios to qemu "
          "with their spread over the rounds")
    print(f"{'case':22}{'server':10}{'IOPS':>9}{'CPU us':>8}  {'IOPS ratio':22}CPU ratio")
    for name, *_ in CASES:
        base = results[(name, "qemu")]
        for server in servers:
            rows = results[(name, server.name)]
            line = (f"{name:22}{server.name:10}{statistics.median(r[0] for r in rows):9.0f}"
                    f"{statistics.median(r[1] for r in rows):8.2f}")
            if server.name != "qemu":
                iops = [r[0] / b[0] for r, b in zip(rows, base)]
                cpu = [r[1] / b[1] for r, b in zip(rows, base) if b[1]]
                line += f"  {spread(iops):22}{spread(cpu)}"
            print(line)
    for server in servers:
        print(f"private memory KiB, {server.name:10} idle after start {server.idle:6}, "
              f"after the load {server.private_kib():6}")


def main():
    here = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--hawser", default=os.path.join(here, "build/src/cli/hawser"))
    parser.add_argument("--format", default="qcow2", choices=["qcow2", "raw"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--size-mib", type=int, default=256)
    parser.add_argument("--json")
    args = parser.parse_args()
    if os.path.exists(URING):
        lock = open(URING)  # the tests that switch it take turns by the same lock
        fcntl.flock(lock, fcntl.LOCK_EX)
    uring_before = open(URING).read().strip() if os.path.exists(URING) else None
    servers = []
    with tempfile.TemporaryDirectory(prefix="hawser-bench.", dir="/dev/shm") as folder:
        master = make_image(folder, args.format, args.size_mib)
        try:
            for server in start_servers(args, folder, master):
                servers.append(server)
            for server in servers:
                server.attach()
            results = measure_all(servers, args)
            report(servers, results, args)
            if args.json:
                json.dump({f"{c}|{s}": rows for (c, s), rows in results.items()}, open(args.json, "w"))
        finally:
            for server in servers:
                server.end()
            if uring_before:
                switch_uring(uring_before)


if __name__ == "__main__":
    main()
