"""Runs libiscsi's conformance tests (iscsi-test-cu), and tells for each test whether it passed,
failed or skipped, and why. CUnit counts a test that skipped as one that passed; only the program's
verbose output tells them apart."""
import os
import queue
import re
import subprocess
import threading
import time

PREFIX = 'iqn.2026-01.lab.host:cu-'
# What a session has reserved goes when the kernel has taken it apart, some time after its end was answered; these
# families would not wait for it (clients/patient_close.c).
PATIENT_FAMILIES = ('Reserve6',)
PATIENT_CLOSE = os.environ['LAB_BUILD'] + '/tests/lab/clients/libpatient_close.so'

# Tests that send 1 to 256 blocks, one size after the other, hundreds of MiB each: with blocks of 4096 bytes they take an
# emulated machine minutes. READ, WRITE and WRITE AND VERIFY by CDBs of 16 bytes, and one check of WRITE SAME, are not
# among them.
BULKY = (
    r'(Read(6|10|12)|Write(10|12)|WriteVerify(10|12)|Verify(10|12))\.(Simple|BeyondEol)',
    r'(Write16|WriteVerify16|Verify16)\.BeyondEol',
    r'Verify16\.Simple',
    r'Verify(10|12|16)\.(Mismatch|MismatchNoCmp)',
    r'WriteSame(10|16)\.(Simple|Unmap|UnmapUntilEnd)',
    r'WriteSame10\.(Check|BeyondEol)',
    r'MultipathIO\..*',
    r'OrWrite\.(Simple|BeyondEol|Verify)',
    r'CompareAndWrite\.(Simple|Miscompare)',
)


class Result:
    def __init__(self, suite, name, outcome, reasons, text):
        self.name = f'{suite}.{name}'
        self.outcome = outcome  # pass, fail, skip
        self.reasons = reasons
        self.text = text

    @property
    def reason(self):
        return '; '.join(self.reasons)


def families(group='SCSI'):
    """Names of the suites of @group, and the names of their tests."""
    listed = subprocess.run(['iscsi-test-cu', '--list'], stdout=subprocess.PIPE, text=True, timeout=120).stdout
    found = {}
    for line in listed.splitlines():
        parts = line.split('.')
        if parts[0] == group and len(parts) == 3:
            found.setdefault(parts[1], []).append(parts[2].strip())
    return found


def sample(names, known):
    """@names without the tests of BULKY: families, and single tests where a family has such."""
    left = []
    for name in names:
        if any(is_bulky(name, test) for test in known[name]):
            left += [f'{name}.{test}' for test in known[name] if not is_bulky(name, test)]
        else:
            left.append(name)
    return left


def is_bulky(family, test):
    return any(re.fullmatch(pattern, f'{family}.{test}') for pattern in BULKY)


def parse(text):
    results = []
    for suite in re.split(r'^Suite: ', text, flags=re.M)[1:]:
        suite_name = suite.split(None, 1)[0]
        for test in re.split(r'^  Test: ', suite, flags=re.M)[1:]:
            name = test.split(None, 1)[0]
            verdict = re.search(r'^(passed|FAILED)', test, flags=re.M)
            # The same reason is often told twice, by the command and by the test.
            skips = list(dict.fromkeys(re.findall(r'\[SKIPPED\] (.*?)\s*$', test, flags=re.M)))
            if not verdict:
                results.append(Result(suite_name, name, 'fail', ['the test did not end'], test))
            elif verdict[1] == 'FAILED':
                asserts = re.findall(r'^ +\d+\. (\S+)', test[verdict.end():], flags=re.M)
                told = re.findall(r'\[FAILED\] (.*?)\s*$', test, flags=re.M)
                results.append(Result(suite_name, name, 'fail', list(dict.fromkeys(told))[:2] + asserts[:2], test))
            else:
                results.append(Result(suite_name, name, 'skip' if skips else 'pass', skips, test))
    return results


def sessions_file(url):
    """Where the kernel's target tells who is logged in."""
    return f'/sys/kernel/config/target/iscsi/{url.split("/")[3]}/tpgt_1/dynamic_sessions'


def run_family(name, url, second_url, log, timeout):
    """@name: a family, or one test of it (Family.Test). @return (results, seconds)."""
    mine = PREFIX + name.replace('.', '-').lower()
    command = ['iscsi-test-cu', '-d', '-S', '-V', f'--test=SCSI.{name}', '-i', mine + '-a', '-I', mine + '-b',
               url] + ([second_url] if second_url else [])
    environment = dict(os.environ)
    if name.partition('.')[0] in PATIENT_FAMILIES:
        environment.update(LD_PRELOAD=PATIENT_CLOSE, HAWSER_SESSIONS=sessions_file(url), HAWSER_INITIATOR=mine + '-')
    began = time.monotonic()
    with open(log, 'wb') as file:
        try:
            code = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                                  timeout=timeout, env=environment).returncode
        except subprocess.TimeoutExpired:
            code = 'none: it was ended after %d s' % timeout
    with open(log, errors='replace') as file:
        results = parse(file.read())
    if code not in (0, 1) or not results:
        results.append(Result(name, '(program)', 'fail', [f'exit code {code}'], ''))
    return results, time.monotonic() - began


def run(names, urls, logs, second_url=None, timeout=900, progress=None):
    """Runs @names, each a family or one test of it, as many at a time as there are @urls: each has a LUN to itself.
    What needs two paths gets the same LUN twice. @progress(name, results, seconds). @return name -> (results, seconds)."""
    waiting, done = queue.Queue(), {}
    for name in names:
        waiting.put(name)

    def work(url):
        while True:
            try:
                name = waiting.get_nowait()
            except queue.Empty:
                return
            second = (second_url or url) if name == 'MultipathIO' else None
            done[name] = run_family(name, url, second, os.path.join(logs, name + '.log'), timeout)
            if progress:
                progress(name, *done[name])

    os.makedirs(logs, exist_ok=True)
    threads = [threading.Thread(target=work, args=(url,)) for url in urls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return done
