/*
 * An engine's NBD server: its volumes as exports of their names. Part of an engine's configuration:
 *
 *   "nbd": {"listen": ["unix:/run/x.sock", "tcp:127.0.0.1:10809"], "threads": 2}
 *
 * Everything runs on the control queue.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef ENGINE_NBD_H
#define ENGINE_NBD_H

#include "engine/engine.h"

/** Serves the volumes, which are open, as configured. Not configured: no effect. */
HWS_MUST_CHECK int co_nbd_start(struct engine *engine, struct hws_error *err);

/** Ends it. -EBUSY while clients are connected, unless @force: all is as before. */
HWS_MUST_CHECK int co_nbd_stop(struct engine *engine, bool force, struct hws_error *err);

/** Reads the credentials again: new clients meet them. On failure those before stay in use. */
HWS_MUST_CHECK int co_nbd_tls_reload(struct engine *engine, struct hws_error *err);

/** For `status` and the state file; NULL where there is none. A new reference. */
json_t *nbd_state(const struct engine *engine);

#endif
