/*
 * Programs that are run to their end: their output, and in an error their words.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef CONTROL_TOOL_H
#define CONTROL_TOOL_H

#include "base/common.h"
#include "hawser/error.h"

/**
 * Runs @arguments (NULL-terminated; the first is the program, found in PATH) with nothing on its
 * standard input. What it prints goes to @ret_output (free(); NULL: not wanted), at most 1 MiB. It
 * is killed after @timeout_ms. A failure is -EIO with the last line of its standard error, -ENOENT
 * where it is not installed.
 */
HWS_MUST_CHECK int tool_run(char *const arguments[], unsigned timeout_ms, char **ret_output,
                            struct hws_error *err);

/** What the caller wants to know of, while a program runs. */
struct tool_watch {
    /** Every now and then: whether to end the program, which gets SIGTERM. NULL: never. */
    bool (*stop)(void *arg);
    /** A line of its output, without its end; longer than 1 KiB it is cut. NULL: not wanted. */
    void (*line)(void *arg, const char *line);
    void *arg;
};

/** The same, watched. -ECANCELED where it was stopped. */
HWS_MUST_CHECK int tool_run_watched(char *const arguments[], unsigned timeout_ms,
                                    const struct tool_watch *watch, struct hws_error *err);

/** Reaps children that nobody waits for: engines that this process started, and that ended. */
void tool_reap(void);

#endif
