/*
 * `hawser __complete KIND`: names for the shell's completion, one a line. Silent where hawserd does
 * not run: a Tab is no place for an error.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cli/control.h"

struct complete_options {
    struct control_command control;
};

static const struct {
    enum cli_completes kind;
    const char *path, *member;
} lists[] = {
    {CLI_COMPLETE_POOL, "/v1/pools", "name"},     {CLI_COMPLETE_CLASS, "/v1/classes", "name"},
    {CLI_COMPLETE_VOLUME, "/v1/volumes", "name"}, {CLI_COMPLETE_JOB, "/v1/jobs", "id"},
    {CLI_COMPLETE_GROUP, "/v1/groups", "name"},   {CLI_COMPLETE_SCHEDULE, "/v1/schedules", "name"},
    {CLI_COMPLETE_TRASH, "/v1/trash", "name"},    {CLI_COMPLETE_SECRET, "/v1/secrets", "name"},
    {CLI_COMPLETE_EXPORT, "/v1/exports", "name"},
};

static void print_names(const struct control_command *control, const char *path, const char *before,
                        const char *member)
{
    struct hws_error err = {0};
    json_t *items = NULL, *item;
    size_t i;
    if (control_list(control, path, &items, &err) < 0)
        return;
    json_array_foreach(items, i, item)
    {
        const char *name = json_string_value(json_object_get(item, member));
        if (name)
            printf("%s%s\n", before, name);
    }
    json_decref(items);
}

/* "VOLUME@SNAPSHOT" once the volume is written, and "VOLUME" before that. */
static void print_snapshots(const struct control_command *control, const char *owners,
                            const char *word)
{
    char path[CONTROL_PATH_BYTES];
    size_t used = (size_t)snprintf(path, sizeof(path), "%s/", owners), length = strcspn(word, "@");
    autofree char *owner = strndup(word, length), *before = strndup(word, length + 1);
    if (!word[length]) {
        print_names(control, owners, "", "name");
    } else if (owner && before && control_escape(path, &used, owner)) {
        snprintf(path + used, sizeof(path) - used, "/snapshots");
        print_names(control, path, before, "name");
    }
}

static int run(const void *arg, char **operands, unsigned count)
{
    const struct complete_options *options = arg;
    const char *word = count > 1 ? operands[1] : "";
    for (unsigned i = 0; i < ARRAY_LEN(lists); i++)
        if (!strcmp(operands[0], cli_completion_names[lists[i].kind]))
            print_names(&options->control, lists[i].path, "", lists[i].member);
    if (!strcmp(operands[0], cli_completion_names[CLI_COMPLETE_SNAPSHOT]))
        print_snapshots(&options->control, "/v1/volumes", word);
    else if (!strcmp(operands[0], cli_completion_names[CLI_COMPLETE_GROUP_SNAPSHOT]))
        print_snapshots(&options->control, "/v1/groups", word);
    return CLI_OK;
}

static const struct cli_option table[] = {
    CLI_CONTROL_OPTIONS(struct complete_options),
    {NULL},
};

const struct cli_command cli_complete_command = {
    .name = "__complete",
    .summary = "Names for the shell's completion",
    .synopsis = "KIND [WORD]",
    .description = "Prints the names of objects of one kind, one a line.",
    .operands = {{"KIND", "volume, pool and their like", CLI_COMPLETE_NONE},
                 {"WORD", "what is written so far", CLI_COMPLETE_NONE}},
    .options = table,
    .options_bytes = sizeof(struct complete_options),
    .operands_min = 1,
    .operands_max = 2,
    .hidden = true,
    .run = run,
};
