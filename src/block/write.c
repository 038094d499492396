/*
 * Writes: range check, read-modify-write of partial blocks, bouncing, splitting, emulated FUA.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "block/core.h"

static inline int call_write(struct block_node *node, uint64_t offset, struct sgl buffer,
                             unsigned flags)
{
    assert(buffer.length && !node->read_only && !(flags & ~node->write_flags));
    assert(node->driver->grows || range_fits(offset, buffer.length, node_end(node)));
    int r = node->driver->co_write(node, offset, buffer, flags);
    node_mark_dirty(node);
    return r;
}

/*
 * Reads one block that a write covers in part; past the end there are zeroes. Straight from the
 * driver: the caller holds a bounce buffer, and must not wait for a second one of the same node.
 */
static int read_block(struct block_node *node, uint64_t offset, char *block)
{
    size_t length = node->limits.request_alignment;
    struct iovec iov;
    if (offset < block_size(node))
        return co_read_aligned(node, offset, sgl_one(&iov, block, length));
    memset(block, 0, length);
    return 0;
}

/* Writes at most BOUNCE_BYTES, padding included, through a bounce buffer. */
static int write_bounced(struct block_node *node, uint64_t offset, struct sgl buffer,
                         unsigned flags)
{
    uint64_t alignment = node->limits.request_alignment;
    uint64_t start = align_down(offset, alignment), end = offset + buffer.length;
    uint64_t padded_end = align_up(end, alignment), last = padded_end - alignment;
    assert(padded_end - start <= BOUNCE_BYTES);
    char *bounce = co_bounce_get(&node->core->bounce);
    if (!bounce)
        return -ENOMEM;
    int r = 0;
    if (offset != start || (last == start && end != padded_end))
        r = read_block(node, start, bounce);
    if (r == 0 && end != padded_end && last != start)
        r = read_block(node, last, bounce + (last - start));
    if (r == 0) {
        struct iovec iov;
        sgl_to_buffer(buffer, bounce + (offset - start));
        r = call_write(node, start, sgl_one(&iov, bounce, (size_t)(padded_end - start)), flags);
    }
    bounce_put(&node->core->bounce, bounce);
    return r;
}

static __attribute__((noinline)) int write_in_pieces(struct block_node *node, uint64_t offset,
                                                     struct sgl buffer, unsigned flags)
{
    while (buffer.length) {
        bool bounce;
        size_t length = request_next_length(node, offset, buffer, &bounce);
        struct sgl piece = sgl_slice(buffer, 0, length);
        int r = bounce ? write_bounced(node, offset, piece, flags)
                       : call_write(node, offset, piece, flags);
        if (r < 0)
            return r;
        offset += length;
        buffer = sgl_slice(buffer, length, buffer.length - length);
    }
    return 0;
}

/* A driver that grows has a new end, when the write went past the old one. */
static void grow_to(struct block_node *node, uint64_t end)
{
    uint64_t size = atomic_load_explicit(&node->size_bytes, memory_order_relaxed);
    while (end > size && !atomic_compare_exchange_weak(&node->size_bytes, &size, end))
        ;
}

static int write_fitted(struct block_node *node, uint64_t offset, struct sgl buffer, unsigned flags)
{
    int r = likely(request_is_direct(node, offset, buffer))
                ? call_write(node, offset, buffer, flags)
                : write_in_pieces(node, offset, buffer, flags);
    if (r == 0 && node->driver->grows)
        grow_to(node, offset + buffer.length);
    return r;
}

/* The new end is set before the next writer may read this block back. */
static int write_serialised(struct block_node *node, uint64_t offset, struct sgl buffer,
                            unsigned flags)
{
    uint64_t alignment = node->limits.request_alignment;
    struct serial_entry entry = {
        .start = align_down(offset, alignment),
        .end = align_up(offset + buffer.length, alignment),
        .rewrites = !is_aligned(offset | buffer.length, alignment),
    };
    co_serial_begin(&node->core->serial, &entry);
    int r = write_fitted(node, offset, buffer, flags);
    serial_end(&node->core->serial, &entry);
    return r;
}

int co_write_checked(struct block_node *node, uint64_t offset, struct sgl buffer, unsigned flags)
{
    bool flush = (flags & BLOCK_FUA) && !(node->write_flags & BLOCK_FUA);
    flags &= node->write_flags;
    int r = node->limits.request_alignment > 1 ? write_serialised(node, offset, buffer, flags)
                                               : write_fitted(node, offset, buffer, flags);
    if (r == 0 && flush)
        r = co_block_flush(node);
    return r;
}

int co_block_write(struct block_node *node, uint64_t offset, struct sgl buffer, unsigned flags)
{
    uint64_t end = node->driver->grows ? BLOCK_SIZE_MAX : block_size(node);
    if (unlikely(!range_fits(offset, buffer.length, end)))
        return -EINVAL;
    if (unlikely(node->read_only))
        return -EROFS;
    if (unlikely(buffer.length == 0))
        return 0;
    int r = co_write_checked(node, offset, buffer, flags);
    node_note_change(node, offset, buffer.length);
    return r;
}

int co_block_write_compressed(struct block_node *node, uint64_t offset, struct sgl buffer,
                              int level)
{
    uint64_t unit = node->limits.optimal_bytes, end = offset + buffer.length;
    if (!node->driver->co_write_compressed)
        return -ENOTSUP;
    if (!range_fits(offset, buffer.length, block_size(node)) || level < 0 ||
        level > node->compress_level_max || !is_aligned(offset, unit) ||
        (!is_aligned(end, unit) && end != block_size(node)))
        return -EINVAL;
    if (node->read_only)
        return -EROFS;
    for (size_t done = 0, part; done < buffer.length; done += part) {
        part = MIN(buffer.length - done, (size_t)unit);
        int r = node->driver->co_write_compressed(node, offset + done,
                                                  sgl_slice(buffer, done, part), level);
        node_mark_dirty(node);
        node_note_change(node, offset + done, part);
        if (r < 0)
            return r;
    }
    return 0;
}

int block_compress_level_max(const struct block_node *node)
{
    return node->driver->co_write_compressed ? node->compress_level_max : 0;
}

bool block_is_rotational(const struct block_node *node)
{
    return node->limits.rotational;
}

uint32_t block_cluster_bytes(const struct block_node *node)
{
    return node->driver->kind == BLOCK_FORMAT ? node->limits.optimal_bytes : 0;
}
