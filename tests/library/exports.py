#!/usr/bin/env python3
"""What libhawser exports is what its headers declare: no name more, none less, all versioned.

  exports.py INCLUDE-FOLDER LIBRARY.so LIBRARY.a
"""
import os
import re
import subprocess
import sys


def declared(include):
    """The functions that the public headers declare."""
    names = set()
    for header in sorted(os.listdir(os.path.join(include, "hawser"))):
        text = open(os.path.join(include, "hawser", header)).read()
        text = re.sub(r"/\*.*?\*/", "", text, flags=re.S)
        text = re.sub(r"(?m)^\s*#.*$", "", text)
        text = re.sub(r"typedef[^;]*;", "", text)
        names |= set(re.findall(r"\b(hws_\w+)\s*\(", text))
    return names


def defined(*arguments):
    lines = subprocess.run(["nm", *arguments], check=True, capture_output=True, text=True).stdout
    return [line.split()[1:] for line in lines.splitlines() if len(line.split()) == 3]


def main():
    include, shared, static = sys.argv[1:]
    wanted, failed = declared(include), False

    def report(what, names):
        nonlocal failed
        if names:
            failed = True
            print(f"{what}: {' '.join(sorted(names))}")

    symbols = subprocess.run(["nm", "-D", shared], check=True, capture_output=True, text=True).stdout
    dynamic = [name for kind, name in defined("-D", "--defined-only", shared) if kind != "A"]
    found = {name.split("@")[0] for name in dynamic}
    report("declared, but not exported by the shared library", wanted - found)
    report("exported by the shared library, but not declared", found - wanted)
    report("without a version", {name for name in dynamic if "@@HAWSER_" not in name})
    found = {name for kind, name in defined("--defined-only", "--extern-only", static)}
    report("declared, but not in the static library", wanted - found)
    report("global in the static library, but not declared", found - wanted)
    sonames = subprocess.run(["readelf", "-d", shared], check=True, capture_output=True, text=True).stdout
    if "Library soname: [libhawser.so.0]" not in sonames:
        failed = True
        print("the soname is not libhawser.so.0")
    sections = subprocess.run(["readelf", "-SW", shared], check=True, capture_output=True, text=True).stdout
    constructors = re.search(r"\.init_array\s+INIT_ARRAY\s+\w+\s+\w+\s+(\w+)", sections)
    # One belongs to the compiler's own start files; sanitizers add theirs.
    if "__asan" not in symbols and "__tsan" not in symbols and int(constructors.group(1), 16) > 8:
        failed = True
        print("loading the library runs code of its own")
    if len(wanted) < 40:
        failed = True
        print(f"only {len(wanted)} declarations were found: the test does not see the headers")
    print(f"{len(wanted)} functions")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
