/*
 * Inside the qcow2 checker: what its files share.
 *
 *   check.c           entry point, header, findings, reading tables several at a time
 *   check_walk.c      everything that refers to host clusters -> check_map
 *   check_compare.c   refcounts on disk against the map, COPIED flags
 *   check_repair.c    putting right what can be put right
 *   check_map.c       the map itself
 *
 * The checker reads the header and all tables from the file itself, not through the engine's caches
 * and in-memory header: it is the second opinion. It runs in one coroutine while the image has no
 * other user; tables are read by a few helper coroutines at a time.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef QCOW2_CHECK_H
#define QCOW2_CHECK_H

#include "format/qcow2/check_map.h"
#include "format/qcow2/qcow2.h"

/* Limits on what may be claimed, beside those of layout.h; the first two are QEMU's. */
#define CHECK_BITMAPS_MAX            65535
#define CHECK_BITMAP_DIRECTORY_MAX   (64 * MiB)
#define CHECK_BITMAP_TABLE_BYTES_MAX (32 * MiB)
#define CHECK_CRYPT_BYTES_MAX        (64 * MiB)

/* Bits of a standard L2 entry that mean nothing: 1-8 and 56-61. */
#define QCOW2_L2_RESERVED 0x3f000000000001feull

/* Findings told one by one; the rest is counted. */
#define CHECK_REPORT_MAX 100

/* One L2 table, however many L1 entries refer to it. */
struct check_l2 {
    uint64_t offset;
    uint32_t l1_index; /* of the first entry that referred to it */
    bool active;       /* the active L1 table refers to it */
};

enum check_block_state {
    CHECK_BLOCK_ABSENT,  /* no refcount block: all refcounts are 0 */
    CHECK_BLOCK_PRESENT, /* to be compared */
    CHECK_BLOCK_COMPARED,
    CHECK_BLOCK_UNREADABLE,
    CHECK_BLOCK_BAD, /* the table entry cannot be used; reported */
};

struct checker {
    struct block_node *node, *file;
    struct block_check *result;
    struct hws_error *err;
    unsigned findings; /* lines so far */
    bool changed;      /* something was written */

    /* The header. */
    unsigned version, cluster_bits, refcount_order;
    uint64_t cluster_size, file_size, file_clusters; /* clusters that start inside the file */
    uint64_t virtual_size, incompatible;
    bool extended_l2, external_data;
    uint64_t l1_offset, refcount_table_offset, snapshots_offset;
    uint32_t l1_entries, refcount_table_clusters, snapshot_count;
    uint32_t bitmap_count;
    uint64_t bitmap_directory_offset, bitmap_directory_size;
    uint64_t crypt_offset, crypt_length;

    struct check_map map;
    struct check_l2 *l2;
    size_t l2_count, l2_room;

    uint8_t *refcount_table;   /* as on disk */
    uint64_t refcount_entries; /* in it */
    uint8_t *block_state;      /* enum check_block_state, one an entry */

    uint64_t steps_done, steps_total; /* tables of this pass, for the progress */
    uint64_t next_contiguous; /* where the next data cluster would lie if nothing were fragmented */

    uint64_t too_high; /* clusters, found by the comparison */
    bool incomplete; /* a table could not be followed: the real counts may be higher than the map's
                      */
    const char *prefix; /* of findings, NULL: their kind */

    bool read_holes; /* co_check_each_table() does not pass them over */
    bool lower;      /* repair_block() lowers counts, else raises them */
    bool set_copied; /* repair_copied() sets flags, else clears them */
};

/* ---- findings (check.c) ---- */
void check_corruption(struct checker *c, const char *format, ...) HWS_PRINTF(2, 3);
void check_leak(struct checker *c, const char *format, ...) HWS_PRINTF(2, 3);
void check_trouble(struct checker *c, const char *format, ...) HWS_PRINTF(2, 3);
void check_note(struct checker *c, const char *format, ...) HWS_PRINTF(2, 3);

/* ---- reading (check.c) ---- */

/**
 * Reads a piece of the file; past the end it reads zeroes. A piece that the file system knows to be
 * a hole is not read: *@ret_zero is set and @buffer untouched (NULL @ret_zero: always filled).
 * @return 0, or -errno after having counted and told the trouble.
 */
HWS_MUST_CHECK int co_check_read(struct checker *c, uint64_t offset, size_t length, void *buffer,
                                 bool *ret_zero);

/**
 * Calls @fn for tables of one cluster, in order, reading several ahead at a time. @offset_of gives
 * where table @index lies, or 0 to pass it over. Tables that are holes are passed over too; for
 * those that cannot be read (told) @fn gets NULL. @fn may change the table and return 1: then it is
 * written back. @return 0 or -errno.
 */
HWS_MUST_CHECK int co_check_each_table(struct checker *c, size_t count,
                                       uint64_t (*offset_of)(struct checker *c, size_t index),
                                       int (*fn)(struct checker *c, size_t index, uint8_t *table));

/** Writes to the file. */
HWS_MUST_CHECK int co_check_write(struct checker *c, uint64_t offset, const void *buffer,
                                  size_t length);

/* ---- steps ---- */
HWS_MUST_CHECK int co_check_walk(struct checker *c);
HWS_MUST_CHECK int co_check_compare(struct checker *c);
/** Puts right what it can; what is left over is found by looking again. */
HWS_MUST_CHECK int co_check_repair(struct checker *c, unsigned repair);
/** The image is whole: takes the dirty mark, and with BLOCK_REPAIR_ERRORS the corrupt mark, away.
 */
HWS_MUST_CHECK int co_check_clear_marks(struct checker *c, unsigned repair);

/* ---- small things that several steps use ---- */
static inline uint64_t check_block_entries(const struct checker *c)
{
    return (c->cluster_size * 8) >> c->refcount_order;
}

static inline uint64_t check_refcount_max(const struct checker *c)
{
    return c->refcount_order == 6 ? UINT64_MAX : ((uint64_t)1 << (1u << c->refcount_order)) - 1;
}

#endif
