/*
 * qemu-img resize.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cli/qemu_img/qemu_img.h"

struct resize {
    const char *format, *preallocation;
    unsigned reach;
    bool quiet, shrink;
    int relative;
    uint64_t size;
};

static int take_size(struct resize *how, const char *text)
{
    if (*text == '+' || *text == '-') {
        how->relative = *text == '+' ? 1 : -1;
        text++;
    }
    if (qi_parse_size(text, &how->size) == 0)
        return 0;
    return qi_error("Parameter 'size' expects a non-negative number below 2^64\n"
                    "Optional suffix k, M, G, T, P or E means kilo-, mega-, giga-, tera-, peta-\n"
                    "and exabytes, respectively.");
}

/* The new size as qemu-img works it out: signed, and modulo 2^64. */
static int work_out(const struct resize *how, uint64_t now, uint64_t *ret)
{
    uint64_t size =
        how->relative ? (how->relative > 0 ? now + how->size : now - how->size) : how->size;
    if ((int64_t)size <= 0)
        return qi_error("New image size must be positive");
    if (how->preallocation && size <= now && strcmp(how->preallocation, "off") != 0)
        return qi_error("Preallocation can only be used for growing images");
    if (size < now && !how->shrink) {
        qi_error("Use the --shrink option to perform a shrink operation.");
        qi_warning("Shrinking an image will delete all data beyond the shrunken image's end. "
                   "Before performing such an operation, make sure there is no important data "
                   "there.");
        return 1;
    }
    *ret = size;
    return 0;
}

static int run(const struct resize *how, const char *name)
{
    autooperand operand = {0};
    struct hws_error err = {0};
    uint64_t now, size;
    if (qi_operand(&operand, name, how->format, NULL, how->reach) < 0)
        return 1;
    if (qi_virtual_size(&operand, &now, &err) < 0)
        return qi_explain(&operand, &err);
    qi_warn_raw(&operand);
    if (work_out(how, now, &size))
        return 1;
    if (strcmp(operand.driver, "qcow2") == 0 && size % 512)
        return qi_error("The new size must be a multiple of 512");
    if (how->preallocation && strcmp(how->preallocation, "metadata") == 0 &&
        strcmp(operand.driver, "raw") == 0)
        return qi_error("Unsupported preallocation mode: metadata");
    struct hws_resize resize = {
        .size_bytes = size, .shrink = how->shrink, .preallocation = how->preallocation};
    int r = hws_resize(&operand.image, &resize, &size, &err);
    if (r == -EFBIG)
        return qi_error("Failed to grow the L1 table: File too large");
    if (r < 0)
        return qi_explain(&operand, &err);
    if (!how->quiet)
        printf("Image resized.\n");
    return 0;
}

static int take_preallocation(void *command, const struct qi_arg *arg, char *mode)
{
    static const char *const modes[] = {"off", "metadata", "falloc", "full"};
    struct resize *how = command;
    how->preallocation = mode;
    for (unsigned i = 0; i < ARRAY_LEN(modes); i++)
        if (strcmp(mode, modes[i]) == 0)
            return 0;
    return qi_error("Invalid preallocation mode '%s'", mode);
}

static const struct qi_arg rows[] = {
    QI_OBJECT,
    QI_OPTS(struct resize),
    QI_TAKE("preallocation", 0, take_preallocation),
    QI_FLAG(struct resize, shrink, "shrink", 0),
    QI_WORD(struct resize, format, NULL, 'f'),
    QI_FLAG(struct resize, quiet, NULL, 'q'),
};

int qi_resize(int argc, char **argv)
{
    /* The size is the last word, whatever it looks like: "-1G" is no option. */
    if (argc < 3 && !(argc == 2 && (!strcmp(argv[1], "-h") || !strcmp(argv[1], "--help"))))
        return qi_usage("Not enough arguments");
    const char *size = argc > 2 ? argv[--argc] : "";
    argv[argc] = argc > 1 && *size ? NULL : argv[argc];
    struct resize how = {.reach = QI_WRITE};
    int r = qi_take(QI_ARGS(rows), &how, argc, argv);
    if (r != QI_GO)
        return r;
    if (optind != argc - 1)
        return qi_usage("Expecting image file name and size");
    if (qi_two_formats(how.format, how.reach))
        return 1;
    return take_size(&how, size) ? 1 : run(&how, argv[optind]);
}
