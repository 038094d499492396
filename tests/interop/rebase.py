#!/usr/bin/env python3
"""`hawser rebase` and qemu-img's in turn, over random chains: what the image reads as stays the same, both
checks are clean after every step, and what is recorded is what was asked for.
SPDX-License-Identifier: Apache-2.0
"""
import os
import sys

sys.dont_write_bytecode = True
from chains import LAYERS, chain, create, dump, expect_clean, expect_same, info, kill_at_random
from common import Failure, Tools, run_cases

TARGETS = ("base", "middle", "other-raw", "other-long", "none")


def expect_recorded(case, layer, wanted):
    found = info(case, layer)
    name, image_format = found.get("backing-filename"), found.get("backing-filename-format")
    if (name, image_format) != (wanted or (None, None)):
        raise Failure(f"{layer[0]} records {name} of format {image_format}, {wanted} expected")


def rebase(case, tool, layer, target, *flags):
    name, image_format = target or ("", None)
    formats = ["-F", image_format] if image_format else []
    if tool == "qemu":
        case.qemu_img("rebase", *flags, "-f", layer[1], "-b", name, *formats, layer[0])
    else:
        if image_format == "qcow2" and not flags and case.random.randrange(2):
            formats = []  # found from the header
        case.run(case.tools.hawser, "rebase", "-q", *flags, "-b", name, *formats, layer[0])


def safe_case(kind):
    def function(case):
        base, middle = chain(case, 1, case.random.choice(("raw", "qcow2")))
        targets = {"base": base, "middle": middle, "none": None,
                   "other-raw": create(case, "raw", None, image_format="raw"),
                   "other-long": create(case, "long", middle, size=16 << 20)}
        top = create(case, "top", middle, kind=kind)
        content = dump(case, top)
        for step in range(5):
            # qemu-img itself goes wrong where the old chain is shorter than the new: ours only.
            target = targets[case.random.choice(TARGETS)]
            rebase(case, "ours", top, target)
            expect_recorded(case, top, target)
            expect_clean(case, top)
            expect_same(case, top, content, f"step {step}, over {target}")
            if step == 2:
                rebase(case, "qemu", top, None)
                expect_same(case, top, content, "flattened by qemu-img")
    return function


def unsafe_case(kind):
    """Names of all lengths, so that the header cluster is laid out anew in every way, by both programs."""
    def function(case):
        top = create(case, "top", None, kind=kind, size=4 << 20)
        content = dump(case, top)
        room = 1023 if kind != "small" else 60
        for step in range(10):
            length = case.random.choice((1, 5, 8, 60, 200, 500, 1023))
            name = "n" * min(length, room)
            target = (name, case.random.choice(("raw", "qcow2", "parallels"))) \
                if case.random.randrange(4) else None
            rebase(case, case.random.choice(("qemu", "ours", "ours")), top, target, "-u")
            expect_recorded(case, top, target)
        rebase(case, "ours", top, None, "-u")
        expect_clean(case, top)
        expect_same(case, top, content, "after all the names")
    return function


def reads_little(case):
    """What both chains find at the same place is not copied: dropping an empty layer costs nothing."""
    size = 64 << 20
    base = create(case, "base", None, kind="plain", size=size, count=0)
    case.qemu_io("base", ["write -P 1 0 48M"])
    middle = create(case, "middle", base, kind="plain", size=size, count=0)
    top = create(case, "top", middle, kind="plain", size=size, count=0)
    case.qemu_io("middle", ["write -P 2 1M 64k"])
    content = dump(case, top)
    rebase(case, "ours", top, base)
    expect_same(case, top, content, "over the base")
    if os.path.getsize(case.path("top")) > 1 << 20:
        raise Failure(f"top has {os.path.getsize(case.path('top'))} bytes for 64 KiB of difference")


def refusals(case):
    base = create(case, "base", None)
    top = create(case, "top", base, kind="plain")
    content = dump(case, top)
    for wrong in (("-b", top[0], "-F", "qcow2"), ("-b", "missing", "-F", "qcow2"),
                  ("-b", "x" * 1100, "-F", "raw", "-u"), ("-b", base[0], "-F", "nonsense"), (),
                  ("-u", "-b", top[0], "-F", "qcow2")):
        case.run(case.tools.hawser, "rebase", *wrong, top[0], expect=(1, 2))
    case.qemu_img("create", "-q", "-f", "qcow2", "-b", top[0], "-F", "qcow2", "above")
    case.run(case.tools.hawser, "rebase", "-b", "above", top[0], expect=1)
    expect_same(case, top, content, "after refusals")
    # Snapshots inside the image read through to the file below too, and would change.
    case.qemu_img("snapshot", "-c", "s", top[0])
    case.run(case.tools.hawser, "rebase", "-q", "-b", "", top[0], expect=1)
    case.run(case.tools.hawser, "rebase", "-q", "-u", "-b", base[0], "-F", base[1], top[0])
    case.qemu_img("snapshot", "-d", "s", top[0])
    rebase(case, "ours", top, None)
    expect_same(case, top, content, "without a snapshot")


def killed(case):
    """Killed at random moments the image is right, over the one file or the other."""
    base, middle = chain(case, 1, "qcow2")
    size = 48 << 20
    big = create(case, "big", None, image_format="raw", size=size, count=0)
    case.qemu_io("big", ["write -P 7 0 40M"], image_format="raw")
    top = create(case, "top", big, size=size, count=4, kind=case.random.choice(list(LAYERS)))
    content = dump(case, top)
    for _ in range(6):
        before = info(case, top).get("backing-filename", "")
        name, image_format = case.random.choice((base, big))
        kill_at_random(case, 0.12, "rebase", "-q", "-b", name, "-F", image_format, top[0])
        if info(case, top).get("backing-filename", "") not in (before, name):
            raise Failure("the header names neither file")
        expect_same(case, top, content, "after a kill")
        case.run("qemu-img", "check", "-q", "-r", "leaks", top[0], expect=(0, 3))
        expect_clean(case, top)


def main():
    tools = Tools(__doc__)
    cases = [(f"safe/{kind}/{n}", safe_case(kind)) for kind in LAYERS
             for n in range(6 if tools.full else 2)]
    cases += [(f"unsafe/{kind}", unsafe_case(kind)) for kind in LAYERS]
    cases += [("reads-little", reads_little), ("refusals", refusals)]
    cases += [(f"killed/{n}", killed) for n in range(6 if tools.full else 2)]
    return run_cases(tools, cases)


if __name__ == "__main__":
    sys.exit(main())
