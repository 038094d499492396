/*
 * Transactions; see control/batch.h.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "control/internal.h"

static char *copy(struct batch *batch, const char *text)
{
    char *copied = text ? strdup(text) : NULL;
    batch->failed |= text && !copied;
    return copied;
}

static void append(struct batch *batch, const char *kind, const char *id, const char *name,
                   const char *owner, json_t *value, bool fresh)
{
    if (batch->count == batch->capacity) {
        unsigned capacity = batch->capacity ? 2 * batch->capacity : 8;
        struct store_change *grown =
            realloc(batch->changes, capacity * sizeof(struct store_change));
        if (!grown) {
            batch->failed = true;
            json_decref(value);
            return;
        }
        batch->changes = grown;
        batch->capacity = capacity;
    }
    batch->changes[batch->count++] = (struct store_change){.kind = kind,
                                                           .id = copy(batch, id),
                                                           .name = copy(batch, name),
                                                           .owner = copy(batch, owner),
                                                           .value = value,
                                                           .fresh = fresh};
}

static const char *text_at(const void *record, size_t offset)
{
    return offset == NO_FIELD ? NULL : *(char *const *)((const char *)record + offset);
}

static void put(struct batch *batch, const struct object_type *type, void *record, bool fresh)
{
    (*(uint64_t *)((char *)record + type->generation))++;
    json_t *value = record_json(type->fields, record);
    const char *id = json_string_value(json_object_get(value, "id"));
    batch->failed |= !id;
    append(batch, type->kind, id, text_at(record, type->name), text_at(record, type->owner), value,
           fresh);
}

void batch_put(struct batch *batch, const struct object_type *type, void *record)
{
    put(batch, type, record, false);
}

void batch_add(struct batch *batch, const struct object_type *type, void *record)
{
    put(batch, type, record, true);
}

void batch_remove(struct batch *batch, const struct object_type *type, const char *id)
{
    append(batch, type->kind, id, NULL, NULL, NULL, false);
}

void batch_raw(struct batch *batch, const char *kind, const char *id, const char *name,
               json_t *value, bool fresh)
{
    append(batch, kind, id, name, NULL, value, fresh);
}

void batch_clear(struct batch *batch)
{
    for (unsigned i = 0; i < batch->count; i++) {
        struct store_change *change = &batch->changes[i];
        free((char *)change->id);
        free((char *)change->name);
        free((char *)change->owner);
        json_decref((json_t *)change->value);
    }
    free(batch->changes);
    *batch = (struct batch){0};
}

int batch_commit(struct batch *batch, struct control *control, struct hws_error *err)
{
    struct store *store = control->store;
    control_at(control, "before a commit");
    int r = batch->failed ? hws_fail(err, ENOMEM, "out of memory")
                          : store->driver->commit(store, batch->changes, batch->count, err);
    control_at(control, "after a commit");
    if (r == 0)
        events_add(control, batch->changes, batch->count);
    batch_clear(batch);
    return r;
}
