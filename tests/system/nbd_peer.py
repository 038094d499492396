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


# ---- the newer ways in, and every kind of reply ----

REQUEST, EXTENDED_REQUEST = 0x25609513, 0x21e41c71
SIMPLE, STRUCTURED, EXTENDED = 0x67446698, 0x668e33ef, 0x6e8a278c
READ, WRITE, DISC, FLUSH, TRIM, CACHE, ZERO, STATUS = range(8)
FUA, NO_HOLE, DF, REQ_ONE, FAST_ZERO, PAYLOAD = (1 << i for i in range(6))
OPT_EXPORT_NAME, OPT_ABORT, OPT_LIST, OPT_STARTTLS, OPT_INFO, OPT_GO = 1, 2, 3, 5, 6, 7
OPT_STRUCTURED, OPT_LIST_META, OPT_SET_META, OPT_EXTENDED = 8, 9, 10, 11
ACK, ERR = 1, 1 << 31


def option_bytes(option, data=b""):
    return OPTION + struct.pack(">II", option, len(data)) + data


def string(text):
    text = text.encode() if isinstance(text, str) else text
    return struct.pack(">I", len(text)) + text


def meta_bytes(name, queries):
    return string(name) + struct.pack(">I", len(queries)) + b"".join(map(string, queries))


def go_bytes(name, infos=()):
    return string(name) + struct.pack(f">H{len(infos)}H", len(infos), *infos)


class Refused(Exception):
    pass


class Client:
    """Speaks one of the three kinds of headers. Replies are checked as far as they can be without knowing the disk."""

    def __init__(self, engine, kind="extended", name="disk", contexts=(), negotiate=True):
        self.s = engine.connect()
        self.kind, self.cookie, self.contexts = kind, 0, {}
        assert exact(self.s, 18) == b"NBDMAGIC" + OPTION + b"\0\3"
        self.s.sendall(struct.pack(">I", 3))
        if not negotiate:
            return
        if kind != "simple":
            assert self.option(OPT_EXTENDED if kind == "extended" else OPT_STRUCTURED) == []
        if contexts:
            for _, data in self.option(OPT_SET_META, meta_bytes(name, contexts)):
                self.contexts[data[4:].decode()] = struct.unpack(">I", data[:4])[0]
        self.go(name)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.s.close()

    def option(self, option, data=b""):
        """@return (type, data) of the replies before the ACK."""
        self.s.sendall(option_bytes(option, data))
        replies = []
        while True:
            magic, told, kind, length = struct.unpack(">QIII", exact(self.s, 20))
            assert magic == 0x3e889045565a9 and told == option, (hex(magic), told)
            data = exact(self.s, length)
            if kind & ERR:
                raise Refused(kind & ~ERR, data.decode())
            if kind == ACK:
                assert not data
                return replies
            replies.append((kind, data))

    def go(self, name, infos=(), option=OPT_GO):
        self.info = {struct.unpack(">H", data[:2])[0]: data[2:] for _, data in self.option(option, go_bytes(name, infos))}
        self.size, self.flags = struct.unpack(">QH", self.info[0])
        return self.info

    def bytes_of(self, command, offset=0, length=0, flags=0, payload=b""):
        self.cookie += 1
        self.asked = (command, offset, length)
        if self.kind == "extended":
            if command == WRITE:
                flags |= PAYLOAD
            return struct.pack(">IHHQQQ", EXTENDED_REQUEST, flags, command, self.cookie, offset,
                               len(payload) if flags & PAYLOAD else length) + payload
        return struct.pack(">IHHQQI", REQUEST, flags, command, self.cookie, offset, length) + payload

    def send(self, command, offset=0, length=0, flags=0, payload=b""):
        self.s.sendall(self.bytes_of(command, offset, length, flags, payload))
        return self.cookie

    def _chunk(self):
        """(cookie, done, type, payload), of simple replies with the type None and the error."""
        magic, = struct.unpack(">I", exact(self.s, 4))
        if magic == SIMPLE:
            assert self.kind != "extended"
            error, cookie = struct.unpack(">IQ", exact(self.s, 12))
            return cookie, True, None, error
        if magic == EXTENDED:
            assert self.kind == "extended"
            flags, kind, cookie, offset, length = struct.unpack(">HHQQQ", exact(self.s, 28))
            assert offset == self.asked[1], "an extended reply tells the request's offset"
        else:
            assert magic == STRUCTURED and self.kind == "structured", hex(magic)
            flags, kind, cookie, length = struct.unpack(">HHQI", exact(self.s, 16))
        assert flags in (0, 1) and length <= (32 << 20) + 8
        return cookie, bool(flags), kind, exact(self.s, length)

    def reply(self, length=0):
        """Of the one request that is under way. @return (error, data or extents by context)."""
        error, data, extents, done = 0, bytearray(length), {}, False
        command, offset, _ = self.asked
        while not done:
            cookie, done, kind, payload = self._chunk()
            assert cookie == self.cookie
            if kind is None:
                assert not (self.kind == "structured" and command == READ)
                error = payload
                if command == READ and not error:
                    data = exact(self.s, length)
            elif kind == 1:
                at = struct.unpack(">Q", payload[:8])[0] - offset
                data[at:at + len(payload) - 8] = payload[8:]
            elif kind == 5 and self.kind == "structured":
                extents[struct.unpack(">I", payload[:4])[0]] = list(struct.iter_unpack(">II", payload[4:]))
            elif kind == 6 and self.kind == "extended":
                context, count = struct.unpack(">II", payload[:8])
                extents[context] = list(struct.iter_unpack(">QQ", payload[8:]))
                assert len(extents[context]) == count
            elif kind == (1 << 15) + 1:
                error, text = struct.unpack(">IH", payload[:6])
                assert error and text == len(payload) - 6
            else:
                assert kind == 0 and not payload and done, kind
        return error, extents if command == STATUS else bytes(data)

    def do(self, command, offset=0, length=0, flags=0, payload=b""):
        self.send(command, offset, length, flags, payload)
        return self.reply(length if command == READ else 0)
