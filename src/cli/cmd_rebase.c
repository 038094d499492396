/*
 * `hawser rebase`: another backing file for an image, or none.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cli/image.h"
#include "cli/output.h"
#include "cli/progress.h"

struct rebase_options {
    const char *format, *backing, *backing_format;
    struct cli_list allow;
    bool force_share; /* never set: rebasing writes */
    bool unsafe, quiet, progress_json;
};

static int run(const void *arg, char **operands, unsigned count)
{
    const struct rebase_options *options = arg;
    struct hws_error err = {0};
    struct hws_image image = CLI_IMAGE(options, operands[0]);
    struct progress progress;
    struct hws_rebase how = {
        .backing = options->backing,
        .backing_format = options->backing_format,
        .unsafe = options->unsafe,
        .progress = progress_step,
        .progress_arg = &progress,
    };
    if (!options->backing) {
        hws_fail(&err, EINVAL, "-b says what the new backing file is; -b '' is none");
        return out_error("rebase", CLI_USAGE, &err);
    }
    progress_start(&progress, "rebasing", options->quiet);
    progress.lines = options->progress_json;
    int r = hws_rebase(&image, &how, &err);
    progress_end(&progress);
    if (r < 0) {
        cli_explain_open(&err, operands[0]);
        return out_error("rebase", CLI_FAILED, &err);
    }
    return CLI_OK;
}

static const struct cli_option table[] = {
    CLI_FORMAT_OPTION(struct rebase_options),
    {"backing", 'b', CLI_TEXT, offsetof(struct rebase_options, backing), "FILE",
     "the new backing file, as it shall be recorded: relative names count from the image's "
     "folder; '' is none",
     .completes = CLI_COMPLETE_FILE},
    {"backing-format", 'F', CLI_TEXT, offsetof(struct rebase_options, backing_format), "FMT",
     "format of the new backing file; found from its header if not given, but raw must be said",
     .completes = CLI_COMPLETE_FORMAT},
    {"unsafe", 'u', CLI_FLAG, offsetof(struct rebase_options, unsafe), NULL,
     "only record the name: for a backing file that was moved, or copied with all that it holds"},
    CLI_ALLOW_OPTION(struct rebase_options),
    {"quiet", 'q', CLI_FLAG, offsetof(struct rebase_options, quiet), NULL, "show no progress"},
    CLI_PROGRESS_JSON_OPTION(struct rebase_options),
    {NULL},
};

const struct cli_command cli_rebase_command = {
    .name = "rebase",
    .summary = "Put an image over another backing file",
    .synopsis = "-b FILE [OPTION...] IMAGE",
    .description =
        "Makes FILE the backing file of IMAGE. What IMAGE reads as stays the same: where the old "
        "and the new backing file differ, IMAGE gets what the old one holds. With -b '' it gets "
        "all of that, and depends on nothing afterwards.\n\n"
        "The name is recorded last, in one step, when everything else is on the disk. The work may "
        "be interrupted at any moment, and the image is as it was.\n\n"
        "An image with internal snapshots is refused, unless -u is given: they read through to the "
        "backing file too.",
    .operands = {{"IMAGE", "the image to change", CLI_COMPLETE_FILE}},
    .examples = {{"drop a layer between", "hawser rebase -b base.qcow2 top.qcow2"},
                 {"the backing file was renamed",
                  "hawser rebase -u -b new-name.qcow2 -F qcow2 top.qcow2"},
                 {"depend on nothing", "hawser rebase -b '' top.qcow2"}},
    .options = table,
    .options_bytes = sizeof(struct rebase_options),
    .operands_min = 1,
    .operands_max = 1,
    .run = run,
};
