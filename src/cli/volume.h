/*
 * The options that say how a volume is served; shared by attach and serve.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef CLI_VOLUME_H
#define CLI_VOLUME_H

#include "cli/command.h"

struct cli_volume {
    const char *name, *format, *device;
    struct cli_list allow;
    int cache, discard, detect_zeroes, via, block_size;
    bool read_only;
    uint64_t queues;
};

extern const char *const cli_cache_choices[],
    *const cli_discard_choices[], *const cli_detect_choices[], *const cli_via_choices[],
                                                                   *const cli_block_choices[];

/** The chosen word, or NULL where none was. */
static inline const char *cli_word(const char *const *choices, int chosen)
{
    return chosen < 0 ? NULL : choices[chosen];
}

/* Rows for a table; `type` has a field `volume`. The first for a volume of any kind of device. */
#define CLI_VOLUME_COMMON_OPTIONS(type)                                                        \
    {"name",   0,                                                                              \
     CLI_TEXT, offsetof(type, volume.name),                                                    \
     "NAME",   "name of the volume; made from the image's name if not given"},                 \
        {"format",                                                                             \
         'f',                                                                                  \
         CLI_TEXT,                                                                             \
         offsetof(type, volume.format),                                                        \
         "FMT",                                                                                \
         "format of the image; found from its header if not given, but raw must be said",      \
         .completes = CLI_COMPLETE_FORMAT},                                                    \
        {"read-only", 'r', CLI_FLAG, offsetof(type, volume.read_only), NULL, "refuse writes"}, \
        {"cache",          0,                                                                  \
         CLI_CHOICE,       offsetof(type, volume.cache),                                       \
         "MODE",           "how the image file is read and written (writeback if not given)",  \
         cli_cache_choices},                                                                   \
        {"discard",                                                                            \
         0,                                                                                    \
         CLI_CHOICE,                                                                           \
         offsetof(type, volume.discard),                                                       \
         "MODE",                                                                               \
         "what discards of the device do (unmap if not given)",                                \
         cli_discard_choices},                                                                 \
        {"detect-zeroes",                                                                      \
         0,                                                                                    \
         CLI_CHOICE,                                                                           \
         offsetof(type, volume.detect_zeroes),                                                 \
         "MODE",                                                                               \
         "find zeroes in what is written and do not store them (off if not given)",            \
         cli_detect_choices},                                                                  \
        {"block-size",     0,                                                                  \
         CLI_CHOICE,       offsetof(type, volume.block_size),                                  \
         "BYTES",          "logical block size of the device (512 if not given)",              \
         cli_block_choices},                                                                   \
        {"queues", 0,                                                                          \
         CLI_UINT, offsetof(type, volume.queues),                                              \
         "N",      "threads that serve the device, 1 to 16; what measured best if not given"}, \
    {                                                                                          \
        "allow", 0, CLI_LIST, offsetof(type, volume.allow), "DIR",                             \
            "a folder in which images may name backing and data files (may be repeated; "      \
            "the image's own folder if not given; / allows any)",                              \
            .completes = CLI_COMPLETE_FOLDER                                                   \
    }

#define CLI_VOLUME_OPTIONS(type)                                                \
    CLI_VOLUME_COMMON_OPTIONS(type),                                            \
        {"via",          0,                                                     \
         CLI_CHOICE,     offsetof(type, volume.via),                            \
         "WAY",          "the way to make a device (auto if not given)",        \
         cli_via_choices},                                                      \
    {                                                                           \
        "device", 0, CLI_TEXT, offsetof(type, volume.device), "/dev/nbdN",      \
            "with --via=nbd: the device to take; one that is free if not given" \
    }

#endif
