"""Linux's iSCSI initiator (open-iscsi), for tests in the lab: several sessions, each with an
initiator name of its own."""
import glob
import os
import subprocess
import time

import lio


def run(*command, timeout=120):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=timeout)
    if done.returncode:
        raise RuntimeError(f'{" ".join(command)}: exit code {done.returncode}\n{done.stdout}')
    return done.stdout


def start():
    subprocess.run(['modprobe', '-a', 'iscsi_tcp', 'sd_mod', 'sg'], check=True)
    with open('/etc/iscsi/initiatorname.iscsi', 'w') as file:
        file.write('InitiatorName=iqn.2026-01.lab.host:default\n')
    run('iscsid')


class Session:
    """A login of @initiator at @iqn. `disks` and `generic` map a LUN to /dev/sdX and /dev/sgX."""

    def __init__(self, iqn, initiator, wait_luns=()):
        self.iqn, self.initiator = iqn, initiator
        self.iface = initiator.rpartition(':')[2]
        if not os.path.exists(f'/etc/iscsi/ifaces/{self.iface}'):
            run('iscsiadm', '-m', 'iface', '-I', self.iface, '-o', 'new')
            for name, value in (('iface.initiatorname', initiator), ('iface.transport_name', 'tcp')):
                run('iscsiadm', '-m', 'iface', '-I', self.iface, '-o', 'update', '-n', name, '-v', value)
        self._node('-o', 'new')
        self._node('-l')
        self.session = self._find()
        until = time.monotonic() + 90
        while True:
            self.refresh()
            if all(lun in self.disks and lun in self.generic for lun in wait_luns):
                break
            if time.monotonic() > until:
                raise RuntimeError(f'{initiator} at {iqn}: LUNs {wait_luns} did not come up: {self.disks}')
            time.sleep(0.1)

    def _node(self, *words):
        return run('iscsiadm', '-m', 'node', '-T', self.iqn, '-p', '127.0.0.1:3260', '-I', self.iface, *words)

    def _find(self):
        for folder in glob.glob('/sys/class/iscsi_session/session*'):
            if lio.read(f'{folder}/targetname') == self.iqn and lio.read(f'{folder}/initiatorname') == self.initiator:
                return os.path.realpath(folder)
        raise RuntimeError(f'no session of {self.initiator} at {self.iqn}')

    def refresh(self):
        self.disks, self.generic = {}, {}
        for device in glob.glob(f'{self.session}/../../target*/*:*:*:*'):
            lun = int(device.rpartition(':')[2])
            for kind, table in (('block', self.disks), ('scsi_generic', self.generic)):
                for found in glob.glob(f'{device}/{kind}/*'):
                    path = '/dev/' + os.path.basename(found)
                    if os.path.exists(path):
                        table[lun] = path

    def scsi_device(self, lun):
        """The device's folder in sysfs."""
        return glob.glob(f'{self.session}/../../target*/*:*:*:{lun}')[0]

    def logout(self):
        self._node('-u')
        # The last logout at a portal takes the record along, others leave it.
        subprocess.run(['iscsiadm', '-m', 'node', '-T', self.iqn, '-I', self.iface, '-o', 'delete'],
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=120)
