/*
 * Waiting between coroutines; see rt/sync.h.
 *
 * A waiter lies on the stack of the coroutine that waits, and in the list of the waitq as long as
 * it has not been chosen. Whoever unlinks it (a waker on any thread, or its own timer), under the
 * condition's mutex, sets `chosen` and wakes it: exactly one wake-up for one suspension.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "rt/sync.h"
#include "rt/co.h"

/* ---- rt_mutex ---- */

void rt_mutex_init(struct rt_mutex *m)
{
    pthread_mutex_init(&m->mutex, NULL);
}

void rt_mutex_destroy(struct rt_mutex *m)
{
    pthread_mutex_destroy(&m->mutex);
}

void rt_mutex_lock(struct rt_mutex *m)
{
    int failed = pthread_mutex_lock(&m->mutex);
    assert(!failed);
    rt_mutexes_held++;
}

void rt_mutex_unlock(struct rt_mutex *m)
{
    assert(rt_mutexes_held > 0);
    rt_mutexes_held--;
    pthread_mutex_unlock(&m->mutex);
}

/* ---- co_waitq ---- */

enum choice { WAITING, WOKEN, TIMED_OUT };

struct waiter {
    struct list link;
    struct co *co;
    struct rt_mutex *held;
    struct timer timer;
    enum choice choice; /* under held */
};

void co_waitq_init(struct co_waitq *wq)
{
    list_init(&wq->waiters);
}

/* The mutex of the condition is held. @waiter may be gone afterwards, once it is unlocked. */
static void choose(struct waiter *waiter, enum choice choice)
{
    list_del(&waiter->link);
    waiter->choice = choice;
    co_wake(waiter->co);
}

void co_waitq_wait(struct co_waitq *wq, struct rt_mutex *held)
{
    struct waiter waiter = {.co = co_self(), .held = held};
    list_push_back(&wq->waiters, &waiter.link);
    rt_mutex_unlock(held);
    co_suspend();
    rt_mutex_lock(held);
    assert(waiter.choice == WOKEN);
}

static void fire_waiter(struct timer *timer)
{
    struct waiter *waiter = container_of(timer, struct waiter, timer);
    /* The waiter cannot leave meanwhile: it runs on this very thread. */
    rt_mutex_lock(waiter->held);
    if (waiter->choice == WAITING)
        choose(waiter, TIMED_OUT);
    rt_mutex_unlock(waiter->held);
}

bool co_waitq_wait_until(struct co_waitq *wq, struct rt_mutex *held, uint64_t deadline_ns)
{
    struct waiter waiter = {.co = co_self(), .held = held};
    struct timers *timers = &rt_self()->timers;
    list_push_back(&wq->waiters, &waiter.link);
    timer_arm(timers, &waiter.timer, deadline_ns, fire_waiter);
    rt_mutex_unlock(held);
    co_suspend();
    timer_cancel(timers, &waiter.timer);
    rt_mutex_lock(held);
    assert(waiter.choice != WAITING);
    return waiter.choice == WOKEN;
}

void co_waitq_wake_one(struct co_waitq *wq)
{
    if (!list_empty(&wq->waiters))
        choose(list_entry(wq->waiters.next, struct waiter, link), WOKEN);
}

void co_waitq_wake_all(struct co_waitq *wq)
{
    while (!list_empty(&wq->waiters))
        co_waitq_wake_one(wq);
}

/* ---- co_mutex ---- */

void co_mutex_init(struct co_mutex *m)
{
    rt_mutex_init(&m->guard);
    co_waitq_init(&m->waiters);
    m->owner = NULL;
}

void co_mutex_destroy(struct co_mutex *m)
{
    assert(!m->owner && list_empty(&m->waiters.waiters));
    rt_mutex_destroy(&m->guard);
}

void co_mutex_lock(struct co_mutex *m)
{
    struct co *self = co_self();
    rt_mutex_lock(&m->guard);
    assert(m->owner != self);
    if (m->owner)
        co_waitq_wait(&m->waiters, &m->guard); /* the owner hands it over */
    else
        m->owner = self;
    assert(m->owner == self);
    rt_mutex_unlock(&m->guard);
}

bool co_mutex_try_lock(struct co_mutex *m)
{
    rt_mutex_lock(&m->guard);
    bool free = !m->owner;
    if (free)
        m->owner = co_self();
    rt_mutex_unlock(&m->guard);
    return free;
}

void co_mutex_unlock(struct co_mutex *m)
{
    rt_mutex_lock(&m->guard);
    assert(m->owner == co_self());
    if (list_empty(&m->waiters.waiters)) {
        m->owner = NULL;
    } else {
        m->owner = list_entry(m->waiters.waiters.next, struct waiter, link)->co;
        co_waitq_wake_one(&m->waiters);
    }
    rt_mutex_unlock(&m->guard);
}

/* ---- co_group ---- */

void co_group_init(struct co_group *g)
{
    rt_mutex_init(&g->guard);
    co_waitq_init(&g->waiters);
    g->pending = 0;
}

void co_group_destroy(struct co_group *g)
{
    assert(g->pending == 0 && list_empty(&g->waiters.waiters));
    rt_mutex_destroy(&g->guard);
}

void co_group_add(struct co_group *g, unsigned count)
{
    rt_mutex_lock(&g->guard);
    g->pending += count;
    rt_mutex_unlock(&g->guard);
}

void co_group_done(struct co_group *g)
{
    rt_mutex_lock(&g->guard);
    assert(g->pending > 0);
    if (--g->pending == 0)
        co_waitq_wake_all(&g->waiters);
    rt_mutex_unlock(&g->guard);
}

void co_group_wait(struct co_group *g)
{
    rt_mutex_lock(&g->guard);
    while (g->pending > 0)
        co_waitq_wait(&g->waiters, &g->guard);
    rt_mutex_unlock(&g->guard);
}
