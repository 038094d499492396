/*
 * One piece of image work in a runtime of its own; see lib/call.h.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "lib/call.h"
#include "drivers/drivers.h"
#include <pthread.h>

struct call {
    call_fn *fn;
    void *arg;
    struct hws_error *err;
    int result;
};

static void run_call(void *arg)
{
    struct call *call = arg;
    call->result = call->fn(call->arg, call->err);
}

void call_prepare(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, drivers_register);
}

int call_run(call_fn *fn, void *arg, struct hws_error *err)
{
    call_prepare();
    if (rt_serves())
        return hws_fail(err, EDEADLK,
                        "this call was made from a callback of the library, which waits for it");
    struct rt *rt;
    int r = rt_create(NULL, &rt, err);
    if (r < 0)
        return r;
    /* The work may fail without a reader of the text. */
    struct hws_error unread = {0};
    struct call call = {fn, arg, err ? err : &unread, 0};
    r = rt_run(rt, run_call, &call);
    rt_free(rt);
    return r < 0 ? hws_fail_errno(err, -r, "cannot start the I/O runtime") : call.result;
}

int co_call_open(const struct hws_image *image, unsigned flags, struct block_node **ret,
                 struct hws_error *err)
{
    return co_call_open_cached(image, flags, BLOCK_CACHE_WRITEBACK, ret, err);
}

/* By enum block_cache. */
static const char *const cache_names[] = {"writeback", "none", "writethrough", "unsafe",
                                          "directsync"};

const char *call_cache_name(enum block_cache cache)
{
    return cache_names[cache];
}

static int find_cache(const char *name, enum block_cache *ret, struct hws_error *err)
{
    for (unsigned i = 0; name && i < ARRAY_LEN(cache_names); i++)
        if (strcmp(name, cache_names[i]) == 0) {
            *ret = (enum block_cache)i;
            return 0;
        }
    return name ? hws_fail(err, EINVAL,
                           "no cache mode is called '%.64s'; there are none, writeback, "
                           "writethrough, directsync and unsafe",
                           name)
                : 0;
}

int call_check_image(const struct hws_image *image, struct hws_error *err)
{
    return image && image->path ? 0 : hws_fail(err, EINVAL, "an image with a path is needed");
}

/* @policy: what the call adds to what the image asks for. */
static int co_open_with(const struct hws_image *image, unsigned flags, struct block_policy policy,
                        struct block_node **ret, struct hws_error *err)
{
    int r = call_check_image(image, err);
    if (r < 0)
        return r;
    policy.allow = image->allow;
    policy.trust_names = image->trust_names;
    policy.probe_raw = image->probe_raw;
    json_t *description;
    if (image->snapshot && (flags & BLOCK_OPEN_WRITE))
        return hws_fail(err, EROFS, "'%s': an internal snapshot can only be read", image->path);
    r = find_cache(image->cache, &policy.cache, err);
    if (r == 0)
        r = block_describe(image->path, image->format, &description, err);
    if (r < 0)
        return r;
    if (image->snapshot &&
        json_object_set_new(description, "snapshot", json_string_nocheck(image->snapshot)) < 0) {
        json_decref(description);
        return hws_fail(err, ENOMEM, "out of memory");
    }
    if (!image->format)
        flags |= BLOCK_OPEN_PROBE;
    if (image->force_share)
        flags |= BLOCK_OPEN_NO_LOCK;
    r = co_block_open(description, flags, &policy, ret, err);
    json_decref(description);
    return r;
}

int co_call_open_cached(const struct hws_image *image, unsigned flags, enum block_cache cache,
                        struct block_node **ret, struct hws_error *err)
{
    return co_open_with(image, flags, (struct block_policy){.cache = cache}, ret, err);
}

int co_call_open_told(const struct hws_image *image, unsigned flags, hws_progress_fn *progress,
                      void *progress_arg, struct block_node **ret, struct hws_error *err)
{
    struct block_policy policy = {.progress = progress, .progress_arg = progress_arg};
    return co_open_with(image, flags, policy, ret, err);
}

int co_call_open_pass(const struct hws_image *image, unsigned flags, struct block_node **ret,
                      struct hws_error *err)
{
    struct block_policy policy = {.cache_bytes = MiB};
    return co_open_with(image, flags, policy, ret, err);
}

int co_call_open_disk(const struct hws_image *image, uint64_t cache_bytes, unsigned flags,
                      enum block_cache *ret_cache, struct block_node **ret, struct hws_error *err)
{
    struct block_policy policy = {.cache = BLOCK_CACHE_WRITEBACK, .cache_bytes = cache_bytes};
    int r = image ? find_cache(image->cache, &policy.cache, err) : 0;
    *ret_cache = policy.cache;
    return r < 0 ? r : co_open_with(image, flags, policy, ret, err);
}

int call_check_load(const struct job_load *load, struct hws_error *err)
{
    if (load->threads <= JOB_THREADS_MAX && load->requests <= JOB_REQUESTS_MAX)
        return 0;
    return hws_fail(err, EINVAL, "up to %d threads with %d requests each are possible",
                    JOB_THREADS_MAX, JOB_REQUESTS_MAX);
}

int co_call_close(struct block_node *node, int result, struct hws_error *err)
{
    int r = co_block_close(node, result < 0 ? NULL : err);
    return result != 0 ? result : r;
}

/* A name that is no UTF-8, as text: the bytes that are none become "\\xNN". @return a new
 * reference. */
static json_t *readable(const char *text)
{
    size_t length = strlen(text), used = 0;
    char *out = malloc(length * 4 + 1);
    if (!out)
        return NULL;
    for (const char *at = text; *at; at++) {
        if ((unsigned char)*at < 0x80)
            out[used++] = *at;
        else
            used += (size_t)snprintf(out + used, 5, "\\x%02x", (unsigned char)*at);
    }
    json_t *string = json_stringn(out, used);
    free(out);
    return string;
}

/* File names are bytes; JSON is UTF-8. What is none would fail the whole text. */
static void make_readable(json_t *value)
{
    const char *key;
    json_t *member;
    void *next;
    size_t i;
    json_object_foreach_safe(value, next, key, member)
    {
        json_t *valid = json_is_string(member) ? json_string(json_string_value(member)) : NULL;
        if (json_is_string(member) && !valid)
            json_object_set_new(value, key, readable(json_string_value(member)));
        else
            make_readable(member);
        json_decref(valid);
    }
    json_array_foreach(value, i, member) make_readable(member);
}

int call_json_text(json_t *value, char **ret, struct hws_error *err)
{
    make_readable(value);
    char *text = value ? json_dumps(value, JSON_COMPACT) : NULL;
    json_decref(value);
    if (!text)
        return hws_fail(err, ENOMEM, "out of memory");
    *ret = text;
    return 0;
}

int co_call_refuse_snapshots(struct block_node *node, const char *what, const char *way,
                             struct hws_error *err)
{
    struct block_snapshot *snapshots;
    size_t count;
    int r = co_block_snapshots(node, &snapshots, &count, err);
    if (r < 0)
        return r;
    block_snapshots_free(snapshots, count);
    return count == 0 ? 0
                      : hws_fail(err, EBUSY,
                                 "'%.200s' has internal snapshots, which read through to its "
                                 "backing file: %s would change what they hold; delete them "
                                 "first, or %s",
                                 block_filename(node), what, way);
}

int co_call_info(struct block_node *node, bool chain, json_t **ret, struct hws_error *err)
{
    if (!chain)
        return co_block_info(node, ret, err);
    json_t *layers = json_array();
    for (; node; node = block_child(node, BLOCK_BACKING)) {
        json_t *info;
        int r = co_block_info(node, &info, err);
        if (r < 0) {
            json_decref(layers);
            return r;
        }
        if (json_array_append_new(layers, info) < 0) {
            json_decref(layers);
            return hws_fail(err, ENOMEM, "out of memory");
        }
    }
    *ret = layers;
    return 0;
}
