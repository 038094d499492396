/*
 * READ CAPACITY and GET LBA STATUS (SBC-4, 5.20 to 5.22 and 5.7).
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "scsi/internal.h"

#define STATUS_DESCRIPTORS 64
#define STATUS_BYTES       16

uint64_t disk_blocks(const struct scsi_disk *disk)
{
    return block_root_size(disk->root) >> disk->block_shift;
}

/* The last block; a device shrunk to nothing has a last block 0 that cannot be read. */
static uint64_t last_block(const struct scsi_disk *disk)
{
    uint64_t blocks = disk_blocks(disk);
    return blocks ? blocks - 1 : 0;
}

int co_read_capacity_10(struct call *c)
{
    reply_begin(c, 8);
    reply_be32(c, (uint32_t)MIN(last_block(c->disk), (uint64_t)UINT32_MAX));
    reply_be32(c, c->disk->block_bytes);
    return reply_end(c);
}

int co_read_capacity_16(struct call *c)
{
    reply_begin(c, load_be32(c->cdb + 10));
    reply_be64(c, last_block(c->disk));
    reply_be32(c, c->disk->block_bytes);
    reply_u8(c, 0); /* no protection information */
    reply_u8(c, (uint8_t)c->disk->physical_exponent);
    reply_be16(c, 0xc000); /* LBPME, LBPRZ; the first aligned block is 0 */
    reply_zero(c, 16);
    return reply_end(c);
}

/*
 * How many blocks from @lba have one provisioning status. An extent that is less than a block
 * belongs to a block that has data.
 */
static int co_status_run(struct scsi_disk *disk, uint64_t lba, uint64_t blocks, uint64_t *ret_count,
                         bool *ret_mapped)
{
    struct block_extent extent;
    uint64_t left = (blocks - lba) << disk->block_shift;
    int result = co_root_status(disk->root, lba << disk->block_shift, left, &extent);
    if (result < 0)
        return result;
    uint64_t count = extent.length >> disk->block_shift;
    *ret_mapped =
        count == 0 || !(extent.flags & BLOCK_STATUS_ZERO) || (extent.flags & BLOCK_STATUS_DATA);
    *ret_count = MIN(MAX(count, (uint64_t)1), (uint64_t)UINT32_MAX);
    return 0;
}

int co_get_lba_status(struct call *c)
{
    struct scsi_disk *disk = c->disk;
    uint64_t lba = load_be64(c->cdb + 2), blocks = disk_blocks(disk);
    uint32_t allocation = load_be32(c->cdb + 10);
    if (lba >= blocks)
        return fail_with(c, SCSI_KEY_ILLEGAL_REQUEST, ASC_LBA_OUT_OF_RANGE);
    uint64_t room = allocation < 8 ? 1 : MAX((allocation - 8) / STATUS_BYTES, 1u);
    reply_begin(c, allocation);
    reply_zero(c, 8);
    for (unsigned i = 0; i < MIN(room, (uint64_t)STATUS_DESCRIPTORS) && lba < blocks; i++) {
        uint64_t count;
        bool mapped;
        int result = co_status_run(disk, lba, blocks, &count, &mapped);
        if (result < 0)
            return fail_errno(c, result, false);
        reply_be64(c, lba);
        reply_be32(c, (uint32_t)count);
        reply_u8(c, mapped ? 0 : 1); /* mapped, or deallocated */
        reply_zero(c, 3);
        lba += count;
    }
    reply_patch(c, 0, c->reply_at - 4, 4);
    return reply_end(c);
}
