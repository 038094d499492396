/*
 * The porter: a child of the engine's that makes a loop device on the engine's FUSE file, and alone
 * holds it open.
 *
 * It is forked before an engine with a sandbox gives up its rights, and does for it what it cannot
 * do then; it sees what the engine sees, so that the node that it makes is the only one there. It
 * makes one device for one file.
 *
 * The engine itself must not hold the device: its last user's close(2) waits until all that is
 * dirty in the page cache is written, and where a killed engine is that user, it waits for itself,
 * for ever, and every sync(2) of the host with it. The porter closes when all of the engine is
 * gone: then writing fails at once, and the kernel takes the device down.
 *
 *   engine:  struct order ------------>
 *            <------ struct answer
 *   a line that ends without the order to let go: the engine is ending
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "engine/porter.h"
#include "base/log.h"
#include "host/loop.h"
#include "rt/rt.h"
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>

enum what { PORTER_ATTACH, PORTER_RESIZE, PORTER_DETACH, PORTER_LET_GO };

struct order {
    enum what what;
    char path[PATH_MAX];
    uint32_t block_bytes;
    bool read_only;
};

struct answer {
    int result, number;
    bool direct_io;
    uint64_t sequence;
    char device[LOOP_NAME_BYTES];
    char text[HWS_ERROR_TEXT_BYTES];
};

/* ---- the child ---- */

static int attach(const struct order *order, struct loop_device *device, struct answer *answer,
                  struct hws_error *err)
{
    struct loop_options options = {.path = order->path,
                                   .block_bytes = order->block_bytes,
                                   .read_only = order->read_only,
                                   .auto_clear = true};
    int r = loop_attach(&options, device, err);
    if (r < 0)
        return r;
    answer->number = device->number;
    answer->direct_io = device->direct_io;
    answer->sequence = loop_sequence(device);
    snprintf(answer->device, sizeof(answer->device), "%s", device->path);
    return 0;
}

/* @return whether there is something to hold (on). */
static bool obey(int line, struct order *order, struct loop_device *device)
{
    struct answer answer = {0};
    struct hws_error err = {0};
    order->path[sizeof(order->path) - 1] = '\0';
    switch (order->what) {
    case PORTER_ATTACH:
        answer.result = device->fd < 0 ? attach(order, device, &answer, &err) : -EBUSY;
        break;
    case PORTER_RESIZE:
        answer.result = loop_resize(device, &err);
        break;
    case PORTER_DETACH:
        answer.result = loop_detach(device, &err);
        break;
    case PORTER_LET_GO:
        return false;
    }
    snprintf(answer.text, sizeof(answer.text), "%s", err.text);
    if (device->fd < 0 && order->what == PORTER_DETACH)
        answer.result = 0; /* it goes without us, if it is not gone */
    (void)send(line, &answer, sizeof(answer), MSG_NOSIGNAL);
    return device->fd >= 0;
}

static void serve(int line, int engine)
{
    struct order order;
    struct loop_device device = {.fd = -1};
    for (;;) {
        struct pollfd polled[2] = {{.fd = engine, .events = POLLIN},
                                   {.fd = line, .events = POLLIN}};
        if (poll(polled, 2, -1) < 0 && errno != EINTR)
            return;
        if (polled[0].revents)
            return;
        if (!polled[1].revents)
            continue;
        ssize_t n = recv(line, &order, sizeof(order), MSG_DONTWAIT);
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            continue;
        if (n == sizeof(order) ? !obey(line, &order, &device) : device.fd < 0)
            return;
        if (n != sizeof(order))
            line = -1; /* it is ending; it has ended when all its threads have */
    }
}

/* Nothing of the engine's is held: not its lock, and not its FUSE connection. */
static void live(int line, pid_t engine)
{
    static const int ignored[] = {SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGPIPE};
    prctl(PR_SET_NAME, "hawser-porter", 0, 0, 0);
    for (unsigned i = 0; i < ARRAY_LEN(ignored); i++)
        signal(ignored[i], SIG_IGN); /* of a terminal's or a service's whole group */
    if (dup2(line, 3) != 3 || close_range(4, UINT_MAX, 0) < 0 || chdir("/") < 0)
        return;
    int null = open("/dev/null", O_RDWR);
    for (int fd = 0; fd < 3; fd++)
        if (null < 0 || dup2(null, fd) < 0)
            return;
    close(null);
    int alive = (int)syscall(SYS_pidfd_open, engine, 0);
    if (alive >= 0 && getppid() == engine)
        serve(3, alive);
}

int porter_start(struct porter *ret, struct hws_error *err)
{
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0)
        return hws_fail_errno(err, errno, "cannot make a socket");
    pid_t engine = getpid(), pid = fork();
    if (pid < 0) {
        close(ends[0]);
        close(ends[1]);
        return hws_fail_errno(err, errno, "cannot fork");
    }
    if (pid == 0) {
        live(ends[1], engine);
        _exit(0);
    }
    close(ends[1]);
    *ret = (struct porter){ends[0], pid};
    return 0;
}

/* ---- the engine's side ---- */

static int end_blocking(void *arg)
{
    struct porter *porter = arg;
    if (porter->line >= 0)
        close(porter->line);
    while (porter->pid > 0 && waitpid(porter->pid, NULL, 0) < 0 && errno == EINTR)
        ;
    *porter = (struct porter){.line = -1};
    return 0;
}

struct ask_work {
    int line;
    const struct order *order;
    struct answer *answer; /* NULL: there is none */
};

static int ask_blocking(void *arg)
{
    struct ask_work *w = arg;
    ssize_t n;
    if (send(w->line, w->order, sizeof(*w->order), MSG_NOSIGNAL) < 0)
        return -errno;
    while (w->answer && (n = recv(w->line, w->answer, sizeof(*w->answer), 0)) < 0 && errno == EINTR)
        ;
    return !w->answer || n == sizeof(*w->answer) ? 0 : -EPIPE;
}

/* -EPIPE: it is gone. */
static int co_ask(struct porter *porter, const struct order *order, struct answer *answer,
                  struct hws_error *err)
{
    struct ask_work w = {porter->line, order, answer};
    int r = co_work(ask_blocking, &w);
    if (r < 0)
        return hws_fail(err, EPIPE, "the process that holds the loop device is gone");
    if (!answer || answer->result == 0)
        return 0;
    answer->text[sizeof(answer->text) - 1] = '\0';
    return hws_fail(err, -answer->result, "%s", answer->text);
}

int co_porter_attach(struct porter *porter, const struct loop_options *options,
                     struct loop_device *ret, uint64_t *ret_sequence, struct hws_error *err)
{
    struct order order = {.what = PORTER_ATTACH,
                          .block_bytes = options->block_bytes,
                          .read_only = options->read_only};
    struct answer answer = {0};
    snprintf(order.path, sizeof(order.path), "%s", options->path);
    int r = co_ask(porter, &order, &answer, err);
    if (r < 0) {
        co_work(end_blocking, porter);
        return r;
    }
    *ret = (struct loop_device){.number = answer.number, .fd = -1, .direct_io = answer.direct_io};
    memcpy(ret->path, answer.device, sizeof(ret->path));
    *ret_sequence = answer.sequence;
    return 0;
}

int co_porter_resize(struct porter *porter, struct hws_error *err)
{
    struct answer answer = {0};
    return co_ask(porter, &(struct order){.what = PORTER_RESIZE}, &answer, err);
}

int co_porter_detach(struct porter *porter, struct hws_error *err)
{
    struct answer answer = {0};
    int r = co_ask(porter, &(struct order){.what = PORTER_DETACH}, &answer, err);
    if (r < 0 && r != -EPIPE)
        return r;
    co_work(end_blocking, porter);
    return 0;
}

void co_porter_let_go(struct porter *porter)
{
    if (porter->line < 0)
        return;
    (void)!co_ask(porter, &(struct order){.what = PORTER_LET_GO}, NULL, NULL);
    co_work(end_blocking, porter);
}
