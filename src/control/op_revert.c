/*
 * Reverting a volume that is not in use: a new, empty layer over the snapshot's takes the place of
 * the volume's top. What is given up is removed by an operation of its own that begins in the same
 * transaction.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "control/internal.h"

static int make_layer(struct op *op, struct hws_error *err)
{
    auto_pool pool = {0};
    int r = object_get(op->control, &pool_type, op_text(op, "pool"), &pool, err);
    if (r == 0)
        r = pool_check(op->control, &pool, err);
    struct engine_image image = {
        .path = op_text(op, "path"),
        .format = "qcow2",
        .size_bytes = op_number(op, "size"),
        .cluster_bytes = op_number(op, "cluster-size"),
        .lazy_refcounts = op_text(op, "lazy-refcounts"),
        .extended_l2 = op_text(op, "extended-l2"),
        .backing = op_text(op, "backing"),
        .backing_format = op_text(op, "backing-format"),
    };
    return r == 0 ? op->control->engines->create(&image, err) : r;
}

static int remove_layer(struct op *op, struct hws_error *err)
{
    return layer_unmake(op, "path", err);
}

static int revert_end(struct op *op, struct batch *batch, struct hws_error *err)
{
    auto_volume volume = {0};
    auto_layer layer = {0};
    auto_snapshot snapshot = {0};
    json_t *purge = NULL;
    int r = object_get(op->control, &volume_type, op->object, &volume, err);
    if (r == 0)
        r = object_get(op->control, &layer_type, op_text(op, "layer"), &layer, err);
    if (r == 0)
        r = object_get(op->control, &snapshot_type, op_text(op, "snapshot"), &snapshot, err);
    if (r == 0)
        r = layer_drop(op->control, volume.layer, batch, &purge, err);
    if (r < 0) {
        json_decref(purge);
        return r;
    }
    journal_add(batch, &purge_operation, volume.layer, purge);
    volume.size_bytes = snapshot.size_bytes;
    volume.formatted = snapshot.formatted;
    /* How large the file system was then nobody has written down; growing again does no harm. */
    volume.grow = snapshot.formatted;
    volume.part = snapshot.formatted && volume.origin;
    if (record_set_text(&layer.volume, volume.id) < 0 ||
        record_set_text(&volume.layer, layer.id) < 0 ||
        record_set_text(&volume.format, layer.format) < 0)
        return hws_fail(err, ENOMEM, "out of memory");
    batch_put(batch, &layer_type, &layer);
    batch_put(batch, &volume_type, &volume);
    return 0;
}

static int revert_undone(struct op *op, struct batch *batch, struct hws_error *err)
{
    batch_remove(batch, &layer_type, op_text(op, "layer"));
    return 0;
}

const struct operation volume_revert_operation = {
    .name = "volume-revert",
    .steps = {{"make the layer", make_layer, remove_layer}, {NULL}},
    .direction = op_always_back,
    .end = revert_end,
    .undone = revert_undone,
};

static int revert_taken(struct control *control, const struct volume *volume, const char *name,
                        struct hws_error *err)
{
    auto_snapshot snapshot = {0};
    auto_layer below = {0}, layer = {0};
    auto_pool pool = {0};
    auto_attachment attachment = {0};
    auto_batch begin = {0};
    bool attached;
    int r = snapshot_find(control, volume, name, &snapshot, err);
    if (r == 0)
        r = attachment_get(control, volume->id, &attachment, &attached, err);
    if (r == 0 && attached)
        r = hws_fail(err, EBUSY, "volume '%s' is attached; detach it first", volume->name);
    if (r == 0)
        r = object_get(control, &layer_type, snapshot.layer, &below, err);
    if (r == 0)
        r = pool_of(control, volume, &pool, err);
    if (r == 0)
        r = layer_make(&pool, &below, "qcow2", snapshot.size_bytes, &layer, err);
    if (r < 0)
        return r;
    autofree char *path = layer_path(&pool, &layer), *backing = layer_path(&pool, &below);
    json_t *params = json_pack(
        "{s:s, s:s, s:s, s:s, s:s, s:s, s:I, s:I, s:s*, s:s*}", "pool", pool.id, "layer", layer.id,
        "snapshot", snapshot.id, "path", path ? path : "", "backing", backing ? backing : "",
        "backing-format", below.format, "size", (json_int_t)snapshot.size_bytes, "cluster-size",
        (json_int_t)volume->cluster_bytes, "lazy-refcounts", volume->making.lazy_refcounts,
        "extended-l2", volume->making.extended_l2);
    batch_add(&begin, &layer_type, &layer);
    control_lock_model(control);
    return journal_run(control, &volume_revert_operation, volume->id, params, &begin, NULL, err);
}

struct revert_request {
    char *snapshot;
};

const struct record_field request_volume_revert[] = {
    {"snapshot", RECORD_TEXT, offsetof(struct revert_request, snapshot), "to go back to", true},
    {NULL},
};

int control_volume_revert(struct control *control, const char *reference, const json_t *given,
                          json_t **ret, struct hws_error *err)
{
    auto_volume volume = {0};
    struct revert_request request;
    int r = record_parse(request_volume_revert, given, "revert", &request, sizeof(request), err);
    if (r < 0)
        return r;
    r = volume_take(control, reference, &volume, err);
    if (r == 0) {
        r = revert_taken(control, &volume, request.snapshot, err);
        if (r == 0)
            journal_finish(control, volume.layer); /* the layer that was given up */
        if (r == 0)
            r = control_volume_show(control, volume.id, ret, err);
        volume_release(control, &volume);
        merger_wake(control);
    }
    record_free(request_volume_revert, &request);
    return r;
}
