#!/usr/bin/env python3
"""Conversions against qemu-img's, interleaved: whole processes, wall time and CPU time, median and spread.

  bench/convert.py HAWSER [--image RAW] [--rounds N] [--folder DIR]

Without --image two 1 GiB images are made, 70 % full: files of this host's /usr, and random bytes. qemu-img does
not wait for the disk; so neither does hawser here (--no-sync), and a column tells the time with the wait.
SPDX-License-Identifier: Apache-2.0
"""
import argparse
import os
import random
import resource
import shutil
import statistics
import subprocess
import tempfile
import time

SIZE = 1 << 30
FULL = SIZE * 7 // 10


def host_files():
    for folder, _, names in os.walk("/usr"):
        for name in sorted(names):
            path = os.path.join(folder, name)
            if os.path.isfile(path) and not os.path.islink(path):
                yield path


def make_files(path):
    """What a file system full of programs looks like: files at multiples of 4 KiB, holes between."""
    rng, at, full = random.Random(1), 0, 0
    with open(path, "wb") as out:
        out.truncate(SIZE)
        for name in host_files():
            try:
                with open(name, "rb") as file:
                    data = file.read()
            except OSError:
                continue
            if full + len(data) > FULL or at + len(data) > SIZE:
                continue
            out.seek(at)
            out.write(data)
            full += len(data)
            at += (len(data) + 4095) // 4096 * 4096
            if rng.randrange(100) == 0 and SIZE - at > (FULL - full) * 11 // 10 + (2 << 20):
                at += rng.randrange(2 << 20) // 4096 * 4096


def make_random(path):
    rng = random.Random(2)
    with open(path, "wb") as out:
        out.truncate(SIZE)
        for piece in range(SIZE >> 20):
            if piece % 10 < 7:
                out.seek(piece << 20)
                out.write(rng.randbytes(1 << 20))


def run(command):
    """@return wall seconds, CPU seconds."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    wall, after = time.monotonic() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def works(hawser, image, folder):
    """(name, qemu-img's command, ours); the last argument is the target."""
    plain, zlib, zstd = (os.path.join(folder, name) for name in ("plain.qcow2", "zlib.qcow2", "zstd.qcow2"))
    theirs, ours = ["qemu-img", "convert", "-W", "-m", "16"], [hawser, "convert", "-q", "--no-sync"]
    codec = "compression_type=zstd"
    shape = ["-o", "cluster_size=64k,extended_l2=off"]
    subprocess.run([*theirs, "-O", "qcow2", "-f", "raw", image, plain], check=True)
    subprocess.run([*theirs, "-c", "-O", "qcow2", "-f", "raw", image, zlib], check=True)
    subprocess.run([*theirs, "-c", "-o", codec, "-O", "qcow2", "-f", "raw", image, zstd], check=True)
    raw = ["-f", "raw", image]
    yield "raw -> qcow2", [*theirs, "-O", "qcow2", *raw], [*ours, *raw]
    yield "qcow2 -> raw", [*theirs, "-O", "raw", plain], [*ours, "-O", "raw", plain]
    yield "zlib -> raw", [*theirs, "-O", "raw", zlib], [*ours, "-O", "raw", zlib]
    yield "zstd -> raw", [*theirs, "-O", "raw", zstd], [*ours, "-O", "raw", zstd]
    yield "raw -> zlib", [*theirs, "-c", "-O", "qcow2", *raw], [*ours, "-c", *shape, *raw]
    yield ("raw -> zstd", [*theirs, "-c", "-o", codec, "-O", "qcow2", *raw],
           [*ours, "-c", *shape, "-o", codec, *raw])


def measure(name, theirs, ours, folder, rounds):
    target, samples, sizes = os.path.join(folder, "target"), {}, {}
    synced = [part for part in ours if part != "--no-sync"]
    for _ in range(rounds):
        for who, command in (("qemu", theirs), ("ours", ours), ("synced", synced)):
            if os.path.exists(target):
                os.unlink(target)
            samples.setdefault(who, []).append(run([*command, target]))
            sizes[who] = os.path.getsize(target)
    def column(who, which):
        return [sample[which] for sample in samples[who]]
    wall = {who: statistics.median(column(who, 0)) for who in samples}
    cpu = {who: statistics.median(column(who, 1)) for who in samples}
    spread = max(column("ours", 1)) / max(min(column("ours", 1)), 1e-3)
    print(f"{name:13} wall {wall['qemu']:6.2f} {wall['ours']:6.2f} x{wall['ours'] / wall['qemu']:5.2f}   "
          f"cpu {cpu['qemu']:6.2f} {cpu['ours']:6.2f} x{cpu['ours'] / cpu['qemu']:5.2f} (spread {spread:.2f})   "
          f"synced {wall['synced']:6.2f}   size x{sizes['ours'] / sizes['qemu']:.3f}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("hawser")
    parser.add_argument("--image", help="a raw image to convert")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", help="where the images go")
    options = parser.parse_args()
    folder = tempfile.mkdtemp(prefix="hawser-bench-", dir=options.folder)
    try:
        images = [("the image", options.image)] if options.image else []
        for name, make in (() if options.image else (("files", make_files), ("random", make_random))):
            images.append((name, os.path.join(folder, name)))
            make(images[-1][1])
        for name, image in images:
            print(f"{name}: medians of {options.rounds}: qemu-img -W -m 16, hawser, hawser / qemu-img")
            for work in works(os.path.abspath(options.hawser), image, folder):
                measure(*work, folder, options.rounds)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
