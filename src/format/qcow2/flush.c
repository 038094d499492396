/*
 * Flush passes: the one place where metadata is written back, and so the one place that knows the
 * order.
 *
 *   0  take a view of what is dirty now: L2 slices, sectors of L1 and of the refcount table
 *   1  write refcount blocks
 *   2  sync: guest data (the data file, where there is one) and refcounts are durable
 *   3  write the refcount table, sync     (only when it has new blocks)
 *   4  write L2 slices as they were at step 0
 *   5  sync, write L1                     (only when there are new L2 tables)
 *   6  sync
 *
 * L2 entries that change while a pass runs belong to the next one, as their data may not be
 * durable: a slice that changes before the pass has written it keeps a copy of its old bytes
 * (qcow2_slice_touch).
 *
 * With lazy refcounts a guest's flush leaves steps 1 and 3 out while the dirty bit is durable: the
 * refcounts are written when the image is closed, when the cache needs their room, or when a table
 * has new blocks; after a crash they are counted anew from the L2 tables.
 *
 * Passes are numbered. A flush needs one that started after it was asked for; all who wait for the
 * same number share it. Whoever finds none running runs the next.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "format/qcow2/qcow2.h"

#define PASS_BUFFER_SLICES   16u
#define PASS_WRITERS         4u /* batches of slices on their way at a time */
#define TABLE_SECTOR         512u
#define TABLE_SECTOR_ENTRIES (TABLE_SECTOR / 8)

/* Sectors of a table, copied at step 0. */
struct table_view {
    uint64_t host;    /* of the table */
    uint8_t *bytes;   /* sectors one after the other */
    uint32_t *sector; /* their numbers, ascending */
    size_t count;
};

struct pass {
    struct list slices[2]; /* by enum qcow2_table */
    struct table_view l1, reftable;
};

/* ---- step 0 ---- */

static size_t count_bits(const uint64_t *bitmap, size_t words)
{
    size_t bits = 0;
    for (size_t i = 0; i < words; i++)
        bits += (size_t)__builtin_popcountll(bitmap[i]);
    return bits;
}

/* Copies the dirty sectors of a table and takes their marks away. Caller holds q->lock. */
static int view_table(const uint64_t *table, uint64_t entries, uint64_t host, uint64_t *dirty,
                      bool *any, struct table_view *view)
{
    *view = (struct table_view){.host = host};
    if (!*any)
        return 0;
    size_t words = qcow2_dirty_words(entries), count = count_bits(dirty, words);
    view->bytes = qcow2_buffer(count * TABLE_SECTOR);
    view->sector = malloc(count * sizeof(view->sector[0]));
    if (!view->bytes || !view->sector) {
        free(view->bytes);
        free(view->sector);
        view->bytes = NULL;
        view->sector = NULL;
        return -ENOMEM;
    }
    for (size_t word = 0; word < words; word++) {
        for (uint64_t bits = dirty[word]; bits; bits &= bits - 1) {
            uint64_t sector = word * 64 + (unsigned)__builtin_ctzll(bits);
            uint8_t *out = view->bytes + view->count * TABLE_SECTOR;
            for (unsigned i = 0; i < TABLE_SECTOR_ENTRIES; i++) {
                uint64_t index = sector * TABLE_SECTOR_ENTRIES + i;
                store_be64(out + i * 8, index < entries ? table[index] : 0);
            }
            view->sector[view->count++] = (uint32_t)sector;
        }
        dirty[word] = 0;
    }
    *any = false;
    return 0;
}

static void take_slices(struct qcow2 *q, enum qcow2_table table, struct list *out)
{
    list_init(out);
    list_splice_back(out, &q->cache.dirty[table]);
    list_for_each (link, out) {
        struct qcow2_slice *slice = list_entry(link, struct qcow2_slice, link);
        slice->dirty = false;
        slice->flushing = true;
        slice->copied = false;
    }
}

static void restore_marks(struct qcow2 *q, struct table_view *view, uint64_t *dirty, bool *any,
                          bool failed)
{
    if (!failed)
        qcow2_keep_written(q, view->host, view->sector, view->count, dirty);
    for (size_t i = 0; failed && i < view->count; i++)
        qcow2_mark_entry(dirty, any, (uint64_t)view->sector[i] * TABLE_SECTOR_ENTRIES);
    free(view->bytes);
    free(view->sector);
}

/* ---- writing ---- */

struct slice_writers {
    struct qcow2 *q;
    struct list *slices; /* not yet taken */
    struct co_group group;
    int error;
};

struct slice_writer {
    struct slice_writers *all;
    uint8_t *buffer; /* PASS_BUFFER_SLICES */
};

/* Takes up to a buffer of slices that follow each other in the file. Caller holds q->lock. */
static unsigned gather(struct qcow2 *q, struct list *from, uint8_t *buffer,
                       struct qcow2_slice **batch)
{
    unsigned n = 0;
    while (n < PASS_BUFFER_SLICES && !list_empty(from)) {
        struct qcow2_slice *slice = list_entry(from->next, struct qcow2_slice, link);
        if (n && slice->offset != batch[n - 1]->offset + q->cache.slice_bytes)
            break;
        list_del(&slice->link);
        memcpy(buffer + n * q->cache.slice_bytes, slice->shadow ? slice->shadow : slice->data,
               q->cache.slice_bytes);
        slice->copied = true;
        batch[n++] = slice;
    }
    return n;
}

/* Writes until nothing is left or somebody failed. */
static void co_slice_writer(void *arg)
{
    struct slice_writer *w = arg;
    struct slice_writers *all = w->all;
    struct qcow2 *q = all->q;
    rt_mutex_lock(&q->lock);
    while (all->error == 0 && !list_empty(all->slices)) {
        struct qcow2_slice *batch[PASS_BUFFER_SLICES];
        struct iovec iov;
        unsigned n = gather(q, all->slices, w->buffer, batch);
        rt_mutex_unlock(&q->lock);
        int r = co_block_write(q->file, batch[0]->offset,
                               sgl_one(&iov, w->buffer, n * (size_t)q->cache.slice_bytes), 0);
        rt_mutex_lock(&q->lock);
        for (unsigned i = 0; i < n; i++)
            qcow2_slice_flushed(q, batch[i], r);
        if (r < 0)
            all->error = r;
    }
    rt_mutex_unlock(&q->lock);
    co_group_done(&all->group);
}

static int by_offset(const void *a, const void *b)
{
    const struct qcow2_slice *x = *(struct qcow2_slice *const *)a;
    const struct qcow2_slice *y = *(struct qcow2_slice *const *)b;
    return (x->offset > y->offset) - (x->offset < y->offset);
}

/* In the order of the file, so that neighbours are written together. Slices of a pass move only
 * here. */
static size_t sort_slices(struct list *slices)
{
    size_t count = 0;
    list_for_each (link, slices)
        count++;
    autofree struct qcow2_slice **sorted = count > 1 ? malloc(count * sizeof(*sorted)) : NULL;
    if (!sorted)
        return count; /* slower, not wrong */
    for (size_t i = 0; i < count; i++)
        sorted[i] = list_entry(list_pop_front(slices), struct qcow2_slice, link);
    qsort(sorted, count, sizeof(*sorted), by_offset);
    for (size_t i = 0; i < count; i++)
        list_push_back(slices, &sorted[i]->link);
    return count;
}

static int co_write_slices(struct qcow2 *q, struct list *slices)
{
    struct slice_writers all = {.q = q, .slices = slices};
    struct slice_writer writer[PASS_WRITERS] = {{.all = &all, .buffer = q->pass_buffer}};
    size_t batches = div_round_up(sort_slices(slices), PASS_BUFFER_SLICES);
    co_group_init(&all.group);
    for (unsigned i = 1; i < MIN(batches, (size_t)PASS_WRITERS); i++) {
        writer[i] = (struct slice_writer){
            .all = &all, .buffer = qcow2_buffer(PASS_BUFFER_SLICES * (size_t)q->cache.slice_bytes)};
        if (!writer[i].buffer)
            break;
        co_group_add(&all.group, 1);
        if (rt_spawn(NULL, co_slice_writer, &writer[i]) < 0) {
            co_group_done(&all.group);
            break;
        }
    }
    co_group_add(&all.group, 1);
    co_slice_writer(&writer[0]);
    co_group_wait(&all.group);
    co_group_destroy(&all.group);
    for (unsigned i = 1; i < PASS_WRITERS; i++)
        free(writer[i].buffer);
    return all.error;
}

static int co_write_table(struct qcow2 *q, const struct table_view *view)
{
    int r = 0;
    for (size_t first = 0, next; first < view->count && r == 0; first = next) {
        struct iovec iov;
        next = first + 1;
        while (next < view->count && view->sector[next] == view->sector[next - 1] + 1)
            next++;
        r = co_block_write(
            q->file, view->host + (uint64_t)view->sector[first] * TABLE_SECTOR,
            sgl_one(&iov, view->bytes + first * TABLE_SECTOR, (next - first) * TABLE_SECTOR), 0);
    }
    return r;
}

/* Steps 1 to 6. */
static int co_write_in_order(struct qcow2 *q, struct pass *p)
{
    bool l2 = !list_empty(&p->slices[QCOW2_TABLE_L2]);
    int r = co_write_slices(q, &p->slices[QCOW2_TABLE_REFCOUNT]);
    if (r == 0 && qcow2_has_data_file(q))
        r = co_block_flush(qcow2_data(q));
    if (r == 0 && (l2 || p->l1.count || p->reftable.count))
        r = co_block_flush(q->file);
    if (r == 0 && p->reftable.count) {
        r = co_write_table(q, &p->reftable);
        if (r == 0 && (l2 || p->l1.count))
            r = co_block_flush(q->file);
    }
    if (r == 0 && l2)
        r = co_write_slices(q, &p->slices[QCOW2_TABLE_L2]);
    if (r == 0 && p->l1.count) {
        if (l2)
            r = co_block_flush(q->file);
        if (r == 0)
            r = co_write_table(q, &p->l1);
    }
    return r < 0 ? r : co_block_flush(q->file);
}

/* ---- one pass ---- */

/* May pass @number leave refcounts in memory? Not where a new block would lack its table entry. */
static bool leaves_refcounts(const struct qcow2 *q, uint64_t number)
{
    return q->pass_whole < number && qcow2_is_lazy(q) && !q->reftable_any_dirty &&
           (q->header.incompatible_features & QCOW2_INCOMPAT_DIRTY);
}

/* Caller holds q->lock. */
static int begin(struct qcow2 *q, struct pass *p, uint64_t number)
{
    bool later = leaves_refcounts(q, number);
    if (!q->pass_buffer)
        q->pass_buffer = qcow2_buffer(PASS_BUFFER_SLICES * (size_t)q->cache.slice_bytes);
    int r = q->pass_buffer ? 0 : -ENOMEM;
    if (r == 0)
        r = view_table(q->l1, q->header.l1_size, q->header.l1_table_offset, q->l1_dirty,
                       &q->l1_any_dirty, &p->l1);
    if (r == 0)
        r = view_table(q->reftable, q->reftable_entries, q->header.refcount_table_offset,
                       q->reftable_dirty, &q->reftable_any_dirty, &p->reftable);
    if (r == 0) {
        take_slices(q, QCOW2_TABLE_L2, &p->slices[QCOW2_TABLE_L2]);
        if (!later)
            take_slices(q, QCOW2_TABLE_REFCOUNT, &p->slices[QCOW2_TABLE_REFCOUNT]);
    }
    return r;
}

/* Whatever the pass did not get to is dirty again. Caller holds q->lock. */
static void end(struct qcow2 *q, struct pass *p, int error)
{
    for (int table = 0; table < 2; table++)
        while (!list_empty(&p->slices[table]))
            qcow2_slice_flushed(q, list_entry(p->slices[table].next, struct qcow2_slice, link),
                                error);
    restore_marks(q, &p->l1, q->l1_dirty, &q->l1_any_dirty, error < 0);
    restore_marks(q, &p->reftable, q->reftable_dirty, &q->reftable_any_dirty, error < 0);
}

static void co_run_pass(struct qcow2 *q)
{
    struct pass p = {0};
    list_init(&p.slices[0]);
    list_init(&p.slices[1]);
    uint64_t number = ++q->pass_started;
    int r = atomic_load_explicit(&q->broken, memory_order_relaxed);
    if (r == 0)
        r = begin(q, &p, number);
    if (r == 0) {
        rt_mutex_unlock(&q->lock);
        r = co_write_in_order(q, &p);
        rt_mutex_lock(&q->lock);
    }
    end(q, &p, r);
    q->pass_ended = number;
    if (r == 0)
        q->pass_durable = number;
    else
        q->pass_error = r;
    co_waitq_wake_all(&q->pass_waiters);
}

static int co_pass(struct qcow2 *q, bool whole)
{
    rt_mutex_lock(&q->lock);
    uint64_t wanted = q->pass_started + 1;
    if (whole)
        q->pass_whole = wanted;
    while (q->pass_ended < wanted) {
        if (q->pass_started == q->pass_ended)
            co_run_pass(q);
        else
            co_waitq_wait(&q->pass_waiters, &q->lock);
    }
    int r = q->pass_durable >= wanted ? 0 : q->pass_error;
    rt_mutex_unlock(&q->lock);
    return r;
}

int qcow2_co_flush_pass(struct qcow2 *q)
{
    return co_pass(q, true);
}

static int co_flush(struct block_node *node, bool whole)
{
    struct qcow2 *q = qcow2_of(node);
    if (node->read_only)
        return 0;
    int r = co_pass(q, whole);
    if (r == 0)
        qcow2_co_reclaim(q);
    return r;
}

int qcow2_co_flush(struct block_node *node)
{
    return co_flush(node, true);
}

int qcow2_co_flush_guest(struct block_node *node)
{
    return co_flush(node, false);
}
