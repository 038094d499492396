/*
 * New layers over others, as snapshots and reverts make them: from the params of an operation, in
 * which steps find again what the operation has decided.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "control/overlays.h"

static const char *text(const json_t *params, const char *name)
{
    return json_string_value(json_object_get(params, name));
}

static uint64_t number(const json_t *params, const char *name)
{
    return (uint64_t)json_integer_value(json_object_get(params, name));
}

int overlay_params(const struct volume *volume, const struct pool *pool, const struct layer *layer,
                   const struct layer *below, json_t **ret, struct hws_error *err)
{
    autofree char *path = layer_path(pool, layer), *backing = layer_path(pool, below);
    if (!path || !backing)
        return hws_fail(err, ENOMEM, "out of memory");
    *ret = json_pack("{s:s, s:s, s:s, s:s, s:s, s:I, s:I, s:s*, s:s*}", "pool", pool->id, "layer",
                     layer->id, "path", path, "backing", backing, "backing-format", below->format,
                     "size", (json_int_t)layer->size_bytes, "cluster-size",
                     (json_int_t)volume->cluster_bytes, "lazy-refcounts",
                     volume->making.lazy_refcounts, "extended-l2", volume->making.extended_l2);
    return *ret ? 0 : hws_fail(err, ENOMEM, "out of memory");
}

int overlay_check_pool(struct control *control, const json_t *params, struct hws_error *err)
{
    auto_pool pool = {0};
    int r = object_get(control, &pool_type, text(params, "pool"), &pool, err);
    return r == 0 ? pool_check(control, &pool, err) : r;
}

int overlay_make(struct control *control, const json_t *params, struct hws_error *err)
{
    int r = overlay_check_pool(control, params, err);
    struct engine_image image = {
        .path = text(params, "path"),
        .format = "qcow2",
        .size_bytes = number(params, "size"),
        .cluster_bytes = number(params, "cluster-size"),
        .lazy_refcounts = text(params, "lazy-refcounts"),
        .extended_l2 = text(params, "extended-l2"),
        .backing = text(params, "backing"),
        .backing_format = text(params, "backing-format"),
    };
    return r == 0 ? control->engines->create(&image, err) : r;
}

int overlay_unmake(struct control *control, const json_t *params, struct hws_error *err)
{
    int r = overlay_check_pool(control, params, err);
    return r == 0 ? file_unlink(text(params, "path"), err) : r;
}

int overlay_revert(struct control *control, struct volume *volume, const json_t *params,
                   struct batch *batch, struct hws_error *err)
{
    auto_layer layer = {0};
    auto_snapshot snapshot = {0};
    int r = object_get(control, &layer_type, text(params, "layer"), &layer, err);
    if (r == 0)
        r = object_get(control, &snapshot_type, text(params, "snapshot"), &snapshot, err);
    if (r < 0)
        return r;
    volume->size_bytes = snapshot.size_bytes;
    volume->formatted = snapshot.formatted;
    /* How large the file system was then nobody has written down; growing again does no harm. */
    volume->grow = snapshot.formatted;
    volume->part = snapshot.formatted && volume->origin;
    if (record_set_text(&layer.volume, volume->id) < 0 ||
        record_set_text(&volume->layer, layer.id) < 0 ||
        record_set_text(&volume->format, layer.format) < 0)
        return hws_fail(err, ENOMEM, "out of memory");
    batch_put(batch, &layer_type, &layer);
    batch_put(batch, &volume_type, volume);
    return 0;
}
