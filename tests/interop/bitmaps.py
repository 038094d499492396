#!/usr/bin/env python3
"""Dirty bitmaps, both ways with qemu-img, qemu-io and qemu-nbd.

A model in Python holds what each bitmap must say; actions, writes and resizes are drawn and given to
their tools or ours in turn. After each step both checks are clean and the lists agree; the bits are
read by both, theirs through qemu-nbd's dirty-bitmap context. SPDX-License-Identifier: Apache-2.0
"""
import json
import sys

from common import Failure, Tools, random_range, run_cases

IMAGE = "image.qcow2"


class Bitmap:
    def __init__(self, granularity, enabled):
        self.granularity, self.enabled, self.dirty = granularity, enabled, set()

    def mark(self, start, length):
        if length:
            self.dirty.update(range(start // self.granularity, (start + length - 1) // self.granularity + 1))

    def runs(self, size):
        """[(start, length)] of what is dirty, in bytes, ascending and joined."""
        joined = []
        for grain in sorted(self.dirty):
            start = grain * self.granularity
            length = min(self.granularity, size - start)
            if joined and sum(joined[-1]) == start:
                joined[-1] = (joined[-1][0], joined[-1][1] + length)
            else:
                joined.append((start, length))
        return joined

    def resize(self, size):
        self.dirty = {grain for grain in self.dirty if grain * self.granularity < size}


class Image:
    """The image of a case, and the model of its bitmaps."""

    def __init__(self, case, size, cluster_size, **options):
        self.case, self.size, self.cluster_size, self.bitmaps = case, size, cluster_size, {}
        options["cluster_size"] = cluster_size
        case.qemu_img("create", "-q", "-f", "qcow2", "-o",
                      ",".join(f"{k}={v}" for k, v in options.items()), IMAGE, str(size))

    # ---- changes -----------------------------------------------------------------------------------------

    def act(self, theirs, name, *actions, expect=0):
        """@actions: options of both programs, e.g. ("--add", "-g", "512")."""
        if theirs:
            return self.case.qemu_img("bitmap", "-f", "qcow2", *actions, IMAGE, name, expect=expect)
        return self.case.run(self.case.tools.hawser, "bitmap", "-f", "qcow2", *actions, IMAGE, name,
                             expect=expect)

    def add(self, theirs, name, granularity, enabled):
        self.act(theirs, name, "--add", *(() if enabled else ("--disable",)), "-g", str(granularity))
        self.bitmaps[name] = Bitmap(granularity, enabled)

    def write(self, theirs, count):
        rng, script = self.case.random, []
        for _ in range(count):
            start, length = random_range(rng, self.size, self.cluster_size)
            kind = rng.choice(("write", "write", "zero", "discard"))
            # What is cut to whole clusters is not the same everywhere; and zeroes over parts of clusters that
            # read as zeroes already are no change for us, and one for them.
            if kind == "discard" or (kind == "zero" and not theirs):
                start -= start % self.cluster_size
                length = min(self.cluster_size * rng.randrange(1, 4), self.size - start)
            for bitmap in self.bitmaps.values():
                if bitmap.enabled:
                    bitmap.mark(start, length)
            if theirs:
                script.append({"write": f"write -q -P 7 {start} {length}",
                               "zero": f"write -q -z {start} {length}",
                               "discard": f"discard -q {start} {length}"}[kind])
            else:
                script.append(f"{kind} {start} {length} {7 if kind == 'write' else ''}".strip())
        if theirs:
            self.case.qemu_io(IMAGE, script)
        else:
            self.case.hio(IMAGE, script, "-f", "qcow2", *rng.choice(((), ("-c", "none"), ("-r", "threads"))))

    def resize(self, theirs, size):
        shrink = ("--shrink",) if size < self.size else ()
        if theirs:
            self.case.qemu_img("resize", "-q", "-f", "qcow2", *shrink, IMAGE, str(size))
        else:
            self.case.run(self.case.tools.hawser, "resize", "-f", "qcow2", *shrink, IMAGE, str(size))
        self.size = size
        for bitmap in self.bitmaps.values():
            bitmap.resize(size)

    # ---- what must hold ------------------------------------------------------------------------------------

    def listed(self, info):
        bitmaps = info["format-specific"]["data"].get("bitmaps", [])
        return {b["name"]: (b["granularity"], sorted(b["flags"])) for b in bitmaps}

    def check(self, names=()):
        case = self.case
        case.qemu_check(IMAGE)
        counts = case.hio_check(IMAGE)
        if counts["leaks"] or counts["corruptions"]:
            raise Failure(f"our check of {IMAGE}: {counts}")
        theirs = self.listed(json.loads(case.qemu_img("info", "--output=json", IMAGE).stdout))
        ours = self.listed(json.loads(case.run(case.tools.hawser, "info", "--output=json", IMAGE).stdout))
        model = {name: (b.granularity, ["auto"] if b.enabled else []) for name, b in self.bitmaps.items()}
        if not theirs == ours == model:
            raise Failure(f"bitmaps: they list {theirs}, we {ours}, wanted {model}"[:900])
        for name in names:
            self.check_bits(name)

    def check_bits(self, name):
        case, wanted = self.case, self.bitmaps[name].runs(self.size)
        text = case.run("nbdinfo", "--json", f"--map=qemu:dirty-bitmap:{name}", "--", "[", "qemu-nbd", "-r",
                        "-f", "qcow2", "-B", name, IMAGE, "]").stdout
        theirs = [(e["offset"], e["length"]) for e in json.loads(text) if e["type"] == 1]
        lines = case.hio(IMAGE, [f"bitmap {name}"], "-R", "-f", "qcow2").stdout.decode().splitlines()
        ours = [tuple(map(int, line.split())) for line in lines[:-1]]
        joined = []
        for start, length in theirs:  # they may part one run at a boundary of their own
            if joined and sum(joined[-1]) == start:
                joined[-1] = (joined[-1][0], joined[-1][1] + length)
            else:
                joined.append((start, length))
        if joined != wanted or ours != wanted or int(lines[-1]) != sum(length for _, length in wanted):
            raise Failure(f"dirty in {name}: they say {joined}, we {ours}, sum {lines[-1]}, "
                          f"wanted {wanted}"[:900])


# ---- cases ---------------------------------------------------------------------------------------------------

def step(image, turn):
    """One drawn action through one of the two; most of them change a bitmap, some the image."""
    rng, names = image.case.random, list(image.bitmaps)
    theirs = rng.random() < 0.5
    kind = rng.choice(("add", "add", "write", "write", "write", "clear", "toggle", "merge", "remove", "resize"))
    if kind == "add" or not names:
        image.add(theirs, f"b{turn}", 512 << rng.choice((0, 1, 3, 7, 7, 8, 14, 22)), rng.random() < 0.7)
    elif kind == "write":
        image.write(theirs, rng.randrange(1, 8))
    elif kind == "resize":
        image.resize(theirs, max(512, image.size + 512 * rng.choice((-3, 1, 2048, 77))))
    else:
        name = rng.choice(names)
        bitmap = image.bitmaps[name]
        if kind == "clear":
            image.act(theirs, name, "--clear")
            bitmap.dirty = set()
        elif kind == "toggle":
            image.act(theirs, name, "--disable" if bitmap.enabled else "--enable")
            bitmap.enabled = not bitmap.enabled
        elif kind == "remove":
            image.act(theirs, name, "--remove")
            del image.bitmaps[name]
        else:
            source = rng.choice(names)
            image.act(theirs, name, "--merge", source)
            for start, length in image.bitmaps[source].runs(image.size):
                bitmap.mark(start, length)


def drawn(case, cluster_size, options):
    size = case.random.choice((3 << 20, (1 << 20) + 512, 40 * cluster_size + 1536))
    image = Image(case, size, cluster_size, **options)
    for turn in range(14):
        step(image, turn)
        names = list(image.bitmaps)
        image.check(case.random.sample(names, min(1, len(names))))
    image.check(image.bitmaps)


def names(case):
    """Names of all lengths and bytes, many bitmaps, each granularity."""
    image = Image(case, (8 << 20) + 512, 65536)
    longest = "n" * 1023
    image.add(False, longest, 4096, True)
    image.add(True, "m" * 1022, 4096, False)
    image.add(False, "with space, comma \u00fc", 65536, True)
    for bits in range(9, 32):
        image.add(bits % 2 == 0, f"g{bits}", 1 << bits, True)
    image.check()
    image.write(False, 6)
    image.write(True, 6)
    image.check([longest, "g9", "g16", "g31"])
    image.act(False, "x" * 1024, "--add", expect=1)
    image.act(False, "", "--add", expect=1)
    image.act(False, longest, "--add", expect=1)
    image.act(False, "small", "--add", "-g", "256", expect=1)
    image.act(False, "odd", "--add", "-g", "768", expect=1)
    image.act(False, "large", "--add", "-g", "4G", expect=1)
    image.check()


def several(case):
    """Actions in one call, in order; what fails ends them, and those before stay."""
    image = Image(case, 2 << 20, 65536)
    image.add(False, "a", 65536, True)
    image.write(False, 5)
    image.act(False, "b", "--add", "--disable", "--merge", "a", "-g", "512")
    image.bitmaps["b"] = Bitmap(512, False)
    for start, length in image.bitmaps["a"].runs(image.size):
        image.bitmaps["b"].mark(start, length)
    image.act(False, "a", "--clear", "--merge", "b", "--disable", "--merge", "missing", "--enable", expect=1)
    image.bitmaps["a"].enabled = False
    image.check(["a", "b"])
    image.act(False, "a", "--enable", "--remove", "--add", "-g", "4k")
    image.bitmaps["a"] = Bitmap(4096, True)
    image.check(["a", "b"])


def merge_images(case):
    """From another image, between granularities; other sizes are refused."""
    image = Image(case, (5 << 20) + 512, 65536)
    image.add(False, "a", 4096, True)
    image.write(True, 8)
    other = "other.qcow2"
    case.qemu_img("create", "-q", "-f", "qcow2", other, str(image.size))
    small = "small.qcow2"
    case.qemu_img("create", "-q", "-f", "qcow2", small, str(image.size - 512))
    for name, tool in (("ours", False), ("theirs", True)):
        for target in (other, small):
            case.qemu_img("bitmap", "--add", "-g", "512", target, name)
            command = ((case.tools.hawser,) if not tool else ("qemu-img",)) + \
                ("bitmap", "--merge", "a", "-b", IMAGE, "-F", "qcow2", target, name)
            case.run(*command, expect=0 if target == other else 1)
    wanted = image.bitmaps["a"].runs(image.size)
    for name in ("ours", "theirs"):
        lines = case.hio(other, [f"bitmap {name}"], "-R", "-f", "qcow2").stdout.decode().splitlines()
        if [tuple(map(int, line.split())) for line in lines[:-1]] != wanted:
            raise Failure(f"merged into {name}: {lines[:20]}, wanted {wanted}"[:900])
    case.qemu_check(other)


def killed(case, killer):
    """A program that dies leaves what follows changes in use; the rest stays true, and can be used."""
    image = Image(case, 2 << 20, 65536)
    image.add(False, "follows", 65536, True)
    image.add(True, "still", 65536, True)
    image.write(False, 4)
    image.act(True, "still", "--disable")
    image.bitmaps["still"].enabled = False
    if killer == "hawser":
        case.hio(IMAGE, ["write 0 4096 9", "flush", "kill"], "-f", "qcow2", expect=-9)
    else:
        case.qemu_io(IMAGE, ["write -q 0 4k", "flush", "abort"], expect=-6)
    listed = image.listed(json.loads(case.run(case.tools.hawser, "info", "--output=json", IMAGE).stdout))
    theirs = image.listed(json.loads(case.qemu_img("info", "--output=json", IMAGE).stdout))
    if listed != theirs or listed["follows"][1] != ["auto", "in-use"]:
        raise Failure(f"after a kill: they list {theirs}, we {listed}")
    for tool in (False, True):
        for action in ("--clear", "--enable", "--disable"):
            image.act(tool, "follows", action, expect=1)
    case.run(case.tools.hawser, "resize", IMAGE, "3M", expect=1)
    case.hio(IMAGE, ["write 65536 4096 9"], "-f", "qcow2")
    image.act(killer == "hawser", "follows", "--remove")
    del image.bitmaps["follows"]
    if killer == "hawser":  # theirs marks them all
        image.check(["still"])
        image.resize(False, 3 << 20)
        image.check(["still"])
    else:
        image.act(False, "still", "--remove")
        del image.bitmaps["still"]
        image.check()


def unknown_program(case):
    """Somebody who does not know bitmaps wrote: they are void, and new ones can be made."""
    image = Image(case, 2 << 20, 65536)
    image.add(True, "a", 65536, True)
    image.write(True, 2)
    with open(case.path(IMAGE), "r+b") as file:
        file.seek(88)
        file.write(bytes(8))
    image.bitmaps = {}
    if image.listed(json.loads(case.run(case.tools.hawser, "info", "--output=json", IMAGE).stdout)):
        raise Failure("bitmaps without their autoclear bit are listed")
    case.hio(IMAGE, ["write 0 512 1"], "-f", "qcow2")
    image.add(False, "b", 512, True)
    image.write(False, 2)
    case.qemu_img("check", "-q", "-r", "leaks", IMAGE, expect=(0, 3))
    image.check(["b"])


def stored_live(case):
    """Stored while the image is open: after a kill right behind it they are right."""
    image = Image(case, 2 << 20, 65536)
    image.add(False, "a", 4096, True)
    case.hio(IMAGE, ["write 4096 5000 1", "store", "kill"], "-f", "qcow2", expect=-9)
    image.bitmaps["a"].mark(4096, 5000)
    case.qemu_img("check", "-q", "-r", "leaks", IMAGE, expect=(0, 3))
    image.check(["a"])
    case.hio(IMAGE, ["write 4096 5000 1", "store", "write 0 512 1", "flush", "kill"], "-f", "qcow2", expect=-9)
    listed = image.listed(json.loads(case.run(case.tools.hawser, "info", "--output=json", IMAGE).stdout))
    if listed["a"][1] != ["auto", "in-use"]:
        raise Failure(f"written after it was stored, and listed as {listed}")


def backing_name(case):
    """The header's extension beside names of all lengths, and it comes and goes."""
    for length in (1, 7, 200, 400, 1000):
        name = "b" * min(length, 200) if length <= 200 else "d/" * ((length - 4) // 2) + "base"
        case.run("rm", "-f", IMAGE)
        case.qemu_img("create", "-q", "-u", "-f", "qcow2", "-b", name, "-F", "raw", IMAGE, "1M")
        image = Image.__new__(Image)
        image.case, image.size, image.cluster_size, image.bitmaps = case, 1 << 20, 65536, {}
        for tool in (False, True, False):
            image.add(tool, "a", 65536, True)
            info = json.loads(case.qemu_img("info", "-U", "--output=json", IMAGE).stdout)
            if info["backing-filename"] != name:
                raise Failure(f"the backing file is {info['backing-filename']}, was {name}")
            image.act(not tool, "a", "--remove")
            del image.bitmaps["a"]
            ours = json.loads(case.run(case.tools.hawser, "info", "--output=json", IMAGE).stdout)
            if ours["backing-filename"] != name:
                raise Failure(f"the backing file is {ours['backing-filename']}, was {name}")


def refused(case):
    """Version 2, raw, and what is not there."""
    case.qemu_img("create", "-q", "-f", "qcow2", "-o", "compat=0.10", "v2.qcow2", "1M")
    case.qemu_img("create", "-q", "-f", "raw", "raw.img", "1M")
    for path, image_format in (("v2.qcow2", "qcow2"), ("raw.img", "raw")):
        case.run(case.tools.hawser, "bitmap", "-f", image_format, "--add", path, "a", expect=1)
    case.run(case.tools.hawser, "bitmap", "v2.qcow2", "a", expect=2)
    case.qemu_check("v2.qcow2")


def main():
    tools = Tools(__doc__)
    extended = {"extended_l2": "on"}
    cases = []
    for seed in range(3 if not tools.full else 30):
        for size, options in ((512, {}), (4096, {}), (65536, {}), (65536, extended), (2 << 20, {}),
                              (1024, {"refcount_bits": 1})):
            label = f"{size}-" + "-".join(f"{k[:4]}{v}" for k, v in options.items()) + str(seed)
            cases.append((f"drawn-{label}", lambda c, s=size, o=options: drawn(c, s, o)))
    cases += [("names", names), ("several", several), ("merge", merge_images),
              ("killed-hawser", lambda c: killed(c, "hawser")), ("killed-qemu", lambda c: killed(c, "qemu")),
              ("unknown-program", unknown_program), ("stored-live", stored_live),
              ("backing-name", backing_name), ("refused", refused)]
    return run_cases(tools, cases)


if __name__ == "__main__":
    sys.exit(main())
