/*
 * The null backend: a device of any size that reads as zeroes and forgets what is written. It
 * measures the cost of everything above it.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "backend/null/null.h"

struct null_options {
    uint64_t size_bytes;
};

static int co_null_open(struct block_node *node, const void *options, struct hws_error *err)
{
    const struct null_options *o = options;

    (void)err;
    node->write_flags = BLOCK_FUA;
    node->zero_flags = BLOCK_FUA | BLOCK_MAY_UNMAP | BLOCK_NO_FALLBACK;
    atomic_store(&node->size_bytes, o->size_bytes);
    return 0;
}

static int co_null_read(struct block_node *node, uint64_t offset, struct sgl buffer, unsigned flags)
{
    sgl_fill(buffer, 0);
    return 0;
}

static int co_null_write(struct block_node *node, uint64_t offset, struct sgl buffer,
                         unsigned flags)
{
    return 0;
}

static int co_null_write_zeroes(struct block_node *node, uint64_t offset, uint64_t length,
                                unsigned flags)
{
    return 0;
}

static int co_null_discard(struct block_node *node, uint64_t offset, uint64_t length)
{
    return 0;
}

static int co_null_status(struct block_node *node, uint64_t offset, uint64_t length,
                          struct block_extent *ret)
{
    *ret = (struct block_extent){
        .length = length,
        .flags = BLOCK_STATUS_ZERO | BLOCK_STATUS_ALLOCATED | BLOCK_STATUS_MAPPED,
        .host_offset = offset,
        .file = node,
    };
    return 0;
}

static int co_null_resize(struct block_node *node, uint64_t size_bytes, struct hws_error *err)
{
    atomic_store(&node->size_bytes, size_bytes);
    return 0;
}

static const struct option_desc null_table[] = {
    {"size", OPTION_SIZE, offsetof(struct null_options, size_bytes), "size of the device", "1G",
     .max = BLOCK_SIZE_MAX},
    OPTION_END,
};

const struct block_driver null_driver = {
    .name = "null",
    .help = "reads zeroes, forgets writes: for measuring",
    .kind = BLOCK_BACKEND,
    .text_option = "size",
    .options = null_table,
    .options_bytes = sizeof(struct null_options),
    .co_open = co_null_open,
    .co_read = co_null_read,
    .co_write = co_null_write,
    .co_write_zeroes = co_null_write_zeroes,
    .co_discard = co_null_discard,
    .co_status = co_null_status,
    .co_resize = co_null_resize,
};
