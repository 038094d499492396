"""What the tests of commit and rebase share: chains of images with random layers.
SPDX-License-Identifier: Apache-2.0
"""
import json
import signal
import subprocess
import time

from common import Failure

LAYERS = {
    "plain": "cluster_size=64k",
    "small": "cluster_size=512",
    "v2": "compat=0.10",
    "extended": "cluster_size=128k,extended_l2=on",
    "large": "cluster_size=2M,refcount_bits=1",
    "zstd": "cluster_size=4k,compression_type=zstd",
}


def fill(case, image, image_format, size, count):
    """Random writes, zeroes and discards."""
    rng, commands = case.random, []
    for _ in range(count):
        offset = rng.randrange(size)
        length = min(size - offset, rng.randrange(1, 200_000))
        kind = rng.randrange(10)
        if kind < 6:
            commands.append(f"write -P {rng.randrange(1, 256)} {offset} {length}")
        elif kind < 8:
            commands.append(f"write -z -u {offset} {length}")
        elif kind == 8 and image_format == "qcow2":
            commands.append(f"write -z {offset} {length}")
        else:
            commands.append(f"write -P {rng.randrange(1, 256)} {offset // 65536 * 65536} "
                            f"{min(size - offset // 65536 * 65536, 131072)}")
    case.qemu_io(image, commands, image_format=image_format)


def size_of(case):
    """About 4 MiB, so that layers are shorter and longer than each other; often no whole cluster."""
    return 512 * case.random.choice((8192, 6144, 10240, 8192 + case.random.randrange(512),
                                     5000 + case.random.randrange(999)))


def create(case, name, below, count=5, kind=None, size=None, image_format="qcow2"):
    """@below: None or a (name, format). @return (name, format)."""
    size = size or size_of(case)
    flags = ["-b", below[0], "-F", below[1]] if below else []
    if image_format == "qcow2":
        kind = kind or case.random.choice(list(LAYERS))
        flags += ["-o", LAYERS[kind]]
    case.qemu_img("create", "-q", "-f", image_format, *flags, name, str(size))
    if count:
        fill(case, name, image_format, size, count)
    return name, image_format


def chain(case, depth, base_format="qcow2"):
    """A chain of random layers, the base first. @return [(name, format)]."""
    layers = [create(case, "base", None, image_format=base_format)]
    for layer in range(depth):
        layers.append(create(case, f"layer{layer}", layers[-1]))
    return layers


def kill_at_random(case, longest_s, *command):
    """Runs hawser and kills it; the kernel lets go of the files of a killed process a little later."""
    process = subprocess.Popen([case.tools.hawser, *command], cwd=case.folder, stderr=subprocess.DEVNULL)
    time.sleep(case.random.random() * longest_s)
    process.send_signal(signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if all(case.run(*look, command[-1], expect=(0, 1)).returncode == 0
               for look in (("qemu-img", "map"), ("qemu-io", "-c", "quit"))):
            return
        time.sleep(0.02)
    raise Failure("a killed process keeps its locks")


def dump(case, layer):
    return case.qemu_dump(*layer)


def expect_same(case, layer, content, what):
    """Both programs read what they did before."""
    theirs = dump(case, layer)
    ours = case.hio_dump(layer[0], "-f", layer[1])
    for who, got in (("they", theirs), ("we", ours)):
        if got != content:
            at = next((i for i, (a, b) in enumerate(zip(got, content)) if a != b),
                      min(len(got), len(content)))
            raise Failure(f"{what}: {who} read {layer[0]} differently at {at:#x} "
                          f"({len(got)} bytes, {len(content)} before)")


def expect_clean(case, *layers):
    for name, image_format in layers:
        if image_format == "qcow2":
            case.qemu_check(name)
            case.hio_check(name)


def info(case, layer):
    return json.loads(case.qemu_img("info", "-U", "--output=json", "-f", layer[1], layer[0]).stdout)
