"""A hostile initiator: every operation code with random and with nearly right CDBs, directions and
lengths, through SG_IO. What it did with which seed can be told again."""
import random
import time

import sgio

# Service actions and parameter lists that get past the first checks.
KNOWN = {0x5e: range(5), 0x5f: range(9), 0x83: range(4), 0x84: range(6), 0x9e: range(0x0f, 0x15), 0xa3: range(0x10),
         0xa4: range(0x10), 0x9f: range(4), 0x7f: range(1)}

# What changes data, here or (by a copy) on another disk of the same initiator. By the standards'
# names: FORMAT UNIT, REASSIGN, WRITE (6), COPY, WRITE and its kind of 10, UPDATE BLOCK, WRITE LONG,
# WRITE SAME, UNMAP, SANITIZE, XDWRITE, WRITE of variable length, EXTENDED COPY, COMPARE AND WRITE,
# WRITE, ORWRITE of 16, WRITE SAME (16), WRITE ATOMIC, WRITE LONG (16), WRITE of 12, and the codes
# that belong to vendors.
WRITES = {0x04, 0x07, 0x0a, 0x18, 0x2a, 0x2e, 0x39, 0x3a, 0x3d, 0x3f, 0x41, 0x42, 0x48, 0x50, 0x51, 0x53, 0x7f, 0x83, 0x89,
          0x8a, 0x8b, 0x8e, 0x93, 0x94, 0x9c, 0x9f, 0xaa, 0xae}

INWARD = (0x03, 0x08, 0x12, 0x1a, 0x25, 0x28, 0x5a, 0x5e, 0x84, 0x88, 0x9e, 0xa0, 0xa3, 0xa8)
OUTWARD = (0x04, 0x0a, 0x15, 0x1d, 0x2a, 0x2e, 0x2f, 0x41, 0x42, 0x55, 0x5f, 0x83, 0x89, 0x8a, 0x8b, 0x8e, 0x8f, 0x93, 0xa4,
           0xaa, 0xae, 0xaf)
DIRECTIONS = {**{code: sgio.FROM_DEVICE for code in INWARD}, **{code: sgio.TO_DEVICE for code in OUTWARD}}

LENGTHS = (0, 1, 3, 4, 8, 12, 16, 24, 28, 36, 64, 96, 255, 256, 512, 513, 1024, 4096, 4100, 65536)


def cdb_length(opcode, chance):
    if chance.random() < 0.1:
        return chance.choice((6, 10, 12, 16))
    return 6 if opcode < 0x20 else 10 if opcode < 0x60 else 16 if opcode < 0xa0 else 12 if opcode < 0xc0 else 16


def random_cdb(opcode, chance):
    length = cdb_length(opcode, chance)
    cdb = bytearray([opcode]) + bytearray(chance.randbytes(length - 1))
    if opcode in KNOWN and chance.random() < 0.8:
        cdb[1] = cdb[1] & 0xe0 | chance.choice(KNOWN[opcode])
    if chance.random() < 0.6:  # reserved bits are zero, and numbers are small: further into the code
        for i in range(2, length):
            if chance.random() < 0.75:
                cdb[i] = 0
        cdb[1] &= 0x1f if opcode in KNOWN else chance.choice((0, 0, 0x01, 0x08, 0x10, 0x1f, 0xff))
        cdb[-1] = 0
    return bytes(cdb)


def parameter_list(length, chance):
    """Bytes that may look like a parameter list: small big-endian numbers among zeroes."""
    data = bytearray(length)
    kind = chance.random()
    if kind < 0.3:
        return chance.randbytes(length)
    for _ in range(min(length, 1 + int(kind * 20))):
        data[chance.randrange(min(length, 64))] = chance.choice((0, 1, 2, 4, 8, 16, 24, 0x80, 0xe4, 0xff))
    return bytes(data)


# Of Linux's host bytes: the iSCSI initiator's for a residual count that makes no sense to it, with
# the status intact; and for a connection that was dropped.
BAD_RESIDUAL, DISRUPTED = 0x04, 0x0e


class Onslaught:
    def __init__(self, device, seed, opcodes, polite=False):
        """@polite: the data's direction is the one that the code has where it is known, because over
        iSCSI a wrong one costs the connection, and two seconds."""
        self.polite = polite
        self.device, self.chance, self.opcodes = device, random.Random(seed), list(opcodes)
        self.sent, self.refused, self.seen, self.last = 0, 0, {}, None
        self.disrupted, self.conditions = 0, {}

    def one(self, opcode):
        chance = self.chance
        cdb = random_cdb(opcode, chance)
        length = chance.choice(LENGTHS)
        direction = chance.choice((sgio.NONE, sgio.TO_DEVICE, sgio.FROM_DEVICE))
        if self.polite:
            direction = DIRECTIONS.get(opcode, direction)
            length = length or 4096
        if not length:
            direction = sgio.NONE
        self.last = (cdb.hex(), direction, length)
        try:
            answer = self.device.send(cdb, out=parameter_list(length, chance) if direction == sgio.TO_DEVICE else None,
                                      length=length if direction == sgio.FROM_DEVICE else 0)
        except OSError:
            self.refused += 1  # by the kernel: it never left this host
            return
        self.sent += 1
        self.seen.setdefault(opcode, set()).add(answer.status)
        told = str(answer)
        self.conditions[told] = self.conditions.get(told, 0) + 1
        if answer.host == DISRUPTED:
            self.recover()
        elif answer.host not in (0, BAD_RESIDUAL):
            raise RuntimeError(f'{self.last}: {told}: the command was not answered')
        if opcode == 0x1b:
            self.device.send(bytes([0x1b, 0, 0, 0, 1, 0]))  # what stops is started again

    def recover(self):
        """A CDB that wants data where the transport was told of none, or the other way, makes Linux's
        iSCSI initiator or target drop the connection. It is back soon."""
        self.disrupted += 1
        until = time.monotonic() + 30
        while self.device.send(bytes(6)).host:
            if time.monotonic() > until:
                raise RuntimeError(f'{self.last}: the connection was lost, and is not back after 30 s')
            time.sleep(0.05)

    def run(self, seconds, rounds_least):
        """Every opcode @rounds_least times, and on until the time is over."""
        until, rounds = time.monotonic() + seconds, 0
        while rounds < rounds_least or time.monotonic() < until:
            self.chance.shuffle(self.opcodes)
            for opcode in self.opcodes:
                self.one(opcode)
            rounds += 1
        return rounds
