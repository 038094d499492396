/*
 * Hawser's own threads inside tcmu-runner: one that opens, resizes and closes, a few that execute
 * commands. They start with the first call and are ended by threads_stop().
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef EXPORT_TCMU_RUNNER_THREADS_H
#define EXPORT_TCMU_RUNNER_THREADS_H

#include "block/keep.h"
#include "rt/rt.h"

typedef int threads_fn(void *arg, struct hws_error *err);

/**
 * Runs @co_run(@arg) as a coroutine of the controlling thread and waits for its end. Called from
 * any thread that is not one of these. @return what it returned, or -errno where the threads do not
 * start.
 */
HWS_MUST_CHECK int threads_call(threads_fn *co_run, void *arg, struct hws_error *err);

/** The next of the queues that execute commands. From within threads_call(). */
struct rt_queue *threads_next(void);

/** Where changes of images survive the process. From within threads_call(). */
struct block_keep *threads_keep(void);

/** Ends all threads; there may be no device left. A later call starts them again. */
void threads_stop(void);

#endif
