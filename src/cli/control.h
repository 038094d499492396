/*
 * The commands that are clients of hawserd: one call, and its answer as a table, as fields, or as
 * JSON.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef CLI_CONTROL_H
#define CLI_CONTROL_H

#include "cli/command.h"
#include "cli/output.h"
#include <jansson.h>

/** What every such command takes; the first member of its options. */
struct control_command {
    const char *socket;
    int output;
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

enum control_kind { CONTROL_TEXT, CONTROL_SIZE, CONTROL_NUMBER, CONTROL_FLAG };

struct control_column {
    const char *title, *member; /* "attachment.device": of an object within; NULL ends a table */
    enum control_kind kind;
};

/**
 * Calls @method on the path that @format makes, whose %s are names (escaped). @body taken over, may
 * be NULL. @ret a new reference, NULL where the answer is empty.
 */
HWS_MUST_CHECK int control_call(const struct control_command *command, const char *method,
                                json_t *body, json_t **ret, struct hws_error *err,
                                const char *format, ...) HWS_PRINTF(6, 7);

/** All pages of a list. @ret a new array. */
HWS_MUST_CHECK int control_list(const struct control_command *command, const char *path,
                                json_t **ret, struct hws_error *err);

/** Prints @items as a table, or as JSON. Takes over the reference. */
void control_print_list(const struct control_command *command, json_t *items,
                        const struct control_column *columns);
/** Prints @item as fields, or as JSON. Takes over the reference. */
void control_print_one(const struct control_command *command, json_t *item,
                       const struct control_column *columns);

/** Sets a member where there is a value. */
void control_set_text(json_t *body, const char *name, const char *text);
void control_set_size(json_t *body, const char *name, uint64_t bytes); /* UINT64_MAX: none */

/** "NAME=VALUE" texts as "labels". */
HWS_MUST_CHECK int control_set_labels(json_t *body, const struct cli_list *labels,
                                      struct hws_error *err);

/** One action of a command: what follows "hawser COMMAND ACTION". */
struct control_action {
    const char *name;  /* NULL ends a table */
    unsigned operands; /* beside the action itself */
    const char *usage; /* "NAME SIZE" */
    int (*run)(const void *options, char **operands, struct hws_error *err);
};

/** Finds and runs the action that operands[0] names. @return an exit code. */
int control_run_action(const char *command, const struct control_action *actions,
                       const void *options, char **operands, unsigned count);

#endif
