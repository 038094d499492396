"""What the system tests share: running `hawser` as a user does, and a small test runner.

A test script calls main(globals()); every function named test_* runs in a scratch folder of its own with
its own HAWSER_RUN_DIR, and everything that it attached is detached afterwards. Skips are exit code 77.
"""
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import traceback

HAWSER = os.path.abspath(sys.argv[1]) if len(sys.argv) > 1 else "hawser"
ORIGINAL = dict(os.environ)


class Skip(Exception):
    pass


class Result:
    def __init__(self, done):
        self.code, self.out, self.err = done.returncode, done.stdout, done.stderr

    def json(self):
        return json.loads(self.out)


def hawser(*words, code=0, env=None, timeout=120, **more):
    """Runs `hawser`; asserts its exit code."""
    done = subprocess.run([HAWSER, *map(str, words)], capture_output=True, text=True, timeout=timeout,
                          env={**os.environ, **(env or {})}, **more)
    assert done.returncode == code, f"hawser {' '.join(map(str, words))}: exit {done.returncode}, not {code}\n{done.stdout}{done.stderr}"
    assert "Sanitizer" not in done.stderr, done.stderr
    return Result(done)


def run(*words, **more):
    return subprocess.run(list(map(str, words)), check=True, capture_output=True, text=True, **more).stdout


def need_devices():
    """Skips where FUSE and loop devices cannot be used."""
    if os.geteuid() != 0:
        raise Skip("needs root for loop devices and mounts")
    for path in ("/dev/fuse", "/dev/loop-control"):
        if not os.access(path, os.R_OK | os.W_OK):
            raise Skip(f"needs {path}")


def need_tool(*names):
    for name in names:
        if not shutil.which(name):
            raise Skip(f"needs {name}")


def attach(image, *words, **more):
    return hawser("attach", "--output=json", image, *words, **more).json()


def entry(name):
    """What `list` tells of one attachment; None where there is none."""
    found = [e for e in hawser("list", "--output=json").json() if e["name"] == name]
    return found[0] if found else None


def device_size(device):
    return int(run("blockdev", "--getsize64", device))


def wait_until(what, seconds=90):
    """@seconds are patience with a slow machine, and measure nothing."""
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def nothing_left(folder):
    """No attachment, mount or loop device of this test is left."""
    left = os.listdir(os.environ["HAWSER_RUN_DIR"]) if os.path.exists(os.environ["HAWSER_RUN_DIR"]) else []
    assert left == [], left
    assert folder not in open("/proc/self/mountinfo").read(), "a mount is left"
    wait_until(lambda: folder not in run("losetup", "-a"))


def connect(path, timeout=90):
    client = socket.socket(socket.AF_UNIX)
    client.connect(path)  # without a timeout: waits where the backlog is full
    client.settimeout(timeout)
    return client


class Rpc:
    """A client of the control socket."""

    def __init__(self, path, timeout=90):
        self.socket = connect(path, timeout)
        self.file = self.socket.makefile("rb")

    def send(self, raw):
        self.socket.sendall(raw)

    def receive(self):
        line = self.file.readline()
        return json.loads(line) if line else None

    def ask(self, method, **params):
        self.send(json.dumps({"jsonrpc": "2.0", "id": 7, "method": method, "params": params}).encode() + b"\n")
        return self.receive()

    def close(self):
        self.file.close()
        self.socket.close()


def run_one(name, function):
    folder = os.path.realpath(tempfile.mkdtemp(prefix="hawser-system-"))
    os.environ["HAWSER_RUN_DIR"] = os.path.join(folder, "run")
    os.chdir(folder)
    # Engines run in the background: what a sanitizer finds in one would go unseen in its log.
    for name in ("ASAN_OPTIONS", "TSAN_OPTIONS", "UBSAN_OPTIONS"):
        os.environ[name] = f"{ORIGINAL.get(name, '')}:log_path={folder}/sanitizer"
    try:
        function()
        subprocess.run([HAWSER, "detach", "--all"], capture_output=True, timeout=120)
        found = [open(name).read() for name in os.listdir(folder) if name.startswith("sanitizer")]
        assert not found, found[0]
        return "ok"
    except Skip as reason:
        return f"skipped: {reason}"
    except Exception:
        traceback.print_exc(file=sys.stdout)
        for path, _, names in os.walk(os.environ["HAWSER_RUN_DIR"], onerror=None):
            if "log" in names:
                print(f"--- {path}/log\n" + open(os.path.join(path, "log")).read())
        return "FAILED"
    finally:
        os.chdir("/")
        subprocess.run([HAWSER, "detach", "--all", "--force"], capture_output=True, timeout=120)
        shutil.rmtree(folder, ignore_errors=True)


def main(names):
    results = []
    wanted = sys.argv[2:]
    for name, function in list(names.items()):
        if name.startswith("test_") and (not wanted or name in wanted):
            started = time.monotonic()
            results.append(run_one(name, function))
            print(f"{name[5:].replace('_', ' ')}: {results[-1]} ({time.monotonic() - started:.1f} s)", flush=True)
    if any(r == "FAILED" for r in results):
        sys.exit(1)
    skips = [r for r in results if r.startswith("skipped")]
    if skips and len(skips) == len(results):
        print(skips[0][len("skipped: "):])
        sys.exit(77)
    sys.exit(0)
