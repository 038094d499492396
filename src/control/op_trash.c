/*
 * Deleting volumes, and the trash: where a volume, its class or its pool has a time for it, or the
 * call says so, a deleted volume is kept with its snapshots, out of sight and without its name,
 * until it is restored or its time has passed by the catalog's clock (clock.c).
 *
 *   delete    the volume's record becomes one of the kind "trash": one transaction
 *   restore   and back
 *   empty     the records go, and every layer loses its name: each goes by op_drop.c
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/log.h"
#include "control/exports.h"
#include "control/internal.h"

struct discard_request {
    bool purge;
    uint64_t retention_s;
};

const struct record_field request_volume_discard[] = {
    {"purge", RECORD_BOOL, offsetof(struct discard_request, purge), "at once, past the trash"},
    {"trash-retention", RECORD_UINT, offsetof(struct discard_request, retention_s),
     "seconds in the trash, whatever class and pool say", .max = TRASH_RETENTION_MAX_S},
    {NULL},
};

/* ---- deleting ---- */

/* What a group's snapshot is made of stays whole. */
static int check_snapshots(struct control *control, const struct volume *volume,
                           struct hws_error *err)
{
    auto_json *list = NULL;
    size_t i;
    json_t *snapshot;
    int r = object_list(control, &snapshot_type, volume->id, &list, err);
    json_array_foreach(list, i, snapshot)
    {
        if (r == 0 && json_object_get(snapshot, "group-snapshot"))
            r = hws_fail(err, EBUSY, "volume '%s' has snapshots of a group; delete those first",
                         volume->name);
    }
    return r;
}

static int check_unused(struct control *control, const struct volume *volume, struct hws_error *err)
{
    auto_attachment attachment = {0};
    bool attached;
    int r = attachment_get(control, volume->id, &attachment, &attached, err);
    if (r == 0 && attached)
        r = hws_fail(err, EBUSY, "volume '%s' is attached; detach it first", volume->name);
    if (r == 0)
        r = exports_refuse_use(control, volume->id, NULL, NULL, err);
    if (r == 0)
        r = exports_refuse_snapshots(control, volume->id, err);
    return r == 0 ? group_check_member(control, volume, err) : r;
}

static int throw_away(struct control *control, struct volume *volume, uint64_t retention_s,
                      struct hws_error *err)
{
    auto_batch batch = {0};
    control_lock_model(control);
    int r = check_unused(control, volume, err);
    if (r == 0)
        r = check_snapshots(control, volume, err);
    if (r == 0) {
        volume->deleted = clock_wall_s(control);
        volume->expires = clock_s(control) + retention_s;
        batch_remove(&batch, &volume_type, volume->id);
        batch_add(&batch, &trash_type, volume);
        clock_note(control, &batch);
        r = batch_commit(&batch, control, err);
    }
    control_unlock_model(control);
    return r;
}

static int discard_taken(struct control *control, struct volume *volume,
                         const struct discard_request *request, struct hws_error *err)
{
    auto_pool pool = {0};
    uint64_t retention_s = request->retention_s;
    int r = object_get(control, &pool_type, volume->pool, &pool, err);
    if (r == 0)
        r = pool_check(control, &pool, err);
    if (r == 0 && volume->protected)
        r = hws_fail(err, EPERM, "volume '%s' is protected from deletion", volume->name);
    if (r < 0)
        return r;
    if (!retention_s && !request->purge)
        retention_s = volume->making.trash_retention_s ? volume->making.trash_retention_s
                                                       : pool.trash_retention_s;
    return retention_s ? throw_away(control, volume, retention_s, err)
                       : volume_delete_taken(control, volume, err);
}

int control_volume_discard(struct control *control, const char *reference, const json_t *given,
                           struct hws_error *err)
{
    auto_volume volume = {0};
    struct discard_request request;
    int r = record_parse(request_volume_discard, given, "delete", &request, sizeof(request), err);
    if (r == 0 && request.purge && request.retention_s)
        r = hws_fail(err, EINVAL, "purge and trash-retention exclude each other");
    if (r == 0)
        r = volume_take(control, reference, &volume, err);
    if (r < 0)
        return r;
    r = discard_taken(control, &volume, &request, err);
    volume_release(control, &volume);
    if (r == 0) {
        merger_wake(control);
        scheduler_wake(control);
    }
    return r;
}

int control_volume_delete(struct control *control, const char *reference, struct hws_error *err)
{
    auto_json *nothing = json_object();
    return control_volume_discard(control, reference, nothing, err);
}

/* ---- what is in the trash ---- */

static int find_by_name(struct control *control, const char *name, struct volume *ret,
                        struct hws_error *err)
{
    auto_json *list = NULL;
    const json_t *found = NULL;
    size_t i;
    json_t *item;
    int r = object_list(control, &trash_type, NULL, &list, err);
    if (r < 0)
        return r;
    json_array_foreach(list, i, item)
    {
        const char *other = json_string_value(json_object_get(item, "name"));
        if (!other || strcmp(other, name) != 0)
            continue;
        if (found)
            return hws_fail(err, EINVAL, "several volumes '%.140s' are in the trash; say the id",
                            name);
        found = item;
    }
    return found ? object_parse(&trash_type, found, ret, err)
                 : hws_fail(err, ENOENT, "there is no volume '%.140s' in the trash", name);
}

/* Locks what @reference names, and reads it. */
static int trash_take(struct control *control, const char *reference, struct volume *ret,
                      struct hws_error *err)
{
    char id[ID_BYTES];
    *ret = (struct volume){0};
    int r = id_is_valid(reference) ? object_get(control, &trash_type, reference, ret, NULL)
                                   : find_by_name(control, reference, ret, err);
    if (r == -ENOENT)
        return hws_fail(err, ENOENT, "there is no volume '%.140s' in the trash", reference);
    if (r < 0)
        return r;
    snprintf(id, sizeof(id), "%s", ret->id);
    record_free(trash_type.fields, ret);
    r = locks_take(&control->locks, id, OBJECT_WAIT_MS, err);
    if (r < 0)
        return r;
    r = object_get(control, &trash_type, id, ret, err);
    if (r == 0)
        r = journal_check(control, id, err);
    if (r < 0) {
        record_free(trash_type.fields, ret);
        locks_release(&control->locks, id);
    }
    return r;
}

static int describe(struct control *control, json_t *item, struct hws_error *err)
{
    const char *id = json_string_value(json_object_get(item, "id"));
    uint64_t expires = (uint64_t)json_integer_value(json_object_get(item, "expires"));
    uint64_t now = clock_s(control);
    unsigned snapshots = 0;
    int r =
        id ? control->store->driver->count(control->store, snapshot_type.kind, id, &snapshots, err)
           : hws_fail(err, EUCLEAN, "the catalog holds a volume without an id");
    json_object_set_new(item, "remaining",
                        json_integer(expires > now ? (json_int_t)(expires - now) : 0));
    json_object_set_new(item, "snapshots", json_integer(snapshots));
    json_object_del(item, "expires");
    return r;
}

int control_trash_list(struct control *control, const struct control_page *page, json_t **ret,
                       struct hws_error *err)
{
    return control_page(control, &trash_type, NULL, page, "", describe, ret, err);
}

/* ---- restoring ---- */

struct restore_request {
    char *name;
};

const struct record_field request_trash_restore[] = {
    {"name", RECORD_TEXT, offsetof(struct restore_request, name), "instead of the one it had"},
    {NULL},
};

static int restore_taken(struct control *control, struct volume *volume, const char *name,
                         struct hws_error *err)
{
    auto_batch batch = {0};
    auto_pool pool = {0};
    int r = name ? name_check("volume", name, err) : 0;
    if (r == 0 && name && record_set_text(&volume->name, name) < 0)
        r = hws_fail(err, ENOMEM, "out of memory");
    if (r == 0)
        r = object_get(control, &pool_type, volume->pool, &pool, err);
    if (r < 0)
        return r;
    volume->deleted = volume->expires = 0;
    control_lock_model(control);
    r = pool_admit(control, &pool, volume->size_bytes, err);
    if (r == 0) {
        batch_add(&batch, &volume_type, volume);
        batch_remove(&batch, &trash_type, volume->id);
        r = batch_commit(&batch, control, err);
    }
    control_unlock_model(control);
    return r == -EEXIST ? hws_fail(err, EEXIST, "there is a volume '%s' already; say another name",
                                   volume->name)
                        : r;
}

int control_trash_restore(struct control *control, const char *reference, const json_t *given,
                          json_t **ret, struct hws_error *err)
{
    auto_volume volume = {0};
    struct restore_request request;
    int r = record_parse(request_trash_restore, given, "restore", &request, sizeof(request), err);
    if (r < 0)
        return r;
    r = trash_take(control, reference, &volume, err);
    if (r == 0) {
        r = restore_taken(control, &volume, request.name, err);
        if (r == 0)
            r = control_volume_show(control, volume.id, ret, err);
        locks_release(&control->locks, volume.id);
        merger_wake(control);
    }
    record_free(request_trash_restore, &request);
    return r;
}

/* ---- emptying ---- */

/* Adds what becomes of the volume's snapshots; their layers to @layers. The model is locked. */
static int empty_snapshots(struct control *control, const char *volume, struct batch *batch,
                           json_t *layers, struct hws_error *err)
{
    auto_json *list = NULL;
    size_t i;
    json_t *value;
    int r = object_list(control, &snapshot_type, volume, &list, err);
    json_array_foreach(list, i, value)
    {
        auto_snapshot snapshot = {0};
        if (r == 0)
            r = object_parse(&snapshot_type, value, &snapshot, err);
        if (r == 0)
            r = layer_unname(control, snapshot.layer, batch, err);
        if (r < 0)
            return r;
        batch_remove(batch, &snapshot_type, snapshot.id);
        json_array_append_new(layers, json_string(snapshot.layer));
    }
    return r;
}

static int empty_taken(struct control *control, const struct volume *volume, json_t *layers,
                       struct hws_error *err)
{
    auto_batch batch = {0};
    auto_pool pool = {0};
    int r = object_get(control, &pool_type, volume->pool, &pool, err);
    if (r == 0)
        r = pool_check(control, &pool, err);
    if (r < 0)
        return r;
    control_lock_model(control);
    r = empty_snapshots(control, volume->id, &batch, layers, err);
    if (r == 0)
        r = layer_unname(control, volume->layer, &batch, err);
    if (r == 0) {
        json_array_append_new(layers, json_string(volume->layer));
        batch_remove(&batch, &trash_type, volume->id);
        r = batch_commit(&batch, control, err);
    }
    control_unlock_model(control);
    return r;
}

int control_trash_delete(struct control *control, const char *reference, struct hws_error *err)
{
    auto_volume volume = {0};
    auto_json *layers = json_array();
    int r = trash_take(control, reference, &volume, err);
    if (r < 0)
        return r;
    r = empty_taken(control, &volume, layers, err);
    locks_release(&control->locks, volume.id);
    if (r == 0)
        layers_finish(control, layers);
    return r;
}

uint64_t trash_empty(struct control *control)
{
    auto_json *list = NULL;
    uint64_t now = clock_s(control), next = UINT64_MAX;
    size_t i;
    json_t *item;
    if (object_list(control, &trash_type, NULL, &list, NULL) < 0)
        return now + TRASH_RETRY_S;
    json_array_foreach(list, i, item)
    {
        struct hws_error err = {0};
        const char *id = json_string_value(json_object_get(item, "id"));
        uint64_t expires = (uint64_t)json_integer_value(json_object_get(item, "expires"));
        if (expires > now) {
            next = MIN(next, expires);
            continue;
        }
        int r = id ? control_trash_delete(control, id, &err) : -EUCLEAN;
        if (r < 0 && r != -ENOENT) {
            log_warning("volume %s stays in the trash: %s", id ? id : "?", err.text);
            next = MIN(next, now + TRASH_RETRY_S);
        }
    }
    return next;
}
