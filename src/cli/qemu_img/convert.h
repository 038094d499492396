/*
 * What qemu-img convert was asked for: from the command line (cmd_convert.c) to the work
 * (convert.c).
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef QEMU_IMG_CONVERT_H
#define QEMU_IMG_CONVERT_H

#include "cli/qemu_img/qemu_img.h"

struct qi_conversion {
    char **sources;
    unsigned source_count;
    const char *target;
    const char *format, *target_format, *backing, *backing_format;
    const char *source_cache, *target_cache;
    char *text; /* of -o, joined */
    struct qi_snapshot_key snapshot;
    unsigned reach, requests;
    uint64_t sparse, rate;
    bool has_snapshot, has_sparse, compress, existing, progress, quiet, offload, any_order,
        target_opts, target_is_zero, salvage, bitmaps, skip_broken;
};

/** Converts. @return the exit code; what went wrong is told. */
int qi_convert_run(const struct qi_conversion *conversion);

#endif
