/*
 * Freezing file systems for a moment, each by a child of this process that thaws it whatever
 * becomes of its parent:
 *
 *   child   write out -> tell -> wait for a word -> freeze -> tell -> wait -> thaw -> tell
 *   parent  fork all -> hear all -> "freeze" to all -> hear all -> ... -> "thaw" to all -> hear all
 *
 * Where a child waits it looks for the parent's word, its end, and the time. It lives between
 * fork() and _exit() in a process that had threads: it calls nothing but system calls.
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
#include <unistd.h>

/** File systems that are frozen at once at most. */
#define FREEZE_MAX 64
/** Writing out what is dirty may take longer than the freeze itself. */
#define STEP_MS 60000

struct frozen {
    int mount, socket;
    pid_t child;
    bool done; /* by the last word: it is frozen, and not told to have thawed */
};

struct freeze {
    struct frozen one[FREEZE_MAX];
    unsigned count;
};

static bool other_speaks(int socket, int timeout_ms)
{
    struct pollfd wait = {.fd = socket, .events = POLLIN};
    return poll(&wait, 1, timeout_ms) != 0;
}

static void tell(int socket, int error)
{
    if (send(socket, &error, sizeof(error), MSG_NOSIGNAL) < 0)
        return; /* nobody is there to be told */
}

/* @return what the other side told, ETIMEDOUT, or EPIPE at its end. */
static int hear(int socket, int timeout_ms)
{
    int error = EPIPE;
    if (!other_speaks(socket, timeout_ms))
        return ETIMEDOUT;
    return recv(socket, &error, sizeof(error), 0) == (ssize_t)sizeof(error) ? error : EPIPE;
}

static void thaw(int mount)
{
    while (ioctl(mount, FITHAW, 0) < 0 && errno == EINTR)
        ;
}

/* ---- the child ---- */

/* All but what it needs is somebody else's: sockets that a successor is to open, say. */
static void close_others(unsigned a, unsigned b)
{
    unsigned low = MIN(a, b), high = MAX(a, b);
    if (low > 3)
        close_range(3, low - 1, 0);
    if (high > low + 1)
        close_range(low + 1, high - 1, 0);
    close_range(high + 1, UINT32_MAX, 0);
}

static void __attribute__((noreturn)) child(int mount, int socket, int timeout_ms)
{
    close_others((unsigned)mount, (unsigned)socket);
    tell(socket, syncfs(mount) < 0 ? errno : 0);
    if (hear(socket, STEP_MS) != 0)
        _exit(0);
    int error = ioctl(mount, FIFREEZE, 0) < 0 ? errno : 0;
    tell(socket, error);
    if (error)
        _exit(0);
    error = hear(socket, timeout_ms); /* the parent's end is its word, too */
    thaw(mount);
    tell(socket, error == ETIMEDOUT ? ETIMEDOUT : 0);
    if (error == ETIMEDOUT)
        hear(socket, STEP_MS); /* a word that nobody reads would take the answer with it */
    _exit(0);
}

/* ---- the parent ---- */

static int start(struct frozen *one, unsigned timeout_ms, struct hws_error *err)
{
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0)
        return hws_fail_errno(err, errno, "cannot make a socket");
    one->child = fork();
    if (one->child == 0)
        child(one->mount, ends[1], (int)timeout_ms);
    close(ends[1]);
    one->socket = ends[0];
    return one->child < 0 ? hws_fail_errno(err, errno, "cannot start a process") : 0;
}

/* Opens what is mounted at @path; the file system that the folder itself lies in is not meant. */
static int add(struct freeze *freeze, const char *path, unsigned timeout_ms, struct hws_error *err)
{
    struct stat root, above;
    autofd int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &root) < 0 || fstatat(fd, "..", &above, 0) < 0)
        return hws_fail_errno(err, errno, "%s", path);
    if (root.st_dev == above.st_dev)
        return 0;
    if (freeze->count == FREEZE_MAX)
        return hws_fail(err, E2BIG, "more than %d file systems", FREEZE_MAX);
    struct frozen *one = &freeze->one[freeze->count++];
    *one = (struct frozen){.mount = steal_fd(&fd), .socket = -1, .child = -1};
    return start(one, timeout_ms, err);
}

/* All children have done what they were told, or it is told which error one had. */
static int hear_all(struct freeze *freeze)
{
    int error = 0;
    for (unsigned i = 0; i < freeze->count; i++) {
        int one = hear(freeze->one[i].socket, STEP_MS);
        freeze->one[i].done = one == 0;
        error = error ? error : one;
    }
    return error;
}

static void tell_all(struct freeze *freeze)
{
    for (unsigned i = 0; i < freeze->count; i++)
        tell(freeze->one[i].socket, 0);
}

/* Hangs up: a child that holds something lets go then, one that hangs in a system call when it
 * comes back from it. */
static void end_one(struct frozen *one, bool frozen)
{
    int heard = EPIPE;
    if (one->socket >= 0) {
        shutdown(one->socket, SHUT_WR);
        while ((heard = hear(one->socket, STEP_MS)) == 0)
            frozen = false;
        close(one->socket);
    }
    while (one->child > 0 && waitpid(one->child, NULL, heard == EPIPE ? 0 : WNOHANG) < 0 &&
           errno == EINTR)
        ;
    if (frozen)
        thaw(one->mount); /* somebody killed it */
    close(one->mount);
}

static void end_all(struct freeze *freeze, bool frozen)
{
    for (unsigned i = 0; i < freeze->count; i++)
        end_one(&freeze->one[i], frozen && freeze->one[i].done);
    free(freeze);
}

int freeze_begin(const char *const *mountpoints, unsigned count, unsigned timeout_ms,
                 struct freeze **ret, struct hws_error *err)
{
    struct freeze *freeze = calloc(1, sizeof(*freeze));
    int r = 0;
    if (!freeze)
        return hws_fail(err, ENOMEM, "out of memory");
    for (unsigned i = 0; r == 0 && i < count; i++)
        r = add(freeze, mountpoints[i], timeout_ms, err);
    int error = r == 0 ? hear_all(freeze) : 0;
    bool frozen = r == 0 && !error;
    if (error)
        r = hws_fail_errno(err, error, "cannot write out file systems");
    if (frozen) {
        tell_all(freeze);
        error = hear_all(freeze);
        if (error)
            r = hws_fail_errno(err, error, "cannot freeze file systems");
    }
    if (r < 0)
        end_all(freeze, frozen);
    else
        *ret = freeze;
    return r;
}

int freeze_end(struct freeze *freeze, struct hws_error *err)
{
    tell_all(freeze);
    int error = 0;
    for (unsigned i = 0; i < freeze->count; i++) {
        struct frozen *one = &freeze->one[i];
        int heard = hear(one->socket, STEP_MS);
        one->done = heard == EPIPE; /* somebody killed it: it may be frozen still */
        error = error ? error : heard;
    }
    end_all(freeze, true);
    return error ? hws_fail(err, ETIMEDOUT, "file systems did not stay frozen: %s", strerror(error))
                 : 0;
}
