/*
 * The k-th storage operation of a scenario fails, for every k: once or from then on, with EIO or
 * ENOSPC. The program must reach its end without a crash, a hang or a leak, and tell the failure or
 * succeed; afterwards, and after a power cut on top of it, the image is whole and what was flushed
 * is there.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "sweep.h"

#define SEEDS_DEFAULT 4

static const struct {
    int code;
    bool sticky;
} faults[] = {{EIO, false}, {ENOSPC, false}, {EIO, true}, {ENOSPC, true}};

static void verify(const struct sweep *sweep, const struct world *run, bool kill)
{
    struct sim_options storage = sweep_storage(sweep, &run->plan);
    struct world left = *run;
    storage.seed = run->plan.seed * 1000 + sim_operations(run->rt);
    int result = kill ? sim_after_kill(run->rt, &storage, &left.rt)
                      : sim_after_crash(run->rt, &storage, &left.rt);
    if (result < 0)
        world_fail(run, "cannot make the simulator");
    left.guest = guest_clone(run->guest);
    if (sweep->trace)
        fprintf(stderr, "---- after %s\n", kill ? "the end" : "a power cut");
    world_run(&left, co_world_verify_crash);
    guest_free(left.guest);
    rt_free(left.rt);
}

/** @return true when the scenario had an operation number @fail_at. */
static bool fault_once(const struct sweep *sweep, const struct world *base, uint64_t fail_at,
                       unsigned kind)
{
    static char note[64];
    struct sim_options storage = sweep_storage(sweep, &base->plan);
    struct world world = *base;
    storage.fail_at = fail_at;
    storage.fail_errno = faults[kind].code;
    storage.fail_sticky = faults[kind].sticky;
    if (sim_after_kill(base->rt, &storage, &world.rt) < 0)
        world_fail(base, "cannot make the simulator");
    world.guest = guest_clone(base->guest);
    world.tolerant = true;
    snprintf(note, sizeof(note), "%llu   (%s%s)", (unsigned long long)fail_at,
             strerrorname_np(faults[kind].code), faults[kind].sticky ? ", sticky" : "");
    world_note(&world, sweep->program, note);
    if (sweep->trace)
        fprintf(stderr, "---- %s\n", note);
    world_run(&world, co_world_scenario);
    bool reached = sim_operations(world.rt) >= fail_at;
    verify(sweep, &world, true);
    world_note(&world, sweep->program, note);
    verify(sweep, &world, false);
    guest_free(world.guest);
    rt_free(world.rt);
    return reached;
}

static uint64_t run_seed(const struct sweep *sweep, uint64_t seed)
{
    struct world base = {.plan = plan_make(seed, true), .random = random_seed(seed), .steps = 6};
    struct sim_options storage = sweep_storage(sweep, &base.plan);
    uint64_t runs = 0;
    world_note(&base, sweep->program, "");
    if (sim_create(&storage, &base.rt) < 0)
        world_fail(&base, "cannot make the simulator");
    world_run(&base, co_world_setup);
    base.steps = 10;
    base.phases = 2;
    for (unsigned kind = 0; kind < ARRAY_LEN(faults); kind++) {
        uint64_t k = sweep->only ? sweep->only : 1;
        for (; fault_once(sweep, &base, k, kind) && !sweep->only; k++)
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
    printf("%llu seeds, %llu faults\n", (unsigned long long)sweep.count, (unsigned long long)runs);
    return 0;
}
