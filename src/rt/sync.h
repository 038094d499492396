/*
 * Waiting between coroutines, on one queue or on several.
 *
 * A rt_mutex protects memory for a few dozen instructions and is never held across
 * a suspension. A waitq is a condition on it. A co_mutex may be held across suspension.
 * All are fair (first come, first served) and wake a coroutine on its own queue.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef RT_SYNC_H
#define RT_SYNC_H

#include "rt/rt.h"
#include <pthread.h>

/** A short lock. Holders may not suspend; asserted in co_suspend(). */
struct rt_mutex {
    pthread_mutex_t mutex;
};

#define RT_MUTEX_INIT             \
    {                             \
        PTHREAD_MUTEX_INITIALIZER \
    }

void rt_mutex_init(struct rt_mutex *m);
void rt_mutex_destroy(struct rt_mutex *m);
void rt_mutex_lock(struct rt_mutex *m);
void rt_mutex_unlock(struct rt_mutex *m);

/** A queue of coroutines that wait for a condition guarded by one rt_mutex. */
struct co_waitq {
    struct list waiters;
};

void co_waitq_init(struct co_waitq *wq);

/** Releases @held, suspends until woken, takes @held again. Check the condition in a loop. */
void co_waitq_wait(struct co_waitq *wq, struct rt_mutex *held);

/** As co_waitq_wait(), but at most until rt_now_ns() reaches @deadline_ns. @return false on
 * timeout. */
bool co_waitq_wait_until(struct co_waitq *wq, struct rt_mutex *held, uint64_t deadline_ns);

/** Wake the first, or all. The caller holds the mutex of the condition. Any thread. */
void co_waitq_wake_one(struct co_waitq *wq);
void co_waitq_wake_all(struct co_waitq *wq);

/** A lock that may be held while suspended. Starvation-free hand-over. */
struct co_mutex {
    struct rt_mutex guard;
    struct co_waitq waiters;
    struct co *owner; /* NULL: free */
};

void co_mutex_init(struct co_mutex *m);
void co_mutex_destroy(struct co_mutex *m);
void co_mutex_lock(struct co_mutex *m);
bool co_mutex_try_lock(struct co_mutex *m);
void co_mutex_unlock(struct co_mutex *m);

/** Waits for a number of coroutines to end: add before spawning, done at their end. */
struct co_group {
    struct rt_mutex guard;
    struct co_waitq waiters;
    unsigned pending;
};

void co_group_init(struct co_group *g);
void co_group_destroy(struct co_group *g);
void co_group_add(struct co_group *g, unsigned count);
void co_group_done(struct co_group *g);
void co_group_wait(struct co_group *g);

#endif
