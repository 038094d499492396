/*
 * Growth of the refcount structures: new blocks, regions behind all blocks, a bigger refcount
 * table.
 *
 * A new block lies in the first cluster that it describes and counts itself. That cluster is free
 * by definition: no block described it. A region for something large puts all its blocks in front:
 *
 *   cluster  S        S+1   ...  S+B-1   S+B ...                  (S: first one that no block
 * describes) block 0  block 1 .. block B-1  the wanted clusters
 *
 * A bigger refcount table lies in such a region behind the old table's reach. It is complete and
 * durable before the header names it, and the old one stays valid until then, so each failure can
 * be undone.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "format/qcow2/qcow2.h"

/* ---- blocks ---- */

/* The first content of a block: its first @used clusters are in use, itself among them. */
static int co_block_write_new(struct qcow2 *q, uint64_t host, uint64_t used)
{
    struct iovec iov;
    uint8_t *block = qcow2_buffer(q->cluster_size);
    if (!block)
        return -ENOMEM;
    for (uint64_t i = 0; i < used; i++)
        qcow2_refcount_write(block, q->refcount_order, (uint32_t)i, 1);
    int r = co_block_write(q->file, host, sgl_one(&iov, block, q->cluster_size), 0);
    free(block);
    return r;
}

/*
 * Makes the place of a block such that every slice of it can be read from the file. The counts are
 * there from the start: a flush pass may write the table's new entry as soon as it is in memory.
 */
static int co_block_prepare(struct qcow2 *q, uint64_t cluster, uint64_t used)
{
    uint64_t host = cluster << q->cluster_bits;
    if (host >= QCOW2_HOST_END)
        return -EFBIG;
    rt_mutex_lock(&q->lock);
    int r = qcow2_check_host(q, host, q->cluster_size);
    rt_mutex_unlock(&q->lock);
    if (r == 0)
        r = qcow2_cache_invalidate(q, host, q->cluster_size);
    if (r == 0)
        r = co_block_write_new(q, host, used);
    return r;
}

int qcow2_co_refcount_block_new(struct qcow2 *q, uint64_t block)
{
    if (block >= q->reftable_entries) {
        int r = qcow2_co_reftable_grow(q, block);
        if (r < 0)
            return r;
        if (q->reftable[block])
            return 0; /* the growth placed its own blocks here */
    }
    uint64_t cluster = block << q->refcount_block_bits;
    q->fresh_cluster = MAX(q->fresh_cluster, cluster + 1);
    int r = qcow2_keep_reserve(q, 1);
    if (r == 0)
        r = co_block_prepare(q, cluster, 1);
    if (r < 0)
        return r;
    rt_mutex_lock(&q->lock);
    q->reftable[block] = cluster << q->cluster_bits;
    qcow2_guard_add(q, q->reftable[block]);
    qcow2_mark_reftable(q, block);
    rt_mutex_unlock(&q->lock);
    return 0;
}

/* ---- regions ---- */

/* How many blocks a region needs that holds them and @want clusters. */
static uint64_t region_blocks(const struct qcow2 *q, uint64_t want)
{
    uint64_t per_block = 1ull << q->refcount_block_bits;
    return div_round_up(want, per_block - 1);
}

/* Blocks [first, first + blocks) into the table in memory, and everything in the region counted. */
static int co_region_make(struct qcow2 *q, uint64_t first, uint64_t blocks, uint64_t want)
{
    uint64_t start = first << q->refcount_block_bits, per_block = 1ull << q->refcount_block_bits;
    int r = 0;
    q->fresh_cluster = MAX(q->fresh_cluster, start + blocks + want); /* whatever becomes of it */
    for (uint64_t i = 0; i < blocks && r == 0; i++)
        r = co_block_prepare(q, start + i, MIN(blocks + want - i * per_block, per_block));
    if (r < 0)
        return r;
    rt_mutex_lock(&q->lock);
    r = qcow2_check_host(q, (start + blocks) << q->cluster_bits, want << q->cluster_bits);
    for (uint64_t i = 0; i < blocks; i++) {
        q->reftable[first + i] = (start + i) << q->cluster_bits;
        qcow2_guard_add(q, q->reftable[first + i]);
    }
    rt_mutex_unlock(&q->lock);
    return r;
}

static void co_region_undo(struct qcow2 *q, uint64_t first, uint64_t blocks)
{
    rt_mutex_lock(&q->lock);
    for (uint64_t i = 0; i < blocks; i++)
        q->reftable[first + i] = 0;
    rt_mutex_unlock(&q->lock);
    qcow2_co_cache_drop(q, first << q->refcount_block_bits << q->cluster_bits,
                        blocks << q->cluster_bits);
}

int qcow2_co_alloc_region(struct qcow2 *q, uint64_t want, uint64_t *ret_host)
{
    uint64_t first, blocks = region_blocks(q, want);
    /* A growth puts blocks of its own behind the old ones, so look again after it. */
    for (;;) {
        for (first = q->reftable_entries; first > 0 && q->reftable[first - 1] == 0;)
            first--;
        if (first + blocks <= q->reftable_entries)
            break;
        int grown = qcow2_co_reftable_grow(q, first + blocks - 1);
        if (grown < 0)
            return grown;
    }
    int r = qcow2_keep_reserve(q, blocks / 64 + 2);
    if (r < 0)
        return r;
    r = co_region_make(q, first, blocks, want);
    if (r < 0) {
        co_region_undo(q, first, blocks);
        return r;
    }
    rt_mutex_lock(&q->lock);
    for (uint64_t i = 0; i < blocks; i++)
        qcow2_mark_reftable(q, first + i);
    rt_mutex_unlock(&q->lock);
    uint64_t start = first << q->refcount_block_bits;
    *ret_host = (start + blocks) << q->cluster_bits;
    return 0;
}

/* ---- the table ---- */

struct growth {
    uint64_t *table, *dirty; /* the new ones in memory */
    uint64_t *old_table, *old_dirty;
    uint64_t entries, old_entries;
    uint64_t clusters; /* of the new table */
    uint64_t blocks;   /* that describe it and themselves */
    uint64_t host;     /* where it will lie */
};

static int growth_plan(struct qcow2 *q, uint64_t block, struct growth *g)
{
    uint64_t entry_bits = q->cluster_bits - 3;
    g->old_entries = q->reftable_entries;
    uint64_t need = MAX(block + 1, g->old_entries + g->old_entries / 2 + 1);
    /* The table grows by what describes the table: this ends, as a block describes many clusters.
     */
    for (;;) {
        g->clusters = div_round_up(need, 1ull << entry_bits);
        g->blocks = region_blocks(q, g->clusters);
        uint64_t with_own = MAX(need, g->old_entries + g->blocks + 1);
        if (g->clusters << entry_bits >= with_own)
            break;
        need = with_own;
    }
    if (g->clusters << q->cluster_bits > MAX(QCOW2_REFTABLE_BYTES_MAX, q->cluster_size))
        return -EFBIG;
    g->entries = g->clusters << entry_bits;
    g->host = ((g->old_entries << q->refcount_block_bits) + g->blocks) << q->cluster_bits;
    if (g->host >= QCOW2_HOST_END - (g->clusters << q->cluster_bits))
        return -EFBIG;
    return 0;
}

/* The whole new table to its place, from memory. */
static int co_write_table(struct qcow2 *q, const struct growth *g)
{
    size_t bytes = (size_t)(g->clusters << q->cluster_bits);
    struct iovec iov;
    uint8_t *buffer = qcow2_buffer(bytes);
    if (!buffer)
        return -ENOMEM;
    for (uint64_t i = 0; i < g->entries; i++)
        store_be64(buffer + i * 8, q->reftable[i]);
    int r = co_block_write(q->file, g->host, sgl_one(&iov, buffer, bytes), 0);
    free(buffer);
    return r < 0 ? r : co_block_flush(q->file);
}

/* From here on an error leaves open which table the disk names: nothing may change any more. */
static int co_switch_header(struct qcow2 *q, const struct growth *g)
{
    uint64_t old_host = q->header.refcount_table_offset;
    uint32_t old_clusters = q->header.refcount_table_clusters;
    rt_mutex_lock(&q->lock);
    q->header.refcount_table_offset = g->host;
    q->header.refcount_table_clusters = (uint32_t)g->clusters;
    qcow2_reserve_ranges(q);
    (void)!qcow2_guard_make(q);
    rt_mutex_unlock(&q->lock);
    int r = qcow2_co_header_store(q);
    if (r < 0) {
        atomic_store(&q->broken, r);
        return r;
    }
    rt_mutex_lock(&q->lock);
    qcow2_freed_add(q, old_host, old_clusters, false);
    rt_mutex_unlock(&q->lock);
    return 0;
}

static int co_grow_steps(struct qcow2 *q, const struct growth *g)
{
    int r = co_region_make(q, g->old_entries, g->blocks, g->clusters);
    if (r == 0)
        r = qcow2_co_flush_pass(q); /* the new blocks, and old entries still on their way */
    if (r == 0)
        r = co_write_table(q, g);
    return r;
}

int qcow2_co_reftable_grow(struct qcow2 *q, uint64_t block)
{
    struct growth g = {0};
    int r = growth_plan(q, block, &g);
    if (r == 0)
        r = qcow2_freed_reserve(q, 1);
    if (r < 0)
        return r;
    g.old_table = q->reftable;
    g.old_dirty = q->reftable_dirty;
    g.table = calloc(g.entries, sizeof(g.table[0]));
    g.dirty = calloc(qcow2_dirty_words(g.entries), sizeof(g.dirty[0]));
    if (!g.table || !g.dirty) {
        r = -ENOMEM;
        goto fail;
    }
    rt_mutex_lock(&q->lock);
    memcpy(g.table, g.old_table, g.old_entries * sizeof(g.table[0]));
    memcpy(g.dirty, g.old_dirty, qcow2_dirty_words(g.old_entries) * sizeof(g.dirty[0]));
    q->reftable = g.table;
    q->reftable_dirty = g.dirty;
    q->reftable_entries = g.entries;
    rt_mutex_unlock(&q->lock);
    r = co_grow_steps(q, &g);
    if (r < 0) {
        co_region_undo(q, g.old_entries, g.blocks);
        /* Together: a pass that fails meanwhile puts its marks back into the present bitmap. */
        rt_mutex_lock(&q->lock);
        memcpy(g.old_dirty, g.dirty, qcow2_dirty_words(g.old_entries) * sizeof(g.dirty[0]));
        q->reftable = g.old_table;
        q->reftable_dirty = g.old_dirty;
        q->reftable_entries = g.old_entries;
        rt_mutex_unlock(&q->lock);
        goto fail;
    }
    free(g.old_table);
    free(g.old_dirty);
    r = co_switch_header(q, &g);
    if (r < 0)
        qcow2_freed_unreserve(q, 1);
    return r;
fail:
    free(g.table);
    free(g.dirty);
    qcow2_freed_unreserve(q, 1);
    return r;
}
