/*
 * Growing the virtual size (shrink.c makes it smaller), in steps that each leave a whole image: a
 * longer L1 table, complete and durable before the header names it; zeroes behind the old end; the
 * new size.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/log.h"
#include "format/qcow2/create.h"

static uint64_t l1_entries_for(const struct qcow2 *q, uint64_t size)
{
    return div_round_up(size, 1ull << (q->cluster_bits + q->l2_bits));
}

struct longer_l1 {
    uint64_t *table, *dirty;
    uint64_t host;
    uint32_t entries, clusters;
};

/* The new table in memory and at its place in the file. Caller holds alloc_lock: L1 does not
 * change. */
static int co_l1_make(struct qcow2 *q, uint64_t entries, struct longer_l1 *ret)
{
    uint32_t got;
    ret->clusters = (uint32_t)(align_up(entries * 8, q->cluster_size) >> q->cluster_bits);
    ret->entries = (uint32_t)entries;
    size_t bytes = (size_t)ret->clusters << q->cluster_bits;
    ret->table = calloc(entries + 1, sizeof(ret->table[0]));
    ret->dirty = calloc(qcow2_dirty_words(entries), sizeof(ret->dirty[0]));
    autofree uint8_t *buffer = qcow2_buffer(bytes);
    if (!ret->table || !ret->dirty || !buffer)
        return -ENOMEM;
    int r = qcow2_co_alloc_locked(q, ret->clusters, true, &ret->host, &got);
    if (r < 0)
        return r;
    for (uint32_t i = 0; i < q->header.l1_size; i++) {
        ret->table[i] = q->l1[i];
        store_be64(buffer + i * 8ull, q->l1[i]);
    }
    struct iovec iov;
    r = co_block_write(q->file, ret->host, sgl_one(&iov, buffer, bytes), 0);
    /* The new counts, and L1 entries still on their way to the old place. */
    return r < 0 ? r : qcow2_co_flush_pass(q);
}

static void give_back(struct qcow2 *q, uint64_t host, uint32_t clusters)
{
    if (!host || !clusters)
        return;
    rt_mutex_lock(&q->lock);
    qcow2_freed_add(q, host, clusters, false);
    rt_mutex_unlock(&q->lock);
}

/* The header names the new table. An error leaves open which one: nothing may change any more then.
 */
static int co_l1_switch(struct qcow2 *q, struct longer_l1 *l1)
{
    uint64_t *old_table = q->l1, *old_dirty = q->l1_dirty;
    rt_mutex_lock(&q->lock);
    q->l1 = l1->table;
    q->l1_dirty = l1->dirty;
    q->header.l1_size = l1->entries;
    q->header.l1_table_offset = l1->host;
    qcow2_reserve_ranges(q);
    (void)!qcow2_guard_make(q);
    rt_mutex_unlock(&q->lock);
    l1->table = old_table;
    l1->dirty = old_dirty;
    int r = qcow2_co_header_store(q);
    if (r < 0)
        atomic_store(&q->broken, r);
    return r;
}

/* Caller holds alloc_lock. */
static int co_l1_grow(struct qcow2 *q, uint64_t entries)
{
    struct longer_l1 l1 = {0};
    uint64_t old_host = q->header.l1_table_offset, l1_bytes = q->header.l1_size * 8ull;
    uint32_t old_clusters = (uint32_t)(align_up(l1_bytes, q->cluster_size) >> q->cluster_bits);
    int r = qcow2_freed_reserve(q, 1);
    if (r < 0)
        return r;
    r = co_l1_make(q, entries, &l1);
    if (r < 0 && l1.host) {
        give_back(q, l1.host, l1.clusters);
    } else if (r == 0) {
        r = co_l1_switch(q, &l1);
        if (r == 0 && old_clusters)
            give_back(q, old_host, old_clusters);
        else
            qcow2_freed_unreserve(q, 1);
    } else {
        qcow2_freed_unreserve(q, 1);
    }
    free(l1.table);
    free(l1.dirty);
    return r;
}

int qcow2_co_clear_part(struct qcow2 *q, uint64_t start, uint64_t end)
{
    struct qcow2_extent e;
    const struct block_node *backing = q->node->child[BLOCK_BACKING];
    for (uint64_t at = start; at < end; at += e.length) {
        int r = qcow2_co_map_lock(q, at, end - at, &e);
        if (r < 0)
            return r;
        rt_mutex_unlock(&q->lock);
        if (e.kind == QCOW2_KIND_ZERO ||
            (e.kind == QCOW2_KIND_UNALLOCATED && (!backing || at >= block_size(backing))))
            continue;
        r = qcow2_co_write_data_zeroes(q, at, e.length);
        if (r < 0)
            return r;
    }
    return 0;
}

/*
 * What lies behind the old end reads as zeroes, durably, before the header says that it is part of
 * the device: a shrink or another program may have left data in the last cluster, and a backing
 * file that is longer than the old size would show.
 */
static int co_clear_growth(struct qcow2 *q, uint64_t old_size, uint64_t size)
{
    const struct block_node *backing = q->node->child[BLOCK_BACKING];
    uint64_t shown = backing ? MIN(block_size(backing), size) : 0;
    uint64_t start = align_up(old_size, q->subcluster_size);
    uint64_t end = MAX(align_up(old_size, q->cluster_size), align_up(shown, q->cluster_size));
    int r = qcow2_co_clear_part(q, old_size, start);
    if (r == 0 && start < end)
        r = q->header.version >= 3 ? qcow2_co_zero_range(q, start, end)
                                   : qcow2_co_write_data_zeroes(q, start, end - start);
    /* A shrink that was cut off, or another program, may have left tables behind the end. */
    if (r == 0)
        r = qcow2_co_cut(q, end, align_up(size, q->cluster_size), false);
    return r < 0 ? r : qcow2_co_flush_pass(q);
}

/*
 * A data file is as long as the device. A raw one is zero in the new part, durably, before that
 * belongs to the device, whatever it held there; growing makes holes.
 */
static int co_grow_data_file(struct qcow2 *q, uint64_t old_size, uint64_t size)
{
    struct block_node *data = qcow2_data(q);
    struct hws_error ignored = {0};
    uint64_t bytes = block_size(data);
    int r = 0;
    if (!qcow2_has_data_file(q) || old_size == size)
        return 0;
    if (qcow2_data_is_raw(q) && old_size < MIN(bytes, size))
        r = co_block_write_zeroes(data, old_size, MIN(bytes, size) - old_size, BLOCK_MAY_UNMAP);
    if (r == 0 && bytes < size)
        r = co_block_resize(data, size, &ignored);
    return r < 0 ? r : co_block_flush(data);
}

/* After a shrink. A device stays as long as it is. */
static void co_cut_data_file(struct qcow2 *q, uint64_t size)
{
    struct hws_error err = {0};
    if (!qcow2_has_data_file(q) || block_size(qcow2_data(q)) <= size)
        return;
    int r = co_block_resize(qcow2_data(q), size, &err);
    if (r < 0 && r != -ENOTSUP && r != -EINVAL)
        log_warning("'%s': it has its new size, but its data file does not: %s", q->node->filename,
                    err.text);
}

static int co_size_store(struct qcow2 *q, uint64_t size)
{
    uint64_t old_size = q->header.size;
    q->header.size = size;
    int r = qcow2_co_header_store(q);
    if (r < 0)
        q->header.size =
            old_size; /* the longer device reads as zeroes behind this: either will do */
    return r;
}

static int co_grow(struct qcow2 *q, uint64_t size)
{
    uint64_t entries = l1_entries_for(q, size);
    if (entries > QCOW2_L1_BYTES_MAX / 8)
        return -EFBIG;
    int r = qcow2_co_prepare_write(q);
    co_mutex_lock(&q->alloc_lock);
    if (r == 0 && entries > q->header.l1_size)
        r = co_l1_grow(q, entries);
    co_mutex_unlock(&q->alloc_lock);
    if (r == 0)
        r = co_clear_growth(q, q->header.size, size);
    if (r == 0)
        r = co_grow_data_file(q, q->header.size, size);
    co_mutex_lock(&q->alloc_lock);
    if (r == 0)
        r = co_size_store(q, size);
    co_mutex_unlock(&q->alloc_lock);
    return r;
}

/* The size of every bitmap goes by that of the image. */
static int co_begin(struct qcow2 *q)
{
    int r = qcow2_co_prepare_write(q);
    co_mutex_lock(&q->alloc_lock);
    if (r == 0)
        r = qcow2_co_bitmaps_begin(q, true);
    co_mutex_unlock(&q->alloc_lock);
    return r;
}

int qcow2_co_resize(struct block_node *node, uint64_t size_bytes, struct hws_error *err)
{
    struct qcow2 *q = qcow2_of(node);
    uint64_t old_size = q->header.size;
    if (!is_aligned(size_bytes, 512))
        return hws_fail(err, EINVAL, "'%.200s': the size must be a multiple of 512 bytes",
                        node->filename);
    if (q->header.nb_snapshots && q->header.version < 3)
        return hws_fail(err, ENOTSUP,
                        "'%.200s': a version 2 image with internal snapshots cannot "
                        "change its size, as its snapshots do not record theirs",
                        node->filename);
    int r = co_begin(q);
    if (size_bytes < q->header.size) {
        r = r < 0 ? r : qcow2_co_shrink(q, size_bytes);
        if (r == 0)
            co_cut_data_file(q, size_bytes);
        return r < 0 ? hws_fail_errno(err, -r, "'%.200s': shrinking", node->filename) : 0;
    }
    r = r < 0 ? r : co_grow(q, size_bytes);
    if (r == -EFBIG)
        return hws_fail(err, EFBIG, "'%.200s': %llu bytes are too many for clusters of %llu bytes",
                        node->filename, (unsigned long long)size_bytes,
                        (unsigned long long)q->cluster_size);
    if (r < 0)
        return hws_fail_errno(err, -r, "'%.200s': growing", node->filename);
    return qcow2_data_is_raw(q) ? qcow2_co_preallocate(q, align_up(old_size, q->cluster_size),
                                                       size_bytes, BLOCK_PREALLOC_METADATA, err)
                                : 0;
}
