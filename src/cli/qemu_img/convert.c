/*
 * The work of qemu-img convert: the sources are opened for their sizes, the options of the target
 * checked, and the library copies.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cli/qemu_img/convert.h"
#include <sys/stat.h>

#define SOURCES_MAX 64

/* A conversion under way. */
struct work {
    const struct qi_conversion *how;
    struct qi_operand source[SOURCES_MAX], target;
    struct hws_image more[SOURCES_MAX];
    struct qi_create_options options;
    const char *format;             /* of the target, as qemu calls it */
    const char *known;              /* the same as the library calls it */
    uint64_t size;                  /* of the source */
    char *snapshot;                 /* its ID */
    char *backing, *backing_format; /* of the target */
    struct qi_progress progress;
};

static int open_source(struct work *w, unsigned i)
{
    const struct qi_conversion *how = w->how;
    struct hws_error err = {0};
    uint64_t size;
    struct qi_operand *source = &w->source[i];
    if (qi_operand(source, how->sources[i], how->format, how->source_cache, how->reach) < 0)
        return 1;
    if (qi_virtual_size(source, &size, &err) < 0)
        return qi_explain(source, &err);
    w->size += (size + 511) & ~(uint64_t)511;
    return 0;
}

static int open_sources(struct work *w)
{
    const struct qi_conversion *how = w->how;
    struct hws_error err = {0};
    if (how->source_count > SOURCES_MAX)
        return qi_error("more than %d images cannot be concatenated", SOURCES_MAX);
    for (unsigned i = 0; i < how->source_count; i++)
        if (open_source(w, i))
            return 1;
    if (!how->has_snapshot)
        return 0;
    if (how->source_count > 1)
        return qi_error("No support for concatenating multiple snapshot");
    if (qi_snapshot_find(&w->source[0], &how->snapshot, &w->snapshot, &err) < 0)
        return qi_error("Failed to load snapshot: Can't find snapshot");
    w->source[0].image.snapshot = w->snapshot;
    return 0;
}

/* ---- the target's options ---- */

static int take_backing(struct work *w, struct hws_error *err)
{
    const struct qi_conversion *how = w->how;
    bool can = strcmp(w->known, "qcow2") == 0;
    if (how->backing && !can)
        return hws_fail(err, EINVAL, "Backing file not supported for file format '%s'", w->format);
    if (how->backing_format && !can)
        return hws_fail(err, EINVAL, "Backing file format not supported for file format '%s'",
                        w->format);
    int r = how->backing ? qi_options_set(&w->options, "backing_file", how->backing, err) : 0;
    if (r == 0 && how->backing_format)
        r = qi_options_set(&w->options, "backing_fmt", how->backing_format, err);
    return r;
}

static int check_compression(const struct work *w, struct hws_error *err)
{
    const char *preallocation = qi_options_get(&w->options, "preallocation");
    if (!w->how->compress)
        return 0;
    if (strcmp(w->known, "qcow2") != 0)
        return hws_fail(err, ENOTSUP, "Compression not supported for this file format");
    if (preallocation && strcmp(preallocation, "off") != 0)
        return hws_fail(err, EINVAL,
                        "Compression and preallocation not supported at the same time");
    return 0;
}

static int check_backing(const struct work *w, struct hws_error *err)
{
    const char *backing = qi_options_get(&w->options, "backing_file");
    if (!backing)
        return 0;
    if (!qi_options_get(&w->options, "backing_fmt"))
        return hws_fail(err, EINVAL, "Use of backing file requires explicit backing format");
    if (w->how->source_count > 1)
        return hws_fail(err, EINVAL,
                        "Having a backing file for the target makes no sense when concatenating "
                        "multiple input images");
    return 0;
}

static int settle_options(struct work *w, struct hws_error *err)
{
    int r = qi_options_parse(&w->options, w->known, w->how->text, err);
    if (r == 0)
        r = take_backing(w, err);
    if (r == 0)
        r = check_backing(w, err);
    if (r == 0)
        r = check_compression(w, err);
    char size[32];
    snprintf(size, sizeof(size), "%llu", (unsigned long long)w->size);
    return r < 0 ? r : qi_options_set(&w->options, "size", size, err);
}

static int find_format(struct work *w)
{
    w->format = w->how->target_format ? w->how->target_format : "raw";
    const char *known = qi_driver_known(w->format);
    if (!known)
        return qi_error("Unknown file format '%s'", w->format);
    w->known = strcmp(known, "file") == 0 ? "raw" : known;
    return 0;
}

/* ---- copying ---- */

/* What could not be read, and became zeroes. */
static void report(void *arg, const char *line)
{
    const struct qi_conversion *how = arg;
    if (!how->quiet)
        qi_warning("%s", line);
}

static void fill_convert(struct work *w, struct hws_convert *convert)
{
    const struct qi_conversion *how = w->how;
    for (unsigned i = 1; i < how->source_count; i++)
        w->more[i - 1] = w->source[i].image;
    *convert = (struct hws_convert){
        .size_bytes = w->size,
        .options = (const char *const *)w->options.texts,
        .existing = how->existing,
        .overwrite = true,
        .no_sync = strcmp(how->target_cache, "unsafe") == 0,
        .compress = how->compress,
        .offload = how->offload,
        .sparse_bytes = !how->has_sparse ? 0
                        : how->sparse    ? (uint32_t)how->sparse
                                         : UINT32_MAX,
        .requests = how->requests,
        .rate_bytes = how->rate,
        .more = w->more,
        .more_count = how->source_count - 1,
        .backing = w->backing,
        .backing_format = w->backing_format,
        .bitmaps = how->bitmaps,
        .skip_broken_bitmaps = how->skip_broken,
        .target_is_zero = how->target_is_zero,
        .salvage = how->salvage,
        .report = report,
        .report_arg = (void *)how,
        .progress = qi_progress_step,
        .progress_arg = &w->progress,
    };
    /* The library takes powers of two; a smaller run finds all that a larger one would. */
    while (convert->sparse_bytes != UINT32_MAX && convert->sparse_bytes &&
           !is_power_of_2(convert->sparse_bytes))
        convert->sparse_bytes &= convert->sparse_bytes - 1;
}

/* Tells why making the target failed. */
static int tell_creation(const struct work *w, const struct hws_error *err)
{
    const char *file = qi_local_file(w->how->target);
    const char *prefix = "error while converting";
    if (err->code == EAGAIN || strstr(err->text, "is part of the source"))
        return qi_error("%s: %s %s: Failed to get \"write\" lock\n"
                        "Is another process using the image [%s]?",
                        w->how->target, prefix, w->format, file);
    if (err->code == ENOENT || err->code == EACCES || err->code == EROFS || err->code == ENOTDIR)
        return qi_error("%s: %s %s: Could not create '%s': %s", w->how->target, prefix, w->format,
                        file, strerror(err->code));
    return qi_error("%s: %s %s: %s", w->how->target, prefix, w->format, err->text);
}

static int copy(struct work *w, const struct hws_image *to)
{
    struct hws_error err = {0};
    struct hws_convert convert;
    fill_convert(w, &convert);
    int r = hws_convert(&w->source[0].image, to, &convert, NULL, &err);
    if (r == 0)
        return 0;
    if (err.code == ENOSPC && strstr(err.text, "the source needs"))
        return qi_error("output file is smaller than input file");
    return w->how->existing ? qi_explain(&w->target, &err) : tell_creation(w, &err);
}

/* The library takes the backing file apart from the options. */
static void move_backing(struct work *w)
{
    const char *name = qi_options_given(&w->options, "backing_file");
    const char *format = qi_options_given(&w->options, "backing_fmt");
    w->backing = name ? strdup(name) : NULL;
    w->backing_format = format ? strdup(format) : NULL;
    qi_options_drop(&w->options, "backing_file");
    qi_options_drop(&w->options, "backing_fmt");
}

static bool can_open_backing(const struct work *w, const char *file)
{
    struct stat st;
    autofree char *path = qi_beside(file, w->backing);
    const char *local = path ? qi_local_file(path) : NULL;
    if (local && stat(local, &st) == 0)
        return true;
    qi_error("Could not open '%s': Could not open backing file: Could not open '%s': %s",
             w->how->target, local ? local : w->backing, strerror(local ? errno : EINVAL));
    return false;
}

static int check_bitmaps(const struct work *w)
{
    const char *compat = w->options.table ? qi_options_get(&w->options, "compat") : NULL;
    bool old = compat && (!strcmp(compat, "0.10") || !strcmp(compat, "v2"));
    if (!w->how->bitmaps)
        return 0;
    if (strcmp(w->source[0].driver, "qcow2") != 0)
        return qi_error("Source lacks bitmap support");
    if (old || strcmp(w->known, "qcow2") != 0)
        return qi_error("Format driver '%s' does not support bitmaps", w->format);
    return 0;
}

static int make_new(struct work *w)
{
    const char *file = qi_local_file(w->how->target);
    struct hws_error err = {0};
    if (!file)
        return qi_error("%s: error while converting %s: Unknown protocol '%.*s'", w->how->target,
                        w->format, (int)strcspn(w->how->target, ":"), w->how->target);
    if (settle_options(w, &err) < 0)
        return qi_error("%s", err.text);
    if (check_bitmaps(w))
        return 1;
    if (qi_options_check(&w->options, &err) == 0)
        move_backing(w);
    if (err.code || qi_options_finish(&w->options, &err) < 0)
        return qi_error("%s: error while converting %s: %s", w->how->target, w->format, err.text);
    if (w->backing && !can_open_backing(w, file))
        return 1;
    if (qi_target_free(file, &err) < 0)
        return tell_creation(w, &err);
    err = (struct hws_error){0};
    struct hws_image to = {.path = file,
                           .format = w->known,
                           .trust_names = true,
                           .probe_raw = true,
                           .cache = w->how->target_cache};
    return copy(w, &to);
}

static int fill_existing(struct work *w)
{
    const struct qi_conversion *how = w->how;
    unsigned reach = QI_WRITE | (how->target_opts ? QI_IMAGE_OPTS : 0);
    if (how->compress && strcmp(w->known, "qcow2") != 0 && !how->target_opts)
        return qi_error("Compression not supported for this file format");
    if (qi_operand(&w->target, how->target, how->target_opts ? NULL : w->format, how->target_cache,
                   reach) < 0)
        return 1;
    return copy(w, &w->target.image);
}

int qi_convert_run(const struct qi_conversion *how)
{
    struct work w = {.how = how};
    qi_progress_start(&w.progress, how->progress && !how->quiet);
    int r = !qi_cache_known(how->source_cache, QI_CACHE_SOURCE) ||
            !qi_cache_known(how->target_cache, QI_CACHE_TARGET);
    if (r == 0)
        r = open_sources(&w);
    if (r == 0)
        r = find_format(&w);
    if (r == 0)
        r = how->existing ? fill_existing(&w) : make_new(&w);
    qi_progress_end(&w.progress, r == 0);
    for (unsigned i = 0; i < SOURCES_MAX; i++)
        qi_operand_free(&w.source[i]);
    qi_operand_free(&w.target);
    qi_options_free(&w.options);
    free(w.snapshot);
    free(w.backing);
    free(w.backing_format);
    return r;
}
