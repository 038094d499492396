/*
 * Write-zeroes and discard.
 *
 *      head   |    middle, multiples of the driver's alignment    | tail
 *   data zeroes|  co_write_zeroes, in pieces of zero_max at most   | data zeroes
 *
 * A head or tail that reads as zeroes already is left alone: writing it would allocate a cluster.
 * The end of the image counts as aligned.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "block/core.h"

#define ZERO_BYTES  (64 * KiB)
#define ZERO_PIECES 16

/* Never written; page-aligned for O_DIRECT. */
static char zero_buffer[ZERO_BYTES] __attribute__((aligned(BOUNCE_ALIGNMENT)));

int co_write_zero_data(struct block_node *node, uint64_t offset, uint64_t length, unsigned flags)
{
    struct iovec iov[ZERO_PIECES];
    for (unsigned i = 0; i < ZERO_PIECES; i++)
        iov[i] = (struct iovec){.iov_base = zero_buffer, .iov_len = ZERO_BYTES};
    struct sgl zeroes = sgl_of(iov, ZERO_PIECES);
    while (length) {
        size_t piece = (size_t)MIN(length, (uint64_t)zeroes.length);
        int r = co_write_checked(node, offset, sgl_slice(zeroes, 0, piece), flags);
        if (r < 0)
            return r;
        offset += piece;
        length -= piece;
    }
    return 0;
}

/* True when all of a small range reads as zeroes as it is. A failing look-up means no. */
static bool reads_as_zero(struct block_node *node, uint64_t offset, uint64_t length)
{
    while (length) {
        struct block_extent extent;
        if (offset >= block_size(node) ||
            co_block_status_chain(node, offset, length, &extent) < 0 ||
            !(extent.flags & BLOCK_STATUS_ZERO))
            return false;
        offset += extent.length;
        length -= extent.length;
    }
    return true;
}

/* Zeroes that the driver cannot make by itself. */
static int zero_by_data(struct block_node *node, uint64_t offset, uint64_t length, unsigned flags)
{
    if (length == 0 || (!(flags & BLOCK_OWN) && reads_as_zero(node, offset, length)))
        return 0;
    if (flags & BLOCK_NO_FALLBACK)
        return -ENOTSUP;
    return co_write_zero_data(node, offset, length, flags & BLOCK_FUA);
}

static int call_zero(struct block_node *node, uint64_t offset, uint64_t length, unsigned flags)
{
    struct serial_entry entry = {.start = offset, .end = offset + length};
    bool serial = node->limits.request_alignment > 1;
    if (flags & BLOCK_OWN & ~node->zero_flags)
        return -ENOTSUP;
    if (serial)
        co_serial_begin(&node->core->serial, &entry);
    int r = node->driver->co_write_zeroes(node, offset, length, flags & node->zero_flags);
    node_mark_dirty(node);
    if (serial)
        serial_end(&node->core->serial, &entry);
    return r;
}

/* The middle: aligned, through the driver where it can. */
static int zero_aligned(struct block_node *node, uint64_t offset, uint64_t length, unsigned flags)
{
    while (length) {
        uint64_t piece = MIN(length, node->limits.zero_max);
        int r = call_zero(node, offset, piece, flags);
        if (r == -ENOTSUP)
            r = flags & BLOCK_NO_FALLBACK
                    ? -ENOTSUP
                    : co_write_zero_data(node, offset, piece, flags & BLOCK_FUA);
        if (r < 0)
            return r;
        offset += piece;
        length -= piece;
    }
    return 0;
}

/*
 * The part of [offset, offset + length) that is aligned, in @ret_start and @ret_end; the end of the
 * image is. Where nothing is, both are the end of the range.
 */
static void aligned_part(const struct block_node *node, uint64_t alignment, uint64_t offset,
                         uint64_t length, uint64_t *ret_start, uint64_t *ret_end)
{
    uint64_t end = offset + length;
    uint64_t start = MIN(div_round_up(offset, alignment) * alignment, end);
    uint64_t stop = end == block_size(node) ? end : end / alignment * alignment;
    *ret_start = stop > start ? start : end;
    *ret_end = stop > start ? stop : end;
}

static int write_zeroes(struct block_node *node, uint64_t offset, uint64_t length, unsigned flags)
{
    if (!node->driver->co_write_zeroes)
        return zero_by_data(node, offset, length, flags);
    uint64_t start, stop;
    aligned_part(node, node->limits.zero_alignment, offset, length, &start, &stop);
    int r = zero_by_data(node, offset, start - offset, flags);
    if (r == 0)
        r = zero_aligned(node, start, stop - start, flags);
    if (r == 0)
        r = zero_by_data(node, stop, offset + length - stop, flags);
    return r;
}

int co_block_write_zeroes(struct block_node *node, uint64_t offset, uint64_t length, unsigned flags)
{
    if (!range_fits(offset, length, block_size(node)))
        return -EINVAL;
    if (node->read_only)
        return -EROFS;
    if (length == 0)
        return 0;
    /* One flush at the end, unless every call below can do without. */
    bool native = (node->write_flags & BLOCK_FUA) &&
                  (!node->driver->co_write_zeroes || (node->zero_flags & BLOCK_FUA));
    bool flush = (flags & BLOCK_FUA) && !native;
    if (flush)
        flags &= ~(unsigned)BLOCK_FUA;
    int r = write_zeroes(node, offset, length, flags);
    node_note_change(node, offset, length);
    return r == 0 && flush ? co_block_flush(node) : r;
}

static int call_discard(struct block_node *node, uint64_t offset, uint64_t length)
{
    struct serial_entry entry = {.start = offset, .end = offset + length};
    bool serial = node->limits.request_alignment > 1;
    if (serial)
        co_serial_begin(&node->core->serial, &entry);
    int r = node->driver->co_discard(node, offset, length);
    node_mark_dirty(node);
    if (serial)
        serial_end(&node->core->serial, &entry);
    return r;
}

int co_block_discard(struct block_node *node, uint64_t offset, uint64_t length)
{
    if (!range_fits(offset, length, block_size(node)))
        return -EINVAL;
    if (node->read_only)
        return -EROFS;
    if (length == 0 || !node->driver->co_discard)
        return 0;
    uint64_t start, stop;
    aligned_part(node, node->limits.discard_alignment, offset, length, &start, &stop);
    while (start < stop) {
        uint64_t piece = MIN(stop - start, node->limits.discard_max);
        int r = call_discard(node, start, piece);
        node_note_change(node, start, piece);
        if (r < 0)
            return r == -ENOTSUP ? 0 : r;
        start += piece;
    }
    return 0;
}
