#!/usr/bin/env python3
"""The NBD server against qemu-nbd, qemu-storage-daemon and nbdkit: images in memory, fio's nbd engine.

  bench/nbd.py [--hawser BUILD/src/cli/hawser] [--rounds 5] [--seconds 2] [--size-mib N] [--only WORD]
               [--client fio|own] [--floor] [--folder /dev/shm] [--baseline HAWSER] [--json FILE]

All servers run at once, each on its own copy of the image: qcow2, but nbdkit's file plugin on a raw file.
Every round measures each case with each server in turn, so that a noisy machine is noisy for all. Prints,
for each case and server, medians of IOPS and of the server's CPU time (user and system, of all its
threads) a request, the ratio to qemu-nbd as the median over rounds with its 10th and 90th percentile, and
private memory when idle, after the load, and two seconds later.

--client own takes BUILD/bench/bench-nbd-client, which costs less than fio's nbd engine (libnbd) does and
sends what it can by one call; --floor adds BUILD/bench/bench-nbd-floor, which does no more than is
unavoidable on a raw file; --baseline adds another build of hawser. --folder on a disk with --direct opens
the images with O_DIRECT, and adds fio's io_uring engine on the raw file itself.

Cases named "first touch" write to images that hold nothing yet, once each offset: plain, over a backing
file, and both with subclusters; a new image for each round. Cases named "chain" read from the lowest of that
many images. "two connections" compares them with one, on our own client; "idle connections" is the memory
of a thousand. Needs fio, qemu-nbd, qemu-storage-daemon, qemu-img, nbdkit.
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
PEERS = ["qemu-nbd", "qsd", "nbdkit"]
IDLE_CONNECTIONS = 1000
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


def command_of(name, options, path, fmt, socket):
    hawser = options.baseline if name == "baseline" else options.hawser
    cache = "none" if options.direct else "writeback"
    return {
        "hawser": [hawser, "serve", "--log-level=error", "--name=x", f"--cache={cache}", "-f", fmt,
                   f"--nbd=unix:{socket}", path],
        "qemu-nbd": ["qemu-nbd", "-f", fmt, f"--cache={cache}", "-k", socket, "-t", "-e", "2048", "-x", "x", path],
        "qsd": ["qemu-storage-daemon",
                "--blockdev", f"driver=file,filename={path},node-name=f,cache.direct="
                + ("on" if options.direct else "off"),
                "--blockdev", f"driver={fmt},file=f,node-name=x",
                "--nbd-server", f"addr.type=unix,addr.path={socket},max-connections=0",
                "--export", "type=nbd,id=e,node-name=x,name=x,writable=on"],
        "nbdkit": ["nbdkit", "-f", "-U", socket, "file", path],
        "floor": [os.path.join(options.tools, "bench-nbd-floor"), socket, path, "pread"],
    }["hawser" if name == "baseline" else name]


def image_of(name, kind):
    return "raw" if name in ("nbdkit", "floor", "uring") and kind == "full" else kind


class Server:
    """One server of one image, on a unix socket."""

    def __init__(self, name, options, folder, path, fmt):
        self.name, self.path, self.folder = name, path, folder
        self.process, self.memory = None, {}
        if name == "uring":
            return
        self.socket = os.path.join(folder, "s")
        self.process = subprocess.Popen(command_of(name, options, path, fmt, self.socket),
                                        stdout=subprocess.DEVNULL)
        for _ in range(500):
            if os.path.exists(self.socket):
                break
            if self.process.poll() is not None:
                sys.exit(f"{name}: ended with {self.process.returncode}")
            time.sleep(0.01)
        time.sleep(0.1)
        self.memory["idle"] = self.private_mib()

    def cpu_s(self):
        # The process's CPU clock: threads that have ended count, too.
        return time.clock_gettime(~self.process.pid << 3 | 2) if self.process else 0

    def private_mib(self):
        with open(f"/proc/{self.process.pid}/smaps_rollup") as file:
            return sum(int(line.split()[1]) for line in file if line.startswith("Private")) / 1024

    def stop(self):
        for sign in (signal.SIGTERM, signal.SIGTERM, signal.SIGKILL) if self.process else ():
            self.process.send_signal(sign)
            try:
                self.process.wait(5)
                return
            except subprocess.TimeoutExpired:
                pass


def run_own(server, options, rw, block, depth, seconds, connections=1):
    size = {"4k": 4096, "256k": 256 << 10}[block]
    command = [os.path.join(options.tools, "bench-nbd-client"), server.socket, "x", rw, str(size), str(depth),
               str(seconds), str(connections)]
    if options.client_cpu is not None:
        command.append(str(options.client_cpu))
    done = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return done["requests"] / done["seconds"], done["requests"], done["client-cpu"]


def run_fio(server, options, rw, block, depth, seconds, size, once):
    where = ["--ioengine=nbd", f"--uri=nbd+unix:///x?socket={server.socket}"] if server.process else \
        ["--ioengine=io_uring", f"--filename={server.path}", "--direct=1", "--thread=1"]
    command = ["fio", "--name=x", *where, f"--rw={rw}", f"--bs={block}", f"--iodepth={depth}", f"--size={size}",
               "--output-format=json", "--randseed=7", "--norandommap=" + ("0" if once else "1")]
    if once:
        command += [f"--number_ios={size // (64 << 10)}"]
    else:
        command += ["--time_based", f"--runtime={seconds}"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    job = json.loads(done.stdout[done.stdout.index("{"):])["jobs"][0]
    ios = job["read"]["total_ios"] + job["write"]["total_ios"]
    busy = (job["usr_cpu"] + job["sys_cpu"]) / 100 * job["job_runtime"] / 1000
    return job["read"]["iops"] + job["write"]["iops"], ios, busy


def measure(server, options, rw, block, depth, size, once, connections=0):
    """@connections 0: one, of the client asked for; else of ours.
    @return (IOPS, server's CPU microseconds a request; fio's own where it has no server)."""
    before = server.cpu_s()
    if connections or (options.client == "own" and not once and server.process):
        iops, ios, busy = run_own(server, options, rw, block, depth, options.seconds, connections or 1)
    else:
        iops, ios, busy = run_fio(server, options, rw, block, depth, options.seconds, size, once)
    used = server.cpu_s() - before if server.process else busy
    return iops, used / max(ios, 1) * 1e6


class Stage:
    """The servers of one case, each in a folder of its own."""

    def __init__(self, options, folder, kind):
        self.options, self.folder, self.kind = options, folder, kind
        self.size = options.size_mib << 20
        self.running = {}

    def start(self, name):
        home = tempfile.mkdtemp(prefix=name + "-", dir=self.folder)
        path, fmt = make_image(image_of(name, self.kind), home, self.size)
        self.running[name] = Server(name, self.options, home, path, fmt)

    def clear(self, name):
        server = self.running.pop(name, None)
        if server:
            server.stop()
            run("rm", "-rf", server.folder)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for name in list(self.running):
            self.clear(name)


def one_case(case, options, folder, names):
    _, rw, block, depth, kind = case
    fresh = kind.startswith(("empty", "overlay"))
    if kind != "full":
        names = [name for name in names if name not in ("nbdkit", "floor", "uring")]
    samples = {name: [] for name in names}
    memory = {}
    with Stage(options, folder, kind) as stage:
        for round_number in range(options.rounds):
            for name in names if round_number % 2 == 0 else names[::-1]:
                if fresh or round_number == 0:
                    stage.clear(name)
                    stage.start(name)
                server = stage.running[name]
                samples[name].append(measure(server, options, rw, block, depth, stage.size, fresh))
                if server.process:
                    server.memory["loaded"] = server.private_mib()
        time.sleep(2)
        for name, server in stage.running.items():
            if server.process:
                memory[name] = [server.memory["idle"], server.memory["loaded"], server.private_mib()]
    return samples, memory


def two_connections(options, folder):
    """IOPS of two connections on two queues, and the server's CPU a request, to those of one."""
    print("two connections, own client")
    result = {}
    for rw, block, depth in [("randread", "4k", 32), ("randwrite", "4k", 32), ("read", "256k", 8)]:
        names = ["hawser"] + (["baseline"] if options.baseline else []) + ["nbdkit"]
        values = {name: [] for name in names}
        with Stage(options, folder, "full") as stage:
            for name in names:
                stage.start(name)
            for _ in range(options.rounds):
                for name in names:
                    one, two = (measure(stage.running[name], options, rw, block, depth, stage.size, False, count)
                                for count in (1, 2))
                    values[name].append((two[0] / one[0], two[1] / one[1]))
        for name in names:
            speed, cost = spread([v[0] for v in values[name]]), spread([v[1] for v in values[name]])
            print(f"  {rw} {block} {name:9} x{text(speed)}   CPU x{text(cost)}", flush=True)
            result[f"{rw} {block} {name}"] = {"speed": speed[0], "cpu": cost[0]}
    return result


def idle_connections(options, folder):
    """Private memory with a thousand connections that have negotiated and do nothing."""
    print(f"{IDLE_CONNECTIONS} idle connections, private MiB before, with, a connection's KiB")
    result = {}
    with Stage(options, folder, "empty") as stage:
        for name in ["hawser", "qemu-nbd", "qsd"]:
            stage.start(name)
            server = stage.running[name]
            client = subprocess.Popen([os.path.join(options.tools, "bench-nbd-client"), server.socket, "x", "idle",
                                       str(IDLE_CONNECTIONS)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            if client.stdout.readline().strip() != "ready":
                sys.exit(f"{name}: refused some of {IDLE_CONNECTIONS} connections")
            time.sleep(2)
            before, there = server.memory["idle"], server.private_mib()
            client.communicate()
            print(f"  {name:9} {before:6.1f} {there:6.1f} {(there - before) * 1024 / IDLE_CONNECTIONS:6.2f}", flush=True)
            result[name] = {"before": before, "with": there}
    return result


def spread(values):
    """@return median, 10th and 90th percentile (of few values: the least and the most)."""
    ordered = sorted(values)
    last = len(ordered) - 1
    return statistics.median(ordered), ordered[round(last * 0.1)], ordered[round(last * 0.9)]


def text(value):
    return f"{value[0]:5.2f} ({value[1]:.2f}-{value[2]:.2f})"


def report(name, samples, memory):
    print(name, flush=True)
    result = {}
    base = samples["qemu-nbd"]
    for server, values in samples.items():
        iops, cpu = [v[0] for v in values], [v[1] for v in values]
        speed = spread([v[0] / b[0] for v, b in zip(values, base)])
        cost = spread([v[1] / b[1] for v, b in zip(values, base)])
        median = statistics.median
        mib = "/".join(f"{m:.1f}" for m in memory.get(server, []))
        print(f"  {server:9} {median(iops) / 1000:8.1f}k/s {median(cpu):7.2f} us   x{text(speed)}   "
              f"CPU x{text(cost)}   {mib} MiB", flush=True)
        result[server] = {"iops": median(iops), "cpu-us": median(cpu), "speed": speed, "cpu": cost,
                          "private-mib": memory.get(server)}
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hawser", default=os.path.join(HERE, "..", "build", "src", "cli", "hawser"))
    parser.add_argument("--baseline", help="another build of hawser")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2)
    parser.add_argument("--size-mib", type=int, default=1024)
    parser.add_argument("--only", default="", help="cases whose names contain this; | between several")
    parser.add_argument("--client", choices=["fio", "own"], default="fio")
    parser.add_argument("--client-cpu", type=int, help="binds our own client")
    parser.add_argument("--floor", action="store_true")
    parser.add_argument("--folder", default="/dev/shm")
    parser.add_argument("--direct", action="store_true", help="O_DIRECT; the raw file by io_uring too")
    parser.add_argument("--json")
    options = parser.parse_args()
    # The programs of bench/ are those of the build that hawser comes from.
    options.tools = os.path.join(os.path.dirname(os.path.abspath(options.hawser)), "..", "..", "bench")
    names = ["hawser"] + (["baseline"] if options.baseline else []) + PEERS
    names += (["floor"] if options.floor else []) + (["uring"] if options.direct else [])
    if options.direct:
        names.remove("nbdkit")  # its file plugin has no direct I/O
    results = {}

    def wanted(name):
        """A word that is the whole name of a case means that one, others what contains them."""
        whole = [case[0] for case in CASES]
        return any(word == name if word in whole else word in name for word in options.only.split("|"))

    with tempfile.TemporaryDirectory(prefix="hawser-bench-", dir=options.folder) as folder:
        for case in CASES:
            if wanted(case[0]):
                results[case[0]] = report(case[0], *one_case(case, options, folder, names))
        if wanted("two connections"):
            results["two connections"] = two_connections(options, folder)
        if wanted("idle connections"):
            results["idle connections"] = idle_connections(options, folder)
    if options.json:
        with open(options.json, "w") as file:
            json.dump(results, file, indent=1)


main()
