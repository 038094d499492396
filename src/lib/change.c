/*
 * Changing images that nobody has attached: hws_resize(), hws_internal_snapshot(), hws_snapshot(),
 * hws_revert().
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/size.h"
#include "job/overlay/overlay.h"
#include "lib/call.h"

struct resize {
    const struct hws_image *image;
    const struct hws_resize *how;
    uint64_t new_size;
};

static int wanted_size(const struct hws_resize *how, uint64_t now, uint64_t *ret,
                       struct hws_error *err)
{
    uint64_t size = how->size_bytes;
    if (how->relative < 0) {
        if (size > now)
            return hws_fail(err, EINVAL, "cannot take %llu bytes off an image of %llu",
                            (unsigned long long)size, (unsigned long long)now);
        size = now - size;
    } else if (how->relative > 0 && add_overflows(now, size, &size)) {
        size = UINT64_MAX;
    }
    if (size > BLOCK_SIZE_MAX)
        return hws_fail(err, EFBIG, "the new size is past the largest that the kernel takes, %llu",
                        (unsigned long long)BLOCK_SIZE_MAX);
    char human[32];
    if (size < now && !how->shrink)
        return hws_fail(err, EINVAL,
                        "the image is larger (%s) than that: shrinking cuts off what lies past the "
                        "new end. Say --shrink if that is meant",
                        size_format(now, human, sizeof(human)));
    *ret = size;
    return 0;
}

/* By enum block_preallocation. */
static const char *const preallocation_names[] = {"off", "metadata", "falloc", "full"};

static int find_preallocation(const char *name, enum block_preallocation *ret,
                              struct hws_error *err)
{
    *ret = BLOCK_PREALLOC_OFF;
    for (unsigned i = 0; name && i < ARRAY_LEN(preallocation_names); i++)
        if (strcmp(name, preallocation_names[i]) == 0) {
            *ret = (enum block_preallocation)i;
            return 0;
        }
    return name ? hws_fail(err, EINVAL,
                           "no preallocation is called '%.64s'; there are off, metadata, falloc "
                           "and full",
                           name)
                : 0;
}

/* What is new gets its storage once it is there: what ends that leaves it grown. */
static int co_resize_node(struct resize *resize, struct block_node *node,
                          enum block_preallocation mode, struct hws_error *err)
{
    uint64_t old_size = block_size(node);
    int r = wanted_size(resize->how, old_size, &resize->new_size, err);
    if (r == 0 && mode != BLOCK_PREALLOC_OFF && resize->new_size <= old_size)
        r = hws_fail(err, EINVAL, "preallocation is for growing: the image has %llu bytes already",
                     (unsigned long long)old_size);
    if (r == 0)
        r = block_preallocation_check(node, mode, err);
    if (r == 0)
        r = co_block_resize(node, resize->new_size, err);
    if (r < 0 || mode == BLOCK_PREALLOC_OFF)
        return r;
    r = co_block_preallocate(node, old_size, block_size(node) - old_size, mode, err);
    return r < 0 ? hws_wrap(err, r, "it has its new size, but not all of the storage for it") : 0;
}

static int co_resize(void *arg, struct hws_error *err)
{
    struct resize *resize = arg;
    const struct hws_resize *how = resize->how;
    enum block_preallocation mode;
    struct block_node *node;
    int r = find_preallocation(how->preallocation, &mode, err);
    if (r == 0)
        r = co_call_open_told(resize->image, BLOCK_OPEN_WRITE | BLOCK_OPEN_RESIZE, how->progress,
                              how->progress_arg, &node, err);
    if (r < 0)
        return r;
    r = co_resize_node(resize, node, mode, err);
    if (r == 0)
        resize->new_size = block_size(node);
    return co_call_close(node, r, err);
}

int hws_resize(const struct hws_image *image, const struct hws_resize *resize,
               uint64_t *ret_size_bytes, struct hws_error *err)
{
    struct resize call = {image, resize, 0};
    int r = call_run(co_resize, &call, err);
    if (r == 0)
        *ret_size_bytes = call.new_size;
    return r;
}

struct internal_snapshot {
    const struct hws_image *image;
    enum block_snapshot_action action;
    const char *name;
};

static int co_internal_snapshot(void *arg, struct hws_error *err)
{
    const struct internal_snapshot *call = arg;
    struct block_node *node;
    int r = co_call_open(call->image, BLOCK_OPEN_WRITE | BLOCK_OPEN_NO_BACKING, &node, err);
    if (r < 0)
        return r;
    r = co_block_snapshot(node, call->action, call->name, err);
    return co_call_close(node, r, err);
}

int hws_internal_snapshot(const struct hws_image *image, enum hws_snapshot_action action,
                          const char *name, struct hws_error *err)
{
    static const enum block_snapshot_action actions[] = {
        [HWS_SNAPSHOT_CREATE] = BLOCK_SNAPSHOT_CREATE,
        [HWS_SNAPSHOT_APPLY] = BLOCK_SNAPSHOT_APPLY,
        [HWS_SNAPSHOT_DELETE] = BLOCK_SNAPSHOT_DELETE,
    };
    if ((unsigned)action >= ARRAY_LEN(actions))
        return hws_fail(err, EINVAL, "there is no snapshot action %d", (int)action);
    struct internal_snapshot call = {image, actions[action], name};
    return call_run(co_internal_snapshot, &call, err);
}

struct snapshot {
    const struct hws_image *image;
    const char *overlay, *format, *layer;
    char *went_to;
};

/* The image is only read, but locked while the overlay is made: nobody may be writing it. */
static int co_snapshot(void *arg, struct hws_error *err)
{
    struct snapshot *snapshot = arg;
    struct block_node *node;
    int r = co_call_open(snapshot->image, BLOCK_OPEN_NO_BACKING, &node, err);
    if (r < 0)
        return r;
    const char *path = overlay_node_path(node);
    struct overlay_spec spec = {
        .path = snapshot->overlay,
        .format = snapshot->format,
        .backing = path,
        .backing_format = block_driver_name(node),
        .size_bytes = block_size(node),
    };
    r = path ? co_overlay_create(&spec, err)
             : hws_fail(err, ENOTSUP,
                        "'%s' is not a file of this host, so it cannot be recorded as "
                        "a backing file",
                        snapshot->image->path);
    return co_call_close(node, r, err);
}

int hws_snapshot(const struct hws_image *image, const char *overlay, const char *format,
                 struct hws_error *err)
{
    struct snapshot call = {image, overlay, format, NULL, NULL};
    return call_run(co_snapshot, &call, err);
}

/* The write lock on the old top keeps others away until the names are exchanged. */
static int co_revert_open(struct snapshot *call, struct block_node *top, struct hws_error *err)
{
    struct block_node *layer;
    int r = overlay_find_layer(top, call->layer, &layer, err);
    if (r < 0)
        return r;
    const char *named = overlay_node_path(top);
    if (!named)
        return hws_fail(err, ENOTSUP, "'%s' is not a file of this host", call->image->path);
    /* The file is replaced, not a link to it. */
    autofree char *path = realpath(named, NULL);
    if (!path)
        return hws_fail_errno(err, errno, "cannot find '%s'", named);
    autofree char *fresh = NULL;
    r = co_overlay_prepare_revert(top, layer, path, &fresh, err);
    if (r < 0)
        return r;
    const char *back = overlay_node_path(layer);
    call->went_to = back ? strdup(back) : NULL;
    r = co_overlay_exchange(path, fresh, err);
    /* The temporary name now has what is no longer wanted: the old top, or the fresh one on
     * failure. */
    int removed = co_unlink(fresh, r < 0 ? NULL : err);
    return r < 0 ? r : removed;
}

static int co_revert(void *arg, struct hws_error *err)
{
    struct snapshot *call = arg;
    struct block_node *top;
    int r = co_call_open(call->image, BLOCK_OPEN_WRITE, &top, err);
    if (r < 0)
        return r;
    r = co_revert_open(call, top, err);
    return co_call_close(top, r, err);
}

int hws_revert(const struct hws_image *image, const char *layer, char **ret_layer,
               struct hws_error *err)
{
    struct snapshot call = {image, NULL, NULL, layer, NULL};
    int r = call_run(co_revert, &call, err);
    if (r < 0)
        free(call.went_to);
    else
        *ret_layer = call.went_to;
    return r;
}
