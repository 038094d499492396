/*
 * hws_amend(): options of an image that exists; hws_compact(): its file made smaller.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "block/driver.h"
#include "lib/call.h"

struct amending {
    const struct hws_image *image;
    const struct hws_amend *how;
};

static int co_amend(void *arg, struct hws_error *err)
{
    const struct amending *a = arg;
    struct block_progress progress = {.step = a->how->progress, .arg = a->how->progress_arg};
    struct block_node *node;
    int r = co_call_open(a->image, BLOCK_OPEN_WRITE | BLOCK_OPEN_RESIZE, &node, err);
    if (r < 0)
        return r;
    const struct block_driver *driver = block_driver_find(block_driver_name(node));
    json_t *options = json_object();
    r = call_add_options(driver->amend_options, a->how->options, options, err);
    if (r == 0)
        r = co_block_amend(node, options, a->how->force, &progress, err);
    json_decref(options);
    return co_call_close(node, r, err);
}

int hws_amend(const struct hws_image *image, const struct hws_amend *amend, struct hws_error *err)
{
    struct amending a = {image, amend};
    return call_run(co_amend, &a, err);
}

struct compacting {
    const struct hws_image *image;
    const struct hws_compact *how;
    struct hws_compacted *ret;
};

static int co_compact(void *arg, struct hws_error *err)
{
    const struct compacting *c = arg;
    struct block_progress progress = {.step = c->how->progress, .arg = c->how->progress_arg};
    struct block_compact done;
    struct block_node *node;
    int r = co_call_open(c->image, BLOCK_OPEN_WRITE | BLOCK_OPEN_RESIZE, &node, err);
    if (r < 0)
        return r;
    r = co_block_compact(node, c->how->zeroes, &progress, &done, err);
    *c->ret = (struct hws_compacted){.bytes_before = done.bytes_before,
                                     .bytes_after = done.bytes_after,
                                     .moved_bytes = done.moved_bytes,
                                     .zeroed_bytes = done.zeroed_bytes};
    return co_call_close(node, r, err);
}

int hws_compact(const struct hws_image *image, const struct hws_compact *compact,
                struct hws_compacted *ret, struct hws_error *err)
{
    struct compacting c = {image, compact, ret};
    return call_run(co_compact, &c, err);
}
