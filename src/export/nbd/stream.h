/*
 * The bytes of a connection: where they go through TLS, and where straight to the socket. Nothing
 * else in this folder reads a connection's socket or writes to it.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef EXPORT_NBD_STREAM_H
#define EXPORT_NBD_STREAM_H

#include "export/nbd/internal.h"
#include <sys/socket.h>

/* ---- tls_session.c ---- */

ssize_t nbd_tls_receive(struct nbd_tls_session *session, void *at, size_t room, bool *ret_more);
ssize_t nbd_tls_send(struct nbd_tls_session *session, const struct iovec *iov, unsigned count);
bool nbd_tls_unsent(const struct nbd_tls_session *session);
/** Says goodbye, where the socket takes it at once, and frees. */
void nbd_tls_session_free(struct nbd_tls_session *session);

/**
 * Takes what there is, up to @room bytes, without waiting. @ret_more: there may be more right now;
 * else the socket tells of it.
 * @return bytes, 0 at the end, -EAGAIN when there is nothing, -errno.
 */
static inline ssize_t nbd_stream_receive(struct nbd_connection *c, void *at, size_t room,
                                         bool *ret_more)
{
    ssize_t n;
    if (unlikely(c->tls))
        return nbd_tls_receive(c->tls, at, room, ret_more);
    do {
        n = recv(c->fd, at, room, MSG_DONTWAIT);
    } while (n < 0 && errno == EINTR);
    *ret_more = n > 0 && (size_t)n == room;
    return n < 0 ? -errno : n;
}

/**
 * Sends what the socket takes, without waiting. What was taken may be forgotten; some of it may
 * still wait: nbd_stream_unsent().
 * @return bytes taken, -EAGAIN when the socket took nothing, -errno.
 */
static inline ssize_t nbd_stream_send(struct nbd_connection *c, struct iovec *iov, unsigned count)
{
    struct msghdr message = {.msg_iov = iov, .msg_iovlen = count};
    ssize_t n;
    if (unlikely(c->tls))
        return nbd_tls_send(c->tls, iov, count);
    do {
        n = sendmsg(c->fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
    } while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : n;
}

/** Bytes that were taken wait for room in the socket: nbd_stream_send() again, of nothing or more.
 */
static inline bool nbd_stream_unsent(const struct nbd_connection *c)
{
    return unlikely(c->tls) && nbd_tls_unsent(c->tls);
}

#endif
