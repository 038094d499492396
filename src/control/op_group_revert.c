/*
 * Reverting the volumes of a group's snapshot, none of them in use: a new, empty layer over each
 * one's snapshot takes the place of its top, of all in one transaction. What is given up goes by
 * operations of its own (op_drop.c).
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "control/group.h"
#include "control/overlays.h"

static const char *text(const json_t *member, const char *name)
{
    return json_string_value(json_object_get(member, name));
}

static const json_t *members_of(const struct op *op)
{
    return json_object_get(op->params, "members");
}

static int make_layers(struct op *op, struct hws_error *err)
{
    size_t i;
    json_t *member;
    int r = 0;
    json_array_foreach(members_of(op), i, member) r =
        r == 0 ? overlay_make(op->control, member, err) : r;
    return r;
}

static int remove_layers(struct op *op, struct hws_error *err)
{
    size_t i;
    json_t *member;
    int r = 0;
    json_array_foreach(members_of(op), i, member) r =
        r == 0 ? overlay_unmake(op->control, member, err) : r;
    return r;
}

static int end_one(struct op *op, const json_t *member, struct batch *batch, struct hws_error *err)
{
    auto_volume volume = {0};
    int r = object_get(op->control, &volume_type, text(member, "volume"), &volume, err);
    if (r == 0)
        r = layer_unname(op->control, volume.layer, batch, err);
    return r == 0 ? overlay_revert(op->control, &volume, member, batch, err) : r;
}

static int revert_end(struct op *op, struct batch *batch, struct hws_error *err)
{
    size_t i;
    json_t *member;
    int r = 0;
    json_array_foreach(members_of(op), i, member) r = r == 0 ? end_one(op, member, batch, err) : r;
    return r;
}

static int revert_undone(struct op *op, struct batch *batch, struct hws_error *err)
{
    size_t i;
    json_t *member;
    json_array_foreach(members_of(op), i, member)
        batch_remove(batch, &layer_type, text(member, "layer"));
    return 0;
}

const struct operation group_revert_operation = {
    .name = "group-revert",
    .steps = {{"make the layers", make_layers, remove_layers}, {NULL}},
    .direction = op_always_back,
    .end = revert_end,
    .undone = revert_undone,
};

/* ---- beginning ---- */

static int add_member(struct control *control, const struct volume *volume, const char *snapshot_id,
                      struct batch *begin, json_t *members, struct hws_error *err)
{
    auto_snapshot snapshot = {0};
    auto_layer below = {0}, layer = {0};
    auto_pool pool = {0};
    auto_attachment attachment = {0};
    json_t *params = NULL;
    bool attached;
    int r = object_get(control, &snapshot_type, snapshot_id, &snapshot, err);
    if (r == 0)
        r = attachment_get(control, volume->id, &attachment, &attached, err);
    if (r == 0 && attached)
        r = hws_fail(err, EBUSY, "volume '%s' is attached; detach it first", volume->name);
    if (r == 0)
        r = object_get(control, &layer_type, snapshot.layer, &below, err);
    if (r == 0)
        r = object_get(control, &pool_type, volume->pool, &pool, err);
    if (r == 0)
        r = layer_make(&pool, &below, "qcow2", snapshot.size_bytes, &layer, err);
    if (r == 0)
        r = overlay_params(volume, &pool, &layer, &below, &params, err);
    if (r < 0)
        return r;
    json_object_set_new(params, "volume", json_string(volume->id));
    json_object_set_new(params, "snapshot", json_string(snapshot.id));
    json_array_append_new(members, params);
    batch_add(begin, &layer_type, &layer);
    return 0;
}

/* Of two lists in the same order. */
static const char *snapshot_of(const struct group_snapshot *taken, const char *volume)
{
    size_t i;
    json_t *id;
    json_array_foreach(taken->volumes, i, id)
    {
        if (!strcmp(json_string_value(id), volume))
            return json_string_value(json_array_get(taken->snapshots, i));
    }
    return "";
}

static int revert_taken(struct control *control, const struct group *group,
                        const struct group_snapshot *taken, const struct members *members,
                        struct hws_error *err)
{
    auto_batch begin = {0};
    auto_json *layers = json_array();
    json_t *list = json_array();
    int r = 0;
    for (unsigned i = 0; r == 0 && i < members->count; i++) {
        const struct volume *volume = &members->volume[i];
        r = add_member(control, volume, snapshot_of(taken, volume->id), &begin, list, err);
        json_array_append_new(layers, json_string(volume->layer)); /* that is given up */
    }
    if (r < 0) {
        json_decref(list);
        return r;
    }
    control_lock_model(control);
    r = journal_run(control, &group_revert_operation, group->id,
                    json_pack("{s:o}", "members", list), &begin, NULL, err);
    if (r == 0)
        layers_finish(control, layers);
    return r;
}

struct revert_request {
    char *snapshot;
};

const struct record_field request_group_revert[] = {
    {"snapshot", RECORD_TEXT, offsetof(struct revert_request, snapshot), "to go back to", true},
    {NULL},
};

int control_group_revert(struct control *control, const char *reference, const json_t *given,
                         json_t **ret, struct hws_error *err)
{
    auto_group group = {0};
    auto_group_snapshot taken = {0};
    struct members members;
    struct revert_request request;
    int r = record_parse(request_group_revert, given, "revert", &request, sizeof(request), err);
    if (r < 0)
        return r;
    r = group_take(control, reference, &group, err);
    if (r == 0) {
        r = group_snapshot_find(control, &group, request.snapshot, &taken, err);
        if (r == 0)
            r = members_take(control, taken.volumes, &members, err);
        if (r == 0) {
            r = revert_taken(control, &group, &taken, &members, err);
            members_release(control, &members);
        }
        if (r == 0)
            r = control_group_show(control, group.id, ret, err);
        group_release(control, &group);
    }
    record_free(request_group_revert, &request);
    return r;
}
