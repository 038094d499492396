#!/usr/bin/env python3
"""The generated matrix: what qemu-img/qemu-io write hawser reads identically, and the other way round,
over the creation options of qcow2, with both checks clean after every step.

A run takes a sample in which every pair of values of two dimensions occurs; HAWSER_INTEROP=full (or
--full) runs all combinations of the main dimensions. SPDX-License-Identifier: Apache-2.0
"""
import itertools
import os
import random
import sys

sys.dont_write_bytecode = True
from common import Reference, Tools, Writer, run_cases

DIMENSIONS = {
    "version": (2, 3),
    "cluster_size": (512, 1024, 4096, 65536, 131072, 2097152),
    "refcount_bits": (1, 2, 4, 8, 16, 32, 64),
    "extended_l2": (False, True),
    "preallocation": ("off", "metadata", "falloc", "full"),
    "backing": ("none", "raw-shorter", "raw-longer", "qcow2-shorter", "qcow2-longer"),
    "creator": ("qemu", "hawser"),
}
# Chosen by the combination's own seed: their product with the rest would take days.
MINOR = {
    "compression_type": ("zlib", "zstd"),
    "lazy_refcounts": (False, True),
    "size": ("sector", "clusters", "odd", "l2", "zero"),
    "first": ("other", "same"),
    "resize": ("none", "none", "qemu", "hawser"),
    "options": (("-r", "uring"), ("-r", "threads"), ("-r", "uring", "-c", "none"),
                ("-r", "threads", "-c", "none"), ("-c", "writethrough")),
}
SAMPLE = 120


def is_valid(c):
    """What the format, or qemu-img, allows at all."""
    if c["version"] == 2 and (c["refcount_bits"] != 16 or c["extended_l2"]):
        return False
    if c["extended_l2"] and c["cluster_size"] < 16384:
        return False
    # Backing file and preallocation go together only with subclusters; our create refuses that too.
    return c["backing"] == "none" or c["preallocation"] == "off" or \
        (c["extended_l2"] and c["preallocation"] == "metadata" and c["creator"] == "qemu")


def combinations():
    for values in itertools.product(*DIMENSIONS.values()):
        c = dict(zip(DIMENSIONS, values))
        if not is_valid(c):
            continue
        c["name"] = (f"v{c['version']}-c{c['cluster_size']}-r{c['refcount_bits']}"
                     f"{'-ext' if c['extended_l2'] else ''}-{c['preallocation']}-{c['backing']}"
                     f"-by-{c['creator']}")
        rng = random.Random(c["name"])
        for name, choices in MINOR.items():
            c[name] = rng.choice(choices)
        if c["version"] == 2:
            c["compression_type"], c["lazy_refcounts"] = "zlib", False
        yield c


def sample(everything, seed):
    """First what adds a pair of values that has not occurred, then anything, in a seeded order."""
    shuffled = list(everything)
    random.Random(seed).shuffle(shuffled)
    seen, chosen, rest = set(), [], []
    for c in shuffled:
        pairs = {((a, c[a]), (b, c[b]))
                 for a, b in itertools.combinations((*DIMENSIONS, *MINOR), 2)}
        (chosen if not pairs <= seen else rest).append(c)
        seen |= pairs
    return (chosen + rest)[:max(SAMPLE, 0)] if len(chosen) < SAMPLE else chosen[:SAMPLE]


def image_size(c):
    cluster = c["cluster_size"]
    l2_entries = cluster // (16 if c["extended_l2"] else 8)
    return {"sector": 512, "clusters": 5 * cluster, "odd": 3 * cluster + 512,
            # more than one L2 table where that is not too large to dump
            "l2": min(2 * l2_entries * cluster + 1536, 12 << 20), "zero": 0}[c["size"]]


def make_backing(case, c, size):
    """@return (file name, format, content) of the backing file."""
    if c["backing"] == "none":
        return None, None, b""
    kind, extent = c["backing"].split("-")
    length = max(512, size // 2 // 512 * 512 if extent == "shorter" else size + 65536 + 512)
    content = bytearray(length)
    for _ in range(6):
        at = case.random.randrange(length)
        run = case.random.randrange(1, length // 2 + 2)
        content[at:at + run] = bytes((case.random.randrange(1, 256),)) * min(run, length - at)
    with open(case.path("base.raw"), "wb") as file:
        file.write(content)
    case.commands.append("# base.raw: generated, see make_backing()")
    if kind == "raw":
        return "base.raw", "raw", content
    case.qemu_img("convert", "-f", "raw", "-O", "qcow2", "-o",
                  f"cluster_size={case.random.choice((512, 4096, 65536))}", "base.raw", "base.qcow2")
    return "base.qcow2", "qcow2", content


def create(case, c, image, size, backing, backing_format):
    options = {"cluster_size": c["cluster_size"], "preallocation": c["preallocation"],
               "compat": "0.10" if c["version"] == 2 else "1.1"}
    if c["version"] == 3:
        options |= {"refcount_bits": c["refcount_bits"],
                    "lazy_refcounts": "on" if c["lazy_refcounts"] else "off",
                    "extended_l2": "on" if c["extended_l2"] else "off",
                    "compression_type": c["compression_type"]}
    if c["creator"] == "qemu":
        if backing:
            options |= {"backing_file": backing, "backing_fmt": backing_format}
        case.qemu_img("create", "-q", "-f", "qcow2", "-o",
                      ",".join(f"{k}={v}" for k, v in options.items()), image, str(size))
    elif case.tools.hawser:
        below = ("-b", backing, "-F", backing_format) if backing else ()
        case.run(case.tools.hawser, "create", "-f", "qcow2", "-o",
                 ",".join(f"{k}={v}" for k, v in options.items()), *below, image, str(size))
    else:
        case.hio_create(image, size, backing_file=backing, backing_fmt=backing_format, **options)


def resize(case, c, image, reference):
    size = len(reference.data) + case.random.choice((512, c["cluster_size"], 3 * c["cluster_size"] + 512,
                                                     100 * 512))
    # qemu-img cannot hide a backing file behind the new end of a version 2 image.
    if c["resize"] == "qemu" and (c["version"] == 3 or c["backing"] == "none"):
        case.qemu_img("resize", "-q", "-f", "qcow2", image, str(size))
    elif case.tools.hawser:
        case.run(case.tools.hawser, "resize", "-f", "qcow2", image, str(size))
    else:
        case.hio(image, [f"resize {size}"], "-f", "qcow2")
    reference.resize(size)


def run(case, c):
    image, size = "image.qcow2", image_size(c)
    backing, backing_format, content = make_backing(case, c, size)
    create(case, c, image, size, backing, backing_format)
    reference = Reference((bytes(content) + bytes(size))[:size])
    case.check_both(image)
    case.same_content(image, reference)
    hawser = ("hio",) + c["options"]
    tools = ["qemu", hawser] if (c["creator"] == "qemu") == (c["first"] == "same") else [hawser, "qemu"]
    case.same_map(image)
    for step, tool in enumerate(tools + tools):
        Writer(case, tool, image, c["cluster_size"], reference).run(case.random.randrange(4, 16))
        case.check_both(image)
        case.same_content(image, reference)
        if step == 1 and c["resize"] != "none":
            resize(case, c, image, reference)
            case.check_both(image)
            case.same_content(image, reference)
    case.same_map(image)


def main():
    tools = Tools(__doc__)
    chosen = list(combinations())
    total = len(chosen)
    if not tools.full and not tools.case:
        chosen = sample(chosen, tools.seed)
    print(f"{len(chosen)} of {total} combinations")
    return run_cases(tools, [(c["name"], lambda case, c=c: run(case, c)) for c in chosen])


if __name__ == "__main__":
    os.environ["LC_ALL"] = "C"
    sys.exit(main())
