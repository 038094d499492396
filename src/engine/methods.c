/*
 * The methods of the control socket: one table, from which `methods` (and `rpc.discover`) also
 * tells what there is. Parameters are objects, described by option tables.
 *
 * Methods that change the graph run one at a time, under engine.control.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "engine/engine.h"
#include "base/log.h"
#include "engine/export.h"
#include "engine/hold.h"
#include "engine/jobs.h"
#include "engine/nbd.h"
#include "engine/nbd_services.h"
#include "base/size.h"
#include "engine/client.h"
#include <ctype.h>

#define BATCH_MAX 32

/* Codes of the JSON-RPC 2.0 specification, section 5.1. */
enum rpc_code {
    RPC_PARSE = -32700,
    RPC_INVALID = -32600,
    RPC_NO_METHOD = -32601,
    RPC_PARAMS = -32602,
    RPC_FAILED = -32000, /* the method failed: data.errno says how */
};

struct method {
    const char *name, *help;
    const struct option_desc *params;
    size_t params_bytes;
    bool changes; /* takes engine.control */
    int (*co_run)(struct engine *engine, const void *params, json_t **ret, struct hws_error *err);
};

static const struct method methods[];

/* ---- status, stats ---- */

static int co_status_method(struct engine *engine, const void *params, json_t **ret,
                            struct hws_error *err)
{
    json_t *export = co_export_status(engine), *volumes = json_array();
    for (unsigned i = 0; i < engine->config->volume_count; i++)
        json_array_append_new(volumes, volume_status(&engine->volumes[i]));
    *ret =
        json_pack("{s:s, s:s, s:i, s:s, s:I, s:o}", "version", HAWSER_VERSION, "state",
                  engine_state_name(engine->state), "pid", (int)getpid(), "runtime",
                  rt_name(rt_current()), "uptime-ms",
                  (json_int_t)((rt_now_ns() - engine->started_ns) / 1000000), "volumes", volumes);
    if (export)
        json_object_set_new(*ret, "export", export);
    json_t *nbd = nbd_status(engine);
    if (nbd)
        json_object_set_new(*ret, "nbd", nbd);
    json_t *services = nbd_services_state(engine);
    if (services)
        json_object_set_new(*ret, "nbd-services", services);
    return 0;
}

struct stats_params {
    char *volume;
    bool histograms;
};

static const struct option_desc stats_params[] = {
    {"volume", OPTION_STRING, offsetof(struct stats_params, volume),
     "one volume; all if not given"},
    {"histograms", OPTION_BOOL, offsetof(struct stats_params, histograms),
     "add the latency histograms"},
    OPTION_END,
};

static int co_stats_method(struct engine *engine, const void *arg, json_t **ret,
                           struct hws_error *err)
{
    const struct stats_params *params = arg;
    if (params->volume && !engine_volume(engine, params->volume, err))
        return -ENOENT;
    json_t *volumes = json_array();
    for (unsigned i = 0; i < engine->config->volume_count; i++) {
        struct volume *volume = &engine->volumes[i];
        if (volume->root && (!params->volume || !strcmp(params->volume, volume->config.name)))
            json_array_append_new(volumes, volume_stats(volume, params->histograms));
    }
    *ret = json_pack("{s:o}", "volumes", volumes);
    return 0;
}

/* ---- changes ---- */

struct volume_params {
    char *volume, *size, *overlay, *format, *layer;
    bool shrink, force;
};

#define PARAM(field) offsetof(struct volume_params, field)
#define PARAM_VOLUME                                                                 \
    {                                                                                \
        "volume", OPTION_STRING, PARAM(volume), "which one, where there are several" \
    }

static const struct option_desc resize_params[] = {
    PARAM_VOLUME,
    {"size", OPTION_STRING, PARAM(size), "new size in bytes or as 10G; with + or - the change",
     .required = true},
    {"shrink", OPTION_BOOL, PARAM(shrink), "a smaller size is meant"},
    OPTION_END,
};

static int new_size(uint64_t now, const struct volume_params *params, uint64_t *ret,
                    struct hws_error *err)
{
    char sign = params->size[0];
    uint64_t size = 0;
    int r = size_parse(params->size + (sign == '+' || sign == '-'), &size, err);
    if (r < 0)
        return r;
    if (sign == '-' && size > now)
        return hws_fail(err, EINVAL, "cannot take %llu bytes off a volume of %llu",
                        (unsigned long long)size, (unsigned long long)now);
    if (sign == '-')
        size = now - size;
    else if (sign == '+' && add_overflows(now, size, &size))
        size = UINT64_MAX;
    if (size > BLOCK_SIZE_MAX)
        return hws_fail(err, EFBIG, "the new size is past the largest that the kernel takes, %llu",
                        (unsigned long long)BLOCK_SIZE_MAX);
    if (size < now && !params->shrink)
        return hws_fail(err, EINVAL,
                        "the volume is larger (%llu bytes) than that: shrinking cuts off "
                        "what lies past the new end. Say --shrink if that is meant",
                        (unsigned long long)now);
    *ret = size;
    return 0;
}

static int co_resize_method(struct engine *engine, const void *arg, json_t **ret,
                            struct hws_error *err)
{
    const struct volume_params *params = arg;
    struct volume *volume = engine_volume(engine, params->volume, err);
    if (!volume)
        return -EINVAL;
    uint64_t size = 0;
    int r = new_size(block_root_size(volume->root), params, &size, err);
    if (r == 0)
        r = co_volume_resize(volume, size, err);
    if (r < 0)
        return r;
    *ret = json_pack("{s:I}", "size", (json_int_t)block_root_size(volume->root));
    return 0;
}

static const struct option_desc snapshot_params[] = {
    PARAM_VOLUME,
    {"overlay", OPTION_STRING, PARAM(overlay), "absolute path of the overlay to make",
     .required = true},
    {"format", OPTION_STRING, PARAM(format), "format of the overlay", "qcow2"},
    OPTION_END,
};

static int co_snapshot_method(struct engine *engine, const void *arg, json_t **ret,
                              struct hws_error *err)
{
    const struct volume_params *params = arg;
    struct volume *volume = engine_volume(engine, params->volume, err);
    if (!volume)
        return -EINVAL;
    if (params->overlay[0] != '/')
        return hws_fail(err, EINVAL, "overlay '%.200s' is no absolute path", params->overlay);
    struct volume_switch done;
    int r = co_volume_snapshot(volume, params->overlay, params->format, &done, err);
    if (r < 0)
        return r;
    *ret =
        json_pack("{s:s, s:I}", "overlay", params->overlay, "pause-ns", (json_int_t)done.pause_ns);
    return 0;
}

struct hold_params {
    char *volume;
    uint64_t timeout_ms;
};

static const struct option_desc hold_params[] = {
    {"volume", OPTION_STRING, offsetof(struct hold_params, volume),
     "which one, where there are several"},
    {"timeout", OPTION_UINT, offsetof(struct hold_params, timeout_ms),
     "milliseconds after which it ends by itself", "5000", .min = 1, .max = HOLD_MAX_MS},
    OPTION_END,
};

static int co_hold_method(struct engine *engine, const void *arg, json_t **ret,
                          struct hws_error *err)
{
    const struct hold_params *params = arg;
    struct volume *volume = engine_volume(engine, params->volume, err);
    if (!volume)
        return -EINVAL;
    int r = co_volume_hold(volume, params->timeout_ms, err);
    if (r == 0)
        *ret = json_object();
    return r;
}

static int co_release_method(struct engine *engine, const void *arg, json_t **ret,
                             struct hws_error *err)
{
    const struct volume_params *params = arg;
    struct volume *volume = engine_volume(engine, params->volume, err);
    if (!volume)
        return -EINVAL;
    *ret = json_pack("{s:b}", "held", volume_let_go(volume));
    return 0;
}

static const char *const internal_actions[] = {"list", "create", "delete", NULL};

enum { INTERNAL_LIST, INTERNAL_CREATE, INTERNAL_DELETE };

struct internal_params {
    char *volume, *name;
    int action;
};

static const struct option_desc internal_params[] = {
    {"volume", OPTION_STRING, offsetof(struct internal_params, volume),
     "name of the volume; the only one if not given"},
    {"action", OPTION_ENUM, offsetof(struct internal_params, action),
     "list, create or delete; going back to one needs the volume detached", "list",
     .choices = internal_actions},
    {"name", OPTION_STRING, offsetof(struct internal_params, name),
     "of a new one; of one to delete, its ID or else its name"},
    OPTION_END,
};

static int co_internal_method(struct engine *engine, const void *arg, json_t **ret,
                              struct hws_error *err)
{
    const struct internal_params *params = arg;
    struct volume *volume = engine_volume(engine, params->volume, err);
    if (!volume)
        return -EINVAL;
    json_t *snapshots;
    int r = params->action != INTERNAL_LIST ? volume_refuse_job(volume, err) : 0;
    if (r == 0 && params->action != INTERNAL_LIST)
        r = params->name
                ? co_root_snapshot(volume->root,
                                   params->action == INTERNAL_CREATE ? BLOCK_SNAPSHOT_CREATE
                                                                     : BLOCK_SNAPSHOT_DELETE,
                                   params->name, err)
                : hws_fail(err, EINVAL, "name is missing");
    if (r == 0)
        r = co_block_snapshots_json(block_root_node(volume->root), &snapshots, err);
    if (r < 0)
        return r;
    *ret = json_pack("{s:o}", "snapshots", snapshots);
    return 0;
}

static const struct option_desc revert_params[] = {
    PARAM_VOLUME,
    {"layer", OPTION_STRING, PARAM(layer),
     "file of the chain to go back to; the one below the top if not given"},
    {"force", OPTION_BOOL, PARAM(force), "change the content although the device is in use"},
    OPTION_END,
};

static int co_revert_method(struct engine *engine, const void *arg, json_t **ret,
                            struct hws_error *err)
{
    const struct volume_params *params = arg;
    struct volume *volume = engine_volume(engine, params->volume, err);
    if (!volume)
        return -EINVAL;
    struct volume_switch done;
    int r = co_volume_revert(volume, params->layer, params->force, &done, err);
    if (r < 0)
        return r;
    *ret = json_pack("{s:s, s:I, s:I}", "layer", done.layer ? done.layer : "", "pause-ns",
                     (json_int_t)done.pause_ns, "size", (json_int_t)block_root_size(volume->root));
    free(done.layer);
    return 0;
}

static const struct option_desc volume_only_params[] = {PARAM_VOLUME, OPTION_END};

static int co_tls_reload_method(struct engine *engine, const void *params, json_t **ret,
                                struct hws_error *err)
{
    int r = co_nbd_tls_reload(engine, err);
    if (r == 0)
        *ret = nbd_state(engine);
    return r;
}

static int co_flush_method(struct engine *engine, const void *arg, json_t **ret,
                           struct hws_error *err)
{
    const struct volume_params *params = arg;
    struct volume *volume = engine_volume(engine, params->volume, err);
    if (!volume)
        return -EINVAL;
    int r = co_root_flush(volume->root);
    if (r < 0)
        return hws_fail_errno(err, -r, "volume '%s': flush failed", volume->config.name);
    *ret = json_object();
    return 0;
}

static const struct option_desc stop_params[] = {
    {"force", OPTION_BOOL, PARAM(force), "stop although devices are in use"},
    OPTION_END,
};

static int co_stop_method(struct engine *engine, const void *arg, json_t **ret,
                          struct hws_error *err)
{
    const struct volume_params *params = arg;
    int r = co_engine_unexport(engine, params->force, err);
    if (engine->replaced)
        return hws_fail(err, ESHUTDOWN, "another program has just taken over; ask that one");
    if (engine->state == ENGINE_STOPPING)
        engine_ask_stop(engine, params->force);
    if (r < 0)
        return r;
    *ret = json_object();
    return 0;
}

static int co_nbd_add_method(struct engine *engine, const void *params, json_t **ret,
                             struct hws_error *err)
{
    int r = co_nbd_add(engine, params, err);
    if (r == 0)
        *ret = json_object();
    return r;
}

struct nbd_remove_params {
    char *name;
    bool force;
};

static const struct option_desc nbd_remove_params[] = {
    {"name", OPTION_STRING, offsetof(struct nbd_remove_params, name), "of the export",
     .required = true},
    {"force", OPTION_BOOL, offsetof(struct nbd_remove_params, force),
     "end the connections of its clients"},
    OPTION_END,
};

static int co_nbd_remove_method(struct engine *engine, const void *arg, json_t **ret,
                                struct hws_error *err)
{
    const struct nbd_remove_params *params = arg;
    int r = co_nbd_remove(engine, params->name, params->force, err);
    if (r == 0)
        *ret = json_object();
    return r;
}

static int co_serve_method(struct engine *engine, const void *params, json_t **ret,
                           struct hws_error *err)
{
    int r = co_nbd_serve(engine, params, err);
    if (r == 0)
        *ret = json_object();
    return r;
}

static int co_unserve_method(struct engine *engine, const void *arg, json_t **ret,
                             struct hws_error *err)
{
    const struct nbd_remove_params *params = arg;
    int r = co_nbd_unserve(engine, params->name, params->force, err);
    if (r == 0)
        *ret = json_object();
    return r;
}

struct replace_params {
    char *program;
};

static const struct option_desc replace_params[] = {
    {"program", OPTION_STRING, offsetof(struct replace_params, program),
     "absolute path of the program to become", .required = true},
    OPTION_END,
};

static int co_replace_method(struct engine *engine, const void *arg, json_t **ret,
                             struct hws_error *err)
{
    const struct replace_params *params = arg;
    struct engine_replaced replaced;
    if (params->program[0] != '/')
        return hws_fail(err, EINVAL, "program '%.200s' is no absolute path", params->program);
    int r = co_engine_replace(engine, params->program, &replaced, err);
    if (r < 0)
        return r;
    *ret = json_pack("{s:i, s:I}", "pid", (int)replaced.pid, "pause-ns",
                     (json_int_t)replaced.pause_ns);
    engine_ask_stop(engine, false);
    return 0;
}

/* ---- about the engine ---- */

struct level_params {
    int level;
};

static const char *const level_names[] = {"error", "warning", "info", "debug", NULL};

static const struct option_desc level_params[] = {
    {"level", OPTION_ENUM, offsetof(struct level_params, level), "messages below it are dropped",
     .required = true, .choices = level_names},
    OPTION_END,
};

static int co_level_method(struct engine *engine, const void *arg, json_t **ret,
                           struct hws_error *err)
{
    const struct level_params *params = arg;
    log_set_level((enum log_level)params->level);
    *ret = json_object();
    return 0;
}

static const struct option_desc no_params[] = {OPTION_END};

static int co_methods_method(struct engine *engine, const void *params, json_t **ret,
                             struct hws_error *err);

static const struct method methods[] = {
    {"methods", "lists the methods with their parameters", no_params, 0, false, co_methods_method},
    {"rpc.discover", "the same, by its usual name", no_params, 0, false, co_methods_method},
    {"status", "the engine and its volumes", no_params, 0, false, co_status_method},
    {"stats", "operations, bytes and latencies of each volume", stats_params,
     sizeof(struct stats_params), false, co_stats_method},
    {"flush", "makes all that was written durable", volume_only_params,
     sizeof(struct volume_params), true, co_flush_method},
    {"resize", "changes the size of a volume in use", resize_params, sizeof(struct volume_params),
     true, co_resize_method},
    {"snapshot", "puts a new overlay on top of a volume in use", snapshot_params,
     sizeof(struct volume_params), true, co_snapshot_method},
    {"hold", "has requests wait for a moment, so that snapshots of several volumes are of one",
     hold_params, sizeof(struct hold_params), true, co_hold_method},
    {"release", "ends that, and tells whether it lasted", volume_only_params,
     sizeof(struct volume_params), true, co_release_method},
    {"internal-snapshot", "lists, takes or deletes snapshots inside the image of a volume in use",
     internal_params, sizeof(struct internal_params), true, co_internal_method},
    {"revert", "gives up what was written since a snapshot", revert_params,
     sizeof(struct volume_params), true, co_revert_method},
    {"nbd-tls-reload", "reads the credentials of the NBD server's TLS again, for new clients",
     no_params, 0, true, co_tls_reload_method},
    {"nbd-export-add", "serves a volume over NBD by one more name", nbd_export_params,
     sizeof(struct nbd_export_config), true, co_nbd_add_method},
    {"nbd-export-remove", "ends an NBD export", nbd_remove_params, sizeof(struct nbd_remove_params),
     true, co_nbd_remove_method},
    {"nbd-serve", "serves a volume over NBD at an address, and with credentials, of its own",
     nbd_service_options, sizeof(struct nbd_service_params), true, co_serve_method},
    {"nbd-unserve", "ends what nbd-serve began", nbd_remove_params,
     sizeof(struct nbd_remove_params), true, co_unserve_method},
    {"commit", "merges layers of a volume in use down into one below them", job_commit_params,
     sizeof(struct job_params), true, co_job_commit_method},
    {"stream", "merges layers of a volume in use up into one above them", job_stream_params,
     sizeof(struct job_params), true, co_job_stream_method},
    {"merge", "gives up a snapshot of a volume in use: its layer and the one above become one",
     job_merge_params, sizeof(struct job_params), true, co_job_merge_method},
    {"job-list", "jobs, and those that ended last", job_list_params, sizeof(struct job_params),
     false, co_job_list_method},
    {"job-wait", "waits for the end of a job, and tells of it", job_wait_params,
     sizeof(struct job_params), false, co_job_wait_method},
    {"job-cancel", "ends a job; the chain stays as it was", job_id_params,
     sizeof(struct job_params), false, co_job_cancel_method},
    {"job-pause", "a job copies nothing until job-resume", job_id_params, sizeof(struct job_params),
     false, co_job_pause_method},
    {"job-resume", "a paused job goes on", job_id_params, sizeof(struct job_params), false,
     co_job_resume_method},
    {"job-complete", "a job that waits, or will, concludes", job_id_params,
     sizeof(struct job_params), false, co_job_complete_method},
    {"job-set-speed", "changes how much a job copies a second", job_speed_params,
     sizeof(struct job_params), false, co_job_speed_method},
    {"stop", "takes the devices away, flushes and ends the engine", stop_params,
     sizeof(struct volume_params), false, co_stop_method},
    {"replace", "runs another program in this one's place, with the devices in use", replace_params,
     sizeof(struct replace_params), false, co_replace_method},
    {"log-level", "sets how much is logged", level_params, sizeof(struct level_params), false,
     co_level_method},
};

static int co_methods_method(struct engine *engine, const void *params, json_t **ret,
                             struct hws_error *err)
{
    json_t *list = json_array();
    for (unsigned i = 0; i < ARRAY_LEN(methods); i++)
        json_array_append_new(list, json_pack("{s:s, s:s, s:o}", "name", methods[i].name, "help",
                                              methods[i].help, "params",
                                              options_schema(methods[i].params)));
    *ret = json_pack("{s:s, s:o}", "version", HAWSER_VERSION, "methods", list);
    return 0;
}

/* ---- JSON-RPC ---- */

static json_t *error_answer(json_t *id, enum rpc_code code, const char *message, int error)
{
    json_t *body = json_object();
    json_object_set_new(body, "code", json_integer(code));
    /* Messages may carry names that are no UTF-8: those are told without. */
    json_t *text = json_string(message);
    json_object_set_new(body, "message", text ? text : json_string("(not printable)"));
    if (error)
        json_object_set_new(body, "data",
                            json_pack("{s:i, s:s}", "errno", error, "name",
                                      strerrorname_np(error) ? strerrorname_np(error) : "?"));
    return json_pack("{s:s, s:O?, s:o}", "jsonrpc", "2.0", "id", id ? id : json_null(), "error",
                     body);
}

/* Others may wait for requests. */
static bool keeps_holds(const struct method *method)
{
    return method->co_run == co_hold_method || method->co_run == co_release_method ||
           method->co_run == co_snapshot_method;
}

/* @return a positive errno-like rpc code in *ret_code on failure. */
static int co_call(struct engine *engine, const struct method *method, json_t *given, json_t **ret,
                   enum rpc_code *ret_code, struct hws_error *err)
{
    _Alignas(max_align_t) uint8_t params[256];
    assert(method->params_bytes <= sizeof(params));
    json_t *empty = json_object();
    if (given && !json_is_object(given)) {
        json_decref(empty);
        *ret_code = RPC_PARAMS;
        return hws_fail(err, EINVAL, "params of '%s' must be an object", method->name);
    }
    int r = options_parse(method->params, given ? given : empty, NULL, method->name, params,
                          method->params_bytes, err);
    json_decref(empty);
    *ret_code = RPC_PARAMS;
    if (r < 0)
        return r;
    *ret_code = RPC_FAILED;
    if (method->changes) {
        co_mutex_lock(&engine->control);
        if (!keeps_holds(method))
            engine_release(engine);
    }
    r = method->changes && engine->state != ENGINE_RUNNING
            ? hws_fail(err, ESHUTDOWN, "the engine is %s", engine_state_name(engine->state))
            : method->co_run(engine, params, ret, err);
    struct hws_error why = {0};
    if (method->changes && r == 0 && engine_store_state(engine, &why) < 0)
        log_warning("%s", why.text);
    if (method->changes)
        co_mutex_unlock(&engine->control);
    options_free(method->params, params);
    return r;
}

/* With the caller's id for it, where that is a word: hawserd's are ids of requests. */
static void log_change(const struct method *method, const json_t *id, const struct hws_error *err)
{
    const char *word = json_string_value(id);
    size_t length = word ? strlen(word) : 0;
    for (size_t i = 0; i < length; i++)
        if (!isalnum((unsigned char)word[i]))
            word = NULL, length = 0;
    log_info("%s%s%.64s%s: %s", method->name, word ? " [" : "", word ? word : "", word ? "]" : "",
             err ? err->text : "done");
}

static json_t *co_answer_one(struct engine *engine, json_t *request)
{
    json_t *id = json_object_get(request, "id"), *result = NULL;
    const char *version = json_string_value(json_object_get(request, "jsonrpc"));
    const char *name = json_string_value(json_object_get(request, "method"));
    if (!version || strcmp(version, "2.0") || !name ||
        (id && !json_is_string(id) && !json_is_number(id) && !json_is_null(id)))
        return error_answer(NULL, RPC_INVALID, "this is no JSON-RPC 2.0 request", 0);
    const struct method *method = NULL;
    for (unsigned i = 0; i < ARRAY_LEN(methods) && !method; i++)
        if (!strcmp(methods[i].name, name))
            method = &methods[i];
    if (!method)
        return id ? error_answer(id, RPC_NO_METHOD, "no such method; 'methods' lists them", 0)
                  : NULL;
    struct hws_error err = {0};
    enum rpc_code code;
    int r = co_call(engine, method, json_object_get(request, "params"), &result, &code, &err);
    if (method->changes)
        log_change(method, id, r < 0 ? &err : NULL);
    if (!id) {
        json_decref(r < 0 ? NULL : result);
        return NULL;
    }
    if (r < 0)
        return error_answer(id, code, err.text, err.code ? err.code : -r);
    return json_pack("{s:s, s:O, s:o}", "jsonrpc", "2.0", "id", id, "result", result);
}

static json_t *co_answer_batch(struct engine *engine, json_t *batch)
{
    size_t count = json_array_size(batch);
    if (count == 0 || count > BATCH_MAX)
        return error_answer(NULL, RPC_INVALID, "a batch has 1 to 32 requests", 0);
    json_t *answers = json_array();
    for (size_t i = 0; i < count; i++) {
        json_t *answer = co_answer_one(engine, json_array_get(batch, i));
        if (answer)
            json_array_append_new(answers, answer);
    }
    if (json_array_size(answers) > 0)
        return answers;
    json_decref(answers);
    return NULL;
}

json_t *co_method_answer(struct engine *engine, const char *text, size_t length)
{
    if (!process_json_is_flat(text, length))
        return error_answer(NULL, RPC_PARSE, "the message is nested too deep", 0);
    json_error_t where;
    json_t *request = json_loadb(text, length, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &where);
    if (!request)
        return error_answer(NULL, RPC_PARSE, where.text, 0);
    json_t *answer =
        json_is_array(request) ? co_answer_batch(engine, request) : co_answer_one(engine, request);
    json_decref(request);
    return answer;
}
