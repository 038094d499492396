/*
 * `hawser doctor`: what differs from the catalog of hawserd, and its repair.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cli/control.h"

struct doctor_options {
    struct control_command control;
    struct cli_list repair;
    bool dry_run, deep;
};

static const char *text_of(const json_t *finding, const char *name)
{
    return json_string_value(json_object_get(finding, name));
}

static void print_line(const char *before, const char *text)
{
    if (!text)
        return;
    fputs(before, stdout);
    out_safe(stdout, text);
    putchar('\n');
}

static void print_finding(const json_t *finding)
{
    const char *code = text_of(finding, "code");
    printf("%s: ", code ? code : "?");
    print_line("", text_of(finding, "text"));
    print_line("    repair: ", text_of(finding, "repair"));
    print_line("    ", text_of(finding, "outcome"));
    print_line("    error: ", text_of(finding, "error"));
}

static bool is_repaired(const json_t *finding)
{
    const char *outcome = text_of(finding, "outcome");
    return outcome && !strcmp(outcome, "repaired");
}

/* @return an exit code. */
static int report(const struct doctor_options *options, const json_t *items)
{
    unsigned left = 0, can = 0;
    const json_t *finding;
    size_t i;
    json_array_foreach(items, i, finding)
    {
        left += !is_repaired(finding);
        can += !is_repaired(finding) && text_of(finding, "repair");
        if (options->control.output != CLI_JSON)
            print_finding(finding);
    }
    if (options->control.output == CLI_JSON)
        out_json(json_incref((json_t *)items));
    else if (!json_array_size(items))
        puts("all is well");
    if (can && !options->repair.count)
        out_note("doctor",
                 "'hawser doctor --repair=all' repairs %u of %zu; nothing that may hold "
                 "data is deleted",
                 can, json_array_size(items));
    return left ? CLI_FAILED : CLI_OK;
}

static int run(const void *arg, char **operands, unsigned count)
{
    const struct doctor_options *options = arg;
    struct hws_error err = {0};
    json_t *answer = NULL, *codes = json_array();
    for (unsigned i = 0; i < options->repair.count; i++)
        json_array_append_new(codes, out_string(options->repair.item[i]));
    bool look = !options->repair.count;
    json_t *body = json_pack("{s:o, s:b, s:b}", "repair", codes, "dry-run", options->dry_run,
                             "deep", options->deep);
    if (look) {
        json_decref(body);
        body = NULL;
    }
    if (look && options->dry_run) {
        hws_fail(&err, EINVAL, "--dry-run goes with --repair");
        return out_error("doctor", CLI_USAGE, &err);
    }
    if (control_ask(&options->control, look ? "GET" : "POST",
                    look && options->deep ? "/v1/doctor?deep=true" : "/v1/doctor", body, &answer,
                    &err) < 0)
        return out_error("doctor", CLI_FAILED, &err);
    int code = report(options, json_object_get(answer, "items"));
    json_decref(answer);
    return code;
}

static const struct cli_option table[] = {
    {"repair", 0, CLI_LIST, offsetof(struct doctor_options, repair), "CODE",
     "repair findings of this code, or of 'all' codes (may be repeated)"},
    {"dry-run", 'n', CLI_FLAG, offsetof(struct doctor_options, dry_run), NULL,
     "with --repair: tell what would be done, and do nothing"},
    {"deep", 0, CLI_FLAG, offsetof(struct doctor_options, deep), NULL,
     "look into images, too: their sizes, and what they lie on"},
    CLI_CONTROL_OPTIONS(struct doctor_options),
    {NULL},
};

const struct cli_command cli_doctor_command = {
    .name = "doctor",
    .summary = "Find and repair what differs from the catalog of hawserd",
    .synopsis = "[--deep] [OPTION...]\n--repair=CODE|all [--dry-run] [OPTION...]",
    .description =
        "Compares the catalog of hawserd with files, engines, mounts and operations, while all of "
        "it is in use. Each finding has a code, and says what repairing it would do, or nothing "
        "where a person must decide. No repair deletes what may hold data: files go to the folder "
        "lost+found of their pool.",
    .exit_codes = "0 all is well, or was repaired; 1 something is left, or it failed; 2 the "
                  "command line is wrong.",
    .examples = {{"is all well?", "hawser doctor --deep"},
                 {"what would be done", "hawser doctor --repair=all --dry-run"},
                 {"one kind of findings", "hawser doctor --repair=engine-gone"}},
    .options = table,
    .options_bytes = sizeof(struct doctor_options),
    .run = run,
};
