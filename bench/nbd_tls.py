#!/usr/bin/env python3
"""The NBD server through TLS against qemu-nbd and nbdkit: images in memory, unix sockets, fio's nbd engine.

  bench/nbd_tls.py [--hawser BUILD/src/cli/hawser] [--rounds 5] [--seconds 2] [--size-mib N] [--only WORD] [--json FILE]

All servers run at once, each on its own copy of the image: qcow2, but nbdkit's file plugin on a raw file. The same
certificate for all, none of the client (fio opens no files for it); the cipher is what server and client agree on.
"clear" is Hawser without TLS. Every round measures each case with each server in turn. Prints medians of IOPS
and of the server's CPU time a request, handshake included, and the ratio to qemu-nbd as the median over
rounds, with its spread. Needs openssl, fio, qemu-img, qemu-io, qemu-nbd, nbdkit.
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
SERVERS = ["hawser", "clear", "qemu-nbd", "nbdkit"]
# name, fio's rw, block size, depth
CASES = [
    ("randread 4k, depth 1", "randread", "4k", 1),
    ("randread 4k, depth 32", "randread", "4k", 32),
    ("randwrite 4k, depth 32", "randwrite", "4k", 32),
    ("read 256k, depth 8", "read", "256k", 8),
    ("write 256k, depth 8", "write", "256k", 8),
]


def run(*command):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}: {done.stdout}{done.stderr}")
    return done.stdout


def certificate(folder):
    os.mkdir(folder)
    key = ["-newkey", "rsa:2048", "-nodes"]
    run("openssl", "req", "-x509", *key, "-days", "2", "-subj", "/CN=authority", "-keyout", f"{folder}/ca-key.pem", "-out",
        f"{folder}/ca-cert.pem")
    run("openssl", "req", *key, "-subj", "/CN=localhost", "-keyout", f"{folder}/server-key.pem", "-out", f"{folder}/server.csr")
    run("openssl", "x509", "-req", "-in", f"{folder}/server.csr", "-CA", f"{folder}/ca-cert.pem", "-CAkey",
        f"{folder}/ca-key.pem", "-CAcreateserial", "-days", "2", "-out", f"{folder}/server-cert.pem")


class Server:
    def __init__(self, name, options, folder, pki):
        self.tls = name != "clear"
        fmt = "raw" if name == "nbdkit" else "qcow2"
        path = os.path.join(folder, f"{name}.{fmt}")
        run("qemu-img", "create", "-q", "-f", fmt, path, options.size_mib << 20)
        for at in range(0, options.size_mib, 64):
            run("qemu-io", "-f", fmt, "-t", "unsafe", "-c", f"write -q -P 7 {at}M {min(64, options.size_mib - at)}M", path)
        self.socket = os.path.join(folder, name + ".sock")
        ours = [options.hawser, "serve", "--log-level=error", "--name=x", "-f", fmt, f"--nbd=unix:{self.socket}", path]
        command = {
            "hawser": [*ours, f"--nbd-tls={pki}", "--nbd-tls-any-client"],
            "clear": ours,
            "qemu-nbd": ["qemu-nbd", "-f", fmt, "-k", self.socket, "-t", "-e", "8", "-x", "x", "--object",
                         f"tls-creds-x509,id=t,endpoint=server,dir={pki},verify-peer=off", "--tls-creds=t", path],
            "nbdkit": ["nbdkit", "-f", "-U", self.socket, "--tls=require", f"--tls-certificates={pki}", "file", path],
        }[name]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(500):
            if self.process.poll() is not None:
                sys.exit(f"{name}: ended with {self.process.returncode}")
            if os.path.exists(self.socket):
                break
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


def measure(server, case, options):
    """@return (IOPS, server's CPU microseconds a request)."""
    _, rw, block, depth = case
    uri = f"nbd{'s' if server.tls else ''}+unix://localhost/x?socket={server.socket}"
    uri += "&tls-verify-peer=false" if server.tls else ""
    before = server.cpu_s()
    done = run("fio", "--name=x", "--ioengine=nbd", f"--uri={uri}", f"--rw={rw}", f"--bs={block}", f"--iodepth={depth}",
               f"--size={options.size_mib}M", "--output-format=json", "--randseed=7", "--norandommap=1", "--time_based",
               f"--runtime={options.seconds}")
    used = server.cpu_s() - before
    job = json.loads(done[done.index("{"):])["jobs"][0]
    count = job["read"]["total_ios"] + job["write"]["total_ios"]
    return job["read"]["iops"] + job["write"]["iops"], used / max(count, 1) * 1e6


def report(name, samples, memory):
    print(name)
    result, median = {}, statistics.median
    for server, values in samples.items():
        speed = [v[0] / b[0] for v, b in zip(values, samples["qemu-nbd"])]
        cost = [v[1] / b[1] for v, b in zip(values, samples["qemu-nbd"])]
        rate, cpu = median(v[0] for v in values), median(v[1] for v in values)
        print(f"  {server:9} {rate / 1000:8.1f}k/s {cpu:7.2f} us   x{median(speed):5.2f} ({min(speed):.2f}-{max(speed):.2f})"
              f"   CPU x{median(cost):5.2f} ({min(cost):.2f}-{max(cost):.2f})   {memory[server]:5.1f} MiB", flush=True)
        result[server] = {"iops": rate, "cpu-us": cpu, "speed": median(speed), "cpu": median(cost), "private-mib": memory[server]}
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hawser", default=os.path.join(HERE, "..", "build", "src", "cli", "hawser"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2)
    parser.add_argument("--size-mib", type=int, default=256)
    parser.add_argument("--only", default="")
    parser.add_argument("--json")
    options = parser.parse_args()
    results = {}
    with tempfile.TemporaryDirectory(prefix="hawser-bench-", dir="/dev/shm") as folder:
        pki = os.path.join(folder, "pki")
        certificate(pki)
        servers = {name: Server(name, options, folder, pki) for name in SERVERS}
        try:
            for case in CASES:
                if options.only not in case[0]:
                    continue
                samples, memory = {name: [] for name in SERVERS}, {}
                for number in range(options.rounds):
                    for name in SERVERS if number % 2 == 0 else SERVERS[::-1]:
                        samples[name].append(measure(servers[name], case, options))
                        memory[name] = servers[name].private_mib()
                results[case[0]] = report(case[0], samples, memory)
        finally:
            for server in servers.values():
                server.stop()
    if options.json:
        with open(options.json, "w") as file:
            json.dump(results, file, indent=1)


main()
