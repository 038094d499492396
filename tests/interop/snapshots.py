#!/usr/bin/env python3
"""Internal snapshots: random sequences of writes, snapshots taken, applied and deleted, and growth, by hawser
and by qemu's tools in turn. After each step both checks are clean and both list the same; at the end every
snapshot holds what it held. The state of a virtual machine survives. SPDX-License-Identifier: Apache-2.0
"""
import json
import os
import subprocess
import sys

sys.dont_write_bytecode = True
from common import Failure, Reference, Tools, Writer, random_range, run_cases

IMAGE = "image.qcow2"
HIO = ("hio", "-r", "uring")


class Held:
    """A snapshot as the test knows it."""

    def __init__(self, name, reference):
        self.name = name
        self.reference = Reference(bytes(reference.data))
        self.reference.known = bytearray(reference.known)


class Walk:
    """One image on its way."""

    def __init__(self, case, cluster_size, size, options):
        self.case, self.cluster_size, self.options = case, cluster_size, options
        self.reference = Reference(bytes(size))
        self.held, self.made = [], 0

    def hawser(self, *arguments, expect=0):
        return self.case.run(self.case.tools.hawser, *arguments, expect=expect)

    # ---- steps ----

    def write(self, tool):
        Writer(self.case, tool, IMAGE, self.cluster_size, self.reference).run(6)

    def compressed(self, _):
        clusters, script = len(self.reference.data) // self.cluster_size, []
        for _ in range(4):
            at, byte = self.case.random.randrange(clusters) * self.cluster_size, self.case.random.randrange(1, 256)
            script.append(f"pack {at} {self.cluster_size} {byte}")
            self.reference.write(at, self.cluster_size, byte)
        self.case.hio(IMAGE, script, "-f", "qcow2")

    def session(self, _):
        """Everything in one process: what is in memory must follow."""
        script = []
        for _ in range(3):
            self.made += 1
            script.append(f"snapshot create s{self.made}")
            self.held.append(Held(f"s{self.made}", self.reference))
            writer = Writer(self.case, HIO, IMAGE, self.cluster_size, self.reference)
            for _ in range(4):
                offset, length = random_range(self.case.random, len(self.reference.data), self.cluster_size)
                writer.add(script, self.case.random.choice(("write", "write", "zero", "discard", "flush")),
                           offset, length, self.case.random.randrange(1, 256))
            one = self.case.random.choice([held for held in self.held if " " not in held.name])
            if self.case.random.randrange(2):
                script.append(f"snapshot apply {one.name}")
                self.reference = Held(one.name, one.reference).reference
            elif self.case.random.randrange(2):
                script.append(f"snapshot delete {one.name}")
                self.held.remove(one)
        self.case.hio(IMAGE, script, "-f", "qcow2")

    def create(self, tool):
        self.made += 1
        name = f"snap {self.made}"
        if tool == "qemu":
            self.case.qemu_img("snapshot", "-c", name, IMAGE)
        else:
            self.hawser("snapshot", "--create", name, IMAGE)
        self.held.append(Held(name, self.reference))

    def apply(self, tool):
        if not self.held:
            return self.create(tool)
        one = self.case.random.choice(self.held)
        if tool == "qemu":
            self.case.qemu_img("snapshot", "-a", one.name, IMAGE)
        else:
            self.hawser("snapshot", "--apply", one.name, IMAGE)
        self.reference = Held(one.name, one.reference).reference
        return None

    def delete(self, tool):
        if not self.held:
            return self.create(tool)
        one = self.held.pop(self.case.random.randrange(len(self.held)))
        if tool == "qemu":
            self.case.qemu_img("snapshot", "-d", one.name, IMAGE)
        else:
            self.hawser("snapshot", "--delete", one.name, IMAGE)
        return None

    def grow(self, tool):
        if self.options.get("compat") == "0.10" and self.held:
            return
        size = len(self.reference.data) + self.case.random.randrange(1, 6) * self.cluster_size // 512 * 512
        if tool == "qemu":
            self.case.qemu_img("resize", "-q", "-f", "qcow2", IMAGE, str(size))
        else:
            self.hawser("resize", "-q", IMAGE, str(size))
        self.reference.resize(size)

    # ---- what must hold ----

    def check(self):
        self.case.check_both(IMAGE)
        theirs = json.loads(self.case.qemu_img("info", "--output=json", IMAGE).stdout)
        ours = json.loads(self.hawser("info", "--output=json", IMAGE).stdout)
        if ours.get("snapshots", []) != theirs.get("snapshots", []):
            raise Failure(f"they list {theirs.get('snapshots')}, we {ours.get('snapshots')}")
        names = [one["name"] for one in ours.get("snapshots", [])]
        if names != [one.name for one in self.held]:
            raise Failure(f"the image has the snapshots {names}")

    def check_content(self):
        self.case.same_content(IMAGE, self.reference)
        for one in self.held:
            for program in ("hawser", "qemu-img"):
                raw = self.case.path("held.raw")
                if program == "hawser":
                    self.hawser("convert", "-q", "--no-sync", "--overwrite", "-O", "raw", "--snapshot",
                                one.name, IMAGE, raw)
                else:
                    self.case.qemu_img("convert", "-t", "unsafe", "-O", "raw", "-l",
                                       f"snapshot.name={one.name}", IMAGE, raw)
                with open(raw, "rb") as file:
                    content = file.read()
                if program == "qemu-img":  # it shows a snapshot with the present size of the image
                    size = len(one.reference.data)
                    content = content[:size] + bytes(max(0, size - len(content)))
                    if size > len(self.reference.data):
                        continue
                one.reference.compare(f"snapshot {one.name} by {program}", content)
                os.unlink(raw)


def walk(case, cluster_size, options, steps, backing=False):
    size = min(24 * cluster_size + 1024, 4 << 20)
    text = ",".join(f"{k}={v}" for k, v in {"cluster_size": cluster_size, **options}.items())
    it = Walk(case, cluster_size, size, options)
    if backing:
        # shorter than the image, so that a growth must not show more of it
        case.qemu_img("create", "-q", "-f", "qcow2", "base.qcow2", str(size * 2))
        case.qemu_io("base.qcow2", [f"write -P 77 0 {size * 2}"])
        it.reference = Reference(bytes((77,)) * size)
        case.qemu_img("create", "-q", "-f", "qcow2", "-o", text, "-b", "base.qcow2", "-F", "qcow2", IMAGE,
                      str(size))
    else:
        case.qemu_img("create", "-q", "-f", "qcow2", "-o", text, IMAGE, str(size))
    it.write("qemu")
    it.compressed(None)
    it.create(case.random.choice(("qemu", HIO)))
    for _ in range(steps):
        tool = case.random.choice(("qemu", HIO, HIO))
        step = case.random.choices((it.write, it.compressed, it.create, it.apply, it.delete, it.grow,
                                    it.session), (6, 1, 3, 2, 3, 1, 2))[0]
        step(tool)
        it.check()
    it.check_content()
    while it.held:
        it.delete(HIO)
    it.check()
    it.check_content()


def narrow(case, bits):
    """Counts of few bits: what would not fit is refused by name, and nothing has changed."""
    case.qemu_img("create", "-q", "-f", "qcow2", "-o", f"refcount_bits={bits}", IMAGE, "4M")
    case.qemu_io(IMAGE, ["write -P 5 0 1M"])
    hawser = case.tools.hawser
    for number in range((1 << bits) - 2):
        case.run(hawser, "snapshot", "-c", f"s{number}", IMAGE)
        case.check_both(IMAGE)
    with open(case.path(IMAGE), "rb") as file:
        before = file.read()
    refused = case.run(hawser, "snapshot", "-c", "one too many", IMAGE, expect=1)
    if f"{bits} bits".encode() not in refused.stderr:
        raise Failure(f"a full count is refused with {refused.stderr!r}")
    case.check_both(IMAGE)
    with open(case.path(IMAGE), "rb") as file:
        after = file.read()
    if before[:65536] != after[:65536]:
        raise Failure("a refused snapshot changed the header")
    if bits > 1:
        case.run(hawser, "snapshot", "-a", "s0", IMAGE)
        case.run(hawser, "snapshot", "-d", "s0", IMAGE)
        case.check_both(IMAGE)
        case.run(hawser, "snapshot", "-c", "room again", IMAGE)
        case.check_both(IMAGE)
    case.same_content(IMAGE, None)


def machine(case, cluster_size, options):
    """The state of a virtual machine lies behind the disk: it survives all that happens to the image, and the
    machine goes on from it."""
    text = ",".join(f"{k}={v}" for k, v in {"cluster_size": cluster_size, **options}.items())
    case.qemu_img("create", "-q", "-f", "qcow2", "-o", text, IMAGE, "2M")
    reference = Reference(bytes(2 << 20))
    Writer(case, "qemu", IMAGE, cluster_size, reference).run(6)
    hawser = case.tools.hawser

    def monitor(*commands):
        told = case.run("qemu-system-x86_64", "-accel", "tcg", "-M", "pc", "-m", "2", "-nodefaults", "-display",
                        "none", "-S", "-monitor", "stdio", "-drive", f"if=ide,file={IMAGE},format=qcow2",
                        stdin="\n".join(commands + ("quit", "")))
        if b"rror" in told.stdout + told.stderr:
            raise Failure(f"{commands}: {told.stdout[-300:]!r} {told.stderr[-300:]!r}")

    monitor("savevm running")
    case.check_both(IMAGE)
    listed = json.loads(case.run(hawser, "snapshot", "-l", "--output=json", IMAGE).stdout)
    if listed[0]["vm-state-size"] == 0:
        raise Failure("the machine's state has no size")
    case.run(hawser, "snapshot", "-c", "plain", IMAGE)
    Writer(case, HIO, IMAGE, cluster_size, reference).run(6)
    case.check_both(IMAGE)
    case.run(hawser, "snapshot", "-a", "running", IMAGE)
    case.check_both(IMAGE)
    monitor("loadvm running")
    if options.get("compat") != "0.10":
        # The state that came back with the snapshot must not become part of the disk.
        case.run(hawser, "resize", "-q", IMAGE, "64M")
        case.check_both(IMAGE)
        tail = case.hio_dump(IMAGE, "-f", "qcow2")[2 << 20:]
        if tail.count(0) != len(tail):
            raise Failure("the machine's state shows in the grown disk")
        case.same_content(IMAGE, None)
    case.run(hawser, "snapshot", "-d", "plain", IMAGE)
    case.check_both(IMAGE)
    monitor("loadvm running")
    # qemu 7.2 leaks the state that it has loaded before where the size of the disk changes with it
    case.qemu_img("check", "-q", "-r", "leaks", IMAGE, expect=(0, 3))
    after = json.loads(case.run(hawser, "snapshot", "-l", "--output=json", IMAGE).stdout)
    if after != listed:
        raise Failure(f"listed {after}, and before {listed}")
    case.run(hawser, "snapshot", "-a", "1", IMAGE)
    case.run(hawser, "resize", "-q", "--shrink", IMAGE, "1M",
             expect=0 if options.get("compat") != "0.10" else 1)
    case.check_both(IMAGE)
    monitor("loadvm running")
    case.run(hawser, "snapshot", "-d", "running", IMAGE)
    case.check_both(IMAGE)


def names(case):
    """Names of any bytes, equal names, IDs that look like names."""
    hawser = case.tools.hawser
    case.qemu_img("create", "-q", "-f", "qcow2", IMAGE, "1M")
    wanted = ["x", "x", "2", "-dash", "späße", "a\nb", "n" * 255, '"quoted"']
    for name in wanted:
        case.run(hawser, "snapshot", f"--create={name}", IMAGE)
    case.check_both(IMAGE)
    theirs = json.loads(case.qemu_img("info", "--output=json", IMAGE).stdout)["snapshots"]
    ours = json.loads(case.run(hawser, "snapshot", "-l", "--output=json", IMAGE).stdout)
    if ours != theirs or [one["name"] for one in ours] != wanted:
        raise Failure(f"they list {theirs}, we {ours}")
    case.run(hawser, "snapshot", "-l", IMAGE)
    case.run(hawser, "snapshot", "-d", "2", IMAGE)  # the ID, not the name
    left = [one["id"] for one in json.loads(case.run(hawser, "snapshot", "-l", "--output=json", IMAGE).stdout)]
    if left != ["1", "3", "4", "5", "6", "7", "8"]:
        raise Failure(f"left are {left}")
    case.run(hawser, "snapshot", "-c", "n" * 256, IMAGE, expect=1)
    case.run(hawser, "snapshot", "-c", "", IMAGE, expect=1)
    case.run(hawser, "snapshot", "-d", "nobody", IMAGE, expect=1)
    case.run(hawser, "snapshot", "-a", "nobody", IMAGE, expect=1)
    case.run(hawser, "convert", "-O", "raw", "--snapshot", "nobody", IMAGE, "out.raw", expect=1)
    # bytes that are no UTF-8
    subprocess.run((b"qemu-img", b"snapshot", b"-c", b"\xff\xfe", case.path(IMAGE).encode()), check=True)
    case.run(hawser, "snapshot", "-l", IMAGE)
    case.run(hawser, "snapshot", "-l", "--output=json", IMAGE)
    case.run(hawser, "info", IMAGE)
    subprocess.run((hawser.encode(), b"snapshot", b"-d", b"\xff\xfe", case.path(IMAGE).encode()), check=True,
                   stdout=subprocess.DEVNULL)
    case.check_both(IMAGE)


def unknown_extra(case, extra):
    """Extra data of a newer program, or less than ours, stays byte for byte."""
    case.qemu_img("create", "-q", "-f", "qcow2", "-o", "compat=0.10" if len(extra) < 16 else "compat=1.1", IMAGE,
                  "1M")
    case.qemu_io(IMAGE, ["write -P 9 0 128k"])
    case.qemu_img("snapshot", "-c", "old", IMAGE)
    path = case.path(IMAGE)
    with open(path, "r+b") as file:
        header = file.read(72)
        offset = int.from_bytes(header[64:72], "big")
        file.seek(offset)
        fixed = bytearray(file.read(40))
        size = int.from_bytes(fixed[36:40], "big")
        rest = file.read(size + 4)[size:]
        fixed[36:40] = len(extra).to_bytes(4, "big")
        file.seek(offset)
        file.write(bytes(fixed) + extra + rest)
    case.commands.append(f"# extra data {extra.hex()}")
    hawser = case.tools.hawser
    case.run(hawser, "snapshot", "-c", "new", IMAGE)
    case.run(hawser, "snapshot", "-c", "newer", IMAGE)
    case.run(hawser, "snapshot", "-d", "new", IMAGE)
    case.check_both(IMAGE)
    with open(path, "rb") as file:
        data = file.read()
    offset = int.from_bytes(data[64:72], "big")
    if data[offset:offset + 40 + len(extra) + 4] != bytes(fixed) + extra + rest:
        raise Failure("the entry of another program was changed")
    case.run(hawser, "snapshot", "-a", "old", IMAGE)
    case.check_both(IMAGE)


VALUES = (0, 1, 0x200, 0x10000, 0x10001, 1 << 40, (1 << 56) - 0x10000, 1 << 62, 1 << 63, (1 << 64) - 1, 0xffffffff,
          0xffffffff00000000, 0x8000000000010000, 0x8000000000050000, 0x00000000ffffffff)


def hostile(case, cluster_size, rounds):
    """Damaged tables: every operation ends, in bounds of time and memory, with success or an error that it tells;
    nothing that is refused has changed what the header names."""
    case.qemu_img("create", "-q", "-f", "qcow2", "-o", f"cluster_size={cluster_size}", "good.qcow2", "1M")
    for number in range(2):
        case.qemu_io("good.qcow2", [f"write -P {number + 1} {number * 65536} 200k"])
        case.qemu_img("snapshot", "-c", f"s{number}", "good.qcow2")
    case.qemu_io("good.qcow2", ["write -P 9 128k 64k"])
    with open(case.path("good.qcow2"), "rb") as file:
        good = file.read()

    def number_at(at):
        return int.from_bytes(good[at:at + 8], "big")

    table = number_at(64)
    entry = table + 40 + int.from_bytes(good[table + 36:table + 40], "big") + 3
    second = table + (entry - table + 7) // 8 * 8
    l1s = [number_at(40), number_at(table), number_at(second)]
    l2s = [number_at(l1) & 0x00fffffffffffe00 for l1 in l1s]
    places = [at for start, length in ([(table, 160), (number_at(48), 16), (number_at(number_at(48)), 64)] +
                                       [(l1, 16) for l1 in l1s] + [(l2, 128) for l2 in l2s] + [(60, 12)])
              for at in range(start, start + length, 4)]
    hawser = case.tools.hawser
    for _ in range(rounds):
        data = bytearray(good)
        told = []
        for _ in range(case.random.choice((1, 1, 2, 4))):
            at, value = case.random.choice(places), case.random.choice(VALUES)
            data[at:at + 8] = value.to_bytes(8, "big")
            told.append(f"{value:#x} at {at:#x}")
        mark = len(case.commands)
        for command in (("snapshot", "-l"), ("info",), ("convert", "-q", "--overwrite", "-O", "raw", "-l", "s0"),
                        ("map", "--snapshot", "1"), ("snapshot", "-c", "new"), ("snapshot", "-a", "s0"),
                        ("snapshot", "-d", "s1"), ("check",)):
            with open(case.path(IMAGE), "wb") as file:
                file.write(data)
            case.commands.append(f"# good.qcow2 with {', '.join(told)}")
            more = ("out.raw",) if command[0] == "convert" else ()
            result = case.run(hawser, *command, IMAGE, *more, expect=(0, 1, 2, 3))
            if result.returncode and command[0] != "check":
                if not result.stderr.startswith(b"hawser"):
                    raise Failure(f"{command}: {result.stderr[:200]!r}")
                with open(case.path(IMAGE), "rb") as file:
                    if file.read(72) != data[:72]:
                        raise Failure(f"{command}: failed, and the header has changed")
        del case.commands[mark:]


def main():
    tools = Tools(__doc__)
    if not tools.hawser:
        print("--hawser is missing")
        return 1
    cases = []
    steps = 40 if tools.full else 8
    extended = {"extended_l2": "on"}
    shapes = [(512, {}), (4096, {}), (65536, {}), (65536, {"compat": "0.10"}), (512, {"compat": "0.10"}),
              (65536, extended), (16384, extended), (4096, {"refcount_bits": 8}), (65536, {"refcount_bits": 64}),
              (512, {"refcount_bits": 64}), (1 << 20, {"refcount_bits": 32}), (2 << 20, {}),
              (65536, {"compression_type": "zstd"}), (4096, {"refcount_bits": 32})]
    for size, options in shapes:
        label = f"{size}-" + "-".join(f"{k[:4]}{v}" for k, v in options.items())
        cases.append((f"walk-{label}", lambda c, s=size, o=options: walk(c, s, o, steps)))
    for size, options in ((512, {}), (65536, {"compat": "0.10"}), (65536, {}), (65536, extended)):
        label = f"{size}-" + "-".join(f"{k[:4]}{v}" for k, v in options.items())
        cases.append((f"backing-{label}", lambda c, s=size, o=options: walk(c, s, o, steps, True)))
    for bits in (1, 2):
        cases.append((f"narrow-{bits}", lambda c, b=bits: narrow(c, b)))
    cases.append(("names", names))
    for extra in (b"", b"\0" * 8, bytes(8) + (1 << 20).to_bytes(8, "big"),
                  bytes(8) + (1 << 20).to_bytes(8, "big") + bytes(range(1, 60))):
        cases.append((f"extra-{len(extra)}", lambda c, e=extra: unknown_extra(c, e)))
    for size in (512, 65536):
        for number in range(2):
            cases.append((f"hostile-{size}-{number}", lambda c, s=size: hostile(c, s, 60 if tools.full else 6)))
    for size, options in ((512, {}), (65536, {"compat": "0.10"}), (65536, {}), (65536, extended)):
        label = f"{size}-" + "-".join(f"{k[:4]}{v}" for k, v in options.items())
        cases.append((f"machine-{label}", lambda c, s=size, o=options: machine(c, s, o)))
    return run_cases(tools, cases)


if __name__ == "__main__":
    sys.exit(main())
