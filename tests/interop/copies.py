#!/usr/bin/env python3
"""Parts and unions of images: ranges, several sources, targets with a backing file, sources that cannot be
read everywhere, `hawser dd` and `hawser bench`. SPDX-License-Identifier: Apache-2.0
"""
import json
import os
import sys
import time

sys.dont_write_bytecode = True
from chains import LAYERS, chain, create, dump, expect_clean, fill, info
from common import Failure, Tools, run_cases

TARGETS = ("cluster_size=64k,extended_l2=off", "cluster_size=512,extended_l2=off", "cluster_size=2M", "compat=0.10")


def convert(case, *arguments, expect=0):
    return case.run(case.tools.hawser, "convert", *arguments, expect=expect)


def expect_content(case, layer, content, what):
    if layer[1] == "qcow2":
        case.qemu_check(layer[0])
    got = dump(case, layer)
    if got != content:
        at = next((i for i, (a, b) in enumerate(zip(got, content)) if a != b), min(len(got), len(content)))
        raise Failure(f"{what}: {layer[0]} differs at {at:#x} ({len(got)} bytes, {len(content)} expected)")


def ranges(case):
    top = chain(case, 1)[-1]
    content = dump(case, top)
    for n in range(6):
        start = case.random.choice((0, case.random.randrange(len(content)) // 512 * 512, 1 << 20))
        length = case.random.choice((512, 1 << 20, 1 << 30, case.random.randrange(1, 4096) * 512))
        wanted = content[start:start + length]
        flags = case.random.choice(([], ["-c"], ["--verify"]))
        image_format = "qcow2" if flags == ["-c"] else case.random.choice(("raw", "qcow2"))
        options = ["-o", case.random.choice(TARGETS)] if image_format == "qcow2" else []
        convert(case, "-q", *flags, "-O", image_format, *options, "--start", str(start), "--length", str(length),
                top[0], f"part{n}")
        expect_content(case, (f"part{n}", image_format), wanted, f"{start} + {length}")
    convert(case, "--start", "1G", top[0], "none", expect=1)


def unions(case):
    layers = [create(case, f"s{n}", None, size=512 * case.random.randrange(1, 6000), count=3)
              for n in range(3)]
    wanted = b"".join(dump(case, layer) for layer in layers)
    names = [layer[0] for layer in layers]
    for n, flags in enumerate(([], ["-c"], ["--verify"], ["-m", "1", "--threads", "1"])):
        convert(case, "-q", *flags, "-o", case.random.choice(TARGETS), *names, f"u{n}")
        expect_content(case, (f"u{n}", "qcow2"), wanted, f"a union {flags}")
    convert(case, "--start", "512", *names, "none", expect=1)


def overlays(case):
    """The target shares the source's backing file, at any depth, or has a copy of it."""
    layers = chain(case, 3, case.random.choice(("raw", "qcow2")))
    top, content = layers[-1], dump(case, layers[-1])
    case.qemu_img("convert", "-f", layers[0][1], "-O", "raw", layers[0][0], "copy")
    for n, below in enumerate((*layers[:3], ("copy", "raw"))):
        flags = case.random.choice(([], ["-c"], ["--verify"]))
        size = [] if n % 2 else ["--size", str(len(content) + 512 * case.random.randrange(9000))]
        convert(case, "-q", *flags, *size, "-o", case.random.choice(TARGETS), "-B", below[0], "-F", below[1],
                top[0], f"o{n}")
        got = info(case, (f"o{n}", "qcow2"))
        if (got.get("backing-filename"), got.get("backing-filename-format")) != below:
            raise Failure(f"o{n} is over {got.get('backing-filename')}, not {below}")
        expect_content(case, (f"o{n}", "qcow2"), content + bytes(got["virtual-size"] - len(content)),
                       f"over {below} with {flags}")
    # What the chains share is not copied.
    size = 32 << 20
    big = create(case, "big", None, kind="plain", size=size, count=0)
    case.qemu_io("big", ["write -P 1 0 24M"])
    small = create(case, "small", big, kind="plain", size=size, count=2)
    convert(case, "-q", "-B", "big", "-F", "qcow2", small[0], "thin")
    if os.path.getsize(case.path("thin")) > 4 << 20:
        raise Failure(f"thin has {os.path.getsize(case.path('thin'))} bytes")


def existing(case):
    top = chain(case, 1)[-1]
    content = dump(case, top)
    case.qemu_img("create", "-q", "-f", "qcow2", "zero", str(len(content)))
    convert(case, "-q", "-n", "--target-is-zero", top[0], "zero")
    expect_content(case, ("zero", "qcow2"), content, "a target that was zero")
    fill(case, "zero", "qcow2", len(content), 5)
    convert(case, "-q", "-n", top[0], "zero")
    expect_content(case, ("zero", "qcow2"), content, "a target that held something")


def salvage(case):
    size = 4 << 20
    create(case, "disk", None, image_format="raw", size=size, count=0)
    case.qemu_io("disk", ["write -P 5 0 4M"], image_format="raw")
    bad = [case.random.randrange(size // 512) * 512 for _ in range(2)]
    node = {"driver": "file", "filename": "disk"}
    for at in bad:
        node = {"driver": "error", "operation": "read", "offset": at, "length": 512 * case.random.randrange(1, 20),
                "file": node}
    node = "json:" + json.dumps({"driver": "raw", "file": node})
    convert(case, "-q", node, "fails", expect=1)
    if os.path.exists(case.path("fails")):
        raise Failure("a target of a source that cannot be read")
    wanted, rule = bytearray(b"\5" * size), json.loads(node[5:])["file"]
    while rule["driver"] == "error":
        wanted[rule["offset"]:rule["offset"] + rule["length"]] = bytes(min(rule["length"], size - rule["offset"]))
        rule = rule["file"]
    told = convert(case, "--salvage", "--output=json", "-O", "raw", node, "saved")
    expect_content(case, ("saved", "raw"), bytes(wanted), "salvaged")
    if json.loads(told.stdout)["lost-bytes"] != wanted.count(0) or b"lost" not in told.stderr:
        raise Failure(f"told {told.stdout} for {wanted.count(0)} bytes lost: {told.stderr}")


def dd(case):
    top = chain(case, 1)[-1]
    content = dump(case, top)
    for n in range(5):
        block = case.random.choice((512, 1024, 65536, 1 << 20))
        count, skip = case.random.randrange(1, 9), case.random.randrange(4)
        if skip * block >= len(content):
            continue
        case.run(case.tools.hawser, "dd", "-q", f"if={top[0]}", "of=part", f"bs={block}", f"count={count}",
                 f"skip={skip}")
        case.qemu_img("dd", "-f", top[1], "-O", "raw", f"if={top[0]}", "of=theirs", f"bs={block}",
                      f"count={count + skip}", f"skip={skip}")
        expect_content(case, ("part", "raw"), content[skip * block:(skip + count) * block], f"dd {n}")
        expect_content(case, ("theirs", "raw"), dump(case, ("part", "raw")), f"qemu-img dd {n}")
    for wrong in (("if=a",), ("if=a", "of=b", "bs=0"), ("if=a", "of=b", "x=1"), ("if=a", "of=b", "count=0")):
        case.run(case.tools.hawser, "dd", *wrong, expect=2)


def bitmaps(case):
    """Bitmaps come along; and an incremental copy of what one marks makes an old copy a new one."""
    size = 8 << 20
    create(case, "disk", None, kind="plain", size=size)
    convert(case, "-q", "disk", "old")
    convert(case, "-q", "disk", "older")
    for name, grain in (("a", "512"), ("b", "64k"), ("c", "1M")):
        case.qemu_img("bitmap", "--add", "-g", grain, "disk", name)
    fill(case, "disk", "qcow2", size, 6)
    content = dump(case, ("disk", "qcow2"))
    for flags in ([], ["-c"], ["-o", "cluster_size=512,extended_l2=off"]):
        convert(case, "-q", "--overwrite", "--bitmaps", *flags, "disk", "copy")
        theirs = info(case, ("disk", "qcow2"))["format-specific"]["data"]["bitmaps"]
        ours = info(case, ("copy", "qcow2"))["format-specific"]["data"].get("bitmaps")
        if ours != theirs:
            raise Failure(f"copied bitmaps {ours} of {theirs}")
        expect_content(case, ("copy", "qcow2"), content, "with bitmaps")
    # What the copied bitmap marks is what the source's marks.
    name = case.random.choice("abc")
    convert(case, "-q", "-n", "--bitmap", name, "copy", "old")
    expect_content(case, ("old", "qcow2"), content, f"an increment by bitmap {name}")
    convert(case, "-q", "--bitmap", name, "-B", "older", "disk", "increment")
    expect_content(case, ("increment", "qcow2"), content, f"an overlay by bitmap {name}")
    convert(case, "-q", "-n", "--bitmap", "missing", "disk", "old", expect=1)
    convert(case, "-q", "--bitmap", "a", "disk", "new", expect=2)


def bench(case):
    create(case, "disk", None, kind="plain", size=4 << 20, count=0)
    told = json.loads(case.run(case.tools.hawser, "bench", "--output=json", "-c", "300", "-w", "--pattern", "7",
                               "--flush-interval", "64", "-s", "8k", "disk").stdout)
    if (told["requests"], told["flushes"], told["bytes"]) != (300, 4, 300 * 8192) or told["iops"] <= 0:
        raise Failure(f"bench tells {told}")
    expect_content(case, ("disk", "qcow2"), b"\7" * (300 * 8192) + bytes((4 << 20) - 300 * 8192), "bench -w")
    # Past the end they begin again; steps leave gaps.
    case.run(case.tools.hawser, "bench", "-c", "100", "-w", "--pattern", "9", "-S", "256k", "-o", "128k", "-d", "3",
             "--no-drain", "--flush-interval", "10", "disk")
    content = dump(case, ("disk", "qcow2"))
    for at in list(range(128 << 10, 4 << 20, 256 << 10)) + list(range(0, (4 << 20) - 4096, 256 << 10)):
        if content[at:at + 4096] != b"\x09" * 4096:
            raise Failure(f"bench has not written {at:#x}")
    case.run(case.tools.hawser, "bench", "-c", "500", "disk")
    for wrong in (("-s", "8M"), ("-o", "4M"), ("--flush-interval", "5", "-w"), ("--flush-interval", "99")):
        case.run(case.tools.hawser, "bench", *wrong, "disk", expect=1)
    expect_clean(case, ("disk", "qcow2"))


def main():
    tools = Tools(__doc__)
    many = 6 if tools.full else 2
    cases = [(f"{f.__name__}/{n}", f) for f in (ranges, unions, overlays, existing, salvage, dd, bitmaps) for n in range(many)]
    return run_cases(tools, cases + [("bench", bench)])


if __name__ == "__main__":
    sys.exit(main())
