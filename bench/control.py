#!/usr/bin/env python3
"""The control plane: listing, the life of a volume, many at once, what an idle one costs, and a restart of
hawserd under load.

  bench/control.py BUILD [--folder /dev/shm] [--volumes 200] [--rounds 10] [CASE...]

CASE is any of list, cycle, many; all without one. hawserd's CPU time is read from its CPU clock, before and
after; that of the programs that it starts is not in it. "many" does parallel attaches, the idle figures and
the restart, with fio on one volume's file system all the while. Prints medians, with the least and the most
in brackets. Needs root, FUSE and loop devices.
"""
import argparse
import concurrent.futures
import http.client
import json
import os
import shutil
import signal
import socket
import sqlite3
import statistics
import subprocess
import tempfile
import time
import uuid

LISTED = 10000
PAGE = 1000


class Connection(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("hawserd", timeout=300)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self.path)
        self.sock.settimeout(self.timeout)


class Hawserd:
    """hawserd in @folder; its catalog, pool and sockets are there."""

    def __init__(self, build, folder):
        self.folder, self.hawser = folder, os.path.abspath(f"{build}/src/cli/hawser")
        self.socket = f"{folder}/rest.sock"
        self.words = [os.path.abspath(f"{build}/src/daemon/hawserd"), f"--state={folder}/state", "--docker-socket=none",
                      f"--socket={self.socket}", f"--program={self.hawser}", "--log-level=warning"]
        os.environ["HAWSER_RUN_DIR"] = f"{folder}/run"
        self.start()

    def start(self):
        self.process = subprocess.Popen(self.words)
        deadline = time.monotonic() + 120
        while True:
            try:
                self.connection = Connection(self.socket)
                self.connection.connect()
                return
            except OSError:
                assert self.process.poll() is None and time.monotonic() < deadline, "hawserd does not start"
                time.sleep(0.001)

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(120)

    def kill(self):
        self.process.kill()
        self.process.wait(60)

    def read(self, method, path, body=None, connection=None):
        """The answer as it came."""
        connection = connection or self.connection
        connection.request(method, path, json.dumps(body) if body is not None else None)
        answer = connection.getresponse()
        text = answer.read()
        assert answer.status < 300, (method, path, text)
        return text

    def call(self, method, path, /, **body):
        text = self.read(method, path, body if method != "GET" else None)
        return json.loads(text) if text else None

    def pool(self):
        self.call("POST", "/v1/pools", name="pool", path=f"{self.folder}/pool")

    def cpu_ms(self):
        return time.clock_gettime(~self.process.pid << 3 | 2) * 1000


def private_kib(pid):
    return sum(int(line.split()[1]) for line in open(f"/proc/{pid}/smaps_rollup")
               if line.startswith(("Private_Clean:", "Private_Dirty:")))


def engines(folder):
    """Processes that serve a volume of this folder."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            words = open(f"/proc/{pid}/cmdline").read().split("\0")
        except OSError:
            continue
        if "serve" in words and any(word.startswith(f"{folder}/run/") for word in words):
            found.append(int(pid))
    return found


def show(name, values, unit="ms"):
    print(f"{name:46} {statistics.median(values):9.2f} {unit} ({min(values):.2f}..{max(values):.2f})", flush=True)


# ---- listing ----

def multiply(catalog, count):
    """@count volumes by copying the records of the only one: files would only take time."""
    db = sqlite3.connect(catalog)
    rows = {kind: json.loads(value) for kind, value in
            db.execute("SELECT kind, value FROM object WHERE kind IN ('volume', 'layer')")}
    for i in range(count - 1):
        volume, layer = dict(rows["volume"], name=f"volume-{i:06}"), dict(rows["layer"])
        volume["id"], layer["id"] = str(uuid.uuid4()), str(uuid.uuid4())
        volume["layer"], layer["volume"] = layer["id"], volume["id"]
        for kind, value, name, owner in (("volume", volume, volume["name"], volume["pool"]),
                                         ("layer", layer, None, None)):
            db.execute("INSERT INTO object (kind, id, name, owner, value) VALUES (?, ?, ?, ?, ?)",
                       (kind, value["id"], name, owner, json.dumps(value, separators=(",", ":"))))
    db.commit()
    db.close()


def list_all(d):
    """Reads all pages. @return how many bytes."""
    after, total = "", 0
    while after is not None:
        text = d.read("GET", f"/v1/volumes?limit={PAGE}" + (f"&after={after}" if after else ""))
        total += len(text)
        # The rest of a page is not looked into: it is the server that is measured.
        end = text.rfind(b'"next":"')
        after = text[end + 8:-2].decode() if end > 0 else None
    return total


def measure_list(o, d, folder):
    d.pool()
    d.call("POST", "/v1/volumes", name="volume", size="1M", labels={"purpose": "to be listed"})
    d.stop()
    multiply(f"{folder}/state/catalog.db", LISTED)
    d.start()
    wall, cpu, size = [], [], 0
    list_all(d)
    for _ in range(o.rounds):
        before, started = d.cpu_ms(), time.monotonic()
        size = list_all(d)
        wall.append((time.monotonic() - started) * 1000)
        cpu.append(d.cpu_ms() - before)
    show(f"{LISTED} volumes listed in pages of {PAGE}, wall", wall)
    show("  of it hawserd's CPU time", cpu)
    print(f"  {size / LISTED:.0f} bytes a volume; hawserd's private memory {private_kib(d.process.pid) / 1024:.1f} MiB")
    names = [f"volume-{i:06}" for i in range(0, LISTED - 1, LISTED // 500)]
    before = d.cpu_ms()
    for name in names:
        d.read("GET", f"/v1/volumes/{name}")
    print(f"  one of them by its name: {(d.cpu_ms() - before) / len(names):.3f} ms of CPU")


# ---- the life of a volume ----

def by_hawserd(d, name, times):
    steps = (("create", "POST", "/v1/volumes", {"name": name, "size": "1G"}),
             ("attach and mount", "POST", f"/v1/volumes/{name}/attach", {"user": "bench"}),
             ("unmount and detach", "POST", f"/v1/volumes/{name}/detach", {"user": "bench"}),
             ("delete", "DELETE", f"/v1/volumes/{name}", {}))
    for step, method, path, body in steps:
        before, started = d.cpu_ms(), time.monotonic()
        d.read(method, path, body)
        times.setdefault(step, []).append(((time.monotonic() - started) * 1000, d.cpu_ms() - before))


def by_command(d, folder):
    """The same with the command alone. @return until it is mounted, without its file system's making."""
    image, mount = f"{folder}/by-hand.qcow2", f"{folder}/by-hand"
    started = time.monotonic()
    subprocess.run([d.hawser, "create", "-q", "-f", "qcow2", image, "1G"], check=True)
    subprocess.run([d.hawser, "attach", f"--mount={mount}", "--mkfs=ext4", image], check=True, capture_output=True)
    took = (time.monotonic() - started) * 1000
    subprocess.run([d.hawser, "detach", mount], check=True)
    os.unlink(image)
    return took


def by_storage_daemon(folder):
    """Until its device is read: without a file system, which does not always survive on that FUSE file."""
    image, file = f"{folder}/peer.qcow2", f"{folder}/peer.file"
    open(file, "w").close()
    started = time.monotonic()
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", image, "1G"], check=True)
    server = subprocess.Popen(
        ["qemu-storage-daemon", "--blockdev", f"file,node-name=f,filename={image}", "--blockdev",
         "qcow2,node-name=q,file=f", "--export", f"fuse,id=e,node-name=q,mountpoint={file},writable=on"])
    while os.path.getsize(file) == 0:
        time.sleep(0.0005)
    device = subprocess.run(["losetup", "--direct-io=on", "--show", "-f", file], check=True, capture_output=True,
                            text=True).stdout.strip()
    with open(device, "rb") as disk:
        disk.read(4096)
    took = (time.monotonic() - started) * 1000
    subprocess.run(["losetup", "-d", device], check=True)
    server.send_signal(signal.SIGTERM)
    server.wait(60)
    os.unlink(image)
    return took


def measure_cycle(o, d, folder):
    d.pool()
    times, command, peer = {}, [], []
    for i in range(o.rounds):
        by_hawserd(d, f"v{i}", times)
        command.append(by_command(d, folder))
        if shutil.which("qemu-storage-daemon"):
            peer.append(by_storage_daemon(folder))
    ready = [a[0] + b[0] for a, b in zip(times["create"], times["attach and mount"])]
    show("create, attach, make ext4 and mount", ready)
    show("  of it hawserd's CPU time", [a[1] + b[1] for a, b in zip(times["create"], times["attach and mount"])])
    for step, values in times.items():
        show(f"  {step}", [value[0] for value in values])
        show("    hawserd's CPU time", [value[1] for value in values])
    show("the same by the command `hawser`", command)
    show("  what hawserd takes more", [a - b for a, b in zip(ready, command)])
    if peer:
        show("qemu-img, storage daemon, losetup; no file system", peer)


# ---- many ----

def at_once(d, count, method, path, body):
    """@count calls at a time, each on a connection of its own. @return seconds, each call's milliseconds."""
    def one(i):
        connection = Connection(d.socket)
        started = time.monotonic()
        d.read(method, path.format(i), {key: value.format(i) for key, value in body.items()}, connection)
        connection.close()
        return (time.monotonic() - started) * 1000
    started = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(count) as pool:
        each = list(pool.map(one, range(count)))  # a failure is an exception
    return time.monotonic() - started, each


def idle(d, folder, count):
    pids = engines(folder)
    ticks = {pid: cpu_ticks(pid) for pid in pids}
    before = d.cpu_ms()
    time.sleep(10)
    used = sum(cpu_ticks(pid) - ticks[pid] for pid in pids) * 1000 / os.sysconf("SC_CLK_TCK")
    memory = [private_kib(pid) / 1024 for pid in pids]
    print(f"{len(pids)} processes for {count} volumes: {sum(memory) / count:.2f} MiB of private memory and "
          f"{used / count / 10:.3f} ms of CPU time a second each")
    print(f"hawserd: {private_kib(d.process.pid) / 1024:.1f} MiB, {(d.cpu_ms() - before) / 10:.2f} ms of CPU time a second")


def cpu_ticks(pid):
    fields = open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()
    return int(fields[11]) + int(fields[12])


def start_fio(mount):
    return subprocess.Popen(["fio", "--name=load", f"--directory={mount}", "--size=64M", "--rw=randwrite", "--bs=4k",
                             "--ioengine=psync", "--rate_iops=500", "--time_based", "--runtime=3600", "--verify=crc32c",
                             "--fallocate=none"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def restart(d, count, rounds):
    took, cpu = [], []
    for _ in range(rounds):
        d.kill()
        started = time.monotonic()
        d.start()
        items = d.call("GET", f"/v1/attachments?limit={PAGE}")["items"]
        took.append((time.monotonic() - started) * 1000)
        cpu.append(d.cpu_ms())
        assert len(items) == count, len(items)
    show(f"killed and started again, {count} attached and told", took)
    show("  of it hawserd's CPU time", cpu)


def measure_many(o, d, folder):
    d.pool()
    print(f"hawserd before anything: {private_kib(d.process.pid) / 1024:.1f} MiB of private memory")
    for name, path, body in (
            ("created", "/v1/volumes", {"name": "v{}", "size": "64M"}),
            ("attached and mounted", "/v1/volumes/v{}/attach", {"user": "bench"})):
        before = d.cpu_ms()
        seconds, each = at_once(d, o.volumes, "POST", path, body)
        print(f"{o.volumes} {name} at once: {seconds:.2f} s, hawserd's CPU time {(d.cpu_ms() - before) / o.volumes:.2f} ms each")
        show("  a call", each)
    fio = start_fio(d.call("GET", "/v1/volumes/v0")["attachment"]["mountpoint"]) if shutil.which("fio") else None
    restart(d, o.volumes, o.rounds)
    if fio:
        assert fio.poll() is None, "fio has ended: it had an error"
        fio.terminate()
        assert fio.wait(60) in (0, 128, 143, -15), fio.returncode
    idle(d, folder, o.volumes)
    seconds, each = at_once(d, o.volumes, "POST", "/v1/volumes/v{}/detach", {"user": "bench"})
    print(f"{o.volumes} unmounted and detached at once: {seconds:.2f} s")
    seconds, each = at_once(d, o.volumes, "DELETE", "/v1/volumes/v{}", {})
    print(f"{o.volumes} deleted at once: {seconds:.2f} s")


CASES = {"list": measure_list, "cycle": measure_cycle, "many": measure_many}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("build")
    parser.add_argument("cases", nargs="*", metavar="CASE", help="list, cycle, many")
    parser.add_argument("--folder", default="/dev/shm")
    parser.add_argument("--volumes", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=10)
    o = parser.parse_args()
    for case in o.cases or CASES:
        folder = os.path.realpath(tempfile.mkdtemp(prefix="hawser-bench-", dir=o.folder))
        d = Hawserd(o.build, folder)
        try:
            CASES[case](o, d, folder)
        finally:
            d.kill()
            subprocess.run([f"{o.build}/src/cli/hawser", "detach", "--all", "--force"], capture_output=True, timeout=300)
            shutil.rmtree(folder, ignore_errors=True)


main()
