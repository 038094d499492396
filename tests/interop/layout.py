#!/usr/bin/env python3
"""Where an image's bytes lie: external data files (raw ones too), lazy refcounts, preallocation at creation and at
resize, and discards that keep the host clusters, made and written by both sides. SPDX-License-Identifier: Apache-2.0
"""
import json
import os
import shutil
import signal
import sys

sys.dont_write_bytecode = True
from common import Failure, Reference, Tools, Writer, run_cases
from features import HIO, IMAGE, QUEUES, THREADS, wait_unlocked

DATA = "image.data"


def make(case, maker, size, **options):
    options = {name: str(value) for name, value in options.items()}
    if maker == "qemu":
        text = ",".join(f"{name}={value}" for name, value in options.items())
        case.qemu_img("create", "-q", "-f", "qcow2", *(("-o", text) if text else ()), IMAGE, str(size))
    else:
        case.hio_create(IMAGE, size, **{"extended_l2": "off", **options})
    return Reference(bytes(size))


def stored(case, name):
    with open(case.path(name), "rb") as file:
        return file.read()


def check_all(case, reference, raw=False):
    case.check_both(IMAGE)
    case.same_content(IMAGE, reference)
    if raw:
        content, data = case.hio_dump(IMAGE, "-f", "qcow2"), stored(case, DATA)
        if data[:len(content)] != content[:len(data)] or any(content[len(data):]):
            raise Failure(f"{DATA} does not hold what {IMAGE} reads as")


def sizes(cluster_size):
    return min(40 * cluster_size + 1536, 9 << 20)


# ---- external data files ---------------------------------------------------------------------------------

def data_file(case, maker, tool, raw, cluster_size, **options):
    """Both write in turn; a raw one reads as the image does after each; nothing but metadata in the image."""
    size = sizes(cluster_size)
    reference = make(case, maker, size, cluster_size=cluster_size, data_file=DATA,
                     data_file_raw="on" if raw else "off", **options)
    check_all(case, reference, raw)
    for turn in range(5):
        Writer(case, tool if turn % 2 == 0 else "qemu", IMAGE, cluster_size, reference).run(14)
        check_all(case, reference, raw)
        case.same_map(IMAGE)
        if turn == 2:
            size += 3 * cluster_size + 512
            if maker == "qemu":
                case.run(case.tools.hawser, "resize", "-f", "qcow2", IMAGE, str(size))
            else:
                case.qemu_img("resize", "-q", "-f", "qcow2", IMAGE, str(size))
            reference.resize(size)
            check_all(case, reference, raw)
        if turn == 3:
            size -= 5 * cluster_size + 1024
            case.run(case.tools.hawser, "resize", "-f", "qcow2", "--shrink", IMAGE, str(size))
            reference.resize(size)
            check_all(case, reference, raw)
            if len(stored(case, DATA)) != size:
                raise Failure("the data file did not shrink")
    told = json.loads(case.run(case.tools.hawser, "info", "--output=json", "-f", "qcow2", IMAGE).stdout)
    theirs = json.loads(case.qemu_img("info", "--output=json", "-f", "qcow2", IMAGE).stdout)
    for name in ("data-file", "data-file-raw"):
        ours = told["format-specific"]["data"][name]
        if ours != theirs["format-specific"]["data"][name]:
            raise Failure(f"info: {name} is {ours!r}, they say {theirs['format-specific']['data'][name]!r}")
    if raw and told["format-specific"]["data"]["data-file-raw"] is not True:
        raise Failure("the image is no longer raw")


def data_file_stale(case, tool, extended):
    """What a data file held where the image has nothing never shows."""
    cluster_size = 65536
    size = 20 * cluster_size + 512
    reference = make(case, "qemu", size, cluster_size=cluster_size, data_file=DATA, extended_l2=extended)
    with open(case.path(DATA), "wb") as file:
        file.write(b"\xee" * size)
    check_all(case, reference)
    for _ in range(3):
        Writer(case, tool, IMAGE, cluster_size, reference).run(12)
        check_all(case, reference)


def data_file_backed(case, tool, extended):
    """An overlay with a data file over a plain image."""
    cluster_size = 65536
    size = 30 * cluster_size
    reference = make(case, "qemu", size, cluster_size=cluster_size)
    Writer(case, "qemu", IMAGE, cluster_size, reference).run(20)
    known = Reference(case.qemu_dump(IMAGE))
    case.run("mv", IMAGE, "below.qcow2")
    case.hio_create(IMAGE, size, backing_file="below.qcow2", backing_fmt="qcow2", data_file=DATA,
                    cluster_size=cluster_size, extended_l2=extended)
    check_all(case, known)
    for turn in range(4):
        Writer(case, tool if turn % 2 == 0 else "qemu", IMAGE, cluster_size, known).run(12)
        check_all(case, known)


def data_file_killed(case, tool, raw):
    """A killed writer loses nothing that was flushed."""
    cluster_size = 65536
    size = 30 * cluster_size
    reference = make(case, "hawser", size, cluster_size=cluster_size, data_file=DATA, data_file_raw=raw)
    script = []
    for number in range(16):
        at, length = case.random.randrange(size - cluster_size), case.random.randrange(1, cluster_size)
        script.append(f"write {at} {length} {number + 1}")
        reference.write(at, length, number + 1)
    case.hio(IMAGE, script + ["flush", "kill"], "-f", "qcow2", *tool[1:], expect=-signal.SIGKILL)
    wait_unlocked(case)
    case.qemu_img("check", "-q", "-f", "qcow2", IMAGE, expect=(0, 3))
    case.same_content(IMAGE, reference)


def data_file_options(case):
    """What is refused, and what a description may replace."""
    hawser = case.tools.hawser

    def create(name, options, expect=1):
        case.run(hawser, "create", "-q", "-f", "qcow2", "-o", options, name, "4M", expect=expect)

    create("a.qcow2", "data_file_raw=on")
    create("a.qcow2", "data_file=d.raw,compat=0.10")
    create("a.qcow2", "data_file=a.qcow2")
    create("a.qcow2", "data_file=./a.qcow2")
    create("a.qcow2", "data_file=none/d.raw")
    create("a.qcow2", "data_file=../d.raw")
    create("a.qcow2", "data_file=nbd://localhost/x")
    left = os.listdir(case.folder)
    if left:
        raise Failure(f"failed creations left {left}")
    create("a.qcow2", "data_file=d.raw", expect=0)
    create("b.qcow2", "data_file=d.raw")  # it exists
    if os.path.exists(case.path("b.qcow2")):
        raise Failure("a failed creation left its image")
    case.qemu_io("a.qcow2", ["write -P 7 0 4M"])
    shutil.copy(case.path("d.raw"), case.path("e.raw"))
    with open(case.path("e.raw"), "r+b") as file:
        file.write(b"\x08" * 4096)
    given = {"driver": "qcow2", "file": {"driver": "file", "filename": "a.qcow2"},
             "data-file": {"driver": "file", "filename": "e.raw"}}
    case.run(case.tools.hio, "-R", "json:" + json.dumps(given), stdin="read 0 4096 8\nread 4096 4096 7\n")
    case.run("mv", "d.raw", "f.raw")
    case.run(hawser, "check", "-f", "qcow2", "a.qcow2", expect=1)
    case.run(hawser, "convert", "-q", "-f", "qcow2", "-O", "raw", "a.qcow2", "o.raw", expect=1)
    case.run("mv", "f.raw", "d.raw")
    case.run(hawser, "convert", "-q", "-c", "-f", "qcow2", "-O", "qcow2", "-o", "data_file=g.raw",
             "a.qcow2", "c.qcow2", expect=1)
    if os.path.exists(case.path("g.raw")) or os.path.exists(case.path("c.qcow2")):
        raise Failure("a failed conversion left what it made")
    case.run(hawser, "convert", "-q", "-f", "qcow2", "-O", "qcow2", "-o", "data_file=g.raw,data_file_raw=on",
             "a.qcow2", "c.qcow2")
    if stored(case, "g.raw") != b"\7" * (4 << 20):
        raise Failure("a converted raw data file does not hold the disk")
    case.qemu_check("c.qcow2")


SECRET = b"the content of another file\n" * 4000


def hostile_names(case):
    """The name of a data file is held to the image's folder, whatever it says; a failure changes nothing."""
    os.mkdir(case.path("sub"))
    with open(case.path("secret1"), "wb") as file:
        file.write(SECRET)
    image, name = case.path("sub/image.qcow"), b"image.data"
    case.run("qemu-img", "create", "-q", "-f", "qcow2", "-o", "data_file=image.data,data_file_raw=on",
             "sub/image.qcow", "1M")
    os.unlink(case.path("image.data"))  # qemu-img makes it where it is run
    whole = stored(case, "sub/image.qcow")

    def refused(named, *words):
        with open(image, "wb") as file:
            file.write(whole.replace(name, named, 1))
        for way, script in ((("--dump",), None), (("--check",), None), ((), "write 0 64k 1\nzero 64k 64k\n"),
                            (("--check=all",), None)):
            result = case.run(case.tools.hio, "-f", "qcow2", *way, "sub/image.qcow",
                              stdin=script or "", expect=1)
            told = result.stderr.decode(errors="replace")
            if SECRET[:64] in result.stdout or any(word not in told for word in words):
                raise Failure(f"{named!r}, {way}: does not say {words}: {told.strip()}")
        if stored(case, "sub/image.qcow") != whole.replace(name, named, 1):
            raise Failure(f"{named!r}: was refused, and changed the image all the same")
        if stored(case, "secret1") != SECRET:
            raise Failure(f"{named!r}: another file was written")

    refused(b"image.data", "image.data", "No such file")
    refused(b"../secret1", "outside the image's own folder")
    refused(b"/etc/fstab", "outside the image's own folder")
    refused(b"nbd://[::]", "is no path")
    refused(b"json:{   }", "is no path")
    refused(b"image\0data")
    refused(b"image.qcow", "cannot be its own")
    refused(b"./////////", "data file of")
    os.symlink("../secret1", case.path("sub/image.data"))
    refused(b"image.data", "data file of")
    os.unlink(case.path("sub/image.data"))
    os.symlink("image.qcow", case.path("sub/image.data"))
    refused(b"image.data", "cannot be its own")


def hostile_entries(case, extended):
    """Clusters that do not lie where the guest has them, or are compressed: an error, and nothing is written."""
    reference = make(case, "qemu", 1 << 20, data_file=DATA, data_file_raw="on", extended_l2=extended)
    case.qemu_io(IMAGE, ["write -P 5 0 1M"])
    reference.write(0, 1 << 20, 5)
    check_all(case, reference, True)
    whole, step = bytearray(stored(case, IMAGE)), 16 if extended == "on" else 8
    l1 = int.from_bytes(whole[40:48], "big")
    l2 = int.from_bytes(whole[l1:l1 + 8], "big") & 0x00fffffffffffe00
    for entry in ((1 << 63) | 0x20000, (1 << 63) | (1 << 50), 0x20000, 1 << 62 | 5, (1 << 63) | 0x10200):
        damaged = bytearray(whole)
        damaged[l2 + step:l2 + step + 8] = entry.to_bytes(8, "big")
        with open(case.path(IMAGE), "wb") as file:
            file.write(damaged)
        case.hio_check(IMAGE, expect=2)
        for script in ("read 64k 4k", "write 68k 512 9"):
            told = case.hio(IMAGE, [script], "-f", "qcow2", expect=1).stderr.decode()
            if "Input/output error" not in told and "corrupt" not in told:
                raise Failure(f"{entry:#x}: {script}: {told}")
        case.hio(IMAGE, ["read 0 64k 5", "read 128k 800k 5"], "-f", "qcow2")
        if stored(case, DATA)[:1 << 20] != b"\5" * (1 << 20):
            raise Failure(f"{entry:#x}: the data file was written")


def hostile_lengths(case):
    """A data file shorter than the disk reads as zeroes behind its end, and grows with writes."""
    for raw in ("off", "on"):
        reference = make(case, "qemu", 1 << 20, data_file=DATA, data_file_raw=raw)
        case.qemu_io(IMAGE, ["write -P 5 0 1M"])
        reference.write(0, 1 << 20, 5)
        os.truncate(case.path(DATA), 100000)
        reference.write(100000, (1 << 20) - 100000, 0)
        check_all(case, reference, raw == "on")
        for tool in (HIO, "qemu", THREADS):
            Writer(case, tool, IMAGE, 65536, reference).run(10)
            check_all(case, reference, raw == "on")
        os.truncate(case.path(DATA), 0)
        check_all(case, Reference(bytes(1 << 20)), raw == "on")


# ---- lazy refcounts --------------------------------------------------------------------------------------

def described(**options):
    return "json:" + json.dumps({"driver": "qcow2", "file": {"driver": "file", "filename": IMAGE}, **options})


def is_dirty(case):
    told = json.loads(case.qemu_img("info", "-U", "-f", "qcow2", "--output=json", IMAGE).stdout)
    return told["dirty-flag"]


def lazy(case, maker, cluster_size, mender, **options):
    """Clean and correct after a clean close; dirty after a kill, with what was flushed, and mended by either."""
    size = 60 * cluster_size
    reference = make(case, maker, size, cluster_size=cluster_size, lazy_refcounts="on", **options)
    for turn in range(3):
        Writer(case, HIO if turn % 2 == 0 else "qemu", IMAGE, cluster_size, reference).run(16)
        check_all(case, reference)
        if is_dirty(case):
            raise Failure("the image is dirty after it was closed")
    script = []
    for number in range(12):
        at, length = case.random.randrange(size - cluster_size), case.random.randrange(1, cluster_size)
        script.append(f"write {at} {length} {number + 1}")
        reference.write(at, length, number + 1)
        if number % 4 == 3:
            script.append("flush")
    case.hio(IMAGE, script + ["kill"], "-f", "qcow2", expect=-signal.SIGKILL)
    wait_unlocked(case)
    case.same_content(IMAGE, reference)
    if mender == "qemu":
        case.qemu_io(IMAGE, ["write -P 9 0 512"])
        reference.write(0, 512, 9)
    else:
        Writer(case, THREADS, IMAGE, cluster_size, reference).run(8)
    if is_dirty(case):
        raise Failure("the image is dirty after it was mended")
    check_all(case, reference)


def lazy_option(case):
    """The option goes before the image's own wish, both ways; version 2 has none of it."""
    grown = ["write 0 1M 5", "flush", "kill"]
    for image, option, dirty in (("off", "on", True), ("on", "off", False), ("off", "auto", False),
                                 ("on", "auto", True), ("on", True, True)):
        make(case, "qemu", 4 << 20, lazy_refcounts=image)
        case.hio(described(**{"lazy-refcounts": option}), grown, expect=-signal.SIGKILL)
        wait_unlocked(case)
        if is_dirty(case) != dirty:
            raise Failure(f"image {image}, option {option}: dirty is {not dirty}")
        case.hio_check(IMAGE, expect=(0, 2, 3) if dirty else (0, 3))
        os.unlink(case.path(IMAGE))
    make(case, "qemu", 4 << 20, compat="0.10")
    for name in ("lazy-refcounts", "discard-no-unref"):
        told = case.hio(described(**{name: "on"}), [], expect=1).stderr.decode()
        if "version 2" not in told:
            raise Failure(f"{name} in version 2: {told}")


# ---- discards that keep the clusters --------------------------------------------------------------------

def no_unref(case, cluster_size, **options):
    """Many rounds of writes and discards everywhere: the file stays as long as its first fill made it."""
    size = 48 * cluster_size
    reference = make(case, "hawser", size, cluster_size=cluster_size, **options)
    node = described(**{"discard-no-unref": "on"})
    case.hio(node, [f"write 0 {size} 1"])
    reference.write(0, size, 1)
    full = os.path.getsize(case.path(IMAGE))
    for _ in range(6):
        script = []
        for _ in range(25):
            first = case.random.randrange(48)
            count = case.random.randrange(1, min(9, 49 - first))
            at, length = first * cluster_size, count * cluster_size
            kind = case.random.randrange(4)
            if kind == 0:
                script.append(f"write {at} {length} 7")
                reference.write(at, length, 7)
            elif kind == 1:
                script.append(f"zero {at} {length} unmap")
                reference.write(at, length, 0)
            else:
                script.append(f"discard {at} {length}")
                reference.write(at, length, 0)
        case.hio(node, script + ["flush"])
        check_all(case, reference)
        if os.path.getsize(case.path(IMAGE)) > full:
            raise Failure(f"the file grew from {full} to {os.path.getsize(case.path(IMAGE))}")
        fragmented = case.qemu_check(IMAGE).get("fragmented-clusters", 0)
        if fragmented > 1:
            raise Failure(f"{fragmented} clusters lie apart")
    case.hio(node, [f"discard 0 {size}"])
    if os.stat(case.path(IMAGE)).st_blocks * 512 > full - size + 8 * cluster_size:
        raise Failure("discarded clusters keep their blocks")
    Writer(case, "qemu", IMAGE, cluster_size, Reference(bytes(size))).run(10)
    case.check_both(IMAGE)


# ---- preallocation ---------------------------------------------------------------------------------------

def blocks(case, name):
    return os.stat(case.path(name)).st_blocks * 512


def holds_storage(case, mode, name, before, wanted):
    """falloc and full take the storage, the others do not."""
    taken = blocks(case, name) - before
    if mode in ("falloc", "full") and taken < wanted or mode in ("off", "metadata") and taken >= wanted:
        raise Failure(f"preallocation={mode}: {name} has {taken} more bytes of storage, for {wanted}")


def prealloc_create(case, mode, cluster_size, **options):
    """Zeroes, as large as said, every cluster mapped, and a place for what is written."""
    size = sizes(cluster_size)
    reference = make(case, "hawser", size, cluster_size=cluster_size, preallocation=mode, **options)
    raw = options.get("data_file_raw") == "on"
    check_all(case, reference, raw)
    holds_storage(case, mode, DATA if "data_file" in options else IMAGE, 0, size)
    counts = case.check_both(IMAGE)
    if counts["allocated"] != (counts["total"] if mode != "off" or raw else 0):
        raise Failure(f"preallocation={mode}: {counts['allocated']} of {counts['total']} clusters are mapped")
    end = os.path.getsize(case.path(IMAGE))
    case.hio(IMAGE, [f"write 0 {size} 33", "flush"], "-f", "qcow2")
    reference.write(0, size, 33)
    if mode != "off" and os.path.getsize(case.path(IMAGE)) > end:
        raise Failure("the file grew, although everything had its place")
    for turn in range(3):
        Writer(case, HIO if turn % 2 == 0 else "qemu", IMAGE, cluster_size, reference).run(12)
        check_all(case, reference, raw)


def prealloc_resize(case, mode, cluster_size, mixed, **options):
    """The same of what a resize adds, where the file has clusters to be used again too."""
    size = sizes(cluster_size) - 512
    reference = make(case, "qemu", size, cluster_size=cluster_size, **options)
    raw = options.get("data_file_raw") == "on"
    if mixed:
        case.hio(IMAGE, [f"write 0 {size} 90", f"discard 0 {size}"], "-f", "qcow2")
    more = 21 * cluster_size + 1536
    name = DATA if "data_file" in options else IMAGE
    before = blocks(case, name)
    case.run(case.tools.hawser, "resize", "-q", "-f", "qcow2", f"--preallocation={mode}", IMAGE,
             str(size + more))
    reference.resize(size + more)
    check_all(case, reference, raw)
    if not mixed:
        holds_storage(case, mode, name, before, more - 2 * cluster_size)
    for turn in range(2):
        Writer(case, HIO if turn % 2 == 0 else "qemu", IMAGE, cluster_size, reference).run(12)
        check_all(case, reference, raw)


def prealloc_backed(case, mode):
    """With subclusters a cluster may have its place and still show what lies below."""
    size = 40 * 65536 + 512
    reference = make(case, "qemu", size)
    Writer(case, "qemu", IMAGE, 65536, reference).run(20)
    known = Reference(case.qemu_dump(IMAGE))
    case.run("mv", IMAGE, "below.qcow2")
    told = case.run(case.tools.hawser, "create", "-q", "-o", f"preallocation={mode},extended_l2=off", "-b",
                    "below.qcow2", "-F", "qcow2", IMAGE, expect=0 if mode == "off" else 1)
    if mode == "off":
        os.unlink(case.path(IMAGE))
    elif b"extended_l2" not in told.stderr or os.path.exists(case.path(IMAGE)):
        raise Failure("a preallocated overlay without subclusters")
    case.run(case.tools.hawser, "create", "-q", "-o", f"preallocation={mode},extended_l2=on", "-b",
             "below.qcow2", "-F", "qcow2", IMAGE)
    check_all(case, known)
    holds_storage(case, mode, IMAGE, 0, size)
    for turn in range(3):
        Writer(case, HIO if turn % 2 == 0 else "qemu", IMAGE, 65536, known).run(12)
        check_all(case, known)


def prealloc_raw(case):
    hawser = case.tools.hawser
    for mode in ("off", "falloc", "full"):
        name = f"{mode}.raw"
        case.run(hawser, "create", "-q", "-f", "raw", "-o", f"preallocation={mode}", name, "1M")
        holds_storage(case, mode, name, 0, 1 << 20)
        before = blocks(case, name)
        case.run(hawser, "resize", "-q", "-f", "raw", f"--preallocation={mode}", name, "+2M")
        holds_storage(case, mode, name, before, 2 << 20)
        if stored(case, name) != bytes(3 << 20):
            raise Failure(f"{name} is not 3 MiB of zeroes")
    case.run(hawser, "resize", "-q", "-f", "raw", "--preallocation=metadata", "off.raw", "+1M", expect=1)
    case.run(hawser, "resize", "-q", "-f", "raw", "--preallocation=some", "off.raw", "+1M", expect=1)
    case.run(hawser, "resize", "-q", "-f", "raw", "--preallocation=full", "--shrink", "off.raw", "1M",
             expect=1)
    if os.path.getsize(case.path("off.raw")) != 3 << 20:
        raise Failure("a refused resize changed the size")


def main():
    tools = Tools(__doc__)
    cases = []
    small = (512, {}), (4096, {}), (65536, {}), (65536, {"extended_l2": "on"}), (2 << 20, {})
    for size, options in small:
        for raw in (False, True):
            for maker, tool in (("qemu", HIO), ("hawser", THREADS)):
                if size in (512, 2 << 20) and raw != (maker == "qemu") and not tools.full:
                    continue
                label = f"{size}{'-ext' if options else ''}{'-raw' if raw else ''}-{maker}"
                cases.append((f"data-{label}", lambda c, s=size, o=options, r=raw, m=maker, t=tool:
                              data_file(c, m, t, r, s, **o)))
    for extended in ("off", "on"):
        cases.append((f"data-stale-{extended}", lambda c, e=extended: data_file_stale(c, QUEUES, e)))
        cases.append((f"data-backed-{extended}", lambda c, e=extended: data_file_backed(c, HIO, e)))
        cases.append((f"data-killed-{extended}", lambda c, e=extended: data_file_killed(c, THREADS, e)))
    cases.append(("data-options", data_file_options))
    for size, options in small[1:4]:
        label = f"{size}{'-ext' if options else ''}"
        for maker, mender in (("qemu", "hawser"), ("hawser", "qemu")):
            cases.append((f"lazy-{label}-{maker}", lambda c, s=size, o=options, m=maker, n=mender:
                          lazy(c, m, s, n, **o)))
        cases.append((f"no-unref-{label}", lambda c, s=size, o=options: no_unref(c, s, **o)))
    cases.append(("hostile-names", hostile_names))
    cases.append(("hostile-lengths", hostile_lengths))
    for extended in ("off", "on"):
        cases.append((f"hostile-entries-{extended}", lambda c, e=extended: hostile_entries(c, e)))
    cases.append(("lazy-option", lazy_option))
    shapes = ((512, {"compat": "0.10"}), (4096, {}), (65536, {"extended_l2": "on"}),
              (65536, {"data_file": DATA}), (65536, {"data_file": DATA, "data_file_raw": "on"}),
              (65536, {"compat": "0.10"}))
    for mode in ("off", "metadata", "falloc", "full"):
        for size, options in shapes:
            label = f"{mode}-{size}-" + "-".join(f"{k}" for k in options)
            cases.append((f"prealloc-{label}", lambda c, m=mode, s=size, o=options:
                          prealloc_create(c, m, s, **o)))
            cases.append((f"prealloc-resize-{label}", lambda c, m=mode, s=size, o=options:
                          prealloc_resize(c, m, s, "compat" in o or s == 4096, **o)))
        cases.append((f"prealloc-backed-{mode}", lambda c, m=mode: prealloc_backed(c, m)))
    cases.append(("prealloc-raw", prealloc_raw))
    return run_cases(tools, cases)


if __name__ == "__main__":
    sys.exit(main())
