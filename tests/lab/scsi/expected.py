"""Which of libiscsi's tests do not pass, and why. All others must pass: a test that skips or fails
without a line here fails the run, and so does one that has a line and passes.

A line is (test or family, outcome, of which disks, why[, kernel]). Disks: 512, 4096, 'read-only',
'writable', or 'all'. A kernel comes with its Debian's version of the tests: 6.1 with 1.19."""
import os
import re

NOT_REMOVABLE = 'the medium of this disk cannot be removed'
NO_SANITIZE = 'SANITIZE is not there: below a volume lie snapshots and copies that it cannot reach'
ALIGNED = 'for disks whose physical blocks are larger than their logical ones'

LINES = [
    ('NoMedia.NoMediaSBC', 'skip', 'all', NOT_REMOVABLE),
    ('PreventAllow', 'skip', 'all', NOT_REMOVABLE),
    ('StartStopUnit', 'skip', 'all', NOT_REMOVABLE),
    ('Sanitize', 'skip', 'all', NO_SANITIZE),
    ('WriteAtomic16', 'skip', 'all', 'WRITE ATOMIC is not there: the storage below promises no atomic writes'),
    ('ReadDefectData10', 'skip', 'all', 'an image has no defect list'),
    ('ReadDefectData12', 'skip', 'all', 'an image has no defect list'),
    ('ReadOnly.ReadOnlySBC', 'skip', 'writable', 'for write-protected disks'),
    ('GetLBAStatus.UnmapSingle', 'fail', 'read-only', 'the test writes'),
    ('ExtendedCopy.Large', 'skip', 'all', 'segments of type 0Ah, with byte offsets, are not supported'),
    ('WriteSame10.ZeroBlocks', 'skip', 'all', 'WSNZ of the block limits page: WRITE SAME of 0 blocks is refused'),
    ('WriteSame16.ZeroBlocks', 'skip', 'all', 'WSNZ of the block limits page: WRITE SAME of 0 blocks is refused'),
    ('WriteSame10.UnmapUnaligned', 'skip', 4096, ALIGNED),
    ('WriteSame16.UnmapUnaligned', 'skip', 4096, ALIGNED),
    ('WriteSame10.InvalidDataOutSize', 'skip', 4096, ALIGNED),
    ('WriteSame16.InvalidDataOutSize', 'skip', 4096, ALIGNED),
    ('CompareAndWrite.InvalidDataOutSize', 'skip', 4096, ALIGNED),
    ('GetLBAStatus.UnmapSingle', 'fail', 512,
     'the test asks for the status at block i+1 and wants it of block i+8 where physical blocks have 8 logical ones; '
     'SBC-4, 5.7.2 has the first descriptor begin at the block that was asked for'),
    ('CompareAndWrite.InvalidDataOutSize', 'fail', 512,
     'the test means to change the block count of the CDB on its way out, and does not: a correct command is sent, and '
     'rightly finds other data'),
    ('WriteSame16.Unmap', 'fail', 4096, 'the test writes 256 MiB by one command, whatever MAXIMUM TRANSFER LENGTH says'),
    ('MultipathIO.CompareAndWrite', 'fail', 'all', "fails with the kernel's own backstore too", '6.1'),
    ('ProutReserve.Access', 'fail', 4096, 'the test sends 512 bytes for a block, whatever its size', '6.1'),
    ('Write10.Async', 'fail', 4096, 'the test sends 512 bytes for a block, whatever its size', '6.1'),
    # The kernel's target answers these, with the same outcome for its own backstores.
    ('Reserve6.TargetColdReset', 'skip', 'all', "the kernel's iSCSI target refuses TARGET COLD RESET"),
    ('Reserve6.TargetWarmReset', 'skip', 'all', "the kernel's iSCSI target refuses TARGET WARM RESET"),
]


def line_for(test, disk):
    for name, outcome, disks, why, *kernel in LINES:
        applies = disks in ('all', disk) or (disks == 'writable' and disk != 'read-only')
        if kernel and kernel[0] != os.environ['LAB_KERNEL']:
            continue
        if applies and (test == name or test.startswith(name + '.') or (name.endswith('Access') and test.startswith(name))):
            return outcome, why
    return None


def compare(results, disk):
    """@return (rows of a table, what is wrong)."""
    rows, wrong = [], []
    for result in sorted(results, key=lambda r: r.name):
        line = line_for(result.name, disk)
        wanted, why = line or ('pass', '')
        if result.outcome != wanted:
            wrong.append(f'{disk}: {result.name}: {result.outcome}, not {wanted}: {result.reason or "no reason told"}')
        told = re.sub(r'\s+', ' ', result.reason)
        rows.append(f'{disk}\t{result.name}\t{result.outcome}\t{why if result.outcome == wanted else told}')
    return rows, wrong
