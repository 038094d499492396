/*
 * How far long work is, on the terminal that waits for it: a bar, the rate and the time left, on
 * standard error. Shown when it is a terminal and the work takes more than a moment.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef CLI_PROGRESS_H
#define CLI_PROGRESS_H

#include "base/common.h"

struct progress {
    const char *what; /* "converting" */
    bool shown, off;
    uint64_t started_ns, drawn_ns;
};

/** @off: never shown (--quiet, JSON). */
void progress_start(struct progress *progress, const char *what, bool off);

/** Fits hws_progress_fn; @arg is the struct progress. */
int progress_step(void *arg, uint64_t done_bytes, uint64_t total_bytes);

/** Takes the bar away. */
void progress_end(struct progress *progress);

#endif
