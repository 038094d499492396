/*
 * What each command does, and its reply: simple, structured or extended, as was negotiated.
 *
 * The transmission has checked the command, its flags and its range. Reads and writes longer than a
 * piece are done piece by piece, so that a request costs bounded memory; the pieces of a read are
 * chunks of a structured reply. A client without structured replies gets a long read in one.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "export/nbd/internal.h"

uint32_t nbd_error_of(int result)
{
    switch (-result) {
    case 0:
        return 0;
    case EPERM:
    case EACCES:
    case EROFS:
        return NBD_EPERM;
    case ENOMEM:
        return NBD_ENOMEM;
    case EINVAL:
        return NBD_EINVAL;
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
        return NBD_ENOSPC;
    case EOVERFLOW:
        return NBD_EOVERFLOW;
    case ENOTSUP:
        return NBD_ENOTSUP;
    case ESHUTDOWN:
        return NBD_ESHUTDOWN;
    default:
        return NBD_EIO;
    }
}

/* ---- replies ---- */

/* The head of a chunk with @payload bytes behind it, of which @inside are in the head too. */
static void chunk_head(struct nbd_request *q, uint16_t flags, uint16_t type, uint64_t payload,
                       const void *inside, size_t inside_bytes)
{
    size_t head;
    if (q->connection->extended) {
        struct nbd_extended_reply reply = {be32_of(NBD_MAGIC_EXTENDED_REPLY),
                                           be16_of(flags),
                                           be16_of(type),
                                           be64_of(q->cookie),
                                           be64_of(q->offset),
                                           be64_of(payload)};
        memcpy(q->head, &reply, head = sizeof(reply));
    } else {
        struct nbd_structured_reply reply = {be32_of(NBD_MAGIC_STRUCTURED_REPLY), be16_of(flags),
                                             be16_of(type), be64_of(q->cookie),
                                             be32_of((uint32_t)payload)};
        memcpy(q->head, &reply, head = sizeof(reply));
    }
    if (inside_bytes)
        memcpy(q->head + head, inside, inside_bytes);
    q->head_bytes = (unsigned)(head + inside_bytes);
}

static void simple_head(struct nbd_request *q, uint32_t error)
{
    struct nbd_simple_reply reply = {be32_of(NBD_MAGIC_SIMPLE_REPLY), be32_of(error),
                                     be64_of(q->cookie)};
    memcpy(q->head, &reply, sizeof(reply));
    q->head_bytes = sizeof(reply);
}

void nbd_answer(struct nbd_request *q, int result)
{
    uint32_t error = nbd_error_of(result);
    bool structured = q->connection->extended ||
                      (q->connection->structured &&
                       (q->command == NBD_CMD_READ || q->command == NBD_CMD_BLOCK_STATUS || error));
    q->data = NULL;
    q->data_bytes = 0;
    if (!structured) {
        simple_head(q, error);
    } else if (error) {
        struct {
            struct be32 error;
            struct be16 length;
        } body = {be32_of(error), be16_of(0)};
        chunk_head(q, NBD_REPLY_FLAG_DONE, (uint16_t)NBD_REPLY_TYPE_ERROR, sizeof(body), &body,
                   sizeof(body));
    } else {
        chunk_head(q, NBD_REPLY_FLAG_DONE, NBD_REPLY_TYPE_NONE, 0, NULL, 0);
    }
    nbd_send(q);
}

/* ---- reading ---- */

static int co_read_into(struct nbd_request *q, uint64_t offset, uint64_t length)
{
    struct iovec iov;
    if (!q->buffer) {
        q->buffer = nbd_buffer_get(&q->connection->lane->pool, (size_t)length);
        q->buffer_bytes = (size_t)length;
    }
    if (!q->buffer)
        return -ENOMEM;
    q->data = q->buffer;
    q->data_bytes = (size_t)length;
    return co_root_read(q->connection->export->root, offset,
                        sgl_one(&iov, q->buffer, (size_t)length), 0);
}

static void data_head(struct nbd_request *q, uint64_t offset, uint16_t flags)
{
    struct be64 at = be64_of(offset);
    chunk_head(q, flags, NBD_REPLY_TYPE_OFFSET_DATA, sizeof(at) + q->data_bytes, &at, sizeof(at));
}

bool nbd_read_at_once(struct nbd_request *q)
{
    struct nbd_connection *c = q->connection;
    if (q->length > NBD_AT_ONCE_BYTES)
        return false;
    q->buffer_bytes = (size_t)q->length;
    q->buffer = nbd_buffer_get(&c->lane->pool, q->buffer_bytes);
    if (!q->buffer || root_try_read(c->export->root, q->offset, q->buffer, q->buffer_bytes) < 0)
        return false; /* the coroutine finds the buffer there */
    q->data = q->buffer;
    q->data_bytes = q->buffer_bytes;
    if (c->structured || c->extended)
        data_head(q, q->offset, NBD_REPLY_FLAG_DONE);
    else
        simple_head(q, 0);
    nbd_send(q);
    return true;
}

static void co_read(struct nbd_request *q)
{
    bool structured = q->connection->structured || q->connection->extended;
    uint64_t piece = structured && !(q->flags & NBD_CMD_FLAG_DF) ? NBD_PIECE_BYTES : q->length;
    uint64_t at = q->offset, end = q->offset + q->length;
    int r = 0;
    for (; end - at > piece && r == 0; at += piece) {
        r = co_read_into(q, at, piece);
        if (r == 0) {
            data_head(q, at, 0);
            r = co_nbd_send_piece(q);
        }
    }
    if (r == 0)
        r = co_read_into(q, at, end - at);
    if (r < 0) {
        nbd_answer(q, r);
        return;
    }
    if (structured)
        data_head(q, at, NBD_REPLY_FLAG_DONE);
    else
        simple_head(q, 0);
    nbd_send(q);
}

/* ---- the others ---- */

static unsigned fua_of(const struct nbd_request *q)
{
    return q->flags & NBD_CMD_FLAG_FUA ? BLOCK_FUA : 0;
}

static int co_write(struct nbd_request *q)
{
    struct iovec iov;
    return co_root_write(q->connection->export->root, q->offset,
                         sgl_one(&iov, q->payload, (size_t)q->length), fua_of(q));
}

static int co_write_zeroes(struct nbd_request *q)
{
    unsigned flags = fua_of(q);
    if (!(q->flags & NBD_CMD_FLAG_NO_HOLE))
        flags |= BLOCK_MAY_UNMAP;
    if (q->flags & NBD_CMD_FLAG_FAST_ZERO)
        flags |= BLOCK_NO_FALLBACK;
    return co_root_write_zeroes(q->connection->export->root, q->offset, q->length, flags);
}

static int co_trim(struct nbd_request *q)
{
    struct block_root *root = q->connection->export->root;
    int r = co_root_discard(root, q->offset, q->length);
    if (r == 0 && q->flags & NBD_CMD_FLAG_FUA)
        r = co_root_flush(root);
    return r;
}

/* Reads, so that whatever caches there are have it. */
static int co_cache(struct nbd_request *q)
{
    uint64_t at = q->offset, end = q->offset + q->length;
    int r = 0;
    for (uint64_t piece; at < end && r == 0; at += piece) {
        piece = MIN(end - at, (uint64_t)NBD_PIECE_BYTES);
        if (q->connection->closing)
            return -ESHUTDOWN;
        r = co_read_into(q, at, piece);
    }
    return r;
}

static void co_status(struct nbd_request *q)
{
    int r = co_nbd_block_status(q);
    if (r < 0) {
        nbd_answer(q, r);
        return;
    }
    uint16_t type =
        q->connection->extended ? NBD_REPLY_TYPE_BLOCK_STATUS_EXT : NBD_REPLY_TYPE_BLOCK_STATUS;
    /* One chunk for each context; their payloads lie behind each other in the buffer, each after
       its length. */
    for (const uint8_t *at = q->buffer;;) {
        uint32_t bytes = load_be32(at), more = load_be32(at + 4);
        q->data = at + 8;
        q->data_bytes = bytes;
        chunk_head(q, more ? 0 : NBD_REPLY_FLAG_DONE, type, bytes, NULL, 0);
        at += 8 + bytes;
        if (!more)
            break;
        if (co_nbd_send_piece(q) < 0) {
            nbd_answer(q, -EIO);
            return;
        }
    }
    nbd_send(q);
}

void co_nbd_execute(void *arg)
{
    struct nbd_request *q = arg;
    switch ((enum nbd_command)q->command) {
    case NBD_CMD_READ:
        co_read(q);
        return;
    case NBD_CMD_BLOCK_STATUS:
        co_status(q);
        return;
    case NBD_CMD_WRITE:
        nbd_answer(q, co_write(q));
        return;
    case NBD_CMD_FLUSH:
        nbd_answer(q, co_root_flush(q->connection->export->root));
        return;
    case NBD_CMD_TRIM:
        nbd_answer(q, co_trim(q));
        return;
    case NBD_CMD_WRITE_ZEROES:
        nbd_answer(q, co_write_zeroes(q));
        return;
    case NBD_CMD_CACHE:
        nbd_answer(q, co_cache(q));
        return;
    case NBD_CMD_DISC:
        break;
    }
    nbd_answer(q, -EINVAL);
}

void nbd_request_end(struct nbd_request *q)
{
    struct nbd_connection *c = q->connection;
    struct nbd_pool *pool = &c->lane->pool;
    nbd_chunk_put(pool, q->chunk);
    nbd_buffer_put(pool, q->buffer, q->buffer_bytes);
    c->in_flight--;
    c->in_flight_bytes -= q->charged;
    nbd_memory_give(c->lane, q->charged);
    nbd_request_put(pool, q);
    if (c->blocked)
        co_wake(steal_ptr(&c->blocked));
}
