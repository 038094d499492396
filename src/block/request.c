/*
 * How requests are cut into pieces that a driver takes; shared by reads and writes.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "block/core.h"

size_t request_next_length(const struct block_node *node, uint64_t offset, struct sgl buffer,
                           bool *ret_bounce)
{
    uint64_t alignment = node->limits.request_alignment;
    uint64_t most = MIN((uint64_t)BOUNCE_BYTES, node->limits.transfer_max);
    uint64_t start = align_down(offset, alignment);
    uint64_t padded = align_up(offset + buffer.length, alignment) - start;
    size_t memory = node->limits.memory_alignment;
    *ret_bounce = true;
    if (padded <= most && (offset != start || padded != buffer.length))
        return buffer.length;
    if (offset != start) /* the first block, so that the rest is aligned */
        return (size_t)MIN((uint64_t)buffer.length, alignment - (offset - start));
    uint64_t whole = align_down(buffer.length, alignment);
    if (whole == 0)
        return buffer.length;
    size_t direct = (size_t)MIN(whole, node->limits.transfer_max);
    *ret_bounce = memory > 1 && !sgl_is_aligned(sgl_slice(buffer, 0, direct), memory);
    return *ret_bounce ? (size_t)MIN(whole, most) : direct;
}
