#!/usr/bin/env python3
"""Images with what only qemu's tools make, read and written by hawser: internal snapshots, compressed
clusters, dirty images with lazy refcounts; killed writers, and longer runs of mixed operations. SPDX-License-Identifier: Apache-2.0
"""
import signal
import sys
import time

sys.dont_write_bytecode = True
from common import Failure, Reference, Tools, Writer, run_cases

IMAGE = "image.qcow2"
HIO = ("hio", "-r", "uring")
THREADS = ("hio", "-r", "threads")
QUEUES = ("hio", "-r", "uring", "-q", "3")
THREADS_QUEUES = ("hio", "-r", "threads", "-q", "2")


def create(case, size, **options):
    text = ",".join(f"{k}={v}" for k, v in options.items())
    case.qemu_img("create", "-q", "-f", "qcow2", *(("-o", text) if text else ()), IMAGE, str(size))
    return Reference(bytes(size))


def check_all(case, reference):
    case.check_both(IMAGE)
    case.same_content(IMAGE, reference)


# ---- internal snapshots -------------------------------------------------------------------------------

def snapshots(case, cluster_size, options):
    """We write under snapshots that qemu made; going back to each gives what it held."""
    size = min(24 * cluster_size + 1024, 6 << 20)
    reference = create(case, size, cluster_size=cluster_size, **options)
    held = {}
    for number in range(3):
        Writer(case, "qemu" if number == 0 else HIO, IMAGE, cluster_size, reference).run(12)
        check_all(case, reference)
        case.qemu_img("snapshot", "-c", f"s{number}", IMAGE)
        held[number] = case.qemu_dump(IMAGE)
    Writer(case, THREADS, IMAGE, cluster_size, reference).run(20)
    check_all(case, reference)
    Writer(case, "qemu", IMAGE, cluster_size, reference).run(10)
    check_all(case, reference)
    for number in (1, 0, 2):
        case.qemu_img("snapshot", "-a", f"s{number}", IMAGE)
        if case.qemu_dump(IMAGE) != held[number] or case.hio_dump(IMAGE) != held[number]:
            raise Failure(f"snapshot s{number} does not hold what it held")
        case.check_both(IMAGE)
        reference = Reference(held[number])
        Writer(case, HIO, IMAGE, cluster_size, reference).run(8)
        check_all(case, reference)
        case.qemu_img("snapshot", "-d", f"s{number}", IMAGE)
        check_all(case, reference)


# ---- compressed clusters -------------------------------------------------------------------------------

def content(case, size, cluster_size):
    """Text-like, random and empty clusters: well, badly and not compressible."""
    rng, data = case.random, bytearray()
    while len(data) < size:
        kind = rng.randrange(4)
        if kind == 0:
            words = [bytes(rng.choices(b"abcdefgh ", k=rng.randrange(2, 9))) for _ in range(40)]
            data += b" ".join(rng.choices(words, k=cluster_size // 6 + 2))[:cluster_size]
        elif kind == 1:
            data += rng.randbytes(cluster_size)
        elif kind == 2:
            data += bytes(cluster_size)
        else:
            half = rng.randbytes(cluster_size // 2)
            data += half + bytes((rng.randrange(256),)) * (cluster_size - len(half))
    return bytes(data[:size])


def compressed(case, cluster_size, options, tool):
    size = min(40 * cluster_size + 1536, 10 << 20)
    data = content(case, size, cluster_size)
    with open(case.path("source.raw"), "wb") as file:
        file.write(data)
    case.commands.append("# source.raw: generated, see content()")
    text = ",".join(f"{k}={v}" for k, v in {"cluster_size": cluster_size, **options}.items())
    case.qemu_img("convert", "-c", "-f", "raw", "-O", "qcow2", "-o", text, "source.raw", IMAGE)
    reference = Reference(data)
    check_all(case, reference)
    # small reads in sequence, then anywhere, several at a time
    script = [f"read {at} {min(4096, size - at)}" for at in range(0, min(size, 64 * 4096), 4096)]
    for _ in range(60):
        at = case.random.randrange(size)
        script.append(f"async read {at} {min(size - at, case.random.randrange(1, 3 * cluster_size))}")
    case.hio(IMAGE, script + ["wait"], "-f", "qcow2", "-R", *tool[1:])
    for piece in ("512", "3000", str(cluster_size + 4096)):
        reference.compare(IMAGE, case.hio_dump(IMAGE, "-f", "qcow2", "-s", piece, *tool[1:]))
    for writer in (tool, "qemu", tool):
        Writer(case, writer, IMAGE, cluster_size, reference).run(12)
        check_all(case, reference)
    # over a compressed backing file
    case.run("mv", IMAGE, "below.qcow2")
    case.qemu_img("create", "-q", "-f", "qcow2", "-b", "below.qcow2", "-F", "qcow2", IMAGE)
    Writer(case, tool, IMAGE, cluster_size, reference).run(12)
    check_all(case, reference)


# ---- lazy refcounts, kills -------------------------------------------------------------------------------

def dirty(case, cluster_size, killer):
    """A writer with lazy refcounts dies: the image is dirty, and is put right when opened for writing."""
    size = 40 * cluster_size
    reference = create(case, size, cluster_size=cluster_size, lazy_refcounts="on")
    if killer == "qemu":
        script = []
        for number in range(10):
            script.append(f"write -P {number + 1} {number * 3 * cluster_size} {cluster_size + 512}")
            reference.write(number * 3 * cluster_size, cluster_size + 512, number + 1)
        case.qemu_io(IMAGE, script + ["flush", f"sigraise {signal.SIGKILL.value}"], "-t", "writeback",
                     expect=-signal.SIGKILL)
    else:
        script = []
        for number in range(10):
            script.append(f"write {number * 3 * cluster_size} {cluster_size + 512} {number + 1}")
            reference.write(number * 3 * cluster_size, cluster_size + 512, number + 1)
        case.hio(IMAGE, script + ["flush", "kill"], "-f", "qcow2", expect=-signal.SIGKILL)
    wait_unlocked(case)
    read = case.hio_dump(IMAGE, "-f", "qcow2", "-R")
    reference.compare(IMAGE, read)
    Writer(case, HIO, IMAGE, cluster_size, reference).run(6)
    check_all(case, reference)


def wait_unlocked(case):
    """The kernel ends the ring of a killed process a little later, and the file's locks with it."""
    for _ in range(100):
        if case.hio(IMAGE, [], "-f", "qcow2", "-R", expect=(0, 1)).returncode == 0:
            return
        time.sleep(0.05)
    raise Failure("the locks of a killed process stay for 5 s")


def killed(case, cluster_size, tool, options):
    """A killed writer loses nothing that was flushed, and leaves leaks at most."""
    size = 60 * cluster_size
    reference = create(case, size, cluster_size=cluster_size, **options)
    script = []
    for number in range(20):
        at, length = case.random.randrange(size - cluster_size), case.random.randrange(1, cluster_size)
        script.append(f"write {at} {length} {number + 1}")
        reference.write(at, length, number + 1)
    script.append("flush")
    for number in range(10):
        at = case.random.randrange(size - cluster_size)
        script.append(f"{case.random.choice(('', 'async '))}write {at} {cluster_size} 200")
        reference.forget(at, cluster_size)
    case.hio(IMAGE, script + ["kill"], "-f", "qcow2", *tool[1:], expect=-signal.SIGKILL)
    wait_unlocked(case)
    case.hio_check(IMAGE, expect=(0, 3))
    case.qemu_img("check", "-q", "-f", "qcow2", IMAGE, expect=(0, 3))
    case.same_content(IMAGE, reference)
    case.run(case.tools.hio, "-f", "qcow2", "--check=all", IMAGE)
    check_all(case, reference)


# ---- longer runs ------------------------------------------------------------------------------------------------

def long_run(case, cluster_size, options, tool):
    size = min(200 * cluster_size + 512, 8 << 20)
    reference = create(case, size, cluster_size=cluster_size, **options)
    for turn in range(4):
        Writer(case, tool if turn % 2 == 0 else "qemu", IMAGE, cluster_size, reference).run(120)
        check_all(case, reference)


def parallel(case, cluster_size, options, tool):
    """Many requests at a time on neighbouring and the same clusters, each byte written by one of them."""
    size = 64 * cluster_size
    create(case, size, cluster_size=cluster_size, **options)
    piece = max(512, cluster_size // 8)
    for turn in range(3):
        order = list(range(0, size, piece))
        case.random.shuffle(order)
        order = order[:len(order) * 2 // 3]
        seed = case.random.randrange(1 << 30)
        script = [f"async seed {at} {piece} {seed}" for at in order[:900]] + ["async flush", "wait"]
        script += [f"async verify {at} {piece} {seed}" for at in order[:900]] + ["wait"]
        case.hio(IMAGE, script, "-f", "qcow2", *tool[1:])
        case.check_both(IMAGE)
        case.same_content(IMAGE)


def main():
    tools = Tools(__doc__)
    cases = []
    extended = {"extended_l2": "on"}
    for size, options in ((512, {}), (4096, {"compat": "0.10"}), (65536, {}), (65536, extended),
                          (4096, {"refcount_bits": 4}), (2 << 20, {})):
        label = f"{size}-" + "-".join(f"{k[:4]}{v}" for k, v in options.items())
        cases.append((f"snapshots-{label}", lambda c, s=size, o=options: snapshots(c, s, o)))
        cases.append((f"long-{label}", lambda c, s=size, o=options: long_run(c, s, o, HIO)))
        cases.append((f"parallel-{label}", lambda c, s=size, o=options: parallel(c, s, o, THREADS_QUEUES)))
        cases.append((f"queues-{label}", lambda c, s=size, o=options: parallel(c, s, o, QUEUES)))
        cases.append((f"killed-{label}", lambda c, s=size, o=options: killed(c, s, HIO, o)))
    for size in (512, 4096, 65536, 1 << 20, 2 << 20):
        for kind in ("zlib", "zstd"):
            for more in ({}, extended) if size >= 16384 else ({},):
                options = {"compression_type": kind, **more}
                tool = THREADS_QUEUES if more else QUEUES
                cases.append((f"compressed-{size}-{kind}{'-ext' if more else ''}",
                              lambda c, s=size, o=options, t=tool: compressed(c, s, o, t)))
    for size in (512, 65536):
        for killer in ("qemu", "hawser"):
            cases.append((f"dirty-{size}-{killer}", lambda c, s=size, k=killer: dirty(c, s, k)))
    cases.append(("long-none", lambda c: long_run(c, 65536, {}, ("hio", "-c", "none"))))
    cases.append(("parallel-none", lambda c: parallel(c, 65536, {}, ("hio", "-c", "none"))))
    return run_cases(tools, cases)


if __name__ == "__main__":
    sys.exit(main())
