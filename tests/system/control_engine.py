"""Engines as hawserd starts them: closed in, watched, told of and replaced."""
import contextlib
import os
import shutil
import signal
import subprocess
import uuid

from daemon import Daemon, mountpoint, write
from lib import Skip, main, need_devices, need_tool, run, wait_until


def engine(daemon, volume):
    at = daemon.get(f"/v1/volumes/{volume}")
    found = [e for e in daemon.get("/v1/node")["engines"] if e["volume"] == at["id"]]
    assert len(found) == 1, found
    return found[0]


def status(pid):
    with open(f"/proc/{pid}/status") as file:
        return dict(line.split(":", 1) for line in file.read().splitlines())


def mounts(pid):
    with open(f"/proc/{pid}/mountinfo") as file:
        return {line.split()[4]: line.split()[5].split(",") for line in file}


def test_an_engine_sees_its_pool_and_has_no_rights():
    need_devices()
    need_tool("mkfs.ext4")
    with Daemon() as d:
        d.pool()
        os.mkdir("other")
        os.mkdir("roots")
        run("qemu-img", "create", "-q", "-f", "qcow2", "roots/base.qcow2", "64M")
        d.post("/v1/pools", name="other", path=os.path.abspath("other"), **{"image-roots": [os.path.abspath("roots")]})
        d.post("/v1/volumes", name="v", pool="pool", size="64M")
        d.post("/v1/volumes", name="w", pool="other", image=os.path.abspath("roots/base.qcow2"), fs="none")
        write(mountpoint(d.post("/v1/volumes/v/attach", user="a")) + "/file", "x")
        device = d.post("/v1/volumes/w/attach", user="a", mode="device")["device"]
        told = engine(d, "v")
        assert told["sandbox"] is True and told["via"] in ("fuse-loop", "nbd", "tcmu"), told
        if told["via"] != "fuse-loop":
            raise Skip("engines are closed in where devices come by FUSE")
        has = status(told["pid"])
        assert has["NoNewPrivs"].strip() == "1" and has["Seccomp"].strip() in ("2", "0"), has
        assert int(has["CapEff"], 16) & ~0x440b == 0 and int(has["CapBnd"], 16) & ~0x440b == 0, has
        seen, here = mounts(told["pid"]), os.getcwd()
        assert f"{here}/pool/images" in seen and "rw" in seen[f"{here}/pool/images"]
        root = f"/proc/{told['pid']}/root"
        for hidden in ("/etc", "/bin", "/dev/vda", "/sys/block", f"{here}/other", f"{here}/state", f"{here}/pool/v"):
            assert not os.path.lexists(root + hidden), hidden
        assert sorted(n for n in os.listdir(root + "/dev") if n.startswith("loop")) == \
            sorted(["loop-control", os.path.basename(d.get("/v1/volumes/v")["attachment"]["device"])])
        # The image itself is written where it lies; what is beside it there is not.
        seen = mounts(engine(d, "w")["pid"])
        assert "rw" in seen[f"{here}/roots/base.qcow2"] and "ro" in seen[f"{here}/roots"]
        with open(device, "r+b", buffering=0) as disk:
            disk.write(b"w" * 4096)
        d.post("/v1/volumes/w/snapshots", name="s")  # the next layer lies in the pool
        with open(device, "r+b", buffering=0) as disk:
            disk.write(b"y" * 4096)
        for name in ("v", "w"):
            d.post(f"/v1/volumes/{name}/detach", user="a")


def test_a_device_that_a_program_has_open_stays():
    need_devices()
    with Daemon() as d:
        d.pool()
        d.post("/v1/volumes", name="v", size="64M", fs="none")
        device = d.post("/v1/volumes/v/attach", user="a", mode="device")["device"]
        holder = subprocess.Popen(["sleep", "60"], stdin=open(device, "rb"))
        try:
            answer = d.refused("POST", "/v1/volumes/v/detach", {"user": "a"})
            assert answer == "busy", answer
            with open(device, "rb", buffering=0) as disk:
                assert len(disk.read(4096)) == 4096
        finally:
            holder.kill()
            holder.wait()
        d.post("/v1/volumes/v/detach", user="a")


def test_a_dead_engine_is_told_and_its_volume_attached_again():
    need_devices()
    need_tool("mkfs.ext4")
    with Daemon() as d:
        d.pool()
        d.post("/v1/volumes", name="v", size="64M")
        at = mountpoint(d.post("/v1/volumes/v/attach", user="a"))
        write(f"{at}/kept", "synced")
        os.sync()
        told = engine(d, "v")
        if told["via"] != "fuse-loop":
            raise Skip("this device outlives its engine")
        assert "failed" not in d.get("/v1/volumes/v")["attachment"]
        os.kill(told["pid"], signal.SIGKILL)
        wait_until(lambda: "failed" in d.get("/v1/volumes/v")["attachment"], 60)
        assert "engine died" in d.get("/v1/volumes/v")["attachment"]["failed"]
        assert d.get("/v1/node")["engines"] == []
        events = d.get("/v1/events?after=0&limit=1000")["items"]
        assert any(e["kind"] == "attachment" and e["event"] == "changed" for e in events), events
        d.post("/v1/volumes/v/detach", user="a", force=True)
        at = mountpoint(d.post("/v1/volumes/v/attach", user="a"))
        with open(f"{at}/kept") as file:
            assert file.read() == "synced"
        assert "failed" not in d.get("/v1/volumes/v")["attachment"]
        d.post("/v1/volumes/v/detach", user="a")


def test_this_host_and_an_upgrade():
    need_devices()
    with Daemon() as d:
        d.pool()
        node = d.get("/v1/node")
        assert node["host"] == os.uname().nodename and node["engines"] == []
        assert node["features"]["fuse"] is os.path.exists("/dev/fuse"), node
        assert d.post("/v1/node/upgrade") == {"items": []}
        d.post("/v1/volumes", name="v", size="64M", fs="none")
        device = d.post("/v1/volumes/v/attach", user="a", mode="device")["device"]
        before = engine(d, "v")
        items = d.post("/v1/node/upgrade")["items"]
        assert len(items) == 1 and items[0]["name"] == "v", items
        if before["via"] == "fuse-loop":
            # Its device goes with its process: it is told so, and goes on.
            assert items[0]["outcome"] == "refused" and "detach it" in items[0]["error"], items
            assert engine(d, "v") == before
        else:
            assert items[0]["outcome"] == "replaced" and engine(d, "v")["pid"] != before["pid"], items
        with open(device, "rb", buffering=0) as disk:
            assert len(disk.read(4096)) == 4096
        assert d.refused("POST", "/v1/node/upgrade", {"program": "hawser"}) == "invalid"
        d.post("/v1/volumes/v/detach", user="a")


def processes(group):
    with open(f"{group}/cgroup.procs") as file:
        return [int(line) for line in file]


def group_of(pid):
    """The path of its cgroup2 group below the mount."""
    with open(f"/proc/{pid}/cgroup") as file:
        return [line.strip()[3:] for line in file if line.startswith("0::")][0]


def cgroup2():
    with open("/proc/self/mountinfo") as file:
        at = [line.split()[4] for line in file if " - cgroup2 " in line]
    if not at or not os.access(at[0], os.W_OK):
        raise Skip("no cgroup2 file system that can be written to")
    return at[0]


@contextlib.contextmanager
def groups():
    """A folder for groups of this test's own; whoever is left in it ends."""
    base = f"{cgroup2()}/hawser-test-{uuid.uuid4().hex[:12]}"
    try:
        os.mkdir(base)
    except OSError as error:
        raise Skip(f"no control group can be made: {error}") from error
    try:
        yield base
    finally:
        for name in os.listdir(base):
            if os.path.isdir(f"{base}/{name}"):
                with open(f"{base}/{name}/cgroup.kill", "w") as file:
                    file.write("1")
                wait_until(lambda: not processes(f"{base}/{name}"), 20)
                os.rmdir(f"{base}/{name}")
        os.rmdir(base)


def usage(daemon, volume):
    lines = [line for line in daemon.ask("GET", "/metrics")[1].splitlines() if f'volume="{volume}"' in line]
    return [float(line.split()[-1]) for line in lines if line.startswith("hawser_volume_cpu_seconds_total{")]


def test_each_engine_is_in_a_control_group():
    need_devices()
    with groups() as base:
        left, kept = f"{base}/engine-{uuid.uuid4()}", f"{base}/other"
        os.mkdir(left)
        os.mkdir(kept)
        with Daemon(f"--cgroup={base}") as d:
            assert not os.path.exists(left) and os.path.exists(kept)
            told = d.get("/v1/node")["cgroup"]
            assert told["folder"] == base and "reason" not in told, told
            with open(f"{base}/cgroup.controllers") as file:
                there = {"cpu", "io", "memory", "pids"} & set(file.read().split())
            assert there == set(told["controllers"]), told
            d.pool()
            for name in ("v", "w"):
                d.post("/v1/volumes", name=name, size="64M", fs="none")
                d.post(f"/v1/volumes/{name}/attach", user="a", mode="device")
            v, w = engine(d, "v"), engine(d, "w")
            for at in (v, w):
                assert at["cgroup"].startswith(f"{base}/engine-{at['volume']}"), at
                assert at["pid"] in processes(at["cgroup"]), at
                # A keeper is in the same group; nobody else is.
                assert all(f"/engine-{at['volume']}" in group_of(pid) for pid in processes(at["cgroup"]))
            assert group_of(d.process.pid) == group_of("self")
            first = usage(d, "v")
            assert len(first) == 1 and 0 < first[0] < 60, first
            # hawserd's end, and the next one's start, change nothing.
            d.kill()
            d.start()
            assert engine(d, "v") == v and engine(d, "w") == w
            d.post("/v1/node/upgrade")  # a successor is where the engine was
            v = engine(d, "v")
            assert v["pid"] in processes(v["cgroup"]) and v["cgroup"].startswith(f"{base}/engine-"), v
            d.post("/v1/volumes/v/detach", user="a")
            assert not os.path.exists(v["cgroup"]) and os.path.exists(w["cgroup"])
            # One that died, and is detached by force with a straggler in its group.
            straggler = subprocess.Popen(["sleep", "600"])
            try:
                with open(f"{w['cgroup']}/cgroup.procs", "w") as file:
                    file.write(str(straggler.pid))
                d.post("/v1/volumes/w/detach", user="a", force=True)
                assert straggler.wait(20) == -signal.SIGKILL
            finally:
                straggler.kill()
                straggler.wait()
            assert not os.path.exists(w["cgroup"])
            assert sorted(n for n in os.listdir(base) if os.path.isdir(f"{base}/{n}")) == ["other"]


def test_an_engine_that_died_leaves_its_group_to_the_next():
    need_devices()
    with groups() as base, Daemon(f"--cgroup={base}") as d:
        d.pool()
        d.post("/v1/volumes", name="v", size="64M", fs="none")
        d.post("/v1/volumes/v/attach", user="a", mode="device")
        told = engine(d, "v")
        os.kill(told["pid"], signal.SIGKILL)
        if told["via"] == "fuse-loop":
            wait_until(lambda: "failed" in d.get("/v1/volumes/v")["attachment"], 60)
            d.post("/v1/volumes/v/detach", user="a", force=True)
            assert not os.path.exists(told["cgroup"])
            d.post("/v1/volumes/v/attach", user="a", mode="device")
        else:
            wait_until(lambda: engine(d, "v")["pid"] != told["pid"], 60)
        after = engine(d, "v")
        assert after["cgroup"] == told["cgroup"] and after["pid"] in processes(told["cgroup"]), after
        d.post("/v1/volumes/v/detach", user="a")
        assert not os.path.exists(told["cgroup"])


def test_without_control_groups_all_goes_on():
    need_devices()
    os.mkdir("folder")
    for setting, why in (("none", "switched off"), (os.path.abspath("folder"), "in no cgroup2"),
                         ("relative", "no absolute path")):
        with Daemon(f"--cgroup={setting}") as d:
            told = d.get("/v1/node")["cgroup"]
            assert "folder" not in told and told["controllers"] == [] and why in told["reason"], told
            if setting == "none":
                d.pool()
                d.post("/v1/volumes", name="v", size="64M", fs="none")
            d.post("/v1/volumes/v/attach", user="a", mode="device")
            at = engine(d, "v")
            assert "cgroup" not in at and group_of(at["pid"]) == group_of("self"), at
            assert usage(d, "v") == []
            d.post("/v1/volumes/v/detach", user="a")
        with open("hawserd.log") as file:
            assert file.read().count(why) == 1
    assert os.listdir("folder") == []


def test_groups_are_found_without_a_setting():
    need_devices()
    at = cgroup2()
    with Daemon() as d:
        d.pool()
        d.post("/v1/volumes", name="v", size="64M", fs="none")
        d.post("/v1/volumes/v/attach", user="a", mode="device")
        told = d.get("/v1/node")["cgroup"]
        if "folder" not in told:
            raise Skip(f"hawserd found none: {told}")
        group = engine(d, "v")["cgroup"]
        assert group.startswith(told["folder"] + "/engine-") and group.startswith(at), group
        d.post("/v1/volumes/v/detach", user="a")
        assert not os.path.exists(group)


def test_two_hawserds_never_write_one_image():
    need_devices()
    with Daemon() as d:
        d.pool()
        d.post("/v1/volumes", name="v", size="64M", fs="none")
        # A catalog of its own: the pool's folder is another's.
        os.mkdir("second")
        shutil.copytree("state", "second/copy")
        device = d.post("/v1/volumes/v/attach", user="a", mode="device")["device"]
        with open(device, "r+b", buffering=0) as disk:
            disk.write(b"1" * 4096)
        pool, here, runs = os.path.abspath("pool"), os.getcwd(), os.environ.get("HAWSER_RUN_DIR")
        os.chdir("second")
        try:
            os.environ["HAWSER_RUN_DIR"] = os.path.abspath("run")
            with Daemon() as stranger:
                assert stranger.refused("POST", "/v1/pools", {"name": "pool", "path": pool}) == "exists"
            # The same catalog, as a host has it that takes over too early.
            shutil.rmtree("state")
            os.rename("copy", "state")
            with Daemon() as twin:
                for _ in range(2):  # the volume's image, and then a layer over it
                    answer = twin.refused("POST", "/v1/volumes/v/attach", {"user": "b", "mode": "device"})
                    assert answer in ("busy", "internal"), answer
                    twin.post("/v1/volumes/v/snapshots", name="s") if _ == 0 else None
                assert "attachment" not in twin.get("/v1/volumes/v")
        finally:
            os.chdir(here)
            os.environ.update({"HAWSER_RUN_DIR": runs} if runs else {})
        with open(device, "r+b", buffering=0) as disk:
            assert disk.read(4096) == b"1" * 4096
        d.post("/v1/volumes/v/detach", user="a")


if __name__ == "__main__":
    main(globals())
