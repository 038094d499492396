/*
 * qemu-img amend.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cli/qemu_img/qemu_img.h"

struct amend {
    const char *format, *cache;
    char *text;
    unsigned reach;
    bool progress, quiet;
};

static int take_options(const struct amend *how, struct qi_create_options *options)
{
    struct hws_error err = {0};
    const char *name = qi_options_creation_only(how->text);
    if (name) {
        return qi_error("Invalid parameter '%s'\nThis option is only supported for image creation",
                        name);
    }
    if (qi_options_parse(options, "qcow2", how->text, &err) < 0)
        return qi_error("%s", err.text);
    if (qi_options_given(options, "backing_file") || qi_options_given(options, "backing_fmt"))
        return qi_error("Cannot amend the backing file\nYou can use 'qemu-img rebase' instead.");
    const char *compat = qi_options_given(options, "compat");
    const char *bits = qi_options_given(options, "refcount_bits");
    bool old = compat && (!strcmp(compat, "0.10") || !strcmp(compat, "v2"));
    if (compat && !old && strcmp(compat, "1.1") != 0 && strcmp(compat, "v3") != 0)
        return qi_error("Unknown compatibility level %s", compat);
    long long width = bits ? strtoll(bits, NULL, 10) : 16;
    if (width < 1 || width > 64 || !is_power_of_2((uint64_t)width))
        return qi_error("Refcount width must be a power of two and may not exceed 64 bits");
    if (old && bits && width != 16)
        return qi_error("Refcount widths other than 16 bits require compatibility level 1.1 or "
                        "above (use compat=1.1 or greater)");
    return qi_options_finish_given(options, &err) < 0 ? qi_error("%s", err.text) : 0;
}

static int tell(const struct qi_operand *operand, const struct hws_error *err)
{
    switch (err->code) {
    case EAGAIN:
        return qi_explain(operand, err);
    case ENODATA:
        return qi_error("data-file can only be set for images that use an external data file");
    case EEXIST:
        return qi_error("data-file-raw cannot be set on existing images");
    default:
        return qi_error("%s", err->text);
    }
}

static int amend_image(const struct amend *how, const char *name)
{
    autooperand operand = {0};
    struct qi_create_options options = {0};
    struct hws_error err = {0};
    struct qi_progress progress;
    uint64_t size;
    if (!qi_cache_known(how->cache, QI_CACHE_TARGET) ||
        qi_operand(&operand, name, how->format, how->cache, how->reach | QI_WRITE) < 0)
        return 1;
    if (qi_virtual_size(&operand, &size, &err) < 0)
        return qi_explain(&operand, &err);
    qi_warn_raw(&operand);
    if (strcmp(operand.driver, "qcow2") != 0)
        return qi_error("Format driver '%s' does not support option amendment", operand.driver);
    int r = take_options(how, &options);
    if (r == 0) {
        /* qemu-img cuts off what lies past a smaller size without being told twice. */
        struct hws_amend amend = {.options = (const char *const *)options.texts,
                                  .force = true,
                                  .progress = qi_progress_step,
                                  .progress_arg = &progress};
        qi_progress_start(&progress, how->progress && !how->quiet);
        r = hws_amend(&operand.image, &amend, &err) < 0 ? tell(&operand, &err) : 0;
        if (progress.on)
            printf("    (100.00/100%%)\r");
    }
    qi_options_free(&options);
    return r;
}

static int amend_help(const struct amend *how, const char *name)
{
    const char *format = how->format;
    autooperand operand = {0};
    if (!format && !name)
        return qi_error("Must specify options (-o)");
    if (!format && qi_operand(&operand, name, NULL, NULL, how->reach) < 0)
        return 1;
    if (!format)
        format = operand.driver;
    if (strcmp(format, "qcow2") != 0)
        return qi_error("Format driver '%s' does not support option amendment", format);
    return qi_options_amend_help();
}

static int run(struct amend *how, int argc, char **argv)
{
    if (!how->text)
        return qi_usage("Must specify options (-o)");
    if (qi_two_formats(how->format, how->reach))
        return 1;
    if (qi_wants_help(how->text))
        return amend_help(how, optind < argc ? argv[optind] : NULL);
    if (optind != argc - 1)
        return qi_error("Expecting one image file name");
    int r = amend_image(how, argv[optind]);
    if (how->progress && !how->quiet)
        putchar('\n');
    return r;
}

static const struct qi_arg rows[] = {
    QI_OBJECT,
    QI_OPTS(struct amend),
    QI_NOTHING("force", 0), /* of encryption keys, which are not here */
    QI_OPTIONS(struct amend, text),
    QI_FLAG(struct amend, quiet, NULL, 'q'),
    QI_WORD(struct amend, format, NULL, 'f'),
    QI_WORD(struct amend, cache, NULL, 't'),
    QI_FLAG(struct amend, progress, NULL, 'p'),
};

int qi_amend(int argc, char **argv)
{
    struct amend how = {.cache = "writeback"};
    int r = qi_take(QI_ARGS(rows), &how, argc, argv);
    if (r == QI_GO)
        r = run(&how, argc, argv);
    free(how.text);
    return r;
}
