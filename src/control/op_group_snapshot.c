/*
 * Snapshots of groups: all volumes' at one moment, all or none.
 *
 *   make the overlays of volumes that are not in use
 *   hold all others' requests -> put an overlay on top of each -> let them go
 *
 * Whether the hold lasted through all of it only the process knows that did it. So what a crash
 * leaves is always taken back: a volume that went over to its new layer stays there, the layer
 * below has no name, and is merged as that of a deleted snapshot is.
 *
 * While the group's intent is there each of its volumes has one, too, that only marks it as worked
 * on (group_member_operation); they go in one transaction.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "control/exports.h"
#include "control/group.h"
#include "control/overlays.h"

static const char *text(const json_t *member, const char *name)
{
    return json_string_value(json_object_get(member, name));
}

static bool is_online(const json_t *member)
{
    return json_is_true(json_object_get(member, "online"));
}

static const json_t *members_of(const struct op *op)
{
    return json_object_get(op->params, "members");
}

static int check_pool(struct op *op, const json_t *member, struct pool *ret, struct hws_error *err)
{
    int r = object_get(op->control, &pool_type, text(member, "pool"), ret, err);
    return r == 0 ? pool_check(op->control, ret, err) : r;
}

/* ---- the steps ---- */

static int make_overlays(struct op *op, struct hws_error *err)
{
    size_t i;
    json_t *member;
    json_array_foreach(members_of(op), i, member)
    {
        int r = is_online(member) ? 0 : overlay_make(op->control, member, err);
        if (r < 0)
            return r;
    }
    return 0;
}

/* Whether the volume of @member has gone over to its new layer; where not, that is removed. */
static int look_back(struct op *op, const json_t *member, bool *ret_over, struct hws_error *err)
{
    const char *volume = text(member, "volume"), *path = text(member, "path");
    autofree char *top = NULL;
    auto_pool pool = {0};
    *ret_over = false;
    int r = check_pool(op, member, &pool, err);
    if (r == 0 && is_online(member))
        r = op->control->engines->settle(volume, err);
    if (r < 0)
        return r;
    if (is_online(member))
        *ret_over = snapshot_engine_top(op->control, volume, &top)
                        ? top && !strcmp(top, path)
                        : snapshot_is_whole(op->control, &pool, path);
    control_at(op->control, "a member is looked at");
    return *ret_over ? 0 : file_unlink(path, err);
}

/* Taken back; the volumes that stay on their new layers are told to group_undone(). */
static int look_at_all(struct op *op, struct hws_error *err)
{
    json_t *over = json_object();
    size_t i;
    json_t *member;
    json_object_set_new(op->result, "over", over);
    json_array_foreach(members_of(op), i, member)
    {
        bool is_over;
        int r = look_back(op, member, &is_over, err);
        if (r < 0)
            return r;
        if (is_over)
            json_object_set_new(over, text(member, "volume"), json_true());
    }
    return 0;
}

static int push_all(struct op *op, struct hws_error *err)
{
    size_t i;
    json_t *member;
    json_array_foreach(members_of(op), i, member)
    {
        if (!is_online(member))
            continue;
        int r = op->control->engines->snapshot(text(member, "volume"), text(member, "path"), err);
        if (r < 0)
            return hws_wrap(err, r, "volume '%s'", text(member, "name"));
    }
    return 0;
}

static int take_snapshots(struct op *op, struct hws_error *err)
{
    struct engine_held held[GROUP_MAX];
    unsigned count = 0;
    void *hold;
    size_t i;
    json_t *member;
    json_array_foreach(members_of(op), i, member)
    {
        if (is_online(member) && count < GROUP_MAX)
            held[count++] =
                (struct engine_held){text(member, "volume"), text(member, "mountpoint")};
    }
    if (!count)
        return 0;
    int r = op->control->engines->hold(held, count, &hold, err);
    if (r < 0)
        return r;
    control_at(op->control, "all are held");
    r = push_all(op, err);
    struct hws_error why = {0};
    int released = op->control->engines->release(hold, &why);
    if (r == 0 && released < 0)
        r = hws_fail(err, -released, "%s", why.text);
    return r;
}

/* ---- the outcome ---- */

/* Adds that the volume of @member goes on in its new layer, and what became of the old one. */
static int go_over(struct op *op, const json_t *member, const struct snapshot *snapshot,
                   struct batch *batch, struct hws_error *err)
{
    auto_volume volume = {0};
    auto_layer old = {0}, layer = {0};
    struct control *control = op->control;
    int r = object_get(control, &volume_type, text(member, "volume"), &volume, err);
    if (r == 0)
        r = object_get(control, &layer_type, volume.layer, &old, err);
    if (r == 0)
        r = object_get(control, &layer_type, text(member, "layer"), &layer, err);
    if (r < 0)
        return r;
    free(steal_ptr(&old.volume));
    if (record_set_text(&layer.volume, volume.id) < 0 ||
        record_set_text(&volume.layer, layer.id) < 0 ||
        record_set_text(&volume.format, layer.format) < 0 ||
        (snapshot && record_set_text(&old.snapshot, snapshot->id) < 0))
        return hws_fail(err, ENOMEM, "out of memory");
    batch_put(batch, &volume_type, &volume);
    batch_put(batch, &layer_type, &old);
    batch_put(batch, &layer_type, &layer);
    return 0;
}

static int end_one(struct op *op, const json_t *member, struct batch *batch, struct hws_error *err)
{
    auto_snapshot snapshot = {0};
    auto_volume volume = {0};
    int r = object_get(op->control, &snapshot_type, text(member, "snapshot"), &snapshot, err);
    if (r == 0)
        r = object_get(op->control, &volume_type, text(member, "volume"), &volume, err);
    if (r == 0 && (record_set_text(&snapshot.layer, volume.layer) < 0 ||
                   record_set_text(&snapshot.state, STATE_AVAILABLE) < 0))
        r = hws_fail(err, ENOMEM, "out of memory");
    if (r < 0)
        return r;
    batch_put(batch, &snapshot_type, &snapshot);
    return go_over(op, member, &snapshot, batch, err);
}

static int group_end(struct op *op, struct batch *batch, struct hws_error *err)
{
    auto_group_snapshot taken = {0};
    size_t i;
    json_t *member;
    int r = object_get(op->control, &group_snapshot_type, op_text(op, "snapshot"), &taken, err);
    if (r == 0 && record_set_text(&taken.state, STATE_AVAILABLE) < 0)
        r = hws_fail(err, ENOMEM, "out of memory");
    if (r == 0)
        batch_put(batch, &group_snapshot_type, &taken);
    json_array_foreach(members_of(op), i, member)
    {
        if (r == 0)
            r = end_one(op, member, batch, err);
        if (r == 0)
            r = journal_drop(op->control, text(member, "volume"), batch, err);
    }
    return r;
}

static int group_undone(struct op *op, struct batch *batch, struct hws_error *err)
{
    const json_t *over = json_object_get(op->result, "over");
    size_t i;
    json_t *member;
    int r = 0;
    batch_remove(batch, &group_snapshot_type, op_text(op, "snapshot"));
    merger_wake(op->control);
    json_array_foreach(members_of(op), i, member)
    {
        batch_remove(batch, &snapshot_type, text(member, "snapshot"));
        if (!json_object_get(over, text(member, "volume")))
            batch_remove(batch, &layer_type, text(member, "layer"));
        else if (r == 0)
            r = go_over(op, member, NULL, batch, err);
        if (r == 0)
            r = journal_drop(op->control, text(member, "volume"), batch, err);
    }
    return r;
}

const struct operation group_snapshot_operation = {
    .name = "group-snapshot",
    .steps = {{"make the overlays", make_overlays, look_at_all},
              {"take the snapshots", take_snapshots, NULL},
              {NULL}},
    .direction = op_always_back,
    .end = group_end,
    .undone = group_undone,
};

static int never(struct op *op, struct batch *batch, struct hws_error *err)
{
    return -EBUSY;
}

const struct operation group_member_operation = {
    .name = "group-member",
    .steps = {{NULL}},
    .direction = op_always_back,
    .end = never,
    .undone = never,
    .follows = true,
};

/* ---- taking one ---- */

/* Adds the snapshot of one volume, with the name of the group's, its new layer and its mark. */
static int add_member(struct control *control, const struct volume *volume,
                      struct group_snapshot *taken, struct batch *begin, json_t *members,
                      struct hws_error *err)
{
    auto_snapshot snapshot = {.labels = json_object()};
    auto_layer layer = {0};
    json_t *params = NULL;
    int r = record_set_text(&snapshot.name, taken->name) < 0
                ? hws_fail(err, ENOMEM, "out of memory")
                : snapshot_fill(&snapshot, volume, err);
    if (r == 0)
        r = snapshot_params(control, volume, &layer, &params, err);
    if (r == 0 && (record_set_text(&snapshot.group_snapshot, taken->id) < 0 ||
                   record_set_text(&snapshot.schedule, taken->schedule) < 0))
        r = hws_fail(err, ENOMEM, "out of memory");
    if (r < 0) {
        json_decref(params);
        return r;
    }
    snapshot.clock = taken->clock;
    json_object_set_new(params, "volume", json_string(volume->id));
    json_object_set_new(params, "name", json_string(volume->name));
    json_object_set_new(params, "snapshot", json_string(snapshot.id));
    json_array_append_new(members, params);
    json_array_append_new(taken->volumes, json_string(volume->id));
    json_array_append_new(taken->snapshots, json_string(snapshot.id));
    batch_add(begin, &snapshot_type, &snapshot);
    batch_add(begin, &layer_type, &layer);
    journal_add(begin, &group_member_operation, volume->id, json_object());
    return 0;
}

/* The name is free in the group and in each of its volumes, or told where it is not. */
static int explain_taken(struct control *control, const struct members *members, const char *name,
                         struct hws_error *err)
{
    for (unsigned i = 0; i < members->count; i++) {
        auto_snapshot other = {0};
        if (snapshot_find(control, &members->volume[i], name, &other, NULL) == 0)
            return hws_fail(err, EEXIST, "volume '%s' has a snapshot '%.140s' already",
                            members->volume[i].name, name);
    }
    return hws_fail(err, EEXIST, "the group has a snapshot '%.140s' already", name);
}

static int take_members(struct control *control, const struct group *group,
                        struct group_snapshot *taken, const struct members *members,
                        struct hws_error *err)
{
    auto_batch begin = {0};
    json_t *params = json_array();
    int r = 0;
    for (unsigned i = 0; r == 0 && i < members->count; i++)
        r = add_member(control, &members->volume[i], taken, &begin, params, err);
    if (r < 0) {
        json_decref(params);
        return r;
    }
    batch_add(&begin, &group_snapshot_type, taken);
    control_lock_model(control);
    r = journal_run(control, &group_snapshot_operation, group->id,
                    json_pack("{s:s, s:o}", "snapshot", taken->id, "members", params), &begin, NULL,
                    err);
    return r == -EEXIST ? explain_taken(control, members, taken->name, err) : r;
}

static int fill(struct control *control, struct group_snapshot *taken, const struct group *group,
                struct hws_error *err)
{
    char id[ID_BYTES];
    id_make(id);
    taken->created = clock_wall_s(control);
    taken->volumes = json_array();
    taken->snapshots = json_array();
    if (asprintf(&taken->key, "%s/%s", group->id, taken->name) < 0)
        taken->key = NULL;
    if (!taken->key || record_set_text(&taken->id, id) < 0 ||
        record_set_text(&taken->state, STATE_CREATING) < 0 ||
        record_set_text(&taken->group, group->id) < 0)
        return hws_fail(err, ENOMEM, "out of memory");
    return json_array_size(group->volumes)
               ? 0
               : hws_fail(err, EINVAL, "group '%s' has no volumes", group->name);
}

int group_snapshot_make(struct control *control, const char *reference,
                        struct group_snapshot *taken, struct hws_error *err)
{
    auto_group group = {0};
    struct members members;
    int r = name_check("snapshot", taken->name, err);
    if (r == 0)
        r = group_take(control, reference, &group, err);
    if (r < 0)
        return r;
    r = fill(control, taken, &group, err);
    if (r == 0)
        r = members_take(control, group.volumes, &members, err);
    if (r == 0) {
        r = take_members(control, &group, taken, &members, err);
        members_release(control, &members);
    }
    group_release(control, &group);
    return r;
}

const struct record_field request_group_snapshot[] = {
    {"name", RECORD_TEXT, offsetof(struct group_snapshot, name), "unique in group and volumes",
     true},
    {"labels", RECORD_LABELS, offsetof(struct group_snapshot, labels), "the user's own"},
    {NULL},
};

int control_group_snapshot_create(struct control *control, const char *reference,
                                  const json_t *given, json_t **ret, struct hws_error *err)
{
    auto_group_snapshot taken = {0};
    int r = record_parse(request_group_snapshot, given, "snapshot", &taken, sizeof(taken), err);
    if (r == 0)
        r = group_snapshot_make(control, reference, &taken, err);
    return r < 0 ? r : control_group_snapshot_show(control, taken.group, taken.id, ret, err);
}

/* ---- deleting ---- */

/* In one transaction the snapshots go, and their layers lose their names. */
static int delete_taken(struct control *control, const struct group_snapshot *taken, json_t *layers,
                        struct hws_error *err)
{
    auto_batch batch = {0};
    size_t i;
    json_t *id;
    int r = 0;
    control_lock_model(control);
    json_array_foreach(taken->snapshots, i, id)
    {
        auto_snapshot snapshot = {0};
        if (r == 0)
            r = object_get(control, &snapshot_type, json_string_value(id), &snapshot, err);
        if (r == 0)
            r = exports_refuse_use(control, NULL, snapshot.id, NULL, err);
        if (r == 0)
            r = layer_unname(control, snapshot.layer, &batch, err);
        if (r < 0)
            break;
        batch_remove(&batch, &snapshot_type, snapshot.id);
        json_array_append_new(layers, json_string(snapshot.layer));
    }
    batch_remove(&batch, &group_snapshot_type, taken->id);
    if (r == 0)
        r = batch_commit(&batch, control, err);
    control_unlock_model(control);
    return r;
}

int control_group_snapshot_delete(struct control *control, const char *reference, const char *name,
                                  struct hws_error *err)
{
    auto_group group = {0};
    auto_group_snapshot taken = {0};
    auto_json *layers = json_array();
    struct members members;
    int r = group_take(control, reference, &group, err);
    if (r < 0)
        return r;
    r = group_snapshot_find(control, &group, name, &taken, err);
    if (r == 0)
        r = members_take(control, taken.volumes, &members, err);
    if (r == 0) {
        r = delete_taken(control, &taken, layers, err);
        if (r == 0)
            layers_finish(control, layers);
        members_release(control, &members);
    }
    group_release(control, &group);
    return r;
}

/* ---- showing ---- */

int group_snapshot_find(struct control *control, const struct group *group, const char *name,
                        struct group_snapshot *ret, struct hws_error *err)
{
    autofree char *key = NULL;
    if (asprintf(&key, "%s/%s", group->id, name) < 0)
        return hws_fail(err, ENOMEM, "out of memory");
    int r = id_is_valid(name) ? object_get(control, &group_snapshot_type, name, ret, err)
                              : object_find(control, &group_snapshot_type, key, ret, err);
    if (r == -ENOENT || (r == 0 && strcmp(ret->group, group->id) != 0))
        r = hws_fail(err, ENOENT, "group '%s' has no snapshot '%.140s'", group->name, name);
    else if (r == 0 && strcmp(ret->state, STATE_AVAILABLE) != 0)
        r = hws_fail(err, EBUSY, "snapshot '%.140s' is being made", name);
    if (r < 0)
        record_free(group_snapshot_type.fields, ret);
    return r;
}

static int hide_key(struct control *control, json_t *item, struct hws_error *err)
{
    json_object_del(item, "key");
    return 0;
}

int control_group_snapshot_show(struct control *control, const char *reference, const char *name,
                                json_t **ret, struct hws_error *err)
{
    auto_group group = {0};
    auto_group_snapshot taken = {0};
    int r = object_find(control, &group_type, reference, &group, err);
    if (r == 0)
        r = group_snapshot_find(control, &group, name, &taken, err);
    if (r < 0)
        return r;
    *ret = record_json(group_snapshot_type.fields, &taken);
    return hide_key(control, *ret, err);
}

int control_group_snapshot_list(struct control *control, const char *reference,
                                const struct control_page *page, json_t **ret,
                                struct hws_error *err)
{
    auto_group group = {0};
    char prefix[ID_BYTES + 1];
    int r = object_find(control, &group_type, reference, &group, err);
    if (r < 0)
        return r;
    snprintf(prefix, sizeof(prefix), "%s/", group.id);
    return control_page(control, &group_snapshot_type, group.id, page, prefix, hide_key, ret, err);
}
