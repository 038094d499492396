"""Where volumes come from and what they are made as: options of classes and volumes, file systems, imports of images (hostile
ones too), pools that fill up or go away."""
import json
import os
import random
import subprocess
import time

from daemon import Daemon, mountpoint, write
from lib import HAWSER, main, need_devices, need_tool, run

FILE_SYSTEMS = {"ext4": "32M", "xfs": "320M", "btrfs": "160M"}


def has(fs):
    """Whether this kernel mounts it and its tools are there."""
    with open("/proc/filesystems") as file:
        known = any(line.split()[-1] == fs for line in file)
    return known and subprocess.run(["which", f"mkfs.{fs}"], stdout=subprocess.DEVNULL).returncode == 0


def mounted(at):
    """@return the type and the options of what is mounted there."""
    with open("/proc/self/mountinfo") as file:
        for line in file:
            left, right = line.rstrip("\n").split(" - ")
            if left.split()[4] == at:
                fs, _, options = right.split(" ")
                return fs, left.split()[5].split(",") + options.split(",")
    raise AssertionError(f"nothing is mounted at {at}")


def attach(d, volume, **how):
    return mountpoint(d.post(f"/v1/volumes/{volume}/attach", user="a", **how))


def names(at):
    return sorted(set(os.listdir(at)) - {"lost+found"})  # e2fsck makes that again


def detach(d, *volumes):
    for volume in volumes:
        d.post(f"/v1/volumes/{volume}/detach", user="a")


OPTIONS = {"ext4": (["-i 65536", "-E lazy_itable_init=0", "-L two"], ["commit=33", "noatime"], "commit=33"),
           "xfs": (["-m reflink=0", "-L two", "-K"], ["allocsize=64k", "noatime"], "allocsize=64k"),
           "btrfs": (["-m single", "-L two"], ["compress=zstd", "noatime"], "compress=zstd:3")}


def test_file_systems_are_made_mounted_cloned_and_grown():
    need_devices()
    need_tool("mkfs.ext4")
    with Daemon() as d:
        d.pool()
        for fs, size in FILE_SYSTEMS.items():
            if not has(fs):
                print(f"{fs}: this kernel or machine does not have it")
                continue
            mkfs, mount, shown = OPTIONS[fs]
            made = d.post("/v1/classes", name=fs, fs=fs, size=size, **{"mkfs-options": mkfs, "mount-options": mount})
            assert made["mkfs-options"] == mkfs and made["mount-options"] == mount, made
            v = d.post("/v1/volumes", name="v", **{"class": fs})
            assert v["mkfs-options"] == mkfs and v["mount-options"] == mount and v["fs"] == fs, v
            at = attach(d, "v")
            kind, options = mounted(at)
            assert kind == fs and shown in options and {"noatime", "nosuid", "nodev"} <= set(options), options
            device = d.get("/v1/volumes/v")["attachment"]["device"]
            assert run("blkid", "-o", "value", "-s", "LABEL", device).strip() == "two"
            write(f"{at}/first", "1")
            d.post("/v1/volumes/v/snapshots", name="s")
            write(f"{at}/second", "2")
            # Copies are mounted beside it, one larger.
            d.post("/v1/volumes", name="c", clone="v@s")
            d.post("/v1/volumes", name="large", clone="v", size=v["size"] * 2)
            c, large = attach(d, "c"), attach(d, "large")
            assert shown in mounted(c)[1] and names(c) == ["first"], os.listdir(c)
            assert names(large) == ["first", "second"]
            before, after = os.statvfs(at), os.statvfs(large)
            assert after.f_blocks > 1.7 * before.f_blocks, (fs, before, after)
            write(f"{c}/own", "c")
            assert not os.path.exists(f"{at}/own") and not d.get("/v1/volumes/large")["grow"]
            # In use, and where that cannot be, at the next mount.
            grown = d.post("/v1/volumes/v/resize", size=v["size"] * 2)
            if grown["grow"]:
                assert fs == "ext4", grown
                detach(d, "v")
                at = attach(d, "v")
            assert os.statvfs(at).f_blocks > 1.7 * before.f_blocks and not d.get("/v1/volumes/v")["grow"]
            assert names(at) == ["first", "second"]
            detach(d, "v", "c", "large")
            for name in ("c", "large", "v@s", "v"):
                d.delete("/v1/volumes/" + name.replace("@", "/snapshots/"))
            d.delete(f"/v1/classes/{fs}")


def test_a_file_system_is_checked_before_it_is_mounted():
    need_devices()
    need_tool("debugfs", "dumpe2fs")
    with Daemon() as d:
        d.pool()
        d.post("/v1/volumes", name="v", size="32M")
        at = attach(d, "v")
        write(f"{at}/first", "1")
        d.post("/v1/volumes/v/snapshots", name="s")  # its journal is not replayed
        detach(d, "v")
        d.post("/v1/volumes", name="c", clone="v@s")
        assert names(attach(d, "c")) == ["first"]
        detach(d, "c")
        raw = d.post("/v1/volumes/v/attach", mode="device", user="a")["device"]
        # What e2fsck repairs without a question: a wrong count, told by the superblock.
        run("debugfs", "-w", "-R", "ssv free_blocks_count 1", raw)
        run("debugfs", "-w", "-R", "ssv state 2", raw)
        run("blockdev", "--flushbufs", raw)
        detach(d, "v")
        at = attach(d, "v")
        assert names(at) == ["first"] and os.statvfs(at).f_bfree > 1000
        detach(d, "v")
        # What it does not: the root folder is none.
        raw = d.post("/v1/volumes/v/attach", mode="device", user="a")["device"]
        for command in ("clri <2>", "ssv state 2"):
            run("debugfs", "-w", "-R", command, raw)
        run("blockdev", "--flushbufs", raw)
        detach(d, "v")
        status, answer = d.ask("POST", "/v1/volumes/v/attach", {"user": "a"})
        text = answer.get("error", {}).get("message", "")
        assert status == 500 and "e2fsck" in text and "attach it as a device" in text, answer
        assert "attachment" not in d.get("/v1/volumes/v")
        raw = d.post("/v1/volumes/v/attach", mode="device", user="a")["device"]
        subprocess.run(["e2fsck", "-fy", raw], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=60)
        detach(d, "v")
        attach(d, "v")
        detach(d, "v")


def test_raw_block_volumes():
    need_devices()
    with Daemon() as d:
        d.pool()
        for fmt in ("raw", "qcow2"):
            v = d.post("/v1/volumes", name="v", size="16M", fs="none", format=fmt, preallocation="falloc")
            assert os.stat(f"pool/images/{v['layer']}.{fmt}").st_blocks * 512 >= 16 << 20
            assert d.refused("POST", "/v1/volumes/v/attach", {"user": "a"}) == "invalid"  # nothing to mount
            assert d.refused("POST", "/v1/volumes", {"name": "x", "fs": "none", "mount-options": ["noatime"]}) == "invalid"
            device = d.post("/v1/volumes/v/attach", mode="device", user="a")["device"]
            with open(device, "r+b") as disk:
                disk.write(b"x" * 4096)
                os.fsync(disk.fileno())
            d.post("/v1/volumes/v/resize", size="32M")  # in use
            assert int(run("blockdev", "--getsize64", device)) == 32 << 20
            detach(d, "v")
            assert d.post("/v1/volumes/v/resize", size="48M")["grow"] is False
            d.post("/v1/volumes", name="c", clone="v", size="64M")
            for name, size in (("v", 48), ("c", 64)):
                device = d.post(f"/v1/volumes/{name}/attach", mode="device", user="a")["device"]
                with open(device, "rb") as disk:
                    assert disk.read(8192) == b"x" * 4096 + bytes(4096) and disk.seek(0, 2) == size << 20
                detach(d, name)
                d.delete(f"/v1/volumes/{name}")


# ---- imports ----


def patterned(path, size, seed=1):
    """A raw image with data in some places."""
    draw = random.Random(seed)
    with open(path, "wb") as file:
        file.truncate(size)
        for at in range(0, size, 8 << 20):
            file.seek(at)
            file.write(draw.randbytes(1 << 20))


def convert(source, target, fmt, *words):
    run("qemu-img", "convert", "-f", "raw", "-O", fmt, *words, source, target)


def job_of(d, volume):
    return d.get(f"/v1/volumes/{volume}").get("job")


def wait_for(d, volume, seconds=90):
    """@return the volume that was imported, or the job that failed."""
    job, deadline = job_of(d, volume), time.monotonic() + seconds
    while job:
        now = d.get(f"/v1/jobs/{job}")
        if "ended" in now:
            return d.get(f"/v1/volumes/{volume}") if now["state"] == "concluded" else now
        assert time.monotonic() < deadline, now
        time.sleep(0.05)
    return d.get(f"/v1/volumes/{volume}")


def check_content(d, volume, raw):
    """The volume reads as the raw image, and zeroes behind it."""
    device = d.post(f"/v1/volumes/{volume}/attach", mode="device", user="a")["device"]
    with open(device, "rb") as disk, open(raw, "rb") as file:
        while block := file.read(1 << 20):
            assert disk.read(len(block)) == block
        assert not any(disk.read())
    detach(d, volume)


def slow(rate):
    """hawserd's option for a `hawser` that converts and rebases no faster."""
    with open("slow", "w") as file:
        file.write(f'#!/bin/sh\ncase $1 in convert) shift; exec {HAWSER} convert --rate={rate} "$@";; esac\n'
                   f'exec {HAWSER} "$@"\n')
    os.chmod("slow", 0o755)
    return f"--program={os.path.abspath('slow')}"


def root():
    os.makedirs("roots", exist_ok=True)
    return {"image-roots": [os.path.abspath("roots")]}


def test_images_of_all_formats_are_imported():
    need_devices()
    need_tool("qemu-img")
    with Daemon() as d:
        d.pool(**root())
        roots = os.path.abspath("roots")
        patterned("raw", 40 << 20)
        convert("raw", "roots/plain.qcow2", "qcow2")
        convert("raw", "roots/packed.qcow2", "qcow2", "-c", "-o", "cluster_size=16k")
        convert("raw", "roots/old.qcow2", "qcow2", "-o", "compat=0.10")
        run("cp", "raw", "roots/a.raw")
        run("qemu-img", "create", "-q", "-f", "qcow2", "-b", "plain.qcow2", "-F", "qcow2", "roots/over.qcow2")
        for name, more in (("plain.qcow2", {}), ("packed.qcow2", {"format": "raw"}), ("over.qcow2", {"size": "48M"}),
                           ("old.qcow2", {"image-format": "qcow2", "cluster-size": 65536, "extended-l2": "off"}),
                           ("a.raw", {"image-format": "raw"})):
            before = os.stat(f"roots/{name}").st_mtime_ns
            v = d.post("/v1/volumes", name="v", image=f"{roots}/{name}", **{"import": True}, **more)
            assert v["state"] in ("creating", "available") and v["size"] == (48 if "size" in more else 40) << 20, v
            v = wait_for(d, "v")
            assert v["state"] == "available" and v["format"] == more.get("format", "qcow2") and "job" not in v, v
            assert len(d.images()) == 1 and os.stat(f"roots/{name}").st_mtime_ns == before
            image = f"pool/images/{d.images()[0]}"
            if v["format"] == "qcow2":
                run("qemu-img", "check", "-q", image)
            info = json.loads(run("qemu-img", "info", "--output=json", image))
            assert info["format"] == v["format"] and "backing-filename" not in info, info
            if name == "old.qcow2":
                assert info["cluster-size"] == 65536, info
            check_content(d, "v", "raw")
            d.delete("/v1/volumes/v")
        jobs = d.get("/v1/jobs?state=ended")["items"]
        # A file system that is smaller than its volume grows with the first mount.
        run("truncate", "-s", "32M", "roots/fs.raw")
        run("mkfs.ext4", "-q", "roots/fs.raw")
        d.post("/v1/volumes", name="v", image=f"{roots}/fs.raw", size="64M", fs="ext4",
               **{"import": True, "image-format": "raw", "mount-options": ["noatime"]})
        assert wait_for(d, "v")["grow"] is True
        at = attach(d, "v")
        st = os.statvfs(at)
        assert st.f_blocks * st.f_frsize > 50 << 20 and "noatime" in mounted(at)[1], st
        detach(d, "v")
        assert len(jobs) == 5 and all(j["operation"] == "volume-import" and j["state"] == "concluded" for j in jobs), jobs
        assert jobs[0]["done"] == jobs[0]["total"] == 40 << 20, jobs[0]


def test_commands_tell_programs_how_far_they_are():
    patterned("a.raw", 24 << 20)
    told = run(HAWSER, "convert", "-q", "--progress-json", "-f", "raw", "a.raw", "a.qcow2")
    lines = [json.loads(line) for line in told.splitlines()]
    assert lines[-1] == {"done": 24 << 20, "total": 24 << 20}, lines
    assert [line["done"] for line in lines] == sorted(line["done"] for line in lines), lines
    run(HAWSER, "create", "-q", "-b", "a.qcow2", "-F", "qcow2", "b.qcow2")
    lines = [json.loads(line) for line in run(HAWSER, "rebase", "-q", "--progress-json", "-b", "", "b.qcow2").splitlines()]
    assert lines and lines[-1]["done"] == lines[-1]["total"] > 0, lines


def test_images_that_cannot_be_imported_are_refused_by_name():
    need_devices()
    need_tool("qemu-img")
    with Daemon() as d:
        d.pool(**root())
        roots = os.path.abspath("roots")
        patterned("outside.raw", 1 << 20)
        take = lambda name, **more: d.ask("POST", "/v1/volumes", {"name": "v", "image": f"{roots}/{name}", "import": True,
                                                                  **more})
        for fmt in ("vmdk", "vdi", "vhdx", "vpc", "qcow", "qed", "parallels"):
            run("qemu-img", "create", "-q", "-f", fmt, f"roots/x.{fmt}", "8M")
            status, answer = take(f"x.{fmt}")
            assert status >= 400 and fmt.rstrip("0") in answer["error"]["message"], answer
        # Not what is outside, in whatever way it is named.
        run("qemu-img", "create", "-q", "-f", "qcow2", "-b", os.path.abspath("outside.raw"), "-F", "raw", "roots/back.qcow2")
        run("qemu-img", "create", "-q", "-f", "qcow2", "-b", "../outside.raw", "-F", "raw", "roots/up.qcow2")
        os.symlink("../outside.raw", "roots/link.raw")
        run("qemu-img", "create", "-q", "-f", "qcow2", "-b", "link.raw", "-F", "raw", "roots/bylink.qcow2")
        run("qemu-img", "create", "-q", "-f", "qcow2", "-o", "data_file=roots/d.raw,data_file_raw=on", "roots/data.qcow2", "1M")
        with open("roots/data.qcow2", "r+b") as file:  # the name of the data file, of the same length
            head = file.read(4096)
            at = head.index(b"roots/d.raw")
            file.seek(at)
            file.write(b"/etc/shadow")
        d.post("/v1/volumes", name="other", size="1M")
        theirs = os.path.abspath(f"pool/images/{d.images()[0]}")
        run("qemu-img", "create", "-q", "-f", "qcow2", "-b", theirs, "-F", "qcow2", "roots/theirs.qcow2", "1M")
        for name in ("back", "up", "bylink", "data", "theirs"):
            status, answer = take(f"{name}.qcow2")
            assert status >= 400 and answer["error"]["message"], (name, answer)
            status, answer = d.ask("POST", "/v1/volumes", {"name": "v", "image": f"{roots}/{name}.qcow2"})
            assert status >= 400, ("in place", name, answer)
        for path in ("link.raw", "../outside.raw", "/etc/passwd"):
            assert d.refused("POST", "/v1/volumes", {"name": "v", "image": os.path.join(roots, path), "import": True,
                                                     "image-format": "raw"}) == "forbidden", path
        patterned("roots/a.raw", 1 << 20)
        assert "say so" in take("a.raw")[1]["error"]["message"]  # raw must be said
        assert take("a.raw", **{"image-format": "raw", "size": "512k"})[0] == 400
        assert take("none.raw", **{"image-format": "raw"})[0] == 404
        with open("roots/short.qcow2", "wb") as file:
            file.write(b"QFI\xfb\0\0\0\3")
        assert take("short.qcow2")[0] >= 400
        os.mkfifo("roots/pipe")
        assert take("pipe", **{"image-format": "raw"})[0] >= 400
        assert take("", **{"image-format": "raw"})[0] >= 400
        assert len(d.images()) == 1 and [v["name"] for v in d.get("/v1/volumes")["items"]] == ["other"]


def test_an_import_tells_its_progress_is_cancelled_killed_and_goes_on():
    need_devices()
    patterned("raw", 320 << 20)
    with Daemon(slow("8M")) as d:
        d.pool(**root())
        os.rename("raw", "roots/a.raw")
        take = {"image": os.path.abspath("roots/a.raw"), "import": True, "image-format": "raw"}
        begin = lambda name: d.call("POST", "/v1/volumes", {"name": name, **take})["job"]

        def under_way(job, done):
            deadline = time.monotonic() + 60
            while (now := d.get(f"/v1/jobs/{job}")).get("done", 0) < done:
                assert time.monotonic() < deadline and now["state"] in ("waiting", "running"), now
                time.sleep(0.05)
            assert now["total"] == 320 << 20 and now["object"], now
            return now["done"]

        first, second = begin("v"), begin("w")
        under_way(first, 1 << 20)
        assert d.refused("POST", "/v1/volumes/v/attach", {"user": "a"}) == "busy"
        assert d.refused("DELETE", "/v1/volumes/v") == "busy" and d.refused("DELETE", "/v1/pools/pool") == "busy"
        under_way(second, 1 << 20)  # both at once
        d.post(f"/v1/jobs/{first}/cancel")
        deadline = time.monotonic() + 30
        while d.get(f"/v1/jobs/{first}").get("state") != "cancelled":
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert d.refused("GET", "/v1/volumes/v") == "not-found"
        assert all(name.startswith(layer(d, "w")) for name in d.images()), d.images()
        for end in (d.kill, d.stop):
            under_way(second, 1)
            time.sleep(1.6)  # it notes how far it is every second
            end()
            d.start()
        # What was copied then need not be copied again.
        assert under_way(second, 1) >= 8 << 20, d.get(f"/v1/jobs/{second}")
        d.stop()
        d.words = [word for word in d.words if not word.endswith("/slow")]
        d.start()
        assert wait_for(d, "w")["state"] == "available"
        run("qemu-img", "check", "-q", f"pool/images/{d.images()[0]}")
        check_content(d, "w", "roots/a.raw")
        assert len(d.images()) == 1 and d.get("/v1/jobs")["items"] == []


def layer(d, volume):
    return d.get(f"/v1/volumes/{volume}")["layer"]


# ---- pools that are full, and pools that go away ----


def fill(path, leave):
    """Leaves so many bytes of the file system."""
    st = os.statvfs(os.path.dirname(path))
    with open(path, "wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(st.f_bavail * st.f_frsize - leave, 4096))


def test_a_full_pool_has_nothing_half_made():
    need_devices()
    need_tool("qemu-img")
    os.mkdir("pool")
    run("mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", "pool")
    try:
        with Daemon(slow("4M")) as d:
            d.pool(**root())
            patterned("roots/a.raw", 96 << 20)
            roots = os.path.abspath("roots")
            take = {"name": "x", "image": f"{roots}/a.raw", "import": True, "image-format": "raw"}
            d.post("/v1/volumes", name="v", size="64M")
            d.post("/v1/volumes", name="idle", size="64M", fs="none")
            at = attach(d, "v")
            write(f"{at}/first", "1")
            refused = lambda path, **body: d.ask("POST", path, body)[1]["error"]["code"]
            # Not enough for what is asked.
            before = d.images()
            assert refused("/v1/volumes", name="x", size="64M", preallocation="falloc") == "no-space"
            fill("pool/filler", 4 << 20)
            failed = wait_for(d, d.post("/v1/volumes", **take)["name"])
            assert failed["state"] == "failed" and "may take" in failed["error"], failed
            os.unlink("pool/filler")
            # Enough at first.
            job = d.post("/v1/volumes", **take)["job"]
            while d.get(f"/v1/jobs/{job}").get("done", 0) == 0:
                time.sleep(0.05)
            fill("pool/filler", 0)
            failed = wait_for(d, "x")
            assert failed["state"] == "failed" and "space" in failed["error"], failed
            assert d.images() == before
            fill("pool/rest", 0)
            # Nothing at all.
            assert refused("/v1/volumes", name="x", size="64M") == "no-space"
            assert refused("/v1/volumes", name="x", size="64M", format="raw", preallocation="falloc") == "no-space"
            assert refused("/v1/volumes", name="x", clone="idle") == "no-space"
            assert refused("/v1/volumes", name="x", clone="v") == "no-space"
            for volume in ("v", "idle"):
                assert refused(f"/v1/volumes/{volume}/snapshots", name="s") == "no-space"
            assert d.images() == before and d.get("/v1/jobs")["items"] == [], d.get("/v1/jobs")
            assert [v["name"] for v in d.get("/v1/volumes")["items"]] == ["idle", "v"]
            assert open(f"{at}/first").read() == "1"
            os.unlink("pool/filler")
            os.unlink("pool/rest")
            # All as if nothing had been.
            for volume in ("v", "idle"):
                d.post(f"/v1/volumes/{volume}/snapshots", name="s")
            write(f"{at}/second", "2")
            detach(d, "v")
            for name in d.images():
                run("qemu-img", "check", "-q", f"pool/images/{name}")
            assert names(attach(d, "v")) == ["first", "second"]
            detach(d, "v")
    finally:
        run("umount", "-l", "pool")


def test_a_pool_goes_away_and_comes_back():
    need_devices()
    os.mkdir("store")
    os.mkdir("pool")
    here = lambda: run("mount", "--bind", "store", "pool")
    here()
    try:
        with Daemon(slow("4M")) as d:
            d.pool(**root())
            patterned("roots/a.raw", 64 << 20)
            for name in ("used", "idle", "gone"):
                d.post("/v1/volumes", name=name, size="64M")
            d.post("/v1/volumes/idle/snapshots", name="s")
            at = attach(d, "used")
            write(f"{at}/first", "1")
            job = d.post("/v1/volumes", name="v", image=os.path.abspath("roots/a.raw"),
                         **{"import": True, "image-format": "raw"})["job"]
            while d.get(f"/v1/jobs/{job}").get("done", 0) == 0:
                time.sleep(0.05)
            run("umount", "-l", "pool")
            d.kill()
            d.start()
            assert d.get("/v1/pools/pool")["state"] == "away"
            assert [v["name"] for v in d.get("/v1/volumes")["items"]] == ["gone", "idle", "used", "v"]
            for call, body in (("POST /v1/volumes", {"name": "x"}), ("POST /v1/volumes", {"name": "x", "clone": "idle@s"}),
                               ("POST /v1/volumes/idle/attach", {}), ("POST /v1/volumes/idle/snapshots", {"name": "t"}),
                               ("POST /v1/volumes/idle/resize", {"size": "1G"}), ("DELETE /v1/volumes/gone", None),
                               ("POST /v1/volumes/idle/revert", {"snapshot": "s"}),
                               ("POST /v1/volumes", {"name": "x", "image": os.path.abspath("roots/a.raw"), "format": "raw"})):
                status, answer = d.ask(*call.split(" "), body)
                assert status == 500 and "pool 'pool' is not there" in answer["error"]["message"], (call, answer)
            write(f"{at}/second", "2")  # its engine has its files
            assert d.get(f"/v1/jobs/{job}")["state"] in ("waiting", "running")
            here()
            assert d.get("/v1/pools/pool")["state"] == "available"
            deadline = time.monotonic() + 60  # what was not finished is tried again
            while d.get("/v1/volumes/v")["state"] != "available":
                assert time.monotonic() < deadline, d.get("/v1/jobs")
                time.sleep(0.1)
            check_content(d, "v", "roots/a.raw")
            write(f"{at}/third", "3")
            detach(d, "used")
            assert names(attach(d, "used")) == ["first", "second", "third"]
            detach(d, "used")
            d.delete("/v1/volumes/gone")
            d.post("/v1/volumes/idle/revert", snapshot="s")
    finally:
        subprocess.run(["umount", "-l", "pool"], stderr=subprocess.DEVNULL, timeout=60)  # away, where the test failed


# ---- merges of volumes that are not in use ----


def test_an_offline_merge_tells_its_progress_and_is_cancelled():
    need_devices()
    with Daemon() as d:
        d.pool()
        d.post("/v1/volumes", name="v", size="192M", fs="none")
        device = d.post("/v1/volumes/v/attach", mode="device", user="a")["device"]
        draw = random.Random(5)
        for name in ("s", None):
            with open(device, "r+b") as disk:
                for _ in range(96):
                    disk.seek(draw.randrange(0, 192 << 20, 1 << 20))
                    disk.write(draw.randbytes(1 << 20))
                os.fsync(disk.fileno())
            if name:
                d.post("/v1/volumes/v/snapshots", name=name)
        sums = run("sha256sum", device)
        detach(d, "v")
        d.delete("/v1/volumes/v/snapshots/s")
        seen, cancelled, deadline = [], False, time.monotonic() + 60
        while not any(job["state"] in ("cancelled", "concluded") for job in d.get("/v1/jobs?state=ended")["items"]):
            assert time.monotonic() < deadline, d.get("/v1/jobs?state=ended")
            for job in d.get("/v1/jobs")["items"]:
                if job.get("done"):
                    seen.append((job["done"], job["total"]))
                    cancelled = cancelled or d.ask("POST", f"/v1/jobs/{job['id']}/cancel", {})[0] == 200
        ended = d.get("/v1/jobs?state=ended")["items"]
        print(f"  {len(seen)} times told, cancelled: {cancelled}, {ended[-1]['state']}")
        assert seen and all(0 < done <= total for done, total in seen), open("hawserd.log").read()[-3000:]
        # One that was asked to end at its end may have ended; what finds that later knows of no bytes.
        assert ended[-1]["total"] > 0 or cancelled and ended[-1]["state"] == "concluded", ended
        if ended[-1]["state"] == "cancelled":
            assert len(d.images()) == 2
            d.stop()
            d.start()  # from then on it is begun again
            deadline = time.monotonic() + 60
            while len(d.images()) > 1:
                assert time.monotonic() < deadline, d.get("/v1/jobs")
                time.sleep(0.05)
        device = d.post("/v1/volumes/v/attach", mode="device", user="a")["device"]
        assert run("sha256sum", device).split()[0] == sums.split()[0]
        detach(d, "v")


if __name__ == "__main__":
    main(globals())
