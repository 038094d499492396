/*
 * The k-th storage operation of a scenario fails, for every k: once or from then on, with EIO or
 * ENOSPC. The program must reach its end without a crash, a hang or a leak, and tell the failure or
 * succeed; afterwards, and after a power cut on top of it, the image is whole and what was flushed
 * is there.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "oracle.h"
#include "sweep.h"

#define SEEDS_DEFAULT 2
#define FULL_STEPS    24

/* As in crash_test.c: a bitmap's header that a full disk stops, discards beside a snapshot that
 * failed. Of each only the operation. */
static const struct {
    uint64_t seed, operation;
} found[] = {{4, 128}, {5, 140}};

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

/** @return the number of operations that the scenario had. */
static uint64_t fault_once(const struct sweep *sweep, const struct world *base,
                           const struct sim_options *storage, const char *note)
{
    struct world world = *base;
    if (sim_after_kill(base->rt, storage, &world.rt) < 0)
        world_fail(base, "cannot make the simulator");
    world.guest = guest_clone(base->guest);
    world.tolerant = true;
    world_note(&world, sweep->program, note);
    if (sweep->trace)
        fprintf(stderr, "---- %s\n", note);
    world_run(&world, co_world_scenario);
    uint64_t operations = sim_operations(world.rt);
    /* Where nothing but one operation failed, a creation that failed took away what it had made. */
    void *bytes;
    size_t length;
    if (!world.created && !storage->fail_sticky && storage->disk_bytes == 0 &&
        sim_file_load(world.rt, plan_path(world.top), &bytes, &length) != -ENOENT)
        world_fail(&world, "a creation that failed left its file");
    verify(sweep, &world, true);
    world_note(&world, sweep->program, note);
    verify(sweep, &world, false);
    guest_free(world.guest);
    rt_free(world.rt);
    return operations;
}

static uint64_t fail_each(const struct sweep *sweep, const struct world *base, unsigned kind)
{
    static char note[64];
    struct sim_options storage = sweep_storage(sweep, &base->plan);
    storage.fail_errno = faults[kind].code;
    storage.fail_sticky = faults[kind].sticky;
    storage.fail_at = sweep->only ? sweep->only : 1;
    for (;; storage.fail_at++) {
        snprintf(note, sizeof(note), "%llu   (%s%s)", (unsigned long long)storage.fail_at,
                 strerrorname_np(faults[kind].code), faults[kind].sticky ? ", sticky" : "");
        if (fault_once(sweep, base, &storage, note) < storage.fail_at || sweep->only)
            return sweep->only ? 1 : storage.fail_at;
    }
}

/** Disks with ever more room. */
static uint64_t fill_each(const struct sweep *sweep, const struct world *base)
{
    static char note[64];
    struct sim_options storage = sweep_storage(sweep, &base->plan);
    uint64_t step = base->plan.sectors_max * GUEST_SECTOR_BYTES / FULL_STEPS;
    uint64_t used = sim_disk_bytes_used(base->rt);
    for (uint64_t i = 0; i < FULL_STEPS; i++) {
        storage.disk_bytes = used + i * step + 1;
        snprintf(note, sizeof(note), "  (disk of %llu bytes)",
                 (unsigned long long)storage.disk_bytes);
        (void)fault_once(sweep, base, &storage, note);
    }
    return FULL_STEPS;
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
    oracle_import(&base);
    base.steps = 10;
    base.phases = 2;
    for (unsigned kind = 0; kind < ARRAY_LEN(faults); kind++)
        runs += fail_each(sweep, &base, kind);
    if (!sweep->only)
        runs += fill_each(sweep, &base);
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
    for (uint64_t i = 0; sweep.by_default && i < ARRAY_LEN(found); i++) {
        sweep.only = found[i].operation;
        runs += run_seed(&sweep, found[i].seed);
    }
    printf("%llu seeds, %llu faults\n", (unsigned long long)sweep.count, (unsigned long long)runs);
    return 0;
}
