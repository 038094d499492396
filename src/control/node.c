/*
 * This host: what it has, its engines, and replacing them by a new version.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "control/internal.h"
#include <sys/utsname.h>

#define OUTCOME_REPLACED "replaced"
#define OUTCOME_REFUSED  "refused"

struct upgrade_request {
    char *program;
};

const struct record_field request_node_upgrade[] = {
    {"program", RECORD_TEXT, offsetof(struct upgrade_request, program),
     "path of the program to serve with; the one that hawserd starts engines with if not given",
     .max = 4095},
    {NULL},
};

static int describe_engines(struct control *control, json_t *engines, struct hws_error *err)
{
    auto_json *all = NULL;
    size_t i;
    json_t *attachment;
    int r = object_list(control, &attachment_type, NULL, &all, err);
    json_array_foreach(all, i, attachment)
    {
        const char *id = json_string_value(json_object_get(attachment, "id"));
        json_t *engine = NULL;
        if (control->engines->describe && control->engines->describe(id, &engine, NULL) == 0)
            json_array_append_new(engines, engine);
    }
    return r;
}

int control_node_show(struct control *control, json_t **ret, struct hws_error *err)
{
    struct utsname host;
    json_t *engines = json_array();
    uname(&host);
    int r = describe_engines(control, engines, err);
    if (r == 0)
        *ret = json_pack(
            "{s:s, s:s, s:s, s:s, s:s, s:o, s:o, s:o}", "host", host.nodename, "version",
            HAWSER_VERSION, "kernel", host.release, "machine", host.machine, "boot", control->boot,
            "features", control->engines->features ? control->engines->features() : json_object(),
            "cgroup", control->engines->groups ? control->engines->groups() : json_object(),
            "engines", json_incref(engines));
    json_decref(engines);
    return r;
}

/* One that is refused goes on as it was. */
static void upgrade_one(struct control *control, const char *id, const char *program,
                        json_t *results)
{
    auto_volume volume = {0};
    struct hws_error err = {0};
    json_t *answer = NULL;
    int r = volume_take(control, id, &volume, &err);
    if (r == 0) {
        control_at(control, "replace an engine");
        r = control->engines->replace ? control->engines->replace(id, program, &answer, &err)
                                      : hws_fail(&err, ENOTSUP, "engines here are not replaced");
        volume_release(control, &volume);
    }
    json_t *result =
        json_pack("{s:s, s:s*, s:s, s:O*, s:s*}", "volume", id, "name", volume.name, "outcome",
                  r == 0 ? OUTCOME_REPLACED : OUTCOME_REFUSED, "pause-ns",
                  json_object_get(answer, "pause-ns"), "error", r == 0 ? NULL : err.text);
    json_array_append_new(results, result);
    json_decref(answer);
}

int control_node_upgrade(struct control *control, const json_t *given, json_t **ret,
                         struct hws_error *err)
{
    struct upgrade_request request;
    auto_json *all = NULL;
    size_t i;
    json_t *attachment;
    int r = record_parse(request_node_upgrade, given, "upgrade", &request, sizeof(request), err);
    if (r == 0 && request.program && request.program[0] != '/')
        r = hws_fail(err, EINVAL, "program is no absolute path");
    if (r == 0)
        r = object_list(control, &attachment_type, NULL, &all, err);
    if (r == 0) {
        json_t *results = json_array();
        json_array_foreach(all, i, attachment)
        {
            upgrade_one(control, json_string_value(json_object_get(attachment, "id")),
                        request.program, results);
        }
        *ret = json_pack("{s:o}", "items", results);
    }
    record_free(request_node_upgrade, &request);
    return r;
}
