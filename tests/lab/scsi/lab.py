"""The few words that the tests of the SCSI disk share (as lib.sh for shell scripts), and volumes:
images that hawser serves by TCMU."""
import json
import os
import socket
import subprocess
import sys
import time

import lio

OUT = os.environ['LAB_OUT']
KERNEL = os.environ['LAB_KERNEL']
MIB = 1 << 20


def step(*words):
    with open('/proc/uptime') as file:
        print(f'[{float(file.read().split()[0]):6.2f}]', *words, flush=True)


def fail(*words):
    print('FAIL:', *words, flush=True)
    sys.exit(1)


def check(condition, *words):
    if not condition:
        fail(*words)


def sh(command, timeout=300, codes=(0,)):
    """@return what it printed. Fails the test on an exit code that is not among @codes."""
    done = subprocess.run(['bash', '-c', 'set -o pipefail; ' + command], stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, timeout=timeout, errors='replace')
    if done.returncode not in codes:
        fail(f'{command}: exit code {done.returncode}\n{done.stdout}')
    return done.stdout.strip()


def drop_caches():
    os.sync()
    lio.write('/proc/sys/vm/drop_caches', 3)


def no_task_hangs():
    """No task waits in the kernel for good. The laboratory looks for it too, at the end."""
    return [line for line in sh('ps axo pid,stat,wchan:24,args').splitlines() if line.split()[1].startswith('D')]


class Engine:
    """`hawser serve` of several images, each a backstore for fabrics: @volumes maps a name to the
    members of its configuration beside name and image. `stores` maps it to the backstore's folder."""

    def __init__(self, volumes, size='96M'):
        self.socket = '/run/lab-engine.sock'
        config = {'socket': self.socket, 'state-file': '/run/lab-engine.json', 'volumes': []}
        for name, members in volumes.items():
            image = image_path(name)
            if not os.path.exists(image):
                sh(f'hawser create -q {image} {size}')
            config['volumes'].append({'name': name, 'image': image, 'format': 'qcow2', 'via': 'target', **members})
        with open('/run/lab-engine.config', 'w') as file:
            json.dump(config, file)
        self.log = open(f'{OUT}/engine.log', 'ab')
        self.process = subprocess.Popen(['hawser', 'serve', '--config', '/run/lab-engine.config'], stdout=self.log,
                                        stderr=self.log, stdin=subprocess.DEVNULL)
        until = time.monotonic() + 90
        while not os.path.exists('/run/lab-engine.json'):
            check(self.process.poll() is None and time.monotonic() < until, 'the engine does not start: see engine.log')
            time.sleep(0.05)
        self.stores = {name: lio.backstore(name) for name in volumes}

    def call(self, method, **params):
        with socket.socket(socket.AF_UNIX) as peer:
            peer.settimeout(90)
            peer.connect(self.socket)
            peer.sendall(json.dumps({'jsonrpc': '2.0', 'id': 1, 'method': method, 'params': params}).encode() + b'\n')
            answer = json.loads(peer.makefile().readline())
        check('result' in answer, f'{method}: {answer}')
        return answer['result']

    def alive(self):
        return self.process.poll() is None

    def stop(self):
        """Ends it; the images are sound then, and nothing is left in the kernel's target."""
        check(self.alive(), f'the engine ended by itself: {self.process.poll()}')
        self.process.terminate()
        check(self.process.wait(90) == 0, f'the engine ended with {self.process.returncode}')
        self.log.close()
        os.unlink('/run/lab-engine.json')
        for name, store in self.stores.items():
            check(not os.path.exists(store), f'{store} is left')
            sh(f'qemu-img check -q {image_path(name)}')


def image_path(name):
    return f'/scratch/{name}.qcow2'


class Volume:
    """An image, attached by TCMU: `device` is its disk of the loopback fabric, `store` its
    backstore's folder, for other fabrics."""

    def __init__(self, name, size, block=512, read_only=False, options='', create='qcow2'):
        self.name, self.image = name, f'/scratch/{name}.{create}'
        if not os.path.exists(self.image):
            sh(f'hawser create -q -f {create} {self.image} {size}')
        self.device = sh(f'hawser attach --via tcmu --name {name} --block-size {block} -f {create} '
                         f'{"--read-only" if read_only else ""} {options} {self.image}').splitlines()[-1]
        check(self.device.startswith('/dev/sd'), f'attach of {name} told "{self.device}"')
        self.store = lio.backstore(name)

    def pid(self):
        return int(sh(f'hawser list --output json | jq \'.[] | select(.name == "{self.name}") | .pid\''))

    def detach(self):
        sh(f'hawser detach {self.name}')
