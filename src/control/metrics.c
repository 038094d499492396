/*
 * Asking all engines what their volumes do; see control/metrics.h.
 *
 *   catalog (volumes, layers, pools, attachments) --> one object a volume
 *   attached ones --> up to ASKERS threads, one engine at a time each --> "up", "stats"
 *
 * An engine that hangs costs one asker ENGINE_WAIT_MS; when METRICS_WAIT_MS are over nobody is
 * asked any more. The catalog is read before, without the model's lock: what changes meanwhile is
 * told the next time.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "control/metrics.h"
#include "control/internal.h"
#include <sys/stat.h>

#define ASKERS         16
#define ENGINE_WAIT_MS 1000

struct metrics {
    pthread_mutex_t mutex; /* held while engines are asked: callers share the answer */
    json_t *last;
    uint64_t taken_ms;
};

/* One round of asking. */
struct round {
    struct control *control;
    json_t *attached; /* what to ask: the volumes' objects, with "id" */
    uint64_t until_ms;
    atomic_size_t next;
};

static uint64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

int metrics_start(struct control *control, struct hws_error *err)
{
    control->metrics = calloc(1, sizeof(*control->metrics));
    if (!control->metrics)
        return hws_fail(err, ENOMEM, "out of memory");
    pthread_mutex_init(&control->metrics->mutex, NULL);
    return 0;
}

void metrics_stop(struct control *control)
{
    if (!control->metrics)
        return;
    json_decref(control->metrics->last);
    pthread_mutex_destroy(&control->metrics->mutex);
    free(control->metrics);
    control->metrics = NULL;
}

/* ---- engines ---- */

static void *ask(void *arg)
{
    struct round *round = arg;
    const struct engine_driver *engines = round->control->engines;
    for (;;) {
        size_t i = atomic_fetch_add(&round->next, 1);
        json_t *volume = json_array_get(round->attached, i), *stats = NULL;
        if (!volume)
            return NULL;
        const char *id = json_string_value(json_object_get(volume, "id"));
        bool up = engines->stats && now_ms() < round->until_ms &&
                  engines->stats(id, ENGINE_WAIT_MS, &stats, NULL) == 0;
        json_object_set_new(volume, "up", json_boolean(up));
        if (up)
            json_object_set_new(volume, "stats", stats);
    }
}

/* Each thread writes into objects of its own: nobody else looks at them meanwhile. */
static void ask_all(struct control *control, json_t *attached)
{
    struct round round = {
        .control = control, .attached = attached, .until_ms = now_ms() + METRICS_WAIT_MS};
    pthread_t threads[ASKERS];
    unsigned count = 0;
    unsigned wanted = (unsigned)MIN(json_array_size(attached), (size_t)ASKERS);
    while (count < wanted && pthread_create(&threads[count], NULL, ask, &round) == 0)
        count++;
    if (count == 0)
        ask(&round);
    while (count > 0)
        pthread_join(threads[--count], NULL);
}

/* ---- the catalog ---- */

static int by_id(struct control *control, const struct object_type *type, json_t **ret,
                 struct hws_error *err)
{
    auto_json *list = NULL;
    size_t i;
    json_t *item;
    int r = object_list(control, type, NULL, &list, err);
    if (r < 0)
        return r;
    *ret = json_object();
    json_array_foreach(list, i, item)
    {
        const char *id = json_string_value(json_object_get(item, "id"));
        if (id)
            json_object_set(*ret, id, item);
    }
    return 0;
}

static void add_file(json_t *metric, const json_t *pool_value, const json_t *layer_value)
{
    auto_pool pool = {0};
    auto_layer layer = {0};
    struct stat st;
    if (object_parse(&pool_type, pool_value, &pool, NULL) < 0 ||
        object_parse(&layer_type, layer_value, &layer, NULL) < 0)
        return;
    autofree char *path = layer_path(&pool, &layer);
    if (path && stat(path, &st) == 0)
        json_object_set_new(metric, "allocated", json_integer((json_int_t)st.st_blocks * 512));
    json_object_set_new(metric, "depth", json_integer((json_int_t)layer.depth));
    json_object_set_new(metric, "pool", json_string(pool.name));
}

static const json_t *member(const json_t *objects, const json_t *value, const char *name)
{
    const char *id = json_string_value(json_object_get(value, name));
    return id ? json_object_get(objects, id) : NULL;
}

static int read_catalog(struct control *control, json_t *metrics, json_t *attached,
                        struct hws_error *err)
{
    auto_json *volumes = NULL, *layers = NULL, *pools = NULL, *attachments = NULL;
    size_t i;
    json_t *volume;
    int r = object_list(control, &volume_type, NULL, &volumes, err);
    if (r == 0)
        r = by_id(control, &layer_type, &layers, err);
    if (r == 0)
        r = by_id(control, &pool_type, &pools, err);
    if (r == 0)
        r = by_id(control, &attachment_type, &attachments, err);
    if (r < 0)
        return r;
    json_array_foreach(volumes, i, volume)
    {
        bool in_use = member(attachments, volume, "id") != NULL;
        json_t *metric = json_pack("{s:O, s:O, s:O, s:b}", "id", json_object_get(volume, "id"),
                                   "name", json_object_get(volume, "name"), "size",
                                   json_object_get(volume, "size"), "attached", in_use);
        const json_t *pool = member(pools, volume, "pool");
        const json_t *layer = member(layers, volume, "layer");
        if (metric && pool && layer)
            add_file(metric, pool, layer);
        if (metric && in_use)
            json_array_append(attached, metric);
        json_array_append_new(metrics, metric);
    }
    return 0;
}

int control_metrics(struct control *control, void (*take)(void *arg, const json_t *volumes),
                    void *arg, struct hws_error *err)
{
    struct metrics *metrics = control->metrics;
    int r = 0;
    pthread_mutex_lock(&metrics->mutex);
    if (!metrics->last || now_ms() - metrics->taken_ms >= METRICS_FRESH_MS) {
        auto_json *fresh = json_array(), *attached = json_array();
        r = read_catalog(control, fresh, attached, err);
        if (r == 0) {
            ask_all(control, attached);
            json_decref(metrics->last);
            metrics->last = json_incref(fresh);
            metrics->taken_ms = now_ms();
        }
    }
    if (r == 0)
        take(arg, metrics->last);
    pthread_mutex_unlock(&metrics->mutex);
    return r;
}
