/*
 * Clusters that L2 in memory no longer names, on their way to be free again.
 *
 *   dropped from L2 in memory   qcow2_freed_add()
 *        |  the flush pass that writes that L2 slice has ended
 *        |  every request that was running when it was dropped has ended (two steps of the epoch)
 *   hole punched where nobody else refers to it, refcount lowered; the search finds it again
 *
 * Epochs: a request counts itself under the parity of the epoch in which it looked the host offset
 * up. The epoch moves on when nobody of the one before is left, so a cluster dropped in epoch E has
 * no users once the epoch is E + 2.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "format/qcow2/qcow2.h"

/* Bounds the list: what would need more entries is refused (ENOMEM) before it changes L2. */
#define FREED_ENTRIES_MAX (1u << 20)

/* ---- the ring ---- */

static int ring_grow(struct qcow2_freed_list *f)
{
    unsigned bigger = f->capacity ? f->capacity * 2 : 64;
    struct qcow2_freed *entry = malloc(bigger * sizeof(*entry));
    if (!entry)
        return -ENOMEM;
    for (unsigned i = 0; i < f->count; i++)
        entry[i] = f->entry[(f->first + i) & (f->capacity - 1)];
    free(f->entry);
    f->entry = entry;
    f->first = 0;
    f->capacity = bigger;
    return 0;
}

int qcow2_freed_reserve(struct qcow2 *q, unsigned entries)
{
    struct qcow2_freed_list *f = &q->freed;
    int r = 0;
    rt_mutex_lock(&q->lock);
    while (r == 0 && f->count + f->reserved + entries > f->capacity)
        r = f->capacity < FREED_ENTRIES_MAX ? ring_grow(f) : -ENOMEM;
    if (r == 0)
        f->reserved += entries;
    rt_mutex_unlock(&q->lock);
    return r;
}

void qcow2_freed_unreserve(struct qcow2 *q, unsigned entries)
{
    rt_mutex_lock(&q->lock);
    assert(q->freed.reserved >= entries);
    q->freed.reserved -= entries;
    rt_mutex_unlock(&q->lock);
}

void qcow2_freed_add(struct qcow2 *q, uint64_t host, uint32_t clusters, bool on_disk)
{
    struct qcow2_freed_list *f = &q->freed;
    /* A pass that runs already has taken its view: the next one makes this durable. */
    uint64_t pass = on_disk ? q->pass_started + 1 : 0;
    assert(f->reserved > 0);
    f->reserved--;
    f->clusters += clusters;
    if (f->count) {
        struct qcow2_freed *last = &f->entry[(f->first + f->count - 1) & (f->capacity - 1)];
        if (last->host + ((uint64_t)last->clusters << q->cluster_bits) == host &&
            last->pass == pass && last->epoch == q->epoch &&
            clusters <= UINT32_MAX - last->clusters) {
            last->clusters += clusters;
            return;
        }
    }
    f->entry[(f->first + f->count++) & (f->capacity - 1)] =
        (struct qcow2_freed){.host = host, .clusters = clusters, .epoch = q->epoch, .pass = pass};
}

/* ---- giving back ---- */

/* Sequentially consistent with qcow2_map_unlocked(): either it sees the epoch that was set before
 * this, or this sees it. */
static bool has_users(const struct qcow2 *q, unsigned parity)
{
    uint32_t users = 0;
    for (unsigned i = 0; i < QCOW2_USER_LANES; i++)
        users |= atomic_load(&q->users[i].count[parity]);
    return users != 0;
}

/* Moves the epoch on as far as running requests allow. Caller holds q->lock. */
static void advance(struct qcow2 *q)
{
    for (int step = 0; step < 2; step++) {
        if (has_users(q, (q->epoch + 1) & 1))
            return;
        atomic_fetch_add(&q->epoch, 1);
    }
}

/* The oldest entry, if its time has come. */
static bool take_ready(struct qcow2 *q, struct qcow2_freed *ret)
{
    struct qcow2_freed_list *f = &q->freed;
    rt_mutex_lock(&q->lock);
    bool ready = false;
    if (f->count) {
        const struct qcow2_freed *oldest = &f->entry[f->first];
        if (oldest->epoch + 2 > q->epoch)
            advance(q);
        ready = oldest->epoch + 2 <= q->epoch && oldest->pass <= q->pass_durable;
    }
    if (ready) {
        *ret = f->entry[f->first];
        f->first = (f->first + 1) & (f->capacity - 1);
        f->count--;
        f->clusters -= ret->clusters;
    }
    rt_mutex_unlock(&q->lock);
    return ready;
}

/* How many of the next clusters, at most @count, have the count 1 (or, with @shared, more). */
static uint32_t run_of(const struct qcow2 *q, const uint8_t *data, uint32_t index, uint32_t count,
                       bool shared)
{
    uint32_t run = 0;
    while (run < count) {
        uint64_t value = qcow2_refcount_read(data, q->refcount_order, index + run);
        if ((value > 1) != shared)
            break;
        run++;
    }
    return run;
}

static int lower(struct qcow2 *q, struct qcow2_slice *slice, uint32_t index, uint32_t count,
                 uint64_t cluster)
{
    int r = qcow2_slice_touch(q, slice);
    for (uint32_t i = 0; i < count && r == 0; i++) {
        uint64_t value = qcow2_refcount_read(slice->data, q->refcount_order, index + i);
        if (value == 0)
            r = block_corrupt(q->node, (cluster + i) << q->cluster_bits, NULL,
                              "the refcount of a cluster in use was 0");
        else
            qcow2_refcount_write(slice->data, q->refcount_order, index + i, value - 1);
        if (value == 1) {
            q->free_hint = MIN(q->free_hint, cluster + i);
            q->freed_any = true;
            qcow2_pack_forget(q, cluster + i);
        }
    }
    return r;
}

/* Clusters of one refcount slice, as many as share one treatment. @return how many, or -errno. */
static int64_t co_release_run(struct qcow2 *q, uint64_t cluster, uint32_t count)
{
    struct qcow2_slice *slice;
    uint32_t index;
    int r = qcow2_co_refcount_slice(q, cluster, QCOW2_SLICE_NO_FLUSH, &slice, &index);
    if (r < 0)
        return r;
    if (!slice)
        return block_corrupt(q->node, cluster << q->cluster_bits, NULL,
                             "a cluster in use has no refcount block");
    count = MIN(count, qcow2_refcounts_per_slice(q) - index);
    rt_mutex_lock(&q->lock);
    bool shared = qcow2_refcount_read(slice->data, q->refcount_order, index) > 1;
    count = run_of(q, slice->data, index, count, shared);
    /* A damaged image may have named a live table as data: it stays what it is. */
    r = qcow2_check_data_host(q, cluster << q->cluster_bits, (uint64_t)count << q->cluster_bits);
    if (r < 0)
        qcow2_slice_unpin(q, slice);
    rt_mutex_unlock(&q->lock);
    if (r < 0)
        return r;
    /* Before the count falls, so that nobody can have written there. Only a hint, so errors are
     * none. */
    uint64_t host = cluster << q->cluster_bits, file_bytes = block_size(q->file);
    if (!shared && host < file_bytes)
        (void)!co_block_discard(q->file, host,
                                MIN((uint64_t)count << q->cluster_bits, file_bytes - host));
    rt_mutex_lock(&q->lock);
    r = lower(q, slice, index, count, cluster);
    qcow2_slice_unpin(q, slice);
    rt_mutex_unlock(&q->lock);
    return r < 0 ? r : (int64_t)count;
}

void qcow2_co_release(struct qcow2 *q, uint64_t cluster, uint64_t count)
{
    while (count) {
        int64_t run = co_release_run(q, cluster, (uint32_t)MIN(count, (uint64_t)UINT32_MAX));
        if (run <= 0)
            break; /* what is left leaks */
        cluster += (uint64_t)run;
        count -= (uint64_t)run;
    }
}

void qcow2_co_reclaim_locked(struct qcow2 *q)
{
    struct qcow2_freed e;
    while (!atomic_load_explicit(&q->broken, memory_order_relaxed) && take_ready(q, &e))
        qcow2_co_release(q, e.host >> q->cluster_bits, e.clusters);
}

void qcow2_co_reclaim(struct qcow2 *q)
{
    rt_mutex_lock(&q->lock);
    bool any = q->freed.count;
    rt_mutex_unlock(&q->lock);
    if (!any)
        return;
    co_mutex_lock(&q->alloc_lock);
    qcow2_co_reclaim_locked(q);
    co_mutex_unlock(&q->alloc_lock);
}

void qcow2_co_reclaim_if_many(struct qcow2 *q)
{
    rt_mutex_lock(&q->lock);
    bool many = q->freed.clusters >= qcow2_freed_many(q) || q->freed.count > FREED_ENTRIES_MAX / 2;
    rt_mutex_unlock(&q->lock);
    if (many && qcow2_co_flush_pass(q) == 0)
        qcow2_co_reclaim(q);
}
