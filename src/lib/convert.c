/*
 * hws_convert() and hws_compare(): images of any format copied into each other, and compared.
 *
 *   target new:       NAME.convert-xxxxxxxx is made and filled, synced, and renamed to NAME
 *   target existing:  written in place
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "job/copy/copy.h"
#include "job/overlay/overlay.h"
#include "lib/call.h"
#include <limits.h>
#include <sys/stat.h>

struct conversion {
    const struct hws_image *from, *to;
    const struct hws_convert *how;
    struct job_load load;
    struct hws_converted *ret;
    char *path;        /* of the target's file; NULL where it is no file of this host */
    char *temporary;   /* beside it; NULL: the target is made under its own name */
    char *data_file;   /* of a target that failed; made for it */
    char *description; /* what is created and opened */
};

static int check_load(const struct job_load *load, struct hws_error *err)
{
    if (load->threads <= JOB_THREADS_MAX && load->requests <= JOB_REQUESTS_MAX)
        return 0;
    return hws_fail(err, EINVAL, "up to %d threads with %d requests each are possible",
                    JOB_THREADS_MAX, JOB_REQUESTS_MAX);
}

/* ---- where the target goes ---- */

/* Describes the target under its temporary name, where it is a file that does not exist or is to be
 * replaced. Devices and network volumes are written where they are. */
static int name_target(struct conversion *c, struct hws_error *err)
{
    json_t *description;
    const char *format = c->to->format ? c->to->format : "qcow2";
    int r = block_describe(c->to->path, format, &description, err);
    if (r < 0)
        return r;
    json_t *file = json_object_get(description, "file");
    const char *driver = json_string_value(json_object_get(file, "driver"));
    const char *path = json_string_value(json_object_get(file, "filename"));
    struct stat st;
    bool is_file = driver && !strcmp(driver, "file") && path;
    bool exists = is_file && stat(path, &st) == 0;
    if (exists && S_ISREG(st.st_mode) && !c->how->overwrite)
        r = hws_fail(err, EEXIST, "'%.300s' exists", path);
    else if (is_file && (!exists || S_ISREG(st.st_mode))) {
        c->path = exists ? realpath(path, NULL) : strdup(path);
        if (!c->path ||
            asprintf(&c->temporary, "%s.convert-%08x", c->path, (unsigned)rt_random_u64()) < 0) {
            c->temporary = NULL;
            r = hws_fail(err, ENOMEM, "out of memory");
        } else {
            json_object_set_new(file, "filename", json_string_nocheck(c->temporary));
        }
    }
    char *text = r == 0 ? json_dumps(description, JSON_COMPACT) : NULL;
    if (r == 0 && (!text || asprintf(&c->description, "json:%s", text) < 0)) {
        c->description = NULL;
        r = hws_fail(err, ENOMEM, "out of memory");
    }
    free(text);
    json_decref(description);
    return r;
}

/* Replacing a file that the source reads would pull it from under other overlays. */
static int refuse_own_chain(const struct conversion *c, struct block_node *from,
                            struct hws_error *err)
{
    struct stat target, layer;
    if (!c->path || stat(c->path, &target) < 0)
        return 0;
    for (struct block_node *node = from; node; node = block_child(node, BLOCK_BACKING)) {
        const char *path = overlay_node_path(node);
        if (path && stat(path, &layer) == 0 && layer.st_dev == target.st_dev &&
            layer.st_ino == target.st_ino)
            return hws_fail(err, EINVAL, "'%.300s' is part of the source", c->path);
    }
    return 0;
}

/* ---- filling it ---- */

static int co_fill(struct conversion *c, struct block_node *from, struct block_node *to,
                   bool is_zero, struct hws_error *err)
{
    const struct hws_convert *how = c->how;
    uint64_t source = block_size(from), target = block_size(to), length = source;
    struct copy_options options = {.load = c->load,
                                   .sparse_bytes = how->sparse_bytes,
                                   .target_is_zero = is_zero,
                                   .offload = how->offload,
                                   .compress = how->compress,
                                   .level = how->level};
    struct copy_result result;
    if (target < source)
        return hws_fail(err, ENOSPC,
                        "'%.300s' has %llu bytes; the source needs %llu: resize it first",
                        c->to->path, (unsigned long long)target, (unsigned long long)source);
    int level_max = block_compress_level_max(to);
    if (how->compress && level_max == 0)
        return hws_fail(err, ENOTSUP, "format '%s' has no compressed clusters",
                        block_driver_name(to));
    if (how->compress && how->level > level_max)
        return hws_fail(err, EINVAL, "the levels of the target's codec end at %d", level_max);
    int r = co_copy(from, to, length, &options, &result, err);
    if (r == 0 && !is_zero && target > length)
        r = co_block_write_zeroes(to, length, target - length, BLOCK_MAY_UNMAP);
    c->ret->virtual_size = target;
    c->ret->data_bytes = result.data_bytes;
    c->ret->offload_bytes = result.offload_bytes;
    c->ret->zero_bytes = result.zero_bytes;
    if (r < 0 || !how->verify)
        return r;
    uint64_t difference;
    r = co_compare(from, to, length, &options.load, &difference, err);
    if (r == 0 && difference < length)
        r = hws_fail(err, EIO, "verification: '%.300s' differs from the source at offset %llu",
                     c->to->path, (unsigned long long)difference);
    return r;
}

static int co_open_and_fill(struct conversion *c, struct block_node *from, struct hws_error *err)
{
    struct hws_image image = *c->to;
    struct block_node *to;
    enum block_cache cache = c->how->no_sync ? BLOCK_CACHE_UNSAFE : BLOCK_CACHE_WRITEBACK;
    if (c->description)
        image.path = c->description;
    int r = co_call_open_cached(&image, BLOCK_OPEN_WRITE, cache, &to, err);
    if (r < 0)
        return r;
    r = co_fill(c, from, to, c->temporary != NULL, err);
    const struct block_node *data = block_child(to, BLOCK_DATA);
    if (r < 0 && data && c->temporary)
        c->data_file = strdup(block_filename(data));
    return co_call_close(to, r, err);
}

/* What was made for a target that did not come about. A device stays. */
static void co_remove_made(const struct conversion *c, int r, struct hws_error *err)
{
    struct stat data;
    if (co_unlink(c->temporary, NULL) < 0)
        (void)hws_wrap(err, r, "'%.200s' is left", c->temporary);
    if (c->data_file && stat(c->data_file, &data) == 0 && S_ISREG(data.st_mode) &&
        co_unlink(c->data_file, NULL) < 0)
        (void)hws_wrap(err, r, "'%.200s' is left", c->data_file);
}

static int co_make(struct conversion *c, struct block_node *from, struct hws_error *err)
{
    if (c->how->existing)
        return co_open_and_fill(c, from, err);
    struct hws_create create = {
        .size_bytes = c->how->size_bytes == HWS_SIZE_UNSET ? block_size(from) : c->how->size_bytes,
        .options = c->how->options,
        .overwrite = c->how->overwrite,
    };
    if (create.size_bytes < block_size(from))
        return hws_fail(err, EINVAL,
                        "the source has %llu bytes: a target of %llu would cut it off; resize the "
                        "source first, if that is meant",
                        (unsigned long long)block_size(from),
                        (unsigned long long)create.size_bytes);
    int r = name_target(c, err);
    if (r == 0)
        r = refuse_own_chain(c, from, err);
    if (r < 0)
        return r;
    struct hws_image image = *c->to;
    image.path = c->description;
    r = co_call_create(&image, &create, err);
    if (r < 0)
        return r;
    r = co_open_and_fill(c, from, err);
    if (r == 0 && c->temporary)
        r = overlay_keep_owner(c->path, c->temporary, err);
    if (r == 0 && c->temporary)
        r = co_rename(c->temporary, c->path, err);
    if (r < 0 && c->temporary)
        co_remove_made(c, r, err);
    return r;
}

static int co_convert(void *arg, struct hws_error *err)
{
    struct conversion *c = arg;
    struct block_node *from;
    int r = co_call_open(c->from, 0, &from, err);
    if (r < 0)
        return hws_wrap(err, r, "source");
    r = co_make(c, from, err);
    return co_call_close(from, r, err);
}

int hws_convert(const struct hws_image *from, const struct hws_image *to,
                const struct hws_convert *convert, struct hws_converted *ret, struct hws_error *err)
{
    struct hws_converted unread = {0};
    struct conversion c = {
        .from = from,
        .to = to,
        .how = convert,
        .load = {.threads = convert->threads,
                 .requests = convert->requests,
                 .progress = convert->progress,
                 .progress_arg = convert->progress_arg},
        .ret = ret ? ret : &unread,
    };
    *c.ret = (struct hws_converted){0};
    int r = check_load(&c.load, err);
    if (r == 0)
        r = call_run(co_convert, &c, err);
    free(c.path);
    free(c.temporary);
    free(c.data_file);
    free(c.description);
    return r;
}

/* ---- comparing ---- */

struct comparison {
    const struct hws_image *a, *b;
    const struct hws_compare *how;
    struct job_load load;
    struct hws_difference *ret;
};

static int co_compare_open(struct comparison *c, struct block_node *a, struct block_node *b,
                           struct hws_error *err)
{
    uint64_t a_bytes = block_size(a), b_bytes = block_size(b), longer = MAX(a_bytes, b_bytes);
    *c->ret = (struct hws_difference){.a_bytes = a_bytes, .b_bytes = b_bytes};
    if (c->how->strict && a_bytes != b_bytes) {
        c->ret->different = c->ret->size = true;
        c->ret->offset = MIN(a_bytes, b_bytes);
        return 0;
    }
    int r = co_compare(a, b, longer, &c->load, &c->ret->offset, err);
    c->ret->different = c->ret->offset < longer;
    return r;
}

static int co_compare_images(void *arg, struct hws_error *err)
{
    struct comparison *c = arg;
    struct block_node *a, *b;
    int r = co_call_open_pass(c->a, 0, &a, err);
    if (r < 0)
        return r;
    r = co_call_open_pass(c->b, 0, &b, err);
    if (r == 0)
        r = co_call_close(b, co_compare_open(c, a, b, err), err);
    return co_call_close(a, r, err);
}

int hws_compare(const struct hws_image *a, const struct hws_image *b,
                const struct hws_compare *compare, struct hws_difference *ret,
                struct hws_error *err)
{
    struct comparison c = {
        .a = a,
        .b = b,
        .how = compare,
        .load = {.threads = compare->threads,
                 .requests = compare->requests,
                 .progress = compare->progress,
                 .progress_arg = compare->progress_arg},
        .ret = ret,
    };
    int r = check_load(&c.load, err);
    return r < 0 ? r : call_run(co_compare_images, &c, err);
}
