"""What the tests of the NBD server share: an engine that serves, and a client that speaks the protocol by hand."""
import json
import os
import signal
import socket
import struct
import subprocess
import time

from lib import HAWSER, run

OPTION = b"IHAVEOPT"


class Engine:
    def __init__(self, *words, volume=None, config=None):
        """Of an image as @words say, of a @volume as configurations have them, or of a @config, whose "nbd" listens
        at the usual place unless it says another."""
        self.socket = os.path.abspath("nbd.sock")
        self.control = os.path.abspath("control.sock")
        if volume:
            config = {"volumes": [{"name": "disk", **volume}]}
        if config:
            words = ["--config=engine.json"]
            nbd = {"listen": [f"unix:{self.socket}"], **config.get("nbd", {})}
            with open("engine.json", "w") as file:
                json.dump({"socket": self.control, "log-level": "warning", **config, "nbd": nbd}, file)
        else:
            words = [f"--nbd=unix:{self.socket}", f"--socket={self.control}", "--name=disk",
                     "--log-level=warning", *words]
        self.process = subprocess.Popen([HAWSER, "serve", *words], stderr=subprocess.PIPE, text=True)
        deadline = time.monotonic() + 30
        while not os.path.exists(self.control):
            assert self.process.poll() is None, self.process.stderr.read()
            assert time.monotonic() < deadline, "the engine did not start"
            time.sleep(0.01)

    def __enter__(self):
        return self

    def uri(self, name="disk"):
        return f"nbd+unix:///{name}?socket={self.socket}"

    def answer(self, method, **params):
        with socket.socket(socket.AF_UNIX) as s:
            s.connect(self.control)
            s.sendall(json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode() + b"\n")
            return json.loads(s.makefile().readline())

    def call(self, method, **params):
        return self.answer(method, **params)["result"]

    def refuses(self, method, **params):
        """@return why."""
        return self.answer(method, **params)["error"]["message"]

    def exports(self):
        """What `status` tells, by name."""
        return {e["name"]: e for e in self.call("status")["nbd"]["exports"]}

    def connect(self):
        s = socket.socket(socket.AF_UNIX)
        s.connect(self.socket)  # without a limit it waits for a place in the line
        s.settimeout(30)
        return s

    def kill(self):
        self.process.kill()
        self.process.communicate(timeout=30)
        os.unlink(self.socket)
        os.unlink(self.control)

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        try:
            _, err = self.process.communicate(timeout=5)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGTERM)
            _, err = self.process.communicate(timeout=30)
        assert "Sanitizer" not in err, err
        assert not os.path.exists(self.socket)


def image(size="64M", name="disk.qcow2"):
    run("qemu-img", "create", "-q", "-f", "qcow2", name, size)
    return name


def exact(s, count):
    got = bytearray(count)
    done = 0
    while done < count:
        n = s.recv_into(memoryview(got)[done:])
        assert n, f"hung up after {done} of {count} bytes"
        done += n
    return bytes(got)


def negotiate(s, name=b"disk"):
    """The oldest way in: size and flags of the export."""
    assert exact(s, 18)[:16] == b"NBDMAGIC" + OPTION
    s.sendall(struct.pack(">I", 3) + OPTION + struct.pack(">II", 1, len(name)) + name)
    return struct.unpack(">QH", exact(s, 10))


def request(command, cookie, offset, length, flags=0, magic=0x25609513):
    return struct.pack(">IHHQQI", magic, flags, command, cookie, offset, length)


def answer(s):
    magic, error, cookie = struct.unpack(">IIQ", exact(s, 16))
    assert magic == 0x67446698, hex(magic)
    return error, cookie


def hung_up(s):
    try:
        return s.recv(1) == b""
    except ConnectionResetError:
        return True
