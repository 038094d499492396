/*
 * `hawser convert`: an image becomes one of another format.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/size.h"
#include "cli/image.h"
#include "cli/output.h"
#include "cli/progress.h"
#include <limits.h>

struct convert_options {
    const char *format, *target_format, *snapshot;
    struct cli_list driver_options, allow;
    const char *backing, *backing_format, *bitmap;
    bool compress, existing, offload, overwrite, verify, no_sync, force_share, quiet;
    bool progress_json;
    bool resume, salvage, target_is_zero, bitmaps, skip_broken;
    uint64_t level, sparse, size, threads, requests, rate, start, length;
    int output;
};

#define SOURCES_MAX 64

static void print_lost(void *arg, const char *line)
{
    if (!*(bool *)arg)
        out_note("convert", "%s", line);
}

static void print_json(const struct hws_converted *done, const char *target)
{
    out_json(json_pack(
        "{s:o, s:I, s:I, s:I, s:I, s:I, s:I}", "filename", out_string(target), "virtual-size",
        (json_int_t)done->virtual_size, "data-bytes", (json_int_t)done->data_bytes, "offload-bytes",
        (json_int_t)done->offload_bytes, "zero-bytes", (json_int_t)done->zero_bytes, "lost-bytes",
        (json_int_t)done->lost_bytes, "resumed-bytes", (json_int_t)done->resumed_bytes));
}

static void print_human(const struct hws_converted *done, const char *target)
{
    char size[64], data[64];
    if (done->lost_bytes)
        out_note("convert", "%llu bytes could not be read; they are zeroes in the target",
                 (unsigned long long)done->lost_bytes);
    printf("converted to ");
    out_safe(stdout, target);
    printf(": %s, of it data: %s\n", out_size(done->virtual_size, size, sizeof(size)),
           out_size(done->data_bytes + done->offload_bytes, data, sizeof(data)));
}

/* 0 would mean the default to the library; the user says 0 to keep zeroes as they are. */
static int sparse_bytes(uint64_t given, uint32_t *ret, struct hws_error *err)
{
    *ret = given == UINT64_MAX ? 0 : given == 0 ? UINT32_MAX : (uint32_t)given;
    if (given != UINT64_MAX && given != 0 &&
        (given < 512 || given > MiB || (given & (given - 1)) != 0))
        return hws_fail(err, EINVAL, "-S takes 0, or a power of two from 512 to 1M");
    return 0;
}

static int check_options(const struct convert_options *options, struct hws_error *err)
{
    if (options->existing &&
        (options->driver_options.count || options->overwrite || options->size != UINT64_MAX))
        return hws_fail(err, EINVAL,
                        "-n writes into the image as it is: -o, --size and --overwrite are "
                        "for new ones");
    if (options->target_is_zero && !options->existing)
        return hws_fail(err, EINVAL, "--target-is-zero is for -n: a new target is zero");
    if (options->level && !options->compress)
        return hws_fail(err, EINVAL, "--level is for compressed targets: -c is missing");
    if (options->bitmap && !options->existing && !options->backing)
        return hws_fail(err, EINVAL,
                        "--bitmap is for targets that hold the rest: -n or -B is missing");
    if (options->backing_format && !options->backing)
        return hws_fail(err, EINVAL, "-F is the format of a backing file: -B is missing");
    if (options->length == 0)
        return hws_fail(err, EINVAL, "--length is 0: there is nothing to copy");
    return 0;
}

static struct hws_convert to_how(const struct convert_options *options)
{
    return (struct hws_convert){
        .options = options->driver_options.item,
        .size_bytes = options->size == UINT64_MAX ? HWS_SIZE_UNSET : options->size,
        .existing = options->existing,
        .overwrite = options->overwrite,
        .compress = options->compress,
        .level = (int)MIN(options->level, (uint64_t)INT_MAX),
        .offload = options->offload,
        .verify = options->verify,
        .no_sync = options->no_sync,
        .threads = (unsigned)MIN(options->threads, (uint64_t)UINT_MAX),
        .requests = (unsigned)MIN(options->requests, (uint64_t)UINT_MAX),
        .rate_bytes = options->rate == UINT64_MAX ? 0 : options->rate,
        .start = options->start == UINT64_MAX ? 0 : options->start,
        .length = options->length == UINT64_MAX ? 0 : options->length,
        .backing = options->backing,
        .backing_format = options->backing_format,
        .target_is_zero = options->target_is_zero,
        .resume = options->resume,
        .salvage = options->salvage,
        .bitmap = options->bitmap,
        .bitmaps = options->bitmaps || options->skip_broken,
        .skip_broken_bitmaps = options->skip_broken,
    };
}

static int convert(const struct convert_options *options, char **operands, unsigned count,
                   struct hws_converted *done, struct hws_error *err)
{
    struct hws_image image[SOURCES_MAX];
    unsigned sources = count - 1;
    for (unsigned i = 0; i < sources; i++) {
        image[i] = (struct hws_image)CLI_IMAGE(options, operands[i]);
        image[i].snapshot = options->snapshot;
    }
    struct hws_image to = {
        .path = operands[sources], .format = options->target_format, .allow = image[0].allow};
    struct hws_convert how = to_how(options);
    struct progress progress;
    bool quiet = options->quiet;
    how.more = image + 1;
    how.more_count = sources - 1;
    how.progress = progress_step;
    how.progress_arg = &progress;
    how.report = print_lost;
    how.report_arg = &quiet;
    int r = sparse_bytes(options->sparse, &how.sparse_bytes, err);
    if (r < 0)
        return r;
    progress_start(&progress, "converting", options->quiet || options->output == CLI_JSON);
    progress.lines = options->progress_json;
    r = hws_convert(image, &to, &how, done, err);
    progress_end(&progress);
    return r;
}

static int run(const void *arg, char **operands, unsigned count)
{
    const struct convert_options *options = arg;
    struct hws_error err = {0};
    struct hws_converted done;
    if (check_options(options, &err) < 0)
        return out_error("convert", CLI_USAGE, &err);
    if (convert(options, operands, count, &done, &err) < 0) {
        if (err.code == EEXIST) {
            struct hws_error inner = err;
            hws_fail(&err, EEXIST, "%.600s; --overwrite replaces it", inner.text);
        }
        cli_explain_open(&err, operands[0]);
        return out_error("convert", CLI_FAILED, &err);
    }
    if (options->output == CLI_JSON)
        print_json(&done, operands[count - 1]);
    else if (!options->quiet)
        print_human(&done, operands[count - 1]);
    return CLI_OK;
}

static const struct cli_option table[] = {
    CLI_FORMAT_OPTION(struct convert_options),
    CLI_SNAPSHOT_OPTION(struct convert_options, 'l'),
    {"target-format", 'O', CLI_TEXT, offsetof(struct convert_options, target_format), "FMT",
     "format of the target; qcow2 if not given, and with -n found from its header",
     .completes = CLI_COMPLETE_FORMAT},
    {"options", 'o', CLI_LIST, offsetof(struct convert_options, driver_options), "NAME=VALUE,...",
     "options of the target's format (may be repeated); 'hawser help formats' lists them"},
    {"compress", 'c', CLI_FLAG, offsetof(struct convert_options, compress), NULL,
     "write compressed clusters; -o compression_type=zstd chooses the codec"},
    {"level", 0, CLI_UINT, offsetof(struct convert_options, level), "N",
     "with -c: 1 (fast) to 12 (small) for zlib, to 22 for zstd; what measured best if not given"},
    {"size", 0, CLI_SIZE, offsetof(struct convert_options, size), "SIZE",
     "virtual size of the target; that of the source if not given"},
    {"existing", 'n', CLI_FLAG, offsetof(struct convert_options, existing), NULL,
     "write into an image or device that exists"},
    {"overwrite", 0, CLI_FLAG, offsetof(struct convert_options, overwrite), NULL,
     "replace an existing file, once its successor is complete"},
    {"backing", 'B', CLI_TEXT, offsetof(struct convert_options, backing), "FILE",
     "make the target an overlay of FILE, and store only what the source holds otherwise",
     .completes = CLI_COMPLETE_FILE},
    {"backing-format", 'F', CLI_TEXT, offsetof(struct convert_options, backing_format), "FMT",
     "format of FILE; found from its header if not given, but raw must be said",
     .completes = CLI_COMPLETE_FORMAT},
    {"bitmaps", 0, CLI_FLAG, offsetof(struct convert_options, bitmaps), NULL,
     "copy the persistent bitmaps of the source too"},
    {"skip-broken-bitmaps", 0, CLI_FLAG, offsetof(struct convert_options, skip_broken), NULL,
     "the same, without those that were left in use and are not true any more"},
    {"bitmap", 0, CLI_TEXT, offsetof(struct convert_options, bitmap), "NAME",
     "copy only what this bitmap of the source marks: into an older copy of the source (-n), or an "
     "overlay of one (-B)"},
    {"start", 0, CLI_SIZE, offsetof(struct convert_options, start), "OFFSET",
     "copy from this offset of the source on"},
    {"length", 0, CLI_SIZE, offsetof(struct convert_options, length), "SIZE",
     "copy at most this much of the source"},
    {"target-is-zero", 0, CLI_FLAG, offsetof(struct convert_options, target_is_zero), NULL,
     "with -n: the target reads as zeroes, so that holes need no writing"},
    {"resume", 0, CLI_FLAG, offsetof(struct convert_options, resume), NULL,
     "go on where the same command was cut off, and keep what is needed for that if this one is"},
    {"salvage", 0, CLI_FLAG, offsetof(struct convert_options, salvage), NULL,
     "go on where the source cannot be read: the target has zeroes there, and they are told"},
    {"rate", 'r', CLI_SIZE, offsetof(struct convert_options, rate), "SIZE",
     "bytes a second at most"},
    {"sparse", 'S', CLI_SIZE, offsetof(struct convert_options, sparse), "SIZE",
     "zeroes in runs of SIZE become holes; 4k if not given, 0 writes all zeroes of data"},
    {"copy-offload", 'C', CLI_FLAG, offsetof(struct convert_options, offload), NULL,
     "let the storage copy what it can, without a look at the data: -S has no effect on that"},
    {"verify", 0, CLI_FLAG, offsetof(struct convert_options, verify), NULL,
     "read the target again and compare"},
    {"no-sync", 0, CLI_FLAG, offsetof(struct convert_options, no_sync), NULL,
     "do not wait until the target is on the disk"},
    {"threads", 0, CLI_UINT, offsetof(struct convert_options, threads), "N",
     "threads that read and write, up to 16; one a CPU, up to 4, if not given"},
    {"requests", 'm', CLI_UINT, offsetof(struct convert_options, requests), "N",
     "requests in flight on each thread, up to 64; 4 if not given"},
    CLI_ALLOW_OPTION(struct convert_options),
    CLI_FORCE_SHARE_OPTION(struct convert_options),
    {"quiet", 'q', CLI_FLAG, offsetof(struct convert_options, quiet), NULL,
     "print nothing on success, and no progress"},
    CLI_PROGRESS_JSON_OPTION(struct convert_options),
    CLI_OUTPUT_OPTION(struct convert_options),
    {NULL},
};

const struct cli_command cli_convert_command = {
    .name = "convert",
    .summary = "Copy an image into one of another format",
    .synopsis = "[OPTION...] SOURCE... TARGET",
    .description =
        "Copies all that SOURCE and its backing chain hold into TARGET, an image that depends on "
        "nothing (but see -B). Holes stay holes, and runs of zeroes become holes. Several sources "
        "lie one behind the other in TARGET.\n\n"
        "A new target is filled under a temporary name beside its own (TARGET.convert-xxxxxxxx), "
        "and renamed when it is complete and on the disk: whatever happens, TARGET is a whole "
        "image "
        "or is not there. -n writes into what exists instead, a block device for instance.",
    .operands = {{"SOURCE", "the image to copy", CLI_COMPLETE_FILE},
                 {"TARGET", "the image to make", CLI_COMPLETE_FILE}},
    .examples = {{"raw to qcow2", "hawser convert -f raw disk.img disk.qcow2"},
                 {"a chain of overlays to one raw file, compared afterwards",
                  "hawser convert -O raw --verify overlay.qcow2 whole.img"},
                 {"small, for a download",
                  "hawser convert -c -o compression_type=zstd disk.qcow2 small.qcow2"}},
    .options = table,
    .options_bytes = sizeof(struct convert_options),
    .operands_min = 2,
    .operands_max = SOURCES_MAX + 1,
    .run = run,
};
