/*
 * How far long work is, on the terminal that waits for it: a bar, the rate and the time left, on
 * standard error. Shown when it is a terminal and the work takes more than a moment.
 *
 * Programs get lines of JSON on standard output, of all work however short.
 *
 * Ctrl-C and its like end the work at its next piece, so that what is half made is taken back; the
 * process then ends by the signal. A second one ends it at once.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef CLI_PROGRESS_H
#define CLI_PROGRESS_H

#include "base/common.h"
#include <signal.h>

struct progress {
    const char *what; /* "converting" */
    bool shown, off;
    bool lines; /* for programs: lines of JSON on standard output, {"done", "total"} in bytes */
    uint64_t started_ns, drawn_ns;
    struct sigaction before[3]; /* of SIGINT, SIGTERM, SIGHUP */
};

/** @off: never shown (--quiet, JSON). One at a time. */
void progress_start(struct progress *progress, const char *what, bool off);

/** Fits hws_progress_fn; @arg is the struct progress. Nothing is shown of an unknown total, 0. */
int progress_step(void *arg, uint64_t done_bytes, uint64_t total_bytes);

/** Takes the bar away for a line of output; the next step draws it again. */
void progress_hide(struct progress *progress);

/** Takes the bar away. Does not return where a signal came meanwhile. */
void progress_end(struct progress *progress);

/** The option that asks for lines, of a command with the member `progress_json`. */
#define CLI_PROGRESS_JSON_OPTION(type)                                                          \
    {                                                                                           \
        "progress-json", 0, CLI_FLAG, offsetof(type, progress_json), NULL,                      \
            "print how far it is, as lines of JSON for programs: {\"done\": BYTES, \"total\": " \
            "BYTES}"                                                                            \
    }

#endif
