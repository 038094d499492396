#!/usr/bin/env python3
"""Damaged images: what our check finds, and what it puts right, held against qemu-img check.

Every case makes a sound image, damages some of its metadata in a known way, and then expects: our
check and qemu-img's agree on which it is (leak, corruption); a repair by us leaves an image that
qemu-img finds clean, and whose content is what it was but for what the damage itself took. SPDX-License-Identifier: Apache-2.0
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
        self.lost = []  # guest ranges that the damage takes

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

    def lose(self, at):
        """The guest may read something else where the L1 or L2 entry at this position says."""
        per_table = self.cluster // self.l2_step
        if self.l1_offset <= at < self.l1_offset + self.l1_size * 8:
            reach = per_table * self.cluster
            self.lost.append(((at - self.l1_offset) // 8 * reach, reach))
            return at
        for l1 in self.l1():
            table = self.u64(l1) & OFFSET
            if table <= at < table + self.cluster:
                index = (l1 - self.l1_offset) // 8 * per_table + (at - table) // self.l2_step
                self.lost.append((index * self.cluster, self.cluster))
        return at

    def same_but_lost(self, before, after):
        before, after = bytearray(before), bytearray(after)
        for start, length in self.lost:
            before[start:start + length] = b""
            after[start:start + length] = b""
            before[start:start] = after[start:start] = bytes(length)
        return before[:self.size] == after[:self.size]

    def append_cluster(self):
        """A cluster of zeroes at the end, not referenced. @return its offset."""
        at = (len(self.data) + self.cluster - 1) // self.cluster * self.cluster
        self.data.extend(bytes(at + self.cluster - len(self.data)))
        return at


# Each damage changes the image and says what it is: "leak", "error" (both programs find it), "ours"
# (we find it); None: the image gives no occasion for it. What it costs the guest goes to image.lose().

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
    return "error"


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


def refcount_table_unaligned(image, rng):
    image.put64(48, image.table_offset + 8)
    return "unopenable"


def refcount_table_empty_in_header(image, rng):
    struct.pack_into(">I", image.data, 56, 0)
    return "unopenable"


def refcount_table_is_l1(image, rng):
    image.put64(48, image.l1_offset)
    return "ours"


def refcount_table_is_garbage(image, rng):
    image.data[image.table_offset:image.table_offset + image.cluster] = rng.randbytes(image.cluster)
    return "ours"


def refcount_blocks_all_one(image, rng):
    """Every entry names the same block."""
    blocks = image.blocks()
    if len(blocks) < 2:
        return None
    for at in blocks:
        image.put64(at, image.u64(blocks[0]))
    return "ours"


def refcount_block_is_l2(image, rng):
    image.put64(rng.choice(image.blocks()), image.u64(rng.choice(image.l1())) & OFFSET)
    return "error"


def refcount_block_far_away(image, rng):
    """An entry that covers nothing names what lies past the end."""
    end = image.table_offset + image.table_clusters * image.cluster
    image.put64(end - 8, (len(image.data) + (1 << 40)) // image.cluster * image.cluster)
    return "ours"


def refcount_table_reserved_bits(image, rng):
    at = rng.choice(image.blocks())
    image.put64(at, image.u64(at) | 2)
    return "ours"


def l1_reserved_bits(image, rng):
    at = rng.choice(image.l1())
    image.put64(at, image.u64(at) | 1 << 57)
    return "ours"


def l2_reserved_bits(image, rng):
    at = rng.choice(image.l2())
    image.put64(at, image.u64(at) | 1 << 57)
    return "ours"


def subcluster_both_ways(image, rng):
    if image.l2_step != 16:
        return None
    at = image.lose(rng.choice(image.l2())) + 8
    image.put64(at, image.u64(at) | 1 << 40 | 1 << 8)
    return "ours"


def subcluster_without_cluster(image, rng):
    if image.l2_step != 16:
        return None
    image.put64(image.lose(rng.choice(image.l2())), 0)
    return "ours"


def snapshot_l1_past_end(image, rng):
    if not image.snapshots:
        return None
    image.put64(image.snapshots_offset, 1 << 50)
    return "unopenable"


def snapshot_l1_unaligned(image, rng):
    if not image.snapshots:
        return None
    image.put64(image.snapshots_offset, image.u64(image.snapshots_offset) + 8)
    return "unopenable"


def snapshot_l1_is_data(image, rng):
    if not image.snapshots:
        return None
    image.put64(image.snapshots_offset, image.u64(rng.choice(image.l2())) & OFFSET)
    return "ours"


def snapshots_too_many(image, rng):
    if not image.snapshots:
        return None
    struct.pack_into(">I", image.data, 60, 70000)
    return "unopenable"


def snapshot_extra_too_large(image, rng):
    if not image.snapshots:
        return None
    struct.pack_into(">I", image.data, image.snapshots_offset + 36, 5000)
    return "unopenable"


def snapshot_table_past_end(image, rng):
    if not image.snapshots:
        return None
    image.put64(64, (len(image.data) + (1 << 40)) // image.cluster * image.cluster)
    return "unopenable"


def bitmap_directory(image):
    """Offset of the directory, from the header's extension; None without bitmaps."""
    at = image.u32(100) if image.version == 3 else image.cluster
    while at < image.cluster and image.u32(at):
        if image.u32(at) == 0x23852875:
            return image.u64(at + 24), at
        at += 8 + (image.u32(at + 4) + 7) // 8 * 8
    return None


def bitmap_table_past_end(image, rng):
    found = bitmap_directory(image)
    if not found:
        return None
    image.put64(found[0], (len(image.data) + (1 << 40)) // image.cluster * image.cluster)
    return "ours"


def bitmap_data_past_end(image, rng):
    found = bitmap_directory(image)
    if not found:
        return None
    image.put64(image.u64(found[0]), (len(image.data) + (1 << 40)) // image.cluster * image.cluster)
    return "ours"


def bitmap_data_is_l1(image, rng):
    found = bitmap_directory(image)
    if not found:
        return None
    image.put64(image.u64(found[0]), image.l1_offset)
    return "ours"


def bitmap_directory_is_data(image, rng):
    found = bitmap_directory(image)
    if not found:
        return None
    image.put64(found[1] + 24, image.u64(rng.choice(image.l2())) & OFFSET)
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
    if len(entries) < 2:
        return None
    a, b = rng.sample(entries, 2)
    image.put64(image.lose(a), image.u64(b))
    if image.l2_step == 16:
        image.put64(a + 8, image.u64(b + 8))
    return "error"


def l2_table_shared(image, rng):
    entries = image.l1()
    if len(entries) < 2:
        return None
    a, b = rng.sample(entries, 2)
    image.lose(a)
    image.put64(a, image.u64(b))
    return "error"


def l2_entry_past_end(image, rng):
    image.put64(image.lose(rng.choice(image.l2())), COPIED | 1 << 50)
    return "error"


def l2_entry_unaligned(image, rng):
    """Nothing else refers to that cluster, so nothing is lost."""
    if image.cluster == 512:
        return None
    at = rng.choice(image.l2())
    image.put64(at, image.u64(at) + 512)
    return "error"


def l2_entry_is_l1(image, rng):
    image.put64(image.lose(rng.choice(image.l2())), image.l1_offset | COPIED)
    return "error"


def l2_entry_is_l2(image, rng):
    image.put64(image.lose(rng.choice(image.l2())), image.u64(rng.choice(image.l1())))
    return "error"


def l2_entry_is_refcount_block(image, rng):
    image.put64(image.lose(rng.choice(image.l2())), image.u64(rng.choice(image.blocks())) | COPIED)
    return "error"


def l2_entry_is_refcount_table(image, rng):
    image.put64(image.lose(rng.choice(image.l2())), image.table_offset | COPIED)
    return "error"


def l2_table_of_garbage(image, rng):
    at = rng.choice(image.l1())
    image.lose(at)
    table = image.u64(at) & OFFSET
    image.data[table:table + image.cluster] = rng.randbytes(image.cluster)
    return "ours"


def l1_entry_past_end(image, rng):
    image.put64(image.lose(rng.choice(image.l1())), COPIED | 1 << 50)
    return "error"


def l1_entry_unaligned(image, rng):
    if image.cluster == 512:
        return None
    at = image.lose(rng.choice(image.l1()))
    image.put64(at, image.u64(at) + 512)
    return "error"


def l1_entry_is_l1(image, rng):
    image.put64(image.lose(rng.choice(image.l1())), image.l1_offset | COPIED)
    return "error"


def l1_entry_is_refcount_block(image, rng):
    image.put64(image.lose(rng.choice(image.l1())), image.u64(rng.choice(image.blocks())) | COPIED)
    return "error"


def l1_entry_is_data(image, rng):
    at = image.lose(rng.choice(image.l1()))
    image.put64(at, image.u64(rng.choice(image.l2())))
    return "ours"


def compressed_past_end(image, rng):
    entries = image.l2(compressed=True)
    if not entries:
        return None
    at = image.lose(rng.choice(entries))
    image.put64(at, image.u64(at) | 1 << 45)
    return "ours"


def compressed_is_l1(image, rng):
    entries = image.l2(compressed=True)
    if not entries:
        return None
    at = image.lose(rng.choice(entries))
    image.put64(at, 1 << 62 | image.l1_offset)
    return "ours"


def compressed_is_data(image, rng):
    entries, data = image.l2(compressed=True), image.l2()
    if not entries or not data:
        return None
    at = image.lose(rng.choice(entries))
    image.put64(at, 1 << 62 | image.u64(rng.choice(data)) & OFFSET)
    return "ours"


def file_cut(image, rng):
    """The last tenth of the file is gone."""
    keep = len(image.data) * 9 // 10 // image.cluster * image.cluster
    for at in image.l2() + image.l2(compressed=True):
        image.lose(at)  # any of them; the repair itself is what counts
    if any(image.u64(at) & OFFSET >= keep for at in image.l1()) or max(
            image.l1_offset + image.l1_size * 8, image.snapshots_offset) >= keep:
        return None
    del image.data[keep:]
    return "ours"


def bits_flipped(image, rng):
    """Some bits of entries anywhere in the tables."""
    places = image.l1() + image.l2() + image.l2(compressed=True)
    for at in rng.sample(places, min(len(places), 6)):
        image.lose(at)
        image.put64(at, image.u64(at) ^ 1 << rng.randrange(9, 56))
    return "ours"


DAMAGES = (leak_one, refcount_zero_of_data, refcount_zero_of_l2, refcount_zero_of_header,
           refcount_zero_of_l1, refcount_zero_everywhere, refcount_block_missing,
           refcount_block_unaligned, refcount_block_past_end, refcount_block_is_data,
           copied_missing_in_l2, copied_missing_in_l1, copied_on_shared, leaks_everywhere,
           refcount_table_empty, refcount_table_cut, refcount_table_past_end,
           refcount_table_unaligned, refcount_table_empty_in_header, refcount_table_is_l1,
           refcount_table_is_garbage, refcount_blocks_all_one, refcount_block_is_l2,
           refcount_block_far_away, refcount_table_reserved_bits, l1_reserved_bits,
           l2_reserved_bits, subcluster_both_ways, subcluster_without_cluster, snapshot_l1_past_end,
           snapshot_l1_unaligned, snapshot_l1_is_data, snapshots_too_many, snapshot_extra_too_large,
           snapshot_table_past_end, bitmap_table_past_end, bitmap_data_past_end, bitmap_data_is_l1,
           bitmap_directory_is_data, marked_dirty, marked_corrupt, data_shared, l2_table_shared,
           l2_entry_past_end, l2_entry_unaligned, l2_entry_is_l1, l2_entry_is_l2,
           l2_entry_is_refcount_block, l2_entry_is_refcount_table, l2_table_of_garbage,
           l1_entry_past_end, l1_entry_unaligned, l1_entry_is_l1, l1_entry_is_refcount_block,
           l1_entry_is_data, compressed_past_end, compressed_is_l1, compressed_is_data, file_cut,
           bits_flipped)

SHAPES = ({"cluster_size": 512}, {"cluster_size": 4096, "refcount_bits": 1},
          {"cluster_size": 65536}, {"cluster_size": 65536, "extended_l2": "on"},
          {"cluster_size": 1024, "refcount_bits": 64}, {"cluster_size": 4096, "compat": "0.10"},
          {"cluster_size": 512, "snapshot": True}, {"cluster_size": 4096, "bitmap": True},
          {"cluster_size": 512, "refcount_bits": 64, "large": True},
          {"cluster_size": 4096, "compressed": True}, {"cluster_size": 4096, "backing": True},
          {"cluster_size": 16384, "extended_l2": "on", "backing": True, "compressed": True})


def make_image(case, shape):
    options = {k: v for k, v in shape.items()
               if k not in ("snapshot", "bitmap", "large", "compressed", "backing")}
    image, size = "image.qcow2", 40 * shape["cluster_size"] + 200 * 512
    if shape.get("backing"):
        case.qemu_img("create", "-q", "-f", "raw", "base.raw", str(size))
        case.qemu_io("base.raw", [f"write -P 251 0 {size}"], image_format="raw")
        options |= {"backing_file": "base.raw", "backing_fmt": "raw"}
    case.qemu_img("create", "-q", "-f", "qcow2", "-o",
                  ",".join(f"{k}={v}" for k, v in options.items()), image, str(size))
    if shape.get("compressed"):
        step = shape["cluster_size"]
        case.qemu_io(image, [f"write -c -P {1 + i} {i * step} {step}" for i in range(0, 30, 2)])
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
    if kind == "unopenable":  # by them, or by both
        case.run(case.tools.hio, "-f", "qcow2", "--check=all", name)
    else:
        judge(case, name, kind)
    ours = case.hio_check(name)
    expect(case, "something is left", ours, not ours["corruptions"] and not ours["leaks"])
    case.qemu_img("check", "-q", "-f", "qcow2", name)
    repaired = Image(case.path(name))
    expect(case, "a mark is left", name, repaired.incompatible & 3 == 0)
    after = case.qemu_dump(name, options=["--salvage"] if image.lost else [])
    expect(case, "the content changed", name, image.same_but_lost(before, after))


def judge(case, name, kind):
    """Both find it, we mend it."""
    theirs = case.qemu_img("check", "-f", "qcow2", name, expect=None).returncode
    ours = case.hio_check(name, expect=None)
    leak = kind.startswith("leak")
    if kind != "mark":
        expect(case, "our check finds", ours, ours["leaks"] if leak else ours["corruptions"])
    if kind not in ("mark", "ours", "leak-copied"):
        expect(case, f"qemu-img check says {theirs}, ours", ours, leak == (theirs == 3))
    if kind == "leak":
        expect(case, "a leak is no corruption", ours, ours["corruptions"] == 0)
    case.run(case.tools.hio, "-f", "qcow2", "--check=leaks" if kind == "leak" else "--check=all", name)


def main():
    tools = Tools(__doc__)
    cases = []
    for number, shape in enumerate(SHAPES):
        label = "-".join(f"{k[:4]}{v}" for k, v in shape.items())
        for index, damage in enumerate(DAMAGES):
            # Every damage meets a third of the shapes, another third with another seed.
            if not tools.full and not tools.case and (number + index + tools.seed) % 3:
                continue
            cases.append((f"{damage.__name__}-{label}",
                          lambda case, s=shape, d=damage: run(case, s, d)))
    return run_cases(tools, cases)


if __name__ == "__main__":
    sys.exit(main())
