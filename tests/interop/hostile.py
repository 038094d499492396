#!/usr/bin/env python3
"""Hostile and broken images: each gives a clear error or reads what it can, never crashes or hangs, stays
within bounds of time and memory, shows no other file's content, and is left as it was.

SPDX-License-Identifier: Apache-2.0
"""
import hashlib
import json
import os
import struct
import sys

sys.dont_write_bytecode = True
from common import Failure, Tools, run_cases
from damage import COPIED, Image

IMAGE = "image.qcow2"
MEMORY = 1 << 30
SECRET = b"the content of another file\n" * 200

# offset and format of header fields
FIELDS = {"magic": (0, ">I"), "version": (4, ">I"), "backing_file_offset": (8, ">Q"),
          "backing_file_size": (16, ">I"), "cluster_bits": (20, ">I"), "size": (24, ">Q"),
          "crypt_method": (32, ">I"), "l1_size": (36, ">I"), "l1_table_offset": (40, ">Q"),
          "refcount_table_offset": (48, ">Q"), "refcount_table_clusters": (56, ">I"),
          "nb_snapshots": (60, ">I"), "snapshots_offset": (64, ">Q"),
          "incompatible_features": (72, ">Q"), "refcount_order": (96, ">I"),
          "header_length": (100, ">I"), "compression_type": (104, ">B")}

# Values that no image may have: opening is refused, and the message names the field.
REFUSED = [("magic", 0), ("magic", 0x514649fa), ("version", 0), ("version", 1), ("version", 4),
           ("version", 0xffffffff), ("cluster_bits", 0), ("cluster_bits", 8), ("cluster_bits", 22),
           ("cluster_bits", 63), ("cluster_bits", 64), ("cluster_bits", 0xffffffff),
           ("size", 1 << 63), ("size", (1 << 64) - 1), ("size", 1 << 62), ("size", 1 << 45),
           ("crypt_method", 3), ("crypt_method", 0xffffffff), ("l1_size", 0xffffffff),
           ("l1_size", 0x7fffffff), ("l1_size", 0), ("l1_table_offset", 1),
           ("l1_table_offset", 0x1234), ("l1_table_offset", 1 << 60), ("l1_table_offset", (1 << 64) - 512),
           ("refcount_table_offset", 0), ("refcount_table_offset", 3), ("refcount_table_offset", 1 << 60),
           ("refcount_table_clusters", 0xffffffff), ("refcount_table_clusters", 0),
           ("nb_snapshots", 0xffffffff), ("incompatible_features", 1 << 63),
           ("incompatible_features", 1 << 5), ("incompatible_features", 4),
           ("refcount_order", 7), ("refcount_order", 0xffffffff), ("header_length", 0),
           ("header_length", 72), ("header_length", 105), ("header_length", 0xfffffff8),
           ("compression_type", 1), ("compression_type", 255)]
# Any outcome but a crash, a hang, or a change of a refused image.
TOLERATED = [("backing_file_offset", 1 << 60), ("backing_file_offset", (1 << 64) - 1),
             ("backing_file_offset", 8), ("backing_file_size", 0xffffffff), ("l1_table_offset", 0),
             ("refcount_table_offset", 65536 * 3), ("snapshots_offset", 1), ("snapshots_offset", 1 << 62),
             ("size", 0), ("size", 1), ("size", 1 << 40), ("incompatible_features", 1),
             ("incompatible_features", 2), ("incompatible_features", 16),
             ("incompatible_features", 8)]


def make(case, cluster_size=65536, **options):
    text = ",".join(f"{k}={v}" for k, v in {"cluster_size": cluster_size, **options}.items())
    case.qemu_img("create", "-q", "-f", "qcow2", "-o", text, IMAGE, "1M")
    case.qemu_io(IMAGE, ["write -P 17 0 200k", "write -P 34 700k 100k"])
    return Image(case.path(IMAGE))


def digest(case, name=IMAGE):
    with open(case.path(name), "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


def attempt(case, *options, script=None, image=IMAGE):
    """Runs hio inside the bounds. @return (exit code, what it said, what it wrote)."""
    limit = None if os.environ.get("HAWSER_SANITIZED") else MEMORY
    result = case.run(case.tools.hio, *options, image, stdin="" if script is None else script,
                      expect=None, limit_memory=limit)
    if result.returncode < 0 or result.returncode > 3:
        raise Failure(f"exit code {result.returncode}: {case.commands[-1]}: "
                      f"{result.stderr.decode(errors='replace')[-800:]}")
    if SECRET[:64] in result.stdout:
        raise Failure(f"shows the content of another file: {case.commands[-1]}")
    return result.returncode, result.stderr.decode(errors="replace"), result.stdout


CHANGES = (("resize", "--shrink", "100k"), ("amend", "-o", "compat=0.10"), ("amend", "-o", "compat=1.1,refcount_bits=64"),
           ("compact", "--zeroes"))


def change(case, image):
    """What changes a whole image, each on a copy: done or refused, never a crash, nor endless work."""
    limit = None if os.environ.get("HAWSER_SANITIZED") else MEMORY
    for command, *options in CHANGES if case.tools.hawser else ():
        case.run("cp", "--sparse=always", image, "copy.qcow2")
        size = ("copy.qcow2", options.pop()) if command == "resize" else ("copy.qcow2",)
        done = case.run(case.tools.hawser, command, "-q", "-f", "qcow2", *options, *size, expect=None,
                        limit_memory=limit)
        if done.returncode not in (0, 1):
            raise Failure(f"exit code {done.returncode}: {case.commands[-1]}: "
                          f"{done.stderr.decode(errors='replace')[-800:]}")


def probe(case, refused, words=(), image=IMAGE, checks=True, mendable=False):
    """All ways to open an image. @refused: opening must fail and say @words. @checks: the check too, which
    looks at one layer and opens no backing file. @mendable: a repair may put it right."""
    ways = ((("-f", "qcow2", "--dump"), None), (("-f", "qcow2", "--check"), None),
            (("-f", "qcow2", "-r", "threads"), "read 0 512\nread 700k 100k\nstatus chain\n"),
            (("-f", "qcow2"), "write 64k 100k 1\nzero 128k 70k\ndiscard 0 64k\nflush\nresize 3M\n"),
            (("-f", "qcow2", "--check=all"), None))
    change(case, image)
    for options, script in ways:
        if not checks and "--check" in " ".join(options):
            continue
        before = digest(case, image)
        code, told, _ = attempt(case, *options, script=script, image=image)
        if refused and code == 0 and not (mendable and "--check=all" in options):
            raise Failure(f"is not refused: {case.commands[-1]}")
        if refused and "--check" not in " ".join(options):
            missing = [word for word in (*words, image) if word not in told]
            if missing:
                raise Failure(f"does not say {missing}: {told.strip()}")
        if code == 1 and (refused or "line" not in told) and digest(case, image) != before:
            raise Failure(f"was refused, and changed all the same: {case.commands[-1]}")


def header_field(case, field, value, refused, cluster_size):
    image = make(case, cluster_size)
    at, form = FIELDS[field]
    struct.pack_into(form, image.data, at, value)
    image.save()
    case.commands.append(f"# header field {field} at {at} = {value:#x}")
    words = {"magic": (), "header_length": (), "refcount_table_offset": ("refcount",),
             "incompatible_features": ("feature",) if value != 4 else ("external data file",)}
    words = words.get(field, (field,)) if refused else ()
    mendable = field.startswith("refcount_table") or field == "nb_snapshots"
    probe(case, refused, words, mendable=mendable)


# ---- tables ------------------------------------------------------------------------------------------------

def self_backing(case):
    make(case)
    case.qemu_img("rebase", "-u", "-f", "qcow2", "-b", IMAGE, "-F", "qcow2", IMAGE)
    probe(case, True, checks=False)


def loop_of_two(case):
    make(case)
    case.run("cp", IMAGE, "other.qcow2")
    case.qemu_img("rebase", "-u", "-f", "qcow2", "-b", "other.qcow2", "-F", "qcow2", IMAGE)
    case.qemu_img("rebase", "-u", "-f", "qcow2", "-b", IMAGE, "-F", "qcow2", "other.qcow2")
    probe(case, True, checks=False)


def loop_by_link(case):
    make(case)
    os.symlink(case.path(IMAGE), case.path("link.qcow2"))
    os.link(case.path(IMAGE), case.path("hard.qcow2"))
    for name in ("link.qcow2", "hard.qcow2"):
        case.qemu_img("rebase", "-u", "-f", "qcow2", "-b", name, "-F", "qcow2", IMAGE)
        probe(case, True, checks=False)


def names_a_file(case, name, backing_format):
    """The backing name leads out of the image's folder: it is not opened, so not shown."""
    os.mkdir(case.path("inner"))
    with open(case.path("secret"), "wb") as file:
        file.write(SECRET + bytes(512 - len(SECRET) % 512))
    os.symlink(case.path("secret"), case.path("inner/link"))
    name = name.replace("@", case.folder)
    image = "inner/" + IMAGE
    case.run("qemu-img", "create", "-q", "-u", "-f", "qcow2", "-b", name, "-F", backing_format or "raw",
             image, "1M")
    if not backing_format:
        damaged = Image(case.path(image))
        at = damaged.data.index(struct.pack(">I", 0xe2792aca))
        struct.pack_into(">I", damaged.data, at, 0x12345678)  # an extension that nobody knows
        damaged.save()
    probe(case, True, image=image, checks=False)


def l2_into(case, target, cluster_size):
    """An L1 or L2 entry that points at the metadata."""
    image = make(case, cluster_size)
    targets = {"header": 0, "l1": image.l1_offset, "table": image.table_offset,
               "block": image.u64(image.table_offset)}
    for at in (image.l2()[0], image.l1()[0]):
        broken = Image(case.path(IMAGE))
        broken.put64(at, COPIED | targets[target])
        broken.save()
        case.commands.append(f"# entry at {at:#x} points at the {target}")
        if target != "header":  # 0 means unallocated
            code = attempt(case, "-f", "qcow2", "--check")[0]
            if code != 2:
                raise Failure(f"check does not find the overlap: {code}")
            # Writing there would destroy metadata: it must fail.
            guest = "0 512"
            code, told, _ = attempt(case, "-f", "qcow2", script=f"write {guest} 255\n")
            after = Image(case.path(IMAGE))
            at_target = targets[target]
            if after.data[at_target:at_target + 512] == b"\xff" * 512:
                raise Failure(f"a guest write went into the {target}: {told}")
        probe(case, False)
        image.save()


def entries_everywhere(case, value, table, cluster_size):
    """A whole table of one value."""
    image = make(case, cluster_size)
    start = image.l1_offset if table == "l1" else image.u64(image.l1()[0]) & ~COPIED
    length = image.l1_size * 8 if table == "l1" else image.cluster
    if table == "refcount":
        start, length = image.table_offset, image.cluster
    for at in range(start, start + length, 8):
        image.put64(at, value)
    image.save()
    case.commands.append(f"# every entry of the {table} table = {value:#x}")
    probe(case, False)


def snapshots_absurd(case, entry, count):
    image = make(case, 4096)
    at = image.append_cluster()
    image.data[at:at + len(entry)] = entry
    struct.pack_into(">IQ", image.data, 60, count, at)
    image.save()
    case.commands.append(f"# {count} snapshots, first entry {entry[:40].hex()}")
    probe(case, False)


def compressed_past_end(case, cluster_size):
    image = make(case, cluster_size)
    for number, at in enumerate(image.l2()[:3]):
        image.put64(at, 1 << 62 | (len(image.data) - 5, 1 << 40, (1 << 46) - 1)[number])
    image.save()
    code, told, _ = attempt(case, "-f", "qcow2", script="read 0 512\n")
    if code == 0 or IMAGE not in told:
        raise Failure(f"compressed data past the end was read: {told}")
    probe(case, False)


def compressed_garbage(case, kind, damage):
    """A stream that lies: random bytes, cut short, or too long."""
    size = 1 << 20
    with open(case.path("source"), "wb") as file:
        file.write((b"some text to compress " * 60000)[:size])
    case.qemu_img("convert", "-c", "-f", "raw", "-O", "qcow2", "-o", f"compression_type={kind}",
                  "source", IMAGE)
    image = Image(case.path(IMAGE))
    host = image.u64(image.l2(compressed=True)[0]) & ((1 << 54) - 1)
    if damage == "noise":
        image.data[host:host + 4000] = case.random.randbytes(len(image.data[host:host + 4000]))
    elif damage == "zeroes":
        image.data[host:host + 4000] = bytes(len(image.data[host:host + 4000]))
    else:
        image.data[host + 40] ^= 0x55
    image.save()
    code, told, _ = attempt(case, "-f", "qcow2", script="read 0 4096\n")
    if code == 0 and damage != "flip":
        raise Failure("a damaged stream was read without an error")
    probe(case, False)


def truncated(case, lengths, cluster_size):
    """Every length: an image that was cut off."""
    whole = bytes(make(case, cluster_size).data)
    for length in lengths:
        with open(case.path(IMAGE), "wb") as file:
            file.write(whole[:length])
        case.commands.append(f"# truncated to {length}")
        before = digest(case)
        code, told, _ = attempt(case, "-f", "qcow2", script="read 0 512\n")
        if length < 104 and code == 0:
            raise Failure(f"{length} bytes were opened as an image")
        if code != 0 and IMAGE not in told:
            raise Failure(f"the message does not name the file: {told}")
        if code != 0 and digest(case) != before:
            raise Failure(f"{length} bytes: refused and changed")


def sparse_giant(case, cluster_size):
    """A file of exabytes, all holes but for tables that refer to them all over."""
    image = make(case, cluster_size)
    table = image.u64(image.l1()[0]) & ~COPIED
    for number, at in enumerate(range(table, table + image.cluster, 8)):
        image.put64(at, COPIED | (number + 1) << 40)
    image.save()
    os.truncate(case.path(IMAGE), 1 << 42)
    for options in (("--check",), ("--dump",)):
        attempt(case, "-f", "qcow2", *options)


def extension_bad(case, kind, length):
    image = make(case)
    struct.pack_into(">II", image.data, 112 if image.u32(100) == 112 else 104, kind, length)
    image.save()
    case.commands.append(f"# first header extension: type {kind:#x}, length {length:#x}")
    probe(case, False)


def json_backing(case):
    """A backing name that is a description: it may not open what a path may not."""
    with open(case.path("secret"), "wb") as file:
        file.write(SECRET + bytes(512 - len(SECRET) % 512))
    os.mkdir(case.path("inner"))
    image = "inner/" + IMAGE
    name = "json:" + json.dumps({"driver": "raw", "file": {"driver": "file",
                                                           "filename": case.path("secret")}})
    case.qemu_img("create", "-q", "-u", "-f", "qcow2", "-b", name, "-F", "raw", image, "1M")
    probe(case, True, image=image, checks=False)


def header_cases():
    for refused, table in ((True, REFUSED), (False, TOLERATED)):
        for field, value in table:
            for cluster_size in (512, 65536):
                if field == "size" and value == 1 << 45 and cluster_size == 65536:
                    continue  # 2 TiB a gigabyte of L1 entries: merely too few of them
                yield (f"{field}-{value:x}-{cluster_size}",
                       lambda c, f=field, v=value, r=refused, s=cluster_size: header_field(c, f, v, r, s))


def main():
    tools = Tools(__doc__)
    cases = list(header_cases())
    cases += [("self-backing", self_backing), ("loop-of-two", loop_of_two), ("loop-by-link", loop_by_link),
              ("json-backing", json_backing)]
    for number, (name, form) in enumerate((("/etc/passwd", "raw"), ("@/secret", "raw"), ("../secret", "raw"),
                                           ("link", "raw"), ("/etc/passwd", None), ("file:@/secret", "raw"),
                                           ("/dev/zero", "raw"), ("/proc/self/environ", "raw"),
                                           ("nbd://127.0.0.1:1/x", "raw"), ("x" * 1000, "qcow2"))):
        cases.append((f"names-{number}", lambda c, n=name, f=form: names_a_file(c, n, f)))
    for cluster_size in (512, 65536):
        for target in ("header", "l1", "table", "block"):
            cases.append((f"points-at-{target}-{cluster_size}",
                          lambda c, t=target, s=cluster_size: l2_into(c, t, s)))
        for value in (0xffffffffffffffff, COPIED | cluster_size, COPIED | 1 << 55, 1 << 62, (1 << 62) - 1,
                      cluster_size * 5, 1):
            for table in ("l1", "l2", "refcount"):
                cases.append((f"all-{table}-{value:x}-{cluster_size}",
                              lambda c, v=value, t=table, s=cluster_size: entries_everywhere(c, v, t, s)))
        cases.append((f"compressed-past-end-{cluster_size}",
                      lambda c, s=cluster_size: compressed_past_end(c, s)))
        cases.append((f"sparse-giant-{cluster_size}", lambda c, s=cluster_size: sparse_giant(c, s)))
        step = 1 if tools.full else 37
        for start in range(0, 70000, 7000):
            lengths = range(start + tools.seed % step, start + 7000, step)
            cases.append((f"truncated-{start}-{cluster_size}",
                          lambda c, l=lengths, s=cluster_size: truncated(c, l, s)))
    cases.append(("truncated-header", lambda c: truncated(c, range(0, 600, 1 if tools.full else 5), 512)))
    for number, entry in enumerate((b"\xff" * 4096, bytes(4096),
                                    struct.pack(">QIHHIIQII", 1 << 62, 1, 1, 1, 0, 0, 0, 0, 0),
                                    struct.pack(">QIHHIIQII", 4096, 0xffffffff, 1, 1, 0, 0, 0, 0, 16),
                                    struct.pack(">QIHHIIQII", 4096, 4, 0xffff, 0xffff, 0, 0, 0, 0,
                                                0xffffffff))):
        for count in (1, 65536, 0x7fffffff):
            cases.append((f"snapshots-{number}-{count}",
                          lambda c, e=entry, n=count: snapshots_absurd(c, e, n)))
    for kind in ("zlib", "zstd"):
        for damage in ("noise", "zeroes", "flip"):
            cases.append((f"stream-{kind}-{damage}", lambda c, k=kind, d=damage: compressed_garbage(c, k, d)))
    for kind in (0xe2792aca, 0x6803f857, 0x23852875, 0x0537be77, 0x44415441, 0x12345678):
        for length in (0, 1, 7, 0xffff, 0xffffffff, 0xfffffff9):
            cases.append((f"extension-{kind:x}-{length:x}",
                          lambda c, k=kind, n=length: extension_bad(c, k, n)))
    return run_cases(tools, cases)


if __name__ == "__main__":
    sys.exit(main())
