/*
 * Growing the virtual size. Where the L1 table is too short, a longer one is complete and durable
 * before the header names it, together with the new size, in one sector.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "format/qcow2/qcow2.h"

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
    autofree uint8_t *buffer = calloc(1, bytes);
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

/* The header gets what is new. An error leaves open what the disk names: nothing may change then.
 */
static int co_header_switch(struct qcow2 *q, uint64_t size, struct longer_l1 *l1)
{
    rt_mutex_lock(&q->lock);
    q->header.size = size;
    if (l1->table) {
        uint64_t *old_table = q->l1, *old_dirty = q->l1_dirty;
        q->l1 = l1->table;
        q->l1_dirty = l1->dirty;
        q->header.l1_size = l1->entries;
        q->header.l1_table_offset = l1->host;
        qcow2_reserve_ranges(q);
        l1->table = old_table;
        l1->dirty = old_dirty;
    }
    rt_mutex_unlock(&q->lock);
    int r = qcow2_co_header_store(q);
    if (r == 0)
        r = co_block_flush(q->file);
    if (r < 0)
        atomic_store(&q->broken, r);
    return r;
}

static int co_grow_locked(struct qcow2 *q, uint64_t size, struct hws_error *err)
{
    struct longer_l1 l1 = {0};
    uint64_t entries = l1_entries_for(q, size), old_host = q->header.l1_table_offset;
    uint32_t old_clusters =
        (uint32_t)(align_up(q->header.l1_size * 8ull, q->cluster_size) >> q->cluster_bits);
    if (entries > QCOW2_L1_BYTES_MAX / 8)
        return hws_fail(err, EFBIG, "'%.200s': %llu bytes are too many for clusters of %llu bytes",
                        q->node->filename, (unsigned long long)size,
                        (unsigned long long)q->cluster_size);
    int r = qcow2_freed_reserve(q, 1);
    if (r < 0)
        return r;
    bool longer = entries > q->header.l1_size, switched = false;
    if (longer)
        r = co_l1_make(q, entries, &l1);
    if (r == 0) {
        switched = true;
        r = co_header_switch(q, size, &l1);
    }
    if (r == 0 && longer && old_clusters)
        give_back(q, old_host, old_clusters);
    else if (r < 0 && !switched && l1.host)
        give_back(q, l1.host, l1.clusters);
    else
        qcow2_freed_unreserve(q, 1);
    free(l1.table);
    free(l1.dirty);
    return r < 0 ? hws_fail_errno(err, -r, "'%.200s': growing", q->node->filename) : 0;
}

/* An allocated last cluster may hold anything behind the old end: a shrink leaves it there. */
static int co_clear_tail(struct qcow2 *q, uint64_t old_size)
{
    uint64_t end = align_up(old_size, q->cluster_size);
    struct qcow2_extent e;
    for (uint64_t at = old_size; at < end; at += e.length) {
        int r = qcow2_co_map_lock(q, at, end - at, &e);
        if (r < 0)
            return r;
        rt_mutex_unlock(&q->lock);
        if (e.kind != QCOW2_KIND_DATA && e.kind != QCOW2_KIND_COMPRESSED)
            continue;
        struct iovec iov;
        autofree uint8_t *zeroes = calloc(1, e.length);
        if (!zeroes)
            return -ENOMEM;
        r = qcow2_co_write(q->node, at, sgl_one(&iov, zeroes, e.length), 0);
        if (r < 0)
            return r;
    }
    return 0;
}

int qcow2_co_resize(struct block_node *node, uint64_t size_bytes, struct hws_error *err)
{
    struct qcow2 *q = qcow2_of(node);
    uint64_t old_size = q->header.size;
    if (size_bytes < old_size)
        return hws_fail(err, ENOTSUP, "'%.200s': shrinking a qcow2 image is not supported",
                        node->filename);
    if (!is_aligned(size_bytes, 512))
        return hws_fail(err, EINVAL, "'%.200s': the size must be a multiple of 512 bytes",
                        node->filename);
    if (q->header.nb_snapshots && q->header.version < 3)
        return hws_fail(err, ENOTSUP,
                        "'%.200s': a version 2 image with internal snapshots cannot "
                        "grow, as its snapshots do not record their size",
                        node->filename);
    int r = qcow2_co_prepare_write(q);
    if (r == 0)
        r = co_clear_tail(q, old_size);
    if (r < 0)
        return hws_fail_errno(err, -r, "'%.200s': preparing to grow", node->filename);
    co_mutex_lock(&q->alloc_lock);
    r = co_grow_locked(q, size_bytes, err);
    co_mutex_unlock(&q->alloc_lock);
    return r;
}
