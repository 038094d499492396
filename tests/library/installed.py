#!/usr/bin/env python3
"""Programs of others against the installed library: what `meson install` puts down is all they get.

The headers are taken by C and by C++ compilers, with every warning on; the examples are built with what
pkg-config says, shared and static; and they run: the copy program, the nbdkit plugin under nbdcopy and
under fio with verification, the Python sample.

  installed.py BUILD-FOLDER SOURCE-FOLDER
"""
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile

BUILD, SOURCE = (os.path.abspath(path) for path in sys.argv[1:3])
EXAMPLES = os.path.join(SOURCE, "examples")


def run(*command, check=True, **options):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120,
                          **options)
    if check and done.returncode:
        sys.exit(f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout}")
    return done.stdout


class Installed:
    """The library under a folder of its own."""

    def __init__(self, folder):
        run("meson", "install", "-C", BUILD, "--no-rebuild", "--quiet", "--destdir", folder,
            "--tags", "devel,runtime")
        found = [root for root, _, names in os.walk(folder) if "hawser.pc" in names]
        assert len(found) == 1, f"hawser.pc is in {found}"
        self.libdir = os.path.dirname(found[0])
        self.environment = dict(os.environ, PKG_CONFIG_PATH=found[0], LD_LIBRARY_PATH=self.libdir)
        prefix = run("pkg-config", "--variable=prefix", "hawser", env=self.environment).strip()
        self.prefix = folder + prefix
        self.include = os.path.join(self.prefix, "include")

    def flags(self, *what):
        return run("pkg-config", f"--define-variable=prefix={self.prefix}", *what, "hawser",
                   env=self.environment).split()

    def build(self, compiler, source, output, *flags):
        run(*compiler, "-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter", "-o", output,
             source, *flags, env=self.environment)
        return output


def test_files(tree):
    for name in ("libhawser.so", "libhawser.so.0", "libhawser.a"):
        assert os.path.exists(os.path.join(tree.libdir, name)), f"{name} is not installed"
    headers = sorted(os.listdir(os.path.join(tree.include, "hawser")))
    assert headers == sorted(os.listdir(os.path.join(SOURCE, "include", "hawser"))), headers
    assert run("pkg-config", "--modversion", "hawser", env=tree.environment).strip() == "0.1.0"
    assert "-ljansson" not in tree.flags("--libs"), "a shared user links what the library uses"
    assert "-ljansson" in tree.flags("--static", "--libs")


def test_headers(tree, folder):
    """Each header alone, in C and C++, old and new, with warnings that programs turn on."""
    for header in sorted(os.listdir(os.path.join(tree.include, "hawser"))):
        source = os.path.join(folder, "header.c")
        with open(source, "w") as file:
            file.write(f"#include <hawser/{header}>\n#include <hawser/{header}>\nint unused;\n")
        for compiler in (("gcc", "-std=c99"), ("gcc", "-std=gnu17"), ("gcc", "-x", "c++", "-std=c++11"),
                         ("gcc", "-x", "c++", "-std=c++20")):
            # -Wshadow in C++ minds `struct stat` and stat() too, and this library has such pairs.
            run(*compiler, "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-Wundef",
                *(["-Wstrict-prototypes", "-Wshadow"] if "c++" not in compiler else []), "-c", "-o", os.devnull, source,
                *tree.flags("--cflags"), env=tree.environment)


def test_copy(tree, folder):
    source = os.path.join(folder, "source.raw")
    with open(source, "wb") as file:
        for i in range(40):
            file.seek(i * 777_777)
            file.write(os.urandom(100_000))
        file.truncate(33_333_333 // 512 * 512)
    run("qemu-img", "convert", "-O", "qcow2", source, os.path.join(folder, "source.qcow2"))
    static = ["-static", *tree.flags("--static", "--cflags", "--libs")]
    for name, compiler, flags in (("shared", ["gcc"], tree.flags("--cflags", "--libs")),
                                  ("static", ["gcc"], static),
                                  ("c++", ["g++", "-x", "c++"], tree.flags("--cflags", "--libs"))):
        program = tree.build(compiler, os.path.join(EXAMPLES, "copy.c"), os.path.join(folder, name), *flags)
        linked = "libhawser.so.0" in run("ldd", program, check=False, env=tree.environment)
        assert linked == (name != "static"), f"{name}: linked with the shared library: {linked}"
        for depth in ("1", "16"):
            target = os.path.join(folder, f"{name}-{depth}.qcow2")
            run(program, os.path.join(folder, "source.qcow2"), target, depth, env=tree.environment)
            run("qemu-img", "check", target)
            run("qemu-img", "compare", source, target)
        told = run(program, "/no/such/image", target, check=False, env=tree.environment)
        assert "/no/such/image" in told, told


def test_nbdkit(tree, folder):
    """A foreign server loads the library, and foreign clients look at what it serves."""
    plugin = tree.build(["gcc", "-shared", "-fPIC"], os.path.join(EXAMPLES, "nbdkit-hawser.c"),
                        os.path.join(folder, "nbdkit-hawser.so"), *tree.flags("--cflags", "--libs"))
    image, back = os.path.join(folder, "served.qcow2"), os.path.join(folder, "back.raw")
    source = os.path.join(folder, "source.raw")
    run("qemu-img", "create", "-f", "qcow2", image, str(os.path.getsize(source)))

    def serve(command, *more):
        return run("nbdkit", "-U", "-", plugin, f"image={image}", *more, "--run", command, env=tree.environment)

    serve(f'nbdcopy --connections=2 "{source}" "$uri" && nbdcopy "$uri" "{back}" && '
          'nbdinfo --json --map "$uri" >"' + os.path.join(folder, "map.json") + '"')
    run("cmp", source, back)
    run("qemu-img", "check", image)
    run("qemu-img", "compare", source, image)
    extents = json.load(open(os.path.join(folder, "map.json")))
    assert any(extent["type"] == 3 for extent in extents), "no hole is told"
    assert any(extent["type"] == 0 for extent in extents), "no data is told"
    serve('fio --name=verify --ioengine=nbd --uri="$uri" --rw=randrw --bs=512-64k --iodepth=8 --size=8M '
          '--verify=crc32c --verify_fatal=1 --io_size=16M --fsync=64 --output="' +
          os.path.join(folder, "fio.txt") + '"', "cache=none")
    run("qemu-img", "check", image)
    told = run("nbdkit", "-f", plugin, "image=/no/such/image", check=False, env=tree.environment)
    assert "/no/such/image" in told and "No such file" in told, told


def test_python(tree, folder):
    image = os.path.join(folder, "python.qcow2")
    told = run("python3", os.path.join(EXAMPLES, "disk.py"), image, env=tree.environment)
    assert "all is well" in told, told
    run("qemu-img", "check", image)


def test_guide(tree, folder):
    """The programs in the guide, in their order: each finds what the one before it left."""
    text = open(os.path.join(SOURCE, "docs/library.md")).read()
    programs = re.findall(r"```c\n(.*?)```", text, flags=re.S)
    assert len(programs) >= 2, "the guide has no programs"
    for number, program in enumerate(programs):
        source = os.path.join(folder, f"guide{number}.c")
        with open(source, "w") as file:
            file.write(program)
        built = tree.build(["gcc"], source, source[:-2], *tree.flags("--cflags", "--libs"))
        told = run(built, env=tree.environment, cwd=folder)
        assert told == "", told
    run("qemu-img", "check", os.path.join(folder, "later.qcow2"))


def main():
    folder = tempfile.mkdtemp(prefix="hawser-installed.")
    try:
        tree = Installed(os.path.join(folder, "tree"))
        test_files(tree)
        test_headers(tree, folder)
        test_copy(tree, folder)
        test_nbdkit(tree, folder)
        test_python(tree, folder)
        test_guide(tree, folder)
    finally:
        shutil.rmtree(folder)
    print("the installed library serves all of its users")
    return 0


if __name__ == "__main__":
    sys.exit(main())
