/*
 * Live commit; see job/live/live.h.
 *
 *    upper    |AAAA|    |    |0000|
 *    between  |....|BBBB|    |....|
 *    base     |....|....|    |CCCC|    ->   |AAAA|BBBB|    |0000|
 *
 * Until the switch nobody reads from the base what is written to it: a layer above has those bytes
 * itself, or ends in front of them. With the top as the upper layer the guest's changes are passed
 * on to the base, behind the cursor, in the request that makes them. They may get to the disk
 * there before the top's own do: then the guest has flushed neither, and a crash may show either.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "job/live/copier.h"
#include "base/log.h"

struct commit {
    struct copier copier; /* first */
    unsigned base_depth;
    bool of_top;
};

static int co_step(struct copier *copier, uint64_t at, uint64_t length, uint64_t *ret_length,
                   enum copier_step *ret, const struct block_node **ret_failed)
{
    struct commit *c = (struct commit *)copier;
    uint64_t size = block_size(copier->from);
    struct block_extent extent = {.length = length};
    *ret_failed = copier->from;
    if (at < size) {
        int r = co_block_status_chain(copier->from, at, MIN(length, size - at), &extent);
        if (r < 0)
            return r;
        *ret_length = extent.length;
        *ret = extent.flags & BLOCK_STATUS_ZERO ? STEP_ZERO : STEP_DATA;
        if (extent.flags & BLOCK_STATUS_ALLOCATED) {
            if (extent.depth >= c->base_depth)
                *ret = STEP_NONE;
            return 0;
        }
    }
    /* Nobody has it, or a layer ends before: it reads as zeroes, but the base may have something.
     */
    *ret_failed = copier->to;
    int r = co_block_status_chain(copier->to, at, extent.length, &extent);
    if (r < 0)
        return r;
    *ret_length = extent.length;
    *ret = extent.flags & BLOCK_STATUS_ZERO ? STEP_NONE : STEP_ZERO;
    return 0;
}

int co_live_check_commit(const struct live_job *job, struct hws_error *err)
{
    struct block_node *top = block_root_node(job->root);
    if (live_depth(top, job->upper) == 0 && job->upper != top)
        return hws_fail(err, EINVAL, "'%.200s' is not in the chain", block_filename(job->upper));
    if (!job->base || live_depth(job->upper, job->base) == 0)
        return hws_fail(err, EINVAL, "'%.200s' has no such layer below it to commit into",
                        block_filename(job->upper));
    if (block_is_read_only(top))
        return hws_fail(err, EROFS, "'%.200s' is used read-only", block_filename(top));
    return co_live_refuse_snapshots(job->upper, job->base, err);
}

/* ---- the start ---- */

/* What the chain above sees of the base; behind the end of the upper layer it reads zeroes. */
static uint64_t range_end(const struct live_job *job)
{
    const struct block_node *above = live_above(job, job->upper);
    uint64_t size = block_size(job->upper);
    return above ? MAX(size, MIN(block_size(above), block_size(job->base))) : size;
}

static int co_begin_drained(struct commit *c, struct hws_error *err)
{
    struct live_job *job = c->copier.job;
    uint64_t size = block_size(job->upper);
    int r = co_block_allow_write(job->base, err);
    if (r == 0 && block_size(job->base) < size)
        r = co_block_resize(job->base, size, err);
    if (r < 0)
        return r;
    c->copier.end = range_end(job);
    c->copier.gated = c->of_top;
    if (c->of_top)
        block_root_set_gate(job->root, &c->copier.gate);
    return 0;
}

/* The guest goes on as before the job. */
static void co_give_up(struct commit *c)
{
    struct live_job *job = c->copier.job;
    struct hws_error err = {0};
    co_root_drain(job->root);
    block_root_set_gate(job->root, NULL);
    if (co_block_forbid_write(job->base, &err) < 0)
        log_warning("%s", err.text);
    co_root_undrain(job->root);
}

/* ---- the switch ---- */

static int co_run_hook(struct live_job *job, struct hws_error *err)
{
    return job->co_switch ? job->co_switch(job->arg, err) : 0;
}

static int co_flush_base(struct live_job *job, struct hws_error *err)
{
    int r = co_block_flush(job->base);
    return r < 0 ? hws_fail_errno(err, -r, "flushing '%.200s'", block_filename(job->base)) : 0;
}

/* Layers in the middle: the image above them names the base from now on. */
static int co_switch_middle(struct commit *c, struct block_node **ret_fallen, struct hws_error *err)
{
    struct live_job *job = c->copier.job;
    int r = co_flush_base(job, err);
    if (r == 0)
        r = co_block_forbid_write(job->base, err);
    if (r == 0)
        r = co_run_hook(job, err);
    return r < 0 ? r
                 : co_root_cut(job->root, live_above(job, job->upper), job->base, job->name,
                               job->format, ret_fallen, err);
}

/* The old top has written all that it holds before its place is given to another file. */
static int co_switch_top(struct commit *c, struct block_node **ret_fallen, struct hws_error *err)
{
    struct live_job *job = c->copier.job;
    struct hws_error undo = {0};
    int r = copier_verdict(&c->copier, err);
    if (r == 0 && block_size(job->base) != block_size(job->upper))
        r = co_block_resize(job->base, block_size(job->upper), err);
    if (r == 0)
        r = co_flush_base(job, err);
    if (r == 0)
        r = co_block_forbid_write(job->upper, err);
    if (r == 0)
        r = co_run_hook(job, err);
    if (r == 0) {
        *ret_fallen = block_root_sink(job->root, job->base);
        block_root_set_gate(job->root, NULL);
    } else if (co_block_allow_write(job->upper, &undo) < 0) {
        return hws_wrap(err, r, "'%.200s' can no longer be written: %.300s",
                        block_filename(job->upper), undo.text);
    }
    return r;
}

static int co_switch(struct commit *c, struct hws_error *err)
{
    struct live_job *job = c->copier.job;
    struct block_node *fallen = NULL;
    int r = co_flush_base(job, err); /* most of it goes out while requests still run */
    if (r == 0 && c->of_top && (r = co_root_flush(job->root)) < 0)
        hws_fail_errno(err, -r, "flushing '%.200s'", block_filename(job->upper));
    if (r < 0)
        return r;
    uint64_t started = rt_now_ns();
    co_root_drain(job->root);
    r = c->of_top ? co_switch_top(c, &fallen, err) : co_switch_middle(c, &fallen, err);
    co_root_undrain(job->root);
    job->ret_pause_ns = rt_now_ns() - started;
    /* Nothing of it is needed any more, and what it had to write is written. */
    if (fallen && co_block_close(fallen, NULL) < 0)
        log_warning("%s: closing what was merged failed", block_filename(job->base));
    return r;
}

/* ---- the whole ---- */

static int co_commit(struct commit *c, struct hws_error *err)
{
    struct live_job *job = c->copier.job;
    co_root_drain(job->root);
    int r = co_begin_drained(c, err);
    co_root_undrain(job->root);
    if (r == 0)
        r = co_copier_run(&c->copier, err);
    if (r == 0)
        r = co_copier_hold(&c->copier, err);
    if (r == 0)
        r = co_switch(c, err);
    if (r < 0)
        co_give_up(c);
    return r;
}

int co_live_commit(struct live_job *job, struct hws_error *err)
{
    int r = co_live_check_commit(job, err);
    if (r < 0)
        return r;
    struct commit c = {
        .copier = {.gate.co_changed = co_copier_mirror,
                   .job = job,
                   .from = job->upper,
                   .to = job->base,
                   .zero_flags = BLOCK_MAY_UNMAP,
                   .unit = block_cluster_bytes(job->base),
                   .co_step = co_step},
        .base_depth = live_depth(job->upper, job->base),
        .of_top = job->upper == block_root_node(job->root),
    };
    copier_init(&c.copier);
    r = co_commit(&c, err);
    copier_destroy(&c.copier);
    return r;
}
