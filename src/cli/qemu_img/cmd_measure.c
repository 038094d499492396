/*
 * qemu-img measure.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cli/qemu_img/qemu_img.h"

struct measure {
    const char *format, *target_format, *output;
    char *text;
    struct qi_snapshot_key snapshot;
    bool has_snapshot;
    unsigned reach;
    uint64_t size;
    bool json;
};

static int take_options(const struct measure *how, struct qi_create_options *options)
{
    const char *known = qi_driver_known(how->target_format);
    struct hws_error err = {0};
    if (!known)
        return qi_error("Unknown file format '%s'", how->target_format);
    if (qi_options_parse(options, strcmp(known, "file") ? known : "raw", how->text, &err) < 0) {
        if (!options->table)
            return qi_error("Format driver '%s' does not support image creation",
                            how->target_format);
        qi_error("%s", err.text);
        return qi_error("Invalid options for file format '%s'", how->target_format);
    }
    if (qi_options_check(options, &err) < 0 || qi_options_finish(options, &err) < 0)
        return qi_error("%s", err.text);
    return 0;
}

static void print(const struct measure *how, const struct hws_measured *found)
{
    if (how->json) {
        json_t *out = json_object();
        if (found->has_bitmaps)
            json_object_set_new(out, "bitmaps", json_integer((json_int_t)found->bitmaps));
        json_object_set_new(out, "required", json_integer((json_int_t)found->required));
        json_object_set_new(out, "fully-allocated",
                            json_integer((json_int_t)found->fully_allocated));
        qi_print_json(out);
        json_decref(out);
        return;
    }
    printf("required size: %llu\nfully allocated size: %llu\n", (unsigned long long)found->required,
           (unsigned long long)found->fully_allocated);
    if (found->has_bitmaps)
        printf("bitmaps size: %llu\n", (unsigned long long)found->bitmaps);
}

static int measure_options(const struct measure *how, const struct qi_operand *source,
                           const struct qi_create_options *options)
{
    struct hws_error err = {0};
    struct hws_measured found;
    struct hws_measure measure = {
        .format = options->format,
        .options = (const char *const *)options->texts,
        .size_bytes = how->size == HWS_SIZE_UNSET ? how->size : (how->size + 511) & ~(uint64_t)511};
    int r = hws_measure(source ? &source->image : NULL, &measure, &found, &err);
    if (r < 0)
        return source ? qi_explain(source, &err) : qi_error("%s", err.text);
    print(how, &found);
    return 0;
}

static int run(const struct measure *how, const char *name)
{
    autooperand source = {0};
    struct qi_create_options options = {0};
    if (name && qi_operand(&source, name, how->format, NULL, how->reach) < 0)
        return 1;
    autofree char *snapshot = NULL;
    struct hws_error err = {0};
    if (how->has_snapshot && qi_snapshot_find(&source, &how->snapshot, &snapshot, &err) < 0)
        return qi_error("Failed to load snapshot: Can't find snapshot");
    source.image.snapshot = snapshot;
    int r = take_options(how, &options);
    if (r == 0)
        r = measure_options(how, name ? &source : NULL, &options);
    qi_options_free(&options);
    return r;
}

static int take_snapshot(void *command, const struct qi_arg *arg, char *text)
{
    struct measure *how = command;
    how->has_snapshot = true;
    return qi_snapshot_param(text, &how->snapshot);
}

static int check(const struct measure *how, int operands)
{
    if (operands > 1)
        return qi_error("At most one filename argument is allowed.");
    if (!operands && (how->reach & QI_IMAGE_OPTS || how->format || how->has_snapshot))
        return qi_error("--image-opts, -f, and -l require a filename argument.");
    if (!operands && how->size == HWS_SIZE_UNSET)
        return qi_error("Either --size N or one filename must be specified.");
    if (operands && how->size != HWS_SIZE_UNSET)
        return qi_error("--size N cannot be used together with a filename.");
    if (qi_two_formats(how->format, how->reach))
        return 1;
    return 0;
}

static const struct qi_arg rows[] = {
    QI_OPTS(struct measure),
    QI_OBJECT,
    QI_WORD(struct measure, output, "output", 0),
    QI_BYTES(struct measure, size, "size", 0, "image size", 0, INT64_MAX),
    QI_SHARE(struct measure),
    QI_WORD(struct measure, format, NULL, 'f'),
    QI_TAKE(NULL, 'l', take_snapshot),
    QI_OPTIONS(struct measure, text),
    QI_WORD(struct measure, target_format, NULL, 'O'),
};

static int check_and_run(struct measure *how, int argc, char **argv)
{
    int json = qi_output(how->output);
    how->json = json == 1;
    if (json < 0 || check(how, argc - optind))
        return 1;
    return run(how, optind < argc ? argv[optind] : NULL);
}

int qi_measure(int argc, char **argv)
{
    /* qemu-img prints its help for an unknown option of this command, and is content. */
    static const struct qi_args args = {rows, ARRAY_LEN(rows), .getopt_told = qi_help};
    struct measure how = {.target_format = "raw", .size = HWS_SIZE_UNSET};
    argv[0] = (char *)"measure";
    int r = qi_take(&args, &how, argc, argv);
    if (r == QI_GO)
        r = check_and_run(&how, argc, argv);
    free(how.text);
    qi_snapshot_key_free(&how.snapshot);
    return r;
}
