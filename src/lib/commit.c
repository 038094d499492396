/*
 * hws_commit(): what an image holds goes into a layer below.
 *
 *   the base grows, where it is shorter
 *   what the layers above it hold is copied into it
 *   flush: all of that is durable
 *   the image is emptied
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "job/copy/layers.h"
#include "job/overlay/overlay.h"
#include "lib/call.h"

struct committing {
    const struct hws_image *image;
    const struct hws_commit *how;
};

static int co_commit_into(const struct committing *c, struct block_node *top,
                          struct block_node *base, struct hws_error *err)
{
    struct job_load load = {.rate_bytes = c->how->rate_bytes,
                            .progress = c->how->progress,
                            .progress_arg = c->how->progress_arg};
    bool empties = !c->how->keep && base == block_child(top, BLOCK_BACKING);
    int r = co_block_allow_write(base, err);
    if (r == 0 && block_size(base) < block_size(top))
        r = co_block_resize(base, block_size(top), err);
    if (r == 0)
        r = co_copy_down(top, base, &load, err);
    if (r < 0)
        return r;
    r = co_block_flush(base);
    if (r < 0)
        return hws_fail_errno(err, -r, "flushing '%.200s'", block_filename(base));
    return empties ? co_block_make_empty(top, err) : 0;
}

static int co_commit_over(const struct committing *c, struct block_node *top, struct hws_error *err)
{
    struct block_node *base = block_child(top, BLOCK_BACKING);
    if (!base)
        return hws_fail(err, EINVAL, "'%.300s' has no backing file to commit into", c->image->path);
    int r = c->how->base ? overlay_find_layer(top, c->how->base, &base, err) : 0;
    if (r == 0 && !c->how->keep)
        r = co_call_refuse_snapshots(top, "the commit", "give them up with --keep", err);
    return r < 0 ? r : co_commit_into(c, top, base, err);
}

static int co_commit(void *arg, struct hws_error *err)
{
    const struct committing *c = arg;
    struct block_node *top;
    int r = co_call_open(c->image, BLOCK_OPEN_WRITE, &top, err);
    if (r < 0)
        return r;
    r = co_commit_over(c, top, err);
    return co_call_close(top, r, err);
}

int hws_commit(const struct hws_image *image, const struct hws_commit *commit,
               struct hws_error *err)
{
    struct committing c = {image, commit};
    return call_run(co_commit, &c, err);
}
