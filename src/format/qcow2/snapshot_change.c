/*
 * Taking, applying and deleting internal snapshots. How a change becomes valid in one step is told
 * in snapshot_change.h; what changes is this:
 *
 *            counts of all that is reached from      L1 table           snapshot table
 *   create   the L1 table: +1                        flags cleared      one entry more
 *   apply    the snapshot: +1, the L1 table: -1      the snapshot's     -
 *   delete   the snapshot: -1                        flags set again    one entry less
 *
 * A host cluster is counted once for each way that leads to it from an L1 table: an L2 table that
 * two L1 tables share counts each of its clusters twice.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "format/qcow2/snapshot_change.h"

struct change {
    struct qcow2 *q;
    struct qcow2_shadow shadow;
    struct hws_error *err;
    uint8_t *l2; /* a cluster: the L2 table that is looked at */
    bool locked; /* alloc_lock */

    /* What the image is to have; in memory and, but for the header, on disk. */
    uint64_t *l1, *l1_dirty; /* NULL: no new one */
    uint32_t l1_entries;
    uint64_t l1_host;
    uint64_t size;
    struct qcow2_snapshots snapshots;
    uint64_t snapshots_host;
    uint64_t *reftable; /* NULL: no new one */
    uint64_t reftable_host;
};

/* ---- L2 tables ---- */

static int co_read_l2(struct change *c, uint64_t index, uint64_t host)
{
    struct qcow2 *q = c->q;
    struct iovec iov;
    if (!is_aligned(host, q->cluster_size) || host >= block_size(q->file))
        return block_corrupt(q->node, host, c->err, "L1 entry %llu is invalid",
                             (unsigned long long)index);
    return co_block_read_padded(q->file, host, sgl_one(&iov, c->l2, q->cluster_size));
}

/* What an L2 entry refers to. @ret_length 0: nothing. */
static int entry_range(struct change *c, uint64_t entry, uint64_t *ret_host, uint64_t *ret_length)
{
    struct qcow2 *q = c->q;
    if (entry & QCOW2_COMPRESSED) {
        qcow2_compressed_range(q, entry, ret_host, ret_length);
        return 0;
    }
    *ret_host = entry & QCOW2_OFFSET_MASK;
    *ret_length = *ret_host ? q->cluster_size : 0;
    return is_aligned(*ret_host, q->cluster_size)
               ? 0
               : block_corrupt(q->node, *ret_host, c->err, "L2 entry is invalid: %#llx",
                               (unsigned long long)entry);
}

/* All that the L1 table reaches counts @delta more. Where @skip, of as many entries, names the same
 * L2 table, nothing changes. */
static int co_count(struct change *c, const uint64_t *l1, uint32_t entries, const uint64_t *skip,
                    uint32_t skip_entries, int delta)
{
    struct qcow2 *q = c->q;
    int r = 0;
    for (uint32_t i = 0; i < entries && r == 0; i++) {
        uint64_t table = l1[i] & QCOW2_OFFSET_MASK;
        if (!table || (i < skip_entries && (skip[i] & QCOW2_OFFSET_MASK) == table))
            continue;
        r = co_read_l2(c, i, table);
        if (r == 0)
            r = qcow2_co_shadow_add(&c->shadow, table >> q->cluster_bits, delta);
        for (uint64_t at = 0; at < q->cluster_size && r == 0; at += q->l2_entry_bytes) {
            uint64_t entry = load_be64(c->l2 + at), host, length;
            if (entry == 0)
                continue;
            r = entry_range(c, entry, &host, &length);
            if (r == 0)
                r = qcow2_co_shadow_add_range(&c->shadow, host, length, delta);
        }
    }
    return r;
}

/* The COPIED flags of the L2 table in memory, as the counts will be. @ret whether one changed. */
static int co_flags(struct change *c, bool all_shared, bool *ret)
{
    struct qcow2 *q = c->q;
    *ret = false;
    for (uint64_t at = 0; at < q->cluster_size; at += q->l2_entry_bytes) {
        uint64_t entry = load_be64(c->l2 + at), host = entry & QCOW2_OFFSET_MASK, count = 2;
        if ((entry & QCOW2_COMPRESSED) || !host)
            continue;
        int r = all_shared ? 0 : qcow2_co_shadow_get(&c->shadow, host >> q->cluster_bits, &count);
        if (r < 0)
            return r;
        uint64_t flag = count == 1 ? QCOW2_COPIED : 0;
        if ((entry & QCOW2_COPIED) == flag)
            continue;
        store_be64(c->l2 + at, (entry & ~QCOW2_COPIED) | flag);
        *ret = true;
    }
    return 0;
}

/* A table whose flags change lies at a new place, for the @sharers L1 tables of this change. */
static int co_move_l2(struct change *c, uint64_t *table, int sharers)
{
    struct qcow2 *q = c->q;
    struct iovec iov;
    uint64_t host;
    int r = qcow2_co_shadow_alloc(&c->shadow, 1, &host);
    if (r == 0 && sharers > 1)
        r = qcow2_co_shadow_add(&c->shadow, host >> q->cluster_bits, sharers - 1);
    if (r == 0)
        r = qcow2_co_shadow_add(&c->shadow, *table >> q->cluster_bits, -sharers);
    if (r == 0)
        r = co_block_write(q->file, host, sgl_one(&iov, c->l2, q->cluster_size), 0);
    *table = host;
    return r;
}

/* Puts the flags of the new L1 table, and of all L2 tables that it names, right. */
static int co_settle_flags(struct change *c, int sharers)
{
    struct qcow2 *q = c->q;
    int r = 0;
    for (uint32_t i = 0; i < c->l1_entries && r == 0; i++) {
        uint64_t table = c->l1[i] & QCOW2_OFFSET_MASK, count = sharers;
        bool changed;
        if (!table) {
            c->l1[i] = 0;
            continue;
        }
        r = co_read_l2(c, i, table);
        if (r == 0)
            r = co_flags(c, sharers > 1, &changed);
        if (r == 0 && changed)
            r = co_move_l2(c, &table, sharers);
        else if (r == 0)
            r = qcow2_co_shadow_get(&c->shadow, table >> q->cluster_bits, &count);
        c->l1[i] = table | (count == 1 ? QCOW2_COPIED : 0);
    }
    return r;
}

/* ---- tables at new places ---- */

/* @table in host order; @entries > 0. */
static int co_store_table(struct change *c, const uint64_t *table, uint64_t entries,
                          uint64_t *ret_host)
{
    struct qcow2 *q = c->q;
    uint64_t bytes = align_up(entries * 8, q->cluster_size);
    autofree uint8_t *buffer = qcow2_buffer(bytes);
    struct iovec iov;
    if (!buffer)
        return -ENOMEM;
    for (uint64_t i = 0; i < entries; i++)
        store_be64(buffer + i * 8, table[i]);
    int r = qcow2_co_shadow_alloc(&c->shadow, (uint32_t)(bytes >> q->cluster_bits), ret_host);
    return r < 0 ? r : co_block_write(q->file, *ret_host, sgl_one(&iov, buffer, bytes), 0);
}

static int co_store_snapshots(struct change *c)
{
    struct qcow2 *q = c->q;
    struct iovec iov;
    c->snapshots.bytes = qcow2_snapshots_bytes(&c->snapshots);
    if (c->snapshots.count > QCOW2_SNAPSHOTS_MAX ||
        c->snapshots.bytes > QCOW2_SNAPSHOT_TABLE_BYTES_MAX)
        return hws_fail(c->err, EFBIG, "'%.200s' has %u snapshots, which is the most there can be",
                        q->node->filename, q->snapshots.count);
    if (c->snapshots.count == 0)
        return 0;
    uint64_t bytes = align_up(c->snapshots.bytes, q->cluster_size);
    autofree uint8_t *buffer = qcow2_buffer(bytes);
    if (!buffer)
        return -ENOMEM;
    qcow2_snapshots_serialise(&c->snapshots, buffer);
    int r =
        qcow2_co_shadow_alloc(&c->shadow, (uint32_t)(bytes >> q->cluster_bits), &c->snapshots_host);
    return r < 0 ? r : co_block_write(q->file, c->snapshots_host, sgl_one(&iov, buffer, bytes), 0);
}

/* Room for the new refcount table, which may make the old one grow. */
static int co_place_reftable(struct change *c)
{
    struct qcow2 *q = c->q;
    for (;;) {
        uint32_t clusters = q->header.refcount_table_clusters;
        int r = qcow2_co_shadow_alloc(&c->shadow, clusters, &c->reftable_host);
        if (r < 0 || clusters == q->header.refcount_table_clusters)
            return r;
        r = qcow2_co_shadow_add_range(&c->shadow, c->reftable_host,
                                      (uint64_t)clusters << q->cluster_bits, -1);
        if (r < 0)
            return r;
    }
}

static int co_write_reftable(struct change *c)
{
    struct qcow2 *q = c->q;
    uint64_t bytes = (uint64_t)q->header.refcount_table_clusters << q->cluster_bits;
    autofree uint8_t *buffer = qcow2_buffer(bytes);
    struct iovec iov;
    c->reftable = calloc(q->reftable_entries, sizeof(c->reftable[0]));
    if (!buffer || !c->reftable)
        return -ENOMEM;
    for (uint64_t i = 0; i < q->reftable_entries; i++) {
        bool moved = i < c->shadow.entries && c->shadow.host[i];
        c->reftable[i] = moved ? c->shadow.host[i] : q->reftable[i];
        store_be64(buffer + i * 8, c->reftable[i]);
    }
    return co_block_write(q->file, c->reftable_host, sgl_one(&iov, buffer, bytes), 0);
}

/* ---- the change as a whole ---- */

/* With alloc_lock, and everything on disk as it is in memory. */
static int co_begin(struct change *c, struct block_node *node, struct hws_error *err)
{
    struct qcow2 *q = qcow2_of(node);
    *c = (struct change){.q = q, .err = err, .size = q->header.size};
    if (q->header.incompatible_features & QCOW2_INCOMPAT_DATA_FILE)
        return hws_fail(err, ENOTSUP,
                        "'%.200s' keeps its data in another file, which internal snapshots do not "
                        "cover",
                        node->filename);
    if (!list_empty(&q->in_flight))
        return hws_fail(err, EBUSY, "'%.200s' is being written", node->filename);
    c->l2 = qcow2_buffer(q->cluster_size);
    if (!c->l2)
        return -ENOMEM;
    int r = qcow2_co_prepare_write(q);
    if (r == 0)
        r = qcow2_co_flush(node);
    if (r == 0) /* counts of what the first one made free */
        r = qcow2_co_flush(node);
    if (r == 0)
        r = qcow2_snapshots_copy(&q->snapshots, &c->snapshots);
    if (r < 0)
        return r;
    co_mutex_lock(&q->alloc_lock);
    c->locked = true;
    return qcow2_shadow_init(&c->shadow, q);
}

/* All but the header, durably. */
static int co_prepare(struct change *c)
{
    struct qcow2 *q = c->q;
    int r = 0;
    c->l1_dirty = c->l1 ? calloc(qcow2_dirty_words(c->l1_entries), sizeof(c->l1_dirty[0])) : NULL;
    if (c->l1 && !c->l1_dirty)
        return -ENOMEM;
    if (c->l1 && c->l1_entries)
        r = co_store_table(c, c->l1, c->l1_entries, &c->l1_host);
    if (r == 0 && c->l1)
        r = qcow2_co_shadow_add_range(&c->shadow, q->header.l1_table_offset,
                                      (uint64_t)q->header.l1_size * 8, -1);
    if (r == 0)
        r = co_store_snapshots(c);
    if (r == 0 && q->snapshots.count)
        r = qcow2_co_shadow_add_range(&c->shadow, q->header.snapshots_offset, q->snapshots.bytes,
                                      -1);
    if (r == 0 && c->shadow.count)
        r = co_place_reftable(c);
    /* Taken clusters count in blocks that keep their place too. Nothing is dirty after this, so a
     * keep holds nothing that belongs to the old tables. */
    if (r == 0)
        r = qcow2_co_flush_pass(q);
    if (r == 0)
        r = qcow2_co_shadow_write(&c->shadow);
    if (r == 0 && c->shadow.count)
        r = co_write_reftable(c);
    return r < 0 ? r : co_block_flush(q->file);
}

/* The one write that counts. An error leaves open which state the disk has. */
static int co_switch(struct change *c)
{
    struct qcow2 *q = c->q;
    struct qcow2_header *h = &q->header, before = *h;
    rt_mutex_lock(&q->lock);
    if (c->l1) {
        h->l1_table_offset = c->l1_entries ? c->l1_host : h->l1_table_offset;
        h->l1_size = c->l1_entries;
    }
    h->size = c->size;
    h->nb_snapshots = c->snapshots.count;
    h->snapshots_offset = c->snapshots.count ? c->snapshots_host : 0;
    if (c->reftable)
        h->refcount_table_offset = c->reftable_host;
    rt_mutex_unlock(&q->lock);
    int r = qcow2_co_header_store(q);
    if (r == 0)
        return 0;
    atomic_store(&q->broken, r);
    rt_mutex_lock(&q->lock);
    *h = before; /* what can still be read goes by the tables in memory */
    rt_mutex_unlock(&q->lock);
    return r;
}

static void swap_tables(uint64_t **a, uint64_t **b)
{
    uint64_t *kept = *a;
    *a = *b;
    *b = kept;
}

/* Memory follows the disk; the old places become free. */
static void co_follow(struct change *c, uint64_t old_reftable_host)
{
    struct qcow2 *q = c->q;
    struct qcow2_snapshots old = q->snapshots;
    qcow2_cache_forget(q);
    rt_mutex_lock(&q->lock);
    if (c->l1) {
        swap_tables(&q->l1, &c->l1);
        swap_tables(&q->l1_dirty, &c->l1_dirty);
    }
    if (c->reftable)
        swap_tables(&q->reftable, &c->reftable);
    q->snapshots = c->snapshots;
    c->snapshots = old;
    memset(q->pack_next, 0, sizeof(q->pack_next));
    qcow2_reserve_ranges(q);
    (void)!qcow2_guard_make(q);
    rt_mutex_unlock(&q->lock);
    if (!c->reftable)
        return;
    qcow2_co_shadow_settle(&c->shadow, c->reftable);
    qcow2_co_release(q, old_reftable_host >> q->cluster_bits, q->header.refcount_table_clusters);
}

/* Ends what co_begin() began: makes it valid where @r is 0. @what for the message. */
static int co_end(struct change *c, int r, const char *what, const char *name)
{
    struct qcow2 *q = c->q;
    if (r == 0)
        r = co_prepare(c);
    if (r == 0) {
        uint64_t old_reftable_host = q->header.refcount_table_offset;
        r = co_switch(c);
        if (r == 0)
            co_follow(c, old_reftable_host);
    } else {
        qcow2_co_shadow_undo(&c->shadow);
    }
    if (c->locked)
        co_mutex_unlock(&q->alloc_lock);
    qcow2_shadow_free(&c->shadow);
    qcow2_snapshots_free(&c->snapshots);
    free(c->l2);
    free(c->l1);
    free(c->l1_dirty);
    free(c->reftable);
    /* What was taken and what was freed is counted on disk too. */
    if (r == 0)
        r = qcow2_co_flush(q->node);
    if (r == -EOVERFLOW)
        return hws_fail(c->err, EOVERFLOW,
                        "'%.200s': %s '%.100s' would refer to a cluster more often than its "
                        "reference counts of %u bits can say",
                        q->node->filename, what, name, 1u << q->refcount_order);
    if (r < 0 && c->err && c->err->code)
        return r;
    return r < 0
               ? hws_fail_errno(c->err, -r, "'%.200s': %s '%.100s'", q->node->filename, what, name)
               : 0;
}

static int co_find(struct block_node *node, const char *id_or_name, const char *what, uint32_t *ret,
                   struct hws_error *err)
{
    const struct qcow2 *q = qcow2_of(node);
    int64_t index = qcow2_snapshots_find(&q->snapshots, id_or_name);
    if (index < 0)
        return hws_fail(err, ENOENT, "'%.200s' has no snapshot '%.100s' to %s", node->filename,
                        id_or_name, what);
    *ret = (uint32_t)index;
    return 0;
}

/* A copy of the present L1 table as the new one. */
static int keep_l1(struct change *c)
{
    struct qcow2 *q = c->q;
    c->l1_entries = q->header.l1_size;
    c->l1 = malloc(((size_t)c->l1_entries + 1) * sizeof(c->l1[0]));
    if (!c->l1)
        return -ENOMEM;
    memcpy(c->l1, q->l1, (size_t)c->l1_entries * sizeof(c->l1[0]));
    return 0;
}

/* ---- the three ---- */

static int make_entry(struct change *c, const char *name, uint64_t l1_host)
{
    struct qcow2_snapshot s;
    char id[24];
    uint64_t now = rt_wall_ns();
    qcow2_snapshots_new_id(&c->snapshots, id);
    int r = qcow2_snapshot_make(id, name, &s);
    if (r < 0)
        return r;
    s.l1_offset = l1_host;
    s.l1_entries = c->l1_entries;
    s.disk_bytes = c->q->header.size;
    s.date_sec = (uint32_t)(now / 1000000000u);
    s.date_nsec = (uint32_t)(now % 1000000000u);
    qcow2_snapshot_store_extra(&s);
    r = qcow2_snapshots_append(&c->snapshots, &s);
    if (r < 0)
        qcow2_snapshot_free(&s);
    return r;
}

int qcow2_co_snapshot_create(struct block_node *node, const char *name, struct hws_error *err)
{
    struct change c;
    uint64_t l1_host = 0;
    int r = co_begin(&c, node, err);
    if (r == 0)
        r = keep_l1(&c);
    if (r == 0)
        r = co_count(&c, c.l1, c.l1_entries, NULL, 0, 1);
    if (r == 0)
        r = co_settle_flags(&c, 2);
    if (r == 0 && c.l1_entries)
        r = co_store_table(&c, c.l1, c.l1_entries, &l1_host);
    if (r == 0)
        r = make_entry(&c, name, l1_host);
    return co_end(&c, r, "taking the snapshot", name);
}

int qcow2_co_snapshot_apply(struct block_node *node, const char *id_or_name, struct hws_error *err)
{
    struct qcow2 *q = qcow2_of(node);
    struct change c;
    uint32_t index = 0;
    int r = co_find(node, id_or_name, "go back to", &index, err);
    if (r < 0)
        return r;
    r = co_begin(&c, node, err);
    const struct qcow2_snapshot *s = &q->snapshots.entry[index];
    if (r == 0)
        r = qcow2_co_snapshot_l1(q, s, &c.l1, err);
    if (r == 0) {
        c.l1_entries = s->l1_entries;
        c.size = qcow2_snapshot_disk_bytes(q, s);
        /* In this order no count is higher in between than before or after. */
        r = co_count(&c, q->l1, q->header.l1_size, c.l1, c.l1_entries, -1);
    }
    if (r == 0)
        r = co_count(&c, c.l1, c.l1_entries, q->l1, q->header.l1_size, 1);
    if (r == 0)
        r = co_settle_flags(&c, 1);
    r = co_end(&c, r, "going back to the snapshot", id_or_name);
    if (r == 0)
        atomic_store(&node->size_bytes, q->header.size);
    return r;
}

int qcow2_co_snapshot_delete(struct block_node *node, const char *id_or_name, struct hws_error *err)
{
    struct qcow2 *q = qcow2_of(node);
    struct change c;
    uint32_t index = 0;
    uint64_t *l1 = NULL;
    int r = co_find(node, id_or_name, "delete", &index, err);
    if (r < 0)
        return r;
    r = co_begin(&c, node, err);
    const struct qcow2_snapshot *s = &q->snapshots.entry[index];
    if (r == 0)
        r = qcow2_co_snapshot_l1(q, s, &l1, err);
    if (r == 0)
        r = keep_l1(&c);
    if (r == 0)
        r = co_count(&c, l1, s->l1_entries, NULL, 0, -1);
    if (r == 0)
        r = qcow2_co_shadow_add_range(&c.shadow, s->l1_offset, (uint64_t)s->l1_entries * 8, -1);
    if (r == 0)
        r = co_settle_flags(&c, 1);
    if (r == 0)
        qcow2_snapshots_remove(&c.snapshots, index);
    free(l1);
    return co_end(&c, r, "deleting the snapshot", id_or_name);
}
