/*
 * The configuration string of a TCMU backstore that others make (targetcli, tcmu-runner):
 *
 *   hawser//srv/disk.qcow2;cache=none;format=raw
 *   subtype/absolute path of the image;option=value;...        (";;" is a literal semicolon)
 *
 * What targetcli's shell, rtslib and the kernel let through decides the syntax: at most 255
 * characters, no ',' (the kernel's separator), no ':' (rtslib's). Options are those of
 * `hawser serve`, by the same names. One parser for everybody who takes such a string.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef DRIVERS_CONFIG_STRING_H
#define DRIVERS_CONFIG_STRING_H

#include "block/block.h"

#define CONFIG_STRING_SUBTYPE "hawser"
#define CONFIG_STRING_MAX     255

/** One paragraph for people: what the string looks like. */
#define CONFIG_STRING_HELP                                                                       \
    "The absolute path of an image, then options: /srv/disk.qcow2;cache=none;format=qcow2. "     \
    "Options: format (found from the header if not given; raw never is), cache (writeback, "     \
    "none, writethrough, unsafe), discard (unmap, ignore), detect-zeroes (off, on, unmap), "     \
    "allow (a folder that may hold backing files, beside the image's own), read-only (off, on)." \
    " A semicolon in a path is written twice; ',' and ':' cannot be in it."

struct config_string {
    char *image; /* an absolute path */
    char *format, *allow;
    int cache, discard, detect_zeroes; /* as in block_policy and block_root_options */
    bool read_only;
};

/**
 * Parses @text, with or without the subtype and its '/' in front. Nothing is opened.
 * @ret ended by config_string_free(). @return 0 or -EINVAL, -ENAMETOOLONG, -ENOMEM with the reason.
 */
HWS_MUST_CHECK int config_string_parse(const char *text, struct config_string *ret,
                                       struct hws_error *err);

/** Frees what config_string_parse() made. */
void config_string_free(struct config_string *config);

/**
 * Opens the image as a root. @keep NULL, or where unwritten changes survive the process.
 * @ret ended by co_block_root_free(). @return 0 or -errno.
 */
HWS_MUST_CHECK int co_config_string_open(const struct config_string *config,
                                         struct block_keep *keep, struct block_root **ret,
                                         struct hws_error *err);

/**
 * Whether co_config_string_open() would do: opens the image without its lock and without writing,
 * and closes it again. @return 0 or -errno with the reason.
 */
HWS_MUST_CHECK int co_config_string_check(const struct config_string *config,
                                          struct hws_error *err);

#endif
