/*
 * Changing the options that an image was made with, and compaction: the thin part in front of the
 * driver.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "block/core.h"

static int check_writable(const struct block_node *node, struct hws_error *err)
{
    return node->read_only ? hws_fail(err, EROFS, "'%.200s' is open read-only", node->filename) : 0;
}

/* What only a new image may choose is told apart from what nobody knows. */
static int refuse_fixed(const struct block_driver *driver, const json_t *options,
                        struct hws_error *err)
{
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)options, name, value)
    {
        const struct option_desc *d = driver->amend_options;
        while (d->name && strcmp(d->name, name) != 0)
            d++;
        if (d->name)
            continue;
        for (d = driver->create_options; d && d->name; d++)
            if (strcmp(d->name, name) == 0)
                return hws_fail(err, ENOTSUP,
                                "'%.64s' is decided when a %s image is made and cannot be changed; "
                                "convert the image instead",
                                name, driver->name);
    }
    return 0;
}

int co_block_amend(struct block_node *node, const json_t *options, bool force,
                   const struct block_progress *progress, struct hws_error *err)
{
    const struct block_driver *driver = node->driver;
    if (!driver->co_amend)
        return hws_fail(err, EOPNOTSUPP, "%s images have no options that can be changed",
                        driver->name);
    int r = check_writable(node, err);
    if (r == 0)
        r = refuse_fixed(driver, options, err);
    if (r < 0)
        return r;
    autofree void *parsed = calloc(1, MAX(driver->amend_options_bytes, (size_t)1));
    if (!parsed)
        return hws_fail(err, ENOMEM, "out of memory");
    r = options_parse(driver->amend_options, options, NULL, driver->name, parsed,
                      driver->amend_options_bytes, err);
    if (r < 0)
        return r;
    r = driver->co_amend(node, parsed, force, progress, err);
    options_free(driver->amend_options, parsed);
    node_mark_dirty(node);
    return r;
}

int co_block_compact(struct block_node *node, bool zeroes, const struct block_progress *progress,
                     struct block_compact *ret, struct hws_error *err)
{
    *ret = (struct block_compact){0};
    if (!node->driver->co_compact)
        return hws_fail(err, EOPNOTSUPP, "%s images cannot be compacted; convert them instead",
                        node->driver->name);
    int r = check_writable(node, err);
    if (r < 0)
        return r;
    r = node->driver->co_compact(node, zeroes, progress, ret, err);
    node_mark_dirty(node);
    return r;
}

int block_progress_step(const struct block_progress *progress, uint64_t done, uint64_t total)
{
    return progress && progress->step && progress->step(progress->arg, done, total) ? -ECANCELED
                                                                                    : 0;
}
