/*
 * Internal snapshots: the table as it lies on disk and in memory, and work on it.
 *
 *   header --> snapshot table --> entry: ID, name, sizes, dates --> L1 table of its own --> L2 ...
 *
 * An entry holds "extra data" that newer programs may add to: it is kept byte for byte, and only
 * what the specification names is looked into. IDs and names are bytes of any value.
 *
 * Parsing and serialising are pure and fuzzed directly.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef QCOW2_SNAPSHOT_H
#define QCOW2_SNAPSHOT_H

#include "format/qcow2/layout.h"
#include "hawser/error.h"

struct qcow2;

struct qcow2_snapshot {
    uint64_t l1_offset;
    uint32_t l1_entries;
    uint32_t date_sec, date_nsec;
    uint64_t vm_clock_nsec;
    uint64_t vm_state_bytes; /* from the extra data where that has it, else vm_state_low */
    uint32_t vm_state_low;
    uint64_t disk_bytes; /* where has_disk_bytes */
    uint64_t icount;     /* where has_icount */
    bool has_disk_bytes, has_icount;
    uint16_t id_bytes, name_bytes;
    uint32_t extra_bytes;
    char *id, *name; /* bytes, with a zero behind them */
    uint8_t *extra;  /* as on disk */
};

struct qcow2_snapshots {
    struct qcow2_snapshot *entry;
    uint32_t count;
    uint64_t bytes; /* of the table on disk */
};

/* Offsets in the extra data. */
#define QCOW2_SNAPSHOT_EXTRA_VM_STATE  0
#define QCOW2_SNAPSHOT_EXTRA_DISK_SIZE 8
#define QCOW2_SNAPSHOT_EXTRA_ICOUNT    16
/* What we write: the three fields above. */
#define QCOW2_SNAPSHOT_EXTRA_OUR_BYTES 24

/**
 * Reads @count entries from @bytes. Checks the limits of layout.h; what the entries refer to is
 * checked where it is used.
 * @ret owned by the caller: qcow2_snapshots_free(); untouched on failure.
 * @return 0, -ENODATA where the table goes on behind @length, -EFBIG, -ENOMEM.
 */
HWS_MUST_CHECK int qcow2_snapshots_parse(const uint8_t *bytes, size_t length, uint32_t count,
                                         struct qcow2_snapshots *ret, struct hws_error *err);

/** Bytes of the table on disk. */
uint64_t qcow2_snapshots_bytes(const struct qcow2_snapshots *table);

/** Writes the table into @buffer, qcow2_snapshots_bytes() long. */
void qcow2_snapshots_serialise(const struct qcow2_snapshots *table, uint8_t *buffer);

void qcow2_snapshots_free(struct qcow2_snapshots *table);

/** A deep copy. -ENOMEM: nothing in @ret. */
HWS_MUST_CHECK int qcow2_snapshots_copy(const struct qcow2_snapshots *table,
                                        struct qcow2_snapshots *ret);

/** Takes @entry (its memory) behind the others. -ENOMEM: the caller keeps it. */
HWS_MUST_CHECK int qcow2_snapshots_append(struct qcow2_snapshots *table,
                                          const struct qcow2_snapshot *entry);
/** Takes entry @index out and frees it. */
void qcow2_snapshots_remove(struct qcow2_snapshots *table, uint32_t index);

/**
 * A new entry with ID @id and name @name, and extra data of our own; the caller fills the rest and
 * qcow2_snapshot_store_extra()s it. qcow2_snapshot_free().
 */
HWS_MUST_CHECK int qcow2_snapshot_make(const char *id, const char *name,
                                       struct qcow2_snapshot *ret);
/** The fields of the extra data into its bytes, as far as these reach. */
void qcow2_snapshot_store_extra(struct qcow2_snapshot *entry);
void qcow2_snapshot_free(struct qcow2_snapshot *entry);

/** The index of the snapshot with this ID, else of the first with this name; -1: there is none. */
int64_t qcow2_snapshots_find(const struct qcow2_snapshots *table, const char *id_or_name);

/** An ID that no entry has: one more than the highest number. @ret at least 24 bytes. */
void qcow2_snapshots_new_id(const struct qcow2_snapshots *table, char *ret);

/* ---- on the open image (snapshot.c) ---- */

/** Reads the table into q->snapshots. A header without snapshots leaves it empty. */
HWS_MUST_CHECK int qcow2_co_snapshots_load(struct qcow2 *q, struct hws_error *err);

/** -EINVAL with the reason where the L1 table of a snapshot cannot be one. */
HWS_MUST_CHECK int qcow2_snapshot_check(const struct qcow2 *q, const struct qcow2_snapshot *s,
                                        struct hws_error *err);

/** The size of the disk in the snapshot; that of the image where it does not say. */
uint64_t qcow2_snapshot_disk_bytes(const struct qcow2 *q, const struct qcow2_snapshot *s);

/** The L1 table of a snapshot, in host order, for free(). */
HWS_MUST_CHECK int qcow2_co_snapshot_l1(struct qcow2 *q, const struct qcow2_snapshot *s,
                                        uint64_t **ret, struct hws_error *err);

/** Right after opening, read-only: the image becomes what the snapshot @id_or_name is. */
HWS_MUST_CHECK int qcow2_co_snapshot_show(struct qcow2 *q, const char *id_or_name,
                                          struct hws_error *err);

#endif
