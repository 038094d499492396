/*
 * Layers are merged under a working guest: compared with the model over chains of all shapes, with
 * jobs that are paused, slowed and cancelled; then small chains, where at each storage operation
 * the world stops or the operation fails, and where each allocation fails.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "alloc_fail.h"
#include "live.h"
#include "oracle.h"
#include "sweep.h"

#define SEEDS_DEFAULT 60
#define SWEEPS        8 /* seeds of each kind of sweep; SEEDS_DEFAULT stands for them */
#define SURVIVORS     2
#define POINTS_MAX    60 /* of a sweep in a default run */
#define ORACLE_ONE_IN 6

enum disturbance { CRASH, FAIL, FAIL_ON, FULL, ALLOCATE, ALLOCATE_ON, DISTURBANCES };

static const char *const disturbance_names[] = {"crash",  "EIO",        "EIO, sticky",
                                                "ENOSPC", "allocation", "allocation, sticky"};

static void begin(struct world *world, const struct sweep *sweep, const struct plan *plan)
{
    struct sim_options storage = sweep_storage(sweep, plan);
    *world = (struct world){.plan = *plan, .random = random_seed(plan->seed)};
    world_note(world, sweep->program, "");
    if (sweep->trace)
        plan_print(&world->plan);
    if (sim_create(&storage, &world->rt) < 0)
        world_fail(world, "cannot make the simulator");
    world_run(world, co_live_setup);
}

static void end(struct world *world)
{
    guest_free(world->guest);
    rt_free(world->rt);
}

/* ---- against the model ---- */

static void compare_with_model(const struct sweep *sweep, uint64_t seed)
{
    struct plan plan = live_plan(seed, false);
    struct sim_options storage = sweep_storage(sweep, &plan);
    struct world world;
    begin(&world, sweep, &plan);
    world.steps = 40;
    world.phases = 4;
    world_run(&world, co_live_scenario);
    world_run(&world, co_live_check_files);
    world_run(&world, co_world_verify_closed);
    if (seed % ORACLE_ONE_IN == 0)
        oracle_check(&world, false);
    struct rt *old = world.rt;
    if (sim_after_crash(old, &storage, &world.rt) < 0)
        world_fail(&world, "cannot make the simulator");
    world_run(&world, co_world_verify_crash);
    rt_free(old);
    end(&world);
}

/* ---- sweeps ---- */

static void verify(const struct sweep *sweep, const struct world *run, bool kill, uint64_t choice)
{
    struct sim_options storage = sweep_storage(sweep, &run->plan);
    struct world left = *run;
    storage.seed = run->plan.seed * 1000 + choice;
    int r = kill ? sim_after_kill(run->rt, &storage, &left.rt)
                 : sim_after_crash(run->rt, &storage, &left.rt);
    if (r < 0)
        world_fail(run, "cannot make the simulator");
    if (sweep->trace)
        fprintf(stderr, "---- after %s, choice %llu\n", kill ? "a kill" : "a crash",
                (unsigned long long)choice);
    left.guest = guest_clone(run->guest);
    world_run(&left, co_live_check_files);
    world_run(&left, co_world_verify_crash);
    end(&left);
}

static void co_counted(void *arg)
{
    alloc_fail.counting = alloc_fail.fail_at > 0;
    co_live_scenario(arg);
    alloc_fail.counting = false;
}

/** @return how many operations, or allocations, the run had. */
static uint64_t disturb(const struct sweep *sweep, const struct world *base, enum disturbance kind,
                        uint64_t at)
{
    static char note[64];
    struct sim_options storage = sweep_storage(sweep, &base->plan);
    struct world world = *base;
    bool allocates = kind >= ALLOCATE;
    if (kind == CRASH)
        storage.crash_at = at;
    else if (!allocates)
        storage.fail_at = at;
    storage.fail_sticky = kind == FAIL_ON;
    storage.fail_errno = kind == FULL ? ENOSPC : EIO;
    alloc_fail = (struct alloc_fail){.fail_at = allocates ? at : 0, .sticky = kind == ALLOCATE_ON};
    if (sim_after_kill(base->rt, &storage, &world.rt) < 0)
        world_fail(base, "cannot make the simulator");
    world.guest = guest_clone(base->guest);
    world.tolerant = true;
    snprintf(note, sizeof(note), "%llu   (%s)", (unsigned long long)at, disturbance_names[kind]);
    world_note(&world, sweep->program, note);
    if (sweep->trace)
        fprintf(stderr, "---- %s\n", note);
    world_run(&world, co_counted);
    uint64_t count = allocates ? alloc_fail.count : sim_operations(world.rt);
    for (uint64_t i = 0; i < SURVIVORS; i++) {
        verify(sweep, &world, false, at * 10 + i);
        world_note(&world, sweep->program, note);
    }
    verify(sweep, &world, true, at * 10);
    end(&world);
    return count;
}

static uint64_t disturb_each(const struct sweep *sweep, uint64_t seed, enum disturbance kind)
{
    struct plan plan = live_plan(seed, true);
    struct random stride = random_seed(seed + kind);
    struct world base;
    uint64_t runs = 0;
    if (kind >= ALLOCATE)
        plan.queues = 1; /* starting more is the harness's own */
    begin(&base, sweep, &plan);
    base.steps = 6;
    base.phases = 2;
    uint64_t points = sweep->only ? sweep->only : disturb(sweep, &base, kind, UINT64_MAX);
    uint64_t step = sweep->by_default ? points / POINTS_MAX + 1 : 1;
    uint64_t at = sweep->only ? sweep->only : 1 + random_below(&stride, step);
    for (; at <= points; at += step, runs++)
        (void)disturb(sweep, &base, kind, at);
    end(&base);
    return runs;
}

int main(int argc, char **argv)
{
    struct sweep sweep = sweep_begin(argc, argv, SEEDS_DEFAULT);
    uint64_t runs = 0;
    uint64_t sweeps = sweep.trace ? 1 : MAX(sweep.count * SWEEPS / SEEDS_DEFAULT, (uint64_t)1);
    for (uint64_t i = 0; i < sweep.count && !sweep.only; i++)
        compare_with_model(&sweep, sweep.first + i);
    for (unsigned kind = 0; kind < DISTURBANCES; kind++)
        for (uint64_t i = 0; i < sweeps && !(sweep.trace && !sweep.only); i++)
            runs += disturb_each(&sweep, sweep.first + i, (enum disturbance)kind);
    printf("%llu seeds, %llu disturbed runs; %llu commits (%llu of tops), %llu streams, %llu "
           "cancelled, %llu failed; qemu-img asked %u times\n",
           (unsigned long long)sweep.count, (unsigned long long)runs,
           (unsigned long long)live_count.commits, (unsigned long long)live_count.top_commits,
           (unsigned long long)live_count.streams, (unsigned long long)live_count.cancelled,
           (unsigned long long)live_count.failed, oracle_count());
    return 0;
}
