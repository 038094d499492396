#!/usr/bin/env python3
"""The life of an attachment: attach, use, list, resize, detach; and everything that goes wrong with one:
busy devices, engines that are killed, images in use, shells that end.
"""
import json
import os
import shutil
import signal
import subprocess
import time
from lib import (HAWSER, Rpc, Skip, attach, device_size, entry, hawser, main, need_devices, need_tool, nothing_left,
                 run, wait_until)

MIB = 1 << 20


def is_running(name):
    told = entry(name)
    assert told["state"] == "running", told
    return True


def image(name="disk.qcow2", size="64M"):
    hawser("create", "-q", name, size)
    return name


def test_what_is_written_to_the_device_is_in_the_image():
    need_devices()
    need_tool("qemu-img")
    told = attach(image())
    device = told["device"]
    assert device.startswith("/dev/loop") and told["name"] == "disk" and told["size"] == 64 * MIB, told
    assert device_size(device) == 64 * MIB
    data = os.urandom(3 * MIB)
    with open(device, "r+b") as out:
        out.seek(5 * MIB + 512)
        out.write(data)
        os.fsync(out.fileno())
    hawser("detach", "disk")
    run("qemu-img", "convert", "-O", "raw", "disk.qcow2", "disk.img")
    with open("disk.img", "rb") as raw:
        raw.seek(5 * MIB + 512)
        assert raw.read(len(data)) == data
    hawser("check", "disk.qcow2")
    nothing_left(os.getcwd())


def test_the_device_has_the_block_size_that_was_asked_for():
    need_devices()
    device = attach(image(), "--block-size=4096")["device"]
    block = open(f"/sys/block/{os.path.basename(device)}/queue/logical_block_size").read()
    assert block.strip() == "4096", block
    hawser("detach", "disk")
    failed = hawser("attach", "disk.qcow2", "--via=fuse", "--block-size=4096", code=1)
    assert "block-size" in failed.err, failed.err
    nothing_left(os.getcwd())


def test_attach_prints_the_device_and_only_that():
    need_devices()
    out = hawser("attach", image()).out
    assert out.startswith("/dev/loop") and out.count("\n") == 1
    assert os.path.exists(out.strip())
    hawser("detach", out.strip())
    nothing_left(os.getcwd())


def test_mount_makes_a_file_system_once_and_keeps_it():
    need_devices()
    hawser("attach", image(), "--mount", "m", "--mkfs", "ext4")
    assert os.path.ismount("m")
    assert "nosuid" in [line for line in open("/proc/self/mountinfo") if os.path.realpath("m") in line][0]
    with open("m/hello", "w") as out:
        out.write("hawser")
    hawser("detach", "m")
    assert not os.path.exists("m"), "the folder that attach made goes with the mount"
    hawser("attach", "disk.qcow2", "--mount", "m", "--mkfs", "ext4")
    assert open("m/hello").read() == "hawser"
    hawser("detach", "disk.qcow2")
    nothing_left(os.getcwd())


def test_mounting_what_has_no_file_system_attaches_nothing():
    need_devices()
    failed = hawser("attach", image(), "--mount", "m", code=1)
    assert "no file system" in failed.err, failed.err
    nothing_left(os.getcwd())
    assert not os.path.exists("m")


def test_list_tells_state_and_statistics():
    need_devices()
    hawser("list")
    attach(image())
    with open(entry("disk")["device"], "r+b") as out:
        out.write(b"x" * MIB)
        os.fsync(out.fileno())
    told = entry("disk")
    assert told["state"] == "running" and told["image"] == os.path.realpath("disk.qcow2"), told
    assert told["operations"]["write"]["bytes"] >= MIB and told["operations"]["write"]["latency-ns-p99"] > 0
    human = hawser("list", "--stats", "disk").out
    assert "disk" in human and "write" in human and "64 MiB" in human
    assert hawser("list", "--names").out == "disk\n"
    hawser("detach", "disk")
    assert hawser("list", "--output=json").json() == []


def test_an_image_is_attached_once():
    need_devices()
    attach(image())
    failed = hawser("attach", "disk.qcow2", code=1)
    assert "attached already, as 'disk'" in failed.err, failed.err
    other = hawser("attach", "disk.qcow2", code=1, env={"HAWSER_RUN_DIR": os.path.join(os.getcwd(), "run2")})
    assert "another process" in other.err and "(hawser, pid" in other.err, other.err
    assert "attached as 'disk'" in hawser("check", "disk.qcow2", code=1).err
    hawser("info", "-U", "disk.qcow2")
    hawser("detach", "disk")


def test_names_are_made_chosen_and_refused():
    need_devices()
    os.makedirs("other")
    image()
    image("other/disk.qcow2")
    assert attach("disk.qcow2")["name"] == "disk"
    assert attach("other/disk.qcow2")["name"] == "disk-2"
    hawser("detach", "disk", "disk-2")
    assert attach("disk.qcow2", "--name=my.disk_1")["name"] == "my.disk_1"
    assert "choose another --name" in hawser("attach", "other/disk.qcow2", "--name", "my.disk_1", code=1).err
    for name in ("../x", "a b", ".hidden", "-x", "x" * 65, "a/b", ""):
        assert "no name" in hawser("attach", "other/disk.qcow2", f"--name={name}", code=1).err
    hawser("detach", "--all")
    nothing_left(os.getcwd())


def test_read_only():
    need_devices()
    image()
    told = attach("disk.qcow2", "--read-only")
    assert told["read-only"] and run("blockdev", "--getro", told["device"]).strip() == "1"
    try:
        with open(told["device"], "r+b", buffering=0) as out:
            out.write(b"x" * 4096)
        assert False, "a read-only device was written"
    except OSError:
        pass
    # Readers share.
    second = attach("disk.qcow2", "--read-only", "--name=second")
    assert second["device"] != told["device"]
    hawser("detach", "--all")


def test_every_mode_serves():
    need_devices()
    image()
    for words in (["--cache=none"], ["--cache=writethrough"], ["--cache=unsafe"], ["--discard=ignore"],
                  ["--detect-zeroes=unmap"], ["--queues=2"], ["--via=fuse-loop"], ["--via=fuse"]):
        told = attach("disk.qcow2", *words)
        with open(told["device"], "r+b", buffering=0) as out:
            out.write(b"hawser!!" * 512)
            os.fsync(out.fileno())
        hawser("detach", "disk")
        told = attach("disk.qcow2", "--read-only")
        assert open(told["device"], "rb").read(8) == b"hawser!!", words
        hawser("detach", "disk")
    assert attach("disk.qcow2", "--via=none").get("device") is None
    hawser("detach", "disk")
    nothing_left(os.getcwd())


def test_attach_survives_the_shell():
    need_devices()
    image()
    shell = subprocess.Popen(["setsid", "sh", "-c", f"'{HAWSER}' attach disk.qcow2 >device; kill -HUP 0; sleep 1"])
    shell.wait()
    device = open("device").read().strip()
    time.sleep(0.2)
    assert is_running("disk")
    assert device_size(device) == 64 * MIB
    hawser("detach", "disk")


def test_a_mounted_device_is_not_taken_away():
    need_devices()
    hawser("attach", image(), "--mount", "m", "--mkfs", "ext4")
    with open("m/held", "w") as held:
        held.write("x")
        held.flush()
        failed = hawser("detach", "disk", code=1)
        assert f"process {os.getpid()}" in failed.err, failed.err
        assert is_running("disk")
        held.write("y")
    hawser("detach", "disk")
    nothing_left(os.getcwd())


def test_a_device_that_somebody_mounted_by_hand_is_not_taken_away():
    need_devices()
    told = attach(image())
    run("mkfs.ext4", "-q", told["device"])
    os.makedirs("m")
    run("mount", told["device"], "m")
    failed = hawser("detach", "disk", code=1)
    assert f"mounted at {os.path.realpath('m')}" in failed.err, failed.err
    assert is_running("disk")
    run("umount", "m")
    hawser("detach", "disk")
    nothing_left(os.getcwd())


def test_copies_of_the_mount_in_other_name_spaces_do_not_keep_it():
    need_devices()
    need_tool("unshare", "qemu-io")
    told = attach(image())
    with open(told["device"], "r+b", buffering=0) as out:
        out.write(b"h" * MIB)
    other = subprocess.Popen(["unshare", "-m", "--propagation", "private", "sleep", "600"])
    try:
        time.sleep(0.2)
        hawser("detach", "disk", timeout=90)
        nothing_left(os.getcwd())
        hawser("check", "-r", "leaks", "disk.qcow2")
        assert "failed" not in run("qemu-io", "-r", "-f", "qcow2", "-c", "read -P 0x68 0 1M", "disk.qcow2")
    finally:
        other.kill()
        other.wait()


def test_a_device_that_a_program_has_open_is_not_taken_away():
    need_devices()
    told = attach(image())
    with open(told["device"], "r+b", buffering=0) as machine:
        failed = hawser("detach", "disk", code=1)
        assert f"process {os.getpid()}" in failed.err, failed.err
        machine.write(b"x" * 4096)
        os.fsync(machine.fileno())
        os.kill(told["pid"], signal.SIGTERM)
        time.sleep(1.5)
        assert is_running("disk")
        machine.write(b"x" * 4096)
        os.fsync(machine.fileno())
    hawser("detach", "disk")
    nothing_left(os.getcwd())


def test_force_takes_the_device_from_its_users():
    need_devices()
    hawser("attach", image(), "--mount", "m", "--mkfs", "ext4")
    with open("m/held", "w") as held:
        held.write("x")
        hawser("detach", "disk", code=1)
        hawser("detach", "--force", "disk", timeout=90)
        try:
            held.close()
        except OSError:
            pass
    wait_until(lambda: os.getcwd() not in run("losetup", "-a"))
    nothing_left(os.getcwd())
    hawser("check", "-r", "leaks", "disk.qcow2")


def test_the_killed_engine_of_an_idle_device_is_cleaned_up():
    need_devices()
    told = attach(image())
    os.kill(told["pid"], signal.SIGKILL)
    wait_until(lambda: entry("disk")["state"] == "dead")
    assert "engine that died" in hawser("attach", "disk.qcow2", "--name=disk", code=1).err
    for words in (["resize", "disk", "+1M"], ["snapshot", "disk", "x.qcow2"], ["snapshot", "--revert", "disk.qcow2"]):
        assert "'hawser detach disk' cleans up" in hawser(*words, code=1).err
    assert "had died" in hawser("detach", "disk").err
    nothing_left(os.getcwd())
    attach("disk.qcow2")
    hawser("detach", "disk")
    hawser("check", "-r", "leaks", "disk.qcow2")


def has_ended(pid):
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_the_killed_engine_of_a_device_that_is_dirty_ends():
    """What is in the device's page cache cannot be written any more; nobody may wait for that."""
    need_devices()
    for more in ([], ["--sandbox"]):
        told = attach(image(), *more)
        porter = int(subprocess.run(["pgrep", "-P", str(told["pid"])], capture_output=True, check=True, text=True).stdout)
        with open(told["device"], "r+b", buffering=0) as device:
            for _ in range(32):
                device.write(os.urandom(1 << 20))
        os.kill(told["pid"], signal.SIGKILL)
        wait_until(lambda: has_ended(told["pid"]) and has_ended(porter))
        wait_until(lambda: not os.path.exists(f"/sys/block/{os.path.basename(told['device'])}/loop"))
        hawser("detach", "disk")
        nothing_left(os.getcwd())
        hawser("check", "-r", "leaks", "disk.qcow2")
        os.unlink("disk.qcow2")


def test_the_killed_engine_of_a_mounted_device_is_cleaned_up():
    need_devices()
    told = json.loads(hawser("attach", image(), "--mount", "m", "--mkfs", "ext4", "--output=json").out)
    with open("m/kept", "w") as out:
        out.write("kept")
        out.flush()
        os.fsync(out.fileno())
    os.kill(told["pid"], signal.SIGKILL)
    wait_until(lambda: entry("disk")["state"] == "dead")
    hawser("detach", "disk")
    nothing_left(os.getcwd())
    hawser("check", "-r", "leaks", "disk.qcow2")
    hawser("attach", "disk.qcow2", "--mount", "m")
    assert open("m/kept").read() == "kept"
    hawser("detach", "disk")


def test_resize_is_seen_by_the_device():
    need_devices()
    need_tool("resize2fs")
    told = json.loads(hawser("attach", image(), "--mount", "m", "--mkfs", "ext4", "--output=json").out)
    before = os.statvfs("m").f_blocks
    done = hawser("resize", "disk", "+192M", "--output=json").json()
    assert done["online"] and done["virtual-size"] == 256 * MIB
    assert device_size(told["device"]) == 256 * MIB
    grown = subprocess.run(["resize2fs", told["device"]], capture_output=True, text=True)
    if "Permission denied" in grown.stderr:  # without CAP_SYS_RESOURCE: unmounted
        run("umount", "m")
        run("e2fsck", "-fp", told["device"])
        run("resize2fs", told["device"])
        run("mount", told["device"], "m")
    else:
        assert grown.returncode == 0, grown.stderr
    assert os.statvfs("m").f_blocks > 3 * before
    assert hawser("resize", "disk", "1M", code=1).err.count("--shrink") == 1
    hawser("resize", told["device"], "+1M")
    assert "leave out --format" in hawser("resize", "-f", "qcow2", "disk", "+1M", code=1).err
    assert "leave out --allow" in hawser("snapshot", "--allow=/", "disk", "x.qcow2", code=1).err
    assert hawser("list", "--names", "--output=json").json() == ["disk"]
    hawser("detach", "disk")
    assert hawser("info", "--output=json", "disk.qcow2").json()["virtual-size"] == 257 * MIB


def test_errors_of_the_engine_reach_the_user():
    need_devices()
    assert "nothere.qcow2" in hawser("attach", "nothere.qcow2", code=1).err
    open("empty", "w").close()
    failed = hawser("attach", "empty", code=1)
    assert "raw" in failed.err, failed.err
    with open("evil.qcow2", "wb") as out:
        out.write(b"QFI\xfb\0\0\0\3" + b"\xff" * 1000)
    assert "evil.qcow2" in hawser("attach", "evil.qcow2", code=1).err
    nothing_left(os.getcwd())


def test_sigterm_stops_an_engine_cleanly_and_spares_a_busy_one():
    need_devices()
    told = attach(image())
    os.kill(told["pid"], signal.SIGTERM)
    wait_until(lambda: entry("disk")["state"] == "dead")
    wait_until(lambda: os.getcwd() not in run("losetup", "-a"))
    hawser("detach", "disk")
    told = attach("disk.qcow2")
    run("mkfs.ext4", "-q", told["device"])
    os.makedirs("m")
    run("mount", told["device"], "m")
    os.kill(told["pid"], signal.SIGTERM)
    time.sleep(0.5)
    assert is_running("disk")
    run("umount", "m")
    hawser("detach", "disk")
    nothing_left(os.getcwd())


def test_serve_in_the_foreground_tells_its_service_manager():
    need_devices()
    import socket
    manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    manager.bind("notify")
    manager.settimeout(90)
    image()
    process = subprocess.Popen([HAWSER, "serve", "--socket=s", "--path=file", "--via=fuse", "disk.qcow2"],
                               env={**os.environ, "NOTIFY_SOCKET": os.path.realpath("notify")}, stderr=subprocess.PIPE)
    assert manager.recv(100) == b"READY=1"
    assert os.path.getsize("file") == 64 * MIB
    assert os.stat("s").st_mode & 0o777 == 0o600
    process.send_signal(signal.SIGINT)
    assert manager.recv(100) == b"STOPPING=1"
    assert process.wait(90) == 0
    assert not os.path.exists("s") and not os.path.exists("file")


def test_one_engine_serves_many_volumes():
    need_devices()
    config = {"socket": os.path.realpath("s"), "volumes": []}
    for i in range(3):
        image(f"d{i}.qcow2", f"{i + 1}M")
        config["volumes"].append({"name": f"d{i}", "image": os.path.realpath(f"d{i}.qcow2"), "via": "fuse",
                                  "path": os.path.realpath(".") + f"/f{i}"})
    process = subprocess.Popen([HAWSER, "serve", "--config", "-"], stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdin.write(json.dumps(config).encode())
    process.stdin.close()
    wait_until(lambda: os.path.exists("s"))
    rpc = Rpc("s")
    assert [v["name"] for v in rpc.ask("status")["result"]["volumes"]] == ["d0", "d1", "d2"]
    assert "say which" in rpc.ask("resize", size="4M")["error"]["message"]
    assert rpc.ask("resize", volume="d1", size="4M")["result"]["size"] == 4 * MIB
    assert [os.path.getsize(f"f{i}") // MIB for i in range(3)] == [1, 4, 3]
    assert "result" in rpc.ask("stop")
    assert process.wait(90) == 0


def test_an_engine_does_not_hold_the_folder_it_was_started_in():
    need_devices()
    image()
    os.makedirs("here")
    told = json.loads(hawser("attach", "../disk.qcow2", "--output=json", cwd="here").out)
    assert os.readlink(f"/proc/{told['pid']}/cwd") == "/"
    hawser("snapshot", "disk", "top.qcow2")
    assert os.path.exists("top.qcow2")
    hawser("detach", "disk")


def test_an_idle_engine_sleeps_and_is_small():
    need_devices()
    told = attach(image("disk.qcow2", "10G"))
    time.sleep(0.5)

    def switches():
        total = 0
        for thread in os.listdir(f"/proc/{told['pid']}/task"):
            for line in open(f"/proc/{told['pid']}/task/{thread}/status"):
                if "ctxt_switches" in line:
                    total += int(line.split()[1])
        return total
    before = switches()
    time.sleep(2)
    woke = switches() - before
    private = sum(int(line.split()[1]) for line in open(f"/proc/{told['pid']}/smaps_rollup")
                  if line.startswith(("Private_Clean:", "Private_Dirty:")))
    sanitized = any(name in open(HAWSER, "rb").read() for name in (b"__asan_init", b"__tsan_init"))
    assert sanitized or woke < 10, "an idle engine wakes up"  # ThreadSanitizer has a thread that does
    assert sanitized or private <= 3072, f"{private} KiB"
    hawser("detach", "disk")


def test_an_engine_that_hangs_does_not_keep_the_list():
    need_devices()
    told = attach(image())
    os.kill(told["pid"], signal.SIGSTOP)
    try:
        assert entry("disk")["state"] == "not answering"
    finally:
        os.kill(told["pid"], signal.SIGCONT)
    assert is_running("disk")
    hawser("detach", "disk")


def test_concurrent_attaches_of_many_images():
    need_devices()
    names = [image(f"v{i}.qcow2", "8M") for i in range(8)]
    attaching = [subprocess.Popen([HAWSER, "attach", name], stdout=subprocess.PIPE, text=True) for name in names]
    devices = {process.communicate()[0].strip() for process in attaching}
    assert len(devices) == 8 and all(process.returncode == 0 for process in attaching), devices
    hawser("detach", *[f"v{i}" for i in range(8)])
    nothing_left(os.getcwd())


def test_the_folder_of_attachments_must_be_safe():
    os.makedirs("run", mode=0o777)
    os.chmod("run", 0o777)
    hawser("create", "-q", "-f", "raw", "disk.img", "1M")
    assert "writable by nobody else" in hawser("attach", "-f", "raw", "disk.img", code=1).err
    os.chmod("run", 0o700)


def test_a_failed_mount_leaves_what_others_mounted_there():
    need_devices()
    os.makedirs("m")
    run("mount", "-t", "tmpfs", "theirs", "m")
    try:
        assert "no file system" in hawser("attach", image(), "--mount", "m", code=1).err
        assert os.path.ismount("m"), "somebody else's mount was taken away"
        hawser("attach", "disk.qcow2", "--mount", "n", "--mkfs", "ext4")
        run("umount", "n")
        run("mount", "-t", "tmpfs", "theirs", "n")
        hawser("detach", "disk")
        assert os.path.ismount("n"), "somebody else's mount was taken away"
    finally:
        for folder in ("m", "n"):
            subprocess.run(["umount", folder], capture_output=True)
    nothing_left(os.getcwd())


def test_a_mount_under_another_one_is_told():
    need_devices()
    hawser("attach", image(), "--mount", "m", "--mkfs", "ext4")
    run("mount", "-t", "tmpfs", "theirs", "m")
    assert "under another mount" in hawser("detach", "disk", code=1).err
    run("umount", "m")
    hawser("detach", "disk")
    nothing_left(os.getcwd())


def test_an_attach_that_is_interrupted_takes_all_back():
    need_devices()
    image()
    ends = set()
    for i in range(40):
        words = ["--mount", "m", "--mkfs", "ext4"] if i % 2 else []
        attaching = subprocess.Popen([HAWSER, "attach", "disk.qcow2", *words], stdout=subprocess.DEVNULL,
                                     stderr=subprocess.DEVNULL, start_new_session=True)
        time.sleep(i * 0.001)
        os.killpg(attaching.pid, (signal.SIGINT, signal.SIGTERM)[i // 2 % 2])
        ends.add(attaching.wait(90))
        if attaching.returncode == 0:
            hawser("detach", "disk")
        nothing_left(os.getcwd())
        assert not os.path.exists("m")
    assert -signal.SIGINT in ends and -signal.SIGTERM in ends, ends
    hawser("check", "disk.qcow2")


def test_an_attach_that_is_killed_is_cleaned_up_by_detach():
    need_devices()
    image()
    for i in range(16):
        attaching = subprocess.Popen([HAWSER, "attach", "disk.qcow2"], stdout=subprocess.DEVNULL,
                                     stderr=subprocess.DEVNULL)
        time.sleep(i * 0.001)
        attaching.kill()
        attaching.wait()
        if entry("disk"):
            hawser("detach", "disk", timeout=90)
        nothing_left(os.getcwd())


def test_detaches_and_attaches_that_race():
    need_devices()
    image()
    for i in range(12):
        attach("disk.qcow2")
        race = [subprocess.Popen([HAWSER, "detach", "disk"], stderr=subprocess.PIPE, text=True) for _ in range(3)]
        for one in race:
            err = one.communicate(timeout=90)[1]
            assert one.returncode == 0 or "nothing is attached" in err, err
        nothing_left(os.getcwd())
        race = [subprocess.Popen([HAWSER, "attach", "disk.qcow2", f"--name=n{n % 2}"], stdout=subprocess.DEVNULL,
                                 stderr=subprocess.DEVNULL) for n in range(3)]
        assert [one.wait(90) for one in race].count(0) == 1
        hawser("detach", "--all")
        nothing_left(os.getcwd())


def test_an_image_is_not_taken_for_the_name_of_another():
    need_devices()
    os.makedirs("other")
    hawser("create", "-q", "disk", "16M")
    hawser("create", "-q", "other/disk", "16M")
    attach("other/disk")
    assert attach("disk")["name"] == "disk-2"
    hawser("detach", "--all")


def test_a_full_folder_of_attachments_is_told():
    need_devices()
    os.makedirs("run")
    run("mount", "-t", "tmpfs", "-o", "size=4k,mode=700", "full", "run")
    try:
        open("run/fill", "w").write("x" * 4096)
        assert "No space left" in hawser("attach", image(), code=1).err
        assert os.listdir("run") == ["fill"]
    finally:
        run("umount", "run")


def test_what_an_engine_refuses_is_told():
    need_devices()
    failed = hawser("attach", image(), "--queues=17", code=1).err
    assert "queues" in failed and "16" in failed, failed
    nothing_left(os.getcwd())


def test_who_is_not_root_detaches_a_dead_engine_too():
    if os.geteuid() != 0:
        raise Skip("needs root to be somebody else")
    need_tool("setpriv")
    os.chmod(".", 0o777)
    program = shutil.copy(HAWSER, "hawser")
    other = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", os.path.realpath(program)]
    run(*other, "create", "-q", "disk.qcow2", "16M")
    run(*other, "attach", "--via=none", "disk.qcow2")
    os.kill(json.loads(run(*other, "list", "--output=json"))[0]["pid"], signal.SIGKILL)
    open("run/disk/image", "w").close()
    run(*other, "detach", "disk")
    nothing_left(os.getcwd())


def test_a_device_can_be_an_image_itself():
    need_devices()
    outer = attach(image())["device"]
    inner = attach(outer, "--format=raw", "--name=inner")["device"]
    with open(inner, "r+b", buffering=0) as out:
        out.write(b"hawser!!" * 512)
        os.fsync(out.fileno())
    assert "in use" in hawser("detach", "disk", code=1).err
    hawser("detach", "inner", "disk")
    nothing_left(os.getcwd())


def test_a_dead_mount_is_taken_over_whatever_its_name():
    need_devices()
    image()
    os.makedirs("a b\\c")
    path = os.path.realpath("a b\\c/disk.img")
    words = [HAWSER, "serve", "--via=fuse", f"--path={path}", "--state-file=state", "disk.qcow2"]
    serving = []
    try:
        for _ in range(2):
            serving.append(subprocess.Popen(words, stderr=subprocess.DEVNULL))
            wait_until(lambda: os.path.exists("state"))
            os.unlink("state")
            if len(serving) == 1:
                serving[0].kill()
                serving[0].wait()
        assert os.path.getsize(path) == 64 * MIB
    finally:
        serving[-1].terminate()
        serving[-1].wait(90)
    subprocess.run(["umount", "-l", path], capture_output=True)
    nothing_left(os.getcwd())


def test_a_dead_device_that_is_still_worked_on_is_told():
    need_devices()
    told = attach(image(), "--mount", "m", "--mkfs", "ext4")
    working = subprocess.Popen(["sleep", "600"], cwd="m")
    try:
        os.kill(told["pid"], signal.SIGKILL)
        wait_until(lambda: entry("disk")["state"] == "dead")
        # Until the kernel has forgotten the attributes of the file below the loop device, which nobody tells it any more.
        time.sleep(1.5)
        failed = hawser("detach", "disk", code=1).err
        assert "works on what was mounted" in failed and "--force" in failed, failed
    finally:
        working.kill()
        working.wait()
    hawser("detach", "disk")
    nothing_left(os.getcwd())


def test_a_relative_folder_of_attachments_is_made_absolute():
    need_devices()
    attach(image(), env={"HAWSER_RUN_DIR": "here"})
    hawser("snapshot", "disk", "top.qcow2", env={"HAWSER_RUN_DIR": "here"})
    told = hawser("list", "--output=json", env={"HAWSER_RUN_DIR": "here"}).json()[0]
    assert told["folder"] == os.path.realpath("here/disk"), told
    assert "top.qcow2: attach that one" in hawser("detach", "disk", env={"HAWSER_RUN_DIR": "here"}).err
    assert os.listdir("here") == []


def test_mkfs_of_every_kind():
    need_devices()
    made = 0
    for kind in ("ext4", "xfs", "btrfs", "vfat"):
        if subprocess.run(["which", f"mkfs.{kind}"], capture_output=True).returncode:
            continue
        hawser("create", "-q", f"{kind}.qcow2", "512M")
        done = subprocess.run([HAWSER, "attach", f"{kind}.qcow2", "--mount", "m", f"--mkfs={kind}"],
                              capture_output=True, text=True)
        if "cannot mount" in done.stderr:  # this kernel lacks it
            continue
        assert done.returncode == 0, done.stderr
        os.mkdir("m/folder")
        with open("m/folder/file", "w") as held:
            assert "in use" in hawser("detach", kind, code=1).err
            held.write("x")
        hawser("detach", kind)
        made += 1
    nothing_left(os.getcwd())
    if not made:
        raise Skip("needs a mkfs")


main(globals())
