#!/usr/bin/env python3
"""`hawser commit` and qemu-img's in turn, over random chains: the image reads the same before and after, the
base has it, both checks are clean after every step, and a kill at any moment loses nothing.
SPDX-License-Identifier: Apache-2.0
"""
import os
import subprocess
import sys
import time

sys.dont_write_bytecode = True
from chains import LAYERS, chain, create, dump, expect_clean, expect_same, fill, kill_at_random
from common import Failure, Tools, run_cases


def commit(case, tool, layer, *flags):
    if tool == "qemu":
        case.qemu_img("commit", "-q", "-f", layer[1], *flags, layer[0])
    else:
        case.run(case.tools.hawser, "commit", "-q", *flags, layer[0])


def expect_begins(case, base, content, what):
    """The base holds the content; where it was longer, more."""
    got = dump(case, base)
    if got[:len(content)] != content:
        raise Failure(f"{what}: {base[0]} does not hold what was committed")


def expect_empty(case, layer):
    extents = [line for line in case.qemu_img("map", "-f", layer[1], layer[0]).stdout.decode().splitlines()[1:]
               if line.split()[-1] == layer[0]]
    if extents:
        raise Failure(f"{layer[0]} still holds {extents[:3]}")


def ordinary(kind):
    def function(case):
        layers = chain(case, case.random.randrange(0, 2), case.random.choice(("raw", "qcow2")))
        below, top = layers[-1], create(case, "top", layers[-1], kind=kind)
        for step in range(4):
            content = dump(case, top)
            tool = case.random.choice(("ours", "ours", "qemu"))
            keep = case.random.randrange(3) == 0
            commit(case, tool, top, *(["-d"] if keep else []))
            expect_clean(case, top, below)
            expect_same(case, top, content, f"step {step} by {tool}")
            expect_begins(case, below, content, f"step {step} by {tool}")
            if not keep and tool == "ours":
                expect_empty(case, top)
            fill(case, top[0], top[1], len(content), 3)
    return function


def deep(case):
    """Into the base of a chain: the top stays right, and the base has it all."""
    layers = chain(case, 3, case.random.choice(("raw", "qcow2")))
    base, top = layers[0], layers[-1]
    content = dump(case, top)
    before = os.path.getsize(case.path(top[0]))
    commit(case, "ours", top, "-b", base[0])
    expect_same(case, top, content, "after a deep commit")
    expect_begins(case, base, content, "after a deep commit")
    expect_clean(case, *layers)
    if os.path.getsize(case.path(top[0])) < before // 2:
        raise Failure("a commit past the backing file emptied the image")


def with_snapshot(case):
    """Internal snapshots of the image read through to what a commit changes: it waits for them, or they are
    given up."""
    base = create(case, "base", None)
    top = create(case, "top", base, kind="plain")
    case.qemu_img("snapshot", "-c", "s", top[0])
    saved = dump(case, top)
    fill(case, top[0], top[1], len(saved), 4)
    content = dump(case, top)
    case.run(case.tools.hawser, "commit", top[0], expect=1)
    case.qemu_img("convert", "-l", "s", "-O", "raw", top[0], "saved")
    with open(case.path("saved"), "rb") as file:
        if file.read() != saved:
            raise Failure("the snapshot has changed")
    commit(case, "ours", top, "--keep")
    expect_same(case, top, content, "given up")
    expect_clean(case, base, top)
    case.qemu_img("snapshot", "-d", "s", top[0])
    commit(case, "ours", top)
    expect_clean(case, base, top)
    expect_same(case, top, content, "without the snapshot")


def refusals(case):
    base, top = chain(case, 1)
    content = dump(case, top)
    case.run(case.tools.hawser, "commit", base[0], expect=1)
    case.run(case.tools.hawser, "commit", "-b", "missing", top[0], expect=1)
    os.chmod(case.path(base[0]), 0o444)
    other = subprocess.Popen(["qemu-io", "-r", "-f", base[1], base[0]], cwd=case.folder, stdin=subprocess.PIPE,
                             stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 10
        while not os.readlink(f"/proc/{other.pid}/exe").endswith("qemu-io") and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(0.5)
        case.run(case.tools.hawser, "commit", top[0], expect=1)
    finally:
        other.communicate(b"quit\n", timeout=20)
    expect_same(case, top, content, "after refusals")


def killed(case):
    size = 48 << 20
    base = create(case, "base", None, image_format=case.random.choice(("raw", "qcow2")), size=size, count=3)
    top = create(case, "top", base, size=size, count=3)
    for _ in range(5):
        case.qemu_io("top", [f"write -P {case.random.randrange(1, 256)} 0 40M"])
        content = dump(case, top)
        kill_at_random(case, 0.15, "commit", "-q", top[0])
        expect_same(case, top, content, "after a kill")
        for name, image_format in (base, top):
            if image_format == "qcow2":
                case.run("qemu-img", "check", "-q", "-r", "leaks", name, expect=(0, 3))
        expect_clean(case, base, top)
    commit(case, "ours", top)
    expect_same(case, top, content, "committed in the end")
    expect_begins(case, base, content, "committed in the end")


def paced(case):
    """The rate is a limit."""
    base, top = create(case, "base", None, size=8 << 20, count=0), None
    top = create(case, "top", base, size=8 << 20, count=0)
    case.qemu_io("top", ["write -P 3 0 8M"])
    started = time.monotonic()
    commit(case, "ours", top, "-r", "16M")
    if time.monotonic() - started < 0.4:
        raise Failure("8 MiB at 16 MiB a second took less than 0.4 s")


def main():
    tools = Tools(__doc__)
    cases = [(f"ordinary/{kind}/{n}", ordinary(kind)) for kind in LAYERS
             for n in range(6 if tools.full else 2)]
    cases += [(f"deep/{n}", deep) for n in range(8 if tools.full else 3)]
    cases += [("snapshot", with_snapshot), ("refusals", refusals), ("paced", paced)]
    cases += [(f"killed/{n}", killed) for n in range(6 if tools.full else 2)]
    return run_cases(tools, cases)


if __name__ == "__main__":
    sys.exit(main())
