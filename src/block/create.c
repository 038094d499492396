/*
 * Making images: first the storage, by the backend, then the format's structures in it.
 *
 * The options of both are parsed before anything is made, so a typing error costs no file. What a
 * failing call has made is taken away again; what was there before stays, as far as it was not
 * overwritten on request.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "block/core.h"

static const char *const not_options[] = {"driver", "file", NULL};

/* One driver's part of a creation: its parsed options. */
struct part {
    const struct block_driver *driver;
    void *options;
};

static void part_free(struct part *part)
{
    if (part->options)
        options_free(part->driver->create_options, part->options);
    free(part->options);
}

static int part_parse(const json_t *description, struct part *ret, struct hws_error *err)
{
    const char *name = json_string_value(json_object_get(description, "driver"));
    ret->driver = name ? block_driver_find(name) : NULL;
    if (!ret->driver)
        return hws_fail(err, EINVAL,
                        name ? "no driver is called '%.64s'" : "what to create names no driver%s",
                        name ? name : "");
    if (!ret->driver->co_create)
        return hws_fail(err, ENOTSUP, "%s images cannot be created", ret->driver->name);
    ret->options = calloc(1, MAX(ret->driver->create_options_bytes, (size_t)1));
    if (!ret->options)
        return hws_fail(err, ENOMEM, "out of memory");
    int r = options_parse(ret->driver->create_options, description, not_options, ret->driver->name,
                          ret->options, ret->driver->create_options_bytes, err);
    if (r < 0) {
        free(ret->options);
        ret->options = NULL;
    }
    return r;
}

static const struct option_desc *find_option(const struct option_desc *table, const char *name)
{
    for (; table && table->name; table++)
        if (strcmp(table->name, name) == 0)
            return table;
    return NULL;
}

/* The members of @description that are for opening: the rest was for making the storage. */
static json_t *to_open(const struct block_driver *driver, const json_t *description)
{
    json_t *open = json_object(), *value;
    const char *name;
    json_object_foreach((json_t *)description, name, value)
    {
        if (strcmp(name, "driver") == 0 || find_option(driver->options, name))
            json_object_set(open, name, value);
    }
    return open;
}

/* Tells the backend whether it may replace what is there. */
static int set_overwrite(struct part *storage, bool overwrite, struct hws_error *err)
{
    const struct option_desc *desc = find_option(storage->driver->create_options, "overwrite");
    if (!desc)
        return 0;
    if (desc->type != OPTION_BOOL)
        return hws_fail(err, EINVAL, "%s: 'overwrite' is not a bool", storage->driver->name);
    *(bool *)((char *)storage->options + desc->offset) = overwrite;
    return 0;
}

static void co_remove_made(const struct part *storage, int made)
{
    struct hws_error ignored = {0};
    if (made == 1 && storage->driver->co_remove)
        (void)!storage->driver->co_remove(storage->options, &ignored);
}

/* Writes the format into the storage that was just made. */
static int co_format(const struct part *format, const struct part *storage,
                     const json_t *description, const struct block_policy *policy,
                     struct hws_error *err)
{
    struct block_node *file = NULL;
    json_t *open = to_open(storage->driver, description);
    int r = co_block_open(open, BLOCK_OPEN_WRITE | BLOCK_OPEN_RESIZE, policy, &file, err);
    json_decref(open);
    if (r < 0)
        return r;
    r = format->driver->co_create(format->options, file, err);
    if (r < 0 && err && !err->code)
        hws_wrap(err, r, "creating '%.200s'", file->filename);
    int close_result = co_block_close(file, r < 0 ? NULL : err);
    return r < 0 ? r : close_result;
}

static int co_create_format(const struct part *format, const json_t *options, bool overwrite,
                            const struct block_policy *policy, struct hws_error *err)
{
    __attribute__((cleanup(part_free))) struct part storage = {0};
    const json_t *file = json_object_get(options, "file");
    if (!json_is_object(file))
        return hws_fail(err, EINVAL, "%s needs a 'file': what to make the image in",
                        format->driver->name);
    int r = part_parse(file, &storage, err);
    if (r < 0)
        return r;
    if (storage.driver->kind != BLOCK_BACKEND)
        return hws_fail(err, EINVAL, "an image is made in storage, not in another %s image",
                        storage.driver->name);
    r = set_overwrite(&storage, overwrite, err);
    if (r < 0)
        return r;
    int made = storage.driver->co_create(storage.options, NULL, err);
    if (made < 0)
        return made;
    r = co_format(format, &storage, file, policy, err);
    if (r < 0)
        co_remove_made(&storage, made);
    return r;
}

int co_block_measure(const json_t *options, struct block_node *source, struct block_measure *ret,
                     struct hws_error *err)
{
    __attribute__((cleanup(part_free))) struct part format = {0};
    int r = part_parse(options, &format, err);
    if (r < 0)
        return r;
    if (!format.driver->co_measure)
        return hws_fail(err, ENOTSUP, "%s does not tell what an image would need",
                        format.driver->name);
    return format.driver->co_measure(format.options, source, ret, err);
}

int co_block_create(const json_t *options, bool overwrite, const struct block_policy *policy,
                    struct hws_error *err)
{
    __attribute__((cleanup(part_free))) struct part top = {0};
    if (!json_is_object(options))
        return hws_fail(err, EINVAL, "what to create must be a JSON object");
    int r = part_parse(options, &top, err);
    if (r < 0)
        return r;
    if (top.driver->kind != BLOCK_BACKEND)
        return co_create_format(&top, options, overwrite, policy, err);
    r = set_overwrite(&top, overwrite, err);
    if (r == 0)
        r = top.driver->co_create(top.options, NULL, err);
    return MIN(r, 0);
}
