/*
 * Volumes as they are: finding, locking, showing, and changing what needs no steps.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "control/internal.h"
#include "control/policy.h"

static int check_import(struct control *control, const struct volume *volume, struct hws_error *err)
{
    char job[ID_BYTES];
    journal_background(control, volume->id, job);
    return *job ? hws_fail(err, EBUSY,
                           "volume '%s' is being imported; 'hawser job cancel %s' ends that",
                           volume->name, job)
                : 0;
}

int volume_take(struct control *control, const char *reference, struct volume *ret,
                struct hws_error *err)
{
    char id[ID_BYTES];
    int r = object_find(control, &volume_type, reference, ret, err);
    if (r < 0)
        return r;
    snprintf(id, sizeof(id), "%s", ret->id);
    if (strcmp(ret->state, STATE_AVAILABLE) != 0)
        r = check_import(control, ret, err); /* nobody waits for that */
    record_free(volume_type.fields, ret);
    if (r < 0)
        return r;
    r = locks_take(&control->locks, id, OBJECT_WAIT_MS, err);
    if (r < 0)
        return hws_wrap(err, r, "volume '%.140s'", reference);
    /* It may have become another one while we waited, or none. */
    r = object_get(control, &volume_type, id, ret, err);
    if (r == 0)
        r = journal_check(control, id, err);
    if (r == 0 && strcmp(ret->state, STATE_AVAILABLE) != 0)
        r = hws_fail(err, EBUSY, "volume '%s' is %s", ret->name, ret->state);
    if (r < 0) {
        locks_release(&control->locks, id);
        record_free(volume_type.fields, ret);
    }
    return r;
}

void volume_release(struct control *control, struct volume *volume)
{
    locks_release(&control->locks, volume->id);
}

int attachment_get(struct control *control, const char *volume, struct attachment_record *ret,
                   bool *ret_there, struct hws_error *err)
{
    int r = object_get(control, &attachment_type, volume, ret, err);
    *ret_there = r == 0;
    if (r == -ENOENT && err)
        err->code = 0;
    return r == -ENOENT ? 0 : r;
}

int volume_describe(struct control *control, json_t *item, struct hws_error *err)
{
    const struct store_driver *store = control->store->driver;
    const char *id = json_string_value(json_object_get(item, "id"));
    json_t *attachment = NULL;
    unsigned snapshots = 0;
    if (!id)
        return hws_fail(err, EUCLEAN, "the catalog holds a volume without an id");
    int r = store->get(control->store, attachment_type.kind, id, &attachment, err);
    if (r == 0)
        json_object_set_new(item, "attachment", attachment);
    if (r == 0 || r == -ENOENT)
        r = store->count(control->store, snapshot_type.kind, id, &snapshots, err);
    json_object_set_new(item, "snapshots", json_integer(snapshots));
    const char *state = json_string_value(json_object_get(item, "state"));
    char job[ID_BYTES] = "";
    if (state && strcmp(state, STATE_AVAILABLE) != 0)
        journal_background(control, id, job);
    if (*job)
        json_object_set_new(item, "job", json_string(job));
    return r;
}

int control_volume_show(struct control *control, const char *reference, json_t **ret,
                        struct hws_error *err)
{
    auto_volume volume = {0};
    int r = object_find(control, &volume_type, reference, &volume, err);
    if (r < 0)
        return r;
    json_t *item = record_json(volume_type.fields, &volume);
    r = volume_describe(control, item, err);
    if (r < 0)
        json_decref(item);
    else
        *ret = item;
    return r;
}

int control_volume_list(struct control *control, const struct control_page *page, json_t **ret,
                        struct hws_error *err)
{
    return control_page(control, &volume_type, NULL, page, "", volume_describe, ret, err);
}

/* Of what is being made more is told than the catalog holds. */
static int list_as_text(struct control *control, const struct control_page *page, char **ret,
                        struct hws_error *err)
{
    auto_json *list = NULL;
    int r = control_volume_list(control, page, &list, err);
    *ret = r == 0 ? json_dumps(list, JSON_COMPACT) : NULL;
    return r == 0 && !*ret ? hws_fail(err, ENOMEM, "out of memory") : r;
}

/* Long lists are sent as they are stored: nothing of them is read here. */
int control_volume_list_text(struct control *control, const struct control_page *page, char **ret,
                             struct hws_error *err)
{
    static const struct store_beside beside = {"attachment", "attachment", "snapshots", "snapshot"};
    const struct store_query query = {.kind = volume_type.kind,
                                      .after = page->after,
                                      .limit = page->limit ? page->limit : CONTROL_PAGE_DEFAULT};
    auto_json *next = NULL;
    autofree char *items = NULL, *quoted = NULL;
    int r = control_page_check(page, err);
    if (r == 0)
        r = control->store->driver->text(control->store, &query, &beside, &items, &next, err);
    if (r < 0)
        return r;
    if (strstr(items, "\"state\":\"" STATE_CREATING "\""))
        return list_as_text(control, page, ret, err);
    quoted = next ? json_dumps(next, JSON_ENCODE_ANY) : NULL;
    if ((next && !quoted) || asprintf(ret, "{\"items\":%s%s%s}", items, next ? ",\"next\":" : "",
                                      quoted ? quoted : "") < 0)
        return hws_fail(err, ENOMEM, "out of memory");
    return 0;
}

const struct record_field request_volume_change[] = {
    {"name", RECORD_TEXT, offsetof(struct volume, name), "unique name"},
    {"protected", RECORD_BOOL, offsetof(struct volume, protected), "cannot be deleted"},
    {"mount-options", RECORD_LIST, offsetof(struct volume, making.mount_options),
     "that it is mounted with from the next time on", .max = MAKING_OPTIONS_MAX},
    TRASH_RETENTION_FIELD(volume, making.trash_retention_s,
                          "seconds that it is kept when it is deleted; 0: as the pool says"),
    {"labels", RECORD_LABELS, offsetof(struct volume, labels), "texts of the user's own"},
    {NULL},
};

static int change_taken(struct control *control, struct volume *volume, struct volume *change,
                        const json_t *request, struct hws_error *err)
{
    auto_batch batch = {0};
    int r = change->name ? name_check("volume", change->name, err) : 0;
    if (r == 0)
        r = policy_check_mount(volume->fs ? volume->fs : "other", change->making.mount_options,
                               err);
    if (r < 0)
        return r;
    record_change(request_volume_change, request, change, volume);
    batch_put(&batch, &volume_type, volume);
    control_lock_model(control);
    r = batch_commit(&batch, control, err);
    control_unlock_model(control);
    return r;
}

int control_volume_change(struct control *control, const char *reference, const json_t *request,
                          json_t **ret, struct hws_error *err)
{
    auto_volume volume = {0};
    struct volume change;
    int r = record_parse(request_volume_change, request, "volume", &change, sizeof(change), err);
    if (r < 0)
        return r;
    r = volume_take(control, reference, &volume, err);
    if (r == 0) {
        r = change_taken(control, &volume, &change, request, err);
        if (r == 0)
            r = control_volume_show(control, volume.id, ret, err);
        volume_release(control, &volume);
    }
    record_free(request_volume_change, &change);
    return r;
}
