/*
 * Exports as the rest of the control plane sees them; see control/exports.h.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "control/exports.h"

void export_user(const struct export_record *export, char *user)
{
    snprintf(user, EXPORT_USER_BYTES, EXPORT_USER "%s", export->id);
}

int export_tag(struct control *control, const struct export_record *export, char *tag, size_t size,
               struct hws_error *err)
{
    auto_secret secret = {0};
    int r = export->secret ? object_get(control, &secret_type, export->secret, &secret, err) : 0;
    snprintf(tag, size, "%llu", (unsigned long long)secret.version);
    return r;
}

int export_serve(struct control *control, const struct export_record *export, struct hws_error *err)
{
    struct secret_files files = {0};
    char tag[24];
    int r = export->secret ? secret_files(control, export->secret, &files, err) : 0;
    if (r == 0) {
        snprintf(tag, sizeof(tag), "%llu", (unsigned long long)files.version);
        struct engine_export wish = {
            .engine = export_target(export),
            .id = export->id,
            .tag = tag,
            .listen = export->listen,
            .name = export->name,
            .description = export->description,
            .tls = export->tls,
            .read_only = export->read_only,
            .file_count = files.count,
        };
        for (unsigned i = 0; i < files.count; i++) {
            wish.file_name[i] = files.name[i];
            wish.file_text[i] = files.text[i];
        }
        r = control->engines->serve(&wish, err);
    }
    secret_files_free(&files);
    return r;
}

enum export_state export_look(const struct engine_place *place, const char *id, const char *tag)
{
    size_t i;
    json_t *service;
    json_array_foreach(place->running ? place->services : NULL, i, service)
    {
        const char *name = json_string_value(json_object_get(service, "name"));
        const char *known = json_string_value(json_object_get(service, "tag"));
        if (name && !strcmp(name, id))
            return known && !strcmp(known, tag) ? EXPORT_UP : EXPORT_STALE;
    }
    return EXPORT_DOWN;
}

/* ---- what others ask ---- */

int exports_refuse_use(struct control *control, const char *volume, const char *snapshot,
                       const struct secret *secret, struct hws_error *err)
{
    auto_json *list = NULL;
    size_t i;
    json_t *value;
    int r = object_list(control, &export_type, NULL, &list, err);
    json_array_foreach(list, i, value)
    {
        auto_export export = {0};
        if (r == 0)
            r = object_parse(&export_type, value, &export, err);
        if (r < 0)
            return r;
        bool volumes = volume && !strcmp(export.volume, volume);
        bool snapshots = snapshot && export.snapshot && !strcmp(export.snapshot, snapshot);
        bool secrets = secret && export.secret && !strcmp(export.secret, secret->id);
        if (secrets)
            return hws_fail(err, EBUSY,
                            "export '%s' uses secret '%s': delete that first, or change the secret",
                            export.name, secret->name);
        if (volumes || snapshots)
            return hws_fail(err, EBUSY, "it is exported as '%s': delete that first", export.name);
    }
    return r;
}

int exports_refuse_snapshots(struct control *control, const char *volume, struct hws_error *err)
{
    auto_json *list = NULL;
    size_t i;
    json_t *value;
    int r = object_list(control, &export_type, volume, &list, err);
    json_array_foreach(list, i, value)
    {
        if (r == 0 && json_object_get(value, "snapshot"))
            r = hws_fail(err, EBUSY, "a snapshot of it is exported");
    }
    return r;
}

int exports_allow_attach(struct control *control, const struct volume *volume, bool read_only,
                         struct hws_error *err)
{
    auto_json *list = NULL;
    size_t i;
    json_t *value;
    int r = object_list(control, &export_type, volume->id, &list, err);
    json_array_foreach(list, i, value)
    {
        auto_export export = {0};
        if (r == 0)
            r = object_parse(&export_type, value, &export, err);
        if (r == 0 && !export.snapshot && !export.read_only && (read_only || !export.shared))
            r = hws_fail(err, EBUSY,
                         "volume '%s' is exported for writing as '%s': delete that first, or make "
                         "it shared",
                         volume->name, export.name);
    }
    return r;
}

/* ---- what is told ---- */

static int describe(struct control *control, json_t *item, struct hws_error *err)
{
    auto_export export = {0};
    auto_secret secret = {0};
    struct engine_place place = {0};
    char tag[24];
    int r = object_parse(&export_type, item, &export, err);
    if (r < 0)
        return r;
    if (export.secret && object_get(control, &secret_type, export.secret, &secret, NULL) == 0)
        json_object_set_new(item, "secret-name", json_string(secret.name));
    bool found = export_tag(control, &export, tag, sizeof(tag), NULL) == 0 &&
                 control->engines->find(export_target(&export), &place, NULL) == 0;
    bool up = found && export_look(&place, export.id, tag) == EXPORT_UP;
    engine_place_free(&place);
    json_object_set_new(item, "serving", json_boolean(up));
    if (!up)
        exporter_describe(control, export.id, item);
    return 0;
}

int control_export_show(struct control *control, const char *reference, json_t **ret,
                        struct hws_error *err)
{
    auto_export export = {0};
    int r = object_find(control, &export_type, reference, &export, err);
    if (r < 0)
        return r;
    json_t *item = record_json(export_type.fields, &export);
    r = describe(control, item, err);
    if (r < 0)
        json_decref(item);
    else
        *ret = item;
    return r;
}

int control_export_list(struct control *control, const struct control_page *page, json_t **ret,
                        struct hws_error *err)
{
    return control_page(control, &export_type, NULL, page, "", describe, ret, err);
}
