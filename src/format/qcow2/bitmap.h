/*
 * The bitmaps extension of a qcow2 image: its directory in memory, and pure parsing and
 * serialising, no I/O.
 *
 *   header extension: how many, and where ---> directory: one entry a bitmap
 *     entry: name, flags, granularity ---> table: one entry a cluster of bits ---> bits
 *
 * "Bit 0 [of the autoclear features]: bitmaps extension bit. If the extension is present but this
 * bit is unset, the bitmaps extension data must be considered inconsistent." Then nothing of it is
 * looked at.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef QCOW2_BITMAP_H
#define QCOW2_BITMAP_H

#include "format/qcow2/layout.h"
#include "hawser/error.h"

/* As other implementations: 65535 bitmaps, names of 1023 bytes. */
#define QCOW2_BITMAPS_MAX          65535u
#define QCOW2_BITMAP_NAME_MAX      1023u
#define QCOW2_BITMAP_DIRECTORY_MAX (64 * MiB)
/* 4 Mi entries: 512 bytes each make 2 GiB of bits, more than block/bitmap.h keeps in memory. */
#define QCOW2_BITMAP_TABLE_BYTES_MAX (32 * MiB)

enum qcow2_bitmap_flags {
    QCOW2_BITMAP_IN_USE = 1 << 0, /* not stored by whoever used it last */
    QCOW2_BITMAP_AUTO = 1 << 1,   /* enabled: must reflect all changes */
    QCOW2_BITMAP_EXTRA_COMPATIBLE = 1 << 2,
    QCOW2_BITMAP_FLAGS_KNOWN = (1 << 3) - 1,
};

#define QCOW2_BITMAP_DIRTY_TRACKING 1 /* the one type there is */

#define QCOW2_BITMAP_TABLE_OFFSET   0x00fffffffffffe00ull /* bits 9-55 */
#define QCOW2_BITMAP_TABLE_ONES     1ull /* without an offset: all bits of the cluster are set */
#define QCOW2_BITMAP_TABLE_RESERVED 0xff000000000001feull

struct block_bitmap;

/* The extension's own fields. */
struct qcow2_bitmaps_place {
    uint32_t count;
    uint64_t size, offset; /* of the directory, bytes */
};

/* One entry of the directory. */
struct qcow2_bitmap {
    uint64_t table_offset;
    uint32_t table_entries;
    uint32_t flags;
    uint8_t type;
    uint8_t granularity_bits;
    char *name; /* name_bytes of it, and a zero byte; none in it */
    uint16_t name_bytes;
    uint32_t extra_bytes;
    uint8_t *extra;
    uint32_t flags_at; /* where in the directory on disk its flags lie; 0: it is not there */
    /* Of an open image: */
    struct block_bitmap *live; /* NULL where it cannot be used, or is removed */
    bool removed;              /* but still on disk */
    bool marking;              /* qcow2_co_bitmaps_begin() has set a flag that is not on disk */
};

/** What the tables and clusters of bitmaps are checked against. */
struct qcow2_bitmap_limits {
    unsigned cluster_bits;
    uint64_t file_bytes;
};

/**
 * The fields of the extension, checked: counts and sizes within the limits, the directory aligned
 * and inside the file. @return 0, -EINVAL with the field in @err.
 */
HWS_MUST_CHECK int qcow2_bitmaps_place_parse(const uint8_t *data, size_t length,
                                             const struct qcow2_bitmap_limits *limits,
                                             struct qcow2_bitmaps_place *ret,
                                             struct hws_error *err);
/** Writes the 24 bytes of the extension. */
void qcow2_bitmaps_place_store(const struct qcow2_bitmaps_place *place, uint8_t *data);

/**
 * All @count entries of a directory of @length bytes, which they must fill. Checks what every
 * entry must obey, known type or not: that it fits, its table's place and size, the name (1 to 1023
 * bytes, no zero byte, unique), the padding. @ret an array for qcow2_bitmaps_free(); untouched on
 * failure. @return 0, -EINVAL with the entry and its fault in @err, -ENOMEM.
 */
HWS_MUST_CHECK int qcow2_bitmaps_parse(const uint8_t *bytes, size_t length, uint32_t count,
                                       const struct qcow2_bitmap_limits *limits,
                                       struct qcow2_bitmap **ret, struct hws_error *err);
void qcow2_bitmaps_free(struct qcow2_bitmap *bitmaps, uint32_t count);
/** Frees what one entry owns. */
void qcow2_bitmap_clear(struct qcow2_bitmap *bitmap);

/** Bytes that the directory of these entries takes. */
uint64_t qcow2_bitmaps_bytes(const struct qcow2_bitmap *bitmaps, uint32_t count);
/** Writes it into @bytes, which has that room, and sets flags_at. */
void qcow2_bitmaps_serialise(struct qcow2_bitmap *bitmaps, uint32_t count, uint8_t *bytes);

/**
 * NULL where this program understands all of the entry and so may use it, else why not: an unknown
 * type or flag, extra data that says it must be understood, a granularity beyond 512 bytes to 2
 * GiB. Such a one is kept byte for byte.
 */
const char *qcow2_bitmap_strange(const struct qcow2_bitmap *bitmap);

/** Entries that the table of a bitmap over @size_bytes has. */
static inline uint64_t qcow2_bitmap_table_entries(unsigned granularity_bits, uint64_t size_bytes,
                                                  unsigned cluster_bits)
{
    uint64_t grains = div_round_up(size_bytes, (uint64_t)1 << granularity_bits);
    return div_round_up(grains, (uint64_t)8 << cluster_bits);
}

/** False where an entry of a bitmap table breaks the format, or names what is outside the file. */
bool qcow2_bitmap_table_entry_valid(uint64_t entry, const struct qcow2_bitmap_limits *limits);

#endif
