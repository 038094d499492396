/*
 * The life of a node once it is open: references, closing, rights, identity, corruption.
 *
 * Closing walks down the chain in a loop, because a chain of a thousand nodes would overflow a
 * coroutine stack by recursion.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "block/core.h"
#include "base/log.h"

uint64_t block_size(const struct block_node *node)
{
    return atomic_load_explicit(&node->size_bytes, memory_order_relaxed);
}

bool block_is_read_only(const struct block_node *node)
{
    return node->read_only;
}

const char *block_driver_name(const struct block_node *node)
{
    return node->driver->name;
}

const char *block_filename(const struct block_node *node)
{
    return node->filename;
}

struct block_node *block_child(const struct block_node *node, enum block_role role)
{
    return node->child[role];
}

struct block_node *block_ref(struct block_node *node)
{
    atomic_fetch_add(&node->core->references, 1);
    return node;
}

void node_free(struct block_node *node)
{
    struct block_core *core = node->core;
    if (core) {
        bitmaps_free(node);
        co_mutex_destroy(&core->bitmap_loading);
        list_del(&core->pending);
        bounce_destroy(&core->bounce);
        serial_destroy(&core->serial);
        rt_mutex_destroy(&core->flush.guard);
        rt_mutex_destroy(&core->corrupt_guard);
        rt_mutex_destroy(&core->shortcut_guard);
        shortcut_free(atomic_load(&core->shortcut));
        free(core->backing.name);
        free(core->backing.format);
        free(core->beneath);
        free(core);
    }
    context_unref(node->context);
    free(node->filename);
    free(node->state);
    free(node);
}

/* Keeps the first failure, and its text. */
static void note(int r, int *first, struct hws_error *err, const struct hws_error *text)
{
    if (r == 0 || *first < 0)
        return;
    *first = r;
    if (err && text)
        *err = *text;
}

/* Closes one node and its files; its backing node is left to the caller, in @ret_backing. */
static int co_close_one(struct block_node *node, struct block_node **ret_backing,
                        struct hws_error *err)
{
    struct hws_error text = {0};
    int first = 0;
    if (!node->read_only) {
        int r = co_block_flush(node);
        if (r < 0)
            hws_fail_errno(&text, -r, "flushing '%.200s'", node->filename);
        note(r, &first, err, &text);
    }
    if (node->driver->co_close)
        note(node->driver->co_close(node, &text), &first, err, &text);
    note(co_block_close(node->child[BLOCK_DATA], &text), &first, err, &text);
    note(co_block_close(node->child[BLOCK_FILE], &text), &first, err, &text);
    *ret_backing = node->child[BLOCK_BACKING];
    node_free(node);
    return first;
}

int co_block_close(struct block_node *node, struct hws_error *err)
{
    int first = 0;
    while (node && atomic_fetch_sub(&node->core->references, 1) == 1) {
        struct block_node *backing = NULL;
        int r = co_close_one(node, &backing, first < 0 ? NULL : err);
        note(r, &first, NULL, NULL);
        node = backing;
    }
    return first;
}

static int set_one(struct block_node *node, bool read_only, struct hws_error *err)
{
    if (node->read_only == read_only)
        return 0;
    int r =
        node->driver->co_set_read_only ? node->driver->co_set_read_only(node, read_only, err) : 0;
    if (r == 0)
        node->read_only = read_only;
    return r;
}

int co_node_set_read_only(struct block_node *node, bool read_only, struct hws_error *err)
{
    static const enum block_role files[] = {BLOCK_FILE, BLOCK_DATA};
    int r = 0;
    /* A format writes back before its file loses the right, and gets it back after its file has. */
    if (read_only)
        r = set_one(node, true, err);
    for (unsigned i = 0; r == 0 && i < ARRAY_LEN(files); i++)
        if (node->child[files[i]])
            r = co_node_set_read_only(node->child[files[i]], read_only, err);
    if (r == 0 && !read_only)
        r = set_one(node, false, err);
    shortcut_changed(node);
    return r;
}

/* True when @node, or a file below it, is the storage @core. */
static bool same_storage(const struct block_node *node, const struct block_core *core)
{
    for (; node; node = node->child[BLOCK_FILE])
        if (node->core->identified && node->core != core && node->core->device == core->device &&
            node->core->inode == core->inode)
            return true;
    return false;
}

bool block_same_storage(const struct block_node *a, const struct block_node *b)
{
    return a == b || (a->core->identified && b->core->identified &&
                      a->core->device == b->core->device && a->core->inode == b->core->inode);
}

int block_identify(struct block_node *node, uint64_t device, uint64_t inode, struct hws_error *err)
{
    struct block_core *core = node->core;
    assert(core->opening);
    core->device = device;
    core->inode = inode;
    core->identified = true;
    for (const struct block_node *above = core->above; above; above = above->core->above)
        if (same_storage(above, core) || same_storage(above->child[BLOCK_DATA], core))
            return hws_fail(err, ELOOP,
                            "'%.200s' is part of the chain already, under '%.200s': an image "
                            "cannot be its own backing or data file",
                            node->filename, above->filename);
    return 0;
}

void block_identify_birth(struct block_node *node, uint64_t birth_ns)
{
    node->core->birth_ns = birth_ns;
}

/* @return true where this place of the code has not complained about the node yet. */
static bool first_at(struct block_core *core, const char *place)
{
    bool first = false;
    rt_mutex_lock(&core->corrupt_guard);
    for (unsigned i = 0; i < CORRUPT_PLACES && core->corrupt_place[i] != place; i++) {
        if (!core->corrupt_place[i]) {
            core->corrupt_place[i] = place;
            first = true;
            break;
        }
    }
    rt_mutex_unlock(&core->corrupt_guard);
    return first;
}

int block_corrupt(struct block_node *node, uint64_t offset, struct hws_error *err,
                  const char *format, ...)
{
    char text[HWS_ERROR_TEXT_BYTES / 2];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    atomic_fetch_add(&node->core->corruptions, 1);
    if (first_at(node->core, format))
        log_warning("'%s' is corrupt at offset 0x%llx: %s", node->filename,
                    (unsigned long long)offset, text);
    return hws_fail(err, EIO, "'%.200s' is corrupt at offset 0x%llx: %s", node->filename,
                    (unsigned long long)offset, text);
}
