/*
 * hws_create(): new images. Takes the size from the backing image where none is given, and records
 * the backing image's format, so that it is never probed again.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "block/driver.h"
#include "block/options.h"
#include "lib/call.h"
#include <limits.h>

#define DEFAULT_FORMAT "qcow2"

struct creation {
    const struct hws_image *image;
    const struct hws_create *create;
    json_t *result;
    bool want_info;
};

/* Options may be written with - or _; the table has one of them. */
static const char *table_name(const struct option_desc *table, const char *name)
{
    for (; table && table->name; table++) {
        const char *a = table->name, *b = name;
        while (*a && (*a == *b || ((*a == '-' || *a == '_') && (*b == '-' || *b == '_'))))
            a++, b++;
        if (!*a && !*b)
            return table->name;
    }
    return NULL;
}

int call_add_options(const struct option_desc *table, const char *const *texts, json_t *out,
                     struct hws_error *err)
{
    for (; texts && *texts; texts++) {
        json_t *given = json_object();
        int r = options_from_text(*texts, given, err);
        const char *name;
        json_t *value;
        json_object_foreach(given, name, value)
        {
            const char *known = table_name(table, name);
            json_object_set(out, known ? known : name, value);
        }
        json_decref(given);
        if (r < 0)
            return r;
    }
    return 0;
}

int call_resolve_beside(const char *image, const char *name, char **ret, struct hws_error *err)
{
    const char *slash = strrchr(image, '/');
    int r = *name == '/' || !slash ? asprintf(ret, "%s", name)
                                   : asprintf(ret, "%.*s/%s", (int)(slash - image), image, name);
    return r < 0 ? hws_fail(err, ENOMEM, "out of memory") : 0;
}

/* Size and format of the backing image, found by opening it alone. */
static int co_look_at_backing(const struct creation *c, const char *format, uint64_t *ret_size,
                              json_t *options, const char *format_option, struct hws_error *err)
{
    autofree char *path = NULL;
    int r = call_resolve_beside(c->image->path, c->create->backing, &path, err);
    if (r < 0)
        return r;
    struct hws_image backing = {.path = path,
                                .format = format,
                                .allow = c->image->allow,
                                .trust_names = c->image->trust_names,
                                .probe_raw = c->image->probe_raw,
                                .force_share = c->image->force_share};
    struct block_node *node;
    r = co_call_open(&backing, BLOCK_OPEN_NO_BACKING, &node, err);
    if (r < 0)
        return hws_wrap(err, r, "backing image%s", format ? "" : " (say its format with -F)");
    *ret_size = block_size(node);
    json_object_set_new(options, format_option, json_string(block_driver_name(node)));
    return co_call_close(node, 0, err);
}

static int co_add_backing(const struct creation *c, const struct block_driver *driver,
                          json_t *options, uint64_t *size, struct hws_error *err)
{
    const char *file_option = table_name(driver->create_options, "backing_file");
    const char *format_option = table_name(driver->create_options, "backing_fmt");
    const char *format = c->create->backing_format;
    const char *backing = c->create->backing;
    if (!file_option || !format_option) {
        if (backing)
            return hws_fail(err, EINVAL, "format '%s' has no backing files; use -f qcow2",
                            driver->name);
        return 0;
    }
    if (backing)
        json_object_set_new(options, file_option, json_string_nocheck(backing));
    else if (!(backing = json_string_value(json_object_get(options, file_option))))
        return format ? hws_fail(err, EINVAL, "a backing format needs a backing file (-b)") : 0;
    if (!format)
        format = json_string_value(json_object_get(options, format_option));
    if (c->create->unsafe_backing) {
        json_object_set_new(options, format_option, format ? json_string(format) : NULL);
        return 0;
    }
    uint64_t backing_size = 0;
    struct hws_create named = *c->create;
    named.backing = backing;
    struct creation with_name = {.image = c->image, .create = &named};
    int r = co_look_at_backing(&with_name, format, &backing_size, options, format_option, err);
    if (r == 0 && *size == HWS_SIZE_UNSET)
        *size = backing_size;
    return r;
}

static int co_create_described(const struct creation *c, json_t *options, struct hws_error *err)
{
    const char *format = json_string_value(json_object_get(options, "driver"));
    const struct block_driver *driver = format ? block_driver_find(format) : NULL;
    if (!driver || (!driver->co_create && driver->kind != BLOCK_BACKEND))
        return hws_fail(err, EINVAL,
                        "cannot create images of format '%s'; see 'hawser help formats'",
                        format ? format : "?");
    int r = call_add_options(driver->create_options, c->create->options, options, err);
    if (r < 0)
        return r;
    uint64_t size = c->create->size_bytes;
    r = co_add_backing(c, driver, options, &size, err);
    if (r < 0)
        return r;
    if (size == HWS_SIZE_UNSET && !json_object_get(options, "size"))
        return hws_fail(err, EINVAL,
                        "a new image needs a size (such as 10G) or a backing image (-b) to take it "
                        "from");
    if (size > BLOCK_SIZE_MAX && size != HWS_SIZE_UNSET)
        return hws_fail(err, EFBIG, "size %llu is past the largest that the kernel takes, %llu",
                        (unsigned long long)size, (unsigned long long)BLOCK_SIZE_MAX);
    if (size != HWS_SIZE_UNSET)
        json_object_set_new(options, "size", json_integer((json_int_t)size));
    struct block_policy policy = {.allow = c->image->allow,
                                  .trust_names = c->image->trust_names,
                                  .progress = c->create->progress,
                                  .progress_arg = c->create->progress_arg};
    return co_block_create(options, c->create->overwrite, &policy, err);
}

int co_call_create(const struct hws_image *image, const struct hws_create *create,
                   struct hws_error *err)
{
    struct creation c = {.image = image, .create = create};
    json_t *options;
    int r =
        block_describe(image->path, image->format ? image->format : DEFAULT_FORMAT, &options, err);
    if (r < 0)
        return r;
    r = co_create_described(&c, options, err);
    json_decref(options);
    return r;
}

static int co_create(void *arg, struct hws_error *err)
{
    struct creation *c = arg;
    int r = co_call_create(c->image, c->create, err);
    if (r < 0 || !c->want_info)
        return r;
    struct hws_image made = *c->image;
    made.format = made.format ? made.format : DEFAULT_FORMAT;
    struct block_node *node;
    r = co_call_open(&made, BLOCK_OPEN_NO_BACKING, &node, err);
    if (r < 0)
        return r;
    r = co_call_info(node, false, &c->result, err);
    return co_call_close(node, r, err);
}

int hws_create(const struct hws_image *image, const struct hws_create *create, char **ret_json,
               struct hws_error *err)
{
    struct creation c = {image, create, NULL, ret_json != NULL};
    int r = call_check_image(image, err);
    if (r == 0)
        r = call_run(co_create, &c, err);
    if (r < 0) {
        json_decref(c.result);
        return r;
    }
    return ret_json ? call_json_text(c.result, ret_json, err) : 0;
}
