/*
 * The process's runtime, and what each thread that makes calls lends to it.
 *
 *   process: runtime, made with the first user, freed with the last
 *      |         users: disks, queues, threads' contexts
 *   lib_thread (thread-local): a lent queue (rt_lent_start), on which blocking calls run
 *
 * A fork() gives the child a new era: it begins without a runtime, and what was made before belongs
 * to its parent.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef LIB_THREAD_H
#define LIB_THREAD_H

#include "hawser/error.h"
#include "rt/rt.h"

/* Of one thread; it and the queues that run on it (HWS_QUEUE_CALLER) hold references. */
struct lib_thread {
    struct rt_queue *queue;
    _Atomic bool ended; /* the thread: all that was in flight has completed */
    struct rt *rt;
    _Atomic unsigned references; /* of the thread itself, and its queues; see thread_put() */
    int cancel_state;            /* of the thread, before lib_thread_enter() */
    int timer_fd;      /* readable when a timer of the queue is due; -1: nobody asked for it */
    uint64_t timer_ns; /* what it is set to */
};

/** Counts the forks before this process. */
unsigned lib_era(void);

/** Makes the process's runtime, or uses it once more. @return 0 or -errno. */
HWS_MUST_CHECK int lib_use(struct rt **ret, struct hws_error *err);

/** Ends one use. */
void lib_unuse(void);

/** The calling thread's context, made where it has none. -EDEADLK in a callback of the library. */
HWS_MUST_CHECK int lib_thread_get(struct lib_thread **ret, struct hws_error *err);

/** Is @thread the calling thread's, or has its thread ended? */
bool lib_thread_is_ours(const struct lib_thread *thread);

struct lib_thread *lib_thread_ref(struct lib_thread *thread);
void lib_thread_put(struct lib_thread *thread);

/** The calling thread is inside of its queue: may spawn and serve. It cannot be cancelled there. */
void lib_thread_enter(struct lib_thread *thread);
void lib_thread_leave(struct lib_thread *thread);

/** Makes thread->timer_fd, if there is none yet. @return 0 or -errno. */
HWS_MUST_CHECK int lib_thread_use_timer(struct lib_thread *thread);

/** Runs @fn(@arg) as a coroutine of the calling thread until it has returned. @return 0, -errno. */
HWS_MUST_CHECK int lib_thread_run(co_fn *fn, void *arg, struct hws_error *err);

#endif
