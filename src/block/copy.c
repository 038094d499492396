/*
 * Copies inside the storage: the source is followed down to the node that stores the bytes, the
 * target's driver does the rest.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "block/core.h"

/* A file under a format under filters: more layers than any driver stacks on one file. */
#define MAPPINGS_MAX 8

/*
 * Finds what node stores the bytes at @offset of *@node, and where; *@length shrinks to what lies
 * together there. @return 0, -ENOTSUP where they are zeroes, compressed, or in another layer.
 */
static int co_find_storage(struct block_node **node, uint64_t *offset, uint64_t *length)
{
    for (unsigned i = 0; i < MAPPINGS_MAX; i++) {
        struct block_extent extent;
        int r = co_block_status(*node, *offset, *length, &extent);
        if (r < 0)
            return r;
        if ((extent.flags & (BLOCK_STATUS_DATA | BLOCK_STATUS_MAPPED)) !=
                (BLOCK_STATUS_DATA | BLOCK_STATUS_MAPPED) ||
            (extent.flags & BLOCK_STATUS_COMPRESSED))
            return -ENOTSUP;
        bool here = extent.file == *node;
        /* The map is of the same graph that the caller may read: only the type says const. */
        *node = (struct block_node *)(uintptr_t)extent.file;
        *offset = extent.host_offset;
        *length = MIN(*length, extent.length);
        if (here)
            return 0;
    }
    return -ENOTSUP;
}

/* One call of the driver, kept apart from writes that rewrite a block of the target. */
static int64_t co_call_copy(struct block_node *from, uint64_t from_offset, struct block_node *to,
                            uint64_t to_offset, uint64_t length)
{
    struct serial_entry entry = {.start = to_offset, .end = to_offset + length};
    bool serial = to->limits.request_alignment > 1;
    if (serial)
        co_serial_begin(&to->core->serial, &entry);
    int64_t copied = to->driver->co_copy_range(from, from_offset, to, to_offset, length);
    node_mark_dirty(to);
    node_note_change(to, to_offset, length);
    if (serial)
        serial_end(&to->core->serial, &entry);
    return copied;
}

int co_block_copy_range(struct block_node *from, uint64_t from_offset, struct block_node *to,
                        uint64_t to_offset, uint64_t length, uint64_t *ret_copied)
{
    *ret_copied = 0;
    if (!range_fits(from_offset, length, block_size(from)) ||
        !range_fits(to_offset, length, block_size(to)))
        return -EINVAL;
    if (block_is_read_only(to))
        return -EROFS;
    if (!to->driver->co_copy_range)
        return -ENOTSUP;
    while (*ret_copied < length) {
        struct block_node *storage = from;
        uint64_t offset = from_offset + *ret_copied, piece = length - *ret_copied;
        int r = co_find_storage(&storage, &offset, &piece);
        if (r < 0)
            return r;
        int64_t copied = co_call_copy(storage, offset, to, to_offset + *ret_copied, piece);
        if (copied < 0)
            return (int)copied;
        assert(copied > 0 && (uint64_t)copied <= piece);
        *ret_copied += (uint64_t)copied;
    }
    return 0;
}
