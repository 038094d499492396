/*
 * READ, WRITE, WRITE AND VERIFY and VERIFY of every length (SBC-4, 5.16 on, 5.40 on).
 *
 * Data goes between the image and the initiator's own buffer. Writes hold their range shared, so
 * that COMPARE AND WRITE and its like, which hold it exclusively, are one step for everybody.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "scsi/internal.h"

struct extent cdb_extent(const struct call *c)
{
    const uint8_t *cdb = c->cdb;
    struct extent e = {0};
    switch (c->command->length) {
    case 6:
        e.lba = load_be32(cdb) & 0x1fffff;
        e.count = cdb[4] ? cdb[4] : 256;
        break;
    case 10:
        e.lba = load_be32(cdb + 2);
        e.count = load_be16(cdb + 7);
        break;
    case 12:
        e.lba = load_be32(cdb + 2);
        e.count = load_be32(cdb + 6);
        break;
    default:
        e.lba = load_be64(cdb + 2);
        e.count = cdb[0] == OP_COMPARE_AND_WRITE ? cdb[13] : load_be32(cdb + 10);
    }
    return e;
}

int extent_check(struct call *c, struct extent *e)
{
    uint64_t blocks = disk_blocks(c->disk);
    if (unlikely(e->lba >= blocks || e->count > blocks - e->lba))
        return fail_with(c, SCSI_KEY_ILLEGAL_REQUEST, ASC_LBA_OUT_OF_RANGE);
    e->offset = e->lba << c->disk->block_shift;
    e->bytes = e->count << c->disk->block_shift;
    return 0;
}

/* Of a transfer: the blocks exist, and are not more than the block limits page allows. */
int transfer_extent(struct call *c, struct extent *ret)
{
    *ret = cdb_extent(c);
    int status = extent_check(c, ret);
    if (likely(!status) && unlikely(ret->bytes > TRANSFER_MAX))
        status = fail_cdb(c, c->command->length == 10 ? 7 : c->command->length == 12 ? 6 : 10, 7);
    return status;
}

int data_out_take(struct call *c, uint64_t expected, struct sgl *ret)
{
    call_residual(c, expected, c->task->data_out.length);
    if (unlikely(c->task->data_out.length < expected))
        return fail_with(c, SCSI_KEY_ILLEGAL_REQUEST, ASC_INVALID_FIELD_IN_INFORMATION_UNIT);
    *ret = sgl_slice(c->task->data_out, 0, expected);
    return 0;
}

int data_out_take_exactly(struct call *c, uint64_t expected, struct sgl *ret)
{
    if (unlikely(c->task->data_out.length > expected)) {
        call_residual(c, expected, c->task->data_out.length);
        return fail_with(c, SCSI_KEY_ILLEGAL_REQUEST, ASC_INVALID_FIELD_IN_INFORMATION_UNIT);
    }
    return data_out_take(c, expected, ret);
}

/* READ (6) and WRITE (6) have no FUA. */
static bool fua(const struct call *c)
{
    return c->command->length > 6 && (c->cdb[1] & 0x08);
}

unsigned write_flags(const struct call *c, bool force)
{
    return force || !atomic_load(&c->disk->write_cache) ? BLOCK_FUA : 0;
}

int co_read(struct call *c)
{
    struct extent e;
    int status = transfer_extent(c, &e);
    if (unlikely(status))
        return status;
    /* FUA: what a volatile cache holds goes to the medium first. */
    int result = unlikely(fua(c)) ? co_root_flush(c->disk->root) : 0;
    size_t length = MIN(e.bytes, c->task->data_in.length);
    if (likely(result == 0 && length))
        result = co_root_read(c->disk->root, e.offset, sgl_slice(c->task->data_in, 0, length), 0);
    if (unlikely(result < 0))
        return fail_errno(c, result, false);
    c->task->data_in_length = length;
    call_residual(c, e.bytes, c->task->data_in.length);
    return SCSI_GOOD;
}

int co_write(struct call *c)
{
    struct extent e;
    struct sgl data;
    struct range_entry entry;
    int status = transfer_extent(c, &e);
    if (unlikely(status) || unlikely((status = data_out_take(c, e.bytes, &data))))
        return status;
    if (e.bytes == 0)
        return SCSI_GOOD;
    co_range_lock(&c->disk->ranges, &entry, e.offset, e.bytes, false);
    int result = co_root_write(c->disk->root, e.offset, data, write_flags(c, fua(c)));
    range_unlock(&c->disk->ranges, &entry);
    return likely(result == 0) ? SCSI_GOOD : fail_errno(c, result, true);
}

/* ---- comparing with the medium ---- */

/* Index of the first byte of @bytes that differs from @list; list.length where none does. */
static size_t first_difference(const uint8_t *bytes, struct sgl list)
{
    size_t done = 0, length = list.length;
    while (done < length) {
        struct iovec piece;
        size_t part;
        (void)sgl_export(sgl_slice(list, done, length - done), &piece, 1, &part);
        if (memcmp(bytes + done, piece.iov_base, part)) {
            const uint8_t *other = piece.iov_base;
            size_t i = 0;
            while (bytes[done + i] == other[i])
                i++;
            return done + i;
        }
        done += part;
    }
    return length;
}

int co_scsi_compare(struct scsi_disk *disk, uint64_t offset, struct sgl expected, uint64_t *ret_at)
{
    size_t chunk = MIN(expected.length, (size_t)SCRATCH_BYTES), done = 0;
    autofree uint8_t *scratch = malloc(MAX(chunk, (size_t)1));
    if (!scratch)
        return -ENOMEM;
    while (done < expected.length) {
        struct iovec iov;
        size_t part = MIN(chunk, expected.length - done);
        int result = co_root_read(disk->root, offset + done, sgl_one(&iov, scratch, part), 0);
        if (result < 0)
            return result;
        size_t same = first_difference(scratch, sgl_slice(expected, done, part));
        if (same < part) {
            *ret_at = done + same;
            return 1;
        }
        done += part;
    }
    return 0;
}

/* Reads without looking at the bytes: is the medium readable? */
static int co_read_through(struct scsi_disk *disk, const struct extent *e)
{
    size_t chunk = MIN(e->bytes, SCRATCH_BYTES);
    autofree uint8_t *scratch = malloc(MAX(chunk, (size_t)1));
    if (!scratch)
        return -ENOMEM;
    for (uint64_t done = 0; done < e->bytes; done += chunk) {
        struct iovec iov;
        struct sgl part = sgl_one(&iov, scratch, MIN(chunk, e->bytes - done));
        int result = co_root_read(disk->root, e->offset + done, part, 0);
        if (result < 0)
            return result;
    }
    return 0;
}

/* BYTCHK 11b: every block equals the one block that was sent. */
static int co_compare_repeated(struct call *c, const struct extent *e, struct sgl block,
                               uint64_t *ret_at)
{
    size_t chunk;
    autofree uint8_t *pattern = pattern_new(block, e->bytes, &chunk);
    if (!pattern)
        return -ENOMEM;
    for (uint64_t done = 0; done < e->bytes; done += chunk) {
        struct iovec iov;
        struct sgl part = sgl_one(&iov, pattern, MIN(chunk, e->bytes - done));
        int result = co_scsi_compare(c->disk, e->offset + done, part, ret_at);
        if (result) {
            *ret_at += done;
            return result;
        }
    }
    return 0;
}

static int verified(struct call *c, int result, uint64_t at)
{
    if (result < 0)
        return fail_errno(c, result, false);
    return result ? fail_miscompare(c, at) : SCSI_GOOD;
}

int co_verify(struct call *c)
{
    struct extent e;
    struct sgl data;
    uint64_t at = 0;
    unsigned check = (c->cdb[1] >> 1) & 3;
    int status = transfer_extent(c, &e);
    if (status)
        return status;
    if (check == 2)
        return fail_cdb(c, 1, 2);
    uint64_t expected = check == 0 || e.count == 0 ? 0
                        : check == 1               ? e.bytes
                                                   : c->disk->block_bytes;
    status = data_out_take(c, expected, &data);
    if (status || e.count == 0)
        return status;
    int result = check == 0   ? co_read_through(c->disk, &e)
                 : check == 1 ? co_scsi_compare(c->disk, e.offset, data, &at)
                              : co_compare_repeated(c, &e, data, &at);
    return verified(c, result, at);
}

/* Exclusive, so that what is read back is what was written. */
int co_write_and_verify(struct call *c)
{
    struct extent e;
    struct sgl data;
    struct range_entry entry;
    uint64_t at = 0;
    unsigned check = (c->cdb[1] >> 1) & 3;
    int status = transfer_extent(c, &e);
    if (status)
        return status;
    if (check > 1)
        return fail_cdb(c, 1, 2);
    status = data_out_take(c, e.bytes, &data);
    if (status || e.count == 0)
        return status;
    co_range_lock(&c->disk->ranges, &entry, e.offset, e.bytes, true);
    int result = co_root_write(c->disk->root, e.offset, data, BLOCK_FUA);
    if (result < 0)
        status = fail_errno(c, result, true);
    else
        status = verified(
            c, check ? co_scsi_compare(c->disk, e.offset, data, &at) : co_read_through(c->disk, &e),
            at);
    range_unlock(&c->disk->ranges, &entry);
    return status;
}
