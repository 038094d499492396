"""The NBD server under everybody else's clients: libnbd's tools and bindings, QEMU's, nbdkit on top, fio, a guest."""
import itertools
import json
import os
import subprocess
import tempfile

from lib import HAWSER, Skip, main, need_tool, run, wait_until
from nbd_peer import FLUSH, WRITE, Client, Engine, image

MIB = 1 << 20


def filled(name="disk.qcow2", size="32M", **options):
    """An image with data, zeroes and holes."""
    words = ["-o", ",".join(f"{k}={v}" for k, v in options.items())] if options else []
    run("qemu-img", "create", "-q", "-f", "qcow2", *words, name, size)
    run("qemu-io", "-f", "qcow2", "-c", "write -P 17 0 3M", "-c", "write -P 34 10M 100k", "-c", "write -z 20M 2M",
        "-c", "write -P 51 32767k 1k", "-c", "write -P 68 7000001 77", name)
    return name


def same(raw, name):
    run("qemu-img", "compare", "-f", "raw", "-F", "qcow2", raw, name)


def nbdsh(engine, script, name="disk"):
    """@script sees `h`, connected, with contexts."""
    need_tool("nbdsh")
    done = subprocess.run(["nbdsh", "-c", 'h.add_meta_context("base:allocation")', "-c", 'h.add_meta_context("qemu:allocation-depth")',
        "-c", f"h.connect_uri({engine.uri(name)!r})", "-c", script, "-c", "h.shutdown()"], timeout=120, capture_output=True, text=True, check=False,
                          env={**os.environ, "PATH": f"/usr/bin:{os.environ['PATH']}"})  # whose python has the bindings
    if "No module named nbd" in done.stderr:
        raise Skip("needs python3-libnbd")
    assert done.returncode == 0, done.stderr


def test_nbdcopy_in_both_directions():
    need_tool("nbdcopy", "qemu-img", "qemu-io")
    name = filled()
    run("qemu-img", "convert", "-O", "raw", name, "want.raw")
    for connections, requests, extents in itertools.product((1, 4), (1, 64), (True, False)):
        words = [f"--connections={connections}", f"--requests={requests}", *([] if extents else ["--no-extents"])]
        with Engine(filled()) as engine:
            run("nbdcopy", *words, engine.uri(), "got.raw", timeout=120)
        same("got.raw", name)
        target = image("32M", "target.qcow2")
        with Engine(target) as engine:
            run("nbdcopy", "--flush", *words, "want.raw", engine.uri(), timeout=120)
        same("want.raw", target)
        run("qemu-img", "check", "-q", target)


def test_nbdcopy_from_one_of_ours_to_another():
    need_tool("nbdcopy", "qemu-img", "qemu-io")
    volumes = [{"name": "a", "image": os.path.abspath(filled("a.qcow2")), "via": "none"},
               {"name": "b", "image": os.path.abspath(image("32M", "b.qcow2")), "via": "none"}]
    with Engine(config={"volumes": volumes}) as engine:
        run("nbdcopy", "--connections=3", "--destination-is-zero", "--flush", engine.uri("a"), engine.uri("b"), timeout=120)
    run("qemu-img", "compare", "a.qcow2", "b.qcow2")


def lies_on_a_turning_disk(name):
    """As the kernel says of the disk, or of the one that the partition is part of."""
    device = os.stat(name).st_dev
    for way in ("", "../"):
        told = f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/{way}queue/rotational"
        if os.path.exists(told):
            with open(told, encoding="ascii") as file:
                return file.read().strip() == "1"
    return False


def test_an_image_in_memory_does_not_turn():
    need_tool("nbdinfo")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        name = os.path.join(folder, "disk.qcow2")
        run(HAWSER, "create", "-q", name, "1M")
        with Engine(name) as engine:
            assert subprocess.run(["nbdinfo", "--is", "rotational", engine.uri()], check=False).returncode == 2


def test_nbdinfo_tells_what_there_is():
    need_tool("nbdinfo", "qemu-img", "qemu-io")
    name = filled()
    with Engine("--nbd-export=disk,description=words", "--nbd-export=ro,read-only", name) as engine:
        for can, yes in (("write", 1), ("flush", 1), ("fua", 1), ("multi-conn", 1), ("trim", 1), ("zero", 1), ("fast-zero", 1),
                         ("df", 1), ("cache", 1), ("connect", 1)):
            code = subprocess.run(["nbdinfo", "--can", can, engine.uri()], check=False).returncode
            assert code == (0 if yes else 2), can
        assert subprocess.run(["nbdinfo", "--is", "read-only", engine.uri()], check=False).returncode == 2
        told = subprocess.run(["nbdinfo", "--is", "rotational", engine.uri()], check=False).returncode
        assert told == (0 if lies_on_a_turning_disk(name) else 2), told
        assert subprocess.run(["nbdinfo", "--is", "read-only", engine.uri("ro")], check=False).returncode == 0
        assert subprocess.run(["nbdinfo", "--can", "write", engine.uri("ro")], check=False).returncode == 2
        assert run("nbdinfo", "--size", engine.uri()).strip() == str(32 * MIB)
        told = json.loads(run("nbdinfo", "--json", engine.uri()))
        assert told["protocol"] == "newstyle-fixed" and told["structured"] and not told["TLS"]
        assert (told["exports"][0]["block_size_minimum"], told["exports"][0]["block_size_maximum"]) == (1, 32 * MIB)
        listed = json.loads(run("nbdinfo", "--list", "--json", f"nbd+unix://?socket={engine.socket}"))["exports"]
        assert [(e["export-name"], e.get("description")) for e in listed] == [("disk", "words"), ("ro", None)]
        extents = json.loads(run("nbdinfo", "--map", "--json", engine.uri()))
        assert sum(e["length"] for e in extents) == 32 * MIB
        totals = {e["type"]: e["size"] for e in json.loads(run("nbdinfo", "--map", "--totals", "--json", engine.uri()))}
        local = json.loads(run("qemu-img", "map", "--output=json", "-U", name))
        assert totals[0] == sum(e["length"] for e in local if e["data"]), (totals, local)


def test_libnbd_scripts_every_command():
    need_tool("nbdsh", "qemu-img")
    name = image("8M")
    with Engine(name) as engine:
        nbdsh(engine, """
def extents(context, offset, entries, error):
    seen.setdefault(context, []).extend(zip(entries[::2], entries[1::2]))
seen = {}
assert h.get_size() == 8 << 20 and h.get_structured_replies_negotiated()
assert h.can_meta_context("base:allocation") and h.can_meta_context("qemu:allocation-depth")
h.pwrite(b"x" * 70000, 12345)
h.pwrite(b"y" * 512, 1 << 20, nbd.CMD_FLAG_FUA)
assert h.pread(70000, 12345) == b"x" * 70000 and h.pread_structured(512, 1 << 20, lambda *_: None, nbd.CMD_FLAG_DF) == b"y" * 512
h.zero(65536, 2 << 20)
h.zero(65536, 3 << 20, nbd.CMD_FLAG_NO_HOLE)
h.zero(65536, 4 << 20, nbd.CMD_FLAG_FAST_ZERO | nbd.CMD_FLAG_FUA)
h.trim(65536, 1 << 20)
assert h.pread(65536, 1 << 20) == bytes(65536)
h.cache(1 << 20, 0)
h.block_status(8 << 20, 0, extents)
assert sum(l for l, _ in seen["base:allocation"]) == 8 << 20, seen
seen = {}
h.block_status(8 << 20, 0, extents, nbd.CMD_FLAG_REQ_ONE)
assert all(len(e) == 1 for e in seen.values()), seen
chunks = []
buffer = h.pread_structured(3 << 20, 0, lambda data, offset, status, error: chunks.append((offset, len(data), status)))
assert len(buffer) == 3 << 20 and sum(c[1] for c in chunks) == 3 << 20
h.flush()
# What its own checks would not let out.
h.set_strict_mode(0)
for call, error in ((lambda: h.pread(1, 8 << 20), "EINVAL"), (lambda: h.pwrite(b"z", 8 << 20), "ENOSPC"),
                    (lambda: h.pread(512, 0, 1 << 9), "EINVAL"), (lambda: h.zero(1, 8 << 20), "ENOSPC")):
    try:
        call()
        raise SystemExit("it was taken")
    except nbd.Error as e:
        assert e.errno == error, (e.errno, error)
assert h.pread(9, 12345) == b"x" * 9
""")
    run("qemu-img", "check", "-q", name)


def test_libnbd_has_many_commands_under_way():
    need_tool("nbdsh", "qemu-img")
    name = image("8M")
    with Engine(name) as engine:
        nbdsh(engine, """
import random
chance = random.Random(1)
disk = bytearray(8 << 20)
for _ in range(6):
    cookies, blocks = [], chance.sample(range(2048), 200)
    for block in blocks:
        data = bytes([chance.randrange(256)]) * 4096
        disk[block * 4096:block * 4096 + 4096] = data
        cookies.append(h.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(data)), block * 4096))
    while h.aio_in_flight():
        h.poll(-1)
    assert all(h.aio_command_completed(c) for c in cookies)
assert h.pread(8 << 20, 0) == disk
""")
    run("qemu-img", "check", "-q", name)


def test_qemu_tools_over_uris():
    need_tool("qemu-img", "qemu-io")
    name = filled()
    run("qemu-img", "convert", "-O", "raw", name, "want.raw")
    with Engine(name) as engine:
        uri = engine.uri()
        assert json.loads(run("qemu-img", "info", "--output=json", uri))["virtual-size"] == 32 * MIB
        run("qemu-img", "compare", "-f", "raw", "-F", "raw", uri, "want.raw")
        for words in ([], ["-m", "16", "-W"], ["-S", "0"], ["-c"]):
            run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", *words, uri, "out.qcow2")
            same("want.raw", "out.qcow2")
        near = json.loads(run("qemu-img", "map", "-f", "raw", "--output=json", uri))
        assert sum(e["length"] for e in near) == 32 * MIB
        run("qemu-io", "-f", "raw", "-c", "writev -P 3 1M 4k 8k 64k", "-c", "write -f -P 4 2M 4k", "-c", "discard 3M 1M",
            "-c", "write -z -u 4M 1M", "-c", "aio_write -P 5 8M 1M", "-c", "aio_read -P 17 0 4k", "-c", "aio_flush",
            "-c", "read -P 3 1M 76k", "-c", "read -P 4 2M 4k", "-c", "read -P 0 4M 1M", "-c", "read -P 5 8M 1M", uri)
    run("qemu-img", "check", "-q", name)
    target = image("32M", "target.qcow2")
    with Engine(target) as engine:
        for words in (["-n"], ["-n", "-m", "16", "-W"], ["-n", "-t", "none"]):
            run("qemu-img", "convert", *words, "-f", "raw", "-O", "raw", "want.raw", engine.uri())
            run("qemu-img", "compare", "-f", "raw", "-F", "raw", engine.uri(), "want.raw")
    same("want.raw", target)
    run("qemu-img", "check", "-q", target)


def test_a_format_inside_of_an_export():
    """qemu-img's own qcow2 in our export: it checks, grows into the export, and is read back."""
    need_tool("qemu-img", "qemu-io")
    outer = image("16M")
    with Engine(outer) as engine:
        run("qemu-img", "create", "-q", "-f", "qcow2", engine.uri(), "64M")
        run("qemu-io", "-f", "qcow2", "-c", "write -P 9 30M 1M", engine.uri())
        run("qemu-img", "check", "-q", "-f", "qcow2", engine.uri())
        run("qemu-io", "-f", "qcow2", "-c", "read -P 9 30M 1M", "-c", "read -P 0 0 1M", engine.uri())
    run("qemu-img", "check", "-q", outer)


def test_nbdkit_on_top():
    need_tool("nbdkit", "nbdcopy", "qemu-img", "qemu-io")
    if subprocess.run(["nbdkit", "nbd", "--dump-plugin"], capture_output=True, check=False).returncode:
        raise Skip("needs nbdkit's nbd plugin")
    name, on_top = filled(), os.path.abspath("kit.sock")
    run("qemu-img", "convert", "-O", "raw", name, "want.raw")
    with Engine(name) as engine:
        for words in ([], ["--filter=cow"]):
            kit = subprocess.Popen(["nbdkit", "-f", "-U", on_top, *words, "nbd", f"uri={engine.uri()}", "shared=true"])
            try:
                wait_until(lambda: os.path.exists(on_top))
                uri = f"nbd+unix://?socket={on_top}"
                run("nbdcopy", "--connections=2", uri, "got.raw", timeout=120)
                assert run("cmp", "got.raw", "want.raw") == ""
                run("qemu-io", "-f", "raw", "-c", "write -P 7 5M 1M", "-c", "flush", "-c", "read -P 7 5M 1M", "-c", "write -z 5M 1M", uri)
            finally:
                kit.terminate()
                kit.wait(30)
                if os.path.exists(on_top):
                    os.unlink(on_top)
    run("qemu-img", "check", "-q", name)


def test_fio_verifies():
    need_tool("fio", "qemu-img")
    name = image("32M")
    with Engine(name) as engine:
        for rw, size in (("randwrite", "512-64k"), ("randrw", "4k-256k"), ("write", "1M-1M")):
            run("fio", "--name=x", "--ioengine=nbd", f"--uri={engine.uri()}", f"--rw={rw}", f"--bsrange={size}", "--iodepth=16",
                "--size=32M", "--io_size=48M", "--verify=crc32c", "--verify_fatal=1", "--do_verify=1", "--fsync=64", timeout=120)
    run("qemu-img", "check", "-q", name)


def test_a_flush_covers_what_others_have_written():
    """CAN_MULTI_CONN: of a server that is killed, what was completed on any connection before a flush on one is there.
    The image's file is what the kernel has of it; see tests/sim for what a power cut leaves."""
    need_tool("qemu-img", "qemu-io")
    for flusher in range(3):
        name = image("8M")
        engine = Engine("--cache=none", name)
        clients = [Client(engine, kind) for kind in ("simple", "structured", "extended")]
        for at in range(60):
            c = clients[at % 3]
            assert c.do(WRITE, at * 100000, 5000, payload=bytes([at + 1]) * 5000)[0] == 0
        assert clients[flusher].do(FLUSH)[0] == 0
        for c in clients:  # not covered, and under way
            c.send(WRITE, 7 << 20, 4096, payload=bytes(4096))
        engine.kill()
        for c in clients:
            c.s.close()
        # The kernel lets go of a dead process's locks in its own time. Leaks at most are left.
        wait_until(lambda: subprocess.run(["qemu-img", "check", name], capture_output=True, check=False).returncode in (0, 3), 30)
        out = run("qemu-io", "-r", "-f", "qcow2", *sum((["-c", f"read -P {at + 1} {at * 100000} 5000"] for at in range(60)), []), name)
        assert "Pattern verification failed" not in out, out


def test_a_guest_boots_from_an_export():
    """A boot sector of our making, read by the BIOS of a machine whose disk is the export, says so on the serial port."""
    need_tool("qemu-system-x86_64", "qemu-img", "qemu-io")
    text = b"from the export\r\n"
    code = bytes.fromhex("31c08ed8bea07cfcacbaf803") + b"\x84\xc0\x74\x03\xee\xeb\xf5\xba\xf4\x00\xb0\x01\xee\xf4\xeb\xfd"
    # xor ax,ax; mov ds,ax; mov si,0x7ca0; cld; again: lodsb; mov dx,0x3f8; test al,al; jz end; out dx,al; jmp again; end: exit
    sector = code.ljust(0xa0, b"\0") + text + b"\0"
    with open("boot.raw", "wb") as file:
        file.write(sector.ljust(510, b"\0") + b"\x55\xaa" + bytes(MIB - 512))
    run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", "boot.raw", "disk.qcow2")
    with Engine("disk.qcow2") as engine:
        machine = subprocess.run(
            ["qemu-system-x86_64", "-accel", "tcg", "-m", "64", "-display", "none", "-serial", "file:serial", "-net", "none", "-no-reboot",
             "-device", "isa-debug-exit,iobase=0xf4,iosize=1",
             "-drive", f"file={engine.uri()},format=raw,if=ide"], timeout=120, capture_output=True, check=False)
        assert machine.returncode == 3, machine.stderr
        assert text in open("serial", "rb").read()
        assert engine.exports()["disk"]["requests"] > 0


main(globals())
