/*
 * Copying; see job/copy/copy.h.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "block/bitmap.h"
#include "job/copy/copy.h"
#include "job/copy/scan.h"

#define SPARSE_BYTES 4096u

struct copy {
    struct scan scan;
    struct block_node *to;
    const struct copy_options *options;
    uint32_t sparse_bytes;
    _Atomic bool may_offload;
    _Atomic uint64_t data_bytes, offload_bytes, lost_bytes, clean_bytes;
};

static int co_make_hole(struct copy *copy, uint64_t offset, uint64_t length)
{
    if (copy->options->target_is_zero)
        return 0;
    return co_block_write_zeroes(copy->to, offset, length, BLOCK_MAY_UNMAP);
}

/* Bytes from @at that are all zero or all not, looked at in steps of the sparse size. */
static size_t run_length(const struct copy *copy, uint64_t offset, const uint8_t *at, size_t length,
                         bool *ret_zero)
{
    uint32_t step = copy->sparse_bytes;
    *ret_zero = false;
    if (step == UINT32_MAX)
        return length;
    size_t done = 0;
    while (done < length) {
        size_t part = MIN(length - done, (size_t)(step - ((offset + done) & (step - 1))));
        bool zero = buffer_is_zero(at + done, part);
        if (done > 0 && zero != *ret_zero)
            break;
        *ret_zero = zero;
        done += part;
    }
    return done;
}

/* Clusters of the target; what begins or ends inside one, other than the image, is written plainly.
 */
static int co_write_unit(struct copy *copy, uint64_t offset, uint8_t *data, size_t length)
{
    struct iovec iov;
    bool whole = is_aligned(offset, copy->scan.unit) &&
                 (is_aligned(length, copy->scan.unit) || offset + length == block_size(copy->to));
    return whole ? co_block_write_compressed(copy->to, offset, sgl_one(&iov, data, length),
                                             copy->options->level)
                 : co_block_write(copy->to, offset, sgl_one(&iov, data, length), 0);
}

static int co_write_compressed(struct copy *copy, uint64_t offset, uint8_t *data, size_t length,
                               size_t *ret_data)
{
    size_t unit = (size_t)copy->scan.unit, part;
    for (size_t at = 0; at < length; at += part) {
        part = MIN(unit - (size_t)((offset + at) & (unit - 1)), length - at);
        bool zero = buffer_is_zero(data + at, part);
        int r = zero ? co_make_hole(copy, offset + at, part)
                     : co_write_unit(copy, offset + at, data + at, part);
        if (r < 0) {
            scan_fail(&copy->scan, r, copy->to, offset + at);
            return r;
        }
        *ret_data += zero ? 0 : part;
    }
    return 0;
}

static int co_write_runs(struct copy *copy, uint64_t offset, uint8_t *data, size_t length,
                         size_t *ret_data)
{
    struct iovec iov;
    for (size_t at = 0, run; at < length; at += run) {
        bool zero;
        run = run_length(copy, offset + at, data + at, length - at, &zero);
        int r = zero ? co_make_hole(copy, offset + at, run)
                     : co_block_write(copy->to, offset + at, sgl_one(&iov, data + at, run), 0);
        if (r < 0) {
            scan_fail(&copy->scan, r, copy->to, offset + at);
            return r;
        }
        *ret_data += zero ? 0 : run;
    }
    return 0;
}

/* ---- what cannot be read ---- */

#define SALVAGE_BYTES 512u

static void lose(struct copy *copy, uint64_t offset, uint64_t length, int error)
{
    if (!length)
        return;
    atomic_fetch_add_explicit(&copy->lost_bytes, length, memory_order_relaxed);
    rt_mutex_lock(&copy->scan.guard);
    if (copy->options->lost)
        copy->options->lost(copy->options->lost_arg, offset, length, error);
    rt_mutex_unlock(&copy->scan.guard);
}

/* By halves down to a sector, so that only what is bad is lost; neighbours are told together. */
static void co_salvage(struct copy *copy, uint64_t offset, uint8_t *buffer, size_t length)
{
    uint64_t lost_at = offset, lost = 0;
    int error = 0;
    size_t step = align_up(length, SALVAGE_BYTES), part;
    for (size_t at = 0; at < length; at += part) {
        struct iovec iov;
        int r;
        for (;;) {
            part = MIN(step, length - at);
            r = co_block_read(copy->scan.from, offset + at, sgl_one(&iov, buffer + at, part), 0);
            if (r == 0 || step == SALVAGE_BYTES)
                break;
            step = MAX(align_up(step / 2, SALVAGE_BYTES), (size_t)SALVAGE_BYTES);
        }
        if (r == 0) {
            lose(copy, lost_at, lost, error);
            lost = 0;
            step *= 2;
            continue;
        }
        memset(buffer + at, 0, part);
        lost_at = lost ? lost_at : offset + at;
        lost += part;
        error = r;
    }
    lose(copy, lost_at, lost, error);
}

/* ---- one piece ---- */

/* Through this process. @return bytes written as data, or -errno, which the scan was told. */
static int64_t co_move(struct copy *copy, uint64_t offset, size_t length, uint8_t *buffer)
{
    struct iovec iov;
    size_t moved = 0;
    uint64_t there = offset + copy->scan.shift;
    int r = co_block_read(copy->scan.from, there, sgl_one(&iov, buffer, length), 0);
    if (r < 0 && copy->options->salvage) {
        co_salvage(copy, there, buffer, length);
    } else if (r < 0) {
        scan_fail(&copy->scan, r, copy->scan.from, there);
        return r;
    }
    r = copy->options->compress ? co_write_compressed(copy, offset, buffer, length, &moved)
                                : co_write_runs(copy, offset, buffer, length, &moved);
    return r < 0 ? r : (int64_t)moved;
}

/* What the storage does not copy, this process does, and so finds out what is wrong where. */
static int co_copy_data(struct copy *copy, uint64_t offset, uint64_t length, uint8_t *buffer,
                        uint64_t *ret_moved)
{
    uint64_t offloaded = 0;
    int64_t moved = 0;
    if (atomic_load_explicit(&copy->may_offload, memory_order_relaxed)) {
        int r = co_block_copy_range(copy->scan.from, offset + copy->scan.shift, copy->to, offset,
                                    length, &offloaded);
        if (r == -ENOTSUP && offloaded == 0)
            atomic_store_explicit(&copy->may_offload, false, memory_order_relaxed);
    }
    if (offloaded < length)
        moved = co_move(copy, offset + offloaded, (size_t)(length - offloaded), buffer);
    if (moved < 0)
        return (int)moved;
    atomic_fetch_add_explicit(&copy->data_bytes, (uint64_t)moved, memory_order_relaxed);
    atomic_fetch_add_explicit(&copy->offload_bytes, offloaded, memory_order_relaxed);
    *ret_moved += (uint64_t)moved + offloaded;
    return 0;
}

static int co_copy_range_of(struct copy *copy, uint64_t offset, uint64_t length, bool zero,
                            uint8_t *buffer, uint64_t *ret_moved)
{
    if (!zero)
        return co_copy_data(copy, offset, length, buffer, ret_moved);
    int r = co_make_hole(copy, offset, length);
    if (r < 0)
        scan_fail(&copy->scan, r, copy->to, offset);
    return r;
}

/* The parts of a piece that the bitmap marks. */
static int co_copy_marked(struct copy *copy, const struct scan_piece *piece, uint8_t *buffer,
                          uint64_t *ret_moved)
{
    uint64_t length;
    for (uint64_t at = 0; at < piece->length; at += length) {
        uint64_t offset = piece->offset + at;
        bool dirty;
        int r = co_block_bitmap_next(copy->options->only, offset + copy->scan.shift,
                                     piece->length - at, &dirty, &length);
        if (r < 0)
            scan_fail(&copy->scan, r, copy->scan.from, offset + copy->scan.shift);
        else if (dirty)
            r = co_copy_range_of(copy, offset, length, piece->zero, buffer, ret_moved);
        else
            atomic_fetch_add_explicit(&copy->clean_bytes, length, memory_order_relaxed);
        if (r < 0)
            return r;
    }
    return 0;
}

static void co_copy_piece(struct scan *scan, const struct scan_piece *piece, uint8_t *buffer)
{
    struct copy *copy = (struct copy *)scan;
    uint64_t moved = 0;
    int r = copy->options->only
                ? co_copy_marked(copy, piece, buffer, &moved)
                : co_copy_range_of(copy, piece->offset, piece->length, piece->zero, buffer, &moved);
    if (r < 0)
        return;
    co_scan_pace(scan, moved);
    scan_done(scan, piece->length);
}

int co_copy(struct block_node *from, struct block_node *to, struct copy_range range,
            const struct copy_options *options, struct copy_result *ret, struct hws_error *err)
{
    assert(range_fits(range.from, range.length, block_size(from)));
    assert(range_fits(range.to, range.length, block_size(to)));
    struct copy copy = {
        .scan = {.from = from,
                 .start = range.to,
                 .end = range.to + range.length,
                 .shift = range.from - range.to,
                 .salvage = options->salvage,
                 .load = &options->load,
                 .buffers = 1,
                 .unit = options->compress ? block_cluster_bytes(to) : 1,
                 .co_piece = co_copy_piece},
        .to = to,
        .options = options,
        .sparse_bytes = options->sparse_bytes ? options->sparse_bytes : SPARSE_BYTES,
        .may_offload = options->offload && !options->compress,
    };
    /* Once, before several threads ask it. */
    int r = options->only ? co_block_bitmap_load(options->only, err) : 0;
    if (r == 0)
        r = co_scan(&copy.scan, "writing", err);
    *ret = (struct copy_result){
        .data_bytes = copy.data_bytes,
        .offload_bytes = copy.offload_bytes,
        .zero_bytes = copy.scan.done - copy.data_bytes - copy.offload_bytes - copy.clean_bytes,
        .lost_bytes = copy.lost_bytes,
    };
    return r;
}
