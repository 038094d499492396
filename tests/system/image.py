#!/usr/bin/env python3
"""Image commands as a user runs them: create, info, check, map, resize, snapshot; their JSON, their errors
and their exit codes. qemu-img is the oracle where it is installed.
"""
import json
import os
import resource
import shutil
import subprocess
from lib import Skip, hawser, main, need_tool, run

GIB = 1 << 30


def test_create_makes_a_qcow2_image_by_default():
    made = hawser("create", "disk.qcow2", "10G", "--output=json").json()
    assert (made["format"], made["virtual-size"]) == ("qcow2", 10 * GIB)
    assert os.path.getsize("disk.qcow2") < 8 << 20


def test_qemu_img_reads_what_create_makes():
    need_tool("qemu-img")
    for options in ([], ["-o", "cluster_size=64k"], ["-o", "cluster_size=64k,extended_l2=off"]):
        hawser("create", "-q", "--overwrite", *options, "disk.qcow2", "3G")
        theirs = json.loads(run("qemu-img", "info", "--output=json", "disk.qcow2"))
        ours = hawser("info", "--output=json", "disk.qcow2").json()
        for key in ("format", "virtual-size", "cluster-size"):
            assert theirs[key] == ours[key], (options, key, theirs, ours)
        run("qemu-img", "check", "disk.qcow2")


def test_create_takes_the_size_of_the_backing_image():
    hawser("create", "-q", "base.qcow2", "5G")
    made = hawser("create", "-b", "base.qcow2", "-F", "qcow2", "top.qcow2", "--output=json").json()
    assert made["virtual-size"] == 5 * GIB
    assert made["backing-filename"] == "base.qcow2"
    probed = hawser("create", "-b", "base.qcow2", "top2.qcow2", "--output=json").json()
    assert probed["backing-filename-format"] == "qcow2"


def test_create_wants_the_format_of_a_raw_backing_image():
    hawser("create", "-q", "-f", "raw", "base.img", "1G")
    failed = hawser("create", "-b", "base.img", "top.qcow2", code=1)
    assert "-F" in failed.err and "raw" in failed.err, failed.err
    assert not os.path.exists("top.qcow2")
    hawser("create", "-q", "-b", "base.img", "-F", "raw", "top.qcow2")


def test_create_replaces_nothing_unless_told():
    hawser("create", "-q", "disk.qcow2", "1G")
    failed = hawser("create", "disk.qcow2", "2G", code=1)
    assert "--overwrite" in failed.err, failed.err
    assert hawser("info", "--output=json", "disk.qcow2").json()["virtual-size"] == GIB
    hawser("create", "-q", "--overwrite", "disk.qcow2", "2G")
    assert hawser("info", "--output=json", "disk.qcow2").json()["virtual-size"] == 2 * GIB


def test_a_failed_create_leaves_no_file():
    for words in (["-o", "cluster_size=3"], ["-o", "cluster_size=64M"], ["-o", "no_such_option=1"],
                  ["-b", "missing.qcow2"]):
        failed = hawser("create", *words, "disk.qcow2", "1G", code=1)
        assert failed.err.startswith("hawser create: error: "), failed.err
        assert not os.path.exists("disk.qcow2"), words
    assert "no_such_option" in hawser("create", "-o", "no_such_option=1", "d.qcow2", "1G", code=1).err


def test_sizes_are_checked():
    for size in ("0x", "-5", "1Q", "9999999999999E", "7E"):
        failed = hawser("create", "disk.qcow2", size, code=1 if size == "7E" else 2)
        assert failed.err.count("\n") <= 2, failed.err
    hawser("create", "disk.qcow2", code=1)


def test_info_tells_the_whole_chain():
    hawser("create", "-q", "a.qcow2", "1G")
    hawser("create", "-q", "-b", "a.qcow2", "b.qcow2")
    hawser("create", "-q", "-b", "b.qcow2", "c.qcow2")
    chain = hawser("info", "--output=json", "--backing-chain", "c.qcow2").json()
    assert [os.path.basename(layer["filename"]) for layer in chain] == ["c.qcow2", "b.qcow2", "a.qcow2"]
    human = hawser("info", "--backing-chain", "c.qcow2").out
    assert human.count("image:") == 3 and "1 GiB" in human


def test_a_chain_longer_than_the_soft_limit_of_descriptors():
    hawser("create", "-o", "cluster_size=512,extended_l2=off", "0.qcow2", "1M")
    for layer in range(1, 80):
        hawser("create", "-o", "cluster_size=512,extended_l2=off", "-b", f"{layer - 1}.qcow2", "-F", "qcow2",
               f"{layer}.qcow2")
    limits = lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (64, 4096))
    chain = hawser("info", "--output=json", "--backing-chain", "79.qcow2", preexec_fn=limits).json()
    assert len(chain) == 80


def test_info_of_raw_says_that_raw_must_be_said():
    hawser("create", "-q", "-f", "raw", "disk.img", "1M")
    failed = hawser("info", "disk.img", code=1)
    assert "raw" in failed.err and "header" in failed.err, failed.err
    assert hawser("info", "-f", "raw", "--output=json", "disk.img").json()["format"] == "raw"


def test_info_tells_names_that_are_no_utf8():
    name = b"\xff\xfe.qcow2"
    subprocess.run([os.fsencode(shutil.which("qemu-img") or "false"), b"create", b"-q", b"-f", b"qcow2", name, b"1M"])
    if not os.path.exists(name):
        raise Skip("needs qemu-img and a file system that takes any name")
    told = hawser("info", "--output=json", os.fsdecode(name)).json()
    assert "\\xff\\xfe" in told["filename"], told


def test_no_escape_sequence_reaches_the_terminal():
    name = "\x1b[31mred\u009b.qcow2"
    hawser("create", "-q", name, "1M")
    assert "\x1b" not in hawser("info", name).out and "\u009b" not in hawser("info", name).out
    assert "\x1b" not in hawser("info", name + "x", code=1).err


def test_check_exit_codes():
    hawser("create", "-q", "-o", "extended_l2=off,cluster_size=64k", "disk.qcow2", "1G")
    clean = hawser("check", "disk.qcow2", "--output=json").json()
    assert clean["clean"] and clean["corruptions"] == clean["leaks"] == 0
    # A leak: one cluster more in the file, with a reference that nothing uses.
    with open("disk.qcow2", "r+b") as image:
        header = image.read(104)
        table = int.from_bytes(header[48:56], "big")
        image.seek(table)
        block = int.from_bytes(image.read(8), "big")
        end = os.path.getsize("disk.qcow2")
        index = (end + 65535) // 65536
        image.truncate((index + 1) * 65536)
        image.seek(block + 2 * index)
        image.write(b"\0\1")
    leaky = hawser("check", "disk.qcow2", "--output=json", code=3).json()
    assert leaky["leaks"] == 1 and not leaky["clean"], leaky
    assert "leak" in hawser("check", "disk.qcow2", code=3).out
    mended = hawser("check", "-r", "leaks", "disk.qcow2", "--output=json").json()
    assert mended["leaks-fixed"] == 1 and mended["leaks"] == 0, mended
    hawser("check", "disk.qcow2")
    # Corruption: an L1 entry that points past the end of the file.
    with open("disk.qcow2", "r+b") as image:
        image.seek(int.from_bytes(header[40:48], "big"))
        image.write((1 << 63 | 1 << 40).to_bytes(8, "big"))
    assert hawser("check", "disk.qcow2", "--output=json", code=2).json()["corruptions"] >= 1
    assert hawser("check", "--no-such-option", "disk.qcow2", code=1).err
    assert hawser("check", "missing.qcow2", code=1).err


def test_map_agrees_with_qemu_img():
    need_tool("qemu-img", "qemu-io")
    run("qemu-img", "create", "-q", "-f", "qcow2", "base.qcow2", "64M")
    run("qemu-io", "-f", "qcow2", "-c", "write -P 1 0 3M", "-c", "write -z 8M 1M", "base.qcow2")
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", "top.qcow2")
    run("qemu-io", "-f", "qcow2", "-c", "write -P 2 1M 64k", "-c", "write -P 2 32M 256k", "top.qcow2")
    theirs = json.loads(run("qemu-img", "map", "--output=json", "top.qcow2"))
    ours = hawser("map", "--output=json", "top.qcow2").json()
    assert sum(e["length"] for e in ours) == 64 << 20
    keep = lambda e: (e["start"], e["length"], e["depth"], e["data"], e.get("offset"))
    assert [keep(e) for e in ours if e["data"]] == [keep(e) for e in theirs if e["data"]], (ours, theirs)
    assert "0x100000" in hawser("map", "top.qcow2").out
    part = hawser("map", "--output=json", "-s", "1M", "-l", "64k", "top.qcow2").json()
    assert [(e["start"], e["length"]) for e in part] == [(1 << 20, 65536)]


def test_map_of_a_huge_image_takes_no_time():
    hawser("create", "-q", "huge.qcow2", "1P")
    extents = hawser("map", "--output=json", "huge.qcow2", timeout=90).json()
    assert sum(e["length"] for e in extents) == 1 << 50
    with open("huge.img", "w") as out:
        try:
            out.truncate((1 << 43) - 4096)
        except OSError:
            return
    assert len(hawser("map", "-f", "raw", "--output=json", "huge.img", timeout=90).json()) == 1


def test_resize():
    for name, words in (("disk.qcow2", []), ("disk.img", ["-f", "raw"])):
        hawser("create", "-q", *words, name, "1G")
        hawser("resize", "-q", *words, name, "+1G")
        size = lambda: hawser("info", "--output=json", *words, name).json()["virtual-size"]
        assert size() == 2 * GIB
        assert hawser("resize", "--output=json", *words, name, "5G").json()["virtual-size"] == 5 * GIB
        assert "--shrink" in hawser("resize", *words, name, "-1G", code=1).err
        assert size() == 5 * GIB
        hawser("resize", *words, name, "nonsense", code=2)
        hawser("resize", *words, name, "+8E", code=1)


def test_snapshot_and_revert_of_an_image():
    need_tool("qemu-io")
    hawser("create", "-q", "disk.qcow2", "64M")
    run("qemu-io", "-f", "qcow2", "-c", "write -P 1 0 1M", "disk.qcow2")
    hawser("snapshot", "disk.qcow2", "top.qcow2")
    run("qemu-io", "-f", "qcow2", "-c", "write -P 2 0 1M", "-c", "read -P 2 0 1M", "top.qcow2")
    os.chmod("top.qcow2", 0o640)
    back = hawser("snapshot", "--revert", "top.qcow2", "--output=json").json()
    assert os.path.basename(back["layer"]) == "disk.qcow2", back
    assert "Pattern verification failed" not in run("qemu-io", "-f", "qcow2", "-c", "read -P 1 0 1M", "top.qcow2")
    assert os.stat("top.qcow2").st_mode & 0o777 == 0o640
    assert sorted(os.listdir(".")) == ["disk.qcow2", "top.qcow2"]
    hawser("check", "top.qcow2")
    failed = hawser("snapshot", "--revert", "disk.qcow2", code=1)
    assert "no snapshot" in failed.err, failed.err
    assert "is not in the backing chain" in hawser("snapshot", "--revert", "top.qcow2", "top.qcow2", code=1).err


def test_backing_files_elsewhere_need_allow():
    os.makedirs("elsewhere")
    hawser("create", "-q", "elsewhere/base.qcow2", "1G")
    hawser("create", "-q", "--allow", "elsewhere", "-b", os.path.abspath("elsewhere/base.qcow2"), "-F", "qcow2", "top.qcow2")
    os.makedirs("here")
    os.rename("top.qcow2", "here/top.qcow2")
    failed = hawser("info", "--backing-chain", "here/top.qcow2", code=1)
    assert "elsewhere" in failed.err, failed.err
    chain = hawser("info", "--backing-chain", "--allow", "elsewhere", "here/top.qcow2", "--output=json").json()
    assert len(chain) == 2
    hawser("info", "here/top.qcow2")  # the top alone needs nothing


def test_images_in_use_are_refused_and_can_be_shared():
    need_tool("qemu-io")
    hawser("create", "-q", "disk.qcow2", "64M")
    user = subprocess.Popen(["qemu-io", "-f", "qcow2", "disk.qcow2"], stdin=subprocess.PIPE,
                            stdout=subprocess.PIPE, text=True)
    user.stdin.write("read 0 512\n")
    user.stdin.flush()
    user.stdout.readline()
    try:
        assert hawser("check", "disk.qcow2", code=1).err
        assert hawser("resize", "disk.qcow2", "1G", code=1).err
        hawser("info", "-U", "disk.qcow2")
    finally:
        user.communicate("quit\n")


main(globals())
