"""The volume plugin beyond its calls: options, what a volume tells, scope, users that a container engine lost, and a
host that was started again. Container engines are processes of our own here, with their names; docker.py has real ones."""
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "system"))

from daemon import Daemon, mountpoint, write  # noqa: E402
from lib import HAWSER, hawser, main, need_devices, need_tool, run, wait_until  # noqa: E402

# A process called as its first argument says, that asks for mounts as lines tell it, over a socket: VOLUME ID.
ENGINE = """
import http.client, json, socket, sys
open("/proc/self/comm", "w").write(sys.argv[1])
class Connection(http.client.HTTPConnection):
    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(sys.argv[2])
for line in sys.stdin:
    name, user = line.split()
    connection = Connection("hawserd", timeout=90)
    connection.request("POST", "/VolumeDriver.Mount", json.dumps({"Name": name, "ID": user}))
    print(connection.getresponse().read().decode().replace("\\n", " "), flush=True)
"""


class Engine:
    def __init__(self, name, path, *before):
        self.process = subprocess.Popen([*before, sys.executable, "-c", ENGINE, name, path], text=True, stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE)

    def mount(self, volume, user):
        self.process.stdin.write(f"{volume} {user}\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())["Mountpoint"]

    def kill(self):
        self.process.kill()
        self.process.wait(30)


class Container:
    """A mount name space with the volume at a path of its own, and with copies of the host's mounts."""

    def __init__(self, path):
        os.makedirs("container", exist_ok=True)
        self.process = subprocess.Popen(
            ["unshare", "--mount", "sh", "-c", f"mount --bind {path} container && echo ready && exec sleep 1000"],
            stdout=subprocess.PIPE, text=True)
        assert self.process.stdout.readline() == "ready\n"

    def kill(self):
        self.process.kill()
        self.process.wait(30)


def create(d, name, /, **opts):
    status, answer = d.plugin("VolumeDriver.Create", {"Name": name, "Opts": opts})
    return "" if status == 200 and answer == {} else answer["Err"]


def ask(d, call, name, user="u"):
    status, answer = d.plugin("VolumeDriver." + call, {"Name": name, "ID": user})
    assert status == 200, answer
    return answer


def users(d, name):
    return sorted(d.get(f"/v1/volumes/{name}").get("attachment", {}).get("users", []))


def test_options_are_those_of_the_api():
    with Daemon() as d:
        os.mkdir("roots")
        d.pool(**{"image-roots": [os.path.abspath("roots")]})
        d.post("/v1/classes", name="small", size=32 << 20, fs="ext4")
        assert create(d, "a", **{"size": "64M", "fs": "ext4", "cluster-size": "4k", "protected": "false", "pool": "pool"}) == ""
        assert d.get("/v1/volumes/a")["cluster-size"] == 4096
        assert create(d, "b", **{"class": "small"}) == "" and d.get("/v1/volumes/b")["size"] == 32 << 20
        # The same again is the same, another is not.
        assert create(d, "b", **{"class": "small"}) == "" and "already" in create(d, "b", size="1G")
        why = create(d, "c", sise="1G")
        for told in ("no option 'sise'", "size", "fs", "cluster-size", "from=VOLUME@SNAPSHOT"):
            assert told in why, why
        # Every field of the API's call is an option, and each one's error names it.
        schema = d.get("/v1/openapi.json") if d.ask("GET", "/v1/openapi.json")[0] == 200 else None
        for name in ("name", "image", "clone", "labels"):
            assert "no option" in create(d, "c", **{name: "x"})
        if schema:
            fields = schema["paths"]["/v1/volumes"]["post"]["requestBody"]["content"]["application/json"]["schema"]
            while "$ref" in fields:
                fields = schema["components"]["schemas"][fields["$ref"].split("/")[-1]]
            for name in set(fields["properties"]) - {"name", "image", "clone", "labels"}:
                assert f" {name}," in why or f" {name} " in why, (name, why)
        for opts, told in [({"size": "tall"}, "size"), ({"size": "-1"}, "size"), ({"protected": "yes"}, "true or false"),
                           ({"fs": "fat"}, "fs"), ({"format": "vmdk"}, "format"), ({"pool": "none"}, "none"),
                           ({"class": "none"}, "none"), ({"cluster-size": "5"}, "cluster-size"),
                           ({"encryption": "luks"}, "not supported yet by the engine: encryption"),
                           ({"limits": "1"}, "limits"), ({"size": "1M", "fs": "xfs"}, "least for xfs"),
                           ({"from": ""}, "from is empty"), ({"from": "sub/vm.qcow2"}, "absolute path"),
                           ({"from": "https://host/vm.qcow2"}, "not fetched"), ({"from": "nothing"}, "from=/PATH"),
                           ({"from": "a@nothing"}, "@SNAPSHOT"), ({"from": os.path.abspath("roots/none")}, "none")]:
            why = create(d, "c", **opts)
            assert told in why, (opts, why)
        assert [v["name"] for v in d.get("/v1/volumes")["items"]] == ["a", "b"]
        for body in ({"Name": "c", "Opts": []}, {"Name": "c", "Opts": {"size": 5}}, {"Name": "c", "Opts": {"size": None}}, {"Name": ""}):
            status, answer = d.plugin("VolumeDriver.Create", body)
            assert status == 500 and answer["Err"], (body, answer)


def test_options_that_name_images():
    need_tool("qemu-img")
    with Daemon() as d:
        os.mkdir("roots")
        d.pool(**{"image-roots": [os.path.abspath("roots")]})
        for folder in ("roots", "."):
            run("qemu-img", "create", "-q", "-f", "qcow2", f"{folder}/vm.qcow2", "64M")
        run("qemu-img", "create", "-q", "-f", "vmdk", "roots/vm.vmdk", "64M")
        assert create(d, "vm", **{"from": os.path.abspath("roots/vm.qcow2")}) == ""
        assert d.get("/v1/volumes/vm")["size"] == 64 << 20
        why = create(d, "out", **{"from": os.path.abspath("vm.qcow2")})
        assert "image root" in why and "image-roots" in why, why
        os.symlink("../vm.qcow2", "roots/link.qcow2")
        assert "image-roots" in create(d, "out", **{"from": os.path.abspath("roots/link.qcow2")})
        why = create(d, "out", **{"from": os.path.abspath("roots/vm.vmdk")})
        assert "vmdk" in why.lower(), why
        assert len(d.get("/v1/volumes")["items"]) == 1
        assert d.plugin("VolumeDriver.Remove", {"Name": "vm"})[0] == 200
        assert os.path.exists("roots/vm.qcow2")


def test_a_volume_tells_what_is_worth_reading():
    need_devices()
    with Daemon() as d:
        d.pool()
        d.post("/v1/classes", name="fast")
        assert create(d, "vol", **{"size": "64M", "class": "fast"}) == ""
        status = ask(d, "Get", "vol")["Volume"]["Status"]
        assert (status["size"], status["size-text"], status["pool"], status["class"], status["attached"]) == \
            (64 << 20, "64 MiB", "pool", "fast", False), status
        assert "used" not in status and "device" not in status and "snapshots" not in status
        d.post("/v1/volumes/vol/snapshots", name="s")
        where = ask(d, "Mount", "vol")["Mountpoint"]
        with open(where + "/file", "wb") as file:
            file.write(b"x" * (8 << 20))
        os.sync()
        told = ask(d, "Get", "vol")["Volume"]
        status = told["Status"]
        assert told["Mountpoint"] == where and told["CreatedAt"].endswith("Z")
        assert status["snapshots"] == ["s"] and status["users"] == ["docker:u"] and status["attached"]
        assert 8 << 20 <= status["used"] < 32 << 20 and 0 < status["available"] < 56 << 20, status
        assert status["device"].startswith("/dev/") and status["attached-at"] >= told["CreatedAt"]
        # The pool's folder goes away: the volume can still be told.
        os.rename("pool", "away")
        assert ask(d, "Get", "vol")["Volume"]["Status"]["size"] == 64 << 20
        os.rename("away", "pool")
        # Something else unmounts it: what the folder below has is not taken for the volume's.
        run("umount", where)
        assert "used" not in ask(d, "Get", "vol")["Volume"]["Status"]
        ask(d, "Unmount", "vol")
        assert ask(d, "List", "")["Volumes"] == [{"Name": "vol", "Mountpoint": "", "CreatedAt": told["CreatedAt"]}]


def test_scope_is_a_setting():
    for words, scope in (((), "local"), (("--docker-scope=local",), "local"), (("--docker-scope=global",), "global")):
        with Daemon(*words) as d:
            assert d.plugin("VolumeDriver.Capabilities") == (200, {"Capabilities": {"Scope": scope}})
    done = subprocess.run([d.words[0], "--docker-scope=galaxy"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "docker-scope" in done.stderr, done.stderr


def test_users_that_an_engine_lost_are_dropped():
    need_devices()
    need_tool("unshare")
    with Daemon() as d:
        d.pool()
        first, second, podman = (Engine(name, d.docker) for name in ("dockerd", "dockerd", "podman"))
        try:
            for name in ("gone", "kept", "both", "podman", "alive"):
                assert create(d, name, size="16M") == ""
            first.mount("gone", "1")
            container = Container(first.mount("kept", "2"))
            first.mount("both", "3")
            second.mount("both", "4")
            first.mount("alive", "5")
            second.mount("alive", "5")  # a container that its engine's successor started again
            podman.mount("podman", "6")
            ask(d, "Mount", "podman", "7")
            first.kill()
            podman.kill()
            wait_until(lambda: users(d, "gone") == [] and users(d, "both") == ["docker:4"])
            # Those that a container has, that another engine asked for, or that none did, stay.
            assert users(d, "kept") == ["docker:2"] and users(d, "alive") == ["docker:5"]
            assert users(d, "podman") == ["docker:6", "docker:7"]
            d.kill()
            d.start()
            assert users(d, "kept") == ["docker:2"]
            container.kill()
            wait_until(lambda: users(d, "kept") == [])
            # Its engine lives, but forgot it long ago: no container of its has the volume.
            container = Container(second.mount("kept", "8"))
            d.kill()
            assert edit_catalog(r'("docker:[58]": *"\d+ \d+) \d+"', r'\1 0"') == 2
            d.start()
            wait_until(lambda: users(d, "alive") == [])
            assert users(d, "kept") == ["docker:8"]
            container.kill()
            assert users(d, "both") == ["docker:4"]
            # What was dropped and is unmounted afterwards was unmounted.
            ask(d, "Unmount", "alive", "5")
            for name, user in (("both", "4"), ("kept", "8"), ("podman", "6"), ("podman", "7")):
                ask(d, "Unmount", name, user)
        finally:
            for process in (first, second, podman):
                process.kill()
        for name in ("gone", "kept", "both", "podman", "alive"):
            assert d.plugin("VolumeDriver.Remove", {"Name": name})[0] == 200
        assert d.images() == []


def test_an_engine_that_would_not_see_the_mount_is_refused():
    need_devices()
    need_tool("unshare")
    with Daemon() as d:
        d.pool()
        assert create(d, "vol", size="16M") == ""
        apart = Engine("dockerd", d.docker, "unshare", "--mount", "--propagation=private")
        try:
            try:
                apart.mount("vol", "1")
            except KeyError as missing:
                assert missing.args == ("Mountpoint",)
            else:
                raise AssertionError("it was mounted where nobody sees it")
            assert users(d, "vol") == []
        finally:
            apart.kill()
        assert os.path.ismount(ask(d, "Mount", "vol")["Mountpoint"])
        ask(d, "Unmount", "vol")


def edit_catalog(pattern, text):
    """Replaces what the regular expression matches in every object. @return in how many."""
    catalog = sqlite3.connect("state/catalog.db")
    catalog.create_function("edited", 1, lambda value: re.sub(pattern, text, value) if isinstance(value, str) else value)
    changed = 0
    for table, in catalog.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
        for column in [row[1] for row in catalog.execute(f"PRAGMA table_info({table})")]:
            changed += catalog.execute(f"UPDATE {table} SET {column} = edited({column}) WHERE edited({column}) IS NOT {column}").rowcount
    catalog.commit()
    catalog.close()
    return changed


def reboot(d):
    """What is left after the host went down and came up: the files, and nothing else."""
    d.kill()
    entries = hawser("list", "--output=json").json()
    for entry in entries:
        os.kill(entry["pid"], signal.SIGKILL)
    for line in reversed(open("/proc/self/mountinfo").readlines()):
        if os.getcwd() in line:
            subprocess.run(["umount", "-l", line.split()[4]], check=False)
    for line in run("losetup", "-l", "-n", "-O", "NAME,BACK-FILE").splitlines():
        if os.getcwd() in line:
            subprocess.run(["losetup", "-d", line.split()[0]], check=False)
    wait_until(lambda: os.getcwd() not in run("losetup", "-a"))
    shutil.rmtree(os.environ["HAWSER_RUN_DIR"])
    # The boot that the catalog remembers is another one now.
    boot = open("/proc/sys/kernel/random/boot_id").read().strip()
    return edit_catalog(boot, "00000000-1111-4222-8333-444444444444")


def test_a_host_that_was_started_again():
    need_devices()
    with Daemon() as d:
        d.pool()
        for name in ("a", "b"):
            assert create(d, name, size="32M") == ""
            write(ask(d, "Mount", name, "1")["Mountpoint"] + "/file", name)
        ask(d, "Mount", "a", "2")
        d.post("/v1/volumes/a/snapshots", name="s")
        write(ask(d, "Mount", "a", "3")["Mountpoint"] + "/file", "again")
        assert reboot(d) >= 2
        d.start()
        assert users(d, "a") == [] and users(d, "b") == []
        assert d.get("/v1/attachments")["items"] == []
        # Unmounts of containers of before are those of nobody; containers that start anew count anew.
        ask(d, "Unmount", "a", "1")
        for name, text in (("a", "again"), ("b", "b")):
            where = ask(d, "Mount", name, "4")["Mountpoint"]
            assert open(mountpoint({"mountpoint": where}) + "/file").read() == text
        assert users(d, "a") == ["docker:4"]
        d.kill()
        d.start()
        assert users(d, "a") == ["docker:4"]
        for name in ("a", "b"):
            ask(d, "Unmount", name, "4")
        d.post("/v1/volumes/a/revert", snapshot="s")
        assert open(ask(d, "Mount", "a")["Mountpoint"] + "/file").read() == "a"
        ask(d, "Unmount", "a")


def files_below(folder):
    return sorted(os.path.relpath(os.path.join(path, name), folder) for path, _, names in os.walk(folder) for name in names)


def test_it_is_installed_and_taken_away():
    need_tool("meson")
    root = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
    build = os.path.dirname(os.path.dirname(os.path.dirname(HAWSER)))
    words = (f"{root}/packaging/install", f"--destdir={os.getcwd()}/tree", f"--build={build}")
    os.makedirs("tree/usr/local/bin")
    write("tree/usr/local/bin/somebodys", "own")
    run(*words)
    once = files_below("tree")
    run(*words)  # again, over what is there
    assert files_below("tree") == once
    for name in ("bin/hawser", "sbin/hawserd", "lib/systemd/system/hawserd.service", "share/hawser/installed"):
        assert f"usr/local/{name}" in once, once
    assert "etc/containers/containers.conf.d/hawser.conf" in once
    unit = open("tree/usr/local/lib/systemd/system/hawserd.service").read()
    assert "bindir@" not in unit and os.access("tree" + re.search("^ExecStart=(\\S+)", unit, re.M).group(1), os.X_OK)
    # What was installed runs, and finds its other half.
    with Daemon() as d:
        d.stop()
        d.words = ["tree/usr/local/sbin/hawserd"] + [w for w in d.words[1:] if not w.startswith("--program")]
        d.start()
        d.pool()
        assert create(d, "vol", size="16M") == ""
    run(*words, "--uninstall")
    assert files_below("tree") == ["usr/local/bin/somebodys"] and not os.path.exists("tree/etc")
    done = subprocess.run([*words, "--uninstall"], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "nothing was installed" in done.stderr


if __name__ == "__main__":
    main(globals())
