/*
 * `hawser measure`: how much storage an image will take.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cli/image.h"
#include "cli/output.h"

struct measure_options {
    const char *format, *target_format;
    struct cli_list driver_options, allow;
    bool force_share;
    uint64_t size;
    int output;
};

static void print_json(const struct hws_measured *found)
{
    json_t *object = json_pack("{s:I, s:I}", "required", (json_int_t)found->required,
                               "fully-allocated", (json_int_t)found->fully_allocated);
    if (found->has_bitmaps)
        json_object_set_new(object, "bitmaps", json_integer((json_int_t)found->bitmaps));
    out_json(object);
}

static void print_human(const struct hws_measured *found)
{
    char text[64];
    out_field("required", "%s", out_size(found->required, text, sizeof(text)));
    out_field("fully allocated", "%s", out_size(found->fully_allocated, text, sizeof(text)));
    if (found->has_bitmaps)
        out_field("bitmaps", "%s", out_size(found->bitmaps, text, sizeof(text)));
}

static int run(const void *arg, char **operands, unsigned count)
{
    const struct measure_options *options = arg;
    struct hws_error err = {0};
    struct hws_image image = CLI_IMAGE(options, operands[0]);
    struct hws_measured found;
    struct hws_measure how = {
        .format = options->target_format,
        .options = options->driver_options.item,
        .size_bytes = options->size == UINT64_MAX ? HWS_SIZE_UNSET : options->size,
    };
    if (!count == (options->size == UINT64_MAX)) {
        hws_fail(&err, EINVAL, "either an image or --size says how large the target is");
        return out_error("measure", CLI_USAGE, &err);
    }
    if (hws_measure(count ? &image : NULL, &how, &found, &err) < 0) {
        if (count)
            cli_explain_open(&err, operands[0]);
        return out_error("measure", CLI_FAILED, &err);
    }
    if (options->output == CLI_JSON)
        print_json(&found);
    else
        print_human(&found);
    return CLI_OK;
}

static const struct cli_option table[] = {
    CLI_FORMAT_OPTION(struct measure_options),
    {"target-format", 'O', CLI_TEXT, offsetof(struct measure_options, target_format), "FMT",
     "format of the target; qcow2 if not given", .completes = CLI_COMPLETE_FORMAT},
    {"options", 'o', CLI_LIST, offsetof(struct measure_options, driver_options), "NAME=VALUE,...",
     "options of the target's format (may be repeated); 'hawser help formats' lists them"},
    {"size", 0, CLI_SIZE, offsetof(struct measure_options, size), "SIZE",
     "of an empty image of this virtual size, instead of IMAGE"},
    CLI_ALLOW_OPTION(struct measure_options),
    CLI_FORCE_SHARE_OPTION(struct measure_options),
    CLI_OUTPUT_OPTION(struct measure_options),
    {NULL},
};

const struct cli_command cli_measure_command = {
    .name = "measure",
    .summary = "Tell how much storage an image will take",
    .synopsis = "[OPTION...] IMAGE\n[OPTION...] --size=SIZE",
    .description =
        "Tells how many bytes of storage an image of the given format and options takes, before "
        "there is one: 'required' with what IMAGE and its backing chain hold now, 'fully "
        "allocated' once every byte of the device was written. A volume of that size can take the "
        "converted image.",
    .operands = {{"IMAGE", "what would be converted", CLI_COMPLETE_FILE}},
    .examples = {{"how large a volume for this image must be", "hawser measure disk.qcow2"},
                 {"of a new image", "hawser measure -o cluster_size=2M --size=1T"}},
    .options = table,
    .options_bytes = sizeof(struct measure_options),
    .operands_min = 0,
    .operands_max = 1,
    .run = run,
};
