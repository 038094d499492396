/*
 * Comparing the catalog with what is there, and repairing; see control/doctor.h.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "control/doctor.h"
#include "base/log.h"
#include "control/control.h"

static const struct {
    const char *code;
    const char *does; /* what repairing does; NULL: that is for a person to decide */
    doctor_repair *repair;
} kinds[] = {
    {"pool-away", NULL, NULL},
    {"file-missing", "it is brought back where it lies in the pool's lost+found",
     doctor_bring_back_file},
    {"file-foreign", "it is moved to the pool's lost+found", doctor_move_foreign},
    {"layer-unused", "it is forgotten, and its file moved to the pool's lost+found",
     doctor_forget_layer},
    {"layer-reference", "the layer tells again whose it is", doctor_correct_reference},
    {"layer-parent", NULL, NULL},
    {"layer-depth", "it is counted again", doctor_correct_depth},
    {"layer-chain", NULL, NULL},
    {"layer-size", "the smaller of both is made as large as the other", doctor_correct_size},
    {"volume-layer", NULL, NULL},
    {"snapshot-volume", NULL, NULL},
    {"object-unfinished", "it is taken as it is where its file is there", doctor_settle_state},
    {"attachment-lost", "its engine is stopped, and the attachment forgotten", doctor_detach},
    {"attachment-top", NULL, NULL},
    {"engine-gone", "what is left is detached by force; attach it again then", doctor_detach},
    {"engine-left", "it is stopped where nobody uses its device", doctor_stop_engine},
    {"mount-gone", "it is mounted again", doctor_remount},
    {"mount-left", "it is unmounted where nobody uses it, and its empty folder removed",
     doctor_remove_mount},
    {"operation-stuck", "it is tried again at once", doctor_run_operation},
};

static int find_kind(const char *code)
{
    unsigned i = 0;
    while (i < ARRAY_LEN(kinds) && strcmp(kinds[i].code, code) != 0)
        i++;
    return i < ARRAY_LEN(kinds) ? (int)i : -1;
}

/* ---- what was found ---- */

void doctor_tell(struct doctor *doctor, const char *code, const char *id, const char *path,
                 const char *format, ...)
{
    char text[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    int kind = find_kind(code);
    assert(kind >= 0);
    json_t *told = json_string(text), *where = path ? json_string(path) : NULL;
    json_array_append_new(doctor->findings, json_pack("{s:s, s:s, s:o*, s:o, s:s*}", "code", code,
                                                      "object", id, "path", where, "text",
                                                      told ? told : json_string("(not printable)"),
                                                      "repair", kinds[kind].does));
}

bool doctor_is_busy(const struct doctor *doctor, const char *id)
{
    return *id && strstr(doctor->intent_text, id);
}

const char *doctor_text(const json_t *object, const char *member)
{
    const char *text = json_string_value(json_object_get(object, member));
    return text ? text : "";
}

const char *doctor_text_of(const json_t *kind, const char *id, const char *member)
{
    return doctor_text(json_object_get(kind, id), member);
}

/* ---- the catalog ---- */

static int load(struct doctor *doctor, const char *kind, json_t **ret, struct hws_error *err)
{
    const struct store_query query = {.kind = kind};
    struct store *store = doctor->control->store;
    auto_json *list = NULL;
    size_t i;
    json_t *value;
    *ret = json_object();
    int r = store->driver->list(store, &query, &list, err);
    json_array_foreach(list, i, value)
    {
        const char *id = json_string_value(json_object_get(value, "id"));
        if (id)
            json_object_set(*ret, id, value);
    }
    return r;
}

static int load_intents(struct doctor *doctor, struct hws_error *err)
{
    const struct store_query query = {.kind = "intent"};
    struct store *store = doctor->control->store;
    int r = store->driver->list(store, &query, &doctor->intents, err);
    doctor->intent_text = r == 0 ? json_dumps(doctor->intents, JSON_COMPACT) : NULL;
    return r == 0 && !doctor->intent_text ? hws_fail(err, ENOMEM, "out of memory") : r;
}

static void count_children(struct doctor *doctor)
{
    const char *id;
    json_t *layer;
    doctor->children = json_object();
    json_object_foreach(doctor->layers, id, layer)
    {
        const char *parent = doctor_text(layer, "parent");
        json_int_t count = json_integer_value(json_object_get(doctor->children, parent));
        json_object_set_new(doctor->children, parent, json_integer(count + 1));
    }
}

static void note_wanted(struct doctor *doctor, json_t *kind)
{
    const char *id;
    json_t *value;
    json_object_foreach(kind, id, value)
        json_object_set_new(doctor->wanted, doctor_text(value, "layer"), json_true());
}

static int load_all(struct doctor *doctor, struct hws_error *err)
{
    struct {
        const char *kind;
        json_t **into;
    } all[] = {{"pool", &doctor->pools},   {"volume", &doctor->volumes},
               {"trash", &doctor->trash},  {"snapshot", &doctor->snapshots},
               {"layer", &doctor->layers}, {"attachment", &doctor->attachments}};
    int r = 0;
    control_lock_model(doctor->control);
    for (unsigned i = 0; r == 0 && i < ARRAY_LEN(all); i++)
        r = load(doctor, all[i].kind, all[i].into, err);
    if (r == 0)
        r = load_intents(doctor, err);
    control_unlock_model(doctor->control);
    if (r < 0)
        return r;
    count_children(doctor);
    doctor->wanted = json_object();
    note_wanted(doctor, doctor->volumes);
    note_wanted(doctor, doctor->trash);
    note_wanted(doctor, doctor->snapshots);
    return 0;
}

static void doctor_end(struct doctor *doctor)
{
    json_t *all[] = {doctor->pools,    doctor->volumes,     doctor->trash,   doctor->snapshots,
                     doctor->layers,   doctor->attachments, doctor->intents, doctor->away,
                     doctor->children, doctor->wanted,      doctor->findings};
    for (unsigned i = 0; i < ARRAY_LEN(all); i++)
        json_decref(all[i]);
    free(doctor->intent_text);
}

static int examine(struct control *control, bool deep, json_t **ret, struct hws_error *err)
{
    static int (*const parts[])(struct doctor * doctor, struct hws_error * err) = {
        doctor_pools,   doctor_layers, doctor_volumes,   doctor_attachments,
        doctor_engines, doctor_mounts, doctor_operations};
    struct doctor doctor = {
        .control = control, .deep = deep, .away = json_object(), .findings = json_array()};
    int r = load_all(&doctor, err);
    for (unsigned i = 0; r == 0 && i < ARRAY_LEN(parts); i++)
        r = parts[i](&doctor, err);
    if (r == 0)
        *ret = json_incref(doctor.findings);
    doctor_end(&doctor);
    return r;
}

/* ---- the call ---- */

struct doctor_request {
    json_t *repair;
    bool dry_run, deep;
};

const struct record_field request_doctor[] = {
    {"repair", RECORD_LIST, offsetof(struct doctor_request, repair),
     "codes of what is to be repaired; \"all\" among them: all that can be"},
    {"dry-run", RECORD_BOOL, offsetof(struct doctor_request, dry_run),
     "nothing is repaired; what would be is told"},
    {"deep", RECORD_BOOL, offsetof(struct doctor_request, deep),
     "images are looked into: their sizes, and what they lie on"},
    {NULL},
};

static bool is_wanted(const struct doctor_request *request, const char *code)
{
    size_t i;
    json_t *member;
    bool wanted = false;
    json_array_foreach(request->repair, i, member)
    {
        const char *text = json_string_value(member);
        wanted |= !strcmp(text, "all") || !strcmp(text, code);
    }
    return wanted;
}

static int check_codes(const struct doctor_request *request, struct hws_error *err)
{
    size_t i;
    json_t *member;
    json_array_foreach(request->repair, i, member)
    {
        const char *code = json_string_value(member);
        int kind = find_kind(code);
        if (!strcmp(code, "all"))
            continue;
        if (kind < 0)
            return hws_fail(err, EINVAL, "repair: there is no code '%.60s'", code);
        if (!kinds[kind].repair)
            return hws_fail(err, EINVAL, "repair: '%s' cannot be repaired from here", code);
    }
    return 0;
}

static void repair_one(struct control *control, json_t *finding)
{
    struct hws_error err = {0};
    const char *code = doctor_text(finding, "code"), *id = doctor_text(finding, "object");
    const char *path = json_string_value(json_object_get(finding, "path"));
    int r = kinds[find_kind(code)].repair(control, id, path, &err);
    if (r < 0)
        json_object_set_new(finding, "error", json_string(err.text[0] ? err.text : strerror(-r)));
    json_object_set_new(finding, "outcome", json_string(r < 0 ? "failed" : "repaired"));
    if (r < 0)
        log_warning("doctor: %s on %s is not repaired: %s", code, id, err.text);
    else
        log_info("doctor: %s on %s is repaired", code, id);
}

int control_doctor(struct control *control, const json_t *given, json_t **ret,
                   struct hws_error *err)
{
    struct doctor_request request;
    auto_json *findings = NULL, *wrapped = json_deep_copy(given);
    size_t i;
    json_t *finding, *all = json_object_get(wrapped, "repair");
    if (json_is_string(all)) /* {"repair": "all"} is what people write */
        json_object_set_new(wrapped, "repair", json_pack("[O]", all));
    int r = record_parse(request_doctor, wrapped, "doctor", &request, sizeof(request), err);
    if (r < 0)
        return r;
    r = check_codes(&request, err);
    if (r == 0)
        r = examine(control, request.deep, &findings, err);
    json_array_foreach(findings, i, finding)
    {
        if (!is_wanted(&request, doctor_text(finding, "code")) ||
            !json_object_get(finding, "repair"))
            continue;
        if (request.dry_run)
            json_object_set_new(finding, "outcome", json_string("would be repaired"));
        else
            repair_one(control, finding);
    }
    if (r == 0)
        *ret = json_pack("{s:O}", "items", findings);
    record_free(request_doctor, &request);
    return r;
}
