/*
 * Shrinking the virtual size, in steps that each leave a whole image of the old size or of the new:
 *
 *   1  what lies behind the new end reads as zeroes, durably: its host clusters are free. In the
 *      last cluster too, as not every program clears that when it grows the image
 *   2  the header has the new size, durably
 *   3  L1 entries behind the new end go, and with them their L2 tables
 *   4  the file ends behind its last cluster in use (trim.c)
 *
 * Version 2 cannot say "zeroes" over a backing file: there the entries go after step 2. A crash in
 * between leaves entries behind the end, which a growth clears (resize.c). Internal snapshots keep
 * what is theirs: they share clusters and tables by count.
 *
 * Once the header has the new size, what fails costs space only, and so is told to the log alone.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/log.h"
#include "format/qcow2/qcow2.h"

/* An L1 entry and its table; entries on disk are gone with the next pass. Caller holds alloc_lock.
 */
static int co_drop_table(struct qcow2 *q, uint64_t index)
{
    int r = qcow2_freed_reserve(q, 1);
    if (r == 0) {
        r = qcow2_keep_reserve(q, 1);
        if (r < 0)
            qcow2_freed_unreserve(q, 1);
    }
    if (r < 0)
        return r;
    rt_mutex_lock(&q->lock);
    qcow2_freed_add(q, q->l1[index] & QCOW2_OFFSET_MASK, 1, true);
    q->l1[index] = 0;
    qcow2_mark_l1(q, index);
    rt_mutex_unlock(&q->lock);
    return 0;
}

/* Their slices are clean, as a pass has run since the last change, and nobody asks for them. */
static int co_drop_tables(struct qcow2 *q, uint64_t size)
{
    uint64_t first = div_round_up(size, 1ull << (q->cluster_bits + q->l2_bits));
    int r = 0;
    co_mutex_lock(&q->alloc_lock);
    for (uint64_t i = first; i < q->header.l1_size && r == 0; i++) {
        uint64_t table = q->l1[i] & QCOW2_OFFSET_MASK;
        if (!table)
            continue;
        r = is_aligned(table, q->cluster_size) ? co_drop_table(q, i) : -EIO;
        if (r == 0 && q->freed.clusters >= qcow2_freed_many(q)) {
            r = qcow2_co_flush_pass(q);
            qcow2_co_reclaim_locked(q);
        }
    }
    co_mutex_unlock(&q->alloc_lock);
    return r;
}

/* Which size the disk has after a failure is open; where the old one cannot be put back, nothing
 * may be written behind the new end any more. */
static int co_size_cut(struct qcow2 *q, uint64_t size)
{
    uint64_t old_size = q->header.size;
    co_mutex_lock(&q->alloc_lock);
    q->header.size = size;
    int r = qcow2_co_header_store(q);
    if (r < 0) {
        q->header.size = old_size;
        int undone = qcow2_co_header_store(q);
        if (undone < 0)
            atomic_store(&q->broken, r);
    }
    co_mutex_unlock(&q->alloc_lock);
    return r;
}

/* Steps 3 and 4. */
static int co_give_back(struct qcow2 *q, uint64_t start, uint64_t end, bool cut)
{
    int r = cut ? 0 : qcow2_co_cut(q, start, end, true);
    if (r == 0)
        r = qcow2_co_flush_pass(q);
    if (r == 0)
        r = co_drop_tables(q, start);
    if (r == 0)
        r = qcow2_co_flush(q->node);
    if (r == 0)
        r = qcow2_co_trim(q);
    return r;
}

int qcow2_co_shrink(struct qcow2 *q, uint64_t size)
{
    uint64_t start = align_up(size, q->cluster_size);
    /* What lies behind the old end, as the state of a machine does, goes too. */
    uint64_t end = (uint64_t)q->header.l1_size << (q->cluster_bits + q->l2_bits);
    bool can_zero = q->header.version >= 3 || !q->node->child[BLOCK_BACKING];
    int r = qcow2_co_prepare_write(q);
    if (r == 0 && can_zero)
        r = qcow2_co_cut(q, start, end, false);
    if (r == 0)
        r = qcow2_co_flush(q->node);
    if (r == 0)
        r = qcow2_co_clear_part(q, size, MIN(start, end));
    if (r == 0)
        r = qcow2_co_flush_pass(q);
    if (r == 0)
        r = co_size_cut(q, size);
    if (r < 0)
        return r;
    /* Discards that keep their place have left zero clusters with host clusters. */
    int left = co_give_back(q, start, end, can_zero && !q->discard_no_unref);
    if (left < 0)
        log_warning("'%s': it has its new size, but not all of the space behind it could be given "
                    "back: %s",
                    q->node->filename, strerror(-left));
    return 0;
}

/* Steps 3 and 4 alone, from the start: what is below shows through, entry after entry. */
int qcow2_co_make_empty(struct block_node *node, struct hws_error *err)
{
    struct qcow2 *q = qcow2_of(node);
    int r = qcow2_co_prepare_write(q);
    if (r == 0)
        r = co_give_back(q, 0, align_up(q->header.size, q->cluster_size), false);
    return r < 0 ? hws_fail_errno(err, -r, "'%.200s': giving up its data", node->filename) : 0;
}
