/*
 * `hawser pool`: folders of images, by way of hawserd.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cli/control.h"

struct pool_options {
    struct control_command control;
    uint64_t capacity, quota, overcommit, trash;
    struct cli_list roots, labels;
    bool no_labels, shared, no_shared, force;
};

static const struct control_column columns[] = {
    {"NAME", "name"},
    {"STATE", "state"},
    {"VOLUMES", "volumes", CONTROL_NUMBER},
    {"PROVISIONED", "provisioned", CONTROL_SIZE},
    {"FREE", "free", CONTROL_SIZE},
    {"PATH", "path"},
    {NULL},
};

static const struct control_column fields[] = {
    {"name", "name"},
    {"id", "id"},
    {"state", "state"},
    {"lease", "lease"},
    {"path", "path"},
    {"volumes", "volumes", CONTROL_NUMBER},
    {"provisioned", "provisioned", CONTROL_SIZE},
    {"capacity", "capacity", CONTROL_LIMIT},
    {"free", "free", CONTROL_SIZE},
    {"quota", "quota", CONTROL_LIMIT},
    {"overcommit", "overcommit-percent", CONTROL_PERCENT},
    {"image roots", "image-roots", CONTROL_LIST},
    {"trash retention", "trash-retention", CONTROL_SECONDS},
    {"labels", "labels", CONTROL_LABELS},
    {"created", "created", CONTROL_TIME},
    {NULL},
};

static const struct cli_verb verbs[] = {
    {"list", "", "show the pools", "GET", "/v1/pools", NULL, columns, true},
    {"show", "POOL", "show all of one", "GET", "/v1/pools/%", NULL, fields},
    {"create", "NAME FOLDER", "make a pool of a folder", "POST", "/v1/pools", "name path/", fields},
    {"set", "POOL", "change what the options say", "PATCH", "/v1/pools/%", NULL, fields},
    {"rename", "POOL NAME", "give it another name", "PATCH", "/v1/pools/%", "name"},
    {"take", "POOL", "use a shared pool that another host has used", "POST", "/v1/pools/%/take",
     NULL, fields},
    {"delete", "POOL...", "forget pools that have no volumes", "DELETE", "/v1/pools/%"},
    {NULL},
};

static const struct cli_option table[] = {
    {"capacity", 0, CLI_SIZE, offsetof(struct pool_options, capacity), "SIZE",
     "what it can hold; its file system's size if not given", .verbs = "create set",
     .member = "capacity"},
    {"quota", 0, CLI_SIZE, offsetof(struct pool_options, quota), "SIZE",
     "the most that the sizes of its volumes may add up to", .verbs = "create set",
     .member = "quota"},
    {"overcommit", 0, CLI_NUMBER, offsetof(struct pool_options, overcommit), "PERCENT",
     "the same in percent of the capacity; any if not given", .verbs = "create set",
     .member = "overcommit-percent"},
    {"image-root", 0, CLI_LIST, offsetof(struct pool_options, roots), "DIR",
     "a folder from which images become volumes, in place or copied (may be repeated; with 'set' "
     "these become all)",
     .completes = CLI_COMPLETE_FOLDER, .verbs = "create set", .member = "image-roots"},
    {"trash-retention", 0, CLI_TIME, offsetof(struct pool_options, trash), "TIME",
     "how long deleted volumes can be restored, such as 7d (not at all if 0)",
     .verbs = "create set", .member = "trash-retention"},
    {"shared", 0, CLI_FLAG, offsetof(struct pool_options, shared), NULL,
     "other hosts see the folder, too: one at a time uses it", .verbs = "create set",
     .member = "shared"},
    {"no-shared", 0, CLI_FLAG, offsetof(struct pool_options, no_shared), NULL,
     "no other host uses the folder any more", .verbs = "set", .member = "shared=false"},
    {"force", 0, CLI_FLAG, offsetof(struct pool_options, force), NULL,
     "at once: the other host is off, or cut off from the pool", .verbs = "take",
     .member = "force"},
    CLI_LABEL_OPTION(struct pool_options, labels, "create set"),
    CLI_NO_LABELS_OPTION(struct pool_options, no_labels, "set"),
    CLI_WATCH_OPTION(struct pool_options, "list show"),
    CLI_CONTROL_OPTIONS(struct pool_options),
    {NULL},
};

const struct cli_command cli_pool_command = {
    .name = "pool",
    .summary = "Manage pools: folders that volumes live in",
    .description =
        "A pool is a folder in which hawserd keeps the images of volumes. The folder is made where "
        "it is missing, and marked, so that the empty mount point of a disk that is not there is "
        "never taken for it. Only a pool without volumes can be deleted; what else lies in the "
        "folder stays.",
    .examples = {{"a pool", "hawser pool create default /var/lib/hawser/pool"},
                 {"one that cannot grow past 100 GiB",
                  "hawser pool create --quota=100G small /srv/small"},
                 {"deleted volumes can be restored for a week",
                  "hawser pool set --trash-retention=7d default"},
                 {"what there is", "hawser pool list"}},
    .options = table,
    .options_bytes = sizeof(struct pool_options),
    .verbs = verbs,
};
