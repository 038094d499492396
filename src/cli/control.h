/*
 * The commands that are clients of hawserd. Each of their verbs is a row (struct cli_verb) that
 * tells the call of the REST API, what its operands and options become, and how the answer is shown
 * (control_verb.c). What a row cannot say is code of its own, by what is below.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef CLI_CONTROL_H
#define CLI_CONTROL_H

#include "cli/command.h"
#include "cli/output.h"

/** What every such command takes; the first member of its options. */
struct control_command {
    const char *socket;
    int output;
    bool watch;
};

#define CLI_CONTROL_OPTIONS(type)                                                               \
    {"socket", 0,                                                                               \
     CLI_TEXT, offsetof(type, control.socket),                                                  \
     "PATH",   "where hawserd listens ($HAWSERD_SOCKET; /run/hawser/hawserd.sock)",             \
     NULL,     CLI_COMPLETE_FILE},                                                              \
    {                                                                                           \
        "output", 0, CLI_CHOICE, offsetof(type, control.output), "FORMAT",                      \
            "human (the default) or json, for programs", cli_output_choices, CLI_COMPLETE_NONE, \
            false                                                                               \
    }
#define CLI_WATCH_OPTION(type, those)                                                              \
    {                                                                                              \
        "watch", 'w', CLI_FLAG, offsetof(type, control.watch), NULL,                               \
            "show it again whenever it has changed, until Ctrl-C; with --output=json a line each", \
            .verbs = (those)                                                                       \
    }
#define CLI_LABEL_OPTION(type, field, those)                                     \
    {                                                                            \
        "label", 0, CLI_LIST, offsetof(type, field), "NAME=VALUE",               \
            "a text of your own (may be repeated; with 'set' these become all)", \
            .verbs = (those), .member = CONTROL_LABEL                            \
    }
#define CLI_NO_LABELS_OPTION(type, field, those)                                       \
    {                                                                                  \
        "no-labels", 0, CLI_FLAG, offsetof(type, field), NULL, "take its labels away", \
            .verbs = (those), .member = CONTROL_LABEL "={}"                            \
    }
#define CONTROL_LABEL "labels"

enum control_kind {
    CONTROL_TEXT,
    CONTROL_SIZE,    /* of bytes */
    CONTROL_LIMIT,   /* the same; 0 says nothing */
    CONTROL_PERCENT, /* 0 says nothing */
    CONTROL_NUMBER,  /* as it is */
    CONTROL_FLAG,
    CONTROL_TIME,    /* seconds since 1970 */
    CONTROL_SECONDS, /* how long; 0 says nothing */
    CONTROL_LIST,    /* of texts, with commas */
    CONTROL_LABELS,  /* NAME=VALUE */
    CONTROL_REF,     /* the id of another object, whose name is shown */
};

struct control_column {
    const char *title, *member; /* "attachment.device": of an object within; NULL ends a table */
    enum control_kind kind;
    const char *ref; /* CONTROL_REF: "/v1/pools/" */
};

/** One use of a verb. */
struct control_run {
    const struct cli_command *command;
    const struct cli_verb *verb;
    const struct control_command *control; /* all options of the command: it is their first */
    char **operands;                       /* NULL-terminated; without the verb */
    unsigned count;
};

/** Runs the verb that operands[0] names; all is checked by cli_parse(). @return an exit code. */
int control_run_verb(const struct cli_command *command, const void *options, char **operands,
                     unsigned count);

/** Asks as the row says and shows the answer. @ret NULL, or where to leave it instead. */
HWS_MUST_CHECK int control_request(const struct control_run *run, json_t **ret,
                                   struct hws_error *err);

/**
 * Calls @method on the path that @format makes, whose %s are names (escaped). @body taken over, may
 * be NULL. @ret a new reference, NULL where the answer is empty. -ENOENT where hawserd knows no
 * such object; -EIO for all else that it refuses.
 */
HWS_MUST_CHECK int control_call(const struct control_command *command, const char *method,
                                json_t *body, json_t **ret, struct hws_error *err,
                                const char *format, ...) HWS_PRINTF(6, 7);

/** The same of a path that is whole. */
HWS_MUST_CHECK int control_ask(const struct control_command *command, const char *method,
                               const char *path, json_t *body, json_t **ret, struct hws_error *err);

/** All pages of a list, whose path may have a query. @ret a new array. */
HWS_MUST_CHECK int control_list(const struct control_command *command, const char *path,
                                json_t **ret, struct hws_error *err);

#define CONTROL_PATH_BYTES 4096
/** Appends @text to a path of CONTROL_PATH_BYTES, with all that has a meaning there as %XX. */
bool control_escape(char *path, size_t *used, const char *text);

/** @path as hawserd sees it, which has another working folder. @buffer of PATH_MAX bytes. */
HWS_MUST_CHECK int control_absolute(const char *path, char *buffer, struct hws_error *err);

/** Prints @items as a table, or as JSON. Takes over the reference. */
void control_print_list(const struct control_command *command, json_t *items,
                        const struct control_column *columns);
/** Prints @item as fields, without those that say nothing, or as JSON. Takes over the reference. */
void control_print_one(const struct control_command *command, json_t *item,
                       const struct control_column *columns);

/**
 * Waits until something happens behind the event @after, which is moved on, but no longer than
 * @seconds; 0 there finds the last and waits for nothing.
 */
HWS_MUST_CHECK int control_await(const struct control_command *command, uint64_t *after,
                                 unsigned seconds, struct hws_error *err);

/**
 * Waits for the job, and shows how far it is, as @what ("importing"). Fails where it failed or was
 * cancelled.
 */
HWS_MUST_CHECK int control_wait(const struct control_command *command, const char *job,
                                const char *what, bool quiet, struct hws_error *err);

#endif
