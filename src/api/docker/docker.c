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
#include "api/docker/describe.h"
#include "api/docker/options.h"
#include "base/log.h"

#define TYPE "application/vnd.docker.plugins.v1.2+json"
/** So that users of other clients are told apart. */
#define USER_PREFIX  "docker:"
#define USER_DEFAULT "all"

struct docker_call {
    struct control *control;
    const struct docker_plugin *plugin;
    const struct http_request *request;
    const json_t *body; /* an object */
};

typedef int call_fn(const struct docker_call *call, json_t **ret, struct hws_error *err);

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

/* Docker's, which mounts for every container that starts: podman counts for itself, and a user of
 * its that was dropped would not come again. 0: none. */
static uint64_t docker_process(const struct http_request *request)
{
    uint64_t pid = http_peer_process(request);
    char path[64], name[32] = "";
    snprintf(path, sizeof(path), "/proc/%llu/comm", (unsigned long long)pid);
    FILE *file = pid ? fopen(path, "re") : NULL;
    if (file && !fgets(name, sizeof(name), file))
        name[0] = '\0';
    if (file)
        fclose(file);
    return strcmp(name, "dockerd\n") == 0 ? pid : 0;
}

/* @return a new reference: who uses the volume. */
static json_t *user_of(const struct docker_call *call)
{
    const char *id = json_string_value(json_object_get(call->body, "ID"));
    return json_pack("{s:s+}", "user", USER_PREFIX, id && *id ? id : USER_DEFAULT);
}

/* ---- calls ---- */

static int activate(const struct docker_call *call, json_t **ret, struct hws_error *err)
{
    *ret = json_pack("{s:[s]}", "Implements", "VolumeDriver");
    return 0;
}

static int capabilities(const struct docker_call *call, json_t **ret, struct hws_error *err)
{
    *ret = json_pack("{s:{s:s}}", "Capabilities", "Scope", call->plugin->scope);
    return 0;
}

/* What to do about a failure, which Docker shows to somebody who may know nothing of hawserd. */
static const char *advice(const json_t *request, int failure)
{
    if (failure == -EPERM && json_object_get(request, "image"))
        return "; the folder must be one of the pool's image-roots, which the administrator of "
               "hawserd sets ('hawser pool', image-roots)";
    if (failure == -ENOENT && json_object_get(request, "clone"))
        return "; from=NAME is a volume, from=NAME@SNAPSHOT a snapshot, and from=/PATH an image";
    return "";
}

static int create(const struct docker_call *call, json_t **ret, struct hws_error *err)
{
    const char *name;
    json_t *request = NULL, *volume = NULL;
    int r = name_of(call->body, &name, err);
    if (r == 0)
        r = docker_options(name, json_object_get(call->body, "Opts"), &request, err);
    if (r < 0)
        return r;
    struct hws_error why = {0};
    r = control_volume_create(call->control, request, &volume, &why);
    if (r == -EEXIST && control_volume_show(call->control, name, &volume, NULL) == 0) {
        const json_t *asked = json_object_get(json_object_get(request, "labels"), DOCKER_LABEL);
        const json_t *there = json_object_get(json_object_get(volume, "labels"), DOCKER_LABEL);
        r = there && json_equal(asked, there) ? 0 : -EEXIST;
    }
    if (r < 0)
        r = hws_fail(err, -r, "%s%s", why.text, advice(request, r));
    else
        *ret = json_object();
    json_decref(request);
    json_decref(volume);
    return r;
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

static int remove_volume(const struct docker_call *call, json_t **ret, struct hws_error *err)
{
    const char *name;
    int r = name_of(call->body, &name, err);
    if (r == 0)
        r = drop_dead_users(call->control, name, err);
    if (r == 0)
        r = control_volume_delete(call->control, name, err);
    *ret = r == 0 ? json_object() : NULL;
    return r;
}

static int mount_volume(const struct docker_call *call, json_t **ret, struct hws_error *err)
{
    const char *name;
    json_t *attachment = NULL;
    int r = name_of(call->body, &name, err);
    if (r < 0)
        return r;
    json_t *request = user_of(call);
    uint64_t process = docker_process(call->request);
    json_object_set_new(request, "mode", json_string("mount"));
    if (process)
        json_object_set_new(request, "process", json_integer((json_int_t)process));
    r = control_volume_attach(call->control, name, request, &attachment, err);
    if (r == 0 && !control_mount_shows(attachment, http_peer_process(call->request))) {
        json_t *user = user_of(call);
        (void)!control_volume_detach(call->control, name, user, NULL);
        json_decref(user);
        json_decref(attachment);
        r = hws_fail(
            err, EIO,
            "volume '%.200s' is mounted, but not where the container engine would see it: their "
            "mount "
            "name spaces are apart. Start the engine again; a service must not have PrivateMounts",
            name);
    }
    json_decref(request);
    if (r < 0)
        return r;
    *ret = json_pack("{s:O}", "Mountpoint", json_object_get(attachment, "mountpoint"));
    json_decref(attachment);
    return 0;
}

static int unmount_volume(const struct docker_call *call, json_t **ret, struct hws_error *err)
{
    const char *name;
    int r = name_of(call->body, &name, err);
    if (r < 0)
        return r;
    json_t *request = user_of(call);
    r = control_volume_detach(call->control, name, request, err);
    json_decref(request);
    if (r < 0 && r != -ESRCH) /* what this ID does not use, it has unmounted */
        return r;
    *ret = json_object();
    return 0;
}

static int path(const struct docker_call *call, json_t **ret, struct hws_error *err)
{
    const char *name;
    json_t *volume = NULL;
    int r = name_of(call->body, &name, err);
    if (r == 0)
        r = control_volume_show(call->control, name, &volume, err);
    if (r == 0)
        *ret = json_pack("{s:s}", "Mountpoint", docker_mountpoint(volume));
    json_decref(volume);
    return r;
}

static int get(const struct docker_call *call, json_t **ret, struct hws_error *err)
{
    const char *name;
    json_t *volume = NULL;
    int r = name_of(call->body, &name, err);
    if (r == 0)
        r = control_volume_show(call->control, name, &volume, err);
    if (r == 0)
        *ret = json_pack("{s:o}", "Volume", docker_describe(call->control, volume));
    json_decref(volume);
    return r;
}

static int list(const struct docker_call *call, json_t **ret, struct hws_error *err)
{
    json_t *volumes = json_array(), *result = NULL, *volume;
    struct control_page page = {.limit = CONTROL_PAGE_MAX};
    int r;
    do {
        json_t *before = result;
        result = NULL;
        r = control_volume_list(call->control, &page, &result, err);
        json_decref(before);
        size_t i;
        json_array_foreach(json_object_get(result, "items"), i, volume)
            json_array_append_new(volumes, docker_describe_short(volume));
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

void docker_handle(void *plugin, const struct http_request *request, struct http_reply *reply)
{
    struct docker_call call = {
        .control = ((struct docker_plugin *)plugin)->control, .plugin = plugin, .request = request};
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
    call.body = body;
    if (r == 0)
        r = run(&call, &result, &err);
    json_decref(body);
    if (r < 0) {
        log_info("docker %s: %s", request->id, err.text);
        docker_refuse(request, 500, err.text[0] ? err.text : strerror(-r), reply);
        return;
    }
    http_reply_json(reply, 200, result);
    reply->type = TYPE;
}
