/*
 * Addresses, and sockets that listen at them.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "export/nbd/nbd.h"
#include <fcntl.h>
#include <limits.h>
#include <netdb.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#define BACKLOG     256
#define PORT_USUAL  "10809"
#define SOCKET_KIND (SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC)

/* A path where a server was, and is no more. */
static bool is_stale(const struct sockaddr_un *address)
{
    struct stat st;
    if (lstat(address->sun_path, &st) < 0 || !S_ISSOCK(st.st_mode))
        return false;
    autofd int fd = socket(AF_UNIX, SOCKET_KIND, 0);
    return fd >= 0 && connect(fd, (const struct sockaddr *)address, sizeof(*address)) < 0 &&
           errno == ECONNREFUSED;
}

static int listen_unix(const char *path, int *ret_fd, struct hws_error *err)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    size_t length = strlen(path);
    if (length == 0 || length >= sizeof(address.sun_path))
        return hws_fail(err, EINVAL, "a socket's path has 1 to %zu bytes: '%.200s'",
                        sizeof(address.sun_path) - 1, path);
    memcpy(address.sun_path, path, length);
    autofd int fd = socket(AF_UNIX, SOCKET_KIND, 0);
    if (fd < 0)
        return hws_fail_errno(err, errno, "socket");
    if (is_stale(&address))
        (void)unlink(path);
    /* Its mode comes from the socket's own, so that nobody slips in before a chmod(). */
    if (fchmod(fd, 0600) < 0 || bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0 ||
        listen(fd, BACKLOG) < 0)
        return hws_fail_errno(err, errno, "cannot listen at %s", path);
    *ret_fd = fd;
    fd = -1;
    return 0;
}

/* "HOST:PORT", "[HOST]:PORT", ":PORT", "HOST". */
static int split(const char *text, char *host, size_t host_bytes, const char **port,
                 struct hws_error *err)
{
    const char *start = text, *end = text + strcspn(text, ":");
    *port = PORT_USUAL;
    if (*text == '[') {
        start = text + 1;
        end = strchr(text, ']');
        if (!end)
            return hws_fail(err, EINVAL, "'%.200s': a ']' is missing", text);
    }
    const char *rest = *text == '[' ? end + 1 : end;
    if (*rest == ':')
        *port = rest + 1;
    else if (*rest)
        return hws_fail(err, EINVAL, "'%.200s' is no HOST:PORT", text);
    if ((size_t)(end - start) >= host_bytes || strchr(*port, ':') || !**port)
        return hws_fail(err, EINVAL, "'%.200s' is no HOST:PORT; [...] goes around an IPv6 address",
                        text);
    memcpy(host, start, (size_t)(end - start));
    host[end - start] = 0;
    return 0;
}

static int listen_one(const struct addrinfo *address)
{
    static const int on = 1, off = 0;
    int fd = socket(address->ai_family, SOCKET_KIND, address->ai_protocol);
    if (fd < 0)
        return -errno;
    (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    if (address->ai_family == AF_INET6) /* "all addresses": those of IPv4 too */
        (void)setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off));
    if (bind(fd, address->ai_addr, address->ai_addrlen) < 0 || listen(fd, BACKLOG) < 0) {
        int r = -errno;
        close(fd);
        return r;
    }
    return fd;
}

static int listen_tcp(const char *text, int *ret_fd, struct hws_error *err)
{
    char host[256];
    const char *port;
    struct addrinfo hints = {.ai_flags = AI_PASSIVE, .ai_socktype = SOCK_STREAM}, *found;
    int r = split(text, host, sizeof(host), &port, err);
    if (r < 0)
        return r;
    r = getaddrinfo(*host ? host : NULL, port, &hints, &found);
    if (r)
        return hws_fail(err, EINVAL, "'%.200s': %s", text, gai_strerror(r));
    int fd = -EADDRNOTAVAIL;
    /* Of "all addresses" the one of IPv6 takes both. */
    for (const struct addrinfo *at = found; at && fd < 0; at = at->ai_next)
        if (*host || at->ai_family == AF_INET6)
            fd = listen_one(at);
    for (const struct addrinfo *at = found; at && fd < 0; at = at->ai_next)
        fd = listen_one(at);
    freeaddrinfo(found);
    if (fd < 0)
        return hws_fail_errno(err, -fd, "cannot listen at tcp:%s", text);
    *ret_fd = fd;
    return 0;
}

/* Whoever started this process listens already. */
static int listen_fd(const char *text, int *ret_fd, struct hws_error *err)
{
    char *end;
    errno = 0;
    long fd = strtol(text, &end, 10);
    int listens = 0;
    socklen_t length = sizeof(listens);
    if (errno || end == text || *end || fd < 3 || fd > INT_MAX)
        return hws_fail(err, EINVAL, "'fd:%.80s': say a descriptor from 3 on", text);
    if (getsockopt((int)fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &length) < 0)
        return hws_fail_errno(err, errno, "descriptor %ld is no socket", fd);
    int flags = fcntl((int)fd, F_GETFL);
    if (!listens)
        return hws_fail(err, EINVAL, "descriptor %ld does not listen", fd);
    if (flags < 0 || fcntl((int)fd, F_SETFL, flags | O_NONBLOCK) < 0 ||
        fcntl((int)fd, F_SETFD, FD_CLOEXEC) < 0)
        return hws_fail_errno(err, errno, "descriptor %ld", fd);
    *ret_fd = (int)fd;
    return 0;
}

int nbd_listen(const char *address, int *ret_fd, struct hws_error *err)
{
    if (!strncmp(address, "unix:", 5))
        return listen_unix(address + 5, ret_fd, err);
    if (!strncmp(address, "tcp:", 4))
        return listen_tcp(address + 4, ret_fd, err);
    if (!strncmp(address, "fd:", 3))
        return listen_fd(address + 3, ret_fd, err);
    return hws_fail(err, EINVAL, "'%.200s' is no address: say unix:PATH or tcp:HOST:PORT", address);
}
