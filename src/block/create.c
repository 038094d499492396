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

/* The members of @description that are for opening: the rest was for making the storage. NULL: no
 * memory. */
static json_t *to_open(const struct block_driver *driver, const json_t *description)
{
    json_t *open = json_object(), *value;
    const char *name;
    json_object_foreach((json_t *)description, name, value)
    {
        if ((strcmp(name, "driver") == 0 || find_option(driver->options, name)) &&
            json_object_set(open, name, value) < 0) {
            json_decref(open);
            return NULL;
        }
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

static int co_open_made(const struct part *storage, const json_t *description,
                        const struct block_policy *policy, struct block_node **ret,
                        struct hws_error *err)
{
    json_t *open = to_open(storage->driver, description);
    if (!open)
        return hws_fail(err, ENOMEM, "out of memory");
    int r = co_block_open(open, BLOCK_OPEN_WRITE | BLOCK_OPEN_RESIZE, policy, ret, err);
    json_decref(open);
    return r;
}

struct block_node *block_create_data(const struct block_node *file)
{
    return file->core->new_data;
}

/* ---- a format in its storage ---- */

/* What one image is made in: its own file, and a data file where its options name one. */
struct making {
    const struct part *format;
    const struct block_policy *policy;
    bool overwrite;
    struct part storage, data;
    const json_t *file;   /* description of the storage */
    json_t *data_file;    /* of the data file; NULL: none */
    int made, data_made;  /* what the backends answered */
    bool have, have_data; /* there is something to take away */
};

static void co_making_end(struct making *m, int r)
{
    if (r < 0 && m->have_data)
        co_remove_made(&m->data, m->data_made);
    if (r < 0 && m->have)
        co_remove_made(&m->storage, m->made);
    part_free(&m->storage);
    part_free(&m->data);
    json_decref(m->data_file);
}

/* The description of the data file that the format's options name, in the rules for opening it. */
static int describe_data(struct making *m, struct hws_error *err)
{
    const struct option_desc *desc = find_option(m->format->driver->create_options, "data_file");
    if (!desc || desc->type != OPTION_STRING)
        return 0;
    const char *name = *(char **)((char *)m->format->options + desc->offset);
    if (!name)
        return 0;
    const char *text_option = m->storage.driver->text_option;
    const char *image = text_option ? json_string_value(json_object_get(m->file, text_option)) : "";
    autofree char *path = NULL, *beneath = NULL;
    int r = policy_resolve(m->policy, image ? image : "", name, &path, &beneath, err);
    if (r < 0)
        return r;
    if (path && image && strcmp(path, image) == 0)
        return hws_fail(err, EINVAL, "'%.200s' cannot be its own data file", image);
    if (!path)
        return block_describe(name, NULL, &m->data_file, err);
    m->data_file = describe_file(path);
    return m->data_file ? 0 : hws_fail(err, ENOMEM, "out of memory");
}

/* Storage that cannot be made is used as it is. */
static int co_make_data(struct making *m, struct hws_error *err)
{
    const char *name = json_string_value(json_object_get(m->data_file, "driver"));
    const struct block_driver *driver = name ? block_driver_find(name) : NULL;
    if (!driver || driver->kind != BLOCK_BACKEND)
        return hws_fail(err, EINVAL, "a data file is plain storage, not an image of a format");
    if (!driver->co_create) {
        m->data.driver = driver;
        return 0;
    }
    int r = part_parse(m->data_file, &m->data, err);
    if (r == 0)
        r = set_overwrite(&m->data, m->overwrite, err);
    if (r < 0)
        return r;
    m->data_made = m->data.driver->co_create(m->data.options, NULL, err);
    m->have_data = m->data_made >= 0;
    return MIN(m->data_made, 0);
}

/* Writes the format into the storage that was just made. */
static int co_format(struct making *m, struct hws_error *err)
{
    struct block_node *file = NULL, *data = NULL;
    int r = co_open_made(&m->storage, m->file, m->policy, &file, err);
    if (r == 0 && m->data_file)
        r = co_open_made(&m->data, m->data_file, m->policy, &data, err);
    if (r == 0) {
        file->core->new_data = data;
        r = m->format->driver->co_create(m->format->options, file, err);
        file->core->new_data = NULL;
        if (r < 0 && err && !err->code)
            hws_wrap(err, r, "creating '%.200s'", file->filename);
    }
    int closed = co_block_close(data, r < 0 ? NULL : err);
    r = r < 0 ? r : closed;
    closed = co_block_close(file, r < 0 ? NULL : err);
    return r < 0 ? r : closed;
}

static int co_create_in(struct making *m, struct hws_error *err)
{
    int r = set_overwrite(&m->storage, m->overwrite, err);
    if (r == 0)
        r = describe_data(m, err);
    if (r < 0)
        return r;
    m->made = m->storage.driver->co_create(m->storage.options, NULL, err);
    if (m->made < 0)
        return m->made;
    m->have = true;
    r = m->data_file ? co_make_data(m, err) : 0;
    return r < 0 ? r : co_format(m, err);
}

static int co_create_format(const struct part *format, const json_t *options, bool overwrite,
                            const struct block_policy *policy, struct hws_error *err)
{
    const struct block_policy none = {0};
    struct making m = {.format = format,
                       .policy = policy ? policy : &none,
                       .overwrite = overwrite,
                       .file = json_object_get(options, "file")};
    if (!json_is_object(m.file))
        return hws_fail(err, EINVAL, "%s needs a 'file': what to make the image in",
                        format->driver->name);
    int r = part_parse(m.file, &m.storage, err);
    if (r == 0 && m.storage.driver->kind != BLOCK_BACKEND)
        r = hws_fail(err, EINVAL, "an image is made in storage, not in another %s image",
                     m.storage.driver->name);
    if (r == 0)
        r = co_create_in(&m, err);
    co_making_end(&m, r);
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
