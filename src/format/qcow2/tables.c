/*
 * What an open image keeps in memory for good: header, L1 table, refcount table.
 *
 * The refcount table is loaded when the image is (or becomes) writable: the read-only layers of a
 * long chain do without.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "format/qcow2/qcow2.h"

/* ---- header ---- */

static int co_read_header(struct qcow2 *q, struct qcow2_header *ret, struct hws_error *err)
{
    const char *name = q->node->filename;
    uint64_t file_bytes = block_size(q->file);
    uint8_t start[512] __attribute__((aligned(512)));
    struct iovec iov;
    struct qcow2_header fixed;
    size_t length = (size_t)MIN(file_bytes, (uint64_t)sizeof(start));
    int r = co_block_read_padded(q->file, 0, sgl_one(&iov, start, sizeof(start)));
    if (r < 0)
        return hws_fail_errno(err, -r, "'%.200s': reading the qcow2 header", name);
    r = qcow2_header_parse_fixed(start, length, &fixed, err);
    if (r < 0)
        return hws_wrap(err, r, "'%.200s'", name);
    length = (size_t)MIN(file_bytes, 1ull << fixed.cluster_bits);
    autofree uint8_t *bytes = qcow2_buffer(length);
    if (!bytes)
        return hws_fail(err, ENOMEM, "out of memory");
    r = co_block_read_padded(q->file, 0, sgl_one(&iov, bytes, length));
    if (r < 0)
        return hws_fail_errno(err, -r, "'%.200s': reading the qcow2 header", name);
    r = qcow2_header_parse(bytes, length, file_bytes, q->node->check_only, ret, err);
    return r < 0 ? hws_wrap(err, r, "'%.200s'", name) : 0;
}

int qcow2_co_header_store(struct qcow2 *q)
{
    uint8_t sector[512] __attribute__((aligned(512)));
    struct iovec iov;
    struct sgl list = sgl_one(&iov, sector, sizeof(sector));
    int r = co_block_read_padded(q->file, 0, list);
    if (r < 0)
        return r;
    qcow2_header_store_fixed(&q->header, sector);
    r = co_block_write(q->file, 0, list, 0);
    return r < 0 ? r : co_block_flush(q->file);
}

void qcow2_set_geometry(struct qcow2 *q)
{
    const struct qcow2_header *h = &q->header;
    q->extended_l2 = h->incompatible_features & QCOW2_INCOMPAT_EXTENDED_L2;
    q->cluster_bits = h->cluster_bits;
    q->cluster_size = 1ull << h->cluster_bits;
    q->subcluster_bits = h->cluster_bits - (q->extended_l2 ? 5 : 0);
    q->subcluster_size = 1ull << q->subcluster_bits;
    q->l2_entry_bytes = q->extended_l2 ? 16 : 8;
    q->l2_bits = h->cluster_bits - (q->extended_l2 ? 4 : 3);
    q->refcount_order = h->refcount_order;
    q->refcount_block_bits = h->cluster_bits + 3 - h->refcount_order;
    q->refcount_max = h->refcount_order == 6 ? UINT64_MAX : (1ull << (1u << h->refcount_order)) - 1;
}

void qcow2_reserve_ranges(struct qcow2 *q)
{
    const struct qcow2_header *h = &q->header;
    q->reserved_range[0].offset = 0;
    q->reserved_range[0].length = q->cluster_size;
    q->reserved_range[1].offset = h->l1_table_offset;
    q->reserved_range[1].length = (uint64_t)h->l1_size * 8;
    q->reserved_range[2].offset = h->refcount_table_offset;
    q->reserved_range[2].length = (uint64_t)h->refcount_table_clusters << q->cluster_bits;
    q->reserved_range[3].offset = h->nb_snapshots ? h->snapshots_offset : 0;
    q->reserved_range[3].length = q->snapshots.bytes;
    q->reserved_range[4].offset = q->bitmaps.valid ? q->bitmaps.place.offset : 0;
    q->reserved_range[4].length = q->bitmaps.valid ? q->bitmaps.place.size : 0;
}

/* ---- tables ---- */

static int co_load_table(struct qcow2 *q, const char *what, uint64_t offset, uint64_t entries,
                         uint64_t **ret, uint64_t **ret_dirty, struct hws_error *err)
{
    autofree uint64_t *table = qcow2_buffer((entries + 1) * sizeof(*table));
    autofree uint64_t *dirty = calloc(qcow2_dirty_words(entries), sizeof(*dirty));
    if (!table || !dirty)
        return hws_fail(err, ENOMEM, "out of memory for the %s (%llu entries)", what,
                        (unsigned long long)entries);
    struct iovec iov;
    int r = entries ? co_block_read_padded(q->file, offset, sgl_one(&iov, table, entries * 8)) : 0;
    if (r < 0)
        return hws_fail_errno(err, -r, "'%.200s': reading the %s at offset %#llx",
                              q->node->filename, what, (unsigned long long)offset);
    for (uint64_t i = 0; i < entries; i++)
        table[i] = load_be64(&table[i]);
    *ret = steal_ptr(&table);
    *ret_dirty = steal_ptr(&dirty);
    return 0;
}

static int co_load_reftable(struct qcow2 *q, struct hws_error *err)
{
    if (q->reftable)
        return 0;
    /* Only the checker gets this far with a table that cannot be one; it has its own look at it. */
    uint64_t limit = MAX(QCOW2_REFTABLE_BYTES_MAX >> q->cluster_bits, 1ull);
    if (q->node->check_only && (q->header.refcount_table_clusters > limit ||
                                q->header.refcount_table_offset >= QCOW2_HOST_END))
        return 0;
    uint64_t entries = (uint64_t)q->header.refcount_table_clusters << (q->cluster_bits - 3);
    int r = co_load_table(q, "refcount table", q->header.refcount_table_offset, entries,
                          &q->reftable, &q->reftable_dirty, err);
    if (r < 0)
        return r;
    for (uint64_t i = 0; i < entries; i++)
        q->reftable[i] &= QCOW2_REFTABLE_OFFSET_MASK;
    q->reftable_entries = entries;
    q->free_hint = 0;
    q->fresh_cluster = div_round_up(block_size(q->file), q->cluster_size);
    if (qcow2_guard_make(q) == 0)
        return 0;
    free(steal_ptr(&q->reftable));
    free(steal_ptr(&q->reftable_dirty));
    q->reftable_entries = 0;
    return hws_fail(err, ENOMEM, "out of memory");
}

int qcow2_co_tables_load(struct qcow2 *q, struct hws_error *err)
{
    int r = co_read_header(q, &q->header, err);
    if (r < 0)
        return r;
    qcow2_set_geometry(q);
    qcow2_reserve_ranges(q);
    if (qcow2_cache_init(q) < 0)
        r = hws_fail(err, ENOMEM, "out of memory");
    if (r == 0)
        r = co_load_table(q, "L1 table", q->header.l1_table_offset, q->header.l1_size, &q->l1,
                          &q->l1_dirty, err);
    if (r == 0)
        r = qcow2_co_snapshots_load(q, err);
    if (r == 0 && !q->node->read_only)
        r = co_load_reftable(q, err);
    return r;
}

void qcow2_tables_free(struct qcow2 *q)
{
    qcow2_snapshots_free(&q->snapshots);
    qcow2_cache_free(q);
    free(steal_ptr(&q->l1));
    free(steal_ptr(&q->l1_dirty));
    free(steal_ptr(&q->reftable));
    free(steal_ptr(&q->reftable_dirty));
    free(steal_ptr(&q->guard));
    q->reftable_entries = 0;
    q->l1_any_dirty = q->reftable_any_dirty = false;
    qcow2_header_free(&q->header);
}

int qcow2_co_reload(struct qcow2 *q, struct hws_error *err)
{
    assert(list_empty(&q->in_flight));
    qcow2_compressed_forget(q);
    qcow2_encoders_free(q);
    qcow2_keep_reset(q);
    qcow2_tables_free(q);
    /* What waited to be freed was counted anew by whoever asks for this. */
    q->freed.count = 0;
    q->freed.clusters = 0;
    int r = qcow2_co_tables_load(q, err);
    if (r == 0)
        r = qcow2_co_bitmaps_reopen(q, err);
    if (r < 0)
        atomic_store(&q->broken, r);
    return r;
}

/* ---- before the first change ---- */

static int co_prepare_metadata_locked(struct qcow2 *q)
{
    int r = atomic_load(&q->broken);
    if (r == 0)
        r = co_load_reftable(q, NULL);
    uint64_t wanted = r == 0 ? qcow2_keep_mark(q) : 0;
    if (q->bitmaps.valid)
        wanted |= QCOW2_AUTOCLEAR_BITMAPS;
    if (qcow2_data_is_raw(q))
        wanted |= QCOW2_AUTOCLEAR_DATA_FILE_RAW;
    if (r == 0 && q->header.autoclear_features != wanted) {
        /* "An implementation may only write to an image with unknown auto-clear features if it
           clears the respective bits from this field first." The bits of bitmaps and of a raw data
           file stay where we keep them true. A mark of our own says that a keep belongs to the
           image (keep.c). */
        uint64_t before = q->header.autoclear_features;
        q->header.autoclear_features = wanted;
        r = qcow2_co_header_store(q);
        if (r < 0)
            q->header.autoclear_features = before;
    }
    return r;
}

int qcow2_co_prepare_metadata(struct qcow2 *q)
{
    co_mutex_lock(&q->alloc_lock);
    int r = co_prepare_metadata_locked(q);
    co_mutex_unlock(&q->alloc_lock);
    return r;
}

static int co_prepare_locked(struct qcow2 *q)
{
    /* A broken one stays as it is, the host bytes that discards empty included: what the disk names
     * may be a snapshot's. */
    if (atomic_load(&q->writable_prepared))
        return atomic_load(&q->broken);
    int r = co_prepare_metadata_locked(q);
    if (r == 0)
        r = qcow2_co_bitmaps_begin(q, false);
    if (r == 0)
        atomic_store_explicit(&q->writable_prepared, true, memory_order_release);
    return r;
}

/* ---- the dirty bit ---- */

static int co_set_dirty(struct qcow2 *q, bool dirty)
{
    uint64_t before = q->header.incompatible_features, bit = QCOW2_INCOMPAT_DIRTY;
    uint64_t features = dirty ? before | bit : before & ~bit;
    if (features == before)
        return 0;
    q->header.incompatible_features = features;
    int r = qcow2_co_header_store(q);
    if (r < 0)
        q->header.incompatible_features = before;
    return r;
}

int qcow2_co_mark_dirty(struct qcow2 *q)
{
    return qcow2_is_lazy(q) ? co_set_dirty(q, true) : 0;
}

int qcow2_co_clear_dirty(struct qcow2 *q)
{
    co_mutex_lock(&q->alloc_lock);
    int r = co_set_dirty(q, false);
    co_mutex_unlock(&q->alloc_lock);
    return r;
}

int qcow2_co_prepare_write(struct qcow2 *q)
{
    co_mutex_lock(&q->alloc_lock);
    int r = co_prepare_locked(q);
    co_mutex_unlock(&q->alloc_lock);
    return r;
}
