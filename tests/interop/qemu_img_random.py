"""Random sequences of command lines for qemu_img.py: chains of images, made, written, copied, resized,
rebased, committed, and looked at, with wrong command lines in between.

SPDX-License-Identifier: Apache-2.0
"""
import os

from common import Failure

NAMES = ["a", "b", "c", "d", "e", "dir/f", "dir/g"]
KIB = 1024


def options_text(rng, alone=True):
    """-o of a new qcow2 image. @alone: without a backing file, which preallocation would hide."""
    chosen = []
    if rng.random() < 0.4:
        chosen.append(f"cluster_size={rng.choice(['512', '4k', '16384', '64K', '2M', '0x10000'])}")
    if rng.random() < 0.3:
        chosen.append(f"refcount_bits={rng.choice([1, 2, 8, 16, 32, 64])}")
    if rng.random() < 0.3:
        chosen.append(f"compat={rng.choice(['1.1', 'v3', '0.10', 'v2'])}")
    if rng.random() < 0.3:
        chosen.append(f"compression_type={rng.choice(['zlib', 'zstd'])}")
    if rng.random() < 0.2:
        chosen.append(rng.choice(["lazy_refcounts=on", "lazy_refcounts", "extended_l2=on"]))
    if alone and rng.random() < 0.2:
        chosen.append(f"preallocation={rng.choice(['off', 'metadata', 'falloc', 'full'])}")
    rng.shuffle(chosen)
    if not chosen:
        return []
    return ["-o", ",".join(chosen)] if rng.random() < 0.7 else \
        [word for option in chosen for word in ("-o", option)]


def size_text(rng, largest=3 * KIB * KIB):
    """A size, in one of the ways to write it."""
    size = rng.randrange(1, largest)
    kind = rng.randrange(5)
    if kind == 0:
        return str(size)
    if kind == 1:
        return f"{size // KIB + 1}{rng.choice('kK')}"
    if kind == 2:
        return f"{rng.randrange(1, 3)}.{rng.randrange(100)}M"
    if kind == 3:
        return hex(size)
    return f"{max(1, size // (KIB * KIB))}M"


class Sequence:
    """One random sequence over a pair of twins."""

    def __init__(self, twins, rng):
        self.twins, self.rng = twins, rng
        self.format = {}  # of the images that there are
        self.below = {}  # their backing files
        self.snapshots = set()
        for folder in twins.folders.values():
            os.mkdir(os.path.join(folder, "dir"))

    def any_image(self, kind=None):
        """The name of an image, now and then of none."""
        names = [name for name, format in self.format.items() if kind in (None, format)]
        if not names or self.rng.random() < 0.04:
            return self.rng.choice(NAMES)
        return self.rng.choice(names)

    def format_option(self, name, letter="-f"):
        """-f, mostly the right one."""
        if self.rng.random() < 0.4:
            return []
        right = self.format.get(name, "qcow2")
        if self.rng.random() < 0.03:
            right = self.rng.choice(["raw", "qcow2", "nonsense"])
        return [letter, right] if self.rng.random() < 0.8 else [letter + right]

    def change(self, arguments, target=None, format=None):
        """Runs a command that writes. A target that could not be made is taken away in both."""
        code = self.twins.write(arguments)
        if target is None:
            return code
        if code == 0:
            self.format[target] = format
        elif target not in self.format or format is not None:
            self.format.pop(target, None)
            for folder in self.twins.folders.values():
                if os.path.isfile(os.path.join(folder, target)):
                    os.unlink(os.path.join(folder, target))
        return code

    def may_back(self, name):
        """The images that do not lie over @name: qemu-img hangs on one that backs itself."""
        def over(other):
            seen = set()
            while other is not None and other not in seen:
                if other == name:
                    return True
                seen.add(other)
                other = self.below.get(other)
            return False
        return [other for other in self.format if not over(other)]

    # ---- what is done ----

    def create(self):
        rng, name = self.rng, self.rng.choice(NAMES)
        format = rng.choice(["qcow2", "qcow2", "raw"])
        words = ["create", "-f", format]
        size = [size_text(rng)]
        if format == "qcow2":
            others = self.may_back(name) if rng.random() < 0.5 else []
            words += options_text(rng, not others)
            if others:
                backing = rng.choice(others)
                self.below[name] = backing
                named = os.path.relpath(backing, os.path.dirname(name) or ".")
                words += ["-b", named, "-F", self.format[backing]]
                size = size if rng.random() < 0.3 else []
        elif rng.random() < 0.3:
            words += ["-o", f"preallocation={rng.choice(['off', 'falloc', 'full'])}"]
        if rng.random() < 0.2:
            words.append("-q")
        self.change(words + [name] + size, name, format)

    def fill(self):
        """The guest writes: the same in both twins."""
        rng, name = self.rng, self.any_image()
        if name not in self.format:
            return
        for _ in range(rng.randrange(1, 4)):
            offset, length = rng.randrange(0, 2048) * 512, rng.randrange(1, 200) * 512
            what = rng.choice([f"write -P {rng.randrange(1, 256)}", "write -z", "write -z -u",
                               "discard"])
            self.twins.guest(name, self.format[name], f"{what} {offset} {length}")

    def convert(self):
        rng, source, target = self.rng, self.any_image(), self.rng.choice(NAMES)
        format = rng.choice(["qcow2", "raw"])
        words = ["convert", *self.format_option(source), "-O", format]
        if format == "qcow2":
            words += options_text(rng)
        for option, chance in (("-c", 0.2), ("-p", 0.2), ("-W", 0.2), ("-U", 0.1), ("-q", 0.1)):
            # A source that is shared may be written by its own copy: refused here.
            if rng.random() < chance and (option != "-U" or source != target):
                words.append(option)
        if rng.random() < 0.2:
            words += ["-m", str(rng.randrange(1, 17))]
        if rng.random() < 0.2:
            words += ["-S", rng.choice(["0", "512", "4k", "64k", "12k"])]
        if rng.random() < 0.2:
            words += ["-t", rng.choice(["none", "writeback", "writethrough", "directsync", "unsafe"])]
        if rng.random() < 0.2:
            words += ["-T", rng.choice(["none", "writeback"])]
        self.change([*words, source, target], target, format)

    def resize(self):
        rng, name = self.rng, self.any_image()
        words = ["resize", *self.format_option(name)]
        if rng.random() < 0.5:
            words.append("--shrink")
        if rng.random() < 0.2:
            words.append("-q")
        self.change([*words, name, rng.choice(["", "+", "-"]) + size_text(rng)])

    def rebase(self):
        rng, name = self.rng, self.any_image("qcow2")
        others = self.may_back(name)
        words = ["rebase", *self.format_option(name)]
        # Snapshots would change with what is below them: rebase and commit refuse that here.
        if name in self.snapshots or rng.random() < 0.3:
            words.append("-u")
        if rng.random() < 0.2:
            words.append("-p")
        if not others or rng.random() < 0.3:
            return self.change([*words, "-b", "", name])
        backing = rng.choice(others)
        self.below[name] = backing
        named = os.path.relpath(backing, os.path.dirname(name) or ".")
        if rng.random() < 0.9:
            words += ["-F", self.format[backing]]
        return self.change([*words, "-b", named, name])

    def commit(self):
        name = self.any_image("qcow2")
        words = ["commit", *self.format_option(name)]
        if self.snapshots or self.rng.random() < 0.3:
            words.append("-d")
        self.change([*words, name])

    def snapshot(self):
        rng, name = self.rng, self.any_image("qcow2")
        action = rng.choice(["-c", "-c", "-a", "-d"])
        if action == "-c":
            self.snapshots.add(name)
        self.change(["snapshot", action, rng.choice(["one", "two", "1", "2"]), name])

    def look(self):
        rng, name = self.rng, self.any_image()
        share = rng.choice([[], [], ["-U"]])
        json = rng.choice([[], ["--output=json"], ["--output", "json"], ["--output=human"]])
        kind = rng.randrange(7)
        if kind == 0:
            chain = rng.choice([[], ["--backing-chain"]])
            words = ["info", *self.format_option(name), *json, *share, *chain, name]
        elif kind == 1:
            window = rng.choice([[], ["--start-offset", size_text(rng)], ["-l", size_text(rng)]])
            words = ["map", *self.format_option(name), *json, *share, *window, name]
        elif kind == 2:
            words = ["check", *self.format_option(name), *json, *share, name]
        elif kind == 3:
            words = ["measure", *json, "-O", rng.choice(["raw", "qcow2"]), name]
        elif kind == 4:
            words = ["compare", *rng.choice([[], ["-s"], ["-p"], ["-q"]]), name, self.any_image()]
        elif kind == 5:
            words = ["snapshot", "-l", name]
        else:
            words = ["info", "--image-opts", *json, f"driver={self.format.get(name, 'raw')},"
                     f"file.filename={name}"]
        try:
            self.twins.read(words, exact_errors=False)
        except Failure:
            if words[0] not in ("map", "compare"):
                raise
            self.twins.fill_holes()
            self.twins.read(words, exact_errors=False)

    def step(self):
        """One thing, drawn."""
        acts = [(self.create, 4), (self.fill, 5), (self.convert, 4), (self.resize, 2),
                (self.rebase, 2), (self.commit, 2), (self.snapshot, 2), (self.look, 8)]
        if len(self.format) < 2:
            acts = [(self.create, 1)]
        act = self.rng.choices([act for act, _ in acts], [weight for _, weight in acts])[0]
        act()


def run(twins, rng, steps):
    """@return nothing; a difference is a Failure, with the sequence so far in twins.log."""
    sequence = Sequence(twins, rng)
    for _ in range(steps):
        sequence.step()
    twins.same_files()
    if not sequence.format and steps > 20:
        raise Failure("a sequence that made no image tests nothing")
