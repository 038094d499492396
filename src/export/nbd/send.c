/*
 * Replies on their way to the client.
 *
 * Replies that become ready while the thread works are sent together, by one system call once it
 * has nothing else to do (rt_later). Where the socket is full, a coroutine waits for room; a client
 * that takes nothing for NBD_SEND_NS is hung up on.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "export/nbd/stream.h"
#include <poll.h>

#define PIECES_MAX 128

/* Everything in the line that fits one call. @return bytes. */
static size_t gather(struct nbd_connection *c, struct iovec *iov, unsigned *ret_count)
{
    unsigned count = 0;
    size_t skip = c->sent, bytes = 0;
    list_for_each (link, &c->replies) {
        struct nbd_request *request = list_entry(link, struct nbd_request, link);
        struct iovec part[2] = {{request->head, request->head_bytes},
                                {(void *)(uintptr_t)request->data, request->data_bytes}};
        if (count + 2 > PIECES_MAX)
            break;
        for (unsigned i = 0; i < 2; i++) {
            size_t skipped = MIN(skip, part[i].iov_len);
            skip -= skipped;
            if (part[i].iov_len == skipped)
                continue;
            iov[count].iov_base = (uint8_t *)part[i].iov_base + skipped;
            iov[count].iov_len = part[i].iov_len - skipped;
            bytes += iov[count++].iov_len;
        }
    }
    *ret_count = count;
    return bytes;
}

static void piece_is_over(struct nbd_request *request)
{
    list_del(&request->link);
    if (request->sender)
        co_wake(steal_ptr(&request->sender));
    else
        nbd_request_end(request);
}

static void consume(struct nbd_connection *c, size_t bytes)
{
    nbd_count(&c->counts.sent_bytes, bytes);
    bytes += c->sent;
    c->sent = 0;
    while (bytes > 0) {
        struct nbd_request *first = list_entry(c->replies.next, struct nbd_request, link);
        size_t whole = first->head_bytes + first->data_bytes;
        if (bytes < whole) {
            c->sent = bytes;
            return;
        }
        bytes -= whole;
        piece_is_over(first);
    }
}

/* The client is gone, or will not listen: nobody gets these. */
static void drop_all(struct nbd_connection *c)
{
    c->broken = true;
    c->sent = 0;
    nbd_connection_close(c);
    struct list *link;
    while ((link = list_pop_front(&c->replies)))
        piece_is_over(list_entry(link, struct nbd_request, link));
}

/* @return 0 when all is sent, -EAGAIN when the socket is full, or -errno. */
static int send_some(struct nbd_connection *c, bool *ret_progress)
{
    while (!list_empty(&c->replies) || nbd_stream_unsent(c)) {
        struct iovec iov[PIECES_MAX];
        unsigned count;
        size_t bytes = gather(c, iov, &count);
        ssize_t n = nbd_stream_send(c, iov, count);
        if (n < 0)
            return (int)n;
        *ret_progress = true;
        consume(c, (size_t)n);
        if ((size_t)n < bytes)
            return -EAGAIN;
    }
    return 0;
}

static void co_send_rest(void *arg)
{
    struct nbd_connection *c = arg;
    uint64_t deadline = rt_now_ns() + NBD_SEND_NS;
    for (;;) {
        bool progress = false;
        int r = c->broken ? -EPIPE : send_some(c, &progress);
        if (r == 0)
            break;
        uint64_t now = rt_now_ns();
        if (progress)
            deadline = now + NBD_SEND_NS;
        if (r == -EAGAIN && now < deadline)
            r = co_poll_timeout(c->fd, POLLOUT, deadline - now);
        if (r < 0) {
            drop_all(c);
            break;
        }
    }
    c->sending = false;
    nbd_connection_touch(c);
}

void nbd_send_now(struct nbd_connection *c)
{
    bool progress;
    c->at_once = 0;
    if (c->sending)
        return;
    int r = c->broken ? -EPIPE : send_some(c, &progress);
    if (r == -EAGAIN) {
        c->sending = true;
        r = rt_spawn(NULL, co_send_rest, c);
        c->sending = r == 0;
    }
    if (r < 0)
        drop_all(c);
    nbd_connection_touch(c);
}

static void flush(struct rt_later *later)
{
    nbd_send_now(container_of(later, struct nbd_connection, flush));
}

void nbd_send_init(struct nbd_connection *c)
{
    list_init(&c->replies);
    rt_later_init(&c->flush, flush);
}

void nbd_send(struct nbd_request *request)
{
    struct nbd_connection *c = request->connection;
    list_push_back(&c->replies, &request->link);
    if (!c->sending)
        rt_later(&c->flush);
}

int co_nbd_send_piece(struct nbd_request *request)
{
    struct nbd_connection *c = request->connection;
    if (c->broken)
        return -EPIPE;
    request->sender = co_self();
    nbd_send(request);
    co_suspend();
    return c->broken ? -EPIPE : 0;
}
