#!/usr/bin/env python3
"""`hawser measure` tells the numbers that qemu-img tells, over a matrix of options, and for sources of all
kinds; and an image that is then made fits.
SPDX-License-Identifier: Apache-2.0
"""
import itertools
import json
import os
import sys

sys.dont_write_bytecode = True
from chains import LAYERS, chain, create
from common import Failure, Tools, run_cases

CLUSTERS = (512, 4096, 65536, 131072, 2097152)
SIZES = (0, 1, 65537, 100 << 20, (1 << 30) + 513, 1 << 40, 1 << 50, (1 << 62) + 1)


def told(case, tool, *arguments):
    command = (tool,) if tool == "qemu-img" else (case.tools.hawser,)
    result = case.run(*command, "measure", "--output=json", *arguments, expect=(0, 1))
    return json.loads(result.stdout) if result.returncode == 0 else None


def expect_same(case, *arguments):
    theirs, ours = told(case, "qemu-img", *arguments), told(case, "ours", *arguments)
    if theirs != ours:
        raise Failure(f"measure {' '.join(arguments)}: they say {theirs}, we {ours}")
    return ours


def sizes(cluster):
    def function(case):
        for size, bits, extended in itertools.product(SIZES, (1, 16, 64), ("off", "on")):
            if extended == "on" and cluster < 16384:
                continue
            if case.tools.full or case.random.randrange(2):
                mode = case.random.choice(("off", "metadata", "falloc", "full"))
                expect_same(case, "-O", "qcow2", "-o", f"cluster_size={cluster},refcount_bits={bits},"
                            f"extended_l2={extended},preallocation={mode}", "--size", str(size))
        expect_same(case, "-O", "raw", "--size", str(case.random.randrange(1 << 40)))
        expect_same(case, "-O", "qcow2", "-o", f"cluster_size={cluster},compat=0.10,extended_l2=off",
                    "--size", "3G")
    return function


def source(kind):
    def function(case):
        layer = chain(case, 1, "raw")[0] if kind == "raw" else \
            create(case, "top", chain(case, 1)[-1], kind=kind)
        for cluster in CLUSTERS:
            options = f"cluster_size={cluster},extended_l2=off"
            expect_same(case, "-O", "qcow2", "-o", options, "-f", layer[1], layer[0])
        expect_same(case, "-O", "raw", "-f", layer[1], layer[0])
        size = expect_same(case, "-O", "qcow2", "-o", "cluster_size=64k,extended_l2=off", "-f", layer[1],
                           layer[0])
        # qemu-img's convert finds no more data than measure did.
        case.qemu_img("convert", "-S", "0", "-f", layer[1], "-O", "qcow2", layer[0], "made")
        made = os.path.getsize(case.path("made"))
        if made > size["fully-allocated"]:
            raise Failure(f"the image has {made} bytes, {size} measured")
        case.run(case.tools.hawser, "convert", "-q", "-f", layer[1], "-o",
                 "cluster_size=64k,extended_l2=off", layer[0], "ours")
        made = os.path.getsize(case.path("ours"))
        if made > size["required"]:
            raise Failure(f"the image has {made} bytes, {size} measured")
    return function


def bitmaps(case):
    size = case.random.choice((1 << 20, 100 << 20, (1 << 30) + 512))
    case.qemu_img("create", "-q", "-f", "qcow2", "-o", "cluster_size=4k", "top", str(size))
    for n in range(4):
        name = "b" * case.random.randrange(1, 1000) + str(n)
        case.qemu_img("bitmap", "--add", "-g", str(512 << case.random.randrange(9)), "top", name)
        for cluster in CLUSTERS:
            found = expect_same(case, "-O", "qcow2", "-o", f"cluster_size={cluster},extended_l2=off", "top")
            if not found["bitmaps"]:
                raise Failure("bitmaps take no room")
    expect_same(case, "-O", "qcow2", "-o", "compat=0.10,extended_l2=off,cluster_size=64k", "top")


def refusals(case):
    create(case, "a", None)
    for wrong in ((), ("--size", "1G", "a"), ("-O", "nonsense", "a"), ("-o", "cluster_size=1000", "a"),
                  ("-o", "nonsense=1", "a"), ("-o", "refcount_bits=3", "--size", "1G"),
                  ("-o", "cluster_size=512,extended_l2=off", "--size", "1P")):
        case.run(case.tools.hawser, "measure", *wrong, expect=(1, 2))


def main():
    tools = Tools(__doc__)
    cases = [(f"size/{cluster}", sizes(cluster)) for cluster in CLUSTERS]
    cases += [(f"source/{kind}/{n}", source(kind)) for kind in (*LAYERS, "raw")
              for n in range(5 if tools.full else 1)]
    cases += [("refusals", refusals), ("bitmaps", bitmaps)]
    return run_cases(tools, cases)


if __name__ == "__main__":
    sys.exit(main())
