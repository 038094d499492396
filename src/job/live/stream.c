/*
 * Live stream; see job/live/live.h.
 *
 *    upper    |AAAA|    |    |    |         |AAAA|BBBB|    |0000|
 *    between  |....|BBBB|    |0000|    ->
 *    base     |....|....|CCCC|CCCC|         |....|....|CCCC|CCCC|
 *
 * The upper layer gets only what it has not got itself, so that it reads the same throughout. Where
 * it is the top, a piece is locked from the look at it until it is written. What the guest changes
 * meanwhile the top has itself, with one exception: what it discards behind the end of a short
 * layer between may become a hole again, through which a longer base would show. That range is
 * gone over once more at the switch.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/log.h"
#include "job/live/copier.h"
#include <limits.h>

struct stream {
    struct copier copier; /* first */
    unsigned base_depth;
};

static int co_step(struct copier *copier, uint64_t at, uint64_t length, uint64_t *ret_length,
                   enum copier_step *ret, const struct block_node **ret_failed)
{
    struct stream *s = (struct stream *)copier;
    struct block_node *base = copier->job->base;
    struct block_extent extent;
    *ret_failed = copier->from;
    int r = co_block_status_chain(copier->from, at, length, &extent);
    if (r < 0)
        return r;
    bool zero = extent.flags & BLOCK_STATUS_ZERO, allocated = extent.flags & BLOCK_STATUS_ALLOCATED;
    *ret_length = extent.length;
    *ret = STEP_NONE;
    if (allocated && (extent.depth == 0 || extent.depth >= s->base_depth))
        return 0;
    if (!zero) {
        *ret = STEP_DATA;
        return 0;
    }
    if (!base || at >= block_size(base))
        return 0;
    /* The base would show through: zeroes of the layer's own, unless it has them too. */
    *ret_failed = base;
    length = MIN(extent.length, block_size(base) - at);
    r = co_block_status_chain(base, at, length, &extent);
    if (r < 0)
        return r;
    *ret_length = extent.length;
    *ret = extent.flags & BLOCK_STATUS_ZERO ? STEP_NONE : STEP_ZERO;
    return 0;
}

int co_live_check_stream(const struct live_job *job, struct hws_error *err)
{
    struct block_node *top = block_root_node(job->root);
    if (live_depth(top, job->upper) == 0 && job->upper != top)
        return hws_fail(err, EINVAL, "'%.200s' is not in the chain", block_filename(job->upper));
    unsigned depth = live_depth(job->upper, job->base);
    if (depth < (job->base ? 2u : 1u) || !block_child(job->upper, BLOCK_BACKING))
        return hws_fail(err, EINVAL, "'%.200s' has no layer below it to take the data of",
                        block_filename(job->upper));
    if (block_is_read_only(top))
        return hws_fail(err, EROFS, "'%.200s' is used read-only", block_filename(top));
    return co_live_refuse_snapshots(job->upper, job->base, err);
}

/* Where a layer that goes is shorter than the base that stays: from there on. */
static uint64_t tail_start(const struct live_job *job)
{
    uint64_t start = UINT64_MAX;
    struct block_node *layer = block_child(job->upper, BLOCK_BACKING);
    for (; layer && layer != job->base; layer = block_child(layer, BLOCK_BACKING))
        start = MIN(start, block_size(layer));
    return start;
}

/* ---- the switch ---- */

static int co_flush_upper(struct live_job *job, struct hws_error *err)
{
    int r = co_block_flush(job->upper);
    return r < 0 ? hws_fail_errno(err, -r, "flushing '%.200s'", block_filename(job->upper)) : 0;
}

static int co_switch_drained(struct stream *s, bool of_top, struct block_node **ret_fallen,
                             struct hws_error *err)
{
    struct live_job *job = s->copier.job;
    uint64_t start = tail_start(job);
    uint64_t end = job->base ? MIN(block_size(job->upper), block_size(job->base)) : 0;
    block_root_set_gate(job->root, NULL);
    if (of_top && start < end)
        co_copier_range(&s->copier, start, end - start);
    int r = copier_verdict(&s->copier, err);
    if (r == 0)
        r = co_flush_upper(job, err);
    if (r == 0 && job->co_switch)
        r = job->co_switch(job->arg, err);
    return r < 0 ? r
                 : co_root_cut(job->root, job->upper, job->base, job->name, job->format, ret_fallen,
                               err);
}

static int co_switch(struct stream *s, bool of_top, struct hws_error *err)
{
    struct live_job *job = s->copier.job;
    struct block_node *fallen = NULL;
    int r = co_flush_upper(job, err); /* most of it goes out while requests still run */
    if (r < 0)
        return r;
    uint64_t started = rt_now_ns();
    co_root_drain(job->root);
    r = co_switch_drained(s, of_top, &fallen, err);
    co_root_undrain(job->root);
    job->ret_pause_ns = rt_now_ns() - started;
    if (fallen && co_block_close(fallen, NULL) < 0)
        log_warning("%s: closing what was merged failed", block_filename(job->upper));
    return r;
}

/* ---- the whole ---- */

/* The guest goes on without the job. */
static void co_end(struct stream *s, bool of_top)
{
    struct live_job *job = s->copier.job;
    struct hws_error err = {0};
    co_root_drain(job->root);
    block_root_set_gate(job->root, NULL);
    if (!of_top && co_block_forbid_write(job->upper, &err) < 0)
        log_warning("%s", err.text);
    co_root_undrain(job->root);
}

static int co_stream(struct stream *s, struct hws_error *err)
{
    struct live_job *job = s->copier.job;
    bool of_top = job->upper == block_root_node(job->root);
    co_root_drain(job->root);
    int r = co_block_allow_write(job->upper, err);
    s->copier.gated = of_top;
    if (r == 0 && of_top)
        block_root_set_gate(job->root, &s->copier.gate);
    co_root_undrain(job->root);
    if (r == 0)
        r = co_copier_run(&s->copier, err);
    if (r == 0)
        r = co_copier_hold(&s->copier, err);
    if (r == 0)
        r = co_switch(s, of_top, err);
    co_end(s, of_top);
    return r;
}

int co_live_stream(struct live_job *job, struct hws_error *err)
{
    int r = co_live_check_stream(job, err);
    if (r < 0)
        return r;
    struct stream s = {
        .copier = {.job = job,
                   .from = job->upper,
                   .to = job->upper,
                   .zero_flags = BLOCK_MAY_UNMAP | BLOCK_OWN,
                   .end = block_size(job->upper),
                   .unit = block_cluster_bytes(job->upper),
                   .co_step = co_step},
        .base_depth = job->base ? live_depth(job->upper, job->base) : UINT_MAX,
    };
    copier_init(&s.copier);
    r = co_stream(&s, err);
    copier_destroy(&s.copier);
    return r;
}
