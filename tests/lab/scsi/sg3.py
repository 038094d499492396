"""sg3_utils against a disk: each program, what it is to print or with which code it is to end.

Exit codes of sg3_utils: 0 good, 5 illegal request, 9 invalid operation code, 14 miscompare."""
import re
import subprocess

# (command, exit code, what its output matches). {d}: the device, {sd}: its block device, {last}:
# the last block, {block}: bytes of a block, {zero}: file with one block of zeroes, {pair}: one of
# zeroes and one of ones, {ones}: one of ones.
CHECKS = [
    ('sg_turs {d}', 0, ''),
    ('sg_inq {d}', 0, r'(?s)SPC-4.*3PC=1.*HAWSER.*HAWSER DISK'),
    ('sg_inq -x {d}', 0, 'SIMPSUP=1'),
    ('sg_vpd -p sv {d}', 0, r'(?s)Unit serial.*Device identification.*Extended inquiry.*Third party copy.*Block limits.*'
     r'Block device characteristics.*Logical block provisioning'),
    ('sg_vpd -p sn {d}', 0, r'serial number: [0-9a-f]{{32}}'),
    ('sg_vpd -p di {d}', 0, r'(?s)NAA.*0x3.*EUI-64.*HAWSER.*naa\.3.*[Rr]elative target port'),
    ('sg_vpd -p ei {d}', 0, 'SIMPSUP=1'),
    ('sg_vpd -p tpc {d}', 0, r'(?si)EXTENDED COPY|Third'),
    ('sg_vpd -p bl {d}', 0, r'(?s)Maximum compare and write length: (0x[0-9a-f]|[1-9]).*'
     r'Maximum unmap LBA count: (0x[0-9a-f]|[1-9]).*Maximum write same length: 0x'),
    ('sg_vpd -p bdc {d}', 0, 'Non-rotating medium'),
    ('sg_vpd -p lbpv {d}', 0, r'(?s)LBPU\)?[=:] ?1.*LBPWS\)?[=:] ?1.*LBPWS10\)?[=:] ?1'),
    ('sg_vpd -p 0xb6 {d}', (5, 83), ''),  # zoned devices only
    ('sg_readcap {d}', 0, r'Last LBA={last} '),
    ('sg_readcap --16 {d}', 0, r'(?s)lbpme=1, lbprz=1.*Logical block length={block} bytes'),
    ('sg_modes -a {d}', 0, r'(?s)Read-Write error recovery.*Caching.*Control.*Informational exceptions'),
    ('sg_modes -6 -a {d}', 0, 'Caching'),
    ('sg_modes -c 1 -p 8 {d}', 0, '>> Caching, page_control: changeable'),
    ('sg_modes -c 3 -p 8 {d}', (5, 0), ''),  # saved values: there are none
    ('sg_modes -p 0x1a {d}', 5, ''),
    ('sg_opcodes {d}', 0, r'(?s)Compare and write.*Extended copy.*Report supported operation codes|Write same'),
    ('sg_opcodes -o 0x89 {d}', 0, 'Compare and write'),
    ('sg_opcodes -o 0x9e -s 0x12 {d}', 0, '(?i)Get LBA status'),
    ('sg_opcodes -o 0x35 -R {d}', 0, '(?i)timeout'),
    ('sg_opcodes --tmf {d}', 0, '(?i)Abort task'),
    ('sg_luns {d}', 0, 'Lun list length'),
    ('sg_requests {d}', 0, 'No Sense'),
    ('sg_senddiag --test {d}', 0, ''),
    ('sg_rtpg -d {d}', 0, 'active/optimized'),
    ('sg_unmap --lba=0 --num=2048 {d}', 0, ''),
    ('sg_get_lba_status --lba=0 --maxlen=512 {d}', 0, r'LBA: 0x0+ +blocks: +\d+ +deallocated'),
    ('sg_write_same --16 --lba=0 --num=16 --in={ones} --xferlen={block} {d}', 0, ''),
    ('sg_get_lba_status --lba=0 --maxlen=512 {d}', 0, r'LBA: 0x0+ +blocks: +\d+ +mapped'),
    ('sg_verify --16 --lba=0 --count=16 --ebytchk=3 --ndo={block} --in={ones} {d}', 0, ''),
    ('sg_verify --lba=0 --count=16 {d}', 0, ''),
    ('sg_verify --lba=0 --count=1 --ebytchk=1 --ndo={block} --in={zero} {d}', 14, ''),
    ('sg_write_same --10 --lba=8 --num=8 --in={zero} --xferlen={block} {d}', 0, ''),
    ('sg_write_same --16 --unmap --lba=0 --num=2048 --in={zero} --xferlen={block} {d}', 0, ''),
    ('sg_write_same --16 --ndob --lba=0 --num=16 {d}', 0, ''),
    ('sg_compare_and_write --lba=0 --num=1 --in={pair} --xferlen={double} {d}', 0, ''),
    ('sg_compare_and_write --lba=0 --num=1 --in={pair} --xferlen={double} {d}', 14, ''),
    ('sg_verify --16 --lba=0 --count=1 --ebytchk=1 --ndo={block} --in={ones} {d}', 0, ''),
    ('sg_write_verify --16 --lba=4 --num=1 --in={ones} --ilen={block} {d}', 0, ''),
    ('sg_sync {d}', 0, ''),
    ('sg_sync --16 {d}', 0, ''),
    ('sg_dd if=/dev/urandom of={d} bs={block} count=2000 oflag=sgio blk_sgio=1 bpt=64', 0, ''),
    ('sg_dd if={d} of=/scratch/sg-back bs={block} count=2000 blk_sgio=1 iflag=dpo,fua', 0, ''),
    ('sg_dd if={d} of=/scratch/sg-back16 bs={block} count=2000 blk_sgio=1 cdbsz=16 && cmp /scratch/sg-back /scratch/sg-back16',
     0, ''),
    ('sg_read if={d} bs={block} count=64 bpt=8', 0, ''),
    ('sg_copy_results --params {d}', 0, r'(?i)Maximum (segment|target|CSCD) descriptor'),
    ('sg_logs -a {d}', 0, '(?i)informational exceptions'),
    ('sg_prevent --prevent=1 {d}', 0, ''),
    ('sg_prevent --allow {d}', 0, ''),
    ('sg_start --stop {d}', 0, ''),
    ('sg_raw {d} 00 00 00 00 00 00', 2, '(?i)not ready'),
    ('sg_start --start {d}', 0, ''),
    ('sg_raw {d} 00 00 00 00 00 00', 0, ''),
    ('sg_format --format --quick --verbose {d}', 0, ''),
    ('sg_get_lba_status --lba=0 --maxlen=24 {d}', 0, 'deallocated'),
    # What this disk does not have, it says so: invalid operation code, or field.
    ('sg_sanitize --block --quick --wait {d}', (5, 9), ''),
    ('sg_reassign --address=1 {d}', (5, 9), ''),
    ('sg_read_long --lba=1 {d}', (5, 9), ''),
    ('sg_ident {d}', (5, 9), ''),
    ('sg_rep_zones {d}', (5, 9), ''),
    ('sg_stream_ctl --get {d}', (5, 9), ''),
    ('sg_seek {d}', (5, 9), ''),
    ('sg_stpg --active {d}', (0, 5, 9), 'Illegal request'),  # 1.48 ends with 0 after it
    ('sg_ses {d}', (5, 9), ''),
]


def run(device, block, last, folder='/scratch'):
    """@return (number of checks, what is wrong, all output)."""
    names = dict(d=device, block=block, double=2 * block, last=last, zero=f'{folder}/sg-zero', ones=f'{folder}/sg-ones',
                 pair=f'{folder}/sg-pair')
    for name, data in (('zero', bytes(block)), ('ones', b'\xff' * block), ('pair', bytes(block) + b'\xff' * block)):
        with open(names[name], 'wb') as file:
            file.write(data)
    wrong, told = [], []
    for command, code, pattern in CHECKS:
        command = command.format(**names)
        done = subprocess.run(['bash', '-c', command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                              errors='replace', timeout=300)
        told.append(f'$ {command}\n{done.stdout}[exit code {done.returncode}]\n')
        codes = code if isinstance(code, tuple) else (code,)
        if done.returncode not in codes:
            wrong.append(f'{command}: exit code {done.returncode}, not {code}: {done.stdout[-300:].strip()}')
        elif pattern and not re.search(pattern.format(**names), done.stdout):
            wrong.append(f'{command}: the output does not match {pattern}')
    return len(CHECKS), wrong, ''.join(told)
