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

static int take_aio(const char *text)
{
    if (strcmp(text, "io_uring") == 0)
        return 0;
    if (strcmp(text, "threads") == 0 || strcmp(text, "native") == 0)
        return qi_error("aio=%s is not supported; there is io_uring", text);
    return qi_error("Invalid aio option: %s", text);
}

enum { IMAGE_OPTS = 256, FLUSH_INTERVAL, PATTERN, NO_DRAIN };

static int take_value(struct bench *how, int option)
{
    unsigned long number = 0;
    uint64_t size = 0;
    int r = 0;
    switch (option) {
    case 'c':
        r = take_number("request count", optarg, INT32_MAX, &number);
        how->bench.count = number;
        break;
    case 'd':
        r = take_number("queue depth", optarg, INT32_MAX, &number);
        how->bench.depth = (unsigned)number;
        break;
    case FLUSH_INTERVAL:
        r = take_number("flush interval", optarg, INT32_MAX, &number);
        how->bench.flush_interval = number;
        break;
    case PATTERN:
        r = take_number("pattern byte", optarg, 0xff, &number);
        how->bench.pattern = (unsigned char)number;
        break;
    case 's':
        r = qi_size_argument("buffer size", optarg, 1, INT32_MAX, &size);
        how->bench.buffer_bytes = (uint32_t)size;
        break;
    case 'S':
        return qi_size_argument("step_size", optarg, 1, INT32_MAX, &how->bench.step_bytes);
    case 'o':
        return qi_size_argument("offset", optarg, 0, INT64_MAX, &how->bench.offset);
    case 'i':
        return take_aio(optarg);
    }
    return r;
}

static void take_flag(struct bench *how, int option)
{
    switch (option) {
    case 'f':
        how->format = optarg;
        break;
    case 't':
        how->cache = optarg;
        break;
    case 'n':
        how->native = true;
        break;
    case 'w':
        how->bench.write = true;
        how->reach |= QI_WRITE;
        break;
    case 'U':
        how->reach |= QI_FORCE_SHARE;
        break;
    case IMAGE_OPTS:
        how->reach |= QI_IMAGE_OPTS;
        break;
    case NO_DRAIN:
        how->bench.no_drain = true;
        break;
    }
}

static int check(const struct bench *how)
{
    static const char *const caches[] = {"none",         "off",        "writeback",
                                         "writethrough", "directsync", "unsafe"};
    bool known = false;
    for (unsigned i = 0; i < ARRAY_LEN(caches); i++)
        known |= strcmp(caches[i], how->cache) == 0;
    if (!known)
        return qi_error("Invalid cache mode");
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

int qi_bench(int argc, char **argv)
{
    static const struct option longs[] = {
        {"help", no_argument, NULL, 'h'},
        {"flush-interval", required_argument, NULL, FLUSH_INTERVAL},
        {"pattern", required_argument, NULL, PATTERN},
        {"no-drain", no_argument, NULL, NO_DRAIN},
        {"image-opts", no_argument, NULL, IMAGE_OPTS},
        {"force-share", no_argument, NULL, 'U'},
        {NULL, 0, NULL, 0}};
    struct qi_args args = {argc, argv, "c:d:f:ni:o:qs:S:t:wU", longs, 0, ""};
    struct bench how = {.cache = "writeback",
                        .bench = {.count = 75000, .depth = 64, .buffer_bytes = 4096}};
    for (int o; (o = qi_next(&args)) != QI_DONE;) {
        if (o == QI_EXIT)
            return args.exit_code;
        take_flag(&how, o);
        if (take_value(&how, o))
            return 1;
    }
    if (optind != argc - 1)
        return qi_usage("Expecting one image file name");
    if (how.format && how.reach & QI_IMAGE_OPTS)
        return qi_error("--image-opts and --format are mutually exclusive");
    return check(&how) ? 1 : run(&how, argv[optind]);
}
