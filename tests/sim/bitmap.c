/*
 * The dirty bitmap of a run: one on the top, from its first opening on.
 *
 * What must hold whenever nothing is in flight, and after a crash or a kill if the bitmap is not
 * marked in use then: a sector that has another value than when the bitmap was cleared is dirty;
 * and each dirty grain has a sector that some request was to change. The values are the model's
 * (guest.h), after a crash those that were read.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "block/bitmap.h"
#include "world.h"

#define NAME "sim"

static bool wanted(const struct world *world)
{
    const struct plan_layer *top = &world->plan.layer[world->top];
    /* The header of a cluster of 512 bytes may have no room. */
    return world->plan.bitmap_bits && !top->raw && top->version >= 3 && top->cluster_bits > 9;
}

static struct block_node *find_node(struct block_node *node)
{
    while (node && strcmp(block_driver_name(node), "qcow2") != 0)
        node = block_child(node, BLOCK_FILE);
    return node;
}

static bool known(const struct world *world)
{
    return world->bitmap_layer == world->top + 1;
}

/* ---- what must hold ---- */

static void fail_clean(const struct world *world, uint64_t sector)
{
    world_fail(world, "sector %#llx changed since the bitmap was cleared, and is not dirty",
               (unsigned long long)sector);
}

static bool co_is_dirty(struct world *world, struct block_bitmap *bitmap, uint64_t sector)
{
    bool dirty;
    uint64_t length;
    int result = co_block_bitmap_next(bitmap, sector * GUEST_SECTOR_BYTES, GUEST_SECTOR_BYTES,
                                      &dirty, &length);
    if (result < 0 && !world->tolerant)
        world_fail(world, "reading the bitmap: %s", strerror(-result));
    return result < 0 || dirty;
}

/* A grain is dirty for nothing where no request was to change it; copy-on-read writes by itself. */
static void check_reason(struct world *world, uint64_t start, uint64_t end)
{
    uint64_t grain = 1ull << (world->plan.bitmap_bits - 9);
    for (uint64_t at = align_down(start, grain); at < end && !world->plan.filter; at += grain)
        if (!guest_was_touched(world->guest, at, grain))
            world_fail(world, "the bitmap says that sector %#llx was changed; nobody did",
                       (unsigned long long)at);
}

static void co_check(struct world *world, struct block_bitmap *bitmap)
{
    uint64_t size = block_size(bitmap->node), length;
    for (uint64_t at = 0; at < size; at += length) {
        bool dirty;
        int result = co_block_bitmap_next(bitmap, at, size - at, &dirty, &length);
        if (result < 0 && world->tolerant)
            return;
        if (result < 0)
            world_fail(world, "reading the bitmap: %s", strerror(-result));
        uint64_t first = at / GUEST_SECTOR_BYTES, end = (at + length) / GUEST_SECTOR_BYTES;
        if (dirty)
            check_reason(world, first, end);
        for (uint64_t sector = first; sector < end && !dirty; sector++)
            if (guest_has_changed(world->guest, sector))
                fail_clean(world, sector);
    }
}

/* ---- its life ---- */

static void co_add(struct world *world, struct block_node *node)
{
    struct hws_error err = {0};
    int result = co_block_bitmap_add(node, NAME, 1ull << world->plan.bitmap_bits,
                                     BLOCK_BITMAP_PERSISTENT, NULL, &err);
    world->bitmap_layer = 0;
    if (result == 0) {
        world->bitmap_layer = world->top + 1;
        guest_bitmap_cleared(world->guest);
    } else if (!world->tolerant) {
        world_fail(world, "adding a bitmap: %s", err.text);
    }
}

void co_world_bitmap_opened(struct world *world)
{
    struct hws_error err = {0};
    struct block_node *node = wanted(world) ? find_node(block_root_node(world->root)) : NULL;
    struct block_bitmap *bitmap = node ? block_bitmap_find(node, NAME) : NULL;
    if (!node)
        return;
    if (bitmap && !bitmap->inconsistent && known(world)) {
        co_check(world, bitmap);
        return;
    }
    if (!world->tolerant && world->clean && known(world))
        world_fail(world, "after a clean close the bitmap is %s", bitmap ? "in use" : "gone");
    if (bitmap && co_block_bitmap_remove(bitmap, &err) < 0)
        world_fail(world, "removing a bitmap: %s", err.text);
    co_add(world, node);
}

void co_world_bitmap_pause(struct world *world)
{
    struct hws_error err = {0};
    struct block_node *node = wanted(world) ? find_node(block_root_node(world->root)) : NULL;
    struct block_bitmap *bitmap = node ? block_bitmap_find(node, NAME) : NULL;
    if (!bitmap || bitmap->inconsistent || !known(world))
        return;
    co_check(world, bitmap);
    int result = 0;
    unsigned choice = (unsigned)random_below(&world->random, 4);
    if (choice == 0 || choice == 1) {
        result = co_block_bitmap_clear(bitmap, &err);
        if (result == 0)
            guest_bitmap_cleared(world->guest);
    }
    if (result == 0 && (choice == 1 || choice == 2))
        result = co_block_bitmaps_store(node, &err);
    if (result == 0)
        return;
    world->clean = false;
    if (!world->tolerant)
        world_fail(world, "a bitmap: %s", err.text);
}

bool co_world_bitmap_crashed(struct world *world, struct block_node *top)
{
    struct block_node *node = wanted(world) && known(world) ? find_node(top) : NULL;
    struct block_bitmap *bitmap = node ? block_bitmap_find(node, NAME) : NULL;
    return bitmap && !bitmap->inconsistent;
}

void co_world_bitmap_crash_check(struct world *world, struct block_node *top, uint64_t first,
                                 uint64_t count, const uint8_t *bytes)
{
    struct block_bitmap *bitmap = block_bitmap_find(find_node(top), NAME);
    for (uint64_t i = 0; i < count; i++)
        if (guest_bytes_have_changed(world->guest, first + i, bytes + i * GUEST_SECTOR_BYTES) &&
            !co_is_dirty(world, bitmap, first + i))
            fail_clean(world, first + i);
}
