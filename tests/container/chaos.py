"""hawserd, dockerd and engines are killed at random moments under containers that write; then everything is compared.

Each container writes numbered lines, each synced before it tells its number outside of the volume. Whatever died meanwhile:
the lines are there without a gap, up to the last number told at least; snapshots that were taken meanwhile hold what was told
before; and with the volumes detached nothing is left, in the catalog, among the files, and on the host.

  $HAWSER_CHAOS_SECONDS   how long (15)      $HAWSER_CHAOS_SEED   the order of what is killed (printed)
"""
import os
import random
import signal
import subprocess
import time

from docker import PLUGIN, Docker, Plugin, create  # the tests beside this one, and the path to the others
from daemon import Error
from lib import hawser, main, need_devices, need_tool, run, wait_until

SECONDS = float(os.environ.get("HAWSER_CHAOS_SECONDS", 15))
SEED = int(os.environ.get("HAWSER_CHAOS_SEED", time.time()))
WRITERS = {"first": "one", "second": "two", "shared-1": "shared", "shared-2": "shared"}  # container: volume

# One line in a hundred is long, so that the file grows over clusters.
WRITE = """
log=/data/$NAME
i=$(cat $log 2>/dev/null | wc -l)
# A line that was cut off, never synced, goes.
[ -z "$(tail -c 1 $log 2>/dev/null)" ] || { head -n $i $log | dd of=$log.new conv=fsync && mv $log.new $log || exit 4; }
while :; do
    i=$((i + 1))
    pad=; [ $((i % 100)) != 0 ] || pad=$(dd if=/dev/zero bs=1k count=8 2>/dev/null | tr '\\0' x)
    echo "$i $pad" | dd of=$log oflag=append conv=notrunc,fsync bs=64k 2>/dev/null || exit 1
    [ "$(tail -n 1 $log | cut -d ' ' -f 1)" = $i ] || exit 2
    echo $i > /told/$NAME.new && mv /told/$NAME.new /told/$NAME || exit 3
done
"""


def told(name):
    try:
        with open(f"told/{name}") as file:
            return int(file.read() or 0)
    except FileNotFoundError:
        return 0


def lines_of(path):
    """Numbers of the whole lines; what was not synced may be cut off."""
    if not os.path.exists(path):
        return []
    with open(path) as file:
        return [int(line.split()[0]) for line in file.read().split("\n")[:-1] if line.strip()]


class Chaos:
    def __init__(self, docker, plugin):
        self.docker, self.plugin = docker, plugin
        self.random = random.Random(SEED)
        self.snapshots, self.counts, self.serial = {}, {}, 0

    def try_docker(self, *words):
        """What may fail while something is dead. A whole minute would be an engine that hangs."""
        return subprocess.run(["docker", "-H", self.docker.host, *words], capture_output=True, text=True, timeout=60,
                              check=False).returncode == 0

    # ---- what happens ----

    def kill_hawserd(self):
        self.plugin.kill()
        time.sleep(self.random.random() / 2)
        self.plugin.start()

    def stop_hawserd(self):
        self.plugin.stop()
        self.plugin.start()

    def kill_docker(self):
        self.docker.stop(signal.SIGKILL)
        if self.random.random() < 0.5:
            self.kill_hawserd()
        self.docker.start()

    def kill_engine(self):
        pids = [entry["pid"] for entry in hawser("list", "--output=json").json() if entry.get("pid")]
        if pids:
            os.kill(self.random.choice(pids), signal.SIGKILL)

    def kill_container(self):
        self.try_docker("kill", self.random.choice(list(WRITERS)))

    def restart_container(self):
        self.try_docker("restart", "-t", "0", self.random.choice(list(WRITERS)))

    def snapshot(self):
        volume = self.random.choice(sorted(set(WRITERS.values())))
        self.serial += 1
        before = {name: told(name) for name, where in WRITERS.items() if where == volume}
        try:
            self.plugin.post(f"/v1/volumes/{volume}/snapshots", name=f"s{self.serial}")
            self.snapshots[volume, f"s{self.serial}"] = before
        except (Error, OSError):
            pass

    def delete_snapshot(self):
        if self.snapshots:
            volume, name = self.random.choice(sorted(self.snapshots))
            try:
                self.plugin.delete(f"/v1/volumes/{volume}/snapshots/{name}")
                del self.snapshots[volume, name]
            except (Error, OSError):
                pass

    def pass_by(self):
        """A volume and a container that come and go."""
        self.try_docker("volume", "create", "-d", PLUGIN, "-o", "size=16M", "passing")
        self.try_docker("run", "--rm", "--network=none", "-v", "passing:/data", "busybox", "touch", "/data/x")
        self.try_docker("volume", "rm", "passing")

    def wake_containers(self):
        """As an orchestrator would: what Docker gave up is started again."""
        for name in WRITERS:
            self.try_docker("start", name)

    def run(self):
        events = ([self.kill_hawserd] * 4 + [self.stop_hawserd, self.kill_docker] + [self.kill_engine] * 3 +
                  [self.kill_container, self.restart_container, self.pass_by] + [self.snapshot] * 3 + [self.delete_snapshot])
        end = time.monotonic() + SECONDS
        first = list(dict.fromkeys(events))  # each once, however short it is
        self.random.shuffle(first)
        while time.monotonic() < end or first:
            event = first.pop() if first else self.random.choice(events)
            event()
            self.counts[event.__name__] = self.counts.get(event.__name__, 0) + 1
            time.sleep(self.random.random())
            self.wake_containers()

    # ---- what must be there afterwards ----

    def attach_and_look(self, volume):
        status, answer = self.plugin.plugin("VolumeDriver.Mount", {"Name": volume, "ID": "look"})
        assert status == 200, answer
        found = {name: lines_of(f"{answer['Mountpoint']}/{name}") for name in WRITERS}
        assert self.plugin.plugin("VolumeDriver.Unmount", {"Name": volume, "ID": "look"})[0] == 200
        return found

    def check_lines(self, volume, least):
        found = self.attach_and_look(volume)
        for name, number in least.items():
            numbers = found[name]
            assert numbers == list(range(1, len(numbers) + 1)), (volume, name, "a gap", numbers[-3:])
            assert len(numbers) >= number, (volume, name, "lost", len(numbers), number)

    def compare(self):
        d = self.plugin
        self.try_docker("rm", "-f", *WRITERS)
        self.docker.stop()  # whom Docker forgot is found by its death
        volumes = sorted(set(WRITERS.values()))
        attached = lambda: [v["name"] for v in d.get("/v1/volumes")["items"] if "attachment" in v]
        wait_until(lambda: attached() == [] or not any(entry["running"] for entry in hawser("list", "--output=json").json()))
        for name in attached():  # an engine that died, and whose container did not end
            d.post(f"/v1/volumes/{name}/detach", force=True)
        d.plugin("VolumeDriver.Remove", {"Name": "passing"})
        assert [v["name"] for v in d.get("/v1/volumes")["items"]] == volumes
        for volume in volumes:
            self.check_lines(volume, {name: told(name) for name, where in WRITERS.items() if where == volume})
        for (volume, snapshot), least in self.snapshots.items():
            d.post("/v1/volumes", name="clone", clone=f"{volume}@{snapshot}")
            self.check_lines("clone", least)
            d.delete("/v1/volumes/clone")
        # Nothing is unfinished, and every file is whole and somebody's.
        wait_until(lambda: d.get("/v1/jobs")["items"] == [])
        for name in d.images():
            done = subprocess.run(["qemu-img", "check", "-q", f"pool/images/{name}"], capture_output=True, text=True, check=False)
            assert done.returncode in (0, 3), (name, done.stdout, done.stderr)
            assert subprocess.run(["qemu-img", "check", "-q", "-r", "leaks", f"pool/images/{name}"], check=False).returncode == 0
        if d.ask("GET", "/v1/doctor")[0] == 200:
            findings = d.get("/v1/doctor")
            assert not findings.get("items", findings.get("findings")), findings
        for volume, snapshot in self.snapshots:
            d.delete(f"/v1/volumes/{volume}/snapshots/{snapshot}")
        for volume in volumes:
            d.delete(f"/v1/volumes/{volume}")
        wait_until(lambda: d.images() == [])
        assert hawser("list", "--output=json").json() == []
        here = os.getcwd()
        assert f"{here}/state" not in open("/proc/self/mountinfo").read() and f"{here}/run" not in run("losetup", "-a")
        assert os.listdir("state/mounts") == []


def test_everything_dies_under_containers_that_write():
    need_tool("qemu-img")
    need_devices()
    print(f"seed {SEED}, {SECONDS:.0f} s", flush=True)
    os.mkdir("told")
    with Docker() as docker, Plugin() as d:
        d.pool()
        for volume in sorted(set(WRITERS.values())):
            create(docker, volume)
        for name, volume in WRITERS.items():
            docker("run", "-d", "--name", name, "--restart=always", "--network=none", "-e", f"NAME={name}", "-v", f"{volume}:/data",
                   "-v", f"{os.getcwd()}/told:/told", "busybox", "sh", "-c", WRITE)
        chaos = Chaos(docker, d)
        wait_until(lambda: all(told(name) for name in WRITERS))
        chaos.run()
        print(", ".join(f"{name} {count}" for name, count in sorted(chaos.counts.items())),
              "; lines:", *[told(name) for name in WRITERS], flush=True)
        chaos.compare()


if __name__ == "__main__":
    main(globals())
