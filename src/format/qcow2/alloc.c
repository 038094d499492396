/*
 * Allocation of host clusters, and the table of allocations in flight.
 *
 * Clusters are looked for from free_hint on, which only moves forward except when something below
 * it becomes free. So writes that arrive together get neighbouring clusters, and holes are found
 * again.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "format/qcow2/qcow2.h"

/* ---- where guest data may lie ---- */

int qcow2_check_host(struct qcow2 *q, uint64_t host, uint64_t length)
{
    for (unsigned i = 0; i < ARRAY_LEN(q->reserved_range); i++)
        if (q->reserved_range[i].length &&
            ranges_overlap(host, length, q->reserved_range[i].offset, q->reserved_range[i].length))
            return block_corrupt(q->node, host, NULL,
                                 "a cluster in use as data lies over the header or a table");
    return 0;
}

int qcow2_co_zero_blocks(struct block_node *file, uint64_t host, uint64_t length)
{
    static uint8_t zeroes[64 * KiB] __attribute__((aligned(QCOW2_BUFFER_ALIGNMENT)));
    struct iovec iov[32];
    while (length) {
        unsigned n = 0;
        uint64_t part = 0;
        while (n < ARRAY_LEN(iov) && part < length) {
            size_t piece = (size_t)MIN(length - part, (uint64_t)sizeof(zeroes));
            iov[n++] = (struct iovec){.iov_base = zeroes, .iov_len = piece};
            part += piece;
        }
        int r = co_block_write(file, host, sgl_of(iov, n), 0);
        if (r < 0)
            return r;
        host += part;
        length -= part;
    }
    return 0;
}

int qcow2_co_zero_host(struct qcow2 *q, uint64_t host, uint64_t length)
{
    return qcow2_co_zero_blocks(q->file, host, length);
}

/* ---- the search ---- */

struct run {
    uint64_t first;
    uint32_t count;
};

/* Looks through one slice. @return true when @run is what was wanted or as long as it gets. */
static bool search_slice(const struct qcow2 *q, const uint8_t *data, uint32_t index,
                         uint64_t cluster, uint32_t want, bool all, struct run *run)
{
    uint32_t per_slice = qcow2_refcounts_per_slice(q);
    for (; index < per_slice; index++, cluster++) {
        if (qcow2_refcount_read(data, q->refcount_order, index) != 0) {
            if (run->count && !all)
                return true;
            run->count = 0;
            continue;
        }
        if (run->count++ == 0)
            run->first = cluster;
        if (run->count == want)
            return true;
    }
    return run->count && !all;
}

/* @ret_lowest the first free cluster seen, for the hint. */
static int co_search(struct qcow2 *q, uint32_t want, bool all, struct run *run,
                     uint64_t *ret_lowest)
{
    uint64_t cluster = q->free_hint, end = QCOW2_HOST_END >> q->cluster_bits;
    uint32_t per_slice = qcow2_refcounts_per_slice(q);
    *run = (struct run){0};
    *ret_lowest = UINT64_MAX;
    while (cluster < end) {
        struct qcow2_slice *slice;
        uint32_t index;
        int r = qcow2_co_refcount_slice(q, cluster, 0, &slice, &index);
        if (r == 0 && !slice) {
            r = qcow2_co_refcount_block_new(q, cluster >> q->refcount_block_bits);
            if (r == 0)
                continue;
        }
        if (r < 0)
            return r;
        rt_mutex_lock(&q->lock);
        bool done = search_slice(q, slice->data, index, cluster, want, all, run);
        qcow2_slice_unpin(q, slice);
        rt_mutex_unlock(&q->lock);
        if (run->count)
            *ret_lowest = MIN(*ret_lowest, run->first);
        if (done)
            return 0;
        cluster += per_slice - index;
    }
    return -EFBIG;
}

/*
 * Makes the file reach past what is about to be allocated, some clusters at a time. An L2 entry on
 * disk may name a cluster that nobody has written yet, and it must lie inside the file. Growing
 * ahead cannot cut off anything: all that is being written lies in front of fresh_cluster. Caller
 * holds alloc_lock.
 */
static int co_make_room(struct qcow2 *q, uint64_t end_cluster)
{
    if (end_cluster << q->cluster_bits <= block_size(q->file))
        return 0;
    uint64_t ahead = MAX(QCOW2_AHEAD_BYTES >> q->cluster_bits, 4ull);
    uint64_t target = (MAX(end_cluster, q->fresh_cluster) + ahead) << q->cluster_bits;
    struct hws_error err = {0};
    int r = co_block_resize(q->file, target, &err);
    return r == -ENOTSUP || r == -EINVAL ? -ENOSPC : r; /* a device of fixed size */
}

int qcow2_co_reach_behind(struct qcow2 *q, uint64_t end_cluster)
{
    co_mutex_lock(&q->alloc_lock);
    int r = co_make_room(q, end_cluster);
    if (r == 0)
        q->fresh_cluster = MAX(q->fresh_cluster, end_cluster);
    co_mutex_unlock(&q->alloc_lock);
    return r;
}

static int co_take(struct qcow2 *q, uint32_t want, bool all, uint64_t *ret_host, uint32_t *ret_got)
{
    struct run run;
    uint64_t lowest, cluster_bytes = q->cluster_size;
    int r = co_search(q, want, all, &run, &lowest);
    if (r < 0)
        return r;
    uint64_t host = run.first << q->cluster_bits;
    rt_mutex_lock(&q->lock);
    r = qcow2_check_data_host(q, host, run.count * cluster_bytes);
    rt_mutex_unlock(&q->lock);
    if (r == 0)
        r = co_make_room(q, run.first + run.count);
    if (r == 0)
        r = qcow2_co_refcount_set_used(q, run.first, run.count);
    if (r < 0)
        return r;
    /* With @all, shorter runs in front of ours stay free: the hint must not pass them. */
    q->free_hint = lowest < run.first ? lowest : run.first + run.count;
    q->fresh_cluster = MAX(q->fresh_cluster, run.first + run.count);
    *ret_host = host;
    *ret_got = run.count;
    return 0;
}

/* Freed clusters wait for a flush. Rather than grow the file while many wait, flush now. */
static void co_reuse_rather_than_grow(struct qcow2 *q)
{
    if (q->free_hint < q->fresh_cluster)
        return;
    rt_mutex_lock(&q->lock);
    bool many = q->freed.clusters >= qcow2_freed_many(q);
    rt_mutex_unlock(&q->lock);
    if (many && qcow2_co_flush_pass(q) == 0)
        qcow2_co_reclaim_locked(q);
}

int qcow2_co_alloc_locked(struct qcow2 *q, uint32_t want, bool all, uint64_t *ret_host,
                          uint32_t *ret_got)
{
    assert(want > 0);
    int broken = atomic_load_explicit(&q->broken, memory_order_relaxed);
    if (broken)
        return broken;
    int r = qcow2_co_mark_dirty(q);
    if (r < 0)
        return r;
    co_reuse_rather_than_grow(q);
    /* A block's first cluster is the block itself, so a run inside one block ends before that. */
    if (all && want >= 1ull << q->refcount_block_bits) {
        r = qcow2_co_alloc_region(q, want, ret_host);
        *ret_got = want;
        return r;
    }
    return co_take(q, want, all, ret_host, ret_got);
}

int qcow2_co_alloc(struct qcow2 *q, uint32_t want, uint64_t *ret_host, uint32_t *ret_got,
                   bool *ret_zero)
{
    co_mutex_lock(&q->alloc_lock);
    uint64_t fresh = q->fresh_cluster;
    int r = qcow2_co_alloc_locked(q, want, false, ret_host, ret_got);
    if (r == 0 && ret_zero)
        *ret_zero = *ret_host >> q->cluster_bits >= fresh;
    co_mutex_unlock(&q->alloc_lock);
    return r;
}

/* ---- allocations in flight ---- */

struct qcow2_in_flight *qcow2_in_flight_find(struct qcow2 *q, uint64_t start, uint64_t end)
{
    list_for_each (link, &q->in_flight) {
        struct qcow2_in_flight *other = list_entry(link, struct qcow2_in_flight, link);
        if (start < other->end && other->start < end)
            return other;
    }
    return NULL;
}

void qcow2_co_in_flight_wait(struct qcow2 *q, struct qcow2_in_flight *other)
{
    co_waitq_wait(&other->waiters, &q->lock);
}

void qcow2_in_flight_begin(struct qcow2 *q, struct qcow2_in_flight *self, uint64_t start,
                           uint64_t end)
{
    self->start = start;
    self->end = end;
    co_waitq_init(&self->waiters);
    list_push_back(&q->in_flight, &self->link);
}

void qcow2_in_flight_end(struct qcow2 *q, struct qcow2_in_flight *self)
{
    list_del(&self->link);
    co_waitq_wake_all(&self->waiters);
}
