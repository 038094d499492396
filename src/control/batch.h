/*
 * What one transaction changes, put together step by step; it owns copies of all that it was given.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef CONTROL_BATCH_H
#define CONTROL_BATCH_H

#include "control/objects.h"
#include "control/store/store.h"

struct batch {
    struct store_change *changes;
    unsigned count, capacity;
    bool failed; /* out of memory; the commit tells */
};

/** Writes @record as it is, with the next generation (which the record gets too). */
void batch_put(struct batch *batch, const struct object_type *type, void *record);
/** The same of an object that must not be there yet, nor its name. */
void batch_add(struct batch *batch, const struct object_type *type, void *record);
void batch_remove(struct batch *batch, const struct object_type *type, const char *id);
/** A change of a kind that has no type, such as an intent. @value is taken over; NULL removes. */
void batch_raw(struct batch *batch, const char *kind, const char *id, const char *name,
               json_t *value, bool fresh);

/** Commits all, and empties the batch whatever comes of it. */
HWS_MUST_CHECK int batch_commit(struct batch *batch, struct control *control,
                                struct hws_error *err);
void batch_clear(struct batch *batch);

#define auto_batch __attribute__((cleanup(batch_clear))) struct batch

#endif
