/*
 * Compaction: what lies at the end of the file moves into the holes in front, and the file is cut
 * behind what is left.
 *
 *   |data|hole|data|hole|hole|data|L2|data|        U clusters in use: the border is behind the U-th
 *                       ^ border                   from here on clusters move to holes before it
 *
 * A data cluster: its bytes to the new place, its L2 entry in memory; a flush pass makes these
 * durable in that order, and only then the old place is free (free.c). An L2 table, once all slices
 * are on disk: its bytes to the new place, its L1 entry. So a crash leaves one place or the other
 * in use, and leaks at most.
 *
 * Only what the image has for itself alone moves: not what snapshots share or hold, and not
 * compressed clusters, of which several share a place. No request may be in flight.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "format/qcow2/compact.h"

#define PIECE_BYTES (1 * MiB)
/* More rounds find what the one before has made room for; they soon find nothing. */
#define ROUNDS_MAX 4

struct compaction {
    struct qcow2 *q;
    const struct block_progress *progress;
    struct block_compact *ret;
    uint8_t *buffer;
    uint32_t piece; /* clusters a step */
    uint64_t border;
    bool full; /* no hole is left in front of the border */
    uint64_t moved_clusters;
};

/* ---- how much is in use ---- */

static int co_count_used(struct qcow2 *q, uint64_t *ret)
{
    uint64_t end = q->fresh_cluster, run;
    *ret = 0;
    for (uint64_t cluster = 0; cluster < end; cluster += run) {
        struct qcow2_slice *slice;
        uint32_t index;
        int r = qcow2_co_refcount_slice(q, cluster, QCOW2_SLICE_READ, &slice, &index);
        if (r < 0)
            return r;
        run = MIN(end - cluster, (uint64_t)(qcow2_refcounts_per_slice(q) - index));
        if (!slice)
            continue;
        rt_mutex_lock(&q->lock);
        for (uint64_t i = 0; i < run; i++)
            *ret += qcow2_refcount_read(slice->data, q->refcount_order, index + (uint32_t)i) != 0;
        qcow2_slice_unpin(q, slice);
        rt_mutex_unlock(&q->lock);
    }
    return 0;
}

/* ---- data clusters ---- */

/* Clusters from @guest on, at most @most in its slice, that are ours, lie behind the border, and
 * follow each other in the file. Caller holds q->lock. @ret_host of the first. */
static uint32_t movable(const struct compaction *c, struct qcow2_slice *slice, uint64_t guest,
                        uint32_t most, uint64_t *ret_host)
{
    const struct qcow2 *q = c->q;
    uint32_t run = 0;
    for (; run < most; run++) {
        const uint8_t *at = qcow2_l2_entry(q, slice, guest + ((uint64_t)run << q->cluster_bits));
        uint64_t entry = load_be64(at), host = entry & QCOW2_OFFSET_MASK;
        if (!qcow2_entry_valid(q, at) || entry & QCOW2_COMPRESSED || !(entry & QCOW2_COPIED) ||
            host >> q->cluster_bits < c->border)
            break;
        if (run == 0)
            *ret_host = host;
        else if (host != *ret_host + ((uint64_t)run << q->cluster_bits))
            break;
    }
    return run;
}

/* @return clusters in front of the border, 0 where there are none, or -errno. A promised entry of
 * the freed list is there; it is left only where clusters were found. */
static int64_t co_take_hole(struct compaction *c, uint32_t want, uint64_t *ret_host)
{
    struct qcow2 *q = c->q;
    uint32_t got;
    int r = qcow2_co_alloc(q, want, ret_host, &got, NULL);
    if (r < 0) {
        qcow2_freed_unreserve(q, 1);
        return r;
    }
    if ((*ret_host >> q->cluster_bits) + got <= c->border)
        return got;
    c->full = true;
    rt_mutex_lock(&q->lock);
    qcow2_freed_add(q, *ret_host, got, false);
    rt_mutex_unlock(&q->lock);
    return 0;
}

static int co_copy(struct compaction *c, uint64_t from, uint64_t to, uint64_t length)
{
    struct iovec iov;
    struct sgl list = sgl_one(&iov, c->buffer, length);
    int r = co_block_read_padded(c->q->file, from, list);
    return r < 0 ? r : co_block_write(c->q->file, to, list, 0);
}

/* Entries of @count clusters from @guest on go over to @to. Uses one promised entry. */
static int move_entries(struct qcow2 *q, struct qcow2_slice *slice, uint64_t guest, uint32_t count,
                        uint64_t from, uint64_t to)
{
    rt_mutex_lock(&q->lock);
    int r = qcow2_slice_touch(q, slice);
    for (uint32_t i = 0; i < count && r == 0; i++) {
        uint64_t offset = (uint64_t)i << q->cluster_bits;
        uint8_t *at = qcow2_l2_entry(q, slice, guest + offset);
        qcow2_store_entry(at, (load_be64(at) & ~QCOW2_OFFSET_MASK) | (to + offset));
    }
    qcow2_freed_add(q, r == 0 ? from : to, count, r == 0);
    rt_mutex_unlock(&q->lock);
    return r;
}

/* @return clusters of the slice that are dealt with, or -errno. */
static int64_t co_move_run(struct compaction *c, struct qcow2_slice *slice, uint64_t guest,
                           uint32_t most)
{
    struct qcow2 *q = c->q;
    uint64_t from = 0, to;
    rt_mutex_lock(&q->lock);
    uint32_t run = movable(c, slice, guest, MIN(most, c->piece), &from);
    rt_mutex_unlock(&q->lock);
    if (run == 0)
        return 1;
    int r = qcow2_freed_reserve(q, 1);
    if (r < 0)
        return r;
    int64_t got = co_take_hole(c, run, &to);
    if (got <= 0)
        return got < 0 ? got : run;
    r = co_copy(c, from, to, (uint64_t)got << q->cluster_bits);
    if (r == 0) {
        r = move_entries(q, slice, guest, (uint32_t)got, from, to);
    } else {
        rt_mutex_lock(&q->lock);
        qcow2_freed_add(q, to, (uint32_t)got, false);
        rt_mutex_unlock(&q->lock);
    }
    if (r < 0)
        return r;
    c->moved_clusters += (uint64_t)got;
    return got;
}

static int co_move_slice(struct compaction *c, uint64_t guest)
{
    struct qcow2 *q = c->q;
    struct qcow2_slice *slice;
    uint32_t clusters = qcow2_slice_clusters_left(q, guest);
    int r = qcow2_co_l2_slice(q, guest, &slice);
    if (r < 0)
        return r;
    int64_t done = 0, part = 0;
    while (done < clusters && !c->full) {
        part = co_move_run(c, slice, guest + ((uint64_t)done << q->cluster_bits),
                           clusters - (uint32_t)done);
        if (part < 0)
            break;
        done += part;
    }
    rt_mutex_lock(&q->lock);
    qcow2_slice_unpin(q, slice);
    rt_mutex_unlock(&q->lock);
    qcow2_co_reclaim_if_many(q);
    return part < 0 ? (int)part : 0;
}

/* Where a table is not ours alone, some of what it names is a snapshot's. */
static bool own_table(const struct qcow2 *q, uint64_t index)
{
    return q->l1[index] & QCOW2_COPIED && q->l1[index] & QCOW2_OFFSET_MASK;
}

static int co_move_data(struct compaction *c)
{
    struct qcow2 *q = c->q;
    uint64_t table_bytes = 1ull << (q->cluster_bits + q->l2_bits);
    uint64_t size = q->header.size;
    for (uint64_t i = 0; i < q->header.l1_size && !c->full; i++) {
        uint64_t end = MIN((i + 1) * table_bytes, align_up(size, q->cluster_size));
        if (!own_table(q, i) || qcow2_has_data_file(q))
            continue;
        for (uint64_t guest = i * table_bytes; guest < end && !c->full;
             guest += (uint64_t)qcow2_slice_clusters_left(q, guest) << q->cluster_bits) {
            int r = block_progress_step(c->progress, MIN(guest, size), size);
            if (r == 0)
                r = co_move_slice(c, guest);
            if (r < 0)
                return r;
        }
    }
    return 0;
}

/* ---- L2 tables ---- */

/* All slices are on disk and nobody changes one. Caller holds alloc_lock. */
static int co_move_table(struct compaction *c, uint64_t index)
{
    struct qcow2 *q = c->q;
    uint64_t from = q->l1[index] & QCOW2_OFFSET_MASK, to;
    uint32_t got;
    int r = qcow2_freed_reserve(q, 1);
    if (r < 0)
        return r;
    r = qcow2_co_alloc_locked(q, 1, false, &to, &got);
    if (r < 0) {
        qcow2_freed_unreserve(q, 1);
        return r;
    }
    c->full = to >> q->cluster_bits >= c->border;
    if (!c->full) {
        r = qcow2_keep_reserve(q, 1);
        if (r == 0)
            r = qcow2_cache_invalidate(q, to, q->cluster_size);
        if (r == 0)
            r = co_copy(c, from, to, q->cluster_size);
    }
    bool moved = r == 0 && !c->full;
    rt_mutex_lock(&q->lock);
    if (moved) {
        q->l1[index] = to | QCOW2_COPIED;
        qcow2_guard_add(q, to);
        qcow2_mark_l1(q, index);
    }
    qcow2_freed_add(q, moved ? from : to, 1, moved);
    rt_mutex_unlock(&q->lock);
    if (moved)
        qcow2_co_cache_drop(q, from, q->cluster_size);
    c->moved_clusters += moved;
    return r;
}

static int co_move_tables(struct compaction *c)
{
    struct qcow2 *q = c->q;
    co_mutex_lock(&q->alloc_lock);
    int r = qcow2_co_flush_pass(q);
    for (uint64_t i = 0; i < q->header.l1_size && r == 0 && !c->full; i++) {
        uint64_t host = q->l1[i] & QCOW2_OFFSET_MASK;
        if (own_table(q, i) && is_aligned(host, q->cluster_size) &&
            host >> q->cluster_bits >= c->border)
            r = co_move_table(c, i);
    }
    co_mutex_unlock(&q->alloc_lock);
    return r;
}

/* ---- clusters of zeroes ---- */

static int co_zero_run(struct compaction *c, uint64_t guest, uint64_t length)
{
    struct qcow2 *q = c->q;
    for (uint64_t at = guest; at < guest + length; at += q->cluster_size) {
        struct iovec iov;
        struct sgl list = sgl_one(&iov, c->buffer, q->cluster_size);
        int r = qcow2_co_read_guest(q, at, list);
        if (r < 0)
            return r;
        if (!buffer_is_zero(c->buffer, q->cluster_size))
            continue;
        r = qcow2_co_zero_range(q, at, at + q->cluster_size);
        if (r < 0)
            return r;
        c->ret->zeroed_bytes += q->cluster_size;
    }
    return 0;
}

/* Whole clusters of data that hold nothing but zeroes go. */
static int co_drop_zeroes(struct compaction *c)
{
    struct qcow2 *q = c->q;
    uint64_t size = align_down(q->header.size, q->cluster_size);
    bool can_say = q->header.version >= 3 || !q->node->child[BLOCK_BACKING];
    for (uint64_t guest = 0; guest < size && can_say && !qcow2_has_data_file(q);) {
        struct qcow2_extent e;
        int r = block_progress_step(c->progress, guest, size);
        if (r == 0)
            r = qcow2_co_map_lock(q, guest, MIN(size - guest, (uint64_t)PIECE_BYTES), &e);
        if (r < 0)
            return r;
        rt_mutex_unlock(&q->lock);
        bool stored = e.kind == QCOW2_KIND_DATA || e.kind == QCOW2_KIND_COMPRESSED;
        uint64_t next = stored ? align_up(guest + e.length, q->cluster_size)
                               : align_down(guest + e.length, q->cluster_size);
        next = MIN(MAX(next, guest + q->cluster_size), size);
        if (stored)
            r = co_zero_run(c, guest, next - guest);
        if (r < 0)
            return r;
        guest = next;
    }
    return qcow2_co_flush(q->node);
}

/* ---- all of it ---- */

/* Freed clusters are holes only when a pass has made it durable that nobody names them. */
static int co_settle(struct qcow2 *q)
{
    int r = qcow2_co_flush(q->node);
    return r < 0 ? r : qcow2_co_flush(q->node);
}

static int co_round(struct compaction *c)
{
    struct qcow2 *q = c->q;
    int r = co_settle(q);
    co_mutex_lock(&q->alloc_lock);
    q->free_hint = 0;
    q->freed_any = true;
    if (r == 0)
        r = co_count_used(q, &c->border);
    co_mutex_unlock(&q->alloc_lock);
    c->full = false;
    c->moved_clusters = 0;
    if (r == 0)
        r = co_move_data(c);
    c->full = false;
    if (r == 0)
        r = co_settle(q);
    if (r == 0)
        r = co_move_tables(c);
    c->ret->moved_bytes += c->moved_clusters << q->cluster_bits;
    int settled = co_settle(q);
    if (r == 0)
        r = settled;
    return r < 0 ? r : qcow2_co_trim(q);
}

static int co_compact_steps(struct compaction *c, bool zeroes)
{
    int r = zeroes ? co_drop_zeroes(c) : 0;
    for (unsigned round = 0; round < ROUNDS_MAX && r == 0; round++) {
        r = co_round(c);
        if (c->moved_clusters == 0)
            break;
    }
    return r == 0 ? block_progress_step(c->progress, c->q->header.size, c->q->header.size) : r;
}

int qcow2_co_compact(struct block_node *node, bool zeroes, const struct block_progress *progress,
                     struct block_compact *ret, struct hws_error *err)
{
    struct qcow2 *q = qcow2_of(node);
    struct compaction c = {.q = q, .progress = progress, .ret = ret};
    c.piece = (uint32_t)MAX(PIECE_BYTES >> q->cluster_bits, 1ull);
    *ret = (struct block_compact){.bytes_before = block_size(q->file)};
    c.buffer = qcow2_buffer(MAX(PIECE_BYTES, q->cluster_size));
    if (!c.buffer)
        return hws_fail(err, ENOMEM, "out of memory");
    int r = qcow2_co_prepare_metadata(q);
    if (r == 0)
        r = co_compact_steps(&c, zeroes);
    free(c.buffer);
    ret->bytes_after = block_size(q->file);
    if (r == -ECANCELED)
        return hws_fail(err, ECANCELED, "cancelled; what was moved stays moved");
    return r < 0 ? hws_fail_errno(err, -r, "'%.200s': compacting", node->filename) : 0;
}
