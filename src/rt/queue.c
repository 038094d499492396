/*
 * Queues: the run list, the mailbox, timers, and the life of queue threads; see rt/ops.h.
 *
 * The mailbox is a stack that senders push to with one compare-and-swap, and that the queue thread
 * takes whole and reverses. A sender writes the event descriptor (ops->kick) only when the queue
 * has said that it sleeps, and at most once a sleep:
 *
 *   queue                                  sender
 *   sleeping = true                        push the mail
 *   mailbox empty? then wait               if (exchange(sleeping, false)) kick
 *
 * Both sides write before they read (sequentially consistent), so one of them sees the other.
 * A sender may still be inside ops->kick() when the coroutine that it woke has ended its queue: the
 * queue waits for `posters` to fall to zero before it frees anything.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "rt/co.h"
#include <sched.h>
#include <semaphore.h>
#include <signal.h>

/* Free stacks that survive a second without any work. */
#define STACKS_KEPT_IDLE 4u
#define IDLE_NS          1000000000ull

/* Rounds that rt_later() may add to one before completions are looked at again. */
#define LATER_ROUNDS 8

/* A queue thread runs the scheduler and system calls only; coroutines have stacks of their own. */
#define THREAD_STACK_BYTES (256 * KiB)

static _Thread_local struct rt_queue *current;

void rt_init(struct rt *rt, const struct rt_ops *ops, const struct rt_options *options)
{
    rt->ops = ops;
    if (options)
        rt->options = *options;
    struct rt_options *o = &rt->options;
    long processors = sysconf(_SC_NPROCESSORS_ONLN);
    if (o->ring_entries == 0)
        o->ring_entries = 128;
    if (o->stack_bytes == 0)
        o->stack_bytes = 64 * KiB;
    if (o->workers_max == 0)
        o->workers_max = processors < 2 ? 2 : (unsigned)processors;
}

struct rt *rt_free(struct rt *rt)
{
    if (rt) {
        assert(rt->queues == 0);
        rt->ops->free(rt);
    }
    return NULL;
}

const char *rt_name(const struct rt *rt)
{
    return rt->ops->name;
}

struct rt_queue *rt_self(void)
{
    assert(current);
    return current;
}

struct rt *rt_current(void)
{
    return rt_self()->rt;
}

unsigned rt_queue_index(void)
{
    return rt_self()->index;
}

struct rt *queue_current_rt(void)
{
    return current ? current->rt : NULL;
}

bool co_on_queue(const struct rt_queue *q)
{
    return current == q;
}

/* ---- mailbox ---- */

void queue_post(struct rt_queue *q, struct rt_mail *mail)
{
    atomic_fetch_add(&q->posters, 1);
    struct rt_mail *newest = atomic_load_explicit(&q->mailbox, memory_order_relaxed);
    do {
        mail->next = newest;
    } while (!atomic_compare_exchange_weak(&q->mailbox, &newest, mail));
    if (atomic_exchange(&q->sleeping, false) && q->rt->ops->kick)
        q->rt->ops->kick(q);
    atomic_fetch_sub_explicit(&q->posters, 1, memory_order_release);
}

void queue_deliver(struct rt_queue *q)
{
    if (!atomic_load_explicit(&q->mailbox, memory_order_relaxed))
        return;
    struct rt_mail *mail = atomic_exchange_explicit(&q->mailbox, NULL, memory_order_acquire);
    struct rt_mail *oldest = NULL;
    while (mail) {
        struct rt_mail *next = mail->next;
        mail->next = oldest;
        oldest = mail;
        mail = next;
    }
    while (oldest) {
        struct rt_mail *next = oldest->next; /* deliver() may free the mail */
        oldest->deliver(q, oldest);
        oldest = next;
    }
}

void queue_settle(struct rt_queue *q)
{
    while (atomic_load_explicit(&q->posters, memory_order_acquire) > 0)
        sched_yield();
    queue_deliver(q);
}

/* ---- coroutines ---- */

static void make_runnable(struct rt_queue *q, struct co *co)
{
    assert(co->state == CO_SUSPENDED);
    co->state = CO_RUNNABLE;
    list_push_back(&q->runnable, &co->run_link);
}

static void start(struct rt_queue *q, struct co *co)
{
    q->alive++;
    rt_count(&q->count.coroutines, 1);
    make_runnable(q, co);
}

static void deliver_start(struct rt_queue *q, struct rt_mail *mail)
{
    start(q, container_of(mail, struct co, mail));
}

static void deliver_wake(struct rt_queue *q, struct rt_mail *mail)
{
    make_runnable(q, container_of(mail, struct co, mail));
}

int rt_spawn(struct rt_queue *q, co_fn *fn, void *arg)
{
    if (!q)
        q = rt_self();
    struct co *co = co_new(q, fn, arg);
    if (!co)
        return -ENOMEM;
    if (q == current) {
        start(q, co);
    } else {
        co->mail.deliver = deliver_start;
        queue_post(q, &co->mail);
    }
    return 0;
}

bool co_running(void)
{
    return current && current->running;
}

struct co *co_self(void)
{
    assert(co_running());
    return current->running;
}

void co_suspend(void)
{
    struct co *co = co_self();
    co->state = CO_SUSPENDED;
    co_leave(co);
}

void co_wake(struct co *co)
{
    struct rt_queue *q = co->queue;
    if (q == current) {
        make_runnable(q, co);
    } else {
        co->mail.deliver = deliver_wake;
        queue_post(q, &co->mail);
    }
}

void co_yield (void)
{
    struct co *co = co_self();
    co->state = CO_RUNNABLE;
    list_push_back(&co->queue->runnable, &co->run_link);
    co_leave(co);
}

void rt_io_complete(struct rt_io *io, int64_t result)
{
    io->result = result;
    co_wake(io->co);
}

/* ---- time ---- */

struct sleeper {
    struct timer timer;
    struct co *co;
};

static void fire_sleeper(struct timer *timer)
{
    co_wake(container_of(timer, struct sleeper, timer)->co);
}

void co_sleep_ns(uint64_t duration_ns)
{
    struct sleeper sleeper = {.co = co_self()};
    uint64_t deadline_ns;
    if (add_overflows(rt_now_ns(), duration_ns, &deadline_ns))
        deadline_ns = RT_FOREVER;
    timer_arm(&current->timers, &sleeper.timer, deadline_ns, fire_sleeper);
    co_suspend();
}

void queue_fire_timers(struct rt_queue *q, uint64_t now_ns)
{
    struct timer *timer;
    while ((timer = timer_take_due(&q->timers, now_ns)))
        timer->fire(timer);
}

uint64_t queue_next_timer_ns(const struct rt_queue *q)
{
    return q->timers.root ? q->timers.root->deadline_ns : RT_FOREVER;
}

/* ---- later ---- */

void rt_later_init(struct rt_later *later, void (*fn)(struct rt_later *later))
{
    list_init(&later->link);
    later->fn = fn;
}

void rt_later(struct rt_later *later)
{
    if (list_empty(&later->link))
        list_push_back(&rt_self()->later, &later->link);
}

bool queue_run_later(struct rt_queue *q)
{
    struct list now, *node;
    if (likely(list_empty(&q->later)))
        return false;
    list_init(&now);
    list_splice_back(&now, &q->later);
    while ((node = list_pop_front(&now))) {
        struct rt_later *later = list_entry(node, struct rt_later, link);
        later->fn(later);
    }
    return true;
}

/* ---- the loop ---- */

struct rt_queue *queue_enter(struct rt_queue *q)
{
    struct rt_queue *before = current;
    current = q;
    return before;
}

unsigned queue_runnable(const struct rt_queue *q)
{
    unsigned count = 0;
    list_for_each (node, &q->runnable)
        count++;
    return count;
}

void queue_run(struct rt_queue *q, unsigned index)
{
    struct list *node = q->runnable.next;
    while (index--)
        node = node->next;
    assert(current == q && node != &q->runnable);
    list_del(node);
    co_resume(list_entry(node, struct co, run_link));
}

bool queue_finished(const struct rt_queue *q)
{
    return q->stopping && q->alive == 0 && list_empty(&q->later) && !atomic_load(&q->mailbox);
}

/* Everything that is runnable now, once; what becomes runnable meanwhile waits for the next round,
 * so that coroutines that feed each other do not starve I/O. */
void queue_run_round(struct rt_queue *q)
{
    list_splice_back(&q->round, &q->runnable);
    struct list *node;
    while ((node = list_pop_front(&q->round)))
        co_resume(list_entry(node, struct co, run_link));
}

/* Nothing is runnable: waits for a completion, mail or a timer, and sheds stacks when none comes.
 */
static void sleep_queue(struct rt_queue *q)
{
    uint64_t deadline_ns = queue_next_timer_ns(q), trim_ns = RT_FOREVER;
    if (q->stacks_free > STACKS_KEPT_IDLE)
        trim_ns = rt_now_ns() + IDLE_NS;
    atomic_store(&q->sleeping, true);
    if (atomic_load(&q->mailbox))
        deadline_ns = 0;
    q->rt->ops->wait(q, MIN(deadline_ns, trim_ns));
    atomic_store_explicit(&q->sleeping, false, memory_order_relaxed);
    if (trim_ns < deadline_ns && list_empty(&q->runnable) && rt_now_ns() >= trim_ns)
        co_trim_stacks(q, STACKS_KEPT_IDLE);
}

void queue_serve(struct rt_queue *q, const bool *until)
{
    for (;;) {
        queue_deliver(q);
        queue_run_round(q);
        /* What is made runnable here joins this round's submission. */
        for (unsigned i = 0; i < LATER_ROUNDS && queue_run_later(q); i++)
            queue_run_round(q);
        if (until && *until)
            return;
        if (q->timers.root)
            queue_fire_timers(q, rt_now_ns());
        if (!list_empty(&q->runnable) || !list_empty(&q->later))
            q->rt->ops->wait(q, 0);
        else if (queue_finished(q))
            return;
        else
            sleep_queue(q);
    }
}

/* ---- life ---- */

struct rt_queue *queue_new(struct rt *rt, const char *name)
{
    struct rt_queue *q = aligned_alloc(64, align_up(sizeof(*q), 64));
    if (!q)
        return NULL;
    memset(q, 0, sizeof(*q));
    q->rt = rt;
    snprintf(q->name, sizeof(q->name), "%s", name);
    list_init(&q->runnable);
    list_init(&q->round);
    list_init(&q->later);
    list_init(&q->stacks);
    atomic_fetch_add(&rt->queues, 1);
    q->index = atomic_fetch_add(&rt->started, 1);
    return q;
}

void queue_free(struct rt_queue *q)
{
    atomic_fetch_sub(&q->rt->queues, 1);
    free(q);
}

void queue_end(struct rt_queue *q)
{
    queue_settle(q);
    q->rt->ops->queue_fini(q);
    assert(q->alive == 0 && list_empty(&q->runnable) && list_empty(&q->later) && !q->timers.root);
    co_trim_stacks(q, 0);
    if (q->stopper)
        co_wake(q->stopper);
}

int rt_run(struct rt *rt, co_fn *fn, void *arg)
{
    assert(!current);
    struct rt_queue *q = queue_new(rt, "main");
    if (!q)
        return -ENOMEM;
    queue_enter(q);
    q->stopping = true;
    int result = rt->ops->queue_init(q);
    if (result == 0) {
        result = rt_spawn(q, fn, arg);
        if (result == 0 && rt->ops->serve)
            rt->ops->serve(q);
        else if (result == 0)
            queue_serve(q, NULL);
        queue_end(q);
    }
    queue_enter(NULL);
    queue_free(q);
    return result;
}

static void *queue_thread(void *arg)
{
    struct rt_queue *q = arg;
    pthread_setname_np(pthread_self(), q->name);
    queue_enter(q);
    int result = q->rt->ops->queue_init(q);
    q->start_result = result;
    sem_post(q->started);
    if (result == 0) {
        queue_serve(q, NULL);
        queue_enter(NULL);
        queue_end(q);
    }
    return NULL;
}

/* Signals belong to the threads of the program, not to ours. */
static int create_thread(pthread_t *ret, void *(*fn)(void *), void *arg)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, THREAD_STACK_BYTES);
    int failed = pthread_create(ret, &attributes, fn, arg);
    pthread_attr_destroy(&attributes);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return -failed;
}

static int start_thread(struct rt_queue *q)
{
    sem_t started;
    sem_init(&started, 0, 0);
    q->started = &started;
    int result = create_thread(&q->thread, queue_thread, q);
    if (result == 0) {
        while (sem_wait(&started))
            ;
        result = q->start_result;
        if (result < 0)
            pthread_join(q->thread, NULL);
        q->threaded = result == 0;
    }
    sem_destroy(&started);
    return result;
}

int rt_queue_start(struct rt *rt, const char *name, struct rt_queue **ret, struct hws_error *err)
{
    struct rt_queue *q = queue_new(rt, name);
    if (!q)
        return hws_fail(err, ENOMEM, "no memory for the queue '%s'", name);
    int result;
    if (rt->ops->queue_start) {
        result = rt->ops->queue_init(q);
        if (result == 0)
            result = rt->ops->queue_start(q);
    } else {
        result = start_thread(q);
    }
    if (result < 0) {
        queue_free(q);
        return hws_fail_errno(err, -result, "cannot start the queue thread '%s'", name);
    }
    *ret = q;
    return 0;
}

static void deliver_stop(struct rt_queue *q, struct rt_mail *mail)
{
    q->stopping = true;
}

void co_queue_stop(struct rt_queue *q)
{
    assert(q != current && !q->stopper);
    q->stopper = co_self();
    q->stop_mail.deliver = deliver_stop;
    queue_post(q, &q->stop_mail);
    co_suspend();
    if (q->threaded)
        pthread_join(q->thread, NULL);
    queue_free(q);
}

struct rt_counters rt_queue_counters(const struct rt_queue *q)
{
    if (!q)
        q = rt_self();
    return (struct rt_counters){
        .operations = atomic_load_explicit(&q->count.operations, memory_order_relaxed),
        .system_calls = atomic_load_explicit(&q->count.system_calls, memory_order_relaxed),
        .switches = atomic_load_explicit(&q->count.switches, memory_order_relaxed),
        .coroutines = atomic_load_explicit(&q->count.coroutines, memory_order_relaxed),
    };
}
