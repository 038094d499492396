/*
 * Roots: what users hold. A request enters (waits while drained, is counted), goes to the top node
 * by the root's modes, and leaves (is timed, wakes a drainer).
 *
 * The way in and the drain meet without a lock: a request adds itself to its lane and then looks
 * for a drain; a drain announces itself and then adds the lanes up. Both are sequentially
 * consistent, so at least one sees the other.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "block/bitmap.h"
#include "block/root.h"

struct block_root *block_root_new(struct block_node *node, const struct block_root_options *options)
{
    struct block_root *root = calloc(1, sizeof(*root));
    if (!root)
        return NULL;
    /* The shared lane is there from the start, so that a request never fails for want of one. */
    struct root_lane *shared = aligned_alloc(128, sizeof(*shared));
    if (!shared) {
        free(root);
        return NULL;
    }
    memset(shared, 0, sizeof(*shared));
    shared->shared = true;
    atomic_init(&root->lane[LANES_MAX - 1], shared);
    root->node = block_ref(node);
    root_take_size(root);
    root->options = *options;
    rt_mutex_init(&root->guard);
    co_waitq_init(&root->idle);
    co_waitq_init(&root->ready);
    return root;
}

int co_block_root_free(struct block_root *root, struct hws_error *err)
{
    if (!root)
        return 0;
    co_root_drain(root);
    int r = co_block_close(root->node, err);
    for (unsigned i = 0; i < LANES_MAX; i++)
        free(atomic_load(&root->lane[i]));
    rt_mutex_destroy(&root->guard);
    free(root);
    return r;
}

struct block_node *block_root_node(const struct block_root *root)
{
    return root->node;
}

uint64_t block_root_size(const struct block_root *root)
{
    return atomic_load_explicit(&root->size_bytes, memory_order_acquire);
}

void root_take_size(struct block_root *root)
{
    atomic_store_explicit(&root->size_bytes, block_size(root->node), memory_order_release);
}

void block_root_on_resize(struct block_root *root, void (*fn)(void *arg, uint64_t size_bytes),
                          void *arg)
{
    root->on_resize = fn;
    root->on_resize_arg = arg;
}

void root_tell_size(struct block_root *root, uint64_t old_size)
{
    uint64_t size = block_root_size(root);
    if (size != old_size && root->on_resize)
        root->on_resize(root->on_resize_arg, size);
}

/* ---- in and out ---- */

static void co_wait_for_undrain(struct block_root *root, struct root_lane *lane)
{
    rt_mutex_lock(&root->guard);
    atomic_fetch_sub(&lane->in_flight, 1);
    co_waitq_wake_all(&root->idle);
    while (atomic_load(&root->drained))
        co_waitq_wait(&root->ready, &root->guard);
    /* Counted again before the guard is given up: a new drain must see it. */
    atomic_fetch_add(&lane->in_flight, 1);
    rt_mutex_unlock(&root->guard);
}

struct ticket {
    struct root_lane *lane;
    uint64_t start_ns;
};

static inline struct ticket co_enter(struct block_root *root)
{
    struct ticket ticket = {.lane = root_lane(root), .start_ns = rt_now_ns()};
    atomic_fetch_add(&ticket.lane->in_flight, 1);
    if (unlikely(atomic_load(&root->drained)))
        co_wait_for_undrain(root, ticket.lane);
    return ticket;
}

/* A lane of one thread needs no locked instruction to count. */
static inline void bump(const struct root_lane *lane, _Atomic uint64_t *counter, uint64_t by)
{
    if (unlikely(lane->shared))
        atomic_fetch_add_explicit(counter, by, memory_order_relaxed);
    else
        atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + by,
                              memory_order_relaxed);
}

static void wake_drainers(struct block_root *root)
{
    rt_mutex_lock(&root->guard);
    co_waitq_wake_all(&root->idle);
    rt_mutex_unlock(&root->guard);
}

static inline int leave(struct block_root *root, struct ticket ticket, enum block_op op,
                        uint64_t bytes, int result)
{
    struct root_lane *lane = ticket.lane;
    uint64_t took_ns = rt_now_ns() - ticket.start_ns;
    bump(lane, &lane->operations[op], 1);
    if (likely(result >= 0))
        bump(lane, &lane->bytes[op], bytes);
    else
        bump(lane, &lane->failures[op], 1);
    bump(lane, &lane->latency_ns[op], took_ns);
    bump(lane, &lane->latency[op].count[histogram_bucket(took_ns)], 1);
    atomic_fetch_sub(&lane->in_flight, 1);
    if (unlikely(atomic_load(&root->drained)))
        wake_drainers(root);
    return result;
}

/* ---- the gate of a job ---- */

void block_root_set_gate(struct block_root *root, struct block_gate *gate)
{
    assert(atomic_load(&root->drained));
    root->gate = gate;
}

static inline void co_gate_enter(struct block_root *root, struct range_entry *entry,
                                 uint64_t offset, uint64_t length)
{
    if (unlikely(root->gate))
        co_range_lock(&root->gate->ranges, entry, offset, length, true);
}

static inline void co_gate_leave(struct block_root *root, struct range_entry *entry,
                                 uint64_t offset, uint64_t length, const struct sgl *data)
{
    struct block_gate *gate = root->gate; /* what it was: the root is not drained meanwhile */
    if (likely(!gate))
        return;
    if (gate->co_changed && length)
        gate->co_changed(gate, offset, length, data);
    range_unlock(&gate->ranges, entry);
}

/* ---- requests ---- */

int co_root_read(struct block_root *root, uint64_t offset, struct sgl buffer, unsigned flags)
{
    struct ticket ticket = co_enter(root);
    int r = co_block_read(root->node, offset, buffer, flags);
    return leave(root, ticket, BLOCK_OP_READ, buffer.length, r);
}

int root_try_read(struct block_root *root, uint64_t offset, void *bytes, size_t length)
{
    struct ticket ticket = {.lane = root_lane(root), .start_ns = rt_now_ns()};
    atomic_fetch_add(&ticket.lane->in_flight, 1);
    if (likely(!atomic_load(&root->drained)) &&
        likely(block_try_read(root->node, offset, bytes, length) == 0))
        return leave(root, ticket, BLOCK_OP_READ, length, 0);
    atomic_fetch_sub(&ticket.lane->in_flight, 1);
    if (unlikely(atomic_load(&root->drained)))
        wake_drainers(root);
    return -EAGAIN;
}

/* The flags of a change by the cache mode. */
static unsigned durability(const struct block_root *root, unsigned flags)
{
    if (root->options.cache == BLOCK_CACHE_WRITETHROUGH ||
        root->options.cache == BLOCK_CACHE_DIRECTSYNC)
        return flags | BLOCK_FUA;
    if (root->options.cache == BLOCK_CACHE_UNSAFE)
        return flags & ~(unsigned)BLOCK_FUA;
    return flags;
}

/* Users write inside the device, whatever the node below would take. */
static int check_change(const struct block_root *root, uint64_t offset, uint64_t length)
{
    if (unlikely(root->options.read_only))
        return -EROFS;
    return likely(range_fits(offset, length, block_size(root->node))) ? 0 : -EINVAL;
}

static int co_write_detecting(struct block_root *root, uint64_t offset, struct sgl buffer,
                              unsigned flags)
{
    if (root->options.detect_zeroes != BLOCK_DETECT_OFF && buffer.length && sgl_is_zero(buffer)) {
        bool unmap = root->options.detect_zeroes == BLOCK_DETECT_UNMAP &&
                     root->options.discard == BLOCK_DISCARD_UNMAP;
        return co_block_write_zeroes(root->node, offset, buffer.length,
                                     flags | (unmap ? BLOCK_MAY_UNMAP : 0));
    }
    return co_block_write(root->node, offset, buffer, flags);
}

int co_root_write(struct block_root *root, uint64_t offset, struct sgl buffer, unsigned flags)
{
    struct ticket ticket = co_enter(root);
    struct range_entry entry;
    int r = check_change(root, offset, buffer.length);
    if (likely(r == 0)) {
        co_gate_enter(root, &entry, offset, buffer.length);
        r = co_write_detecting(root, offset, buffer, durability(root, flags));
        co_gate_leave(root, &entry, offset, buffer.length, r == 0 ? &buffer : NULL);
    }
    return leave(root, ticket, BLOCK_OP_WRITE, buffer.length, r);
}

int co_root_write_compressed(struct block_root *root, uint64_t offset, struct sgl buffer, int level)
{
    struct ticket ticket = co_enter(root);
    struct range_entry entry;
    int r = check_change(root, offset, buffer.length);
    if (r == 0) {
        co_gate_enter(root, &entry, offset, buffer.length);
        r = co_block_write_compressed(root->node, offset, buffer, level);
        co_gate_leave(root, &entry, offset, buffer.length, r == 0 ? &buffer : NULL);
    }
    if (r == 0 && durability(root, 0))
        r = co_block_flush(root->node);
    return leave(root, ticket, BLOCK_OP_WRITE, buffer.length, r);
}

int co_root_write_zeroes(struct block_root *root, uint64_t offset, uint64_t length, unsigned flags)
{
    struct ticket ticket = co_enter(root);
    struct range_entry entry;
    if (root->options.discard == BLOCK_DISCARD_IGNORE)
        flags &= ~(unsigned)BLOCK_MAY_UNMAP;
    int r = check_change(root, offset, length);
    if (likely(r == 0)) {
        co_gate_enter(root, &entry, offset, length);
        r = co_block_write_zeroes(root->node, offset, length, durability(root, flags));
        co_gate_leave(root, &entry, offset, length, NULL);
    }
    return leave(root, ticket, BLOCK_OP_ZERO, length, r);
}

int co_root_discard(struct block_root *root, uint64_t offset, uint64_t length)
{
    struct ticket ticket = co_enter(root);
    struct range_entry entry;
    int r = check_change(root, offset, length);
    if (likely(r == 0) && root->options.discard == BLOCK_DISCARD_UNMAP) {
        co_gate_enter(root, &entry, offset, length);
        r = co_block_discard(root->node, offset, length);
        co_gate_leave(root, &entry, offset, length, NULL);
    }
    return leave(root, ticket, BLOCK_OP_DISCARD, length, r);
}

int co_root_flush(struct block_root *root)
{
    struct ticket ticket = co_enter(root);
    int r = root->options.cache == BLOCK_CACHE_UNSAFE ? 0 : co_block_flush(root->node);
    return leave(root, ticket, BLOCK_OP_FLUSH, 0, r);
}

/* What is looked at is held off by a drain, and not counted. */
static struct root_lane *co_look_begin(struct block_root *root)
{
    struct root_lane *lane = root_lane(root);
    atomic_fetch_add(&lane->in_flight, 1);
    if (unlikely(atomic_load(&root->drained)))
        co_wait_for_undrain(root, lane);
    return lane;
}

static void look_end(struct block_root *root, struct root_lane *lane)
{
    atomic_fetch_sub(&lane->in_flight, 1);
    if (unlikely(atomic_load(&root->drained)))
        wake_drainers(root);
}

int co_root_status(struct block_root *root, uint64_t offset, uint64_t length,
                   struct block_extent *ret)
{
    struct root_lane *lane = co_look_begin(root);
    int r = co_block_status_chain(root->node, offset, length, ret);
    look_end(root, lane);
    return r;
}

/* Bitmaps are an image's: filters have none. */
static struct block_node *bitmaps_node(const struct block_root *root)
{
    struct block_node *node = root->node;
    while (node->driver->kind == BLOCK_FILTER && node->child[BLOCK_FILE])
        node = node->child[BLOCK_FILE];
    return node;
}

int co_root_bitmap_next(struct block_root *root, const char *name, uint64_t offset, uint64_t length,
                        bool *ret_dirty, uint64_t *ret_length)
{
    struct root_lane *lane = co_look_begin(root);
    struct block_bitmap *bitmap = block_bitmap_find(bitmaps_node(root), name);
    int r = bitmap ? co_block_bitmap_next(bitmap, offset, length, ret_dirty, ret_length) : -ENOENT;
    look_end(root, lane);
    return r;
}

int co_root_bitmap_name(struct block_root *root, unsigned index, char *ret_name)
{
    struct root_lane *lane = co_look_begin(root);
    struct block_node *node = bitmaps_node(root);
    struct block_bitmap *bitmap = block_bitmap_after(node, NULL);
    while (bitmap && (!bitmap->name || index > 0)) {
        index -= bitmap->name != NULL;
        bitmap = block_bitmap_after(node, bitmap);
    }
    if (bitmap)
        snprintf(ret_name, BLOCK_BITMAP_NAME_MAX + 1, "%s", bitmap->name);
    look_end(root, lane);
    return bitmap ? 0 : -ENOENT;
}
