/*
 * Storing the bitmaps of an image.
 *
 *   1  the bits of each bitmap that differs from what is on disk, its table, and a new directory,
 *      all in new clusters
 *   2  a flush pass: they and their counts are durable
 *   3  the header names the new directory (header_change.c)
 *   4  the clusters that only the old one named are given back
 *
 * A crash before 3 leaves the old directory, whose bitmaps are marked in use where they are no
 * longer true; after it the new one; clusters that nobody names leak. Of a bitmap that did not
 * change the new directory names the table that it had.
 *
 * The node is idle. Who changes it next marks the bitmaps in use again (bitmap_open.c).
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/log.h"
#include "block/bitmap.h"
#include "format/qcow2/qcow2.h"

/* Clusters allocated together. */
#define RUN_CLUSTERS 64u

/* Clusters on their way to be used. */
struct run {
    uint64_t host;
    uint32_t left;
};

/* What one bitmap gets anew. */
struct fresh {
    struct qcow2_bitmap before; /* borrowed: the old table's place */
    uint64_t *table;            /* host order; NULL: the bitmap keeps what it has */
    uint64_t table_offset;      /* 0: not allocated yet */
    uint32_t entries;
};

/* ---- clusters ---- */

static int co_alloc(struct qcow2 *q, uint32_t want, bool all, uint64_t *ret_host, uint32_t *ret_got)
{
    co_mutex_lock(&q->alloc_lock);
    int r = qcow2_co_alloc_locked(q, want, all, ret_host, ret_got);
    co_mutex_unlock(&q->alloc_lock);
    return r < 0 ? r : qcow2_cache_invalidate(q, *ret_host, (uint64_t)*ret_got << q->cluster_bits);
}

/* No longer named by anything on disk. What cannot be noted leaks. */
static void give_back(struct qcow2 *q, uint64_t host, uint64_t bytes)
{
    uint32_t clusters = (uint32_t)(align_up(bytes, q->cluster_size) >> q->cluster_bits);
    if (clusters == 0 || qcow2_freed_reserve(q, 1) < 0)
        return;
    rt_mutex_lock(&q->lock);
    qcow2_freed_add(q, host, clusters, false);
    rt_mutex_unlock(&q->lock);
}

static int co_give_back_entry(struct qcow2 *q, uint32_t index, uint64_t entry, void *arg)
{
    (void)index;
    (void)arg;
    if (entry & QCOW2_BITMAP_TABLE_OFFSET)
        give_back(q, entry & QCOW2_BITMAP_TABLE_OFFSET, q->cluster_size);
    return 0;
}

/* A table on disk, and the clusters that it names. */
static void co_give_back_table(struct qcow2 *q, uint64_t table_offset, uint32_t entries)
{
    if (entries == 0)
        return;
    if (qcow2_co_bitmap_table_walk(q, table_offset, entries, co_give_back_entry, NULL) < 0)
        log_warning("'%s': the clusters of a bitmap could not all be freed; a check finds them",
                    q->node->filename);
    give_back(q, table_offset, entries * 8ull);
}

static int co_next_cluster(struct qcow2 *q, struct run *run, uint64_t wanted, uint64_t *ret_host)
{
    if (run->left == 0) {
        int r = co_alloc(q, (uint32_t)MIN(wanted, (uint64_t)RUN_CLUSTERS), false, &run->host,
                         &run->left);
        if (r < 0)
            return r;
    }
    *ret_host = run->host;
    run->host += q->cluster_size;
    run->left--;
    return 0;
}

/* ---- one bitmap ---- */

enum content { CONTENT_ZEROES, CONTENT_ONES, CONTENT_MIXED };

/* The bits of one cluster into @buffer; behind the last one there are zeroes. */
static enum content fill(const struct qcow2 *q, const struct block_bitmap *live, uint64_t index,
                         uint8_t *buffer)
{
    uint64_t per_cluster = q->cluster_size / 8, first = index * per_cluster;
    uint64_t words = div_round_up(live->bits, 64), any = 0, all = UINT64_MAX;
    for (uint64_t i = 0; i < per_cluster; i++) {
        uint64_t word = first + i < words
                            ? atomic_load_explicit(&live->word[first + i], memory_order_relaxed)
                            : 0;
        any |= word;
        all &= word;
        store_le64(buffer + i * 8, word);
    }
    return any == 0 ? CONTENT_ZEROES : all == UINT64_MAX ? CONTENT_ONES : CONTENT_MIXED;
}

static int co_write_bits(struct qcow2 *q, const struct block_bitmap *live, struct fresh *fresh,
                         uint8_t *buffer)
{
    struct run run = {0};
    struct iovec iov;
    int r = 0;
    for (uint32_t i = 0; i < fresh->entries && r == 0; i++) {
        uint64_t host;
        enum content content = fill(q, live, i, buffer);
        if (content != CONTENT_MIXED) {
            fresh->table[i] = content == CONTENT_ONES ? QCOW2_BITMAP_TABLE_ONES : 0;
            continue;
        }
        r = co_next_cluster(q, &run, fresh->entries - i, &host);
        if (r < 0)
            break;
        fresh->table[i] = host;
        r = co_block_write(q->file, host, sgl_one(&iov, buffer, q->cluster_size), 0);
    }
    give_back(q, run.host, (uint64_t)run.left << q->cluster_bits);
    return r;
}

static int co_write_table(struct qcow2 *q, struct fresh *fresh)
{
    uint64_t bytes = align_up(fresh->entries * 8ull, q->cluster_size);
    autofree uint8_t *buffer = qcow2_buffer(bytes);
    struct iovec iov;
    uint32_t got;
    if (!buffer)
        return -ENOMEM;
    for (uint32_t i = 0; i < fresh->entries; i++)
        store_be64(buffer + i * 8ull, fresh->table[i]);
    int r = co_alloc(q, (uint32_t)(bytes >> q->cluster_bits), true, &fresh->table_offset, &got);
    return r < 0 ? r
                 : co_block_write(q->file, fresh->table_offset, sgl_one(&iov, buffer, bytes), 0);
}

static int co_write_bitmap(struct qcow2 *q, const struct block_bitmap *live, struct fresh *fresh)
{
    uint64_t entries =
        qcow2_bitmap_table_entries(live->granularity_bits, q->header.size, q->cluster_bits);
    if (entries > QCOW2_BITMAP_TABLE_BYTES_MAX / 8)
        return -EFBIG;
    fresh->entries = (uint32_t)entries;
    fresh->table = calloc(entries + 1, sizeof(fresh->table[0]));
    autofree uint8_t *buffer = qcow2_buffer(q->cluster_size);
    if (!fresh->table || !buffer)
        return -ENOMEM;
    int r = co_write_bits(q, live, fresh, buffer);
    return r == 0 && entries ? co_write_table(q, fresh) : r;
}

/* Of a store that failed: nothing on disk names it. */
static void drop_fresh(struct qcow2 *q, struct fresh *fresh)
{
    for (uint32_t i = 0; fresh->table && i < fresh->entries; i++)
        if (fresh->table[i] & QCOW2_BITMAP_TABLE_OFFSET)
            give_back(q, fresh->table[i], q->cluster_size);
    if (fresh->table_offset)
        give_back(q, fresh->table_offset, fresh->entries * 8ull);
}

/* ---- the directory ---- */

struct store {
    struct qcow2 *q;
    struct fresh *fresh;        /* one an entry of q->bitmaps */
    struct qcow2_bitmap *entry; /* of the new directory; names and extra data are borrowed */
    struct qcow2_bitmaps_place place;
};

static bool must_write(const struct qcow2_bitmap *b)
{
    return b->live && !b->live->inconsistent &&
           (b->live->changed || b->flags & QCOW2_BITMAP_IN_USE);
}

static int co_write_bitmaps(struct store *s, struct hws_error *err)
{
    const struct qcow2_bitmaps *all = &s->q->bitmaps;
    for (uint32_t i = 0; i < all->count; i++) {
        const struct qcow2_bitmap *b = &all->entry[i];
        if (!must_write(b))
            continue;
        int r = co_block_bitmap_load(b->live, err);
        if (r < 0)
            return r;
        r = co_write_bitmap(s->q, b->live, &s->fresh[i]);
        if (r < 0)
            return hws_fail_errno(err, -r, "'%.200s': storing the bitmap '%.200s'",
                                  s->q->node->filename, b->name);
    }
    return 0;
}

static void make_entries(struct store *s)
{
    const struct qcow2_bitmaps *all = &s->q->bitmaps;
    for (uint32_t i = 0; i < all->count; i++) {
        if (all->entry[i].removed)
            continue;
        struct qcow2_bitmap *b = &s->entry[s->place.count++];
        *b = all->entry[i];
        if (b->live && b->live->inconsistent)
            b->flags |= QCOW2_BITMAP_IN_USE;
        if (!s->fresh[i].table)
            continue;
        b->table_offset = s->fresh[i].table_offset;
        b->table_entries = s->fresh[i].entries;
        b->flags &= ~(uint32_t)(QCOW2_BITMAP_IN_USE | QCOW2_BITMAP_AUTO);
        b->flags |= b->live->enabled ? QCOW2_BITMAP_AUTO : 0;
    }
    s->place.size = qcow2_bitmaps_bytes(s->entry, s->place.count);
}

static int co_write_directory(struct store *s)
{
    struct qcow2 *q = s->q;
    if (s->place.count == 0)
        return 0;
    if (s->place.size > QCOW2_BITMAP_DIRECTORY_MAX)
        return -EFBIG;
    uint64_t bytes = align_up(s->place.size, q->cluster_size);
    autofree uint8_t *buffer = qcow2_buffer(bytes);
    struct iovec iov;
    uint32_t got;
    if (!buffer)
        return -ENOMEM;
    qcow2_bitmaps_serialise(s->entry, s->place.count, buffer);
    int r = co_alloc(q, (uint32_t)(bytes >> q->cluster_bits), true, &s->place.offset, &got);
    return r < 0 ? r : co_block_write(q->file, s->place.offset, sgl_one(&iov, buffer, bytes), 0);
}

/* ---- the switch ---- */

/* The new directory is the one on disk: memory follows, and what the old one had goes. */
static void co_adopt(struct store *s, const struct qcow2_bitmaps_place *old, bool old_valid)
{
    struct qcow2 *q = s->q;
    struct qcow2_bitmaps *all = &q->bitmaps;
    uint32_t kept = 0;
    if (old_valid)
        give_back(q, old->offset, old->size);
    for (uint32_t i = 0; i < all->count; i++) {
        struct qcow2_bitmap *b = &all->entry[i];
        if (b->flags_at && (b->removed || s->fresh[i].table))
            co_give_back_table(q, b->table_offset, b->table_entries);
        if (b->removed) {
            qcow2_bitmap_clear(b);
            continue;
        }
        all->entry[kept] = s->entry[kept];
        if (b->live) {
            b->live->stored = (void *)(uintptr_t)(kept + 1);
            b->live->changed = false;
        }
        kept++;
    }
    all->count = kept;
    all->changed = false;
    /* Whoever changes the image next marks them in use again. */
    atomic_store(&q->writable_prepared, false);
}

static int co_switch(struct store *s, struct hws_error *err)
{
    struct qcow2 *q = s->q;
    struct qcow2_bitmaps_place old = q->bitmaps.place;
    bool old_valid = q->bitmaps.valid;
    int r = qcow2_co_flush_pass(q);
    if (r < 0)
        return hws_fail_errno(err, -r, "'%.200s': storing bitmaps", q->node->filename);
    co_mutex_lock(&q->alloc_lock);
    r = qcow2_co_bitmaps_switch(q, &s->place, err);
    co_mutex_unlock(&q->alloc_lock);
    if (r == 0)
        co_adopt(s, &old, old_valid);
    return r;
}

static int co_store(struct store *s, struct hws_error *err)
{
    struct qcow2 *q = s->q;
    uint32_t count = q->bitmaps.count;
    s->fresh = calloc(count + 1, sizeof(s->fresh[0]));
    s->entry = calloc(count + 1, sizeof(s->entry[0]));
    if (!s->fresh || !s->entry)
        return hws_fail(err, ENOMEM, "out of memory");
    int r = qcow2_co_prepare_metadata(q);
    if (r < 0)
        return hws_fail_errno(err, -r, "'%.200s': storing bitmaps", q->node->filename);
    r = co_write_bitmaps(s, err);
    if (r == 0) {
        make_entries(s);
        r = co_write_directory(s);
        if (r < 0)
            hws_fail_errno(err, -r, "'%.200s': storing the bitmap directory", q->node->filename);
    }
    if (r == 0)
        r = co_switch(s, err);
    /* Where the switch itself failed it is open which directory counts: nothing is given back. */
    for (uint32_t i = 0; r < 0 && i < count && !atomic_load(&q->broken); i++)
        drop_fresh(q, &s->fresh[i]);
    if (r < 0 && s->place.offset && !atomic_load(&q->broken))
        give_back(q, s->place.offset, s->place.size);
    return r;
}

int qcow2_co_bitmaps_store(struct block_node *node, struct hws_error *err)
{
    struct qcow2 *q = qcow2_of(node);
    struct store s = {.q = q};
    uint32_t count = q->bitmaps.count;
    bool wanted = q->bitmaps.changed;
    for (uint32_t i = 0; i < count && !wanted; i++)
        wanted = must_write(&q->bitmaps.entry[i]) ||
                 (q->bitmaps.entry[i].live && q->bitmaps.entry[i].live->changed);
    if (!wanted)
        return 0;
    int broken = atomic_load(&q->broken);
    int r = broken ? hws_fail_errno(err, -broken, "'%.200s': storing bitmaps", node->filename)
                   : co_store(&s, err);
    for (uint32_t i = 0; s.fresh && i < count; i++)
        free(s.fresh[i].table);
    free(s.fresh);
    free(s.entry);
    return r;
}

/* ---- coming and going ---- */

static int check_room(const struct qcow2 *q, const struct block_bitmap *live, struct hws_error *err)
{
    const struct qcow2_bitmaps *all = &q->bitmaps;
    const char *name = q->node->filename;
    if (q->header.version < 3)
        return hws_fail(err, ENOTSUP,
                        "'%.200s' is a version 2 image, which has no bitmaps: amend it to version "
                        "3 (compat=1.1) first",
                        name);
    if (all->count >= QCOW2_BITMAPS_MAX)
        return hws_fail(err, EFBIG, "'%.200s' has %u bitmaps already", name, all->count);
    for (uint32_t i = 0; i < all->count; i++)
        if (!all->entry[i].removed && strcmp(all->entry[i].name, live->name) == 0)
            return hws_fail(err, EEXIST,
                            "'%.200s' has a bitmap '%.200s' already, which cannot be "
                            "used: %s",
                            name, live->name, qcow2_bitmap_strange(&all->entry[i]));
    uint64_t entries =
        qcow2_bitmap_table_entries(live->granularity_bits, q->header.size, q->cluster_bits);
    if (entries > QCOW2_BITMAP_TABLE_BYTES_MAX / 8)
        return hws_fail(err, EFBIG,
                        "'%.200s': a bitmap in grains of %llu bytes is too large for its clusters: "
                        "use a larger granularity",
                        name, 1ull << live->granularity_bits);
    return 0;
}

int qcow2_co_bitmap_add(struct block_node *node, struct block_bitmap *live, struct hws_error *err)
{
    struct qcow2 *q = qcow2_of(node);
    struct qcow2_bitmaps *all = &q->bitmaps;
    int r = check_room(q, live, err);
    if (r < 0)
        return r;
    struct qcow2_bitmap *entry = realloc(all->entry, (all->count + 1) * sizeof(*entry));
    char *name = strdup(live->name);
    if (entry)
        all->entry = entry;
    if (!entry || !name) {
        free(name);
        return hws_fail(err, ENOMEM, "out of memory");
    }
    entry[all->count++] = (struct qcow2_bitmap){
        .type = QCOW2_BITMAP_DIRTY_TRACKING,
        .granularity_bits = (uint8_t)live->granularity_bits,
        .name = name,
        .name_bytes = (uint16_t)strlen(name),
        .live = live,
    };
    live->stored = (void *)(uintptr_t)all->count;
    all->changed = true;
    return 0;
}

void qcow2_bitmap_remove(struct block_node *node, struct block_bitmap *live)
{
    struct qcow2_bitmaps *all = &qcow2_of(node)->bitmaps;
    struct qcow2_bitmap *b = &all->entry[(uintptr_t)live->stored - 1];
    assert(b->live == live);
    b->live = NULL;
    b->removed = true;
    all->changed = true;
}
