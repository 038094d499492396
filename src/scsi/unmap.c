/*
 * UNMAP and FORMAT UNIT (SBC-4, 5.35 and 5.5).
 *
 * LBPRZ promises that a deallocated block reads as zeroes, so blocks are deallocated by
 * write-zeroes that may unmap. Where that is not possible (the edges of a cluster, a backend that
 * has no holes) zeroes are written over data: the standard lets such blocks stay as they are, but
 * initiators take LBPRZ to hold for every block that they unmapped.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "scsi/internal.h"

#define HEADER_BYTES     8
#define DESCRIPTOR_BYTES 16
#define ALIGNMENT_MAX    (2 * MiB) /* of a cluster */
#define FORMAT_STEP      (1 * GiB)

/*
 * Zeroes where there is data; what reads as zeroes already must not be allocated for it. An edge
 * for which there is no space stays mapped.
 */
static int co_zero_edge(struct scsi_disk *disk, uint64_t offset, uint64_t length)
{
    int result = 0;
    while (length && result == 0) {
        struct block_extent extent;
        result = co_root_status(disk->root, offset, length, &extent);
        if (result < 0)
            return result;
        uint64_t part = MIN(extent.length, length);
        if (!(extent.flags & BLOCK_STATUS_ZERO))
            result = co_root_write_zeroes(disk->root, offset, part, BLOCK_MAY_UNMAP);
        offset += part;
        length -= part;
    }
    return result == -ENOSPC || result == -EDQUOT ? 0 : result;
}

int co_deallocate(struct scsi_disk *disk, uint64_t offset, uint64_t length)
{
    unsigned flags = BLOCK_MAY_UNMAP | BLOCK_NO_FALLBACK;
    uint64_t start = offset, end = offset + length;
    int result = co_root_write_zeroes(disk->root, offset, length, flags);
    /* The middle that is aligned to whatever the image's clusters are. */
    for (uint64_t alignment = 4096; result == -ENOTSUP && alignment <= ALIGNMENT_MAX;
         alignment *= 2) {
        start = align_up(offset, alignment);
        end = align_down(offset + length, alignment);
        if (start >= end)
            break;
        result = co_root_write_zeroes(disk->root, start, end - start, flags);
    }
    if (result == -ENOTSUP)
        return co_zero_edge(disk, offset, length);
    if (result == 0 && start > offset)
        result = co_zero_edge(disk, offset, start - offset);
    if (result == 0 && end < offset + length)
        result = co_zero_edge(disk, end, offset + length - end);
    return result;
}

/* All descriptors are looked at before the first one is carried out. */
static int check_descriptors(struct call *c, const uint8_t *list, size_t length)
{
    struct cursor cursor = cursor_of(list + HEADER_BYTES, length);
    uint64_t total = 0;
    while (cursor_left(&cursor) >= DESCRIPTOR_BYTES) {
        struct extent e = {.lba = cursor_be64(&cursor), .count = cursor_be32(&cursor)};
        (void)cursor_take(&cursor, 4);
        int status = e.count ? extent_check(c, &e) : 0; /* no blocks are nowhere out of range */
        if (status)
            return status;
        total += e.count;
    }
    if (total > UNMAP_BLOCKS_MAX)
        return fail_parameter(c, HEADER_BYTES + 8, 7);
    return 0;
}

static int co_unmap_descriptors(struct call *c, const uint8_t *list, size_t length)
{
    struct cursor cursor = cursor_of(list + HEADER_BYTES, length);
    while (cursor_left(&cursor) >= DESCRIPTOR_BYTES) {
        struct extent e = {.lba = cursor_be64(&cursor), .count = cursor_be32(&cursor)};
        struct range_entry entry;
        (void)cursor_take(&cursor, 4);
        if (e.count == 0)
            continue;
        int status = extent_check(c, &e);
        if (status)
            return status; /* the disk shrank meanwhile */
        co_range_lock(&c->disk->ranges, &entry, e.offset, e.bytes, false);
        int result = co_deallocate(c->disk, e.offset, e.bytes);
        range_unlock(&c->disk->ranges, &entry);
        if (result < 0)
            return fail_errno(c, result, true);
    }
    return SCSI_GOOD;
}

int co_unmap(struct call *c)
{
    uint8_t list[HEADER_BYTES + UNMAP_DESCRIPTORS * DESCRIPTOR_BYTES];
    size_t length = load_be16(c->cdb + 7);
    if (length == 0) {
        call_residual(c, 0, c->task->data_out.length);
        return SCSI_GOOD;
    }
    if (length < HEADER_BYTES)
        return fail_with(c, SCSI_KEY_ILLEGAL_REQUEST, ASC_PARAMETER_LIST_LENGTH);
    if (length > sizeof(list))
        return fail_cdb(c, 7, 7);
    int status = parameters_load(c, list, length);
    if (status)
        return status;
    size_t described = load_be16(list + 2);
    if (described > length - HEADER_BYTES)
        return fail_with(c, SCSI_KEY_ILLEGAL_REQUEST, ASC_PARAMETER_LIST_LENGTH);
    status = check_descriptors(c, list, described);
    return status ? status : co_unmap_descriptors(c, list, described);
}

/* ---- FORMAT UNIT ---- */

/* Nothing but the default format can be asked for: no defect lists, patterns or protection. */
static int check_format(struct call *c)
{
    uint8_t header[8];
    bool with_data = c->cdb[1] & 0x10, long_header = c->cdb[1] & 0x20;
    if (c->cdb[1] & 0xc0)
        return fail_cdb(c, 1, 7);
    if (!with_data)
        return c->cdb[1] & 0x2f ? fail_cdb(c, 1, 5) : 0;
    int status = parameters_load(c, header, long_header ? 8 : 4);
    if (status)
        return status;
    if (header[0] & 0x07) /* PROTECTION FIELD USAGE */
        return fail_parameter(c, 0, 2);
    bool options_valid = header[1] & 0x80;
    if ((header[1] & 0x08) || (!options_valid && (header[1] & 0x70)))
        return fail_parameter(c, 1, 6);
    if (long_header ? header[3] != 0 : false)
        return fail_parameter(c, 3, 7);
    if (long_header ? load_be32(header + 4) : load_be16(header + 2))
        return fail_parameter(c, long_header ? 4 : 2, 7);
    return 0;
}

int co_format_unit(struct call *c)
{
    struct range_entry entry;
    int status = check_format(c), result = 0;
    if (status)
        return status;
    if (!(c->cdb[1] & 0x10))
        call_residual(c, 0, c->task->data_out.length);
    uint64_t size = disk_blocks(c->disk) << c->disk->block_shift;
    co_range_lock(&c->disk->ranges, &entry, 0, size, true);
    for (uint64_t at = 0; at < size && result == 0; at += FORMAT_STEP)
        if ((result = call_cancelled(c)) == 0)
            result = co_deallocate(c->disk, at, MIN(FORMAT_STEP, size - at));
    range_unlock(&c->disk->ranges, &entry);
    return result < 0 ? fail_errno(c, result, true) : SCSI_GOOD;
}
