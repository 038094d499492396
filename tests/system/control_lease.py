"""Two hawserds with copies of one catalog on one folder: one of them at a time uses a shared pool."""
import contextlib
import os
import shutil
import signal
import time

from daemon import Daemon
from lib import HAWSER, main, need_devices, run, wait_until

LEASE_S = 2


def engine_pid(daemon, volume):
    at = daemon.get(f"/v1/volumes/{volume}")["id"]
    return next((e["pid"] for e in daemon.get("/v1/node")["engines"] if e["volume"] == at), None)


@contextlib.contextmanager
def folder(name):
    here, runs = os.getcwd(), os.environ["HAWSER_RUN_DIR"]
    os.makedirs(name, exist_ok=True)
    os.chdir(name)
    os.environ["HAWSER_RUN_DIR"] = os.path.abspath("run")
    try:
        yield
    finally:
        os.chdir(here)
        os.environ["HAWSER_RUN_DIR"] = runs


@contextlib.contextmanager
def host(name):
    """hawserd as another host has it, in a folder of its own."""
    with folder(name):
        daemon = Daemon(f"--host-id={name}", f"--lease-seconds={LEASE_S}")
    try:
        yield daemon
    finally:
        with contextlib.suppress(ProcessLookupError):
            daemon.process.send_signal(signal.SIGCONT)
        with contextlib.suppress(Exception):
            daemon.post("/v1/volumes/v/detach", user="u", force=True)
        if daemon.process.poll() is None:
            daemon.stop()


def pool(daemon):
    return daemon.get("/v1/pools/pool")


def attach(daemon):
    return daemon.post("/v1/volumes/v/attach", user="u", mode="device")["device"]


def can(call, *arguments):
    try:
        call(*arguments)
        return True
    except Exception as e:
        assert getattr(e, "status", 0) in (409, 500, 503), e
        return False


def put(device, at, byte):
    fd = os.open(device, os.O_RDWR | os.O_SYNC)
    try:
        os.pwrite(fd, byte * 65536, at)
    finally:
        os.close(fd)


def get(device, at):
    fd = os.open(device, os.O_RDONLY)
    try:
        return os.pread(fd, 65536, at)
    finally:
        os.close(fd)


def prepare(a):
    made = a.post("/v1/pools", name="pool", path=os.path.abspath("pool"), shared=True)
    assert made["state"] == "available" and made["shared"] is True, made
    a.post("/v1/volumes", name="v", size="64M", fs="none")
    a.stop()
    os.makedirs("b")
    shutil.copytree("a/state", "b/state")
    with folder("a"):
        a.start()


def test_a_host_that_hangs_loses_the_pool_and_stops_by_itself():
    need_devices()
    with host("a") as a:
        prepare(a)
        put(attach(a), 0, b"1")
        kept = engine_pid(a, "v")
        with host("b") as b:
            # It lives: nobody else has it.
            until = time.monotonic() + 2 * LEASE_S
            while time.monotonic() < until:
                assert not can(attach, b)
                time.sleep(LEASE_S / 4)
            assert pool(b)["state"] == "not held" and "host" in pool(b)["lease"], pool(b)
            assert b.refused("DELETE", "/v1/pools/pool") == "busy"
            assert pool(a)["state"] == "available" and engine_pid(a, "v") == kept
            # It hangs, its engine goes on: the pool is taken, the image's lock holds.
            a.process.send_signal(signal.SIGSTOP)
            wait_until(lambda: can(b.post, "/v1/pools/pool/take"), 60)
            assert not can(attach, b)
            b.post("/v1/volumes", name="w", size="64M", fs="none")
            # It goes on, and stops its engine.
            a.process.send_signal(signal.SIGCONT)
            wait_until(lambda: engine_pid(a, "v") is None, 60)
            assert not os.path.exists(f"/proc/{kept}") or open(f"/proc/{kept}/stat").read().split()[2] in "ZX"
            wait_until(lambda: pool(a)["state"] == "not held", 60)
            wait_until(lambda: "is not held" in a.get("/v1/volumes/v")["attachment"].get("failed", ""), 60)
            assert a.refused("POST", "/v1/volumes", {"name": "x", "size": "64M"}) == "busy"
            device = attach(b)
            assert get(device, 0) == b"1" * 65536
            put(device, 65536, b"2")
            # Back again: without force no, as the other one lives; with force at once.
            assert not can(a.post, "/v1/pools/pool/take")
            os.environ["HAWSERD_SOCKET"] = a.rest
            try:
                assert "available" in run(HAWSER, "pool", "take", "--force", "pool")
            finally:
                del os.environ["HAWSERD_SOCKET"]
            wait_until(lambda: engine_pid(b, "v") is None, 60)
            a.post("/v1/volumes/v/detach", user="u", force=True)
            device = attach(a)
            assert get(device, 0) == b"1" * 65536 and get(device, 65536) == b"2" * 65536
        a.post("/v1/volumes/v/detach", user="u")
        layer = f"pool/images/{a.get('/v1/volumes/v')['layer']}.qcow2"
        run("qemu-img", "check", layer)


def test_a_host_that_died_is_followed_and_its_own_restart_waits_for_nothing():
    need_devices()
    with host("a") as a:
        prepare(a)
        put(attach(a), 0, b"1")
        a.kill()
        with folder("a"):
            a.start()
        assert pool(a)["state"] == "available" and engine_pid(a, "v")
        pid = engine_pid(a, "v")
        a.kill()
        os.kill(pid, signal.SIGKILL)
        with host("b") as b:
            wait_until(lambda: can(attach, b), 60)
            device = b.get("/v1/volumes/v")["attachment"]["device"]
            assert get(device, 0) == b"1" * 65536
        with folder("a"):
            a.start()
        assert a.refused("POST", "/v1/volumes", {"name": "x", "size": "64M"}) == "busy"
        assert pool(a)["state"] == "not held" and "has taken it" in pool(a)["lease"], pool(a)


if __name__ == "__main__":
    main(globals())
