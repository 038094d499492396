/*
 * Copying; see job/copy/copy.h.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "job/copy/copy.h"
#include "job/copy/scan.h"

#define SPARSE_BYTES 4096u

struct copy {
    struct scan scan;
    struct block_node *to;
    const struct copy_options *options;
    uint32_t sparse_bytes;
    _Atomic bool may_offload;
    _Atomic uint64_t data_bytes, offload_bytes;
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

/* Cluster by cluster; pieces consist of whole ones. */
static int co_write_compressed(struct copy *copy, uint64_t offset, uint8_t *data, size_t length,
                               size_t *ret_data)
{
    size_t unit = (size_t)copy->scan.unit, part;
    struct iovec iov;
    for (size_t at = 0; at < length; at += part) {
        part = MIN(unit, length - at);
        bool zero = buffer_is_zero(data + at, part);
        int r =
            zero ? co_make_hole(copy, offset + at, part)
                 : co_block_write_compressed(copy->to, offset + at, sgl_one(&iov, data + at, part),
                                             copy->options->level);
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

/* Through this process. @return bytes written as data, or -errno, which the scan was told. */
static int64_t co_move(struct copy *copy, uint64_t offset, size_t length, uint8_t *buffer)
{
    struct iovec iov;
    size_t moved = 0;
    int r = co_block_read(copy->scan.from, offset, sgl_one(&iov, buffer, length), 0);
    if (r < 0) {
        scan_fail(&copy->scan, r, copy->scan.from, offset);
        return r;
    }
    r = copy->options->compress ? co_write_compressed(copy, offset, buffer, length, &moved)
                                : co_write_runs(copy, offset, buffer, length, &moved);
    return r < 0 ? r : (int64_t)moved;
}

/* What the storage does not copy, this process does, and so finds out what is wrong where. */
static void co_copy_piece(struct scan *scan, const struct scan_piece *piece, uint8_t *buffer)
{
    struct copy *copy = (struct copy *)scan;
    uint64_t offloaded = 0;
    int64_t moved = 0;
    if (piece->zero) {
        int r = co_make_hole(copy, piece->offset, piece->length);
        if (r < 0) {
            scan_fail(scan, r, copy->to, piece->offset);
            return;
        }
    } else if (atomic_load_explicit(&copy->may_offload, memory_order_relaxed)) {
        int r = co_block_copy_range(scan->from, piece->offset, copy->to, piece->offset,
                                    piece->length, &offloaded);
        if (r == -ENOTSUP && offloaded == 0)
            atomic_store_explicit(&copy->may_offload, false, memory_order_relaxed);
    }
    if (!piece->zero && offloaded < piece->length)
        moved =
            co_move(copy, piece->offset + offloaded, (size_t)(piece->length - offloaded), buffer);
    if (moved < 0)
        return;
    atomic_fetch_add_explicit(&copy->data_bytes, (uint64_t)moved, memory_order_relaxed);
    atomic_fetch_add_explicit(&copy->offload_bytes, offloaded, memory_order_relaxed);
    co_scan_pace(scan, (uint64_t)moved + offloaded);
    scan_done(scan, piece->length);
}

int co_copy(struct block_node *from, struct block_node *to, uint64_t length,
            const struct copy_options *options, struct copy_result *ret, struct hws_error *err)
{
    assert(length <= block_size(from) && length <= block_size(to));
    struct copy copy = {
        .scan = {.from = from,
                 .length = length,
                 .load = &options->load,
                 .buffers = 1,
                 .unit = options->compress ? block_cluster_bytes(to) : 1,
                 .co_piece = co_copy_piece},
        .to = to,
        .options = options,
        .sparse_bytes = options->sparse_bytes ? options->sparse_bytes : SPARSE_BYTES,
        .may_offload = options->offload && !options->compress,
    };
    int r = co_scan(&copy.scan, "writing", err);
    *ret = (struct copy_result){
        .data_bytes = copy.data_bytes,
        .offload_bytes = copy.offload_bytes,
        .zero_bytes = copy.scan.done - copy.data_bytes - copy.offload_bytes,
    };
    return r;
}
