/*
 * Freezing file systems for a moment, by a child of this process that thaws them whatever becomes
 * of its parent:
 *
 *   parent  fork -> "frozen" is read -> ... -> the socket is written to, and the answer read
 *   child   freeze all -> tell -> wait for the parent's word, its end, or the time -> thaw all
 *
 * The child lives between fork() and _exit() in a process that had threads: it calls nothing but
 * system calls.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "control/engines.h"
#include <fcntl.h>
#include <linux/fs.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/** File systems that are frozen at once at most. */
#define FREEZE_MAX 64
/** Writing out what is dirty may take longer than the freeze itself. */
#define BEGIN_MS 60000

struct freeze {
    int mount[FREEZE_MAX];
    unsigned count;
    int socket;
    pid_t child;
};

/* ---- the child ---- */

static void thaw(const struct freeze *freeze, unsigned count)
{
    while (count-- > 0)
        while (ioctl(freeze->mount[count], FITHAW, 0) < 0 && errno == EINTR)
            ;
}

static bool parent_speaks(int socket, int timeout_ms)
{
    struct pollfd wait = {.fd = socket, .events = POLLIN};
    return poll(&wait, 1, timeout_ms) != 0;
}

static void tell(int socket, int error)
{
    if (send(socket, &error, sizeof(error), MSG_NOSIGNAL) < 0)
        return; /* nobody is there to be told */
}

/* Everything but what it needs is somebody else's: sockets that a successor is to open, say. */
static void close_others(const struct freeze *freeze)
{
    unsigned next = 3;
    /* In order: they were opened one after the other, but numbers may have been free below. */
    for (;;) {
        unsigned least = UINT32_MAX;
        for (unsigned i = 0; i <= freeze->count; i++) {
            unsigned fd = (unsigned)(i < freeze->count ? freeze->mount[i] : freeze->socket);
            if (fd >= next && fd < least)
                least = fd;
        }
        if (least > next)
            close_range(next, least == UINT32_MAX ? UINT32_MAX : least - 1, 0);
        if (least == UINT32_MAX)
            return;
        next = least + 1;
    }
}

static void __attribute__((noreturn)) child(const struct freeze *freeze, int timeout_ms)
{
    int error = 0;
    unsigned done = 0;
    close_others(freeze);
    for (; done < freeze->count && !error; done += !error) {
        if (parent_speaks(freeze->socket, 0))
            error = ECANCELED; /* it has gone, or given up */
        else if (ioctl(freeze->mount[done], FIFREEZE, 0) < 0)
            error = errno;
    }
    if (!error) {
        tell(freeze->socket, 0);
        error = parent_speaks(freeze->socket, timeout_ms) ? 0 : ETIMEDOUT;
    }
    thaw(freeze, done);
    /* A word that nobody reads would take the answer with it. */
    int word;
    while (recv(freeze->socket, &word, sizeof(word), MSG_DONTWAIT) > 0)
        ;
    tell(freeze->socket, error);
    _exit(0);
}

/* ---- the parent ---- */

static int hear(const struct freeze *freeze, int timeout_ms)
{
    int error = EPIPE;
    if (!parent_speaks(freeze->socket, timeout_ms))
        return ETIMEDOUT;
    return recv(freeze->socket, &error, sizeof(error), 0) == (ssize_t)sizeof(error) ? error : EPIPE;
}

static void free_freeze(struct freeze *freeze)
{
    for (unsigned i = 0; i < freeze->count; i++)
        close(freeze->mount[i]);
    if (freeze->socket >= 0)
        close(freeze->socket);
    free(freeze);
}

/* One that still hangs in a system call thaws when it comes back, as its parent has hung up. */
static void end_child(struct freeze *freeze, bool ends)
{
    pid_t pid = freeze->child;
    int status;
    free_freeze(freeze);
    while (pid > 0 && waitpid(pid, &status, ends ? 0 : WNOHANG) < 0 && errno == EINTR)
        ;
}

/* Opens what is mounted at @path; the file system that the folder itself lies in is not meant. */
static int add_mount(struct freeze *freeze, const char *path, struct hws_error *err)
{
    struct stat root, above;
    autofd int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &root) < 0 || fstatat(fd, "..", &above, 0) < 0)
        return hws_fail_errno(err, errno, "%s", path);
    if (root.st_dev == above.st_dev)
        return 0;
    if (freeze->count == FREEZE_MAX)
        return hws_fail(err, E2BIG, "more than %d file systems", FREEZE_MAX);
    /* What is dirty goes out while all others still write. */
    if (syncfs(fd) < 0)
        return hws_fail_errno(err, errno, "cannot sync %s", path);
    freeze->mount[freeze->count++] = steal_fd(&fd);
    return 0;
}

static int start(struct freeze *freeze, unsigned timeout_ms, struct hws_error *err)
{
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0)
        return hws_fail_errno(err, errno, "cannot make a socket");
    freeze->socket = ends[1];
    pid_t pid = fork();
    if (pid == 0)
        child(freeze, (int)timeout_ms);
    close(ends[1]);
    freeze->socket = ends[0];
    freeze->child = pid;
    return pid < 0 ? hws_fail_errno(err, errno, "cannot start a process") : 0;
}

int freeze_begin(const char *const *mountpoints, unsigned count, unsigned timeout_ms,
                 struct freeze **ret, struct hws_error *err)
{
    struct freeze *freeze = calloc(1, sizeof(*freeze));
    int r = 0;
    if (!freeze)
        return hws_fail(err, ENOMEM, "out of memory");
    freeze->socket = -1;
    freeze->child = -1;
    for (unsigned i = 0; r == 0 && i < count; i++)
        r = add_mount(freeze, mountpoints[i], err);
    if (r == 0 && freeze->count)
        r = start(freeze, timeout_ms, err);
    if (r < 0) {
        free_freeze(freeze);
        return r;
    }
    int error = freeze->count ? hear(freeze, BEGIN_MS) : 0;
    if (error) {
        if (error == EPIPE)
            thaw(freeze, freeze->count); /* the child was killed */
        end_child(freeze, error != ETIMEDOUT);
        return hws_fail_errno(err, error, "cannot freeze file systems");
    }
    *ret = freeze;
    return 0;
}

int freeze_end(struct freeze *freeze, struct hws_error *err)
{
    int error = 0;
    if (freeze->count) {
        tell(freeze->socket, 0);
        error = hear(freeze, BEGIN_MS);
        if (error == EPIPE)
            thaw(freeze, freeze->count); /* the child was killed */
    }
    end_child(freeze, error != ETIMEDOUT);
    return error ? hws_fail(err, ETIMEDOUT, "file systems did not stay frozen: %s", strerror(error))
                 : 0;
}
