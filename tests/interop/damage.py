#!/usr/bin/env python3
"""Damaged images: what our check finds, and what it puts right, held against qemu-img check.

Every case makes a sound image, damages one field of its metadata in a known way, and then expects:
our check and qemu-img's agree on which it is (leak, corruption); a repair by us leaves an image that
qemu-img finds clean and whose content is what it was. SPDX-License-Identifier: Apache-2.0
"""
import struct
import sys

sys.dont_write_bytecode = True
from common import Failure, Tools, run_cases

COPIED = 1 << 63
OFFSET = 0x00fffffffffffe00


class Image:
    """The metadata of an image file, to be damaged."""

    def __init__(self, path):
        self.path = path
        with open(path, "rb") as file:
            self.data = bytearray(file.read())
        (self.version, _, _, self.cluster_bits, self.size, _, self.l1_size, self.l1_offset,
         self.table_offset, self.table_clusters, self.snapshots, self.snapshots_offset) = \
            struct.unpack(">IQIIQIIQQIIQ", self.data[4:72])
        self.order = self.u32(96) if self.version == 3 else 4
        self.incompatible = self.u64(72) if self.version == 3 else 0
        self.cluster = 1 << self.cluster_bits
        self.l2_step = 16 if self.incompatible & 16 else 8

    def u32(self, at):
        return struct.unpack_from(">I", self.data, at)[0]

    def u64(self, at):
        return struct.unpack_from(">Q", self.data, at)[0]

    def put64(self, at, value):
        struct.pack_into(">Q", self.data, at, value)

    def save(self):
        with open(self.path, "wb") as file:
            file.write(self.data)

    def l1(self):
        """Positions of the L1 entries in use."""
        return [at for at in range(self.l1_offset, self.l1_offset + self.l1_size * 8, 8)
                if self.u64(at) & OFFSET]

    def l2(self, compressed=False):
        """Positions of the L2 entries of data clusters."""
        found = []
        for l1 in self.l1():
            table = self.u64(l1) & OFFSET
            for at in range(table, table + self.cluster, self.l2_step):
                entry = self.u64(at)
                if (entry & OFFSET or compressed) and bool(entry >> 62 & 1) == compressed and entry:
                    found.append(at)
        return found

    def blocks(self):
        """Positions of the refcount table entries in use."""
        end = self.table_offset + self.table_clusters * self.cluster
        return [at for at in range(self.table_offset, end, 8) if self.u64(at)]

    def put_refcount(self, cluster, value):
        entries = self.cluster * 8 >> self.order
        block = self.u64(self.table_offset + cluster // entries * 8)
        bits, index = 1 << self.order, cluster % entries
        if bits >= 8:
            at = block + index * bits // 8
            self.data[at:at + bits // 8] = value.to_bytes(bits // 8, "big")
        else:
            at, shift = block + index * bits // 8, index * bits % 8
            self.data[at] = self.data[at] & ~((1 << bits) - 1 << shift) & 0xff | value << shift

    def append_cluster(self):
        """A cluster of zeroes at the end, not referenced. @return its offset."""
        at = (len(self.data) + self.cluster - 1) // self.cluster * self.cluster
        self.data.extend(bytes(at + self.cluster - len(self.data)))
        return at


# Each damage changes the image and says what it is: "leak", "error" or "unrepairable"; None: the image
# gives no occasion for it.

def leak_one(image, rng):
    image.put_refcount(image.append_cluster() // image.cluster, 1)
    return "leak"


def refcount_zero_of_data(image, rng):
    image.put_refcount((image.u64(rng.choice(image.l2())) & OFFSET) // image.cluster, 0)
    return "error"


def refcount_zero_of_l2(image, rng):
    image.put_refcount((image.u64(rng.choice(image.l1())) & OFFSET) // image.cluster, 0)
    return "error"


def refcount_zero_of_header(image, rng):
    image.put_refcount(0, 0)
    return "error"


def refcount_zero_of_l1(image, rng):
    image.put_refcount(image.l1_offset // image.cluster, 0)
    return "error"


def refcount_zero_everywhere(image, rng):
    for at in image.blocks():
        block = image.u64(at)
        image.data[block:block + image.cluster] = bytes(image.cluster)
    return "error"


def refcount_block_missing(image, rng):
    at = rng.choice(image.blocks())
    image.put64(at, 0)
    return "error"


def refcount_block_unaligned(image, rng):
    at = rng.choice(image.blocks())
    if image.cluster == 512:
        return None
    image.put64(at, image.u64(at) + 512)
    return "error"


def refcount_block_past_end(image, rng):
    image.put64(rng.choice(image.blocks()), len(image.data) + (1 << 40) // image.cluster * image.cluster)
    return "error"


def refcount_block_is_data(image, rng):
    image.put64(rng.choice(image.blocks()), image.u64(rng.choice(image.l2())) & OFFSET)
    return "unrepairable"


def copied_missing_in_l2(image, rng):
    at = rng.choice([at for at in image.l2() if image.u64(at) & COPIED])
    image.put64(at, image.u64(at) & ~COPIED)
    return "error"


def copied_missing_in_l1(image, rng):
    own = [at for at in image.l1() if image.u64(at) & COPIED]
    if not own:
        return None
    at = rng.choice(own)
    image.put64(at, image.u64(at) & ~COPIED)
    return "error"


def copied_on_shared(image, rng):
    shared = [at for at in image.l2() + image.l1() if not image.u64(at) & COPIED]
    if not shared:
        return None
    at = rng.choice(shared)
    image.put64(at, image.u64(at) | COPIED)
    return "error"


def leaks_everywhere(image, rng):
    """Every count one higher, and some past the end of the file."""
    if image.order == 0:
        return None
    clusters = len(image.data) // image.cluster
    entries = image.cluster * 8 >> image.order
    for cluster in range(clusters + 3):
        if cluster // entries < len(image.blocks()):
            image.put_refcount(cluster, 3)
    return "leak-copied"


def refcount_table_empty(image, rng):
    for at in image.blocks():
        image.put64(at, 0)
    return "error"


def refcount_table_cut(image, rng):
    """The header says that the table is shorter than it is: blocks for the rest must find a place."""
    if len(image.blocks()) <= image.cluster // 8:
        return None
    struct.pack_into(">I", image.data, 56, 1)
    return "error"


def refcount_table_past_end(image, rng):
    image.put64(48, (len(image.data) + (1 << 40)) // image.cluster * image.cluster)
    return "unopenable"


def refcount_table_reserved_bits(image, rng):
    at = rng.choice(image.blocks())
    image.put64(at, image.u64(at) | 2)
    return "reserved"


def l1_reserved_bits(image, rng):
    at = rng.choice(image.l1())
    image.put64(at, image.u64(at) | 1 << 57)
    return "reserved"


def l2_reserved_bits(image, rng):
    at = rng.choice(image.l2())
    image.put64(at, image.u64(at) | 1 << 57)
    return "reserved"


def subcluster_both_ways(image, rng):
    if image.l2_step != 16:
        return None
    at = rng.choice(image.l2()) + 8
    image.put64(at, image.u64(at) | 1 << 40 | 1 << 8)
    return "reserved"


def snapshot_l1_past_end(image, rng):
    if not image.snapshots:
        return None
    image.put64(image.snapshots_offset, 1 << 50)
    return "unopenable"


def marked_dirty(image, rng):
    if image.version == 2:
        return None
    image.put64(72, image.incompatible | 1)
    return "mark"


def marked_corrupt(image, rng):
    if image.version == 2:
        return None
    image.put64(72, image.incompatible | 2)
    return "mark"


def data_shared(image, rng):
    entries = image.l2()
    if len(entries) < 2 or image.order == 0 or image.l2_step == 16:
        return None
    a, b = rng.sample(entries, 2)
    image.put64(a, image.u64(b))
    return "error-content"


def l2_entry_past_end(image, rng):
    image.put64(rng.choice(image.l2()), COPIED | 1 << 50)
    return "unrepairable"


def l2_entry_unaligned(image, rng):
    if image.cluster == 512:
        return None
    at = rng.choice(image.l2())
    image.put64(at, image.u64(at) + 512)
    return "unrepairable"


def l2_entry_is_header(image, rng):
    at = rng.choice(image.l2())
    image.put64(at, image.l1_offset | COPIED)
    return "unrepairable"


def l1_entry_past_end(image, rng):
    image.put64(rng.choice(image.l1()), COPIED | 1 << 50)
    return "unrepairable"


def l1_entry_unaligned(image, rng):
    if image.cluster == 512:
        return None
    at = rng.choice(image.l1())
    image.put64(at, image.u64(at) + 512)
    return "unrepairable"


DAMAGES = (leak_one, refcount_zero_of_data, refcount_zero_of_l2, refcount_zero_of_header,
           refcount_zero_of_l1, refcount_zero_everywhere, refcount_block_missing,
           refcount_block_unaligned, refcount_block_past_end, refcount_block_is_data,
           copied_missing_in_l2, copied_missing_in_l1, copied_on_shared, leaks_everywhere,
           refcount_table_empty, refcount_table_cut, refcount_table_past_end,
           refcount_table_reserved_bits, l1_reserved_bits, l2_reserved_bits, subcluster_both_ways,
           snapshot_l1_past_end, marked_dirty, marked_corrupt, data_shared, l2_entry_past_end,
           l2_entry_unaligned, l2_entry_is_header, l1_entry_past_end, l1_entry_unaligned)

SHAPES = ({"cluster_size": 512}, {"cluster_size": 4096, "refcount_bits": 1},
          {"cluster_size": 65536}, {"cluster_size": 65536, "extended_l2": "on"},
          {"cluster_size": 1024, "refcount_bits": 64}, {"cluster_size": 4096, "compat": "0.10"},
          {"cluster_size": 512, "snapshot": True}, {"cluster_size": 4096, "bitmap": True},
          {"cluster_size": 512, "refcount_bits": 64, "large": True})


def make_image(case, shape):
    options = {k: v for k, v in shape.items() if k not in ("snapshot", "bitmap", "large")}
    image, size = "image.qcow2", 40 * shape["cluster_size"] + 200 * 512
    case.qemu_img("create", "-q", "-f", "qcow2", "-o",
                  ",".join(f"{k}={v}" for k, v in options.items()), image, str(size))
    writes = [f"write -P {1 + i % 250} {case.random.randrange(size - 9000) // 512 * 512} 9000"
              for i in range(12)]
    case.qemu_io(image, writes)
    if shape.get("large"):
        case.qemu_img("resize", "-q", "-f", "qcow2", image, "4M")
        case.qemu_io(image, [f"write -P {1 + i} {i << 20} 1M" for i in range(4)])
    if shape.get("snapshot"):
        case.qemu_img("snapshot", "-c", "one", image)
        case.qemu_io(image, [f"write -P 77 {case.random.randrange(size - 9000)} 3000"] * 3)
    if shape.get("bitmap"):
        case.qemu_img("bitmap", "--add", image, "b0")
    return image


def expect(case, what, found, wanted):
    if not wanted:
        raise Failure(f"{what}: {found}")


def run(case, shape, damage):
    name = make_image(case, shape)
    before = case.qemu_dump(name)
    image = Image(case.path(name))
    kind = damage(image, case.random)
    if kind is None:
        return
    image.save()
    case.commands.append(f"# {damage.__name__}() of damage.py on {name}")
    if kind == "unopenable":
        damaged = bytes(image.data)
        told = case.run(case.tools.hio, "-f", "qcow2", "--check=all", name, expect=(1, 2))
        expect(case, "nothing was told", name, told.stdout + told.stderr)
        with open(case.path(name), "rb") as file:
            expect(case, "the image was changed", name, file.read() == damaged)
        return
    theirs = case.qemu_img("check", "-f", "qcow2", name, expect=None).returncode
    ours = case.hio_check(name, expect=None)
    leak = kind.startswith("leak")
    if kind != "mark":
        expect(case, "our check finds", ours, ours["leaks"] if leak else ours["corruptions"])
    if kind not in ("mark", "reserved", "leak-copied"):
        expect(case, f"qemu-img check says {theirs}, ours", ours, leak == (theirs == 3))
    if kind == "leak":
        expect(case, "a leak is no corruption", ours, ours["corruptions"] == 0)
        case.run(case.tools.hio, "-f", "qcow2", "--check=leaks", name)
    else:
        case.run(case.tools.hio, "-f", "qcow2", "--check=all", name,
                 expect=2 if kind in ("unrepairable", "reserved") else 0)
    if kind in ("unrepairable", "reserved"):
        return
    case.hio_check(name)
    case.qemu_img("check", "-q", "-f", "qcow2", name)
    repaired = Image(case.path(name))
    expect(case, "a mark is left", name, repaired.incompatible & 3 == 0)
    if kind != "error-content":
        expect(case, "the content changed", name, case.qemu_dump(name) == before)


def main():
    tools = Tools(__doc__)
    cases = []
    for shape in SHAPES:
        label = "-".join(f"{k[:4]}{v}" for k, v in shape.items())
        for damage in DAMAGES:
            cases.append((f"{damage.__name__}-{label}",
                          lambda case, s=shape, d=damage: run(case, s, d)))
    return run_cases(tools, cases)


if __name__ == "__main__":
    sys.exit(main())
