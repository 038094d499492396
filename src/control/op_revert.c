/*
 * Reverting a volume that is not in use: a new, empty layer over the snapshot's takes the place of
 * the volume's top. What is given up is removed by an operation of its own that begins in the same
 * transaction.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "control/overlays.h"

static int make_layer(struct op *op, struct hws_error *err)
{
    return overlay_make(op->control, op->params, err);
}

static int remove_layer(struct op *op, struct hws_error *err)
{
    return overlay_unmake(op->control, op->params, err);
}

static int revert_end(struct op *op, struct batch *batch, struct hws_error *err)
{
    auto_volume volume = {0};
    json_t *purge = NULL;
    int r = object_get(op->control, &volume_type, op->object, &volume, err);
    if (r == 0)
        r = layer_drop(op->control, volume.layer, batch, &purge, err);
    if (r < 0) {
        json_decref(purge);
        return r;
    }
    journal_add(batch, &purge_operation, volume.layer, purge);
    return overlay_revert(op->control, &volume, op->params, batch, err);
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
    json_t *params = NULL;
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
    if (r == 0)
        r = overlay_params(volume, &pool, &layer, &below, &params, err);
    if (r < 0)
        return r;
    json_object_set_new(params, "snapshot", json_string(snapshot.id));
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
