/*
 * An engine's export: its volumes as the LUNs or namespaces of one target of a fabric
 * (host/fabric.h). Part of an engine's configuration:
 *
 *   "export": {"name": "disk", "fabric": "iscsi", "options": {"target": "iqn...", ...}}
 *
 * with the options resolved. It is made once all volumes are there and removed before they go. Like
 * the volumes' backstores it outlives the process: who starts the same engine again finds the
 * target that a predecessor made, and leaves it as it is.
 *
 * Everything runs on the control queue.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef ENGINE_EXPORT_H
#define ENGINE_EXPORT_H

#include "engine/engine.h"

/** The word for "via" of the volumes of an export by @fabric; NULL with @err for an unknown one. */
const char *export_via(const char *fabric, struct hws_error *err);

/** Makes the export that is configured, or takes over the one that is there. None: no effect. */
HWS_MUST_CHECK int co_export_start(struct engine *engine, struct hws_error *err);

/** After a volume's size changed: initiators learn of it. None: no effect. */
HWS_MUST_CHECK int co_export_resized(struct engine *engine, struct hws_error *err);

/** Removes it. -EBUSY, with the initiators named, while it is in use, unless @force. */
HWS_MUST_CHECK int co_export_stop(struct engine *engine, bool force, struct hws_error *err);

/** Forgets it; what is in the kernel stays for a successor. */
void export_leave(struct engine *engine);

/** For the state file: what and by which fabric; NULL where there is none. Never a secret. */
json_t *export_state(const struct engine *engine);

/** For `status`: the same, with who uses it now. */
json_t *co_export_status(struct engine *engine);

/**
 * Removes what an engine that is gone left of the export in its configuration @config, before its
 * volumes are cleared. -EBUSY while it is in use, unless @force.
 */
HWS_MUST_CHECK int co_export_clear(const json_t *config, bool force, struct hws_error *err);

#endif
