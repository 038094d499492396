/*
 * `hawser class`: policies that volumes are made by, by way of hawserd.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cli/policy.h"

struct class_options {
    struct control_command control;
    struct control_policy policy;
};

static const struct control_column columns[] = {
    {"NAME", "name"},
    {"FORMAT", "format"},
    {"FS", "fs"},
    {"SIZE", "size", CONTROL_LIMIT},
    {"CLUSTER SIZE", "cluster-size", CONTROL_LIMIT},
    {"LABELS", "labels", CONTROL_LABELS},
    {NULL},
};

static const struct control_column fields[] = {
    {"name", "name"}, {"id", "id"}, {"size", "size", CONTROL_LIMIT}, CONTROL_POLICY_FIELDS, {NULL},
};

static const struct cli_verb verbs[] = {
    {"list", "", "show the classes", "GET", "/v1/classes", NULL, columns, true},
    {"show", "CLASS", "show all of one", "GET", "/v1/classes/%", NULL, fields},
    {"create", "NAME", "make a class", "POST", "/v1/classes", "name", fields},
    {"set", "CLASS", "change what the options say, for volumes made from then on", "PATCH",
     "/v1/classes/%", NULL, fields},
    {"rename", "CLASS NAME", "give it another name", "PATCH", "/v1/classes/%", "name"},
    {"delete", "CLASS...", "forget classes; volumes keep what they were made with", "DELETE",
     "/v1/classes/%"},
    {NULL},
};

static const struct cli_option table[] = {
    CLI_POLICY_OPTIONS(struct class_options, "create set", "create set"),
    CLI_WATCH_OPTION(struct class_options, "list show"),
    CLI_CONTROL_OPTIONS(struct class_options),
    {NULL},
};

const struct cli_command cli_class_command = {
    .name = "class",
    .summary = "Manage classes: policies that volumes are made by",
    .description =
        "A class says what volumes get that are made by it and ask for nothing else: format, file "
        "system, size. A change of the class changes no volume.",
    .examples = {{"a class for databases", "hawser class create --fs=xfs --size=100G database"},
                 {"a volume of it", "hawser volume create --class=database db"}},
    .options = table,
    .options_bytes = sizeof(struct class_options),
    .verbs = verbs,
};
