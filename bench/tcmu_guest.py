#!/usr/bin/env python3
"""In the laboratory, started by bench/tcmu.py: one image behind several servers of the SCSI target, all at
once, each a disk of the same loopback fabric; every round measures each case with each server in turn.

  tcmu_guest.py ROUNDS SECONDS SIZE-MIB FRESH-WRITES SERVERS CACHE FILE-HANDLER

Images lie on /dev/vdb (ext4); /dev/vdc is the bare virtual disk. Results go to $LAB_OUT/tcmu.json.
"""
import glob
import json
import os
import shutil
import subprocess
import sys
import time

CORE = "/sys/kernel/config/target/core"
LOOPBACK = "/sys/kernel/config/target/loopback"
FRESH_REGION_MIB = 256  # a round's own part of the fresh image: 4096 clusters of 64 KiB
TICK = os.sysconf("SC_CLK_TCK")
CASES = [  # name, kind, fio's rw, depth, block
    ("random read, depth 1", "allocated", "randread", 1, "4k"),
    ("random read, depth 32", "allocated", "randread", 32, "4k"),
    ("random write, depth 32", "allocated", "randwrite", 32, "4k"),
    ("random write, depth 32, fresh", "fresh", "randwrite", 32, "4k"),
    ("sequential read, 1 MiB, depth 4", "allocated", "read", 4, "1M"),
    ("sequential write, 1 MiB, depth 4", "allocated", "write", 4, "1M"),
    ("dd read, 1 MiB", "allocated", "dd-read", 1, "1M"),
    ("dd write, 1 MiB", "allocated", "dd-write", 1, "1M"),
]


def run(*command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def write(path, text):
    with open(path, "w") as file:
        file.write(text)


def disks():
    return {os.path.basename(p) for p in glob.glob("/sys/block/sd*")}


def wait_for(what, condition, seconds=30):
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            sys.exit(f"{what}: not within {seconds} s")
        time.sleep(0.05)


class Loopback:
    """A target of the loopback fabric; its LUNs are disks of this machine."""

    def __init__(self, number):
        self.group = f"{LOOPBACK}/naa.50014050000000{number:02x}/tpgt_1"
        os.makedirs(self.group)
        write(self.group + "/nexus", f"naa.60014050000000{number:02x}")
        self.luns = 0

    def add(self, backstore):
        before = disks()
        lun = f"{self.group}/lun/lun_{self.luns}"
        os.mkdir(lun)
        os.symlink(backstore, lun + "/backstore")
        self.luns += 1
        wait_for("disk of " + backstore, lambda: disks() - before)
        device = "/dev/" + (disks() - before).pop()
        wait_for(device, lambda: int(open(f"/sys/block/{device[5:]}/size").read()) > 0)
        return device


def backstore(plugin, number, name, control):
    path = f"{CORE}/{plugin}_{number}/{name}"
    os.makedirs(path)
    for item in control:
        write(path + "/control", item)
    write(path + "/enable", "1")
    return path


class Server:
    """The disks of one server: `allocated`, on an image with data, and `fresh`, on an empty one."""

    def __init__(self, name, pids, disk):
        self.name, self.pids, self.disk = name, pids, disk

    def cpu_s(self):
        """Seconds in the program, and in the kernel on its behalf (the copies of the data above all)."""
        user = system = 0
        for pid in self.pids:
            fields = open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()
            user += int(fields[11])
            system += int(fields[12])
        return user / TICK, system / TICK


def start_hawser(images, cache):
    disk = {kind: run("hawser", "attach", "--via=tcmu", f"--cache={cache}", image).strip()
            for kind, image in images.items()}
    return Server("hawser", [entry["pid"] for entry in json.loads(run("hawser", "list", "--output=json"))], disk)


def start_backstores(name, pids, number, plugin, controls):
    loopback = Loopback(number)
    disk = {kind: loopback.add(backstore(plugin, number, kind, control)) for kind, control in controls.items()}
    return Server(name, pids, disk)


def start_runner(handlers):
    folder = glob.glob("/usr/lib/*/tcmu-runner")[0]
    for handler in handlers:
        shutil.copy(handler, folder)
    process = subprocess.Popen(["tcmu-runner"], stdout=open("tcmu-runner.log", "w"), stderr=subprocess.STDOUT)
    log = "/var/log/tcmu-runner.log"
    wait_for("tcmu-runner", lambda: os.path.exists(log) and "Handler qcow is registered" in open(log).read())
    time.sleep(1)  # it listens to netlink a moment after it has told of its handlers
    return process


def make_images(size_mib):
    """The masters: an image full of data, and an empty one, as qcow2 and raw."""
    data = os.urandom(1 << 20)
    with open("allocated.raw", "wb") as file:
        for _ in range(size_mib):
            file.write(data)
    run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", "allocated.raw", "allocated.qcow2")
    run("qemu-img", "create", "-q", "-f", "qcow2", "fresh.qcow2", f"{FRESH_REGION_MIB * 16}M")
    run("truncate", "-s", f"{FRESH_REGION_MIB * 16}M", "fresh.raw")


def copies(name, kind):
    result = {}
    for master in ("allocated", "fresh"):
        result[master] = f"/bench/{name}-{master}.{kind}"
        run("cp", "--sparse=always", f"{master}.{kind}", result[master])
    return result


def tcmu_controls(subtype, images):
    return {kind: [f"dev_config={subtype}/{image}", f"dev_size={virtual_size(image)}"]
            for kind, image in images.items()}


def virtual_size(image):
    if image.endswith(".raw"):
        return os.stat(image).st_size
    return json.loads(run("qemu-img", "info", "--output=json", image))["virtual-size"]


def start_servers(wanted, cache, file_handler):
    servers = []
    if "hawser" in wanted:
        servers.append(start_hawser(copies("hawser", "qcow2"), cache))
    handlers = [os.environ["LAB_BUILD"] + "/src/export/tcmu-runner/handler_hawser.so"]
    if "runner-file" in wanted:
        handlers.append(file_handler)
    runner = start_runner(handlers) if any(name.startswith("runner-") for name in wanted) else None
    if "runner-hawser" in wanted:
        images = copies("runner-hawser", "qcow2")
        controls = tcmu_controls("hawser", images)
        for kind in controls:
            controls[kind][0] += f";cache={cache}"
        servers.append(start_backstores("runner-hawser", [runner.pid], 1, "user", controls))
    for number, (name, subtype, kind) in enumerate((("runner-qcow", "qcow", "qcow2"), ("runner-file", "file", "raw"))):
        if name in wanted:
            controls = tcmu_controls(subtype, copies(name, kind))
            servers.append(start_backstores(name, [runner.pid], 2 + number, "user", controls))
    if "fileio" in wanted:
        controls = {kind: [f"fd_dev_name={image},fd_dev_size={os.stat(image).st_size}"]
                    for kind, image in copies("fileio", "raw").items()}
        servers.append(start_backstores("fileio", [], 4, "fileio", controls))
    if "disk" in wanted:
        servers.append(Server("disk", [], {"allocated": "/dev/vdc", "fresh": "/dev/vdc"}))
    return servers


def fio(device, case, number, seconds, fresh_writes):
    """@return (requests a second, MB/s, requests)"""
    _, kind, rw, depth, block = case
    command = ["fio", "--name=b", f"--filename={device}", "--ioengine=libaio", "--direct=1", f"--bs={block}",
               f"--rw={rw}", f"--iodepth={depth}", "--randrepeat=0", "--output-format=json"]
    if kind == "fresh":
        command += [f"--offset={number % 16 * FRESH_REGION_MIB}M", f"--size={FRESH_REGION_MIB}M",
                    f"--number_ios={fresh_writes}"]
    else:
        command += [f"--runtime={round(seconds * 1000)}ms", "--time_based", "--norandommap"]
    text = run(*command)
    job = json.loads(text[text.index("{"):])["jobs"][0]["read" if "read" in rw else "write"]
    return job["iops"], job["bw_bytes"] / 1e6, job["total_ios"]


def dd(device, rw, mib):
    started = time.monotonic()
    if rw == "dd-read":
        run("dd", f"if={device}", "of=/dev/null", "bs=1M", f"count={mib}", "iflag=direct")
    else:
        run("dd", "if=allocated.raw", f"of={device}", "bs=1M", f"count={mib}", "oflag=direct", "conv=notrunc")
    took = time.monotonic() - started
    return mib / took, mib * 1.048576 / took, mib


def measure(server, case, number, seconds, fresh_writes, size_mib):
    device, before = server.disk[case[1]], server.cpu_s()
    if case[2].startswith("dd-"):
        iops, rate, requests = dd(device, case[2], min(size_mib, 128))
    else:
        iops, rate, requests = fio(device, case, number, seconds, fresh_writes)
    user, system = (after - at for after, at in zip(server.cpu_s(), before))
    return {"iops": iops, "mb_s": rate,
            "user_us": user * 1e6 / max(requests, 1) if server.pids else None,
            "cpu_us": (user + system) * 1e6 / max(requests, 1) if server.pids else None}


def main():
    rounds, seconds, size_mib, fresh_writes = int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    wanted, cache, file_handler = sys.argv[5].split(","), sys.argv[6], sys.argv[7]
    for module in ("target_core_user", "target_core_file", "tcm_loop", "sd_mod"):
        run("modprobe", module)
    run("mkfs.ext4", "-q", "-E", "lazy_itable_init=1,lazy_journal_init=1", "/dev/vdb")
    os.mkdir("/bench")
    run("mount", "/dev/vdb", "/bench")
    os.chdir("/bench")
    make_images(size_mib)
    if "disk" in wanted:
        run("dd", "if=allocated.raw", "of=/dev/vdc", "bs=1M", "oflag=direct")
    servers = start_servers(wanted, cache, file_handler)
    results = []
    for number in range(rounds):
        order = servers[number % len(servers):] + servers[:number % len(servers)]
        for case in CASES:
            for server in order:
                if server.name == "disk" and case[1] == "fresh":
                    continue
                row = measure(server, case, number, seconds, fresh_writes, size_mib)
                results.append({"case": case[0], "server": server.name, "round": number, **row})
        print(f"round {number + 1} of {rounds} done", flush=True)
    about = {"kernel": os.uname().release, "rounds": rounds, "seconds": seconds, "size-mib": size_mib,
             "fresh-writes": fresh_writes, "cache": cache, "servers": [server.name for server in servers]}
    write(os.environ["LAB_OUT"] + "/tcmu.json", json.dumps({"about": about, "results": results}))


if __name__ == "__main__":
    main()
