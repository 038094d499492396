/*
 * Requests as they come in.
 *
 *   watch fires -> reader coroutine: recv, take all whole requests, recv, ... -> nothing: it ends
 *
 * One recv() takes as many requests as there are, payload and all; a short one says that the socket
 * is empty, so no second one is made to find that out. Each request is executed by a coroutine of
 * its own, in any order. Above the limits of internal.h the reader waits, and the client with it.
 *
 * A header that cannot be right (magic number, payload beyond what is possible) ends the
 * connection: where the next request begins is unknown. What is only not allowed is answered.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/log.h"
#include "export/nbd/stream.h"

/* Payload up to here is moved within chunks; longer one gets a buffer of its own. */
#define IN_CHUNK_MAX (NBD_CHUNK_BYTES / 2)

static size_t buffered(const struct nbd_connection *c)
{
    return c->end - c->start;
}

/* ---- the socket ---- */

static void on_readable(void *arg);

static int start_watch(struct nbd_connection *c)
{
    bool edge;
    return rt_watch_start(c->fd, on_readable, c, &c->watch, &edge);
}

/*
 * In the middle of a request. A short recv() does not mean that there is nothing: the stream's end
 * may lie behind what it took, and the event that told of both be over. Only an empty one does.
 */
static int co_wait_readable(struct nbd_connection *c)
{
    while (!c->readable && c->dry && !c->closing) {
        c->waiting = co_self();
        co_suspend();
    }
    return c->closing ? -ESHUTDOWN : 0;
}

/* @return bytes > 0, -EAGAIN when there is nothing, -EPIPE at the end, -errno. */
static ssize_t receive(struct nbd_connection *c, void *at, size_t room)
{
    ssize_t n = nbd_stream_receive(c, at, room, &c->readable);
    c->dry = n == -EAGAIN;
    if (nbd_stream_unsent(c) && !c->sending)
        rt_later(&c->flush); /* TLS itself has something to say */
    nbd_count(&c->counts.received_bytes, n > 0 ? (size_t)n : 0);
    /* Data and the end may have been one event: then none tells of the end. */
    if (n > 0 && !c->readable && c->watch && rt_watch_has_ended(c->watch))
        c->readable = true;
    return n ? n : -EPIPE;
}

/* Room for @bytes from c->start on, in this chunk or a fresh one. */
static int make_room(struct nbd_connection *c, size_t bytes)
{
    struct nbd_pool *pool = &c->lane->pool;
    if (!c->chunk) {
        c->chunk = nbd_chunk_get(pool);
        if (!c->chunk)
            return -ENOMEM;
        memcpy(c->chunk->bytes, c->aside, c->aside_bytes);
        c->start = 0;
        c->end = c->aside_bytes;
        c->aside_bytes = 0;
        return 0;
    }
    if (c->start + bytes <= NBD_CHUNK_BYTES && c->end < NBD_CHUNK_BYTES)
        return 0;
    size_t kept = buffered(c);
    if (c->chunk->references == 1) {
        memmove(c->chunk->bytes, c->chunk->bytes + c->start, kept);
    } else {
        struct nbd_chunk *fresh = nbd_chunk_get(pool);
        if (!fresh)
            return -ENOMEM;
        memcpy(fresh->bytes, c->chunk->bytes + c->start, kept);
        nbd_chunk_put(pool, c->chunk);
        c->chunk = fresh;
    }
    c->start = 0;
    c->end = kept;
    return 0;
}

/* Who waits with less than a header in hand needs no chunk for it. */
static void set_aside(struct nbd_connection *c)
{
    if (!c->chunk || buffered(c) > sizeof(c->aside))
        return;
    c->aside_bytes = (unsigned)buffered(c);
    memcpy(c->aside, c->chunk->bytes + c->start, c->aside_bytes);
    nbd_chunk_put(&c->lane->pool, steal_ptr(&c->chunk));
}

/* @bytes (at most a chunk) are buffered on return. -EAGAIN with @may_end where nothing is and
 * nothing comes: the reader may end. */
static int co_need(struct nbd_connection *c, size_t bytes, bool may_end)
{
    while (!c->chunk || buffered(c) < bytes) {
        size_t have = c->chunk ? buffered(c) : c->aside_bytes;
        if (may_end && have == 0 && (c->parking || !c->readable))
            return -EAGAIN;
        if (!c->readable && c->dry)
            set_aside(c);
        int r = co_wait_readable(c);
        if (r < 0)
            return r;
        r = make_room(c, bytes);
        if (r < 0)
            return r;
        /* What comes after this request is the next server's. */
        size_t room = c->parking ? bytes - buffered(c) : NBD_CHUNK_BYTES - c->end;
        ssize_t n = receive(c, c->chunk->bytes + c->end, room);
        if (n < 0 && n != -EAGAIN)
            return (int)n;
        c->end += n > 0 ? (size_t)n : 0;
    }
    return c->closing ? -ESHUTDOWN : 0;
}

static int co_payload(struct nbd_connection *c, uint8_t *bytes, size_t length)
{
    size_t have = MIN(length, c->chunk ? buffered(c) : 0);
    if (have)
        memcpy(bytes, c->chunk->bytes + c->start, have);
    c->start += have;
    while (have < length) {
        int r = co_wait_readable(c);
        if (r < 0)
            return r;
        ssize_t n = receive(c, bytes + have, length - have);
        if (n < 0 && n != -EAGAIN)
            return (int)n;
        have += n > 0 ? (size_t)n : 0;
    }
    return 0;
}

static int co_skip(struct nbd_connection *c, uint64_t length)
{
    while (length > 0) {
        int r = co_need(c, 1, false);
        if (r < 0)
            return r;
        size_t n = (size_t)MIN((uint64_t)buffered(c), length);
        c->start += n;
        length -= n;
    }
    return 0;
}

/* ---- limits ---- */

static bool has_room(const struct nbd_connection *c, uint64_t bytes)
{
    return c->in_flight == 0 ||
           (c->in_flight < NBD_REQUESTS_MAX && c->in_flight_bytes + bytes <= NBD_IN_FLIGHT_MAX);
}

/* The socket is not watched meanwhile: a poll that is level-triggered would tell of it all the
 * time. */
static int co_wait_for_room(struct nbd_connection *c, uint64_t bytes)
{
    if (likely(has_room(c, bytes) && nbd_memory_take(c, bytes)))
        return 0;
    bool taken = false;
    co_watch_stop(steal_ptr(&c->watch));
    while (!c->closing && !(taken = has_room(c, bytes) && nbd_memory_take(c, bytes))) {
        c->blocked = co_self();
        co_suspend();
    }
    nbd_memory_sated(c);
    c->readable = true;
    int r = c->closing ? -ESHUTDOWN : start_watch(c);
    if (r < 0 && taken)
        nbd_memory_give(c->lane, bytes);
    return r;
}

/* ---- one request ---- */

static bool take_header(struct nbd_connection *c, struct nbd_request *q)
{
    const uint8_t *at = c->chunk->bytes + c->start;
    if (c->extended) {
        struct nbd_wire_extended_request wire;
        memcpy(&wire, at, sizeof(wire));
        q->flags = be16_get(wire.flags);
        q->command = be16_get(wire.command);
        q->cookie = be64_get(wire.cookie);
        q->offset = be64_get(wire.offset);
        q->length = be64_get(wire.length);
        c->start += sizeof(wire);
        return be32_get(wire.magic) == NBD_MAGIC_EXTENDED_REQUEST;
    }
    struct nbd_wire_request wire;
    memcpy(&wire, at, sizeof(wire));
    q->flags = be16_get(wire.flags);
    q->command = be16_get(wire.command);
    q->cookie = be64_get(wire.cookie);
    q->offset = be64_get(wire.offset);
    q->length = be32_get(wire.length);
    c->start += sizeof(wire);
    return be32_get(wire.magic) == NBD_MAGIC_REQUEST;
}

static uint16_t flags_of_command(const struct nbd_connection *c, uint16_t command)
{
    switch (command) {
    case NBD_CMD_READ:
        return NBD_CMD_FLAG_FUA | (c->structured || c->extended ? NBD_CMD_FLAG_DF : 0);
    case NBD_CMD_WRITE:
        return NBD_CMD_FLAG_FUA | (c->extended ? NBD_CMD_FLAG_PAYLOAD_LEN : 0);
    case NBD_CMD_WRITE_ZEROES:
        return NBD_CMD_FLAG_FUA | NBD_CMD_FLAG_NO_HOLE | NBD_CMD_FLAG_FAST_ZERO;
    case NBD_CMD_BLOCK_STATUS:
        return NBD_CMD_FLAG_REQ_ONE | NBD_CMD_FLAG_FUA |
               (c->extended ? NBD_CMD_FLAG_PAYLOAD_LEN : 0);
    default:
        return NBD_CMD_FLAG_FUA;
    }
}

static bool writes(uint16_t command)
{
    return command == NBD_CMD_WRITE || command == NBD_CMD_TRIM || command == NBD_CMD_WRITE_ZEROES;
}

/* @return 0 or what the client is answered. */
static int check_request(const struct nbd_connection *c, const struct nbd_request *q)
{
    uint64_t size = block_root_size(c->export->root);
    if (q->command > NBD_CMD_BLOCK_STATUS)
        return -EINVAL;
    if (q->flags & ~flags_of_command(c, q->command))
        return -EINVAL;
    if (c->extended && q->command == NBD_CMD_WRITE && !(q->flags & NBD_CMD_FLAG_PAYLOAD_LEN))
        return -EINVAL;
    if (q->command == NBD_CMD_FLUSH)
        return q->offset || q->length ? -EINVAL : 0;
    if (writes(q->command) && c->export->read_only)
        return -EPERM;
    if (q->offset > size || q->length > size - q->offset)
        return writes(q->command) ? -ENOSPC : -EINVAL;
    if (q->command == NBD_CMD_READ && q->length > NBD_PAYLOAD_MAX)
        return -EINVAL;
    if (q->command == NBD_CMD_READ && q->length > NBD_PIECE_BYTES && q->flags & NBD_CMD_FLAG_DF)
        return -EOVERFLOW;
    if (q->command == NBD_CMD_BLOCK_STATUS && (c->context_count == 0 || q->length == 0))
        return -EINVAL;
    return 0;
}

/* Bytes behind the header: extended ones say themselves whether there are any. */
static uint64_t payload_of(const struct nbd_connection *c, const struct nbd_request *q)
{
    bool has = c->extended ? q->flags & NBD_CMD_FLAG_PAYLOAD_LEN : q->command == NBD_CMD_WRITE;
    return has ? q->length : 0;
}

/* A block status that says of which contexts: the range's length, and their identifiers.
 * @return 0, or -EINVAL with the payload left to be passed over; -errno of the socket in @ret_end.
 */
static int co_take_selection(struct nbd_connection *c, struct nbd_request *q, uint64_t payload,
                             int *ret_end)
{
    if (payload < 12 || payload > 8 + 4 * NBD_CONTEXTS_MAX || payload % 4)
        return -EINVAL;
    *ret_end = co_need(c, (size_t)payload, false);
    if (*ret_end < 0)
        return 0;
    const uint8_t *at = c->chunk->bytes + c->start;
    c->start += (size_t)payload;
    q->length = load_be64(at);
    q->contexts = 0;
    for (at += 8, payload -= 8; payload; at += 4, payload -= 4) {
        uint32_t id = load_be32(at);
        uint32_t bit = id >= 1 && id <= c->context_count ? 1u << (id - 1) : 0;
        if (!bit || q->contexts & bit)
            q->contexts = UINT32_MAX;
        else
            q->contexts |= bit;
    }
    return 0;
}

/* The payload of a write that fits a piece. */
static int co_take_payload(struct nbd_connection *c, struct nbd_request *q)
{
    if (q->length <= IN_CHUNK_MAX || buffered(c) >= q->length) {
        int r = co_need(c, (size_t)q->length, false);
        if (r < 0)
            return r;
        q->chunk = c->chunk;
        q->chunk->references++;
        q->payload = c->chunk->bytes + c->start;
        c->start += (size_t)q->length;
        return 0;
    }
    q->buffer_bytes = (size_t)q->length;
    q->buffer = q->payload = nbd_buffer_get(&c->lane->pool, q->buffer_bytes);
    return q->buffer ? co_payload(c, q->payload, q->buffer_bytes) : -ENOMEM;
}

/* A longer one is written as it comes. @ret_result what the client is answered. */
static int co_write_long(struct nbd_connection *c, struct nbd_request *q, int *ret_result)
{
    uint64_t at = q->offset, end = q->offset + q->length;
    int r = 0, result = 0;
    q->buffer_bytes = NBD_PIECE_BYTES;
    q->buffer = nbd_buffer_get(&c->lane->pool, NBD_PIECE_BYTES);
    if (!q->buffer)
        return -ENOMEM;
    for (uint64_t piece; at < end && r == 0; at += piece) {
        struct iovec iov;
        piece = MIN(end - at, (uint64_t)NBD_PIECE_BYTES);
        r = co_payload(c, q->buffer, (size_t)piece);
        if (r == 0 && result == 0)
            result = co_root_write(c->export->root, at, sgl_one(&iov, q->buffer, (size_t)piece),
                                   q->flags & NBD_CMD_FLAG_FUA ? BLOCK_FUA : 0);
    }
    *ret_result = result;
    return r;
}

/* Buffers that it may take at a time. */
static uint64_t memory_of(const struct nbd_connection *c, const struct nbd_request *q)
{
    bool in_pieces = (c->structured || c->extended) && !(q->flags & NBD_CMD_FLAG_DF);
    switch (q->command) {
    case NBD_CMD_READ:
        return in_pieces ? MIN(q->length, (uint64_t)NBD_PIECE_BYTES) : q->length;
    case NBD_CMD_WRITE: /* what stays in chunks is charged as such */
        return q->length <= IN_CHUNK_MAX ? 0 : MIN(q->length, (uint64_t)NBD_PIECE_BYTES);
    case NBD_CMD_CACHE:
        return MIN(q->length, (uint64_t)NBD_PIECE_BYTES);
    case NBD_CMD_BLOCK_STATUS:
        return NBD_STATUS_BYTES;
    default:
        return 0;
    }
}

/* What is behind the header, and the request itself. @result what is wrong with it, or 0. */
static int co_take_body(struct nbd_connection *c, struct nbd_request *q, uint64_t payload,
                        int result)
{
    int r = 0;
    if (result == 0 && payload > NBD_PIECE_BYTES) {
        r = co_write_long(c, q, &result);
        if (r == 0)
            nbd_answer(q, result);
        return r;
    }
    if (result < 0 || (q->length == 0 && q->command != NBD_CMD_FLUSH)) {
        r = co_skip(c, payload);
        if (r == 0)
            nbd_answer(q, result);
        return r;
    }
    if (q->command == NBD_CMD_READ && nbd_read_at_once(q)) {
        if (++c->at_once >= NBD_AT_ONCE_MAX)
            nbd_send_now(c);
        return 0;
    }
    if (payload)
        r = co_take_payload(c, q);
    if (r == 0 && rt_spawn(NULL, co_nbd_execute, q) < 0)
        nbd_answer(q, -ENOMEM);
    return r;
}

/* The header is taken. @ret_begun: the request ends by itself from there on. */
static int co_begin_request(struct nbd_connection *c, struct nbd_request *q, bool *ret_begun)
{
    uint64_t payload = payload_of(c, q);
    int r = 0, result = 0;
    if (payload > NBD_PAYLOAD_MAX)
        return -EMSGSIZE;
    q->contexts = (1u << c->context_count) - 1;
    if (q->command == NBD_CMD_BLOCK_STATUS && payload) {
        result = co_take_selection(c, q, payload, &r);
        if (r < 0)
            return r;
        if (result == 0)
            payload = 0;
    }
    if (result == 0)
        result = q->contexts == UINT32_MAX ? -EINVAL : check_request(c, q);
    uint64_t cost = NBD_REQUEST_COST + (result == 0 ? memory_of(c, q) : 0);
    r = co_wait_for_room(c, cost);
    if (r < 0)
        return r;
    *ret_begun = true;
    q->charged = cost;
    c->in_flight++;
    c->in_flight_bytes += cost;
    nbd_count(&c->counts.requests, 1);
    r = co_take_body(c, q, payload, result);
    if (r < 0)
        nbd_request_end(q);
    return r;
}

/* @return 0, -ESHUTDOWN at a polite end, -errno. */
static int co_take_request(struct nbd_connection *c)
{
    struct nbd_request *q = nbd_request_get(&c->lane->pool);
    if (!q)
        return -ENOMEM;
    q->connection = c;
    list_init(&q->link);
    int r = take_header(c, q) ? 0 : -EPROTO;
    if (r == 0 && q->command == NBD_CMD_DISC) {
        c->asked = true;
        r = -ESHUTDOWN;
    }
    bool begun = false;
    if (r == 0)
        r = co_begin_request(c, q, &begun);
    if (r < 0 && !begun)
        nbd_request_put(&c->lane->pool, q);
    return r;
}

/* ---- the reader ---- */

static void co_reader(void *arg)
{
    struct nbd_connection *c = arg;
    size_t header =
        c->extended ? sizeof(struct nbd_wire_extended_request) : sizeof(struct nbd_wire_request);
    int r;
    do {
        r = co_need(c, header, true);
        if (r == 0)
            r = co_take_request(c);
    } while (r == 0);
    if (r == -EAGAIN && c->parking) {
        c->parked = c->closing = true;
        co_watch_stop(steal_ptr(&c->watch));
    } else if (r != -EAGAIN) {
        if (r != -ESHUTDOWN && r != -EPIPE && r != -ECONNRESET)
            log_warning("nbd: export '%s': a client was hung up on: %s", c->export->name,
                        strerror(-r));
        nbd_connection_close(c);
        co_watch_stop(steal_ptr(&c->watch));
    }
    if (c->chunk) /* nothing is in it, or nobody will look at it */
        nbd_chunk_put(&c->lane->pool, steal_ptr(&c->chunk));
    c->reading = false;
    nbd_connection_touch(c);
}

static void start_reader(struct nbd_connection *c)
{
    c->reading = rt_spawn(NULL, co_reader, c) == 0;
    if (!c->reading) {
        nbd_connection_close(c);
        nbd_connection_touch(c);
    }
}

static void on_readable(void *arg)
{
    struct nbd_connection *c = arg;
    c->readable = true;
    if (c->waiting)
        co_wake(steal_ptr(&c->waiting));
    else if (!c->reading && !c->closing)
        start_reader(c);
}

void nbd_transmission_start(struct nbd_connection *c)
{
    c->readable = true; /* the client may have sent already */
    if (start_watch(c) < 0)
        nbd_connection_close(c);
    else
        start_reader(c);
}

void nbd_transmission_park(struct nbd_connection *c)
{
    c->parking = true;
    if (!c->reading && !c->closing)
        start_reader(c);
}

void nbd_connection_close(struct nbd_connection *c)
{
    if (c->kernel && !c->closing)
        nbd_export_cut(c->export); /* one for all; see nbd_serve_kernel() */
    c->closing = true;
    if (c->waiting)
        co_wake(steal_ptr(&c->waiting));
    if (c->blocked)
        co_wake(steal_ptr(&c->blocked));
}
