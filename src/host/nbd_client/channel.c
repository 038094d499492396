/*
 * Sockets that connect, send and receive within deadlines.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "host/nbd_client/internal.h"
#include <fcntl.h>
#include <netdb.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>

static uint64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

int nbd_socket_wait(const struct nbd_socket *socket, short events)
{
    uint64_t now = now_ms(), silence = now + NBD_CLIENT_SILENCE_MS;
    uint64_t end = MIN(silence, socket->deadline_ms);
    struct pollfd wanted = {.fd = socket->fd, .events = events};
    while (now < end) {
        int r = poll(&wanted, 1, (int)(end - now));
        if (r > 0)
            return 0;
        if (r < 0 && errno != EINTR)
            return -errno;
        now = now_ms();
    }
    return -ETIMEDOUT;
}

int nbd_socket_receive(struct nbd_channel *channel, void *bytes, size_t length,
                       struct hws_error *err)
{
    struct nbd_socket *socket = (struct nbd_socket *)channel;
    for (size_t done = 0; done < length;) {
        ssize_t got = recv(socket->fd, (char *)bytes + done, length - done, 0);
        int r = got > 0 ? 0 : got == 0 ? -EPIPE : -errno;
        if (r == -EAGAIN)
            r = nbd_socket_wait(socket, POLLIN);
        if (r == -EPIPE)
            return hws_fail(err, EPIPE, "Unexpected end-of-file before all data were read");
        if (r < 0 && r != -EINTR)
            return hws_fail_errno(err, -r, "Unable to read from socket");
        done += got > 0 ? (size_t)got : 0;
    }
    return 0;
}

int nbd_socket_send(struct nbd_channel *channel, const void *bytes, size_t length,
                    struct hws_error *err)
{
    struct nbd_socket *socket = (struct nbd_socket *)channel;
    for (size_t done = 0; done < length;) {
        ssize_t sent = send(socket->fd, (const char *)bytes + done, length - done, MSG_NOSIGNAL);
        int r = sent >= 0 ? 0 : -errno;
        if (r == -EAGAIN)
            r = nbd_socket_wait(socket, POLLOUT);
        if (r < 0 && r != -EINTR)
            return hws_fail_errno(err, -r, "Unable to write to socket");
        done += sent > 0 ? (size_t)sent : 0;
    }
    return 0;
}

static void close_socket(struct nbd_channel *channel)
{
    struct nbd_socket *socket = (struct nbd_socket *)channel;
    nbd_socket_end_tls(socket);
    close(socket->fd);
    free(socket);
}

/* @return 0 or -errno. */
static int connect_to(struct nbd_socket *to, int family, const void *address, socklen_t length)
{
    int error = 0;
    socklen_t error_bytes = sizeof(error);
    to->fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (to->fd < 0)
        return -errno;
    int r = connect(to->fd, address, length) < 0 ? -errno : 0;
    if (r == -EINPROGRESS || r == -EAGAIN) {
        /* A unix socket whose line is full says EAGAIN, and cannot be waited for. */
        r = r == -EAGAIN ? r : nbd_socket_wait(to, POLLOUT);
        if (r == 0 && getsockopt(to->fd, SOL_SOCKET, SO_ERROR, &error, &error_bytes) < 0)
            r = -errno;
        r = r ? r : -error;
    }
    if (r < 0)
        close(to->fd);
    return r;
}

static int connect_unix(struct nbd_socket *to, const char *path, struct hws_error *err)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    size_t length = strlen(path);
    if (length >= sizeof(address.sun_path))
        return hws_fail(err, ENAMETOOLONG,
                        "UNIX socket path '%.200s' is too long\nPath must be less than %zu bytes",
                        path, sizeof(address.sun_path));
    memcpy(address.sun_path, path, length);
    int r = connect_to(to, AF_UNIX, &address, sizeof(address));
    return r < 0 ? hws_fail_errno(err, -r, "Failed to connect to '%s'", path) : 0;
}

static int connect_tcp(struct nbd_socket *to, const char *host, const char *port,
                       struct hws_error *err)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found;
    int r = getaddrinfo(host, port, &hints, &found);
    if (r)
        return hws_fail(err, EINVAL, "address resolution failed for %.200s:%.40s: %s", host, port,
                        gai_strerror(r));
    r = -EADDRNOTAVAIL;
    for (const struct addrinfo *at = found; at && r < 0; at = at->ai_next)
        r = connect_to(to, at->ai_family, at->ai_addr, at->ai_addrlen);
    freeaddrinfo(found);
    return r < 0 ? hws_fail_errno(err, -r, "Failed to connect to '%.200s:%.40s'", host, port) : 0;
}

int nbd_client_connect(const struct nbd_client_address *address, struct nbd_channel **ret,
                       struct hws_error *err)
{
    struct nbd_socket *to = calloc(1, sizeof(*to));
    if (!to)
        return hws_fail(err, ENOMEM, "out of memory");
    to->channel = (struct nbd_channel){nbd_socket_receive, nbd_socket_send, nbd_socket_start_tls,
                                       close_socket};
    to->deadline_ms = now_ms() + NBD_CLIENT_TOTAL_MS;
    int r = address->socket ? connect_unix(to, address->socket, err)
                            : connect_tcp(to, address->host, address->port, err);
    if (r < 0)
        free(to);
    else
        *ret = &to->channel;
    return r;
}

struct nbd_channel *nbd_channel_close(struct nbd_channel *channel)
{
    if (channel)
        channel->close(channel);
    return NULL;
}
