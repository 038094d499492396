/*
 * What volumes are made as: the options that `hawser class` and `hawser volume` share.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef CLI_POLICY_H
#define CLI_POLICY_H

#include "cli/control.h"

struct control_policy {
    uint64_t size, cluster_size, trash;
    const char *format;
    int fs, preallocation, lazy_refcounts, extended_l2;
    struct cli_list mkfs, mount, labels;
    bool no_labels;
};

extern const char *const cli_fs_choices[], *const cli_preallocation_choices[],
                                               *const cli_switch_choices[];

/* Rows for a table; `type` has a field `policy`; @those and @later are verbs: what a new object
 * takes, and what one takes that is there. */
#define CLI_POLICY_OPTIONS(type, those, later)                                                     \
    {"size",                                                                                       \
     's',                                                                                          \
     CLI_SIZE,                                                                                     \
     offsetof(type, policy.size),                                                                  \
     "SIZE",                                                                                       \
     "its size (its class's, or 10G, if not given; that of the source for a clone)",               \
     .verbs = (those),                                                                             \
     .member = "size"},                                                                            \
        {"format",                                                                                 \
         'f',                                                                                      \
         CLI_TEXT,                                                                                 \
         offsetof(type, policy.format),                                                            \
         "FMT",                                                                                    \
         "format of new images: qcow2 (the default) or raw; of an image that is taken, its own",   \
         .completes = CLI_COMPLETE_FORMAT,                                                         \
         .verbs = (those),                                                                         \
         .member = "format"},                                                                      \
        {"fs",                                                                                     \
         0,                                                                                        \
         CLI_CHOICE,                                                                               \
         offsetof(type, policy.fs),                                                                \
         "TYPE",                                                                                   \
         "the file system that a volume gets at its first mount (ext4 if not given)",              \
         cli_fs_choices,                                                                           \
         .verbs = (those),                                                                         \
         .member = "fs"},                                                                          \
        {"cluster-size",   0,                                                                      \
         CLI_SIZE,         offsetof(type, policy.cluster_size),                                    \
         "SIZE",           "clusters of new images (the format's own if not given)",               \
         .verbs = (those), .member = "cluster-size"},                                              \
        {"preallocation",                                                                          \
         0,                                                                                        \
         CLI_CHOICE,                                                                               \
         offsetof(type, policy.preallocation),                                                     \
         "MODE",                                                                                   \
         "what new images reserve at once",                                                        \
         cli_preallocation_choices,                                                                \
         .verbs = (those),                                                                         \
         .member = "preallocation"},                                                               \
        {"lazy-refcounts",                                                                         \
         0,                                                                                        \
         CLI_CHOICE,                                                                               \
         offsetof(type, policy.lazy_refcounts),                                                    \
         "on|off",                                                                                 \
         "new qcow2 images write refcounts when they are closed",                                  \
         cli_switch_choices,                                                                       \
         .verbs = (those),                                                                         \
         .member = "lazy-refcounts"},                                                              \
        {"extended-l2",                                                                            \
         0,                                                                                        \
         CLI_CHOICE,                                                                               \
         offsetof(type, policy.extended_l2),                                                       \
         "on|off",                                                                                 \
         "new qcow2 images have subclusters",                                                      \
         cli_switch_choices,                                                                       \
         .verbs = (those),                                                                         \
         .member = "extended-l2"},                                                                 \
        {"mkfs-option",                                                                            \
         0,                                                                                        \
         CLI_LIST,                                                                                 \
         offsetof(type, policy.mkfs),                                                              \
         "WORD",                                                                                   \
         "a word for the program that makes the file system, as in --mkfs-option=-m "              \
         "--mkfs-option=1 (may be repeated)",                                                      \
         .verbs = (those),                                                                         \
         .member = "mkfs-options"},                                                                \
        {"mount-option",   0,                                                                      \
         CLI_LIST,         offsetof(type, policy.mount),                                           \
         "OPTION",         "an option that it is mounted with, such as noatime (may be repeated)", \
         .verbs = (later), .member = "mount-options"},                                             \
        {"trash-retention",                                                                        \
         0,                                                                                        \
         CLI_TIME,                                                                                 \
         offsetof(type, policy.trash),                                                             \
         "TIME",                                                                                   \
         "how long a deleted volume can be restored, such as 7d (as its pool says if 0)",          \
         .verbs = (later),                                                                         \
         .member = "trash-retention"},                                                             \
        CLI_LABEL_OPTION(type, policy.labels, later),                                              \
        CLI_NO_LABELS_OPTION(type, policy.no_labels, "set")

/* Columns of one object. */
#define CONTROL_POLICY_FIELDS                                                                     \
    {"format", "format"}, {"file system", "fs"}, {"cluster size", "cluster-size", CONTROL_LIMIT}, \
        {"preallocation", "preallocation"}, {"lazy refcounts", "lazy-refcounts"},                 \
        {"extended L2", "extended-l2"}, {"mkfs options", "mkfs-options", CONTROL_LIST},           \
        {"mount options", "mount-options", CONTROL_LIST},                                         \
        {"trash retention", "trash-retention", CONTROL_SECONDS},                                  \
        {"labels", "labels", CONTROL_LABELS},                                                     \
    {                                                                                             \
        "created", "created", CONTROL_TIME                                                        \
    }

#endif
