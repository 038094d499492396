/*
 * The worker pool: threads for calls that block and for heavy CPU work. They start when there is
 * work and nobody idle, up to a limit, and leave after some idle seconds, so that an idle engine
 * has none.
 *
 * Each thread that goes joins the one that went before it, and workers_fini() joins the last:
 * nothing runs on after the runtime is gone.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "rt/real.h"
#include <signal.h>
#include <time.h>

#define IDLE_SECONDS 5

/* For compression and hashing libraries; untouched pages cost nothing. */
#define WORKER_STACK_BYTES MiB

static int64_t work(struct rt_io *io)
{
    if (io->op == RT_OP_WORK)
        return io->work.fn(io->work.arg);
    return real_file_perform(io);
}

/* Waits for work. @return NULL when there has been none for long, or at the end. Mutex held. */
static struct rt_io *next_work(struct workers *w)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += IDLE_SECONDS;
    int failed = 0;
    while (list_empty(&w->pending) && !w->stopping && !failed) {
        w->idle++;
        failed = pthread_cond_timedwait(&w->more, &w->mutex, &until);
        w->idle--;
    }
    struct list *node = list_pop_front(&w->pending);
    if (!node)
        return NULL;
    w->pending_count--;
    return list_entry(node, struct rt_io, link);
}

static void *worker_thread(void *arg)
{
    struct workers *w = arg;
    pthread_setname_np(pthread_self(), "worker");
    pthread_mutex_lock(&w->mutex);
    struct rt_io *io;
    while ((io = next_work(w))) {
        pthread_mutex_unlock(&w->mutex);
        rt_io_complete(io, work(io));
        pthread_mutex_lock(&w->mutex);
    }
    bool join = w->to_join;
    pthread_t before = w->last;
    w->to_join = true;
    w->last = pthread_self();
    w->threads--;
    pthread_cond_signal(&w->gone);
    pthread_mutex_unlock(&w->mutex);
    if (join)
        pthread_join(before, NULL);
    return NULL;
}

/* Mutex held. @return false when the system gives no thread. */
static bool start_worker(struct workers *w)
{
    sigset_t all, before;
    pthread_t thread;
    pthread_attr_t attributes;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, WORKER_STACK_BYTES);
    int failed = pthread_create(&thread, &attributes, worker_thread, w);
    pthread_attr_destroy(&attributes);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (!failed)
        w->threads++;
    return !failed;
}

void workers_init(struct workers *w, unsigned limit)
{
    *w = (struct workers){.limit = limit};
    list_init(&w->pending);
    pthread_condattr_t attributes;
    pthread_mutex_init(&w->mutex, NULL);
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&w->more, &attributes);
    pthread_cond_init(&w->gone, &attributes);
    pthread_condattr_destroy(&attributes);
}

void workers_fini(struct workers *w)
{
    pthread_mutex_lock(&w->mutex);
    assert(list_empty(&w->pending));
    w->stopping = true;
    pthread_cond_broadcast(&w->more);
    while (w->threads > 0)
        pthread_cond_wait(&w->gone, &w->mutex);
    bool join = w->to_join;
    pthread_mutex_unlock(&w->mutex);
    if (join)
        pthread_join(w->last, NULL);
    pthread_cond_destroy(&w->more);
    pthread_cond_destroy(&w->gone);
    pthread_mutex_destroy(&w->mutex);
}

bool workers_submit(struct workers *w, struct rt_io *io)
{
    pthread_mutex_lock(&w->mutex);
    list_push_back(&w->pending, &io->link);
    w->pending_count++;
    bool taken = true;
    if (w->pending_count <= w->idle)
        pthread_cond_signal(&w->more);
    else if (w->threads < w->limit)
        taken = start_worker(w) || w->threads > 0;
    if (!taken) {
        list_del(&io->link);
        w->pending_count--;
    }
    pthread_mutex_unlock(&w->mutex);
    /* Not one thread to be had: slow, but right. */
    if (!taken)
        io->result = work(io);
    return !taken;
}
