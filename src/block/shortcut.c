/*
 * Shortcuts through chains; see block/shortcut.h.
 *
 *     entry   63        13 12       0
 *            | tag + 1    | skip    |        0: nothing known; the tag is granule / entries
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "block/shortcut.h"
#include "block/core.h"

#define SKIP_BITS 13
static_assert(BLOCK_DEPTH_MAX < 1 << SKIP_BITS, "a skip fits its bits");
static_assert(BLOCK_SIZE_MAX / SHORTCUT_GRANULE / SHORTCUT_ENTRIES < (uint64_t)1 << 50,
              "so do tags");

struct shortcut {
    _Atomic uint64_t epoch; /* when it was last known to hold */
    unsigned layers;
    struct block_node **layer; /* from the node itself down */
    _Atomic uint64_t entry[SHORTCUT_ENTRIES];
};

static _Atomic uint64_t epoch = 1;

void shortcut_changed(struct block_node *node)
{
    uint64_t now = atomic_fetch_add(&epoch, 1) + 1;
    atomic_store(&node->core->changed_epoch, now);
}

void shortcut_free(struct shortcut *shortcut)
{
    if (!shortcut)
        return;
    free(shortcut->layer);
    free(shortcut);
}

/* Layers from @node down, as far as they cannot change; one more, where that one may be read. */
static unsigned count_layers(const struct block_node *node)
{
    unsigned count = 0;
    for (; node && count <= BLOCK_DEPTH_MAX; node = node->child[BLOCK_BACKING]) {
        count++;
        if (!node->read_only)
            break;
    }
    return count;
}

static struct shortcut *shortcut_new(struct block_node *node, unsigned layers, uint64_t now)
{
    struct shortcut *shortcut = calloc(1, sizeof(*shortcut));
    struct block_node **array = calloc(layers, sizeof(struct block_node *));
    if (!shortcut || !array) {
        free(shortcut);
        free(array);
        return NULL;
    }
    for (unsigned i = 0; i < layers; i++, node = node->child[BLOCK_BACKING])
        array[i] = node;
    shortcut->layer = array;
    shortcut->layers = layers;
    atomic_init(&shortcut->epoch, now);
    return shortcut;
}

/* True when no layer of it has changed; from the top, so that what was cut off is not looked at. */
static bool still_holds(const struct shortcut *shortcut)
{
    for (unsigned i = 0; i < shortcut->layers; i++)
        if (atomic_load(&shortcut->layer[i]->core->changed_epoch) > atomic_load(&shortcut->epoch))
            return false;
    return true;
}

/*
 * Drops a shortcut that no longer holds. Its graph was drained for the change, and who came after
 * that sees the new epoch and waits for the guard: nobody looks at it.
 */
static void drop(struct block_node *node, struct shortcut *old)
{
    atomic_store(&node->core->shortcut, NULL);
    shortcut_free(old);
    atomic_fetch_sub(&node->context->shortcuts, 1);
}

static struct shortcut *renew_guarded(struct block_node *node, uint64_t now)
{
    struct shortcut *shortcut = atomic_load(&node->core->shortcut);
    if (shortcut && still_holds(shortcut)) {
        atomic_store(&shortcut->epoch, now);
        return shortcut;
    }
    if (shortcut)
        drop(node, shortcut);
    unsigned layers = count_layers(node);
    if (layers < SHORTCUT_LAYERS_MIN)
        return NULL;
    shortcut = NULL;
    if (atomic_fetch_add(&node->context->shortcuts, 1) < SHORTCUTS_MAX)
        shortcut = shortcut_new(node, layers, now);
    if (!shortcut)
        atomic_fetch_sub(&node->context->shortcuts, 1);
    return shortcut;
}

/* Another epoch than the one that the node's shortcut was made in: is it still right? */
static __attribute__((noinline)) struct shortcut *renew(struct block_node *node, uint64_t now)
{
    struct block_core *core = node->core;
    rt_mutex_lock(&core->shortcut_guard);
    struct shortcut *shortcut = renew_guarded(node, now);
    atomic_store(&core->shortcut, shortcut);
    if (!shortcut)
        atomic_store(&core->shortcut_refused, now);
    rt_mutex_unlock(&core->shortcut_guard);
    return shortcut;
}

static inline struct shortcut *shortcut_of(struct block_node *node)
{
    struct shortcut *shortcut = atomic_load_explicit(&node->core->shortcut, memory_order_acquire);
    uint64_t now = atomic_load_explicit(&epoch, memory_order_acquire);
    if (likely(shortcut && atomic_load_explicit(&shortcut->epoch, memory_order_relaxed) == now))
        return shortcut;
    if (atomic_load_explicit(&node->core->shortcut_refused, memory_order_relaxed) == now)
        return NULL;
    return renew(node, now);
}

/* True when @layer cannot change and has nothing in [start, end), nor an end of its own there. */
static bool co_has_nothing(struct block_node *layer, uint64_t start, uint64_t end)
{
    if (!layer->read_only || !layer->driver->co_read_layer || end > block_size(layer))
        return false;
    while (start < end) {
        struct block_extent extent;
        if (co_block_status(layer, start, end - start, &extent) < 0 ||
            (extent.flags & BLOCK_STATUS_ALLOCATED))
            return false;
        start += extent.length;
    }
    return true;
}

static unsigned co_skip_of(struct shortcut *shortcut, uint64_t granule)
{
    uint64_t start = granule * SHORTCUT_GRANULE;
    _Atomic uint64_t *slot = &shortcut->entry[granule % SHORTCUT_ENTRIES];
    uint64_t tag = granule / SHORTCUT_ENTRIES + 1;
    uint64_t entry = atomic_load_explicit(slot, memory_order_relaxed);
    if (likely(entry >> SKIP_BITS == tag))
        return (unsigned)(entry & ((1u << SKIP_BITS) - 1));
    unsigned skip = 0;
    /* The last layer is always asked: it is the one that says "zeroes". */
    while (skip + 1 < shortcut->layers &&
           co_has_nothing(shortcut->layer[skip], start, start + SHORTCUT_GRANULE))
        skip++;
    atomic_store_explicit(slot, tag << SKIP_BITS | skip, memory_order_relaxed);
    return skip;
}

struct block_node *co_shortcut(struct block_node *layer, const struct block_holes *holes,
                               uint64_t limit)
{
    struct shortcut *shortcut = layer && layer->child[BLOCK_BACKING] ? shortcut_of(layer) : NULL;
    if (!shortcut)
        return layer;
    unsigned least = shortcut->layers - 1;
    for (unsigned i = 0; i < holes->count && holes->hole[i].offset < limit && least; i++) {
        uint64_t first = holes->hole[i].offset / SHORTCUT_GRANULE;
        uint64_t last = (holes->hole[i].offset + holes->hole[i].length - 1) / SHORTCUT_GRANULE;
        if (last - first > 1)
            return layer; /* large: the walk costs little by comparison */
        for (; first <= last; first++)
            least = MIN(least, co_skip_of(shortcut, first));
    }
    return shortcut->layer[least];
}
