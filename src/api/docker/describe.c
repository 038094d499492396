/*
 * A volume as the plugin protocol tells it; see api/docker/describe.h.
 *
 * Status is read by people: names for ids, what is used, and nothing that is empty. What cannot be
 * told just now, a pool that has gone for instance, is left out: the volume itself can be told.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "api/docker/describe.h"
#include "base/size.h"
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>

/** Snapshots that are named, the first ones. */
#define SNAPSHOTS_TOLD 100

typedef int show_fn(struct control *control, const char *id, json_t **ret, struct hws_error *err);

const char *docker_mountpoint(const json_t *volume)
{
    const char *path =
        json_string_value(json_object_get(json_object_get(volume, "attachment"), "mountpoint"));
    return path ? path : "";
}

static json_t *moment(const json_t *object)
{
    time_t created = (time_t)json_integer_value(json_object_get(object, "created"));
    struct tm parts;
    char text[32];
    if (!gmtime_r(&created, &parts) ||
        strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", &parts) == 0)
        return NULL;
    return json_string(text);
}

json_t *docker_describe_short(const json_t *volume)
{
    return json_pack("{s:O, s:s, s:o*}", "Name", json_object_get(volume, "name"), "Mountpoint",
                     docker_mountpoint(volume), "CreatedAt", moment(volume));
}

/* The name of the pool or class whose id the volume has. */
static void add_name(struct control *control, const json_t *volume, const char *member,
                     show_fn *show, json_t *status)
{
    const char *id = json_string_value(json_object_get(volume, member));
    json_t *object = NULL;
    if (id && *id && show(control, id, &object, NULL) == 0) {
        json_object_set(status, member, json_object_get(object, "name"));
        json_decref(object);
    }
}

static void add_snapshots(struct control *control, const json_t *volume, json_t *status)
{
    struct control_page page = {.limit = SNAPSHOTS_TOLD};
    json_t *list = NULL, *names, *snapshot;
    size_t i;
    if (json_integer_value(json_object_get(volume, "snapshots")) == 0 ||
        control_snapshot_list(control, json_string_value(json_object_get(volume, "id")), &page,
                              &list, NULL) < 0)
        return;
    names = json_array();
    json_array_foreach(json_object_get(list, "items"), i, snapshot)
        json_array_append(names, json_object_get(snapshot, "name"));
    json_object_set_new(status, "snapshots", names);
    json_decref(list);
}

static void add_bytes(json_t *status, const char *name, const char *text_name, uint64_t bytes)
{
    char text[32];
    json_object_set_new(status, name, json_integer((json_int_t)bytes));
    json_object_set_new(status, text_name, json_string(size_format(bytes, text, sizeof(text))));
}

/* Of a file system that is mounted: a folder that lies on its parent's has nothing on it. */
static void add_use(const char *mountpoint, json_t *status)
{
    char above[4096];
    struct stat here, parent;
    struct statvfs fs;
    snprintf(above, sizeof(above), "%s/..", mountpoint);
    if (stat(mountpoint, &here) < 0 || stat(above, &parent) < 0 || here.st_dev == parent.st_dev ||
        statvfs(mountpoint, &fs) < 0)
        return;
    add_bytes(status, "used", "used-text", (fs.f_blocks - fs.f_bfree) * fs.f_frsize);
    add_bytes(status, "available", "available-text", fs.f_bavail * fs.f_frsize);
}

static void add_attachment(const json_t *attachment, json_t *status)
{
    static const char *const members[] = {"device", "users", "read-only", "mode"};
    for (unsigned i = 0; i < ARRAY_LEN(members); i++)
        json_object_set(status, members[i], json_object_get(attachment, members[i]));
    json_object_set_new(status, "attached-at", moment(attachment));
    const char *mountpoint = json_string_value(json_object_get(attachment, "mountpoint"));
    if (mountpoint)
        add_use(mountpoint, status);
}

json_t *docker_describe(struct control *control, const json_t *volume)
{
    static const char *const members[] = {"id",     "state",  "format",   "fs",
                                          "labels", "origin", "protected"};
    json_t *status = json_object(), *told = docker_describe_short(volume);
    const json_t *attachment = json_object_get(volume, "attachment");
    for (unsigned i = 0; i < ARRAY_LEN(members); i++)
        json_object_set(status, members[i], json_object_get(volume, members[i]));
    add_bytes(status, "size", "size-text",
              (uint64_t)json_integer_value(json_object_get(volume, "size")));
    add_name(control, volume, "pool", control_pool_show, status);
    add_name(control, volume, "class", control_class_show, status);
    add_snapshots(control, volume, status);
    json_object_set_new(status, "attached", json_boolean(attachment));
    if (attachment)
        add_attachment(attachment, status);
    json_object_set_new(told, "Status", status);
    return told;
}
