"""hawserd as its clients see it: the REST API and the volume plugin protocol by hand, with real engines, hostile
input, and the daemon killed at every point of what it does."""
import http.client
import os
import random
import re
import signal
import socket
import subprocess
import threading
import time

from daemon import Connection, Daemon, mountpoint, write
from lib import entry, hawser, main, need_devices, need_tool, nothing_left, run, wait_until


def attachment(daemon, volume="v"):
    return daemon.get(f"/v1/volumes/{volume}").get("attachment")


def check_images(folder="pool/images"):
    """Every layer is a whole image, and the chains hold."""
    for name in os.listdir(folder):
        if name.endswith(".qcow2"):
            run("qemu-img", "check", "-q", os.path.join(folder, name))


def test_a_volume_is_made_used_snapshotted_cloned_reverted_and_grown():
    need_devices()
    need_tool("qemu-img", "mkfs.ext4")
    with Daemon() as d:
        d.pool()
        volume = d.post("/v1/volumes", name="v", size="64M")
        assert volume["state"] == "available" and volume["size"] == 64 << 20 and volume["fs"] == "ext4", volume
        at = mountpoint(d.post("/v1/volumes/v/attach", user="a"))
        assert os.listdir(at) == []  # as Docker wants a new volume
        with open(f"{at}/first", "w") as file:
            file.write("not synced")
        d.post("/v1/volumes/v/snapshots", name="s1")
        write(f"{at}/second", "later")
        d.post("/v1/volumes", name="c", clone="v@s1")
        d.post("/v1/volumes", name="now", clone="v")
        c, now = (mountpoint(d.post(f"/v1/volumes/{name}/attach", user="a")) for name in ("c", "now"))
        assert sorted(os.listdir(c)) == ["first"] and open(f"{c}/first").read() == "not synced"
        assert sorted(os.listdir(now)) == ["first", "second"]
        write(f"{c}/own", "clone")
        assert not os.path.exists(f"{at}/own")
        assert d.refused("POST", "/v1/volumes/v/revert", {"snapshot": "s1"}) == "busy"
        grown = d.post("/v1/volumes/v/resize", size="128M")
        assert grown["size"] == 128 << 20
        assert int(run("blockdev", "--getsize64", grown["attachment"]["device"])) == 128 << 20
        for name in ("v", "c", "now"):
            d.post(f"/v1/volumes/{name}/detach", user="a")
        check_images()
        d.post("/v1/volumes/v/revert", snapshot="s1")
        at = mountpoint(d.post("/v1/volumes/v/attach", user="a"))
        assert os.listdir(at) == ["first"]
        d.post("/v1/volumes/v/detach", user="a")
        assert [s["name"] for s in d.get("/v1/volumes/v/snapshots")["items"]] == ["s1"]
        assert d.refused("DELETE", "/v1/volumes/v") == "busy"
        d.delete("/v1/volumes/v/snapshots/s1")
        for name in ("v", "c", "now"):
            d.delete(f"/v1/volumes/{name}")
        assert d.images() == []
        d.delete("/v1/pools/pool")
        assert not os.path.exists("pool/images") and d.get("/v1/jobs")["items"] == []
    os.unlink("rest.sock") if os.path.exists("rest.sock") else None
    nothing_left(os.getcwd())


def test_xfs_is_grown_while_mounted():
    need_devices()
    need_tool("mkfs.xfs", "xfs_growfs")
    with Daemon() as d:
        d.pool()
        d.post("/v1/volumes", name="v", size="320M", fs="xfs")
        at = mountpoint(d.post("/v1/volumes/v/attach", user="a"))
        before = os.statvfs(at).f_blocks
        answer = d.post("/v1/volumes/v/resize", size="640M")
        assert os.statvfs(at).f_blocks > 1.5 * before and not answer["grow"], answer
        d.post("/v1/volumes/v/detach", user="a")
        larger = d.post("/v1/volumes/v/resize", size="960M")  # not in use: at the next mount
        assert larger["grow"]
        at = mountpoint(d.post("/v1/volumes/v/attach", user="a"))
        assert os.statvfs(at).f_blocks > 2.5 * before and not d.get("/v1/volumes/v")["grow"]
        d.post("/v1/volumes/v/detach", user="a")


def test_a_device_that_another_name_space_holds_stays_mounted():
    need_devices()
    need_tool("unshare")
    with Daemon() as d:
        d.pool()
        d.post("/v1/volumes", name="v", size="32M")
        at = mountpoint(d.post("/v1/volumes/v/attach", user="a"))
        other = subprocess.Popen(["unshare", "-m", "--propagation=private", "sh", "-c",
                                  f"exec 3> {at}/held; echo in; exec sleep 1000"], stdout=subprocess.PIPE)
        assert other.stdout.readline() == b"in\n"
        try:
            status, answer = d.ask("POST", "/v1/volumes/v/detach", {"user": "a"})
            assert status == 409 and answer["error"]["code"] == "busy", answer
            assert os.path.ismount(at) and attachment(d)["users"] == ["a"]
            # By hand, too: the next user finds it mounted.
            run("umount", at)
            assert mountpoint(d.post("/v1/volumes/v/attach", user="b")) == at
        finally:
            other.kill()
            other.wait(30)
        for user in ("b", "a"):
            d.post("/v1/volumes/v/detach", user=user)
        assert attachment(d) is None and not os.path.exists(at)


def test_an_image_is_taken_in_place_and_stays():
    need_devices()
    need_tool("qemu-img")
    os.mkdir("roots")
    run("qemu-img", "create", "-q", "-f", "qcow2", "roots/a.qcow2", "32M")
    run("qemu-img", "create", "-q", "-f", "raw", "roots/b.img", "32M")
    run("qemu-img", "create", "-q", "-f", "qcow2", "outside.qcow2", "32M")
    os.symlink("../outside.qcow2", "roots/link.qcow2")
    here = os.getcwd()
    with Daemon() as d:
        d.pool(**{"image-roots": [f"{here}/roots"]})
        take = lambda name, **more: {"name": name, **more}
        assert d.refused("POST", "/v1/volumes", take("x", image=f"{here}/roots/b.img")) == "invalid"  # raw must be said
        assert d.refused("POST", "/v1/volumes", take("x", image=f"{here}/outside.qcow2")) == "forbidden"
        assert d.refused("POST", "/v1/volumes", take("x", image=f"{here}/roots/link.qcow2")) == "forbidden"
        assert d.refused("POST", "/v1/volumes", take("x", image=f"{here}/roots/../outside.qcow2")) == "forbidden"
        a = d.post("/v1/volumes", name="a", image=f"{here}/roots/a.qcow2")
        assert a["size"] == 32 << 20 and a["format"] == "qcow2"
        assert d.refused("POST", "/v1/volumes", take("x", image=f"{here}/roots/a.qcow2")) == "exists"
        d.post("/v1/volumes", name="b", image=f"{here}/roots/b.img", format="raw")
        for name in ("a", "b"):
            device = d.post(f"/v1/volumes/{name}/attach", mode="device")["device"]
            with open(device, "r+b") as disk:
                disk.write(name.encode() * 4096)
                os.fsync(disk.fileno())
            d.post(f"/v1/volumes/{name}/snapshots", name="s")
            d.post(f"/v1/volumes/{name}/detach")
            d.post("/v1/volumes", name=f"{name}2", clone=f"{name}@s")
            device = d.post(f"/v1/volumes/{name}2/attach", mode="device")["device"]
            assert open(device, "rb").read(4096) == name.encode() * 4096
            d.post(f"/v1/volumes/{name}2/detach")
            d.delete(f"/v1/volumes/{name}2")
            d.delete(f"/v1/volumes/{name}/snapshots/s")
            d.delete(f"/v1/volumes/{name}")
        assert d.images() == []
    assert open("roots/b.img", "rb").read(2) == b"bb" and os.path.exists("roots/a.qcow2")


def test_the_plugin_protocol_by_hand():
    need_devices()
    with Daemon() as d:
        d.pool()
        ok = lambda call, body=None: (lambda status, answer: (status == 200 and not answer.get("Err")) and answer)(
            *d.plugin(call, body))
        fails = lambda call, body=None: (lambda status, answer: status == 500 and answer["Err"])(*d.plugin(call, body))
        for _ in range(3):  # podman activates again at every command
            assert ok("Plugin.Activate") == {"Implements": ["VolumeDriver"]}
            assert ok("VolumeDriver.List") == {"Volumes": []}
        assert ok("VolumeDriver.Capabilities", {}) == {"Capabilities": {"Scope": "local"}}
        assert "no volume" in fails("VolumeDriver.Get", {"Name": "x"})
        assert ok("VolumeDriver.Create", {"Name": "x", "Opts": {"size": "32M"}}) == {}
        assert ok("VolumeDriver.Create", {"Name": "x", "Opts": {"size": "32M"}}) == {}  # an answer was lost
        assert "already" in fails("VolumeDriver.Create", {"Name": "x", "Opts": {"size": "33M"}})
        assert ok("VolumeDriver.Create", {"Name": "y", "Opts": None}) == {}
        assert "no option" in fails("VolumeDriver.Create", {"Name": "z", "Opts": {"sise": "1G"}})
        assert "encryption" in fails("VolumeDriver.Create", {"Name": "z", "Opts": {"encryption": "luks"}})
        at = ok("VolumeDriver.Mount", {"Name": "x", "ID": "one"})["Mountpoint"]
        assert os.path.ismount(at)
        for identity in ("two", "two"):
            assert ok("VolumeDriver.Mount", {"Name": "x", "ID": identity})["Mountpoint"] == at
        assert ok("VolumeDriver.Path", {"Name": "x"})["Mountpoint"] == at
        told = ok("VolumeDriver.Get", {"Name": "x"})["Volume"]
        assert told["Mountpoint"] == at and told["Status"]["users"] == ["docker:one", "docker:two"]
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", told["CreatedAt"])
        assert {v["Name"]: v["Mountpoint"] for v in ok("VolumeDriver.List", {})["Volumes"]} == {"x": at, "y": ""}
        with open(f"{at}/held", "w"):  # really in use: it stays, and stays mounted
            assert "in use" in fails("VolumeDriver.Remove", {"Name": "x"})
        assert os.path.ismount(at) and os.path.exists(f"{at}/held")
        for identity in ("one", "two"):
            assert ok("VolumeDriver.Mount", {"Name": "x", "ID": identity})["Mountpoint"] == at
        for identity in ("one", "one", "never"):
            assert ok("VolumeDriver.Unmount", {"Name": "x", "ID": identity}) == {}
        assert os.path.ismount(at)
        assert ok("VolumeDriver.Unmount", {"Name": "x", "ID": "two"}) == {}
        assert not os.path.exists(at)
        for name in ("x", "y"):
            assert ok("VolumeDriver.Remove", {"Name": name}) == {}
        for body in ([], 5, "x", {"Name": 5}, {"Name": ""}, {"Name": "../x"}, {"Name": "a" * 500}, {}):
            for call in ("Create", "Remove", "Mount", "Unmount", "Path", "Get"):
                assert fails("VolumeDriver." + call, body), (call, body)
        assert d.plugin("VolumeDriver.Nothing")[0] == 404
        # Chunked, as Docker may send it.
        c = Connection(d.docker)
        c.request("POST", "/VolumeDriver.Get", iter([b'{"Na', b'me": "x"}']), {}, encode_chunked=True)
        assert c.getresponse().status == 500
        # A client that hangs up early harms nobody.
        for _ in range(20):
            c = Connection(d.docker)
            c.request("POST", "/VolumeDriver.List", "{}")
            c.sock.close()
        assert ok("VolumeDriver.List") == {"Volumes": []}
        assert d.images() == []


BAD_BODIES = [b"{", b"[]", b"5", b"null", b'"x"', b"{}", b'{"name": "a", "name": "b"}', b"\xff\xfe", b'{"name": "\xff"}',
              b'{"name": null}', b'{"name": {}}', b'{"name": "x", "size": "1e400G"}', b'{"name": "x", "size": 1e30}',
              b'{"name": "x", "size": 99999999999999999999}', b'{"name": "x", "labels": {"": "y"}}',
              b'{"name": "\\ud800"}', b'{"name": "\\u0000"}', b"[" * 100000, b'{"a":' * 100000,
              b'{"name": "x", "labels": {"a": "' + b"y" * 5000 + b'"}}', b"\0" * 1000]


def test_hostile_requests_get_an_error_each():
    with Daemon("--request-seconds=2") as d:
        d.pool()
        for path in ("/v1/volumes", "/v1/pools", "/v1/classes", "/v1/volumes/x/attach", "/v1/volumes/x/resize",
                     "/v1/volumes/x/snapshots", "/v1/volumes/x/revert"):
            for raw in BAD_BODIES:
                status, answer = d.ask("POST", path, raw=raw)
                assert status in (400, 404), (path, raw[:50], status, answer)
                assert answer["error"]["message"], answer
        status, answer = d.ask("POST", "/v1/volumes", raw=b'{"name": "' + b"x" * (10 << 20) + b'"}')
        assert status == 413 and answer["error"]["code"] == "too-large", answer
        for path in ("/", "/v1", "/v1/", "/v2/volumes", "/v1/volumes/", "/v1/volumes//attach", "/v1/volumes/a/b/c",
                     "/v1/pools/../../etc/passwd", "/v1/volumes/" + "x" * 400, "/%2e%2e/%2e%2e", "/v1/volumes/%00x"):
            assert d.ask("GET", path)[0] == 404, path
        for name in ("..", ".", "a%2Fb", "%ff", "%e2%80%ae", "a'b", 'a"b', "a;b", "%0a", "x" * 200):
            for method in ("GET", "DELETE"):
                assert d.ask(method, f"/v1/volumes/{name}")[0] == 404, name
        assert d.ask("PUT", "/v1/volumes", {})[0] == 405 and d.ask("POST", "/v1/volumes/x", {})[0] == 405
        for limit in ("0", "-1", "x", "1001", "99999999999999999999", "1%20", ""):
            assert d.ask("GET", f"/v1/volumes?limit={limit}")[0] == 400, limit
        assert d.get("/v1/volumes?limit=5&after=%ff%00'")["items"] == []
        c = Connection(d.rest)
        c.putrequest("GET", "/v1/volumes")
        c.putheader("X-Large", "x" * 60000)
        c.endheaders()
        try:
            assert c.getresponse().status in (413, 431)
        except OSError:
            pass  # hung up on
        for raw in (b"\0" * 100, b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"POST /v1/volumes HTTP/1.1\r\nHost: x\r\n"
                    b"Content-Length: -5\r\n\r\n", b"POST /v1/volumes HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999"
                    b"\r\n\r\n{", b"POST /v1/volumes HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"):
            with socket.socket(socket.AF_UNIX) as s:
                s.connect(d.rest)
                s.sendall(raw)
                s.shutdown(socket.SHUT_WR)
                s.settimeout(60)
                try:
                    s.recv(4096)
                except OSError:
                    pass
        assert d.get("/healthz")["objects"] == {"pools": 1, "volumes": 0, "snapshots": 0, "attachments": 0, "jobs": 0}
        assert "hawser_pool_free_bytes" in d.ask("GET", "/metrics")[1]


def test_slow_clients_hold_up_nobody():
    with Daemon("--request-seconds=3") as d:
        slow = []
        for i in range(400):
            s = socket.socket(socket.AF_UNIX)
            s.connect(d.rest)
            s.sendall([b"", b"GET /heal", b"POST /v1/pools HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\n{"][i % 3])
            slow.append(s)
        started = time.monotonic()
        for _ in range(20):
            d.get("/healthz")
        assert time.monotonic() - started < 10
        deadline = time.monotonic() + 60
        for i, s in enumerate(slow):
            s.settimeout(60)
            while True:  # who trickles is not spared
                try:
                    if i % 50 == 0:
                        s.sendall(b"x")
                        s.settimeout(0.2)
                    if not s.recv(4096):
                        break
                except socket.timeout:
                    assert time.monotonic() < deadline, "a slow client is still connected"
                except OSError:
                    break
            s.close()
        d.get("/healthz")


def in_parallel(count, function):
    results = [None] * count

    def work(i):
        try:
            results[i] = function(i)
        except Exception as error:  # told by whoever looks at the results
            results[i] = error
    threads = [threading.Thread(target=work, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
        assert not thread.is_alive()
    return results


def test_racing_callers():
    need_devices()
    with Daemon() as d:
        d.pool()
        statuses = in_parallel(12, lambda i: d.ask("POST", "/v1/volumes", {"name": "v", "size": "32M"})[0])
        assert sorted(statuses) == [201] + [409] * 11, statuses
        places = in_parallel(8, lambda i: d.post("/v1/volumes/v/attach", user=f"u{i}")["mountpoint"])
        assert len(set(places)) == 1 and os.path.ismount(places[0]), places
        assert len(attachment(d)["users"]) == 8
        snapshots = in_parallel(6, lambda i: d.ask("POST", "/v1/volumes/v/snapshots", {"name": f"s{i % 3}"})[0])
        assert sorted(snapshots) == [201] * 3 + [409] * 3, snapshots
        statuses = in_parallel(8, lambda i: d.ask("POST", "/v1/volumes/v/detach", {"user": f"u{i}"})[0])
        assert statuses == [204] * 8 and attachment(d) is None, statuses
        for i in range(3):
            d.delete(f"/v1/volumes/v/snapshots/s{i}")
        statuses = in_parallel(6, lambda i: d.ask("DELETE", "/v1/volumes/v")[0])
        assert sorted(statuses) == [204] + [404] * 5, statuses
        assert d.images() == [] and d.get("/v1/jobs")["items"] == []


def test_engines_go_on_without_hawserd():
    need_devices()
    with Daemon() as d:
        d.pool()
        d.post("/v1/volumes", name="v", size="64M")
        at = mountpoint(d.post("/v1/volumes/v/attach", user="a"))
        engine = d.get("/v1/volumes/v")["id"]
        for end in (d.stop, d.kill, d.kill):
            pid = entry(engine)["pid"]
            end()
            write(f"{at}/file", "while it is away")
            assert entry(engine)["pid"] == pid
            d.start()
            assert attachment(d)["mountpoint"] == at and os.path.ismount(at)
            d.post("/v1/volumes/v/snapshots", name=f"s{time.monotonic_ns()}")
        d.post("/v1/volumes/v/attach", user="b")
        for user in ("a", "b"):
            d.post("/v1/volumes/v/detach", user=user)
        check_images()
        # An engine that was killed is told, and its volume used again.
        d.post("/v1/volumes/v/attach", user="a")
        os.kill(entry(engine)["pid"], signal.SIGKILL)
        wait_until(lambda: entry(engine)["state"] == "dead")
        assert d.ask("POST", "/v1/volumes/v/attach", {"user": "b"})[0] == 500
        d.post("/v1/volumes/v/detach", force=True)
        at = mountpoint(d.post("/v1/volumes/v/attach", user="a"))
        assert open(f"{at}/file").read() == "while it is away"
        # Somebody detaches by hand: forgotten at the next start.
        hawser("detach", engine)
        d.kill()
        d.start()
        assert attachment(d) is None
        d.post("/v1/volumes/v/attach", user="a")
        d.post("/v1/volumes/v/detach", user="a")


def settle(d):
    """Whatever a crash left is finished, and everything matches."""
    wait_until(lambda: d.get("/v1/jobs")["items"] == [])
    volumes = d.get("/v1/volumes")["items"]
    attached = {v["id"] for v in volumes if "attachment" in v}
    engines = {e["name"]: e for e in hawser("list", "--output=json").json()}
    assert set(engines) == attached, (engines, attached)
    assert all(e["state"] == "running" for e in engines.values()), engines
    mounted = {line.split()[4] for line in open("/proc/self/mountinfo") if os.getcwd() + "/state/mounts" in line}
    assert mounted == {v["attachment"]["mountpoint"] for v in volumes if "attachment" in v}
    assert os.listdir("state/mounts") == [os.path.basename(m) for m in mounted]
    return {v["name"]: v for v in volumes}


def crash_sweep(prepare, act, undo):
    """@act is killed at each point in turn; then the state is whole, @act works, and @undo takes it back."""
    with Daemon(program="hawserd-crash") as d:
        d.pool()
        prepare(d)
        d.stop()
        point, killed = 1, True
        while killed:
            if os.path.exists("go"):
                os.unlink("go")
            d.start({"HAWSER_CRASH_AT": str(point), "HAWSER_CRASH_FROM": os.path.abspath("go")})
            open("go", "w").close()
            try:
                act(d)
            except Exception:
                assert d.process.wait(60) == -signal.SIGKILL, open("hawserd.log").read()[-2000:]
            killed = d.process.poll() is not None
            if not killed:
                d.stop()
            d.start()
            settle(d)
            act(d)
            settle(d)
            undo(d)
            settle(d)
            d.stop()
            point += 1
            assert point < 60
        d.start()
        assert point > 4
        print(f"  {point - 2} points")


def new_volume(d):
    d.post("/v1/volumes", name="v", size="32M")


def attached_volume(d):
    new_volume(d)
    d.post("/v1/volumes/v/attach", user="a")


def test_attach_is_killed_at_every_point():
    need_devices()
    crash_sweep(new_volume, lambda d: d.post("/v1/volumes/v/attach", user="a"),
                lambda d: d.post("/v1/volumes/v/detach", user="a"))


def test_detach_is_killed_at_every_point():
    need_devices()
    crash_sweep(attached_volume, lambda d: d.post("/v1/volumes/v/detach", user="a"),
                lambda d: d.post("/v1/volumes/v/attach", user="a"))


def test_a_snapshot_in_use_is_killed_at_every_point():
    need_devices()
    need_tool("qemu-img")

    def act(d):
        at = attachment(d)["mountpoint"]
        write(f"{at}/file", "before")
        if not d.get("/v1/volumes/v/snapshots")["items"]:
            d.post("/v1/volumes/v/snapshots", name="s")
        write(f"{at}/file", "after")

    def undo(d):
        d.post("/v1/volumes/v/detach", user="a")
        check_images()
        at = mountpoint(d.post("/v1/volumes/v/attach", user="a"))
        assert open(f"{at}/file").read() == "after"
        d.delete("/v1/volumes/v/snapshots/s")
    crash_sweep(attached_volume, act, undo)


def test_create_and_delete_are_killed_at_every_point():
    need_devices()

    def act(d):
        if d.ask("GET", "/v1/volumes/w")[0] == 404:
            d.post("/v1/volumes", name="w", size="32M")
        if d.ask("GET", "/v1/volumes/w")[0] == 200:
            d.delete("/v1/volumes/w")
        assert len(d.images()) == 1
    crash_sweep(new_volume, act, lambda d: None)


def test_the_command_does_all_of_it():
    need_devices()
    with Daemon() as d:
        os.environ["HAWSERD_SOCKET"] = d.rest
        assert hawser("pool", "create", "--label=a=b", "--image-root=.", "pool", "pool").out
        assert hawser("pool", "list", "--output=json").json()[0]["labels"] == {"a": "b"}
        assert hawser("volume", "create", "--size=32M", "v", "--output=json").json()["size"] == 32 << 20
        assert "already" in hawser("volume", "create", "v", code=1).err
        shown = hawser("volume", "attach", "v", "--output=json").json()
        write(mountpoint(shown) + "/file", "one")
        hawser("volume", "snapshot", "v", "s")
        assert [s["name"] for s in hawser("volume", "snapshots", "v", "--output=json").json()] == ["s"]
        table = hawser("volume", "list").out.split("\n")
        assert table[0].split()[:3] == ["NAME", "STATE", "SIZE"] and shown["mountpoint"] in table[1], table
        assert "is attached" in hawser("volume", "revert", "v", "s", code=1).err
        hawser("volume", "resize", "v", "64M")
        hawser("volume", "detach", "v")
        hawser("volume", "revert", "v", "s")
        hawser("volume", "create", "--from=v@s", "w")
        run("qemu-img", "create", "-q", "-f", "qcow2", "image.qcow2", "32M")
        hawser("volume", "create", "--from=./image.qcow2", "x")
        hawser("volume", "rename", "w", "u")
        hawser("volume", "protect", "u")
        assert "protected" in hawser("volume", "delete", "u", code=1).err
        hawser("volume", "unprotect", "u")
        hawser("volume", "delete-snapshot", "v", "s")
        for name in ("u", "v", "x"):
            hawser("volume", "delete", name)
        assert hawser("volume", "list", "--output=json").json() == []
        for words in (["volume"], ["volume", "lits"], ["volume", "create"], ["volume", "resize", "v"], ["pool", "x", "y"]):
            assert hawser(*words, code=2).err
        for name in ("../x", "a/b", "%2e", "\x1b[31m", "x" * 3000):
            assert "\x1b" not in hawser("volume", "show", name, code=1).err
        hawser("pool", "delete", "pool")
    assert "does it run" in hawser("volume", "list", code=1).err
    del os.environ["HAWSERD_SOCKET"]


def test_kills_at_any_moment():
    """Between the points too: within mkfs, mounts, and the starts of engines."""
    need_devices()
    need_tool("qemu-img")
    seed = int(os.environ.get("HAWSER_SEED", time.time_ns() % 1000000))
    rounds = int(os.environ.get("HAWSER_KILLS", 14))
    chance = random.Random(seed)
    print(f"  HAWSER_SEED={seed}")
    with Daemon() as d:
        d.pool()
        count = 0
        for i in range(rounds):
            calls = [("POST", "/v1/volumes", {"name": f"v{i}", "size": "32M"}),
                     ("POST", f"/v1/volumes/v{i}/attach", {"user": "a"}),
                     ("POST", f"/v1/volumes/v{i}/snapshots", {"name": "s"}),
                     ("POST", "/v1/volumes", {"name": f"c{i}", "clone": f"v{i}"}),
                     ("POST", f"/v1/volumes/v{i}/resize", {"size": "64M"}),
                     ("POST", f"/v1/volumes/v{i}/detach", {"user": "a"}),
                     ("POST", f"/v1/volumes/v{i}/revert", {"snapshot": "s"})]

            reached, at = threading.Event(), i % len(calls)

            def work():
                for number, call in enumerate(calls):
                    if number == at:
                        reached.set()
                    try:
                        d.ask(*call)
                    except (OSError, http.client.HTTPException):
                        return
            thread = threading.Thread(target=work)
            thread.start()
            assert reached.wait(120)
            time.sleep(chance.random() * 0.12)
            d.kill()
            thread.join(120)
            d.start()
            volumes = settle(d)
            layers = set()
            for name, volume in volumes.items():
                layers.add(volume["layer"])
                if "attachment" in volume:
                    write(volume["attachment"]["mountpoint"] + "/file", name)
                    d.post(f"/v1/volumes/{name}/detach", force=True)
                    count += 1
            check_images()
            assert layers <= {image.split(".")[0] for image in d.images()}
            for name in sorted(volumes):
                for snapshot in d.get(f"/v1/volumes/{name}/snapshots")["items"]:
                    d.delete(f"/v1/volumes/{name}/snapshots/{snapshot['id']}")
                d.delete(f"/v1/volumes/{name}")
            assert d.images() == [], d.images()
        print(f"  {count} times attached at the kill")


def test_only_one_hawserd_works_with_a_catalog():
    with Daemon() as d:
        for words in (d.words, [w for w in d.words if "socket" not in w] + ["--socket=other.sock", "--docker-socket=none"]):
            second = subprocess.run(words, capture_output=True, text=True, timeout=60)
            assert second.returncode == 1 and "another hawserd" in second.stderr, second.stderr
        d.get("/healthz")


if __name__ == "__main__":
    main(globals())
