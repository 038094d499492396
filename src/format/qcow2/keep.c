/*
 * What survives the process (block/keep.h): the changes of metadata that no flush pass has written.
 *
 *   L2 and refcount slices   the cache's memory is the keep's; a slice's slot is dirty from before
 *                            its first change until a pass has written it (cache.c)
 *   L1, refcount table       a copy of each dirty sector, changed with the table in memory, until
 *                            the pass that wrote it has ended
 *   header                   written at once, always
 *
 * So after a kill the image's file, with the dirty slots put in, is what the process had in memory.
 * What it had allocated and not linked, or dropped and not yet freed, leaks. All that is needed is
 * that each prefix of a thread's stores leaves whole metadata, and it does, as the order in memory
 * is that of the disk: a count rises before an entry names the cluster (co_take); the cluster's
 * data was written before its entry is set (step_end); a table's content is in the file before L1
 * names it (co_own_table_locked), a refcount block's before the refcount table does
 * (co_block_prepare); a count falls after a pass has made durable that nobody names the cluster
 * (free.c); the header moves on after a new table is durable, and while it moves no sector of that
 * table is dirty, as alloc_lock is held from the pass before. Entries are single stores; those with
 * a bitmap have an order (write.c, zero.c). Nobody else looks at the mapping while it changes, so
 * threads need no barriers between them beyond the locks they have.
 *
 * A pass that was running does not matter: what it wrote was in order, what it had not written yet
 * is dirty still, and newer content than it had is as good, because the data that it names is in
 * the file, and the next pass syncs that first.
 *
 * The successor takes the slots over: copies of them become dirty slices and sectors of its own,
 * for a flush pass to write in its order, and it serves at once. The slots that were left count
 * until all have a copy, and nothing changes before. So a kill meanwhile leaves some twice, and
 * equal. They are taken over in the order of a pass, as a pass may have to make room meanwhile.
 *
 * Requests of the dead process that are still under way hold the open file, and with it the image's
 * locks: the next process has the locks only after the last of them has ended.
 *
 * The mark. While there may be changes in the keep the header has a random number in the upper half
 * of its autoclear bits, durable before the first change. Every program that writes the image and
 * does not know them clears them first, as the format demands; then the keep is stale, and refused.
 * Version 2 has no such bits: only the identity of the file (its inode, and when that was made) is
 * held against the keep there.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/log.h"
#include "format/qcow2/qcow2.h"

#define TABLE_SECTOR   512u
#define SECTOR_ENTRIES (TABLE_SECTOR / 8)
#define ARENA_SECTORS  (BLOCK_KEEP_DATA_BYTES / TABLE_SECTOR)
#define MARK_BITS      0xffffffff00000000ull

/* ---- sectors of tables ---- */

struct sector {
    struct list link;
    struct block_keep_slot *slot;
    uint8_t *data;
    uint64_t offset;
};

struct sector_arena {
    struct list link;
    struct block_keep_segment *segment;
    struct sector sector[ARENA_SECTORS];
};

int qcow2_keep_reserve(struct qcow2 *q, uint64_t sectors)
{
    struct qcow2_kept *k = &q->kept;
    if (!k->image)
        return 0;
    for (;;) {
        rt_mutex_lock(&q->lock);
        bool enough = k->spare_count >= sectors; /* only who holds alloc_lock takes from it */
        rt_mutex_unlock(&q->lock);
        if (enough)
            return 0;
        struct sector_arena *arena = calloc(1, sizeof(*arena));
        struct block_keep_segment *segment =
            arena ? block_keep_segment_new(k->image, TABLE_SECTOR) : NULL;
        if (!segment) {
            free(arena);
            return -ENOMEM;
        }
        arena->segment = segment;
        rt_mutex_lock(&q->lock);
        list_push_back(&k->arenas, &arena->link);
        for (unsigned i = 0; i < ARENA_SECTORS; i++) {
            arena->sector[i].slot = &segment->slot[i];
            arena->sector[i].data = segment->data + i * (size_t)TABLE_SECTOR;
            list_push_back(&k->spare, &arena->sector[i].link);
        }
        k->spare_count += ARENA_SECTORS;
        rt_mutex_unlock(&q->lock);
    }
}

/* Few are dirty at a time: a sector of L1 is 32 GiB of guest with clusters of 64 KiB. */
static struct sector *find_sector(struct qcow2 *q, uint64_t offset)
{
    list_for_each (link, &q->kept.sectors) {
        struct sector *s = list_entry(link, struct sector, link);
        if (s->offset == offset)
            return s;
    }
    return NULL;
}

static void mark(struct qcow2 *q, enum qcow2_kept_kind kind, uint64_t host, const uint64_t *table,
                 uint64_t entries, uint64_t index)
{
    struct qcow2_kept *k = &q->kept;
    uint64_t first = index - index % SECTOR_ENTRIES;
    if (!k->image)
        return;
    struct sector *s = find_sector(q, host + first * 8);
    if (s) {
        qcow2_store_entry(s->data + (index - first) * 8, table[index]);
        return;
    }
    assert(k->spare_count > 0); /* qcow2_keep_reserve() */
    k->spare_count--;
    s = list_entry(list_pop_front(&k->spare), struct sector, link);
    s->offset = host + first * 8;
    for (unsigned i = 0; i < SECTOR_ENTRIES; i++)
        store_be64(s->data + i * 8, first + i < entries ? table[first + i] : 0);
    atomic_signal_fence(memory_order_seq_cst); /* whole before it counts */
    block_keep_slot_dirty(s->slot, s->offset, kind);
    list_push_back(&k->sectors, &s->link);
}

void qcow2_mark_l1(struct qcow2 *q, uint64_t index)
{
    atomic_fetch_add(&q->map_version, 1);
    qcow2_mark_entry(q->l1_dirty, &q->l1_any_dirty, index);
    mark(q, QCOW2_KEPT_L1, q->header.l1_table_offset, q->l1, q->header.l1_size, index);
}

void qcow2_mark_reftable(struct qcow2 *q, uint64_t index)
{
    qcow2_mark_entry(q->reftable_dirty, &q->reftable_any_dirty, index);
    mark(q, QCOW2_KEPT_REFTABLE, q->header.refcount_table_offset, q->reftable, q->reftable_entries,
         index);
}

void qcow2_keep_written(struct qcow2 *q, uint64_t host, const uint32_t *sector, size_t count,
                        const uint64_t *dirty)
{
    for (size_t i = 0; q->kept.image && i < count; i++) {
        struct sector *s = find_sector(q, host + (uint64_t)sector[i] * TABLE_SECTOR);
        if (!s || dirty[sector[i] / 64] >> (sector[i] % 64) & 1)
            continue; /* changed since the pass took its copy: the next one's */
        block_keep_slot_clean(s->slot);
        list_del(&s->link);
        list_push_back(&q->kept.spare, &s->link);
        q->kept.spare_count++;
    }
}

/* @give_back: the segments too; else the keep does that. */
static void forget_sectors(struct qcow2 *q, bool give_back)
{
    struct qcow2_kept *k = &q->kept;
    struct list *link;
    while ((link = list_pop_front(&k->arenas))) {
        struct sector_arena *arena = list_entry(link, struct sector_arena, link);
        if (give_back)
            block_keep_segment_free(k->image, arena->segment);
        free(arena);
    }
    list_init(&k->sectors);
    list_init(&k->spare);
    k->spare_count = 0;
}

void qcow2_keep_reset(struct qcow2 *q)
{
    if (q->kept.image)
        forget_sectors(q, true);
}

/* ---- the mark ---- */

uint64_t qcow2_keep_mark(struct qcow2 *q)
{
    if (!q->kept.image && q->header.autoclear_features & MARK_BITS)
        log_warning(
            "'%s': a server with a keep used this image and did not close it; if the keep is "
            "still there its changes are lost with this write",
            q->node->filename);
    if (!q->kept.image || q->header.version < 3)
        return 0;
    if (q->kept.mark == 0) {
        q->kept.mark = (rt_random_u64() | 1ull << 32) & MARK_BITS;
        block_keep_mark(q->kept.image, q->kept.mark);
    }
    return q->kept.mark;
}

int qcow2_co_keep_settle(struct qcow2 *q)
{
    if (!q->kept.image || q->kept.mark == 0)
        return 0;
    uint64_t before = q->header.autoclear_features;
    q->header.autoclear_features &= ~MARK_BITS;
    int r = qcow2_co_header_store(q);
    if (r < 0) {
        q->header.autoclear_features = before;
        return r;
    }
    q->kept.mark = 0;
    q->kept.whole = false;
    atomic_store(&q->writable_prepared, false); /* whoever writes again sets one again */
    return 0;
}

int qcow2_co_keep_give_up(struct qcow2 *q)
{
    uint64_t before = q->header.autoclear_features;
    if (!(before & MARK_BITS) || (before & MARK_BITS) == q->kept.mark)
        return 0;
    log_warning("'%s': a server with a keep used this image and did not close it; if the keep is "
                "still there its changes are lost with this repair",
                q->node->filename);
    q->header.autoclear_features = before & ~MARK_BITS;
    int r = qcow2_co_header_store(q);
    if (r < 0)
        q->header.autoclear_features = before;
    return r;
}

/* ---- recovery: is it sound? ---- */

struct recovery {
    struct qcow2 *q;
    struct block_keep_change *change;
    size_t count;
    uint64_t *tables[2]; /* offsets of L2 tables and of refcount blocks, ascending */
    size_t tables_count[2];
};

static int by_place(const void *a, const void *b)
{
    const struct block_keep_change *x = a, *y = b;
    if (x->kind != y->kind)
        return x->kind < y->kind ? -1 : 1;
    return (x->offset > y->offset) - (x->offset < y->offset);
}

static int by_value(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* Puts a sector of a table into the one in memory. @return false where it does not belong there. */
static bool overlay(struct qcow2 *q, const struct block_keep_change *c)
{
    bool l1 = c->kind == QCOW2_KEPT_L1;
    uint64_t host = l1 ? q->header.l1_table_offset : q->header.refcount_table_offset;
    uint64_t entries = l1 ? q->header.l1_size : q->reftable_entries;
    uint64_t *table = l1 ? q->l1 : q->reftable;
    if (c->length != TABLE_SECTOR || c->offset < host || !is_aligned(c->offset, TABLE_SECTOR) ||
        (c->offset - host) / 8 >= entries)
        return false;
    uint64_t first = (c->offset - host) / 8;
    for (uint64_t i = 0; i < SECTOR_ENTRIES; i++) {
        uint64_t entry = load_be64(c->data + i * 8);
        uint64_t at = entry & (l1 ? QCOW2_OFFSET_MASK : QCOW2_REFTABLE_OFFSET_MASK);
        if (first + i >= entries ? entry != 0 : !is_aligned(at, q->cluster_size))
            return false;
        if (first + i < entries)
            table[first + i] = l1 ? entry : at;
    }
    return true;
}

static int list_tables(struct recovery *rec, enum qcow2_table kind, const uint64_t *table,
                       uint64_t entries)
{
    uint64_t *list = malloc(MAX(entries, 1ull) * sizeof(list[0]));
    if (!list)
        return -ENOMEM;
    size_t count = 0;
    for (uint64_t i = 0; i < entries; i++)
        if (table[i] & QCOW2_OFFSET_MASK)
            list[count++] = table[i] & QCOW2_OFFSET_MASK;
    qsort(list, count, sizeof(list[0]), by_value);
    rec->tables[kind] = list;
    rec->tables_count[kind] = count;
    return 0;
}

/* A slice must lie in a table of its kind, which lies in the file and over no other structure. */
static bool slice_fits(struct recovery *rec, const struct block_keep_change *c)
{
    struct qcow2 *q = rec->q;
    enum qcow2_table kind = c->kind == QCOW2_KEPT_L2 ? QCOW2_TABLE_L2 : QCOW2_TABLE_REFCOUNT;
    uint64_t cluster = align_down(c->offset, q->cluster_size);
    uint64_t file_end = align_up(block_size(q->file), q->cluster_size);
    if (c->length != q->cache.slice_bytes || !is_aligned(c->offset, c->length) ||
        !range_fits(c->offset, c->length, file_end))
        return false;
    for (unsigned i = 0; i < ARRAY_LEN(q->reserved_range); i++)
        if (q->reserved_range[i].length &&
            ranges_overlap(c->offset, c->length, q->reserved_range[i].offset,
                           q->reserved_range[i].length))
            return false;
    return bsearch(&cluster, rec->tables[kind], rec->tables_count[kind], sizeof(cluster), by_value);
}

/* Nothing is written unless all of it belongs. Changes the tables in memory. */
static int check_changes(struct recovery *rec)
{
    struct qcow2 *q = rec->q;
    struct block_keep_change *c = rec->change;
    bool fits = true;
    qsort(c, rec->count, sizeof(c[0]), by_place);
    for (size_t i = 0; i < rec->count && fits; i++) {
        /* A recovery that was killed left some twice. */
        bool twice = i && c[i].kind == c[i - 1].kind && c[i].offset == c[i - 1].offset;
        fits = c[i].kind < QCOW2_KEPT_KINDS &&
               !(twice && (c[i].length != c[i - 1].length ||
                           memcmp(c[i].data, c[i - 1].data, c[i].length) != 0));
        if (fits && (c[i].kind == QCOW2_KEPT_L1 || c[i].kind == QCOW2_KEPT_REFTABLE))
            fits = overlay(q, &c[i]);
    }
    int r = fits ? list_tables(rec, QCOW2_TABLE_L2, q->l1, q->header.l1_size) : -EUCLEAN;
    if (r == 0)
        r = list_tables(rec, QCOW2_TABLE_REFCOUNT, q->reftable, q->reftable_entries);
    for (size_t i = 0; i < rec->count && r == 0; i++)
        if ((c[i].kind == QCOW2_KEPT_L2 || c[i].kind == QCOW2_KEPT_REFCOUNT) &&
            !slice_fits(rec, &c[i]))
            r = -EUCLEAN;
    return r;
}

/* ---- recovery: taking over ---- */

/* Whole in our slot before that counts; the one that was left counts until the end. */
static int co_adopt_slice(struct qcow2 *q, const struct block_keep_change *c)
{
    enum qcow2_table table = c->kind == QCOW2_KEPT_L2 ? QCOW2_TABLE_L2 : QCOW2_TABLE_REFCOUNT;
    struct qcow2_slice *slice;
    int r = qcow2_co_slice_get(q, table, c->offset, QCOW2_SLICE_NEW, &slice);
    if (r < 0)
        return r;
    rt_mutex_lock(&q->lock);
    memcpy(slice->data, c->data, c->length);
    atomic_signal_fence(memory_order_seq_cst);
    r = qcow2_slice_touch(q, slice);
    qcow2_slice_unpin(q, slice);
    rt_mutex_unlock(&q->lock);
    return r;
}

/* check_changes() has put it into the table already. */
static int adopt_sector(struct qcow2 *q, const struct block_keep_change *c)
{
    int r = qcow2_keep_reserve(q, 1);
    if (r < 0)
        return r;
    rt_mutex_lock(&q->lock);
    if (c->kind == QCOW2_KEPT_L1)
        qcow2_mark_l1(q, (c->offset - q->header.l1_table_offset) / 8);
    else
        qcow2_mark_reftable(q, (c->offset - q->header.refcount_table_offset) / 8);
    rt_mutex_unlock(&q->lock);
    return 0;
}

/* What was left becomes what this process has not written yet. */
static int co_adopt(struct recovery *rec)
{
    struct qcow2 *q = rec->q;
    int r = qcow2_guard_make(q);
    for (size_t i = 0; i < rec->count && r == 0; i++) {
        const struct block_keep_change *c = &rec->change[i];
        bool slice = c->kind == QCOW2_KEPT_L2 || c->kind == QCOW2_KEPT_REFCOUNT;
        r = slice ? co_adopt_slice(q, c) : adopt_sector(q, c);
    }
    return r;
}

static int co_apply(struct recovery *rec, uint64_t left_mark, struct hws_error *err)
{
    struct qcow2 *q = rec->q;
    const char *name = q->node->filename;
    if (left_mark != (q->header.autoclear_features & MARK_BITS) ||
        (q->header.version >= 3 && left_mark == 0))
        return hws_fail(err, ESTALE,
                        "'%.200s': the keep holds changes that were not written when its server "
                        "died, but the image was changed by somebody else since: they cannot be "
                        "applied any more; remove the keep to give them up",
                        name);
    int r = check_changes(rec);
    if (r == -EUCLEAN)
        return hws_fail(err, EUCLEAN,
                        "'%.200s': what the keep holds for this image does not fit it, so nothing "
                        "was applied; remove the keep to give it up",
                        name);
    if (r == 0) {
        q->kept.mark = left_mark; /* it goes on */
        block_keep_mark(q->kept.image, left_mark);
        r = co_adopt(rec);
    }
    if (r < 0)
        return hws_fail_errno(err, -r, "'%.200s': taking over what the keep holds", name);
    block_keep_applied(q->kept.image);
    q->kept.whole = true;
    log_info("'%s': took over %zu pieces of metadata that a killed process had not written", name,
             rec->count);
    return 0;
}

static int co_recover(struct qcow2 *q, struct hws_error *err)
{
    struct recovery rec = {.q = q};
    uint64_t left_mark;
    int r = block_keep_changes(q->kept.image, &rec.change, &rec.count, &left_mark, err);
    if (r == 0 && rec.count)
        r = co_apply(&rec, left_mark, err);
    if (r == 0 && rec.count == 0) {
        block_keep_applied(q->kept.image);
        q->kept.whole = left_mark && left_mark == (q->header.autoclear_features & MARK_BITS);
    }
    free(rec.change);
    free(rec.tables[0]);
    free(rec.tables[1]);
    return r;
}

/* ---- life ---- */

static void init_lists(struct qcow2_kept *k)
{
    list_init(&k->sectors);
    list_init(&k->spare);
    list_init(&k->arenas);
}

int qcow2_co_keep_open(struct qcow2 *q, struct hws_error *err)
{
    struct qcow2_kept *k = &q->kept;
    if (q->node->read_only)
        return block_keep_holds(q->node)
                   ? hws_fail(err, EROFS,
                              "'%.200s': the keep holds changes of this image that must be written "
                              "first; open it for writing once",
                              q->node->filename)
                   : 0;
    int r = block_keep_attach(q->node, &k->image, err);
    if (r < 0 || !k->image)
        return r;
    init_lists(k);
    return co_recover(q, err);
}

/* The cache begins anew, in the keep's memory. There is nothing to recover: else the image would
   not have been opened. */
int qcow2_co_keep_begin(struct qcow2 *q, struct hws_error *err)
{
    struct qcow2_kept *k = &q->kept;
    if (k->image || !block_policy_of(q->node)->keep)
        return 0;
    int r = block_keep_attach(q->node, &k->image, err);
    if (r < 0 || !k->image)
        return r;
    init_lists(k);
    qcow2_cache_restart(q);
    return co_recover(q, err);
}

void qcow2_keep_close(struct qcow2 *q)
{
    if (!q->kept.image)
        return;
    forget_sectors(q, false);
    block_keep_detach(steal_ptr(&q->kept.image));
}
