/*
 * `hawser list`: what is attached on this host.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cli/command.h"
#include "cli/output.h"
#include "base/size.h"
#include "engine/client.h"

/* An engine answers at once; one that hangs must not keep the list of the others. */
#define ANSWER_MS 2000

struct list_options {
    bool stats, names;
    int output;
};

static json_t *ask(const struct attachment *attachment, const char *method)
{
    json_t *result = NULL;
    struct hws_error err = {0};
    if (!attachment->running ||
        attachment_call_within(attachment, method, NULL, ANSWER_MS, &result, &err) < 0)
        return NULL;
    return result;
}

static json_t *describe(const struct attachment *attachment, bool stats)
{
    json_t *status = ask(attachment, "status");
    json_t *volume =
        json_array_get(json_object_get(status ? status : attachment->state, "volumes"), 0);
    json_t *object = volume ? json_deep_copy(volume) : json_object();
    json_t *export = json_object_get(status ? status : attachment->state, "export");
    if (export) {
        json_object_set(object, "export", export);
        json_object_set(object, "volumes",
                        json_object_get(status ? status : attachment->state, "volumes"));
    }
    const char *image = attachment_image(attachment);
    json_object_set_new(object, "name", json_string(attachment->name));
    json_object_set_new(object, "image", json_string(image ? image : ""));
    json_object_set_new(object, "folder", json_string(attachment->folder));
    const char *state = json_string_value(json_object_get(status, "state"));
    json_object_set_new(object, "state",
                        json_string(state                 ? state
                                    : attachment->running ? "not answering"
                                                          : "dead"));
    json_object_set(object, "pid", json_object_get(attachment->state, "pid"));
    json_t *counters = stats && state ? ask(attachment, "stats") : NULL;
    json_t *first = json_array_get(json_object_get(counters, "volumes"), 0);
    if (first) {
        json_object_set(object, "in-flight", json_object_get(first, "in-flight"));
        json_object_set(object, "operations", json_object_get(first, "operations"));
    }
    json_decref(counters);
    json_decref(status);
    return object;
}

static const char *text_of(json_t *object, const char *name, const char *fallback)
{
    const char *text = json_string_value(json_object_get(object, name));
    return text ? text : fallback;
}

static void print_stats(json_t *entry)
{
    const char *op;
    json_t *counter;
    json_object_foreach(json_object_get(entry, "operations"), op, counter)
    {
        json_int_t done = json_integer_value(json_object_get(counter, "operations"));
        char bytes[32];
        if (!done)
            continue;
        size_format((uint64_t)json_integer_value(json_object_get(counter, "bytes")), bytes,
                    sizeof(bytes));
        printf("    %-13s %12lld  %12s  mean %8.1f us  p99 %8.1f us  failed %lld\n", op,
               (long long)done, bytes,
               (double)json_integer_value(json_object_get(counter, "latency-ns-mean")) / 1000,
               (double)json_integer_value(json_object_get(counter, "latency-ns-p99")) / 1000,
               (long long)json_integer_value(json_object_get(counter, "failures")));
    }
}

/* An export that is saved and does not run. */
static json_t *describe_saved(const char *name)
{
    json_t *saved = export_saved(name), *first = NULL;
    json_t *object = json_pack("{s:s, s:s}", "name", name, "state", "saved");
    if (saved) {
        first = json_array_get(json_object_get(saved, "images"), 0);
        json_t *target = json_object_get(json_object_get(saved, "options"), "target");
        json_object_set_new(object, "export",
                            json_pack("{s:s, s:O, s:O?, s:i}", "name", name, "fabric",
                                      json_object_get(saved, "fabric"), "target", target, "units",
                                      (int)json_array_size(json_object_get(saved, "images"))));
        json_object_set(object, "image", first);
    } else {
        json_object_set_new(object, "state", json_string("unreadable"));
    }
    json_decref(saved);
    return object;
}

static bool is_listed(const json_t *entries, const char *name)
{
    size_t i;
    const json_t *entry;
    json_array_foreach(entries, i, entry)
    {
        const char *other =
            json_string_value(json_is_string(entry) ? entry : json_object_get(entry, "name"));
        if (other && !strcmp(other, name))
            return true;
    }
    return false;
}

/* Those that do not run, after all that do. */
static void add_saved(const struct list_options *options, json_t *entries)
{
    char **names;
    unsigned count;
    if (exports_saved(&names, &count, NULL) < 0)
        return;
    for (unsigned i = 0; i < count; i++) {
        if (!options->names && !is_listed(entries, names[i]))
            json_array_append_new(entries, describe_saved(names[i]));
        free(names[i]);
    }
    free(names);
}

/* Where, what, and who uses it. */
static void print_export(json_t *export)
{
    size_t i;
    json_t *session, *sessions = json_object_get(export, "sessions");
    const char *portals = json_string_value(json_object_get(export, "portals"));
    printf("    %s %s", text_of(export, "fabric", "?"), text_of(export, "target", "?"));
    if (portals)
        printf(" at %s", portals);
    printf(", %lld image%s", (long long)json_integer_value(json_object_get(export, "units")),
           json_integer_value(json_object_get(export, "units")) == 1 ? "" : "s");
    json_array_foreach(sessions, i, session)
        printf("%s%s", i ? ", " : "; in use by ",
               json_string_value(session) ? json_string_value(session) : "?");
    putchar('\n');
}

static void print_table(json_t *entries, bool stats)
{
    size_t i;
    json_t *entry;
    if (json_array_size(entries) == 0) {
        fprintf(stderr, "nothing is attached\n");
        return;
    }
    printf("%-20s %-9s %-12s %-10s %s\n", "NAME", "STATE", "DEVICE", "SIZE", "IMAGE");
    json_array_foreach(entries, i, entry)
    {
        char size[32] = "-";
        json_t *bytes = json_object_get(entry, "size");
        if (bytes)
            size_format((uint64_t)json_integer_value(bytes), size, sizeof(size));
        printf("%-20s %-9s %-12s %-10s ", text_of(entry, "name", "?"), text_of(entry, "state", "?"),
               text_of(entry, "device", "-"), size);
        out_safe(stdout, text_of(entry, "image", "?"));
        putchar('\n');
        if (json_object_get(entry, "export"))
            print_export(json_object_get(entry, "export"));
        if (stats)
            print_stats(entry);
    }
}

static int run(const void *arg, char **operands, unsigned count)
{
    const struct list_options *options = arg;
    struct hws_error err = {0};
    struct attachment **list = NULL;
    unsigned found = 0;
    if (count) {
        list = calloc(1, sizeof(struct attachment *));
        if (!list || attachment_find(operands[0], &list[0], &err) < 0) {
            free(list);
            return out_error("list", CLI_FAILED, &err);
        }
        found = 1;
    } else if (attachment_list(&list, &found, &err) < 0) {
        return out_error("list", CLI_FAILED, &err);
    }
    bool json = options->output == CLI_JSON;
    json_t *entries = json_array();
    for (unsigned i = 0; i < found; i++) {
        if (options->names && json)
            json_array_append_new(entries, out_string(list[i]->name));
        else if (options->names)
            puts(list[i]->name);
        else
            json_array_append_new(entries, describe(list[i], options->stats || json));
        attachment_free(list[i]);
    }
    free(list);
    if (!count)
        add_saved(options, entries);
    if (json)
        out_json(json_incref(entries));
    else if (!options->names)
        print_table(entries, options->stats);
    json_decref(entries);
    return CLI_OK;
}

static const struct cli_option table[] = {
    {"stats", 's', CLI_FLAG, offsetof(struct list_options, stats), NULL,
     "add operations, bytes and latencies"},
    {"names", 0, CLI_FLAG, offsetof(struct list_options, names), NULL,
     "names only, one a line; engines are not asked"},
    CLI_OUTPUT_OPTION(struct list_options),
    {NULL},
};

const struct cli_command cli_list_command = {
    .name = "list",
    .summary = "Show what is attached",
    .synopsis = "[OPTION...] [NAME|DEVICE|IMAGE]",
    .description =
        "Lists the attachments of this host with state, device, size and image. The "
        "state is 'running', 'dead' "
        "(the engine was killed: 'hawser detach' cleans up) or 'not answering'; 'saved' is "
        "an export that 'hawser export --restore' would start. With "
        "--stats, and always "
        "in JSON, each engine tells what it has done and how long it took.",
    .operands = {{"NAME", "one attachment; all if not given", CLI_COMPLETE_ATTACHMENT}},
    .examples = {{"what is attached", "hawser list"},
                 {"how fast it is", "hawser list --stats disk"},
                 {"for a program", "hawser list --output=json"}},
    .options = table,
    .options_bytes = sizeof(struct list_options),
    .operands_max = 1,
    .run = run,
};
