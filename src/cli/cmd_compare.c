/*
 * `hawser compare`: do two images hold the same.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cli/image.h"
#include "cli/output.h"
#include "cli/progress.h"

struct compare_options {
    const char *format, *second_format, *snapshot, *second_snapshot;
    struct cli_list allow;
    bool strict, force_share, quiet;
    uint64_t threads, requests;
    int output;
};

enum { COMPARE_DIFFERENT = 1, COMPARE_FAILED = 2 };

static void print_json(const struct hws_difference *found)
{
    json_t *object = json_pack("{s:b, s:[I, I]}", "identical", !found->different, "virtual-sizes",
                               (json_int_t)found->a_bytes, (json_int_t)found->b_bytes);
    if (found->different) {
        json_object_set_new(object, "reason", json_string(found->size ? "size" : "content"));
        json_object_set_new(object, "offset", json_integer((json_int_t)found->offset));
    }
    out_json(object);
}

static void print_human(const struct hws_difference *found)
{
    if (found->size)
        printf("the sizes differ: %llu and %llu bytes\n", (unsigned long long)found->a_bytes,
               (unsigned long long)found->b_bytes);
    else if (found->different)
        printf("the images differ at offset %llu\n", (unsigned long long)found->offset);
    else if (found->a_bytes != found->b_bytes)
        printf("the images are identical, but for zeroes at the end of the longer one\n");
    else
        printf("the images are identical\n");
}

static int run(const void *arg, char **operands, unsigned count)
{
    const struct compare_options *options = arg;
    struct hws_error err = {0};
    struct hws_image a = CLI_IMAGE(options, operands[0]), b = CLI_IMAGE(options, operands[1]);
    struct progress progress;
    struct hws_difference found;
    struct hws_compare how = {
        .strict = options->strict,
        .threads = (unsigned)options->threads,
        .requests = (unsigned)options->requests,
        .progress = progress_step,
        .progress_arg = &progress,
    };
    b.format = options->second_format;
    a.snapshot = options->snapshot;
    b.snapshot = options->second_snapshot;
    progress_start(&progress, "comparing", options->quiet || options->output == CLI_JSON);
    int r = hws_compare(&a, &b, &how, &found, &err);
    progress_end(&progress);
    if (r < 0)
        return out_error("compare", COMPARE_FAILED, &err);
    if (options->output == CLI_JSON)
        print_json(&found);
    else if (!options->quiet)
        print_human(&found);
    return found.different ? COMPARE_DIFFERENT : CLI_OK;
}

static const struct cli_option table[] = {
    CLI_FORMAT_OPTION(struct compare_options),
    {"second-format", 'F', CLI_TEXT, offsetof(struct compare_options, second_format), "FMT",
     "format of the second image; found from its header if not given, but raw must be said",
     .completes = CLI_COMPLETE_FORMAT},
    CLI_SNAPSHOT_OPTION(struct compare_options, 0),
    {"second-snapshot", 0, CLI_TEXT, offsetof(struct compare_options, second_snapshot), "NAME",
     "read an internal snapshot of the second image"},
    {"strict", 's', CLI_FLAG, offsetof(struct compare_options, strict), NULL,
     "sizes must be equal too"},
    {"threads", 0, CLI_UINT, offsetof(struct compare_options, threads), "N",
     "threads that read, up to 16; one a CPU, up to 4, if not given"},
    {"requests", 'm', CLI_UINT, offsetof(struct compare_options, requests), "N",
     "requests in flight on each thread, up to 64; 4 if not given"},
    CLI_ALLOW_OPTION(struct compare_options),
    CLI_FORCE_SHARE_OPTION(struct compare_options),
    {"quiet", 'q', CLI_FLAG, offsetof(struct compare_options, quiet), NULL,
     "print nothing: the exit code tells"},
    CLI_OUTPUT_OPTION(struct compare_options),
    {NULL},
};

const struct cli_command cli_compare_command = {
    .name = "compare",
    .summary = "Compare the contents of two images",
    .synopsis = "[OPTION...] IMAGE IMAGE",
    .description = "Compares what two images of any format hold, each through its backing chain. "
                   "Where one is longer, what lies past the end of the other must be zeroes; "
                   "with --strict the sizes must be equal.",
    .exit_codes = "0 identical; 1 different; 2 the comparison could not be made, or the command "
                  "line is wrong.",
    .operands = {{"IMAGE", "two images", CLI_COMPLETE_FILE}},
    .examples = {{"a raw copy against its original",
                  "hawser compare -f raw copy.img -F qcow2 disk.qcow2"},
                 {"what has changed since a snapshot",
                  "hawser compare --snapshot monday disk.qcow2 disk.qcow2"}},
    .options = table,
    .options_bytes = sizeof(struct compare_options),
    .operands_min = 2,
    .operands_max = 2,
    .usage_exit = COMPARE_FAILED,
    .run = run,
};
