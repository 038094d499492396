#!/usr/bin/env python3
"""Snapshots of attached volumes by overlay, and the way back: under load, refused while in use, and left
whole by an engine that is killed at any moment of it.
"""
import json
import os
import signal
import subprocess
import threading
import time
from lib import HAWSER, Skip, attach, entry, hawser, main, need_devices, need_tool, nothing_left, run, wait_until

MIB = 1 << 20


def volume(size="64M", *words):
    hawser("create", "-q", "disk.qcow2", size)
    return attach("disk.qcow2", *words)


def put(device, offset, data):
    with open(device, "r+b", buffering=0) as out:
        out.seek(offset)
        out.write(data)
        os.fsync(out.fileno())


def get(device, offset, length):
    fd = os.open(device, os.O_RDONLY)
    try:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        return os.pread(fd, length, offset)
    finally:
        os.close(fd)


def test_a_live_snapshot_keeps_the_old_state():
    need_devices()
    need_tool("qemu-io")
    told = volume()
    put(told["device"], 0, b"a" * MIB)
    done = hawser("snapshot", "disk", "top.qcow2", "--output=json").json()
    assert done["online"] and done["pause-us"] < 1000000, done
    put(told["device"], 4096, b"b" * 8192)
    assert get(told["device"], 0, 16384) == b"a" * 4096 + b"b" * 8192 + b"a" * 4096
    assert entry("disk")["depth"] == 1 and entry("disk")["top"].endswith("top.qcow2")
    assert "attached already, as 'disk'" in hawser("attach", "top.qcow2", code=1).err
    assert "top.qcow2: attach that one next time" in hawser("detach", "top.qcow2").err
    assert "failed" not in run("qemu-io", "-r", "-f", "qcow2", "-c", "read -P 0x61 0 1M", "disk.qcow2")
    for image in ("disk.qcow2", "top.qcow2"):
        hawser("check", image)
    chain = hawser("info", "--backing-chain", "--output=json", "top.qcow2").json()
    assert chain[0]["backing-filename"] == "disk.qcow2", "in one folder the name is relative"
    told = attach("top.qcow2")
    assert get(told["device"], 4096, 8192) == b"b" * 8192
    hawser("detach", "top")
    nothing_left(os.getcwd())


def test_snapshots_under_load_lose_no_write():
    need_devices()
    told = volume("256M")
    block, count, stop, wrote = 65536, 1024, threading.Event(), {}

    def writer(first):
        with open(told["device"], "r+b", buffering=0) as out:
            n = 0
            while not stop.is_set():
                n += 1
                index = first + (n * 7 % (count // 4)) * 4
                data = (b"%08d-%08d" % (index, n)).ljust(512, b".") * (block // 512)
                os.pwrite(out.fileno(), data, index * block)
                wrote[index] = data
            os.fsync(out.fileno())

    threads = [threading.Thread(target=writer, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    pauses = []
    for i in range(6):
        time.sleep(0.15)
        pauses.append(hawser("snapshot", "disk", f"s{i}.qcow2", "--output=json").json()["pause-us"])
    stop.set()
    for thread in threads:
        thread.join()
    assert len(wrote) > 100
    hawser("detach", "disk")
    told = attach("s5.qcow2")
    for index, data in wrote.items():
        assert get(told["device"], index * block, block) == data, index
    assert entry("s5")["depth"] == 6
    hawser("detach", "s5")
    for i in range(6):
        hawser("check", f"s{i}.qcow2")
    print(f"pauses in us: {pauses}")


def test_snapshots_inside_the_image_of_a_volume_under_load():
    need_devices()
    told = volume("64M")
    put(told["device"], 0, b"a" * MIB)
    stop = threading.Event()

    def writer():
        n = 0
        while not stop.is_set():
            n += 1
            put(told["device"], 16 * MIB + n % 64 * 65536, b"%08d" % n * 512)

    thread = threading.Thread(target=writer)
    thread.start()
    try:
        for number in range(3):
            hawser("snapshot", "disk", "--create", f"inside {number}")
            put(told["device"], number * 65536, b"%d" % number * 65536)
        hawser("snapshot", told["device"], "--delete", "inside 1")
    finally:
        stop.set()
        thread.join()
    listed = hawser("snapshot", "disk", "--list", "--output=json").json()
    assert [one["name"] for one in listed] == ["inside 0", "inside 2"], listed
    assert "detach it first" in hawser("snapshot", "disk", "--apply", "inside 0", code=1).err
    assert "no snapshot" in hawser("snapshot", "disk", "--delete", "nobody", code=1).err
    assert get(told["device"], 0, 3 * 65536) == b"0" * 65536 + b"1" * 65536 + b"2" * 65536
    hawser("detach", "disk")
    hawser("check", "disk.qcow2")
    hawser("convert", "-q", "-O", "raw", "--snapshot", "inside 2", "disk.qcow2", "old.raw")
    with open("old.raw", "rb") as old:
        assert old.read(MIB) == b"0" * 65536 + b"1" * 65536 + b"a" * (MIB - 2 * 65536)
    hawser("snapshot", "disk.qcow2", "--apply", "inside 0")
    hawser("check", "disk.qcow2")
    told = attach("disk.qcow2")
    assert get(told["device"], 0, MIB) == b"a" * MIB
    hawser("detach", "disk")
    nothing_left(os.getcwd())


def test_a_failed_snapshot_changes_nothing():
    need_devices()
    told = volume()
    put(told["device"], 0, b"a" * 4096)
    open("exists.qcow2", "w").write("precious")
    assert hawser("snapshot", "disk", "exists.qcow2", code=1).err
    assert open("exists.qcow2").read() == "precious"
    assert hawser("snapshot", "disk", "no/such/folder/x.qcow2", code=1).err
    assert entry("disk")["depth"] == 0
    put(told["device"], 0, b"b" * 4096)
    assert get(told["device"], 0, 4096) == b"b" * 4096
    hawser("detach", "disk")
    told = attach("disk.qcow2", "--read-only")
    assert "read-only" in hawser("snapshot", "disk", "top.qcow2", code=1).err
    assert not os.path.exists("top.qcow2")


def test_revert_goes_back_to_the_snapshot():
    need_devices()
    told = volume()
    device = told["device"]
    put(device, 0, b"a" * MIB)
    hawser("snapshot", "disk", "top.qcow2")
    put(device, 0, b"b" * MIB)
    assert get(device, 0, MIB) == b"b" * MIB
    done = hawser("snapshot", "--revert", "disk", "--output=json").json()
    assert done["online"] and done["layer"].endswith("/disk.qcow2"), done
    assert get(device, 0, MIB) == b"a" * MIB
    put(device, MIB, b"c" * 4096)
    assert sorted(f for f in os.listdir(".") if f != "run") == ["disk.qcow2", "top.qcow2"]
    hawser("detach", "disk")
    told = attach("top.qcow2")
    assert get(told["device"], 0, MIB + 4096) == b"a" * MIB + b"c" * 4096
    hawser("detach", "top")
    hawser("check", "top.qcow2")


def test_revert_reaches_any_layer_and_its_size():
    need_devices()
    told = volume()
    device = told["device"]
    for i, letter in enumerate(b"abc"):
        put(device, 0, bytes([letter]) * 65536)
        hawser("snapshot", "disk", f"s{i}.qcow2")
    hawser("resize", "disk", "128M")
    put(device, 0, b"z" * 65536)
    hawser("snapshot", "--revert", "disk", "s0.qcow2")
    assert get(device, 0, 65536) == b"b" * 65536
    assert int(run("blockdev", "--getsize64", device)) == 64 * MIB
    assert entry("disk")["depth"] == 2
    assert "not in the backing chain" in hawser("snapshot", "--revert", "disk", "s1.qcow2", code=1).err
    hawser("snapshot", "--revert", "disk", "disk.qcow2")
    assert get(device, 0, 65536) == b"a" * 65536
    hawser("detach", "disk")


def test_revert_is_refused_while_the_device_is_in_use():
    need_devices()
    told = volume("64M", "--mount", "m", "--mkfs", "ext4")
    hawser("snapshot", "disk", "top.qcow2")
    open("m/new", "w").write("x")
    failed = hawser("snapshot", "--revert", "disk", code=1)
    assert "mounted at" in failed.err and entry("disk")["top"].endswith("top.qcow2"), failed.err
    run("umount", "m")
    with open(told["device"], "rb"):
        failed = hawser("snapshot", "--revert", "disk", code=1)
        assert f"process {os.getpid()}" in failed.err, failed.err
    hawser("snapshot", "--revert", "disk")
    run("mount", told["device"], "m")
    assert not os.path.exists("m/new")
    hawser("detach", "disk")
    nothing_left(os.getcwd())


def test_revert_without_a_snapshot_is_refused():
    need_devices()
    volume()
    assert "take one first" in hawser("snapshot", "--revert", "disk", code=1).err
    assert "snapshot" in hawser("snapshot", "--revert", "disk.qcow2", code=1).err


def test_a_kill_at_any_moment_of_a_revert_leaves_a_whole_image():
    need_devices()
    need_tool("qemu-io")
    hawser("create", "-q", "disk.qcow2", "16M")
    run("qemu-io", "-f", "qcow2", "-c", "write -P 1 0 1M", "disk.qcow2")
    seen = set()
    for i in range(24):
        for name in os.listdir("."):
            if name.startswith("top"):
                os.unlink(name)
        hawser("snapshot", "disk.qcow2", "top.qcow2")
        run("qemu-io", "-f", "qcow2", "-c", "write -P 2 0 1M", "top.qcow2")
        told = attach("top.qcow2")
        asking = subprocess.Popen([HAWSER, "snapshot", "--revert", "top"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(i * 0.0007)
        os.kill(told["pid"], signal.SIGKILL)
        asking.wait(90)
        hawser("detach", "top")
        hawser("check", "-r", "leaks", "top.qcow2")
        out = subprocess.run(["qemu-io", "-r", "-U", "-f", "qcow2", "-c", "read -P 1 0 1M", "top.qcow2"],
                             capture_output=True, text=True).stdout
        assert "read 1048576/1048576" in out or "verification failed" in out, out
        state = "old" if "verification failed" in out else "new"
        if state == "old":
            assert "failed" not in run("qemu-io", "-r", "-U", "-f", "qcow2", "-c", "read -P 2 0 1M", "top.qcow2")
        seen.add(state)
    print(f"states seen: {sorted(seen)}")


def test_an_overlay_in_another_folder_goes_back_and_opens_from_anywhere():
    need_devices()
    need_tool("qemu-img")
    os.makedirs("far")
    told = volume()
    put(told["device"], 0, b"a" * 4096)
    hawser("snapshot", "disk", "far/top.qcow2")
    put(told["device"], 0, b"b" * 4096)
    hawser("snapshot", "--revert", "disk")
    assert get(told["device"], 0, 4096) == b"a" * 4096
    hawser("detach", "disk")
    assert os.listdir("far") == ["top.qcow2"]
    top = os.path.realpath("far/top.qcow2")
    assert os.path.realpath("disk.qcow2") in run("qemu-img", "info", "--backing-chain", top, cwd="/")
    assert "--allow" in hawser("info", "--backing-chain", top, cwd="/", code=1).err
    hawser("info", "--backing-chain", f"--allow={os.getcwd()}", top, cwd="/")


def test_a_name_with_a_colon_is_no_protocol():
    need_tool("qemu-img")
    hawser("create", "-q", "disk.qcow2", "16M")
    os.rename("disk.qcow2", "vm:1.qcow2")
    hawser("snapshot", "vm:1.qcow2", "top.qcow2")
    run("qemu-img", "info", "--backing-chain", "top.qcow2")
    hawser("check", "top.qcow2")


SHIM = """
#define _GNU_SOURCE
#include <errno.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>
int fsync(int fd)
{
    struct stat st;
    if (fstat(fd, &st) == 0 && S_ISDIR(st.st_mode) && access("exchanged", F_OK) == 0) {
        errno = EIO;
        return -1;
    }
    return (int)syscall(SYS_fsync, fd);
}
int renameat2(int from_fd, const char *from, int to_fd, const char *to, unsigned flags)
{
    close(creat("exchanged", 0600));
    return (int)syscall(SYS_renameat2, from_fd, from, to_fd, to, flags);
}
"""


def test_a_revert_that_cannot_be_made_durable_keeps_the_old_state():
    need_tool("cc", "qemu-io")
    open("shim.c", "w").write(SHIM)
    run("cc", "-shared", "-fPIC", "-o", "shim.so", "shim.c")
    hawser("create", "-q", "disk.qcow2", "16M")
    hawser("snapshot", "disk.qcow2", "top.qcow2")
    run("qemu-io", "-f", "qcow2", "-c", "write -P 2 0 1M", "top.qcow2")
    failed = hawser("snapshot", "--revert", "top.qcow2", code=1,
                    env={"LD_PRELOAD": os.path.realpath("shim.so"), "ASAN_OPTIONS": "verify_asan_link_order=0"})
    assert os.path.exists("exchanged") and "cannot exchange" in failed.err, failed.err
    assert "failed" not in run("qemu-io", "-r", "-f", "qcow2", "-c", "read -P 2 0 1M", "top.qcow2")
    assert not [name for name in os.listdir(".") if ".revert-" in name]


def test_revert_by_a_link_replaces_the_file():
    need_tool("qemu-io")
    hawser("create", "-q", "disk.qcow2", "16M")
    hawser("snapshot", "disk.qcow2", "top.qcow2")
    run("qemu-io", "-f", "qcow2", "-c", "write -P 2 0 1M", "top.qcow2")
    os.symlink("top.qcow2", "link.qcow2")
    hawser("snapshot", "--revert", "link.qcow2")
    assert os.readlink("link.qcow2") == "top.qcow2"
    assert "failed" not in run("qemu-io", "-r", "-f", "qcow2", "-c", "read -P 0 0 1M", "top.qcow2")


def test_names_are_bytes():
    name, top = b"disk\xff.qcow2", b"top\xfe.qcow2"
    hawser("create", "-q", os.fsdecode(name), "16M")
    made = hawser("snapshot", os.fsdecode(name), os.fsdecode(top), "--output=json").json()
    assert made["overlay"].endswith("top\\xfe.qcow2"), made
    chain = hawser("info", "--backing-chain", os.fsdecode(top), "--output=json").json()
    assert len(chain) == 2
    hawser("snapshot", "--revert", os.fsdecode(top), "--output=json")


def test_what_a_killed_revert_left_is_told_and_kept():
    need_devices()
    hawser("create", "-q", "disk.qcow2", "16M")
    hawser("snapshot", "disk.qcow2", "top.qcow2")
    open("top.qcow2.revert-0123abcd", "w").close()
    open("top.qcow2.revert-mine", "w").close()
    for words in (("snapshot", "--revert", "top.qcow2"), ("attach", "top.qcow2")):
        assert "top.qcow2.revert-0123abcd is left from a revert" in hawser(*words).err, words
    os.kill(entry("top")["pid"], signal.SIGKILL)
    wait_until(lambda: entry("top")["state"] == "dead")
    assert "top.qcow2.revert-0123abcd is left from a revert" in hawser("detach", "top").err
    os.unlink("top.qcow2.revert-0123abcd")
    assert "is left" not in hawser("snapshot", "--revert", "top.qcow2").err


main(globals())
