/*
 * Queues whose work is done inside calls of the thread that made them, on the queue of the runtime
 * that the thread lends (lib/thread.h). All of that thread's blocking calls serve them too.
 *
 * The descriptor that others poll is an epoll over what wakes the thread's work (its ring, its
 * timer) and an event descriptor, which says that something has completed and was not fetched.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "lib/queue.h"
#include <poll.h>
#include <sys/epoll.h>
#include <time.h>

/* Has the descriptor tell whether something is ready. */
static void mark(struct hws_queue *queue)
{
    bool readable = queue->event == QUEUE_READABLE;
    if (!queue->fd_used || readable == (queue->ready != NULL))
        return;
    queue->event = readable ? QUEUE_CLEAR : QUEUE_READABLE;
    if (readable)
        queue_event_clear(queue);
    else
        queue_event_set(queue);
}

static void finish(struct hws_queue *queue, struct queue_slot *slot)
{
    queue_ready(queue, slot);
    queue->running--;
    queue->something = true;
    if (unlikely(!queue->inside))
        mark(queue);
}

static void co_slot(void *arg)
{
    struct queue_slot *slot = arg;
    co_queue_request(slot);
    finish(slot->queue, slot);
}

/* ---- inside ---- */

static void enter(struct hws_queue *queue)
{
    queue->inside = true;
    lib_thread_enter(queue->caller);
}

static void leave(struct hws_queue *queue)
{
    lib_thread_leave(queue->caller);
    queue->inside = false;
}

static bool has_ended(const struct hws_queue *queue)
{
    return atomic_load(&queue->caller->ended);
}

/* ---- life ---- */

static int start(struct hws_queue *queue, struct hws_error *err)
{
    struct lib_thread *thread;
    int r = lib_thread_get(&thread, err);
    if (r < 0)
        return r;
    queue->caller = lib_thread_ref(thread);
    queue->event = QUEUE_CLEAR;
    return 0;
}

static int stop(struct hws_queue *queue, struct hws_error *err)
{
    if (queue->running > 0) {
        enter(queue);
        while (queue->running > 0) {
            queue->something = false;
            rt_lent_serve(queue->caller->queue, &queue->something);
        }
        leave(queue);
    }
    if (queue->poll_fd >= 0)
        close(queue->poll_fd);
    lib_thread_put(queue->caller);
    return 0;
}

static int check(const struct hws_queue *queue)
{
    return lib_thread_is_ours(queue->caller) ? 0 : -EPERM;
}

/* ---- use ---- */

static void submit(struct hws_queue *queue, struct queue_slot *first)
{
    struct queue_slot *next;
    bool ended = has_ended(queue);
    if (!ended)
        enter(queue);
    for (struct queue_slot *slot = first; slot; slot = next) {
        next = slot->next;
        queue->running++;
        int r = ended ? -ECANCELED : rt_spawn(NULL, co_slot, slot);
        if (likely(r == 0))
            continue;
        slot->result = r;
        finish(queue, slot);
    }
    if (ended)
        return;
    rt_lent_serve_ready(queue->caller->queue);
    leave(queue);
    mark(queue);
}

static void serve_ready(struct hws_queue *queue)
{
    enter(queue);
    rt_lent_serve_ready(queue->caller->queue);
    leave(queue);
}

static int open_poll(struct hws_queue *queue)
{
    if (queue->poll_fd >= 0)
        return 0;
    if (has_ended(queue))
        return -EPERM;
    int r = lib_thread_use_timer(queue->caller);
    if (r < 0)
        return r;
    r = rt_lent_descriptor(queue->caller->queue);
    if (r < 0)
        return r;
    const int watched[] = {r, queue->caller->timer_fd, queue->event_fd};
    int fd = epoll_create1(EPOLL_CLOEXEC);
    if (fd < 0)
        return -errno;
    for (unsigned i = 0; i < ARRAY_LEN(watched); i++) {
        struct epoll_event event = {.events = EPOLLIN};
        if (epoll_ctl(fd, EPOLL_CTL_ADD, watched[i], &event)) {
            r = -errno;
            close(fd);
            return r;
        }
    }
    queue->poll_fd = fd;
    /* It learns of what waits already. */
    serve_ready(queue);
    return 0;
}

static int wait_until(struct hws_queue *queue, int64_t timeout_ns)
{
    uint64_t now = rt_now_ns(), deadline;
    if (add_overflows(now, (uint64_t)timeout_ns, &deadline))
        deadline = UINT64_MAX;
    int r = open_poll(queue);
    while (r >= 0 && !queue->ready && (now = rt_now_ns()) < deadline) {
        struct pollfd event = {.fd = queue->poll_fd, .events = POLLIN};
        struct timespec left = {.tv_sec = (time_t)((deadline - now) / 1000000000),
                                .tv_nsec = (long)((deadline - now) % 1000000000)};
        r = ppoll(&event, 1, &left, NULL) < 0 ? -errno : 0;
        serve_ready(queue);
    }
    return r < 0 ? r : 0;
}

static int collect(struct hws_queue *queue, int64_t timeout_ns)
{
    if (has_ended(queue))
        return 0;
    if (timeout_ns >= 0) {
        serve_ready(queue);
        return queue->ready || timeout_ns == 0 ? 0 : wait_until(queue, timeout_ns);
    }
    enter(queue);
    queue->something = false;
    rt_lent_serve(queue->caller->queue, &queue->something);
    leave(queue);
    return 0;
}

static void arm(struct hws_queue *queue)
{
}

static int descriptor(struct hws_queue *queue)
{
    int r = open_poll(queue);
    return r < 0 ? r : queue->poll_fd;
}

static int buffers(struct hws_queue *queue, const struct iovec *iov, unsigned count)
{
    if (has_ended(queue))
        return -EPERM;
    enter(queue);
    if (count)
        rt_buffers_register(iov, count);
    else
        rt_buffers_forget();
    leave(queue);
    return 0;
}

const struct queue_way queue_with_caller = {
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
