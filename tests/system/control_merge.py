"""Deleted snapshots are merged in the background: real images, in use and not, with writes going on, with hawserd killed
on the way; the data stays, the files go, and qemu-img finds nothing to complain of."""
import hashlib
import os
import random
import threading
import time

from daemon import Daemon
from lib import main, need_devices, need_tool, run

MIB = 1 << 20
SIZE = 64


class Content:
    """What a volume must read as, and its snapshots' states."""

    def __init__(self, seed):
        self.data, self.draw = bytearray(SIZE * MIB), random.Random(seed)

    def change(self, device, times=10):
        with open(device, "r+b", buffering=0) as disk:
            for _ in range(times):
                at = self.draw.randrange(0, (SIZE - 4) * MIB, 4096)
                data = self.draw.randbytes(self.draw.choice([4096, 65536, 3 * MIB]))
                os.pwrite(disk.fileno(), data, at)
                self.data[at:at + len(data)] = data
            os.fsync(disk.fileno())

    def check(self, device):
        run("blockdev", "--flushbufs", device)
        with open(device, "rb") as disk:
            assert hashlib.sha256(disk.read()).digest() == hashlib.sha256(self.data).digest()


def attach(d, volume="v"):
    return d.post(f"/v1/volumes/{volume}/attach", mode="device", user="a")["device"]


def detach(d, volume="v"):
    d.post(f"/v1/volumes/{volume}/detach", user="a")


def merged(d, count, seconds=90):
    """Waits until so many files are left, and nothing is under way."""
    deadline = time.monotonic() + seconds
    while len(d.images()) > count or d.get("/v1/jobs")["items"]:
        assert time.monotonic() < deadline, (d.images(), d.get("/v1/jobs"), open("hawserd.log").read()[-3000:])
        time.sleep(0.05)
    assert len(d.images()) == count, d.images()


def check_images():
    for name in os.listdir("pool/images"):
        run("qemu-img", "check", "-q", f"pool/images/{name}")


def chain(d, content, names, change=True):
    """A volume with a snapshot of each name, attached. @return its device."""
    d.post("/v1/volumes", name="v", size=f"{SIZE}M")
    device = attach(d)
    content.change(device)
    for name in names:
        d.post("/v1/volumes/v/snapshots", name=name)
        content.change(device)
    return device


def test_of_a_volume_in_use_and_not():
    need_devices()
    need_tool("qemu-img")
    with Daemon() as d:
        content = Content(1)
        d.pool()
        device = chain(d, content, "abcd")
        for name, left in (("b", 4), ("a", 3)):  # one in the middle, then the lowest
            d.delete(f"/v1/volumes/v/snapshots/{name}")
            content.change(device, 3)
            merged(d, left)
            content.check(device)
        detach(d)
        check_images()
        for name, left in (("d", 2), ("c", 1)):
            d.delete(f"/v1/volumes/v/snapshots/{name}")
            merged(d, left)
            check_images()
        jobs = d.get("/v1/jobs?state=ended")["items"]
        assert [job["state"] for job in jobs if job["state"] != "failed"] == ["concluded"] * 4, jobs
        assert all(job["operation"] == "merge" and job["created"] <= job["ended"] for job in jobs), jobs
        assert jobs[0]["done"] == jobs[0]["total"] > 0 and d.get(f"/v1/jobs/{jobs[0]['id']}") == jobs[0], jobs
        assert d.refused("POST", f"/v1/jobs/{jobs[0]['id']}/cancel", {}) == "invalid"
        assert d.refused("POST", "/v1/jobs/none/cancel", {}) == "not-found"
        assert d.refused("GET", "/v1/jobs?state=x") == "invalid"
        device = attach(d)
        content.check(device)
        detach(d)
        d.delete("/v1/volumes/v")
        assert d.images() == []


def test_snapshots_and_clones_that_stay_read_as_before():
    need_devices()
    need_tool("qemu-img")
    with Daemon() as d:
        content = Content(2)
        d.pool()
        device = chain(d, content, "a")
        states = {}
        for name in "bc":
            d.post("/v1/volumes/v/snapshots", name=name)
            states[name] = bytes(content.data)
            content.change(device)
        d.post("/v1/volumes", name="w", clone="v@c")
        d.delete("/v1/volumes/v/snapshots/a")
        time.sleep(3)
        assert len(d.images()) == 5  # a clone lies further up: it stays
        d.delete("/v1/volumes/w")
        merged(d, 3)
        content.check(device)
        detach(d)
        for name, state in states.items():
            d.post("/v1/volumes", name=f"w{name}", clone=f"v@{name}")
            other = Content(0)
            other.data = bytearray(state)
            at = attach(d, f"w{name}")
            other.check(at)
            detach(d, f"w{name}")
        check_images()


def test_with_writes_going_on_and_others_that_want_the_volume():
    need_devices()
    need_tool("qemu-img")
    with Daemon() as d:
        content = Content(3)
        d.pool()
        device = chain(d, content, "abc")
        stop, errors = threading.Event(), []

        def write():
            try:
                while not stop.is_set():
                    content.change(device, 1)
            except Exception as e:  # told by the test
                errors.append(e)
        thread = threading.Thread(target=write)
        thread.start()
        try:
            for name in "abc":
                d.delete(f"/v1/volumes/v/snapshots/{name}")
                started = time.monotonic()
                d.post("/v1/volumes/v/attach", mode="device", user="b")  # a merge makes way for it
                d.post("/v1/volumes/v/detach", user="b")
                assert time.monotonic() - started < 20
                time.sleep(1)
            merged(d, 1, 120)
        finally:
            stop.set()
            thread.join(60)
        assert not errors, errors
        content.check(device)
        detach(d)
        check_images()


def test_hawserd_is_killed_on_the_way():
    need_devices()
    need_tool("qemu-img")
    draw = random.Random(4)
    with Daemon() as d:
        content = Content(4)
        d.pool()
        device = chain(d, content, "")
        for i in range(8):
            names = [f"s{i}a", f"s{i}b"]
            for name in names:
                d.post("/v1/volumes/v/snapshots", name=name)
                content.change(device, 4)
            if i % 2:
                detach(d)
            for name in names:
                d.delete(f"/v1/volumes/v/snapshots/{name}")
            time.sleep(0.9 + draw.random() * 0.5)
            d.kill()
            if not i % 2:
                content.change(device, 2)
            d.start()
            if i % 2:
                device = attach(d)
            merged(d, 1)
            content.check(device)
        detach(d)
        check_images()


if __name__ == "__main__":
    main(globals())
