/*
 * Holding a volume's requests for a moment; see hold.c.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef ENGINE_HOLD_H
#define ENGINE_HOLD_H

#include "engine/engine.h"

/** Longest hold: what clients of devices wait without trouble. */
#define HOLD_MAX_MS 20000

/**
 * Waits for the requests that run, and holds those that come, until volume_let_go() or for
 * @timeout_ms. One that is there ends first. Snapshots can be taken meanwhile, resizes and others
 * cannot. @return 0 or -ENOMEM.
 */
HWS_MUST_CHECK int co_volume_hold(struct volume *volume, uint64_t timeout_ms,
                                  struct hws_error *err);

/** Ends it. @return whether it was there until now. */
bool volume_let_go(struct volume *volume);

/** Ends those of all volumes. */
void engine_release(struct engine *engine);

#endif
