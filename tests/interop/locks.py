#!/usr/bin/env python3
"""Image locks, both ways with QEMU's tools.

While a holder has an image open (to write, to read, or with --force-share), newcomers of every kind
try to use it. For qcow2 the oracle is QEMU itself: what happens beside a holder of ours must be what
happens beside qemu-io, and what happens to our newcomer must be what happens to theirs. For raw, which
qemu-io does not protect, the table is written out. SPDX-License-Identifier: Apache-2.0
"""
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time

from common import Case, Failure, Tools, run_cases

ROLES = ("writer", "reader", "share")
OUR_TEXT = "another process (%s, pid %d) is "
THEIR_TEXT = "lock"


def open_files(pid):
    folder = f"/proc/{pid}/fd"
    try:
        return {fd: os.readlink(os.path.join(folder, fd)) for fd in os.listdir(folder)}
    except OSError:
        return {}


def has_locks(pid, fd):
    try:
        with open(f"/proc/{pid}/fdinfo/{fd}", encoding="ascii") as info:
            return any("OFDLCK" in line for line in info)
    except OSError:
        return False


class Holder:
    """A process that has an image open, until it leaves the `with` block."""

    def __init__(self, case, who, role, image_format, image):
        if who == "hawser":
            command = [case.tools.hio, "-f", image_format]
            command += {"writer": [], "reader": ["-R"], "share": ["-R", "-U"]}[role]
        else:
            command = ["qemu-io", "-f", image_format]
            command += {"writer": [], "reader": ["-r"], "share": ["-r", "-U"]}[role]
        self.command, self.image, self.locks = command + [image], image, role != "share"
        case.commands.append(" ".join(self.command) + " &   # and stays")

    def __enter__(self):
        self.process = subprocess.Popen(self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=subprocess.STDOUT)
        end = time.monotonic() + 90
        while not self.ready():
            if self.process.poll() is not None or time.monotonic() > end:
                self.process.kill()
                told = self.process.communicate()[0].decode(errors="replace")
                raise Failure(f"the holder did not start: {' '.join(self.command)}: {told[:300]}")
            time.sleep(0.005)
        return self

    def ready(self):
        pid = self.process.pid
        mine = [fd for fd, path in open_files(pid).items() if path == self.image]
        if not self.locks:
            time.sleep(0.1)
            return bool(mine)
        return any(has_locks(pid, fd) for fd in mine)

    def __exit__(self, *_):
        self.process.stdin.close()
        try:
            self.process.wait(90)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise Failure(f"the holder did not end: {' '.join(self.command)}") from None
        self.process.stdout.close()


# ---- newcomers: name -> command, and for ours which of theirs behaves the same -----------------------

def theirs(image_format, image, overlay):
    return {
        "info": ["qemu-img", "info", "-f", image_format, image],
        "info-U": ["qemu-img", "info", "-U", "-f", image_format, image],
        "read": ["qemu-io", "-r", "-f", image_format, "-c", "read 0 4k", image],
        "read-U": ["qemu-io", "-r", "-U", "-f", image_format, "-c", "read 0 4k", image],
        "write": ["qemu-io", "-f", image_format, "-c", "write 0 4k", image],
        "resize": ["qemu-img", "resize", "-f", image_format, image, "8M"],
        "convert": ["qemu-img", "convert", "-f", image_format, "-O", "raw", image, image + ".out"],
        "compare": ["qemu-img", "compare", "-f", image_format, "-F", image_format, image, image],
        "create": ["qemu-img", "create", "-f", image_format, image, "4M"],
        "overlay": ["qemu-io", "-f", "qcow2", "-c", "write 0 4k", overlay],
        "overlay-read": ["qemu-io", "-r", "-f", "qcow2", "-c", "read 0 4k", overlay],
        "commit": ["qemu-img", "commit", overlay],
        **({} if image_format == "raw" else {
            "check": ["qemu-img", "check", "-f", image_format, image],
            "repair": ["qemu-img", "check", "-r", "all", "-f", image_format, image],
            "snapshot": ["qemu-img", "snapshot", "-c", "s", image],
        }),
    }


def ours(hio, image_format, image, overlay):
    create = json.dumps({"driver": image_format, "size": "4M",
                         "file": {"driver": "file", "filename": image}})
    return {
        "read": [hio, "-f", image_format, "-R", image],
        "read-U": [hio, "-f", image_format, "-R", "-U", image],
        "write": [hio, "-f", image_format, image],
        "create": [hio, "--create", create],
        **({} if image_format == "raw" else {
            "check": [hio, "--check", "-f", image_format, image],
            "repair": [hio, "--check=all", "-f", image_format, image],
            "overlay": [hio, "-f", "qcow2", overlay],
            "overlay-read": [hio, "-f", "qcow2", "-R", overlay],
        }),
    }


SCRIPTS = {"read": "read 0 4096\n", "read-U": "read 0 4096\n", "write": "write 0 4096 1\n",
           "overlay": "write 0 4096 1\n", "overlay-read": "read 0 4096\n"}


def prepare(case, image_format):
    """A fresh image and an overlay of it. @return their paths."""
    image, overlay = case.path("image"), case.path("overlay")
    for path in (image, overlay, image + ".out"):
        if os.path.exists(path):
            os.unlink(path)
    case.qemu_img("create", "-q", "-f", image_format, image, "4M")
    case.qemu_io(image, ["write -P 7 0 1M"], image_format=image_format)
    case.qemu_img("create", "-q", "-f", "qcow2", "-b", image, "-F", image_format, overlay)
    return image, overlay


def digest(path):
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


def attempt(case, holder, role, image_format, side, newcomer):
    """Whether @newcomer of @side may use an image that @holder has open. A refusal changes nothing."""
    image, overlay = prepare(case, image_format)
    commands = (theirs(image_format, image, overlay) if side == "qemu"
                else ours(case.tools.hio, image_format, image, overlay))
    with Holder(case, holder, role, image_format, image) as open_image:
        before = digest(image)
        result = case.run(*commands[newcomer], expect=None,
                          stdin=SCRIPTS.get(newcomer, "") if side == "hawser" else None)
        if result.returncode == 0:
            return True
        told = (result.stderr + result.stdout).decode(errors="replace")
        name = os.path.basename(open_image.command[0])
        if (OUR_TEXT % (name, open_image.process.pid) if side == "hawser" else THEIR_TEXT) not in told:
            raise Failure(f"{side} {newcomer} beside {holder} {role}: refused for another reason: "
                          f"{told[:300]}")
        if digest(image) != before:
            raise Failure(f"{side} {newcomer} beside {holder} {role}: refused, but changed the image")
    return False


def word(allowed):
    return "allowed" if allowed else "refused"


def compare_qcow2(case, role, newcomer):
    """All four pairs of a holder and a newcomer end like QEMU beside QEMU."""
    image_format = "qcow2"
    expected = attempt(case, "qemu", role, image_format, "qemu", newcomer)
    pairs = [("hawser", "qemu")]
    if newcomer in ours("", image_format, "", ""):
        pairs += [("qemu", "hawser"), ("hawser", "hawser")]
    for holder, side in pairs:
        got = attempt(case, holder, role, image_format, side, newcomer)
        if got != expected:
            raise Failure(f"{newcomer} of {side} beside {holder} {role} is {word(got)}; of qemu beside "
                          f"qemu it is {word(expected)}")


# The newcomers that are refused beside a raw image that we have open. QEMU's own share a raw image with
# a writer where no format protects it: info takes no lock, read, compare and overlay share everything.
RAW_REFUSED = {
    "writer": {"write", "resize", "convert", "create", "commit"},
    "reader": {"write", "resize", "create", "commit"},
    "share": set(),
}
RAW_REFUSED_OURS = {
    "writer": {"read", "write", "create"},
    "reader": {"write", "create"},
    "share": set(),
}


def check_raw(case, role, side, newcomer):
    refused = (RAW_REFUSED if side == "qemu" else RAW_REFUSED_OURS)[role]
    got = attempt(case, "hawser", role, "raw", side, newcomer)
    if got == (newcomer in refused):
        raise Failure(f"{newcomer} of {side} beside our raw {role} is {word(got)}")


def two_readers_of_one_backing_file(case):
    image, overlay = prepare(case, "qcow2")
    second = case.path("second")
    case.qemu_img("create", "-q", "-f", "qcow2", "-b", image, "-F", "qcow2", second)
    with Holder(case, "hawser", "writer", "qcow2", overlay):
        with Holder(case, "qemu", "writer", "qcow2", second):
            with Holder(case, "hawser", "reader", "qcow2", image):
                case.qemu_img("info", image)
                case.hio(image, ["read 0 4096 7"], "-R", "-f", "qcow2")
                if case.qemu_io(image, ["write 0 4k"], expect=None).returncode == 0:
                    raise Failure("the backing file of open images could be written by qemu-io")
                if case.hio(image, ["write 0 4096 1"], "-f", "qcow2", expect=None).returncode == 0:
                    raise Failure("the backing file of open images could be written by us")


def locks_end_with_their_process(case):
    image, _ = prepare(case, "raw")
    with Holder(case, "hawser", "writer", "raw", image) as holder:
        if case.qemu_io(image, ["write 0 4k"], image_format="raw", expect=None).returncode == 0:
            raise Failure("a second writer was let in")
        holder.process.send_signal(signal.SIGKILL)
        holder.process.wait()
        case.qemu_io(image, ["write 0 4k"], image_format="raw")


# A holder without locks keeps nobody out, so a few kinds of newcomer show it.
SHARE_NEWCOMERS = ("read", "write", "create", "repair", "overlay")


def cases():
    yield "killed-holder", locks_end_with_their_process
    yield "shared-backing", two_readers_of_one_backing_file
    for role in ROLES:
        for side, table in (("qemu", theirs("raw", "", "")), ("hawser", ours("", "raw", "", ""))):
            for name in table:
                yield (f"raw-{role}-{side}-{name}",
                       lambda case, a=(role, side, name): check_raw(case, *a))
        for name in (theirs("qcow2", "", "") if role != "share" else SHARE_NEWCOMERS):
            yield f"qcow2-{role}-{name}", lambda case, a=(role, name): compare_qcow2(case, *a)


if __name__ == "__main__":
    if not shutil.which("qemu-io"):
        print("skipped: qemu-io is not installed (apt-get install qemu-utils)")
        sys.exit(77)
    sys.exit(run_cases(Tools(__doc__), list(cases())))
