/*
 * The transport that every kernel has: a request is one read(2) of /dev/fuse, its answer one
 * write(2). The calls go straight to the kernel, not through the ring: both only copy, neither
 * waits, and a ring would add a submission to each (docs/performance.md has the figures).
 *
 * Each worker coroutine owns a buffer. One of them, the leader, reads; as soon as it has a request
 * it gives the lead away and serves the request itself. When serving needs no wait, as with data in
 * the page cache, the same coroutine goes on to read the next request, and nobody else has run:
 *
 *   leader:  read -> (lead free) -> serve -> write -> read -> ... -> nothing there: wait for POLLIN
 *   others:  take the lead when the leader sleeps inside a request
 *
 * A buffer holds the headers right below a page boundary, so that data is page-aligned and an
 * answer is one contiguous piece:
 *
 *   | ...unused... in_header 40 | read/write_in 40 ||  data, up to 1 MiB  |
 *   | ...................... out_header 16         ||  answer             |
 *
 * Untouched pages cost no memory. When a thread has nothing to do, what large requests touched is
 * given back.
 *
 * Thread: the channel's queue. With several channels any of them may read any request; its answer
 * goes to the descriptor that it was read from.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "export/fuse/internal.h"
#include <sys/epoll.h>
#include <sys/mman.h>

#define HEAD_BYTES      (sizeof(struct fuse_in_header) + sizeof(struct fuse_write_in))
#define SLOT_LEAD_BYTES 4096
#define SLOT_BYTES      (SLOT_LEAD_BYTES + (size_t)FUSE_PAYLOAD_BYTES)

/** Of each buffer, this much stays after a rest; buffers that grew beyond are trimmed. */
#define SLOT_KEEP_BYTES 16384
#define REST_NS         ((uint64_t)1000000000)

/** While every poll yields one request, only every so often a second read is tried before polling.
 */
#define LONELY_PROBE 8

struct worker {
    struct fuse_device *device;
    struct list node; /* in `idle` */
    struct co *co;
    uint8_t *payload;
    bool fat; /* touched more than SLOT_KEEP_BYTES since the last rest */
};

struct fuse_device {
    struct fuse_channel *channel;
    uint8_t *slots; /* FUSE_WORKERS_MAX buffers in one mapping */
    unsigned worker_count, alive;
    struct worker worker[FUSE_WORKERS_MAX];
    struct worker *leader;
    bool heir_woken; /* a worker was made runnable to take the lead, and has not run yet */
    struct list idle;
    bool over; /* the connection is gone */
    bool any_fat;
    struct fuse_follow follow;
    uint32_t last_pid;
    unsigned burst, last_burst,
        lonely; /* requests since the last poll, before it; see read_is_worth_it */
};

static void co_worker(void *arg);

/* ---- the lead ---- */

static void co_take_lead(struct worker *w)
{
    struct fuse_device *d = w->device;
    while (d->leader && !d->over) {
        list_push_front(&d->idle, &w->node); /* the buffer used last is warm: it goes next */
        co_suspend();
        d->heir_woken = false;
    }
    if (!d->over)
        d->leader = w;
}

/* Wakes or makes the worker that leads on if the caller sleeps while it serves. */
static void give_lead(struct fuse_device *d)
{
    d->leader = NULL;
    if (d->heir_woken)
        return;
    struct list *node = list_pop_front(&d->idle);
    if (node) {
        d->heir_woken = true;
        co_wake(list_entry(node, struct worker, node)->co);
    } else if (d->worker_count < FUSE_WORKERS_MAX) {
        struct worker *w = &d->worker[d->worker_count];
        if (rt_spawn(NULL, co_worker, w) == 0) {
            d->heir_woken = true;
            d->worker_count++;
            d->alive++;
        }
    }
}

static void finish(struct fuse_device *d)
{
    struct list *node;
    d->over = true;
    d->leader = NULL;
    while ((node = list_pop_front(&d->idle)))
        co_wake(list_entry(node, struct worker, node)->co);
}

/* ---- reading ---- */

static void trim(struct fuse_device *d)
{
    for (unsigned i = 0; i < d->worker_count; i++) {
        struct worker *w = &d->worker[i];
        bool idle = !list_empty(&w->node) || d->leader == w;
        if (!w->fat || !idle)
            continue;
        (void)madvise(w->payload + SLOT_KEEP_BYTES, FUSE_PAYLOAD_BYTES - SLOT_KEEP_BYTES,
                      MADV_DONTNEED);
        w->fat = false;
    }
    d->any_fat = false;
}

/*
 * A read that finds nothing costs a system call. A lone synchronous user never has a second request
 * ready, so while polls bring one request each, the second read is left out most times.
 */
static bool read_is_worth_it(struct fuse_device *d)
{
    if (d->burst == 0 || d->last_burst > 1 || d->burst > 1)
        return true;
    return ++d->lonely % LONELY_PROBE == 0;
}

static int co_wait_readable(struct fuse_device *d)
{
    if (d->burst == 1 && !d->channel->export->over_ring)
        fuse_follow_one(&d->follow, d->last_pid);
    else if (d->burst > 1)
        fuse_follow_many(&d->follow);
    /* exclusive: one request wakes one thread, not all */
    const unsigned events = EPOLLIN | EPOLLEXCLUSIVE;
    int r;
    d->last_burst = d->burst;
    d->burst = 0;
    if (d->any_fat) {
        r = co_poll_timeout(d->channel->fd, events, REST_NS);
        if (r != 0)
            return r;
        trim(d);
    }
    return co_poll(d->channel->fd, events);
}

/* @return bytes of the request in the buffer of @w, or -errno when the connection is over. */
static ssize_t co_next_request(struct worker *w)
{
    struct fuse_device *d = w->device;
    for (;;) {
        if (read_is_worth_it(d)) {
            ssize_t n =
                read(d->channel->fd, w->payload - HEAD_BYTES, HEAD_BYTES + FUSE_PAYLOAD_BYTES);
            if (n >= 0) {
                d->burst++;
                return n;
            }
            if (errno == EINTR || errno == ENOENT) /* ENOENT: its sender took it back */
                continue;
            if (errno != EAGAIN)
                return -errno;
        }
        int r = co_wait_readable(d);
        if (r < 0 && r != -EINTR)
            return r;
    }
}

/* ---- one request ---- */

static void send_answer(struct worker *w, const struct fuse_request *request)
{
    struct fuse_out_header *out = (void *)(w->payload - sizeof(struct fuse_out_header));
    *out = (struct fuse_out_header){
        .length = (uint32_t)(sizeof(*out) + request->answer_bytes),
        .error = request->error,
        .unique = request->header.unique,
    };
    /* ENOENT: the sender was killed meanwhile. ENODEV and the like show up at the next read. */
    ssize_t n;
    do {
        n = write(w->device->channel->fd, out, out->length);
    } while (n < 0 && errno == EINTR);
}

static void co_handle(struct worker *w, size_t length)
{
    struct fuse_export *export = w->device->channel->export;
    const uint8_t *start = w->payload - HEAD_BYTES;
    struct fuse_request request = {.payload = w->payload};
    if (length < sizeof(request.header))
        return; /* not even an identity to answer to */
    memcpy(&request.header, start, sizeof(request.header));
    w->device->last_pid = request.header.pid;
    request.fixed = start + sizeof(request.header);
    request.fixed_bytes = length - sizeof(request.header);
    request.payload_bytes = length > HEAD_BYTES ? length - HEAD_BYTES : 0;
    co_fuse_serve(export, &request);
    if (MAX(request.payload_bytes, request.answer_bytes) > SLOT_KEEP_BYTES)
        w->fat = w->device->any_fat = true;
    if (!request.no_answer)
        send_answer(w, &request);
    if (request.header.opcode == FUSE_INIT && export->negotiated)
        fuse_export_became_ready(export, 0);
}

static void co_worker(void *arg)
{
    struct worker *w = arg;
    struct fuse_device *d = w->device;
    w->co = co_self();
    if (w == d->worker)
        fuse_affinity_init(&d->follow.affinity);
    d->heir_woken = false;
    for (;;) {
        co_take_lead(w);
        if (d->over)
            break;
        ssize_t n = co_next_request(w);
        if (n < 0) {
            finish(d);
            break;
        }
        atomic_fetch_add_explicit(&d->channel->requests, 1, memory_order_relaxed);
        give_lead(d);
        co_handle(w, (size_t)n);
    }
    if (--d->alive == 0)
        fuse_export_has_ended(d->channel->export);
}

/* ---- life ---- */

int fuse_device_start(struct fuse_channel *channel)
{
    struct fuse_device *d = calloc(1, sizeof(*d));
    if (!d)
        return -ENOMEM;
    d->slots = mmap(NULL, FUSE_WORKERS_MAX * SLOT_BYTES, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (d->slots == MAP_FAILED) {
        free(d);
        return -ENOMEM;
    }
    (void)madvise(d->slots, FUSE_WORKERS_MAX * SLOT_BYTES, MADV_NOHUGEPAGE);
    d->channel = channel;
    list_init(&d->idle);
    for (unsigned i = 0; i < FUSE_WORKERS_MAX; i++) {
        struct worker *w = &d->worker[i];
        w->device = d;
        w->payload = d->slots + i * SLOT_BYTES + SLOT_LEAD_BYTES;
        list_init(&w->node);
    }
    d->worker_count = d->alive = 1;
    channel->device = d;
    int r = rt_spawn(channel->queue, co_worker, &d->worker[0]);
    if (r < 0)
        fuse_device_free(channel);
    return r;
}

void fuse_device_free(struct fuse_channel *channel)
{
    if (!channel->device)
        return;
    (void)munmap(channel->device->slots, FUSE_WORKERS_MAX * SLOT_BYTES);
    free(steal_ptr(&channel->device));
}
