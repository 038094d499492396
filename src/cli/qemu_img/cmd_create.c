/*
 * qemu-img create.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cli/qemu_img/qemu_img.h"
#include <sys/stat.h>

struct creation {
    const char *format, *filename, *backing, *backing_format;
    char *text; /* of -o, joined */
    uint64_t size;
    bool quiet, unsafe, has_size;
    struct qi_create_options options;
};

static int fail(const struct creation *c, const struct hws_error *err)
{
    /* This one ends without a newline. */
    const char *detected = strstr(err->text, "\nDetected format of ");
    if (!detected)
        return qi_error("%s: %s", c->filename, err->text);
    qi_error("%s: %.*s", c->filename, (int)(detected - err->text), err->text);
    fputs(detected + 1, stderr);
    return 1;
}

/* The backing file is looked at for its size, and for that it is there. */
static int look_at_backing(struct creation *c, struct hws_error *err)
{
    const char *backing = qi_options_get(&c->options, "backing_file");
    const char *format = qi_options_get(&c->options, "backing_fmt");
    autofree char *path = qi_beside(c->filename, backing);
    const char *local = path ? qi_local_file(path) : NULL;
    if (!local)
        return hws_fail(err, EINVAL, "Unknown protocol '%.*s'\nCould not open backing image.",
                        path ? (int)strcspn(path, ":") : 0, path ? path : "");
    if (format && !qi_driver_known(format))
        return hws_fail(err, EINVAL, "Unknown driver '%s'\nCould not open backing image.", format);
    struct hws_image image = {.path = local,
                              .format = format ? qi_driver_known(format) : NULL,
                              .trust_names = true,
                              .probe_raw = true};
    struct stat st;
    if (stat(local, &st) < 0)
        return hws_fail(err, errno, "Could not open '%s': %s\nCould not open backing image.", local,
                        strerror(errno));
    char *text;
    struct hws_error inner = {0};
    int r = hws_info(&image, false, &text, &inner);
    if (r < 0)
        return hws_fail(err, -r, "%s\nCould not open backing image.", inner.text);
    json_t *info = json_loads(text, 0, NULL);
    free(text);
    if (!format) {
        const char *found = json_string_value(json_object_get(info, "format"));
        hws_fail(err, EINVAL,
                 "Backing file specified without backing format\nDetected format of %s.",
                 found ? qi_driver_shown(found) : "?");
        json_decref(info);
        return -EINVAL;
    }
    if (!c->has_size)
        c->size = (uint64_t)json_integer_value(json_object_get(info, "virtual-size"));
    c->has_size = true;
    json_decref(info);
    return 0;
}

static int settle_backing(struct creation *c, struct hws_error *err)
{
    const char *backing = qi_options_get(&c->options, "backing_file");
    if (backing && !*backing)
        return hws_fail(err, EINVAL, "Expected backing file name, got empty string");
    if (backing && strcmp(backing, c->filename) == 0)
        return hws_fail(err, EINVAL,
                        "Error: Trying to create an image with the same filename as the backing "
                        "file");
    if (!backing)
        return 0;
    if (c->unsafe)
        return qi_options_get(&c->options, "backing_fmt") || !c->has_size
                   ? 0
                   : hws_fail(err, EINVAL, "Backing file specified without backing format");
    return look_at_backing(c, err);
}

static int take_backing(struct creation *c, struct hws_error *err)
{
    bool can = strcmp(c->options.format, "qcow2") == 0;
    if (c->backing && !can)
        return hws_fail(err, EINVAL, "Backing file not supported for file format '%s'", c->format);
    if (c->backing_format && !can)
        return hws_fail(err, EINVAL, "Backing format not supported for file format '%s'",
                        c->format);
    int r = c->backing ? qi_options_set(&c->options, "backing_file", c->backing, err) : 0;
    if (r == 0 && c->backing_format)
        r = qi_options_set(&c->options, "backing_fmt", c->backing_format, err);
    return r;
}

/* A file alone is a raw image. */
static const char *library_format(const char *format)
{
    const char *known = qi_driver_known(format);
    return known && strcmp(known, "file") == 0 ? "raw" : known;
}

static int settle(struct creation *c, struct hws_error *err)
{
    const char *known = library_format(c->format);
    size_t protocol = strcspn(c->filename, ":/");
    if (!known)
        return hws_fail(err, EINVAL, "Unknown file format '%s'", c->format);
    if (!qi_local_file(c->filename))
        return hws_fail(err, EINVAL, "Unknown protocol '%.*s'", (int)protocol, c->filename);
    int r = qi_options_parse(&c->options, known, c->text, err);
    if (r == 0)
        r = take_backing(c, err);
    const char *size = r == 0 ? qi_options_get(&c->options, "size") : NULL;
    if (size && c->has_size)
        return hws_fail(err, EINVAL, "The image size must be specified only once");
    if (size) {
        c->size = strtoull(size, NULL, 10);
        c->has_size = true;
    }
    if (r == 0)
        r = settle_backing(c, err);
    if (r == 0 && !c->has_size)
        r = hws_fail(err, EINVAL, "Image creation needs a size parameter");
    char text[32];
    snprintf(text, sizeof(text), "%llu", (unsigned long long)c->size);
    return r < 0 ? r : qi_options_set(&c->options, "size", text, err);
}

/* Sizes end at a sector. */
static uint64_t to_sectors(uint64_t bytes)
{
    return bytes > UINT64_MAX - 511 ? bytes : (bytes + 511) & ~(uint64_t)511;
}

static int make(struct creation *c, struct hws_error *err)
{
    int r = qi_options_check(&c->options, err);
    if (r == 0)
        r = qi_options_finish(&c->options, err);
    if (r < 0)
        return r;
    const char *file = qi_local_file(c->filename);
    struct stat st;
    autofree char *folder = strdup(file);
    if (!folder)
        return hws_fail(err, ENOMEM, "out of memory");
    if (stat(file, &st) == 0 && S_ISDIR(st.st_mode))
        return hws_fail(err, EISDIR, "Could not create '%s': %s", file, strerror(EISDIR));
    char *slash = strrchr(folder, '/');
    if (slash)
        *slash = '\0';
    if (!*file || (slash && *folder && stat(folder, &st) < 0))
        return hws_fail(err, ENOENT, "Could not create '%s': %s", file,
                        strerror(*file ? errno : ENOENT));
    struct hws_image image = {
        .path = file, .format = c->options.format, .trust_names = true, .probe_raw = true};
    struct hws_create create = {.size_bytes = to_sectors(c->size),
                                .options = (const char *const *)c->options.texts,
                                .unsafe_backing = c->unsafe,
                                .overwrite = true};
    r = hws_create(&image, &create, NULL, err);
    if (r == -EFBIG)
        return hws_fail(err, EFBIG, "The image size is too large for file format '%s'", c->format);
    if (r == -EAGAIN)
        return hws_fail(err, EAGAIN,
                        "Failed to get \"write\" lock\nIs another process using the image [%s]?",
                        file);
    if (r == -EACCES || r == -EROFS || r == -EPERM)
        return hws_fail(err, -r, "Could not create '%s': %s", file, strerror(-r));
    return r;
}

static int run(struct creation *c)
{
    struct hws_error err = {0};
    int r = settle(c, &err);
    if (r == 0 && !c->quiet)
        qi_options_print(&c->options, c->filename, c->format);
    if (r == 0)
        r = make(c, &err);
    int exit_code = r < 0 ? fail(c, &err) : 0;
    qi_options_free(&c->options);
    return exit_code;
}

static int take_operands(struct creation *c, int argc, char **argv)
{
    if (optind >= argc)
        return qi_usage("Expecting image file name");
    c->filename = argv[optind++];
    if (optind < argc) {
        if (qi_size_argument("image size", argv[optind++], 0, INT64_MAX, &c->size))
            return 1;
        c->has_size = true;
    }
    return optind < argc ? qi_usage("Unexpected argument: %s", argv[optind]) : 0;
}

static int create_help(const struct creation *c, int argc)
{
    const char *known = library_format(c->format);
    return known ? qi_options_help(known, optind < argc)
                 : qi_error("Unknown file format '%s'", c->format);
}

static const struct qi_arg rows[] = {
    QI_OBJECT,
    QI_WORD(struct creation, backing_format, NULL, 'F'),
    QI_WORD(struct creation, backing, NULL, 'b'),
    QI_WORD(struct creation, format, NULL, 'f'),
    QI_OPTIONS(struct creation, text),
    QI_FLAG(struct creation, quiet, NULL, 'q'),
    QI_FLAG(struct creation, unsafe, NULL, 'u'),
};

int qi_create(int argc, char **argv)
{
    struct creation c = {.format = "raw"};
    int r = qi_take(QI_ARGS(rows), &c, argc, argv);
    if (r == QI_GO && c.text && qi_wants_help(c.text)) {
        r = create_help(&c, argc);
    } else if (r == QI_GO) {
        r = take_operands(&c, argc, argv);
        if (r == 0)
            r = run(&c);
    }
    free(c.text);
    return r;
}
