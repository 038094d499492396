"""Volumes of hawserd in the real Docker engine and in podman: made, used by containers one after another and at
the same time, over restarts of both daemons, and removed."""
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "system"))

from daemon import Daemon  # noqa: E402
from lib import HAWSER, Skip, hawser, main, need_devices, need_tool, run, wait_until  # noqa: E402

# The plugin's name is its socket's; one of our own, so that nobody's plugin is in the way.
PLUGIN = f"hawser-test-{os.getpid()}"
PLUGINS = "/run/docker/plugins"


class Plugin(Daemon):
    def __init__(self, *words):
        os.makedirs(PLUGINS, exist_ok=True)
        super().__init__(*words)

    def start(self, env=None, program=None):
        self.docker = f"{PLUGINS}/{PLUGIN}.sock"
        self.words = [w for w in self.words if not w.startswith("--docker-socket")] + [f"--docker-socket={self.docker}"]
        super().start(env, program)


def busybox_tree():
    os.makedirs("tree/bin", exist_ok=True)
    shutil.copy("/bin/busybox", "tree/bin/busybox")
    for name in ("sh", "cat", "echo", "ls", "sleep", "df", "sync", "dd", "touch", "true", "wc", "tr", "tail", "cut", "mv", "head"):
        if not os.path.islink(f"tree/bin/{name}"):
            os.symlink("busybox", f"tree/bin/{name}")
    run("tar", "-C", "tree", "-cf", "tree.tar", ".")


class Docker:
    """The real engine, with folders of its own."""

    def __init__(self):
        need_tool("docker", "dockerd", "containerd", "busybox")
        need_devices()
        self.here = os.getcwd()
        # One at a time on a machine: they share the kernel's folders of cgroups and network name spaces.
        self.lock = open("/tmp/docker.lock", "w")
        fcntl.flock(self.lock, fcntl.LOCK_EX)
        self.host = f"unix://{self.here}/d.sock"
        self.start_containerd()
        self.start()
        busybox_tree()
        self("import", "tree.tar", "busybox")

    def start_containerd(self):
        """Of its own, so that it outlives a dockerd that is killed, as under systemd."""
        with open("containerd.toml", "w") as file:
            file.write(f'version = 2\nroot = "{self.here}/c"\nstate = "{self.here}/cs"\n'
                       f'disabled_plugins = ["io.containerd.grpc.v1.cri"]\n[grpc]\naddress = "{self.here}/c.sock"\n')
        self.containerd = subprocess.Popen(["containerd", "--config", "containerd.toml"], start_new_session=True,
                                           stdout=subprocess.DEVNULL, stderr=open("containerd.log", "a"))
        wait_until(lambda: os.path.exists("c.sock"))

    def start(self):
        self.log = open("dockerd.log", "a")
        self.process = subprocess.Popen(
            ["dockerd", "--iptables=false", "--ip6tables=false", "--bridge=none", "--storage-driver=overlay2",
             f"--data-root={self.here}/docker", f"--exec-root={self.here}/x", f"--pidfile={self.here}/dockerd.pid",
             f"--containerd={self.here}/c.sock", "-H", self.host], stdout=self.log, stderr=self.log, start_new_session=True)
        deadline = time.monotonic() + 90
        while subprocess.run(["docker", "-H", self.host, "info"], capture_output=True, timeout=60).returncode:
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise Skip("dockerd does not start here: " + open("dockerd.log").read()[-300:].replace("\n", " "))
            time.sleep(0.1)

    def __call__(self, *words, code=0):
        done = subprocess.run(["docker", "-H", self.host, *words], capture_output=True, text=True, timeout=120)
        assert done.returncode == code, (words, done.returncode, done.stdout, done.stderr)
        return done.stdout.strip() if code == 0 else done.stderr

    def tries(self, *words):
        return subprocess.run(["docker", "-H", self.host, *words], capture_output=True, text=True, timeout=120, check=False).returncode == 0

    def container(self, *words, volume="vol", options=(), **more):
        return self("run", "--rm", "--network=none", "-v", f"{volume}:/data", *options, "busybox", *words, **more)

    def stop(self, how=signal.SIGTERM):
        self.process.send_signal(how)
        self.process.wait(60)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        ids = subprocess.run(["docker", "-H", self.host, "ps", "-aq"], capture_output=True, text=True, timeout=60)
        if ids.stdout.split():
            subprocess.run(["docker", "-H", self.host, "rm", "-f", *ids.stdout.split()], capture_output=True, timeout=120)
        self.stop()
        self.containerd.terminate()
        self.containerd.wait(60)
        for mount in reversed([line.split()[4] for line in open("/proc/self/mountinfo")]):
            if mount.startswith((f"{self.here}/docker", f"{self.here}/x", f"{self.here}/c")):
                subprocess.run(["umount", "-l", mount], capture_output=True, timeout=60)


def create(docker, name="vol", *options):
    words = [word for option in options or ("size=64M",) for word in ("-o", option)]
    return docker("volume", "create", "-d", PLUGIN, *words, name)


def test_docker_volumes_are_made_written_read_and_removed():
    with Docker() as docker, Plugin() as d:
        d.pool()
        assert create(docker) == "vol"
        assert "vol" in docker("volume", "ls", "-q")
        shown = docker("volume", "inspect", "-f", "{{.Driver}} {{.Scope}} {{.Status.size}} {{.Status.fs}}", "vol")
        assert shown == f"{PLUGIN} local 6.7108864e+07 ext4", shown
        docker.container("sh", "-c", "echo hello > /data/file; sync")
        assert docker.container("cat", "/data/file") == "hello"
        size = docker.container("df", "-m", "/data").split("\n")[-1].split()[1]
        assert 40 < int(size) < 64, size
        assert "no option" in docker("volume", "create", "-d", PLUGIN, "-o", "sise=1G", "copy", code=1)
        assert "not supported yet by the engine: encryption" in docker(
            "volume", "create", "-d", PLUGIN, "-o", "encryption=luks", "copy", code=1)
        # A volume that is full is full, and nothing else.
        out = docker.container("sh", "-c", "dd if=/dev/zero of=/data/big bs=1M count=100 2>&1; true")
        assert "No space left" in out, out
        assert docker.container("cat", "/data/file") == "hello"
        # A snapshot, and a clone of it by Docker's own command.
        d.post("/v1/volumes/vol/snapshots", name="s")
        docker.container("sh", "-c", "echo changed > /data/file")
        create(docker, "copy", "from=vol@s")
        assert docker.container("cat", "/data/file", volume="copy") == "hello"
        d.post("/v1/volumes/vol/revert", snapshot="s")
        assert docker.container("cat", "/data/file") == "hello"
        docker("volume", "rm", "copy")
        d.delete("/v1/volumes/vol/snapshots/s")
        docker("volume", "rm", "vol")
        assert d.get("/v1/volumes")["items"] == [] and d.images() == []


def test_docker_containers_share_a_volume_over_restarts():
    with Docker() as docker, Plugin() as d:
        d.pool()
        create(docker)
        for name in ("one", "two"):
            docker("run", "-d", "--name", name, "--network=none", "-v", "vol:/data", "busybox", "sleep", "1000")
        assert len(d.get("/v1/volumes/vol")["attachment"]["users"]) == 2
        docker("exec", "one", "sh", "-c", "echo shared > /data/file")
        assert docker("exec", "two", "cat", "/data/file") == "shared"
        assert "in use" in docker("volume", "rm", "vol", code=1)
        for end in (d.kill, d.stop, d.kill):
            end()
            docker("exec", "one", "sh", "-c", "echo more >> /data/file; sync")
            d.start()
        docker("stop", "-t", "0", "one")
        assert len(d.get("/v1/volumes/vol")["attachment"]["users"]) == 1
        assert docker("exec", "two", "cat", "/data/file").split() == ["shared"] + ["more"] * 3
        docker("stop", "-t", "0", "two")
        assert "attachment" not in d.get("/v1/volumes/vol")
        docker("start", "one")
        # Docker itself dies with a container running, and is started again.
        docker.stop(signal.SIGKILL)
        docker.start()
        docker("rm", "-f", "one")
        docker("rm", "-f", "two")
        assert docker.container("cat", "/data/file").split() == ["shared"] + ["more"] * 3
        # The IDs of containers that died with Docker are left; Docker removes only what none of its own has.
        docker("volume", "rm", "vol")
        assert d.images() == []


def test_docker_loses_users_and_they_are_dropped():
    with Docker() as docker, Plugin() as d:
        d.pool()
        create(docker)
        users = lambda: d.get("/v1/volumes/vol").get("attachment", {}).get("users", [])
        for name, policy in (("one", "no"), ("two", "always")):
            docker("run", "-d", "--name", name, "--restart", policy, "--network=none", "-v", "vol:/data", "busybox",
                   "sh", "-c", "echo started >> /data/file; sync; exec sleep 1000")
        assert len(users()) == 2
        docker.stop(signal.SIGKILL)
        d.kill()
        d.start()
        docker.start()
        # The one is not started again, and Docker does not tell; the other mounts anew.
        wait_until(lambda: docker("ps", "-q", "-f", "name=two"))
        assert not docker("ps", "-q", "-f", "name=one") and users()
        docker("rm", "-f", "one", "two")
        docker.stop()
        wait_until(lambda: users() == [])
        docker.start()
        assert docker.container("cat", "/data/file").split() == ["started"] * 3
        docker("volume", "rm", "vol")
        assert d.images() == []


def capabilities():
    """Names of those that this process may hand on."""
    names = subprocess.run(["capsh", "--print"], capture_output=True, text=True, check=True).stdout
    return [name.strip().upper() for name in names.split("Bounding set =")[1].split("\n")[0].split(",")]


def managed_plugin():
    """Takes a minute, and packages from a mirror the first time: run where $HAWSER_PLUGIN_PACKAGE is set."""
    need_tool("capsh", "mmdebstrap")
    root = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
    build = os.path.dirname(os.path.dirname(os.path.dirname(HAWSER)))
    run(f"{root}/packaging/docker/build-plugin", f"--build={build}", "plugin", timeout=500)
    with open("plugin/config.json") as file:
        config = json.load(file)
    # Where the kernel does not give one, Docker would refuse the whole.
    config["linux"]["capabilities"] = sorted(set(config["linux"]["capabilities"]) & set(capabilities()))
    with open("plugin/config.json", "w") as file:
        json.dump(config, file)
    os.mkdir("state")
    with Docker() as docker:
        docker("plugin", "create", PLUGIN, "plugin")
        docker("plugin", "set", PLUGIN, f"state.source={docker.here}/state", "LOG_LEVEL=debug")
        docker("plugin", "enable", PLUGIN)
        try:
            # The pool is made by the plugin's own start.
            wait_until(lambda: subprocess.run([HAWSER, "pool", "show", "default", f"--socket={docker.here}/state/hawserd.sock"],
                                              capture_output=True, check=False).returncode == 0)
            create(docker)
            docker.container("sh", "-c", "echo hello > /data/file")
            docker("run", "-d", "--name", "one", "--network=none", "-v", "vol:/data", "busybox", "sleep", "1000")
            assert "in use" in docker("plugin", "disable", PLUGIN, code=1)
            hawser("volume", f"--socket={docker.here}/state/hawserd.sock", "snapshot", "vol", "s")
            for how in (signal.SIGTERM, signal.SIGKILL):  # the plugin ends with Docker, and comes back with it
                docker.stop(how)
                docker.start()
                # After its death Docker may unmount what the plugin's successor propagates, which hawserd sees.
                if not docker.tries("start", "one"):
                    docker.stop()
                    docker.start()
                    docker("start", "one")
                assert docker("exec", "one", "cat", "/data/file") == "hello"
            docker("rm", "-f", "one")
            create(docker, "copy", "from=vol@s")
            assert docker.container("cat", "/data/file", volume="copy") == "hello"
            for name in ("copy", "vol"):
                if name == "vol":
                    hawser("volume", f"--socket={docker.here}/state/hawserd.sock", "delete-snapshot", "vol", "s")
                docker("volume", "rm", name)
            wait_until(lambda: os.listdir("state/pool/images") == [])
        finally:
            subprocess.run(["docker", "-H", docker.host, "plugin", "disable", "-f", PLUGIN], capture_output=True, timeout=60)
            subprocess.run(["docker", "-H", docker.host, "plugin", "rm", "-f", PLUGIN], capture_output=True, timeout=60)
    wait_until(lambda: docker.here not in open("/proc/self/mountinfo").read())


if os.environ.get("HAWSER_PLUGIN_PACKAGE"):
    test_docker_managed_plugin = managed_plugin


def podman(*words, code=0, timeout=120):
    done = subprocess.run(["podman", f"--root={os.getcwd()}/podman", f"--runroot={os.getcwd()}/podman-run",
                           f"--tmpdir={os.getcwd()}/podman-tmp", "--cgroup-manager=cgroupfs", "--runtime=runc",
                           "--events-backend=file", "--storage-driver=vfs", *words],
                          capture_output=True, text=True, timeout=timeout,
                          env={**os.environ, "CONTAINERS_CONF": f"{os.getcwd()}/containers.conf"})
    assert done.returncode == code, (words, done.returncode, done.stdout, done.stderr)
    return done.stdout.strip() if code == 0 else done.stderr


def test_podman_volumes():
    need_tool("podman", "runc", "busybox")
    need_devices()
    busybox_tree()
    with Plugin() as d:
        d.pool()
        with open("containers.conf", "w") as file:
            file.write(f'[engine]\n[engine.volume_plugins]\n"{PLUGIN}" = "{d.docker}"\n')
        limits = ("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1000:1000", "--network", "none")
        podman("import", "tree.tar", "busybox")
        podman("volume", "create", "--driver", PLUGIN, "-o", "size=64M", "vol")
        podman("run", "--rm", *limits, "-v", "vol:/data", "busybox", "sh", "-c", "echo hello > /data/file; sync")
        assert "attachment" not in d.get("/v1/volumes/vol")
        assert podman("run", "--rm", *limits, "-v", "vol:/data", "busybox", "cat", "/data/file") == "hello"
        podman("run", "-d", "--name", "one", *limits, "-v", "vol:/data", "busybox", "sleep", "1000")
        d.kill()
        d.start()
        assert podman("run", "--rm", *limits, "-v", "vol:/data", "busybox", "cat", "/data/file") == "hello"
        podman("rm", "-f", "-t", "0", "one")
        wait_until(lambda: "attachment" not in d.get("/v1/volumes/vol"))
        podman("volume", "rm", "vol")
        assert d.images() == [] and d.get("/v1/volumes")["items"] == []


if __name__ == "__main__":
    main(globals())
