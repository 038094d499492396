/*
 * hws_bench(): requests of one size and depth against an image, timed.
 *
 *   depth coroutines on one thread; each takes the next number and sends that request
 *   a flush with a drain: the requests up to it are one round, and it comes when all are answered
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "lib/call.h"
#include "rt/sync.h"

#define DEPTH        64u
#define DEPTH_MAX    65536u
#define BUFFER_BYTES 4096u
#define ALIGNMENT    4096

struct bench {
    const struct hws_image *image;
    struct hws_bench how;
    struct hws_benched *ret;
    struct block_node *node;
    uint8_t *buffer;          /* one of `depth` a coroutine */
    uint64_t next, round_end; /* numbers of requests */
    unsigned started;         /* coroutines of this round */
    int error;                /* the first one */
    uint64_t error_offset;
    struct co_group group;
};

static uint64_t offset_of(const struct bench *b, uint64_t number)
{
    uint64_t room = block_size(b->node) - b->how.buffer_bytes;
    uint64_t step = b->how.step_bytes, places = (room - MIN(room, b->how.offset)) / step + 1;
    if (number < places)
        return b->how.offset + number * step;
    return (number - places) % (room / step + 1) * step;
}

static int co_request(struct bench *b, uint64_t offset, uint8_t *buffer)
{
    struct iovec iov;
    struct sgl bytes = sgl_one(&iov, buffer, b->how.buffer_bytes);
    return b->how.write ? co_block_write(b->node, offset, bytes, 0)
                        : co_block_read(b->node, offset, bytes, 0);
}

static int co_flush(struct bench *b)
{
    b->ret->flushes++;
    return co_block_flush(b->node);
}

static void co_worker(void *arg)
{
    struct bench *b = arg;
    uint8_t *buffer = b->buffer + (size_t)b->started++ * align_up(b->how.buffer_bytes, ALIGNMENT);
    while (b->next < b->round_end && b->error == 0) {
        uint64_t number = b->next++, offset = offset_of(b, number);
        int r = co_request(b, offset, buffer);
        if (r == 0 && b->how.no_drain && b->how.flush_interval &&
            (number + 1) % b->how.flush_interval == 0)
            r = co_flush(b);
        if (r < 0 && b->error == 0) {
            b->error = r;
            b->error_offset = offset;
        }
    }
    co_group_done(&b->group);
}

/* Requests up to number @end, and all of their answers. */
static void co_round(struct bench *b, uint64_t end)
{
    b->round_end = end;
    b->started = 0;
    uint64_t workers = MIN((uint64_t)b->how.depth, end - b->next);
    for (uint64_t i = 0; i < workers && b->error == 0; i++) {
        co_group_add(&b->group, 1);
        int r = rt_spawn(NULL, co_worker, b);
        if (r < 0) {
            b->error = r;
            co_group_done(&b->group);
        }
    }
    co_group_wait(&b->group);
}

static int co_measure(struct bench *b, struct hws_error *err)
{
    bool drains = b->how.write && b->how.flush_interval && !b->how.no_drain;
    co_group_init(&b->group);
    uint64_t started = rt_now_ns();
    while (b->next < b->how.count && b->error == 0) {
        uint64_t left = b->how.count - b->next;
        uint64_t round = drains ? MIN(left, b->how.flush_interval) : left;
        co_round(b, b->next + round);
        if (b->error == 0 && drains && round == b->how.flush_interval)
            b->error = co_flush(b);
    }
    b->ret->time_ns = rt_now_ns() - started;
    b->ret->requests = b->next;
    b->ret->bytes = b->next * b->how.buffer_bytes;
    co_group_destroy(&b->group);
    if (b->error < 0)
        return hws_fail_errno(err, -b->error, "'%.300s': request at offset %llu", b->image->path,
                              (unsigned long long)b->error_offset);
    return 0;
}

static int check(const struct bench *b, struct hws_error *err)
{
    const struct hws_bench *how = &b->how;
    if (block_size(b->node) < how->buffer_bytes)
        return hws_fail(err, EINVAL, "'%.300s' has %llu bytes, less than a request of %u",
                        b->image->path, (unsigned long long)block_size(b->node), how->buffer_bytes);
    if (how->offset > block_size(b->node) - how->buffer_bytes)
        return hws_fail(err, EINVAL, "a request at offset %llu does not lie in the image",
                        (unsigned long long)how->offset);
    if (how->depth > DEPTH_MAX)
        return hws_fail(err, EINVAL, "up to %u requests may be in flight", DEPTH_MAX);
    if (how->flush_interval && !how->write)
        return hws_fail(err, EINVAL, "flushes are for requests that write");
    if (how->flush_interval && how->flush_interval < how->depth && !how->no_drain)
        return hws_fail(err, EINVAL,
                        "a flush every %llu requests leaves no %u of them in flight: a larger "
                        "interval, a smaller depth, or no drain",
                        (unsigned long long)how->flush_interval, how->depth);
    return 0;
}

static int co_bench(void *arg, struct hws_error *err)
{
    struct bench *b = arg;
    int r = co_call_open(b->image, b->how.write ? BLOCK_OPEN_WRITE : 0, &b->node, err);
    if (r < 0)
        return r;
    r = check(b, err);
    if (r == 0) {
        size_t bytes = (size_t)b->how.depth * align_up(b->how.buffer_bytes, ALIGNMENT);
        b->buffer = aligned_alloc(ALIGNMENT, bytes);
        if (b->buffer)
            memset(b->buffer, b->how.pattern, bytes);
        else
            r = hws_fail(err, ENOMEM, "no memory for %u buffers of %u bytes", b->how.depth,
                         b->how.buffer_bytes);
    }
    if (r == 0)
        r = co_measure(b, err);
    free(b->buffer);
    return co_call_close(b->node, r, err);
}

int hws_bench(const struct hws_image *image, const struct hws_bench *bench, struct hws_benched *ret,
              struct hws_error *err)
{
    struct bench b = {.image = image, .how = *bench, .ret = ret};
    *ret = (struct hws_benched){0};
    b.how.depth = bench->depth ? bench->depth : DEPTH;
    b.how.buffer_bytes = bench->buffer_bytes ? bench->buffer_bytes : BUFFER_BYTES;
    b.how.step_bytes = bench->step_bytes ? bench->step_bytes : b.how.buffer_bytes;
    return call_run(co_bench, &b, err);
}
