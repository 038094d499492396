"""The NBD server under clients that mean harm: what they cost, and that others do not notice."""
import os
import random
import socket
import struct
import threading
import time

from lib import HAWSER, main, need_tool, run, wait_until
from nbd_peer import (CACHE, DISC, FAST_ZERO, FLUSH, FUA, NO_HOLE, OPT_EXTENDED, OPT_GO, OPT_INFO, OPT_LIST, OPT_LIST_META,
                      OPT_SET_META, OPT_STRUCTURED, PAYLOAD, READ, STATUS, TRIM, WRITE, ZERO, Client, Engine, answer, exact,
                      go_bytes, image, meta_bytes, negotiate, option_bytes, request)

MIB = 1 << 20


def is_plain():
    """Sanitizers have memory of their own: then it is not looked at."""
    with open(HAWSER, "rb") as file:
        program = file.read()
    return b"__asan_init" not in program and b"__tsan_init" not in program


def resident(engine):
    """Bytes of memory that are the engine's own."""
    with open(f"/proc/{engine.process.pid}/smaps_rollup") as file:
        return sum(int(line.split()[1]) << 10 for line in file if line.startswith(("Private_", "Swap:")))


def server(engine):
    return engine.call("status")["nbd"]


def served_in(s, cookie, seconds):
    """A small read is answered in time."""
    started = time.monotonic()
    s.sendall(request(0, cookie, 0, 4096))
    assert answer(s) == (0, cookie)
    exact(s, 4096)
    took = time.monotonic() - started
    assert took < seconds, took
    return took


def config(**nbd):
    return {"volumes": [{"name": "disk", "image": os.path.abspath(image("256M")), "via": "none"}], "nbd": nbd}


def test_a_thousand_idle_clients_cost_little():
    with Engine(config=config(connections=1100)) as engine:
        with engine.connect() as s:
            negotiate(s)
            served_in(s, 1, 30)
        before = resident(engine)
        several = [engine.connect() for _ in range(1000)]
        for s in several:
            negotiate(s)
            s.sendall(request(0, 7, 0, 4096))
        for s in several:
            assert answer(s) == (0, 7) and exact(s, 4096) == bytes(4096)
        wait_until(lambda: server(engine)["memory"] <= 4 * MIB)
        time.sleep(2.5)  # what rests goes back
        each = (resident(engine) - before) / 1000
        print(f"  {each:.0f} bytes a client")
        assert each < 4096 or not is_plain(), each
        for s in several:
            s.close()
        wait_until(lambda: server(engine)["connections"] == 0)


def test_half_a_header_costs_no_buffer():
    with Engine(config=config()) as engine:
        several = [engine.connect() for _ in range(500)]
        for s in several:
            negotiate(s)
            s.sendall(request(0, 7, 0, 4096)[:27])
        time.sleep(0.5)
        assert server(engine)["memory"] <= 4 * MIB, server(engine)
        for s in several:
            s.sendall(request(0, 7, 0, 4096)[27:])
        for s in several:
            assert answer(s) == (0, 7) and exact(s, 4096) == bytes(4096)
            s.close()


def test_clients_that_never_read_do_not_use_up_memory():
    budget = 64 * MIB
    with Engine(config=config(memory=budget)) as engine, engine.connect() as good:
        negotiate(good)
        served_in(good, 1, 30)
        before = resident(engine)
        greedy = []
        for _ in range(20):
            s = engine.connect()
            negotiate(s)
            s.settimeout(0.05)
            try:
                s.sendall(request(0, 9, 0, MIB) * 64)
            except socket.timeout:
                pass
            greedy.append(s)
        wait_until(lambda: server(engine)["waiting-for-memory"] > 0, 30)
        worst, cookie, peak = 0, 2, 0
        for cookie in range(2, 60):
            worst = max(worst, served_in(good, cookie, 20))
            peak = max(peak, resident(engine) - before)
            assert server(engine)["memory"] <= budget + 4 * MIB, server(engine)
            time.sleep(0.02)
        assert worst < 2, worst
        print(f"  at most {peak >> 20} MiB, and {worst * 1000:.0f} ms for a good client's read")
        assert peak < budget + 24 * MIB or not is_plain(), peak  # what threads keep for their next requests among it
        # Those that stand still make room: a large read gets its turn.
        good.settimeout(60)
        good.sendall(request(0, 3, 0, 32 * MIB))
        assert answer(good) == (0, 3) and len(exact(good, 32 * MIB)) == 32 * MIB
        assert server(engine)["cut"] > 0
        for s in greedy:
            s.close()
        wait_until(lambda: server(engine)["connections"] == 1 and server(engine)["memory"] <= 4 * MIB)


def test_payload_that_never_ends_makes_room_for_others():
    with Engine(config=config(memory=64 * MIB)) as engine, engine.connect() as good:
        negotiate(good)
        slow = []
        for _ in range(60):
            s = engine.connect()
            negotiate(s)
            s.sendall(request(1, 1, 0, 2 * MIB) + bytes(100000))
            slow.append(s)
        wait_until(lambda: server(engine)["waiting-for-memory"] > 0, 30)
        for cookie in range(20):
            served_in(good, cookie, 20)
        good.settimeout(60)
        good.sendall(request(1, 3, 0, 2 * MIB) + bytes(2 * MIB))
        assert answer(good) == (0, 3)
        for s in slow:
            s.close()
        wait_until(lambda: server(engine)["connections"] == 1)


# ---- sessions that break ----

def session(kind, changes=True):
    """All options and all commands as the bytes that one client sends: negotiation, transmission. Without @changes what
    is answered does not depend on the order in which the commands are done."""
    queries = ["base:allocation", "qemu:allocation-depth", "qemu:dirty-bitmap:b0"]
    c = Client.__new__(Client)
    c.kind, c.cookie = kind, 0
    infos = go_bytes("disk", [1, 2, 3])
    options = [option_bytes(OPT_LIST), option_bytes(99, b"no such"), option_bytes(OPT_INFO, infos)]
    if kind != "simple":
        options.append(option_bytes(OPT_EXTENDED if kind == "extended" else OPT_STRUCTURED))
        options += [option_bytes(OPT_LIST_META, meta_bytes("disk", ["qemu:"])), option_bytes(OPT_SET_META, meta_bytes("disk", queries))]
    options.append(option_bytes(OPT_GO, infos))
    area = 256 << 10  # below it the client that is not to be disturbed works
    commands = [c.bytes_of(WRITE, area + 1, 600, payload=b"w" * 600), c.bytes_of(READ, 0, 65536), c.bytes_of(WRITE, area, 64, FUA, b"f" * 64),
                c.bytes_of(ZERO, area + 4096, 65536, NO_HOLE), c.bytes_of(CACHE, 0, 1 << 20), c.bytes_of(TRIM, area, 65536, FUA),
                c.bytes_of(ZERO, area, 4096, FAST_ZERO), c.bytes_of(STATUS, 0, 1 << 20), c.bytes_of(READ, 1 << 40, 1), c.bytes_of(FLUSH),
                c.bytes_of(77, 0, 1)]
    if not changes:
        del commands[3:7]  # a long CACHE ends early where its client leaves
    if kind == "extended":
        commands.append(c.bytes_of(STATUS, 0, 0, PAYLOAD, struct.pack(">QII", 1 << 20, 3, 1)))
    return struct.pack(">I", 3) + b"".join(options), b"".join(commands) + c.bytes_of(DISC)


class Undisturbed:
    """Writes and reads its own part of the disk while others come and go."""

    def __init__(self, engine):
        self.engine, self.stop, self.done, self.failure = engine, False, 0, None
        self.thread = threading.Thread(target=self.run)

    def run(self):
        try:
            with Client(self.engine) as c:
                while not self.stop:
                    at, data = self.done * 4096 % (128 << 10), bytes([self.done % 251 + 1]) * 4096
                    assert c.do(WRITE, at, 4096, payload=data)[0] == 0 and c.do(READ, at, 4096) == (0, data)
                    self.done += 1
                    time.sleep(0.0005)
        except Exception as failure:  # told by the main thread
            self.failure = failure

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stop = True
        self.thread.join(60)
        assert not self.thread.is_alive() and not self.failure and self.done, self.failure


def test_a_session_may_break_at_every_byte():
    need_tool("qemu-img")
    image("1M")
    run("qemu-img", "bitmap", "--add", "disk.qcow2", "b0")
    with Engine("disk.qcow2") as engine:
        with Undisturbed(engine) as other:
            for kind in ("simple", "structured", "extended"):
                negotiation, transmission = session(kind)
                stream = negotiation + transmission
                for cut in range(len(stream) + 1):
                    with engine.connect() as s:
                        s.sendall(stream[:cut])
                        if cut % 3 == 1:  # by its half, the answers taken
                            s.shutdown(socket.SHUT_WR)
                            while s.recv(1 << 20):
                                pass
                        elif cut % 3 == 2:  # with answers on their way
                            s.recv(1)
                wait_until(lambda: server(engine)["connections"] <= 1)
        print(f"  {other.done} rounds of the client that was not to be disturbed")
        wait_until(lambda: server(engine)["connections"] == 0)
        told = server(engine)
        assert told["cut"] == 0 and told["waiting-for-memory"] == 0 and told["memory"] <= 4 * MIB, told
        with Client(engine) as c:
            for block in range(min(other.done, 32)):
                data = c.do(READ, block * 4096, 4096)[1]
                assert data == data[:1] * 4096 and data[0], block
    run("qemu-img", "check", "-q", "disk.qcow2")


def test_bytes_may_come_one_by_one():
    image("1M")
    run("qemu-img", "bitmap", "--add", "disk.qcow2", "b0")
    with Engine("disk.qcow2") as engine:
        for kind in ("simple", "structured", "extended"):
            stream, answers = b"".join(session(kind, changes=False)), []
            for by in (len(stream), 1, 7, len(stream)):
                with engine.connect() as s:
                    for at in range(0, len(stream), by):
                        s.sendall(stream[at:at + by])
                        if at % 50 == 0:
                            time.sleep(0)
                    answers.append(len(b"".join(iter(lambda: s.recv(1 << 20), b""))))
            assert answers[1] == answers[2] == answers[3], (kind, answers)  # after the first, all is allocated


def test_requests_are_in_order_of_none():
    """Chaos of a seed: known and unknown options, requests with any fields, on many connections at once."""
    need_tool("qemu-img")
    image("1M")
    with Engine("disk.qcow2") as engine, Undisturbed(engine):
        chance = random.Random(4)
        lengths = (0, 1, 511, 512, 65535, 65536, 1 << 20, (32 << 20) + 1, (1 << 32) - 1)
        offsets = (256 << 10, (256 << 10) + 1, (1 << 20) - 1, 1 << 20, 1 << 62, (1 << 64) - 1)
        for _ in range(150):
            s = engine.connect()
            kind = chance.choice(("simple", "structured", "extended"))
            s.sendall(session(kind)[0])
            for _ in range(chance.randrange(1, 30)):
                length = chance.choice(lengths)
                command = chance.choice((0, 0, 1, 3, 4, 5, 6, 7, 8, 65535))
                flags = chance.choice((0, 0, 0, 1, 4, 8, 32, 0xffff))
                form, magic = (">IHHQQQ", 0x21e41c71) if kind == "extended" else (">IHHQQI", 0x25609513)
                payload = bytes(min(length, 100000)) if flags & 32 or command == 1 else b""
                try:
                    s.sendall(struct.pack(form, magic, flags, command, chance.getrandbits(64), chance.choice(offsets), length) + payload)
                except (BrokenPipeError, ConnectionResetError):
                    break
            s.close()
        wait_until(lambda: server(engine)["connections"] <= 1, 20)
    run("qemu-img", "check", "-q", "disk.qcow2")


main(globals())
