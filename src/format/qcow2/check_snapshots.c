/*
 * The checker and the table of internal snapshots.
 *
 * Entries have no fixed size, so that one that lies about its sizes hides those behind it: what can
 * be read before it is what there is. Limits are those of other implementations, and so is the
 * repair: snapshots past the limit go, and so does extra data past its own. A snapshot whose L1
 * table cannot be followed goes too: nothing says any more what it held.
 *
 * The shorter table is written beside the old one, and the header switches to it with one write.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "format/qcow2/check.h"
#include <inttypes.h>

#define FIXED_BYTES sizeof(struct qcow2_disk_snapshot)

static uint64_t entry_bytes(uint64_t extra_bytes, uint64_t names_bytes)
{
    return align_up(FIXED_BYTES + extra_bytes + names_bytes, 8);
}

/* What an entry says of itself. */
static void judge(struct checker *c, struct check_snapshot *snapshot, size_t index)
{
    if (snapshot->extra_bytes > QCOW2_SNAPSHOT_EXTRA_MAX) {
        check_corruption(c,
                         "snapshot table entry %zu at offset %#" PRIx64
                         ": %u bytes of extra data, at most %u are supported",
                         index, snapshot->at, snapshot->extra_bytes, QCOW2_SNAPSHOT_EXTRA_MAX);
        c->rewrite_snapshots = true;
    }
    if (snapshot->l1_entries > QCOW2_L1_BYTES_MAX / 8) {
        check_corruption(c,
                         "snapshot table entry %zu at offset %#" PRIx64
                         ": its L1 table of %u entries is more than the limit",
                         index, snapshot->at, snapshot->l1_entries);
        snapshot->unusable = c->incomplete = true;
    }
}

/* @return false where no further entry can be had. */
static bool co_read_entry(struct checker *c, uint64_t at, struct check_snapshot *ret)
{
    uint8_t fixed[FIXED_BYTES];
    if (at >= c->file_size || c->file_size - at < sizeof(fixed) ||
        co_check_read(c, at, sizeof(fixed), fixed, NULL) < 0)
        return false;
    *ret = (struct check_snapshot){
        .at = at,
        .l1_offset = load_be64(fixed),
        .l1_entries = load_be32(fixed + 8),
        .names_bytes = (uint32_t)load_be16(fixed + 12) + load_be16(fixed + 14),
        .extra_bytes = load_be32(fixed + 36),
    };
    uint64_t end = at + entry_bytes(ret->extra_bytes, ret->names_bytes);
    /* Every snapshot has an ID: without one this is not an entry. */
    return load_be16(fixed + 12) != 0 &&
           end - c->snapshots_offset <= QCOW2_SNAPSHOT_TABLE_BYTES_MAX &&
           end <= align_up(c->file_size, c->cluster_size);
}

int co_check_snapshots(struct checker *c)
{
    uint32_t count = MIN(c->snapshot_count, (uint32_t)QCOW2_SNAPSHOTS_MAX);
    size_t room = 0;
    for (uint64_t at = c->snapshots_offset; c->snapshots_read < count;) {
        if (c->snapshots_read == room) {
            room = room ? room * 2 : 16;
            struct check_snapshot *more = reallocarray(c->snapshots, room, sizeof(*more));
            if (!more)
                return -ENOMEM;
            c->snapshots = more;
        }
        struct check_snapshot *snapshot = &c->snapshots[c->snapshots_read];
        if (!is_aligned(c->snapshots_offset, c->cluster_size) || !co_read_entry(c, at, snapshot))
            break;
        judge(c, snapshot, c->snapshots_read++);
        at += entry_bytes(snapshot->extra_bytes, snapshot->names_bytes);
        c->snapshot_bytes = at - c->snapshots_offset;
    }
    if (c->snapshots_read == c->snapshot_count)
        return 0;
    check_corruption(c,
                     "snapshot table at offset %#" PRIx64
                     ": only the first %zu of %u snapshots can "
                     "be used",
                     c->snapshots_offset, c->snapshots_read, c->snapshot_count);
    c->incomplete = true;
    c->rewrite_snapshots = true;
    return 0;
}

int check_claim_snapshots(struct checker *c)
{
    if (c->snapshot_bytes == 0)
        return 0;
    int result = check_claim_area(c, c->snapshots_offset, c->snapshot_bytes, CHECK_SNAPSHOT_TABLE,
                                  "snapshot table", 64);
    c->rewrite_snapshots |= result > 0;
    return MIN(result, 0);
}

/* ---- repair ---- */

/* The entries that stay, one after the other. @return their length, or -errno. */
static int64_t co_collect(struct checker *c, uint8_t *table, uint32_t *ret_count)
{
    uint64_t length = 0;
    *ret_count = 0;
    for (size_t i = 0; i < c->snapshots_read; i++) {
        const struct check_snapshot *snapshot = &c->snapshots[i];
        uint32_t extra = MIN(snapshot->extra_bytes, (uint32_t)QCOW2_SNAPSHOT_EXTRA_MAX);
        uint8_t *to = table + length;
        if (snapshot->unusable) {
            check_note(c, "snapshot %zu is given up: its L1 table cannot be followed", i);
            continue;
        }
        int result = co_check_read(c, snapshot->at, FIXED_BYTES + extra, to, NULL);
        if (result >= 0 && snapshot->names_bytes)
            result = co_check_read(c, snapshot->at + FIXED_BYTES + snapshot->extra_bytes,
                                   snapshot->names_bytes, to + FIXED_BYTES + extra, NULL);
        if (result < 0)
            return result;
        store_be32(to + offsetof(struct qcow2_disk_snapshot, extra_size), extra);
        length += entry_bytes(extra, snapshot->names_bytes);
        (*ret_count)++;
    }
    return (int64_t)length;
}

int co_check_mend_snapshots(struct checker *c)
{
    bool rewrite = c->rewrite_snapshots;
    uint8_t fields[12];
    uint32_t count;
    for (size_t i = 0; i < c->snapshots_read; i++)
        rewrite |= c->snapshots[i].unusable;
    if (!rewrite)
        return 0;
    autofree uint8_t *table = qcow2_buffer(c->snapshot_bytes + 1);
    if (!table)
        return -ENOMEM;
    int64_t length = co_collect(c, table, &count);
    if (length < 0)
        return 0; /* told as unreadable: stays as it is */
    uint64_t offset = count ? c->file_clusters << c->cluster_bits : 0;
    check_note(c, "the snapshot table is written anew with %u of %u entries", count,
               c->snapshot_count);
    int result = count ? co_check_write(c, offset, table, (size_t)length) : 0;
    if (result >= 0)
        result = co_check_sync(c);
    store_be32(fields, count);
    store_be64(fields + 4, offset);
    if (result >= 0)
        result = co_check_write(c, offsetof(struct qcow2_disk_header, nb_snapshots), fields,
                                sizeof(fields));
    return result;
}
