/*
 * Snapshot and revert of a live volume.
 *
 * A snapshot makes an empty overlay and pushes it on top: only the push itself holds requests. A
 * revert changes what the device contains, so it first makes sure that nobody uses the device,
 * keeps others from starting to, and makes the kernel forget what it cached:
 *
 *   claim the device -> prepare a fresh overlay under a temporary name -> drain, flush
 *   -> exchange the two names -> open the fresh one by the volume's name -> replace the top
 *   -> undrain -> delete the old top -> release the device
 *
 * A crash before the exchange leaves the old state and a temporary file, after it the new state and
 * the old top under the temporary name; the volume's path always names a whole image.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "engine/engine.h"
#include "base/log.h"
#include "engine/jobs.h"
#include "job/overlay/overlay.h"

static int top_path(struct volume *volume, const char **ret, struct hws_error *err)
{
    *ret = overlay_node_path(block_root_node(volume->root));
    if (!*ret)
        return hws_fail(err, ENOTSUP,
                        "volume '%s' is not a file of this host; an overlay cannot name it",
                        volume->config.name);
    return 0;
}

static int co_push(struct volume *volume, const char *overlay, const char *format,
                   struct volume_switch *ret, struct hws_error *err)
{
    struct block_node *node;
    int r = co_volume_open_node(volume, overlay, format, BLOCK_OPEN_NO_BACKING,
                                volume_allow(volume), &node, err);
    if (r < 0)
        return r;
    /* Most of what is dirty goes out while requests still run; the push flushes the rest. */
    r = volume->hold ? 0 : co_root_flush(volume->root);
    if (r == 0) {
        /* Whoever comes after a death in between must know of it before the first write there. */
        r = volume_note_next(volume, overlay, format ? format : block_driver_name(node), err);
        uint64_t started = rt_now_ns();
        if (r == 0)
            r = co_root_push(volume->root, node, err);
        ret->pause_ns = rt_now_ns() - started;
        volume_end_next(volume, r == 0);
    }
    if (r < 0 && co_block_close(node, NULL) < 0)
        log_warning("%s: cannot close the overlay that was not used", overlay);
    return r < 0 && err && !err->code ? hws_wrap(err, r, "cannot flush the volume") : r;
}

int co_volume_snapshot(struct volume *volume, const char *overlay, const char *format,
                       struct volume_switch *ret, struct hws_error *err)
{
    *ret = (struct volume_switch){0};
    if (volume->config.read_only)
        return hws_fail(err, EROFS, "volume '%s' is read-only: nothing would go to the overlay",
                        volume->config.name);
    struct block_node *top = block_root_node(volume->root);
    const char *path;
    int r = volume_refuse_job(volume, err);
    if (r == 0)
        r = top_path(volume, &path, err);
    if (r < 0)
        return r;
    if (!format)
        format = "qcow2";
    struct overlay_spec spec = {
        .path = overlay,
        .format = format,
        .backing = path,
        .backing_format = block_driver_name(top),
        .size_bytes = block_root_size(volume->root),
    };
    r = co_overlay_create(&spec, err);
    if (r < 0)
        return r;
    r = co_push(volume, overlay, format, ret, err);
    if (r < 0 && co_unlink(overlay, NULL) < 0)
        log_warning("%s: cannot remove the overlay that was not used", overlay);
    return r;
}

/*
 * What the new chain may name: what the volume may, and the very files that are open already. They
 * may lie in other folders, where a snapshot was told to put its overlay.
 */
static const char **allow_chain(struct volume *volume, struct block_node *layer)
{
    const char *const *allow = volume_allow(volume);
    size_t count = 0, depth = 0;
    for (struct block_node *at = layer; at; at = block_child(at, BLOCK_BACKING))
        depth++;
    const char **list = calloc(ENGINE_ALLOW_MAX + 2 * depth + 1, sizeof(const char *));
    for (; list && allow && *allow; allow++)
        list[count++] = *allow;
    for (struct block_node *at = layer; list && at; at = block_child(at, BLOCK_BACKING)) {
        struct block_node *data = block_child(at, BLOCK_DATA);
        const char *path = overlay_node_path(at),
                   *data_path = data ? overlay_node_path(data) : NULL;
        if (path)
            list[count++] = path;
        if (data_path)
            list[count++] = data_path;
    }
    return list;
}

/*
 * Within drain: both names are whole images all the time; on failure all is as it was, or, where
 * even the way back fails, @ret_kept tells that @fresh is what runs.
 */
static int co_switch(struct volume *volume, const char *path, const char *format, const char *fresh,
                     const char *const *allow, bool *ret_kept, struct hws_error *err)
{
    /* Of the node: a request of the root would wait for the end of the drain. */
    int r = co_block_flush(block_root_node(volume->root));
    if (r < 0)
        return hws_fail_errno(err, -r, "%s: cannot flush", path);
    r = co_overlay_exchange(path, fresh, err);
    if (r < 0)
        return r;
    struct block_node *node;
    r = co_volume_open_node(volume, path, format, 0, allow, &node, err);
    if (r == 0) {
        r = co_root_replace(volume->root, node, err);
        if (r < 0 && co_block_close(node, NULL) < 0)
            log_warning("%s: cannot close the overlay that was not used", path);
    }
    if (r < 0 && co_overlay_exchange(path, fresh, NULL) < 0) {
        *ret_kept = true;
        return hws_wrap(err, r, "the running content of %s is now in %s: detach and rename it back",
                        path, fresh);
    }
    return r;
}

static int co_revert_claimed(struct volume *volume, const char *layer_path,
                             struct volume_switch *ret, struct hws_error *err)
{
    struct block_node *top = block_root_node(volume->root), *layer;
    const char *node_path;
    int r = top_path(volume, &node_path, err);
    if (r == 0)
        r = overlay_find_layer(top, layer_path, &layer, err);
    if (r < 0)
        return r;
    autofree char *path = realpath(node_path, NULL), *format = strdup(block_driver_name(top)),
                  *fresh = NULL;
    const char *back = overlay_node_path(layer);
    autofree const char **allow = allow_chain(volume, layer);
    ret->layer = back ? strdup(back) : NULL;
    if (!path || !format || !allow)
        return hws_fail(err, ENOMEM, "out of memory");
    uint64_t old_size = block_root_size(volume->root);
    r = co_overlay_prepare_revert(top, layer, path, &fresh, err);
    if (r < 0)
        return r;
    bool kept = false;
    uint64_t started = rt_now_ns();
    co_root_drain(volume->root);
    r = co_switch(volume, path, format, fresh, allow, &kept, err);
    co_root_undrain(volume->root);
    ret->pause_ns = rt_now_ns() - started;
    if (!kept && co_unlink(fresh, NULL) < 0)
        log_warning("%s: cannot remove it; nothing uses it any more", fresh);
    if (r == 0 && block_root_size(volume->root) != old_size)
        r = co_volume_resized(volume, err);
    return r;
}

int co_volume_revert(struct volume *volume, const char *layer, bool force,
                     struct volume_switch *ret, struct hws_error *err)
{
    *ret = (struct volume_switch){0};
    if (volume->config.read_only)
        return hws_fail(err, EROFS, "volume '%s' is read-only", volume->config.name);
    int claim = -1;
    int r = volume_refuse_job(volume, err);
    if (r < 0)
        return r;
    r = volume->device && !force ? co_device_claim(volume->device, &claim, err) : 0;
    if (r < 0)
        return hws_wrap(err, r, "cannot change the content of volume '%s'", volume->config.name);
    r = co_revert_claimed(volume, layer, ret, err);
    if (volume->device)
        co_device_release(volume->device, claim);
    if (r < 0) {
        free(ret->layer);
        ret->layer = NULL;
    }
    return r;
}
