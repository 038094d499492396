/*
 * Refcount blocks at new places; see snapshot_change.h.
 *
 * Blocks are changed in memory, a bounded number of them at a time: what has to make room is
 * written to its new place, which nothing on disk refers to yet, and read again from there.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "format/qcow2/snapshot_change.h"

/* Blocks in memory: 16 MiB of them, which is 512 GiB of clusters of 64 KiB. */
#define LOADED_BYTES (16 * MiB)
#define LOADED_MIN   4u
#define LOADED_MAX   4096u

int qcow2_shadow_init(struct qcow2_shadow *s, struct qcow2 *q)
{
    *s = (struct qcow2_shadow){.q = q, .entries = q->reftable_entries};
    s->slots = (unsigned)MIN(MAX(LOADED_BYTES >> q->cluster_bits, (uint64_t)LOADED_MIN),
                             (uint64_t)LOADED_MAX);
    s->host = calloc(s->entries, sizeof(s->host[0]));
    s->slot = calloc(s->entries, sizeof(s->slot[0]));
    s->loaded = calloc(s->slots, sizeof(s->loaded[0]));
    if (s->host && s->slot && s->loaded)
        return 0;
    qcow2_shadow_free(s);
    return -ENOMEM;
}

void qcow2_shadow_free(struct qcow2_shadow *s)
{
    for (unsigned i = 0; s->loaded && i < s->slots; i++)
        free(s->loaded[i].data);
    free(s->loaded);
    free(s->host);
    free(s->slot);
    free(s->taken);
    memset(s, 0, sizeof(*s));
}

/* The refcount table has grown. */
static int grow(struct qcow2_shadow *s)
{
    uint64_t entries = s->q->reftable_entries;
    if (entries <= s->entries)
        return 0;
    uint64_t *host = reallocarray(s->host, entries, sizeof(host[0]));
    if (!host)
        return -ENOMEM;
    s->host = host;
    uint32_t *slot = reallocarray(s->slot, entries, sizeof(slot[0]));
    if (!slot)
        return -ENOMEM;
    s->slot = slot;
    memset(host + s->entries, 0, (entries - s->entries) * sizeof(host[0]));
    memset(slot + s->entries, 0, (entries - s->entries) * sizeof(slot[0]));
    s->entries = entries;
    return 0;
}

/* ---- blocks in memory ---- */

static int co_transfer(struct qcow2_shadow *s, struct qcow2_shadow_block *b, bool write)
{
    struct iovec iov;
    struct sgl list = sgl_one(&iov, b->data, s->q->cluster_size);
    uint64_t host = s->host[b->block];
    return write ? co_block_write(s->q->file, host, list, 0)
                 : co_block_read_padded(s->q->file, host, list);
}

/* A slot without content. */
static int co_free_slot(struct qcow2_shadow *s, struct qcow2_shadow_block **ret)
{
    for (;;) {
        struct qcow2_shadow_block *b = &s->loaded[s->hand];
        s->hand = (s->hand + 1) % s->slots;
        if (b->data && b->referenced) {
            b->referenced = false;
            continue;
        }
        int r = b->data && b->dirty ? co_transfer(s, b, true) : 0;
        if (r < 0)
            return r;
        if (b->data)
            s->slot[b->block] = 0;
        else if (!(b->data = qcow2_buffer(s->q->cluster_size)))
            return -ENOMEM;
        b->dirty = false;
        *ret = b;
        return 0;
    }
}

/* The present content of a block, from the cache. */
static int co_copy_present(struct qcow2 *q, uint64_t block, uint8_t *data)
{
    uint32_t per_slice = qcow2_refcounts_per_slice(q);
    uint64_t first = block << q->refcount_block_bits;
    for (uint64_t at = 0; at < q->cluster_size; at += q->cache.slice_bytes, first += per_slice) {
        struct qcow2_slice *slice;
        uint32_t index;
        int r = qcow2_co_refcount_slice(q, first, 0, &slice, &index);
        if (r < 0)
            return r;
        if (!slice)
            return block_corrupt(q->node, first << q->cluster_bits, NULL,
                                 "a cluster in use has no refcount block");
        rt_mutex_lock(&q->lock);
        memcpy(data + at, slice->data, q->cache.slice_bytes);
        qcow2_slice_unpin(q, slice);
        rt_mutex_unlock(&q->lock);
    }
    return 0;
}

static void unuse(struct qcow2_shadow_block *b)
{
    free(b->data);
    *b = (struct qcow2_shadow_block){0};
}

/* The block in memory; it gets a new place where it has none. */
static int co_block(struct qcow2_shadow *s, uint64_t block, struct qcow2_shadow_block **ret)
{
    struct qcow2_shadow_block *b = NULL;
    uint64_t host = 0;
    if (likely(block < s->entries && s->slot[block])) {
        *ret = &s->loaded[s->slot[block] - 1];
        (*ret)->referenced = true;
        return 0;
    }
    bool fresh = block >= s->entries || !s->host[block];
    if (fresh && (block >= s->q->reftable_entries || !s->q->reftable[block]))
        return block_corrupt(s->q->node, block << s->q->refcount_block_bits << s->q->cluster_bits,
                             NULL, "a cluster in use has no refcount block");
    int r = fresh ? qcow2_co_shadow_alloc(s, 1, &host) : 0;
    if (r == 0)
        r = co_free_slot(s, &b);
    if (r < 0)
        return r;
    b->block = block;
    r = fresh ? co_copy_present(s->q, block, b->data) : co_transfer(s, b, false);
    if (r < 0) {
        unuse(b);
        return r;
    }
    if (fresh) {
        s->host[block] = host;
        s->count++;
    }
    b->dirty = fresh;
    b->referenced = true;
    s->slot[block] = (uint32_t)(b - s->loaded) + 1;
    *ret = b;
    return 0;
}

int qcow2_co_shadow_write(struct qcow2_shadow *s)
{
    int r = 0;
    for (unsigned i = 0; i < s->slots && r == 0; i++) {
        struct qcow2_shadow_block *b = &s->loaded[i];
        if (!b->data || !b->dirty)
            continue;
        r = co_transfer(s, b, true);
        b->dirty = r < 0;
    }
    return r;
}

/* ---- counts ---- */

static uint32_t index_of(const struct qcow2 *q, uint64_t cluster)
{
    return (uint32_t)(cluster & ((1ull << q->refcount_block_bits) - 1));
}

/* @from_zero: the cluster was free. */
static int co_change(struct qcow2_shadow *s, uint64_t cluster, int delta, bool from_zero)
{
    struct qcow2 *q = s->q;
    struct qcow2_shadow_block *b;
    int r = co_block(s, cluster >> q->refcount_block_bits, &b);
    if (r < 0)
        return r;
    uint32_t index = index_of(q, cluster);
    uint64_t value = qcow2_refcount_read(b->data, q->refcount_order, index);
    uint64_t much = (uint64_t)(delta < 0 ? -delta : delta);
    if ((value == 0 && !from_zero) || (delta < 0 && value < much))
        return block_corrupt(q->node, cluster << q->cluster_bits, NULL,
                             "the refcount of a cluster in use is too low");
    if (delta > 0 && value > q->refcount_max - much)
        return -EOVERFLOW;
    qcow2_refcount_write(b->data, q->refcount_order, index, value + (uint64_t)(int64_t)delta);
    b->dirty = true;
    return 0;
}

int qcow2_co_shadow_add(struct qcow2_shadow *s, uint64_t cluster, int delta)
{
    return co_change(s, cluster, delta, false);
}

int qcow2_co_shadow_add_range(struct qcow2_shadow *s, uint64_t host, uint64_t length, int delta)
{
    uint64_t cluster = host >> s->q->cluster_bits;
    uint64_t end = length ? ((host + length - 1) >> s->q->cluster_bits) + 1 : cluster;
    int r = 0;
    for (; cluster < end && r == 0; cluster++)
        r = co_change(s, cluster, delta, false);
    return r;
}

int qcow2_co_shadow_get(struct qcow2_shadow *s, uint64_t cluster, uint64_t *ret)
{
    struct qcow2 *q = s->q;
    uint64_t block = cluster >> q->refcount_block_bits;
    struct qcow2_slice *slice;
    uint32_t index;
    if (block < s->entries && s->host[block]) {
        struct qcow2_shadow_block *b;
        int r = co_block(s, block, &b);
        if (r == 0)
            *ret = qcow2_refcount_read(b->data, q->refcount_order, index_of(q, cluster));
        return r;
    }
    int r = qcow2_co_refcount_slice(q, cluster, 0, &slice, &index);
    if (r < 0)
        return r;
    *ret = 0;
    if (!slice)
        return 0;
    rt_mutex_lock(&q->lock);
    *ret = qcow2_refcount_read(slice->data, q->refcount_order, index);
    qcow2_slice_unpin(q, slice);
    rt_mutex_unlock(&q->lock);
    return 0;
}

/* ---- taking and giving back ---- */

static int note_taken(struct qcow2_shadow *s, uint64_t cluster, uint64_t count)
{
    struct qcow2_taken *last = s->taken_count ? &s->taken[s->taken_count - 1] : NULL;
    if (last && last->cluster + last->count == cluster) {
        last->count += count;
        return 0;
    }
    if (s->taken_count == s->taken_room) {
        size_t room = s->taken_room ? s->taken_room * 2 : 64;
        struct qcow2_taken *bigger = reallocarray(s->taken, room, sizeof(bigger[0]));
        if (!bigger)
            return -ENOMEM;
        s->taken = bigger;
        s->taken_room = room;
    }
    s->taken[s->taken_count++] = (struct qcow2_taken){cluster, count};
    return 0;
}

int qcow2_co_shadow_alloc(struct qcow2_shadow *s, uint32_t count, uint64_t *ret_host)
{
    struct qcow2 *q = s->q;
    uint32_t got;
    int r = qcow2_co_alloc_locked(q, count, true, ret_host, &got);
    if (r < 0)
        return r;
    uint64_t first = *ret_host >> q->cluster_bits;
    r = grow(s);
    if (r == 0)
        r = note_taken(s, first, count);
    if (r < 0) {
        qcow2_co_release(q, first, count);
        return r;
    }
    /* Blocks that have been copied already. */
    for (uint64_t cluster = first; cluster < first + count && r == 0; cluster++)
        if (s->host[cluster >> q->refcount_block_bits])
            r = co_change(s, cluster, 1, true);
    return r == 0 ? qcow2_cache_invalidate(q, *ret_host, (uint64_t)count << q->cluster_bits) : r;
}

void qcow2_co_shadow_undo(struct qcow2_shadow *s)
{
    for (size_t i = 0; i < s->taken_count; i++)
        qcow2_co_release(s->q, s->taken[i].cluster, s->taken[i].count);
    s->taken_count = 0;
}

/* Punches holes where counts fell to 0, and lets the allocator find them. */
static void co_punch(struct qcow2 *q, uint64_t block, const uint8_t *before, const uint8_t *after)
{
    uint64_t base = block << q->refcount_block_bits, file_bytes = block_size(q->file), run = 0;
    for (uint64_t i = 0; i <= 1ull << q->refcount_block_bits; i++) {
        bool fell = i < 1ull << q->refcount_block_bits &&
                    qcow2_refcount_read(after, q->refcount_order, (uint32_t)i) == 0 &&
                    qcow2_refcount_read(before, q->refcount_order, (uint32_t)i) != 0;
        if (fell) {
            run++;
            continue;
        }
        if (run == 0)
            continue;
        uint64_t host = (base + i - run) << q->cluster_bits;
        q->free_hint = MIN(q->free_hint, base + i - run);
        if (host < file_bytes)
            (void)!co_block_discard(q->file, host, MIN(run << q->cluster_bits, file_bytes - host));
        run = 0;
    }
}

void qcow2_co_shadow_settle(struct qcow2_shadow *s, const uint64_t *old)
{
    struct qcow2 *q = s->q;
    autofree uint8_t *before = qcow2_buffer(q->cluster_size);
    autofree uint8_t *after = qcow2_buffer(q->cluster_size);
    q->free_hint = before && after ? q->free_hint : 0;
    for (uint64_t i = 0; i < s->entries; i++) {
        struct iovec a, b;
        if (!s->host[i])
            continue;
        if (before && after &&
            co_block_read_padded(q->file, old[i], sgl_one(&a, before, q->cluster_size)) == 0 &&
            co_block_read_padded(q->file, s->host[i], sgl_one(&b, after, q->cluster_size)) == 0)
            co_punch(q, i, before, after);
        else
            q->free_hint = 0;
    }
    /* Last: until here a block's old place must not become another's. */
    for (uint64_t i = 0; i < s->entries; i++)
        if (s->host[i])
            qcow2_co_release(q, old[i] >> q->cluster_bits, 1);
}
