/*
 * Groups: named lists of volumes, whose snapshots are taken, deleted and gone back to together
 * (op_group_snapshot.c, op_group_revert.c).
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "control/group.h"

/* ---- taking a group and its volumes ---- */

int group_take(struct control *control, const char *reference, struct group *ret,
               struct hws_error *err)
{
    char id[ID_BYTES];
    int r = object_find(control, &group_type, reference, ret, err);
    if (r < 0)
        return r;
    snprintf(id, sizeof(id), "%s", ret->id);
    record_free(group_type.fields, ret);
    r = locks_take(&control->locks, id, OBJECT_WAIT_MS, err);
    if (r < 0)
        return hws_wrap(err, r, "group '%.140s'", reference);
    r = object_get(control, &group_type, id, ret, err);
    if (r == 0)
        r = journal_check(control, id, err);
    if (r < 0) {
        record_free(group_type.fields, ret);
        locks_release(&control->locks, id);
    }
    return r;
}

void group_release(struct control *control, const struct group *group)
{
    locks_release(&control->locks, group->id);
}

static int compare(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

int members_take(struct control *control, const json_t *ids, struct members *ret,
                 struct hws_error *err)
{
    const char *sorted[GROUP_MAX];
    size_t count = json_array_size(ids), i;
    *ret = (struct members){0};
    if (count > GROUP_MAX)
        return hws_fail(err, EUCLEAN, "the catalog holds a group of %zu volumes", count);
    for (i = 0; i < count; i++)
        sorted[i] = json_string_value(json_array_get(ids, i));
    qsort(sorted, count, sizeof(sorted[0]), compare); /* whoever takes several takes them so */
    ret->volume = calloc(count ? count : 1, sizeof(ret->volume[0]));
    if (!ret->volume)
        return hws_fail(err, ENOMEM, "out of memory");
    for (i = 0; i < count; i++) {
        int r = volume_take(control, sorted[i], &ret->volume[i], err);
        if (r < 0) {
            members_release(control, ret);
            return r;
        }
        ret->count++;
    }
    return 0;
}

void members_release(struct control *control, struct members *members)
{
    for (unsigned i = 0; i < members->count; i++) {
        volume_release(control, &members->volume[i]);
        record_free(volume_type.fields, &members->volume[i]);
    }
    free(members->volume);
    *members = (struct members){0};
}

int group_check_member(struct control *control, const struct volume *volume, struct hws_error *err)
{
    auto_json *list = NULL;
    size_t i, j;
    json_t *group, *id;
    int r = object_list(control, &group_type, NULL, &list, err);
    json_array_foreach(list, i, group)
    {
        json_array_foreach(json_object_get(group, "volumes"), j, id)
        {
            if (r == 0 && !strcmp(json_string_value(id), volume->id))
                r = hws_fail(err, EBUSY, "volume '%s' is in group '%s'; take it out first",
                             volume->name, json_string_value(json_object_get(group, "name")));
        }
    }
    return r;
}

/* ---- making and changing ---- */

const struct record_field request_group_create[] = {
    {"name", RECORD_TEXT, offsetof(struct group, name), "unique name", true},
    {"volumes", RECORD_LIST, offsetof(struct group, volumes), "its volumes", true,
     .max = GROUP_MAX},
    {"labels", RECORD_LABELS, offsetof(struct group, labels), "texts of the user's own"},
    {NULL},
};

const struct record_field request_group_change[] = {
    {"name", RECORD_TEXT, offsetof(struct group, name), "unique name"},
    {"volumes", RECORD_LIST, offsetof(struct group, volumes), "its volumes", .max = GROUP_MAX},
    {"labels", RECORD_LABELS, offsetof(struct group, labels), "texts of the user's own"},
    {NULL},
};

static bool has_text(const json_t *list, const char *text)
{
    size_t i;
    json_t *value;
    json_array_foreach(list, i, value) if (!strcmp(json_string_value(value), text)) return true;
    return false;
}

/* Names and ids of volumes become ids. The model is locked. */
static int resolve(struct control *control, json_t **volumes, struct hws_error *err)
{
    auto_json *ids = json_array();
    size_t i;
    json_t *reference;
    json_array_foreach(*volumes, i, reference)
    {
        auto_volume volume = {0};
        int r = object_find(control, &volume_type, json_string_value(reference), &volume, err);
        if (r < 0)
            return r;
        if (has_text(ids, volume.id))
            return hws_fail(err, EINVAL, "volumes: '%s' is there twice", volume.name);
        json_array_append_new(ids, json_string(volume.id));
    }
    json_decref(*volumes);
    *volumes = json_incref(ids);
    return 0;
}

static int commit_group(struct control *control, struct group *group, bool fresh,
                        struct hws_error *err)
{
    auto_batch batch = {0};
    control_lock_model(control);
    int r = resolve(control, &group->volumes, err);
    if (r == 0) {
        (fresh ? batch_add : batch_put)(&batch, &group_type, group);
        r = batch_commit(&batch, control, err);
    }
    control_unlock_model(control);
    return r == -EEXIST ? hws_fail(err, EEXIST, "there is a group '%s' already", group->name) : r;
}

int control_group_create(struct control *control, const json_t *given, json_t **ret,
                         struct hws_error *err)
{
    auto_group group = {0};
    char id[ID_BYTES];
    id_make(id);
    int r = record_parse(request_group_create, given, "group", &group, sizeof(group), err);
    if (r == 0)
        r = name_check("group", group.name, err);
    if (r == 0 && record_set_text(&group.id, id) < 0)
        r = hws_fail(err, ENOMEM, "out of memory");
    if (r < 0)
        return r;
    group.created = clock_wall_s(control);
    r = commit_group(control, &group, true, err);
    return r < 0 ? r : control_group_show(control, id, ret, err);
}

static int change_taken(struct control *control, struct group *group, struct group *change,
                        const json_t *given, struct hws_error *err)
{
    const json_t *volumes = json_object_get(given, "volumes");
    const json_t *labels = json_object_get(given, "labels");
    int r = change->name ? name_check("group", change->name, err) : 0;
    if (r == 0 && change->name && record_set_text(&group->name, change->name) < 0)
        r = hws_fail(err, ENOMEM, "out of memory");
    if (r < 0)
        return r;
    if (json_is_array(volumes)) {
        json_decref(group->volumes);
        group->volumes = json_incref(change->volumes);
    }
    if (json_is_object(labels)) {
        json_decref(group->labels);
        group->labels = json_incref(change->labels);
    }
    return commit_group(control, group, false, err);
}

int control_group_change(struct control *control, const char *reference, const json_t *given,
                         json_t **ret, struct hws_error *err)
{
    auto_group group = {0};
    struct group change;
    int r = record_parse(request_group_change, given, "group", &change, sizeof(change), err);
    if (r < 0)
        return r;
    r = group_take(control, reference, &group, err);
    if (r == 0) {
        r = change_taken(control, &group, &change, given, err);
        if (r == 0)
            r = control_group_show(control, group.id, ret, err);
        group_release(control, &group);
    }
    record_free(request_group_change, &change);
    return r;
}

int control_group_delete(struct control *control, const char *reference, struct hws_error *err)
{
    auto_group group = {0};
    auto_batch batch = {0};
    unsigned snapshots = 0;
    int r = group_take(control, reference, &group, err);
    if (r < 0)
        return r;
    control_lock_model(control);
    r = control->store->driver->count(control->store, group_snapshot_type.kind, group.id,
                                      &snapshots, err);
    if (r == 0 && snapshots)
        r = hws_fail(err, EBUSY, "group '%s' has %u snapshots; delete those first", group.name,
                     snapshots);
    if (r == 0) {
        batch_remove(&batch, &group_type, group.id);
        r = batch_commit(&batch, control, err);
    }
    control_unlock_model(control);
    group_release(control, &group);
    return r;
}

/* ---- showing ---- */

static int describe(struct control *control, json_t *item, struct hws_error *err)
{
    const char *id = json_string_value(json_object_get(item, "id"));
    unsigned snapshots = 0;
    json_t *members = json_array(), *member;
    size_t i;
    json_array_foreach(json_object_get(item, "volumes"), i, member)
    {
        auto_volume volume = {0};
        if (object_get(control, &volume_type, json_string_value(member), &volume, NULL) == 0)
            json_array_append_new(members, json_string(volume.name));
    }
    json_object_set_new(item, "members", members);
    int r = id ? control->store->driver->count(control->store, group_snapshot_type.kind, id,
                                               &snapshots, err)
               : hws_fail(err, EUCLEAN, "the catalog holds a group without an id");
    json_object_set_new(item, "snapshots", json_integer(snapshots));
    return r;
}

int control_group_show(struct control *control, const char *reference, json_t **ret,
                       struct hws_error *err)
{
    auto_group group = {0};
    int r = object_find(control, &group_type, reference, &group, err);
    if (r < 0)
        return r;
    json_t *item = record_json(group_type.fields, &group);
    r = describe(control, item, err);
    if (r < 0)
        json_decref(item);
    else
        *ret = item;
    return r;
}

int control_group_list(struct control *control, const struct control_page *page, json_t **ret,
                       struct hws_error *err)
{
    return control_page(control, &group_type, NULL, page, "", describe, ret, err);
}
