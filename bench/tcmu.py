#!/usr/bin/env python3
"""The SCSI target on one image: hawser against tcmu-runner's handlers and the kernel's own fileio.

  bench/tcmu.py [--kernel 6.12] [--build BUILD] [--rounds 5] [--seconds 4] [--json FILE]
                [--servers hawser,runner-hawser,...] [--file-handler handler_file.so] [--quick]

Boots the laboratory's machine once (tests/lab/vm), in which all servers run at once on copies of one image,
each a disk of the loopback fabric; every round measures each case with each server in turn. Prints medians
with their spread over the rounds, and ratios, which are taken round by round. CPU is utime+stime of the server's process
divided by requests, and the part of it that is utime: the rest is the kernel's on the server's behalf, its copies
of the data above all. What the kernel does outside that process counts for nobody.

Servers: hawser (attach --via tcmu), runner-hawser (handler_hawser.so in tcmu-runner), runner-qcow (its own
qcow handler), runner-file (its example handler, raw; given as a file, as Debian ships none), fileio (LIO's
own, raw, write-through as it comes), disk (the bare virtual disk). Wall times under emulation hide part of
a difference: compare CPU times too. Instructions are not counted: the emulated processor has no counters.
"""
import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SERVERS = ["hawser", "runner-hawser", "runner-qcow", "runner-file", "fileio", "disk"]
PEERS = ["runner-qcow", "runner-file"]


def spread(values, digits):
    return f"{statistics.median(values):.{digits}f} [{min(values):.{digits}f}..{max(values):.{digits}f}]"


def boot(args, servers, folder):
    for name, mib in (("images", 12 * 1024), ("bare", args.size_mib)):
        with open(os.path.join(folder, name), "wb") as file:
            file.truncate(mib << 20)
    drives = []
    for name in ("images", "bare"):
        drives += ["--qemu-arg=-drive", f"--qemu-arg=if=none,id={name},format=raw,cache=unsafe,file={folder}/{name}",
                   "--qemu-arg=-device", f"--qemu-arg=virtio-blk-pci,drive={name}"]
    command = [os.path.join(HERE, "tests/lab/vm"), "run", "--kernel", args.kernel, "--build", args.build,
               "--timeout", str(args.timeout), "--memory", args.memory, "--out", folder]
    command += ["--or-skip"] if args.or_skip else []
    command += [*drives]
    handler = "-"
    if args.file_handler:  # the folder of results is the one place outside the trees that the machine sees
        shutil.copy(args.file_handler, os.path.join(folder, "handler_file.so"))
        handler = "/lab-out/handler_file.so"
    command += [os.path.join(HERE, "bench/tcmu_guest.py"), str(args.rounds), str(args.seconds), str(args.size_mib),
                str(args.fresh_writes), ",".join(servers), args.cache, handler]
    done = subprocess.run(command, stdout=sys.stderr)
    if done.returncode:
        sys.exit(done.returncode)
    with open(os.path.join(folder, "tcmu.json")) as file:
        return json.load(file)


def ratios(rows, peer, key):
    """Round by round, where both have a figure."""
    return [r[key] / p[key] for r, p in zip(rows, peer) if r[key] and p[key]]


def report(data):
    about, table = data["about"], {}
    for row in data["results"]:
        table.setdefault(row["case"], {}).setdefault(row["server"], []).append(row)
    print(f"kernel {about['kernel']}, image of {about['size-mib']} MiB, cache={about['cache']}, {about['rounds']} rounds "
          f"of {about['seconds']:g} s; medians [least..most]; ratios to {' and '.join(PEERS)}")
    for case, servers in table.items():
        print(f"\n{case}")
        print(f"  {'server':15}{'requests/s':>24}{'MB/s':>9}{'CPU us':>28}{'user':>8}  IOPS ratios; CPU ratios; user ratios")
        for name in about["servers"]:
            rows = servers.get(name)
            if not rows:
                continue
            cpu = [r["cpu_us"] for r in rows if r["cpu_us"] is not None]
            line = (f"  {name:15}{spread([r['iops'] for r in rows], 0 if rows[0]['iops'] > 100 else 1):>24}"
                    f"{statistics.median(r['mb_s'] for r in rows):9.1f}{spread(cpu, 1) if cpu else '-':>28}"
                    f"{format(statistics.median(r['user_us'] for r in rows), '.1f') if cpu else '-':>8}")
            for key in ("iops", "cpu_us", "user_us"):
                found = [ratios(rows, servers[peer], key) for peer in PEERS if peer in servers and peer != name]
                line += "  " + ", ".join(spread(r, 2) for r in found if r)
            print(line.rstrip())
    print("\ninstructions are not counted: the emulated processor has no counters")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kernel", default="6.12", choices=["6.1", "6.12"])
    parser.add_argument("--build", default=os.path.join(HERE, "build"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--size-mib", type=int, default=256)
    parser.add_argument("--fresh-writes", type=int, default=4000)
    parser.add_argument("--cache", default="writeback", help="of hawser's disks")
    parser.add_argument("--servers", help="of " + ",".join(SERVERS))
    parser.add_argument("--file-handler", help="tcmu-runner's handler_file.so, built elsewhere")
    parser.add_argument("--folder", default="/dev/shm" if os.path.isdir("/dev/shm") else None, help="where the machine's disks lie meanwhile")
    parser.add_argument("--memory", default="3072M")
    parser.add_argument("--timeout", type=int, default=3000)
    parser.add_argument("--json")
    parser.add_argument("--or-skip", action="store_true", help="exit 77 where this machine cannot run it")
    parser.add_argument("--quick", action="store_true", help="only whether it runs: the figures say nothing")
    args = parser.parse_args()
    if args.quick:
        args.rounds, args.seconds, args.size_mib, args.fresh_writes = 1, 0.3, 32, 100
    servers = args.servers.split(",") if args.servers else [s for s in SERVERS if s != "runner-file" or args.file_handler]
    unknown = set(servers) - set(SERVERS)
    if unknown or ("runner-file" in servers and not args.file_handler):
        parser.error(f"no such server: {', '.join(unknown)}" if unknown else "runner-file needs --file-handler")
    with tempfile.TemporaryDirectory(prefix="hawser-bench.", dir=args.folder) as folder:
        data = boot(args, servers, folder)
    report(data)
    if args.json:
        with open(args.json, "w") as file:
            json.dump(data, file)


if __name__ == "__main__":
    main()
