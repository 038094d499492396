/*
 * What a node tells about itself: `info` in the manner of qemu-img's JSON, and checks.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "block/core.h"

static void put_size(json_t *info, const char *name, uint64_t bytes)
{
    json_object_set_new(info, name, json_integer((json_int_t)bytes));
}

/* What the image records, and where that was found. */
static void put_backing(const struct block_node *node, json_t *info)
{
    const struct named_file *named = &node->core->backing;
    const struct block_node *backing = node->child[BLOCK_BACKING];
    if (named->name)
        json_object_set_new(info, "backing-filename", json_string_nocheck(named->name));
    else if (backing)
        json_object_set_new(info, "backing-filename", json_string_nocheck(backing->filename));
    if (backing)
        json_object_set_new(info, "full-backing-filename", json_string_nocheck(backing->filename));
    if (named->format)
        json_object_set_new(info, "backing-filename-format", json_string_nocheck(named->format));
    else if (backing)
        json_object_set_new(info, "backing-filename-format", json_string(backing->driver->name));
}

static int co_put_snapshots(struct block_node *node, json_t *info, struct hws_error *err)
{
    json_t *snapshots;
    int r = node->driver->co_snapshots ? co_block_snapshots_json(node, &snapshots, err) : 0;
    if (r < 0 || !node->driver->co_snapshots)
        return r;
    if (json_array_size(snapshots))
        json_object_set(info, "snapshots", snapshots);
    json_decref(snapshots);
    return 0;
}

/* The node itself; @ret a new reference. */
static int co_info_one(struct block_node *node, json_t **ret, struct hws_error *err)
{
    json_t *info = json_object();
    if (!info)
        return hws_fail(err, ENOMEM, "out of memory");
    json_object_set_new(info, "filename", json_string_nocheck(node->filename));
    json_object_set_new(info, "format", json_string(node->driver->name));
    put_size(info, "virtual-size", block_size(node));
    if (node->limits.optimal_bytes && node->driver->kind == BLOCK_FORMAT)
        put_size(info, "cluster-size", node->limits.optimal_bytes);
    put_backing(node, info);
    uint64_t corruptions = atomic_load(&node->core->corruptions);
    if (corruptions)
        put_size(info, "corruptions-met", corruptions);
    int r = node->driver->co_info ? node->driver->co_info(node, info, err) : 0;
    if (r == 0)
        r = co_put_snapshots(node, info, err);
    if (r < 0) {
        json_decref(info);
        return err && err->code ? r : hws_wrap(err, r, "asking '%.200s'", node->filename);
    }
    if (!json_object_get(info, "dirty-flag") && node->driver->kind == BLOCK_FORMAT)
        json_object_set_new(info, "dirty-flag", json_false());
    *ret = info;
    return 0;
}

/* Hangs the infos of the files below into @info. Files nest BLOCK_NESTING_MAX deep at most. */
static int co_add_children(struct block_node *node, json_t *info, struct hws_error *err)
{
    static const struct {
        enum block_role role;
        const char *name;
    } files[] = {{BLOCK_FILE, "file"}, {BLOCK_DATA, "data-file"}};
    json_t *children = json_array();
    uint64_t actual = 0;
    bool known = false;
    for (unsigned i = 0; i < ARRAY_LEN(files); i++) {
        json_t *below = NULL;
        if (!node->child[files[i].role])
            continue;
        int r = co_block_info(node->child[files[i].role], &below, err);
        if (r < 0) {
            json_decref(children);
            return r;
        }
        json_t *size = json_object_get(below, "actual-size");
        if (size) {
            known = true;
            actual += (uint64_t)json_integer_value(size);
        }
        json_array_append_new(children,
                              json_pack("{s:s, s:o}", "name", files[i].name, "info", below));
    }
    if (known && !json_object_get(info, "actual-size"))
        put_size(info, "actual-size", actual);
    if (json_array_size(children))
        json_object_set(info, "children", children);
    json_decref(children);
    return 0;
}

int co_block_info(struct block_node *node, json_t **ret, struct hws_error *err)
{
    json_t *info = NULL;
    int r = co_info_one(node, &info, err);
    if (r == 0)
        r = co_add_children(node, info, err);
    if (r < 0) {
        json_decref(info);
        return r;
    }
    *ret = info;
    return 0;
}

int co_block_check(struct block_node *node, unsigned repair, struct block_check *check,
                   struct hws_error *err)
{
    if (!node->driver->co_check)
        return hws_fail(err, ENOTSUP, "%s images have nothing to check", node->driver->name);
    if (repair && node->read_only)
        return hws_fail(err, EROFS, "'%.200s' is open read-only and cannot be repaired",
                        node->filename);
    int r = node->driver->co_check(node, repair, check, err);
    if (repair)
        node_mark_dirty(node);
    if (r < 0 && err && !err->code)
        return hws_wrap(err, r, "checking '%.200s'", node->filename);
    return r;
}
