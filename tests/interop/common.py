"""What the interoperation tests share: running the tools, a reference image, and telling failures.

A case records every command that it ran, so that one line says what failed and a short script repeats
it. SPDX-License-Identifier: Apache-2.0
"""
import argparse
import concurrent.futures
import json
import os
import random
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading

TIMEOUT_S = 120
SKIP = 77


class Failure(Exception):
    """A case went wrong; the text is one line."""


class Tools:
    """Where the programs are, and how the tests were asked to run."""

    def __init__(self, description):
        parser = argparse.ArgumentParser(description=description)
        parser.add_argument("--hio", required=True, help="the hio test program")
        parser.add_argument("--hawser", help="the hawser command")
        parser.add_argument("--seed", type=int, default=int(os.environ.get("HAWSER_SEED", "1")))
        parser.add_argument("--case", help="run the cases whose name contains this")
        parser.add_argument("--keep", action="store_true", help="leave the images of failed cases")
        parser.add_argument("--jobs", type=int, default=min(4, os.cpu_count() or 2))
        parser.add_argument("--full", action="store_true",
                            default=os.environ.get("HAWSER_INTEROP") == "full")
        options = parser.parse_args()
        self.__dict__.update(vars(options))
        self.hio = os.path.abspath(self.hio)
        self.hawser = os.path.abspath(self.hawser) if self.hawser else None
        for tool in ("qemu-img", "qemu-io", "qemu-nbd"):
            if not shutil.which(tool):
                print(f"skipped: {tool} is not installed (apt-get install qemu-utils)")
                sys.exit(SKIP)


class Case:
    """One scratch folder, the commands run in it, and the checks that all cases make."""

    def __init__(self, tools, name, seed):
        self.tools, self.name = tools, name
        self.random = random.Random(seed)
        self.folder = tempfile.mkdtemp(prefix="hawser-interop-")
        self.commands = []

    def path(self, name):
        return os.path.join(self.folder, name)

    def run(self, *command, stdin=None, expect=0, limit_memory=None):
        """Runs a command in the case's folder. @expect: exit code, a tuple of them, or None for any."""
        text = " ".join(shlex.quote(part) for part in command)
        if stdin is not None:
            text = f"printf '%s' {shlex.quote(stdin)} | {text}"
        self.commands.append(text)
        if limit_memory:
            command = ("sh", "-c", f'ulimit -v {limit_memory // 1024}; exec "$@"', "sh") + command
        try:
            result = subprocess.run(command, cwd=self.folder, capture_output=True, timeout=TIMEOUT_S,
                                    input=None if stdin is None else stdin.encode(),
                                    stdin=subprocess.DEVNULL if stdin is None else None)
        except subprocess.TimeoutExpired as late:
            raise Failure(f"took more than {TIMEOUT_S} s: {text[:300]}") from late
        if expect is not None and result.returncode not in (expect if isinstance(expect, tuple)
                                                            else (expect,)):
            told = (result.stderr + result.stdout).decode(errors="replace").strip()
            raise Failure(f"exit code {result.returncode}: {text[:300]}: {told[:600]}")
        return result

    # ---- tools -----------------------------------------------------------------------------------

    def hio(self, image, script, *options, expect=0):
        return self.run(self.tools.hio, *options, image, stdin="\n".join(script) + "\n",
                        expect=expect)

    def hio_create(self, image, size, **options):
        options = {name: str(value) for name, value in options.items() if value is not None}
        description = {"driver": "qcow2", "file": {"driver": "file", "filename": image},
                       "size": str(size), **options}
        return self.run(self.tools.hio, "--create", json.dumps(description))

    def hio_dump(self, image, *options):
        return self.run(self.tools.hio, "--dump", *options, image).stdout

    def hio_check(self, image, *options, expect=0):
        """Runs our check. @return its counts by name."""
        result = self.run(self.tools.hio, "--check", "-f", "qcow2", *options, image, expect=expect)
        lines = result.stdout.decode().strip().splitlines()
        return {name: int(value) for name, value in (pair.split("=") for pair in lines[-1].split())}

    def qemu_img(self, *arguments, expect=0):
        return self.run("qemu-img", *arguments, expect=expect)

    def qemu_io(self, image, commands, *options, expect=0, image_format="qcow2"):
        arguments = [part for command in commands for part in ("-c", command)]
        return self.run("qemu-io", "-t", "writeback", "-f", image_format, *options, *arguments, image,
                        expect=expect)

    def qemu_dump(self, image, image_format="qcow2", options=()):
        raw = self.path("dump.raw")
        self.qemu_img("convert", *options, "-t", "unsafe", "-S", "64k", "-f", image_format, "-O", "raw", image, raw)
        with open(raw, "rb") as file:
            data = file.read()
        os.unlink(raw)
        return data

    def qemu_check(self, image, expect=0):
        result = self.qemu_img("check", "--output=json", "-f", "qcow2", image, expect=expect)
        return json.loads(result.stdout)

    # ---- what must hold ------------------------------------------------------------------------------

    def check_both(self, image):
        """Both checks are clean and agree on the counts."""
        theirs, ours = self.qemu_check(image), self.hio_check(image)
        pairs = (("total", "total-clusters"), ("allocated", "allocated-clusters"),
                 ("fragmented", "fragmented-clusters"), ("compressed", "compressed-clusters"),
                 ("end", "image-end-offset"))
        for mine, yours in pairs:
            if ours[mine] != theirs.get(yours, 0):
                raise Failure(f"check of {image}: {yours} is {theirs.get(yours, 0)}, we say {ours[mine]}")
        return ours

    def same_content(self, image, reference=None):
        """Both read the same, and where @reference knows it, what was written."""
        theirs, ours = self.qemu_dump(image), self.hio_dump(image, "-f", "qcow2")
        if len(theirs) != len(ours):
            raise Failure(f"{image}: they read {len(theirs)} bytes, we {len(ours)}")
        if theirs != ours:
            at = next(i for i in range(len(ours)) if ours[i] != theirs[i])
            raise Failure(f"{image}: offset {at:#x}: they read {theirs[at]:#x}, we {ours[at]:#x}")
        if reference is not None:
            reference.compare(image, ours)

    def same_map(self, image, image_format="qcow2"):
        """`hawser map` covers the image, agrees with qemu-img's on the layers, and tells the truth: what it
        calls zero is zero, and where it says that bytes lie, they lie."""
        if not self.tools.hawser:
            return
        ours = json.loads(self.run(self.tools.hawser, "map", "-f", image_format, "--output=json",
                                   image).stdout)
        theirs = json.loads(self.qemu_img("map", "-f", image_format, "--output=json", image).stdout)
        content, end, files = self.hio_dump(image, "-f", image_format), 0, {}
        for extent in ours:
            start, length = extent["start"], extent["length"]
            piece = content[start:start + length]
            if start != end or length == 0:
                raise Failure(f"map of {image}: an extent starts at {start}, the last ended at {end}")
            end += length
            if extent["zero"] and piece.count(0) != len(piece):
                raise Failure(f"map of {image}: {start:#x}, {length:#x} bytes, is not zero")
            if extent["data"] and not extent["zero"] and "offset" in extent:
                name = extent["filename"]
                if name not in files:
                    with open(os.path.join(self.folder, name), "rb") as file:
                        files[name] = file.read()
                stored = files[name][extent["offset"]:extent["offset"] + length]
                if stored != piece[:len(stored)] or any(piece[len(stored):]):
                    raise Failure(f"map of {image}: the bytes of {start:#x} do not lie at "
                                  f"{extent['offset']:#x} of {name}")
        if end != len(content):
            raise Failure(f"map of {image}: ends at {end}, the image at {len(content)}")
        if layers(ours) != layers(theirs):
            raise Failure(f"map of {image}: they see the layers {layers(theirs)}, we {layers(ours)}"[:900])

    # ---- ends -------------------------------------------------------------------------------------------

    def close(self, failed):
        if failed and self.tools.keep:
            return
        shutil.rmtree(self.folder, ignore_errors=True)

    def script(self):
        """The commands that repeat the case."""
        return "\n".join(["mkdir -p /tmp/case && cd /tmp/case"] + self.commands)


def layers(extents):
    """A map as [start, depth, present], neighbours joined; where nothing is present the depth says nothing."""
    joined = []
    for extent in extents:
        if extent["length"] == 0:
            continue
        row = [extent["depth"] if extent["present"] else None, extent["present"]]
        if not joined or joined[-1][1:] != row:
            joined.append([extent["start"], *row])
    return joined


class Reference:
    """What the guest should read: bytes, and which of them are known (a discard forgets some)."""

    def __init__(self, content):
        self.data = bytearray(content)
        self.known = bytearray(b"\1" * len(content))

    def write(self, offset, length, byte):
        self.data[offset:offset + length] = bytes((byte,)) * length
        self.known[offset:offset + length] = b"\1" * length

    def forget(self, offset, length):
        self.known[offset:offset + length] = bytes(length)

    def resize(self, size):
        grown = max(0, size - len(self.data))
        self.data, self.known = self.data[:size] + bytes(grown), self.known[:size] + b"\1" * grown

    def compare(self, image, content):
        if len(content) != len(self.data):
            raise Failure(f"{image}: {len(content)} bytes long, {len(self.data)} expected")
        if content == self.data:
            return
        for at, (byte, wanted, known) in enumerate(zip(content, self.data, self.known)):
            if known and byte != wanted:
                raise Failure(f"{image}: offset {at:#x} holds {byte:#x}, {wanted:#x} was written")


def make_image(case, size, options, below=0):
    """image.qcow2 by qemu-img, over a raw file of @below random bytes where that is not 0. What it reads as."""
    text = ",".join(f"{k}={v}" for k, v in options.items())
    data = bytearray(size)
    backing = []
    if below:
        content = case.random.randbytes(below)
        with open(case.path("base.raw"), "wb") as file:
            file.write(content)
        case.commands.append(f"head -c {below} /dev/urandom > base.raw")
        data[:below] = content[:size]
        backing = ["-b", "base.raw", "-F", "raw"]
    case.qemu_img("create", "-q", "-f", "qcow2", "-o", text, *backing, "image.qcow2", str(size))
    return Reference(data)


def random_range(rng, size, cluster_size):
    """A range that likes the edges of clusters, sometimes sector-sized, sometimes several clusters."""
    if size == 0:
        return 0, 0
    kind = rng.randrange(4)
    if kind == 0:
        offset = rng.randrange(size)
        length = rng.randrange(1, 5000)
    elif kind == 1:
        offset = rng.randrange(size) // 512 * 512
        length = 512 * rng.randrange(1, 9)
    elif kind == 2:
        offset = rng.randrange(size) // cluster_size * cluster_size
        length = cluster_size * rng.randrange(1, 4)
    else:
        offset = rng.randrange(size) // cluster_size * cluster_size - rng.choice((0, 1, 512, 4096))
        length = rng.randrange(1, 2 * cluster_size + 2)
    offset = max(0, offset)
    return offset, max(1, min(length, size - offset, 4 << 20))


class Writer:
    """Random operations through one tool, mirrored on a reference."""

    def __init__(self, case, tool, image, cluster_size, reference):
        self.case, self.tool, self.image = case, tool, image
        self.cluster_size, self.reference = cluster_size, reference

    def run(self, count):
        rng, script = self.case.random, []
        for _ in range(count):
            offset, length = random_range(rng, len(self.reference.data), self.cluster_size)
            if length == 0:
                continue
            self.add(script, rng.choices(("write", "zero", "unmap", "discard", "flush"),
                                         (60, 12, 8, 12, 8))[0], offset, length, rng.randrange(1, 256))
        if self.tool == "qemu":
            self.case.qemu_io(self.image, script)
        else:
            self.case.hio(self.image, script, "-f", "qcow2", *self.tool[1:])

    def add(self, script, operation, offset, length, byte):
        qemu = self.tool == "qemu"
        if operation == "write":
            script.append(f"write -P {byte} {offset} {length}" if qemu
                          else f"write {offset} {length} {byte}")
            self.reference.write(offset, length, byte)
        elif operation in ("zero", "unmap"):
            unmap = operation == "unmap"
            script.append(f"write -z{' -u' if unmap else ''} {offset} {length}" if qemu
                          else f"zero {offset} {length}{' unmap' if unmap else ''}")
            self.reference.write(offset, length, 0)
        elif operation == "discard":
            script.append(f"discard {offset} {length}")
            self.reference.forget(offset, length)
        else:
            script.append("flush")


def run_cases(tools, cases):
    """@cases: list of (name, function(case)). Runs them on a few threads. @return exit code."""
    lock, done = threading.Lock(), {"passed": 0, "failed": 0}

    def one(item):
        name, function = item
        case = Case(tools, name, f"{tools.seed}/{name}")
        failed = None
        try:
            function(case)
        except Failure as failure:
            failed = str(failure)
        except Exception as error:  # a broken test must not look like a passed one
            failed = f"{type(error).__name__}: {error}"
        case.close(failed)
        with lock:
            done["failed" if failed else "passed"] += 1
            if failed:
                print(f"FAIL {name}: {failed}")
                if done["failed"] <= 5:
                    print("  to repeat:\n    " + case.script().replace("\n", "\n    ")[:6000])
                sys.stdout.flush()

    if tools.case:
        cases = [item for item in cases if tools.case in item[0]]
    with concurrent.futures.ThreadPoolExecutor(tools.jobs) as pool:
        list(pool.map(one, cases))
    print(f"{done['passed']} passed, {done['failed']} failed (seed {tools.seed})")
    return 1 if done["failed"] or not done["passed"] else 0
