/*
 * The checker's repair of what refers to host clusters: L1 tables, L2 tables, the snapshot table
 * and the bitmaps. Two passes over all of it, with a sync after each:
 *
 *   CHECK_DROP  what cannot be right goes or is put right; nothing refers past the file's end then,
 *               where the next steps append. Then the snapshot table, if it must be shorter.
 *   CHECK_MOVE  what overlaps something else gets a copy; each copy is durable before an entry
 *               names it
 *
 * What the header names comes first, then active tables, then snapshots, then bitmaps, then data:
 * the later one of two that overlap gives way. Refcount structures come last of all. They follow
 * from the rest and can be made anew, so nothing is lost when guest data keeps their place.
 *
 * A crash between any two writes leaves entries that are as they were or as they shall be, and
 * copies that nothing names: the next repair finishes.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "format/qcow2/check.h"
#include <inttypes.h>

#define L1_PIECE_BYTES (256 * KiB)
/* A repair makes a file at most twice as long, or this many clusters longer. */
#define COPIES_FREE 64

/* ---- L1 tables ---- */

/* One L1 entry under repair. */
struct l1_place {
    uint32_t index;
    bool active;
};

static void drop_l1_entry(struct checker *c, uint64_t *entry, const struct l1_place *place)
{
    unsigned bits = 2 * c->cluster_bits - (c->extended_l2 ? 4 : 3);
    uint64_t start = (uint64_t)place->index << bits, length = (uint64_t)1 << bits;
    *entry = 0;
    if (!place->active)
        check_note(c,
                   "an L2 table of a snapshot is given up: guest offsets %#" PRIx64 "..%#" PRIx64,
                   start, start + length);
    else if (start < c->virtual_size)
        check_note(c,
                   "an L2 table is given up: guest offsets %#" PRIx64 "..%#" PRIx64
                   " read as if never written",
                   start, MIN(start + length, c->virtual_size));
}

/*
 * Does a cluster look like an L2 table? Where something else refers to it too, every entry must
 * make sense; otherwise half of them.
 */
static int co_is_l2(struct checker *c, uint64_t cluster, bool *ret)
{
    autofree uint8_t *table = qcow2_buffer(c->cluster_size);
    size_t step = c->extended_l2 ? 16 : 8, used = 0, odd = 0;
    if (!table)
        return -ENOMEM;
    *ret = true; /* unreadable: told; it stays */
    int result = co_check_read(c, cluster << c->cluster_bits, c->cluster_size, table, NULL);
    if (result < 0)
        return result == -ENOMEM ? result : 0;
    for (size_t at = 0; at < c->cluster_size; at += step) {
        uint64_t entry = load_be64(table + at);
        used += entry != 0;
        odd += entry != 0 && !check_entry_plausible(c, entry);
    }
    bool contested = check_is_contested(c, cluster << c->cluster_bits, 1);
    *ret = contested ? odd == 0 : odd * 2 <= used;
    return 0;
}

/* Where the table of an entry can be taken to lie. @return 0: nowhere. */
static uint64_t l2_cluster(struct checker *c, uint64_t offset)
{
    uint64_t cluster = offset >> c->cluster_bits;
    if (cluster >= c->file_clusters)
        return 0;
    if (!is_aligned(offset, c->cluster_size) &&
        (!c->known || check_map_count(c->known, cluster) != 0))
        return 0;
    return cluster;
}

static int co_mend_l1_entry(struct checker *c, uint64_t *entry, const struct l1_place *place)
{
    bool fits;
    *entry &= ~QCOW2_L1_RESERVED;
    uint64_t offset = *entry & QCOW2_OFFSET_MASK, cluster = l2_cluster(c, offset);
    if (offset == 0) {
        *entry = 0;
        return 0;
    }
    if (cluster == 0) {
        drop_l1_entry(c, entry, place);
        return 0;
    }
    *entry = (*entry & QCOW2_COPIED) | cluster << c->cluster_bits;
    uint64_t count = check_map_count(&c->map, cluster);
    if (count == 0) {
        int result = co_is_l2(c, cluster, &fits);
        if (result < 0)
            return result;
        if (!fits) {
            drop_l1_entry(c, entry, place);
            return 0;
        }
    }
    int result = check_claim_cluster(c, cluster, CHECK_L2, 1, "", 0);
    if (result < 0)
        return result;
    if (result > 0) {
        if ((check_map_kind(&c->map, cluster) & CHECK_KIND_MASK) != CHECK_L2) {
            drop_l1_entry(c, entry, place);
            return 0;
        }
        if (c->mend == CHECK_DROP)
            return 0; /* more references than can be counted: the second pass copies it */
        result = co_check_copy(c, cluster, 1, CHECK_L2, 1, &cluster);
        if (result != 0) {
            drop_l1_entry(c, entry, place);
            return MIN(result, 0);
        }
        *entry = cluster << c->cluster_bits;
        count = 0;
    }
    if (place->active)
        check_note_copied(c, cluster << c->cluster_bits, *entry);
    return count == 0
               ? check_remember_l2(c, cluster << c->cluster_bits, place->index, place->active)
               : 0;
}

/* Does all of a contested area look like an L1 table? */
static int co_is_l1(struct checker *c, uint64_t offset, uint64_t bytes, bool *ret)
{
    *ret = true;
    if (!check_is_contested(c, offset, bytes))
        return 0;
    autofree uint8_t *table = qcow2_buffer(bytes);
    if (!table)
        return -ENOMEM;
    int result = co_check_read(c, offset, bytes, table, NULL);
    for (uint64_t at = 0; at < bytes && result >= 0; at += 8) {
        uint64_t entry = load_be64(table + at), l2 = entry & QCOW2_OFFSET_MASK;
        if ((entry & QCOW2_L1_RESERVED) || !is_aligned(l2, c->cluster_size) ||
            l2 >> c->cluster_bits >= c->file_clusters)
            *ret = false;
    }
    return result == -ENOMEM ? result : 0;
}

static int co_mend_piece(struct checker *c, uint64_t offset, uint8_t *piece, size_t length,
                         struct l1_place place)
{
    bool changed = false;
    uint64_t copied = c->copied;
    for (size_t i = 0; i < length; i += 8, place.index++) {
        uint64_t entry = load_be64(piece + i), before = entry;
        int result = entry ? co_mend_l1_entry(c, &entry, &place) : 0;
        if (result < 0)
            return result;
        store_be64(piece + i, entry);
        changed |= entry != before;
    }
    int result = copied != c->copied ? co_check_sync(c) : 0;
    return result < 0 || !changed ? result : co_check_write(c, offset, piece, length);
}

/* @return 0, 1 where the table cannot be used, or -errno. */
static int co_mend_l1(struct checker *c, uint64_t offset, uint32_t entries, bool active)
{
    uint64_t bytes = (uint64_t)entries * 8;
    if (entries == 0)
        return 0;
    int result = check_claim_area(c, offset, bytes, CHECK_L1, "", 0);
    if (result != 0)
        return result;
    autofree uint8_t *piece = qcow2_buffer(MIN(bytes, L1_PIECE_BYTES));
    if (!piece)
        return -ENOMEM;
    for (uint64_t at = 0; at < bytes; at += L1_PIECE_BYTES) {
        size_t length = MIN(bytes - at, L1_PIECE_BYTES);
        struct l1_place place = {.index = (uint32_t)(at / 8), .active = active};
        bool zero;
        if (co_check_read(c, offset + at, length, piece, &zero) < 0) {
            c->incomplete = true;
            continue;
        }
        result = zero ? 0 : co_mend_piece(c, offset + at, piece, length, place);
        if (result < 0)
            return result;
    }
    return 0;
}

/* ---- L2 tables ---- */

static uint64_t l2_offset(struct checker *c, size_t index)
{
    return c->l2[index].offset;
}

static int co_mend_l2(struct checker *c, size_t index, uint8_t *table)
{
    const struct check_l2 *l2 = &c->l2[index];
    size_t step = c->extended_l2 ? 16 : 8, entries = c->cluster_size / step;
    struct check_entry e = {.times = check_map_count(&c->map, l2->offset >> c->cluster_bits),
                            .active = l2->active};
    uint64_t copied = c->copied;
    int changed = 0;
    c->incomplete |= !table;
    for (size_t i = 0; i < entries && table; i++) {
        uint8_t *at = table + i * step;
        uint64_t value = load_be64(at), bitmap = c->extended_l2 ? load_be64(at + 8) : 0;
        if (value == 0 && bitmap == 0)
            continue;
        e.value = value;
        e.bitmap = bitmap;
        e.guest = (l2->l1_index * (uint64_t)entries + i) << c->cluster_bits;
        int result = co_check_mend_entry(c, &e);
        if (result < 0)
            return result;
        if (e.value == value && e.bitmap == bitmap)
            continue;
        store_be64(at, e.value);
        if (c->extended_l2)
            store_be64(at + 8, e.bitmap);
        changed = 1;
    }
    int result = copied != c->copied ? co_check_sync(c) : 0;
    return result < 0 ? result : changed;
}

/* ---- passes ---- */

static int co_mend_snapshot_tables(struct checker *c)
{
    int result = co_check_snapshots(c);
    if (result >= 0)
        result = check_claim_snapshots(c);
    for (size_t i = 0; i < c->snapshots_read && result >= 0; i++) {
        struct check_snapshot *snapshot = &c->snapshots[i];
        bool fits = !snapshot->unusable;
        if (fits)
            result = co_is_l1(c, snapshot->l1_offset, (uint64_t)snapshot->l1_entries * 8, &fits);
        if (fits && result >= 0)
            result = co_mend_l1(c, snapshot->l1_offset, snapshot->l1_entries, false);
        snapshot->unusable = !fits || result > 0;
    }
    return MIN(result, 0);
}

static int co_pass(struct checker *c)
{
    int result = check_claim_cluster(c, 0, CHECK_HEADER, 1, "header", 0);
    if (result >= 0 && c->crypt_length && c->crypt_length <= CHECK_CRYPT_BYTES_MAX)
        result = check_claim_area(c, c->crypt_offset, c->crypt_length, CHECK_CRYPT_HEADER, "", 0);
    if (result >= 0)
        result = co_mend_l1(c, c->l1_offset, c->l1_entries, true);
    c->incomplete |= result > 0;
    if (result >= 0)
        result = co_mend_snapshot_tables(c);
    if (result >= 0)
        result = co_check_bitmaps(c);
    c->steps_total = c->l2_count;
    if (result >= 0)
        result = co_check_each_table(c, c->l2_count, l2_offset, co_mend_l2);
    check_lost_tell(c);
    return result < 0 ? result : co_check_sync(c);
}

/* Between the passes: what was counted, and what the header said. */
static int co_begin_again(struct checker *c)
{
    size_t limit = c->map.limit;
    check_map_free(&c->map);
    free(steal_ptr(&c->snapshots));
    c->snapshots_read = 0;
    c->snapshot_bytes = 0;
    c->rewrite_snapshots = c->drop_bitmaps = c->incomplete = false;
    c->bitmap_count = 0;
    c->l2_count = 0;
    c->steps_done = 0;
    int result = co_check_read_header(c);
    return result < 0 ? result : check_map_init(&c->map, limit);
}

/* Nothing is appended before this has ended: see check_snapshots.c. */
static int co_drop_pass(struct checker *c)
{
    c->mend = CHECK_DROP;
    int result = co_check_read_header(c);
    if (result >= 0)
        result = check_map_init(&c->map, c->known->limit);
    if (result >= 0)
        result = co_pass(c);
    if (result >= 0)
        result = co_check_mend_snapshots(c);
    if (result >= 0)
        result = co_check_drop_bitmaps(c);
    return result < 0 ? result : co_check_sync(c);
}

static int co_move_pass(struct checker *c)
{
    c->mend = CHECK_MOVE;
    int result = co_begin_again(c);
    if (result < 0)
        return result;
    c->next_new = c->file_clusters;
    c->copies_max = COPIES_FREE + c->file_clusters;
    c->map.limit += c->copies_max / CHECK_CHUNK_CLUSTERS * 2 + 4;
    return co_pass(c);
}

int co_check_mend(struct checker *c, struct check_map *known)
{
    c->known = known;
    int result = co_drop_pass(c);
    if (result >= 0)
        result = co_move_pass(c);
    if (result < 0)
        return result;
    /* The rest works on the file as it is now. */
    c->file_size = block_size(c->file);
    c->file_clusters = div_round_up(c->file_size, c->cluster_size);
    result = co_check_walk_refcounts(c);
    return result < 0 ? result : co_check_compare(c);
}
