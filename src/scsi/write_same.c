/*
 * WRITE SAME (10) and (16), with UNMAP and NDOB (SBC-4, 5.50 and 5.51). Zeroes go to the image as a
 * write-zeroes request, which costs next to nothing; another pattern is written out.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "scsi/internal.h"

#define UNMAP 0x08
#define NDOB  0x01

uint8_t *pattern_new(struct sgl block, uint64_t bytes, size_t *ret_chunk)
{
    size_t chunk = MIN(bytes, SCRATCH_BYTES);
    assert(chunk && chunk % block.length == 0);
    uint8_t *pattern = malloc(chunk);
    if (!pattern)
        return NULL;
    sgl_to_buffer(block, pattern);
    for (size_t done = block.length; done < chunk;) {
        size_t part = MIN(done, chunk - done);
        memcpy(pattern + done, pattern, part);
        done += part;
    }
    *ret_chunk = chunk;
    return pattern;
}

static int co_write_pattern(struct call *c, const struct extent *e, struct sgl block)
{
    size_t chunk;
    autofree uint8_t *pattern = pattern_new(block, e->bytes, &chunk);
    if (!pattern)
        return -ENOMEM;
    for (uint64_t done = 0; done < e->bytes; done += chunk) {
        struct iovec iov;
        struct sgl part = sgl_one(&iov, pattern, MIN(chunk, e->bytes - done));
        int result = call_cancelled(c);
        if (result == 0)
            result = co_root_write(c->disk->root, e->offset + done, part, write_flags(c, false));
        if (result < 0)
            return result;
    }
    return 0;
}

int co_write_same(struct call *c)
{
    struct extent e = cdb_extent(c);
    struct range_entry entry;
    struct sgl block = {0};
    bool no_data = c->command->length == 16 && (c->cdb[1] & NDOB);
    unsigned count_at = c->command->length == 16 ? 10 : 7;
    if (e.count == 0) /* WSNZ of the block limits page */
        return fail_cdb(c, count_at, 7);
    int status = extent_check(c, &e);
    if (status)
        return status;
    if (e.bytes > WRITE_SAME_MAX)
        return fail_cdb(c, count_at, 7);
    status = no_data ? data_out_take(c, 0, &block)
                     : data_out_take_exactly(c, c->disk->block_bytes, &block);
    if (status)
        return status;
    unsigned flags = write_flags(c, false) | (c->cdb[1] & UNMAP ? BLOCK_MAY_UNMAP : 0);
    co_range_lock(&c->disk->ranges, &entry, e.offset, e.bytes, false);
    int result = no_data || sgl_is_zero(block)
                     ? co_root_write_zeroes(c->disk->root, e.offset, e.bytes, flags)
                     : co_write_pattern(c, &e, block);
    range_unlock(&c->disk->ranges, &entry);
    return result < 0 ? fail_errno(c, result, true) : SCSI_GOOD;
}
