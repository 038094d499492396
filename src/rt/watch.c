/*
 * Watches: a callback whenever a descriptor is readable, without a coroutine that waits.
 *
 * On io_uring one multishot poll tells of every event, which costs no system call and needs nobody
 * to read the descriptor. Where a poll ends with its event (threads), it is submitted again after
 * each callback. The kernel too may end a multishot poll, when completions overflow: then likewise.
 *
 * Callbacks go through rt_later(), so that they never run inside of the reaping of completions.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/log.h"
#include "rt/real.h"
#include <poll.h>

struct rt_watch {
    struct rt_io io;
    struct rt_later later;
    struct rt_queue *queue;
    void (*fn)(void *arg);
    void *arg;
    struct co *stopper;
    bool armed; /* submitted, and not yet ended */
    bool fired; /* since the last callback */
    bool ended; /* an event said that no more will come */
    bool failed;
};

static void arm(struct rt_watch *w)
{
    rt_count(&w->queue->count.operations, 1);
    w->armed = !w->queue->rt->ops->submit(w->queue, &w->io);
    w->failed = !w->armed;
}

void watch_event(struct rt_io *io, int64_t result, bool more)
{
    struct rt_watch *w = container_of(io, struct rt_watch, io);
    w->armed = more;
    w->fired |= result > 0;
    w->ended |= result > 0 && result & (POLLHUP | POLLRDHUP | POLLERR);
    /* Canceled by nobody here: so some kernels end a multishot poll when completions overflow. */
    if (result < 0 && !more && result != -ECANCELED) {
        log_error("descriptor %d cannot be watched any more: %s", w->io.fd, strerror(-(int)result));
        w->failed = true;
    }
    rt_later(&w->later);
}

static void run(struct rt_later *later)
{
    struct rt_watch *w = container_of(later, struct rt_watch, later);
    bool fired = w->fired;
    w->fired = false;
    if (w->stopper) {
        if (!w->armed)
            co_wake(steal_ptr(&w->stopper));
        return;
    }
    if (fired)
        w->fn(w->arg);
    if (!w->armed && !w->failed)
        arm(w);
}

int rt_watch_start(int fd, void (*fn)(void *arg), void *arg, struct rt_watch **ret, bool *ret_edge)
{
    struct rt_watch *w = calloc(1, sizeof(*w));
    if (!w)
        return -ENOMEM;
    w->io = (struct rt_io){.op = RT_OP_WATCH, .fd = fd, .flags = POLLIN | POLLRDHUP};
    w->queue = rt_self();
    w->fn = fn;
    w->arg = arg;
    rt_later_init(&w->later, run);
    arm(w);
    if (!w->armed) {
        int result = (int)w->io.result;
        free(w);
        return result < 0 ? result : -EOPNOTSUPP;
    }
    *ret = w;
    *ret_edge = w->queue->rt->ops == &rt_uring_ops;
    return 0;
}

bool rt_watch_has_ended(const struct rt_watch *w)
{
    return w->ended;
}

void co_watch_stop(struct rt_watch *w)
{
    if (!w)
        return;
    assert(co_on_queue(w->queue));
    if (w->armed) {
        w->stopper = co_self();
        w->queue->rt->ops->cancel(w->queue, &w->io);
        co_suspend();
    }
    list_del(&w->later.link);
    free(w);
}
