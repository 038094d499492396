/*
 * What lies where, in one layer and through the chain. Drivers answer for aligned ranges in one
 * layer; the core cuts, walks down and joins equal neighbours.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "block/core.h"

/* Pieces that one answer joins; a caller that wants more asks again. */
#define JOIN_MAX 256

/* No answer of the driver's own: a filter passes on what its file says, everybody else has data. */
static int status_default(struct block_node *node, uint64_t offset, uint64_t length,
                          struct block_extent *ret)
{
    struct block_node *file = node->child[BLOCK_FILE];
    if (node->driver->kind == BLOCK_FILTER && file && offset < block_size(file)) {
        int r = co_block_status_chain(file, offset, MIN(length, block_size(file) - offset), ret);
        ret->flags |= BLOCK_STATUS_ALLOCATED; /* a filter has no layer below it */
        ret->depth = 0;
        return r;
    }
    *ret = (struct block_extent){
        .length = length,
        .flags = BLOCK_STATUS_DATA | BLOCK_STATUS_ALLOCATED,
    };
    return 0;
}

/* Takes the first @skip bytes off an extent. */
static void cut_front(struct block_extent *extent, uint64_t skip)
{
    extent->length -= skip;
    if (extent->flags & BLOCK_STATUS_MAPPED)
        extent->host_offset += skip;
}

int co_block_status(struct block_node *node, uint64_t offset, uint64_t length,
                    struct block_extent *ret)
{
    if (length == 0 || !range_fits(offset, length, block_size(node)))
        return -EINVAL;
    if (!node->driver->co_status)
        return status_default(node, offset, length, ret);

    uint64_t alignment = node->limits.request_alignment;
    uint64_t start = align_down(offset, alignment);
    uint64_t end = MIN(align_up(offset + length, alignment), node_end(node));
    *ret = (struct block_extent){0};
    int r = node->driver->co_status(node, start, end - start, ret);
    if (r < 0)
        return r;
    assert(ret->length > offset - start && ret->length <= end - start);
    assert(!(ret->flags & BLOCK_STATUS_MAPPED) || ret->file);
    cut_front(ret, offset - start);
    ret->length = MIN(ret->length, length);
    ret->depth = 0;
    return 0;
}

/* One extent through the chain, nothing joined. */
static int status_once(struct block_node *node, uint64_t offset, uint64_t length,
                       struct block_extent *ret)
{
    unsigned reached = 0;
    for (unsigned depth = 0; node; depth++, node = node->child[BLOCK_BACKING]) {
        uint64_t size = block_size(node);
        if (offset >= size)
            break;
        length = MIN(length, size - offset);
        int r = co_block_status(node, offset, length, ret);
        if (r < 0)
            return r;
        length = ret->length;
        ret->depth = reached = depth;
        if (ret->flags & BLOCK_STATUS_ALLOCATED)
            return 0;
    }
    /* Nobody has it: the last layer that was asked says so. */
    *ret = (struct block_extent){.length = length, .flags = BLOCK_STATUS_ZERO, .depth = reached};
    return 0;
}

static bool joins(const struct block_extent *a, const struct block_extent *b)
{
    if (a->flags != b->flags || a->depth != b->depth)
        return false;
    return !(a->flags & BLOCK_STATUS_MAPPED) ||
           (a->file == b->file && a->host_offset + a->length == b->host_offset);
}

int co_block_status_chain(struct block_node *node, uint64_t offset, uint64_t length,
                          struct block_extent *ret)
{
    if (length == 0 || !range_fits(offset, length, block_size(node)))
        return -EINVAL;
    int r = status_once(node, offset, length, ret);
    for (unsigned i = 0; r == 0 && ret->length < length && i < JOIN_MAX; i++) {
        struct block_extent more;
        /* A failure further on is told when the caller asks there. */
        if (status_once(node, offset + ret->length, length - ret->length, &more) < 0 ||
            !joins(ret, &more))
            break;
        ret->length += more.length;
    }
    return r;
}
