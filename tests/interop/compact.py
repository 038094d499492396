#!/usr/bin/env python3
"""Images with holes, compacted: the file gets smaller, both check clean, and everything reads as before, the
internal snapshots included. SPDX-License-Identifier: Apache-2.0
"""
import json
import os
import sys

sys.dont_write_bytecode = True
from common import Failure, Reference, Tools, Writer, make_image, run_cases

IMAGE = "image.qcow2"
HIO = ("hio", "-r", "uring")


def make(case, size, cluster_size, options, backing):
    return make_image(case, size, {"cluster_size": cluster_size, **options}, size // 2 if backing else 0)


def compact(case, *options):
    before = os.path.getsize(case.path(IMAGE))
    told = json.loads(case.run(case.tools.hawser, "compact", *options, "--output=json", IMAGE).stdout)
    report, after = case.check_both(IMAGE), os.path.getsize(case.path(IMAGE))
    if told["bytes-before"] != before or told["bytes-after"] != after or after > before:
        raise Failure(f"compact says {told}; the file had {before} bytes and has {after}")
    if after > report["end"]:
        raise Failure(f"the file has {after} bytes, its last cluster ends at {report['end']}")
    return told


def scatter(case, reference, cluster_size):
    """Everything written back to front, then most of the middle dropped: the start lies at the end."""
    size, script = len(reference.data), []
    for number, at in enumerate(range((size - 1) // cluster_size * cluster_size, -1, -cluster_size)):
        length = min(cluster_size, size - at)
        script.append(f"write -P {number % 255 + 1} {at} {length}")
        reference.write(at, length, number % 255 + 1)
    first = size // 3 // cluster_size * cluster_size
    script.append(f"discard {first} {size - first}")
    reference.write(first, size - first, 0)
    case.qemu_io(IMAGE, script)


def holes(case, cluster_size, options, backing):
    size = min(200 * cluster_size, 6 << 20)
    reference = make(case, size, cluster_size, options, backing)
    scatter(case, reference, cluster_size)
    case.same_content(IMAGE, reference)
    told = compact(case)
    case.same_content(IMAGE, reference)
    if told["bytes-after"] > told["bytes-before"] * 2 // 3:
        raise Failure(f"a third of the image is in use, and compact says {told}")
    for tool in ("qemu", HIO):
        Writer(case, tool, IMAGE, cluster_size, reference).run(15)
        case.same_content(IMAGE, reference)
        compact(case)
        case.same_content(IMAGE, reference)
    # again: nothing is left to do
    if compact(case)["moved-bytes"] != 0:
        raise Failure("a second compaction in a row moved something")


def zeroes(case, cluster_size, options, backing):
    size = 60 * cluster_size
    reference = make(case, size, cluster_size, options, backing)
    Writer(case, "qemu", IMAGE, cluster_size, reference).run(10)
    case.qemu_io(IMAGE, [f"write -P 0 {10 * cluster_size} {40 * cluster_size}"])
    reference.write(10 * cluster_size, 40 * cluster_size, 0)
    told = compact(case, "--zeroes")
    case.same_content(IMAGE, reference)
    if told["zeroed-bytes"] < 40 * cluster_size:
        raise Failure(f"40 clusters of zeroes were there; compact says {told}")


def snapshots(case, cluster_size, options):
    size = min(120 * cluster_size, 6 << 20)
    reference, held = make(case, size, cluster_size, options, False), {}
    scatter(case, reference, cluster_size)
    for number in range(2):
        held[number] = case.qemu_dump(IMAGE)
        case.qemu_img("snapshot", "-c", f"s{number}", IMAGE)
        Writer(case, HIO, IMAGE, cluster_size, reference).run(20)
        case.same_content(IMAGE, reference)
        compact(case)
        case.same_content(IMAGE, reference)
    case.qemu_img("snapshot", "-d", "s0", IMAGE)
    compact(case, "--zeroes")
    case.same_content(IMAGE, reference)
    case.qemu_img("snapshot", "-a", "s1", IMAGE)
    case.check_both(IMAGE)
    if case.qemu_dump(IMAGE) != held[1] or case.hio_dump(IMAGE) != held[1]:
        raise Failure("the snapshot no longer holds what it held")


def compressed(case):
    data = b"".join(case.random.randbytes(3000) + bytes(62536) for _ in range(60))
    with open(case.path("source.raw"), "wb") as file:
        file.write(data)
    case.commands.append("# source.raw: generated")
    case.qemu_img("convert", "-c", "-f", "raw", "-O", "qcow2", "source.raw", IMAGE)
    reference = Reference(data)
    Writer(case, "qemu", IMAGE, 65536, reference).run(30)
    for options in ((), ("--zeroes",)):
        compact(case, *options)
        case.same_content(IMAGE, reference)


def refused(case):
    case.run("truncate", "-s", "1M", "image.raw")
    done = case.run(case.tools.hawser, "compact", "-f", "raw", "image.raw", expect=1)
    if "raw" not in done.stderr.decode():
        raise Failure(f"compact of a raw image says {done.stderr!r}")


def main():
    tools, cases = Tools(__doc__), [("refused", refused), ("compressed", compressed)]
    for options, sizes in (({"compat": "0.10"}, (4096,)), ({"compat": "1.1"}, (512, 65536)),
                           ({"extended_l2": "on"}, (16384,)), ({"refcount_bits": 64}, (512,)),
                           ({"lazy_refcounts": "on"}, (4096,))):
        for cluster_size in sizes:
            name = f"{'-'.join(str(v) for v in options.values())}-{cluster_size}"
            cases.append((f"snapshots-{name}", lambda case, c=cluster_size, o=options: snapshots(case, c, o)))
            for backing in (False, True):
                if backing and options.get("compat") == "0.10":
                    continue  # a discard shows nothing there, and zeroes are data
                end = "-backing" if backing else ""
                cases.append((f"holes-{name}{end}",
                              lambda case, c=cluster_size, o=options, b=backing: holes(case, c, o, b)))
                cases.append((f"zeroes-{name}{end}",
                              lambda case, c=cluster_size, o=options, b=backing: zeroes(case, c, o, b)))
    return run_cases(tools, cases)


if __name__ == "__main__":
    sys.exit(main())
