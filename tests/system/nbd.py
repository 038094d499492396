"""The NBD server as its clients see it: nbdinfo, qemu-io, qemu-img, nbdcopy, fio, and a client that lies."""
import json
import os
import socket
import struct
import subprocess
import time

from lib import hawser, main, need_tool, run
from nbd_peer import OPTION, Engine, answer, exact, hung_up, image, negotiate, request

def test_what_clients_are_told():
    need_tool("nbdinfo", "qemu-img")
    with Engine(image()) as engine:
        told = json.loads(run("nbdinfo", "--json", engine.uri()))["exports"][0]
        assert told["export-name"] == "disk" and told["export-size"] == 64 << 20
        for flag in ("can_flush", "can_fua", "can_multi_conn", "can_trim", "can_zero", "can_fast_zero", "can_df", "can_cache"):
            assert told[flag], flag
        assert told["block_size_minimum"] == 1 and not told["is_read_only"]
        listed = json.loads(run("nbdinfo", "--list", "--json", f"nbd+unix://?socket={engine.socket}"))["exports"]
        assert [e["export-name"] for e in listed] == ["disk"]
        unknown = subprocess.run(["nbdinfo", engine.uri("other")], capture_output=True, text=True)
        assert unknown.returncode == 1, unknown.stderr
        assert engine.call("status")["nbd"]["exports"][0]["name"] == "disk"


def test_a_read_only_export_refuses_writes():
    need_tool("qemu-io")
    with Engine("--read-only", image()) as engine, engine.connect() as s:
        size, flags = negotiate(s)
        assert size == 64 << 20 and flags & 2
        s.sendall(request(1, 5, 0, 512) + bytes(512) + request(6, 6, 0, 512) + request(4, 7, 0, 512))
        assert [answer(s) for _ in range(3)] == [(1, 5), (1, 6), (1, 7)]


def test_content_and_status_agree_with_the_image():
    need_tool("qemu-io", "qemu-img", "nbdinfo", "nbdcopy")
    name = image()
    with Engine(name) as engine:
        commands = ["write -P 1 0 3M", "write -P 2 20M 5M", "write -z 1M 64k", "discard 21M 1M", "write -P 3 63M 1M",
                    "write -P 4 70001 13", "read -P 4 70001 13", "read -P 0 21M 1M", "flush"]
        run("qemu-io", "-f", "raw", engine.uri(), *sum((["-c", c] for c in commands), []))
        nbd = json.loads(run("nbdinfo", "--map", "--json", engine.uri()))
        run("nbdcopy", engine.uri(), "copy.raw")
    data = [(e["offset"], e["length"]) for e in nbd if e["type"] == 0]
    local = json.loads(run("qemu-img", "map", "--output=json", name))
    joined = []
    for extent in local:
        if extent["data"]:
            if joined and sum(joined[-1]) == extent["start"]:
                joined[-1] = (joined[-1][0], joined[-1][1] + extent["length"])
            else:
                joined.append((extent["start"], extent["length"]))
    assert data == joined, (data, joined)
    run("qemu-img", "compare", "-f", "raw", "-F", "qcow2", "copy.raw", name)
    run("qemu-img", "check", "-q", name)


def test_bitmaps_are_told_as_another_server_tells_them():
    need_tool("qemu-io", "qemu-img", "qemu-nbd", "nbdinfo")
    name = image("40M")
    for bitmap, grain in (("b0", "64k"), ("fine", "512"), ("off", "1M")):
        run("qemu-img", "bitmap", "--add", "-g", grain, name, bitmap)
    run("qemu-img", "bitmap", "--disable", name, "off")
    run("qemu-io", "-c", "write 3M 70k", "-c", "write -z 20M 1M", "-c", "discard 39M 1M", "-c", "write 700 13", name)
    with Engine(name) as engine:
        listed = json.loads(run("nbdinfo", "--json", engine.uri()))["exports"][0]["contexts"]
        assert listed == ["base:allocation", "qemu:allocation-depth", "qemu:dirty-bitmap:b0", "qemu:dirty-bitmap:fine",
                          "qemu:dirty-bitmap:off"], listed
        run("qemu-io", "-f", "raw", engine.uri(), "-c", "write 10M 1M", "-c", "flush")
        ours = {b: run("nbdinfo", f"--map=qemu:dirty-bitmap:{b}", engine.uri()) for b in ("b0", "fine", "off")}
    for bitmap, told in ours.items():
        other = os.path.abspath("other.sock")
        with subprocess.Popen(["qemu-nbd", "-r", "-f", "qcow2", "-k", other, "-x", "disk", "-B", bitmap, name]) as server:
            while not os.path.exists(other):
                assert server.poll() is None
                time.sleep(0.01)
            assert run("nbdinfo", f"--map=qemu:dirty-bitmap:{bitmap}", f"nbd+unix:///disk?socket={other}") == told, bitmap
        assert (bitmap == "off") == (" 1 " not in told), told
        if os.path.exists(other):
            os.unlink(other)


def test_many_requests_at_once_from_several_clients():
    need_tool("fio", "qemu-img")
    name = image("32M")
    with Engine(name) as engine:
        jobs = [subprocess.Popen(
            ["fio", f"--name=j{i}", "--ioengine=nbd", f"--uri={engine.uri()}", "--rw=randwrite", "--bsrange=512-300k",
             "--bs_unaligned", "--iodepth=32", f"--offset={i * 8}M", "--size=8M", "--verify=crc32c", "--do_verify=1",
             "--randrepeat=0", "--output=/dev/null"]) for i in range(4)]
        for job in jobs:
            assert job.wait(120) == 0
    run("qemu-img", "check", "-q", name)


def test_long_requests_go_in_pieces():
    need_tool("qemu-io")
    name = image("80M")
    with Engine(name) as engine:
        run("qemu-io", "-f", "raw", engine.uri(), "-c", "write -P 9 1000 32000000", "-c", "read -P 9 1000 32000000")
        with engine.connect() as s:
            negotiate(s)
            s.sendall(request(0, 1, 1000, 32 << 20))
            assert answer(s) == (0, 1)
            assert exact(s, 32 << 20)[:32000000 - 1000] == b"\x09" * (32000000 - 1000)


def test_what_is_wrong_is_answered_and_the_connection_goes_on():
    name = image("1M")
    with Engine(name) as engine, engine.connect() as s:
        negotiate(s)
        wrong = [(request(0, 1, 1 << 20, 1), 22), (request(0, 2, (1 << 64) - 1, 2), 22),
                 (request(1, 3, 1 << 20, 4) + b"abcd", 28), (request(9, 4, 0, 512), 22),
                 (request(0, 5, 0, 512, flags=1 << 9), 22), (request(7, 6, 0, 512), 22),
                 (request(3, 7, 512, 0), 22), (request(6, 8, 0, 2 << 20), 28), (request(4, 9, 5, 1 << 20), 28)]
        for i, (bytes_, error) in enumerate(wrong):
            s.sendall(bytes_)
            assert answer(s) == (error, i + 1), (i, error)
        s.sendall(request(1, 20, 0, 4) + b"good")
        assert answer(s) == (0, 20)
        s.sendall(request(0, 21, 0, 4))
        assert answer(s) == (0, 21) and exact(s, 4) == b"good"


def test_nonsense_is_hung_up_on_and_others_are_served():
    need_tool("qemu-io")
    name = image("1M")
    with Engine(name) as engine, engine.connect() as good:
        negotiate(good)
        for nonsense in (request(0, 1, 0, 512, magic=0xdead), request(1, 1, 0, 0xffffffff)):
            with engine.connect() as s:
                negotiate(s)
                s.sendall(nonsense)
                assert hung_up(s)
        for greeting in (b"\xff\xff\xff\xff", struct.pack(">I", 3) + b"NONSENSE" * 4,
                         struct.pack(">I", 3) + OPTION + struct.pack(">II", 7, 0x7fffffff)):
            with engine.connect() as s:
                exact(s, 18)
                s.sendall(greeting)
                assert hung_up(s)
        good.sendall(request(0, 3, 0, 16))
        assert answer(good) == (0, 3) and exact(good, 16) == bytes(16)


def test_a_client_may_vanish_at_any_byte():
    need_tool("qemu-img")
    name = image("1M")
    with Engine(name) as engine:
        stream = (struct.pack(">I", 3) + OPTION + struct.pack(">II", 8, 0) + OPTION +
                  struct.pack(">II", 10, 4 + 4 + 4 + 4 + 15) + struct.pack(">I", 4) + b"disk" + struct.pack(">II", 1, 15) +
                  b"base:allocation" + OPTION + struct.pack(">II", 7, 10) + struct.pack(">I", 4) + b"disk" + bytes(2) +
                  request(1, 1, 0, 64) + b"x" * 64 + request(0, 2, 0, 65536) + request(7, 3, 0, 1 << 20) +
                  request(6, 4, 0, 65536) + request(3, 5, 0, 0))
        for cut in range(len(stream) + 1):
            with engine.connect() as s:
                s.sendall(stream[:cut])
                if cut % 2:
                    s.shutdown(socket.SHUT_WR)
                    while s.recv(65536):
                        pass
        deadline = time.monotonic() + 30
        while engine.call("status")["nbd"]["exports"][0]["connections"]:
            assert time.monotonic() < deadline, "connections are left"
            time.sleep(0.05)
    run("qemu-img", "check", "-q", name)


def test_a_keep_outlives_a_kill():
    """Clients come back, so what was answered and not flushed must be there: also what was written since an
    internal snapshot, which lies at new places."""
    need_tool("qemu-img", "qemu-io")
    name, keep = image("4M"), os.path.abspath("keep")
    volume = {"image": os.path.abspath(name), "format": "qcow2", "via": "none", "keep": keep}
    for byte in range(1, 4):
        engine = Engine(volume=volume)
        engine.call("internal-snapshot", action="create", name=f"before-{byte}")
        with engine.connect() as s:
            negotiate(s)
            for at in range(0, 2 << 20, 512 << 10):
                s.sendall(request(1, at, at, 65536) + bytes([byte]) * 65536)
                assert answer(s) == (0, at)
            engine.kill()
        assert os.path.exists(keep)
    with Engine(volume=volume) as engine:
        for at in range(0, 2 << 20, 512 << 10):
            run("qemu-io", "-r", "-f", "raw", "-c", f"read -P 3 {at} 65536", engine.uri())
    assert not os.path.exists(keep)
    run("qemu-img", "check", "-q", "-r", "leaks", name)
    for byte in range(1, 4):
        run("qemu-img", "convert", "-l", f"before-{byte}", "-O", "raw", name, "before.raw")
        with open("before.raw", "rb") as file:
            assert file.read(65536) == bytes([byte - 1]) * 65536, byte


def test_an_address_in_use_stays_its_owners():
    need_tool("nbdinfo")
    with Engine(image("1M")) as engine:
        other = image("1M", "other.qcow2")
        failed = hawser("serve", f"--nbd=unix:{engine.socket}", other, code=1)
        assert "cannot listen at" in failed.err, failed.err
        run("nbdinfo", engine.uri())


def test_many_connections_come_and_go():
    with Engine(image("1M")) as engine:
        several = [engine.connect() for _ in range(300)]
        for s in several[:200]:
            negotiate(s)
        for s in several[:200:2]:
            s.sendall(request(5, 1, 0, 1 << 20) * 40)  # cache: answered or not
        for s in several:
            s.close()
        deadline = time.monotonic() + 30
        while engine.call("status")["nbd"]["exports"][0]["connections"]:
            assert time.monotonic() < deadline, "connections are left"
            time.sleep(0.05)


def test_addresses_that_are_none():
    name = image("1M")
    for address, why in (("nowhere", "say unix:PATH or tcp:HOST:PORT"), ("unix:" + "x" * 200, "has 1 to"),
                         ("tcp:[::1", "']' is missing"), ("tcp:127.0.0.1:no-such-port", "no-such-port")):
        failed = hawser("serve", f"--nbd={address}", name, code=1)
        assert why in failed.err, failed.err


main(globals())
