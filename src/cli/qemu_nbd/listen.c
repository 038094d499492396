/*
 * Where it listens: -k, or -b and -p, or at the socket that a service manager hands over.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cli/qemu_nbd/qemu_nbd.h"
#include <fcntl.h>
#include <limits.h>
#include <netdb.h>
#include <sys/socket.h>
#include <sys/un.h>

#define FIRST_FD 3 /* SD_LISTEN_FDS_START of systemd */

unsigned qn_activated(void)
{
    const char *pid = getenv("LISTEN_PID"), *fds = getenv("LISTEN_FDS");
    char *end;
    if (!pid || !fds || strtol(pid, &end, 10) != getpid() || *end)
        return 0;
    errno = 0;
    unsigned long count = strtoul(fds, &end, 10);
    return errno || *end || count > INT_MAX ? 0 : (unsigned)count;
}

/* What is at the path goes away, whatever it is: so does QEMU's tool. */
static int listen_unix(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    size_t length = strlen(path);
    if (length >= sizeof(address.sun_path)) {
        qi_error("UNIX socket path '%s' is too long\nPath must be less than %zu bytes", path,
                 sizeof(address.sun_path));
        return -1;
    }
    memcpy(address.sun_path, path, length);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) {
        qi_error("Failed to create Unix socket: %s", strerror(errno));
        return -1;
    }
    if (unlink(path) < 0 && errno != ENOENT && errno != ENOTDIR)
        qi_error("Failed to unlink socket %s: %s", path, strerror(errno));
    else if (bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
        qi_error("Failed to bind socket to %s: %s", path, strerror(errno));
    else if (listen(fd, SOMAXCONN) < 0)
        qi_error("Failed to listen on socket: %s", strerror(errno));
    else
        return fd;
    close(fd);
    return -1;
}

/* @return a socket, -EADDRINUSE, or -1 told. */
static int listen_at(const struct addrinfo *address)
{
    static const int on = 1;
    int fd = socket(address->ai_family, SOCK_STREAM | SOCK_CLOEXEC, address->ai_protocol);
    if (fd < 0) {
        qi_error("Failed to create a socket: %s", strerror(errno));
        return -1;
    }
    (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    int r = bind(fd, address->ai_addr, address->ai_addrlen) < 0 ? -errno : 0;
    if (r < 0 && r != -EADDRINUSE)
        qi_error("Failed to bind socket: %s", strerror(-r));
    if (r == 0 && listen(fd, SOMAXCONN) < 0) {
        r = -errno;
        if (r != -EADDRINUSE)
            qi_error("Failed to listen on socket: %s", strerror(-r));
    }
    if (r == 0)
        return fd;
    close(fd);
    return r == -EADDRINUSE ? r : -1;
}

static int listen_tcp(const char *host, const char *port)
{
    struct addrinfo hints = {.ai_flags = AI_PASSIVE, .ai_socktype = SOCK_STREAM}, *found;
    int r = getaddrinfo(host, port, &hints, &found), fd = -EADDRINUSE;
    if (r) {
        qi_error("address resolution failed for %s:%s: %s", host, port, gai_strerror(r));
        return -1;
    }
    for (const struct addrinfo *at = found; at && fd == -EADDRINUSE; at = at->ai_next)
        fd = listen_at(at);
    freeaddrinfo(found);
    if (fd == -EADDRINUSE)
        qi_error("Failed to find an available port: %s", strerror(EADDRINUSE));
    return fd < 0 ? -1 : fd;
}

const char *qn_host(const struct qn_command *command)
{
    return command->bind ? command->bind : "0.0.0.0";
}

const char *qn_port(const struct qn_command *command)
{
    return command->port ? command->port : "10809";
}

int qn_listen(const struct qn_command *command)
{
    if (qn_activated())
        return FIRST_FD;
    if (command->socket)
        return listen_unix(command->socket);
    return listen_tcp(qn_host(command), qn_port(command));
}
