/*
 * The process's runtime, and the contexts of threads; see lib/thread.h.
 *
 * Nothing happens when the library is loaded. The first use registers a handler for fork() and a
 * key whose destructor frees a thread's context at its end; the library therefore stays loaded
 * (-z nodelete).
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "lib/thread.h"
#include "hawser/disk.h"
#include "lib/call.h"
#include <pthread.h>
#include <sys/timerfd.h>

static pthread_mutex_t guard = PTHREAD_MUTEX_INITIALIZER;
static struct rt *runtime; /* guarded; NULL: no users */
static unsigned users;     /* guarded */
static _Atomic unsigned era;

static _Thread_local struct lib_thread *self;
static pthread_key_t at_end;
static int set_up_result;

unsigned lib_era(void)
{
    return atomic_load_explicit(&era, memory_order_relaxed);
}

/* ---- fork ---- */

static void before_fork(void)
{
    pthread_mutex_lock(&guard);
}

static void after_fork(void)
{
    pthread_mutex_unlock(&guard);
}

/* The parent's runtime and contexts are memory that nobody refers to any more; its rings are not
 * for us to touch. */
static void in_child(void)
{
    runtime = NULL;
    users = 0;
    self = NULL;
    if (set_up_result == 0)
        pthread_setspecific(at_end, NULL);
    atomic_fetch_add_explicit(&era, 1, memory_order_relaxed);
    pthread_mutex_unlock(&guard);
}

/* ---- the runtime ---- */

static void end_thread(void *arg);

static void set_up(void)
{
    call_prepare();
    int failed = pthread_key_create(&at_end, end_thread);
    if (!failed)
        failed = pthread_atfork(before_fork, after_fork, in_child);
    set_up_result = -failed;
}

int lib_use(struct rt **ret, struct hws_error *err)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, set_up);
    if (set_up_result < 0)
        return hws_fail_errno(err, -set_up_result, "cannot set the library up");
    pthread_mutex_lock(&guard);
    int r = runtime ? 0 : rt_create(NULL, &runtime, err);
    if (r == 0) {
        users++;
        *ret = runtime;
    }
    pthread_mutex_unlock(&guard);
    return r;
}

void lib_unuse(void)
{
    pthread_mutex_lock(&guard);
    assert(users > 0);
    if (--users == 0)
        runtime = rt_free(runtime);
    pthread_mutex_unlock(&guard);
}

/* ---- threads ---- */

static int thread_start(struct lib_thread **ret, struct hws_error *err)
{
    struct lib_thread *thread = calloc(1, sizeof(*thread));
    if (!thread)
        return hws_fail(err, ENOMEM, "out of memory");
    int r = lib_use(&thread->rt, err);
    if (r < 0) {
        free(thread);
        return r;
    }
    r = rt_lent_start(thread->rt, &thread->queue);
    if (r == 0) {
        r = -pthread_setspecific(at_end, thread);
        if (r < 0)
            rt_lent_stop(thread->queue);
    }
    if (r < 0) {
        lib_unuse();
        free(thread);
        return hws_fail_errno(err, -r, "cannot start I/O on this thread");
    }
    thread->references = 1;
    thread->timer_fd = -1;
    thread->timer_ns = UINT64_MAX;
    *ret = self = thread;
    return 0;
}

int lib_thread_get(struct lib_thread **ret, struct hws_error *err)
{
    if (unlikely(rt_serves()))
        return hws_fail(err, EDEADLK,
                        "this call was made from a callback of the library, which waits for it");
    *ret = self;
    return likely(self) ? 0 : thread_start(ret, err);
}

bool lib_thread_is_ours(const struct lib_thread *thread)
{
    return thread == self || atomic_load(&thread->ended);
}

struct lib_thread *lib_thread_ref(struct lib_thread *thread)
{
    atomic_fetch_add(&thread->references, 1);
    return thread;
}

void lib_thread_put(struct lib_thread *thread)
{
    if (atomic_fetch_sub(&thread->references, 1) == 1)
        free(thread);
}

static void end_thread(void *arg)
{
    struct lib_thread *thread = arg;
    self = NULL;
    rt_lent_stop(thread->queue);
    if (thread->timer_fd >= 0)
        close(thread->timer_fd);
    lib_unuse();
    atomic_store(&thread->ended, true);
    lib_thread_put(thread);
}

int hws_thread_end(struct hws_error *err)
{
    struct lib_thread *thread = self;
    if (!thread)
        return 0;
    if (rt_serves())
        return hws_fail(err, EDEADLK, "this call was made from a callback of the library");
    unsigned queues = atomic_load(&thread->references) - 1;
    if (queues > 0)
        return hws_fail(err, EBUSY, "this thread has %u queues that it serves itself", queues);
    pthread_setspecific(at_end, NULL);
    end_thread(thread);
    return 0;
}

/* ---- running ---- */

void lib_thread_enter(struct lib_thread *thread)
{
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &thread->cancel_state);
    rt_lent_enter(thread->queue);
}

int lib_thread_use_timer(struct lib_thread *thread)
{
    if (thread->timer_fd < 0)
        thread->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    return thread->timer_fd < 0 ? -errno : 0;
}

static void set_timer(struct lib_thread *thread, uint64_t wake_ns)
{
    struct itimerspec when = {0};
    thread->timer_ns = wake_ns;
    if (wake_ns != UINT64_MAX) {
        when.it_value.tv_sec = (time_t)(wake_ns / 1000000000);
        when.it_value.tv_nsec = (long)(wake_ns % 1000000000);
    }
    int failed = timerfd_settime(thread->timer_fd, TFD_TIMER_ABSTIME, &when, NULL);
    assert(!failed);
}

void lib_thread_leave(struct lib_thread *thread)
{
    uint64_t wake_ns;
    rt_lent_leave(thread->queue, &wake_ns);
    if (unlikely(thread->timer_fd >= 0 && wake_ns != thread->timer_ns))
        set_timer(thread, wake_ns);
    pthread_setcancelstate(thread->cancel_state, NULL);
}

struct run {
    co_fn *fn;
    void *arg;
    bool done;
};

static void co_run(void *arg)
{
    struct run *run = arg;
    run->fn(run->arg);
    run->done = true;
}

int lib_thread_run(co_fn *fn, void *arg, struct hws_error *err)
{
    struct lib_thread *thread;
    int r = lib_thread_get(&thread, err);
    if (r < 0)
        return r;
    struct run run = {fn, arg, false};
    lib_thread_enter(thread);
    r = rt_spawn(NULL, co_run, &run);
    if (r == 0)
        rt_lent_serve(thread->queue, &run.done);
    lib_thread_leave(thread);
    return r < 0 ? hws_fail_errno(err, -r, "cannot start the call") : 0;
}
