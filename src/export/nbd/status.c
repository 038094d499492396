/*
 * Block status: the extents of a range, in each context that the client has chosen.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "block/bitmap.h"
#include "export/nbd/internal.h"

struct extents {
    const struct nbd_request *request;
    uint8_t *at, *end; /* room for the next one */
    uint64_t length;   /* of the one that grows; 0: none yet */
    uint64_t flags;

    bool full;
};

static size_t extent_bytes(const struct nbd_request *q)
{
    return q->connection->extended ? 16 : 8;
}

static void put(struct extents *e)
{
    if (!e->length)
        return;
    if (e->request->connection->extended) {
        store_be64(e->at, e->length);
        store_be64(e->at + 8, e->flags);
    } else {
        store_be32(e->at, (uint32_t)e->length);
        store_be32(e->at + 4, (uint32_t)e->flags);
    }
    e->at += extent_bytes(e->request);
    e->length = 0;
    e->full = e->at + extent_bytes(e->request) > e->end || e->request->flags & NBD_CMD_FLAG_REQ_ONE;
}

static void add(struct extents *e, uint64_t length, uint64_t flags)
{
    if (e->length && e->flags != flags)
        put(e);
    if (e->full)
        return;
    e->flags = flags;
    e->length += length;
}

static int co_look(struct nbd_request *q, const struct nbd_context *context, uint64_t offset,
                   uint64_t length, uint64_t *ret_length, uint64_t *ret_flags)
{
    struct block_root *root = q->connection->export->root;
    struct block_extent extent;
    bool dirty;
    if (context->kind == NBD_CONTEXT_BITMAP) {
        int r = co_root_bitmap_next(root, context->bitmap, offset, length, &dirty, ret_length);
        *ret_flags = r == 0 && dirty ? NBD_STATE_DIRTY : 0;
        return r;
    }
    int r = co_root_status(root, offset, length, &extent);
    if (r < 0)
        return r;
    *ret_length = extent.length;
    if (context->kind == NBD_CONTEXT_DEPTH)
        *ret_flags = extent.flags & BLOCK_STATUS_ALLOCATED ? extent.depth + 1 : 0;
    else
        *ret_flags = (extent.flags & BLOCK_STATUS_DATA ? 0 : NBD_STATE_HOLE) |
                     (extent.flags & BLOCK_STATUS_ZERO ? NBD_STATE_ZERO : 0);
    return 0;
}

/* The payload of one context's chunk, behind its length. */
static int co_context(struct nbd_request *q, unsigned index, uint8_t **at, uint8_t *end)
{
    const struct nbd_connection *c = q->connection;
    uint8_t *start = *at + 8;
    size_t head = c->extended ? 8 : 4;
    struct extents e = {.request = q, .at = start + head, .end = end};
    uint64_t position = q->offset, last = q->offset + q->length;
    while (position < last && !e.full) {
        uint64_t found, flags;
        int r = co_look(q, &c->contexts[index], position, last - position, &found, &flags);
        if (r < 0)
            return r;
        add(&e, found, flags);
        position += found;
    }
    put(&e);
    store_be32(start, index + 1);
    if (c->extended)
        store_be32(start + 4, (uint32_t)((size_t)(e.at - start - head) / 16));
    store_be32(*at, (uint32_t)(e.at - start));
    store_be32(*at + 4, q->contexts >> index > 1); /* more to come */
    *at = e.at;
    return 0;
}

int co_nbd_block_status(struct nbd_request *q)
{
    unsigned count = (unsigned)__builtin_popcount(q->contexts), done = 0;
    q->buffer_bytes = NBD_STATUS_BYTES;
    q->buffer = nbd_buffer_get(&q->connection->lane->pool, NBD_STATUS_BYTES);
    if (!q->buffer)
        return -ENOMEM;
    uint8_t *at = q->buffer;
    int r = 0;
    for (unsigned i = 0; q->contexts >> i && r == 0; i++)
        if (q->contexts >> i & 1)
            r = co_context(q, i, &at, q->buffer + NBD_STATUS_BYTES / count * ++done);
    return r;
}
