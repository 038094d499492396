/*
 * `hawser bench`: how fast an image answers.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cli/image.h"
#include "cli/output.h"
#include <limits.h>

#define COUNT 75000u

struct bench_options {
    const char *format, *cache;
    struct cli_list allow;
    bool force_share, write, no_drain;
    uint64_t count, depth, buffer, step, offset, flush_interval, pattern;
    int output;
};

static void print_result(const struct bench_options *options, const struct hws_benched *found)
{
    double seconds = (double)found->time_ns / 1e9, per_second = 1 / (seconds > 0 ? seconds : 1e-9);
    char text[64];
    if (options->output == CLI_JSON) {
        out_json(json_pack("{s:I, s:I, s:I, s:f, s:f}", "requests", (json_int_t)found->requests,
                           "flushes", (json_int_t)found->flushes, "bytes", (json_int_t)found->bytes,
                           "seconds", seconds, "iops", (double)found->requests * per_second));
        return;
    }
    printf("%llu requests in %.3f seconds: %.0f a second, %s a second\n",
           (unsigned long long)found->requests, seconds, (double)found->requests * per_second,
           out_size((uint64_t)((double)found->bytes * per_second), text, sizeof(text)));
}

static int run(const void *arg, char **operands, unsigned count)
{
    const struct bench_options *options = arg;
    struct hws_error err = {0};
    struct hws_image image = CLI_IMAGE(options, operands[0]);
    struct hws_benched found;
    image.cache = options->cache;
    uint64_t buffer = options->buffer == UINT64_MAX ? 0 : options->buffer;
    if (buffer > INT_MAX || options->pattern > UCHAR_MAX || options->depth > INT_MAX) {
        hws_fail(&err, EINVAL, "a buffer has up to 2G-1, a pattern is 0 to 255");
        return out_error("bench", CLI_USAGE, &err);
    }
    struct hws_bench how = {
        .write = options->write,
        .pattern = (unsigned char)options->pattern,
        .count = options->count ? options->count : COUNT,
        .depth = (unsigned)options->depth,
        .buffer_bytes = (uint32_t)buffer,
        .step_bytes = options->step == UINT64_MAX ? 0 : options->step,
        .offset = options->offset == UINT64_MAX ? 0 : options->offset,
        .flush_interval = options->flush_interval,
        .no_drain = options->no_drain,
    };
    if (hws_bench(&image, &how, &found, &err) < 0) {
        cli_explain_open(&err, operands[0]);
        return out_error("bench", CLI_FAILED, &err);
    }
    print_result(options, &found);
    return CLI_OK;
}

static const struct cli_option table[] = {
    CLI_FORMAT_OPTION(struct bench_options),
    {"count", 'c', CLI_UINT, offsetof(struct bench_options, count), "N",
     "requests; 75000 if not given"},
    {"depth", 'd', CLI_UINT, offsetof(struct bench_options, depth), "N",
     "requests in flight; 64 if not given"},
    {"buffer-size", 's', CLI_SIZE, offsetof(struct bench_options, buffer), "SIZE",
     "bytes of a request; 4k if not given"},
    {"step-size", 'S', CLI_SIZE, offsetof(struct bench_options, step), "SIZE",
     "from one request to the next; the buffer size if not given"},
    {"offset", 'o', CLI_SIZE, offsetof(struct bench_options, offset), "OFFSET",
     "of the first request"},
    {"write", 'w', CLI_FLAG, offsetof(struct bench_options, write), NULL,
     "write, which destroys what the image holds there"},
    {"pattern", 0, CLI_UINT, offsetof(struct bench_options, pattern), "BYTE",
     "what is written; 0 if not given"},
    {"flush-interval", 0, CLI_UINT, offsetof(struct bench_options, flush_interval), "N",
     "with -w: flush after so many requests"},
    {"no-drain", 0, CLI_FLAG, offsetof(struct bench_options, no_drain), NULL,
     "flush without waiting for the requests in flight"},
    {"cache", 't', CLI_TEXT, offsetof(struct bench_options, cache), "MODE",
     "none, writeback (the default), writethrough, directsync or unsafe"},
    CLI_ALLOW_OPTION(struct bench_options),
    CLI_FORCE_SHARE_OPTION(struct bench_options),
    CLI_OUTPUT_OPTION(struct bench_options),
    {NULL},
};

const struct cli_command cli_bench_command = {
    .name = "bench",
    .summary = "Measure how fast an image answers",
    .synopsis = "[OPTION...] IMAGE",
    .description =
        "Sends requests of one size to IMAGE, several at a time on one thread, and tells how long "
        "they took. They go forward through the image, and past its end begin at 0 again.",
    .operands = {{"IMAGE", "the image to measure", CLI_COMPLETE_FILE}},
    .examples = {{"4 KiB reads, past the page cache", "hawser bench -t none disk.qcow2"},
                 {"64 KiB writes with a flush every 256",
                  "hawser bench -w -s 64k --flush-interval=256 scratch.qcow2"}},
    .options = table,
    .options_bytes = sizeof(struct bench_options),
    .operands_min = 1,
    .operands_max = 1,
    .run = run,
};
