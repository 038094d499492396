/*
 * Random requests by several coroutines on several queues, over chains of generated images,
 * compared with a model; then a clean close, a check, and a power cut.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "oracle.h"
#include "sweep.h"

#define SEEDS_DEFAULT 40
#define ORACLE_ONE_IN 4
#define REPEAT_ONE_IN 10

/** @return a digest of all that happened. */
static uint64_t run_seed(const struct sweep *sweep, const struct plan *plan)
{
    struct world world = {.plan = *plan, .random = random_seed(plan->seed), .steps = 12};
    struct sim_options storage = sweep_storage(sweep, &world.plan);
    world_note(&world, sweep->program, "");
    if (sweep->trace)
        plan_print(&world.plan);
    if (sim_create(&storage, &world.rt) < 0)
        world_fail(&world, "cannot make the simulator");
    world_run(&world, co_world_setup);
    oracle_import(&world);
    world.steps = 40;
    world.phases = 4;
    world_run(&world, co_world_scenario);
    world_run(&world, co_world_verify_closed);
    if (plan->seed % ORACLE_ONE_IN == 0)
        oracle_check(&world, false);
    struct rt *old = world.rt;
    uint64_t digest = sim_digest(old);
    if (sim_after_crash(old, &storage, &world.rt) < 0)
        world_fail(&world, "cannot make the simulator");
    world_run(&world, co_world_verify_crash);
    rt_free(world.rt);
    rt_free(old);
    guest_free(world.guest);
    return digest;
}

int main(int argc, char **argv)
{
    struct sweep sweep = sweep_begin(argc, argv, SEEDS_DEFAULT);
    for (uint64_t i = 0; i < sweep.count; i++) {
        struct plan plan = plan_make(sweep.first + i, false);
        uint64_t digest = run_seed(&sweep, &plan);
        /* Nothing but the seed may decide what happens: no clock, no left-over memory. Addresses do
         * with O_DIRECT: buffers that malloc() happens to align need no bounce. */
        if (plan.seed % REPEAT_ONE_IN == 0 && plan.cache != BLOCK_CACHE_NONE &&
            run_seed(&sweep, &plan) != digest) {
            fprintf(stderr, "FAILED: seed %llu gave two different runs\n",
                    (unsigned long long)plan.seed);
            return 1;
        }
    }
    printf("%llu seeds, %u of them checked by qemu-img too\n", (unsigned long long)sweep.count,
           oracle_count());
    return 0;
}
