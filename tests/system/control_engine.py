"""Engines as hawserd starts them: closed in, watched, told of and replaced."""
import os
import shutil
import signal
import subprocess

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
