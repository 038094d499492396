/*
 * The volume plugin protocol; see api/docker/docker.h.
 *
 * Failures are told with status 500 and "Err": Docker reads either, podman takes the volume of any
 * answer 200. Calls may come twice, after an answer that was lost: a volume that is there with the
 * same options was created, one that an ID mounts twice is mounted once.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "api/docker/docker.h"
#include "api/docker/options.h"
#include "base/log.h"
#include <time.h>

#define TYPE "application/vnd.docker.plugins.v1.2+json"
/** So that users of other clients are told apart. */
#define USER_PREFIX  "docker:"
#define USER_DEFAULT "all"

typedef int call_fn(struct control *control, const json_t *body, json_t **ret,
                    struct hws_error *err);

void docker_refuse(const struct http_request *request, unsigned status, const char *message,
                   struct http_reply *reply)
{
    json_t *text = json_string(message);
    http_reply_json(reply, status,
                    json_pack("{s:o}", "Err", text ? text : json_string("(not printable)")));
    reply->type = TYPE;
}

static int name_of(const json_t *body, const char **ret, struct hws_error *err)
{
    *ret = json_string_value(json_object_get(body, "Name"));
    return *ret && **ret ? 0 : hws_fail(err, EINVAL, "Name is missing");
}

/* @return a new reference: who uses it, and what else the request has. */
static json_t *request_of(const json_t *body, const char *mode)
{
    const char *id = json_string_value(json_object_get(body, "ID"));
    return json_pack("{s:s+, s:s*}", "user", USER_PREFIX, id && *id ? id : USER_DEFAULT, "mode",
                     mode);
}

/* ---- calls ---- */

static int activate(struct control *control, const json_t *body, json_t **ret,
                    struct hws_error *err)
{
    *ret = json_pack("{s:[s]}", "Implements", "VolumeDriver");
    return 0;
}

static int capabilities(struct control *control, const json_t *body, json_t **ret,
                        struct hws_error *err)
{
    *ret = json_pack("{s:{s:s}}", "Capabilities", "Scope", "local");
    return 0;
}

static int create(struct control *control, const json_t *body, json_t **ret, struct hws_error *err)
{
    const char *name;
    json_t *request = NULL, *volume = NULL;
    int r = name_of(body, &name, err);
    if (r == 0)
        r = docker_options(name, json_object_get(body, "Opts"), &request, err);
    if (r < 0)
        return r;
    struct hws_error why = {0};
    r = control_volume_create(control, request, &volume, &why);
    if (r == -EEXIST && control_volume_show(control, name, &volume, NULL) == 0) {
        const json_t *asked = json_object_get(json_object_get(request, "labels"), DOCKER_LABEL);
        const json_t *there = json_object_get(json_object_get(volume, "labels"), DOCKER_LABEL);
        r = there && json_equal(asked, there) ? 0 : -EEXIST;
        if (r < 0)
            json_decref(volume);
    }
    json_decref(request);
    if (r < 0)
        return hws_fail(err, -r, "%s", why.text);
    json_decref(volume);
    *ret = json_object();
    return 0;
}

/*
 * Docker asks to remove only what no container of its has: IDs that are left are those of
 * containers that died together with Docker, which did not unmount them. What is really in use, the
 * engine does not give up.
 */
static int drop_dead_users(struct control *control, const char *name, struct hws_error *err)
{
    json_t *volume = NULL, *user;
    size_t i;
    int r = control_volume_show(control, name, &volume, err);
    json_t *users = json_object_get(json_object_get(volume, "attachment"), "users");
    json_array_foreach(users, i, user)
    {
        if (r < 0 || strncmp(json_string_value(user), USER_PREFIX, strlen(USER_PREFIX)) != 0)
            continue;
        json_t *request = json_pack("{s:O}", "user", user);
        r = control_volume_detach(control, name, request, err);
        json_decref(request);
    }
    json_decref(volume);
    return r;
}

static int remove_volume(struct control *control, const json_t *body, json_t **ret,
                         struct hws_error *err)
{
    const char *name;
    int r = name_of(body, &name, err);
    if (r == 0)
        r = drop_dead_users(control, name, err);
    if (r == 0)
        r = control_volume_delete(control, name, err);
    *ret = r == 0 ? json_object() : NULL;
    return r;
}

static int mount_volume(struct control *control, const json_t *body, json_t **ret,
                        struct hws_error *err)
{
    const char *name;
    json_t *attachment = NULL;
    int r = name_of(body, &name, err);
    if (r < 0)
        return r;
    json_t *request = request_of(body, "mount");
    r = control_volume_attach(control, name, request, &attachment, err);
    json_decref(request);
    if (r < 0)
        return r;
    *ret = json_pack("{s:O}", "Mountpoint", json_object_get(attachment, "mountpoint"));
    json_decref(attachment);
    return 0;
}

static int unmount_volume(struct control *control, const json_t *body, json_t **ret,
                          struct hws_error *err)
{
    const char *name;
    int r = name_of(body, &name, err);
    if (r < 0)
        return r;
    json_t *request = request_of(body, NULL);
    r = control_volume_detach(control, name, request, err);
    json_decref(request);
    if (r < 0 && r != -ESRCH) /* what this ID does not use, it has unmounted */
        return r;
    *ret = json_object();
    return 0;
}

static const char *mountpoint_of(const json_t *volume)
{
    const char *path =
        json_string_value(json_object_get(json_object_get(volume, "attachment"), "mountpoint"));
    return path ? path : "";
}

static int path(struct control *control, const json_t *body, json_t **ret, struct hws_error *err)
{
    const char *name;
    json_t *volume = NULL;
    int r = name_of(body, &name, err);
    if (r == 0)
        r = control_volume_show(control, name, &volume, err);
    if (r == 0)
        *ret = json_pack("{s:s}", "Mountpoint", mountpoint_of(volume));
    json_decref(volume);
    return r;
}

static json_t *created_at(const json_t *volume)
{
    time_t created = (time_t)json_integer_value(json_object_get(volume, "created"));
    struct tm parts;
    char text[32];
    if (!gmtime_r(&created, &parts) ||
        strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", &parts) == 0)
        return NULL;
    return json_string(text);
}

static json_t *describe(const json_t *volume)
{
    static const char *const members[] = {"id",     "state", "size",      "format", "fs",
                                          "labels", "pool",  "snapshots", "origin", "protected"};
    json_t *status = json_object();
    for (unsigned i = 0; i < ARRAY_LEN(members); i++)
        json_object_set(status, members[i], json_object_get(volume, members[i]));
    const json_t *attachment = json_object_get(volume, "attachment");
    json_object_set(status, "device", json_object_get(attachment, "device"));
    json_object_set(status, "users", json_object_get(attachment, "users"));
    return json_pack("{s:O, s:s, s:o*, s:o}", "Name", json_object_get(volume, "name"), "Mountpoint",
                     mountpoint_of(volume), "CreatedAt", created_at(volume), "Status", status);
}

static int get(struct control *control, const json_t *body, json_t **ret, struct hws_error *err)
{
    const char *name;
    json_t *volume = NULL;
    int r = name_of(body, &name, err);
    if (r == 0)
        r = control_volume_show(control, name, &volume, err);
    if (r == 0)
        *ret = json_pack("{s:o}", "Volume", describe(volume));
    json_decref(volume);
    return r;
}

static int list(struct control *control, const json_t *body, json_t **ret, struct hws_error *err)
{
    json_t *volumes = json_array(), *result = NULL, *volume;
    struct control_page page = {.limit = CONTROL_PAGE_MAX};
    int r;
    do {
        json_t *before = result;
        result = NULL;
        r = control_volume_list(control, &page, &result, err);
        json_decref(before);
        size_t i;
        json_array_foreach(json_object_get(result, "items"), i, volume) json_array_append_new(
            volumes, json_pack("{s:O, s:s}", "Name", json_object_get(volume, "name"), "Mountpoint",
                               mountpoint_of(volume)));
        page.after = json_string_value(json_object_get(result, "next"));
    } while (r == 0 && page.after);
    json_decref(result);
    *ret = json_pack("{s:o}", "Volumes", volumes);
    if (r < 0)
        json_decref(*ret);
    return r;
}

static const struct {
    const char *path;
    call_fn *run;
} calls[] = {
    {"/Plugin.Activate", activate},
    {"/VolumeDriver.Create", create},
    {"/VolumeDriver.Remove", remove_volume},
    {"/VolumeDriver.Mount", mount_volume},
    {"/VolumeDriver.Unmount", unmount_volume},
    {"/VolumeDriver.Path", path},
    {"/VolumeDriver.Get", get},
    {"/VolumeDriver.List", list},
    {"/VolumeDriver.Capabilities", capabilities},
};

/* podman sends no body where a call has no arguments, and "null" is Go's empty. */
static int read_body(const struct http_request *request, json_t **ret, struct hws_error *err)
{
    json_error_t where = {0};
    *ret = request->body_length ? json_loadb(request->body, request->body_length,
                                             JSON_DECODE_ANY | JSON_REJECT_DUPLICATES, &where)
                                : json_object();
    if (json_is_null(*ret))
        *ret = json_object();
    if (!*ret || !json_is_object(*ret))
        return hws_fail(err, EINVAL, "the body is no JSON object: %.200s", where.text);
    return 0;
}

void docker_handle(void *control, const struct http_request *request, struct http_reply *reply)
{
    struct hws_error err = {0};
    json_t *body = NULL, *result = NULL;
    call_fn *run = NULL;
    for (unsigned i = 0; i < ARRAY_LEN(calls); i++)
        if (!strcmp(calls[i].path, request->path))
            run = calls[i].run;
    if (!run) {
        docker_refuse(request, 404, "there is no such call", reply);
        return;
    }
    if (strcmp(request->method, "POST") != 0) {
        docker_refuse(request, 405, "calls are POST", reply);
        return;
    }
    int r = read_body(request, &body, &err);
    if (r == 0)
        r = run(control, body, &result, &err);
    json_decref(body);
    if (r < 0) {
        log_info("docker %s: %s", request->id, err.text);
        docker_refuse(request, 500, err.text[0] ? err.text : strerror(-r), reply);
        return;
    }
    http_reply_json(reply, 200, result);
    reply->type = TYPE;
}
