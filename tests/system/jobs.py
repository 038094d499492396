#!/usr/bin/env python3
"""Layers of attached volumes are merged while they are used: under fio with verification, refused where they must
be, steered, and cut off by kills; what is left is judged by qemu-img.
"""
import json
import os
import random
import signal
import subprocess
import threading
import time
from lib import HAWSER, Rpc, attach, entry, hawser, main, need_devices, need_tool, nothing_left, run, wait_until
from nbd_peer import Engine, answer, negotiate, request

MIB = 1 << 20
BLOCK = 65536


def put(device, offset, data):
    with open(device, "r+b", buffering=0) as out:
        out.seek(offset)
        out.write(data)
        os.fsync(out.fileno())


def rpc(name="disk"):
    return Rpc(os.path.join(os.environ["HAWSER_RUN_DIR"], name, "control.sock"))


def ask(client, method, **params):
    told = client.ask(method, **params)
    assert "result" in told, told
    return told["result"]


def ended(client, job, seconds=120):
    deadline = time.monotonic() + seconds
    while job["state"] not in ("concluded", "failed", "cancelled"):
        assert time.monotonic() < deadline, job
        job = ask(client, "job-wait", **{"id": job["id"], "timeout-ms": 1000})
    return job


def chain_of(client):
    status = ask(client, "status")["volumes"][0]
    return [os.path.basename(path) for path in status["resume"]["chain"]]


def make_chain(size="64M", layers=3, seed=1):
    """disk.qcow2 <- s1.qcow2 <- ... and what each state reads as, in .raw files."""
    draw = random.Random(seed)
    hawser("create", "-q", "disk.qcow2", size)
    names = ["disk"]
    for i in range(1, layers + 1):
        commands = []
        for _ in range(12):
            at, length = draw.randrange(0, 60 * MIB, 4096), draw.choice([4096, BLOCK, 300 * 1024])
            commands += ["-c", f"{draw.choice(['write', 'write', f'write -P {i}', 'write -z', 'discard'])} {at} {length}"]
        run("qemu-io", "-f", "qcow2", f"{names[-1]}.qcow2", *commands)
        run("qemu-img", "convert", "-O", "raw", f"{names[-1]}.qcow2", f"{names[-1]}.raw")
        if i < layers:
            hawser("create", "-q", "-b", f"{names[-1]}.qcow2", "-F", "qcow2", f"s{i}.qcow2")
            names.append(f"s{i}")
    return names


def fio(device, *words):
    job = ["fio", "--name=v", f"--filename={device}", "--direct=1", "--ioengine=libaio", "--iodepth=8", "--bs=4k-64k",
           "--bsrange=4k-64k", "--rw=randwrite", "--size=48M", "--verify=crc32c", "--randseed=7", "--norandommap=0",
           "--output-format=json", *words]
    return subprocess.Popen(job, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ends_well(process):
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err + out
    return json.loads(out[out.index("{"):])["jobs"][0]


def check_all():
    for name in sorted(os.listdir(".")):
        if name.endswith(".qcow2"):
            run("qemu-img", "check", "-q", name)


def test_layers_are_merged_under_verified_load():
    need_devices()
    need_tool("fio", "qemu-img", "qemu-io")
    names = make_chain(layers=4)
    told = attach("s3.qcow2", "--name=disk")
    hawser("snapshot", "disk", "s4.qcow2")
    client = rpc()
    load = fio(told["device"], "--do_verify=1", "--time_based=0", "--rate=,24M")
    time.sleep(0.2)
    done = [hawser("snapshot", "--merge", "s1.qcow2", "disk", "--output=json").json()]
    assert done[0]["fallen"][0].endswith("s1.qcow2") or done[0]["into"].endswith("s1.qcow2"), done
    pauses = [done[0]["pause-us"]]
    for method, params in (("commit", {"layer": os.path.realpath("s3.qcow2")}), ("commit", {}), ("stream", {})):
        job = ended(client, ask(client, method, **params))
        assert job["state"] == "concluded", job
        pauses.append(job["pause-ns"] // 1000)
    assert entry("disk")["depth"] == 0
    ends_well(load)
    ends_well(fio(told["device"], "--verify_only=1"))
    top = entry("disk")["top"]
    hawser("detach", "disk")
    run("qemu-img", "convert", "-O", "raw", top, "now.raw")
    # By the name that it was attached by, and by that of the last snapshot, it reads the same.
    for name in ("s4.qcow2",):
        if os.path.exists(name):
            run("qemu-img", "compare", "-f", "raw", "-F", "qcow2", "now.raw", name)
    check_all()
    nothing_left(os.getcwd())
    print(f"pauses in us: {pauses}, layers {len(names)}")


def test_other_snapshots_keep_what_they_are():
    need_devices()
    need_tool("qemu-img", "qemu-io")
    for victim in ("disk", "s1", "s2"):
        for name in os.listdir("."):
            if name.endswith((".qcow2", ".raw")):
                os.unlink(name)
        names = make_chain(layers=4, seed=sum(victim.encode()))
        attach("s3.qcow2", "--name=disk")
        merged = hawser("snapshot", "--merge", f"{victim}.qcow2", "disk", "--output=json").json()
        top = entry("disk")["top"]
        hawser("detach", "disk")
        told = json.loads(run("qemu-img", "info", "--backing-chain", "--output=json", top))
        left = [image["filename"] for image in told][::-1]  # from the base up
        states = [name for name in names if name != victim]
        assert len(left) == len(states), (left, states)
        for image, state in zip(left, states):
            run("qemu-img", "compare", "-f", "qcow2", "-F", "raw", image, f"{state}.raw")
        run("qemu-img", "compare", "-f", "qcow2", "-F", "raw", "s3.qcow2", "s3.raw")
        assert not os.path.exists(merged["fallen"][0]) or merged["fallen"][0].endswith("s3.qcow2"), merged
        check_all()


def test_a_job_is_steered():
    need_devices()
    need_tool("qemu-img", "qemu-io")
    make_chain(layers=2)
    told = attach("s1.qcow2", "--name=disk")
    for i in range(16):
        put(told["device"], i * MIB, bytes([i + 1]) * MIB)
    client = rpc()
    hawser("snapshot", "disk", "s2.qcow2")
    slow = ask(client, "commit", layer=os.path.realpath("s1.qcow2"), speed=MIB)
    assert slow["state"] == "running" and slow["id"] == "job-1", slow
    for method, params in (("snapshot", {"overlay": os.path.realpath("no.qcow2")}), ("resize", {"size": "65M"}),
                           ("revert", {}), ("stream", {}), ("internal-snapshot", {"action": "create", "name": "x"})):
        refused = client.ask(method, **params)
        assert refused["error"]["data"]["name"] == "EBUSY", (method, refused)
    assert ask(client, "status")["volumes"][0]["job"]["id"] == "job-1"
    assert ask(client, "job-pause", id="job-1")["state"] == "paused"
    time.sleep(0.3)
    before = ask(client, "job-list", id="job-1")["jobs"][0]["moved-bytes"]
    time.sleep(0.5)
    assert ask(client, "job-list", id="job-1")["jobs"][0]["moved-bytes"] == before
    assert ask(client, "job-resume", id="job-1")["state"] == "running"
    ask(client, "job-cancel", id="job-1")
    assert ended(client, slow)["state"] == "cancelled"
    assert entry("disk")["depth"] == 2
    assert client.ask("job-cancel", id="job-1")["error"]["data"]["name"] == "EINVAL"
    assert client.ask("job-cancel", id="job-9")["error"]["data"]["name"] == "ENOENT"
    held = ask(client, "commit", hold=True, speed=MIB)
    ask(client, "job-set-speed", id=held["id"], speed=0)
    wait_until(lambda: ask(client, "job-list", id=held["id"])["jobs"][0]["state"] == "waiting")
    put(told["device"], 20 * MIB, b"held" * 1024)
    assert entry("disk")["depth"] == 2
    ask(client, "job-complete", id=held["id"])
    assert ended(client, held)["state"] == "concluded" and chain_of(client) == ["s1.qcow2", "disk.qcow2"]
    put(told["device"], 21 * MIB, b"more" * 1024)
    hawser("detach", "disk")
    # The old top's name still stands for the whole.
    for image in ("s1.qcow2", "s2.qcow2"):
        out = run("qemu-io", "-r", "-f", "qcow2", "-c", "read -P 16 15M 1M", "-c", "read -v 21M 16", image)
        assert "failed" not in out and "more" in out, out
    run("qemu-img", "compare", "s1.qcow2", "s2.qcow2")
    check_all()


def test_what_cannot_be_merged_is_refused():
    need_devices()
    need_tool("qemu-img", "qemu-io")
    make_chain(layers=3)
    hawser("create", "-q", "-b", "disk.qcow2", "-F", "qcow2", "other.qcow2")
    attach("s2.qcow2", "--name=disk")
    attach("other.qcow2", "--name=other")
    client = rpc()
    # disk.qcow2 is read by others too: nothing may be written there.
    job = ended(client, ask(client, "commit", layer=os.path.realpath("s1.qcow2")))
    assert job["state"] == "failed" and "disk.qcow2" in job["error"], job
    assert "no snapshot" in hawser("snapshot", "--merge", "s2.qcow2", "disk", code=1).err
    assert "not in the backing chain" in hawser("snapshot", "--merge", "other.qcow2", "disk", code=1).err
    assert "not attached" in hawser("snapshot", "--merge", "disk.qcow2", "s1.qcow2", code=1).err
    assert "alone" in hawser("snapshot", "--merge", "s1.qcow2", "--list", "disk", code=2).err
    assert client.ask("commit", base=os.path.realpath("s2.qcow2"))["error"]["data"]["name"] == "EINVAL"
    hawser("detach", "other")
    job = ended(client, ask(client, "commit", layer=os.path.realpath("s1.qcow2"), remove=True))
    assert job["state"] == "concluded" and not os.path.exists("s1.qcow2"), job
    run("qemu-img", "compare", "-U", "-f", "qcow2", "-F", "raw", "s2.qcow2", "s2.raw")
    hawser("detach", "disk")
    hawser("snapshot", "-c", "inside", "s2.qcow2")
    attach("s2.qcow2", "--name=disk")
    refused = rpc().ask("commit")
    assert "internal snapshots" in refused["error"]["message"], refused
    hawser("detach", "disk")
    check_all()


class Writer(threading.Thread):
    """Writes blocks and syncs each; `sure` is what must be there whatever happens."""

    def __init__(self, device, first, step):
        super().__init__()
        self.device, self.first, self.step, self.sure, self.tried = device, first, step, {}, {}

    def run(self):
        try:
            with open(self.device, "r+b", buffering=0) as out:
                for n in range(1, 1 << 30):
                    index = self.first + n * 7 % 120 * self.step
                    data = (b"%06d-%08d" % (index, n)).ljust(512, b".") * 8
                    self.tried.setdefault(index, set()).add(data)
                    os.pwrite(out.fileno(), data, index * 4096)
                    os.fsync(out.fileno())
                    self.sure[index] = data
                    self.tried[index] = {data}
        except OSError:
            pass  # the engine is gone


def wait_until_free(name):
    """A killed engine lets go of its locks when its last requests have ended, of each file by itself."""
    def is_free():
        done = subprocess.run([HAWSER, "check", "-r", "leaks", name], capture_output=True, text=True, check=False)
        return "another process" not in done.stderr
    wait_until(is_free)


def test_a_kill_at_any_moment_loses_nothing():
    need_devices()
    need_tool("qemu-img", "qemu-io")
    ends = {}
    for i in range(8):
        for name in os.listdir("."):
            if name.endswith((".qcow2", ".raw")):
                os.unlink(name)
        make_chain(layers=3, seed=i)
        told = attach("s2.qcow2", "--name=disk")
        put(told["device"], 0, b"\xee" * 4 * MIB)
        writers = [Writer(told["device"], first, 2) for first in range(2)]
        for writer in writers:
            writer.start()
        client = rpc()
        method, params = [("commit", {}), ("stream", {}), ("commit", {"layer": os.path.realpath("s1.qcow2")}),
                          ("commit", {"base": os.path.realpath("disk.qcow2")})][i % 4]
        ask(client, method, **params)
        time.sleep(i * 0.008)
        state = ask(client, "job-list")["jobs"][0]["state"]
        os.kill(told["pid"], signal.SIGKILL)
        for writer in writers:
            writer.join(120)
        hawser("detach", "disk", "--force")
        for name in sorted(os.listdir(".")):
            if name.endswith(".qcow2"):
                wait_until_free(name)
                hawser("check", "-r", "leaks", name)
        run("qemu-img", "convert", "-O", "raw", "s2.qcow2", "now.raw")
        with open("now.raw", "rb") as file:
            for writer in writers:
                for index, data in writer.sure.items():
                    file.seek(index * 4096)
                    found = file.read(4096)
                    assert found == data or found in writer.tried[index], (i, index, found[:16], data[:16])
        ends[state] = ends.get(state, 0) + 1
    print(f"killed when: {ends}")


def test_the_next_engine_goes_on_where_it_was():
    """What was answered and not flushed is in the keep, also of a layer that a commit made the top."""
    need_tool("qemu-img", "qemu-io")
    make_chain(layers=3)
    volume = {"name": "disk", "image": os.path.realpath("s2.qcow2"), "format": "qcow2", "via": "none",
              "keep": os.path.abspath("keep")}
    config = {"volumes": [volume], "state-file": os.path.abspath("state.json")}

    def write(engine, byte):
        with engine.connect() as s:
            negotiate(s)
            for at in range(0, 8 * MIB, 512 * 1024):
                s.sendall(request(1, at, at, BLOCK) + bytes([byte]) * BLOCK)
                assert answer(s) == (0, at)

    def reads(engine, byte):
        for at in range(0, 8 * MIB, 512 * 1024):
            run("qemu-io", "-r", "-f", "raw", "-c", f"read -P {byte} {at} {BLOCK}", engine.uri())

    engine = Engine(config=config)
    write(engine, 0xa1)
    job = engine.call("commit", speed=1 * MIB)  # it writes to s1.qcow2 when the engine dies
    time.sleep(0.2)
    engine.kill()
    engine = Engine(config=config)
    reads(engine, 0xa1)
    told = engine.call("job-list", id=job["id"])["jobs"][0]
    assert told["state"] == "failed" and "its engine ended" in told["error"], told
    write(engine, 0xa2)
    job = engine.call("commit")
    while engine.call("job-list", id=job["id"])["jobs"][0]["state"] == "running":
        time.sleep(0.05)
    told = engine.call("job-wait", **{"id": job["id"], "timeout-ms": 30000})
    assert told["state"] == "concluded" and told["id"] == "job-2", told
    write(engine, 0xa3)
    engine.kill()
    with Engine(config=config) as engine:
        reads(engine, 0xa3)
        status = engine.call("status")["volumes"][0]
        assert status["top"].endswith("s1.qcow2") and status["depth"] == 1, status
        assert engine.call("job-list")["jobs"][-1]["state"] == "concluded"
    assert not os.path.exists("keep")
    run("qemu-img", "compare", "s1.qcow2", "s2.qcow2")
    for name in ("disk.qcow2", "s1.qcow2", "s2.qcow2"):
        run("qemu-img", "check", "-q", "-r", "leaks", name)


main(globals())
