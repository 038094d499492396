/*
 * qemu-img dd: a part of one image as another.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cli/qemu_img/qemu_img.h"

struct dd {
    const char *format, *target_format, *input, *output;
    unsigned reach;
    uint64_t block, count, skip;
    bool has_count;
};

static int take_operand(struct dd *how, char *text)
{
    char *value = strchr(text, '=');
    size_t length = value ? (size_t)(value - text) : strlen(text);
    char name[64];
    snprintf(name, sizeof(name), "%.*s", (int)length, text);
    value = value ? value + 1 : NULL;
    if (value && strcmp(name, "if") == 0)
        how->input = value;
    else if (value && strcmp(name, "of") == 0)
        how->output = value;
    else if (value && strcmp(name, "bs") == 0)
        return qi_size_argument("bs", value, 1, INT32_MAX, &how->block);
    else if (value && strcmp(name, "skip") == 0)
        return qi_size_argument("skip", value, 0, INT64_MAX, &how->skip);
    else if (value && strcmp(name, "count") == 0) {
        how->has_count = true;
        return qi_size_argument("count", value, 0, INT64_MAX, &how->count);
    } else
        return qi_error("unrecognized operand %s", name);
    return 0;
}

static int tell(const struct dd *how, const char *file, const struct hws_error *err)
{
    const char *prefix = "error while creating output image";
    if (err->code == EAGAIN || strstr(err->text, "is part of the source"))
        return qi_error("%s: %s: Failed to get \"write\" lock\n"
                        "Is another process using the image [%s]?",
                        how->output, prefix, file);
    if (err->code == ENOENT || err->code == EACCES || err->code == EROFS || err->code == ENOTDIR)
        return qi_error("%s: %s: Could not create '%s': %s", how->output, prefix, file,
                        strerror(err->code));
    return qi_error("%s: %s: %s", how->output, prefix, err->text);
}

/* The part of the source: [*start, *start + *length). */
static void find_part(const struct dd *how, uint64_t size, uint64_t *start, uint64_t *length)
{
    uint64_t limit;
    if (how->has_count && !__builtin_mul_overflow(how->count, how->block, &limit) && limit < size)
        size = limit;
    *length = size;
    *start = 0;
    if (__builtin_mul_overflow(how->skip, how->block, start))
        *start = UINT64_MAX;
}

static int make(const struct dd *how, const struct qi_operand *source, uint64_t start,
                uint64_t length, const char *known)
{
    const char *file = qi_local_file(how->output);
    struct hws_error err = {0};
    struct qi_create_options options = {0};
    if (!file)
        return qi_error("%s: error while creating output image: Unknown protocol '%.*s'",
                        how->output, (int)strcspn(how->output, ":"), how->output);
    if (qi_target_free(file, &err) < 0)
        return tell(how, file, &err);
    err = (struct hws_error){0};
    struct hws_image to = {.path = file, .format = known, .trust_names = true, .probe_raw = true};
    int r = qi_options_parse(&options, known, NULL, &err);
    if (r == 0)
        r = qi_options_finish(&options, &err);
    uint64_t size = (length + 511) & ~(uint64_t)511;
    struct hws_create create = {
        .size_bytes = size, .options = (const char *const *)options.texts, .overwrite = true};
    struct hws_convert convert = {.size_bytes = size,
                                  .options = (const char *const *)options.texts,
                                  .overwrite = true,
                                  .start = start,
                                  .length = length};
    if (r == 0)
        r = length ? hws_convert(&source->image, &to, &convert, NULL, &err)
                   : hws_create(&to, &create, NULL, &err);
    qi_options_free(&options);
    return r < 0 ? tell(how, file, &err) : 0;
}

static int run(const struct dd *how)
{
    autooperand source = {0};
    struct hws_error err = {0};
    uint64_t size, start, length;
    const char *known = qi_driver_known(how->target_format);
    if (qi_operand(&source, how->input, how->format, NULL, how->reach) < 0)
        return 1;
    if (!known)
        return qi_error("Unknown file format");
    known = strcmp(known, "file") == 0 ? "raw" : known;
    if (qi_virtual_size(&source, &size, &err) < 0)
        return qi_explain(&source, &err);
    size = (size + 511) & ~(uint64_t)511;
    find_part(how, size, &start, &length);
    /* qemu-img counts from the start of the input, not from where skip leads to. */
    bool beyond = how->skip && start >= size;
    length = length > start ? length - start : 0;
    int r = make(how, &source, start, length, known);
    if (r == 0 && beyond)
        qi_error("%s: cannot skip to specified offset", how->input);
    return r;
}

static const struct qi_arg rows[] = {
    QI_OBJECT,
    QI_OPTS(struct dd),
    QI_SHARE(struct dd),
    QI_WORD(struct dd, format, NULL, 'f'),
    QI_WORD(struct dd, target_format, NULL, 'O'),
};

int qi_dd(int argc, char **argv)
{
    struct dd how = {.target_format = "raw", .block = 512};
    int r = qi_take(QI_ARGS(rows), &how, argc, argv);
    if (r != QI_GO)
        return r;
    for (; optind < argc; optind++)
        if (take_operand(&how, argv[optind]))
            return 1;
    if (!how.input || !how.output)
        return qi_error("Must specify both input and output files");
    if (qi_two_formats(how.format, how.reach))
        return 1;
    return run(&how);
}
