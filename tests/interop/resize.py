#!/usr/bin/env python3
"""Images shrunk and grown by hawser and by qemu-img in turn, with writes in between: after each step both
check clean, read the same, and the file has given its end back. SPDX-License-Identifier: Apache-2.0
"""
import os
import sys

sys.dont_write_bytecode = True
from common import Failure, Tools, Writer, make_image, run_cases

IMAGE = "image.qcow2"
HIO = ("hio", "-r", "uring")


def make(case, size, cluster_size, options, backing):
    # Longer than the image: what is cut off and grown again must not show it.
    return make_image(case, size, {"cluster_size": cluster_size, **options}, size + 3 * cluster_size if backing else 0)


def step(case, tool, size, reference):
    old = len(reference.data)
    shrinks = size < old
    if tool == "hawser":
        case.run(case.tools.hawser, "resize", "-q", *(("--shrink",) if shrinks else ()), IMAGE, str(size))
    else:
        case.qemu_img("resize", "-q", "-f", "qcow2", *(("--shrink",) if shrinks else ()), IMAGE, str(size))
    reference.resize(size)
    if tool == "qemu" and not shrinks and case.cut_by == "qemu":
        # It leaves what it cut off in the last cluster, and shows it again.
        reference.forget(old, min(-old % case.cluster_size, size - old))
    case.cut_by = tool if shrinks else case.cut_by
    report = case.check_both(IMAGE)
    case.same_content(IMAGE, reference)
    if shrinks and tool == "hawser" and os.path.getsize(case.path(IMAGE)) > report["end"]:
        raise Failure(f"the file has {os.path.getsize(case.path(IMAGE))} bytes, its last cluster ends at "
                      f"{report['end']}")


def turns(case, cluster_size, options, backing):
    """Sizes up and down by both programs; what was cut off never comes back."""
    full = min(40 * cluster_size + 1536, 6 << 20)
    reference = make(case, full, cluster_size, options, backing)
    held, case.cut_by, case.cluster_size = None, None, cluster_size
    for number in range(8):
        Writer(case, case.random.choice(("qemu", HIO)), IMAGE, cluster_size, reference).run(10)
        if number == 3 and options.get("compat") != "0.10" and options.get("refcount_bits") != 1:
            held = case.qemu_dump(IMAGE)
            case.qemu_img("snapshot", "-c", "held", IMAGE)
        size = case.random.randrange(1, full // 512) * 512
        if case.random.randrange(3) == 0:
            size = max(size // cluster_size, 1) * cluster_size
        tool = "hawser" if number % 3 < 2 else "qemu"
        if backing and options.get("compat") == "0.10" and size > len(reference.data):
            tool = "hawser"
        if size != len(reference.data):
            step(case, tool, size, reference)
        if number % 4 == 3:
            # qemu-img cannot grow version 2 over a longer backing file.
            tools = ("hawser", "qemu") if not backing or options.get("compat") != "0.10" else ("hawser",)
            step(case, case.random.choice(tools), full + number * 512, reference)
    if held is not None:
        case.qemu_img("snapshot", "-a", "held", IMAGE)
        case.check_both(IMAGE)
        if case.qemu_dump(IMAGE) != held or case.hio_dump(IMAGE) != held:
            raise Failure("the snapshot no longer holds what it held")


def refused(case):
    """What cannot be done is said, and the image stays as it is."""
    case.qemu_img("create", "-q", "-f", "qcow2", "-o", "compat=0.10", IMAGE, "4M")
    case.qemu_img("snapshot", "-c", "one", IMAGE)
    for arguments, text in ((("--shrink", IMAGE, "1M"), "version 2"), ((IMAGE, "8M"), "version 2"),
                            ((IMAGE, "1M"), "--shrink"), (("--shrink", IMAGE, "1000"), "512")):
        before = open(case.path(IMAGE), "rb").read()
        done = case.run(case.tools.hawser, "resize", *arguments, expect=1)
        if text not in done.stderr.decode():
            raise Failure(f"resize {arguments} says {done.stderr!r}")
        if open(case.path(IMAGE), "rb").read() != before:
            raise Failure(f"resize {arguments} changed the image")


def main():
    tools, cases = Tools(__doc__), [("refused", refused)]
    shapes = (({"compat": "0.10"}, (512, 4096, 65536)), ({"compat": "1.1"}, (512, 65536, 1 << 20)),
              ({"compat": "1.1", "extended_l2": "on"}, (16384, 65536)),
              ({"compat": "1.1", "refcount_bits": 1}, (1024,)), ({"compat": "1.1", "refcount_bits": 64}, (512,)),
              ({"compat": "1.1", "lazy_refcounts": "on"}, (4096,)))
    for options, sizes in shapes:
        for cluster_size in sizes:
            for backing in (False, True):
                name = "-".join(str(v) for v in options.values())
                cases.append((f"turns-{name}-{cluster_size}{'-backing' if backing else ''}",
                              lambda case, c=cluster_size, o=options, b=backing: turns(case, c, o, b)))
    return run_cases(tools, cases)


if __name__ == "__main__":
    sys.exit(main())
