/*
 * Changing the virtual size.
 *
 * Growing over a backing file that is longer than the node was would show the backing file's bytes:
 *
 *     node     |======|......new......|
 *     backing  |======|xxxxxxxxx|            x must read as zeroes in the node
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "block/core.h"

/* Hides what a backing file holds in the new part. */
static int co_zero_growth(struct block_node *node, uint64_t old_size, uint64_t size,
                          struct hws_error *err)
{
    const struct block_node *backing = node->child[BLOCK_BACKING];
    uint64_t end = backing ? MIN(block_size(backing), size) : 0;
    if (end <= old_size)
        return 0;
    int r = co_block_write_zeroes(node, old_size, end - old_size, 0);
    if (r == 0)
        return 0;
    hws_fail_errno(err, -r, "'%.200s': zeroing the new part, which its backing file would show",
                   node->filename);
    struct hws_error ignored;
    if (node->driver->co_resize(node, old_size, &ignored) == 0) {
        atomic_store(&node->size_bytes, old_size);
        bitmaps_resize(node, old_size);
    }
    return r;
}

int co_block_resize(struct block_node *node, uint64_t size_bytes, struct hws_error *err)
{
    uint64_t old_size = block_size(node);
    if (node->read_only)
        return hws_fail(err, EROFS, "'%.200s' is open read-only", node->filename);
    if (!node->driver->co_resize)
        return hws_fail(err, ENOTSUP, "%s cannot change the size of '%.200s'", node->driver->name,
                        node->filename);
    if (size_bytes > BLOCK_SIZE_MAX)
        return hws_fail(err, EFBIG, "'%.200s': a size of %llu bytes is beyond the largest, %llu",
                        node->filename, (unsigned long long)size_bytes,
                        (unsigned long long)BLOCK_SIZE_MAX);
    if (size_bytes == old_size)
        return 0;
    int r = co_bitmaps_reserve(node, size_bytes, err);
    if (r < 0)
        return r;
    r = node->driver->co_resize(node, size_bytes, err);
    node_mark_dirty(node);
    if (r < 0) {
        /* Some of what it was to cut off may read as zeroes now. */
        if (size_bytes < old_size)
            node_note_change(node, size_bytes, old_size - size_bytes);
        return err && err->code ? r : hws_wrap(err, r, "resizing '%.200s'", node->filename);
    }
    atomic_store(&node->size_bytes, size_bytes);
    bitmaps_resize(node, size_bytes);
    return size_bytes > old_size ? co_zero_growth(node, old_size, size_bytes, err) : 0;
}

int block_progress(const struct block_node *node, uint64_t done_bytes, uint64_t total_bytes)
{
    const struct block_policy *policy = block_policy_of(node);
    return policy->progress && policy->progress(policy->progress_arg, done_bytes, total_bytes)
               ? -ECANCELED
               : 0;
}

int block_preallocation_check(const struct block_node *node, enum block_preallocation mode,
                              struct hws_error *err)
{
    if (mode == BLOCK_PREALLOC_OFF)
        return 0;
    if (!node->driver->co_preallocate)
        return hws_fail(err, ENOTSUP, "%s cannot preallocate", node->driver->name);
    if (mode == BLOCK_PREALLOC_METADATA && !node->driver->prealloc_metadata)
        return hws_fail(err, ENOTSUP,
                        "%s has no tables to preallocate; use preallocation=falloc or full",
                        node->driver->name);
    return 0;
}

int co_block_preallocate(struct block_node *node, uint64_t offset, uint64_t length,
                         enum block_preallocation mode, struct hws_error *err)
{
    if (node->read_only)
        return hws_fail(err, EROFS, "'%.200s' is open read-only", node->filename);
    if (!range_fits(offset, length, block_size(node)))
        return hws_fail(err, EINVAL, "'%.200s': the range to preallocate ends past its end",
                        node->filename);
    if (mode == BLOCK_PREALLOC_OFF || length == 0)
        return 0;
    int r = block_preallocation_check(node, mode, err);
    if (r < 0)
        return r;
    node_mark_dirty(node);
    r = node->driver->co_preallocate(node, offset, length, mode, err);
    node_mark_dirty(node);
    if (r < 0 && err && !err->code)
        return hws_wrap(err, r, "preallocating '%.200s'", node->filename);
    return r;
}
