/*
 * Reference counts of another width: a second set of refcount blocks and a table for them, complete
 * and durable before the header names them.
 *
 *   old table --> old blocks          (counted here: all, the new ones included)
 *   new table  new blocks ...         one region, taken from the allocator as anything else
 *
 * Until the header's one sector is written, a crash leaves the new ones counted and unused; after
 * that, the old ones. These are given back through the new counts.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "format/qcow2/amend.h"

#define TRIES 8

struct widening {
    const struct block_progress *progress;
    unsigned order;
    uint64_t host, clusters; /* of the region: the table, then the blocks */
    uint64_t table_clusters, blocks;
    uint64_t *table, *dirty; /* in memory */
    uint64_t entries;
    unsigned reserved; /* entries of the freed list */
};

static uint64_t per_block(const struct qcow2 *q, unsigned order)
{
    return q->cluster_size * 8 >> order;
}

/* For counts of @reach clusters. */
static void shape(const struct qcow2 *q, struct widening *w, uint64_t reach)
{
    w->blocks = div_round_up(reach, per_block(q, w->order));
    w->table_clusters = div_round_up(w->blocks * 8, q->cluster_size);
    w->clusters = w->blocks + w->table_clusters;
}

/* The region counts itself, and what taking it adds to the old structures. Caller holds alloc_lock.
 */
static int co_take_region(struct qcow2 *q, struct widening *w, uint64_t slack)
{
    uint64_t reach = q->fresh_cluster + slack;
    for (uint64_t clusters = UINT64_MAX; clusters != w->clusters;) {
        clusters = w->clusters;
        shape(q, w, reach + clusters + (clusters >> q->refcount_block_bits) + 2);
    }
    if (w->table_clusters << q->cluster_bits > MAX(QCOW2_REFTABLE_BYTES_MAX, q->cluster_size))
        return -EFBIG;
    uint32_t got;
    return qcow2_co_alloc_locked(q, (uint32_t)w->clusters, true, &w->host, &got);
}

static void give_back(struct qcow2 *q, struct widening *w)
{
    rt_mutex_lock(&q->lock);
    qcow2_freed_add(q, w->host, (uint32_t)w->clusters, false);
    w->reserved--;
    rt_mutex_unlock(&q->lock);
    w->host = 0;
}

/* The counts of one new block into @out. @ret_cluster: of a count that does not fit. */
static int co_convert_block(struct qcow2 *q, const struct widening *w, uint64_t first, uint8_t *out,
                            uint64_t *ret_cluster)
{
    uint64_t count = per_block(q, w->order);
    uint64_t most = w->order == 6 ? UINT64_MAX : (1ull << (1u << w->order)) - 1;
    memset(out, 0, q->cluster_size);
    for (uint64_t i = 0; i < count && first + i < q->fresh_cluster;) {
        struct qcow2_slice *slice;
        uint32_t index;
        int r = qcow2_co_refcount_slice(q, first + i, QCOW2_SLICE_READ, &slice, &index);
        if (r < 0)
            return r;
        uint64_t run = MIN(count - i, (uint64_t)(qcow2_refcounts_per_slice(q) - index));
        if (!slice) {
            i += run;
            continue;
        }
        rt_mutex_lock(&q->lock);
        for (uint64_t j = 0; j < run && r == 0; j++) {
            uint64_t value =
                qcow2_refcount_read(slice->data, q->refcount_order, index + (uint32_t)j);
            *ret_cluster = first + i + j;
            r = value > most ? -EOVERFLOW : 0;
            qcow2_refcount_write(out, w->order, (uint32_t)(i + j), value & most);
        }
        qcow2_slice_unpin(q, slice);
        rt_mutex_unlock(&q->lock);
        if (r < 0)
            return r;
        i += run;
    }
    return 0;
}

/* With @write, the new blocks to their places; without, only whether all counts fit. */
static int co_blocks(struct qcow2 *q, struct widening *w, bool write, uint64_t *ret_cluster)
{
    autofree uint8_t *buffer = qcow2_buffer(q->cluster_size);
    uint64_t per = per_block(q, w->order);
    uint64_t blocks = write ? w->blocks : div_round_up(q->fresh_cluster, per);
    if (!buffer)
        return -ENOMEM;
    for (uint64_t i = 0; i < blocks; i++) {
        struct iovec iov;
        uint64_t host = w->host + ((w->table_clusters + i) << q->cluster_bits);
        int r = co_convert_block(q, w, i * per, buffer, ret_cluster);
        if (r == 0 && write)
            r = co_block_write(q->file, host, sgl_one(&iov, buffer, q->cluster_size), 0);
        if (r == 0 && write)
            w->table[i] = host;
        if (r == 0)
            r = block_progress_step(w->progress, (write ? blocks : 0) + i + 1, 2 * blocks);
        if (r < 0)
            return r;
    }
    return 0;
}

static int co_write_table(struct qcow2 *q, struct widening *w)
{
    size_t bytes = (size_t)(w->table_clusters << q->cluster_bits);
    autofree uint8_t *buffer = qcow2_buffer(bytes);
    struct iovec iov;
    if (!buffer)
        return -ENOMEM;
    for (uint64_t i = 0; i < w->entries; i++)
        store_be64(buffer + i * 8, w->table[i]);
    int r = co_block_write(q->file, w->host, sgl_one(&iov, buffer, bytes), 0);
    return r < 0 ? r : co_block_flush(q->file);
}

/* Everything beside the old structures, durable. */
static int co_prepare(struct qcow2 *q, struct widening *w, uint64_t *ret_cluster)
{
    int r = co_blocks(q, w, false, ret_cluster);
    for (unsigned try = 0; r == 0 && try < TRIES; try++) {
        r = co_take_region(q, w, try * 64);
        if (r < 0 || w->blocks * per_block(q, w->order) >= q->fresh_cluster)
            break;
        r = qcow2_freed_reserve(q, 1); /* the old table grew meanwhile: once more */
        if (r < 0)
            break;
        w->reserved++;
        give_back(q, w);
    }
    if (r < 0)
        return r;
    if (!w->host)
        return -EFBIG;
    w->entries = w->table_clusters << (q->cluster_bits - 3);
    w->table = calloc(w->entries, sizeof(w->table[0]));
    w->dirty = calloc(qcow2_dirty_words(w->entries), sizeof(w->dirty[0]));
    if (!w->table || !w->dirty)
        return -ENOMEM;
    r = qcow2_co_flush_pass(q); /* the region is counted */
    if (r == 0)
        r = co_blocks(q, w, true, ret_cluster);
    return r < 0 ? r : co_write_table(q, w);
}

static unsigned count_blocks(const struct qcow2 *q)
{
    unsigned count = 0;
    for (uint64_t i = 0; i < q->reftable_entries; i++)
        count += q->reftable[i] != 0;
    return count;
}

/* The header and the memory go over to the new ones; the old ones wait to be freed. */
static int co_go_over(struct qcow2 *q, struct widening *w)
{
    uint64_t *old_table = q->reftable, *old_dirty = q->reftable_dirty;
    uint64_t old_entries = q->reftable_entries, old_host = q->header.refcount_table_offset;
    uint32_t old_clusters = q->header.refcount_table_clusters;
    for (uint64_t i = 0; i < old_entries; i++)
        if (old_table[i])
            qcow2_co_cache_drop(q, old_table[i], q->cluster_size); /* clean: nothing has changed */
    rt_mutex_lock(&q->lock);
    q->header.refcount_order = w->order;
    q->header.refcount_table_offset = w->host;
    q->header.refcount_table_clusters = (uint32_t)w->table_clusters;
    q->reftable = steal_ptr(&w->table);
    q->reftable_dirty = steal_ptr(&w->dirty);
    q->reftable_entries = w->entries;
    q->reftable_any_dirty = false;
    qcow2_set_geometry(q);
    qcow2_reserve_ranges(q);
    (void)!qcow2_guard_make(q);
    rt_mutex_unlock(&q->lock);
    int r = qcow2_co_header_store(q);
    if (r < 0)
        atomic_store(&q->broken, r); /* which structures the disk names is open */
    rt_mutex_lock(&q->lock);
    if (r == 0) {
        qcow2_freed_add(q, old_host, old_clusters, false);
        w->reserved--;
    }
    for (uint64_t i = 0; i < old_entries && r == 0; i++) {
        if (!old_table[i])
            continue;
        qcow2_freed_add(q, old_table[i], 1, false);
        w->reserved--;
    }
    rt_mutex_unlock(&q->lock);
    free(old_table);
    free(old_dirty);
    return r;
}

static int co_width_locked(struct qcow2 *q, struct widening *w, uint64_t *ret_cluster)
{
    int r = qcow2_co_flush_pass(q);
    if (r < 0)
        return r;
    qcow2_co_reclaim_locked(q);
    r = co_prepare(q, w, ret_cluster);
    /* Growing the old structures may have added blocks. */
    unsigned wanted = count_blocks(q) + 1;
    if (r == 0 && wanted > w->reserved) {
        r = qcow2_freed_reserve(q, wanted - w->reserved);
        w->reserved += r == 0 ? wanted - w->reserved : 0;
    }
    if (r == 0)
        return co_go_over(q, w);
    if (w->host)
        give_back(q, w);
    return r;
}

int qcow2_co_refcount_width(struct qcow2 *q, unsigned order, const struct block_progress *progress,
                            struct hws_error *err)
{
    struct widening w = {.order = order, .progress = progress, .reserved = 1};
    uint64_t cluster = 0;
    int r = qcow2_freed_reserve(q, 1);
    if (r < 0)
        return hws_fail_errno(err, -r, "'%.200s'", q->node->filename);
    co_mutex_lock(&q->alloc_lock);
    r = co_width_locked(q, &w, &cluster);
    co_mutex_unlock(&q->alloc_lock);
    qcow2_freed_unreserve(q, w.reserved);
    free(w.table);
    free(w.dirty);
    if (r == 0)
        r = qcow2_co_flush(q->node);
    if (r == -EOVERFLOW)
        return hws_fail(err, EOVERFLOW,
                        "'%.200s': the reference count of the cluster at offset %#llx does not fit "
                        "%u bits",
                        q->node->filename, (unsigned long long)(cluster << q->cluster_bits),
                        1u << order);
    if (r == -ECANCELED)
        return hws_fail(err, ECANCELED, "cancelled");
    return r < 0 ? hws_fail_errno(err, -r, "'%.200s': reference counts of %u bits",
                                  q->node->filename, 1u << order)
                 : 0;
}
