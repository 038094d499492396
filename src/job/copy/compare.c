/*
 * Comparing; see job/copy/copy.h.
 *
 * The longer image is gone over. A piece of it is compared with what the other one's map says: a
 * hole against a hole costs no reading. Workers run ahead of each other, so the first difference is
 * the smallest that any of them finds, and the pieces before it are finished.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "job/copy/copy.h"
#include "job/copy/scan.h"

struct compare {
    struct scan scan;
    struct block_node *other;
    _Atomic uint64_t difference; /* smallest offset found so far */
};

static void found(struct compare *compare, uint64_t offset)
{
    uint64_t before = atomic_load_explicit(&compare->difference, memory_order_relaxed);
    while (offset < before && !atomic_compare_exchange_weak(&compare->difference, &before, offset))
        ;
    scan_end(&compare->scan);
}

static size_t first_difference(const uint8_t *a, const uint8_t *b, size_t length)
{
    size_t low = 0;
    /* By halves: the C library compares fast, but does not say where. */
    while (length > 1) {
        size_t half = length / 2;
        if (memcmp(a + low, b + low, half) == 0) {
            low += half;
            length -= half;
        } else {
            length = half;
        }
    }
    return low;
}

/* Reads from an image that may end before. */
static int co_read(struct compare *compare, struct block_node *node, uint64_t offset,
                   uint8_t *buffer, size_t length)
{
    uint64_t size = block_size(node);
    size_t there = offset >= size ? 0 : (size_t)MIN((uint64_t)length, size - offset);
    struct iovec iov;
    memset(buffer + there, 0, length - there);
    int r = there ? co_block_read(node, offset, sgl_one(&iov, buffer, there), 0) : 0;
    if (r < 0)
        scan_fail(&compare->scan, r, node, offset);
    return r;
}

/* @return 0 where the range is equal, 1 where not, -errno where the scan has failed. */
static int co_compare_data(struct compare *compare, uint64_t offset, size_t length, bool zero,
                           uint8_t *buffer)
{
    uint8_t *a = buffer, *b = buffer + compare->scan.piece_bytes;
    int r = co_read(compare, compare->other, offset, b, length);
    if (r == 0 && zero)
        memset(a, 0, length);
    else if (r == 0)
        r = co_read(compare, compare->scan.from, offset + compare->scan.shift, a, length);
    if (r < 0 || memcmp(a, b, length) == 0)
        return r;
    found(compare, offset + first_difference(a, b, length));
    return 1;
}

/* How much from @offset the other image has of one kind. */
static int co_other_extent(struct compare *compare, uint64_t offset, uint64_t length,
                           uint64_t *ret_length, bool *ret_zero)
{
    uint64_t size = block_size(compare->other);
    *ret_length = length;
    *ret_zero = true;
    if (offset >= size)
        return 0;
    struct block_extent extent;
    int r = co_scan_extent(compare->other, offset, MIN(length, size - offset), &extent);
    if (r < 0) {
        scan_fail(&compare->scan, r, compare->other, offset);
        return r;
    }
    *ret_length = extent.length;
    *ret_zero = extent.flags & BLOCK_STATUS_ZERO;
    return 0;
}

static void co_compare_piece(struct scan *scan, const struct scan_piece *piece, uint8_t *buffer)
{
    struct compare *compare = (struct compare *)scan;
    uint64_t at = piece->offset, end = at + piece->length;
    while (at < end && at < atomic_load_explicit(&compare->difference, memory_order_relaxed)) {
        uint64_t length = end - at;
        bool other_zero = false;
        if (piece->zero && co_other_extent(compare, at, length, &length, &other_zero) < 0)
            return;
        if (!piece->zero || !other_zero) {
            length = MIN(length, scan->piece_bytes);
            int r = co_compare_data(compare, at, (size_t)length, piece->zero, buffer);
            if (r != 0)
                return;
        }
        at += length;
    }
    scan_done(scan, piece->length);
}

int co_compare(struct block_node *a, struct block_node *b, uint64_t length,
               const struct job_load *load, uint64_t *ret_offset, struct hws_error *err)
{
    bool a_longer = block_size(a) >= block_size(b);
    struct compare compare = {
        .scan = {.from = a_longer ? a : b,
                 .end = length,
                 .load = load,
                 .buffers = 2,
                 .co_piece = co_compare_piece},
        .other = a_longer ? b : a,
        .difference = length,
    };
    assert(length <= block_size(compare.scan.from));
    int r = co_scan(&compare.scan, "reading", err);
    *ret_offset = compare.difference;
    return r;
}

int co_compare_range(struct block_node *from, struct block_node *to, struct copy_range range,
                     const struct job_load *load, uint64_t *ret_offset, struct hws_error *err)
{
    struct compare compare = {
        .scan = {.from = from,
                 .start = range.to,
                 .end = range.to + range.length,
                 .shift = range.from - range.to,
                 .load = load,
                 .buffers = 2,
                 .co_piece = co_compare_piece},
        .other = to,
        .difference = range.to + range.length,
    };
    assert(range_fits(range.from, range.length, block_size(from)));
    assert(range_fits(range.to, range.length, block_size(to)));
    int r = co_scan(&compare.scan, "reading", err);
    *ret_offset = compare.difference - range.to;
    return r;
}
