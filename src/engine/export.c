/*
 * An engine's export by a fabric; see engine/export.h.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "engine/export.h"
#include "base/log.h"
#include "engine/device.h"
#include "engine/target.h"
#include "host/fabric.h"

struct export
{
    const struct fabric *fabric;
    char *name;
    void *options;
    char *device[FABRIC_UNITS_MAX];
    struct fabric_unit unit[FABRIC_UNITS_MAX];
    unsigned unit_count;
    unsigned readers; /* coroutines that look at it */
    bool made, left;  /* left: freed by its last reader */
};

const char *export_via(const char *name, struct hws_error *err)
{
    const struct fabric *fabric = fabric_find(name, err);
    if (!fabric)
        return NULL;
    return fabric->needs == FABRIC_BACKSTORE ? "target" : "tcmu";
}

static struct export *export_free(struct export *export)
{
    if (!export)
        return NULL;
    for (unsigned i = 0; i < export->unit_count; i++)
        free(export->device[i]);
    if (export->fabric)
        fabric_options_free(export->fabric, export->options);
    free(export->name);
    free(export);
    return NULL;
}

static int parse(const json_t *object, struct export **ret, struct hws_error *err)
{
    const char *name = json_string_value(json_object_get(object, "name"));
    const char *fabric = json_string_value(json_object_get(object, "fabric"));
    const json_t *options = json_object_get(object, "options");
    if (!name || !fabric || !json_is_object(options))
        return hws_fail(err, EINVAL, "\"export\" needs a name, a fabric, and options (an object)");
    struct export *export = calloc(1, sizeof(*export));
    int r = export && (export->name = strdup(name)) ? 0 : hws_fail(err, ENOMEM, "out of memory");
    if (r == 0 && !(export->fabric = fabric_find(fabric, err)))
        r = -EINVAL;
    if (r == 0)
        r = fabric_options_parse(export->fabric, options, &export->options, err);
    if (r < 0)
        export_free(export);
    else
        *ret = export;
    return r;
}

static struct fabric_export view(const struct export *export)
{
    return (struct fabric_export){
        .name = export->name,
        .options = export->options,
        .units = export->unit,
        .unit_count = export->unit_count,
    };
}

/* ---- units ---- */

/* What is known of a volume without an engine that serves it. */
static void identify_unit(struct export *export, const struct volume_config *config)
{
    struct target_identity identity;
    struct fabric_unit *unit = &export->unit[export->unit_count++];
    target_identify(config, &identity);
    unit->name = config->name;
    unit->read_only = config->read_only;
    memcpy(unit->uuid, identity.uuid, sizeof(unit->uuid));
    snprintf(unit->backstore.name, sizeof(unit->backstore.name), "%s", identity.backstore);
    unit->backstore.minor = LIO_NO_MINOR;
}

static int add_unit(struct export *export, struct volume *volume, struct hws_error *err)
{
    const unsigned n = export->unit_count;
    if (n == FABRIC_UNITS_MAX)
        return hws_fail(err, EINVAL, "export '%s': more than %d images", export->name,
                        FABRIC_UNITS_MAX);
    identify_unit(export, &volume->config);
    if (volume->target)
        export->unit[n].backstore = *target_backstore(volume->target);
    if (export->fabric->needs == FABRIC_BACKSTORE)
        return volume->target ? 0
                              : hws_fail(err, EINVAL,
                                         "volume '%s' is no backstore: its \"via\" must be target",
                                         volume->config.name);
    json_t *status = json_object();
    if (volume->device)
        device_describe(volume->device, status);
    const char *device = json_string_value(json_object_get(status, "device"));
    export->device[n] = device ? strdup(device) : NULL;
    export->unit[n].device = export->device[n];
    json_decref(status);
    return device ? 0
                  : hws_fail(err, EINVAL, "volume '%s' has no device that %s could export",
                             volume->config.name, export->fabric->name);
}

/* ---- life ---- */

/* What a predecessor has made of this very export is kept, with whoever is logged in. */
static int co_make(struct engine *engine, const struct fabric_export *it, bool inherits,
                   struct hws_error *err)
{
    const struct fabric *fabric = engine->export->fabric;
    if (inherits && fabric->co_find(it) == 0) {
        log_info("the %s target of '%s' is there", fabric->name, it->name);
        return 0;
    }
    int r = inherits ? fabric->co_remove(it, true, err) : 0;
    return r < 0 ? r : fabric->co_make(it, err);
}

int co_export_start(struct engine *engine, struct hws_error *err)
{
    if (!engine->config->export)
        return 0;
    bool inherits = false;
    int r = parse(engine->config->export, &engine->export, err);
    for (unsigned i = 0; r == 0 && i < engine->config->volume_count; i++) {
        struct volume *volume = &engine->volumes[i];
        r = add_unit(engine->export, volume, err);
        inherits = inherits || (volume->target && target_is_adopted(volume->target));
    }
    if (r < 0)
        return r;
    struct fabric_export it = view(engine->export);
    r = co_make(engine, &it, inherits, err);
    engine->export->made = r == 0;
    return r;
}

int co_export_resized(struct engine *engine, struct hws_error *err)
{
    const struct export *export = engine->export;
    if (!export || !export->made || !export->fabric->co_resized)
        return 0;
    struct fabric_export it = view(export);
    return export->fabric->co_resized(&it, err);
}

int co_export_stop(struct engine *engine, bool force, struct hws_error *err)
{
    if (!engine->export || engine->replaced)
        return 0;
    struct fabric_export it = view(engine->export);
    int r = engine->export->made ? engine->export->fabric->co_remove(&it, force, err) : 0;
    if (r == 0)
        export_leave(engine);
    return r;
}

void export_leave(struct engine *engine)
{
    struct export *export = engine->export;
    engine->export = NULL;
    if (export && export->readers > 0)
        export->left = true;
    else
        export_free(export);
}

json_t *export_state(const struct engine *engine)
{
    const struct export *export = engine->export;
    if (!export || !export->made)
        return NULL;
    json_t *state = json_pack("{s:s, s:s, s:i}", "name", export->name, "fabric",
                              export->fabric->name, "units", (int)export->unit_count);
    json_object_set(state, "target",
                    json_object_get(json_object_get(engine->config->export, "options"), "target"));
    return state;
}

json_t *co_export_status(struct engine *engine)
{
    json_t *status = export_state(engine);
    if (!status)
        return NULL;
    struct export *export = engine->export;
    struct fabric_export it = view(export);
    export->readers++;
    export->fabric->co_describe(&it, status);
    export->readers--;
    if (export->left && export->readers == 0)
        export_free(export);
    return status;
}

/* ---- what is left ---- */

int co_export_clear(const json_t *object, bool force, struct hws_error *err)
{
    struct engine_config *config = NULL;
    struct export *export = NULL;
    bool served = false;
    if (!json_object_get(object, "export"))
        return 0;
    int r = engine_config_parse(object, &config, err);
    if (r == 0)
        r = parse(config->export, &export, err);
    for (unsigned i = 0; r == 0 && i < config->volume_count; i++) {
        identify_unit(export, &config->volume[i]);
        /* Nobody serves them: what is in flight goes back, or the removal would wait for it. */
        r = co_target_abandon(&config->volume[i], err);
        served = r == -EBUSY;
        r = r == -ENOENT ? 0 : r;
    }
    /* Another engine has an image of that name: ours got no further than that. */
    if (served) {
        r = 0;
    } else if (r == 0) {
        struct fabric_export it = view(export);
        r = export->fabric->co_remove(&it, force, err);
    }
    export_free(export);
    if (config)
        engine_config_free(config);
    return r;
}
