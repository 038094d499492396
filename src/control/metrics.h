/*
 * What volumes do and hold, for supervision.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef CONTROL_METRICS_H
#define CONTROL_METRICS_H

#include "control/control.h"

/** For how long what engines told is told again. */
#define METRICS_FRESH_MS 2000
/** All engines together have so long; who has not answered by then is told as "up": false. */
#define METRICS_WAIT_MS 2000

/**
 * Hands to @take [{"name", "pool", "size", "allocated" (bytes on disk of its top layer's file),
 * "depth", "attached"}, ...], and of what is attached "up", and "stats" as its engine answers
 * `stats`. Engines are asked in parallel; callers that come together share one answer, which is
 * @take's for the call only, one caller's at a time.
 */
HWS_MUST_CHECK int control_metrics(struct control *control,
                                   void (*take)(void *arg, const json_t *volumes), void *arg,
                                   struct hws_error *err);

/* ---- inside of src/control ---- */

struct metrics;

HWS_MUST_CHECK int metrics_start(struct control *control, struct hws_error *err);
void metrics_stop(struct control *control);

#endif
