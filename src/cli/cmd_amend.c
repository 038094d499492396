/*
 * `hawser amend`: options of an image that exists.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cli/image.h"
#include "cli/output.h"
#include "cli/progress.h"

struct amend_options {
    const char *format;
    struct cli_list changes, allow;
    bool force_share; /* never set: amending writes */
    bool force, quiet;
};

static int run(const void *arg, char **operands, unsigned count)
{
    const struct amend_options *options = arg;
    struct hws_error err = {0};
    struct hws_image image = CLI_IMAGE(options, operands[0]);
    struct progress progress;
    struct hws_amend how = {
        .options = options->changes.item,
        .force = options->force,
        .progress = progress_step,
        .progress_arg = &progress,
    };
    if (!options->changes.count) {
        hws_fail(&err, EINVAL, "-o says what to change; 'hawser help formats' lists the options");
        return out_error("amend", CLI_USAGE, &err);
    }
    progress_start(&progress, "amending", options->quiet);
    int r = hws_amend(&image, &how, &err);
    progress_end(&progress);
    if (r < 0) {
        cli_explain_open(&err, operands[0]);
        return out_error("amend", CLI_FAILED, &err);
    }
    return CLI_OK;
}

static const struct cli_option table[] = {
    CLI_FORMAT_OPTION(struct amend_options),
    {"options", 'o', CLI_LIST, offsetof(struct amend_options, changes), "NAME=VALUE,...",
     "what to change (may be repeated); 'hawser help formats' lists the options"},
    {"force", 0, CLI_FLAG, offsetof(struct amend_options, force), NULL,
     "allow a smaller size; what lies past the new end is lost"},
    CLI_ALLOW_OPTION(struct amend_options),
    {"quiet", 'q', CLI_FLAG, offsetof(struct amend_options, quiet), NULL, "show no progress"},
    {NULL},
};

const struct cli_command cli_amend_command = {
    .name = "amend",
    .summary = "Change options of an image that exists",
    .synopsis = "-o NAME=VALUE,... [OPTION...] IMAGE",
    .description =
        "Changes what was chosen when IMAGE was made: of qcow2 its version, its size, the width of "
        "its reference counts, lazy reference counts, and the name of its data file. What the "
        "image reads as stays the same. What only a new image can choose, such as the size of "
        "clusters, is refused by name; the backing file is changed by rebase.\n\n"
        "A change that is interrupted leaves a whole image, with the old value or the new one.",
    .operands = {{"IMAGE", "the image to change", CLI_COMPLETE_FILE}},
    .examples = {{"for programs that only know version 2",
                  "hawser amend -o compat=0.10 disk.qcow2"},
                 {"room for many references", "hawser amend -o refcount_bits=64 disk.qcow2"}},
    .options = table,
    .options_bytes = sizeof(struct amend_options),
    .operands_min = 1,
    .operands_max = 1,
    .run = run,
};
