/*
 * Inside the qcow2 checker: what its files share.
 *
 *   check.c           entry point, header, findings, reading tables several at a time
 *   check_walk.c      everything that refers to host clusters -> check_map
 *   check_snapshots.c, check_bitmaps.c   the same for their tables, and their repair
 *   check_compare.c   refcounts on disk against the map, COPIED flags
 *   check_mend.c      repair of what refers to clusters: L1 and L2 tables
 *   check_mend_entry.c   ... of one L2 entry
 *   check_repair.c    repair of what follows from that: refcounts and COPIED flags
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

/* What may be claimed for an encryption header. */
#define CHECK_CRYPT_BYTES_MAX (64 * MiB)

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

/* An internal snapshot, as its entry in the table says. */
struct check_snapshot {
    uint64_t at; /* of the entry in the file */
    uint64_t l1_offset;
    uint32_t l1_entries, extra_bytes;
    uint32_t names_bytes; /* ID and name */
    bool unusable;        /* its L1 table cannot be followed */
};

/* What a repair of entries does: first it drops what cannot be right, so that nothing refers to
 * places behind the end of the file; then it gives what overlaps a place of its own there. */
enum check_mend { CHECK_LOOK, CHECK_DROP, CHECK_MOVE };

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
    uint64_t autoclear;
    bool extended_l2, external_data, has_backing;
    uint64_t l1_offset, refcount_table_offset, snapshots_offset;
    uint32_t l1_entries, refcount_table_clusters, snapshot_count;
    uint32_t bitmap_count;
    uint64_t bitmap_directory_offset, bitmap_directory_size;
    uint64_t crypt_offset, crypt_length;

    struct check_map map;
    struct check_snapshot *snapshots; /* entries that could be read */
    size_t snapshots_read;
    uint64_t snapshot_bytes; /* of the table, as far as it could be read */
    bool rewrite_snapshots;  /* the table must be made shorter */
    bool drop_bitmaps;

    /* Repair of entries (check_mend.c). */
    enum check_mend mend;
    struct check_map *known;       /* what a look before has counted; NULL: nothing is known */
    uint64_t next_new;             /* CHECK_MOVE: where the next copy goes, behind the file's end */
    uint64_t copied, copies_max;   /* clusters */
    uint64_t lost_start, lost_end; /* guest bytes given up, not told yet */
    uint64_t lost_bytes;           /* all of them */
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

/** Counts what a repair gives up of the guest's data, and tells it in runs. */
void check_lost(struct checker *c, uint64_t guest, uint64_t length);
void check_lost_tell(struct checker *c);

/* ---- claiming clusters (check_walk.c) ---- */

/**
 * Counts one cluster that lies inside the file. @return 0 fine, 1 overlaps (told), -ENOMEM. In a
 * repair (c->mend) what overlaps, or would be counted beyond the width, is not told and not
 * counted.
 */
HWS_MUST_CHECK int check_claim_cluster(struct checker *c, uint64_t cluster, enum check_kind kind,
                                       uint64_t times, const char *what, uint64_t whence);
/**
 * Counts the clusters of a table or other contiguous area. @return 0: it may be read. 1: it may not
 * (told), so that what it refers to stays uncounted. -ENOMEM.
 */
HWS_MUST_CHECK int check_claim_area(struct checker *c, uint64_t offset, uint64_t length,
                                    enum check_kind kind, const char *what, uint64_t whence);
/** The cluster that an entry refers to. @return 0 when it lies, aligned, inside the file, 1 when
 * not (told). */
HWS_MUST_CHECK int check_target(struct checker *c, const char *what, uint64_t whence,
                                uint64_t offset);
/** A repair writes into tables; not where a look has found that something else lies there too. */
bool check_is_contested(struct checker *c, uint64_t offset, uint64_t length);
/** Has an active table referred to it? A second time is one too many, though the counts could say
 * it: only snapshots share. */
static inline bool check_is_active(struct checker *c, uint64_t cluster)
{
    return check_map_kind(&c->map, cluster) & (CHECK_COPIED_SET | CHECK_COPIED_CLEAR);
}
/** Remembers how the active tables refer to a cluster, for the check of the COPIED flags. */
void check_note_copied(struct checker *c, uint64_t offset, uint64_t entry);
HWS_MUST_CHECK int check_remember_l2(struct checker *c, uint64_t offset, uint32_t l1_index,
                                     bool active);

/* ---- L2 entries (check_mend_entry.c) ---- */

/* One L2 entry under repair, and where it stands. */
struct check_entry {
    uint64_t value, bitmap; /* bitmap: with extended L2 only */
    uint64_t guest;         /* offset of the first use */
    uint64_t times;         /* references to the table */
    bool active;
};

/** The host range that a compressed entry covers. */
void check_compressed_range(const struct checker *c, uint64_t entry, uint64_t *ret_offset,
                            uint64_t *ret_end);
/** Do the bits of an entry make sense, wherever they refer to? */
bool check_entry_plausible(const struct checker *c, uint64_t entry);
/** Mends an entry as c->mend says; with CHECK_MOVE it is counted as well. @return 0 or -errno. */
HWS_MUST_CHECK int co_check_mend_entry(struct checker *c, struct check_entry *e);
/** Copies clusters behind the end of the file, counted @times. @return 0, 1 no more copies may be
 * made, or -errno. */
HWS_MUST_CHECK int co_check_copy(struct checker *c, uint64_t from, uint64_t count,
                                 enum check_kind kind, uint64_t times, uint64_t *ret_cluster);

/* ---- steps ---- */
HWS_MUST_CHECK int co_check_read_header(struct checker *c);
HWS_MUST_CHECK int co_check_walk_refcounts(struct checker *c);
/** Reads the snapshot table into c->snapshots. */
HWS_MUST_CHECK int co_check_snapshots(struct checker *c);
/** Counts the table itself. */
HWS_MUST_CHECK int check_claim_snapshots(struct checker *c);
/** Writes it anew without what cannot be used, if that is wanted. */
HWS_MUST_CHECK int co_check_mend_snapshots(struct checker *c);
HWS_MUST_CHECK int co_check_bitmaps(struct checker *c);
HWS_MUST_CHECK int co_check_drop_bitmaps(struct checker *c);
HWS_MUST_CHECK int co_check_sync(struct checker *c);
/**
 * Repairs L1 and L2 tables, snapshots and bitmaps. On return @c has counted what is in use now, so
 * that co_check_repair() can follow. @known what a look has counted.
 */
HWS_MUST_CHECK int co_check_mend(struct checker *c, struct check_map *known);
/** Sets or clears the header's corrupt mark. Version 3 only: else nothing. */
HWS_MUST_CHECK int co_check_mark(struct checker *c, bool corrupt);
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
