/*
 * Queues of requests that do not block: the user's side; see hawser/queue.h and lib/queue.h.
 *
 * Slots are allocated with the queue; nothing is for a request but its coroutine's stack, which the
 * runtime keeps.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "lib/queue.h"
#include <limits.h>
#include <sys/eventfd.h>

#define DEPTH 128u

/* ---- what both ways use ---- */

void co_queue_request(struct queue_slot *slot)
{
    struct hws_queue *queue = slot->queue;
    if (unlikely(slot->result < 0))
        return; /* refused when it was submitted */
    if (unlikely(atomic_load_explicit(&queue->closing, memory_order_relaxed)))
        slot->result = -ECANCELED;
    else
        slot->result = co_disk_request(queue->disk, &slot->request);
}

void queue_ready(struct hws_queue *queue, struct queue_slot *slot)
{
    slot->next = NULL;
    *queue->ready_end = slot;
    queue->ready_end = &slot->next;
}

void queue_event_set(struct hws_queue *queue)
{
    eventfd_write(queue->event_fd, 1);
}

/* Somebody has written to it, or is about to. */
void queue_event_clear(struct hws_queue *queue)
{
    eventfd_t count;
    while (eventfd_read(queue->event_fd, &count) < 0 && errno == EINTR)
        ;
}

/* ---- life ---- */

static void queue_free(struct hws_queue *queue)
{
    if (queue->event_fd >= 0)
        close(queue->event_fd);
    free(queue->slot);
    free(queue);
}

static struct hws_queue *queue_new(struct hws_disk *disk, unsigned depth)
{
    struct hws_queue *queue = aligned_alloc(64, align_up(sizeof(*queue), (size_t)64));
    if (!queue)
        return NULL;
    *queue = (struct hws_queue){.disk = disk, .depth = depth, .poll_fd = -1};
    queue->ready_end = &queue->ready;
    queue->finished_end = &queue->finished;
    queue->slot = calloc(depth, sizeof(*queue->slot));
    queue->event_fd = eventfd(0, EFD_CLOEXEC);
    if (!queue->slot || queue->event_fd < 0) {
        queue_free(queue);
        return NULL;
    }
    for (unsigned i = depth; i-- > 0;) {
        queue->slot[i].queue = queue;
        queue->slot[i].next = queue->free;
        queue->free = &queue->slot[i];
    }
    return queue;
}

int hws_queue_open(struct hws_disk *disk, const struct hws_queue_options *options,
                   struct hws_queue **ret, struct hws_error *err)
{
    struct hws_queue_options how;
    int r = disk_check(disk, err);
    if (r == 0)
        r = lib_take_struct(&how, sizeof(how), options, "hws_queue_options", err);
    if (r < 0)
        return r;
    if (!ret || how.depth > HWS_QUEUE_DEPTH_MAX || (how.flags & ~HWS_QUEUE_CALLER))
        return hws_fail(err, EINVAL,
                        "a queue has a depth of up to %d, the flag HWS_QUEUE_CALLER or none, and a "
                        "place to be told",
                        HWS_QUEUE_DEPTH_MAX);
    struct hws_queue *queue = queue_new(disk, how.depth ? how.depth : DEPTH);
    if (!queue)
        return hws_fail(err, ENOMEM, "no memory, or no descriptor, for a queue");
    queue->way = how.flags & HWS_QUEUE_CALLER ? &queue_with_caller : &queue_with_thread;
    r = queue->way->start(queue, err);
    if (r < 0) {
        queue_free(queue);
        return r;
    }
    atomic_fetch_add(&disk->queues, 1);
    *ret = queue;
    return 0;
}

/* May the calling thread use it? */
static int check(const struct hws_queue *queue)
{
    if (unlikely(!queue))
        return -EINVAL;
    if (unlikely(queue->disk->era != lib_era()))
        return -EPERM;
    if (unlikely(rt_serves()))
        return -EDEADLK;
    return queue->way->check(queue);
}

static int explain(int r, struct hws_error *err)
{
    switch (-r) {
    case EINVAL:
        return hws_fail(err, EINVAL, "the queue is NULL");
    case EDEADLK:
        return hws_fail(err, EDEADLK, "this call was made from a callback of the library");
    default:
        return hws_fail(err, -r, "the queue belongs to another thread, or to the parent of fork()");
    }
}

int hws_queue_close(struct hws_queue *queue, struct hws_error *err)
{
    if (!queue)
        return 0;
    int r = check(queue);
    if (r < 0)
        return explain(r, err);
    atomic_store(&queue->closing, true);
    r = queue->way->stop(queue, err);
    if (r < 0) {
        atomic_store(&queue->closing, false);
        return r;
    }
    atomic_fetch_sub(&queue->disk->queues, 1);
    queue_free(queue);
    return 0;
}

/* ---- use ---- */

int hws_queue_submit(struct hws_queue *queue, const struct hws_request *requests, unsigned count)
{
    int r = check(queue);
    if (unlikely(r < 0))
        return r;
    if (unlikely(!requests && count))
        return -EINVAL;
    struct queue_slot *first = NULL, **end = &first;
    unsigned taken = 0;
    for (; taken < count && queue->free; taken++) {
        struct queue_slot *slot = queue->free;
        queue->free = slot->next;
        slot->tag = requests[taken].tag;
        slot->result = disk_request_check(queue->disk, &requests[taken], &slot->request, NULL);
        *end = slot;
        end = &slot->next;
    }
    *end = NULL;
    queue->pending += taken;
    if (taken)
        queue->way->submit(queue, first);
    return (int)taken;
}

/* Hands out what is ready. */
static unsigned take_ready(struct hws_queue *queue, struct hws_completion *ret, unsigned max)
{
    unsigned count = 0;
    struct queue_slot *slot;
    while (count < max && (slot = queue->ready)) {
        queue->ready = slot->next;
        ret[count++] = (struct hws_completion){.tag = slot->tag, .result = slot->result};
        slot->next = queue->free;
        queue->free = slot;
    }
    if (!queue->ready)
        queue->ready_end = &queue->ready;
    queue->pending -= count;
    return count;
}

static int fetch(struct hws_queue *queue, struct hws_completion *ret, unsigned max,
                 int64_t timeout_ns)
{
    int r = check(queue);
    if (unlikely(r < 0))
        return r;
    if (unlikely(!ret || !max || max > INT_MAX))
        return -EINVAL;
    if (!queue->ready && queue->pending)
        r = queue->way->collect(queue, timeout_ns);
    unsigned count = take_ready(queue, ret, max);
    if (queue->fd_used) {
        while (!queue->ready) {
            queue->way->arm(queue);
            if (!queue->ready || count == max)
                break;
            count += take_ready(queue, ret + count, max - count);
        }
        queue->way->mark(queue);
    }
    return count ? (int)count : r;
}

int hws_queue_reap(struct hws_queue *queue, struct hws_completion *ret, unsigned max)
{
    return fetch(queue, ret, max, 0);
}

int hws_queue_wait(struct hws_queue *queue, struct hws_completion *ret, unsigned max,
                   int64_t timeout_ns)
{
    return fetch(queue, ret, max, timeout_ns);
}

int hws_queue_fd(struct hws_queue *queue)
{
    int r = check(queue);
    if (r < 0)
        return r;
    r = queue->way->descriptor(queue);
    if (r >= 0 && !queue->fd_used) {
        queue->fd_used = true;
        if (!queue->ready)
            queue->way->arm(queue);
        queue->way->mark(queue);
    }
    return r;
}

unsigned hws_queue_pending(const struct hws_queue *queue)
{
    return queue ? queue->pending : 0;
}

int hws_queue_buffers(struct hws_queue *queue, const struct iovec *buffers, unsigned count,
                      struct hws_error *err)
{
    int r = check(queue);
    if (r < 0)
        return explain(r, err);
    if (count > HWS_IOV_MAX || (count && !buffers))
        return hws_fail(err, EINVAL, "up to %d buffers can be registered", HWS_IOV_MAX);
    if (queue->pending)
        return hws_fail(err, EBUSY, "%u requests are in flight", queue->pending);
    r = queue->way->buffers(queue, buffers, count);
    return r < 0 ? hws_fail_errno(err, -r, "cannot register buffers") : 0;
}
