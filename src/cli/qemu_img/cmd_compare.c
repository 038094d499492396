/*
 * qemu-img compare.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cli/qemu_img/qemu_img.h"

/* Exit codes. */
enum { SAME = 0, DIFFERENT = 1, CANNOT_OPEN = 2, CANNOT_READ = 4 };

struct compare {
    const char *format[2], *cache;
    unsigned reach;
    bool progress, quiet, strict;
};

/* What is stored and what is known to be zero, for --strict. */
struct extents {
    struct hws_extent *extent;
    size_t count, room;
};

static int keep(void *arg, const struct hws_extent *extent)
{
    struct extents *all = arg;
    if (all->count == all->room) {
        size_t room = all->room ? all->room * 2 : 64;
        struct hws_extent *more = realloc(all->extent, room * sizeof(*more));
        if (!more)
            return -ENOMEM;
        all->extent = more;
        all->room = room;
    }
    all->extent[all->count++] = *extent;
    return 0;
}

static bool same_status(const struct hws_extent *a, const struct hws_extent *b)
{
    return a->data == b->data && a->zero == b->zero && a->present == b->present;
}

/* The first offset at which the two are stored differently; UINT64_MAX: none. */
static uint64_t first_unlike(const struct extents *a, const struct extents *b)
{
    for (size_t i = 0, j = 0; i < a->count && j < b->count;) {
        const struct hws_extent *x = &a->extent[i], *y = &b->extent[j];
        if (!same_status(x, y))
            return MAX(x->start, y->start);
        uint64_t x_end = x->start + x->length, y_end = y->start + y->length;
        i += x_end <= y_end;
        j += y_end <= x_end;
    }
    return UINT64_MAX;
}

static int compare_status(struct qi_operand *operands, uint64_t *ret, struct hws_error *err)
{
    struct extents all[2] = {{0}, {0}};
    int r = 0;
    for (unsigned i = 0; i < 2 && r == 0; i++)
        r = hws_map(&operands[i].image, 0, UINT64_MAX, keep, &all[i], err);
    if (r == 0)
        *ret = first_unlike(&all[0], &all[1]);
    free(all[0].extent);
    free(all[1].extent);
    return r;
}

/* Prints on standard output unless -q. */
static void say(const struct compare *how, const char *format, ...) HWS_PRINTF(2, 3);

static void say(const struct compare *how, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    if (!how->quiet)
        vprintf(format, arguments);
    va_end(arguments);
}

static int compare_open(const struct compare *how, struct qi_operand *operands, uint64_t a,
                        uint64_t b)
{
    struct hws_error err = {0};
    struct qi_progress progress;
    struct hws_difference found;
    uint64_t unlike = UINT64_MAX;
    qi_progress_start(&progress, how->progress && !how->quiet);
    if (how->strict && a != b) {
        say(how, "Strict mode: Image size mismatch!\n");
        return DIFFERENT;
    }
    struct hws_compare compare = {.progress = qi_progress_step, .progress_arg = &progress};
    int r = how->strict ? compare_status(operands, &unlike, &err) : 0;
    if (r == 0)
        r = hws_compare(&operands[0].image, &operands[1].image, &compare, &found, &err);
    if (r < 0) {
        qi_error("%s", err.text);
        return CANNOT_READ;
    }
    /* qemu-img warns when it has come to the end of the shorter one. */
    if (a != b && (!found.different || found.offset >= MIN(a, b)))
        say(how, "Warning: Image size mismatch!\n");
    uint64_t at = found.different ? found.offset - found.offset % 512 : UINT64_MAX;
    if (unlike != UINT64_MAX && unlike <= at)
        say(how, "Strict mode: Offset %llu block status mismatch!\n", (unsigned long long)unlike);
    else if (found.different)
        say(how, "Content mismatch at offset %llu!\n", (unsigned long long)at);
    else {
        if (progress.on)
            printf("    (100.00/100%%)\r");
        say(how, "Images are identical.\n");
    }
    return found.different || unlike != UINT64_MAX ? DIFFERENT : SAME;
}

static int run(const struct compare *how, char **names)
{
    struct qi_operand operands[2] = {{0}, {0}};
    uint64_t sizes[2];
    int exit_code = qi_cache_known(how->cache, QI_CACHE_SOURCE) ? SAME : CANNOT_OPEN;
    for (unsigned i = 0; i < 2 && exit_code == SAME; i++) {
        struct hws_error err = {0};
        if (qi_operand(&operands[i], names[i], how->format[i], how->cache, how->reach) < 0) {
            exit_code = CANNOT_OPEN;
        } else if (qi_virtual_size(&operands[i], &sizes[i], &err) < 0) {
            qi_explain(&operands[i], &err);
            exit_code = CANNOT_OPEN;
        }
    }
    if (exit_code == SAME)
        exit_code = compare_open(how, operands, sizes[0], sizes[1]);
    if (how->progress && !how->quiet)
        putchar('\n');
    qi_operand_free(&operands[0]);
    qi_operand_free(&operands[1]);
    return exit_code;
}

static const struct qi_arg rows[] = {
    QI_OBJECT,
    QI_OPTS(struct compare),
    QI_SHARE(struct compare),
    QI_WORD(struct compare, format[0], NULL, 'f'),
    QI_WORD(struct compare, format[1], NULL, 'F'),
    QI_WORD(struct compare, cache, NULL, 'T'),
    QI_FLAG(struct compare, progress, NULL, 'p'),
    QI_FLAG(struct compare, quiet, NULL, 'q'),
    QI_FLAG(struct compare, strict, NULL, 's'),
};

int qi_compare(int argc, char **argv)
{
    struct compare how = {.cache = "writeback"};
    int r = qi_take(QI_ARGS(rows), &how, argc, argv);
    if (r != QI_GO)
        return r;
    if (optind != argc - 2)
        return qi_usage("Expecting two image file names");
    if (qi_two_formats(how.format[0] ? how.format[0] : how.format[1], how.reach))
        return CANNOT_OPEN;
    return run(&how, argv + optind);
}
