/*
 * `hawser events`: what has happened to the objects of hawserd, and goes on to happen.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cli/control.h"
#include <time.h>

#define WAIT_S 20

struct events_options {
    struct control_command control;
    uint64_t after;
};

static const char *text_of(const json_t *event, const char *name)
{
    const char *text = json_string_value(json_object_get(event, name));
    return text ? text : "-";
}

static void print_event(const json_t *event)
{
    time_t at = (time_t)json_integer_value(json_object_get(event, "time"));
    const char *name = json_string_value(json_object_get(event, "name"));
    struct tm parts;
    char when[32] = "-";
    if (localtime_r(&at, &parts))
        strftime(when, sizeof(when), "%Y-%m-%d %H:%M:%S", &parts);
    printf("%-8lld  %s  %-10s  %-8s  ",
           (long long)json_integer_value(json_object_get(event, "sequence")), when,
           text_of(event, "kind"), text_of(event, "event"));
    out_safe(stdout, name ? name : text_of(event, "id"));
    putchar('\n');
}

/* @all: NULL where each is printed at once. */
static void take(const struct events_options *options, const json_t *answer, bool first,
                 json_t *all)
{
    json_t *items = json_object_get(answer, "items"), *event;
    size_t i;
    if (json_is_true(json_object_get(answer, "gap")) && !(first && options->after == UINT64_MAX))
        out_note("events", "there was more, which is not remembered any more");
    if (all)
        json_array_extend(all, items);
    json_array_foreach(items, i, event)
    {
        if (all)
            continue;
        if (options->control.output == CLI_JSON)
            out_json_line(json_incref(event));
        else
            print_event(event);
    }
}

static int follow(const struct events_options *options, json_t *all, struct hws_error *err)
{
    bool watch = options->control.watch;
    uint64_t after = options->after == UINT64_MAX ? 0 : options->after;
    for (bool first = true;; first = false) {
        json_t *answer = NULL;
        char path[96];
        snprintf(path, sizeof(path), "/v1/events?limit=1000&wait=%d&after=%llu", watch ? WAIT_S : 0,
                 (unsigned long long)after);
        int r = control_ask(&options->control, "GET", path, NULL, &answer, err);
        if (r < 0)
            return r;
        uint64_t next = (uint64_t)json_integer_value(json_object_get(answer, "next"));
        take(options, answer, first, all);
        json_decref(answer);
        if (fflush(stdout) != 0)
            return hws_fail_errno(err, errno, "cannot write the output");
        if (next <= after && !watch)
            return 0;
        after = next;
    }
}

static int run(const void *arg, char **operands, unsigned count)
{
    const struct events_options *options = arg;
    bool whole = options->control.output == CLI_JSON && !options->control.watch;
    json_t *all = whole ? json_array() : NULL;
    struct hws_error err = {0};
    int r = follow(options, all, &err);
    if (r == 0 && all)
        out_json(json_incref(all));
    json_decref(all);
    return r < 0 ? out_error("events", CLI_FAILED, &err) : CLI_OK;
}

static const struct cli_option table[] = {
    {"after", 0, CLI_NUMBER, offsetof(struct events_options, after), "N",
     "only those behind the one with this number"},
    {"watch", 'w', CLI_FLAG, offsetof(struct events_options, control.watch), NULL,
     "go on with what happens, until Ctrl-C; with --output=json a line each"},
    CLI_CONTROL_OPTIONS(struct events_options),
    {NULL},
};

const struct cli_command cli_events_command = {
    .name = "events",
    .summary = "Tell what has happened to what hawserd keeps",
    .synopsis = "[OPTION...]",
    .description =
        "Prints a line for each change of an object: its number, when it was, what kind of object, "
        "what was done, and its name. hawserd remembers the last ten thousand, and numbers them "
        "over its restarts.",
    .examples = {{"what happens from now on", "hawser events --watch"},
                 {"for a program", "hawser events --watch --output=json | jq .name"}},
    .options = table,
    .options_bytes = sizeof(struct events_options),
    .run = run,
};
