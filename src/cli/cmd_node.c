/*
 * `hawser node`: this host, its engines, and replacing them by a new version, by way of hawserd.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cli/control.h"

struct node_options {
    struct control_command control;
    const char *program;
};

static const struct control_column fields[] = {
    {"host", "host"},
    {"version", "version"},
    {"kernel", "kernel"},
    {"machine", "machine"},
    {"boot", "boot"},
    {"features", "features", CONTROL_LABELS},
    {"engines", "engines", CONTROL_NUMBER},
    {NULL},
};

static const struct control_column engine_columns[] = {
    {"VOLUME", "volume", CONTROL_REF, "/v1/volumes/"},
    {"PID", "pid", CONTROL_NUMBER},
    {"VERSION", "version"},
    {"VIA", "via"},
    {"SANDBOX", "sandbox", CONTROL_FLAG},
    {NULL},
};

static const struct control_column upgrade_columns[] = {
    {"VOLUME", "name"},
    {"OUTCOME", "outcome"},
    {"ERROR", "error"},
    {NULL},
};

static int engines(const struct control_run *run, struct hws_error *err)
{
    json_t *node = NULL;
    int r = control_request(run, &node, err);
    if (r == 0)
        control_print_list(run->control, json_incref(json_object_get(node, "engines")),
                           engine_columns);
    json_decref(node);
    return r;
}

/* One that is refused is a failure, though all others are replaced. */
static int upgrade(const struct control_run *run, struct hws_error *err)
{
    json_t *answer = NULL, *items, *item;
    unsigned refused = 0;
    size_t i;
    int r = control_request(run, &answer, err);
    if (r < 0)
        return r;
    items = json_object_get(answer, "items");
    json_array_foreach(items, i, item) refused += json_object_get(item, "error") != NULL;
    if (refused)
        r = hws_fail(err, EBUSY, "%u of %zu engines go on as they were", refused,
                     json_array_size(items));
    control_print_list(run->control, json_incref(items), upgrade_columns);
    json_decref(answer);
    return r;
}

static const struct cli_verb verbs[] = {
    {"show", "", "show this host, and what its kernel has that engines can use", "GET", "/v1/node",
     NULL, fields},
    {"engines", "", "show the engines, one a volume in use", "GET", "/v1/node", .run = engines},
    {"upgrade", "", "put a new program in the place of all engines, one after another", "POST",
     "/v1/node/upgrade", .run = upgrade},
    {NULL},
};

static const struct cli_option table[] = {
    {"program", 0, CLI_TEXT, offsetof(struct node_options, program), "FILE",
     "the program hawser to serve with; the one that hawserd starts engines with if not given",
     .completes = CLI_COMPLETE_FILE, .verbs = "upgrade", .member = "program"},
    CLI_CONTROL_OPTIONS(struct node_options),
    {NULL},
};

const struct cli_command cli_node_command = {
    .name = "node",
    .summary = "Show this host, and upgrade its engines",
    .description =
        "'upgrade' replaces the engines while they serve: a device that outlives its engine has no "
        "error, its commands wait for a moment. An engine whose device cannot goes on as it was, "
        "until its volume is detached, and is told.",
    .examples = {{"this host", "hawser node show"},
                 {"after an update of Hawser", "hawser node upgrade"}},
    .options = table,
    .options_bytes = sizeof(struct node_options),
    .verbs = verbs,
};
