/*
 * Copying inside a chain that is in use; see job/live/copier.h.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "job/live/copier.h"

#define REQUESTS         4u
#define REQUESTS_MAX     16u
#define LOOK_NS          ((uint64_t)50000000) /* between two looks of a worker that waits */
#define BUFFER_ALIGNMENT 4096                 /* fits every O_DIRECT device */

void copier_init(struct copier *c)
{
    range_lock_init(&c->gate.ranges);
    co_mutex_init(&c->take);
    rt_mutex_init(&c->guard);
    co_group_init(&c->workers);
    c->unit = MAX(c->unit, (uint64_t)4096);
    c->piece_bytes = MAX(COPIER_PIECE_BYTES, c->unit);
}

void copier_destroy(struct copier *c)
{
    range_lock_destroy(&c->gate.ranges);
    co_mutex_destroy(&c->take);
    rt_mutex_destroy(&c->guard);
    co_group_destroy(&c->workers);
}

/* ---- how it ends ---- */

/* @node NULL: no memory, or cancelled. */
static void fail(struct copier *c, int error, const struct block_node *node, uint64_t offset)
{
    rt_mutex_lock(&c->guard);
    if (c->error == 0) {
        c->error = error;
        c->error_node = node;
        c->error_offset = offset;
    }
    rt_mutex_unlock(&c->guard);
    atomic_store(&c->ended, true);
}

static bool has_ended(struct copier *c)
{
    if (atomic_load_explicit(&c->job->control->cancel, memory_order_relaxed))
        fail(c, -ECANCELED, NULL, 0);
    return atomic_load_explicit(&c->ended, memory_order_relaxed);
}

int copier_verdict(struct copier *c, struct hws_error *err)
{
    rt_mutex_lock(&c->guard);
    int r = c->error;
    rt_mutex_unlock(&c->guard);
    if (r == 0)
        return 0;
    if (!c->error_node)
        return hws_fail_errno(err, -r, "merging layers of '%.300s'", block_filename(c->from));
    return hws_fail_errno(err, -r, "%s '%.300s' at offset %llu",
                          c->error_node == c->to ? "writing" : "reading",
                          block_filename(c->error_node), (unsigned long long)c->error_offset);
}

/* ---- one range ---- */

static int co_copy_data(struct copier *c, uint64_t at, size_t length, uint8_t *buffer)
{
    struct iovec iov;
    const struct block_node *failed = c->from;
    int r = co_block_read(c->from, at, sgl_one(&iov, buffer, length), 0);
    if (r == 0) {
        failed = c->to;
        r = co_block_write(c->to, at, sgl_one(&iov, buffer, length), 0);
    }
    if (r < 0)
        fail(c, r, failed, at);
    return r;
}

/* @buffer of piece_bytes. @return the bytes moved; where it failed the copier has ended. */
static uint64_t co_copy(struct copier *c, uint64_t at, uint64_t length, uint8_t *buffer)
{
    uint64_t end = at + length, moved = 0;
    while (at < end) {
        const struct block_node *failed = c->from;
        enum copier_step step;
        int r = c->co_step(c, at, end - at, &length, &step, &failed);
        if (r < 0) {
            fail(c, r, failed, at);
            break;
        }
        if (step == STEP_DATA) {
            /* Whole units: the target would fetch the rest of one anyway. */
            uint64_t limit = MIN(end, block_size(c->from));
            length = MIN(MIN(align_up(at + length, c->unit), limit) - at, c->piece_bytes);
            r = co_copy_data(c, at, (size_t)length, buffer);
            moved += length;
        } else if (step == STEP_ZERO) {
            r = co_block_write_zeroes(c->to, at, length, c->zero_flags);
            if (r < 0)
                fail(c, r, c->to, at);
        }
        if (r < 0)
            break;
        at += length;
    }
    return moved;
}

static uint8_t *buffer_new(struct copier *c)
{
    uint8_t *buffer = aligned_alloc(BUFFER_ALIGNMENT, c->piece_bytes);
    if (!buffer)
        fail(c, -ENOMEM, NULL, 0);
    return buffer;
}

void co_copier_range(struct copier *c, uint64_t offset, uint64_t length)
{
    autofree uint8_t *buffer = length ? buffer_new(c) : NULL;
    if (buffer)
        co_copy(c, offset, length, buffer);
}

void co_copier_mirror(struct block_gate *gate, uint64_t offset, uint64_t length,
                      const struct sgl *data)
{
    struct copier *c = (struct copier *)gate;
    uint64_t behind = MIN(atomic_load(&c->cursor), c->end);
    if (offset >= behind || atomic_load_explicit(&c->ended, memory_order_relaxed))
        return;
    length = MIN(length, behind - offset);
    if (!data) {
        co_copier_range(c, offset, length);
        return;
    }
    int r = co_block_write(c->to, offset, sgl_slice(*data, 0, (size_t)length), 0);
    if (r < 0)
        fail(c, r, c->to, offset);
}

/* ---- workers ---- */

/* Every byte takes its time after the one before, whoever moved it. */
static void co_pace(struct copier *c, uint64_t bytes)
{
    struct live_control *control = c->job->control;
    uint64_t rate = atomic_load(&control->rate_bytes), now = rt_now_ns();
    atomic_fetch_add(&control->moved_bytes, bytes);
    if (!rate || !bytes)
        return;
    rt_mutex_lock(&c->guard);
    c->paced_ns = MAX(c->paced_ns, now) + (uint64_t)((double)bytes / (double)rate * 1e9);
    uint64_t until = c->paced_ns;
    rt_mutex_unlock(&c->guard);
    /* A new rate counts at once. */
    while (!has_ended(c) && atomic_load(&control->rate_bytes) == rate &&
           (now = rt_now_ns()) < until)
        co_sleep_ns(MIN(until - now, LOOK_NS));
    rt_mutex_lock(&c->guard);
    if (atomic_load(&control->rate_bytes) != rate)
        c->paced_ns = now;
    rt_mutex_unlock(&c->guard);
}

static void co_wait_paused(struct copier *c)
{
    while (!has_ended(c) && atomic_load_explicit(&c->job->control->pause, memory_order_relaxed))
        co_sleep_ns(LOOK_NS);
}

/* How far there is nothing to do, by a look without a lock: only to choose the piece. */
static uint64_t co_look_ahead(struct copier *c, uint64_t at)
{
    uint64_t limit = MIN(c->end, at + COPIER_HOLE_BYTES), end = at, length;
    enum copier_step step = STEP_NONE;
    const struct block_node *failed;
    while (end < limit && c->co_step(c, end, limit - end, &length, &step, &failed) == 0 &&
           step == STEP_NONE)
        end += length;
    uint64_t whole = end < c->end ? align_down(end, c->unit) : end;
    if (whole > at)
        return whole - at;
    return MIN(align_down(at, c->piece_bytes) + c->piece_bytes, c->end) - at;
}

static bool co_take(struct copier *c, uint64_t *ret_at, uint64_t *ret_length)
{
    co_mutex_lock(&c->take);
    uint64_t at = atomic_load(&c->cursor);
    bool more = at < c->end && !has_ended(c);
    if (more) {
        *ret_at = at;
        *ret_length = co_look_ahead(c, at);
        atomic_store(&c->cursor, at + *ret_length);
    }
    co_mutex_unlock(&c->take);
    return more;
}

static void co_worker(void *arg)
{
    struct copier *c = arg;
    autofree uint8_t *buffer = buffer_new(c);
    uint64_t at, length;
    while (buffer && (co_wait_paused(c), co_take(c, &at, &length))) {
        struct range_entry entry;
        if (c->gated)
            co_range_lock(&c->gate.ranges, &entry, at, length, true);
        uint64_t moved = co_copy(c, at, length, buffer);
        if (c->gated)
            range_unlock(&c->gate.ranges, &entry);
        co_pace(c, moved);
        atomic_fetch_add(&c->job->control->done_bytes, length);
    }
    co_group_done(&c->workers);
}

int co_copier_run(struct copier *c, struct hws_error *err)
{
    struct live_control *control = c->job->control;
    unsigned requests = c->job->requests ? MIN(c->job->requests, REQUESTS_MAX) : REQUESTS;
    struct rt_queue *queue = NULL;
    atomic_store(&control->total_bytes, c->end);
    atomic_store(&control->phase, LIVE_COPYING);
    if (rt_queue_start(rt_current(), "job", &queue, NULL) < 0)
        queue = NULL; /* then it is the controlling thread's work */
    for (unsigned i = 0; i < requests; i++) {
        co_group_add(&c->workers, 1);
        if (rt_spawn(queue, co_worker, c) < 0) {
            co_group_done(&c->workers);
            if (i == 0)
                fail(c, -ENOMEM, NULL, 0);
            break;
        }
    }
    co_group_wait(&c->workers);
    if (queue)
        co_queue_stop(queue);
    return copier_verdict(c, err);
}

int co_copier_hold(struct copier *c, struct hws_error *err)
{
    struct live_control *control = c->job->control;
    atomic_store(&control->phase, LIVE_WAITING);
    while (atomic_load(&control->hold) && !has_ended(c))
        co_sleep_ns(LOOK_NS);
    if (has_ended(c))
        return copier_verdict(c, err);
    atomic_store(&control->phase, LIVE_SWITCHING);
    return c->job->co_prepare ? c->job->co_prepare(c->job->arg, err) : 0;
}

/* ---- what commit and stream check alike ---- */

unsigned live_depth(const struct block_node *upper, const struct block_node *base)
{
    unsigned depth = 0;
    for (; upper && upper != base; upper = block_child(upper, BLOCK_BACKING))
        depth++;
    return upper || !base ? depth : 0;
}

struct block_node *live_above(const struct live_job *job, const struct block_node *node)
{
    struct block_node *above = block_root_node(job->root);
    if (above == node)
        return NULL;
    while (block_child(above, BLOCK_BACKING) != node)
        above = block_child(above, BLOCK_BACKING);
    return above;
}

int co_live_refuse_snapshots(struct block_node *from, const struct block_node *to,
                             struct hws_error *err)
{
    for (; from && from != to; from = block_child(from, BLOCK_BACKING)) {
        struct block_snapshot *snapshots;
        size_t count;
        int r = co_block_snapshots(from, &snapshots, &count, err);
        if (r < 0)
            return r;
        block_snapshots_free(snapshots, count);
        if (count)
            return hws_fail(err, ENOTSUP,
                            "'%.200s' has %zu internal snapshots, which would be lost: delete "
                            "them first",
                            block_filename(from), count);
    }
    return 0;
}
