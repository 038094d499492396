/*
 * qemu-img bench.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cli/qemu_img/qemu_img.h"

struct bench {
    const char *format, *cache;
    unsigned reach;
    bool native;
    struct hws_bench bench;
};

/* A number from @min to @max in the whole of @text; @return 0, or 1 told. */
static int take_number(const char *what, const char *text, long max, unsigned long *ret)
{
    char *end;
    errno = 0;
    *ret = strtoul(text, &end, 0);
    if (end == text || *end || errno || *text == '-' || *ret > (unsigned long)max)
        return qi_error("Invalid %s specified", what);
    return 0;
}

static int take_aio(void *command, const struct qi_arg *arg, char *text)
{
    if (strcmp(text, "io_uring") == 0)
        return 0;
    if (strcmp(text, "threads") == 0 || strcmp(text, "native") == 0)
        return qi_error("aio=%s is not supported; there is io_uring", text);
    return qi_error("Invalid aio option: %s", text);
}

static int take_count(void *command, const struct qi_arg *arg, char *text)
{
    struct bench *how = command;
    unsigned long number;
    int r = take_number("request count", text, INT32_MAX, &number);
    how->bench.count = number;
    return r;
}

static int take_depth(void *command, const struct qi_arg *arg, char *text)
{
    struct bench *how = command;
    unsigned long number;
    int r = take_number("queue depth", text, INT32_MAX, &number);
    how->bench.depth = (unsigned)number;
    return r;
}

static int take_flush_interval(void *command, const struct qi_arg *arg, char *text)
{
    struct bench *how = command;
    unsigned long number;
    int r = take_number("flush interval", text, INT32_MAX, &number);
    how->bench.flush_interval = number;
    return r;
}

static int take_pattern(void *command, const struct qi_arg *arg, char *text)
{
    struct bench *how = command;
    unsigned long number;
    int r = take_number("pattern byte", text, 0xff, &number);
    how->bench.pattern = (unsigned char)number;
    return r;
}

static int take_buffer(void *command, const struct qi_arg *arg, char *text)
{
    struct bench *how = command;
    uint64_t size = 0;
    int r = qi_size_argument("buffer size", text, 1, INT32_MAX, &size);
    how->bench.buffer_bytes = (uint32_t)size;
    return r;
}

static int take_write(void *command, const struct qi_arg *arg, char *value)
{
    struct bench *how = command;
    how->bench.write = true;
    how->reach |= QI_WRITE;
    return 0;
}

static int check(const struct bench *how)
{
    if (!qi_cache_known(how->cache, QI_CACHE_BENCH))
        return 1;
    if (how->bench.depth == 0)
        return qi_error("Invalid queue depth specified");
    if (!how->bench.write && how->bench.flush_interval)
        return qi_error("--flush-interval is only available in write tests");
    if (how->bench.flush_interval && how->bench.flush_interval < how->bench.depth)
        return qi_error("Flush interval can't be smaller than depth");
    if (how->native)
        return qi_error("aio=native is not supported; there is io_uring");
    return 0;
}

static int run(struct bench *how, const char *name)
{
    autooperand operand = {0};
    struct hws_error err = {0};
    struct hws_bench *bench = &how->bench;
    struct hws_benched done;
    uint64_t size;
    if (qi_operand(&operand, name, how->format, how->cache, how->reach) < 0)
        return 1;
    if (qi_virtual_size(&operand, &size, &err) < 0)
        return qi_explain(&operand, &err);
    if (bench->write)
        qi_warn_raw(&operand);
    if (!bench->step_bytes)
        bench->step_bytes = bench->buffer_bytes;
    printf("Sending %llu %s requests, %u bytes each, %u in parallel (starting at offset %llu, step "
           "size %llu)\n",
           (unsigned long long)bench->count, bench->write ? "write" : "read", bench->buffer_bytes,
           bench->depth, (unsigned long long)bench->offset, (unsigned long long)bench->step_bytes);
    if (bench->flush_interval)
        printf("Sending flush every %llu requests\n", (unsigned long long)bench->flush_interval);
    fflush(stdout);
    if (bench->count && (bench->buffer_bytes > size || bench->offset > size - bench->buffer_bytes))
        return qi_error("Failed request: %s", strerror(EIO));
    int r = bench->count ? hws_bench(&operand.image, bench, &done, &err) : 0;
    if (r < 0)
        return r == -EAGAIN ? qi_explain(&operand, &err)
                            : qi_error("Failed request: %s", strerror(-r));
    printf("Run completed in %.3f seconds.\n", bench->count ? (double)done.time_ns / 1e9 : 0);
    return 0;
}

static const struct qi_arg rows[] = {
    QI_TAKE("flush-interval", 0, take_flush_interval),
    QI_TAKE("pattern", 0, take_pattern),
    QI_FLAG(struct bench, bench.no_drain, "no-drain", 0),
    QI_OPTS(struct bench),
    QI_SHARE(struct bench),
    QI_TAKE(NULL, 'c', take_count),
    QI_TAKE(NULL, 'd', take_depth),
    QI_WORD(struct bench, format, NULL, 'f'),
    QI_FLAG(struct bench, native, NULL, 'n'),
    QI_TAKE(NULL, 'i', take_aio),
    QI_BYTES(struct bench, bench.offset, NULL, 'o', "offset", 0, INT64_MAX),
    QI_NOTHING(NULL, 'q'),
    QI_TAKE(NULL, 's', take_buffer),
    QI_BYTES(struct bench, bench.step_bytes, NULL, 'S', "step_size", 1, INT32_MAX),
    QI_WORD(struct bench, cache, NULL, 't'),
    QI_DO(NULL, 'w', take_write),
};

int qi_bench(int argc, char **argv)
{
    struct bench how = {.cache = "writeback",
                        .bench = {.count = 75000, .depth = 64, .buffer_bytes = 4096}};
    int r = qi_take(QI_ARGS(rows), &how, argc, argv);
    if (r != QI_GO)
        return r;
    if (optind != argc - 1)
        return qi_usage("Expecting one image file name");
    if (qi_two_formats(how.format, how.reach))
        return 1;
    return check(&how) ? 1 : run(&how, argv[optind]);
}
