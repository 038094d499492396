#!/usr/bin/env python3
"""`hawser convert --resume`: killed at random moments and begun again, the target is complete in the end, is
clean, and not all of it was copied again; a changed source is refused. SPDX-License-Identifier: Apache-2.0
"""
import json
import os
import signal
import subprocess
import sys
import time

sys.dont_write_bytecode = True
from common import Failure, Tools, run_cases

SIZE = 64 << 20
SHAPES = {
    "raw": ["-O", "raw"],
    "plain": ["-o", "cluster_size=64k,extended_l2=off"],
    "extended": [],
    "zlib": ["-c"],
}


def make_source(case):
    with open(case.path("disk"), "wb") as file:
        for _ in range(SIZE >> 20):
            if case.random.randrange(8):
                file.write(case.random.randbytes(1 << 20))
            else:
                file.seek(1 << 20, os.SEEK_CUR)
        file.truncate(SIZE)


def convert(case, flags, rate, *more, expect=0):
    return case.run(case.tools.hawser, "convert", "--resume", "--output=json", "-f", "raw", "-r", rate, *flags, *more,
                    "disk", "target", expect=expect)


def cut_off(case, flags, how, after_s):
    process = subprocess.Popen([case.tools.hawser, "convert", "--resume", "-q", "-f", "raw", "-r", "10M", *flags,
                                "disk", "target"], cwd=case.folder, stderr=subprocess.DEVNULL)
    time.sleep(after_s)
    process.send_signal(how)
    process.wait()


def settle(case, flags):
    """The kernel lets go of a killed process's files a little later."""
    for _ in range(500):
        result = convert(case, flags, "1G", expect=None)
        if result.returncode == 0:
            return json.loads(result.stdout)
        time.sleep(0.02)
    raise Failure(f"cannot be resumed: {result.stderr.decode()}")


def resumed(shape):
    def function(case):
        flags = SHAPES[shape]
        make_source(case)
        for how in case.random.sample((signal.SIGKILL, signal.SIGKILL, signal.SIGINT), 2):
            cut_off(case, flags, how, 0.3 + case.random.random() * 1.2)
            if os.path.exists(case.path("target")):
                raise Failure("a target that is not complete")
        # A second after the first byte there was a checkpoint.
        cut_off(case, flags, signal.SIGKILL, 1.8)
        told = settle(case, flags)
        if not 0 < told["resumed-bytes"] < SIZE:
            raise Failure(f"resumed {told['resumed-bytes']} of {SIZE} bytes")
        image_format = "raw" if shape == "raw" else "qcow2"
        case.qemu_img("compare", "-q", "-f", "raw", "-F", image_format, "disk", "target")
        if image_format == "qcow2":
            case.qemu_check("target")
        left = [name for name in os.listdir(case.folder) if "convert" in name]
        if left:
            raise Failure(f"{left} is left")
    return function


def changed(case):
    make_source(case)
    cut_off(case, [], signal.SIGKILL, 1.3)
    if not os.path.exists(case.path("target.convert-journal")):
        raise Failure("there is no journal")
    time.sleep(0.5)
    for more in (["-c"], ["-o", "cluster_size=1M"], ["--size", "128M"]):
        if b"another conversion" not in convert(case, more, "1G", expect=1).stderr:
            raise Failure(f"resumed with {more}")
    os.utime(case.path("disk"))
    if b"another conversion" not in convert(case, [], "1G", expect=1).stderr:
        raise Failure("resumed from a source that has changed")
    if not os.path.exists(case.path("target.convert-partial")):
        raise Failure("a refusal took the partial target away")
    for more in (["--no-sync"], ["-n"]):
        convert(case, more, "1G", expect=1)
    # A journal that is cut, and one without its target.
    os.truncate(case.path("target.convert-journal"), 60)
    convert(case, [], "1G", expect=1)
    os.unlink(case.path("target.convert-journal"))
    convert(case, [], "1G")
    case.qemu_img("compare", "-q", "-f", "raw", "-F", "qcow2", "disk", "target")


def main():
    tools = Tools(__doc__)
    cases = [(f"resumed/{shape}/{n}", resumed(shape)) for shape in SHAPES for n in range(4 if tools.full else 1)]
    return run_cases(tools, cases + [("changed", changed)])


if __name__ == "__main__":
    sys.exit(main())
