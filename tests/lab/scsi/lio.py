"""The kernel's SCSI target by its configfs tree, for tests in the lab: backstores of the kernel's
own to compare with, and iSCSI targets for any backstore."""
import glob
import os
import subprocess

ROOT = '/sys/kernel/config/target'
MODULES = ['target_core_mod', 'target_core_file', 'target_core_user', 'iscsi_target_mod', 'tcm_loop', 'sd_mod', 'sg']


def load():
    subprocess.run(['modprobe', '-a'] + MODULES, check=True)
    # Persistent reservations of the target core are written here even without APTPL; without the
    # folder each change of one fails (NOT READY, 08/00).
    os.makedirs(read(f'{ROOT}/dbroot') + '/pr', exist_ok=True)


def read(path):
    with open(path) as file:
        return file.read().strip()


def write(path, value):
    # One write(): that is what an attribute takes.
    fd = os.open(path, os.O_WRONLY)
    try:
        os.write(fd, f'{value}\n'.encode())
    finally:
        os.close(fd)


def fileio(name, path, size, block=512, **attributes):
    """A backstore of the kernel on a file. Returns its folder."""
    with open(path, 'wb') as file:
        file.truncate(size)
    taken = len(glob.glob(f'{ROOT}/core/fileio_*'))
    folder = f'{ROOT}/core/fileio_{taken}/{name}'
    os.makedirs(folder)
    write(f'{folder}/control', f'fd_dev_name={path},fd_dev_size={size},fd_buffered_io=1')
    write(f'{folder}/attrib/block_size', block)
    write(f'{folder}/wwn/vpd_unit_serial', f'{abs(hash(name)):032x}'[:32])
    write(f'{folder}/enable', 1)
    for key, value in {'emulate_tpu': 1, 'emulate_tpws': 1, **attributes}.items():
        write(f'{folder}/attrib/{key}', value)
    return folder


def backstore(name):
    """The folder of the `user` backstore called @name."""
    found = glob.glob(f'{ROOT}/core/user_*/{name}')
    if len(found) != 1:
        raise RuntimeError(f'backstores called {name}: {found}')
    return found[0]


class Target:
    """One iSCSI target on 127.0.0.1. @luns: number -> folder of a backstore. Without @acls every
    initiator sees them all; else initiator -> {number that it sees: number of the target}."""

    def __init__(self, iqn, luns, acls=None, portals=('127.0.0.1:3260',), read_only=False):
        self.iqn, self.portals = iqn, portals
        self.folder = f'{ROOT}/iscsi/{iqn}/tpgt_1'
        os.makedirs(self.folder)
        for number, folder in luns.items():
            os.makedirs(f'{self.folder}/lun/lun_{number}')
            os.symlink(folder, f'{self.folder}/lun/lun_{number}/backstore')
        demo = {'authentication': 0, 'generate_node_acls': int(acls is None), 'cache_dynamic_acls': int(acls is None),
                'demo_mode_write_protect': int(read_only), 'prod_mode_write_protect': int(read_only)}
        for key, value in demo.items():
            write(f'{self.folder}/attrib/{key}', value)
        for initiator, mapped in (acls or {}).items():
            self.allow(initiator, mapped)
        for portal in portals:
            os.makedirs(f'{self.folder}/np/{portal}')
        write(f'{self.folder}/enable', 1)

    def allow(self, initiator, mapped):
        acl = f'{self.folder}/acls/{initiator}'
        os.makedirs(acl)
        for seen, number in mapped.items():
            os.makedirs(f'{acl}/lun_{seen}')
            os.symlink(f'{self.folder}/lun/lun_{number}', f'{acl}/lun_{seen}/lun')

    def remove(self):
        write(f'{self.folder}/enable', 0)
        for link in glob.glob(f'{self.folder}/acls/*/lun_*/*') + glob.glob(f'{self.folder}/lun/lun_*/*'):
            if os.path.islink(link):
                os.unlink(link)
        for pattern in ('acls/*/lun_*', 'acls/*', 'lun/lun_*', 'np/*'):
            for folder in glob.glob(f'{self.folder}/{pattern}'):
                os.rmdir(folder)
        os.rmdir(self.folder)
        os.rmdir(os.path.dirname(self.folder))
