/*
 * `hawser dd`: a part of an image into a new one, in the manner of dd.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/size.h"
#include "cli/image.h"
#include "cli/output.h"
#include "cli/progress.h"
#include <limits.h>

#define BLOCK_BYTES 512u

struct dd_options {
    const char *format, *target_format, *snapshot;
    struct cli_list allow;
    bool force_share, quiet;
};

struct dd {
    const char *from, *to;
    uint64_t block, count, skip; /* count: UINT64_MAX when not given */
};

static int parse_operand(const char *text, struct dd *dd, struct hws_error *err)
{
    const struct {
        const char *name;
        uint64_t *number;
        const char **text;
    } names[] = {{"if=", NULL, &dd->from},
                 {"of=", NULL, &dd->to},
                 {"bs=", &dd->block, NULL},
                 {"count=", &dd->count, NULL},
                 {"skip=", &dd->skip, NULL}};
    for (unsigned i = 0; i < ARRAY_LEN(names); i++) {
        size_t length = strlen(names[i].name);
        if (strncmp(text, names[i].name, length) != 0)
            continue;
        if (!names[i].number) {
            *names[i].text = text + length;
            return 0;
        }
        struct hws_error why = {0};
        if (size_parse(text + length, names[i].number, &why) == 0)
            return 0;
        return hws_fail(err, EINVAL, "%s %s", names[i].name, why.text);
    }
    return hws_fail(err, EINVAL, "'%.100s' is none of if=, of=, bs=, count= and skip=", text);
}

static int parse(char **operands, unsigned count, struct dd *dd, struct hws_error *err)
{
    for (unsigned i = 0; i < count; i++) {
        int r = parse_operand(operands[i], dd, err);
        if (r < 0)
            return r;
    }
    if (!dd->from || !dd->to)
        return hws_fail(err, EINVAL, "if= and of= say what is copied where");
    if (dd->block == 0 || dd->block > INT_MAX)
        return hws_fail(err, EINVAL, "bs= takes 1 to 2G-1");
    if (dd->count == 0)
        return hws_fail(err, EINVAL, "count=0: there is nothing to copy");
    return 0;
}

/* Past what an image can have it is all the same. */
static uint64_t blocks(const struct dd *dd, uint64_t count)
{
    return count > INT64_MAX / dd->block ? INT64_MAX : count * dd->block;
}

static int run(const void *arg, char **operands, unsigned count)
{
    const struct dd_options *options = arg;
    struct dd dd = {.block = BLOCK_BYTES, .count = UINT64_MAX};
    struct hws_error err = {0};
    if (parse(operands, count, &dd, &err) < 0)
        return out_error("dd", CLI_USAGE, &err);
    struct hws_image from = CLI_IMAGE(options, dd.from);
    from.snapshot = options->snapshot;
    struct hws_image to = {.path = dd.to,
                           .format = options->target_format ? options->target_format : "raw",
                           .allow = from.allow};
    struct progress progress;
    struct hws_convert how = {
        .size_bytes = HWS_SIZE_UNSET,
        .overwrite = true,
        .start = blocks(&dd, dd.skip),
        .length = dd.count == UINT64_MAX ? 0 : blocks(&dd, dd.count),
        .progress = progress_step,
        .progress_arg = &progress,
    };
    progress_start(&progress, "copying", options->quiet);
    int r = hws_convert(&from, &to, &how, NULL, &err);
    progress_end(&progress);
    if (r < 0) {
        cli_explain_open(&err, dd.from);
        return out_error("dd", CLI_FAILED, &err);
    }
    return CLI_OK;
}

static const struct cli_option table[] = {
    CLI_FORMAT_OPTION(struct dd_options),
    CLI_SNAPSHOT_OPTION(struct dd_options, 'l'),
    {"target-format", 'O', CLI_TEXT, offsetof(struct dd_options, target_format), "FMT",
     "format of the target; raw if not given", .completes = CLI_COMPLETE_FORMAT},
    CLI_ALLOW_OPTION(struct dd_options),
    CLI_FORCE_SHARE_OPTION(struct dd_options),
    {"quiet", 'q', CLI_FLAG, offsetof(struct dd_options, quiet), NULL, "show no progress"},
    {NULL},
};

const struct cli_command cli_dd_command = {
    .name = "dd",
    .summary = "Copy a part of an image into a new one",
    .synopsis = "[OPTION...] if=SOURCE of=TARGET [bs=SIZE] [count=N] [skip=N]",
    .description =
        "Makes TARGET of the part of SOURCE that begins after skip= blocks and has count= blocks "
        "at most, of bs= bytes each (512 if not given). As with dd, TARGET is replaced where it "
        "exists, and raw unless -O says otherwise. 'hawser convert --start --length' does the "
        "same.",
    .operands = {{"if=SOURCE", "the image to copy from", CLI_COMPLETE_FILE},
                 {"of=TARGET", "the image to make", CLI_COMPLETE_FILE}},
    .examples = {{"the first MiB", "hawser dd if=disk.qcow2 of=head.img bs=1M count=1"}},
    .options = table,
    .options_bytes = sizeof(struct dd_options),
    .operands_min = 2,
    .operands_max = 5,
    .run = run,
};
