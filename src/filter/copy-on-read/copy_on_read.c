/*
 * The copy-on-read filter: what a read has to fetch from backing files is stored in the image on
 * top, so that a slow or remote backing file is asked once for each byte.
 *
 *     guest read  ----> range in the top image? --yes--> read it
 *                                |no
 *                       lock the clusters, look again, read through the chain,
 *                       write into the top image, unlock, answer
 *
 * Guest writes hold their range shared and a copy holds its clusters exclusively, so a copy never
 * puts bytes that it read before a write over the bytes of that write. Whole clusters are copied:
 * half of one would make the format fetch the rest anyway.
 *
 * A copy that cannot be stored (full disk) does not fail the read; that is told once. On a
 * read-only image the filter passes everything through.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "filter/copy-on-read/copy_on_read.h"
#include "base/log.h"
#include "block/range_lock.h"

/* Bytes that one copy may hold in memory; a cluster of qcow2 has at most 2 MiB. */
#define COPY_MAX_BYTES (2 * MiB)
/* Copies that run side by side: their memory is at most 16 MiB a node. */
#define COPIES_MAX 8

struct copy_on_read {
    struct range_lock ranges;
    struct rt_mutex guard;    /* of copies */
    struct co_waitq finished; /* a copy has */
    unsigned copies;
    uint64_t unit_bytes; /* copies begin and end at multiples of this */
    atomic_bool copies_lost;
    _Atomic uint64_t copied_bytes;
};

static struct block_node *file_of(const struct block_node *node)
{
    return node->child[BLOCK_FILE];
}

static int co_cor_open(struct block_node *node, const void *options, struct hws_error *err)
{
    struct copy_on_read *c = node->state;
    uint64_t unit = MAX(file_of(node)->limits.optimal_bytes, 4096u);

    c->unit_bytes = is_power_of_2(unit) ? MIN(unit, COPY_MAX_BYTES) : 4096;
    range_lock_init(&c->ranges);
    rt_mutex_init(&c->guard);
    co_waitq_init(&c->finished);
    node->limits.optimal_bytes = file_of(node)->limits.optimal_bytes;
    node->write_flags = BLOCK_FUA;
    node->zero_flags = BLOCK_FUA | BLOCK_MAY_UNMAP | BLOCK_NO_FALLBACK;
    atomic_store(&node->size_bytes, block_size(file_of(node)));
    return 0;
}

static int co_cor_close(struct block_node *node, struct hws_error *err)
{
    struct copy_on_read *c = node->state;

    range_lock_destroy(&c->ranges);
    rt_mutex_destroy(&c->guard);
    return 0;
}

/* A copy that is not stored is only a loss of time: the next read fetches the bytes again. */
static void note_result(struct block_node *node, int r, uint64_t length)
{
    struct copy_on_read *c = node->state;

    if (r == 0)
        atomic_fetch_add(&c->copied_bytes, length);
    else if (!atomic_exchange(&c->copies_lost, true))
        log_warning("%s: what reads fetch from backing files cannot be stored: %s",
                    block_filename(node), strerror(-r));
}

/*
 * Stores [offset, offset + length), which the chain below the top answers, in the top image, or
 * finds that somebody has. The range is locked. @bounce has room for it. @return 0 or what reading
 * failed with.
 */
static int co_store(struct block_node *node, uint64_t offset, uint64_t length, void *bounce)
{
    for (uint64_t end = offset + length; offset < end;) {
        struct block_extent extent;
        int r = co_block_status(file_of(node), offset, end - offset, &extent);
        if (r < 0)
            return r;
        uint64_t piece = MIN(extent.length, end - offset);
        if (!(extent.flags & BLOCK_STATUS_ALLOCATED)) {
            struct iovec iov;
            struct sgl copy = sgl_one(&iov, bounce, piece);
            r = co_block_read(file_of(node), offset, copy, 0);
            if (r < 0)
                return r;
            if (sgl_is_zero(copy))
                r = co_block_write_zeroes(file_of(node), offset, piece, BLOCK_MAY_UNMAP);
            else
                r = co_block_write(file_of(node), offset, copy, 0);
            note_result(node, r, piece);
        }
        offset += piece;
    }
    return 0;
}

static void co_copy_begin(struct copy_on_read *c)
{
    rt_mutex_lock(&c->guard);
    while (c->copies == COPIES_MAX)
        co_waitq_wait(&c->finished, &c->guard);
    c->copies++;
    rt_mutex_unlock(&c->guard);
}

static void copy_end(struct copy_on_read *c)
{
    rt_mutex_lock(&c->guard);
    c->copies--;
    co_waitq_wake_one(&c->finished);
    rt_mutex_unlock(&c->guard);
}

/* Copies the units that [offset, offset + length) touches. @return 0 or what reading failed with.
 */
static int co_copy_up(struct block_node *node, uint64_t offset, uint64_t length)
{
    struct copy_on_read *c = node->state;
    uint64_t start = align_down(offset, c->unit_bytes);
    uint64_t end = MIN(align_up(offset + length, c->unit_bytes), block_size(node));
    autofree void *bounce = NULL;
    int r = 0;

    co_copy_begin(c);
    /* Aligned as O_DIRECT and page-wise copies like it. Without memory there is no copy. */
    if (posix_memalign(&bounce, 4096, (size_t)MIN(end - start, COPY_MAX_BYTES)))
        start = end;
    while (start < end && r == 0) {
        struct range_entry entry;
        uint64_t piece = MIN(end - start, COPY_MAX_BYTES);
        co_range_lock(&c->ranges, &entry, start, piece, true);
        r = co_store(node, start, piece, bounce);
        range_unlock(&c->ranges, &entry);
        start += piece;
    }
    copy_end(c);
    return r;
}

static int co_cor_read(struct block_node *node, uint64_t offset, struct sgl buffer, unsigned flags)
{
    uint64_t end = offset + buffer.length;

    for (uint64_t at = offset; at < end && !node->read_only;) {
        struct block_extent extent;
        int r = co_block_status(file_of(node), at, end - at, &extent);
        if (r < 0)
            return r;
        uint64_t piece = MIN(extent.length, end - at);
        if (!(extent.flags & BLOCK_STATUS_ALLOCATED)) {
            r = co_copy_up(node, at, piece);
            if (r < 0)
                return r;
        }
        at += piece;
    }
    return co_block_read(file_of(node), offset, buffer, flags);
}

static int co_cor_write(struct block_node *node, uint64_t offset, struct sgl buffer, unsigned flags)
{
    struct copy_on_read *c = node->state;
    struct range_entry entry;

    co_range_lock(&c->ranges, &entry, offset, buffer.length, false);
    int r = co_block_write(file_of(node), offset, buffer, flags);
    range_unlock(&c->ranges, &entry);
    return r;
}

static int co_cor_write_zeroes(struct block_node *node, uint64_t offset, uint64_t length,
                               unsigned flags)
{
    struct copy_on_read *c = node->state;
    struct range_entry entry;

    co_range_lock(&c->ranges, &entry, offset, length, false);
    int r = co_block_write_zeroes(file_of(node), offset, length, flags);
    range_unlock(&c->ranges, &entry);
    return r;
}

static int co_cor_discard(struct block_node *node, uint64_t offset, uint64_t length)
{
    struct copy_on_read *c = node->state;
    struct range_entry entry;

    co_range_lock(&c->ranges, &entry, offset, length, false);
    int r = co_block_discard(file_of(node), offset, length);
    range_unlock(&c->ranges, &entry);
    return r;
}

static int co_cor_resize(struct block_node *node, uint64_t size_bytes, struct hws_error *err)
{
    int r = co_block_resize(file_of(node), size_bytes, err);
    if (r == 0)
        atomic_store(&node->size_bytes, size_bytes);
    return r;
}

static int co_cor_info(struct block_node *node, json_t *info, struct hws_error *err)
{
    struct copy_on_read *c = node->state;
    json_int_t copied = (json_int_t)atomic_load(&c->copied_bytes);

    if (json_object_set_new(info, "copied-bytes", json_integer(copied)))
        return hws_fail(err, ENOMEM, "out of memory");
    return 0;
}

static const struct option_desc cor_table[] = {OPTION_END};

const struct block_driver copy_on_read_filter = {
    .name = "copy-on-read",
    .help = "stores what reads fetch from backing files",
    .kind = BLOCK_FILTER,
    .needs_file = true,
    .state_bytes = sizeof(struct copy_on_read),
    .options = cor_table,
    .co_open = co_cor_open,
    .co_close = co_cor_close,
    .co_read = co_cor_read,
    .co_write = co_cor_write,
    .co_write_zeroes = co_cor_write_zeroes,
    .co_discard = co_cor_discard,
    .co_resize = co_cor_resize,
    .co_info = co_cor_info,
};
