/*
 * Random requests by several coroutines on several queues, over chains of generated images,
 * compared with a model; then a clean close, a check, and a power cut.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "sweep.h"

#define SEEDS_DEFAULT 60

static void run_seed(const struct sweep *sweep, uint64_t seed)
{
    struct world world = {.plan = plan_make(seed, false), .random = random_seed(seed), .steps = 12};
    struct sim_options storage = sweep_storage(sweep, &world.plan);
    world_note(&world, sweep->program, "");
    if (sweep->trace)
        plan_print(&world.plan);
    if (sim_create(&storage, &world.rt) < 0)
        world_fail(&world, "cannot make the simulator");
    world_run(&world, co_world_setup);
    world.steps = 40;
    world.phases = 4;
    world_run(&world, co_world_scenario);
    world_run(&world, co_world_verify_closed);
    struct rt *old = world.rt;
    if (sim_after_crash(old, &storage, &world.rt) < 0)
        world_fail(&world, "cannot make the simulator");
    world_run(&world, co_world_verify_crash);
    rt_free(world.rt);
    rt_free(old);
    guest_free(world.guest);
}

int main(int argc, char **argv)
{
    struct sweep sweep = sweep_begin(argc, argv, SEEDS_DEFAULT);
    for (uint64_t i = 0; i < sweep.count; i++)
        run_seed(&sweep, sweep.first + i);
    printf("%llu seeds\n", (unsigned long long)sweep.count);
    return 0;
}
