/*
 * Help, from the commands' tables: the overview, and the text of a command and of one of its verbs.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cli/command.h"
#include "cli/output.h"

#define WRAP_COLUMNS 78

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

void cli_help_heading(FILE *out, const char *text)
{
    bool coloured = out_colour(out);
    fprintf(out, "\n%s%s%s\n", coloured ? "\033[1m" : "", text, coloured ? "\033[0m" : "");
}

void cli_help_entry(FILE *out, const char *left, const char *help)
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

/* "create import" as "create, import: ". @return its length. */
static size_t copy_words(char *buffer, size_t bytes, const char *words)
{
    size_t used = 0;
    for (; *words && used + 4 < bytes; words++) {
        if (*words == ' ')
            buffer[used++] = ',';
        buffer[used++] = *words;
    }
    buffer[used++] = ':';
    buffer[used++] = ' ';
    buffer[used] = '\0';
    return used;
}

/* @verbs: say which it goes with. */
static void print_option(FILE *out, const struct cli_option *option, bool verbs)
{
    char left[96], help[512];
    int used = option->letter ? snprintf(left, sizeof(left), "-%c, ", option->letter)
                              : snprintf(left, sizeof(left), "    ");
    snprintf(left + used, sizeof(left) - (size_t)used, "--%s%s%s", option->name,
             cli_takes_value(option) ? "=" : "", cli_takes_value(option) ? option->value : "");
    size_t length = verbs && option->verbs ? copy_words(help, sizeof(help), option->verbs) : 0;
    length += (size_t)snprintf(help + length, sizeof(help) - length, "%s", option->help);
    if (option->choices && option->choices != cli_output_choices) {
        for (unsigned i = 0; option->choices[i] && length < sizeof(help); i++)
            length += (size_t)snprintf(help + length, sizeof(help) - length, "%s%s",
                                       i ? ", " : ": ", option->choices[i]);
    }
    cli_help_entry(out, left, help);
}

static void print_overview(FILE *out)
{
    fprintf(out, "Hawser ties any disk image to any container, virtual machine or host.\n\n"
                 "usage: hawser COMMAND [OPTION...] [OPERAND...]\n");
    cli_help_heading(out, "Commands");
    for (const struct cli_command *const *at = cli_commands; *at; at++)
        if (!(*at)->hidden)
            cli_help_entry(out, (*at)->name, (*at)->summary);
    cli_help_heading(out, "Examples");
    fprintf(out,
            "  hawser create disk.qcow2 10G\n"
            "  hawser attach disk.qcow2 --mount /mnt/disk --mkfs ext4\n"
            "  hawser detach disk\n\n"
            "'hawser help COMMAND' tells more of each; 'hawser help formats' of image formats.\n");
}

static void print_usage(FILE *out, const struct cli_command *command)
{
    const char *form = command->verbs ? CLI_VERB_SYNOPSIS : command->synopsis;
    for (bool first = true; *form; first = false) {
        size_t length = strcspn(form, "\n");
        fprintf(out, "%s hawser %s %.*s\n", first ? "usage:" : "      ", command->name, (int)length,
                form);
        form += length + (form[length] == '\n');
    }
}

static void print_verbs(FILE *out, const struct cli_command *command)
{
    cli_help_heading(out, "Actions");
    for (const struct cli_verb *verb = command->verbs; verb->name; verb++) {
        char left[96];
        snprintf(left, sizeof(left), "%s%s%s", verb->name, *verb->operands ? " " : "",
                 verb->operands);
        cli_help_entry(out, left, verb->help);
    }
}

static void print_options(FILE *out, const struct cli_command *command, const char *verb)
{
    cli_help_heading(out, "Options");
    for (const struct cli_option *o = command->options; o && o->name; o++)
        if (!o->hidden && (!verb || cli_is_among(verb, o->verbs)))
            print_option(out, o, !verb);
    cli_help_entry(out, "-h, --help", "this text");
}

static void print_examples(FILE *out, const struct cli_command *command)
{
    if (command->examples[0].command)
        cli_help_heading(out, "Examples");
    for (const struct cli_example *e = command->examples; e->command; e++)
        fprintf(out, "  # %s\n  %s\n", e->what, e->command);
}

/* Of images alone, and below that, of what hawserd keeps. */
static void print_managed(FILE *out, const struct cli_command *command)
{
    fputc('\n', out);
    print_usage(out, command);
    fputc('\n', out);
    print_wrapped(out, command->description, 0, 0);
    print_verbs(out, command);
    print_options(out, command, NULL);
    print_examples(out, command);
}

void cli_help(const struct cli_command *command, FILE *out)
{
    if (!command) {
        print_overview(out);
        return;
    }
    fprintf(out, "hawser %s: %s\n\n", command->name, command->summary);
    print_usage(out, command);
    fputc('\n', out);
    print_wrapped(out, command->description, 0, 0);
    if (command->verbs)
        print_verbs(out, command);
    if (command->operands[0].name)
        cli_help_heading(out, "Operands");
    for (const struct cli_operand *o = command->operands; o->name; o++)
        cli_help_entry(out, o->name, o->help);
    print_options(out, command, NULL);
    cli_help_heading(out, "Exit codes");
    fprintf(out, "  ");
    print_wrapped(out, command->exit_codes ? command->exit_codes : CLI_USUAL_EXIT_CODES, 2, 2);
    print_examples(out, command);
    if (command->managed)
        print_managed(out, command->managed);
}

void cli_help_verb(const struct cli_command *command, const struct cli_verb *verb, FILE *out)
{
    fprintf(out, "usage: hawser %s %s%s%s [OPTION...]\n\n", command->name, verb->name,
            *verb->operands ? " " : "", verb->operands);
    print_wrapped(out, verb->help, 0, 0);
    print_options(out, command, verb->name);
    fprintf(out, "\n'hawser %s --help' tells more.\n", command->name);
}
