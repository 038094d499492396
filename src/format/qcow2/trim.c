/*
 * The end of the file: it goes back to the last cluster in use.
 *
 *   ... data | data | free | block b, which counts only itself | free | grown ahead
 *                   ^ the file ends here
 *
 * A refcount block behind all that is in use goes too: its entry of the refcount table, durably,
 * before the file is cut. What is counted 0 has no users left (free.c), and alloc_lock keeps others
 * from taking it meanwhile.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "format/qcow2/qcow2.h"

/* The last cluster of a slice whose count is not 0. @return false where there is none. */
static bool last_in_slice(const struct qcow2 *q, const uint8_t *data, uint32_t *index)
{
    uint32_t i = *index + 1;
    while (i > 0 && qcow2_refcount_read(data, q->refcount_order, i - 1) == 0)
        i--;
    *index = i - 1;
    return i > 0;
}

/* The last cluster in use in front of @end, but not in front of @start, which share a block.
 * @return 1 with @ret set, 0 where there is none, -errno. */
static int co_last_used(struct qcow2 *q, uint64_t start, uint64_t end, uint64_t *ret)
{
    while (end > start) {
        struct qcow2_slice *slice;
        uint32_t index;
        int r = qcow2_co_refcount_slice(q, end - 1, QCOW2_SLICE_READ, &slice, &index);
        if (r < 0 || !slice)
            return r;
        uint32_t at = index;
        rt_mutex_lock(&q->lock);
        bool found = last_in_slice(q, slice->data, &at);
        qcow2_slice_unpin(q, slice);
        rt_mutex_unlock(&q->lock);
        *ret = end - 1 - (index - at);
        if (found)
            return 1;
        end -= MIN(end - start, (uint64_t)index + 1);
    }
    return 0;
}

/* Does the block lie among the clusters that it describes? */
static bool counts_itself(const struct qcow2 *q, uint64_t block)
{
    return q->reftable[block] &&
           q->reftable[block] >> q->cluster_bits >> q->refcount_block_bits == block;
}

/* Where the file may end, in clusters, and the first refcount block that is not needed then. */
static int co_find_end(struct qcow2 *q, uint64_t *ret_end, uint64_t *ret_blocks)
{
    /* A damaged image may name places that no refcount block can count. */
    uint64_t end = MIN(q->fresh_cluster, q->reftable_entries << q->refcount_block_bits);
    *ret_blocks = q->reftable_entries;
    while (end > 0) {
        uint64_t block = (end - 1) >> q->refcount_block_bits, last = 0, other;
        uint64_t start = block << q->refcount_block_bits;
        if (block < q->reftable_entries && q->reftable[block]) {
            int r = co_last_used(q, start, end, &last);
            bool itself = r > 0 && block > 0 && counts_itself(q, block) &&
                          q->reftable[block] >> q->cluster_bits == last;
            if (itself)
                r = co_last_used(q, start, last, &other);
            if (r < 0)
                return r;
            if (r > 0) {
                *ret_end = last + 1;
                return 0;
            }
            if (itself)
                *ret_blocks = block; /* one that lies elsewhere may stay */
        }
        end = start;
    }
    *ret_end = 0;
    return 0;
}

/* Blocks [first, ...) leave the table, durably. A crash before that leaves them as they are. */
static int co_drop_blocks(struct qcow2 *q, uint64_t first)
{
    int r = qcow2_co_flush_pass(q); /* no slice of theirs is dirty from here on */
    if (r == 0)
        r = qcow2_keep_reserve(q, (q->reftable_entries - first) / 64 + 2);
    if (r < 0)
        return r;
    rt_mutex_lock(&q->lock);
    for (uint64_t i = first; i < q->reftable_entries; i++) {
        if (!counts_itself(q, i))
            continue;
        q->reftable[i] = 0;
        qcow2_mark_reftable(q, i);
    }
    rt_mutex_unlock(&q->lock);
    return qcow2_co_flush_pass(q);
}

static int co_trim_locked(struct qcow2 *q)
{
    uint64_t end = q->fresh_cluster, blocks = q->reftable_entries;
    if (!q->reftable)
        return 0;
    int r = atomic_load(&q->broken);
    if (r == 0 && q->freed_any)
        r = co_find_end(q, &end, &blocks);
    if (r == 0 && blocks < q->reftable_entries)
        r = co_drop_blocks(q, blocks);
    if (r == 0 && end << q->cluster_bits < block_size(q->file))
        r = co_block_resize(q->file, end << q->cluster_bits, NULL);
    if (r == 0)
        q->fresh_cluster = MIN(end, q->fresh_cluster);
    return r;
}

int qcow2_co_trim(struct qcow2 *q)
{
    co_mutex_lock(&q->alloc_lock);
    int r = co_trim_locked(q);
    co_mutex_unlock(&q->alloc_lock);
    return r == -ENOTSUP || r == -EINVAL ? 0 : r; /* a device of fixed size */
}
