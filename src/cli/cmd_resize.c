/*
 * `hawser resize`: the size of an image, or of a volume that is attached.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/size.h"
#include "cli/image.h"
#include "cli/output.h"
#include "cli/progress.h"
#include "engine/client.h"

struct resize_options {
    const char *format;
    struct cli_list allow;
    bool force_share; /* never set: resizing writes */
    const char *preallocation;
    bool shrink, quiet;
    int output;
};

static int parse_size(const char *text, struct hws_resize *ret, struct hws_error *err)
{
    ret->relative = *text == '+' ? 1 : *text == '-' ? -1 : 0;
    return size_parse(text + (ret->relative != 0), &ret->size_bytes, err);
}

/* An attached volume is resized by its engine, while it is in use. */
static int resize_online(struct attachment *attachment, const char *what,
                         const struct hws_resize *resize, uint64_t *ret_size, struct hws_error *err)
{
    static const char *const signs[] = {"-", "", "+"};
    char text[32];
    snprintf(text, sizeof(text), "%s%llu", signs[resize->relative + 1],
             (unsigned long long)resize->size_bytes);
    json_t *params = json_pack("{s:s, s:b}", "size", text, "shrink", resize->shrink), *result;
    const char *volume = attachment_volume(attachment, what);
    if (volume)
        json_object_set_new(params, "volume", json_string(volume));
    int r = attachment_call(attachment, "resize", params, &result, err);
    if (r < 0)
        return r;
    *ret_size = (uint64_t)json_integer_value(json_object_get(result, "size"));
    json_decref(result);
    return 0;
}

static int print_size(const struct resize_options *options, const char *what,
                      const struct attachment *attachment, uint64_t size)
{
    if (options->output == CLI_JSON) {
        out_json(json_pack("{s:o, s:I, s:b}", "image", out_string(what), "virtual-size",
                           (json_int_t)size, "online", attachment != NULL));
    } else if (!options->quiet) {
        char text[64];
        out_safe(stdout, what);
        printf(": now %s%s\n", out_size(size, text, sizeof(text)),
               attachment ? "; grow the file system on it with its own tool, e.g. resize2fs" : "");
    }
    return CLI_OK;
}

static int run(const void *arg, char **operands, unsigned count)
{
    const struct resize_options *options = arg;
    struct hws_error err = {0};
    struct hws_resize resize = {.shrink = options->shrink, .preallocation = options->preallocation};
    if (parse_size(operands[1], &resize, &err) < 0)
        return out_error("resize", CLI_USAGE, &err);
    struct attachment *attachment = NULL;
    uint64_t size = 0;
    int r = cli_find_engine(operands[0], &attachment, &err);
    if (r > 0) {
        r = cli_refuse_reach(operands[0], options->format, &options->allow, &err);
        if (r == 0 && options->preallocation)
            r = hws_fail(&err, EINVAL, "an attached volume grows without preallocation");
        if (r == 0)
            r = resize_online(attachment, operands[0], &resize, &size, &err);
    } else if (r == 0) {
        struct hws_image image = CLI_IMAGE(options, operands[0]);
        struct progress progress;
        progress_start(&progress, "preallocating", options->quiet || options->output == CLI_JSON);
        resize.progress = progress_step;
        resize.progress_arg = &progress;
        r = hws_resize(&image, &resize, &size, &err);
        progress_end(&progress);
    }
    int code = r < 0 ? out_error("resize", CLI_FAILED, &err)
                     : print_size(options, operands[0], attachment, size);
    attachment_free(attachment);
    return code;
}

static const struct cli_option table[] = {
    CLI_FORMAT_OPTION(struct resize_options),
    {"shrink", 0, CLI_FLAG, offsetof(struct resize_options, shrink), NULL,
     "allow a smaller size; what lies past the new end is lost"},
    {"preallocation", 0, CLI_TEXT, offsetof(struct resize_options, preallocation), "MODE",
     "storage for what is new: off; metadata: tables only; falloc: reserved; full: zeroes written"},
    CLI_ALLOW_OPTION(struct resize_options),
    {"quiet", 'q', CLI_FLAG, offsetof(struct resize_options, quiet), NULL,
     "print nothing on success"},
    CLI_OUTPUT_OPTION(struct resize_options),
    {NULL},
};

const struct cli_command cli_resize_command = {
    .name = "resize",
    .summary = "Change the size of an image or an attached volume",
    .synopsis = "[OPTION...] IMAGE|NAME|DEVICE [+|-]SIZE",
    .description = "Sets the virtual size to SIZE, or changes it by +SIZE or -SIZE. What is new "
                   "reads as zeroes. A volume "
                   "that is attached on this host (given by name, device or image) is resized "
                   "while it is in use, "
                   "and its device follows. The file system in it does not: grow it afterwards, "
                   "shrink it before.",
    .operands = {{"IMAGE", "an image, or the name or device of an attachment",
                  CLI_COMPLETE_ATTACHMENT},
                 {"SIZE", "the new size, or with + or - the change", 0}},
    .examples = {{"10 GiB more", "hawser resize disk.qcow2 +10G"},
                 {"an attached volume", "hawser resize disk 40G && resize2fs /dev/loop7"}},
    .options = table,
    .options_bytes = sizeof(struct resize_options),
    .operands_min = 2,
    .operands_max = 2,
    .run = run,
};
