/*
 * What has happened to the catalog's objects, for whoever wants to follow it: a ring of the last
 * EVENTS_KEPT changes (or as many as it was told), in the order of their transactions.
 *
 * An event's number is EPOCH << 32 | COUNT. The epoch grows with every start of hawserd and is kept
 * in the catalog, so that numbers never come twice, whatever the clock does. Whoever asks for what
 * is behind a number of an earlier epoch, or one that the ring has lost, is told that there is a
 * gap, and looks at the objects again. Up to 2^21 starts the numbers are exact in JavaScript, too.
 *
 * Events tell what changed, not how it is now; the objects tell that, with their generation.
 * Nothing of an object but its id, name, owner and generation is in an event: no secret can be.
 *
 * Its lock is the last of control's: under it, only what control_events_wake() was given is called.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "control/events.h"
#include "base/log.h"
#include "control/internal.h"

#define EPOCH_KIND "epoch"
#define EPOCH_ID   "events"
#define EPOCH_BITS 32

struct event {
    time_t when;
    const char *what; /* a literal */
    char *name;       /* NULL: none */
    uint64_t generation;
    char kind[16], id[ID_BYTES], owner[ID_BYTES], request[LOG_CONTEXT_BYTES];
};

struct events {
    pthread_mutex_t mutex;
    struct event *ring; /* of @capacity; event N at N % capacity */
    unsigned capacity, kept;
    uint64_t first, next; /* numbers: of the oldest that is kept; of the next */
    uint64_t begin;       /* the first number of this epoch */
    void (*wake)(void *arg);
    void *wake_arg;
};

static uint64_t next_epoch(struct control *control, struct hws_error *err)
{
    const struct store_driver *store = control->store->driver;
    auto_json *before = NULL;
    int r = store->get(control->store, EPOCH_KIND, EPOCH_ID, &before, err);
    if (r < 0 && r != -ENOENT)
        return 0;
    uint64_t epoch = (uint64_t)json_integer_value(json_object_get(before, "epoch")) + 1;
    auto_json *value = json_pack("{s:s, s:I}", "id", EPOCH_ID, "epoch", (json_int_t)epoch);
    const struct store_change change = {.kind = EPOCH_KIND, .id = EPOCH_ID, .value = value};
    return value && store->commit(control->store, &change, 1, err) == 0 ? epoch : 0;
}

int events_start(struct control *control, unsigned kept, struct hws_error *err)
{
    struct events *events = calloc(1, sizeof(*events));
    if (!events)
        return hws_fail(err, ENOMEM, "out of memory");
    pthread_mutex_init(&events->mutex, NULL);
    events->kept = kept ? kept : EVENTS_KEPT;
    control->events = events;
    uint64_t epoch = next_epoch(control, err);
    if (!epoch)
        return hws_fail(err, EIO, "the catalog does not take the number of this start");
    events->begin = events->first = events->next = (epoch << EPOCH_BITS) + 1;
    return 0;
}

void events_stop(struct control *control)
{
    struct events *events = control->events;
    if (!events)
        return;
    for (uint64_t n = events->first; n < events->next; n++)
        free(events->ring[n % events->capacity].name);
    free(events->ring);
    pthread_mutex_destroy(&events->mutex);
    free(events);
    control->events = NULL;
}

/* ---- writing ---- */

/* Few hosts ever need the whole ring: it grows to it. Numbers keep their events, not their places.
 */
static bool make_room(struct events *events)
{
    unsigned count = (unsigned)(events->next - events->first);
    if (count < events->capacity)
        return true;
    if (events->capacity == events->kept) {
        free(events->ring[events->first++ % events->capacity].name);
        return true;
    }
    unsigned capacity = MIN(events->capacity ? events->capacity * 4 : 64u, events->kept);
    struct event *grown = calloc(capacity, sizeof(*grown));
    if (!grown)
        return false;
    for (uint64_t n = events->first; n < events->next; n++)
        grown[n % capacity] = events->ring[n % events->capacity];
    free(events->ring);
    events->ring = grown;
    events->capacity = capacity;
    return true;
}

static uint64_t generation_of(const struct store_change *change)
{
    return (uint64_t)json_integer_value(json_object_get(change->value, "generation"));
}

/* NULL: nobody outside knows of such objects. An intent is told as the job that it is. */
static const char *told_as(const char *kind)
{
    if (!strcmp(kind, "intent"))
        return "job";
    return !strcmp(kind, "layer") || !strcmp(kind, "clock") || !strcmp(kind, "lease") ||
                   !strcmp(kind, job_type.kind)
               ? NULL
               : kind;
}

static void add(struct events *events, const struct store_change *change)
{
    bool intent = !strcmp(change->kind, "intent");
    const char *name =
        json_string_value(json_object_get(change->value, intent ? "operation" : "name"));
    const char *owner =
        intent ? json_string_value(json_object_get(change->value, "object")) : change->owner;
    if (!make_room(events)) {
        events->first = events->next; /* out of memory: whoever asks is told of a gap */
        return;
    }
    struct event *event = &events->ring[events->next++ % events->capacity];
    *event = (struct event){.when = time(NULL),
                            .what = change->value ? "changed"
                                    : intent      ? "ended"
                                                  : "removed",
                            .name = name ? strdup(name) : NULL,
                            .generation = generation_of(change)};
    if (change->value && (change->fresh || event->generation == 1))
        event->what = intent ? "begun" : "created";
    snprintf(event->kind, sizeof(event->kind), "%s", told_as(change->kind));
    snprintf(event->id, sizeof(event->id), "%s", change->id);
    snprintf(event->owner, sizeof(event->owner), "%s", owner ? owner : "");
    snprintf(event->request, sizeof(event->request), "%s", log_context());
}

void events_add(struct control *control, const struct store_change *changes, unsigned count)
{
    struct events *events = control->events;
    bool any = false;
    if (!events)
        return; /* at the start, before anybody can follow */
    pthread_mutex_lock(&events->mutex);
    for (unsigned i = 0; i < count; i++) {
        if (told_as(changes[i].kind)) {
            add(events, &changes[i]);
            any = true;
        }
    }
    if (any && events->wake)
        events->wake(events->wake_arg);
    pthread_mutex_unlock(&events->mutex);
}

/* ---- reading ---- */

void control_events_wake(struct control *control, void (*wake)(void *arg), void *arg)
{
    pthread_mutex_lock(&control->events->mutex);
    control->events->wake = wake;
    control->events->wake_arg = arg;
    pthread_mutex_unlock(&control->events->mutex);
}

uint64_t control_events_last(struct control *control)
{
    pthread_mutex_lock(&control->events->mutex);
    uint64_t last = control->events->next - 1;
    pthread_mutex_unlock(&control->events->mutex);
    return last;
}

static json_t *describe(const struct event *event, uint64_t number)
{
    return json_pack(
        "{s:I, s:I, s:s, s:s, s:s, s:s*, s:s*, s:I, s:s*}", "sequence", (json_int_t)number, "time",
        (json_int_t)event->when, "kind", event->kind, "event", event->what, "id", event->id, "name",
        event->name, "owner", event->owner[0] ? event->owner : NULL, "generation",
        (json_int_t)event->generation, "request", event->request[0] ? event->request : NULL);
}

int control_events(struct control *control, uint64_t after, unsigned limit, json_t **ret,
                   struct hws_error *err)
{
    struct events *events = control->events;
    json_t *items = json_array();
    pthread_mutex_lock(&events->mutex);
    bool gap = after + 1 < events->first || after >= events->next;
    uint64_t n = gap ? events->first : after + 1;
    for (; n < events->next && limit > 0; n++, limit--)
        json_array_append_new(items, describe(&events->ring[n % events->capacity], n));
    pthread_mutex_unlock(&events->mutex);
    *ret = json_pack("{s:o, s:I}", "items", items, "next", (json_int_t)(n - 1));
    if (*ret && gap)
        json_object_set_new(*ret, "gap", json_true());
    return *ret ? 0 : hws_fail(err, ENOMEM, "out of memory");
}

/* A removed snapshot's event does not tell its volume: it counts for all of them. */
static bool is_about(const struct event *event, const char *kind, const char *id)
{
    bool part =
        !strcmp(event->kind, snapshot_type.kind) || !strcmp(event->kind, attachment_type.kind);
    if (!id)
        return !strcmp(event->kind, kind) || (part && !strcmp(kind, volume_type.kind));
    return !strcmp(event->id, id) || !strcmp(event->owner, id) ||
           (part && !event->owner[0] && !strcmp(event->what, "removed"));
}

bool control_events_seen(struct control *control, uint64_t after, const char *kind, const char *id)
{
    struct events *events = control->events;
    pthread_mutex_lock(&events->mutex);
    bool seen = after + 1 < events->first || after >= events->next;
    for (uint64_t n = after + 1; !seen && n < events->next; n++)
        seen = is_about(&events->ring[n % events->capacity], kind, id);
    pthread_mutex_unlock(&events->mutex);
    return seen;
}
