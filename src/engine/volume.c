/*
 * One image of an engine: opening, exporting, resizing, closing, and what it tells about itself.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "engine/engine.h"
#include "base/log.h"
#include "block/keep.h"
#include "engine/export.h"
#include "engine/jobs.h"

/** What a dying predecessor takes to let go of the image. */
#define LOCK_PATIENCE_NS ((uint64_t)10000000000)
#define LOCK_RETRY_NS    ((uint64_t)2000000)

static const char *const op_names[BLOCK_OPS] = {"read", "write", "write-zeroes", "discard",
                                                "flush"};

const char *const *volume_allow(const struct volume *volume)
{
    return volume->config.allow_list[0] ? (const char *const *)volume->config.allow_list : NULL;
}

int co_volume_open_node(struct volume *volume, const char *text, const char *format, unsigned flags,
                        const char *const *allow, struct block_node **ret, struct hws_error *err)
{
    const struct volume_config *config = &volume->config;
    struct block_policy policy = {.cache = (enum block_cache)config->cache,
                                  .allow = allow,
                                  .keep = volume->keep,
                                  .trust_names = config->trust_names,
                                  .probe_raw = config->probe_raw};
    json_t *description;
    int r = block_describe(text, format, &description, err);
    if (r < 0)
        return r;
    if (!config->read_only)
        flags |= BLOCK_OPEN_WRITE | BLOCK_OPEN_RESIZE;
    if (!format)
        flags |= BLOCK_OPEN_PROBE;
    r = co_block_open(description, flags, &policy, ret, err);
    json_decref(description);
    return r;
}

/* ---- opening ---- */

static int co_open_top(struct volume *volume, const char *path, const char *format,
                       struct block_node **ret, struct hws_error *err)
{
    autofree const char **allow = volume->chain ? volume_allow_resumed(volume) : NULL;
    if (volume->chain && !allow)
        return hws_fail(err, ENOMEM, "out of memory");
    return co_volume_open_node(volume, path, format, 0, allow ? allow : volume_allow(volume), ret,
                               err);
}

static int co_open_current(struct volume *volume, struct block_node **ret, struct hws_error *err)
{
    return volume->top ? co_open_top(volume, volume->top, volume->top_format, ret, err)
                       : co_open_top(volume, volume->config.image, volume->config.format, ret, err);
}

/* What was on top while the overlay was made is written out for good before the overlay serves. */
static int co_open_next(struct volume *volume, struct block_node **ret, struct hws_error *err)
{
    struct block_node *below;
    int r = co_open_current(volume, &below, err);
    if (r == 0)
        r = co_block_close(below, err);
    if (r == 0)
        r = co_open_top(volume, volume->next, volume->next_format, ret, err);
    if (r == 0) {
        log_info("%s: goes on with %s", volume->config.name, volume->next);
        volume_end_next(volume, true);
    }
    return r;
}

/* What a job had written to a layer below the top, and the keep alone has, is written out for good.
 */
static int co_settle_merging(struct volume *volume, struct hws_error *err)
{
    struct block_node *layer;
    if (!volume->merging || !volume->keep)
        return 0;
    int r = co_open_top(volume, volume->merging, volume->merging_format, &layer, err);
    if (r == 0)
        r = co_block_close(layer, err);
    return r;
}

/* A process that was killed lets go of its locks when it is gone, which takes a moment. */
static int co_open_patiently(struct volume *volume, bool inherits, struct block_node **ret,
                             struct hws_error *err)
{
    const uint64_t deadline = rt_now_ns() + LOCK_PATIENCE_NS;
    int r;
    while (((r = co_settle_merging(volume, err)) < 0 ||
            (r = volume->next ? co_open_next(volume, ret, err)
                              : co_open_current(volume, ret, err)) < 0) &&
           r == -EAGAIN && inherits && rt_now_ns() < deadline)
        co_sleep_ns(LOCK_RETRY_NS);
    if (r == 0 && volume->merging)
        r = volume_note_merging(volume, NULL, NULL, err);
    return r;
}

/* Where something goes on after this process: a device that outlives it, or, where there is none,
 * clients over the network, who come back. What a FUSE device had goes with it. */
static bool has_use_for_keep(const struct volume_config *config)
{
    return !config->read_only && (config->via == DEVICE_NONE || device_way_outlives(config->via));
}

static int co_open_keep(struct volume *volume, bool inherits, struct hws_error *err)
{
    const char *path = volume->config.keep;
    if (!path || !has_use_for_keep(&volume->config))
        return 0;
    const uint64_t deadline = rt_now_ns() + LOCK_PATIENCE_NS;
    int r;
    while ((r = block_keep_open(path, &volume->keep, err)) == -EAGAIN && inherits &&
           rt_now_ns() < deadline)
        co_sleep_ns(LOCK_RETRY_NS);
    return r;
}

static int co_open_root(struct volume *volume, struct hws_error *err)
{
    const struct volume_config *config = &volume->config;
    struct block_node *node;
    bool inherits = device_way_outlives(config->via) && co_device_is_there(config);
    /* A keep that was left tells of a death, too: what it holds is of the images that were open. */
    volume_find_top(volume, inherits || (config->keep && access(config->keep, F_OK) == 0));
    int r = co_open_keep(volume, inherits, err);
    if (r == 0)
        r = co_open_patiently(volume, inherits || volume->engine->succeeds, &node, err);
    if (r < 0)
        return r;
    struct block_root_options options = {
        .cache = (enum block_cache)config->cache,
        .discard = (enum block_discard)config->discard,
        .detect_zeroes = (enum block_detect_zeroes)config->detect_zeroes,
        .read_only = config->read_only,
    };
    volume->root = block_root_new(node, &options);
    r = co_block_close(node, err); /* the root has its own reference */
    if (!volume->root)
        return hws_fail(err, ENOMEM, "out of memory");
    return r;
}

int co_volume_open(struct volume *volume, struct hws_error *err)
{
    uint64_t started = rt_now_ns(), opened = started;
    int r = co_open_root(volume, err);
    if (r == 0) {
        opened = rt_now_ns();
        volume->opened_us = (opened - started) / 1000;
        r = co_device_start(volume, &volume->device, err);
        volume->exported_us = (rt_now_ns() - opened) / 1000;
    }
    if (r < 0) {
        int closed = co_volume_close(volume, NULL);
        if (closed < 0)
            log_error("%s: closing after a failed start: %s", volume->config.name,
                      strerror(-closed));
    }
    return r;
}

/* ---- closing ---- */

void volume_close_left(struct volume *volume)
{
    while (volume->left_count)
        close(volume->left[--volume->left_count]);
}

int co_volume_leave(struct volume *volume, struct hws_error *err)
{
    if (volume->device)
        co_device_leave(volume->device);
    volume->device = NULL;
    if (volume->root && !volume->chain) {
        /* For a way back: what is open now may be named again. */
        json_t *resume = volume_resume(volume);
        volume->chain = json_incref(json_object_get(resume, "chain"));
        json_decref(resume);
    }
    return co_volume_close(volume, err);
}

int co_volume_unexport(struct volume *volume, bool force, struct hws_error *err)
{
    if (!volume->device)
        return 0;
    int r = co_device_stop(volume->device, force, err);
    if (r < 0)
        return hws_wrap(err, r, "volume '%s'", volume->config.name);
    volume->device = NULL;
    return 0;
}

int co_volume_close(struct volume *volume, struct hws_error *err)
{
    assert(!volume->device);
    co_volume_end_job(volume);
    if (!volume->root) {
        volume->keep = block_keep_close(volume->keep);
        return 0;
    }
    int flushed = volume->config.read_only ? 0 : co_root_flush(volume->root);
    /* `status` may ask meanwhile, and finds none. */
    int r = co_block_root_free(steal_ptr(&volume->root), err);
    volume->keep = block_keep_close(volume->keep);
    if (flushed < 0)
        return hws_fail_errno(err, -flushed, "volume '%s': the last flush failed",
                              volume->config.name);
    return r;
}

int co_volume_resized(struct volume *volume, struct hws_error *err)
{
    int r = volume->device ? co_device_resized(volume->device, err) : 0;
    return r < 0 ? r : co_export_resized(volume->engine, err);
}

int co_volume_resize(struct volume *volume, uint64_t size_bytes, struct hws_error *err)
{
    int r = volume_refuse_job(volume, err);
    if (r == 0)
        r = co_root_resize(volume->root, size_bytes, err);
    return r < 0 ? r : co_volume_resized(volume, err);
}

json_t *volume_status(struct volume *volume)
{
    const struct volume_config *config = &volume->config;
    json_t *status = json_pack("{s:s, s:s, s:I, s:I, s:b, s:I, s:I}", "name", config->name, "image",
                               config->image, "open-us", (json_int_t)volume->opened_us, "export-us",
                               (json_int_t)volume->exported_us, "read-only", config->read_only,
                               "size", (json_int_t)0, "depth", (json_int_t)0);
    json_t *resume = volume_resume(volume);
    if (resume)
        json_object_set_new(status, "resume", resume);
    if (!volume->root)
        return status;
    struct block_node *top = block_root_node(volume->root), *node = top;
    json_int_t depth = 0;
    while ((node = block_child(node, BLOCK_BACKING)))
        depth++;
    json_object_set_new(status, "depth", json_integer(depth));
    json_object_set_new(status, "size", json_integer((json_int_t)block_root_size(volume->root)));
    json_object_set_new(status, "top", json_string(block_filename(top)));
    json_object_set_new(status, "format", json_string(block_driver_name(top)));
    if (volume->device)
        device_describe(volume->device, status);
    if (volume->job)
        json_object_set_new(status, "job", job_status(volume->job));
    return status;
}

static json_t *histogram_json(struct volume *volume, enum block_op op)
{
    uint64_t count[HISTOGRAM_BUCKETS];
    block_root_histogram(volume->root, op, count);
    json_t *buckets = json_array();
    for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++)
        if (count[i])
            json_array_append_new(buckets,
                                  json_pack("{s:I, s:I}", "from-ns", (json_int_t)histogram_floor(i),
                                            "count", (json_int_t)count[i]));
    return buckets;
}

json_t *volume_stats(struct volume *volume, bool histograms)
{
    struct block_stats stats;
    block_root_stats(volume->root, &stats);
    json_t *all = json_object();
    for (unsigned op = 0; op < BLOCK_OPS; op++) {
        uint64_t done = stats.operations[op];
        json_t *one =
            json_pack("{s:I, s:I, s:I, s:I, s:I, s:I}", "operations", (json_int_t)done, "bytes",
                      (json_int_t)stats.bytes[op], "failures", (json_int_t)stats.failures[op],
                      "latency-ns-mean", (json_int_t)(done ? stats.latency_ns_total[op] / done : 0),
                      "latency-ns-p50", (json_int_t)stats.latency_ns_p50[op], "latency-ns-p99",
                      (json_int_t)stats.latency_ns_p99[op]);
        if (histograms)
            json_object_set_new(one, "histogram", histogram_json(volume, (enum block_op)op));
        json_object_set_new(all, op_names[op], one);
    }
    return json_pack("{s:s, s:I, s:o}", "name", volume->config.name, "in-flight",
                     (json_int_t)stats.in_flight, "operations", all);
}
