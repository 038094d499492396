/*
 * The crash sweep; see crash.h.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "crash.h"
#include "oracle.h"

#define CHURN_STRIDE_MAX 16
#define ORACLE_ONE_IN    64

static void verify(const struct sweep *sweep, const struct world *run, bool kill, uint64_t choice)
{
    struct sim_options storage = sweep_storage(sweep, &run->plan);
    struct world left = *run;
    storage.seed = run->plan.seed * 1000 + choice;
    int result = kill ? sim_after_kill(run->rt, &storage, &left.rt)
                      : sim_after_crash(run->rt, &storage, &left.rt);
    if (result < 0)
        world_fail(run, "cannot make the simulator");
    if (sweep->trace)
        fprintf(stderr, "---- after %s, choice %llu\n", kill ? "a kill" : "a crash",
                (unsigned long long)choice);
    if (left.created && choice / 10 % ORACLE_ONE_IN == 0)
        oracle_check(&left, true);
    left.guest = guest_clone(run->guest);
    world_run(&left, co_world_verify_crash);
    guest_free(left.guest);
    rt_free(left.rt);
}

/** @return true when the scenario had an operation number @crash_at. */
static bool crash_once(const struct sweep *sweep, const struct world *base, uint64_t crash_at)
{
    static char note[32];
    struct sim_options storage = sweep_storage(sweep, &base->plan);
    struct world world = *base;
    storage.crash_at = crash_at;
    if (sim_after_kill(base->rt, &storage, &world.rt) < 0)
        world_fail(base, "cannot make the simulator");
    world.guest = guest_clone(base->guest);
    world.tolerant = true;
    snprintf(note, sizeof(note), "%llu", (unsigned long long)crash_at);
    world_note(&world, sweep->program, note);
    world_run(&world, co_world_scenario);
    bool crashed = sim_crashed(world.rt);
    for (uint64_t choice = 0; choice < CRASH_SURVIVORS; choice++) {
        verify(sweep, &world, false, crash_at * 10 + choice);
        world_note(&world, sweep->program, note);
    }
    verify(sweep, &world, true, crash_at * 10);
    guest_free(world.guest);
    rt_free(world.rt);
    return crashed;
}

uint64_t crash_sweep(const struct sweep *sweep, const struct plan *plan)
{
    struct world base = {.plan = *plan, .random = random_seed(plan->seed), .steps = 6};
    struct sim_options storage = sweep_storage(sweep, &base.plan);
    struct random stride = random_seed(plan->seed);
    uint64_t crashes = 0;
    world_note(&base, sweep->program, "");
    if (sim_create(&storage, &base.rt) < 0)
        world_fail(&base, "cannot make the simulator");
    world_run(&base, co_world_setup);
    oracle_import(&base);
    /* Churn wants a long run before host clusters are used again: only some crash points of it. */
    base.steps = plan->churn ? 40 : 10;
    base.phases = 2;
    uint64_t stride_max = plan->churn ? CHURN_STRIDE_MAX : 1;
    uint64_t k = sweep->only ? sweep->only : 1;
    for (; crash_once(sweep, &base, k); k += 1 + random_below(&stride, stride_max)) {
        crashes++;
        if (sweep->only)
            break;
    }
    guest_free(base.guest);
    rt_free(base.rt);
    return crashes;
}
