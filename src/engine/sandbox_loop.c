/*
 * The porter: a child of the engine's that was forked before the engine gave up its rights, and
 * does for it the one thing that it cannot do then, making a loop device. It sees what the engine
 * sees, so that the node that it makes is the only one there; it makes one device for one file,
 * answers with it, and ends.
 *
 *   engine:  struct order ------------>
 *            <------ struct answer, with the device's descriptor where it was made
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/log.h"
#include "engine/sandbox.h"
#include "host/loop.h"
#include <limits.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>

struct order {
    char path[PATH_MAX];
    uint32_t block_bytes;
    bool read_only;
};

struct answer {
    int result, number;
    bool direct_io;
    char device[LOOP_NAME_BYTES];
    char text[HWS_ERROR_TEXT_BYTES];
};

static int give(int line, const struct answer *answer, int fd)
{
    struct iovec data = {(void *)answer, sizeof(*answer)};
    union {
        struct cmsghdr head;
        char space[CMSG_SPACE(sizeof(int))];
    } control = {0};
    struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1};
    if (fd >= 0) {
        message.msg_control = control.space;
        message.msg_controllen = sizeof(control.space);
        control.head = (struct cmsghdr){
            .cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
        memcpy(CMSG_DATA(&control.head), &fd, sizeof(fd));
    }
    return sendmsg(line, &message, MSG_NOSIGNAL) < 0 ? -errno : 0;
}

static void serve(int line)
{
    struct order order;
    struct answer answer = {0};
    struct loop_device device = {.fd = -1};
    struct hws_error err = {0};
    if (recv(line, &order, sizeof(order), 0) != sizeof(order))
        return; /* it needs none, or has ended */
    order.path[sizeof(order.path) - 1] = '\0';
    struct loop_options options = {.path = order.path,
                                   .block_bytes = order.block_bytes,
                                   .read_only = order.read_only,
                                   .auto_clear = true};
    answer.result = loop_attach(&options, &device, &err);
    answer.number = device.number;
    answer.direct_io = device.direct_io;
    snprintf(answer.device, sizeof(answer.device), "%s", device.path);
    snprintf(answer.text, sizeof(answer.text), "%s", err.text);
    (void)give(line, &answer, device.fd); /* who is gone has no use for the device either */
}

int sandbox_porter_start(int *ret, struct hws_error *err)
{
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0)
        return hws_fail_errno(err, errno, "cannot make a socket");
    pid_t parent = getpid(), pid = fork();
    if (pid < 0) {
        close(ends[0]);
        close(ends[1]);
        return hws_fail_errno(err, errno, "cannot fork");
    }
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
        prctl(PR_SET_NAME, "hawser-porter", 0, 0, 0);
        /* Nothing of the engine's is held: not its lock, and not its FUSE connection. */
        if (dup2(ends[1], 3) == 3 && close_range(4, UINT_MAX, 0) == 0 && getppid() == parent)
            serve(3);
        _exit(0);
    }
    close(ends[1]);
    *ret = ends[0];
    return 0;
}

/* ---- the engine's side ---- */

struct attach_work {
    int line;
    const struct loop_options *options;
    struct answer answer;
    int fd;
};

static int take(struct attach_work *w)
{
    struct iovec data = {&w->answer, sizeof(w->answer)};
    union {
        struct cmsghdr head;
        char space[CMSG_SPACE(sizeof(int))];
    } control;
    struct msghdr message = {.msg_iov = &data,
                             .msg_iovlen = 1,
                             .msg_control = control.space,
                             .msg_controllen = sizeof(control.space)};
    ssize_t n;
    while ((n = recvmsg(w->line, &message, MSG_CMSG_CLOEXEC)) < 0 && errno == EINTR)
        ;
    struct cmsghdr *head = CMSG_FIRSTHDR(&message);
    if (head && head->cmsg_type == SCM_RIGHTS)
        memcpy(&w->fd, CMSG_DATA(head), sizeof(w->fd));
    return n == sizeof(w->answer) ? 0 : -EPIPE;
}

static int attach_blocking(void *arg)
{
    struct attach_work *w = arg;
    struct order order = {.block_bytes = w->options->block_bytes,
                          .read_only = w->options->read_only};
    snprintf(order.path, sizeof(order.path), "%s", w->options->path);
    int r = send(w->line, &order, sizeof(order), MSG_NOSIGNAL) < 0 ? -errno : take(w);
    close(w->line);
    while (waitpid(-1, NULL, 0) < 0 && errno == EINTR)
        ;
    return r;
}

int co_sandbox_loop_attach(int line, const struct loop_options *options, struct loop_device *ret,
                           struct hws_error *err)
{
    struct attach_work w = {.line = line, .options = options, .fd = -1};
    int r = co_work(attach_blocking, &w);
    if (r < 0)
        return hws_fail_errno(err, -r, "the process that makes the loop device is gone");
    w.answer.text[sizeof(w.answer.text) - 1] = '\0';
    if (w.answer.result < 0 || w.fd < 0)
        return hws_fail(err, w.answer.result < 0 ? -w.answer.result : EIO, "%s", w.answer.text);
    *ret = (struct loop_device){
        .number = w.answer.number, .fd = w.fd, .direct_io = w.answer.direct_io};
    memcpy(ret->path, w.answer.device, sizeof(ret->path));
    return 0;
}
