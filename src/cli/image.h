/*
 * What the image commands share: the options that say how to reach an image.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef CLI_IMAGE_H
#define CLI_IMAGE_H

#include "cli/command.h"
#include "hawser/image.h"

/* Rows of an option table; `type` has the fields format, allow and force_share. */
#define CLI_FORMAT_OPTION(type)                                                                    \
    {                                                                                              \
        "format", 'f', CLI_TEXT, offsetof(type, format), "FMT",                                    \
            "format of the image; found from its header if not given, but raw must be said", NULL, \
            CLI_COMPLETE_FORMAT, false                                                             \
    }
#define CLI_ALLOW_OPTION(type)                                                            \
    {                                                                                     \
        "allow", 0, CLI_LIST, offsetof(type, allow), "DIR",                               \
            "a folder in which images may name backing and data files (may be repeated; " \
            "the image's own folder if not given; / allows any)",                         \
            NULL, CLI_COMPLETE_FOLDER, false                                              \
    }
#define CLI_FORCE_SHARE_OPTION(type)                                                           \
    {                                                                                          \
        "force-share", 'U', CLI_FLAG, offsetof(type, force_share), NULL,                       \
            "open the image although somebody else writes it; what is read may be torn", NULL, \
            CLI_COMPLETE_NONE, false                                                           \
    }

/* `type` has the field snapshot besides; only for commands that read. */
#define CLI_SNAPSHOT_OPTION(type, letter)                                                        \
    {                                                                                            \
        "snapshot", letter, CLI_TEXT, offsetof(type, snapshot), "NAME",                          \
            "read an internal snapshot, by its ID or name, instead of the image as it is", NULL, \
            CLI_COMPLETE_NONE, false                                                             \
    }

#define CLI_IMAGE(options, image_path)                                  \
    {                                                                   \
        .path = (image_path), .format = (options)->format,              \
        .allow = (options)->allow.count ? (options)->allow.item : NULL, \
        .force_share = (options)->force_share,                          \
    }

struct attachment;

/**
 * Is @what served by an engine of this host? @return 1 with @ret (attachment_free()), 0 where
 * nothing of that name is attached, -ESRCH with @err where its engine died: first it has to be
 * cleaned up.
 */
HWS_MUST_CHECK int cli_find_engine(const char *what, struct attachment **ret,
                                   struct hws_error *err);

/**
 * The engine of an attached volume knows how its image is reached: options that say it are refused
 * rather than passed over. @return -EINVAL with @err, or 0.
 */
HWS_MUST_CHECK int cli_refuse_reach(const char *what, const char *format,
                                    const struct cli_list *allow, struct hws_error *err);

/** Adds to @err what a user can do about the failure of opening @path. */
void cli_explain_open(struct hws_error *err, const char *path);

/** Tells of a file that an interrupted revert of the image at @path left beside it. */
void cli_note_leftover(const char *command, const char *path);

#endif
