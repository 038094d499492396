/*
 * Sockets from a service manager (sd_listen_fds(3)): "rest", "docker" and "tcp" by LISTEN_FDNAMES,
 * as hawserd.socket calls them. With those, connections that come while hawserd is being replaced
 * wait instead of being refused.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "daemon/daemon.h"
#include <fcntl.h>
#include <sys/socket.h>

#define FIRST_FD       3
#define ACTIVATION_MAX 16

static const char *const names[ACTIVATED_SOCKETS] = {"rest", "docker", "tcp"};

static int take(int fd, const char *name, size_t length, struct activation *ret,
                struct hws_error *err)
{
    int listening = 0;
    socklen_t size = sizeof(listening);
    fcntl(fd, F_SETFD, FD_CLOEXEC);
    for (unsigned i = 0; i < ACTIVATED_SOCKETS; i++) {
        if (strlen(names[i]) != length || strncmp(names[i], name, length) != 0)
            continue;
        if (ret->fd[i] >= 0)
            return hws_fail(err, EINVAL, "the service manager passes two sockets called '%s'",
                            names[i]);
        if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &size) < 0 || !listening)
            return hws_fail(err, EINVAL, "what the service manager passes as '%s' does not listen",
                            names[i]);
        fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
        ret->fd[i] = fd;
        return 0;
    }
    return hws_fail(err, EINVAL,
                    "the service manager passes a socket called '%.*s'; hawserd knows rest, docker "
                    "and tcp (FileDescriptorName= in the socket unit)",
                    (int)MIN(length, (size_t)100), name);
}

int activation_take(struct activation *ret, struct hws_error *err)
{
    const char *pid = getenv("LISTEN_PID"), *count_text = getenv("LISTEN_FDS");
    const char *name = getenv("LISTEN_FDNAMES");
    long count = count_text ? strtol(count_text, NULL, 10) : 0;
    int r = 0;
    for (unsigned i = 0; i < ACTIVATED_SOCKETS; i++)
        ret->fd[i] = -1;
    if (pid && strtol(pid, NULL, 10) == getpid() && count > 0) {
        if (count > ACTIVATION_MAX || !name)
            r = hws_fail(err, EINVAL,
                         "LISTEN_FDS is %ld with%s LISTEN_FDNAMES; hawserd takes up to "
                         "%d sockets, by their names",
                         count, name ? "" : "out", ACTIVATION_MAX);
        for (int i = 0; r == 0 && i < count; i++) {
            size_t length = strcspn(name, ":");
            r = take(FIRST_FD + i, name, length, ret, err);
            name += length + (name[length] == ':');
        }
    }
    unsetenv("LISTEN_PID"); /* no child takes them for its own */
    unsetenv("LISTEN_FDS");
    unsetenv("LISTEN_FDNAMES");
    return r;
}
