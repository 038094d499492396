"""The lab's images: made once by recipe/make, kept outside the tree, made again when the recipe changes.

  ${XDG_CACHE_HOME:-~/.cache}/hawser/lab/
      KERNEL.lock              held while an image of that kernel is made: two runs do not make it twice
      KERNEL-HASH/             vmlinux, initramfs, root.img, manifest; HASH is the recipe's
      KERNEL-HASH.lock         held shared by every machine that runs on it, so that nobody removes it
      slot-N.lock              held by a machine that runs: no more at a time than this host has room for
      slot-next.lock           held by the one that waits for such a lock

A folder is made beside its place and renamed into it, so one that is there is whole. One of an older recipe
goes when it was not used for a day (other work trees may have another recipe).
"""
import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
import time

SUITES = {"6.1": "bookworm", "6.12": "trixie"}
RECIPE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "recipe")
KEEP_S = 24 * 3600
TOOLS = ("mmdebstrap", "mke2fs", "cpio", "modprobe", "depmod", "xz", "zstd", "dpkg-deb")


class Failure(Exception):
    """Told to the user as it is."""


def cache():
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return os.path.join(base, "hawser", "lab")


def recipe_hash():
    digest = hashlib.sha256()
    for name in sorted(os.listdir(RECIPE)):
        with open(os.path.join(RECIPE, name), "rb") as file:
            digest.update(name.encode() + b"\0" + file.read())
    return digest.hexdigest()[:12]


def folder(kernel):
    return os.path.join(cache(), f"{kernel}-{recipe_hash()}")


def which(tool):
    return shutil.which(tool, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")


def missing(kernel):
    """Why no machine of this kernel can run here, or None."""
    if not which("qemu-system-x86_64"):
        return "qemu-system-x86_64 is not installed (tools/install-deps lab)"
    if os.path.isdir(folder(kernel)):
        return None
    told = subprocess.run([os.path.join(RECIPE, "mirror")], capture_output=True, text=True)
    if told.returncode != 0:
        return "apt has no Debian mirror to make the lab's images from"
    url = f"{told.stdout.strip().rstrip('/')}/dists/{SUITES[kernel]}/InRelease"
    with tempfile.TemporaryDirectory() as scratch:
        # As apt would: with its proxies.
        got = subprocess.run(["/usr/lib/apt/apt-helper", "-o", "Acquire::http::Timeout=20", "-o", "Acquire::Retries=1",
                              "download-file", url, os.path.join(scratch, "InRelease")], capture_output=True)
    return None if got.returncode == 0 else f"the Debian mirror cannot be reached: {url}"


@contextlib.contextmanager
def locked(path, how):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "a") as file:
        fcntl.flock(file, how)
        yield


@contextlib.contextmanager
def held(kernel, say):
    """The folder of a kernel's images, made where it is missing; nobody removes it inside the block."""
    place = folder(kernel)
    with contextlib.ExitStack() as stack:
        with locked(os.path.join(cache(), kernel + ".lock"), fcntl.LOCK_EX):
            if not os.path.isdir(place):
                make(kernel, place, say)
            stack.enter_context(locked(place + ".lock", fcntl.LOCK_SH))
        os.utime(place)
        yield place


def slots():
    """How many machines run at a time: each has two processors, of which it mostly uses one, and up to 2.5 GB."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(1, min(os.cpu_count(), memory // (5 << 29)))


@contextlib.contextmanager
def slot(say):
    """Waits until this host has room for one more machine."""
    os.makedirs(cache(), exist_ok=True)
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(open(os.path.join(cache(), f"slot-{n}.lock"), "a")) for n in range(slots())]
        if not any(taken(file) for file in files):
            say(f"waiting: {len(files)} machines run, for more this host has no room")
            # Who waits first is next.
            with locked(os.path.join(cache(), "slot-next.lock"), fcntl.LOCK_EX):
                while not any(taken(file) for file in files):
                    time.sleep(0.2)
        yield


def taken(file):
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def make(kernel, place, say):
    lacking = [tool for tool in TOOLS if not which(tool)]
    if lacking:
        raise Failure(f"missing here: {' '.join(lacking)}; run tools/install-deps lab")
    say(f"making the images of kernel {kernel} (Debian {SUITES[kernel]}): once, a few minutes")
    as_root = [] if os.geteuid() == 0 or not which("sudo") else ["sudo", "--preserve-env=HAWSER_LAB_MIRROR"]
    part = tempfile.mkdtemp(prefix=f"{kernel}-part.", dir=cache())
    try:
        done = subprocess.run([*as_root, "nice", os.path.join(RECIPE, "make"), SUITES[kernel], part],
                              stdin=subprocess.DEVNULL, stdout=2)
        if done.returncode != 0:
            raise Failure(f"making the images of kernel {kernel} failed (exit code {done.returncode})")
        os.chmod(part, 0o755)
        os.rename(part, place)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    remove_old(kernel, say, unused_s=KEEP_S, but=place)


def remove_old(kernel, say, unused_s, but=None):
    """Removes a kernel's folders that nobody runs on and nobody used for so long."""
    for name in os.listdir(cache()):
        path = os.path.join(cache(), name)
        if not name.startswith(kernel + "-") or not os.path.isdir(path) or path == but:
            continue
        if time.time() - os.stat(path).st_mtime < unused_s:
            continue
        try:
            with locked(path + ".lock", fcntl.LOCK_EX | fcntl.LOCK_NB):
                shutil.rmtree(path)
                os.unlink(path + ".lock")
        except BlockingIOError:
            say(f"in use, stays: {path}")


def clean(only, say):
    if not os.path.isdir(cache()):
        return 0
    for kernel in [only] if only else SUITES:
        with locked(os.path.join(cache(), kernel + ".lock"), fcntl.LOCK_EX):
            remove_old(kernel, say, unused_s=0)
    return 0
