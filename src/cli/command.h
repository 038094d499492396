/*
 * What a subcommand is: one table that yields its parser, its --help, its manual page and its shell
 * completion. Every src/cli/cmd_*.c ends in one of these; src/cli/main.c lists them.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef CLI_COMMAND_H
#define CLI_COMMAND_H

#include "base/common.h"
#include "hawser/error.h"

enum cli_exit {
    CLI_OK = 0,
    CLI_FAILED = 1,
    CLI_USAGE = 2,
    CLI_CORRUPT = 2, /* of `check`, whose usage errors are CLI_FAILED */
    CLI_LEAKS = 3,
};

enum cli_kind {
    CLI_FLAG,   /* bool */
    CLI_TEXT,   /* const char * */
    CLI_CHOICE, /* int: the index into choices, -1 when not given */
    CLI_SIZE,   /* uint64_t, human sizes; UINT64_MAX when not given */
    CLI_UINT,   /* uint64_t; 0 when not given */
    CLI_LIST,   /* struct cli_list: may be given many times */
    CLI_STEP,   /* struct cli_list that several options share: the option's name, then, where it
                   takes one (`value`), its value; so the list has them in their order */
};

/* What completes a value or an operand. */
enum cli_completes {
    CLI_COMPLETE_NONE,
    CLI_COMPLETE_FILE,
    CLI_COMPLETE_FOLDER,
    CLI_COMPLETE_FORMAT,
    CLI_COMPLETE_ATTACHMENT,
    CLI_COMPLETE_COMMAND
};

#define CLI_LIST_MAX 64

struct cli_list {
    unsigned count;
    const char *item[CLI_LIST_MAX + 1]; /* NULL-terminated */
};

struct cli_option {
    const char *name; /* long, without dashes; NULL ends a table */
    char letter;      /* 0: none */
    enum cli_kind kind;
    size_t offset;     /* of the field in the options struct */
    const char *value; /* what its value is called, "SIZE" */
    const char *help;
    const char *const *choices;
    enum cli_completes completes;
    bool hidden; /* for this program's own use: in no help */
};

/** Does it take a value? */
static inline bool cli_takes_value(const struct cli_option *option)
{
    return option->kind != CLI_FLAG && (option->kind != CLI_STEP || option->value);
}

struct cli_operand {
    const char *name; /* "IMAGE"; NULL ends the list */
    const char *help;
    enum cli_completes completes;
};

struct cli_example {
    const char *what, *command;
};

#define CLI_OPERANDS_MAX 4
#define CLI_EXAMPLES_MAX 6

struct cli_command {
    const char *name;
    const char *summary;     /* one line, no full stop */
    const char *synopsis;    /* what follows "hawser NAME"; several lines are several forms */
    const char *description; /* paragraphs, parted by an empty line */
    const char *exit_codes;  /* NULL: the usual ones */
    struct cli_operand operands[CLI_OPERANDS_MAX + 1];
    struct cli_example examples[CLI_EXAMPLES_MAX + 1];
    const struct cli_option *options; /* NULL: none */
    size_t options_bytes;
    unsigned operands_min, operands_max;
    int usage_exit; /* 0: CLI_USAGE */
    bool hidden;
    /** @options the parsed struct. @return an exit code; messages are written already. */
    int (*run)(const void *options, char **operands, unsigned count);
};

/** "--output=human|json", for the tables of commands that print. */
extern const char *const cli_output_choices[];
#define CLI_OUTPUT_OPTION(type)                                                                 \
    {                                                                                           \
        "output", 0, CLI_CHOICE, offsetof(type, output), "FORMAT",                              \
            "human (the default) or json, for programs", cli_output_choices, CLI_COMPLETE_NONE, \
            false                                                                               \
    }
#define CLI_JSON 1

/** NULL-terminated. */
extern const struct cli_command *const cli_commands[];
const struct cli_command *cli_command_find(const char *name);

/**
 * Parses @arguments (not the command's name) into @options and moves the operands to the front of
 * @arguments. @return the number of operands, or -1 with the message in @err. -2: --help was asked.
 */
int cli_parse(const struct cli_command *command, char **arguments, unsigned count, void *options,
              struct hws_error *err);

/** The nearest of @known (NULL-terminated) to @word, or NULL when none is near. */
const char *cli_nearest(const char *word, const char *const *known);

/** Prints the help of @command, or the overview where it is NULL. */
void cli_help(const struct cli_command *command, FILE *out);

#endif
