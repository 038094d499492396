#!/usr/bin/env python3
"""The qemu-img personality held against qemu-img 7.2, side by side.

Two twin folders begin with the same images. Every command line runs in both: in one by the installed
qemu-img, in the other by hawser under that name. Compared are standard output, standard error, the exit
code, and afterwards the files: their list, what they contain (qemu-img compare), what the real qemu-img
tells of them, and that they check clean. Commands that only read run by both programs on the same image
instead, so that every byte of their output must agree, sizes on disk included.

  picked     the command lines of qemu_img_cases.py: every option, every text that scripts know
  generated  random sequences over chains of images; HAWSER_SEEDS widens them

Texts of failures that are not picked must agree in being there and in the exit code.
SPDX-License-Identifier: Apache-2.0
"""
import json
import os
import random
import re
import shlex
import shutil
import subprocess
import sys
import tempfile

import qemu_img_cases as cases
import qemu_img_random
from common import SKIP, TIMEOUT_S, Failure, Tools

SEEDS = int(os.environ.get("HAWSER_SEEDS", "6"))
STEPS = 14
ENVIRONMENT = dict(os.environ, LC_ALL="C", TZ="UTC")


def normal(text, loose):
    """@loose: what depends on where an image was allocated, or on how fast work went, left out."""
    text = re.sub(rb"(    \(\d+\.\d\d/100%\)\r?)+", b"(progress)", text)
    text = re.sub(rb"in \d+\.\d+ seconds", b"in T seconds", text)
    text = re.sub(rb"'/[\w./-]*/qemu-img'", b"'PROGRAM'", text)
    text = re.sub(rb"[\w./-]*qemu-img version.*\n(Copyright.*\n)?", b"VERSION\n", text)
    if loose:
        text = re.sub(rb"disk size: .*", b"disk size: X", text)
        text = re.sub(rb'"actual-size": \d+', b'"actual-size": X', text)
        text = re.sub(rb'"image-end-offset": \d+', b'"image-end-offset": X', text)
        text = re.sub(rb"Image end offset: \d+", b"Image end offset: X", text)
    return text


class Twins:
    """Two folders, and both programs."""

    def __init__(self, tools):
        self.root = tempfile.mkdtemp(prefix="hawser-qemu-img-")
        self.folders = {"theirs": os.path.join(self.root, "theirs"),
                        "ours": os.path.join(self.root, "ours")}
        for folder in self.folders.values():
            os.mkdir(folder)
        bin_folder = os.path.join(self.root, "bin")
        os.mkdir(bin_folder)
        os.symlink(tools.hawser, os.path.join(bin_folder, "qemu-img"))
        self.programs = {"theirs": shutil.which("qemu-img"),
                         "ours": os.path.join(bin_folder, "qemu-img")}
        self.log = []

    def close(self, keep):
        if not keep:
            shutil.rmtree(self.root, ignore_errors=True)

    def run(self, who, where, arguments):
        """qemu-img of @who in the folder of @where."""
        try:
            return subprocess.run([self.programs[who], *arguments], cwd=self.folders[where],
                                  capture_output=True, timeout=TIMEOUT_S, env=ENVIRONMENT,
                                  stdin=subprocess.DEVNULL)
        except subprocess.TimeoutExpired as late:
            raise Failure(f"{who}: took more than {TIMEOUT_S} s: {shlex.join(arguments)}") from late

    def both(self, command, *arguments):
        """A command other than qemu-img, in both folders."""
        self.log.append(shlex.join((command, *arguments)))
        for folder in self.folders.values():
            result = subprocess.run([command, *arguments], cwd=folder, capture_output=True,
                                    timeout=TIMEOUT_S, env=ENVIRONMENT, stdin=subprocess.DEVNULL)
            if result.returncode:
                raise Failure(f"{shlex.join((command, *arguments))}: {result.stderr.decode()}")

    def guest(self, name, format, command):
        """qemu-io writes to the image of both twins; out of range in one is so in the other."""
        self.log.append(f"qemu-io -f {format} -c {command!r} {name}")
        codes = [subprocess.run(["qemu-io", "-f", format, "-c", command, name], cwd=folder,
                                capture_output=True, timeout=TIMEOUT_S, env=ENVIRONMENT,
                                stdin=subprocess.DEVNULL).returncode
                 for folder in self.folders.values()]
        if codes[0] != codes[1]:
            self.differ(f"qemu-io {command} {name}", *codes)

    def differ(self, what, theirs, ours):
        raise Failure(f"{what}\n  theirs: {theirs!r}\n  ours:   {ours!r}")

    def hold(self, arguments, theirs, ours, loose, exact_errors):
        line = shlex.join(arguments)
        if theirs.returncode != ours.returncode:
            self.differ(f"{line}: exit code", (theirs.returncode, theirs.stderr),
                        (ours.returncode, ours.stderr))
        out = normal(theirs.stdout, loose), normal(ours.stdout, loose)
        if out[0] != out[1]:
            self.differ(f"{line}: output", *out)
        if exact_errors:
            told = normal(theirs.stderr, loose), normal(ours.stderr, loose)
            if told[0] != told[1]:
                self.differ(f"{line}: messages", *told)
        elif bool(theirs.stderr) != bool(ours.stderr):
            self.differ(f"{line}: messages", theirs.stderr, ours.stderr)

    def write(self, arguments, exact_errors=False):
        """Each program on its own twin. @return the exit code."""
        self.log.append("qemu-img " + shlex.join(arguments))
        theirs = self.run("theirs", "theirs", arguments)
        ours = self.run("ours", "ours", arguments)
        self.hold(arguments, theirs, ours, True, exact_errors)
        return theirs.returncode

    def read(self, arguments, exact_errors=True):
        """Both programs on the same images, in both folders."""
        self.log.append("qemu-img " + shlex.join(arguments))
        for where in self.folders:
            theirs = self.run("theirs", where, arguments)
            ours = self.run("ours", where, arguments)
            self.hold(arguments, theirs, ours, False, exact_errors)

    def fill_holes(self):
        """No image has holes any more: qemu-img tells of a hole in the file below a qcow2 image as of
        zeroes, in some cases."""
        for folder in self.folders.values():
            for above, _, names in os.walk(folder):
                for path in (os.path.join(above, name) for name in names):
                    with open(path, "rb") as file:
                        content = file.read()
                    with open(path, "wb") as file:
                        file.write(content)

    def settle(self, arguments):
        """The real qemu-img in ours: must not fail."""
        result = self.run("theirs", "ours", arguments)
        if result.returncode:
            raise Failure(f"{shlex.join(arguments)} of ours: {result.stderr + result.stdout!r}")
        return result.stdout

    def same_files(self):
        """The same files, with the same guest data, and ours whole."""
        names = [sorted(os.path.relpath(os.path.join(above, name), folder)
                        for above, _, files in os.walk(folder) for name in files)
                 for folder in self.folders.values()]
        if names[0] != names[1]:
            self.differ("files", *names)
        for name in names[0]:
            pair = [os.path.join(folder, name) for folder in self.folders.values()]
            infos = [self.described(path) for path in pair]
            if infos[0] != infos[1]:
                self.differ(f"{name}: info", *infos)
            if infos[0] is None:
                continue
            told = subprocess.run(["qemu-img", "compare", "-q", *pair], capture_output=True,
                                  timeout=TIMEOUT_S, env=ENVIRONMENT, stdin=subprocess.DEVNULL)
            if told.returncode == 1:
                raise Failure(f"{name}: contents differ")
            if infos[0].get("format") == "qcow2" and told.returncode == 0:
                self.settle(["check", "-q", name])

    def described(self, path):
        """What the real qemu-img tells, without what the allocation decides. None: no image."""
        result = subprocess.run(["qemu-img", "info", "--output=json", path], capture_output=True,
                                timeout=TIMEOUT_S, env=ENVIRONMENT, stdin=subprocess.DEVNULL)
        if result.returncode:
            return None
        info = json.loads(result.stdout)
        for name in ("actual-size", "filename", "full-backing-filename"):
            info.pop(name, None)
        for snapshot in info.get("snapshots", []):
            snapshot.pop("date-sec"), snapshot.pop("date-nsec")
        return info


# ---- in use elsewhere ----

def run_locked(tools):
    """The lines of LOCKED, while another process writes to the image that they are about."""
    if tools.case and tools.case not in "locked":
        return 0
    twins = Twins(tools)
    fixtures(twins)
    writers = [subprocess.Popen(["qemu-io", "base"], cwd=folder, stdin=subprocess.PIPE,
                                stdout=subprocess.PIPE, env=ENVIRONMENT)
               for folder in twins.folders.values()]
    failures = 0
    try:
        for writer in writers:
            writer.stdin.write(b"read 0 512\n")
            writer.stdin.flush()
            writer.stdout.readline()
        failures = sum(picked_line(twins, "locked", line) for line in cases.LOCKED)
    finally:
        for writer in writers:
            writer.communicate(b"quit\n", timeout=TIMEOUT_S)
    twins.close(tools.keep)
    return failures


# ---- picked ----

def fixtures(twins):
    """The images that the picked command lines are about."""
    for line in cases.FIXTURES:
        words = shlex.split(line)
        twins.both(*words)


def run_picked(tools):
    failures = 0
    for name, lines in cases.PICKED.items():
        if tools.case and tools.case not in name:
            continue
        twins = Twins(tools)
        try:
            fixtures(twins)
            for line in lines:
                failures += picked_line(twins, name, line)
            twins.same_files()
        except Failure as failure:
            print(f"FAIL picked {name}: {failure}")
            failures += 1
        twins.close(tools.keep)
    return failures


def picked_line(twins, name, line):
    """One line; its first character says how it is held (qemu_img_cases.py)."""
    kind, text = line[0], line[1:]
    words = shlex.split(text)
    try:
        if kind == "!":
            twins.both(*words)
        elif kind == "?":
            twins.read(words)
        elif kind == "~":
            twins.write(words)
        else:
            twins.write(words, exact_errors=True)
    except Failure as failure:
        print(f"FAIL picked {name}: {failure}")
        return 1
    return 0


# ---- generated ----

def run_generated(tools):
    failures = 0
    for seed in range(tools.seed, tools.seed + SEEDS):
        name = f"generated-{seed}"
        if tools.case and tools.case not in name:
            continue
        twins = Twins(tools)
        try:
            qemu_img_random.run(twins, random.Random(seed), STEPS)
        except Failure as failure:
            print(f"FAIL {name}: {failure}\n    " + "\n    ".join(twins.log))
            failures += 1
        twins.close(tools.keep)
    return failures


def main():
    tools = Tools(__doc__)
    failures = run_picked(tools) + run_locked(tools) + run_generated(tools)
    if failures:
        print(f"{failures} differences")
        sys.exit(1)
    print("all the same")


if __name__ == "__main__":
    main()
