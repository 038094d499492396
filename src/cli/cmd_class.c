/*
 * `hawser class`: policies that volumes are made by, by way of hawserd.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cli/control.h"

struct class_options {
    struct control_command control;
    uint64_t size, cluster_size;
    const char *format, *fs;
    struct cli_list labels;
};

static const struct control_column columns[] = {
    {"NAME", "name"},
    {"FORMAT", "format"},
    {"FS", "fs"},
    {"SIZE", "size", CONTROL_SIZE},
    {"CLUSTER SIZE", "cluster-size", CONTROL_SIZE},
    {"LABELS", "labels", CONTROL_LABELS},
    {NULL},
};

static const struct control_column fields[] = {
    {"name", "name"},
    {"id", "id"},
    {"format", "format"},
    {"file system", "fs"},
    {"size", "size", CONTROL_SIZE},
    {"cluster size", "cluster-size", CONTROL_SIZE},
    {"labels", "labels", CONTROL_LABELS},
    {"created", "created", CONTROL_TIME},
    {NULL},
};

static const struct cli_verb verbs[] = {
    {"list", "", "show the classes", "GET", "/v1/classes", NULL, columns, true},
    {"show", "CLASS", "show all of one", "GET", "/v1/classes/%", NULL, fields},
    {"create", "NAME", "make a class", "POST", "/v1/classes", "name", fields},
    {"delete", "CLASS...", "forget classes; volumes keep what they were made with", "DELETE",
     "/v1/classes/%"},
    {NULL},
};

#define OPTION(field) offsetof(struct class_options, field)

static const struct cli_option table[] = {
    {"size", 's', CLI_SIZE, OPTION(size), "SIZE", "of volumes that ask for none (10G if not given)",
     .verbs = "create", .member = "size"},
    {"format", 'f', CLI_TEXT, OPTION(format), "FMT", "of new images: qcow2 (the default) or raw",
     .completes = CLI_COMPLETE_FORMAT, .verbs = "create", .member = "format"},
    {"fs", 0, CLI_TEXT, OPTION(fs), "TYPE", "file system: ext4 (the default), xfs, btrfs or none",
     .verbs = "create", .member = "fs"},
    {"cluster-size", 0, CLI_SIZE, OPTION(cluster_size), "SIZE",
     "clusters of new images (the format's own if not given)", .verbs = "create",
     .member = "cluster-size"},
    CLI_LABEL_OPTION(struct class_options, "create"),
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
