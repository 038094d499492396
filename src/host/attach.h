/*
 * The ways in which an image can become a block device of this host, best first, and what keeps
 * each from working here.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef HOST_ATTACH_H
#define HOST_ATTACH_H

#include "base/common.h"
#include "hawser/error.h"

struct attach_path {
    const char *name; /* "ublk", "tcmu", "nbd", "fuse+loop" */
    const char *help; /* one line */
    bool supported;   /* this version can use it */
    /** @return 0 when this host has it; else -errno, and @why says what is missing. Does not load
     * modules and changes nothing. */
    int (*probe)(struct hws_error *why);
};

/** In order of preference; ends with name NULL. */
extern const struct attach_path attach_paths[];

/**
 * The best path that works here, or the one called @name (NULL: any).
 * @return NULL with @err set: what is missing for @name, or for every path.
 */
const struct attach_path *attach_path_choose(const char *name, struct hws_error *err);

#endif
