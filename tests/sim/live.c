/*
 * Live jobs in a run; see live.h.
 *
 * What falls out of the chain stays as a file. Where the top itself is committed its name is given
 * to an empty overlay over the layer that takes its place, as the engine does: so the path of the
 * first top is the whole disk at every moment.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "live.h"
#include "job/live/live.h"

#define LAYERS_MAX 8
#define FRESH      "/images/fresh"

struct live_count live_count;

struct plan live_plan(uint64_t seed, bool small)
{
    struct plan plan = plan_make(seed, small);
    struct random random = random_seed(seed * 2 + 77), *r = &random;
    uint64_t sectors = plan.layer[plan.depth].sectors;
    plan.depth = (small ? 2 : 1) + (unsigned)random_below(r, small ? 3 : LAYERS_MAX - 1);
    plan.filter = NULL;
    plan.imported = plan.snapshot = false;
    plan.bitmap_bits = 0;
    plan.fixed_size = true;
    plan.layer[0].raw = random_one_in(r, 3);
    /* Layers that end before those around them show what was forgotten. */
    bool equal = random_one_in(r, 3);
    for (unsigned i = 0; i <= plan.depth; i++) {
        plan.layer[i].sectors = equal ? sectors : MAX(1 + random_below(r, 2 * sectors), 16u);
        if (i > 0)
            plan.layer[i].raw = false;
    }
    plan.sectors_max = 2 * sectors;
    plan.workers = MIN(plan.workers, 5u);
    return plan;
}

/* ---- the hook ---- */

struct merging {
    struct world *world;
    struct live_job job;
    struct live_control control;
    bool done, of_top;
    struct co_group steering;
};

static const char *path_of(const struct block_node *node)
{
    const struct block_node *file = block_child(node, BLOCK_FILE);
    return block_filename(file);
}

static const char *name_of(const struct block_node *node)
{
    return strrchr(path_of(node), '/') + 1;
}

/* The name of the old top goes to an empty overlay over what takes its place. */
static int co_give_name(void *arg, struct hws_error *err)
{
    struct merging *m = arg;
    struct world *world = m->world;
    const struct plan_layer *top = &world->plan.layer[world->top];
    struct block_policy policy = plan_policy(&world->plan);
    struct block_node *base = m->job.base;
    if (!m->of_top)
        return 0;
    json_t *options = json_pack("{ss s{ss ss} sI si ss ss}", "driver", "qcow2", "file", "driver",
                                "file", "filename", FRESH, "size", (json_int_t)block_size(base),
                                "cluster_size", 1 << top->cluster_bits, "backing_file",
                                name_of(base), "backing_fmt", block_driver_name(base));
    int r = co_block_create(options, true, &policy, err);
    json_decref(options);
    return r < 0 ? r : co_rename(FRESH, path_of(m->job.upper), err);
}

/* ---- one job ---- */

/* Somebody who pauses, cancels and changes his mind. */
static void co_steer(void *arg)
{
    struct merging *m = arg;
    struct random random = random_seed(random_u64(&m->world->random)), *r = &random;
    bool may_cancel = random_one_in(r, 4);
    while (!m->done) {
        co_sleep_ns(random_below(r, 400000));
        switch (random_below(r, 6)) {
        case 0:
            atomic_store(&m->control.pause, true);
            co_sleep_ns(random_below(r, 300000));
            atomic_store(&m->control.pause, false);
            break;
        case 1:
            atomic_store(&m->control.rate_bytes, random_one_in(r, 2) ? 0 : 64 * MiB);
            break;
        case 2:
            if (may_cancel && random_one_in(r, 3))
                atomic_store(&m->control.cancel, true);
            break;
        default:
            break;
        }
        if (atomic_load(&m->control.phase) == LIVE_WAITING && random_one_in(r, 2))
            atomic_store(&m->control.hold, false);
    }
    co_group_done(&m->steering);
}

static struct block_node *layer_at(const struct world *world, unsigned index)
{
    struct block_node *node = block_root_node(world->root);
    while (index-- > 0)
        node = block_child(node, BLOCK_BACKING);
    return node;
}

static unsigned layers_of(const struct world *world)
{
    unsigned count = 0;
    struct block_node *node = block_root_node(world->root);
    for (; node; node = block_child(node, BLOCK_BACKING))
        count++;
    return count;
}

/* @return false where the chain has nothing to merge. */
static bool draw(struct merging *m, bool *ret_stream)
{
    struct random *r = &m->world->random;
    unsigned layers = layers_of(m->world);
    if (layers < 2)
        return false;
    /* Most merges are small, so that the chain is good for several. */
    unsigned upper = (unsigned)random_below(r, layers - 1);
    unsigned most = random_one_in(r, 4) ? layers - 1 - upper : MIN(2u, layers - 1 - upper);
    unsigned lower = upper + 1 + (unsigned)random_below(r, most);
    *ret_stream = random_one_in(r, 3);
    m->job = (struct live_job){.root = m->world->root,
                               .upper = layer_at(m->world, upper),
                               .base = layer_at(m->world, lower),
                               .requests = 1 + (unsigned)random_below(r, 4),
                               .control = &m->control,
                               .co_switch = co_give_name,
                               .arg = m};
    if (*ret_stream && (lower == upper + 1 || random_one_in(r, 4)))
        m->job.base = NULL;
    m->of_top = !*ret_stream && upper == 0;
    if (m->job.base) {
        m->job.name = name_of(m->job.base);
        m->job.format = block_driver_name(m->job.base);
    }
    atomic_store(&m->control.hold, random_one_in(r, 3));
    return true;
}

static void judge(struct merging *m, bool stream, int r, unsigned before,
                  const struct hws_error *err)
{
    struct world *world = m->world;
    unsigned after = world->root ? layers_of(world) : 0;
    if (r == 0) {
        live_count.commits += !stream;
        live_count.top_commits += m->of_top;
        live_count.streams += stream;
        if (after >= before)
            world_fail(world, "a merge left %u of %u layers", after, before);
        return;
    }
    world->clean = false;
    live_count.cancelled += r == -ECANCELED;
    live_count.failed += r != -ECANCELED;
    if (after != before)
        world_fail(world, "a merge that failed left %u of %u layers", after, before);
    /* Clusters of 512 bytes may have no room for the way to another header. */
    bool expected = (r == -ECANCELED && atomic_load(&m->control.cancel)) || r == -ENOSPC;
    if (!world->tolerant && !expected)
        world_fail(world, "%s: %s (%s)", stream ? "stream" : "commit", err->text, strerror(-r));
}

static void co_merge(struct world *world)
{
    struct merging m = {.world = world};
    struct hws_error err = {0};
    bool stream;
    if (!draw(&m, &stream))
        return;
    unsigned before = layers_of(world);
    co_group_init(&m.steering);
    co_group_add(&m.steering, 1);
    if (rt_spawn(NULL, co_steer, &m) < 0) {
        co_group_done(&m.steering);
        atomic_store(&m.control.hold, false);
    }
    uint64_t start = guest_now(world->guest);
    int r = stream ? co_live_stream(&m.job, &err) : co_live_commit(&m.job, &err);
    if (r == 0 && (stream ? m.job.upper == block_root_node(world->root) : m.of_top))
        guest_flushed(world->guest, start);
    m.done = true;
    co_group_wait(&m.steering);
    co_group_destroy(&m.steering);
    judge(&m, stream, r, before, &err);
}

/* ---- the run ---- */

static void co_nothing(struct world *world)
{
}

void co_live_setup(void *arg)
{
    struct world *world = arg;
    world->guest = guest_new(world->plan.layer[0].sectors);
    for (unsigned i = 0; i <= world->plan.depth; i++) {
        guest_layer(world->guest, world->plan.layer[i].sectors);
        world->top = i;
        world->steps = i == 0 ? 12 : 3;
        if (!co_world_create(world, i) || !co_world_open(world))
            return;
        co_world_phase_beside(world, co_nothing);
        co_world_read_all(world);
        co_world_close(world);
        if (!guest_settle(world->guest))
            world_fail(world, "internal: the model is not settled");
    }
    world->top = world->plan.depth;
    world->created = true;
}

void co_live_scenario(void *arg)
{
    struct world *world = arg;
    world->clean = true;
    if (!co_world_open(world))
        return;
    for (unsigned i = 0; i < world->phases; i++) {
        co_world_phase_beside(world, co_merge);
        if (random_one_in(&world->random, 2))
            co_world_read_all(world);
        else if (random_one_in(&world->random, 2))
            co_world_phase_beside(world, co_nothing);
        else if (random_one_in(&world->random, 3) &&
                 !(co_world_close(world) && co_world_open(world)))
            return;
    }
    co_world_close(world);
}

/* ---- afterwards ---- */

static void co_check_file(struct world *world, unsigned layer)
{
    struct block_policy policy = plan_policy(&world->plan);
    struct hws_error err = {0};
    struct block_check check = {0};
    struct block_node *node;
    json_t *description = plan_open_description(&world->plan, layer, false), *info;
    int r =
        co_block_open(description, BLOCK_OPEN_CHECK | BLOCK_OPEN_NO_BACKING, &policy, &node, &err);
    json_decref(description);
    if (r < 0)
        world_fail(world, "%s: %s", plan_path(layer), err.text);
    if (co_block_info(node, &info, &err) < 0)
        world_fail(world, "%s: %s", plan_path(layer), err.text);
    bool dirty = json_is_true(json_object_get(info, "dirty-flag"));
    json_decref(info);
    r = dirty ? 0 : co_block_check(node, 0, &check, &err);
    if (r < 0 || check.corruptions || check.errors)
        world_fail(world, "%s: %llu corruptions, %llu errors %s", plan_path(layer),
                   (unsigned long long)check.corruptions, (unsigned long long)check.errors,
                   r < 0 ? err.text : "");
    if (co_block_close(node, &err) < 0)
        world_fail(world, "%s: %s", plan_path(layer), err.text);
}

void co_live_check_files(void *arg)
{
    struct world *world = arg;
    for (unsigned i = 0; i <= world->plan.depth; i++)
        if (!world->plan.layer[i].raw)
            co_check_file(world, i);
}
