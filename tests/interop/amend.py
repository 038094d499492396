#!/usr/bin/env python3
"""Options of images changed by hawser and by qemu-img in turn, with writes in between: after each change
both check clean, read the same, and qemu-img's info says what was asked for. SPDX-License-Identifier: Apache-2.0
"""
import json
import sys

sys.dont_write_bytecode = True
from common import Failure, Reference, Tools, Writer, make_image, run_cases

IMAGE = "image.qcow2"
HIO = ("hio", "-r", "uring")


def make(case, size, cluster_size, options, backing):
    return make_image(case, size, {"cluster_size": cluster_size, **options}, size * 2 // 3 if backing else 0)


def info(case):
    return json.loads(case.qemu_img("info", "--output=json", "-f", "qcow2", IMAGE).stdout)


def amend(case, tool, **options):
    text = ",".join(f"{k}={v}" for k, v in options.items())
    if tool == "hawser":
        case.run(case.tools.hawser, "amend", "-q", "--force", "-o", text, IMAGE)
    else:
        case.qemu_img("amend", "-q", "-f", "qcow2", "-o", text, IMAGE)
    case.check_both(IMAGE)
    told, specific = info(case), info(case)["format-specific"]["data"]
    found = {"compat": specific["compat"], "size": told["virtual-size"],
             "refcount_bits": specific["refcount-bits"],
             "lazy_refcounts": "on" if specific.get("lazy-refcounts") else "off"}
    for name, value in options.items():
        if str(found[name]) != str(value):
            raise Failure(f"{tool} amend {text}: {name} is {found[name]}")


def draw(case, now):
    """Options that qemu-img and we both take, for an image that is as @now says."""
    rng, options = case.random, {}
    v3 = now["compat"] == "1.1"
    if rng.randrange(2):
        v3 = bool(rng.randrange(2)) or now["extended"]
        options["compat"] = "1.1" if v3 else "0.10"
    if v3 and rng.randrange(2):
        options["refcount_bits"] = rng.choice((1, 2, 4, 8, 16, 32, 64))
    if not v3:
        options["refcount_bits"] = 16
    if v3 and rng.randrange(2):
        options["lazy_refcounts"] = rng.choice(("on", "off"))
    if not v3:
        options["lazy_refcounts"] = "off"
    if not now["backing"] and rng.randrange(3) == 0:
        options["size"] = now["size"] + 512 * rng.randrange(1, 9)
    return options or {"compat": "1.1" if v3 else "0.10"}


def turns(case, cluster_size, options, backing):
    size = min(40 * cluster_size + 1536, 4 << 20)
    reference = make(case, size, cluster_size, options, backing)
    now = {"compat": options.get("compat", "1.1"), "extended": "extended_l2" in options, "size": size,
           "backing": backing}
    for number in range(6):
        Writer(case, case.random.choice(("qemu", HIO)), IMAGE, cluster_size, reference).run(10)
        options = draw(case, now)
        amend(case, "hawser" if number % 4 < 3 else "qemu", **options)
        now.update({name: value for name, value in options.items() if name in ("compat", "size")})
        reference.resize(now["size"])
        case.same_content(IMAGE, reference)


def wide(case):
    """Structures of several blocks and tables: many clusters, from the narrowest count to the widest."""
    reference = make(case, 12 << 20, 512, {}, False)
    Writer(case, HIO, IMAGE, 65536, reference).run(60)
    for bits in (64, 1, 64, 2, 32, 16):
        amend(case, "hawser", refcount_bits=bits)
        case.same_content(IMAGE, reference)
        Writer(case, "qemu", IMAGE, 65536, reference).run(5)


def shared(case):
    """Counts above 1 do not fit one bit: said, and nothing is changed."""
    reference = make(case, 2 << 20, 4096, {}, False)
    Writer(case, HIO, IMAGE, 4096, reference).run(10)
    case.qemu_io(IMAGE, ["write -z 0 64k"])
    reference.write(0, 65536, 0)
    case.qemu_img("snapshot", "-c", "one", IMAGE)
    for text, code in (("refcount_bits=1", "does not fit"), ("compat=0.10", "zero clusters")):
        done = case.run(case.tools.hawser, "amend", "-o", text, IMAGE, expect=1)
        if code not in done.stderr.decode():
            raise Failure(f"amend {text} says {done.stderr!r}")
        case.check_both(IMAGE)
    amend(case, "hawser", refcount_bits=2)
    case.same_content(IMAGE, reference)
    case.qemu_img("snapshot", "-a", "one", IMAGE)
    case.check_both(IMAGE)


def versions(case):
    """Under internal snapshots, down to version 2 and up again."""
    reference = make(case, 2 << 20, 4096, {}, False)
    case.qemu_io(IMAGE, [f"write -P {number + 1} {number * 70000} 50000" for number in range(20)])
    for number in range(20):
        reference.write(number * 70000, 50000, number + 1)
    case.qemu_img("snapshot", "-c", "one", IMAGE)
    held = bytes(reference.data)
    for compat in ("0.10", "1.1", "0.10"):
        case.qemu_io(IMAGE, ["write -P 200 100000 300000"])
        reference.write(100000, 300000, 200)
        amend(case, "hawser", compat=compat)
        case.same_content(IMAGE, reference)
    case.qemu_img("snapshot", "-a", "one", IMAGE)
    case.check_both(IMAGE)
    case.same_content(IMAGE, Reference(held))


def refused(case):
    """What cannot be changed is refused by name, and the image stays byte for byte."""
    case.qemu_img("create", "-q", "-f", "qcow2", IMAGE, "4M")
    case.qemu_img("create", "-q", "-f", "qcow2", "-o", "extended_l2=on", "extended.qcow2", "4M")
    case.qemu_img("create", "-q", "-f", "qcow2", "-o", "compression_type=zstd", "zstd.qcow2", "4M")
    case.qemu_img("create", "-q", "-f", "qcow2", "bitmap.qcow2", "4M")
    case.qemu_img("bitmap", "--add", "bitmap.qcow2", "one")
    rows = [(IMAGE, text, word) for text, word in (
        ("cluster_size=128k", "cluster_size"), ("preallocation=full", "preallocation"),
        ("compression_type=zstd", "compression_type"), ("extended_l2=on", "extended_l2"),
        ("foo=bar", "foo"), ("refcount_bits=7", "refcount_bits"), ("refcount_bits=128", "refcount_bits"),
        ("size=1000", "512"), ("size=1M", "--force"), ("backing_file=x", "rebase"),
        ("backing_fmt=raw", "rebase"), ("data_file=x", "data_file"), ("data_file_raw=on", "data_file_raw"),
        ("compat=0.11", "compat"), ("compat=0.10,refcount_bits=8", "16"),
        ("compat=0.10,lazy_refcounts=on", "lazy_refcounts"))]
    rows += [("extended.qcow2", "compat=0.10", "extended L2"), ("zstd.qcow2", "compat=0.10", "zlib"),
             ("bitmap.qcow2", "compat=0.10", "bitmaps")]
    for image, text, word in rows:
        before = open(case.path(image), "rb").read()
        done = case.run(case.tools.hawser, "amend", "-o", text, image, expect=1)
        if word not in done.stderr.decode():
            raise Failure(f"amend {text} says {done.stderr!r}")
        if open(case.path(image), "rb").read() != before:
            raise Failure(f"amend {text} changed the image")


def main():
    tools, cases = Tools(__doc__), [("refused", refused), ("wide", wide), ("shared", shared), ("versions", versions)]
    for options, sizes in (({"compat": "0.10"}, (512, 65536)), ({"compat": "1.1"}, (512, 4096, 65536)),
                           ({"extended_l2": "on"}, (16384,)), ({"refcount_bits": 1}, (512, 4096)),
                           ({"lazy_refcounts": "on"}, (4096,))):
        for cluster_size in sizes:
            for backing in (False, True):
                name = "-".join(str(v) for v in options.values())
                cases.append((f"turns-{name}-{cluster_size}{'-backing' if backing else ''}",
                              lambda case, c=cluster_size, o=options, b=backing: turns(case, c, o, b)))
    return run_cases(tools, cases)


if __name__ == "__main__":
    sys.exit(main())
