"""Trash, groups and schedules of hawserd with real engines: a group's snapshot is of one moment under writes, whatever
dies meanwhile nothing stays frozen, and what was deleted comes back."""
import fcntl
import json
import mmap
import os
import signal
import struct
import threading
import time

from control import check_images
from daemon import Daemon, mountpoint, write
from lib import main, need_devices, need_tool, run, wait_until

ROUNDS = int(os.environ.get("HAWSER_KEEP_ROUNDS", "3"))
FIFREEZE, FITHAW = 0xC0045877, 0xC0045878


class Writers:
    """Each writes its count to the first place and then to the next ones, again and again: a later place is never
    ahead of an earlier one."""

    def __init__(self, *writers):
        self.stop, self.counts = threading.Event(), [0] * len(writers)
        self.threads = [threading.Thread(target=self.work, args=(i, places)) for i, places in enumerate(writers)]
        for thread in self.threads:
            thread.start()

    def work(self, index, places):
        while not self.stop.is_set():
            self.counts[index] += 1
            for fd, put in places:
                put(self.counts[index])
        for fd, put in places:
            os.close(fd)

    def __enter__(self):
        wait_until(lambda: all(count > 20 for count in self.counts))
        return self

    def __exit__(self, *_):
        self.stop.set()
        for thread in self.threads:
            thread.join(120)
            assert not thread.is_alive(), "a writer hangs"


def into_file(path, sync):
    """Buffered, so that it stays in the kernel's memory, or durable at each write."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | (os.O_DSYNC if sync else 0), 0o644)
    return fd, lambda count: os.pwrite(fd, struct.pack("<Q", count), 0)


def from_file(path):
    with open(path, "rb") as file:
        return struct.unpack("<Q", file.read(8))[0]


def into_device(path):
    fd = os.open(path, os.O_RDWR | os.O_DIRECT)
    page = mmap.mmap(-1, 4096)

    def put(count):
        page[:8] = struct.pack("<Q", count)
        os.pwrite(fd, page, 0)
    return fd, put


def from_device(path):
    with open(path, "rb") as file:
        return struct.unpack("<Q", file.read(8))[0]


def attach(daemon, name, **more):
    return daemon.post(f"/v1/volumes/{name}/attach", user="a", **more)


def group_of(daemon):
    """Two volumes that are mounted, and one as a device."""
    for name in ("a", "b", "c"):
        daemon.post("/v1/volumes", name=name, size="64M")
    daemon.post("/v1/groups", name="g", volumes=["a", "b", "c"])
    return mountpoint(attach(daemon, "a")), mountpoint(attach(daemon, "b")), attach(daemon, "c", mode="device")["device"]


def clone_mounted(daemon, volume, snapshot):
    daemon.post("/v1/volumes", name="look", clone=f"{volume}@{snapshot}")
    return mountpoint(attach(daemon, "look"))


def drop_look(daemon):
    daemon.post("/v1/volumes/look/detach", user="a")
    daemon.delete("/v1/volumes/look")


def counts_in(daemon, snapshot, places):
    """What of each place (volume, file; no file: the device) is in the snapshot."""
    found = {}
    for volume, files in places.items():
        if files:
            at = clone_mounted(daemon, volume, snapshot)
            for file in files:
                found[volume, file] = from_file(f"{at}/{file}")
        else:
            daemon.post("/v1/volumes", name="look", clone=f"{volume}@{snapshot}")
            found[volume] = from_device(attach(daemon, "look", mode="device")["device"])
        drop_look(daemon)
    return found


def check_order(found):
    a, b = found["a", "buffered"], found["b", "buffered"]
    assert a - 1 <= b <= a, f"buffered: {a} then {b}"
    a, b, c = found["a", "synced"], found["b", "synced"], found["c"]
    assert a - 1 <= b <= a and b - 1 <= c <= b, f"synced: {a}, {b}, {c}"


def writers_of(a, b, device):
    return Writers([into_file(f"{a}/buffered", False), into_file(f"{b}/buffered", False)],
                   [into_file(f"{a}/synced", True), into_file(f"{b}/synced", True), into_device(device)])


PLACES = {"a": ["buffered", "synced"], "b": ["buffered", "synced"], "c": None}


def check_thawed(*paths):
    check_writable(*paths)
    for path in paths:
        fd = os.open(path, os.O_RDONLY)
        try:
            fcntl.ioctl(fd, FITHAW, 0)
            raise AssertionError(f"{path} was frozen")
        except OSError:
            pass
        finally:
            os.close(fd)


def check_writable(*paths):
    """What is frozen would wait here for ever."""
    for path in paths:
        write(f"{path}/thawed", "yes")


def test_a_groups_snapshot_is_of_one_moment():
    need_devices()
    need_tool("mkfs.ext4", "qemu-img")
    with Daemon() as d:
        d.pool()
        a, b, device = group_of(d)
        with writers_of(a, b, device) as writers:
            longest = 0
            for i in range(ROUNDS):
                before = list(writers.counts)
                start = time.monotonic()
                taken = d.post("/v1/groups/g/snapshots", name=f"s{i}")
                longest = max(longest, time.monotonic() - start)
                assert len(taken["snapshots"]) == 3 and taken["state"] == "available", taken
                wait_until(lambda: all(new > old + 2 for new, old in zip(writers.counts, before)))
            print(f"group snapshot of three volumes in use: {longest * 1000:.0f} ms at most, of {ROUNDS}")
            check_thawed(a, b)
        last = 0
        for i in range(ROUNDS):
            found = counts_in(d, f"s{i}", PLACES)
            check_order(found)
            assert found["c"] > last, "what was written before the call is in the snapshot"
            last = found["c"]
        assert d.refused("DELETE", "/v1/volumes/a/snapshots/s0") == "busy"
        assert d.refused("POST", "/v1/groups/g/revert", {"snapshot": "s0"}) == "busy"
        for name in ("a", "b", "c"):
            d.post(f"/v1/volumes/{name}/detach", user="a")
        expected = counts_in(d, "s0", PLACES)
        d.post("/v1/groups/g/revert", snapshot="s0")
        a = mountpoint(attach(d, "a"))
        assert from_file(f"{a}/synced") == expected["a", "synced"]
        d.post("/v1/volumes/a/detach", user="a")
        for i in range(ROUNDS):
            d.delete(f"/v1/groups/g/snapshots/s{i}")
        d.call("DELETE", "/v1/groups/g")
        wait_until(lambda: len(d.images()) <= 6 and d.get("/v1/jobs")["items"] == [])
        for name in ("a", "b", "c"):
            d.delete(f"/v1/volumes/{name}")
        wait_until(lambda: d.images() == [])


def test_whoever_dies_in_a_groups_snapshot_nothing_stays_held():
    """hawserd is killed at random moments of a snapshot under writes: writers go on, and all or nothing is there."""
    need_devices()
    need_tool("mkfs.ext4")
    with Daemon() as d:
        d.pool()
        a, b, device = group_of(d)
        with writers_of(a, b, device) as writers:
            taken = []
            for i in range(ROUNDS * 3):
                thread = threading.Thread(target=lambda: try_snapshot(d, f"s{i}"))
                thread.start()
                time.sleep(0.02 * (i % 6) + 0.005)
                d.kill()
                thread.join(60)
                before = list(writers.counts)
                if i % 6 == 3:
                    check_writable(a, b)  # without a hawserd, too, in the time that a hold lasts
                d.start()
                check_writable(a, b)
                wait_until(lambda: all(new > old + 5 for new, old in zip(writers.counts, before)), 60)
                there = [s["name"] for s in d.get("/v1/groups/g/snapshots")["items"]]
                for name in ("a", "b", "c"):
                    assert [s["name"] for s in d.get(f"/v1/volumes/{name}/snapshots")["items"]] == there
                taken = there
            d.post("/v1/groups/g/snapshots", name="last")
            check_thawed(a, b)
        for name in taken[:2] + ["last"]:
            check_order(counts_in(d, name, PLACES))
        for name in ("a", "b", "c"):
            d.post(f"/v1/volumes/{name}/detach", user="a")
        wait_until(lambda: d.get("/v1/jobs")["items"] == [])
        check_images()
        for name in taken + ["last"]:
            d.delete(f"/v1/groups/g/snapshots/{name}")
        d.delete("/v1/groups/g")
        for name in ("a", "b", "c"):
            d.delete(f"/v1/volumes/{name}")
        wait_until(lambda: d.images() == [], 60)


def try_snapshot(daemon, name):
    try:
        daemon.post("/v1/groups/g/snapshots", name=name)
    except Exception:
        pass  # it was killed


def test_a_file_system_that_cannot_be_frozen_fails_all():
    need_devices()
    need_tool("mkfs.ext4")
    with Daemon() as d:
        d.pool()
        a, b, _ = group_of(d)
        fd = os.open(b, os.O_RDONLY)
        fcntl.ioctl(fd, FIFREEZE, 0)  # by somebody else
        try:
            status, answer = d.ask("POST", "/v1/groups/g/snapshots", {"name": "s"})
            assert status >= 400 and "freeze" in answer["error"]["message"], answer
            write(f"{a}/goes", "on")
        finally:
            fcntl.ioctl(fd, FITHAW, 0)
            os.close(fd)
        assert d.get("/v1/groups/g/snapshots")["items"] == [] and d.get("/v1/jobs")["items"] == []
        for name in ("a", "b", "c"):
            assert d.get(f"/v1/volumes/{name}/snapshots")["items"] == []
        d.post("/v1/groups/g/snapshots", name="s")
        run("umount", b)  # by hand: its engine alone is held
        d.post("/v1/groups/g/snapshots", name="t")
        for name in ("a", "b", "c"):
            d.post(f"/v1/volumes/{name}/detach", user="a")


def test_file_systems_of_other_kinds_are_frozen_too():
    need_devices()
    need_tool("mkfs.xfs", "mkfs.btrfs")
    with Daemon() as d:
        d.pool()
        d.post("/v1/volumes", name="a", size="320M", fs="xfs")
        d.post("/v1/volumes", name="b", size="160M", fs="btrfs")
        d.post("/v1/groups", name="g", volumes=["b", "a"])
        a, b = (mountpoint(attach(d, name)) for name in ("a", "b"))
        with Writers([into_file(f"{a}/buffered", False), into_file(f"{b}/buffered", False)]):
            d.post("/v1/groups/g/snapshots", name="s")
            check_thawed(a, b)
        for name in ("a", "b"):
            d.post(f"/v1/volumes/{name}/detach", user="a")
        found = counts_in(d, "s", {"a": ["buffered"], "b": ["buffered"]})
        assert found["a", "buffered"] - 1 <= found["b", "buffered"] <= found["a", "buffered"], found


def test_an_engine_that_dies_fails_all():
    need_devices()
    need_tool("mkfs.ext4", "qemu-img")
    with Daemon() as d:
        d.pool()
        a, b, _ = group_of(d)
        write(f"{a}/file", "a")
        write(f"{b}/file", "b")
        volume = d.get("/v1/volumes/c")["id"]
        with open(f"run/{volume}/state.json") as file:
            os.kill(json.load(file)["pid"], signal.SIGKILL)
        status, answer = d.ask("POST", "/v1/groups/g/snapshots", {"name": "s"})
        if status < 400:  # it was started again in time
            assert len(answer["snapshots"]) == 3
        else:
            assert d.get("/v1/groups/g/snapshots")["items"] == [], answer
            assert all(d.get(f"/v1/volumes/{name}/snapshots")["items"] == [] for name in ("a", "b", "c"))
        check_thawed(a, b)
        for name in ("a", "b", "c"):
            d.post(f"/v1/volumes/{name}/detach", force=True)
        d.post("/v1/groups/g/snapshots", name="t")
        wait_until(lambda: d.get("/v1/jobs")["items"] == [])
        check_images()
        assert open(f"{mountpoint(attach(d, 'a'))}/file").read() == "a"
        d.post("/v1/volumes/a/detach", user="a")


def test_the_trash_gives_back_what_was_deleted():
    need_devices()
    need_tool("mkfs.ext4")
    with Daemon() as d:
        d.pool(**{"trash-retention": 3600})
        d.post("/v1/volumes", name="v", size="64M")
        at = mountpoint(attach(d, "v"))
        write(f"{at}/file", "kept")
        d.post("/v1/volumes/v/snapshots", name="s")
        write(f"{at}/file", "newer")
        assert d.refused("DELETE", "/v1/volumes/v") == "busy"
        d.post("/v1/volumes/v/detach", user="a")
        d.delete("/v1/volumes/v")
        item = d.get("/v1/trash")["items"][0]
        assert item["name"] == "v" and item["snapshots"] == 1 and 3500 < item["remaining"] <= 3600, item
        assert d.refused("GET", "/v1/volumes/v") == "not-found"
        d.stop()
        d.start()
        d.post("/v1/volumes", name="v", size="64M")
        assert d.refused("POST", f"/v1/trash/{item['id']}/restore") == "exists"
        assert d.post(f"/v1/trash/{item['id']}/restore", name="w")["id"] == item["id"]
        at = mountpoint(attach(d, "w"))
        assert open(f"{at}/file").read() == "newer"
        d.post("/v1/volumes/w/detach", user="a")
        d.post("/v1/volumes/w/revert", snapshot="s")
        at = mountpoint(attach(d, "w"))
        assert open(f"{at}/file").read() == "kept"
        d.post("/v1/volumes/w/detach", user="a")
        d.delete("/v1/volumes/w?trash-retention=1")
        d.delete("/v1/volumes/v?purge=true")
        wait_until(lambda: d.get("/v1/trash")["items"] == [] and d.images() == [], 60)
        for query in ("purge=yes", "trash-retention=0", "trash-retention=x", "trash=5"):
            assert d.refused("DELETE", f"/v1/volumes/v?{query}") == "invalid", query


def test_a_schedule_takes_snapshots_of_its_own():
    need_devices()
    with Daemon() as d:
        d.pool()
        d.post("/v1/volumes", name="v", size="64M")
        shown = d.post("/v1/schedules", name="n", volume="v", cron="* * * * *", keep=2)
        assert time.time() < shown["next"] <= time.time() + 61, shown
        assert d.refused("POST", "/v1/schedules", {"name": "x", "volume": "v", "cron": "61 * * * *"}) == "invalid"
        changed = d.call("PATCH", "/v1/schedules/n", {"every": "weekly", "paused": True})
        assert changed["every"] == "weekly" and "cron" not in changed and changed["paused"], changed
        d.delete("/v1/schedules/n")
        assert d.get("/v1/schedules")["items"] == []


if __name__ == "__main__":
    main(globals())
