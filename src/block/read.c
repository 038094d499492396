/*
 * Reads: range check, padding and bouncing of what a driver cannot take, and the walk down a chain.
 *
 * The walk is breadth first and uses two small lists of holes: what the layer above left over, and
 * what this layer leaves over. When a list is full, the walk finishes the bytes before the first
 * hole that did not fit and then starts again there, at the top. The top layer costs nothing extra:
 * where it has all the bytes, its one call is the read.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "block/core.h"

static inline int call_read(struct block_node *node, uint64_t offset, struct sgl buffer,
                            unsigned flags)
{
    assert(range_fits(offset, buffer.length, node_end(node)) && buffer.length);
    return node->driver->co_read(node, offset, buffer, flags);
}

static inline int call_read_layer(struct block_node *node, uint64_t offset, struct sgl buffer,
                                  unsigned flags, struct block_holes *holes)
{
    assert(range_fits(offset, buffer.length, node_end(node)) && buffer.length);
    holes->count = 0;
    holes->overflowed = false;
    return node->driver->co_read_layer(node, offset, buffer, flags, holes);
}

void block_hole(struct block_holes *holes, uint64_t offset, uint64_t length)
{
    assert(length > 0);
    if (holes->overflowed)
        return;
    if (holes->count) {
        struct block_hole *last = &holes->hole[holes->count - 1];
        assert(offset >= last->offset + last->length);
        if (offset == last->offset + last->length) {
            last->length += length;
            return;
        }
    }
    if (holes->count == BLOCK_HOLES) {
        holes->overflowed = true;
        holes->resume = offset;
        return;
    }
    holes->hole[holes->count++] = (struct block_hole){.offset = offset, .length = length};
}

/* Adds the holes of one more piece to @all; the piece lies behind those that are there. */
static void join_holes(struct block_holes *all, const struct block_holes *piece)
{
    for (unsigned i = 0; i < piece->count; i++)
        block_hole(all, piece->hole[i].offset, piece->hole[i].length);
    if (piece->overflowed && !all->overflowed) {
        all->overflowed = true;
        all->resume = piece->resume;
    }
}

/*
 * Reads @buffer from the layer @node (NULL: below the last one) and adds what it leaves to @holes.
 * A request that the driver cannot take goes through co_read_checked(), which pads it; that pads to
 * this layer's alignment, so it nests at most once for each alignment in the chain.
 */
static int read_piece(struct block_node *node, uint64_t offset, struct sgl buffer,
                      struct block_holes *holes)
{
    uint64_t size = node ? block_size(node) : 0;
    size_t inside = offset < size ? (size_t)MIN((uint64_t)buffer.length, size - offset) : 0;
    if (inside < buffer.length)
        sgl_fill(sgl_slice(buffer, inside, buffer.length - inside), 0);
    if (inside == 0)
        return 0;
    buffer = sgl_slice(buffer, 0, inside);
    if (!node->driver->co_read_layer || !request_is_direct(node, offset, buffer))
        return co_read_checked(node, offset, buffer, 0);

    struct block_holes left;
    int r = call_read_layer(node, offset, buffer, 0, &left);
    if (r == 0)
        join_holes(holes, &left);
    return r;
}

static struct block_node *below(const struct block_node *node)
{
    return node ? node->child[BLOCK_BACKING] : NULL;
}

/*
 * Fills the holes in @first from the layers below @node. Holes before @end count.
 * @ret_end the first byte that is not done, at most @end.
 */
static __attribute__((noinline)) int fill_holes(struct block_node *node, uint64_t offset,
                                                struct sgl buffer, struct block_holes *first,
                                                uint64_t *ret_end)
{
    struct block_holes second, *holes = first, *next = &second;
    uint64_t limit = first->overflowed ? first->resume : offset + buffer.length;
    for (struct block_node *layer = below(node); holes->count; layer = below(layer)) {
        layer = co_shortcut(layer, holes, limit);
        next->count = 0;
        next->overflowed = false;
        for (unsigned i = 0; i < holes->count && holes->hole[i].offset < limit; i++) {
            uint64_t start = holes->hole[i].offset;
            size_t length = (size_t)MIN(holes->hole[i].length, limit - start);
            int r =
                read_piece(layer, start, sgl_slice(buffer, (size_t)(start - offset), length), next);
            if (r < 0)
                return r;
            if (next->overflowed)
                limit = MIN(limit, next->resume);
        }
        struct block_holes *swap = holes;
        holes = next;
        next = swap;
    }
    *ret_end = limit;
    return 0;
}

/* A read that left holes in the top layer: fills them, and reads on where they did not fit. */
static __attribute__((noinline)) int read_through(struct block_node *node, uint64_t offset,
                                                  struct sgl buffer, unsigned flags,
                                                  struct block_holes *holes)
{
    uint64_t end = offset + buffer.length;
    for (;;) {
        uint64_t done;
        int r = fill_holes(node, offset, buffer, holes, &done);
        if (r < 0 || done == end)
            return r;
        uint64_t start = align_down(done, node->limits.request_alignment);
        /* 16 holes of a sector or more lie between: an alignment of 4 KiB is always passed. */
        if (start <= offset)
            return -EIO;
        buffer = sgl_slice(buffer, (size_t)(start - offset), (size_t)(end - start));
        offset = start;
        r = call_read_layer(node, offset, buffer, flags, holes);
        if (r < 0)
            return r;
        if (!holes->count)
            return 0;
    }
}

static inline int read_direct(struct block_node *node, uint64_t offset, struct sgl buffer,
                              unsigned flags)
{
    if (node->driver->co_read)
        return call_read(node, offset, buffer, flags);
    struct block_holes holes;
    int r = call_read_layer(node, offset, buffer, flags, &holes);
    if (likely(r < 0 || !holes.count))
        return r;
    return read_through(node, offset, buffer, flags, &holes);
}

/* Reads at most BOUNCE_BYTES, padding included, through a bounce buffer. */
static int read_bounced(struct block_node *node, uint64_t offset, struct sgl buffer, unsigned flags)
{
    uint64_t start = align_down(offset, node->limits.request_alignment);
    uint64_t end = align_up(offset + buffer.length, node->limits.request_alignment);
    assert(end - start <= BOUNCE_BYTES);
    char *bounce = co_bounce_get(&node->core->bounce);
    if (!bounce)
        return -ENOMEM;
    struct iovec iov;
    int r = read_direct(node, start, sgl_one(&iov, bounce, (size_t)(end - start)), flags);
    if (r == 0)
        sgl_from_buffer(buffer, bounce + (offset - start));
    bounce_put(&node->core->bounce, bounce);
    return r;
}

static __attribute__((noinline)) int read_in_pieces(struct block_node *node, uint64_t offset,
                                                    struct sgl buffer, unsigned flags)
{
    while (buffer.length) {
        bool bounce;
        size_t length = request_next_length(node, offset, buffer, &bounce);
        struct sgl piece = sgl_slice(buffer, 0, length);
        int r = bounce ? read_bounced(node, offset, piece, flags)
                       : read_direct(node, offset, piece, flags);
        if (r < 0)
            return r;
        offset += length;
        buffer = sgl_slice(buffer, length, buffer.length - length);
    }
    return 0;
}

int co_read_aligned(struct block_node *node, uint64_t offset, struct sgl buffer)
{
    return read_direct(node, offset, buffer, 0);
}

int co_read_checked(struct block_node *node, uint64_t offset, struct sgl buffer, unsigned flags)
{
    if (likely(request_is_direct(node, offset, buffer)))
        return read_direct(node, offset, buffer, flags);
    return read_in_pieces(node, offset, buffer, flags);
}

int co_block_read(struct block_node *node, uint64_t offset, struct sgl buffer, unsigned flags)
{
    if (unlikely(!range_fits(offset, buffer.length, block_size(node))))
        return -EINVAL;
    if (unlikely(buffer.length == 0))
        return 0;
    return co_read_checked(node, offset, buffer, 0);
}

int co_block_read_padded(struct block_node *child, uint64_t offset, struct sgl buffer)
{
    uint64_t size = child ? block_size(child) : 0;
    if (unlikely(!range_fits(offset, buffer.length, size))) {
        size_t inside = offset < size ? (size_t)(size - offset) : 0;
        sgl_fill(sgl_slice(buffer, inside, buffer.length - inside), 0);
        buffer = sgl_slice(buffer, 0, inside);
    }
    return buffer.length ? co_read_checked(child, offset, buffer, 0) : 0;
}

int block_try_read(struct block_node *node, uint64_t offset, void *bytes, size_t length)
{
    struct iovec iov;
    if (!node->driver->try_read || length == 0 || !range_fits(offset, length, block_size(node)) ||
        !request_is_direct(node, offset, sgl_one(&iov, bytes, length)))
        return -EAGAIN;
    return node->driver->try_read(node, offset, bytes, length);
}
