"""The NBD server against the protocol's document, with a client that speaks all kinds of headers."""
import os
import struct
import time

from lib import main, need_tool, run, wait_until
from nbd_peer import (CACHE, DF, DISC, FAST_ZERO, FLUSH, FUA, NO_HOLE, OPT_ABORT, OPT_EXPORT_NAME, OPT_EXTENDED, OPT_GO,
                      OPT_INFO, OPT_LIST, OPT_LIST_META, OPT_SET_META, OPT_STRUCTURED, PAYLOAD, READ, REQ_ONE, STATUS, TRIM, WRITE,
                      ZERO, Client, Engine, Refused, exact, go_bytes, hung_up, image, meta_bytes, option_bytes,
                      string)

MIB = 1 << 20
KINDS = ("simple", "structured", "extended")
# Codes of refused options.
UNSUP, POLICY, INVALID, UNKNOWN, SHUTDOWN, TOO_BIG, EXTENDED_REQUIRED = 1, 2, 3, 6, 7, 9, 10


def refused(client, option, data=b""):
    try:
        client.option(option, data)
    except Refused as why:
        return why.args[0]
    raise AssertionError("not refused")


def with_bitmaps(count, size="4M"):
    name = image(size)
    for i in range(count):
        run("qemu-img", "bitmap", "--add", name, f"b{i}")
    run("qemu-io", "-c", "write 1M 1M", "-c", "write -z 3M 64k", name)
    return name


def names(replies):
    return [data[4:].decode() for kind, data in replies if kind == 4]


def test_every_command_of_every_kind():
    with Engine(image("4M")) as engine:
        for kind in KINDS:
            with Client(engine, kind, contexts=["base:allocation"] if kind != "simple" else []) as c:
                assert c.size == 4 * MIB
                assert c.do(WRITE, 5, 7, payload=b"written") == (0, b"")
                assert c.do(READ, 4, 9) == (0, b"\0written\0")
                assert c.do(WRITE, 70000, 3, FUA, b"fua")[0] == 0
                assert c.do(READ, 70000, 3)[1] == b"fua"
                assert c.do(FLUSH)[0] == 0
                assert c.do(TRIM, 65536, 65536)[0] == 0 and c.do(TRIM, 65536, 65536, FUA)[0] == 0
                assert c.do(ZERO, 0, 65536, NO_HOLE)[0] == 0 and c.do(ZERO, 0, 65536, FAST_ZERO | FUA)[0] == 0
                assert c.do(READ, 0, 131072) == (0, bytes(131072))
                assert c.do(CACHE, 0, 4 * MIB)[0] == 0
                assert c.do(READ, 0, 4 * MIB) == (0, bytes(4 * MIB))
                assert c.do(READ, 1, 0)[0] in (0, 22) and c.do(WRITE, 1, 0)[0] in (0, 22)  # unspecified; no hang-up
                if kind == "simple":
                    assert c.do(STATUS, 0, 65536)[0] == 22 and not c.flags & 128
                else:
                    assert c.do(READ, 0, 65536, DF)[0] == 0 and c.do(READ, 0, 3 * MIB, DF)[0] == 75
                    error, extents = c.do(STATUS, 0, 4 * MIB)
                    assert error == 0 and sum(e[0] for e in extents[1]) == 4 * MIB
                    error, extents = c.do(STATUS, 0, 4 * MIB, REQ_ONE)
                    assert error == 0 and len(extents[1]) == 1 and extents[1][0][0] <= 4 * MIB
                assert [c.do(command, 4 * MIB, 512, payload=bytes(512) if command == WRITE else b"")[0]
                        for command in (READ, WRITE, TRIM, ZERO, CACHE)] == [22, 28, 28, 28, 22]
                assert c.do(9, 0, 512)[0] == 22 and c.do(DISC + 6, 0, 512)[0] == 22
                c.send(DISC)
                assert hung_up(c.s)


def test_extended_lengths_go_past_32_bits():
    run("qemu-img", "create", "-q", "-f", "qcow2", "disk.qcow2", "20G")
    with Engine("disk.qcow2") as engine, Client(engine, contexts=["base:allocation"]) as c:
        assert c.do(WRITE, 10 << 30, 4, payload=b"here")[0] == 0
        error, extents = c.do(STATUS, 0, 20 << 30)
        assert error == 0 and [e[0] for e in extents[1]] == [10 << 30, 65536, (10 << 30) - 65536], extents
        assert c.do(ZERO, 0, 20 << 30)[0] == 0 and c.do(READ, 10 << 30, 4) == (0, bytes(4))
        assert c.do(TRIM, 0, 20 << 30)[0] == 0
        c.send(READ, 0, 5 << 30)
        assert c.reply()[0] in (22, 75)
        assert c.do(READ, (1 << 63) + 5, 1)[0] == 22 and c.do(TRIM, 1, (1 << 64) - 1)[0] == 28


def test_payloads_say_themselves_that_they_are_there():
    with Engine(image("4M")) as engine, Client(engine) as c:
        # A write without the flag has none: what follows is the next request.
        c.s.sendall(struct.pack(">IHHQQQ", 0x21e41c71, 0, WRITE, 1, 0, 512))
        c.cookie, c.asked = 1, (WRITE, 0, 512)
        assert c.reply()[0] == 22
        # Where none belongs, it is passed over.
        for command in (READ, FLUSH, TRIM, CACHE, ZERO, STATUS, 77):
            assert c.do(command, 0, 0, PAYLOAD, b"x" * 100000)[0] == 22, command
        assert c.do(WRITE, 0, 4, payload=b"good")[0] == 0 and c.do(READ, 0, 4) == (0, b"good")


def test_block_status_of_some_contexts():
    need_tool("qemu-img", "qemu-io")
    queries = ["base:allocation", "qemu:dirty-bitmap:b1", "qemu:allocation-depth", "qemu:dirty-bitmap:b0"]
    with Engine(with_bitmaps(2)) as engine, Client(engine, contexts=queries) as c:
        assert c.flags & 4096 and sorted(c.contexts) == sorted(queries)
        error, every = c.do(STATUS, 0, 4 * MIB)
        assert error == 0 and sorted(every) == [1, 2, 3, 4]
        for ids in ([1], [4], [2, 3], [4, 1], [3, 1, 4, 2]):
            chosen = struct.pack(f">Q{len(ids)}I", 4 * MIB, *ids)
            assert c.do(STATUS, 0, 0, PAYLOAD, chosen) == (0, {i: every[i] for i in ids}), ids
        error, one = c.do(STATUS, MIB, 0, PAYLOAD | REQ_ONE, struct.pack(">QI", 65536, 2))
        assert error == 0 and one == {2: [(65536, 1)]}, one
        for wrong in (struct.pack(">Q", 512), struct.pack(">QI", 512, 0), struct.pack(">QI", 512, 5), struct.pack(">QII", 512, 1, 1),
                      struct.pack(">QI", 512, 1 << 31), struct.pack(">QI", 0, 1), struct.pack(">QI", 5 * MIB, 1), b"\0" * 13, b"1234567",
                      struct.pack(">QI", (1 << 64) - 1, 1), bytes(8 + 4 * 17), bytes(70000)):
            assert c.do(STATUS, 0, 0, PAYLOAD, wrong)[0] == 22, wrong[:16]
        assert c.do(STATUS, 0, 512)[0] == 0


def test_the_payload_flag_is_told_where_it_is_of_use():
    with Engine(image("4M")) as engine:
        for kind, contexts, told in (("extended", ["base:allocation"], True), ("extended", [], False),
                                     ("structured", ["base:allocation"], False)):
            with Client(engine, kind, contexts=contexts) as c:
                assert bool(c.flags & 4096) == told
                if not contexts:
                    assert c.do(STATUS, 0, 512)[0] == 22


def test_contexts_are_listed_and_chosen():
    need_tool("qemu-img", "qemu-io")
    every = ["base:allocation", "qemu:allocation-depth"] + [f"qemu:dirty-bitmap:b{i}" for i in range(20)]
    with Engine(with_bitmaps(20)) as engine, Client(engine, negotiate=False) as c:
        assert refused(c, OPT_LIST_META, meta_bytes("disk", [])) == INVALID
        assert c.option(OPT_STRUCTURED) == []
        for queries, told in (([], every), (["base:"], every[:1]), (["qemu:"], every[1:]), (["qemu:dirty-bitmap:"], every[2:]),
                              (["qemu:dirty-bitmap:b7"], [every[9]]), (["other:", "base:allocation", "base:"], every[:1]),
                              (["qemu:dirty-bitmap:b3", "qemu:dirty-bitmap:", "qemu:allocation-depth"], every[1:]),
                              (["base:alloc"], []), (["bas"], []), ([""], []), (["base"], []), (["qemu:dirty-bitmap:none"], [])):
            assert names(c.option(OPT_LIST_META, meta_bytes("disk", queries))) == told, queries
        assert all(data[:4] == bytes(4) for _, data in c.option(OPT_LIST_META, meta_bytes("disk", [])))
        # A choice takes whole names, forgets the one before, and is not touched by a list.
        assert names(c.option(OPT_SET_META, meta_bytes("disk", ["qemu:", "base:", "qemu:dirty-bitmap:"]))) == []
        assert names(c.option(OPT_SET_META, meta_bytes("disk", every))) == every[:16]
        assert names(c.option(OPT_SET_META, meta_bytes("disk", [every[5], "x:y", every[0], every[5]]))) == [every[5], every[0]]
        c.option(OPT_LIST_META, meta_bytes("disk", []))
        assert refused(c, OPT_LIST_META, meta_bytes("other", [])) == UNKNOWN
        c.kind = "structured"
        c.go("disk")
        error, extents = c.do(STATUS, MIB, 65536)
        assert error == 0 and extents == {1: [(65536, 1)], 2: [(65536, 0)]}, extents


def test_a_choice_that_fails_leaves_none():
    with Engine(image("4M")) as engine:
        for data, code in ((meta_bytes("other", ["base:allocation"]), UNKNOWN), (meta_bytes("disk", ["base:allocation"] * 65), TOO_BIG),
                           (meta_bytes("disk", ["base:allocation\0"]), INVALID), (meta_bytes("disk", ["base:allocation"])[:-1], INVALID),
                           (meta_bytes("disk", ["base:allocation"]) + b"x", INVALID), (b"", INVALID), (b"\xff" * 12, INVALID),
                           (meta_bytes("disk", ["b" * 4097]), INVALID), (string("disk") + b"\0\0\0\2" + string("base:allocation"), INVALID)):
            with Client(engine, negotiate=False) as c:
                c.option(OPT_EXTENDED)
                assert names(c.option(OPT_SET_META, meta_bytes("disk", ["base:allocation"]))) == ["base:allocation"]
                assert refused(c, OPT_SET_META, data) == code, data
                c.go("disk")
                assert c.do(STATUS, 0, 512)[0] == 22


def test_contexts_are_of_the_export_that_they_were_chosen_for():
    volumes = [{"name": n, "image": os.path.abspath(image("4M", f"{n}.qcow2")), "via": "none"} for n in ("disk", "two")]
    with Engine(config={"volumes": volumes}) as engine:
        for chosen, gone, error in (("disk", "disk", 0), ("", "disk", 0), ("disk", "", 0), ("two", "disk", 22)):
            with Client(engine, negotiate=False) as c:
                c.option(OPT_EXTENDED)
                c.option(OPT_SET_META, meta_bytes(chosen, ["base:allocation"]))
                c.go(gone)
                assert c.do(STATUS, 0, 512)[0] == error, (chosen, gone)


def test_options_in_every_order():
    with Engine("--nbd-export=disk,description=a text", image("4M")) as engine:
        with Client(engine, negotiate=False) as c:
            assert refused(c, 4) == UNSUP and refused(c, 4711, b"x" * 65536) == UNSUP
            assert refused(c, OPT_STRUCTURED, b"x") == INVALID and refused(c, OPT_EXTENDED, b"x") == INVALID
            assert refused(c, OPT_LIST, b"x") == INVALID
            assert c.option(OPT_LIST) == [(2, string("disk") + b"a text")]
            assert refused(c, OPT_INFO, go_bytes("other")) == UNKNOWN and refused(c, OPT_GO, go_bytes("other")) == UNKNOWN
            for broken in (b"", b"\0" * 5, string("disk"), go_bytes("disk") + b"x", go_bytes("disk", [1, 2])[:-1], b"\xff" * 10,
                           string("x" * 4097) + b"\0\0"):
                assert refused(c, OPT_INFO, broken) == INVALID, broken
            assert refused(c, OPT_INFO, go_bytes("disk\0")) == UNKNOWN
            info = c.go("", infos=[1, 2, 3, 77], option=OPT_INFO)
            assert info[1] == b"disk" and info[2] == b"a text" and 77 not in info
            assert struct.unpack(">III", info[3]) == (1, 65536, 32 * MIB)
            assert not c.flags & 128  # DF, without structured replies
            c.option(OPT_STRUCTURED)
            c.option(OPT_STRUCTURED)
            assert c.go("disk", option=OPT_INFO) and c.flags & 128
            c.option(OPT_EXTENDED)
            assert refused(c, OPT_STRUCTURED) == EXTENDED_REQUIRED
            c.go("disk")
            assert c.do(READ, 0, 1) == (0, b"\0")
        with Client(engine, negotiate=False) as c:
            assert c.option(OPT_ABORT) == [] and hung_up(c.s)
        with Client(engine, negotiate=False) as c:
            c.option(OPT_EXTENDED)
            c.s.sendall(option_bytes(OPT_EXPORT_NAME, b"disk"))
            assert hung_up(c.s)
        with engine.connect() as s:  # not the fixed newstyle: 124 zeroes behind, and no other option
            exact(s, 18)
            s.sendall(struct.pack(">I", 0) + option_bytes(OPT_EXPORT_NAME, b"disk"))
            assert struct.unpack(">Q", exact(s, 8))[0] == 4 * MIB and exact(s, 126)[2:] == bytes(124)
        with engine.connect() as s:
            exact(s, 18)
            s.sendall(struct.pack(">I", 0) + option_bytes(OPT_LIST))
            assert hung_up(s)


def test_a_full_export_can_be_looked_at():
    with Engine("--nbd-export=disk,connections=1", image("4M")) as engine, Client(engine) as one:
        with Client(engine, negotiate=False) as c:
            c.option(OPT_STRUCTURED)
            assert c.go("disk", option=OPT_INFO) and names(c.option(OPT_LIST_META, meta_bytes("disk", [])))
            assert refused(c, OPT_GO, go_bytes("disk")) == POLICY
            one.send(DISC)
            assert hung_up(one.s)
            deadline = time.monotonic() + 30
            while engine.exports()["disk"]["connections"]:
                assert time.monotonic() < deadline
                time.sleep(0.01)
            c.kind = "structured"
            c.go("disk")
            assert c.do(READ, 0, 4) == (0, bytes(4))


def test_a_resize_is_seen_by_all():
    """The protocol cannot tell a client; the server takes what the disk has now."""
    with Engine(image("4M")) as engine, Client(engine, contexts=["base:allocation"]) as c:
        assert c.do(WRITE, 5 * MIB, 4, payload=b"more")[0] == 28
        engine.call("resize", size="8M")
        assert c.do(WRITE, 5 * MIB, 4, payload=b"more")[0] == 0 and c.do(READ, 5 * MIB, 4) == (0, b"more")
        assert sum(e[0] for e in c.do(STATUS, 0, 8 * MIB)[1][1]) == 8 * MIB
        with Client(engine) as later:
            assert later.size == 8 * MIB
        engine.call("resize", size="2M", shrink=True)
        assert c.do(READ, 0, 2 * MIB)[0] == 0
        assert c.do(READ, 2 * MIB, 1)[0] == 22 and c.do(WRITE, 2 * MIB - 1, 2, payload=b"ab")[0] == 28
        assert c.do(STATUS, 0, 4 * MIB)[0] == 22 and c.do(ZERO, 3 * MIB, 512)[0] == 28 and c.do(FLUSH)[0] == 0
        with Client(engine) as later:
            assert later.size == 2 * MIB


def test_status_counts():
    with Engine(image("4M")) as engine:
        with Client(engine) as c:
            c.do(WRITE, 0, 1000, payload=bytes(1000))
            c.do(READ, 0, 3000)
            wait_until(lambda: engine.exports()["disk"]["sent-bytes"] == 2 * 32 + 8 + 3000)  # counted when it is gone
            told = engine.exports()["disk"]
            assert told["requests"] == 2 and told["connections"] == 1 and told["received-bytes"] == 2 * 32 + 1000, told
        deadline = time.monotonic() + 30
        while engine.exports()["disk"]["connections"]:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        nbd = engine.call("status")["nbd"]
        assert nbd["exports"][0]["requests"] == 2 and nbd["accepted"] == 1 and nbd["refused"] == 0 and nbd["connections"] == 0
        assert nbd["memory-max"] == 256 * MIB and nbd["connections-max"] == 1024, nbd


main(globals())
