/*
 * `hawser create`: new images.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/size.h"
#include "cli/image.h"
#include "cli/output.h"
#include "cli/progress.h"

struct create_options {
    const char *format, *backing, *backing_format;
    struct cli_list driver_options, allow;
    bool overwrite, force_share, quiet;
    int output;
};

static int print_created(const struct create_options *options, char *info)
{
    if (options->output == CLI_JSON) {
        out_json_text(info);
        return CLI_OK;
    }
    json_t *object = json_loads(info, 0, NULL);
    free(info);
    char size[64];
    uint64_t bytes = (uint64_t)json_integer_value(json_object_get(object, "virtual-size"));
    const char *driver = json_string_value(json_object_get(object, "format"));
    const char *name = json_string_value(json_object_get(object, "filename"));
    if (!options->quiet) {
        printf("created ");
        out_safe(stdout, name ? name : "?");
        printf(": %s, %s", driver ? driver : "?", out_size(bytes, size, sizeof(size)));
        if (options->backing) {
            printf(", over ");
            out_safe(stdout, options->backing);
        }
        putchar('\n');
    }
    json_decref(object);
    return CLI_OK;
}

static int run(const void *arg, char **operands, unsigned count)
{
    const struct create_options *options = arg;
    struct hws_error err = {0};
    struct hws_image image = CLI_IMAGE(options, operands[0]);
    struct hws_create create = {
        .size_bytes = HWS_SIZE_UNSET,
        .backing = options->backing,
        .backing_format = options->backing_format,
        .options = options->driver_options.item,
        .overwrite = options->overwrite,
    };
    if (count > 1 && size_parse(operands[1], &create.size_bytes, &err) < 0)
        return out_error("create", CLI_USAGE, &err);
    char *info;
    struct progress progress;
    progress_start(&progress, "preallocating", options->quiet || options->output == CLI_JSON);
    create.progress = progress_step;
    create.progress_arg = &progress;
    int r = hws_create(&image, &create, &info, &err);
    progress_end(&progress);
    if (r < 0) {
        if (err.code == EEXIST) {
            struct hws_error inner = err;
            hws_fail(&err, EEXIST, "%.600s; --overwrite replaces it", inner.text);
        }
        cli_explain_open(&err, operands[0]);
        return out_error("create", CLI_FAILED, &err);
    }
    return print_created(options, info);
}

static const struct cli_option table[] = {
    {"format", 'f', CLI_TEXT, offsetof(struct create_options, format), "FMT",
     "format of the new image; qcow2 if not given", .completes = CLI_COMPLETE_FORMAT},
    {"options", 'o', CLI_LIST, offsetof(struct create_options, driver_options), "NAME=VALUE,...",
     "options of the format (may be repeated); 'hawser help formats' lists them"},
    {"backing", 'b', CLI_TEXT, offsetof(struct create_options, backing), "FILE",
     "make an overlay: what is not written reads from FILE, which counts from the new image's "
     "folder",
     .completes = CLI_COMPLETE_FILE},
    {"backing-format", 'F', CLI_TEXT, offsetof(struct create_options, backing_format), "FMT",
     "format of the backing file; found from its header if not given, but raw must be said",
     .completes = CLI_COMPLETE_FORMAT},
    {"overwrite", 0, CLI_FLAG, offsetof(struct create_options, overwrite), NULL,
     "replace an existing file"},
    CLI_ALLOW_OPTION(struct create_options),
    CLI_FORCE_SHARE_OPTION(struct create_options),
    {"quiet", 'q', CLI_FLAG, offsetof(struct create_options, quiet), NULL,
     "print nothing on success"},
    CLI_OUTPUT_OPTION(struct create_options),
    {NULL},
};

const struct cli_command cli_create_command = {
    .name = "create",
    .summary = "Make a disk image",
    .synopsis = "[OPTION...] IMAGE SIZE\n[OPTION...] -b BACKING IMAGE [SIZE]",
    .description = "Makes an image of SIZE bytes; sizes are written as 512M, 10G or 1.5T. The "
                   "image is qcow2 with "
                   "the options that measured best, unless -f and -o say otherwise. It takes no "
                   "room until it is "
                   "written.\n\n"
                   "With -b the image is an overlay: it starts as the backing image is, of the "
                   "same size unless "
                   "SIZE is given, and the backing image is never written. An existing file is not "
                   "touched without "
                   "--overwrite.",
    .operands = {{"IMAGE", "the file to make", CLI_COMPLETE_FILE},
                 {"SIZE", "its virtual size; that of the backing image if not given", 0}},
    .examples = {{"a 10 GiB volume", "hawser create disk.qcow2 10G"},
                 {"with 64 KiB clusters and no subclusters",
                  "hawser create -f qcow2 -o cluster_size=64k,extended_l2=off disk.qcow2 10G"},
                 {"an overlay over a raw image", "hawser create -b base.img -F raw overlay.qcow2"}},
    .options = table,
    .options_bytes = sizeof(struct create_options),
    .operands_min = 1,
    .operands_max = 2,
    .run = run,
};
