"""Random operations on volumes of real engines, against a model of their data, with hawserd killed in the middle of
some; and the doctor, with real engines, mounts and files.

  HAWSER_SOAK_SECONDS   how long; 8 if not given
  HAWSER_SOAK_SEED      of another run
"""
import os
import random
import subprocess
import threading
import time

from daemon import Daemon, Error, mountpoint, write
from lib import entry, main, need_devices, need_tool, nothing_left, run, wait_until

MIB = 1 << 20
SIZE = 8 * MIB
VOLUMES = 4
SNAPSHOTS = 3


class Volume:
    """What a volume must be: its data, those of its snapshots, and its device where it is in use."""

    def __init__(self, data):
        self.data, self.snapshots, self.device = data, {}, None


class World:
    def __init__(self, daemon, seed):
        self.d, self.draw, self.volumes = daemon, random.Random(seed), {}
        self.kills = self.done = self.refused = 0

    # ---- data ----

    def change(self, volume):
        data = bytearray(volume.data)
        with open(volume.device, "r+b", buffering=0) as disk:
            for _ in range(self.draw.randrange(1, 6)):
                piece = self.draw.randbytes(self.draw.choice([4096, 65536, MIB]))
                at = self.draw.randrange(0, len(data) - len(piece) + 1, 4096)
                os.pwrite(disk.fileno(), piece, at)
                data[at:at + len(piece)] = piece
            os.fsync(disk.fileno())
        volume.data = bytes(data)

    def check(self, name):
        volume = self.volumes[name]
        device = volume.device or self.d.post(f"/v1/volumes/{name}/attach", mode="device", user="check")["device"]
        run("blockdev", "--flushbufs", device)
        with open(device, "rb") as disk:
            assert disk.read() == volume.data, f"the data of {name} is not what was written"
        if not volume.device:
            self.d.post(f"/v1/volumes/{name}/detach", user="check")

    # ---- operations: the model after the call, or None where it must be refused; and the call ----

    def op_create(self, name):
        return self.with_volume(name, Volume(bytes(SIZE))) if name not in self.volumes else None, \
            lambda: self.d.post("/v1/volumes", name=name, size=SIZE, fs="none")

    def op_delete(self, name):
        volume = self.volumes.get(name)
        after = None
        if volume and not volume.device and not volume.snapshots:
            after = {key: value for key, value in self.volumes.items() if key != name}
        return after, lambda: self.d.delete(f"/v1/volumes/{name}")

    def op_clone(self, name):
        other = f"v{self.draw.randrange(VOLUMES)}"
        volume, snapshot = self.volumes.get(name), self.draw.choice([None, *(f"s{i}" for i in range(SNAPSHOTS))])
        data = volume and (volume.data if snapshot is None else volume.snapshots.get(snapshot))
        return self.with_volume(other, Volume(data)) if data is not None and other not in self.volumes else None, \
            lambda: self.d.post("/v1/volumes", name=other, clone=name + (f"@{snapshot}" if snapshot else ""))

    def op_snapshot(self, name):
        volume, snapshot = self.volumes.get(name), f"s{self.draw.randrange(SNAPSHOTS)}"
        after = None
        if volume and snapshot not in volume.snapshots:
            after = self.changed(name, snapshots={**volume.snapshots, snapshot: volume.data})
        return after, lambda: self.d.post(f"/v1/volumes/{name}/snapshots", name=snapshot)

    def op_snapshot_delete(self, name):
        volume, snapshot = self.volumes.get(name), f"s{self.draw.randrange(SNAPSHOTS)}"
        after = None
        if volume and snapshot in volume.snapshots:
            after = self.changed(name, snapshots={k: v for k, v in volume.snapshots.items() if k != snapshot})
        return after, lambda: self.d.delete(f"/v1/volumes/{name}/snapshots/{snapshot}")

    def op_revert(self, name):
        volume, snapshot = self.volumes.get(name), f"s{self.draw.randrange(SNAPSHOTS)}"
        after = None
        if volume and snapshot in volume.snapshots and not volume.device:
            after = self.changed(name, data=volume.snapshots[snapshot])
        return after, lambda: self.d.post(f"/v1/volumes/{name}/revert", snapshot=snapshot)

    def op_resize(self, name):
        volume, more = self.volumes.get(name), self.draw.randrange(1, 4) * MIB
        size = len(volume.data) + more if volume else SIZE
        after = self.changed(name, data=volume.data + bytes(more)) if volume and size <= 4 * SIZE else None
        return after, lambda: self.d.post(f"/v1/volumes/{name}/resize", size=size if size <= 4 * SIZE else 512)

    def op_attach(self, name):
        return self.changed(name, device=True) if name in self.volumes else None, \
            lambda: self.d.post(f"/v1/volumes/{name}/attach", mode="device", user="a")

    def op_detach(self, name):
        return self.changed(name, device=None) if name in self.volumes else None, \
            lambda: self.d.post(f"/v1/volumes/{name}/detach", user="a")

    def with_volume(self, name, volume):
        return {**self.volumes, name: volume}

    def changed(self, name, **members):
        old = self.volumes[name]
        new = Volume(old.data)
        new.snapshots, new.device = old.snapshots, old.device
        for member, value in members.items():
            setattr(new, member, value)
        return self.with_volume(name, new)

    # ---- comparing ----

    def is_like(self, volumes):
        """Names, sizes, snapshots and use; data is looked at apart. Devices are taken over."""
        told = {volume["name"]: volume for volume in self.d.get("/v1/volumes?limit=1000")["items"]}
        if set(told) != set(volumes):
            return False
        for name, volume in volumes.items():
            snapshots = {s["name"]: s["size"] for s in self.d.get(f"/v1/volumes/{name}/snapshots")["items"]}
            if (told[name]["size"] != len(volume.data) or bool(told[name].get("attachment")) != bool(volume.device)
                    or snapshots != {key: len(data) for key, data in volume.snapshots.items()}):
                return False
        for name, volume in volumes.items():
            if volume.device:
                volume.device = told[name]["attachment"]["device"]
        return True

    def step(self):

        name = f"v{self.draw.randrange(VOLUMES)}"
        kinds = [self.op_create, self.op_create, self.op_delete, self.op_clone, self.op_snapshot, self.op_snapshot,
                 self.op_snapshot_delete, self.op_revert, self.op_resize, self.op_attach, self.op_attach, self.op_detach]
        kind = self.draw.choice(kinds)
        after, call = kind(name)
        if self.draw.random() < 0.15:
            self.killed(kind.__name__, name, after, call)
        else:
            try:
                call()
                assert after is not None, f"{kind.__name__} of {name} should be refused"
                self.volumes = after
                self.done += 1
            except Error as error:
                assert after is None and error.status < 500, f"{kind.__name__} of {name}: {error}"
                self.refused += 1
            assert self.is_like(self.volumes), (kind.__name__, name)
        volume = self.volumes.get(name)
        if volume and volume.device and self.draw.random() < 0.7:
            self.change(volume)

    def killed(self, kind, name, after, call):
        def quietly():
            try:
                call()
            except (Error, OSError, ValueError):
                pass  # what became of it is told afterwards
            except Exception:  # the connection broke, in one of http.client's many words
                pass
        thread = threading.Thread(target=quietly)
        thread.start()
        time.sleep(self.draw.random() ** 2 * 0.03)
        self.d.kill()
        thread.join(60)
        self.d.start()
        self.kills += 1
        wait_until(lambda: all(job["operation"] == "merge" for job in self.d.get("/v1/jobs")["items"]))
        was, now = self.is_like(self.volumes), after is not None and self.is_like(after)
        assert was or now, f"{kind} of {name} is neither done nor undone"
        if was and now and kind == "op_revert":
            self.volumes = after if self.reads_as(name, after[name].data) else self.volumes
        elif now:
            self.volumes = after
        self.check_existing(name)

    def check_existing(self, name):
        if name in self.volumes:
            self.check(name)

    def reads_as(self, name, data):
        device = self.d.post(f"/v1/volumes/{name}/attach", mode="device", user="check")["device"]
        run("blockdev", "--flushbufs", device)
        same = open(device, "rb").read() == data
        self.d.post(f"/v1/volumes/{name}/detach", user="check")
        return same


def findings(d, deep=True):
    return d.get(f"/v1/doctor?deep={'true' if deep else 'false'}")["items"]


def codes(d):
    return sorted(finding["code"] for finding in findings(d))


def check_images():
    """Without hawserd: with it, one may just be merged. What a kill leaked is 3."""
    for name in os.listdir("pool/images"):
        done = subprocess.run(["qemu-img", "check", f"pool/images/{name}"], capture_output=True, text=True)
        assert done.returncode in (0, 3), done


def finish(d, world):
    """All data is there still, that of snapshots too, and everything can go."""
    for name in list(world.volumes):
        world.check(name)
        d.post(f"/v1/volumes/{name}/detach", user="a", force=True)
    assert codes(d) == [], findings(d)
    d.stop()  # its merges end with it
    check_images()
    d.start()
    for name, volume in world.volumes.items():
        for snapshot, data in volume.snapshots.items():
            d.post("/v1/volumes", name="c", clone=f"{name}@{snapshot}")
            assert world.reads_as("c", data), f"snapshot {name}@{snapshot} is not what it was"
            d.delete("/v1/volumes/c")
            d.delete(f"/v1/volumes/{name}/snapshots/{snapshot}")
        d.delete(f"/v1/volumes/{name}")
    wait_until(lambda: not d.get("/v1/jobs")["items"])
    assert d.images() == [] and codes(d) == []


def test_random_operations_keep_the_data():
    need_devices()
    need_tool("qemu-img", "blockdev")
    seconds, seed = int(os.environ.get("HAWSER_SOAK_SECONDS") or 8), int(os.environ.get("HAWSER_SOAK_SEED") or 1)
    with Daemon() as d:
        d.pool()
        world = World(d, seed)
        end, steps = time.monotonic() + seconds, 0
        try:
            while time.monotonic() < end:
                world.step()
                steps += 1
                if steps % 20 == 0:
                    world.check_existing(f"v{world.draw.randrange(VOLUMES)}")
                if steps % 40 == 0:
                    assert findings(d) == [], findings(d)
            finish(d, world)
        except BaseException:
            print(f"seed {seed}, step {steps}; hawserd said:\n{open('hawserd.log').read()[-3000:]}", flush=True)
            raise
        print(f"{steps} steps, {world.done} done, {world.refused} refused, {world.kills} kills", flush=True)
    nothing_left(os.getcwd())


def test_the_doctor_on_real_engines():
    need_devices()
    need_tool("qemu-img", "mkfs.ext4")
    with Daemon() as d:
        d.pool()
        for name in ("a", "b"):
            d.post("/v1/volumes", name=name, size="32M")
        at = mountpoint(d.post("/v1/volumes/a/attach", user="x"))
        write(f"{at}/file", "kept")
        d.post("/v1/volumes/a/snapshots", name="s")
        assert codes(d) == []

        run("umount", at)  # by hand
        assert codes(d) == ["mount-gone"]
        assert d.post("/v1/doctor", repair="all", **{"dry-run": True})["items"][0]["outcome"] == "would be repaired"
        assert codes(d) == ["mount-gone"]
        d.post("/v1/doctor", repair=["mount-gone"])
        assert codes(d) == [] and open(f"{at}/file").read() == "kept"

        d.post("/v1/volumes/a/detach", user="x")
        layer = d.get("/v1/volumes/b")["layer"]
        os.mkdir("pool/lost+found")
        os.rename(f"pool/images/{layer}.qcow2", f"pool/lost+found/{layer}.qcow2")
        run("qemu-img", "create", "-q", "-f", "qcow2", "pool/images/stray.qcow2", "1M")
        os.mkdir("state/mounts/0b2cb9e5-0000-4000-8000-000000000000")
        assert codes(d) == ["file-foreign", "file-missing", "mount-left"]
        outcomes = {f["outcome"] for f in d.post("/v1/doctor", repair="all")["items"]}
        assert outcomes == {"repaired"} and codes(d) == []
        assert os.path.exists("pool/lost+found/stray.qcow2")

        # A file that another program has open stays where it is.
        run("qemu-img", "create", "-q", "-f", "qcow2", "pool/images/used.qcow2", "1M")
        other = entry_of(d.words, "pool/images/used.qcow2")
        try:
            told = d.post("/v1/doctor", repair="all")["items"]
            assert [f["outcome"] for f in told] == ["failed"] and "in use" in told[0]["error"], told
        finally:
            other()
        d.post("/v1/doctor", repair="all")
        assert codes(d) == [] and os.path.exists("pool/lost+found/used.qcow2")

        # The image behind a volume that is not in use has grown.
        layer = d.get("/v1/volumes/b")["layer"]
        run("qemu-img", "resize", "-q", f"pool/images/{layer}.qcow2", "64M")
        assert codes(d) == ["layer-size"]
        d.post("/v1/doctor", repair="all", deep=True)
        assert codes(d) == [] and d.get("/v1/volumes/b")["size"] == 64 * MIB

        # It lies on another file than the catalog tells: told, and left alone.
        layer = d.get("/v1/volumes/a")["layer"]
        run("qemu-img", "rebase", "-u", "-b", "", f"pool/images/{layer}.qcow2")
        assert codes(d) == ["layer-chain"]
        assert d.refused("POST", "/v1/doctor", {"repair": ["layer-chain"]}) == "invalid"
        below = d.get("/v1/volumes/a/snapshots/s")["layer"]
        run("qemu-img", "rebase", "-u", "-b", f"{below}.qcow2", "-F", "qcow2", f"pool/images/{layer}.qcow2")
        assert codes(d) == []
        at = mountpoint(d.post("/v1/volumes/a/attach", user="x"))
        assert open(f"{at}/file").read() == "kept"
        d.post("/v1/volumes/a/detach", user="x")
    check_images()


def entry_of(words, image):
    """Attaches an image by hand. @return a function that detaches it."""
    hawser = next(word.split("=", 1)[1] for word in words if word.startswith("--program="))
    run(hawser, "attach", "--name=by-hand", image)
    assert entry("by-hand")
    return lambda: run(hawser, "detach", "by-hand")


if __name__ == "__main__":
    main(globals())
