/*
 * Help, from the commands' tables: `hawser help`, `hawser COMMAND --help`, and, for the tools that
 * write the manual pages and the shell completion, all tables as JSON (`hawser help
 * --dump-options`).
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cli/command.h"
#include "cli/output.h"
#include "hawser/image.h"

#define USUAL_EXIT_CODES "0 done; 1 failed; 2 the command line is wrong."
#define WRAP_COLUMNS     78

/* Prints @text wrapped, each line indented by @indent; the cursor is at column @column. */
static void print_wrapped(FILE *out, const char *text, unsigned indent, unsigned column)
{
    bool blank = false; /* a blank is due before the next word */
    while (*text) {
        unsigned word = (unsigned)strcspn(text, " \n");
        if (word) {
            bool fits = column + blank + word <= WRAP_COLUMNS || column <= indent;
            if (!fits)
                fprintf(out, "\n%*s", (int)indent, "");
            else if (blank)
                fputc(' ', out);
            fwrite(text, 1, word, out);
            column = fits ? column + blank + word : indent + word;
        } else if (*text == '\n') {
            fprintf(out, "\n%*s", text[1] == '\n' ? 0 : (int)indent, "");
            column = indent;
        }
        blank = *(text + word) == ' ';
        text += word ? word + blank : 1;
    }
    fputc('\n', out);
}

static void print_heading(FILE *out, const char *text)
{
    bool coloured = out_colour(out);
    fprintf(out, "\n%s%s%s\n", coloured ? "\033[1m" : "", text, coloured ? "\033[0m" : "");
}

static void print_entry(FILE *out, const char *left, const char *help)
{
    int width = fprintf(out, "  %s", left);
    if (width >= 28) {
        fprintf(out, "\n%*s", 30, "");
        width = 30;
    } else {
        width += fprintf(out, "%*s", 30 - width, "");
    }
    print_wrapped(out, help, 30, (unsigned)width);
}

static void print_option(FILE *out, const struct cli_option *option)
{
    char left[96], help[512];
    int used = option->letter ? snprintf(left, sizeof(left), "-%c, ", option->letter)
                              : snprintf(left, sizeof(left), "    ");
    snprintf(left + used, sizeof(left) - (size_t)used, "--%s%s%s", option->name,
             cli_takes_value(option) ? "=" : "", cli_takes_value(option) ? option->value : "");
    size_t length = (size_t)snprintf(help, sizeof(help), "%s", option->help);
    if (option->choices && option->choices != cli_output_choices) {
        for (unsigned i = 0; option->choices[i] && length < sizeof(help); i++)
            length += (size_t)snprintf(help + length, sizeof(help) - length, "%s%s",
                                       i ? ", " : ": ", option->choices[i]);
    }
    print_entry(out, left, help);
}

static void print_overview(FILE *out)
{
    fprintf(out, "Hawser ties any disk image to any container, virtual machine or host.\n\n"
                 "usage: hawser COMMAND [OPTION...] [OPERAND...]\n");
    print_heading(out, "Commands");
    for (const struct cli_command *const *at = cli_commands; *at; at++)
        if (!(*at)->hidden)
            print_entry(out, (*at)->name, (*at)->summary);
    print_heading(out, "Examples");
    fprintf(out,
            "  hawser create disk.qcow2 10G\n"
            "  hawser attach disk.qcow2 --mount /mnt/disk --mkfs ext4\n"
            "  hawser detach disk\n\n"
            "'hawser help COMMAND' tells more of each; 'hawser help formats' of image formats.\n");
}

void cli_help(const struct cli_command *command, FILE *out)
{
    if (!command) {
        print_overview(out);
        return;
    }
    fprintf(out, "hawser %s: %s\n\n", command->name, command->summary);
    const char *form = command->synopsis;
    for (bool first = true; *form; first = false) {
        size_t length = strcspn(form, "\n");
        fprintf(out, "%s hawser %s %.*s\n", first ? "usage:" : "      ", command->name, (int)length,
                form);
        form += length + (form[length] == '\n');
    }
    fputc('\n', out);
    print_wrapped(out, command->description, 0, 0);
    if (command->operands[0].name)
        print_heading(out, "Operands");
    for (const struct cli_operand *o = command->operands; o->name; o++)
        print_entry(out, o->name, o->help);
    print_heading(out, "Options");
    for (const struct cli_option *o = command->options; o && o->name; o++)
        if (!o->hidden)
            print_option(out, o);
    print_entry(out, "-h, --help", "this text");
    print_heading(out, "Exit codes");
    fprintf(out, "  ");
    print_wrapped(out, command->exit_codes ? command->exit_codes : USUAL_EXIT_CODES, 2, 2);
    if (command->examples[0].command)
        print_heading(out, "Examples");
    for (const struct cli_example *e = command->examples; e->command; e++)
        fprintf(out, "  # %s\n  %s\n", e->what, e->command);
}

/* ---- hawser help ---- */

struct help_options {
    bool dump;
};

static json_t *dump_option(const struct cli_option *option)
{
    static const char *const completions[] = {"none",   "file",       "folder",
                                              "format", "attachment", "command"};
    char letter[2] = {option->letter, 0};
    json_t *entry = json_pack("{s:s, s:s, s:b, s:s, s:s, s:b}", "name", option->name, "letter",
                              letter, "flag", !cli_takes_value(option), "help", option->help,
                              "completes", completions[option->completes], "list",
                              option->kind == CLI_LIST || option->kind == CLI_STEP);
    if (option->value)
        json_object_set_new(entry, "value", json_string(option->value));
    json_t *choices = json_array();
    for (const char *const *c = option->choices; c && *c; c++)
        json_array_append_new(choices, json_string(*c));
    json_object_set_new(entry, "choices", choices);
    return entry;
}

static json_t *dump_command(const struct cli_command *command)
{
    static const char *const completions[] = {"none",   "file",       "folder",
                                              "format", "attachment", "command"};
    json_t *options = json_array(), *operands = json_array(), *examples = json_array();
    for (const struct cli_option *o = command->options; o && o->name; o++)
        if (!o->hidden)
            json_array_append_new(options, dump_option(o));
    for (const struct cli_operand *o = command->operands; o->name; o++)
        json_array_append_new(operands, json_pack("{s:s, s:s, s:s}", "name", o->name, "help",
                                                  o->help, "completes", completions[o->completes]));
    for (const struct cli_example *e = command->examples; e->command; e++)
        json_array_append_new(examples,
                              json_pack("{s:s, s:s}", "what", e->what, "command", e->command));
    return json_pack("{s:s, s:s, s:s, s:s, s:s, s:o, s:o, s:o}", "name", command->name, "summary",
                     command->summary, "synopsis", command->synopsis, "description",
                     command->description, "exit-codes",
                     command->exit_codes ? command->exit_codes : USUAL_EXIT_CODES, "options",
                     options, "operands", operands, "examples", examples);
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
        print_entry(stdout, left, help);
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
        print_heading(stdout, text_of(driver, "name"));
        printf("  %s\n", text_of(driver, "help"));
        print_driver_options(json_object_get(driver, "create-options"));
        if (json_object_get(driver, "amend-options"))
            printf("  `hawser amend -o` takes:\n");
        print_driver_options(json_object_get(driver, "amend-options"));
    }
    print_heading(stdout, "Protocols and filters");
    json_array_foreach(drivers, i, driver) if (strcmp(text_of(driver, "kind"), "format"))
        print_entry(stdout, text_of(driver, "name"), text_of(driver, "help"));
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
