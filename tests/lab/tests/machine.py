#!/usr/bin/env python3
"""The laboratory keeps what it promises: what comes back from a machine, and that each way in which one can
fail is a failure.

  machine.py VM BUILD
"""
import concurrent.futures
import os
import signal
import subprocess
import sys
import tempfile
import time

VM, BUILD = sys.argv[1:3]
FROZEN = """truncate -s 64M disk; mkfs.ext4 -q -F disk; mkdir m; mount disk m; fsfreeze -f m
touch m/never &
sleep 1
"""


def vm(name, script, *options, args=()):
    """Runs a script's text in a machine; the finished process, and the folder of what came back."""
    path = os.path.abspath(name)
    with open(path, "w") as file:
        file.write(script)
    out = path + ".out"
    done = subprocess.run([VM, "run", "--build", BUILD, "--timeout", "400", "--out", out, *options, path, *args],
                          capture_output=True, text=True)
    return done, out


def expect(condition, done):
    if not condition:
        raise AssertionError(f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}")


def test_exit_code_output_arguments_and_files_come_back():
    done, out = vm("plain", """
        echo "to standard output: $1, $2"; echo "to an opened stream" >/dev/stderr; read -r line || echo "no input"
        printf 'a\\0b' >"$LAB_OUT/file"; touch "$LAB_SOURCE/new" || echo "the tree is read-only"
        sleep 1000 &
        exit 7""", "--kernel", "6.1", args=("one", "two words; $HOME"))
    expect(done.returncode == 7, done)
    expect("to standard output: one, two words; $HOME\n" in done.stdout, done)
    for line in ("to an opened stream\n", "no input\n", "the tree is read-only\n"):
        expect(line in done.stdout, done)
    with open(os.path.join(out, "file"), "rb") as file:
        expect(file.read() == b"a\0b", done)


def test_a_panic_is_a_failure_and_shows_the_console():
    done, _ = vm("panic", "echo before; echo c >/proc/sysrq-trigger; sleep 100", "--kernel", "6.12")
    expect(done.returncode == 125 and "before\n" in done.stdout, done)
    expect("Kernel panic - not syncing: sysrq triggered crash" in done.stderr, done)
    expect("Call Trace" in done.stderr, done)


def test_a_task_left_in_the_kernel_is_a_failure():
    done, _ = vm("stuck", FROZEN + "exit 0", "--kernel", "6.1")
    expect(done.returncode == 125 and "touch m/never" in done.stderr, done)


def test_a_task_that_hangs_ends_the_machine_early():
    done, _ = vm("hung", FROZEN + "sysctl -q kernel.hung_task_timeout_secs=3; sleep 1000", "--kernel", "6.12")
    expect(done.returncode == 125, done)
    expect("blocked for more than" in done.stderr and "hung_task: blocked tasks" in done.stderr, done)


def test_the_time_limit_ends_what_does_not_end():
    done, _ = vm("forever", "sleep 1000", "--timeout", "5")
    expect(done.returncode == 124 and "the time was up (5 s)" in done.stderr, done)


def test_a_machine_goes_with_its_caller():
    with open("caller", "w") as file:
        file.write("sleep 1000\n")
    before = set(os.listdir(tempfile.gettempdir()))
    caller = subprocess.Popen([VM, "run", "--build", BUILD, os.path.abspath("caller")], stderr=subprocess.DEVNULL)
    children = f"/proc/{caller.pid}/task/{caller.pid}/children"
    machine = ""
    for _ in range(3000):
        pids = open(children).read().split()
        if pids and os.readlink(f"/proc/{pids[0]}/exe").endswith("qemu-system-x86_64"):
            machine = pids[0]
            break
        time.sleep(0.1)
    assert machine, "no machine started"
    caller.send_signal(signal.SIGTERM)
    assert caller.wait(90) == 128 + signal.SIGTERM
    assert not os.path.exists(f"/proc/{machine}"), "the machine outlives its caller"
    left = [name for name in set(os.listdir(tempfile.gettempdir())) - before if name.startswith("hawser-lab")]
    assert not left, left


def main():
    tests = {name: test for name, test in globals().items() if name.startswith("test_")}
    failed = 0
    with tempfile.TemporaryDirectory(prefix="lab-machine.") as scratch:
        os.chdir(scratch)
        os.environ["TMPDIR"] = tempfile.tempdir = os.path.join(scratch, "tmp")
        os.mkdir(tempfile.tempdir)
        # The last one looks at what is left behind: it runs alone.
        alone = tests.pop("test_a_machine_goes_with_its_caller")
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            runs = {name: pool.submit(test) for name, test in tests.items()}
        runs[alone.__name__] = concurrent.futures.Future()
        try:
            runs[alone.__name__].set_result(alone())
        except AssertionError as error:
            runs[alone.__name__].set_exception(error)
        for name, result in runs.items():
            error = result.exception()
            failed += bool(error)
            print(f"{'FAIL' if error else 'ok  '} {name}" + (f"\n{error}" if error else ""))
        os.chdir("/")
    return 1 if failed else 0


if __name__ == "__main__":
    probe = subprocess.run([VM, "build", "--or-skip"], capture_output=True, text=True)
    if probe.returncode:
        print(probe.stderr + probe.stdout.strip())
        sys.exit(probe.returncode)
    sys.exit(main())
