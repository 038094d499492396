/*
 * qcow2 as it lies on disk: the structs and bit masks of the specification, nothing else.
 *
 *   header (72 bytes in version 2, header_length in version 3)
 *   header extensions: {type, length, data padded to 8}, ended by type 0
 *   backing file name, somewhere in the rest of the first cluster
 *
 *   L1 table -> L2 tables -> clusters            refcount table -> refcount blocks
 *
 * Every number is big-endian. Structs are made of byte arrays, so they may be laid over a buffer of
 * any alignment; bytes that an image supplies are nevertheless read through a cursor.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef QCOW2_LAYOUT_H
#define QCOW2_LAYOUT_H

#include "base/byteorder.h"

#define QCOW2_MAGIC 0x514649fbu /* "QFI\xfb" */

struct qcow2_disk_header {
    struct be32 magic;
    struct be32 version;
    struct be64 backing_file_offset;
    struct be32 backing_file_size;
    struct be32 cluster_bits;
    struct be64 size;
    struct be32 crypt_method;
    struct be32 l1_size;
    struct be64 l1_table_offset;
    struct be64 refcount_table_offset;
    struct be32 refcount_table_clusters;
    struct be32 nb_snapshots;
    struct be64 snapshots_offset;
    /* version 3 */
    struct be64 incompatible_features;
    struct be64 compatible_features;
    struct be64 autoclear_features;
    struct be32 refcount_order;
    struct be32 header_length;
    /* optional */
    uint8_t compression_type;
    uint8_t padding[7];
};

#define QCOW2_HEADER_V2_BYTES  72
#define QCOW2_HEADER_V3_BYTES  104 /* the least that version 3 allows */
#define QCOW2_HEADER_OUR_BYTES 112 /* what we write */

static_assert(offsetof(struct qcow2_disk_header, incompatible_features) == QCOW2_HEADER_V2_BYTES,
              "");
static_assert(offsetof(struct qcow2_disk_header, refcount_table_offset) == 48, "");
static_assert(offsetof(struct qcow2_disk_header, refcount_order) == 96, "");
static_assert(offsetof(struct qcow2_disk_header, compression_type) == QCOW2_HEADER_V3_BYTES, "");
static_assert(sizeof(struct qcow2_disk_header) == QCOW2_HEADER_OUR_BYTES, "");

enum qcow2_incompatible {
    QCOW2_INCOMPAT_DIRTY = 1 << 0,
    QCOW2_INCOMPAT_CORRUPT = 1 << 1,
    QCOW2_INCOMPAT_DATA_FILE = 1 << 2,
    QCOW2_INCOMPAT_COMPRESSION = 1 << 3,
    QCOW2_INCOMPAT_EXTENDED_L2 = 1 << 4,
    QCOW2_INCOMPAT_KNOWN = (1 << 5) - 1,
};

enum qcow2_compatible { QCOW2_COMPAT_LAZY_REFCOUNTS = 1 << 0 };

enum qcow2_autoclear { QCOW2_AUTOCLEAR_BITMAPS = 1 << 0, QCOW2_AUTOCLEAR_DATA_FILE_RAW = 1 << 1 };

enum qcow2_compression { QCOW2_ZLIB = 0, QCOW2_ZSTD = 1 };

enum qcow2_crypt { QCOW2_CRYPT_NONE = 0, QCOW2_CRYPT_AES = 1, QCOW2_CRYPT_LUKS = 2 };

enum qcow2_extension_type {
    QCOW2_EXT_END = 0x00000000,
    QCOW2_EXT_BACKING_FORMAT = 0xe2792aca,
    QCOW2_EXT_FEATURE_NAMES = 0x6803f857,
    QCOW2_EXT_BITMAPS = 0x23852875,
    QCOW2_EXT_LUKS = 0x0537be77,
    QCOW2_EXT_DATA_FILE = 0x44415441,
    QCOW2_EXT_FILLER = 0x48575346, /* ours: nothing; header_replace.c */
};

struct qcow2_disk_extension {
    struct be32 type;
    struct be32 length;
};
static_assert(sizeof(struct qcow2_disk_extension) == 8, "");

struct qcow2_disk_feature_name {
    uint8_t kind; /* 0 incompatible, 1 compatible, 2 autoclear */
    uint8_t bit;
    char name[46];
};
static_assert(sizeof(struct qcow2_disk_feature_name) == 48, "");

struct qcow2_disk_bitmaps_extension {
    struct be32 nb_bitmaps;
    struct be32 reserved;
    struct be64 directory_size;
    struct be64 directory_offset;
};
static_assert(sizeof(struct qcow2_disk_bitmaps_extension) == 24, "");

/* Entry of the bitmap directory; extra data, name and padding to 8 follow. */
struct qcow2_disk_bitmap {
    struct be64 table_offset;
    struct be32 table_size; /* entries */
    struct be32 flags;
    uint8_t type;
    uint8_t granularity_bits;
    struct be16 name_size;
    struct be32 extra_size;
};
static_assert(sizeof(struct qcow2_disk_bitmap) == 24, "");

/* Entry of the snapshot table; extra data, id, name and padding to 8 follow. */
struct qcow2_disk_snapshot {
    struct be64 l1_table_offset;
    struct be32 l1_size;
    struct be16 id_size;
    struct be16 name_size;
    struct be32 date_s;
    struct be32 date_ns;
    struct be64 vm_clock_ns;
    struct be32 vm_state_bytes;
    struct be32 extra_size;
};
static_assert(sizeof(struct qcow2_disk_snapshot) == 40, "");

/* ---- table entries ---- */

#define QCOW2_OFFSET_MASK          0x00fffffffffffe00ull /* bits 9-55 of an L1 or L2 entry */
#define QCOW2_COPIED               (1ull << 63)          /* refcount is exactly one */
#define QCOW2_COMPRESSED           (1ull << 62)          /* L2 only; test before QCOW2_ZERO */
#define QCOW2_ZERO                 (1ull << 0)           /* standard L2 entries of version 3 */

#define QCOW2_L1_RESERVED          0x7f000000000001ffull
#define QCOW2_REFTABLE_OFFSET_MASK (~0x1ffull)
#define QCOW2_REFTABLE_RESERVED    0x1ffull

/* Extended entries: 64 more bits, low half "allocated", high half "reads as zeroes". */
#define QCOW2_SUBCLUSTERS   32
#define QCOW2_SUB_ALLOCATED 0x00000000ffffffffull
#define QCOW2_SUB_ZERO      0xffffffff00000000ull

/* ---- limits ---- */

#define QCOW2_CLUSTER_BITS_MIN          9  /* 512 bytes, from the specification */
#define QCOW2_CLUSTER_BITS_MAX          21 /* 2 MiB: what other implementations open */
#define QCOW2_EXTENDED_CLUSTER_BITS_MIN 14 /* 32 subclusters of 512 bytes */
#define QCOW2_REFCOUNT_ORDER_MAX        6
#define QCOW2_BACKING_NAME_MAX          1023
#define QCOW2_BACKING_FORMAT_MAX        63

/* 32 MiB of L1: 4 Mi entries; at 64 KiB clusters (512 MiB an entry) that is 2 EiB. */
#define QCOW2_L1_BYTES_MAX (32 * MiB)
/* 8 MiB of refcount table: 1 Mi blocks; at 64 KiB clusters (2 GiB a block) that is 2 PiB. */
#define QCOW2_REFTABLE_BYTES_MAX (8 * MiB)
/* As other implementations: 65536 snapshots, 1 KiB of extra data an entry, 64 MiB in all. */
#define QCOW2_SNAPSHOTS_MAX            65536
#define QCOW2_SNAPSHOT_EXTRA_MAX       1024
#define QCOW2_SNAPSHOT_TABLE_BYTES_MAX (64 * MiB)
/* Host offsets that an L1 or L2 entry can hold end at 2^56. */
#define QCOW2_HOST_END (1ull << 56)

#endif
