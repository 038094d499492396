/*
 * What images record of the file below them, and giving up what they hold themselves.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "block/core.h"

static int check_writable(const struct block_node *node, bool offered, const char *what,
                          struct hws_error *err)
{
    if (!offered)
        return hws_fail(err, ENOTSUP, "%s images cannot %s", node->driver->name, what);
    if (node->read_only)
        return hws_fail(err, EROFS, "'%.200s' is open read-only", node->filename);
    return 0;
}

int co_block_allow_write(struct block_node *node, struct hws_error *err)
{
    if (!node->read_only)
        return 0;
    struct block_node *file = node->child[BLOCK_FILE];
    if (file)
        file->open_flags |= BLOCK_OPEN_RESIZE;
    int r = co_node_set_read_only(node, false, err);
    return r < 0 ? hws_wrap(err, r, "'%.200s' cannot be made writable", node->filename) : 0;
}

int co_block_make_empty(struct block_node *node, struct hws_error *err)
{
    int r = check_writable(node, node->driver->co_make_empty != NULL, "give up their data", err);
    if (r < 0)
        return r;
    r = node->driver->co_make_empty(node, err);
    node_mark_dirty(node);
    if (r < 0 && !(err && err->code))
        hws_wrap(err, r, "emptying '%.200s'", node->filename);
    return r;
}

int co_block_change_backing(struct block_node *node, const char *file, const char *format,
                            struct hws_error *err)
{
    int r =
        check_writable(node, node->driver->co_change_backing != NULL, "record a backing file", err);
    if (r < 0)
        return r;
    autofree char *name = file ? strdup(file) : NULL;
    autofree char *format_name = format ? strdup(format) : NULL;
    if ((file && !name) || (format && !format_name))
        return hws_fail(err, ENOMEM, "out of memory");
    r = node->driver->co_change_backing(node, file, format, err);
    node_mark_dirty(node);
    if (r < 0)
        return err && err->code
                   ? r
                   : hws_wrap(err, r, "recording another backing file in '%.200s'", node->filename);
    free(node->core->backing.name);
    free(node->core->backing.format);
    node->core->backing.name = steal_ptr(&name);
    node->core->backing.format = steal_ptr(&format_name);
    return 0;
}
