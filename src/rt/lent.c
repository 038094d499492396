/*
 * Lent queues: a thread that is not ours runs a queue inside its own calls, and leaves it.
 *
 *   enter          spawn ...          serve (until done, or what is ready)          leave
 *   sleeping=false                    the standard loop of queue.c                  sleeping=true
 *
 * While nobody is inside, the queue says that it sleeps, so that mail for it kicks; with the kick
 * armed (ops->rest) that and completions show on one descriptor. Where nothing is alive nothing can
 * come that matters, and leaving costs no system call.
 *
 * All functions here are called by the thread that lends itself, the ring's only user.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "rt/co.h"

int rt_lent_start(struct rt *rt, struct rt_queue **ret)
{
    if (!rt->ops->rest)
        return -EOPNOTSUPP;
    struct rt_queue *q = queue_new(rt, "lent");
    if (!q)
        return -ENOMEM;
    q->lent = true;
    struct rt_queue *before = queue_enter(q);
    int result = rt->ops->queue_init(q);
    queue_enter(before);
    if (result < 0) {
        queue_free(q);
        return result;
    }
    atomic_store(&q->sleeping, true);
    *ret = q;
    return 0;
}

bool rt_serves(void)
{
    return queue_current_rt();
}

void rt_lent_enter(struct rt_queue *q)
{
    assert(q->lent);
    struct rt_queue *before = queue_enter(q);
    assert(!before);
    atomic_store_explicit(&q->sleeping, false, memory_order_relaxed);
}

void rt_lent_serve(struct rt_queue *q, const bool *done)
{
    assert(co_on_queue(q) && !q->running);
    if (!*done)
        queue_serve(q, done);
}

/* Deadlines that have passed make coroutines runnable. */
static bool has_work(struct rt_queue *q)
{
    if (q->timers.root)
        queue_fire_timers(q, rt_now_ns());
    queue_deliver(q);
    return !list_empty(&q->runnable) || !list_empty(&q->later);
}

static void run_ready(struct rt_queue *q)
{
    while (has_work(q)) {
        queue_run_round(q);
        queue_run_later(q);
    }
}

void rt_lent_serve_ready(struct rt_queue *q)
{
    assert(co_on_queue(q) && !q->running);
    run_ready(q);
    q->rt->ops->wait(q, 0);
    run_ready(q);
}

void rt_lent_leave(struct rt_queue *q, uint64_t *ret_wake_ns)
{
    assert(co_on_queue(q) && !q->running);
    for (;;) {
        run_ready(q);
        atomic_store(&q->sleeping, true);
        if (!atomic_load(&q->mailbox))
            break;
        atomic_store_explicit(&q->sleeping, false, memory_order_relaxed);
    }
    if (q->alive > 0)
        q->rt->ops->rest(q);
    if (ret_wake_ns)
        *ret_wake_ns = queue_next_timer_ns(q);
    queue_enter(NULL);
}

int rt_lent_descriptor(struct rt_queue *q)
{
    return q->rt->ops->descriptor(q);
}

void rt_lent_stop(struct rt_queue *q)
{
    rt_lent_enter(q);
    q->stopping = true;
    queue_serve(q, NULL);
    queue_end(q);
    queue_enter(NULL);
    queue_free(q);
}
