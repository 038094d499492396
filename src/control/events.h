/*
 * Events: what has happened to the catalog's objects; see control/events.c.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef CONTROL_EVENTS_H
#define CONTROL_EVENTS_H

#include "control/control.h"

/** Changes that are remembered, where nothing else is said. */
#define EVENTS_KEPT 10000

/**
 * What happened behind the event with the number @after, the oldest first, @limit at most. @ret
 * {"items": [{"sequence", "time", "kind", "event", "id", "name", "owner", "generation",
 * "request"}], "next": the number to ask with the next time, "gap": true where something may be
 * missing}.
 */
HWS_MUST_CHECK int control_events(struct control *control, uint64_t after, unsigned limit,
                                  json_t **ret, struct hws_error *err);

/** The number of the last event. */
uint64_t control_events_last(struct control *control);

/**
 * Whether something happened behind @after to the object @id, or what belongs to it; NULL: to any
 * of
 * @kind. True where that is not known any more.
 */
bool control_events_seen(struct control *control, uint64_t after, const char *kind, const char *id);

/** @wake is called at every event, by any thread; it must be short. NULL: nobody any more. */
void control_events_wake(struct control *control, void (*wake)(void *arg), void *arg);

/* ---- inside of src/control ---- */

struct store_change;

HWS_MUST_CHECK int events_start(struct control *control, unsigned kept, struct hws_error *err);
void events_stop(struct control *control);
/** These changes were committed. */
void events_add(struct control *control, const struct store_change *changes, unsigned count);

#endif
