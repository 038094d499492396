#!/usr/bin/env python3
"""Filters over real qcow2 images, with QEMU's tools as the oracle of what lies below them.
SPDX-License-Identifier: Apache-2.0
"""
import json
import sys

from common import Case, Failure, Tools, run_cases

SIZE = 8 << 20


def description(driver, **options):
    return json.dumps({"driver": driver, **options})


def qcow2(path):
    return {"driver": "qcow2", "file": {"driver": "file", "filename": path}}


def random_script(case, count, size):
    rng, lines = case.random, []
    for _ in range(count):
        offset, seed = rng.randrange(size), rng.randrange(1 << 30)
        length = max(1, min(rng.choice((1, 511, 512, 4096, 70000, 300000)), size - offset))
        lines.append(rng.choice((f"seed {offset} {length} {seed}", f"zero {offset} {length}",
                                 f"zero {offset} {length} unmap", f"discard {offset} {length}",
                                 f"read {offset} {length}", f"read {offset} {length}", "flush")))
    return lines


def check_clean(case, image):
    case.qemu_check(image)
    case.hio_check(image)


def verify_against_a_raw_image(case, cluster_size):
    """qcow2 and raw get the same requests: each read is compared, and QEMU compares them at the end."""
    image, copy = case.path("a.qcow2"), case.path("b.raw")
    case.qemu_img("create", "-q", "-f", "qcow2", "-o", f"cluster_size={cluster_size}", image, str(SIZE))
    case.qemu_img("create", "-q", "-f", "raw", copy, str(SIZE))
    top = description("verify", image=copy, **{"image-format": "raw"}, file=qcow2(image))
    case.hio(top, random_script(case, 150, SIZE) + [f"read 0 {SIZE}", "flush"])
    case.qemu_img("compare", "-f", "qcow2", "-F", "raw", image, copy)
    check_clean(case, image)


def verify_notices_a_flipped_bit(case):
    image, copy = case.path("a.qcow2"), case.path("b.raw")
    case.qemu_img("create", "-q", "-f", "qcow2", image, str(SIZE))
    case.qemu_img("create", "-q", "-f", "raw", copy, str(SIZE))
    case.qemu_io(image, ["write -P 7 1M 64k"])
    case.qemu_io(copy, ["write -P 7 1M 64k", f"write -P 6 {(1 << 20) + 4097} 1"], image_format="raw")
    top = description("verify", image=copy, **{"image-format": "raw"}, file=qcow2(image))
    case.hio(top, ["read 0 1M", f"read {(1 << 20) + 4098} 4096"])
    result = case.hio(top, [f"read 0 {SIZE}"], expect=1)
    text = result.stderr.decode()
    if "at offset 1052673: 0x07 instead of 0x06" not in text:
        raise Failure(f"the difference at 1052673 is told as: {text[:300]}")


def copies_on_read(case, cluster_size):
    """What was read is in the overlay, what was not is not; a copied overlay needs no backing file."""
    base, image = case.path("base.qcow2"), case.path("top.qcow2")
    case.qemu_img("create", "-q", "-f", "qcow2", base, str(SIZE))
    case.qemu_io(base, ["write -P 1 0 1M", "write -P 2 3M 100k", "write -P 3 5000000 5",
                        "write -P 4 6M 64k"])
    case.qemu_img("create", "-q", "-f", "qcow2", "-o", f"cluster_size={cluster_size}",
                  "-b", base, "-F", "qcow2", image)
    case.qemu_io(image, ["write -P 9 512k 4k"])
    before = case.qemu_dump(image)
    top = description("copy-on-read", file=qcow2(image))
    case.hio(top, ["async read 3145729 1", "async write 3150000 100 8", "async read 3M 64k", "wait",
                   "write 3150000 100 2"])
    where = json.loads(case.qemu_img("map", "--output=json", "-f", "qcow2", image).stdout)

    def depth(offset):
        return next(extent["depth"] for extent in where
                    if extent["start"] <= offset < extent["start"] + extent["length"])

    if depth(6 << 20) != 1:
        raise Failure("a range that nobody read was copied")
    if depth(3145729) != 0 or depth((3 << 20) + 65535) != 0:
        raise Failure("a range that was read was not copied")
    if case.qemu_dump(image) != before:
        raise Failure("copying changed what the guest reads")
    case.hio(top, [f"read 0 {SIZE}"])
    check_clean(case, image)
    case.qemu_img("rebase", "-u", "-f", "qcow2", "-b", "", image)
    if case.qemu_dump(image) != before:
        raise Failure("after reading all of it the image still needs its backing file")


def log_tells_requests(case):
    image = case.path("a.qcow2")
    case.qemu_img("create", "-q", "-f", "qcow2", image, str(SIZE))
    top = description("log", filename=case.path("requests"), file=qcow2(image))
    case.hio(top, ["write 4096 512 1", "zero 0 65536 unmap", "discard 1M 64k", "flush", "read 0 10"])
    with open(case.path("requests"), encoding="ascii") as file:
        told = [" ".join(line.split()[1:-1]) for line in file]
    for line in ("write 4096 512 = 0", "zero 0 65536 unmap = 0", "discard 1048576 65536 = 0",
                 "flush 0 0 = 0", "read 0 10 = 0"):
        if line not in told:
            raise Failure(f"'{line}' is missing in {told}")
    case.hio(top, [], expect=1)  # never over an existing file


def cases():
    for size in ("512", "4k", "64k", "2M"):
        yield f"verify-{size}", lambda case, s=size: verify_against_a_raw_image(case, s)
        yield f"copy-on-read-{size}", lambda case, s=size: copies_on_read(case, s)
    yield "verify-bites", verify_notices_a_flipped_bit
    yield "log", log_tells_requests


if __name__ == "__main__":
    sys.exit(run_cases(Tools(__doc__), list(cases())))
