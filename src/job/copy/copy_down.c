/*
 * Copying what the layers above a base hold into the base; see job/copy/layers.h.
 *
 *    top      |AAAA|    |    |0000|
 *    between  |....|BBBB|    |....|
 *    base     |....|....|    |CCCC|    ->   |AAAA|BBBB|    |0000|
 *
 * Read through the top, so that what is upper wins; where the base itself answers, nothing is done.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "job/copy/layers.h"
#include "job/copy/scan.h"

struct copy_down {
    struct scan scan; /* over top */
    struct block_node *base;
    unsigned base_depth;
};

enum step { STEP_NONE, STEP_DATA, STEP_ZERO };

/* What is to be done from @at on, and for how much. */
static int co_next_step(struct copy_down *c, uint64_t at, uint64_t length, uint64_t *ret_length,
                        enum step *ret)
{
    struct block_extent extent;
    const struct block_node *failed = c->scan.from;
    int r = co_block_status_chain(c->scan.from, at, length, &extent);
    if (r == 0) {
        bool zero = extent.flags & BLOCK_STATUS_ZERO;
        *ret_length = extent.length;
        *ret = zero ? STEP_ZERO : STEP_DATA;
        if (extent.flags & BLOCK_STATUS_ALLOCATED) {
            if (extent.depth >= c->base_depth)
                *ret = STEP_NONE;
            return 0;
        }
        /* Nobody has it, or a layer between ends before: then the base may have something. */
        failed = c->base;
        r = co_block_status_chain(c->base, at, extent.length, &extent);
    }
    if (r == 0) {
        *ret_length = extent.length;
        *ret = extent.flags & BLOCK_STATUS_ZERO ? STEP_NONE : STEP_ZERO;
        return 0;
    }
    scan_fail(&c->scan, r, failed, at);
    return r;
}

static int co_copy_data(struct copy_down *c, uint64_t at, uint64_t length, uint8_t *buffer)
{
    struct iovec iov;
    const struct block_node *failed = c->scan.from;
    int r = co_block_read(c->scan.from, at, sgl_one(&iov, buffer, (size_t)length), 0);
    if (r == 0) {
        failed = c->base;
        r = co_block_write(c->base, at, sgl_one(&iov, buffer, (size_t)length), 0);
    }
    if (r < 0)
        scan_fail(&c->scan, r, failed, at);
    return r;
}

static int co_copy_zeroes(struct copy_down *c, uint64_t at, uint64_t length)
{
    int r = co_block_write_zeroes(c->base, at, length, BLOCK_MAY_UNMAP);
    if (r < 0)
        scan_fail(&c->scan, r, c->base, at);
    return r;
}

static void co_copy_down_piece(struct scan *scan, const struct scan_piece *piece, uint8_t *buffer)
{
    struct copy_down *c = (struct copy_down *)scan;
    uint64_t at = piece->offset, end = at + piece->length, length = 0, moved = 0;
    while (at < end && !atomic_load_explicit(&scan->ended, memory_order_relaxed)) {
        enum step step;
        int r = co_next_step(c, at, end - at, &length, &step);
        if (r == 0 && step == STEP_DATA) {
            length = MIN(length, scan->piece_bytes);
            r = co_copy_data(c, at, length, buffer);
            moved += length;
        } else if (r == 0 && step == STEP_ZERO) {
            r = co_copy_zeroes(c, at, length);
        }
        if (r < 0)
            return;
        at += length;
    }
    co_scan_pace(scan, moved);
    scan_done(scan, piece->length);
}

int co_copy_down(struct block_node *top, struct block_node *base, const struct job_load *load,
                 struct hws_error *err)
{
    struct copy_down c = {
        .scan = {.from = top,
                 .end = block_size(top),
                 .load = load,
                 .buffers = 1,
                 .unit = MAX(block_cluster_bytes(base), 4096u),
                 .co_piece = co_copy_down_piece},
        .base = base,
    };
    for (struct block_node *n = top; n && n != base; n = block_child(n, BLOCK_BACKING))
        c.base_depth++;
    assert(c.base_depth > 0 && block_size(base) >= block_size(top));
    return co_scan(&c.scan, "writing", err);
}
