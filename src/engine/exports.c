/*
 * Exports as the command starts, stops and restores them; see engine/client.h. What is saved of
 * them is in exports_saved.c.
 *
 *   options as given -> attach (folder, engine) -> saved
 *                         `-- resolved, with the secrets in a file of the folder
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "engine/export.h"
#include "engine/exports.h"
#include "host/fabric.h"
#include "host/secrets.h"
#include <fcntl.h>

/* ---- secrets ---- */

/* @ret forget_secrets(), or NULL where there is no file. */
static int read_secrets(const char *path, char **ret, struct hws_error *err)
{
    if (!path)
        return 0;
    char *text = malloc(SECRETS_MAX + 1);
    int r = text ? secrets_read(path, text, err) : hws_fail(err, ENOMEM, "out of memory");
    if (r < 0)
        free(text);
    else
        *ret = text;
    return r;
}

static void forget_secrets(char *text)
{
    if (text)
        explicit_bzero(text, strlen(text));
    free(text);
}

/* Into the attachment's folder, for the engine and whoever comes after it. */
static int write_secrets(const struct attachment *attachment, const char *text, json_t *options,
                         struct hws_error *err)
{
    autofree char *path = attachment_path(attachment, "secrets");
    if (!path)
        return hws_fail(err, ENOMEM, "out of memory");
    autofd int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0 || write(fd, text, strlen(text)) != (ssize_t)strlen(text))
        return hws_fail_errno(err, errno, "cannot write %s", path);
    json_object_set_new(options, "secrets", json_string(path));
    return 0;
}

/* ---- starting ---- */

struct start {
    const struct export_request *request;
    const struct fabric *fabric;
    char *secrets;
};

/* The engine's configuration: the volumes see each other, and the export is resolved. */
static int configure(void *arg, const struct attachment *attachment, json_t *config,
                     struct hws_error *err)
{
    const struct start *start = arg;
    json_t *options = json_deep_copy(start->request->options), *volume;
    size_t i;
    int r = start->secrets ? write_secrets(attachment, start->secrets, options, err) : 0;
    if (r == 0)
        r = fabric_resolve(start->fabric, attachment->name, options, err);
    if (r == 0)
        r = start->fabric->probe(err);
    if (r < 0) {
        json_decref(options);
        return r;
    }
    json_object_set_new(config, "export",
                        json_pack("{s:s, s:s, s:o}", "name", attachment->name, "fabric",
                                  start->fabric->name, "options", options));
    json_array_foreach(json_object_get(config, "volumes"), i, volume)
        json_object_set_new(volume, "group", json_string(attachment->name));
    return 0;
}

static int start_one(struct start *start, struct attachment **ret, struct attach_times *times,
                     struct hws_error *err)
{
    struct attach_options options = start->request->volume;
    options.image = start->request->images[0];
    options.more = start->request->images + 1;
    options.via = export_via(start->fabric->name, err);
    options.configure = configure;
    options.configure_arg = start;
    return options.via ? attach_start(&options, ret, times, err) : -EINVAL;
}

/* An export that cannot be saved would be gone after the next start, unnoticed. */
static int save(const struct start *start, struct attachment *attachment, struct hws_error *err)
{
    struct hws_error why = {0};
    int r = export_save(attachment, &start->request->volume, start->secrets, err);
    if (r < 0 && attach_stop(attachment, true, &why) < 0)
        hws_wrap(err, r, "'%s' runs, but could not be saved", attachment->name);
    return r;
}

int export_start(const struct export_request *request, struct attachment **ret,
                 struct attach_times *times, struct hws_error *err)
{
    struct start start = {.request = request, .fabric = fabric_find(request->fabric, err)};
    struct attachment *attachment = NULL;
    if (!start.fabric)
        return -EINVAL;
    if (request->volume.name && !request->temporary && export_is_saved(request->volume.name))
        return hws_fail(err, EEXIST,
                        "an export '%.80s' is saved already: 'hawser export --restore %.80s' "
                        "starts it, 'hawser detach %.80s' forgets it",
                        request->volume.name, request->volume.name, request->volume.name);
    int r = read_secrets(request->secrets, &start.secrets, err);
    if (r == 0)
        r = start_one(&start, &attachment, times, err);
    if (r == 0 && !request->temporary)
        r = save(&start, attachment, err);
    forget_secrets(start.secrets);
    if (r < 0)
        attachment_free(attachment);
    else
        *ret = attachment;
    return r;
}

const json_t *attachment_export(const struct attachment *attachment)
{
    return json_object_get(attachment->config, "export");
}

/* ---- restoring ---- */

/* Whether an engine serves it, now. */
static bool is_served(const char *name)
{
    struct attachment *attachment;
    if (attachment_load(name, &attachment, NULL) < 0)
        return false;
    bool running = attachment->running;
    attachment_free(attachment);
    return running;
}

/*
 * What a killed engine, or the last run of the host, has left of it goes first. Not by force: what
 * the engine had not written would go with it. Where initiators are still logged in it is served
 * again instead (@ret_served), which is what is wanted.
 */
static int clear_dead(const char *name, bool *ret_running, bool *ret_served, struct hws_error *err)
{
    struct attachment *attachment;
    *ret_served = false;
    int r = attachment_load(name, &attachment, NULL);
    if (r < 0)
        return 0;
    bool ours = attachment_export(attachment) || !attachment->config;
    *ret_running = attachment->running && ours;
    if (!ours)
        r = hws_fail(err, EEXIST, "the name '%s' is taken by an attachment; detach that one first",
                     name);
    else if (!attachment->running && (r = attach_stop(attachment, false, err)) < 0 &&
             is_served(name)) {
        *ret_served = true;
        *err = (struct hws_error){0};
        r = 0;
    }
    attachment_free(attachment);
    return r;
}

static int restore_one(const char *name, struct export_outcome *outcome)
{
    struct export_saved *saved = NULL;
    struct attachment *attachment = NULL;
    struct attach_times times;
    struct hws_error *err = &outcome->err;
    bool served;
    int r = clear_dead(name, &outcome->was_running, &served, err);
    if (r < 0 || outcome->was_running || served)
        return r;
    r = export_load(name, &saved, err);
    if (r == 0) {
        struct start start = {.request = &saved->request,
                              .fabric = fabric_find(saved->request.fabric, err),
                              .secrets = saved->secrets};
        r = start.fabric ? start_one(&start, &attachment, &times, err) : -EINVAL;
    }
    attachment_free(attachment);
    export_saved_free(saved);
    return r;
}

static int stop_one(const char *name, struct export_outcome *outcome)
{
    struct attachment *attachment;
    if (attachment_load(name, &attachment, NULL) < 0)
        return 0;
    int r = 0;
    if (attachment_export(attachment)) {
        outcome->was_running = attachment->running;
        r = attach_stop(attachment, true, &outcome->err);
    }
    attachment_free(attachment);
    return r;
}

typedef int one_fn(const char *name, struct export_outcome *outcome);

static int for_each(const char *only, one_fn *fn, struct export_outcome **ret, unsigned *ret_count,
                    struct hws_error *err)
{
    char **names;
    unsigned count, done = 0;
    int r = exports_saved(&names, &count, err);
    if (r < 0)
        return r;
    struct export_outcome *outcomes = calloc(count + 1, sizeof(*outcomes));
    for (unsigned i = 0; outcomes && i < count; i++) {
        if (only && strcmp(only, names[i]) != 0)
            continue;
        struct export_outcome *outcome = &outcomes[done++];
        snprintf(outcome->name, sizeof(outcome->name), "%s", names[i]);
        r = fn(names[i], outcome);
        if (r < 0 && !outcome->err.code)
            hws_fail_errno(&outcome->err, -r, "%s", names[i]);
    }
    exports_names_free(names, count);
    if (!outcomes)
        return hws_fail(err, ENOMEM, "out of memory");
    if (only && !done) {
        free(outcomes);
        return hws_fail(err, ENOENT,
                        "no export '%.80s' is saved; 'hawser list' shows those that are", only);
    }
    *ret = outcomes;
    *ret_count = done;
    return 0;
}

int exports_restore(const char *name, struct export_outcome **ret, unsigned *ret_count,
                    struct hws_error *err)
{
    autofd int lock = exports_lock(err);
    return lock < 0 ? lock : for_each(name, restore_one, ret, ret_count, err);
}

int exports_stop(const char *name, struct export_outcome **ret, unsigned *ret_count,
                 struct hws_error *err)
{
    autofd int lock = exports_lock(err);
    return lock < 0 ? lock : for_each(name, stop_one, ret, ret_count, err);
}
