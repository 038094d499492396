/*
 * `hawser compact`: an image's file made smaller.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cli/image.h"
#include "cli/output.h"
#include "cli/progress.h"
#include "engine/client.h"

struct compact_options {
    const char *format;
    struct cli_list allow;
    bool force_share; /* never set: compacting writes */
    bool zeroes, quiet;
    int output;
};

static int print_result(const struct compact_options *options, const char *image,
                        const struct hws_compacted *done)
{
    if (options->output == CLI_JSON) {
        out_json(json_pack("{s:o, s:I, s:I, s:I, s:I}", "filename", out_string(image),
                           "bytes-before", (json_int_t)done->bytes_before, "bytes-after",
                           (json_int_t)done->bytes_after, "moved-bytes",
                           (json_int_t)done->moved_bytes, "zeroed-bytes",
                           (json_int_t)done->zeroed_bytes));
    } else if (!options->quiet) {
        char before[64], after[64];
        out_safe(stdout, image);
        printf(": %s, was %s\n", out_size(done->bytes_after, after, sizeof(after)),
               out_size(done->bytes_before, before, sizeof(before)));
    }
    return CLI_OK;
}

static int run(const void *arg, char **operands, unsigned count)
{
    const struct compact_options *options = arg;
    struct hws_error err = {0};
    struct hws_image image = CLI_IMAGE(options, operands[0]);
    struct progress progress;
    struct hws_compact how = {
        .zeroes = options->zeroes,
        .progress = progress_step,
        .progress_arg = &progress,
    };
    struct hws_compacted done;
    struct attachment *attachment = NULL;
    int r = cli_find_engine(operands[0], &attachment, &err);
    attachment_free(attachment);
    if (r > 0)
        r = hws_fail(&err, EBUSY,
                     "'%.200s' is attached: detach it first, as only an image that "
                     "nobody uses can be compacted",
                     operands[0]);
    if (r < 0)
        return out_error("compact", CLI_FAILED, &err);
    progress_start(&progress, "compacting", options->quiet || options->output == CLI_JSON);
    r = hws_compact(&image, &how, &done, &err);
    progress_end(&progress);
    if (r < 0) {
        cli_explain_open(&err, operands[0]);
        return out_error("compact", CLI_FAILED, &err);
    }
    return print_result(options, operands[0], &done);
}

static const struct cli_option table[] = {
    CLI_FORMAT_OPTION(struct compact_options),
    {"zeroes", 0, CLI_FLAG, offsetof(struct compact_options, zeroes), NULL,
     "read all data, and drop clusters that hold zeroes alone"},
    CLI_ALLOW_OPTION(struct compact_options),
    {"quiet", 'q', CLI_FLAG, offsetof(struct compact_options, quiet), NULL,
     "print nothing on success"},
    CLI_OUTPUT_OPTION(struct compact_options),
    {NULL},
};

const struct cli_command cli_compact_command = {
    .name = "compact",
    .summary = "Make the file of an image smaller",
    .synopsis = "[OPTION...] IMAGE",
    .description =
        "Moves what lies at the end of the image's file into holes that discards, shrinks and "
        "deleted snapshots have left, and cuts the file. What the image reads as stays the same. "
        "The work may be interrupted at any moment, and made again.\n\n"
        "Clusters that internal snapshots share, and compressed ones, stay where they are. An "
        "image that is attached has to be detached first.",
    .operands = {{"IMAGE", "the image to compact", CLI_COMPLETE_FILE}},
    .examples = {{"give back what was discarded", "hawser compact disk.qcow2"},
                 {"and what was overwritten with zeroes", "hawser compact --zeroes disk.qcow2"}},
    .options = table,
    .options_bytes = sizeof(struct compact_options),
    .operands_min = 1,
    .operands_max = 1,
    .run = run,
};
