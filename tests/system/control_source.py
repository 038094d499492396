"""Where volumes come from and what they are made as: options of classes and volumes, file systems, imports of images (hostile
ones too), pools that fill up or go away."""
import json
import os
import subprocess

from daemon import Daemon, mountpoint, write
from lib import main, need_devices, need_tool, run

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


if __name__ == "__main__":
    main(globals())
