/*
 * Negotiation: the greeting, and options until one of them begins the transmission.
 *
 * All of it has to be done within NBD_HANDSHAKE_NS. It is rare, so it reads and writes without
 * buffers.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "export/nbd/stream.h"
#include <poll.h>

/* A client that asks for more than this is up to no good. */
#define OPTIONS_MAX 256

int co_nbd_wait(struct nbd_negotiation *n, unsigned events)
{
    uint64_t now = rt_now_ns();
    if (n->connection->closing)
        return -ESHUTDOWN;
    if (now >= n->deadline_ns)
        return -ETIMEDOUT;
    int r = co_poll_timeout(n->connection->fd, events, n->deadline_ns - now);
    return r < 0 ? r : r == 0 ? -ETIMEDOUT : 0;
}

int co_nbd_send_all(struct nbd_negotiation *n, const void *bytes, size_t length)
{
    struct iovec iov = {.iov_base = (void *)(uintptr_t)bytes, .iov_len = length};
    while (iov.iov_len > 0 || nbd_stream_unsent(n->connection)) {
        ssize_t sent = nbd_stream_send(n->connection, &iov, iov.iov_len > 0);
        if (sent >= 0) {
            iov.iov_base = (uint8_t *)iov.iov_base + sent;
            iov.iov_len -= (size_t)sent;
            continue;
        }
        int r = sent == -EAGAIN ? co_nbd_wait(n, POLLOUT) : (int)sent;
        if (r < 0)
            return r;
    }
    return 0;
}

int co_nbd_receive(struct nbd_negotiation *n, void *bytes, size_t length)
{
    uint8_t *at = bytes;
    while (length > 0) {
        bool more;
        ssize_t got = nbd_stream_receive(n->connection, at, length, &more);
        if (got == 0)
            return -EPIPE;
        if (got > 0) {
            at += got;
            length -= (size_t)got;
            continue;
        }
        int r = got == -EAGAIN ? co_nbd_wait(n, POLLIN) : (int)got;
        if (r < 0)
            return r;
    }
    return 0;
}

int co_nbd_option_reply(struct nbd_negotiation *n, uint32_t option, uint32_t type, const void *data,
                        size_t length)
{
    struct nbd_option_reply head = {be64_of(NBD_MAGIC_OPTION_REPLY), be32_of(option), be32_of(type),
                                    be32_of((uint32_t)length)};
    int r = co_nbd_send_all(n, &head, sizeof(head));
    return r < 0 || !length ? r : co_nbd_send_all(n, data, length);
}

int co_nbd_option_error(struct nbd_negotiation *n, uint32_t option, uint32_t type, const char *text)
{
    return co_nbd_option_reply(n, option, type, text, strlen(text));
}

static int co_one_option(struct nbd_negotiation *n)
{
    struct nbd_option head;
    int r = co_nbd_receive(n, &head, sizeof(head));
    if (r < 0)
        return r;
    uint32_t length = be32_get(head.length);
    if (be64_get(head.magic) != NBD_MAGIC_OPTION || length > NBD_OPTION_MAX)
        return -EPROTO;
    autofree uint8_t *data = length ? malloc(length) : NULL;
    if (length && !data)
        return -ENOMEM;
    nbd_memory_charge(n->connection->lane, length);
    r = co_nbd_receive(n, data, length);
    if (r == 0)
        r = co_nbd_option(n, be32_get(head.option), data, length);
    nbd_memory_give(n->connection->lane, length);
    return r;
}

int co_nbd_negotiate(struct nbd_connection *connection)
{
    struct nbd_negotiation n = {.connection = connection,
                                .deadline_ns = rt_now_ns() + NBD_HANDSHAKE_NS};
    struct nbd_greeting greeting = {be64_of(NBD_MAGIC_INIT), be64_of(NBD_MAGIC_OPTION),
                                    be16_of(NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES)};
    struct be32 answer;
    int r = co_nbd_send_all(&n, &greeting, sizeof(greeting));
    if (r == 0)
        r = co_nbd_receive(&n, &answer, sizeof(answer));
    if (r < 0)
        return r;
    uint32_t flags = be32_get(answer);
    if (flags & ~(uint32_t)(NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES))
        return -EPROTO;
    n.fixed = flags & NBD_FLAG_FIXED_NEWSTYLE;
    connection->no_zeroes = flags & NBD_FLAG_NO_ZEROES;
    for (unsigned i = 0; i < OPTIONS_MAX && r == 0; i++)
        r = co_one_option(&n);
    return r == 1 ? 0 : r < 0 ? r : -EPROTO;
}
