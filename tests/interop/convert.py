#!/usr/bin/env python3
"""`hawser convert` and `hawser compare` against qemu-img's: whatever is converted by one is found equal by
the other, holes stay holes, and a conversion that fails or is killed leaves nothing under the target's name.
SPDX-License-Identifier: Apache-2.0
"""
import itertools
import json
import os
import resource
import signal
import subprocess
import sys
import time

sys.dont_write_bytecode = True
from common import Failure, Reference, Tools, Writer, run_cases

SOURCES = {
    "raw": ("raw", {}),
    "qcow2": ("qcow2", {"cluster_size": 65536}),
    "small": ("qcow2", {"cluster_size": 512}),
    "large": ("qcow2", {"cluster_size": 2097152, "refcount_bits": 1}),
    "extended": ("qcow2", {"cluster_size": 131072, "extended_l2": "on"}),
    "v2": ("qcow2", {"compat": "0.10"}),
    "zlib": ("qcow2", {"compress": "zlib"}),
    "zstd": ("qcow2", {"compress": "zstd"}),
    "chain": ("qcow2", {"chain": 3}),
}
TARGETS = {
    "raw": ("raw", ()),
    "default": ("qcow2", ()),
    "v2": ("qcow2", ("compat=0.10",)),
    "small": ("qcow2", ("cluster_size=512,extended_l2=off",)),
    "large": ("qcow2", ("cluster_size=2M,refcount_bits=64",)),
    "metadata": ("qcow2", ("preallocation=metadata",)),
    "zlib": ("qcow2", ("compress", "cluster_size=64k,extended_l2=off")),
    "zlib-extended": ("qcow2", ("compress",)),
    "zlib-small": ("qcow2", ("compress", "cluster_size=512,extended_l2=off,compat=0.10")),
    "zlib-large": ("qcow2", ("compress", "cluster_size=2M,refcount_bits=1")),
    "zstd": ("qcow2", ("compress", "compression_type=zstd,cluster_size=64k,extended_l2=off")),
    "zstd-extended": ("qcow2", ("compress", "compression_type=zstd,refcount_bits=2")),
}


def fill(case, size):
    """A raw file of data, text, zeroes written as data, and holes, in pieces that no cluster size divides."""
    rng, data, at = case.random, bytearray(size), 0
    while at < size:
        length = min(size - at, rng.randrange(1, 300_000))
        kind = rng.randrange(4)
        if kind == 0:
            data[at:at + length] = rng.randbytes(length)
        elif kind == 1:
            data[at:at + length] = (b"the quick brown fox jumps over the lazy dog. " * (length // 45 + 1))[:length]
        at += length
    with open(case.path("content.raw"), "wb") as file:
        file.write(data)
    return bytes(data)


def make_source(case, name, size):
    """@return the content, the source's file and its format."""
    kind, options = SOURCES[name]
    data = fill(case, size)
    options = dict(options)
    codec, chain = options.pop("compress", None), options.pop("chain", 0)
    if kind == "raw":
        return data, "content.raw", "raw"
    flags = ["-c"] if codec else []
    if codec:
        options["compression_type"] = codec
    text = ",".join(f"{k}={v}" for k, v in options.items())
    case.qemu_img("convert", *flags, "-f", "raw", "-O", "qcow2", *(("-o", text) if text else ()), "content.raw",
                  "source.qcow2")
    data = bytearray(data)
    below = "source.qcow2"
    for layer in range(chain):
        above = f"layer{layer}.qcow2"
        case.qemu_img("create", "-q", "-f", "qcow2", "-b", below, "-F", "qcow2", above)
        for _ in range(6):
            length = min(case.random.randrange(1, 200) * 512, size)
            at = case.random.randrange(0, size - length + 1) // 512 * 512
            byte = case.random.randrange(0, 3) * 40
            case.qemu_io(above, [f"write -P {byte} {at} {length}"])
            data[at:at + length] = bytes((byte,)) * length
        below = above
    return bytes(data), below, "qcow2"


def convert(case, source, target, size):
    data, path, kind = make_source(case, source, size)
    out_kind, options = TARGETS[target]
    compress = "compress" in options
    extra = [part for text in options if text != "compress" for part in ("-o", text)]
    if compress:
        extra += ["-c", *(("--level", str(case.random.randrange(1, 13))) if case.random.random() < 0.3 else ())]
    offload = case.random.random() < 0.3
    if offload:
        extra.append("-C")
    told = json.loads(case.run(case.tools.hawser, "convert", "-f", kind, "-O", out_kind, *extra, "--verify",
                               "--output=json", path, "target").stdout)
    if told["virtual-size"] != size or told["data-bytes"] + told["offload-bytes"] + told["zero-bytes"] != size:
        raise Failure(f"convert told {told} of {size} bytes")
    case.qemu_img("compare", "-f", kind, "-F", out_kind, path, "target")
    if out_kind == "qcow2":
        case.qemu_check("target")
        content = case.qemu_dump("target")
    else:
        with open(case.path("target"), "rb") as file:
            content = file.read()
        stored, ideal = os.stat(case.path("target")).st_blocks * 512, sparse_bytes(data)
        if stored > ideal + (1 << 16) and not offload:
            raise Failure(f"{stored} bytes are stored where {ideal} are not zero")
    if content != data:
        raise Failure("the target does not hold what the source does")
    if compress:
        written_over(case, data)
    leftovers = [name for name in os.listdir(case.folder) if ".convert-" in name]
    if leftovers:
        raise Failure(f"left behind: {leftovers}")


def written_over(case, data):
    """Compressed clusters are there, and what is written over them reads back, by us and by them."""
    if not case.check_both("target")["compressed"]:
        raise Failure("no cluster is compressed")
    reference = Reference(data)
    for tool in (("hio", "-r", "uring"), "qemu", ("hio", "-r", "threads")):
        Writer(case, tool, "target", 65536, reference).run(8)
        case.check_both("target")
        case.same_content("target", reference)


def smaller(case, size):
    """Compressed targets are no larger than qemu-img's by more than 1 %."""
    _, path, kind = make_source(case, "raw", size)
    for codec in ("zlib", "zstd"):
        options = f"compression_type={codec},cluster_size=64k"
        case.qemu_img("convert", "-c", "-f", kind, "-O", "qcow2", "-o", options, path, "theirs")
        case.run(case.tools.hawser, "convert", "-c", "--overwrite", "-f", kind, "-o", options + ",extended_l2=off", path,
                 "ours")
        ours, theirs = (os.stat(case.path(name)).st_size for name in ("ours", "theirs"))
        if ours > theirs * 1.01:
            raise Failure(f"{codec}: {ours} bytes; qemu-img makes {theirs}")


def sparse_bytes(data):
    """Bytes of 4 KiB blocks that are not all zero."""
    block = bytes(4096)
    return sum(4096 for at in range(0, len(data), 4096) if data[at:at + 4096] != block[:len(data) - at])


def compare(case, size):
    """The verdict is qemu-img's, for equal, different and longer images of different formats."""
    data, path, kind = make_source(case, "chain", size)
    case.qemu_img("convert", "-f", kind, "-O", "raw", path, "equal.raw")
    other = bytearray(data)
    at = case.random.randrange(size)
    other[at] ^= 1 << case.random.randrange(8)
    for name, content in (("different.raw", other), ("longer.raw", data + bytes(123 * 512)),
                          ("longer-data.raw", data + bytes(122 * 512) + b"x" * 512), ("shorter.raw", data[:size // 2])):
        with open(case.path(name), "wb") as file:
            file.write(content)
    for name in ("equal", "different", "longer", "longer-data", "shorter"):
        # Their -s compares what is allocated, too: the same where the sizes differ.
        for strict in ((), ("-s",)) if name.startswith(("longer", "shorter")) else ((),):
            for swapped in (False, True):
                pair = ("-f", "raw", "-F", "qcow2", name + ".raw", path) if swapped else \
                    ("-f", "qcow2", "-F", "raw", path, name + ".raw")
                theirs = case.qemu_img("compare", *strict, *pair, expect=None).returncode
                ours = case.run(case.tools.hawser, "compare", *strict, "--output=json", *pair, expect=None)
                if ours.returncode != theirs:
                    raise Failure(f"{name} {strict} {swapped}: they say {theirs}, we {ours.returncode}")
                told = json.loads(ours.stdout)
                if name == "different" and told["offset"] != at:
                    raise Failure(f"the first difference is at {at}, told is {told['offset']}")
    case.run(case.tools.hawser, "compare", "-f", "raw", "-F", "raw", "equal.raw", "missing.raw", expect=2)


def killed(case, size):
    """SIGKILL at any moment: the target is whole or not there, an old target is whole."""
    data, path, kind = make_source(case, "qcow2", size)
    old = b"an old target " * 1000
    for round_ in range(12):
        with open(case.path("target"), "wb") as file:
            file.write(old)
        command = [case.tools.hawser, "convert", "-q", "-f", kind, "-O", "raw", "--overwrite", path, "target"]
        process = subprocess.Popen(command, cwd=case.folder, stderr=subprocess.PIPE)
        time.sleep(case.random.random() * 0.06)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        with open(case.path("target"), "rb") as file:
            content = file.read()
        if content not in (old, data):
            raise Failure(f"round {round_}: a target of {len(content)} bytes that is neither the old nor the new one")


def interrupted(case, size):
    """Ctrl-C: the process ends by it, and nothing of the target is left; a replaced one keeps its mode."""
    _, path, kind = make_source(case, "qcow2", size)
    ended = 0
    for round_ in range(12):
        command = [case.tools.hawser, "convert", "-q", "-c", "-f", kind, path, "target"]
        process = subprocess.Popen(command, cwd=case.folder, stderr=subprocess.PIPE)
        time.sleep(0.03 + case.random.random() * 0.1)
        process.send_signal(signal.SIGINT)
        told = process.communicate()[1].decode()
        left = [name for name in os.listdir(case.folder) if name.startswith("target")]
        if process.returncode == -signal.SIGINT and not left:
            ended += 1
        elif process.returncode != 0 or left != ["target"]:
            raise Failure(f"round {round_}: exit code {process.returncode}, left {left}: {told}")
        if left:
            os.unlink(case.path("target"))
    if not ended:
        raise Failure("no conversion was interrupted")
    with open(case.path("target"), "wb"):
        pass
    os.chmod(case.path("target"), 0o640)
    case.run(case.tools.hawser, "convert", "-q", "--overwrite", "-f", kind, path, "target")
    if os.stat(case.path("target")).st_mode & 0o777 != 0o640:
        raise Failure("the target's mode was not kept")


def full(case, size):
    """No room: an error that tells where, and nothing is left."""
    _, path, kind = make_source(case, "qcow2", size)

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size // 3, size // 3))
    for out in ("raw", "qcow2"):
        result = subprocess.run([case.tools.hawser, "convert", "-f", kind, "-O", out, path, "target"],
                                cwd=case.folder, capture_output=True, preexec_fn=limit)
        told = result.stderr.decode()
        if result.returncode != 1 or not told.startswith("hawser convert: error:"):
            raise Failure(f"exit code {result.returncode}: {told}")
        left = [name for name in os.listdir(case.folder) if name.startswith("target")]
        if left:
            raise Failure(f"{out}: left behind: {left}")


def refused(case, size):
    """What would destroy something is refused, in words."""
    _, path, _ = make_source(case, "chain", size)
    hawser = case.tools.hawser
    for arguments, words in (((path, "content.raw"), "--overwrite"), ((path, path, "--overwrite"), "part of the source"),
                             ((path, "source.qcow2", "--overwrite"), "part of the source"),
                             (("-c", "-O", "raw", path, "new"), "no compressed clusters"),
                             (("--level", "3", path, "new"), "-c is missing"),
                             (("-c", "--level", "13", path, "new"), "end at 12"),
                             (("--size", "512", path, "new"), "cut it off"),
                             (("--threads", "17", path, "new"), "up to 16 threads"),
                             (("-n", "-o", "compat=1.1", path, "new"), "new ones"), (("missing", "new"), "missing"),
                             (("-S", "5000", path, "new"), "power of two")):
        before = sorted(os.listdir(case.folder))
        result = case.run(hawser, "convert", *arguments, expect=(1, 2))
        if words not in result.stderr.decode():
            raise Failure(f"{arguments}: '{words}' is not in: {result.stderr.decode()}")
        if sorted(os.listdir(case.folder)) != before:
            raise Failure(f"{arguments}: files came or went")
    case.qemu_img("create", "-q", "-f", "qcow2", "small.qcow2", str(size // 2 // 512 * 512))
    case.run(hawser, "convert", "-n", "-O", "qcow2", path, "small.qcow2", expect=1)


def existing(case, size):
    """-n writes over whatever was there."""
    data, path, _ = make_source(case, "chain", size)
    case.qemu_img("create", "-q", "-f", "qcow2", "there.qcow2", str(size + 65536))
    case.qemu_io("there.qcow2", [f"write -P 9 0 {size + 65536}"])
    case.run(case.tools.hawser, "convert", "-n", "-O", "qcow2", path, "there.qcow2")
    if case.qemu_dump("there.qcow2") != data + bytes(65536):
        raise Failure("the target does not hold what the source does")


def cases(tools):
    for source, target in itertools.product(SOURCES, TARGETS):
        for size in (1536, 3_000_320) if tools.full else (3_000_320,):
            yield f"convert-{source}-{target}-{size}", lambda case, a=(source, target, size): convert(case, *a)
    yield "compare", lambda case: compare(case, 2_500_096)
    yield "killed", lambda case: killed(case, 30_000_128)
    yield "interrupted", lambda case: interrupted(case, 60_000_256)
    yield "full", lambda case: full(case, 6_000_128)
    yield "refused", lambda case: refused(case, 1_000_448)
    yield "smaller", lambda case: smaller(case, 90_000_384)
    yield "existing", lambda case: existing(case, 2_000_384)


def main():
    tools = Tools(__doc__)
    sys.exit(run_cases(tools, list(cases(tools))))


if __name__ == "__main__":
    main()
