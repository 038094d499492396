/*
 * Listening sockets.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "api/http/internal.h"
#include <fcntl.h>
#include <netdb.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#define BACKLOG 256

/* Whether somebody listens there; a socket that a dead server left is removed. */
static int claim_path(const struct sockaddr_un *address, struct hws_error *err)
{
    struct stat st;
    if (lstat(address->sun_path, &st) < 0)
        return 0;
    if (!S_ISSOCK(st.st_mode))
        return hws_fail(err, EEXIST, "%s is there and no socket", address->sun_path);
    autofd int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd >= 0 &&
        (connect(fd, (const struct sockaddr *)address, sizeof(*address)) == 0 || errno == EAGAIN))
        return hws_fail(err, EADDRINUSE, "somebody listens at %s", address->sun_path);
    if (unlink(address->sun_path) < 0 && errno != ENOENT)
        return hws_fail_errno(err, errno, "cannot remove %s", address->sun_path);
    return 0;
}

int http_listen_unix(const char *path, bool everybody, int *ret, struct hws_error *err)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof(address.sun_path))
        return hws_fail(err, ENAMETOOLONG, "socket path %s is too long", path);
    memcpy(address.sun_path, path, strlen(path));
    int r = claim_path(&address, err);
    if (r < 0)
        return r;
    autofd int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return hws_fail_errno(err, errno, "cannot make a socket");
    mode_t before = umask(everybody ? 0111 : 0177); /* or: root and who runs this, nobody else */
    r = bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0 ? -errno : 0;
    umask(before);
    if (r < 0 || listen(fd, BACKLOG) < 0)
        return hws_fail_errno(err, r < 0 ? -r : errno, "cannot listen at %s", path);
    *ret = steal_fd(&fd);
    return 0;
}

/* @host without its brackets; free() both. */
static int split(const char *address, char **host, char **port, struct hws_error *err)
{
    const char *colon = strrchr(address, ':');
    size_t length = colon ? (size_t)(colon - address) : 0;
    bool brackets = length >= 2 && address[0] == '[' && address[length - 1] == ']';
    if (!colon || !colon[1] || (!brackets && memchr(address, ':', length)))
        return hws_fail(err, EINVAL,
                        "'%.200s' is no address to listen at: HOST:PORT, or [ADDRESS]:PORT",
                        address);
    *host = length == 0 ? NULL : strndup(address + brackets, length - 2 * brackets);
    *port = strdup(colon + 1);
    return *port && (*host || length == 0) ? 0 : hws_fail(err, ENOMEM, "out of memory");
}

static int listen_at(const struct addrinfo *info)
{
    const int on = 1;
    autofd int fd = socket(info->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -errno;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    return bind(fd, info->ai_addr, info->ai_addrlen) < 0 || listen(fd, BACKLOG) < 0 ? -errno
                                                                                    : steal_fd(&fd);
}

int http_listen_tcp(const char *address, int *ret, struct hws_error *err)
{
    const struct addrinfo hints = {.ai_flags = AI_PASSIVE, .ai_socktype = SOCK_STREAM};
    autofree char *host = NULL, *port = NULL;
    struct addrinfo *list = NULL;
    int r = split(address, &host, &port, err);
    if (r < 0)
        return r;
    r = getaddrinfo(host, port, &hints, &list);
    if (r != 0)
        return hws_fail(err, EINVAL, "cannot listen at %.200s: %s", address, gai_strerror(r));
    r = -EINVAL;
    for (const struct addrinfo *info = list; r < 0 && info; info = info->ai_next)
        r = listen_at(info);
    freeaddrinfo(list);
    if (r < 0)
        return hws_fail_errno(err, -r, "cannot listen at %.200s", address);
    *ret = r;
    return 0;
}
