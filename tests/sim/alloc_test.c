/*
 * The k-th allocation of a scenario fails, for every k, once or from then on: the program must
 * reach its end without a crash, a hang or a leak, and the image must be whole afterwards.
 *
 * The linker routes malloc(), calloc(), realloc() and aligned_alloc() of the engine through
 * alloc_fail.c (--wrap). The simulator and the harness take memory by reallocarray(), which stays
 * as it is, and so do the libraries.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "alloc_fail.h"
#include "oracle.h"
#include "sweep.h"

#define SEEDS_DEFAULT 3

/* The queues of a phase are the harness's own. */
static void co_scenario(void *arg)
{
    alloc_fail.counting = true;
    co_world_scenario(arg);
    alloc_fail.counting = false;
}

static void verify(const struct sweep *sweep, const struct world *run)
{
    struct sim_options storage = sweep_storage(sweep, &run->plan);
    struct world left = *run;
    if (sim_after_kill(run->rt, &storage, &left.rt) < 0)
        world_fail(run, "cannot make the simulator");
    if (sweep->trace)
        fprintf(stderr, "---- after the end\n");
    world_run(&left, co_world_verify_crash);
    rt_free(left.rt);
}

/** @return true when the scenario had an allocation number @at. */
static bool fail_once(const struct sweep *sweep, const struct world *base, uint64_t at)
{
    static char note[64];
    struct sim_options storage = sweep_storage(sweep, &base->plan);
    struct world world = *base;
    if (sim_after_kill(base->rt, &storage, &world.rt) < 0)
        world_fail(base, "cannot make the simulator");
    world.guest = guest_clone(base->guest);
    world.tolerant = true;
    snprintf(note, sizeof(note), "%llu%s", (unsigned long long)at,
             alloc_fail.sticky ? "   (sticky)" : "");
    world_note(&world, sweep->program, note);
    if (sweep->trace)
        fprintf(stderr, "---- allocation %s\n", note);
    alloc_fail.count = 0;
    alloc_fail.fail_at = at;
    world_run(&world, co_scenario);
    bool reached = alloc_fail.count >= at;
    verify(sweep, &world);
    guest_free(world.guest);
    rt_free(world.rt);
    return reached;
}

static uint64_t run_seed(const struct sweep *sweep, uint64_t seed)
{
    struct world base = {.plan = plan_make(seed, true), .random = random_seed(seed), .steps = 6};
    base.plan.queues = 1;
    struct sim_options storage = sweep_storage(sweep, &base.plan);
    uint64_t runs = 0;
    world_note(&base, sweep->program, "");
    if (sim_create(&storage, &base.rt) < 0)
        world_fail(&base, "cannot make the simulator");
    world_run(&base, co_world_setup);
    oracle_import(&base);
    base.steps = 10;
    base.phases = 2;
    for (unsigned kind = 0; kind < 2; kind++) {
        alloc_fail.sticky = kind == 1;
        uint64_t k = sweep->only ? sweep->only : 1;
        for (; fail_once(sweep, &base, k) && !sweep->only; k++)
            runs++;
    }
    guest_free(base.guest);
    rt_free(base.rt);
    return runs;
}

int main(int argc, char **argv)
{
    struct sweep sweep = sweep_begin(argc, argv, SEEDS_DEFAULT);
    uint64_t runs = 0;
    for (uint64_t i = 0; i < sweep.count; i++)
        runs += run_seed(&sweep, sweep.first + i);
    printf("%llu seeds, %llu failed allocations\n", (unsigned long long)sweep.count,
           (unsigned long long)runs);
    return 0;
}
