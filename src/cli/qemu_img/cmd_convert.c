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

enum { IMAGE_OPTS = 256, TARGET_IMAGE_OPTS, TARGET_IS_ZERO, SALVAGE, BITMAPS, SKIP_BROKEN };

static const struct option longs[] = {{"help", no_argument, NULL, 'h'},
                                      {"object", required_argument, NULL, QI_OBJECT},
                                      {"image-opts", no_argument, NULL, IMAGE_OPTS},
                                      {"force-share", no_argument, NULL, 'U'},
                                      {"target-image-opts", no_argument, NULL, TARGET_IMAGE_OPTS},
                                      {"target-is-zero", no_argument, NULL, TARGET_IS_ZERO},
                                      {"salvage", no_argument, NULL, SALVAGE},
                                      {"bitmaps", no_argument, NULL, BITMAPS},
                                      {"skip-broken-bitmaps", no_argument, NULL, SKIP_BROKEN},
                                      {NULL, 0, NULL, 0}};

/* Options without a value. @return false where @option is none. */
static bool take_flag(struct qi_conversion *c, int option)
{
    const struct {
        int option;
        bool *flag;
    } flags[] = {
        {'c', &c->compress},
        {'n', &c->existing},
        {'p', &c->progress},
        {'q', &c->quiet},
        {'C', &c->offload},
        {'W', &c->any_order},
        {TARGET_IMAGE_OPTS, &c->target_opts},
        {TARGET_IS_ZERO, &c->target_is_zero},
        {SALVAGE, &c->salvage},
        {BITMAPS, &c->bitmaps},
        {SKIP_BROKEN, &c->skip_broken},
    };
    for (unsigned i = 0; i < ARRAY_LEN(flags); i++)
        if (flags[i].option == option) {
            *flags[i].flag = true;
            return true;
        }
    if (option == 'U')
        c->reach |= QI_FORCE_SHARE;
    else if (option == IMAGE_OPTS)
        c->reach |= QI_IMAGE_OPTS;
    else
        return false;
    return true;
}

#define SPARSE_MAX (16u * 1024 * 1024)

static int take_sparse(struct qi_conversion *c, const char *text)
{
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

static int take_coroutines(struct qi_conversion *c, const char *text)
{
    char *end;
    long count = strtol(text, &end, 10);
    if (end == text || *end || count < 1 || count > 16)
        return qi_error("Invalid number of coroutines. Allowed number of coroutines is between 1 "
                        "and 16");
    c->requests = (unsigned)count;
    return 0;
}

/* Options with a value. @return 0, or 1 told. */
static int take_value(struct qi_conversion *c, int option, char *value)
{
    switch (option) {
    case 'f':
        c->format = value;
        return 0;
    case 'O':
        c->target_format = value;
        return 0;
    case 'B':
        c->backing = value;
        return 0;
    case 'F':
        c->backing_format = value;
        return 0;
    case 't':
        c->target_cache = value;
        return 0;
    case 'T':
        c->source_cache = value;
        return 0;
    case 'o':
        return qi_join_options(&c->text, value);
    case 'l':
        c->has_snapshot = true;
        return qi_snapshot_param(value, &c->snapshot);
    case 'S':
        return take_sparse(c, value);
    case 'm':
        return take_coroutines(c, value);
    case 'r':
        return qi_size_argument("rate limit", value, 0, INT64_MAX, &c->rate);
    default:
        return 0;
    }
}

/* What does not go together, in the order in which qemu-img looks. @return 0, or 1 told. */
static int check_options(const struct qi_conversion *c)
{
    bool source_opts = c->reach & QI_IMAGE_OPTS;
    if (c->target_opts && !c->existing)
        return qi_error("--target-image-opts requires use of -n flag");
    if (c->target_is_zero && !c->existing)
        return qi_error("--target-is-zero requires use of -n flag");
    if (c->skip_broken && !c->bitmaps)
        return qi_error("Use of --skip-broken-bitmaps requires --bitmaps");
    if ((source_opts && c->format) || (c->target_opts && c->target_format))
        return qi_error("--image-opts and --format are mutually exclusive");
    if (c->offload && c->compress)
        return qi_error("Cannot enable copy offloading when -c is used");
    if (c->offload && c->has_sparse)
        return qi_error("Cannot enable copy offloading when -S is used");
    if (c->offload && c->salvage)
        return qi_error("Cannot use copy offloading in salvaging mode");
    return 0;
}

static int parse(struct qi_conversion *c, int argc, char **argv)
{
    struct qi_args args = {argc, argv, "cf:l:m:no:pqr:t:B:CF:O:S:T:UW", longs, 0, ""};
    for (int o; (o = qi_next(&args)) != QI_DONE;) {
        if (o == QI_EXIT)
            return args.exit_code ? args.exit_code : QI_EXIT;
        if (!take_flag(c, o) && take_value(c, o, optarg))
            return 1;
    }
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
    int r = parse(&c, argc, argv);
    if (r == 0)
        r = run(&c, argc, argv);
    free(c.text);
    qi_snapshot_key_free(&c.snapshot);
    return r == QI_EXIT ? 0 : r;
}
