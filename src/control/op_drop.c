/*
 * Layers that have lost their names several at once, by a transaction that removed a group's
 * snapshot or emptied a volume out of the trash: each goes by an operation of its own, one after
 * the other, as which files may go depends on those that went before.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "control/internal.h"

/* @return 1 where an operation that unlinks files has been added under this one's id. */
static int forget_layer(struct op *op, struct hws_error *err)
{
    auto_layer layer = {0};
    auto_batch batch = {0};
    json_t *purge = NULL;
    int r = object_get(op->control, &layer_type, op->object, &layer, NULL);
    if (r == -ENOENT || (r == 0 && (layer.volume || layer.snapshot)))
        return 0;
    if (r == 0)
        r = layer_drop(op->control, op->object, &batch, &purge, err);
    bool files = json_array_size(json_object_get(purge, "files")) > 0;
    if (r == 0 && files)
        journal_add(&batch, &purge_operation, op->id, json_incref(purge));
    json_decref(purge);
    if (r == 0)
        r = batch_commit(&batch, op->control, err);
    return r < 0 ? r : files;
}

static int drop_layer(struct op *op, struct hws_error *err)
{
    control_lock_model(op->control);
    int r = forget_layer(op, err);
    control_unlock_model(op->control);
    if (r > 0)
        journal_finish(op->control, op->id);
    return MIN(r, 0);
}

static enum op_direction always_forward(struct op *op)
{
    return OP_FORWARD;
}

static int nothing_more(struct op *op, struct batch *batch, struct hws_error *err)
{
    return 0;
}

const struct operation layer_drop_operation = {
    .name = "layer-drop",
    .steps = {{"drop the layer", drop_layer, NULL}, {NULL}},
    .direction = always_forward,
    .end = nothing_more,
};

int layer_unname(struct control *control, const char *id, struct batch *batch,
                 struct hws_error *err)
{
    auto_layer layer = {0};
    int r = object_get(control, &layer_type, id, &layer, err);
    if (r < 0)
        return r;
    free(steal_ptr(&layer.volume));
    free(steal_ptr(&layer.snapshot));
    batch_put(batch, &layer_type, &layer);
    journal_add(batch, &layer_drop_operation, id, json_pack("{s:s}", "pool", layer.pool));
    return 0;
}

void layers_finish(struct control *control, const json_t *ids)
{
    size_t i;
    json_t *id;
    json_array_foreach(ids, i, id) journal_finish(control, json_string_value(id));
    merger_wake(control);
}
