/*
 * The dirty bitmaps of a node: making, finding, changing, and what resizing does to them.
 *
 * Two lists: all bitmaps of the node, and those that follow its changes now (`tracked`), which the
 * request path walks without a lock. One is put on the latter by one store; taking one off needs
 * the node idle.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "block/bitmap.h"
#include "base/log.h"
#include "block/core.h"

/* ---- the lists ---- */

struct block_bitmap *block_bitmap_after(struct block_node *node, struct block_bitmap *bitmap)
{
    struct list *next = bitmap ? bitmap->link.next : node->core->bitmaps.next;
    return next == &node->core->bitmaps ? NULL : list_entry(next, struct block_bitmap, link);
}

struct block_bitmap *block_bitmap_find(struct block_node *node, const char *name)
{
    for (struct block_bitmap *b = NULL; (b = block_bitmap_after(node, b));)
        if (b->name && strcmp(b->name, name) == 0)
            return b;
    return NULL;
}

void block_bitmap_track(struct block_bitmap *b)
{
    struct block_core *core = b->node->core;
    assert(b->word && !b->inconsistent);
    rt_mutex_lock(&core->corrupt_guard);
    if (!b->tracked) {
        b->tracked = true;
        atomic_store(&b->next_tracked, atomic_load(&core->tracked));
        atomic_store(&core->tracked, b);
    }
    rt_mutex_unlock(&core->corrupt_guard);
}

/* The node is idle. */
static void untrack(struct block_bitmap *b)
{
    struct block_bitmap *_Atomic *at = &b->node->core->tracked;
    while (b->tracked && atomic_load(at) != b)
        at = &atomic_load(at)->next_tracked;
    if (b->tracked)
        atomic_store(at, atomic_load(&b->next_tracked));
    b->tracked = false;
}

/* ---- making and freeing ---- */

/* Makes room for the grains of a node of @size_bytes, within the limits. */
static int reserve(struct block_bitmap *b, uint64_t size_bytes)
{
    uint64_t grains = block_bitmap_grains(b->granularity_bits, size_bytes);
    uint64_t bytes = div_round_up(grains, 64) * 8;
    uint64_t now = b->word ? b->capacity_words * 8 : 0;
    if (bytes <= now && b->word)
        return 0;
    if (bytes > BLOCK_BITMAP_BYTES_MAX ||
        b->node->core->bitmap_bytes + (bytes - now) > BLOCK_BITMAPS_BYTES_MAX)
        return -EFBIG;
    int r = bitmap_reserve(b, grains);
    if (r == 0)
        b->node->core->bitmap_bytes += bytes - now;
    return r;
}

static void drop_bits(struct block_bitmap *b)
{
    b->node->core->bitmap_bytes -= b->word ? b->capacity_words * 8 : 0;
    free(b->word);
    free(b->summary);
    b->word = b->summary = NULL;
    b->capacity_words = 0;
    atomic_store(&b->loaded, false);
}

static int fail_reserve(const struct block_bitmap *b, int r, uint64_t size_bytes,
                        struct hws_error *err)
{
    if (r == -EFBIG)
        return hws_fail(err, EFBIG,
                        "'%.200s': a bitmap of %llu bytes in grains of %llu would take too much "
                        "memory (at most %llu MiB, and %llu MiB for all of an image): use a larger "
                        "granularity",
                        b->node->filename, (unsigned long long)size_bytes,
                        1ull << b->granularity_bits,
                        (unsigned long long)(BLOCK_BITMAP_BYTES_MAX / MiB),
                        (unsigned long long)(BLOCK_BITMAPS_BYTES_MAX / MiB));
    return hws_fail_errno(err, -r, "'%.200s': making a bitmap", b->node->filename);
}

int block_bitmap_make_bits(struct block_bitmap *b)
{
    if (b->word)
        return 0;
    uint64_t size_bytes = block_size(b->node);
    int r = reserve(b, size_bytes);
    if (r == 0)
        bitmap_set_bits(b, block_bitmap_grains(b->granularity_bits, size_bytes));
    return r;
}

int block_bitmap_attach(struct block_node *node, const char *name, unsigned granularity_bits,
                        bool enabled, struct block_bitmap **ret)
{
    struct block_bitmap *b = calloc(1, sizeof(*b));
    char *copy = name ? strdup(name) : NULL;
    if (!b || (name && !copy)) {
        free(b);
        free(copy);
        return -ENOMEM;
    }
    b->node = node;
    b->name = copy;
    b->granularity_bits = granularity_bits;
    b->enabled = enabled;
    b->persistent = true;
    list_push_back(&node->core->bitmaps, &b->link);
    *ret = b;
    return 0;
}

void block_bitmap_detach(struct block_bitmap *b)
{
    untrack(b);
    list_del(&b->link);
    drop_bits(b);
    free(b->name);
    free(b);
}

void bitmaps_free(struct block_node *node)
{
    struct block_bitmap *b;
    while ((b = block_bitmap_after(node, NULL)))
        block_bitmap_detach(b);
}

/* ---- adding and removing ---- */

static uint64_t default_granularity(const struct block_node *node)
{
    uint64_t unit = node->limits.optimal_bytes;
    if (!is_power_of_2(unit))
        return BLOCK_BITMAP_GRANULARITY_DEFAULT_MAX;
    return MIN(MAX(unit, BLOCK_BITMAP_GRANULARITY_DEFAULT_MIN),
               BLOCK_BITMAP_GRANULARITY_DEFAULT_MAX);
}

static int check_new(struct block_node *node, const char *name, uint64_t granularity,
                     unsigned flags, struct hws_error *err)
{
    size_t length = name ? strlen(name) : 0;
    if (name && (length == 0 || length > BLOCK_BITMAP_NAME_MAX))
        return hws_fail(err, EINVAL, "the name of a bitmap has 1 to %u bytes, not %zu",
                        BLOCK_BITMAP_NAME_MAX, length);
    if (!is_power_of_2(granularity) || granularity < 1ull << BLOCK_BITMAP_GRANULARITY_BITS_MIN ||
        granularity > 1ull << BLOCK_BITMAP_GRANULARITY_BITS_MAX)
        return hws_fail(err, EINVAL,
                        "a granularity of %llu bytes: it is a power of two of 512 bytes to 2 GiB",
                        (unsigned long long)granularity);
    if (name && block_bitmap_find(node, name))
        return hws_fail(err, EEXIST, "'%.200s' has a bitmap '%.200s' already", node->filename,
                        name);
    /* Its end moves with requests that are under way. */
    if (node->driver->grows)
        return hws_fail(err, ENOTSUP, "%s: bitmaps are kept by what lies above it, not by a file",
                        node->driver->name);
    if (!(flags & BLOCK_BITMAP_PERSISTENT))
        return 0;
    if (!name)
        return hws_fail(err, EINVAL, "a bitmap that is stored needs a name");
    if (!node->driver->co_bitmap_add)
        return hws_fail(err, ENOTSUP, "%s images store no bitmaps ('%.200s')", node->driver->name,
                        node->filename);
    if (node->read_only)
        return hws_fail(err, EROFS, "'%.200s' is open read-only", node->filename);
    return 0;
}

/* Room, the format's consent, and, where it follows changes of others, at once. */
static int co_add_bits(struct block_bitmap *b, struct hws_error *err)
{
    int r = block_bitmap_make_bits(b);
    if (r < 0)
        return fail_reserve(b, r, block_size(b->node), err);
    if (b->persistent)
        r = b->node->driver->co_bitmap_add(b->node, b, err);
    atomic_store(&b->loaded, r == 0);
    if (r == 0 && b->enabled)
        block_bitmap_track(b);
    return r;
}

int co_block_bitmap_add(struct block_node *node, const char *name, uint64_t granularity,
                        unsigned flags, struct block_bitmap **ret, struct hws_error *err)
{
    struct block_bitmap *b;
    if (granularity == 0)
        granularity = default_granularity(node);
    int r = check_new(node, name, granularity, flags, err);
    if (r < 0)
        return r;
    if (block_bitmap_attach(node, name, log2_of(granularity), !(flags & BLOCK_BITMAP_DISABLED),
                            &b) < 0)
        return hws_fail(err, ENOMEM, "out of memory");
    b->persistent = flags & BLOCK_BITMAP_PERSISTENT;
    b->changed = b->persistent;
    r = co_add_bits(b, err);
    if (r < 0) {
        block_bitmap_detach(b);
        return r;
    }
    if (ret)
        *ret = b;
    return 0;
}

static int check_change(const struct block_bitmap *b, struct hws_error *err)
{
    if (b->persistent && b->node->read_only)
        return hws_fail(err, EROFS, "'%.200s' is open read-only", b->node->filename);
    return 0;
}

int co_block_bitmap_remove(struct block_bitmap *b, struct hws_error *err)
{
    int r = check_change(b, err);
    if (r < 0)
        return r;
    if (b->persistent)
        b->node->driver->bitmap_remove(b->node, b);
    block_bitmap_detach(b);
    return 0;
}

/* ---- changing ---- */

/* One at a time: whoever comes meanwhile waits for all the bits. */
static int co_load(struct block_bitmap *b, struct hws_error *err)
{
    int r = block_bitmap_make_bits(b);
    if (r < 0)
        return fail_reserve(b, r, block_size(b->node), err);
    r = b->node->driver->co_bitmap_load(b->node, b, err);
    if (r < 0)
        drop_bits(b);
    else
        atomic_store_explicit(&b->loaded, true, memory_order_release);
    return r;
}

int co_block_bitmap_load(struct block_bitmap *b, struct hws_error *err)
{
    if (b->inconsistent)
        return hws_fail(err, EUCLEAN,
                        "'%.200s': the bitmap '%.200s' was not stored by the program that used it "
                        "last: it is inconsistent, and can only be removed",
                        b->node->filename, b->name);
    if (atomic_load_explicit(&b->loaded, memory_order_acquire))
        return 0;
    co_mutex_lock(&b->node->core->bitmap_loading);
    int r = atomic_load(&b->loaded) ? 0 : co_load(b, err);
    co_mutex_unlock(&b->node->core->bitmap_loading);
    return r;
}

int co_block_bitmap_enable(struct block_bitmap *b, bool enabled, struct hws_error *err)
{
    int r = check_change(b, err);
    if (r == 0)
        r = co_block_bitmap_load(b, err);
    if (r < 0 || b->enabled == enabled)
        return r;
    b->enabled = enabled;
    b->changed = true;
    if (enabled)
        block_bitmap_track(b);
    else
        untrack(b);
    return 0;
}

int co_block_bitmap_clear(struct block_bitmap *b, struct hws_error *err)
{
    int r = check_change(b, err);
    if (r == 0)
        r = co_block_bitmap_load(b, err);
    if (r < 0)
        return r;
    bitmap_clear_bits(b);
    b->changed = true;
    return 0;
}

int co_block_bitmap_merge(struct block_bitmap *to, struct block_bitmap *from, struct hws_error *err)
{
    uint64_t to_size = block_size(to->node), from_size = block_size(from->node);
    int r = check_change(to, err);
    if (r < 0)
        return r;
    if (to_size != from_size)
        return hws_fail(err, EINVAL,
                        "'%.200s' has %llu bytes and '%.200s' %llu: bitmaps of different sizes "
                        "cannot be merged",
                        to->node->filename, (unsigned long long)to_size, from->node->filename,
                        (unsigned long long)from_size);
    r = co_block_bitmap_load(to, err);
    if (r == 0)
        r = co_block_bitmap_load(from, err);
    if (r < 0 || to == from)
        return r;
    bitmap_merge_bits(to, from);
    to->changed = true;
    return 0;
}

int co_block_bitmaps_store(struct block_node *node, struct hws_error *err)
{
    if (node->read_only || !node->driver->co_bitmaps_store)
        return 0;
    int r = node->driver->co_bitmaps_store(node, err);
    node_mark_dirty(node);
    return r;
}

int co_block_bitmaps_copy(struct block_node *from, struct block_node *to, bool skip_broken,
                          struct hws_error *err)
{
    for (struct block_bitmap *b = NULL, *copy; (b = block_bitmap_after(from, b));) {
        if (!b->persistent || (b->inconsistent && skip_broken))
            continue;
        int r = co_block_bitmap_load(b, err);
        if (r == 0)
            r = co_block_bitmap_add(
                to, b->name, 1ull << b->granularity_bits,
                BLOCK_BITMAP_PERSISTENT | (b->enabled ? 0 : BLOCK_BITMAP_DISABLED), &copy, err);
        if (r < 0)
            return r;
        r = co_block_bitmap_merge(copy, b, err);
        if (r < 0) {
            struct hws_error ignored;
            (void)!co_block_bitmap_remove(copy, &ignored);
            return r;
        }
    }
    return 0;
}

/* ---- bits for users ---- */

int co_block_bitmap_next(struct block_bitmap *b, uint64_t offset, uint64_t length, bool *ret_dirty,
                         uint64_t *ret_length)
{
    if (length == 0 || !range_fits(offset, length, block_size(b->node)))
        return -EINVAL;
    int r = co_block_bitmap_load(b, NULL);
    if (r == 0)
        *ret_dirty = bitmap_run(b, offset, length, ret_length);
    return r;
}

int co_block_bitmap_count(struct block_bitmap *b, uint64_t *ret_bytes)
{
    int r = co_block_bitmap_load(b, NULL);
    if (r == 0)
        *ret_bytes = bitmap_dirty_bytes(b);
    return r;
}

/* ---- resizing ---- */

int co_bitmaps_reserve(struct block_node *node, uint64_t size_bytes, struct hws_error *err)
{
    for (struct block_bitmap *b = NULL; (b = block_bitmap_after(node, b));) {
        int r = co_block_bitmap_load(b, err);
        if (r < 0)
            return r;
        r = reserve(b, size_bytes);
        if (r < 0)
            return fail_reserve(b, r, size_bytes, err);
    }
    return 0;
}

void bitmaps_resize(struct block_node *node, uint64_t size_bytes)
{
    for (struct block_bitmap *b = NULL; (b = block_bitmap_after(node, b));) {
        bitmap_set_bits(b, block_bitmap_grains(b->granularity_bits, size_bytes));
        b->changed |= b->persistent;
    }
}

int co_bitmaps_load(struct block_node *node, struct hws_error *err)
{
    for (struct block_bitmap *b = NULL; (b = block_bitmap_after(node, b));) {
        int r = b->inconsistent ? 0 : co_block_bitmap_load(b, err);
        if (r < 0)
            return r;
    }
    return 0;
}

void bitmaps_replaced(struct block_node *node)
{
    for (struct block_bitmap *b = NULL; (b = block_bitmap_after(node, b));) {
        if (b->inconsistent)
            continue;
        b->changed |= b->persistent;
        if (reserve(b, block_size(node)) < 0) {
            log_warning("'%s': no memory for the bitmap '%s' at the new size: it is inconsistent",
                        node->filename, b->name ? b->name : "");
            untrack(b);
            b->inconsistent = true;
            continue;
        }
        bitmap_set_bits(b, block_bitmap_grains(b->granularity_bits, block_size(node)));
        if (b->enabled)
            block_bitmap_set(b, 0, block_size(node));
    }
}
