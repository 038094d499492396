"""What two initiators see of each other's reservations: run on any two paths to one LUN, told as a
table, so that two targets can be compared line by line."""
import sgio

TYPES = {1: 'write exclusive', 3: 'exclusive access', 5: 'write exclusive, registrants only',
         6: 'exclusive access, registrants only', 7: 'write exclusive, all registrants',
         8: 'exclusive access, all registrants'}
KEY_A, KEY_B = 0xA1, 0xB2
WRITE_LBA = 8


def told(answer):
    if answer.good:
        return 'good'
    return 'conflict' if answer.status == sgio.CONFLICT else str(answer)


def write(device):
    return told(device.send(sgio.rw16(0x8a, WRITE_LBA, 1), out=bytes([0x5a]) * device.block))


def read(device):
    return told(device.send(sgio.rw16(0x88, WRITE_LBA, 1), length=device.block))


def register(device, key, new_key, aptpl=False, ignore=True):
    return device.send(sgio.pr_out(6 if ignore else 0, 0), out=sgio.pr_out_list(key, new_key, aptpl))


def reserve(device, key, kind):
    return device.send(sgio.pr_out(1, kind), out=sgio.pr_out_list(key))


def release(device, key, kind):
    return device.send(sgio.pr_out(2, kind), out=sgio.pr_out_list(key))


def clear(device, key):
    return device.send(sgio.pr_out(3, 0), out=sgio.pr_out_list(key))


def preempt(device, key, victim, kind, abort=False):
    return device.send(sgio.pr_out(5 if abort else 4, kind), out=sgio.pr_out_list(key, victim))


def keys(device):
    data = device.good(sgio.pr_in(0), length=1024).data
    return sorted(int.from_bytes(data[i:i + 8], 'big') for i in range(8, 8 + int.from_bytes(data[4:8], 'big'), 8))


def reservation(device):
    """@return (key, type) or None."""
    data = device.good(sgio.pr_in(1), length=1024).data
    return (int.from_bytes(data[8:16], 'big'), data[21] & 15) if int.from_bytes(data[4:8], 'big') else None


def expect(row, name, wanted, got, wrong):
    row.append(f'{name}: {got}')
    if got != wanted:
        wrong.append(f'{row[0]}: {name}: {got}, not {wanted}')


def one_type(a, b, kind, wrong):
    """SPC-4, table 65: @a reserves; what may @b do, registered or not?"""
    row = [TYPES[kind]]
    everybody, registrants = kind in (7, 8), kind in (5, 6, 7, 8)
    for device in (a, b):
        device.settle()
    expect(row, 'register', 'good', told(register(a, 0, KEY_A)), wrong)
    expect(row, 'reserve', 'good', told(reserve(a, KEY_A, kind)), wrong)
    expect(row, 'stranger reads', 'conflict' if kind in (3, 6, 8) else 'good', read(b), wrong)
    expect(row, 'stranger writes', 'conflict', write(b), wrong)
    expect(row, 'stranger reserves', 'conflict', told(reserve(b, KEY_B, kind)), wrong)
    expect(row, 'other registers', 'good', told(register(b, 0, KEY_B)), wrong)
    expect(row, 'registrant reads', 'good' if registrants or kind == 1 else 'conflict', read(b), wrong)
    expect(row, 'registrant writes', 'good' if registrants else 'conflict', write(b), wrong)
    expect(row, 'registrant reserves too', 'good' if everybody else 'conflict', told(reserve(b, KEY_B, kind)), wrong)
    expect(row, 'holder writes', 'good', write(a), wrong)
    expect(row, 'reservation', (0 if everybody else KEY_A, kind), reservation(b), wrong)
    expect(row, 'release', 'good', told(release(a, KEY_A, kind)), wrong)
    expect(row, 'released', None, reservation(a), wrong)
    # Those that had access by it are told (SPC-4, 5.13.11.2.2).
    expect(row, 'attentions of the other', ['2a04'] if registrants else [], [f'{c:04x}' for c in b.settle()], wrong)
    expect(row, 'clear', 'good', told(clear(a, KEY_A)), wrong)
    expect(row, 'keys', [], keys(a), wrong)
    expect(row, 'attentions after clear', ['2a03'], [f'{c:04x}' for c in b.settle()], wrong)
    return row


def preemption(a, b, abort, wrong):
    row = ['preempt and abort' if abort else 'preempt']
    for device in (a, b):
        device.settle()
    register(a, 0, KEY_A)
    register(b, 0, KEY_B)
    expect(row, 'reserve', 'good', told(reserve(a, KEY_A, 1)), wrong)
    expect(row, 'preempt', 'good', told(preempt(b, KEY_B, KEY_A, 3, abort)), wrong)
    expect(row, 'keys', [KEY_B], keys(b), wrong)
    expect(row, 'reservation', (KEY_B, 3), reservation(b), wrong)
    expect(row, 'attentions of the preempted', ['2a05'], [f'{c:04x}' for c in a.settle()], wrong)
    expect(row, 'the preempted reads', 'conflict', read(a), wrong)
    expect(row, 'the preempted reserves', 'conflict', told(reserve(a, KEY_A, 1)), wrong)
    expect(row, 'clear', 'good', told(clear(b, KEY_B)), wrong)
    expect(row, 'afterwards', 'good', write(a), wrong)
    return row


def table(a, b):
    """@return (rows, what is wrong)."""
    wrong = []
    rows = [one_type(a, b, kind, wrong) for kind in TYPES]
    rows += [preemption(a, b, abort, wrong) for abort in (False, True)]
    return rows, wrong
