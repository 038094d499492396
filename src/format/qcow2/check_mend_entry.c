/*
 * The checker's repair of one L2 entry, in the way that loses least:
 *
 *   bits that mean nothing        cleared; the rest stays
 *   an offset with odd low bits   that of its cluster, where nothing else refers to that cluster
 *   a cluster past the file's end, or anything else that cannot be read
 *                                 given up, told with its guest range: reads as zeroes from now on
 *   a cluster that something else uses as well, in another way or more often than the refcounts'
 *   width allows                  copied: both keep the bytes that they show now
 *
 * In an image with a backing file what is given up reads as zeroes too, not as what lies below;
 * version 2 has no way to say so, and shows the backing file.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "format/qcow2/check.h"
#include <inttypes.h>

void check_compressed_range(const struct checker *c, uint64_t entry, uint64_t *ret_offset,
                            uint64_t *ret_end)
{
    unsigned size_shift = 62 - (c->cluster_bits - 8);
    uint64_t offset = entry & (((uint64_t)1 << size_shift) - 1);
    uint64_t sectors = ((entry & (QCOW2_COMPRESSED - 1)) >> size_shift) + 1;
    *ret_offset = offset;
    *ret_end = align_down(offset, 512) + sectors * 512;
}

static uint64_t reserved_bits(const struct checker *c)
{
    return QCOW2_L2_RESERVED | (c->version == 2 || c->extended_l2 ? QCOW2_ZERO : 0);
}

bool check_entry_plausible(const struct checker *c, uint64_t entry)
{
    if (entry & QCOW2_COMPRESSED)
        return !(entry & QCOW2_COPIED) && !c->external_data;
    return !(entry & reserved_bits(c)) && is_aligned(entry & QCOW2_OFFSET_MASK, c->cluster_size);
}

/* ---- copies ---- */

int co_check_copy(struct checker *c, uint64_t from, uint64_t count, enum check_kind kind,
                  uint64_t times, uint64_t *ret_cluster)
{
    if (count > c->copies_max - c->copied)
        return 1;
    autofree uint8_t *buffer = qcow2_buffer(c->cluster_size);
    if (!buffer)
        return -ENOMEM;
    for (uint64_t i = 0; i < count; i++) {
        int result = co_check_read(c, (from + i) << c->cluster_bits, c->cluster_size, buffer, NULL);
        if (result == -ENOMEM)
            return result;
        if (result < 0)
            return 1;
        result = co_check_write(c, (c->next_new + i) << c->cluster_bits, buffer, c->cluster_size);
        if (result >= 0)
            result = check_map_set(&c->map, c->next_new + i, times, kind);
        if (result < 0)
            return result;
    }
    *ret_cluster = c->next_new;
    c->next_new += count;
    c->copied += count;
    return 0;
}

/* ---- what cannot be kept ---- */

static void give_up(struct checker *c, struct check_entry *e)
{
    check_lost(c, e->guest, c->cluster_size);
    if (c->extended_l2) {
        uint64_t sure = e->value & QCOW2_COMPRESSED ? QCOW2_SUB_ZERO : e->bitmap & QCOW2_SUB_ZERO;
        uint64_t lost = e->value & QCOW2_COMPRESSED ? 0 : e->bitmap << 32;
        e->bitmap = sure | lost;
        e->value = 0;
    } else {
        e->value = c->version >= 3 && c->has_backing ? QCOW2_ZERO : 0;
    }
}

/* No subcluster of it shows the cluster: its place is of no account. */
static bool shows_nothing(const struct checker *c, const struct check_entry *e)
{
    return c->extended_l2 ? !(e->bitmap & QCOW2_SUB_ALLOCATED)
                          : c->version >= 3 && (e->value & QCOW2_ZERO);
}

static void drop_standard(struct checker *c, struct check_entry *e)
{
    e->value &= ~reserved_bits(c);
    uint64_t offset = e->value & QCOW2_OFFSET_MASK, down = align_down(offset, c->cluster_size);
    uint64_t cluster = down >> c->cluster_bits;
    /* The first cluster of a data file lies at 0; the flag alone tells it from one that is not
     * there.
     */
    if (offset == 0 && !(c->external_data && e->guest == 0))
        e->value &= ~QCOW2_COPIED;
    if (offset == 0 || c->external_data)
        return;
    bool inside = cluster != 0 && cluster < c->file_clusters;
    if (inside && offset == down)
        return;
    if (shows_nothing(c, e)) {
        e->value &= QCOW2_ZERO;
    } else if (inside && c->known && check_map_count(c->known, cluster) == 0 &&
               check_map_set(c->known, cluster, 1, CHECK_DATA) == 0) {
        e->value = (e->value & ~QCOW2_OFFSET_MASK) | down;
        check_note(c, "guest offset %#" PRIx64 ": taken to lie at %#" PRIx64 ", not %#" PRIx64,
                   e->guest, down, offset);
    } else {
        give_up(c, e);
    }
}

static void drop_compressed(struct checker *c, struct check_entry *e)
{
    uint64_t offset, end;
    e->value &= ~QCOW2_COPIED;
    check_compressed_range(c, e->value, &offset, &end);
    if (c->external_data || offset >= c->file_size ||
        (end - 1) >> c->cluster_bits >= c->file_clusters)
        give_up(c, e);
}

/* "allocated" and "zero" exclude each other; data that is there is not given up. */
static void drop_bits(struct checker *c, struct check_entry *e)
{
    if (e->value & QCOW2_COMPRESSED) {
        e->bitmap = 0;
        return;
    }
    if ((e->value & QCOW2_OFFSET_MASK) == 0 && !c->external_data &&
        (e->bitmap & QCOW2_SUB_ALLOCATED))
        give_up(c, e);
    uint64_t both = e->bitmap & (e->bitmap >> 32) & QCOW2_SUB_ALLOCATED;
    if (both)
        check_note(c,
                   "guest offset %#" PRIx64 ": subclusters %#" PRIx64
                   " were marked both data and zero; they show their data",
                   e->guest, both);
    e->bitmap &= ~(both << 32);
}

static void drop(struct checker *c, struct check_entry *e)
{
    if (e->value & QCOW2_COMPRESSED)
        drop_compressed(c, e);
    else if (e->value)
        drop_standard(c, e);
    if (c->extended_l2)
        drop_bits(c, e);
}

/* ---- overlaps ---- */

static int co_move_standard(struct checker *c, struct check_entry *e)
{
    uint64_t offset = e->value & QCOW2_OFFSET_MASK, cluster = offset >> c->cluster_bits, copy;
    if (offset == 0 || c->external_data)
        return 0;
    if (e->active && e->times == 1 && (e->value & QCOW2_COPIED) && check_map_once(&c->map, cluster))
        return 0;
    bool alias = e->active && check_is_active(c, cluster);
    int result = alias ? 1 : check_claim_cluster(c, cluster, CHECK_DATA, e->times, "", 0);
    if (result > 0) {
        result = co_check_copy(c, cluster, 1, CHECK_DATA, e->times, &copy);
        if (result > 0 && alias &&
            (result = check_claim_cluster(c, cluster, CHECK_DATA, e->times, "", 0)) == 0) {
            check_note_copied(c, offset, e->value); /* shared, then: the counts allow it */
            return 0;
        }
        if (result != 0) {
            give_up(c, e);
            return MIN(result, 0);
        }
        offset = copy << c->cluster_bits;
        e->value = (e->value & ~(QCOW2_OFFSET_MASK | QCOW2_COPIED)) | offset;
        check_note(c, "guest offset %#" PRIx64 ": copied from %#" PRIx64 " to %#" PRIx64, e->guest,
                   cluster << c->cluster_bits, offset);
    }
    if (result >= 0 && e->active)
        check_note_copied(c, offset, e->value);
    return MIN(result, 0);
}

static int co_move_compressed(struct checker *c, struct check_entry *e)
{
    uint64_t offset, end, copy, done = 0;
    check_compressed_range(c, e->value, &offset, &end);
    uint64_t first = offset >> c->cluster_bits, last = (end - 1) >> c->cluster_bits;
    bool table = false; /* no stream can lie there */
    int result = 0;
    for (; first + done <= last && result == 0; done += result == 0)
        result = check_claim_cluster(c, first + done, CHECK_COMPRESSED, e->times, "", 0);
    if (result <= 0)
        return result;
    for (uint64_t cluster = first; cluster <= last; cluster++) {
        enum check_kind kind = check_map_kind(&c->map, cluster) & CHECK_KIND_MASK;
        table |= kind == CHECK_L2 || check_kind_is_exclusive(kind);
    }
    while (done-- > 0) {
        uint64_t count = check_map_count(&c->map, first + done) - e->times;
        int undone =
            check_map_set(&c->map, first + done, count, count ? CHECK_COMPRESSED : CHECK_FREE);
        if (undone < 0)
            return undone;
    }
    result =
        table ? 1 : co_check_copy(c, first, last - first + 1, CHECK_COMPRESSED, e->times, &copy);
    if (result != 0) {
        give_up(c, e);
        return MIN(result, 0);
    }
    e->value = e->value - (first << c->cluster_bits) + (copy << c->cluster_bits);
    check_note(c,
               "guest offset %#" PRIx64 ": compressed data copied from %#" PRIx64 " to %#" PRIx64,
               e->guest, first << c->cluster_bits, copy << c->cluster_bits);
    return 0;
}

int co_check_mend_entry(struct checker *c, struct check_entry *e)
{
    if (c->mend == CHECK_DROP) {
        drop(c, e);
        return 0;
    }
    /* A table that was copied has not been through the first pass at its new place. */
    return e->value & QCOW2_COMPRESSED ? co_move_compressed(c, e) : co_move_standard(c, e);
}
