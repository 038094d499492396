"""SCSI commands straight to a device of Linux (ioctl SG_IO), for tests in the lab."""
import ctypes
import fcntl
import os

SG_IO = 0x2285
NONE, TO_DEVICE, FROM_DEVICE = -1, -2, -3
GOOD, CHECK, CONDITION_MET, BUSY, CONFLICT, TASK_ABORTED = 0x00, 0x02, 0x04, 0x08, 0x18, 0x40


class Header(ctypes.Structure):
    _fields_ = [('interface_id', ctypes.c_int), ('dxfer_direction', ctypes.c_int), ('cmd_len', ctypes.c_ubyte),
                ('mx_sb_len', ctypes.c_ubyte), ('iovec_count', ctypes.c_ushort), ('dxfer_len', ctypes.c_uint),
                ('dxferp', ctypes.c_void_p), ('cmdp', ctypes.c_void_p), ('sbp', ctypes.c_void_p),
                ('timeout', ctypes.c_uint), ('flags', ctypes.c_uint), ('pack_id', ctypes.c_int),
                ('usr_ptr', ctypes.c_void_p), ('status', ctypes.c_ubyte), ('masked_status', ctypes.c_ubyte),
                ('msg_status', ctypes.c_ubyte), ('sb_len_wr', ctypes.c_ubyte), ('host_status', ctypes.c_ushort),
                ('driver_status', ctypes.c_ushort), ('resid', ctypes.c_int), ('duration', ctypes.c_uint),
                ('info', ctypes.c_uint)]


class Answer:
    def __init__(self, status, host, sense, data, residual):
        self.status, self.host, self.sense, self.data, self.residual = status, host, sense, data, residual
        self.key, self.code = None, None
        if status == CHECK and len(sense) >= 4 and (sense[0] & 0x7f) in (0x72, 0x73):
            self.key, self.code = sense[1] & 15, sense[2] << 8 | sense[3]
        elif status == CHECK and len(sense) >= 14:
            self.key, self.code = sense[2] & 15, sense[12] << 8 | sense[13]

    def __str__(self):
        sense = '' if self.key is None else f', sense {self.key:x}/{self.code:04x}'
        return f'status {self.status:02x}{sense}' + (f', host {self.host:x}' if self.host else '')

    @property
    def good(self):
        return self.status == GOOD and not self.host


class Device:
    def __init__(self, path):
        self.path = path
        self.fd = os.open(path, os.O_RDWR)
        self.settle()
        # Asked once: the kernel's target refuses READ CAPACITY(16) under a foreign reservation.
        self.blocks, self.block = self.capacity()

    def close(self):
        os.close(self.fd)

    def send(self, cdb, out=None, length=0, timeout_ms=20000):
        """One command: @out is what it sends, @length how much it may get. Raises OSError where
        the kernel itself refuses to send it."""
        cdb = bytes(cdb)
        command, sense = ctypes.create_string_buffer(cdb, len(cdb)), ctypes.create_string_buffer(255)
        size = len(out) if out is not None else length
        data = ctypes.create_string_buffer(bytes(out) if out is not None else size, max(size, 1)) if size else None
        direction = TO_DEVICE if out else FROM_DEVICE if length else NONE
        h = Header(interface_id=ord('S'), dxfer_direction=direction, cmd_len=len(cdb), mx_sb_len=255, dxfer_len=size,
                   dxferp=ctypes.cast(data, ctypes.c_void_p) if data else None,
                   cmdp=ctypes.cast(command, ctypes.c_void_p), sbp=ctypes.cast(sense, ctypes.c_void_p),
                   timeout=timeout_ms)
        fcntl.ioctl(self.fd, SG_IO, h)
        taken = max(0, size - h.resid) if direction == FROM_DEVICE else 0
        return Answer(h.status, h.host_status, sense.raw[:h.sb_len_wr], data.raw[:taken] if data else b'', h.resid)

    # The few that several tests need.

    def settle(self):
        """Takes the unit attentions that wait. @return their codes."""
        codes = []
        for _ in range(20):
            answer = self.send(bytes(6))
            if answer.status != CHECK or answer.key != 6:
                return codes
            codes.append(answer.code)
        raise RuntimeError(f'{self.path}: unit attentions without end: {codes}')

    def capacity(self):
        """@return (blocks, bytes of a block)."""
        data = self.good(bytes([0x9e, 0x10] + [0] * 11 + [32, 0, 0]), length=32).data
        return int.from_bytes(data[:8], 'big') + 1, int.from_bytes(data[8:12], 'big')

    def good(self, cdb, out=None, length=0):
        answer = self.send(cdb, out, length)
        if not answer.good:
            raise RuntimeError(f'{self.path}: {bytes(cdb).hex()}: {answer}')
        return answer


def rw16(opcode, lba, blocks, flags=0):
    return bytes([opcode, flags]) + lba.to_bytes(8, 'big') + blocks.to_bytes(4, 'big') + bytes(2)


def compare_and_write(lba, blocks):
    return bytes([0x89, 0]) + lba.to_bytes(8, 'big') + bytes(3) + bytes([blocks, 0, 0])


def pr_out(action, kind, length=24):
    return bytes([0x5f, action, kind, 0, 0]) + length.to_bytes(4, 'big') + b'\0'


def pr_out_list(key=0, new_key=0, aptpl=False):
    return key.to_bytes(8, 'big') + new_key.to_bytes(8, 'big') + bytes(4) + bytes([int(aptpl), 0, 0, 0])


def pr_in(action, length=1024):
    return bytes([0x5e, action]) + bytes(5) + length.to_bytes(2, 'big') + b'\0'
