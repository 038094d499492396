"""Runs libiscsi's conformance tests (iscsi-test-cu), and tells for each test whether it passed,
failed or skipped, and why. CUnit counts a test that skipped as one that passed; only the program's
verbose output tells them apart."""
import os
import queue
import re
import subprocess
import threading
import time

INITIATORS = ('iqn.2026-01.lab.host:cu-a', 'iqn.2026-01.lab.host:cu-b')


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
    """Names of the suites of @group, and how many tests each has."""
    listed = subprocess.run(['iscsi-test-cu', '--list'], stdout=subprocess.PIPE, text=True, timeout=60).stdout
    count = {}
    for line in listed.splitlines():
        parts = line.split('.')
        if parts[0] == group and len(parts) == 3:
            count[parts[1]] = count.get(parts[1], 0) + 1
    return count


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


def run_family(family, url, second_url, log, timeout):
    """@return (results, seconds)."""
    command = ['iscsi-test-cu', '-d', '-S', '-V', f'--test=SCSI.{family}', '-i', INITIATORS[0], '-I', INITIATORS[1],
               url] + ([second_url] if second_url else [])
    began = time.monotonic()
    with open(log, 'wb') as file:
        try:
            code = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                                  timeout=timeout).returncode
        except subprocess.TimeoutExpired:
            code = 'none: it was ended after %d s' % timeout
    with open(log, errors='replace') as file:
        results = parse(file.read())
    if code not in (0, 1) or not results:
        results.append(Result(family, '(program)', 'fail', [f'exit code {code}'], ''))
    return results, time.monotonic() - began


def run(names, urls, logs, second_url=None, timeout=600, progress=None):
    """Runs the families @names, as many at a time as there are @urls: each has a LUN to itself. What
    needs two paths gets the same LUN twice. @progress(family, results, seconds). @return family -> (results, seconds)."""
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
