/*
 * `hawser commit`: what an image holds goes into a layer below.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cli/image.h"
#include "cli/output.h"
#include "cli/progress.h"

struct commit_options {
    const char *format, *base;
    struct cli_list allow;
    bool force_share; /* never set: committing writes */
    bool keep, quiet;
    uint64_t rate;
};

static int run(const void *arg, char **operands, unsigned count)
{
    const struct commit_options *options = arg;
    struct hws_error err = {0};
    struct hws_image image = CLI_IMAGE(options, operands[0]);
    struct progress progress;
    struct hws_commit how = {
        .base = options->base,
        .keep = options->keep,
        .rate_bytes = options->rate == UINT64_MAX ? 0 : options->rate,
        .progress = progress_step,
        .progress_arg = &progress,
    };
    progress_start(&progress, "committing", options->quiet);
    int r = hws_commit(&image, &how, &err);
    progress_end(&progress);
    if (r < 0) {
        cli_explain_open(&err, operands[0]);
        return out_error("commit", CLI_FAILED, &err);
    }
    if (!options->quiet)
        printf("committed\n");
    return CLI_OK;
}

static const struct cli_option table[] = {
    CLI_FORMAT_OPTION(struct commit_options),
    {"base", 'b', CLI_TEXT, offsetof(struct commit_options, base), "FILE",
     "the layer to commit into, further down the chain; the backing file if not given",
     .completes = CLI_COMPLETE_FILE},
    {"keep", 'd', CLI_FLAG, offsetof(struct commit_options, keep), NULL,
     "do not empty IMAGE: for images that are deleted next"},
    {"rate", 'r', CLI_SIZE, offsetof(struct commit_options, rate), "SIZE",
     "bytes a second at most"},
    CLI_ALLOW_OPTION(struct commit_options),
    {"quiet", 'q', CLI_FLAG, offsetof(struct commit_options, quiet), NULL,
     "print nothing on success, and no progress"},
    {NULL},
};

const struct cli_command cli_commit_command = {
    .name = "commit",
    .summary = "Write what an image holds into the image below it",
    .synopsis = "[OPTION...] IMAGE",
    .description =
        "Writes what IMAGE holds into its backing file, which grows if it is shorter, and empties "
        "IMAGE. With -b it goes into a layer further down, together with what lies between; IMAGE "
        "is then left as it is, and what lies between reads wrongly from then on.\n\n"
        "IMAGE reads the same throughout: nothing of it is dropped before the backing file is on "
        "the disk. The work may be interrupted at any moment and begun again. Other overlays of "
        "the backing file do not survive it, nor would internal snapshots of IMAGE: it is refused "
        "while there are any, unless -d is given.",
    .operands = {{"IMAGE", "the image to commit", CLI_COMPLETE_FILE}},
    .examples = {{"into the backing file", "hawser commit overlay.qcow2"},
                 {"three layers at once", "hawser commit -b base.qcow2 top.qcow2"}},
    .options = table,
    .options_bytes = sizeof(struct commit_options),
    .operands_min = 1,
    .operands_max = 1,
    .run = run,
};
