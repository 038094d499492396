/*
 * The metadata cache: slices of L2 tables and refcount blocks.
 *
 *   hash by file offset --> slice --> data (4 KiB)
 *
 *   clean    on disk as it is; the clock hand walks this list for something to evict
 *   dirty    changed; only a flush pass writes it (flush.c), never eviction, so one place knows the
 * order unused   memory without content
 *
 * A reader finds a slice and reads its entries under q->lock without pinning it. Whoever changes
 * one pins it first. Memory comes in arenas of a few slices, so that data stays page-aligned
 * without waste, and is charged to the chain's budget. When nothing can be evicted, a flush pass
 * makes dirty slices clean; when everything is pinned, the cache grows past its budget by the
 * slices that the running requests hold: a request never waits for memory that another waiting
 * request holds.
 *
 * With a keep (keep.c) arenas are segments of it, so a slice is in memory that outlives the
 * process.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "format/qcow2/qcow2.h"
#include <sys/mman.h>

#define ARENA_SLICES 8u
#define BUCKETS_MIN  16u

struct arena {
    struct list link;
    uint8_t *data;
    struct block_keep_segment *segment; /* NULL: memory of the process's own */
    unsigned slices;
    struct qcow2_slice slice[];
};

/* ---- hash ---- */

static inline struct qcow2_slice **bucket(const struct qcow2_cache *c, uint64_t offset)
{
    uint64_t mixed = (offset / 512) * 0x9e3779b97f4a7c15ull;
    return &c->buckets[(mixed >> 32) & (c->buckets_count - 1)];
}

static inline struct qcow2_slice *hash_find(const struct qcow2_cache *c, uint64_t offset)
{
    struct qcow2_slice *slice = *bucket(c, offset);
    while (slice && slice->offset != offset)
        slice = slice->hash_next;
    return slice;
}

/* More buckets are a matter of speed: without memory for them the old ones stay. */
static void hash_grow(struct qcow2_cache *c)
{
    struct qcow2_cache bigger = *c;
    bigger.buckets_count = c->buckets_count * 2;
    bigger.buckets = calloc(bigger.buckets_count, sizeof(bigger.buckets[0]));
    if (!bigger.buckets)
        return;
    for (unsigned i = 0; i < c->buckets_count; i++) {
        struct qcow2_slice *slice = c->buckets[i];
        while (slice) {
            struct qcow2_slice *next = slice->hash_next;
            struct qcow2_slice **head = bucket(&bigger, slice->offset);
            slice->hash_next = *head;
            *head = slice;
            slice = next;
        }
    }
    free(c->buckets);
    c->buckets = bigger.buckets;
    c->buckets_count = bigger.buckets_count;
}

static void hash_insert(struct qcow2_cache *c, struct qcow2_slice *slice)
{
    if (++c->used > c->buckets_count)
        hash_grow(c);
    struct qcow2_slice **head = bucket(c, slice->offset);
    slice->hash_next = *head;
    *head = slice;
}

static void hash_remove(struct qcow2_cache *c, struct qcow2_slice *slice)
{
    struct qcow2_slice **at = bucket(c, slice->offset);
    while (*at != slice)
        at = &(*at)->hash_next;
    *at = slice->hash_next;
    c->used--;
    /* Whoever reads it without the lock must see this before its memory holds anything else. */
    atomic_store_explicit(&slice->covers, 0, memory_order_relaxed);
    atomic_fetch_add(&slice->version, 1);
}

/* ---- life ---- */

int qcow2_cache_init(struct qcow2 *q)
{
    struct qcow2_cache *c = &q->cache;
    c->slice_bytes = (uint32_t)MIN(q->cluster_size, (uint64_t)QCOW2_SLICE_BYTES_MAX);
    c->buckets_count = BUCKETS_MIN;
    c->buckets = calloc(c->buckets_count, sizeof(c->buckets[0]));
    list_init(&c->clean);
    list_init(&c->dirty[QCOW2_TABLE_L2]);
    list_init(&c->dirty[QCOW2_TABLE_REFCOUNT]);
    list_init(&c->unused);
    list_init(&c->arenas);
    co_waitq_init(&c->waiters);
    return c->buckets ? 0 : -ENOMEM;
}

/* Nobody may know a slice any more, nor look one up without the lock. */
static void free_arenas(struct qcow2 *q)
{
    struct qcow2_cache *c = &q->cache;
    free(atomic_exchange(&q->hints, NULL));
    struct list *link;
    while ((link = list_pop_front(&c->arenas))) {
        struct arena *arena = list_entry(link, struct arena, link);
        for (unsigned i = 0; i < arena->slices; i++)
            free(arena->slice[i].shadow);
        if (!arena->segment)
            munmap(arena->data, arena->slices * (size_t)c->slice_bytes);
        else if (q->kept.image)
            block_keep_segment_free(q->kept.image, arena->segment);
        free(arena);
    }
    if (c->reserved_bytes)
        block_cache_release(q->node->context, c->reserved_bytes);
    c->reserved_bytes = 0;
}

void qcow2_cache_free(struct qcow2 *q)
{
    struct qcow2_cache *c = &q->cache;
    if (!c->buckets)
        return;
    free_arenas(q);
    free(c->buckets);
    memset(c, 0, sizeof(*c));
}

void qcow2_cache_restart(struct qcow2 *q)
{
    struct qcow2_cache *c = &q->cache;
    assert(list_empty(&c->dirty[QCOW2_TABLE_L2]) && list_empty(&c->dirty[QCOW2_TABLE_REFCOUNT]));
    free_arenas(q);
    memset(c->buckets, 0, c->buckets_count * sizeof(c->buckets[0]));
    list_init(&c->clean);
    list_init(&c->unused);
    c->slices = c->used = 0;
}

static unsigned arena_slices(const struct qcow2 *q)
{
    return q->kept.image ? (unsigned)(BLOCK_KEEP_DATA_BYTES / q->cache.slice_bytes) : ARENA_SLICES;
}

/* What an arena costs; a segment of a keep has a page of headers. */
static uint64_t arena_bytes(const struct qcow2 *q)
{
    return arena_slices(q) * (uint64_t)(q->cache.slice_bytes + sizeof(struct qcow2_slice)) +
           (q->kept.image ? 4 * KiB : 0);
}

static bool arena_memory(struct qcow2 *q, struct arena *arena)
{
    if (q->kept.image) {
        arena->segment = block_keep_segment_new(q->kept.image, q->cache.slice_bytes);
        arena->data = arena->segment ? arena->segment->data : NULL;
        return arena->data;
    }
    arena->data = mmap(NULL, arena->slices * (size_t)q->cache.slice_bytes, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return arena->data != MAP_FAILED;
}

static bool arena_new(struct qcow2 *q)
{
    struct qcow2_cache *c = &q->cache;
    unsigned slices = arena_slices(q);
    struct arena *arena = calloc(1, sizeof(*arena) + slices * sizeof(arena->slice[0]));
    if (!arena)
        return false;
    arena->slices = slices;
    if (!arena_memory(q, arena)) {
        free(arena);
        return false;
    }
    for (unsigned i = 0; i < slices; i++) {
        arena->slice[i].data = arena->data + i * (size_t)c->slice_bytes;
        arena->slice[i].kept = arena->segment ? &arena->segment->slot[i] : NULL;
        list_push_back(&c->unused, &arena->slice[i].link);
    }
    c->slices += slices;
    list_push_back(&c->arenas, &arena->link);
    return true;
}

/* ---- finding room ---- */

/* The clock: a slice used since the hand came by last stays for another round. */
static struct qcow2_slice *evict(struct qcow2_cache *c)
{
    for (unsigned steps = 2 * c->slices; steps > 0 && !list_empty(&c->clean); steps--) {
        struct qcow2_slice *slice = list_entry(c->clean.next, struct qcow2_slice, link);
        list_del(&slice->link);
        if (slice->pins == 0 && !atomic_load_explicit(&slice->referenced, memory_order_relaxed)) {
            hash_remove(c, slice);
            return slice;
        }
        atomic_store_explicit(&slice->referenced, false, memory_order_relaxed);
        list_push_back(&c->clean, &slice->link);
    }
    return NULL;
}

/* @force: go past the budget rather than fail. Caller holds q->lock. */
static struct qcow2_slice *take_slice(struct qcow2 *q, bool force)
{
    struct qcow2_cache *c = &q->cache;
    if (list_empty(&c->unused)) {
        bool within = block_cache_reserve(q->node->context, arena_bytes(q));
        if (within)
            c->reserved_bytes += arena_bytes(q);
        if (!within &&
            c->slices >= (q->node->read_only ? QCOW2_SLICES_MIN : QCOW2_SLICES_MIN_WRITE)) {
            struct qcow2_slice *slice = evict(c);
            if (slice || !force)
                return slice;
        }
        if (!arena_new(q)) {
            if (within) {
                block_cache_release(q->node->context, arena_bytes(q));
                c->reserved_bytes -= arena_bytes(q);
            }
            return evict(c);
        }
    }
    return list_entry(list_pop_front(&c->unused), struct qcow2_slice, link);
}

/* ---- use ---- */

struct qcow2_slice *qcow2_cache_find(struct qcow2 *q, uint64_t offset)
{
    struct qcow2_slice *slice = hash_find(&q->cache, offset);
    if (!slice || slice->loading)
        return NULL;
    atomic_store_explicit(&slice->referenced, true, memory_order_relaxed);
    return slice;
}

/* Reads @count slices that lie next to each other in the file. */
static int co_load(struct qcow2 *q, struct qcow2_slice *const *slice, unsigned count)
{
    struct iovec iov[QCOW2_SLICES_AHEAD];
    for (unsigned i = 0; i < count; i++)
        iov[i] = (struct iovec){slice[i]->data, q->cache.slice_bytes};
    rt_mutex_unlock(&q->lock);
    int r = co_block_read_padded(q->file, slice[0]->offset, sgl_of(iov, count));
    rt_mutex_lock(&q->lock);
    for (unsigned i = 0; i < count; i++) {
        slice[i]->loading = false;
        if (r < 0) {
            hash_remove(&q->cache, slice[i]);
            slice[i]->pins = 0;
            list_push_back(&q->cache.unused, &slice[i]->link);
        } else {
            list_push_back(&q->cache.clean, &slice[i]->link);
        }
    }
    co_waitq_wake_all(&q->cache.waiters);
    return r;
}

static void publish(struct qcow2 *q, struct qcow2_slice *slice, enum qcow2_table table,
                    uint64_t offset, unsigned flags)
{
    slice->offset = offset;
    slice->table = table;
    slice->pins = 1;
    slice->dirty = slice->flushing = slice->copied = false;
    atomic_store_explicit(&slice->referenced, true, memory_order_relaxed);
    slice->loading = !(flags & QCOW2_SLICE_NEW);
    hash_insert(&q->cache, slice);
    if (flags & QCOW2_SLICE_NEW) {
        memset(slice->data, 0, q->cache.slice_bytes);
        list_push_back(&q->cache.clean, &slice->link);
    }
}

int qcow2_co_slice_get(struct qcow2 *q, enum qcow2_table table, uint64_t offset, unsigned flags,
                       struct qcow2_slice **ret)
{
    bool may_flush = !(flags & QCOW2_SLICE_NO_FLUSH);
    int r = 0;
    rt_mutex_lock(&q->lock);
    for (;;) {
        struct qcow2_slice *slice = hash_find(&q->cache, offset);
        if (slice && slice->loading) {
            co_waitq_wait(&q->cache.waiters, &q->lock);
            continue;
        }
        if (slice && slice->table != table) {
            r = block_corrupt(q->node, offset, NULL,
                              "a cluster is both an L2 table and a refcount block");
            break;
        }
        if (slice) {
            slice->pins++;
            atomic_store_explicit(&slice->referenced, true, memory_order_relaxed);
            *ret = slice;
            break;
        }
        if (list_empty(&q->cache.dirty[QCOW2_TABLE_L2]) &&
            list_empty(&q->cache.dirty[QCOW2_TABLE_REFCOUNT]))
            may_flush = false; /* a pass would make no room */
        slice = take_slice(q, !may_flush);
        if (!slice && may_flush) {
            may_flush = false;
            rt_mutex_unlock(&q->lock);
            r = qcow2_co_flush_pass(q);
            rt_mutex_lock(&q->lock);
            if (r == 0 || (flags & QCOW2_SLICE_READ)) {
                r = 0;
                continue;
            }
            break;
        }
        if (!slice) {
            r = -ENOMEM;
            break;
        }
        publish(q, slice, table, offset, flags);
        if (slice->loading)
            r = co_load(q, &slice, 1);
        *ret = slice;
        break;
    }
    rt_mutex_unlock(&q->lock);
    return r;
}

bool qcow2_co_slices_ahead(struct qcow2 *q, uint64_t offset, unsigned count)
{
    struct qcow2_slice *slice[QCOW2_SLICES_AHEAD];
    unsigned taken = 0;
    rt_mutex_lock(&q->lock);
    count = MIN(count, (unsigned)QCOW2_SLICES_AHEAD);
    for (uint64_t at = offset; taken < count && !hash_find(&q->cache, at); taken++) {
        slice[taken] = take_slice(q, false);
        if (!slice[taken])
            break;
        publish(q, slice[taken], QCOW2_TABLE_L2, at, 0);
        at += q->cache.slice_bytes;
    }
    bool loaded = taken > 0 && co_load(q, slice, taken) == 0;
    for (unsigned i = 0; loaded && i < taken; i++)
        qcow2_slice_unpin(q, slice[i]);
    rt_mutex_unlock(&q->lock);
    return loaded;
}

void qcow2_slice_unpin(struct qcow2 *q, struct qcow2_slice *slice)
{
    assert(slice->pins > 0);
    slice->pins--;
}

int qcow2_slice_touch(struct qcow2 *q, struct qcow2_slice *slice)
{
    assert(slice->pins > 0);
    /* A refcount block may reach the disk newer than the pass: counts only rise before it. */
    if (slice->flushing && !slice->copied && !slice->shadow && slice->table == QCOW2_TABLE_L2) {
        slice->shadow = malloc(q->cache.slice_bytes);
        if (!slice->shadow)
            return -ENOMEM;
        memcpy(slice->shadow, slice->data, q->cache.slice_bytes);
    }
    if (!slice->dirty) {
        slice->dirty = true;
        if (!slice->flushing) { /* else the keep has it as dirty until the pass has written it */
            if (slice->kept)
                block_keep_slot_dirty(slice->kept, slice->offset,
                                      slice->table == QCOW2_TABLE_L2 ? QCOW2_KEPT_L2
                                                                     : QCOW2_KEPT_REFCOUNT);
            list_del(&slice->link);
            list_push_back(&q->cache.dirty[slice->table], &slice->link);
        }
    }
    return 0;
}

void qcow2_slice_flushed(struct qcow2 *q, struct qcow2_slice *slice, int error)
{
    list_del(&slice->link);
    free(slice->shadow);
    slice->shadow = NULL;
    slice->flushing = slice->copied = false;
    if (error < 0)
        slice->dirty = true;
    if (slice->kept && !slice->dirty)
        block_keep_slot_clean(slice->kept);
    list_push_back(slice->dirty ? &q->cache.dirty[slice->table] : &q->cache.clean, &slice->link);
    co_waitq_wake_all(&q->cache.waiters);
}

/* ---- forgetting ---- */

static void forget(struct qcow2 *q, struct qcow2_slice *slice)
{
    list_del(&slice->link);
    hash_remove(&q->cache, slice);
    slice->dirty = false;
    if (slice->kept)
        block_keep_slot_clean(slice->kept);
    list_push_back(&q->cache.unused, &slice->link);
}

int qcow2_cache_invalidate(struct qcow2 *q, uint64_t offset, uint64_t length)
{
    int r = 0;
    rt_mutex_lock(&q->lock);
    for (uint64_t at = offset; at < offset + length && r == 0; at += q->cache.slice_bytes) {
        struct qcow2_slice *slice = hash_find(&q->cache, at);
        if (!slice)
            continue;
        if (slice->pins || slice->loading || slice->dirty || slice->flushing)
            r = block_corrupt(q->node, at, NULL, "a cluster of metadata in use is counted as free");
        else
            forget(q, slice);
    }
    rt_mutex_unlock(&q->lock);
    return r;
}

void qcow2_cache_forget(struct qcow2 *q)
{
    struct qcow2_cache *c = &q->cache;
    rt_mutex_lock(&q->lock);
    for (unsigned i = 0; i < c->buckets_count; i++) {
        while (c->buckets[i]) {
            struct qcow2_slice *slice = c->buckets[i];
            assert(!slice->pins && !slice->loading && !slice->dirty && !slice->flushing);
            forget(q, slice);
        }
    }
    rt_mutex_unlock(&q->lock);
}

void qcow2_co_cache_drop(struct qcow2 *q, uint64_t offset, uint64_t length)
{
    rt_mutex_lock(&q->lock);
    for (uint64_t at = offset; at < offset + length; at += q->cache.slice_bytes) {
        struct qcow2_slice *slice;
        while ((slice = hash_find(&q->cache, at)) && (slice->flushing || slice->loading))
            co_waitq_wait(&q->cache.waiters, &q->lock);
        if (slice && slice->pins == 0)
            forget(q, slice);
    }
    rt_mutex_unlock(&q->lock);
}
