/*
 * Draining a root, and what needs it drained: resizing, pushing an overlay, replacing the top.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "block/root.h"

static bool is_idle(struct block_root *root)
{
    for (unsigned i = 0; i < LANES_MAX; i++) {
        struct root_lane *lane = atomic_load(&root->lane[i]);
        if (lane && atomic_load(&lane->in_flight))
            return false;
    }
    return true;
}

void co_root_drain(struct block_root *root)
{
    rt_mutex_lock(&root->guard);
    atomic_fetch_add(&root->drained, 1);
    while (!is_idle(root))
        co_waitq_wait(&root->idle, &root->guard);
    rt_mutex_unlock(&root->guard);
}

void co_root_undrain(struct block_root *root)
{
    rt_mutex_lock(&root->guard);
    unsigned before = atomic_fetch_sub(&root->drained, 1);
    assert(before > 0);
    if (before == 1)
        co_waitq_wake_all(&root->ready);
    rt_mutex_unlock(&root->guard);
}

int co_root_resize(struct block_root *root, uint64_t size_bytes, struct hws_error *err)
{
    uint64_t old_size = block_root_size(root);
    if (root->options.read_only)
        return hws_fail(err, EROFS, "'%.200s' is used read-only", root->node->filename);
    co_root_drain(root);
    int r = co_block_resize(root->node, size_bytes, err);
    root_take_size(root);
    co_root_undrain(root);
    root_tell_size(root, old_size);
    return r;
}

int co_root_snapshot(struct block_root *root, enum block_snapshot_action action, const char *name,
                     struct hws_error *err)
{
    uint64_t old_size = block_root_size(root);
    if (root->options.read_only)
        return hws_fail(err, EROFS, "'%.200s' is used read-only", root->node->filename);
    co_root_drain(root);
    int r = co_block_snapshot(root->node, action, name, err);
    root_take_size(root);
    co_root_undrain(root);
    root_tell_size(root, old_size);
    return r;
}

static int co_flush_top(struct block_root *root, struct hws_error *err)
{
    int r = co_block_flush(root->node);
    return r < 0 ? hws_fail_errno(err, -r, "flushing '%.200s'", root->node->filename) : 0;
}

/* Backing layers below @node, itself included. */
static unsigned layers(const struct block_node *node)
{
    unsigned count = 0;
    for (; node; node = node->child[BLOCK_BACKING])
        count++;
    return count;
}

static bool in_chain(const struct block_node *top, const struct block_node *node)
{
    for (; top; top = top->child[BLOCK_BACKING])
        if (top == node)
            return true;
    return false;
}

static int check_push(const struct block_root *root, const struct block_node *overlay,
                      struct hws_error *err)
{
    if (in_chain(root->node, overlay))
        return hws_fail(err, EINVAL, "'%.200s' is part of the chain already", overlay->filename);
    if (!overlay->driver->co_read_layer)
        return hws_fail(err, EINVAL, "%s images have no backing file", overlay->driver->name);
    if (overlay->child[BLOCK_BACKING])
        return hws_fail(err, EINVAL, "'%.200s' is open with a backing file of its own",
                        overlay->filename);
    if (overlay->read_only && !root->options.read_only)
        return hws_fail(err, EROFS, "'%.200s' is open read-only", overlay->filename);
    if (block_size(overlay) != block_size(root->node))
        return hws_fail(err, EINVAL, "'%.200s' has %llu bytes, the image that it is to cover %llu",
                        overlay->filename, (unsigned long long)block_size(overlay),
                        (unsigned long long)block_size(root->node));
    if (layers(root->node) >= BLOCK_DEPTH_MAX)
        return hws_fail(err, ELOOP, "the chain has %d images already", BLOCK_DEPTH_MAX);
    return 0;
}

static int co_push_drained(struct block_root *root, struct block_node *overlay,
                           struct hws_error *err)
{
    struct block_node *old = root->node;
    bool was_read_only = old->read_only;
    int r = co_flush_top(root, err);
    if (r < 0)
        return r;
    r = co_node_set_read_only(old, true, err);
    if (r < 0) {
        struct hws_error undo = {0};
        if (!was_read_only && co_node_set_read_only(old, false, &undo) < 0)
            return hws_fail(err, -r, "'%.200s' can no longer be written: %.300s", old->filename,
                            undo.text);
        return r;
    }
    overlay->child[BLOCK_BACKING] = old; /* the root's reference goes with it */
    shortcut_changed(overlay);
    root->node = overlay;
    root_take_size(root);
    return 0;
}

int co_root_push(struct block_root *root, struct block_node *overlay, struct hws_error *err)
{
    int r = check_push(root, overlay, err);
    if (r < 0)
        return r;
    co_root_drain(root);
    r = co_push_drained(root, overlay, err);
    co_root_undrain(root);
    return r;
}

int co_root_replace(struct block_root *root, struct block_node *node, struct hws_error *err)
{
    uint64_t old_size = block_root_size(root);
    if (node->read_only && !root->options.read_only)
        return hws_fail(err, EROFS, "'%.200s' is open read-only", node->filename);
    co_root_drain(root);
    int r = co_flush_top(root, err);
    if (r == 0) {
        struct block_node *old = root->node;
        root->node = node;
        root_take_size(root);
        /* It is replaced whatever its closing says: its flush has succeeded. */
        (void)!co_block_close(old, NULL);
    }
    co_root_undrain(root);
    if (r == 0)
        root_tell_size(root, old_size);
    return r;
}
