#!/usr/bin/env python3
"""The qemu-nbd personality held against qemu-nbd 7.2, side by side.

  ending     command lines that end by themselves (qemu_nbd_cases.py): texts and exit codes
  tls        who gets a list with which credentials, of each server by each client
  list       -L of what a scripted server says (qemu_nbd_server.py), and of real servers
  life       when each server ends, whom it serves, what it leaves: observed of both, and the same
  generated  random options on twin images: what nbdinfo tells, what clients read after the same writes, and
             the images afterwards; HAWSER_SEEDS widens them

SPDX-License-Identifier: Apache-2.0
"""
import hashlib
import json
import os
import random
import re
import shlex
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time

import qemu_nbd_cases as cases
import qemu_nbd_server
from common import SKIP, TIMEOUT_S, Failure, Tools

SEEDS = int(os.environ.get("HAWSER_SEEDS", "12"))
ENVIRONMENT = dict(os.environ, LC_ALL="C", TZ="UTC")
OPTION = b"IHAVEOPT"
ROTATIONAL = 1 << 4
WHO = ("theirs", "ours")


class Bench:
    """A folder for each program, with the same images."""

    def __init__(self, tools):
        self.root = tempfile.mkdtemp(prefix="hawser-nbd-")
        self.folders = {who: os.path.join(self.root, who) for who in WHO}
        os.mkdir(os.path.join(self.root, "bin"))
        ours = os.path.join(self.root, "bin", "qemu-nbd")
        os.symlink(tools.hawser, ours)
        self.programs = {"theirs": shutil.which("qemu-nbd"), "ours": ours}
        os.mkdir(self.folders["theirs"])
        for line in cases.FIXTURES:
            self.tool("theirs", *shlex.split(line))
        shutil.copytree(self.folders["theirs"], self.folders["ours"])
        with open(os.path.join(self.root, "header"), "wb") as file:
            file.write(b"QFI\xfb" + struct.pack(">I", 3) + bytes(504))

    def close(self):
        shutil.rmtree(self.root, ignore_errors=True)

    def tool(self, who, *words, check=True):
        result = subprocess.run(words, cwd=self.folders[who], capture_output=True, timeout=TIMEOUT_S,
                                env=ENVIRONMENT, stdin=subprocess.DEVNULL)
        if check and result.returncode:
            raise Failure(f"{who}: {shlex.join(words)}: {result.stderr.decode()[:400]}")
        return result

    def run(self, who, *words):
        """qemu-nbd, to its end. @return exit code, standard output and error."""
        try:
            result = subprocess.run([self.programs[who], *words], cwd=self.folders[who], capture_output=True,
                                    timeout=30, env=ENVIRONMENT, stdin=subprocess.DEVNULL)
        except subprocess.TimeoutExpired as late:
            raise Failure(f"{who}: did not end: {shlex.join(words)}") from late
        told = result.stderr.replace(self.programs[who].encode(), b"qemu-nbd")
        return result.returncode, result.stdout, told.replace(self.folders[who].encode(), b"FOLDER")

    def socket(self, who, name="socket"):
        return os.path.join(self.folders[who], name)


class Server:
    """One running qemu-nbd of @who, at its unix socket."""

    def __init__(self, bench, who, *words, env=None, wrap=()):
        self.bench, self.who, self.path = bench, who, bench.socket(who)
        self.process = subprocess.Popen([*wrap, bench.programs[who], *words], cwd=bench.folders[who],
                                        stderr=subprocess.PIPE, stdin=subprocess.DEVNULL,
                                        env=env or ENVIRONMENT, pass_fds=[3] if wrap else [])

    @classmethod
    def at_socket(cls, bench, who, *words):
        server = cls(bench, who, "-k", bench.socket(who), *words)
        server.await_path()
        return server

    def await_path(self):
        deadline = time.monotonic() + 30
        while not self.listens():
            if self.process.poll() is not None:
                raise Failure(f"{self.who}: ended: {self.process.stderr.read().decode()[:400]}")
            if time.monotonic() > deadline:
                raise Failure(f"{self.who}: does not listen")
            time.sleep(0.01)

    def listens(self):
        """A client that leaves at once does not count."""
        with socket.socket(socket.AF_UNIX) as s:
            try:
                s.connect(self.path)
                return True
            except OSError:
                return False

    def __enter__(self):
        return self

    def uri(self, name=""):
        return f"nbd+unix:///{name}?socket={self.path}"

    def connect(self):
        """Where the line is full, it is tried again."""
        s = socket.socket(socket.AF_UNIX)
        s.settimeout(20)
        for _ in range(2000):
            try:
                s.connect(self.path)
                return s
            except BlockingIOError:
                time.sleep(0.01)
        raise Failure(f"{self.who}: its line stays full")

    def ends(self, within=20):
        """@return its exit code, or None where it goes on."""
        try:
            return self.process.wait(within)
        except subprocess.TimeoutExpired:
            return None

    def signal(self, number):
        self.process.send_signal(number)
        return self.ends()

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.terminate()
            if self.ends() is None:
                self.process.kill()
        told = self.process.communicate()[1]
        if b"Sanitizer" in told:
            raise Failure(f"{self.who}: {told.decode()[:2000]}")


def exact(s, count):
    got = b""
    while len(got) < count:
        part = s.recv(count - len(got))
        if not part:
            raise Failure(f"hung up after {len(got)} of {count} bytes")
        got += part
    return got


def choose_export(s, name=b""):
    """The oldest way in. @return size and flags, but for what is told of the disk (docs/qemu-nbd.md)."""
    assert exact(s, 18)[:16] == b"NBDMAGIC" + OPTION
    s.sendall(struct.pack(">I", 3) + OPTION + struct.pack(">II", 1, len(name)) + name)
    size, flags = struct.unpack(">QH", exact(s, 10))
    return size, flags & ~ROTATIONAL


def disconnect(s):
    s.sendall(struct.pack(">IHHQQI", 0x25609513, 0, 2, 1, 0, 0))
    s.close()


def told(bench, who, server, name=""):
    """What nbdinfo tells of the export, without what may differ (docs/qemu-nbd.md)."""
    info = json.loads(bench.tool(who, "nbdinfo", "--json", server.uri(name)).stdout)
    export = info["exports"][0]
    for key in ("uri", "block_size_preferred", "is_rotational"):
        export.pop(key, None)
    return info


# ---- ending ----

def same_ending(bench, line):
    results = {}
    for who in WHO:
        words = shlex.split(line.format(socket=bench.socket(who)))
        results[who] = bench.run(who, *words)
    if results["theirs"] != results["ours"]:
        raise Failure(f"qemu-nbd {line}\n  theirs: {results['theirs']}\n  ours:   {results['ours']}")


# ---- list ----

def listed(bench, who, script):
    path = bench.socket(who, "scripted")
    thread = script.serve_one(path)
    result = bench.run(who, "-L", "-k", path)
    thread.join(30)
    return result


def same_list(bench, script):
    seen = {who: listed(bench, who, script) for who in WHO}
    if seen["theirs"] != seen["ours"]:
        raise Failure(f"theirs: {seen['theirs']}\n  ours:   {seen['ours']}")


def refused_list(bench, expected):
    script, text = expected
    result = listed(bench, "ours", script)
    if result != (1, b"", f"qemu-nbd: {text}\n".encode()):
        raise Failure(f"ours: {result}")


def same_live_list(bench, words):
    """Each client of each server."""
    for server_of in WHO:
        with Server.at_socket(bench, server_of, "-t", "-e", "0", *words) as server:
            seen = [bench.run(who, "-L", "-k", server.path) for who in WHO]
        if seen[0] != seen[1] or seen[0][0]:
            raise Failure(f"of the server {server_of}\n  theirs: {seen[0]}\n  ours:   {seen[1]}")


# ---- TLS ----

def make_credentials(bench):
    """Folders for x509 and psk, the same for both."""
    folder = os.path.join(bench.root, "tls")
    os.mkdir(folder)

    def openssl(*words):
        subprocess.run(("openssl", *words), cwd=folder, check=True, capture_output=True, timeout=TIMEOUT_S)
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    openssl("req", "-x509", *key, "-subj", "/CN=CA", "-keyout", "ca-key.pem", "-out", "ca-cert.pem")
    for who in ("server", "client"):
        with open(os.path.join(folder, "extensions"), "w") as file:
            file.write(f"subjectAltName=DNS:localhost,IP:127.0.0.1\nextendedKeyUsage={who}Auth\n")
        openssl("req", *key, "-subj", f"/CN={who}", "-keyout", f"{who}-key.pem", "-out", "request")
        openssl("x509", "-req", "-in", "request", "-CA", "ca-cert.pem", "-CAkey", "ca-key.pem", "-CAcreateserial",
                "-extfile", "extensions", "-out", f"{who}-cert.pem")
    other = os.path.join(folder, "other")
    shutil.copytree(folder, other)
    openssl("req", "-x509", *key, "-subj", "/CN=other", "-keyout", "other/ca-key.pem", "-out", "other/ca-cert.pem")
    for path in (folder, other):
        with open(os.path.join(path, "keys.psk"), "w") as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(f"alice:{'ab' * 32}\nbob:{('cd' if path == other else 'ef') * 32}\n")
    return folder


X509, PSK = "tls-creds-x509,id=t,dir=", "tls-creds-psk,id=t,dir="

# Of a client: what it is told to use, and whether it gets its list.
TLS = {
    X509: ((f"--object {X509}{{dir}},endpoint=client --tls-creds=t --tls-hostname=localhost", True),
           (f"--object {X509}{{dir}},endpoint=client --tls-creds=t --tls-hostname=127.0.0.1", True),
           (f"--object {X509}{{dir}},endpoint=client --tls-creds=t --tls-hostname=wrong", False),
           (f"--object {X509}{{dir}},endpoint=client --tls-creds=t", False),
           (f"--object {X509}{{dir}},endpoint=server --tls-creds=t", False),
           (f"--object {X509}{{dir}}/other,endpoint=client --tls-creds=t --tls-hostname=localhost", False),
           (f"--object {PSK}{{dir}},endpoint=client,username=alice --tls-creds=t", False),
           ("", False)),
    PSK: ((f"--object {PSK}{{dir}},endpoint=client,username=alice --tls-creds=t", True),
          (f"--object {PSK}{{dir}},endpoint=client,username=bob --tls-creds=t", True),
          (f"--object {PSK}{{dir}}/other,endpoint=client,username=alice --tls-creds=t", True),
          (f"--object {PSK}{{dir}}/other,endpoint=client,username=bob --tls-creds=t", False),
          (f"--object {PSK}{{dir}},endpoint=client,username=carl --tls-creds=t", False),
          (f"--object {PSK}{{dir}},endpoint=client --tls-creds=t", False),
          (f"--object {X509}{{dir}},endpoint=client --tls-creds=t --tls-hostname=localhost", False),
          ("", False)),
}


def same_tls(bench, kind):
    """Each client with each server: who gets a list is decided, and it is the same list."""
    folder = os.path.join(bench.root, "tls")
    if not os.path.exists(folder):
        make_credentials(bench)
    for server_of in WHO:
        with Server.at_socket(bench, server_of, "-t", "-e", "0", "--object", f"{kind}{folder},endpoint=server",
                              "--tls-creds=t", "-f", "raw", "disk.raw") as server:
            for line, good in TLS[kind]:
                words = shlex.split(line.format(dir=folder))
                lists = [bench.run(who, "-L", "-k", server.path, *words) for who in WHO]
                if {code for code, _, _ in lists} != {0 if good else 1} or lists[0][1] != lists[1][1]:
                    raise Failure(f"of the server {server_of}: -L {line}\n  theirs: {lists[0]}\n  ours:   {lists[1]}")


# ---- life ----

def life_once(bench, who):
    """It ends when its client has left, and takes its socket away."""
    with Server.at_socket(bench, who, "-f", "qcow2", "disk.qcow2") as server:
        s = server.connect()
        size, flags = choose_export(s)
        disconnect(s)
        return size, flags, server.ends(), os.path.exists(server.path)


def life_hung_up(bench, who):
    """A client that vanishes has left, too."""
    with Server.at_socket(bench, who, "-f", "qcow2", "disk.qcow2") as server:
        s = server.connect()
        choose_export(s)
        s.close()
        return server.ends()


def life_only_looked(bench, who):
    """Who leaves before choosing an export does not count."""
    with Server.at_socket(bench, who, "-f", "qcow2", "disk.qcow2") as server:
        s = server.connect()
        exact(s, 18)
        s.close()
        s = server.connect()
        exact(s, 18)
        s.sendall(struct.pack(">I", 3) + OPTION + struct.pack(">II", 2, 0))
        answer = exact(s, 20)
        s.close()
        after = server.ends(0.3)
        s = server.connect()
        choose_export(s)
        disconnect(s)
        return answer, after, server.ends()


def life_one_at_a_time(bench, who):
    """The second client waits until the first one has left."""
    with Server.at_socket(bench, who, "-t", "-f", "qcow2", "disk.qcow2") as server:
        first, second = server.connect(), server.connect()
        choose_export(first)
        second.settimeout(0.3)
        try:
            waited = second.recv(1) == b""
        except TimeoutError:
            waited = True
        second.settimeout(20)
        disconnect(first)
        size, _ = choose_export(second)
        disconnect(second)
        return waited, size, server.ends(0.2)


def life_shared(bench, who):
    """With -e 2 two clients are served and the third waits; the last that leaves ends it."""
    with Server.at_socket(bench, who, "-e", "2", "-f", "qcow2", "disk.qcow2") as server:
        clients = [server.connect() for _ in range(3)]
        for s in clients[:2]:
            choose_export(s)
        clients[2].settimeout(0.3)
        try:
            waited = clients[2].recv(1) == b""
        except TimeoutError:
            waited = True
        clients[2].close()
        disconnect(clients[0])
        early = server.ends(0.3)
        disconnect(clients[1])
        return waited, early


def life_signals(bench, who):
    seen = []
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        for connected in (False, True):
            with Server.at_socket(bench, who, "-t", "-f", "qcow2", "disk.qcow2") as server:
                s = server.connect()
                if connected:
                    choose_export(s)
                else:
                    exact(s, 18)
                code = server.signal(number)
                s.settimeout(5)
                seen.append((code, os.path.exists(server.path), s.recv(1)))
    return seen


def life_forked(bench, who):
    pid_file = os.path.join(bench.folders[who], "pid")
    code, out, err = bench.run(who, "--fork", "-t", f"--pid-file={pid_file}", "-k", bench.socket(who), "-f",
                               "qcow2", "disk.qcow2")
    with open(pid_file) as file:
        text = file.read()
    pid = int(text)
    try:
        size = bench.tool(who, "nbdinfo", "--size", f"nbd+unix:///?socket={bench.socket(who)}").stdout
        folder = os.readlink(f"/proc/{pid}/cwd")
        session = os.getsid(pid) == pid
        files = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in range(3)]
        mode = os.stat(pid_file).st_mode
        second = bench.run(who, "--fork", "-t", "-r", f"--pid-file={pid_file}", "-k",
                           bench.socket(who, "second"), "-f", "raw", "disk.raw")
    finally:
        os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + 20
    while os.path.exists(bench.socket(who)) and time.monotonic() < deadline:
        time.sleep(0.01)
    left = os.path.exists(bench.socket(who)), os.path.exists(pid_file)
    os.unlink(pid_file)
    return code, out, err, text == f"{pid}\n", size, folder, session, files, mode, second, left


def life_forked_with_warning(bench, who):
    """As with QEMU's, the caller fails where anything was told, though the server runs."""
    result = bench.run(who, "--fork", "-k", bench.socket(who), "disk.raw")
    return result, bench.tool(who, "nbdinfo", "--size", f"nbd+unix:///?socket={bench.socket(who)}").stdout


def life_guessed_raw(bench, who):
    """What was not called raw does not become another format by a write."""
    with Server.at_socket(bench, who, "-t", "disk.raw") as server:
        return [bench.tool(who, "qemu-io", "-f", "raw", "-c", line, server.uri(), check=False).returncode
                for line in ("write -s ../header 0 512", "write -s ../header 0 1024", "write -P 81 0 512",
                             "write -P 7 512 4096", "write -z 0 4096")]


def life_port_in_use(bench, who):
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        return bench.run(who, "-p", str(taken.getsockname()[1]), "-f", "raw", "disk.raw")


def life_replaces_what_is_there(bench, who):
    with open(bench.socket(who), "w"):
        pass
    with Server(bench, who, "-k", bench.socket(who), "-f", "raw", "disk.raw") as server:
        server.await_path()
        s = server.connect()
        size, _ = choose_export(s)
        disconnect(s)
        return size, server.ends()


def activated(bench, who, *words, count=1, client=True):
    """Started as a service manager does it, with the socket as descriptor 3."""
    script = ("import os,sys\nos.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=sys.argv[1])\n"
              "os.dup2(int(sys.argv[2]), 3), os.dup2(3, 4)\nos.execv(sys.argv[3], sys.argv[3:])")
    path = bench.socket(who, "given")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen()
        process = subprocess.Popen([sys.executable, "-c", script, str(count), str(listening.fileno()),
                                    bench.programs[who], *words], cwd=bench.folders[who],
                                   stderr=subprocess.PIPE, pass_fds=[listening.fileno()], env=ENVIRONMENT)
        try:
            if client:
                with socket.socket(socket.AF_UNIX) as s:
                    s.settimeout(20)
                    s.connect(path)
                    choose_export(s)
                    disconnect(s)
            _, err = process.communicate(timeout=20)
        finally:
            process.kill()
            there = os.path.exists(path)
            os.unlink(path)
    return process.returncode, err, there


def life_activated(bench, who):
    disk = ("-f", "qcow2", "disk.qcow2")
    return (activated(bench, who, *disk),
            activated(bench, who, *disk, count=2, client=False),
            activated(bench, who, "-p", "1234", *disk, client=False),
            activated(bench, who, "-b", "localhost", *disk, client=False),
            activated(bench, who, "-k", "/nonexistent/socket", *disk, client=False))


LIFE = [value for name, value in sorted(globals().items()) if name.startswith("life_")]


def same_life(bench, watch):
    seen = {who: watch(bench, who) for who in WHO}
    if seen["theirs"] != seen["ours"]:
        raise Failure(f"{watch.__name__}\n  theirs: {seen['theirs']}\n  ours:   {seen['ours']}")


# ---- generated ----

def maybe(rng, *choices):
    """One of the choices (tuples of words), or none."""
    return rng.choice(((),) * len(choices) + choices)


def make_line(rng):
    """@return the words, the export's name, its size, whether it can be written and discards be compared."""
    name, fmt, size = rng.choice((("disk.qcow2", "qcow2", 8 << 20), ("disk.raw", "raw", 4 << 20),
                                  ("top.qcow2", "qcow2", 4 << 20)))
    words = ["-t"]
    offset = rng.choice((0, 0, 512, 4096, 1 << 20, 65536 + 512))
    if offset:
        words += ["-o", rng.choice((str(offset), hex(offset)))]
    read_only = rng.random() < 0.2
    words += ["-r"] if read_only else []
    if name == "disk.qcow2" and not offset and rng.random() < 0.2:
        words += ["-l", rng.choice(("one", "1", "snapshot.name=one", "snapshot.id=1"))]
        read_only = True
    elif rng.random() < 0.2:
        words += ["-s"]
    words += maybe(rng, ("--cache=writeback",), ("--cache=writethrough",), ("--cache=unsafe",))
    words += maybe(rng, ("--aio=threads",), ("--aio=io_uring",))
    words += rng.choice(((), ("--discard=ignore",), ("--discard=unmap",),
                         ("--discard=unmap", "--detect-zeroes=unmap")))
    words += maybe(rng, ("--detect-zeroes=on",), ("--detect-zeroes=off",)) \
        if not any(word.startswith("--detect") for word in words) else ()
    words += maybe(rng, ("-e", "4"), ("-e", "0"), ("--shared=2",))
    export = rng.choice(("", "", "disk", "a name"))
    words += ["-x", export] if export else []
    words += maybe(rng, ("-D", "what it is"), ("-D", ""))
    words += maybe(rng, ("-A",))
    if name == "disk.qcow2" and not offset and "-s" not in words:
        words += maybe(rng, ("-B", "dirty"))
    if rng.random() < 0.3:
        window = ""
        if fmt == "raw" and not offset and rng.random() < 0.7:
            window, size = f"offset={rng.choice((0, 65536, 1 << 20))},size=1M,", 1 << 20
        words += ["--image-opts", f"driver={fmt},{window}file.driver=file,file.filename={name}"]
    else:
        words += ["-f", fmt, name]
    discards = offset % 65536 == 0 and name != "top.qcow2" and "-s" not in words
    return words, export, size - offset, not read_only, discards


def random_writes(rng, size, discards):
    """Commands of qemu-io. What is left by a discard of half a cluster, or of what a backing file holds, is each
    program's own choice: @discards are of whole clusters of the only layer."""
    lines = []
    for _ in range(6):
        start = rng.randrange(size // 512) * 512
        length = min(rng.choice((512, 4096, 65536, 300 * 512)), size - start)
        choices = [f"write -P {rng.randrange(1, 255)} {start} {length}", f"write -z {start} {length}",
                   f"write -zu {start} {length}", f"write -P 0 {start} {length}"]
        if discards:
            first = rng.randrange(size // 65536) * 65536
            choices.append(f"discard {first} {min(rng.choice((1, 3)) * 65536, size - first)}")
        lines += ["-c", rng.choice(choices)]
    return lines


def generated_observed(bench, who, words, export, writes, writable):
    seen = {}
    name = export.replace(" ", "%20")
    with Server.at_socket(bench, who, *words) as server:
        seen["told"] = told(bench, who, server, name)
        if writable:
            bench.tool(who, "qemu-io", "-f", "raw", *writes, server.uri(name))
        copy = os.path.join(bench.folders[who], "copy")
        bench.tool(who, "qemu-img", "convert", "-f", "raw", "-O", "raw", server.uri(name), copy)
        with open(copy, "rb") as file:
            seen["content"] = hashlib.sha256(file.read()).hexdigest()
        os.unlink(copy)
        seen["exit"] = server.signal(signal.SIGTERM)
        # QEMU's tells of clients that leave early, as listens() does.
        seen["stderr"] = re.sub(rb"qemu-nbd: .*socket.*\n", b"", server.process.stderr.read())
    for image in ("disk.qcow2", "top.qcow2"):
        seen[image] = bench.tool(who, "qemu-img", "check", "-q", image, check=False).returncode
    return seen


def same_generated(bench, rng):
    words, export, size, writable, discards = make_line(rng)
    writes = random_writes(rng, size, discards)
    seen = {who: generated_observed(bench, who, words, export, writes, writable) for who in WHO}
    for key, theirs in seen["theirs"].items():
        if theirs != seen["ours"][key]:
            raise Failure(f"qemu-nbd {shlex.join(words)} with {shlex.join(writes)}: {key}\n"
                          f"  theirs: {theirs}\n  ours:   {seen['ours'][key]}")
    for image in ("disk.qcow2", "disk.raw", "top.qcow2"):
        pair = [os.path.join(bench.folders[who], image) for who in WHO]
        if bench.tool("ours", "qemu-img", "compare", "-q", *pair, check=False).returncode:
            raise Failure(f"qemu-nbd {shlex.join(words)} with {shlex.join(writes)}: {image} differs")


# ---- all ----

def main():
    tools = Tools(__doc__)
    for program, package in (("nbdinfo", "libnbd-bin"), ("openssl", "openssl")):
        if not shutil.which(program):
            print(f"skipped: {program} is not installed (apt-get install {package})")
            sys.exit(SKIP)
    bench, failures = Bench(tools), 0
    work = [(f"ending: {line}", same_ending, line) for line in cases.ENDING]
    work += [(f"list: {name}", same_list, script) for name, script in qemu_nbd_server.LISTS.items()]
    work += [(f"list: {name}", refused_list, pair) for name, pair in qemu_nbd_server.REFUSED.items()]
    work += [(f"list of {shlex.join(words)}", same_live_list, words) for words in cases.LISTED]
    work += [(f"tls: {kind}", same_tls, kind) for kind in TLS]
    work += [(watch.__name__, same_life, watch) for watch in LIFE]
    work += [(f"generated-{seed}", same_generated, random.Random(seed))
             for seed in range(tools.seed, tools.seed + SEEDS)]
    for name, run, argument in work:
        if tools.case and tools.case not in name:
            continue
        try:
            run(bench, argument)
        except Failure as failure:
            print(f"FAIL {name}: {failure}")
            failures += 1
    bench.close()
    if failures:
        print(f"{failures} differences")
        sys.exit(1)
    print("all the same")


if __name__ == "__main__":
    main()
