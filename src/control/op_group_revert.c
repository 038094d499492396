/*
 * Reverting the volumes of a group's snapshot, none of them in use: a new, empty layer over each
 * one's snapshot takes the place of its top, of all in one transaction. What is given up goes by
 * operations of its own (op_drop.c).
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "control/group.h"

static const char *text(const json_t *member, const char *name)
{
    return json_string_value(json_object_get(member, name));
}

static const json_t *members_of(const struct op *op)
{
    return json_object_get(op->params, "members");
}

static int check_pool(struct op *op, const json_t *member, struct hws_error *err)
{
    auto_pool pool = {0};
    int r = object_get(op->control, &pool_type, text(member, "pool"), &pool, err);
    return r == 0 ? pool_check(op->control, &pool, err) : r;
}

static int make_one(struct op *op, const json_t *member, struct hws_error *err)
{
    int r = check_pool(op, member, err);
    struct engine_image image = {
        .path = text(member, "path"),
        .format = "qcow2",
        .size_bytes = (uint64_t)json_integer_value(json_object_get(member, "size")),
        .cluster_bytes = (uint64_t)json_integer_value(json_object_get(member, "cluster-size")),
        .backing = text(member, "backing"),
        .backing_format = text(member, "backing-format"),
    };
    return r == 0 ? op->control->engines->create(&image, err) : r;
}

static int make_layers(struct op *op, struct hws_error *err)
{
    size_t i;
    json_t *member;
    int r = 0;
    json_array_foreach(members_of(op), i, member) r = r == 0 ? make_one(op, member, err) : r;
    return r;
}

static int remove_layers(struct op *op, struct hws_error *err)
{
    size_t i;
    json_t *member;
    int r = 0;
    json_array_foreach(members_of(op), i, member)
    {
        if (r == 0)
            r = check_pool(op, member, err);
        if (r == 0)
            r = file_unlink(text(member, "path"), err);
    }
    return r;
}

static int end_one(struct op *op, const json_t *member, struct batch *batch, struct hws_error *err)
{
    struct control *control = op->control;
    auto_volume volume = {0};
    auto_layer layer = {0};
    auto_snapshot snapshot = {0};
    int r = object_get(control, &volume_type, text(member, "volume"), &volume, err);
    if (r == 0)
        r = object_get(control, &layer_type, text(member, "layer"), &layer, err);
    if (r == 0)
        r = object_get(control, &snapshot_type, text(member, "snapshot"), &snapshot, err);
    if (r == 0)
        r = layer_unname(control, volume.layer, batch, err);
    if (r < 0)
        return r;
    volume.size_bytes = snapshot.size_bytes;
    volume.formatted = snapshot.formatted;
    volume.grow = false;
    if (record_set_text(&layer.volume, volume.id) < 0 ||
        record_set_text(&volume.layer, layer.id) < 0 ||
        record_set_text(&volume.format, layer.format) < 0)
        return hws_fail(err, ENOMEM, "out of memory");
    batch_put(batch, &layer_type, &layer);
    batch_put(batch, &volume_type, &volume);
    return 0;
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
    if (r < 0)
        return r;
    autofree char *path = layer_path(&pool, &layer), *backing = layer_path(&pool, &below);
    json_t *params = json_pack(
        "{s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:I, s:I}", "volume", volume->id, "pool", pool.id,
        "layer", layer.id, "snapshot", snapshot.id, "path", path ? path : "", "backing",
        backing ? backing : "", "backing-format", below.format, "size",
        (json_int_t)snapshot.size_bytes, "cluster-size", (json_int_t)volume->cluster_bytes);
    if (!path || !backing || json_array_append_new(members, params) < 0)
        return hws_fail(err, ENOMEM, "out of memory");
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
