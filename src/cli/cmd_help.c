/*
 * `hawser help`: what commands can do, the image formats, and, for the tools that write the manual
 * pages and the shell completion, all tables as JSON (`hawser help --dump-options`).
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cli/control.h"
#include "cli/output.h"
#include "hawser/image.h"

struct help_options {
    bool dump;
};

static json_t *dump_option(const struct cli_option *option)
{
    char letter[2] = {option->letter, 0};
    json_t *entry = json_pack("{s:s, s:s, s:b, s:s, s:s, s:b}", "name", option->name, "letter",
                              letter, "flag", !cli_takes_value(option), "help", option->help,
                              "completes", cli_completion_names[option->completes], "list",
                              option->kind == CLI_LIST || option->kind == CLI_STEP);
    if (option->value)
        json_object_set_new(entry, "value", json_string(option->value));
    json_t *choices = json_array();
    for (const char *const *c = option->choices; c && *c; c++)
        json_array_append_new(choices, json_string(*c));
    json_object_set_new(entry, "choices", choices);
    if (option->verbs)
        json_object_set_new(entry, "verbs", json_string(option->verbs));
    if (option->member)
        json_object_set_new(entry, "member", json_string(option->member));
    return entry;
}

static enum cli_completes operand_completes(const char *name, size_t length)
{
    static const struct {
        const char *name;
        enum cli_completes kind;
    } kinds[] = {
        {"POOL", CLI_COMPLETE_POOL},
        {"CLASS", CLI_COMPLETE_CLASS},
        {"VOLUME", CLI_COMPLETE_VOLUME},
        {"VOLUME@SNAPSHOT", CLI_COMPLETE_SNAPSHOT},
        {"VOLUME@NAME", CLI_COMPLETE_VOLUME},
        {"JOB", CLI_COMPLETE_JOB},
        {"FOLDER", CLI_COMPLETE_FOLDER},
        {"IMAGE", CLI_COMPLETE_FILE},
        {"FILE", CLI_COMPLETE_FILE},
        {"SOURCE", CLI_COMPLETE_SNAPSHOT},
        {"SECRET", CLI_COMPLETE_SECRET},
        {"EXPORT", CLI_COMPLETE_EXPORT},
        {"GROUP", CLI_COMPLETE_GROUP},
        {"GROUP@NAME", CLI_COMPLETE_GROUP},
        {"GROUP@SNAPSHOT", CLI_COMPLETE_GROUP_SNAPSHOT},
        {"SCHEDULE", CLI_COMPLETE_SCHEDULE},
        {"DELETED", CLI_COMPLETE_TRASH},
    };
    if (*name == '[' && length > 2) {
        name++;
        length -= 2;
    }
    if (length > 3 && !strncmp(name + length - 3, "...", 3))
        length -= 3;
    for (unsigned i = 0; i < ARRAY_LEN(kinds); i++)
        if (strlen(kinds[i].name) == length && !strncmp(kinds[i].name, name, length))
            return kinds[i].kind;
    return CLI_COMPLETE_NONE;
}

/* What the words of @verb's operands complete with, in their order. */
static json_t *dump_completions(const struct cli_verb *verb)
{
    json_t *kinds = json_array();
    for (const char *at = verb->operands; *at; at += *at == ' ') {
        size_t length = strcspn(at, " ");
        enum cli_completes kind = operand_completes(at, length);
        json_array_append_new(kinds, json_string(cli_completion_names[kind]));
        at += length;
    }
    return kinds;
}

/* The members of the answer that are shown. */
static json_t *dump_columns(const struct control_column *column)
{
    json_t *members = json_array();
    for (; column && column->title; column++)
        json_array_append_new(members, json_string(column->member));
    return members;
}

static json_t *dump_verbs(const struct cli_command *command)
{
    json_t *verbs = json_array();
    for (const struct cli_verb *verb = command->verbs; verb && verb->name; verb++)
        json_array_append_new(
            verbs, json_pack("{s:s, s:s, s:s, s:o, s:s*, s:s*, s:s*, s:o}", "name", verb->name,
                             "operands", verb->operands, "help", verb->help, "completes",
                             dump_completions(verb), "method", verb->method, "path", verb->path,
                             "body", verb->body, "columns", dump_columns(verb->columns)));
    return verbs;
}

static json_t *dump_command(const struct cli_command *command)
{
    json_t *options = json_array(), *operands = json_array(), *examples = json_array();
    for (const struct cli_option *o = command->options; o && o->name; o++)
        if (!o->hidden)
            json_array_append_new(options, dump_option(o));
    for (const struct cli_operand *o = command->operands; o->name; o++)
        json_array_append_new(operands,
                              json_pack("{s:s, s:s, s:s}", "name", o->name, "help", o->help,
                                        "completes", cli_completion_names[o->completes]));
    for (const struct cli_example *e = command->examples; e->command; e++)
        json_array_append_new(examples,
                              json_pack("{s:s, s:s}", "what", e->what, "command", e->command));
    return json_pack(
        "{s:s, s:s, s:s, s:s, s:s, s:o, s:o, s:o, s:o, s:o*}", "name", command->name, "summary",
        command->summary, "synopsis", command->verbs ? CLI_VERB_SYNOPSIS : command->synopsis,
        "description", command->description, "exit-codes",
        command->exit_codes ? command->exit_codes : CLI_USUAL_EXIT_CODES, "options", options,
        "operands", operands, "examples", examples, "verbs", dump_verbs(command), "managed",
        command->managed ? dump_command(command->managed) : NULL);
}

static int dump_all(void)
{
    json_t *commands = json_array();
    for (const struct cli_command *const *at = cli_commands; *at; at++)
        if (!(*at)->hidden)
            json_array_append_new(commands, dump_command(*at));
    out_json(commands);
    return CLI_OK;
}

static const char *text_of(json_t *object, const char *name)
{
    const char *text = json_string_value(json_object_get(object, name));
    return text ? text : "";
}

static void print_driver_options(json_t *options)
{
    size_t i;
    json_t *option;
    json_array_foreach(options, i, option)
    {
        char left[64], help[512];
        snprintf(left, sizeof(left), "  %s=%s", text_of(option, "name"), text_of(option, "type"));
        const char *fallback = text_of(option, "default");
        snprintf(help, sizeof(help), "%s%s%s%s", text_of(option, "help"), *fallback ? " (" : "",
                 fallback, *fallback ? " by default)" : "");
        cli_help_entry(stdout, left, help);
    }
}

static int help_formats(void)
{
    autofree char *text = hws_drivers();
    json_t *drivers = text ? json_loads(text, 0, NULL) : NULL, *driver;
    size_t i;
    printf(
        "Formats, and what `hawser create -o NAME=VALUE` takes for each. Formats are found from\n"
        "an image's header; raw has none and must be said (-f raw).\n");
    json_array_foreach(drivers, i, driver)
    {
        if (strcmp(text_of(driver, "kind"), "format"))
            continue;
        cli_help_heading(stdout, text_of(driver, "name"));
        printf("  %s\n", text_of(driver, "help"));
        print_driver_options(json_object_get(driver, "create-options"));
        if (json_object_get(driver, "amend-options"))
            printf("  `hawser amend -o` takes:\n");
        print_driver_options(json_object_get(driver, "amend-options"));
    }
    cli_help_heading(stdout, "Protocols and filters");
    json_array_foreach(drivers, i, driver) if (strcmp(text_of(driver, "kind"), "format"))
        cli_help_entry(stdout, text_of(driver, "name"), text_of(driver, "help"));
    json_decref(drivers);
    return CLI_OK;
}

static int run_help(const void *arg, char **operands, unsigned count)
{
    const struct help_options *options = arg;
    if (options->dump)
        return dump_all();
    if (count && !strcmp(operands[0], "formats"))
        return help_formats();
    const struct cli_command *command = count ? cli_command_find(operands[0]) : NULL;
    if (count && !command)
        return CLI_USAGE;
    cli_help(command, stdout);
    return CLI_OK;
}

static const struct cli_option help_table[] = {
    {"dump-options", 0, CLI_FLAG, offsetof(struct help_options, dump), NULL,
     "all tables as JSON, for the tools that write manual pages and completion", .hidden = true},
    {NULL},
};

const struct cli_command cli_help_command = {
    .name = "help",
    .summary = "Explain a command, or list the image formats",
    .synopsis = "[COMMAND | formats]",
    .description =
        "Without an operand lists the commands. 'hawser help formats' lists the image formats "
        "with the options that 'hawser create -o' takes for each.",
    .operands = {{"COMMAND", "the command to explain, or the word 'formats'",
                  CLI_COMPLETE_COMMAND}},
    .examples = {{"what create can do", "hawser help create"}},
    .options = help_table,
    .options_bytes = sizeof(struct help_options),
    .operands_max = 1,
    .run = run_help,
};
