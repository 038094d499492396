/*
 * Exports of an engine's NBD server: as configured, and as they come and go afterwards.
 *
 *   configuration --> entry --> export (export/nbd)
 *
 * An entry outlives its export where the engine is asked to stop and cannot. After every change the
 * configuration tells the entries of now, so that a server that is started again has them.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "block/bitmap.h"
#include "engine/nbd.h"

#define EXPORT(field) offsetof(struct nbd_export_config, field)

const struct option_desc nbd_export_params[] = {
    {"name", OPTION_STRING, EXPORT(name), "what clients ask for; may be empty", .required = true},
    {"volume", OPTION_STRING, EXPORT(volume),
     "what is exported; the volume of the same name, or the only one"},
    {"description", OPTION_STRING, EXPORT(description), "told to clients that ask"},
    {"read-only", OPTION_BOOL, EXPORT(read_only), "refuse writes"},
    {"connections", OPTION_UINT, EXPORT(connections),
     "clients at a time; 0: no limit but the server's", "0", .max = 1 << 20},
    {"bitmaps", OPTION_LIST, EXPORT(bitmaps), "dirty bitmaps to show; all if not given",
     .max = 256},
    {"allocation-depth", OPTION_BOOL, EXPORT(allocation_depth),
     "tell which layer of the chain has the data", "on"},
    OPTION_END,
};

/* ---- one ---- */

static struct volume *volume_of(struct engine *engine, const struct nbd_export_config *config,
                                struct hws_error *err)
{
    if (config->volume)
        return engine_volume(engine, config->volume, err);
    for (unsigned i = 0; i < engine->config->volume_count; i++)
        if (!strcmp(engine->volumes[i].config.name, config->name))
            return &engine->volumes[i];
    return engine_volume(engine, NULL, err);
}

static int co_check_bitmaps(struct volume *volume, const struct nbd_export_config *config,
                            struct hws_error *err)
{
    char name[BLOCK_BITMAP_NAME_MAX + 1];
    for (char **wanted = config->bitmaps; wanted && *wanted; wanted++) {
        bool found = false;
        for (unsigned i = 0; !found && co_root_bitmap_name(volume->root, i, name) == 0; i++)
            found = !strcmp(name, *wanted);
        if (!found)
            return hws_fail(err, ENOENT, "NBD export '%.80s': volume '%s' has no bitmap '%.80s'",
                            config->name, volume->config.name, *wanted);
    }
    return 0;
}

static int co_serve(struct engine *engine, struct nbd *nbd, struct nbd_entry *entry,
                    struct hws_error *err)
{
    const struct nbd_export_config *config = &entry->config;
    struct volume *volume = volume_of(engine, config, err);
    if (!volume)
        return hws_wrap(err, -ENOENT, "NBD export '%.80s'", config->name);
    struct nbd_export_options options = {
        .name = config->name,
        .description = config->description,
        .read_only = config->read_only || volume->config.read_only,
        .connections = (unsigned)config->connections,
        .bitmaps = (const char *const *)config->bitmaps,
        .no_depth = !config->allocation_depth,
    };
    entry->volume = volume;
    int r = co_check_bitmaps(volume, config, err);
    return r < 0 ? r : co_nbd_export_add(nbd->server, volume->root, &options, &entry->export, err);
}

static json_t *config_json(const struct nbd_export_config *config)
{
    json_t *object = json_pack("{s:s, s:s*, s:s*, s:b, s:I, s:b}", "name", config->name, "volume",
                               config->volume, "description", config->description, "read-only",
                               config->read_only, "connections", (json_int_t)config->connections,
                               "allocation-depth", config->allocation_depth);
    json_t *bitmaps = config->bitmaps ? json_array() : NULL;
    for (char **name = config->bitmaps; name && *name; name++)
        json_array_append_new(bitmaps, json_string(*name));
    if (bitmaps)
        json_object_set_new(object, "bitmaps", bitmaps);
    return object;
}

static void free_entry(struct nbd *nbd, struct nbd_entry *entry)
{
    list_del(&entry->link);
    nbd->entry_count--;
    options_free(nbd_export_params, &entry->config);
    free(entry);
}

/* @ret in the list already. */
static int make_entry(struct nbd *nbd, const json_t *object, struct nbd_entry **ret,
                      struct hws_error *err)
{
    if (nbd->entry_count == ENGINE_NBD_EXPORTS_MAX)
        return hws_fail(err, E2BIG, "an engine has up to %d NBD exports", ENGINE_NBD_EXPORTS_MAX);
    struct nbd_entry *entry = calloc(1, sizeof(*entry));
    if (!entry)
        return hws_fail(err, ENOMEM, "out of memory");
    int r = options_parse(nbd_export_params, object, NULL, "NBD export", &entry->config,
                          sizeof(entry->config), err);
    if (r < 0) {
        free(entry);
        return r;
    }
    list_push_back(&nbd->entries, &entry->link);
    nbd->entry_count++;
    *ret = entry;
    return 0;
}

/* ---- all ---- */

int nbd_entries_make(struct engine *engine, struct nbd *nbd, struct hws_error *err)
{
    const json_t *exports = json_object_get(engine->config->nbd, "exports");
    struct nbd_entry *entry;
    int r = 0;
    list_init(&nbd->entries);
    if (exports && !json_is_array(exports))
        return hws_fail(err, EINVAL, "nbd: \"exports\" is a list of objects");
    for (size_t i = 0; i < json_array_size(exports) && r == 0; i++)
        r = make_entry(nbd, json_array_get(exports, i), &entry, err);
    for (unsigned i = 0; !exports && i < engine->config->volume_count && r == 0; i++) {
        json_t *object = json_pack("{s:s}", "name", engine->volumes[i].config.name);
        r = object ? make_entry(nbd, object, &entry, err) : hws_fail(err, ENOMEM, "out of memory");
        json_decref(object);
    }
    return r;
}

int co_nbd_entries_serve(struct engine *engine, struct nbd *nbd, struct hws_error *err)
{
    int r = 0;
    list_for_each (link, &nbd->entries) {
        struct nbd_entry *entry = list_entry(link, struct nbd_entry, link);
        if (!entry->export && r == 0)
            r = co_serve(engine, nbd, entry, err);
    }
    return r;
}

int co_nbd_entries_end(struct nbd *nbd, bool force, struct hws_error *err)
{
    int r = 0;
    list_for_each (link, &nbd->entries) {
        struct nbd_entry *entry = list_entry(link, struct nbd_entry, link);
        if (entry->export && r == 0)
            r = co_nbd_export_remove(entry->export, force, err);
        if (r == 0)
            entry->export = NULL;
    }
    return r;
}

void nbd_entries_free(struct nbd *nbd)
{
    while (!list_empty(&nbd->entries)) {
        struct nbd_entry *entry = list_entry(nbd->entries.next, struct nbd_entry, link);
        assert(!entry->export);
        free_entry(nbd, entry);
    }
}

json_t *nbd_entries_state(const struct nbd *nbd)
{
    json_t *exports = json_array();
    list_for_each (link, &nbd->entries) {
        const struct nbd_entry *entry = list_entry(link, struct nbd_entry, link);
        struct nbd_export_info info;
        if (!entry->export)
            continue;
        nbd_export_info(entry->export, &info);
        json_array_append_new(
            exports, json_pack("{s:s, s:s, s:b, s:i, s:I, s:I, s:I}", "name", info.name, "volume",
                               entry->volume->config.name, "read-only", info.read_only,
                               "connections", (int)info.connections, "requests",
                               (json_int_t)info.requests, "sent-bytes", (json_int_t)info.sent_bytes,
                               "received-bytes", (json_int_t)info.received_bytes));
    }
    return exports;
}

/* ---- changes ---- */

static void note(struct engine *engine, const struct nbd *nbd)
{
    json_t *exports = json_array();
    list_for_each (link, &nbd->entries)
        json_array_append_new(exports,
                              config_json(&list_entry(link, struct nbd_entry, link)->config));
    json_object_set_new(engine->config->nbd, "exports", exports);
}

static int require_server(const struct engine *engine, struct hws_error *err)
{
    return engine->nbd ? 0
                       : hws_fail(err, ENOTSUP,
                                  "this engine has no NBD server: \"nbd\" in its configuration "
                                  "makes one");
}

int co_nbd_add(struct engine *engine, const struct nbd_export_config *config, struct hws_error *err)
{
    struct nbd *nbd = engine->nbd;
    struct nbd_entry *entry;
    int r = require_server(engine, err);
    if (r < 0)
        return r;
    json_t *object = config_json(config);
    r = make_entry(nbd, object, &entry, err);
    json_decref(object);
    if (r < 0)
        return r;
    r = co_serve(engine, nbd, entry, err);
    if (r < 0)
        free_entry(nbd, entry);
    else
        note(engine, nbd);
    return r;
}

int co_nbd_remove(struct engine *engine, const char *name, bool force, struct hws_error *err)
{
    struct nbd *nbd = engine->nbd;
    struct nbd_entry *found = NULL;
    int r = require_server(engine, err);
    if (r < 0)
        return r;
    list_for_each (link, &nbd->entries) {
        struct nbd_entry *entry = list_entry(link, struct nbd_entry, link);
        if (!strcmp(entry->config.name, name))
            found = entry;
    }
    if (!found)
        return hws_fail(err, ENOENT, "there is no NBD export called '%.255s'", name);
    r = found->export ? co_nbd_export_remove(found->export, force, err) : 0;
    if (r < 0)
        return r;
    found->export = NULL;
    free_entry(nbd, found);
    note(engine, nbd);
    return 0;
}
