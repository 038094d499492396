#!/usr/bin/env python3
"""What a guest feels while layers of its volume are merged: a commit of the top, beside qemu-storage-daemon.

  bench/jobs.py [--hawser BUILD/src/cli/hawser] [--size-mib N] [--rounds 3] [--folder /dev/shm]

Each round, for each server on its own copy of one chain, in memory: fio over NBD (4 KiB, random, 70 % reads,
depth 1) without a job, then again from the start of the job to its end. Prints medians over the rounds: p50 and
p99.9 of reads and writes, the longest request, what the job took and moved a second. Needs root, fio, qemu-img,
qemu-io, qemu-storage-daemon.
"""
import argparse
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import tempfile
import time


def run(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


class Control:
    """A client of JSON lines on a unix socket."""

    def __init__(self, path):
        deadline = time.monotonic() + 30
        while True:
            try:
                self.socket = socket.socket(socket.AF_UNIX)
                self.socket.connect(path)
                break
            except OSError:
                assert time.monotonic() < deadline, f"nobody listens on {path}"
                time.sleep(0.02)
        self.file = self.socket.makefile("r")

    def ask(self, message, wanted):
        self.socket.sendall(json.dumps(message).encode() + b"\n")
        while True:
            told = json.loads(self.file.readline())
            assert "error" not in told, told
            if wanted in told:
                return told[wanted]


class Hawser:
    def __init__(self, folder, program, rate=0):
        self.nbd, self.rate = os.path.join(folder, "nbd"), rate
        path = os.path.join(folder, "control")
        self.process = subprocess.Popen([program, "serve", f"--nbd=unix:{self.nbd}", f"--socket={path}", "--name=v",
                                         "--log-level=error", os.path.join(folder, "top.qcow2")])
        self.control = Control(path)

    def call(self, method, **params):
        return self.control.ask({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}, "result")

    def start(self):
        self.job = self.call("commit", speed=self.rate)["id"]

    def wait(self):
        while True:
            told = self.call("job-wait", **{"id": self.job, "timeout-ms": 60000})
            if told["state"] == "concluded":
                return told["moved-bytes"]
            assert told["state"] in ("running", "concluding"), told


class Peer:
    def __init__(self, folder):
        self.nbd = os.path.join(folder, "nbd")
        path, base, top = (os.path.join(folder, name) for name in ("control", "base.qcow2", "top.qcow2"))
        self.process = subprocess.Popen([
            "qemu-storage-daemon", "--chardev", f"socket,id=c,path={path},server=on,wait=off", "--monitor", "chardev=c",
            "--blockdev", f"file,filename={base},node-name=bf", "--blockdev", "qcow2,file=bf,node-name=b",
            "--blockdev", f"file,filename={top},node-name=tf", "--blockdev", "qcow2,file=tf,backing=b,node-name=t",
            "--nbd-server", f"addr.type=unix,addr.path={self.nbd}",
            "--export", "type=nbd,id=e,node-name=t,name=v,writable=on"])
        self.control = Control(path)
        self.call("qmp_capabilities")

    def call(self, command, **arguments):
        return self.control.ask({"execute": command, "arguments": arguments}, "return")

    def start(self):
        self.call("block-commit", **{"job-id": "j", "device": "t", "auto-dismiss": False})

    def wait(self):
        while True:
            jobs = self.call("query-jobs")
            if not jobs or jobs[0]["status"] == "concluded":
                return moved
            moved = jobs[0]["current-progress"]
            if jobs[0]["status"] == "ready":
                self.call("job-complete", id="j")
            time.sleep(0.01)


def load(server, seconds):
    return subprocess.Popen(
        ["fio", "--name=b", "--ioengine=nbd", f"--uri=nbd+unix:///v?socket={server.nbd}", "--bs=4k", "--rw=randrw",
         "--rwmixread=70", f"--runtime={seconds}", "--time_based", "--randrepeat=0", "--norandommap",
         "--lat_percentiles=1", "--clat_percentiles=0", "--output-format=json"], stdout=subprocess.PIPE, text=True)


def felt(process):
    out = process.communicate()[0]
    job = json.loads(out[out.index("{"):])["jobs"][0]
    ns = {way: job[way]["lat_ns"] for way in ("read", "write")}
    return {"p50 read": ns["read"]["percentile"]["50.000000"] / 1e3, "p99.9 read": ns["read"]["percentile"]["99.900000"] / 1e3,
            "p50 write": ns["write"]["percentile"]["50.000000"] / 1e3,
            "p99.9 write": ns["write"]["percentile"]["99.900000"] / 1e3,
            "longest": max(ns[way]["max"] for way in ns) / 1e3, "IOPS": job["read"]["iops"] + job["write"]["iops"]}


def measure(server):
    """@return what fio felt without the job and with it, and how long that took."""
    alone = load(server, 2)
    without = felt(alone)
    with_job = load(server, 600)
    time.sleep(0.5)
    started = time.monotonic()
    server.start()
    moved = server.wait()
    took = time.monotonic() - started
    with_job.send_signal(signal.SIGINT)
    told = felt(with_job)
    server.process.send_signal(signal.SIGTERM)
    server.process.wait(60)
    return without, {**told, "seconds": took, "MiB/s": moved / took / (1 << 20)}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--hawser", default="build/src/cli/hawser")
    parser.add_argument("--size-mib", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", default="/dev/shm")
    args = parser.parse_args()
    results = {}
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        for _ in range(args.rounds):
            for name, make in (("qemu", Peer), ("hawser", lambda f: Hawser(f, args.hawser)),
                               ("hawser, 64 MiB/s", lambda f: Hawser(f, args.hawser, 64 << 20))):
                own = os.path.join(folder, "own")
                os.mkdir(own)
                base, top = os.path.join(own, "base.qcow2"), os.path.join(own, "top.qcow2")
                run("qemu-img", "create", "-q", "-f", "qcow2", base, f"{args.size_mib}M")
                run("qemu-io", "-f", "qcow2", "-c", f"write -P 1 0 {args.size_mib}M", base)
                run("qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "qcow2", top)
                run("qemu-io", "-f", "qcow2", "-c", f"write -P 2 0 {args.size_mib}M", top)
                for what, told in zip(("alone", "job"), measure(make(own))):
                    for key, value in told.items():
                        results.setdefault((name, what), {}).setdefault(key, []).append(value)
                shutil.rmtree(own)
    for (name, what), told in results.items():
        print(f"{name}, {what}: " + ", ".join(f"{key} {statistics.median(values):.0f}" for key, values in told.items()))


main()
