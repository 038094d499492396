/*
 * Internal snapshots: what the format keeps of earlier states inside the image.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "block/core.h"

void block_snapshots_free(struct block_snapshot *snapshots, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        free(snapshots[i].id);
        free(snapshots[i].name);
    }
    free(snapshots);
}

/* Filters show what the format below them has. Files nest BLOCK_NESTING_MAX deep at most. */
static struct block_node *keeper(struct block_node *node)
{
    while (node->driver->kind == BLOCK_FILTER && node->child[BLOCK_FILE])
        node = node->child[BLOCK_FILE];
    return node;
}

int co_block_snapshots(struct block_node *node, struct block_snapshot **ret, size_t *ret_count,
                       struct hws_error *err)
{
    node = keeper(node);
    if (node->driver->co_snapshots)
        return node->driver->co_snapshots(node, ret, ret_count, err);
    *ret = NULL;
    *ret_count = 0;
    return 0;
}

static json_t *to_json(const struct block_snapshot *s)
{
    /* Bytes, which need not be UTF-8. */
    json_t *object =
        json_pack("{s:o, s:o, s:I, s:I, s:I, s:I, s:I}", "id", json_string_nocheck(s->id), "name",
                  json_string_nocheck(s->name), "vm-state-size", (json_int_t)s->vm_state_bytes,
                  "date-sec", (json_int_t)s->date_sec, "date-nsec", (json_int_t)s->date_nsec,
                  "vm-clock-sec", (json_int_t)(s->vm_clock_nsec / 1000000000u), "vm-clock-nsec",
                  (json_int_t)(s->vm_clock_nsec % 1000000000u));
    if (object && s->has_icount)
        json_object_set_new(object, "icount", json_integer((json_int_t)s->icount));
    return object;
}

int co_block_snapshots_json(struct block_node *node, json_t **ret, struct hws_error *err)
{
    struct block_snapshot *snapshots;
    size_t count;
    int r = co_block_snapshots(node, &snapshots, &count, err);
    if (r < 0)
        return r;
    json_t *all = json_array();
    for (size_t i = 0; i < count && r == 0; i++)
        if (json_array_append_new(all, to_json(&snapshots[i])) < 0)
            r = hws_fail(err, ENOMEM, "out of memory");
    block_snapshots_free(snapshots, count);
    if (r == 0 && !all)
        return hws_fail(err, ENOMEM, "out of memory");
    if (r < 0)
        json_decref(all);
    else
        *ret = all;
    return r;
}

static int check_name(const char *name, struct hws_error *err)
{
    size_t length = strlen(name);
    if (length == 0 || length > BLOCK_SNAPSHOT_NAME_MAX)
        return hws_fail(err, EINVAL, "the name of a snapshot has 1 to %d bytes, not %zu",
                        BLOCK_SNAPSHOT_NAME_MAX, length);
    return 0;
}

/* "The bitmap must reflect all changes of the virtual disk, including snapshot switching." */
static int co_apply(struct block_node *node, const char *name, struct hws_error *err)
{
    int r = co_bitmaps_load(node, err);
    if (r == 0)
        r = node->driver->co_snapshot_apply(node, name, err);
    if (r != -ENOENT) /* what else fails may have changed something */
        bitmaps_replaced(node);
    return r;
}

static int co_act(struct block_node *node, enum block_snapshot_action action, const char *name,
                  struct hws_error *err)
{
    const struct block_driver *driver = node->driver;
    switch (action) {
    case BLOCK_SNAPSHOT_CREATE:
        return check_name(name, err) < 0 ? -EINVAL : driver->co_snapshot_create(node, name, err);
    case BLOCK_SNAPSHOT_APPLY:
        return co_apply(node, name, err);
    default:
        return driver->co_snapshot_delete(node, name, err);
    }
}

int co_block_snapshot(struct block_node *top, enum block_snapshot_action action, const char *name,
                      struct hws_error *err)
{
    struct block_node *node = keeper(top);
    if (!node->driver->co_snapshot_create)
        return hws_fail(err, ENOTSUP, "%s images have no internal snapshots: '%.200s'",
                        node->driver->name, node->filename);
    if (node->read_only)
        return hws_fail(err, EROFS, "'%.200s' is open read-only", node->filename);
    if (action == BLOCK_SNAPSHOT_APPLY && node != top)
        return hws_fail(err, ENOTSUP,
                        "'%.200s' is open under the filter %s, which would not learn of the "
                        "change: open it without",
                        node->filename, top->driver->name);
    int r = co_act(node, action, name, err);
    node_mark_dirty(node);
    if (r < 0)
        return err && err->code ? r : hws_wrap(err, r, "snapshots of '%.200s'", node->filename);
    shortcut_changed(node);
    return 0;
}
