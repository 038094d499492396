/*
 * Copying from the layers below into the top, where another chain would tell something else; see
 * job/copy/layers.h.
 *
 *    top      |AAAA|    |    |    |AAAA|
 *    old      |....|DDDD|DDDD|    |....|     what top holds itself stays
 *    new      |....|DDDD|EEEE|FFFF|....|     compared elsewhere, in clusters of top:
 *                    -    D    0              equal: nothing; else the old data or zeroes go to top
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "job/copy/layers.h"
#include "job/copy/scan.h"

struct copy_up {
    struct scan scan; /* over top, or over what is copied into it */
    struct block_node *top, *old, *new;
    bool fresh; /* top holds nothing, is over `new` already, and gets what `old` tells else */
    bool compress;
    int level;
};

/* One layer's answer about a range: what it reads as, or where that lies. */
struct found {
    uint64_t length;
    bool zero;
    const struct block_node *file; /* NULL: not mapped */
    uint64_t host;
};

/* @node may be NULL, or end in the range: zeroes from there on. */
static int co_look(struct copy_up *c, struct block_node *node, uint64_t offset, uint64_t length,
                   struct found *ret)
{
    uint64_t size = node ? block_size(node) : 0;
    *ret = (struct found){.length = length, .zero = true};
    if (offset >= size)
        return 0;
    struct block_extent extent;
    int r = co_block_status_chain(node, offset, MIN(length, size - offset), &extent);
    if (r < 0) {
        scan_fail(&c->scan, r, node, offset);
        return r;
    }
    ret->length = extent.length;
    ret->zero = extent.flags & BLOCK_STATUS_ZERO;
    if (extent.flags & BLOCK_STATUS_MAPPED) {
        ret->file = extent.file;
        ret->host = extent.host_offset;
    }
    return 0;
}

static bool same(const struct found *a, const struct found *b)
{
    if (a->zero || b->zero)
        return a->zero && b->zero;
    return a->file && b->file && a->host == b->host && block_same_storage(a->file, b->file);
}

static int co_read(struct copy_up *c, struct block_node *node, const struct found *found,
                   uint64_t offset, uint8_t *buffer, size_t length)
{
    uint64_t size = node ? block_size(node) : 0;
    size_t there = offset >= size ? 0 : (size_t)MIN((uint64_t)length, size - offset);
    struct iovec iov;
    if (found->zero && found->length >= length)
        there = 0;
    memset(buffer + there, 0, length - there);
    int r = there ? co_block_read(node, offset, sgl_one(&iov, buffer, there), 0) : 0;
    if (r < 0)
        scan_fail(&c->scan, r, node, offset);
    return r;
}

static int co_put_data(struct copy_up *c, uint64_t offset, uint8_t *data, size_t length)
{
    struct iovec iov;
    if (!c->compress)
        return co_block_write(c->top, offset, sgl_one(&iov, data, length), 0);
    int r = 0;
    for (size_t at = 0, part; r == 0 && at < length; at += part) {
        uint64_t here = offset + at, unit = c->scan.unit;
        part = MIN((size_t)(unit - (here & (unit - 1))), length - at);
        struct sgl bytes = sgl_one(&iov, data + at, part);
        /* The end of what is copied may lie inside a cluster that goes on. */
        r = part == unit || here + part == block_size(c->top)
                ? co_block_write_compressed(c->top, here, bytes, c->level)
                : co_block_write(c->top, here, bytes, 0);
    }
    return r;
}

static int co_put(struct copy_up *c, uint64_t offset, uint8_t *data, size_t length, bool zero)
{
    unsigned flags = BLOCK_MAY_UNMAP | (c->fresh ? 0 : BLOCK_OWN);
    int r = zero ? co_block_write_zeroes(c->top, offset, length, flags)
                 : co_put_data(c, offset, data, length);
    if (r < 0)
        scan_fail(&c->scan, r, c->top, offset);
    return r;
}

enum unit_kind { UNIT_SAME, UNIT_DATA, UNIT_ZERO };

static enum unit_kind compare_unit(const uint8_t *old, const uint8_t *new, size_t length)
{
    if (memcmp(old, new, length) == 0)
        return UNIT_SAME;
    return buffer_is_zero(old, length) ? UNIT_ZERO : UNIT_DATA;
}

/* Writes runs of units (clusters of top, cut by the range) that differ. */
static int co_put_differences(struct copy_up *c, uint64_t offset, uint8_t *old, const uint8_t *new,
                              size_t length)
{
    size_t unit = (size_t)c->scan.unit, part, run;
    for (size_t at = 0; at < length; at += run) {
        enum unit_kind kind = UNIT_SAME;
        for (run = 0; at + run < length; run += part) {
            uint64_t here = offset + at + run;
            part = MIN(length - at - run, unit - (size_t)(here & (unit - 1)));
            enum unit_kind next = compare_unit(old + at + run, new + at + run, part);
            if (run > 0 && next != kind)
                break;
            kind = next;
        }
        int r = kind == UNIT_SAME ? 0 : co_put(c, offset + at, old + at, run, kind == UNIT_ZERO);
        if (r < 0)
            return r;
    }
    return 0;
}

/*
 * A range that top does not hold itself. What differs is handled in whole clusters of top (the
 * range begins and ends with one, or with a part that top can change alone): zeroes for less would
 * be passed over, as they are there already, over the old file.
 */
static int co_copy_hole(struct copy_up *c, uint64_t at, uint64_t end, uint8_t *buffer)
{
    uint8_t *old_bytes = buffer, *new_bytes = buffer + c->scan.piece_bytes;
    uint64_t unit = c->scan.unit;
    while (at < end) {
        struct found old, new;
        int r = co_look(c, c->old, at, end - at, &old);
        if (r == 0)
            r = co_look(c, c->new, at, old.length, &new);
        if (r < 0)
            return r;
        uint64_t next = at + new.length; /* the smaller one */
        if (next < end)
            next = align_down(next, unit);
        if (next > at && same(&old, &new)) {
            at = next;
            continue;
        }
        next = MIN(MAX(next, align_down(at, unit) + unit), end);
        next = MIN(next, align_down(at, unit) + c->scan.piece_bytes);
        size_t length = (size_t)(next - at);
        r = co_read(c, c->old, &old, at, old_bytes, length);
        if (r == 0)
            r = co_read(c, c->new, &new, at, new_bytes, length);
        if (r == 0)
            r = co_put_differences(c, at, old_bytes, new_bytes, length);
        if (r < 0)
            return r;
        at = next;
    }
    return 0;
}

static void co_copy_up_piece(struct scan *scan, const struct scan_piece *piece, uint8_t *buffer)
{
    struct copy_up *c = (struct copy_up *)scan;
    uint64_t at = piece->offset, end = at + piece->length;
    if (c->fresh) {
        if (co_copy_hole(c, at, end, buffer) == 0)
            scan_done(scan, piece->length);
        return;
    }
    while (at < end && !atomic_load_explicit(&scan->ended, memory_order_relaxed)) {
        struct block_extent extent;
        int r = co_block_status(scan->from, at, end - at, &extent);
        if (r < 0) {
            scan_fail(scan, r, scan->from, at);
            return;
        }
        if (!(extent.flags & BLOCK_STATUS_ALLOCATED) &&
            co_copy_hole(c, at, at + extent.length, buffer) < 0)
            return;
        at += extent.length;
    }
    scan_done(scan, piece->length);
}

int co_copy_up(struct block_node *top, struct block_node *backing, const struct job_load *load,
               struct hws_error *err)
{
    struct copy_up c = {
        .scan = {.from = top,
                 .end = block_size(top),
                 .load = load,
                 .buffers = 2,
                 .unit = MAX(block_cluster_bytes(top), 4096u),
                 .co_piece = co_copy_up_piece},
        .top = top,
        .old = block_child(top, BLOCK_BACKING),
        .new = backing,
    };
    return co_scan(&c.scan, "using", err);
}

int co_copy_over(struct block_node *from, struct block_node *to, const struct copy_options *options,
                 struct hws_error *err)
{
    struct copy_up c = {
        .scan = {.from = from,
                 .end = block_size(from),
                 .load = &options->load,
                 .buffers = 2,
                 .unit = MAX(block_cluster_bytes(to), 512u),
                 .co_piece = co_copy_up_piece},
        .top = to,
        .old = from,
        .new = block_child(to, BLOCK_BACKING),
        .fresh = true,
        .compress = options->compress,
        .level = options->level,
    };
    assert(block_size(to) >= block_size(from));
    return co_scan(&c.scan, "using", err);
}
