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
#include <jansson.h>

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
    CLI_NUMBER, /* uint64_t; UINT64_MAX when not given */
    CLI_TIME, /* uint64_t, seconds from "90", "10m", "12h", "7d", "2w"; UINT64_MAX when not given */
    CLI_LIST, /* struct cli_list: may be given many times */
    CLI_STEP, /* struct cli_list that several options share: the option's name, then, where it
                 takes one (`value`), its value; so the list has them in their order */
};

/* What completes a value or an operand. */
enum cli_completes {
    CLI_COMPLETE_NONE,
    CLI_COMPLETE_FILE,
    CLI_COMPLETE_FOLDER,
    CLI_COMPLETE_FORMAT,
    CLI_COMPLETE_ATTACHMENT,
    CLI_COMPLETE_COMMAND,
    CLI_COMPLETE_POOL, /* from here on, objects of hawserd */
    CLI_COMPLETE_CLASS,
    CLI_COMPLETE_VOLUME,
    CLI_COMPLETE_SNAPSHOT,
    CLI_COMPLETE_JOB,
    CLI_COMPLETE_SECRET,
    CLI_COMPLETE_EXPORT,
    CLI_COMPLETE_GROUP,
    CLI_COMPLETE_GROUP_SNAPSHOT,
    CLI_COMPLETE_SCHEDULE,
    CLI_COMPLETE_TRASH,
};

/** "pool", "file": by enum cli_completes. */
extern const char *const cli_completion_names[];

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
    bool hidden;        /* for this program's own use: in no help */
    const char *verbs;  /* those that it goes with, "create import"; NULL: all */
    const char *member; /* of the request to hawserd; "?NAME" of its query; NULL: none */
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

struct control_column;
struct control_run;

/** What follows "hawser COMMAND" where that is a client of hawserd: one call of the REST API. */
struct cli_verb {
    const char *name;     /* NULL ends a table */
    const char *operands; /* "VOLUME SIZE", "[VOLUME]", "VOLUME..."; "A@B" is two values */
    const char *help;
    const char *method, *path; /* "/v1/volumes/%/resize": each % is the next operand */
    /** Members of the body from the operands that are left, "name path/ size# volumes[]" (a path
     * made absolute, a size, all that are left), and constants: "protected=true". */
    const char *body;
    const struct control_column *columns; /* of the answer; NULL: it is not shown */
    bool list;                            /* the answer is one, of pages */
    /** Adds to the body what options and operands do not say by themselves; may be NULL. */
    int (*fill)(const struct control_run *run, json_t *body, struct hws_error *err);
    /** Does it all instead; may be NULL. */
    int (*run)(const struct control_run *run, struct hws_error *err);
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
    const struct cli_verb *verbs; /* NULL: none; else @run is NULL: control_run_verb() */
    /** Takes over where the first word is one of its verbs; NULL: none does. */
    const struct cli_command *managed;
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

/** NULL where @command has no such verb. */
const struct cli_verb *cli_verb_find(const struct cli_command *command, const char *name);

/** How many operands a verb takes; @ret_max UINT_MAX where any number. */
void cli_verb_operands(const struct cli_verb *verb, unsigned *ret_min, unsigned *ret_max);

/** Whether @word is one of @words, which blanks part. @words NULL: all are. */
bool cli_is_among(const char *word, const char *words);

/** The nearest of @known (NULL-terminated) to @word, or NULL when none is near. */
const char *cli_nearest(const char *word, const char *const *known);

/** Prints the help of @command, or the overview where it is NULL. */
void cli_help(const struct cli_command *command, FILE *out);
/** Of one of its verbs. */
void cli_help_verb(const struct cli_command *command, const struct cli_verb *verb, FILE *out);

/** What help is made of: a section's title, and a wrapped text beside what it is about. */
void cli_help_heading(FILE *out, const char *text);
void cli_help_entry(FILE *out, const char *left, const char *help);

#define CLI_USUAL_EXIT_CODES "0 done; 1 failed; 2 the command line is wrong."
#define CLI_VERB_SYNOPSIS    "ACTION [OPTION...] [OPERAND...]"

#endif
