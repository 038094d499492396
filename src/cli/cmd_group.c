/*
 * `hawser group`: volumes whose snapshots are taken together, by way of hawserd.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cli/control.h"

struct group_options {
    struct control_command control;
    struct cli_list volumes, labels;
    bool no_labels;
};

static const struct control_column columns[] = {
    {"NAME", "name"},
    {"VOLUMES", "members", CONTROL_LIST},
    {"SNAPSHOTS", "snapshots", CONTROL_NUMBER},
    {"LABELS", "labels", CONTROL_LABELS},
    {NULL},
};

static const struct control_column fields[] = {
    {"name", "name"},
    {"id", "id"},
    {"volumes", "members", CONTROL_LIST},
    {"snapshots", "snapshots", CONTROL_NUMBER},
    {"labels", "labels", CONTROL_LABELS},
    {"created", "created", CONTROL_TIME},
    {NULL},
};

static const struct control_column snapshot_columns[] = {
    {"GROUP", "group", CONTROL_REF, "/v1/groups/"},
    {"NAME", "name"},
    {"STATE", "state"},
    {"VOLUMES", "volumes", CONTROL_NUMBER},
    {"CREATED", "created", CONTROL_TIME},
    {"SCHEDULE", "schedule", CONTROL_REF, "/v1/schedules/"},
    {NULL},
};

static const struct control_column snapshot_fields[] = {
    {"name", "name"},
    {"id", "id"},
    {"group", "group", CONTROL_REF, "/v1/groups/"},
    {"state", "state"},
    {"volumes", "volumes", CONTROL_NUMBER},
    {"schedule", "schedule", CONTROL_REF, "/v1/schedules/"},
    {"labels", "labels", CONTROL_LABELS},
    {"created", "created", CONTROL_TIME},
    {NULL},
};

static const struct cli_verb verbs[] = {
    {"list", "", "show the groups", "GET", "/v1/groups", NULL, columns, true},
    {"show", "GROUP", "show all of one", "GET", "/v1/groups/%", NULL, fields},
    {"create", "NAME VOLUME...", "make a group of volumes", "POST", "/v1/groups", "name volumes[]",
     fields},
    {"set", "GROUP", "change its volumes or its labels", "PATCH", "/v1/groups/%", NULL, fields},
    {"rename", "GROUP NAME", "give it another name", "PATCH", "/v1/groups/%", "name"},
    {"delete", "GROUP...", "forget groups that have no snapshots; their volumes stay", "DELETE",
     "/v1/groups/%"},
    {"snapshot", "GROUP@NAME", "take a snapshot of all its volumes at one moment", "POST",
     "/v1/groups/%/snapshots", "name", snapshot_fields},
    {"snapshots", "GROUP", "show its snapshots", "GET", "/v1/groups/%/snapshots", NULL,
     snapshot_columns, true},
    {"show-snapshot", "GROUP@SNAPSHOT", "show all of one", "GET", "/v1/groups/%/snapshots/%", NULL,
     snapshot_fields},
    {"delete-snapshot", "GROUP@SNAPSHOT...", "delete a snapshot of all volumes", "DELETE",
     "/v1/groups/%/snapshots/%"},
    {"revert", "GROUP@SNAPSHOT",
     "make all volumes what they were then; what was written since is given up", "POST",
     "/v1/groups/%/revert", "snapshot"},
    {NULL},
};

static const struct cli_option table[] = {
    {"volume", 0, CLI_LIST, offsetof(struct group_options, volumes), "VOLUME",
     "these become all of its volumes (may be repeated)", .completes = CLI_COMPLETE_VOLUME,
     .verbs = "set", .member = "volumes"},
    CLI_LABEL_OPTION(struct group_options, labels, "create set snapshot"),
    CLI_NO_LABELS_OPTION(struct group_options, no_labels, "set"),
    CLI_WATCH_OPTION(struct group_options, "list show snapshots"),
    CLI_CONTROL_OPTIONS(struct group_options),
    {NULL},
};

const struct cli_command cli_group_command = {
    .name = "group",
    .summary = "Manage groups: volumes whose snapshots are taken together",
    .description =
        "A group names volumes that belong together, such as a database's data and its log. A "
        "snapshot of the group is one of each volume, all of the same moment, or of none. It is "
        "deleted as a whole, and going back to it needs all of the volumes detached.",
    .examples = {{"two volumes of a database", "hawser group create db data log"},
                 {"both, of one moment", "hawser group snapshot db@monday"},
                 {"back to that", "hawser group revert db@monday"}},
    .options = table,
    .options_bytes = sizeof(struct group_options),
    .verbs = verbs,
};
