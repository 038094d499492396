/*
 * The dirty bitmaps that an image stores: hws_bitmap().
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "block/bitmap.h"
#include "lib/call.h"

struct bitmap_call {
    const struct hws_image *image, *source;
    const char *name;
    const struct hws_bitmap_action *action;
    unsigned count;
    struct block_node *node, *from; /* `from`: where merges take theirs */
};

static int find(struct block_node *node, const char *name, struct block_bitmap **ret,
                struct hws_error *err)
{
    *ret = block_bitmap_find(node, name);
    return *ret ? 0
                : hws_fail(err, ENOENT, "'%.200s' has no bitmap '%.200s'", block_filename(node),
                           name);
}

static int co_act(const struct bitmap_call *call, const struct hws_bitmap_action *action,
                  struct hws_error *err)
{
    struct block_bitmap *bitmap, *from;
    if (action->kind == HWS_BITMAP_ADD)
        return co_block_bitmap_add(call->node, call->name, action->granularity,
                                   BLOCK_BITMAP_PERSISTENT, NULL, err);
    int r = find(call->node, call->name, &bitmap, err);
    if (r < 0)
        return r;
    switch (action->kind) {
    case HWS_BITMAP_REMOVE:
        return co_block_bitmap_remove(bitmap, err);
    case HWS_BITMAP_CLEAR:
        return co_block_bitmap_clear(bitmap, err);
    case HWS_BITMAP_ENABLE:
    case HWS_BITMAP_DISABLE:
        return co_block_bitmap_enable(bitmap, action->kind == HWS_BITMAP_ENABLE, err);
    case HWS_BITMAP_MERGE:
        r = find(call->from, action->from, &from, err);
        return r < 0 ? r : co_block_bitmap_merge(bitmap, from, err);
    default:
        return hws_fail(err, EINVAL, "no such action on a bitmap: %d", (int)action->kind);
    }
}

static int co_bitmap(void *arg, struct hws_error *err)
{
    struct bitmap_call *call = arg;
    int r = co_call_open(call->image, BLOCK_OPEN_WRITE | BLOCK_OPEN_NO_BACKING, &call->node, err);
    if (r < 0)
        return r;
    call->from = call->node;
    if (call->source)
        r = co_call_open(call->source, BLOCK_OPEN_NO_BACKING, &call->from, err);
    for (unsigned i = 0; i < call->count && r == 0; i++)
        r = co_act(call, &call->action[i], err);
    if (call->source && call->from != call->node)
        r = co_call_close(call->from, r, err);
    return co_call_close(call->node, r, err);
}

int hws_bitmap(const struct hws_image *image, const char *name,
               const struct hws_bitmap_action *actions, unsigned count,
               const struct hws_image *source, struct hws_error *err)
{
    struct bitmap_call call = {
        .image = image, .source = source, .name = name, .action = actions, .count = count};
    return call_run(co_bitmap, &call, err);
}
