/*
 * COMPARE AND WRITE and ORWRITE: read, decide, write, as one step (SBC-4, 5.3 and 5.13). Every
 * write of this disk that overlaps waits, and is waited for.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "scsi/internal.h"

int co_compare_and_write(struct call *c)
{
    struct extent e = cdb_extent(c);
    struct range_entry entry;
    struct sgl data;
    uint64_t at = 0;
    int status = extent_check(c, &e);
    if (status)
        return status;
    if (e.bytes > COMPARE_MAX)
        return fail_cdb(c, 13, 7);
    if (c->task->data_out.length > 2 * e.bytes) /* more than 255 blocks, or not this many */
        return fail_cdb(c, 13, 7);
    status = data_out_take(c, 2 * e.bytes, &data);
    if (status || e.bytes == 0)
        return status;
    co_range_lock(&c->disk->ranges, &entry, e.offset, e.bytes, true);
    int result = co_scsi_compare(c->disk, e.offset, sgl_slice(data, 0, e.bytes), &at);
    if (result < 0) {
        status = fail_errno(c, result, false);
    } else if (result > 0) {
        status = fail_miscompare(c, at);
    } else {
        result = co_root_write(c->disk->root, e.offset, sgl_slice(data, e.bytes, e.bytes),
                               write_flags(c, c->cdb[1] & 0x08));
        if (result < 0)
            status = fail_errno(c, result, true);
    }
    range_unlock(&c->disk->ranges, &entry);
    return status;
}

static int co_or_chunk(struct call *c, uint64_t offset, struct sgl data, uint8_t *scratch)
{
    struct iovec iov;
    size_t length = data.length;
    struct sgl old = sgl_one(&iov, scratch, length);
    uint8_t *mask = scratch + SCRATCH_BYTES;
    sgl_to_buffer(data, mask);
    int result = co_root_read(c->disk->root, offset, old, 0);
    if (result < 0)
        return fail_errno(c, result, false);
    for (size_t i = 0; i < length; i++)
        scratch[i] |= mask[i];
    result = co_root_write(c->disk->root, offset, old, write_flags(c, c->cdb[1] & 0x08));
    return result < 0 ? fail_errno(c, result, true) : 0;
}

int co_orwrite(struct call *c)
{
    struct extent e;
    struct range_entry entry;
    struct sgl data;
    int status = transfer_extent(c, &e);
    if (status || (status = data_out_take(c, e.bytes, &data)) || e.bytes == 0)
        return status;
    autofree uint8_t *scratch = malloc(2 * SCRATCH_BYTES);
    if (!scratch)
        return SCSI_BUSY;
    co_range_lock(&c->disk->ranges, &entry, e.offset, e.bytes, true);
    for (uint64_t done = 0; done < e.bytes && !status; done += SCRATCH_BYTES) {
        size_t part = MIN(SCRATCH_BYTES, e.bytes - done);
        status = co_or_chunk(c, e.offset + done, sgl_slice(data, done, part), scratch);
    }
    range_unlock(&c->disk->ranges, &entry);
    return status;
}
