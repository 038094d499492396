/*
 * qemu-img convert.
 *
 * A target that does not exist appears under its name when it is whole; one that exists is made
 * anew in its place, as qemu-img does it, so that its locks, links and mounts count.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cli/qemu_img/qemu_img.h"
#include "cli/qemu_img/convert.h"

/* ---- the command line ---- */

#define SPARSE_MAX (16u * 1024 * 1024)

static int take_sparse(void *command, const struct qi_arg *arg, char *text)
{
    struct qi_conversion *c = command;
    const char *what = "buffer size for sparse output";
    if (qi_size_argument(what, text, 0, INT64_MAX, &c->sparse))
        return 1;
    c->has_sparse = true;
    if (c->sparse % 512 == 0 && c->sparse <= SPARSE_MAX)
        return 0;
    return qi_error("Invalid %s specified. Valid sizes are multiples of 512 up to %u. Select 0 to "
                    "disable sparse detection (fully allocates output).",
                    what, SPARSE_MAX);
}

static int take_coroutines(void *command, const struct qi_arg *arg, char *text)
{
    struct qi_conversion *c = command;
    char *end;
    long count = strtol(text, &end, 10);
    if (end == text || *end || count < 1 || count > 16)
        return qi_error("Invalid number of coroutines. Allowed number of coroutines is between 1 "
                        "and 16");
    c->requests = (unsigned)count;
    return 0;
}

static int take_snapshot(void *command, const struct qi_arg *arg, char *text)
{
    struct qi_conversion *c = command;
    c->has_snapshot = true;
    return qi_snapshot_param(text, &c->snapshot);
}

static const struct qi_arg rows[] = {
    QI_OBJECT,
    QI_OPTS(struct qi_conversion),
    QI_SHARE(struct qi_conversion),
    QI_FLAG(struct qi_conversion, target_opts, "target-image-opts", 0),
    QI_FLAG(struct qi_conversion, target_is_zero, "target-is-zero", 0),
    QI_FLAG(struct qi_conversion, salvage, "salvage", 0),
    QI_FLAG(struct qi_conversion, bitmaps, "bitmaps", 0),
    QI_FLAG(struct qi_conversion, skip_broken, "skip-broken-bitmaps", 0),
    QI_FLAG(struct qi_conversion, compress, NULL, 'c'),
    QI_WORD(struct qi_conversion, format, NULL, 'f'),
    QI_TAKE(NULL, 'l', take_snapshot),
    QI_TAKE(NULL, 'm', take_coroutines),
    QI_FLAG(struct qi_conversion, existing, NULL, 'n'),
    QI_OPTIONS(struct qi_conversion, text),
    QI_FLAG(struct qi_conversion, progress, NULL, 'p'),
    QI_FLAG(struct qi_conversion, quiet, NULL, 'q'),
    QI_BYTES(struct qi_conversion, rate, NULL, 'r', "rate limit", 0, INT64_MAX),
    QI_WORD(struct qi_conversion, target_cache, NULL, 't'),
    QI_WORD(struct qi_conversion, backing, NULL, 'B'),
    QI_FLAG(struct qi_conversion, offload, NULL, 'C'),
    QI_WORD(struct qi_conversion, backing_format, NULL, 'F'),
    QI_WORD(struct qi_conversion, target_format, NULL, 'O'),
    QI_TAKE(NULL, 'S', take_sparse),
    QI_WORD(struct qi_conversion, source_cache, NULL, 'T'),
    QI_FLAG(struct qi_conversion, any_order, NULL, 'W'),
};

/* What does not go together, in the order in which qemu-img looks. @return 0, or 1 told. */
static int check_options(const struct qi_conversion *c)
{
    if (c->target_opts && !c->existing)
        return qi_error("--target-image-opts requires use of -n flag");
    if (c->target_is_zero && !c->existing)
        return qi_error("--target-is-zero requires use of -n flag");
    if (c->skip_broken && !c->bitmaps)
        return qi_error("Use of --skip-broken-bitmaps requires --bitmaps");
    if (qi_two_formats(c->format, c->reach) ||
        qi_two_formats(c->target_format, c->target_opts ? QI_IMAGE_OPTS : 0))
        return 1;
    if (c->offload && c->compress)
        return qi_error("Cannot enable copy offloading when -c is used");
    if (c->offload && c->has_sparse)
        return qi_error("Cannot enable copy offloading when -S is used");
    if (c->offload && c->salvage)
        return qi_error("Cannot use copy offloading in salvaging mode");
    return 0;
}

static int run(struct qi_conversion *c, int argc, char **argv)
{
    if (c->text && qi_wants_help(c->text)) {
        const char *format = c->target_format ? c->target_format : "raw";
        const char *known = qi_driver_known(format);
        return known ? qi_options_help(known, optind < argc)
                     : qi_error("Unknown file format '%s'", format);
    }
    if (check_options(c))
        return 1;
    if (optind + 2 > argc)
        return qi_error("Must specify image file name");
    if (c->existing && c->text)
        return qi_error("-o has no effect when skipping image creation");
    c->sources = argv + optind;
    c->source_count = (unsigned)(argc - optind - 1);
    c->target = argv[argc - 1];
    return qi_convert_run(c);
}

int qi_convert(int argc, char **argv)
{
    struct qi_conversion c = {.source_cache = "writeback", .target_cache = "unsafe"};
    int r = qi_take(QI_ARGS(rows), &c, argc, argv);
    if (r == QI_GO)
        r = run(&c, argc, argv);
    free(c.text);
    qi_snapshot_key_free(&c.snapshot);
    return r;
}
