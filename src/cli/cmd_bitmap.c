/*
 * `hawser bitmap`: the dirty bitmaps that an image stores.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cli/image.h"
#include "cli/output.h"

struct bitmap_options {
    struct cli_list actions; /* CLI_STEP: names of options, "merge" followed by its value */
    const char *format, *source_file, *source_format;
    struct cli_list allow;
    bool force_share; /* of --list */
    bool list;
    uint64_t granularity;
    int output;
};

static const struct {
    const char *name;
    enum hws_bitmap_kind kind;
} kinds[] = {{"add", HWS_BITMAP_ADD},         {"remove", HWS_BITMAP_REMOVE},
             {"clear", HWS_BITMAP_CLEAR},     {"enable", HWS_BITMAP_ENABLE},
             {"disable", HWS_BITMAP_DISABLE}, {"merge", HWS_BITMAP_MERGE}};

/* ---- listing ---- */

static void print_bitmap(const json_t *bitmap)
{
    const char *name = json_string_value(json_object_get(bitmap, "name"));
    json_int_t granularity = json_integer_value(json_object_get(bitmap, "granularity"));
    const json_t *flags = json_object_get(bitmap, "flags"), *flag;
    char text[64];
    size_t i;
    out_safe(stdout, name ? name : "?");
    printf(": one bit a %s", out_size((uint64_t)granularity, text, sizeof(text)));
    json_array_foreach(flags, i, flag)
    {
        const char *word = json_string_value(flag);
        printf(", %s", !strcmp(word, "auto")     ? "enabled"
                       : !strcmp(word, "in-use") ? "in use or inconsistent"
                                                 : word);
    }
    putchar('\n');
}

static int list(const struct bitmap_options *options, const char *path)
{
    struct hws_image image = CLI_IMAGE(options, path);
    struct hws_error err = {0};
    char *text;
    if (hws_info(&image, false, &text, &err) < 0) {
        cli_explain_open(&err, path);
        return out_error("bitmap", CLI_FAILED, &err);
    }
    json_t *info = json_loads(text, 0, NULL), *bitmap;
    free(text);
    const json_t *data = json_object_get(json_object_get(info, "format-specific"), "data");
    json_t *bitmaps = json_object_get(data, "bitmaps");
    size_t i;
    if (options->output == CLI_JSON) {
        out_json(bitmaps ? json_incref(bitmaps) : json_array());
    } else {
        json_array_foreach(bitmaps, i, bitmap) print_bitmap(bitmap);
    }
    json_decref(info);
    return CLI_OK;
}

/* ---- changing ---- */

/* @ret of room for all of the list. @return how many, or -EINVAL. */
static int read_actions(const struct bitmap_options *options, struct hws_bitmap_action *ret,
                        struct hws_error *err)
{
    const struct cli_list *steps = &options->actions;
    unsigned count = 0, added = 0;
    for (unsigned i = 0; i < steps->count; i++) {
        unsigned k = 0;
        while (k < ARRAY_LEN(kinds) && strcmp(kinds[k].name, steps->item[i]))
            k++;
        assert(k < ARRAY_LEN(kinds));
        ret[count] = (struct hws_bitmap_action){.kind = kinds[k].kind};
        if (kinds[k].kind == HWS_BITMAP_MERGE)
            ret[count].from = steps->item[++i];
        if (kinds[k].kind == HWS_BITMAP_ADD) {
            ret[count].granularity = options->granularity == UINT64_MAX ? 0 : options->granularity;
            added++;
        }
        count++;
    }
    if (count == 0)
        return hws_fail(err, EINVAL,
                        "say what to do: --add, --remove, --clear, --enable, --disable, --merge or "
                        "--list");
    if (options->granularity != UINT64_MAX && (!added || options->granularity == 0))
        return hws_fail(err, EINVAL, "-g goes with --add, and is not 0");
    return (int)count;
}

static int change(const struct bitmap_options *options, const char *path, const char *name)
{
    struct hws_error err = {0};
    struct hws_bitmap_action actions[CLI_LIST_MAX];
    struct hws_image image = CLI_IMAGE(options, path);
    struct hws_image source = {
        .path = options->source_file, .format = options->source_format, .allow = image.allow};
    int count = read_actions(options, actions, &err);
    if (count >= 0 && options->source_format && !options->source_file)
        count = hws_fail(&err, EINVAL, "--source-format goes with --source-file");
    if (count < 0)
        return out_error("bitmap", CLI_USAGE, &err);
    if (hws_bitmap(&image, name, actions, (unsigned)count, options->source_file ? &source : NULL,
                   &err) < 0) {
        cli_explain_open(&err, path);
        return out_error("bitmap", CLI_FAILED, &err);
    }
    return CLI_OK;
}

static int run(const void *arg, char **operands, unsigned count)
{
    const struct bitmap_options *options = arg;
    struct hws_error err = {0};
    if (options->list && (count > 1 || options->actions.count))
        hws_fail(&err, EINVAL, "--list takes an image, and no bitmap or action");
    else if (!options->list && count < 2)
        hws_fail(&err, EINVAL, "BITMAP is missing: the name of the bitmap");
    else if (!options->list && options->force_share)
        hws_fail(&err, EINVAL, "-U goes with --list: changing bitmaps needs the image for itself");
    if (err.code)
        return out_error("bitmap", CLI_USAGE, &err);
    return options->list ? list(options, operands[0]) : change(options, operands[0], operands[1]);
}

#define STEP(step_name, step_value, step_help)                                                   \
    {                                                                                            \
        step_name, 0, CLI_STEP, offsetof(struct bitmap_options, actions), step_value, step_help, \
            NULL, CLI_COMPLETE_NONE, false                                                       \
    }

static const struct cli_option table[] = {
    {"list", 'l', CLI_FLAG, offsetof(struct bitmap_options, list), NULL,
     "list the bitmaps of the image"},
    STEP("add", NULL, "make BITMAP: all clean, and enabled"),
    STEP("remove", NULL, "remove BITMAP, also one that is inconsistent"),
    STEP("clear", NULL, "all of BITMAP is clean"),
    STEP("enable", NULL, "BITMAP follows the changes to come"),
    STEP("disable", NULL, "BITMAP stays as it is"),
    STEP("merge", "SOURCE", "what is dirty in the bitmap SOURCE becomes dirty in BITMAP"),
    {"granularity", 'g', CLI_SIZE, offsetof(struct bitmap_options, granularity), "SIZE",
     "with --add: the bytes that one bit stands for, a power of two of 512 to 2G (the cluster "
     "size, "
     "of 4K to 64K, if not given)"},
    {"source-file", 'b', CLI_TEXT, offsetof(struct bitmap_options, source_file), "IMAGE",
     "with --merge: the image that has SOURCE, of the same size", NULL, CLI_COMPLETE_FILE},
    {"source-format", 'F', CLI_TEXT, offsetof(struct bitmap_options, source_format), "FMT",
     "format of that image", NULL, CLI_COMPLETE_FORMAT},
    CLI_FORMAT_OPTION(struct bitmap_options),
    CLI_ALLOW_OPTION(struct bitmap_options),
    CLI_FORCE_SHARE_OPTION(struct bitmap_options),
    CLI_OUTPUT_OPTION(struct bitmap_options),
    {NULL},
};

const struct cli_command cli_bitmap_command = {
    .name = "bitmap",
    .summary = "Manage the dirty bitmaps that an image stores",
    .synopsis = "[OPTION...] ACTION... IMAGE BITMAP\n--list [OPTION...] IMAGE",
    .description =
        "A dirty bitmap tells which parts of an image were written since it was made or cleared, "
        "so that a backup copies only those. An enabled one follows every change, whichever "
        "program makes it, as long as that knows bitmaps; one that does not makes them void. Only "
        "qcow2 images of version 3 store bitmaps.\n\n"
        "Actions may be given several times, and are done in their order; they are stored together "
        "at the end, or, where one fails, those in front of it.\n\n"
        "A program that is killed, or a machine that loses power, while the image is being written "
        "leaves its enabled bitmaps in use: they are inconsistent then, and can only be removed. "
        "The image's data is not affected: the next backup is a full one.",
    .operands = {{"IMAGE", "the image", CLI_COMPLETE_FILE},
                 {"BITMAP", "the bitmap's name", CLI_COMPLETE_NONE}},
    .examples = {{"follow changes from now on", "hawser bitmap --add disk.qcow2 monday"},
                 {"what another layer saw changes here too",
                  "hawser bitmap --merge monday -b overlay.qcow2 base.qcow2 monday"},
                 {"after a crash", "hawser bitmap --remove --add disk.qcow2 monday"}},
    .options = table,
    .options_bytes = sizeof(struct bitmap_options),
    .operands_min = 1,
    .operands_max = 2,
    .run = run,
};
