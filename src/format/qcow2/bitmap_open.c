/*
 * The bitmaps of an open image: reading the directory, loading bits, and marking them in use.
 *
 * At open only the directory is read. The bits of those that follow changes are read before the
 * first change of the image, those of the others when somebody asks. "Flag in_use should be set
 * while the bitmap is not synced": it is set on disk, durably, before the first change, on those
 * that follow changes; the others stay true whatever happens to us.
 *
 * Flags are changed in place: a crash leaves some set and some not, before anything that would make
 * the latter wrong.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/log.h"
#include "block/bitmap.h"
#include "format/qcow2/qcow2.h"

#define PIECE_WORDS (BLOCK_BITMAP_GROUP_BITS / 64) /* 512 bytes: clusters are multiples */
#define TABLE_PIECE 512u                           /* entries of a table read at a time: 4 KiB */

/* ---- the directory ---- */

/* Can be used, unless somebody did not store it or its size is not the image's. */
static int attach(struct qcow2 *q, uint32_t index)
{
    struct qcow2_bitmap *b = &q->bitmaps.entry[index];
    if (qcow2_bitmap_strange(b))
        return 0;
    int r = block_bitmap_attach(q->node, b->name, b->granularity_bits, b->flags & QCOW2_BITMAP_AUTO,
                                &b->live);
    if (r < 0)
        return r;
    uint64_t entries =
        qcow2_bitmap_table_entries(b->granularity_bits, q->header.size, q->cluster_bits);
    b->live->stored = (void *)(uintptr_t)(index + 1);
    b->live->inconsistent = (b->flags & QCOW2_BITMAP_IN_USE) || b->table_entries != entries;
    return 0;
}

static void tell(const struct qcow2 *q)
{
    uint32_t broken = 0, strange = 0;
    for (uint32_t i = 0; i < q->bitmaps.count; i++) {
        const struct qcow2_bitmap *b = &q->bitmaps.entry[i];
        broken += b->live && b->live->inconsistent;
        strange += !b->live;
    }
    if (broken)
        log_warning("'%s': %u of %u bitmaps were not stored by the program that used the image "
                    "last: they are inconsistent, and can only be removed",
                    q->node->filename, broken, q->bitmaps.count);
    if (strange)
        log_warning("'%s': %u of %u bitmaps are of a kind that this version does not know: they "
                    "are kept, and not used",
                    q->node->filename, strange, q->bitmaps.count);
}

/* @return 0, -EINVAL where it is damaged, -ENOMEM, or what reading failed with. */
static int co_read_directory(struct qcow2 *q, const struct qcow2_extension *extension,
                             struct hws_error *err)
{
    struct qcow2_bitmap_limits limits = qcow2_bitmap_limits(q);
    struct qcow2_bitmaps *all = &q->bitmaps;
    struct iovec iov;
    int r =
        qcow2_bitmaps_place_parse(extension->data, extension->length, &limits, &all->place, err);
    if (r < 0)
        return r;
    rt_mutex_lock(&q->lock);
    r = qcow2_check_host(q, all->place.offset, all->place.size);
    rt_mutex_unlock(&q->lock);
    if (r < 0)
        return hws_fail(err, EINVAL, "the bitmap directory lies over other metadata");
    autofree uint8_t *bytes = qcow2_buffer(all->place.size);
    if (!bytes)
        return hws_fail(err, ENOMEM, "out of memory");
    r = co_block_read_padded(q->file, all->place.offset, sgl_one(&iov, bytes, all->place.size));
    if (r < 0)
        return hws_fail_errno(err, -r, "reading the bitmap directory at offset %#llx",
                              (unsigned long long)all->place.offset);
    r = qcow2_bitmaps_parse(bytes, all->place.size, all->place.count, &limits, &all->entry, err);
    if (r < 0)
        return r;
    all->count = all->place.count;
    for (uint32_t i = 0; i < all->count && r == 0; i++)
        r = attach(q, i);
    return r < 0 ? hws_fail(err, ENOMEM, "out of memory") : 0;
}

int qcow2_co_bitmaps_open(struct qcow2 *q, struct hws_error *err)
{
    const char *name = q->node->filename;
    const struct qcow2_extension *extension = qcow2_header_extension(&q->header, QCOW2_EXT_BITMAPS);
    bool bit = q->header.autoclear_features & QCOW2_AUTOCLEAR_BITMAPS;
    if (!extension && bit)
        log_warning("'%s': the header says that the image has bitmaps, but not where", name);
    if (extension && !bit)
        log_warning("'%s': a program that does not know bitmaps has changed the image: none of its "
                    "bitmaps can be used any more",
                    name);
    if (!extension || !bit)
        return 0;
    struct hws_error why = {0};
    int r = co_read_directory(q, extension, &why);
    if (r == 0) {
        q->bitmaps.valid = true;
        qcow2_reserve_ranges(q);
        tell(q);
        return 0;
    }
    qcow2_bitmaps_close(q);
    /* Bitmaps that cannot be read now are not given up, as a change of the image would. */
    if (r == -ENOMEM || (r != -EINVAL && !q->node->read_only))
        return hws_fail(err, -r, "'%.200s': %s", name, why.text);
    log_warning("'%s': %s: its bitmaps cannot be used", name, why.text);
    return 0;
}

void qcow2_bitmaps_close(struct qcow2 *q)
{
    struct qcow2_bitmaps *all = &q->bitmaps;
    for (uint32_t i = 0; i < all->count; i++)
        if (all->entry[i].live)
            block_bitmap_detach(all->entry[i].live);
    qcow2_bitmaps_free(all->entry, all->count);
    *all = (struct qcow2_bitmaps){0};
}

int qcow2_co_bitmaps_reopen(struct qcow2 *q, struct hws_error *err)
{
    const struct qcow2_extension *extension = qcow2_header_extension(&q->header, QCOW2_EXT_BITMAPS);
    uint8_t now[sizeof(struct qcow2_disk_bitmaps_extension)];
    qcow2_bitmaps_place_store(&q->bitmaps.place, now);
    if (q->bitmaps.valid && extension && extension->length == sizeof(now) &&
        memcmp(extension->data, now, sizeof(now)) == 0 &&
        (q->header.autoclear_features & QCOW2_AUTOCLEAR_BITMAPS)) {
        qcow2_reserve_ranges(q);
        return 0;
    }
    qcow2_bitmaps_close(q);
    return qcow2_co_bitmaps_open(q, err);
}

/* ---- bits ---- */

/* Words [first, first + count) from the bytes of a cluster. */
static void put_words(struct block_bitmap *live, uint64_t first, const uint8_t *bytes)
{
    uint64_t words = div_round_up(live->bits, 64), tail = live->bits % 64;
    for (uint64_t i = 0; i < PIECE_WORDS && first + i < words; i++) {
        uint64_t word = load_le64(bytes + i * 8);
        if (tail && first + i == words - 1)
            word &= (1ull << tail) - 1; /* "these bits must be zero" */
        if (!word)
            continue;
        uint64_t group = (first + i) / PIECE_WORDS;
        atomic_fetch_or_explicit(&live->summary[group / 64], 1ull << (group % 64),
                                 memory_order_relaxed);
        atomic_store_explicit(&live->word[first + i], word, memory_order_relaxed);
    }
}

static void put_ones(struct block_bitmap *live, uint64_t first, uint64_t bytes)
{
    uint64_t bit = first * 64, end = MIN(bit + bytes * 8, live->bits);
    if (bit < end)
        block_bitmap_set(live, bit << live->granularity_bits,
                         (end - bit) << live->granularity_bits);
}

static int co_load_cluster(struct qcow2 *q, struct block_bitmap *live, uint64_t index,
                           uint64_t entry, uint8_t *buffer)
{
    uint64_t host = entry & QCOW2_BITMAP_TABLE_OFFSET, first = index * (q->cluster_size / 8);
    struct iovec iov;
    if (host == 0) {
        if (entry & QCOW2_BITMAP_TABLE_ONES)
            put_ones(live, first, q->cluster_size);
        return 0;
    }
    int r = co_block_read_padded(q->file, host, sgl_one(&iov, buffer, q->cluster_size));
    for (uint64_t at = 0; r == 0 && at < q->cluster_size; at += PIECE_WORDS * 8)
        put_words(live, first + at / 8, buffer + at);
    return r;
}

int qcow2_co_bitmap_table_walk(struct qcow2 *q, uint64_t table_offset, uint32_t entries,
                               qcow2_co_table_fn *fn, void *arg)
{
    struct qcow2_bitmap_limits limits = qcow2_bitmap_limits(q);
    autofree uint8_t *piece = qcow2_buffer(TABLE_PIECE * 8);
    int r = piece ? 0 : -ENOMEM;
    for (uint32_t first = 0; first < entries && r == 0; first += TABLE_PIECE) {
        uint32_t count = MIN(entries - first, TABLE_PIECE);
        struct iovec iov;
        r = co_block_read_padded(q->file, table_offset + first * 8ull,
                                 sgl_one(&iov, piece, count * (size_t)8));
        for (uint32_t i = 0; i < count && r == 0; i++) {
            uint64_t entry = load_be64(piece + i * (size_t)8);
            if (!qcow2_bitmap_table_entry_valid(entry, &limits))
                r = block_corrupt(q->node, table_offset + (first + i) * 8ull, NULL,
                                  "an entry of a bitmap table is invalid: %#llx",
                                  (unsigned long long)entry);
            else
                r = fn(q, first + i, entry, arg);
        }
    }
    return r;
}

struct load {
    struct block_bitmap *live;
    uint8_t *buffer;
};

static int co_load_entry(struct qcow2 *q, uint32_t index, uint64_t entry, void *arg)
{
    struct load *load = arg;
    return co_load_cluster(q, load->live, index, entry, load->buffer);
}

static int co_load_bits(struct qcow2 *q, struct block_bitmap *live)
{
    const struct qcow2_bitmap *b = &q->bitmaps.entry[(uintptr_t)live->stored - 1];
    autofree uint8_t *buffer = qcow2_buffer(q->cluster_size);
    struct load load = {.live = live, .buffer = buffer};
    if (!buffer)
        return -ENOMEM;
    return qcow2_co_bitmap_table_walk(q, b->table_offset, b->table_entries, co_load_entry, &load);
}

int qcow2_co_bitmap_load(struct block_node *node, struct block_bitmap *live, struct hws_error *err)
{
    int r = co_load_bits(qcow2_of(node), live);
    return r < 0 ? hws_fail_errno(err, -r, "'%.200s': reading the bitmap '%.200s'", node->filename,
                                  live->name)
                 : 0;
}

/* ---- before a change ---- */

/* Its bits are in memory, or it is given up: the image is to be changed now. */
static int co_follow(struct qcow2_bitmap *b)
{
    struct hws_error why = {0};
    int r = co_block_bitmap_load(b->live, &why);
    if (r == 0) {
        if (b->live->enabled)
            block_bitmap_track(b->live);
        return 0;
    }
    if (r == -ENOMEM)
        return r;
    log_warning("%s: it does not follow the changes to come, and is inconsistent", why.text);
    b->live->inconsistent = true;
    return 0;
}

static int co_write_flags(struct qcow2 *q)
{
    struct qcow2_bitmaps *all = &q->bitmaps;
    struct iovec iov;
    autofree uint8_t *bytes = qcow2_buffer(all->place.size);
    if (!bytes)
        return -ENOMEM;
    rt_mutex_lock(&q->lock);
    q->reserved_range[4].length = 0;
    int r = qcow2_check_data_host(q, all->place.offset, all->place.size);
    qcow2_reserve_ranges(q);
    rt_mutex_unlock(&q->lock);
    if (r == 0)
        r = co_block_read_padded(q->file, all->place.offset, sgl_one(&iov, bytes, all->place.size));
    if (r < 0)
        return r;
    for (uint32_t i = 0; i < all->count; i++)
        if (all->entry[i].flags_at)
            store_be32(bytes + all->entry[i].flags_at, all->entry[i].flags);
    r = co_block_write(q->file, all->place.offset, sgl_one(&iov, bytes, all->place.size), 0);
    return r < 0 ? r : co_block_flush(q->file);
}

/* Does it change, or become wrong, with the image? What is on disk counts as well as what it is to
 * be. */
static bool follows(const struct qcow2_bitmap *b)
{
    return b->flags & QCOW2_BITMAP_AUTO || (b->live && b->live->enabled);
}

int qcow2_co_bitmaps_begin(struct qcow2 *q, bool all)
{
    struct qcow2_bitmaps *bitmaps = &q->bitmaps;
    bool any = false;
    int r = 0;
    for (uint32_t i = 0; i < bitmaps->count && r == 0; i++) {
        struct qcow2_bitmap *b = &bitmaps->entry[i];
        if (b->flags & QCOW2_BITMAP_IN_USE || (!all && !follows(b)))
            continue;
        if (b->live)
            r = co_follow(b);
        b->flags |= QCOW2_BITMAP_IN_USE;
        b->marking = any = true;
    }
    if (r == 0 && any && bitmaps->valid)
        r = co_write_flags(q);
    for (uint32_t i = 0; any && i < bitmaps->count; i++) {
        if (r < 0 && bitmaps->entry[i].marking)
            bitmaps->entry[i].flags &= ~(uint32_t)QCOW2_BITMAP_IN_USE;
        bitmaps->entry[i].marking = false;
    }
    return r;
}
