/*
 * What a guest does: several coroutines on several queues with random requests, and meanwhile, on
 * the controlling coroutine, growth of the disk and drains.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "world.h"

/* Requests of sectors; mostly small, sometimes as large as some clusters. */
static uint64_t count_draw(struct random *r, uint64_t most)
{
    uint64_t count;
    if (!random_one_in(r, 8))
        count = 1 + random_below(r, 16);
    else if (random_one_in(r, 4))
        count = 1 + random_below(r, 2048);
    else
        count = 1 + random_below(r, 256);
    return MIN(count, most);
}

/* Mostly in a few hot places, so that requests meet in clusters; boundaries of clusters are
 * popular. */
static uint64_t first_draw(struct world *world, uint64_t sectors)
{
    struct random *r = &world->random;
    const struct plan_layer *top = &world->plan.layer[world->top];
    uint64_t cluster = (1ull << top->cluster_bits) / GUEST_SECTOR_BYTES;
    uint64_t first = random_below(r, sectors);
    if (random_one_in(r, 2))
        first %= 4 * cluster;
    if (random_one_in(r, 2))
        first = align_down(first, cluster);
    return MIN(first, sectors - 1);
}

/* Clusters are dropped and given to others while flushes and reads run. */
static void co_churn_step(struct world *world)
{
    struct random *r = &world->random;
    const struct plan_layer *top = &world->plan.layer[world->top];
    uint64_t cluster = (1ull << top->cluster_bits) / GUEST_SECTOR_BYTES;
    uint64_t sectors = block_root_size(world->root) / GUEST_SECTOR_BYTES;
    uint64_t first = align_down(random_below(r, sectors), cluster);
    uint64_t count = MIN(cluster * (1 + random_below(r, 3)), sectors - first);
    switch (random_below(r, 16)) {
    case 0 ... 4:
        co_world_discard(world, first, count);
        break;
    case 5:
        co_world_write_zeroes(world, first, count, BLOCK_MAY_UNMAP);
        break;
    case 6 ... 8:
        co_world_flush(world);
        break;
    case 9:
        co_world_read(world, first, MIN(count, (uint64_t)2048));
        break;
    case 10 ... 11:
        co_world_write_compressed(world, first, count);
        break;
    default:
        co_world_write(world, first, MIN(count, (uint64_t)2048), 0);
        break;
    }
}

static void co_compressed_step(struct world *world, uint64_t first)
{
    const struct plan_layer *top = &world->plan.layer[world->top];
    uint64_t cluster = (1ull << top->cluster_bits) / GUEST_SECTOR_BYTES;
    uint64_t sectors = block_root_size(world->root) / GUEST_SECTOR_BYTES;
    first = align_down(first, cluster);
    uint64_t count = cluster * (1 + random_below(&world->random, 2));
    co_world_write_compressed(world, first, MIN(count, sectors - first));
}

static void co_step(struct world *world)
{
    if (world->plan.churn && !random_one_in(&world->random, 4)) {
        co_churn_step(world);
        return;
    }
    struct random *r = &world->random;
    uint64_t sectors = block_root_size(world->root) / GUEST_SECTOR_BYTES;
    uint64_t first = first_draw(world, sectors), count = count_draw(r, sectors - first);
    static const unsigned zero_flags[] = {0, BLOCK_MAY_UNMAP, BLOCK_MAY_UNMAP, BLOCK_NO_FALLBACK,
                                          BLOCK_MAY_UNMAP | BLOCK_FUA};
    switch (random_below(r, 21)) {
    default:
        co_world_write(world, first, count, random_one_in(r, 12) ? BLOCK_FUA : 0);
        break;
    case 0 ... 6:
        co_world_read(world, first, count);
        break;
    case 7:
    case 8:
        co_world_write_zeroes(world, first, count, zero_flags[random_below(r, 5)]);
        break;
    case 9:
        co_world_discard(world, first, count);
        break;
    case 10:
        co_world_flush(world);
        break;
    case 20:
        co_compressed_step(world, first);
        break;
    case 11:
        if (random_one_in(r, 2))
            co_world_status(world, first, count, false);
        else
            co_world_write_zero_bytes(world, first, count);
        break;
    }
}

static void worker(void *arg)
{
    struct world *world = arg;
    for (uint64_t i = 0; i < world->steps; i++) {
        co_step(world);
        if (random_one_in(&world->random, 8))
            co_sleep_ns(random_below(&world->random, 50000));
    }
    co_group_done(&world->group);
}

/** What the controlling coroutine does while requests are in flight. */
static void co_control(struct world *world)
{
    struct random *r = &world->random;
    co_sleep_ns(random_below(r, 200000));
    uint64_t sectors = block_root_size(world->root) / GUEST_SECTOR_BYTES;
    bool resizable = !world->plan.fixed_size &&
                     (world->plan.layer[world->top].version >= 3 || !world_has_snapshots(world));
    if (random_one_in(r, 3))
        co_world_snapshot(world);
    else if (resizable && random_one_in(r, 3) && sectors > 1) {
        co_world_resize(world, 1 + random_below(r, sectors - 1));
        if (random_one_in(r, 2))
            co_world_resize(world, sectors);
    } else if (resizable && random_one_in(r, 2) && sectors < world->plan.sectors_max) {
        co_world_resize(world, sectors + 1 + random_below(r, world->plan.sectors_max - sectors));
    } else if (random_one_in(r, 2)) {
        co_root_drain(world->root);
        co_sleep_ns(random_below(r, 10000));
        co_root_undrain(world->root);
    }
}

void co_world_phase_beside(struct world *world, void (*co_beside)(struct world *world))
{
    struct rt_queue *queue[4] = {NULL};
    assert(world->plan.queues <= ARRAY_LEN(queue));
    for (unsigned i = 1; i < world->plan.queues; i++) {
        if (rt_queue_start(rt_current(), "worker", &queue[i], NULL) < 0)
            world_fail(world, "cannot start a queue");
    }
    co_group_init(&world->group);
    co_group_add(&world->group, world->plan.workers);
    for (unsigned i = 0; i < world->plan.workers; i++) {
        if (rt_spawn(queue[i % world->plan.queues], worker, world) < 0)
            world_fail(world, "cannot spawn a worker");
    }
    co_beside(world);
    co_group_wait(&world->group);
    co_group_destroy(&world->group);
    for (unsigned i = 1; i < world->plan.queues; i++)
        co_queue_stop(queue[i]);
}

void co_world_phase(struct world *world)
{
    co_world_phase_beside(world, co_control);
}
