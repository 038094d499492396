/*
 * The objects' tables, and reading them from the store; see control/objects.h.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "control/internal.h"

const char *const format_choices[] = {"qcow2", "raw", NULL};
const char *const fs_choices[] = {"ext4", "xfs", "btrfs", "none", NULL};
const char *const preallocation_choices[] = {"off", "metadata", "falloc", NULL};
const char *const switch_choices[] = {"on", "off", NULL};
static const char *const states[] = {STATE_CREATING, STATE_AVAILABLE, NULL};
static const char *const attach_modes[] = {ATTACH_DEVICE, ATTACH_MOUNT, ATTACH_NONE, NULL};
const char *const tls_choices[] = {TLS_NONE, "psk", "x509", NULL};

#define TEXT(type, field, key, help)                         \
    {                                                        \
        key, RECORD_TEXT, offsetof(struct type, field), help \
    }
#define UINT(type, field, key, help)                         \
    {                                                        \
        key, RECORD_UINT, offsetof(struct type, field), help \
    }
#define SIZE(type, field, key, help)                         \
    {                                                        \
        key, RECORD_SIZE, offsetof(struct type, field), help \
    }
#define BOOL(type, field, key, help)                         \
    {                                                        \
        key, RECORD_BOOL, offsetof(struct type, field), help \
    }
#define LABELS(type)                                                                      \
    {                                                                                     \
        "labels", RECORD_LABELS, offsetof(struct type, labels), "texts of the user's own" \
    }
#define COMMON(type)                                      \
    UINT(type, created, "created", "seconds since 1970"), \
        UINT(type, generation, "generation", "grows with every change")
#define ID(type)                                                   \
    {                                                              \
        "id", RECORD_TEXT, offsetof(struct type, id), "UUID", true \
    }
#define NAME(type)                                                            \
    {                                                                         \
        "name", RECORD_TEXT, offsetof(struct type, name), "unique name", true \
    }

#define TABLE(type_name, type, kind_name, name_at, owner_at) \
    const struct object_type type_name##_type = {            \
        .kind = kind_name,                                   \
        .fields = type_name##_fields,                        \
        .bytes = sizeof(struct type),                        \
        .name = name_at,                                     \
        .owner = owner_at,                                   \
        .generation = offsetof(struct type, generation),     \
    }

static const struct record_field pool_fields[] = {
    ID(pool),
    NAME(pool),
    {"path", RECORD_TEXT, offsetof(struct pool, path), "its folder", true},
    SIZE(pool, capacity_bytes, "capacity", "bytes; 0: what its file system has"),
    UINT(pool, overcommit_percent, "overcommit-percent",
         "of the capacity, that volumes may have in all; 0: any"),
    SIZE(pool, quota_bytes, "quota", "bytes that volumes may have in all; 0: any"),
    LABELS(pool),
    {"image-roots", RECORD_LIST, offsetof(struct pool, image_roots),
     "folders from which images are taken"},
    TRASH_RETENTION_FIELD(pool, trash_retention_s,
                          "seconds that deleted volumes are kept; 0: they go at once"),
    {"shared", RECORD_BOOL, offsetof(struct pool, shared),
     "other hosts see its folder, too: one at a time uses it"},
    COMMON(pool),
    {NULL},
};
TABLE(pool, pool, "pool", offsetof(struct pool, name), NO_FIELD);

static const struct record_field class_fields[] = {
    ID(class),
    NAME(class),
    {"format", RECORD_TEXT, offsetof(struct class, format), "of new images",
     .choices = format_choices},
    {"fs", RECORD_TEXT, offsetof(struct class, fs), "file system", .choices = fs_choices},
    SIZE(class, size_bytes, "size", "of volumes that ask for none; 0: the usual"),
    SIZE(class, cluster_bytes, "cluster-size", "of new images; 0: the format's own"),
    MAKING_FIELDS(class),
    LABELS(class),
    COMMON(class),
    {NULL},
};
TABLE(class, class, "class", offsetof(struct class, name), NO_FIELD);

static const struct record_field volume_fields[] = {
    ID(volume),
    NAME(volume),
    TEXT(volume, pool, "pool", "id of its pool"),
    TEXT(volume, class, "class", "id of its class"),
    {"state", RECORD_TEXT, offsetof(struct volume, state), "creating or available", true,
     .choices = states},
    TEXT(volume, layer, "layer", "id of its top layer"),
    TEXT(volume, format, "format", "of its top layer"),
    TEXT(volume, fs, "fs", "file system"),
    TEXT(volume, origin, "origin", "id of the snapshot that it was cloned from"),
    SIZE(volume, size_bytes, "size", "bytes"),
    SIZE(volume, cluster_bytes, "cluster-size", "of new layers; 0: the format's own"),
    MAKING_FIELDS(volume),
    BOOL(volume, protected, "protected", "cannot be deleted"),
    BOOL(volume, formatted, "formatted", "it was mounted once"),
    BOOL(volume, grow, "grow", "its file system is to be grown at the next mount"),
    BOOL(volume, part, "part", "its file system gets its own identity at the next mount"),
    {"deleted", RECORD_UINT, offsetof(struct volume, deleted),
     "of one in the trash: seconds since 1970", .sparse = true},
    {"expires", RECORD_UINT, offsetof(struct volume, expires),
     "of one in the trash: second of the catalog's clock", .sparse = true},
    LABELS(volume),
    COMMON(volume),
    {NULL},
};
TABLE(volume, volume, "volume", offsetof(struct volume, name), offsetof(struct volume, pool));

/* What was deleted and is kept for a while: the same, found by its id alone. */
const struct object_type trash_type = {
    .kind = "trash",
    .fields = volume_fields,
    .bytes = sizeof(struct volume),
    .name = offsetof(struct volume, id),
    .owner = offsetof(struct volume, pool),
    .generation = offsetof(struct volume, generation),
};

static const struct record_field layer_fields[] = {
    ID(layer),
    {"pool", RECORD_TEXT, offsetof(struct layer, pool), "id of its pool", true},
    TEXT(layer, format, "format", "of the file"),
    TEXT(layer, parent, "parent", "id of the layer below"),
    {"path", RECORD_TEXT, offsetof(struct layer, path), "of an image that was taken in place",
     .max = 4096},
    TEXT(layer, volume, "volume", "id of the volume whose top it is"),
    TEXT(layer, snapshot, "snapshot", "id of the snapshot that it is"),
    SIZE(layer, size_bytes, "size", "bytes"),
    UINT(layer, depth, "depth", "layers below"),
    UINT(layer, generation, "generation", "grows with every change"),
    {NULL},
};
TABLE(layer, layer, "layer", offsetof(struct layer, path), offsetof(struct layer, parent));

static const struct record_field snapshot_fields[] = {
    ID(snapshot),
    NAME(snapshot),
    {"key", RECORD_TEXT, offsetof(struct snapshot, key), "VOLUME/NAME", true},
    {"state", RECORD_TEXT, offsetof(struct snapshot, state), "creating or available", true,
     .choices = states},
    TEXT(snapshot, volume, "volume", "id of its volume"),
    TEXT(snapshot, pool, "pool", "id of its pool"),
    TEXT(snapshot, layer, "layer", "id of its layer"),
    TEXT(snapshot, group_snapshot, "group-snapshot", "id of the group's snapshot with it"),
    TEXT(snapshot, schedule, "schedule", "id of the schedule that took it"),
    UINT(snapshot, clock, "clock", "second of the catalog's clock, of a schedule's"),
    SIZE(snapshot, size_bytes, "size", "bytes"),
    BOOL(snapshot, formatted, "formatted", "it holds a file system"),
    LABELS(snapshot),
    COMMON(snapshot),
    {NULL},
};
TABLE(snapshot, snapshot, "snapshot", offsetof(struct snapshot, key),
      offsetof(struct snapshot, volume));

static const struct record_field attachment_fields[] = {
    {"id", RECORD_TEXT, offsetof(struct attachment_record, id), "that of the volume", true},
    {"mode", RECORD_TEXT, offsetof(struct attachment_record, mode), "device, mount or none", true,
     .choices = attach_modes},
    TEXT(attachment_record, device, "device", "block device"),
    TEXT(attachment_record, mountpoint, "mountpoint", "where it is mounted"),
    TEXT(attachment_record, boot, "boot", "id of the boot that it belongs to"),
    TEXT(attachment_record, failed, "failed", "why it cannot be used; absent where it can"),
    {"users", RECORD_LIST, offsetof(struct attachment_record, users), "who uses it", .max = 10000},
    {"processes", RECORD_LABELS, offsetof(struct attachment_record, processes),
     "of users that came with one: PID, its start and when they came, in time since the boot",
     .max = 10000},
    BOOL(attachment_record, read_only, "read-only", "nobody writes"),
    COMMON(attachment_record),
    {NULL},
};
TABLE(attachment, attachment_record, "attachment", offsetof(struct attachment_record, id),
      NO_FIELD);

static const struct record_field job_fields[] = {
    ID(job),
    TEXT(job, operation, "operation", "what it did"),
    TEXT(job, object, "object", "id of the volume"),
    TEXT(job, key, "key", "order of the list"),
    TEXT(job, state, "state", "concluded, failed or cancelled"),
    TEXT(job, error, "error", "why it failed"),
    SIZE(job, done_bytes, "done", "bytes"),
    SIZE(job, total_bytes, "total", "bytes"),
    UINT(job, ended, "ended", "seconds since 1970"),
    COMMON(job),
    {NULL},
};
TABLE(job, job, "job", offsetof(struct job, key), NO_FIELD);

static const struct record_field export_fields[] = {
    ID(export_record),
    NAME(export_record),
    {"state", RECORD_TEXT, offsetof(struct export_record, state), "creating or available", true,
     .choices = states},
    {"volume", RECORD_TEXT, offsetof(struct export_record, volume), "id of its volume", true},
    TEXT(export_record, snapshot, "snapshot", "id of its snapshot"),
    TEXT(export_record, protocol, "protocol", "nbd"),
    {"listen", RECORD_TEXT, offsetof(struct export_record, listen), "tcp:HOST:PORT or unix:PATH",
     true},
    {"tls", RECORD_TEXT, offsetof(struct export_record, tls), "none, psk or x509", true,
     .choices = tls_choices},
    TEXT(export_record, secret, "secret", "id of its secret"),
    TEXT(export_record, description, "description", "told to clients"),
    BOOL(export_record, read_only, "read-only", "clients cannot write"),
    BOOL(export_record, shared, "shared", "others may write the volume meanwhile"),
    COMMON(export_record),
    {NULL},
};
TABLE(export, export_record, "export", offsetof(struct export_record, name),
      offsetof(struct export_record, volume));

static const struct record_field secret_fields[] = {
    ID(secret),
    NAME(secret),
    {"kind", RECORD_TEXT, offsetof(struct secret, kind), "psk, chap or x509", true},
    {"sealed", RECORD_TEXT, offsetof(struct secret, sealed), "its value, sealed",
     .max = 1024 * 1024},
    UINT(secret, version, "version", "grows with every new value"),
    COMMON(secret),
    {NULL},
};
TABLE(secret, secret, "secret", offsetof(struct secret, name), NO_FIELD);
static const struct record_field group_fields[] = {
    ID(group),
    NAME(group),
    {"volumes", RECORD_LIST, offsetof(struct group, volumes), "ids of its volumes",
     .max = GROUP_MAX},
    LABELS(group),
    COMMON(group),
    {NULL},
};
TABLE(group, group, "group", offsetof(struct group, name), NO_FIELD);

static const struct record_field group_snapshot_fields[] = {
    ID(group_snapshot),
    NAME(group_snapshot),
    {"key", RECORD_TEXT, offsetof(struct group_snapshot, key), "GROUP/NAME", true},
    {"state", RECORD_TEXT, offsetof(struct group_snapshot, state), "creating or available", true,
     .choices = states},
    TEXT(group_snapshot, group, "group", "id of its group"),
    {"volumes", RECORD_LIST, offsetof(struct group_snapshot, volumes), "ids of its volumes",
     .max = GROUP_MAX},
    {"snapshots", RECORD_LIST, offsetof(struct group_snapshot, snapshots), "ids of their snapshots",
     .max = GROUP_MAX},
    TEXT(group_snapshot, schedule, "schedule", "id of the schedule that took it"),
    UINT(group_snapshot, clock, "clock", "second of the catalog's clock, of a schedule's"),
    LABELS(group_snapshot),
    COMMON(group_snapshot),
    {NULL},
};
TABLE(group_snapshot, group_snapshot, "group-snapshot", offsetof(struct group_snapshot, key),
      offsetof(struct group_snapshot, group));

static const struct record_field schedule_fields[] = {
    ID(schedule),
    NAME(schedule),
    TEXT(schedule, volume, "volume", "id of the volume"),
    TEXT(schedule, group, "group", "id of the group"),
    TEXT(schedule, every, "every", "the time between two"),
    TEXT(schedule, cron, "cron", "the moments, in UTC"),
    UINT(schedule, keep, "keep", "the last ones that stay"),
    UINT(schedule, keep_hourly, "keep-hourly", "hours of which the last one stays"),
    UINT(schedule, keep_daily, "keep-daily", "days of which the last one stays"),
    UINT(schedule, keep_weekly, "keep-weekly", "weeks of which the last one stays"),
    UINT(schedule, keep_monthly, "keep-monthly", "months of which the last one stays"),
    UINT(schedule, keep_for_s, "keep-for", "seconds that all stay"),
    BOOL(schedule, paused, "paused", "nothing is taken, nothing deleted"),
    UINT(schedule, next, "next", "seconds since 1970"),
    UINT(schedule, last, "last", "seconds since 1970; 0: none yet"),
    TEXT(schedule, error, "error", "why the last try failed"),
    LABELS(schedule),
    COMMON(schedule),
    {NULL},
};
TABLE(schedule, schedule, "schedule", offsetof(struct schedule, name), NO_FIELD);

int object_parse(const struct object_type *type, const json_t *value, void *ret,
                 struct hws_error *err)
{
    int r = record_parse(type->fields, value, type->kind, ret, type->bytes, err);
    return r < 0 ? hws_wrap(err, -EUCLEAN, "the catalog") : 0;
}

static int take(const struct object_type *type, int r, json_t *value, const char *reference,
                void *ret, struct hws_error *err)
{
    memset(ret, 0, type->bytes);
    if (r == -ENOENT)
        return hws_fail(err, ENOENT, "there is no %s '%.140s'", type->kind, reference);
    if (r < 0)
        return r;
    r = object_parse(type, value, ret, err);
    json_decref(value);
    return r;
}

int object_get(struct control *control, const struct object_type *type, const char *id, void *ret,
               struct hws_error *err)
{
    json_t *value = NULL;
    int r = control->store->driver->get(control->store, type->kind, id, &value, err);
    return take(type, r, value, id, ret, err);
}

int object_find(struct control *control, const struct object_type *type, const char *reference,
                void *ret, struct hws_error *err)
{
    json_t *value = NULL;
    if (id_is_valid(reference))
        return object_get(control, type, reference, ret, err);
    int r = control->store->driver->find(control->store, type->kind, reference, &value, err);
    return take(type, r, value, reference, ret, err);
}

int object_list(struct control *control, const struct object_type *type, const char *owner,
                json_t **ret, struct hws_error *err)
{
    struct store_query query = {.kind = type->kind, .owner = owner};
    return control->store->driver->list(control->store, &query, ret, err);
}
