/*
 * `hawser snapshot --merge`: giving up a snapshot of an attached volume.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef CLI_MERGE_SNAPSHOT_H
#define CLI_MERGE_SNAPSHOT_H

#include "base/common.h"

struct merge_options {
    uint64_t rate; /* bytes a second; UINT64_MAX: no limit */
    bool keep;     /* the file that falls out of the chain */
    bool json, quiet;
};

/**
 * Gives up the state that the file @layer (an absolute path) of the chain of @what holds, and waits
 * for it. A signal cancels it. @return an exit code.
 */
int cli_merge_snapshot(const char *what, const char *layer, const struct merge_options *options);

#endif
