/*
 * Queues with a thread of their own.
 *
 * The user's thread pushes a batch on `inbox` and rings the doorbell only where the inbox was
 * empty: otherwise somebody has rung, and the thread has not looked yet. What has completed in one
 * round of the thread is published at its end, as one batch; the event descriptor is written to
 * only where the user has armed it, which reaping does once there is nothing left to fetch:
 *
 *   thread                              user
 *   push on done                        armed = true
 *   if (exchange(armed, false)) write   done empty? then go and wait
 *
 * Both write before they read (sequentially consistent), so one of them sees the other.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "lib/queue.h"
#include <poll.h>
#include <time.h>

static void publish(struct rt_later *later)
{
    struct hws_queue *queue = container_of(later, struct hws_queue, publish);
    struct queue_slot *oldest = queue->finished, *newest = NULL;
    if (!oldest)
        return;
    /* Turned round: newest first. */
    for (struct queue_slot *slot = oldest, *next; slot; slot = next) {
        next = slot->next;
        slot->next = newest;
        newest = slot;
    }
    queue->finished = NULL;
    queue->finished_end = &queue->finished;
    struct queue_slot *before = atomic_load_explicit(&queue->done, memory_order_relaxed);
    do
        oldest->next = before;
    while (!atomic_compare_exchange_weak(&queue->done, &before, newest));
    if (atomic_load(&queue->armed) && atomic_exchange(&queue->armed, false))
        queue_event_set(queue);
}

static void co_slot(void *arg)
{
    struct queue_slot *slot = arg;
    struct hws_queue *queue = slot->queue;
    co_queue_request(slot);
    slot->next = NULL;
    *queue->finished_end = slot;
    queue->finished_end = &slot->next;
    rt_later(&queue->publish);
}

/* On the queue's thread: starts what was submitted. */
static void answer_door(void *arg)
{
    struct hws_queue *queue = arg;
    struct queue_slot *slot = atomic_exchange(&queue->inbox, NULL), *oldest = NULL, *next;
    for (; slot; slot = next) {
        next = slot->next;
        slot->next = oldest;
        oldest = slot;
    }
    for (slot = oldest; slot; slot = next) {
        next = slot->next;
        int r = rt_spawn(NULL, co_slot, slot);
        if (likely(r == 0))
            continue;
        slot->result = r;
        slot->next = NULL;
        *queue->finished_end = slot;
        queue->finished_end = &slot->next;
        rt_later(&queue->publish);
    }
}

/* ---- life ---- */

static int start(struct hws_queue *queue, struct hws_error *err)
{
    struct rt *rt;
    int r = lib_use(&rt, err);
    if (r < 0)
        return r;
    queue->doorbell = rt_doorbell_new(answer_door, queue);
    if (!queue->doorbell)
        r = hws_fail(err, ENOMEM, "out of memory");
    if (r == 0)
        r = rt_queue_start(rt, "hawser-queue", &queue->thread, err);
    if (r < 0) {
        rt_doorbell_free(queue->doorbell);
        lib_unuse();
        return r;
    }
    rt_later_init(&queue->publish, publish);
    queue->event = QUEUE_ARMED;
    atomic_store(&queue->armed, true);
    return 0;
}

static void co_stop(void *arg)
{
    co_queue_stop(arg);
}

static int stop(struct hws_queue *queue, struct hws_error *err)
{
    int r = lib_thread_run(co_stop, queue->thread, err);
    if (r < 0)
        return r;
    rt_doorbell_free(queue->doorbell);
    lib_unuse();
    return 0;
}

static int check(const struct hws_queue *queue)
{
    return 0;
}

/* ---- use ---- */

static void submit(struct hws_queue *queue, struct queue_slot *first)
{
    struct queue_slot *newest = NULL, *oldest = first;
    for (struct queue_slot *slot = first, *next; slot; slot = next) {
        next = slot->next;
        slot->next = newest;
        newest = slot;
    }
    struct queue_slot *before = atomic_load_explicit(&queue->inbox, memory_order_relaxed);
    do
        oldest->next = before;
    while (!atomic_compare_exchange_weak(&queue->inbox, &before, newest));
    if (!before)
        rt_doorbell_ring(queue->thread, queue->doorbell);
}

static void take_done(struct hws_queue *queue)
{
    if (!atomic_load_explicit(&queue->done, memory_order_relaxed))
        return;
    struct queue_slot *slot = atomic_exchange(&queue->done, NULL), *oldest = NULL, *next;
    for (; slot; slot = next) {
        next = slot->next;
        slot->next = oldest;
        oldest = slot;
    }
    for (slot = oldest; slot; slot = next) {
        next = slot->next;
        queue_ready(queue, slot);
    }
}

/* Has the thread written to the descriptor since it was armed, or is about to? */
static bool is_signalled(struct hws_queue *queue)
{
    return queue->event == QUEUE_READABLE ||
           (queue->event == QUEUE_ARMED && !atomic_load(&queue->armed));
}

/* Arms the event, unless something is there to be fetched: then it is in `ready`. */
static void arm(struct hws_queue *queue)
{
    while (!queue->ready) {
        if (queue->event == QUEUE_ARMED && atomic_load(&queue->armed))
            return;
        if (is_signalled(queue))
            queue_event_clear(queue);
        queue->event = QUEUE_ARMED;
        atomic_store(&queue->armed, true);
        if (!atomic_load(&queue->done))
            return;
        take_done(queue);
    }
}

static void mark(struct hws_queue *queue)
{
    if (!queue->ready || is_signalled(queue))
        return;
    /* There is more to fetch, and nobody has said so. */
    if (queue->event == QUEUE_ARMED && !atomic_exchange(&queue->armed, false))
        return; /* the thread has, just now */
    queue->event = QUEUE_READABLE;
    queue_event_set(queue);
}

static int wait_event(struct hws_queue *queue, int64_t timeout_ns)
{
    struct pollfd event = {.fd = queue->event_fd, .events = POLLIN};
    struct timespec timeout = {.tv_sec = timeout_ns / 1000000000,
                               .tv_nsec = timeout_ns % 1000000000};
    int n = ppoll(&event, 1, timeout_ns < 0 ? NULL : &timeout, NULL);
    if (n < 0)
        return -errno;
    if (n > 0) {
        queue_event_clear(queue);
        queue->event = QUEUE_CLEAR;
    }
    return n;
}

static int collect(struct hws_queue *queue, int64_t timeout_ns)
{
    struct timespec now;
    int64_t deadline_ns = 0;
    for (;;) {
        take_done(queue);
        if (queue->ready || timeout_ns == 0)
            return 0;
        arm(queue);
        if (queue->ready)
            return 0;
        /* A wake-up may be about something that was fetched already. */
        clock_gettime(CLOCK_MONOTONIC, &now);
        int64_t now_ns = now.tv_sec * 1000000000ll + now.tv_nsec;
        if (timeout_ns > 0 && deadline_ns == 0)
            deadline_ns = timeout_ns > INT64_MAX - now_ns ? INT64_MAX : now_ns + timeout_ns;
        if (timeout_ns > 0 && now_ns >= deadline_ns)
            return 0;
        int r = wait_event(queue, timeout_ns < 0 ? -1 : deadline_ns - now_ns);
        if (r < 0)
            return r;
    }
}

static int descriptor(struct hws_queue *queue)
{
    return queue->event_fd;
}

/* ---- buffers ---- */

struct buffers_call {
    const struct iovec *buffers;
    unsigned count;
    struct co *waiter;
};

static void co_register(void *arg)
{
    struct buffers_call *call = arg;
    if (call->count)
        rt_buffers_register(call->buffers, call->count);
    else
        rt_buffers_forget();
    co_wake(call->waiter);
}

struct hand_over {
    struct hws_queue *queue;
    struct buffers_call call;
    int result;
};

static void co_hand_over(void *arg)
{
    struct hand_over *over = arg;
    over->call.waiter = co_self();
    over->result = rt_spawn(over->queue->thread, co_register, &over->call);
    if (over->result == 0)
        co_suspend();
}

static int buffers(struct hws_queue *queue, const struct iovec *iov, unsigned count)
{
    struct hand_over over = {.queue = queue, .call = {.buffers = iov, .count = count}};
    int r = lib_thread_run(co_hand_over, &over, NULL);
    return r < 0 ? r : over.result;
}

const struct queue_way queue_with_thread = {
    .start = start,
    .stop = stop,
    .check = check,
    .submit = submit,
    .collect = collect,
    .arm = arm,
    .mark = mark,
    .descriptor = descriptor,
    .buffers = buffers,
};
