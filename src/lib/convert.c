/*
 * hws_convert(): images of any format copied into each other.
 *
 *   target new:       NAME.convert-xxxxxxxx is made and filled, synced, and renamed to NAME
 *   target existing:  written in place
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "block/bitmap.h"
#include "job/copy/copy.h"
#include "job/copy/layers.h"
#include "job/overlay/overlay.h"
#include "lib/call.h"
#include "lib/resume.h"
#include <limits.h>
#include <sys/stat.h>

/* How much work a kill may cost. */
#define CHECKPOINT_NS ((uint64_t)1000000000)

struct conversion {
    const struct hws_image *from, *to;
    const struct hws_convert *how;
    struct block_node **source; /* how->more_count + 1, in the target's order */
    uint64_t length;            /* of all that is copied */
    uint64_t copied;            /* of the sources before this one */
    struct job_load load;
    struct hws_converted *ret;
    char *path;                /* of the target's file; NULL where it is no file of this host */
    char *temporary;           /* beside it; NULL: the target is made under its own name */
    char *data_file;           /* of a target that failed; made for it */
    char *description;         /* what is created and opened */
    struct resume resume;      /* where how->resume */
    struct block_node *target; /* while it is filled */
};

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
        const char *ending = "partial";
        char number[16];
        snprintf(number, sizeof(number), "%08x", (unsigned)rt_random_u64());
        if (!c->path || asprintf(&c->temporary, "%s.convert-%s", c->path,
                                 c->how->resume ? ending : number) < 0) {
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
static int refuse_own_chain(const struct conversion *c, struct block_node *top,
                            struct hws_error *err)
{
    struct stat target, layer;
    if (!c->path || stat(c->path, &target) < 0)
        return 0;
    for (struct block_node *node = top; node; node = block_child(node, BLOCK_BACKING)) {
        const char *path = overlay_node_path(node);
        if (path && stat(path, &layer) == 0 && layer.st_dev == target.st_dev &&
            layer.st_ino == target.st_ino)
            return hws_fail(err, EINVAL, "'%.300s' is part of the source", c->path);
    }
    return 0;
}

/* ---- what is copied ---- */

static unsigned sources(const struct conversion *c)
{
    return c->how->more_count + 1;
}

/* The part of source @i, and where it goes. */
static struct copy_range range_of(const struct conversion *c, unsigned i, uint64_t at)
{
    uint64_t size = block_size(c->source[i]), start = i ? 0 : c->how->start;
    uint64_t length = size - start;
    if (c->how->length)
        length = MIN(length, c->how->length);
    return (struct copy_range){.from = start, .to = at, .length = length};
}

static int measure_sources(struct conversion *c, struct hws_error *err)
{
    if ((c->how->start || c->how->length) && c->how->more_count)
        return hws_fail(err, EINVAL, "a range is of one source; there are %u", sources(c));
    if (c->how->start > block_size(c->source[0]))
        return hws_fail(
            err, EINVAL, "the source ends at %llu, before the range that starts at %llu",
            (unsigned long long)block_size(c->source[0]), (unsigned long long)c->how->start);
    for (unsigned i = 0; i < sources(c); i++)
        if (add_overflows(c->length, range_of(c, i, 0).length, &c->length) ||
            c->length > BLOCK_SIZE_MAX)
            return hws_fail(err, EFBIG, "the sources are larger together than an image can be");
    return 0;
}

/* ---- filling it ---- */

static int tell_progress(void *arg, uint64_t done_bytes, uint64_t total_bytes)
{
    struct conversion *c = arg;
    (void)total_bytes;
    return c->how->progress(c->how->progress_arg, c->copied + done_bytes, c->length);
}

static int co_checkpoint(void *arg, uint64_t done_offset, struct hws_error *err)
{
    struct conversion *c = arg;
    int r = co_block_flush(c->target);
    return r < 0 ? hws_fail_errno(err, -r, "flushing '%.300s'", c->temporary)
                 : co_resume_note(&c->resume, done_offset, err);
}

static void tell_lost(void *arg, uint64_t offset, uint64_t length, int error)
{
    struct conversion *c = arg;
    char line[160];
    if (!c->how->report)
        return;
    snprintf(line, sizeof(line), "%llu bytes at offset %llu of the source are lost: %s",
             (unsigned long long)length, (unsigned long long)offset, strerror(-error));
    c->how->report(c->how->report_arg, line);
}

static int co_copy_sources(struct conversion *c, struct block_node *to,
                           const struct copy_options *options, struct hws_error *err)
{
    uint64_t at = 0, done = c->resume.durable;
    int r = 0;
    c->target = to;
    for (unsigned i = 0; i < sources(c) && r == 0; i++) {
        struct copy_range range = range_of(c, i, at);
        struct copy_result result;
        if (done > at) { /* by a call before this one */
            uint64_t skip = MIN(done - at, range.length);
            range.from += skip;
            range.to += skip;
            range.length -= skip;
            at += skip;
            c->ret->resumed_bytes += skip;
        }
        c->copied = at;
        r = co_copy(c->source[i], to, range, options, &result, err);
        c->ret->data_bytes += result.data_bytes;
        c->ret->offload_bytes += result.offload_bytes;
        c->ret->zero_bytes += result.zero_bytes;
        c->ret->lost_bytes += result.lost_bytes;
        at += range.length;
    }
    return r;
}

/* What could not be read cannot be compared either: the target is told to have zeroes there. */
static int co_verify(struct conversion *c, struct block_node *to, struct hws_error *err)
{
    uint64_t at = 0, difference;
    c->copied = 0;
    for (unsigned i = 0; i < sources(c); i++) {
        struct copy_range range = range_of(c, i, at);
        int r = co_compare_range(c->source[i], to, range, &c->load, &difference, err);
        if (r < 0)
            return r;
        if (difference < range.length)
            return hws_fail(err, EIO,
                            "verification: '%.300s' differs from the source at offset %llu",
                            c->to->path, (unsigned long long)(at + difference));
        at += range.length;
        c->copied = at;
    }
    return 0;
}

static int check_target(const struct conversion *c, struct block_node *to, struct hws_error *err)
{
    const struct hws_convert *how = c->how;
    int level_max = block_compress_level_max(to);
    if (block_size(to) < c->length)
        return hws_fail(
            err, ENOSPC, "'%.300s' has %llu bytes; the source needs %llu: resize it first",
            c->to->path, (unsigned long long)block_size(to), (unsigned long long)c->length);
    if (how->compress && level_max == 0)
        return hws_fail(err, ENOTSUP, "format '%s' has no compressed clusters",
                        block_driver_name(to));
    if (how->compress && how->level > level_max)
        return hws_fail(err, EINVAL, "the levels of the target's codec end at %d", level_max);
    if (how->backing && !block_child(to, BLOCK_BACKING))
        return hws_fail(err, EINVAL, "'%.300s' has no backing file", c->to->path);
    return 0;
}

static int co_fill(struct conversion *c, struct block_node *to, bool is_zero, struct hws_error *err)
{
    const struct hws_convert *how = c->how;
    uint64_t target = block_size(to);
    struct block_bitmap *only = how->bitmap ? block_bitmap_find(c->source[0], how->bitmap) : NULL;
    struct copy_options options = {.load = c->load,
                                   .sparse_bytes = how->sparse_bytes,
                                   .target_is_zero = is_zero && !how->backing,
                                   .only = only,
                                   .offload = how->offload,
                                   .compress = how->compress,
                                   .level = how->level,
                                   .salvage = how->salvage,
                                   .lost = tell_lost,
                                   .lost_arg = c};
    c->ret->virtual_size = target;
    int r = check_target(c, to, err);
    if (r == 0 && how->bitmap && !only)
        r = hws_fail(err, ENOENT, "'%.300s' has no bitmap '%.100s'", c->from->path, how->bitmap);
    if (r == 0)
        r = how->backing && !only ? co_copy_over(c->source[0], to, &options, err)
                                  : co_copy_sources(c, to, &options, err);
    if (r == 0 && (!is_zero || how->backing) && target > c->length) {
        r = co_block_write_zeroes(to, c->length, target - c->length, BLOCK_MAY_UNMAP);
        if (r < 0)
            return hws_fail_errno(err, -r, "'%.300s': zeroing what lies past the source",
                                  c->to->path);
    }
    if (r == 0 && how->bitmaps)
        r = co_block_bitmaps_copy(c->source[0], to, how->skip_broken_bitmaps, err);
    return r == 0 && how->verify ? co_verify(c, to, err) : r;
}

static int co_open_and_fill(struct conversion *c, struct hws_error *err)
{
    struct hws_image image = *c->to;
    struct block_node *to;
    enum block_cache cache = c->how->no_sync ? BLOCK_CACHE_UNSAFE : BLOCK_CACHE_WRITEBACK;
    if (c->description)
        image.path = c->description;
    int r = co_call_open_cached(&image, BLOCK_OPEN_WRITE, cache, &to, err);
    if (r < 0)
        return r;
    /* What a call before this one wrote behind what is durable may be anything. */
    bool is_zero = (c->temporary && !c->resume.found) || c->how->target_is_zero;
    r = co_fill(c, to, is_zero, err);
    const struct block_node *data = block_child(to, BLOCK_DATA);
    if (r < 0 && data && c->temporary)
        c->data_file = strdup(block_filename(data));
    return co_call_close(to, r, err);
}

/* ---- the target ---- */

/* The target's backing file: opened alone, for its format. */
static int co_look_at_backing(const struct conversion *c, struct hws_create *create,
                              struct hws_error *err)
{
    autofree char *path = NULL;
    int r = call_resolve_beside(c->to->path, c->how->backing, &path, err);
    if (r < 0)
        return r;
    struct hws_image image = *c->to;
    struct block_node *node;
    image.path = path;
    image.format = c->how->backing_format;
    image.snapshot = NULL;
    r = co_call_open(&image, BLOCK_OPEN_NO_BACKING, &node, err);
    if (r < 0)
        return hws_wrap(err, r, "backing image%s",
                        c->how->backing_format ? "" : " (say its format with -F)");
    create->backing = c->how->backing;
    create->backing_format = block_driver_name(node); /* of the table of drivers: valid for good */
    create->unsafe_backing = true;
    return co_call_close(node, 0, err);
}

/* A kill leaks clusters: they go before the rest is written. */
static int co_mend(struct conversion *c, struct hws_error *err)
{
    struct hws_image image = *c->to;
    struct block_check check = {0};
    struct block_node *node;
    image.path = c->description;
    int r = co_call_open(&image, BLOCK_OPEN_WRITE | BLOCK_OPEN_CHECK | BLOCK_OPEN_NO_BACKING, &node,
                         err);
    if (r < 0)
        return r;
    r = co_block_check(node, BLOCK_REPAIR_LEAKS, &check, err);
    if (r == 0 && (check.corruptions || check.errors))
        r = hws_fail(err, EIO, "'%.300s' is corrupt; delete it to begin anew", c->temporary);
    return co_call_close(node, r == -ENOTSUP ? 0 : r, err);
}

static int co_begin_resume(struct conversion *c, struct hws_create *create, struct hws_error *err)
{
    if (!c->temporary)
        return hws_fail(err, ENOTSUP, "'%.300s' is no file: what is made there is not resumed",
                        c->to->path);
    int r = co_resume_find(&c->resume, c->path, c->source, sources(c), create->size_bytes, c->from,
                           c->to, c->how, err);
    create->overwrite = true; /* of one that was left before there was a journal */
    if (r == 0 && c->resume.found)
        r = co_mend(c, err);
    c->load.co_checkpoint = co_checkpoint;
    c->load.checkpoint_arg = c;
    c->load.checkpoint_ns = CHECKPOINT_NS;
    return r;
}

static int co_create_target(struct conversion *c, struct hws_error *err)
{
    struct hws_create create = {
        .size_bytes = c->how->size_bytes == HWS_SIZE_UNSET ? c->length : c->how->size_bytes,
        .options = c->how->options,
        .overwrite = c->how->overwrite,
    };
    if (create.size_bytes < c->length)
        return hws_fail(err, EINVAL,
                        "the source has %llu bytes: a target of %llu would cut it off; resize the "
                        "source first, if that is meant",
                        (unsigned long long)c->length, (unsigned long long)create.size_bytes);
    int r = c->how->backing ? co_look_at_backing(c, &create, err) : 0;
    if (r == 0)
        r = name_target(c, err);
    for (unsigned i = 0; i < sources(c) && r == 0; i++)
        r = refuse_own_chain(c, c->source[i], err);
    if (r < 0)
        return r;
    if (c->how->resume)
        r = co_begin_resume(c, &create, err);
    if (r < 0 || c->resume.found)
        return r;
    struct hws_image image = *c->to;
    image.path = c->description;
    r = co_call_create(&image, &create, err);
    return r == 0 && c->how->resume ? co_resume_note(&c->resume, 0, err) : r;
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

static int co_make(struct conversion *c, struct hws_error *err)
{
    if (c->how->existing)
        return co_open_and_fill(c, err);
    int r = co_create_target(c, err);
    if (r < 0)
        return r;
    r = co_open_and_fill(c, err);
    if (r == 0 && c->temporary)
        r = overlay_keep_owner(c->path, c->temporary, err);
    if (r == 0 && c->temporary)
        r = co_rename(c->temporary, c->path, err);
    if (r == 0 && c->how->resume)
        co_resume_end(&c->resume);
    if (r < 0 && c->temporary && !c->how->resume)
        co_remove_made(c, r, err);
    return r;
}

/* ---- the whole ---- */

static int check(const struct hws_convert *how, struct hws_error *err)
{
    if (how->backing && (how->more_count || how->start || how->length || how->salvage))
        return hws_fail(err, EINVAL,
                        "a target with a backing file takes the whole of one source that can be "
                        "read");
    if ((how->bitmaps || how->bitmap) && (how->more_count || how->start || how->length))
        return hws_fail(err, EINVAL, "bitmaps are of the whole of one source");
    if (how->bitmap && how->verify)
        return hws_fail(err, EINVAL, "a target that gets parts of the source differs from it");
    if (how->resume && (how->existing || how->no_sync || how->backing || how->bitmap))
        return hws_fail(err, EINVAL,
                        "only a new target that holds all of the source, and is synced, can be "
                        "resumed");
    if (how->salvage && how->verify)
        return hws_fail(err, EINVAL, "what cannot be read cannot be verified");
    return 0;
}

static int co_convert(void *arg, struct hws_error *err)
{
    struct conversion *c = arg;
    unsigned opened = 0;
    int r = check(c->how, err);
    while (r == 0 && opened < sources(c)) {
        const struct hws_image *image = opened ? &c->how->more[opened - 1] : c->from;
        r = co_call_open(image, 0, &c->source[opened], err);
        if (r < 0)
            hws_wrap(err, r, "source");
        else
            opened++;
    }
    if (r == 0)
        r = measure_sources(c, err);
    if (r == 0)
        r = co_make(c, err);
    while (opened > 0)
        r = co_call_close(c->source[--opened], r, err);
    return r;
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
                 .rate_bytes = convert->rate_bytes,
                 .progress = convert->progress ? tell_progress : NULL,
                 .progress_arg = &c},
        .source = calloc(convert->more_count + 1, sizeof(*c.source)),
        .ret = ret ? ret : &unread,
    };
    *c.ret = (struct hws_converted){0};
    int r = c.source ? call_check_load(&c.load, err) : hws_fail(err, ENOMEM, "out of memory");
    if (r == 0)
        r = call_check_image(from, err);
    if (r == 0)
        r = call_check_image(to, err);
    if (r == 0)
        r = call_run(co_convert, &c, err);
    free(c.source);
    resume_free(&c.resume);
    free(c.path);
    free(c.temporary);
    free(c.data_file);
    free(c.description);
    return r;
}
