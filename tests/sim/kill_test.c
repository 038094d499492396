/*
 * Kills with a keep (block/keep.h) at every storage operation of a scenario.
 *
 *   life 1   the scenario, killed at operation k        what had completed by then must be there
 *   life 2.. on what the one before left: recovery and the scenario again, killed at some
 * operation, often in the recovery last     recovery, a check, all bytes compared, used, closed,
 * checked again
 *
 * At each kill the keep's file is copied as it is, as are the model of the guest and the disk: the
 * dead program unwinds on the keep's first copy, which is thrown away. In some lives an operation
 * of the storage fails, so that roll-backs are on the way too; after some of the others the power
 * is cut too, with or without a recovery before: the keep is gone, and what was flushed must be
 * there.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "block/keep.h"
#include "oracle.h"
#include "sweep.h"
#include <fcntl.h>

#define SEEDS_DEFAULT    8
#define LIVES_MAX        4
#define CHURN_STRIDE_MAX 16
#define POWER_ONE_IN     4
#define ORACLE_ONE_IN    64
#define FAULT_ONE_IN     3

static char folder[64], path[96];
static uint64_t recoveries;

struct bytes {
    uint8_t *data;
    size_t length;
};

/* What is left at the moment of a kill. */
struct kill {
    struct world *world;
    struct world at;
    struct guest *guest;
    struct bytes keep;
    bool happened;
    bool faulty; /* there were failures of storage: what a failed sync covered is anybody's guess */
};

/* ---- the keep's file ---- */

static struct bytes keep_read(const struct world *world)
{
    struct bytes b = {0};
    FILE *file = fopen(path, "rb");
    if (!file || fseek(file, 0, SEEK_END))
        world_fail(world, "cannot read the keep");
    b.length = (size_t)ftell(file);
    b.data = malloc(b.length + 1);
    rewind(file);
    if (!b.data || fread(b.data, 1, b.length, file) != b.length)
        world_fail(world, "cannot read the keep");
    fclose(file);
    return b;
}

static struct block_keep *keep_open(const struct world *world, const struct bytes *content)
{
    struct hws_error err = {0};
    struct block_keep *keep;
    unlink(path);
    if (content->data) {
        int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
        if (fd < 0 || write(fd, content->data, content->length) != (ssize_t)content->length)
            world_fail(world, "cannot write the keep");
        close(fd);
    }
    if (block_keep_open(path, &keep, &err) < 0)
        world_fail(world, "opening the keep: %s", err.text);
    recoveries += block_keep_pending(keep);
    return keep;
}

/* ---- lives ---- */

static void on_crash(void *arg)
{
    struct kill *kill = arg;
    kill->at = *kill->world;
    kill->guest = guest_clone(kill->world->guest);
    kill->keep = keep_read(kill->world);
    kill->happened = true;
}

static void kill_free(struct kill *kill)
{
    guest_free(kill->guest);
    free(kill->keep.data);
    rt_free(kill->at.rt);
    *kill = (struct kill){0};
}

/* One life on what @before left, killed at operation @at. @return what it leaves. */
static struct kill live(const struct sweep *sweep, const struct kill *before, uint64_t at,
                        uint64_t choice)
{
    struct world world = before->at;
    struct kill kill = {.world = &world};
    struct sim_options storage = sweep_storage(sweep, &world.plan);
    storage.seed = world.plan.seed * 1000 + choice;
    storage.crash_at = at;
    storage.on_crash = on_crash;
    storage.on_crash_arg = &kill;
    if (choice % FAULT_ONE_IN == 0) {
        storage.fail_at = 1 + choice * 7 % MAX(at, 1ull);
        storage.fail_errno = choice % 2 ? EIO : ENOSPC;
        storage.fail_sticky = choice % 5 == 0;
        kill.faulty = true;
    }
    kill.faulty |= before->faulty;
    if (sim_after_kill(before->at.rt, &storage, &world.rt) < 0)
        world_fail(&world, "cannot make the simulator");
    world.guest = guest_clone(before->guest);
    world.plan.keep = keep_open(&world, &before->keep);
    world.tolerant = true;
    world.root = NULL;
    world_run(&world, co_world_scenario);
    /* Later ones may find the overlay there that an earlier one was making. */
    if (!kill.happened && !world.clean && !before->keep.data && !kill.faulty)
        world_fail(&world, "a life that nobody ended failed");
    world.plan.keep = block_keep_close(world.plan.keep);
    /* Where a close failed the keep goes on with what could not be written. */
    if (!kill.happened && kill.faulty && access(path, F_OK) == 0)
        on_crash(&kill);
    guest_free(world.guest);
    if (kill.happened) {
        kill.world = NULL;
        kill.at.plan.keep = NULL;
        kill.at.rt = world.rt; /* its disk has not changed since */
        kill.at.guest = NULL;
    } else {
        rt_free(world.rt);
    }
    return kill;
}

/* The image after @kill, opened with the keep or, after a power cut, without. */
static void verify(const struct sweep *sweep, const struct kill *kill, bool power, uint64_t choice)
{
    struct world left = kill->at;
    struct sim_options storage = sweep_storage(sweep, &left.plan);
    storage.seed = left.plan.seed * 1000 + choice;
    int result = power ? sim_after_crash(kill->at.rt, &storage, &left.rt)
                       : sim_after_kill(kill->at.rt, &storage, &left.rt);
    if (result < 0)
        world_fail(&left, "cannot make the simulator");
    if (sweep->trace)
        fprintf(stderr, "---- after %s, choice %llu\n", power ? "a power cut" : "a kill",
                (unsigned long long)choice);
    left.guest = guest_clone(kill->guest);
    left.root = NULL;
    if (!power) {
        /* As if all that had ended were durable. */
        guest_killed(left.guest);
        guest_flushed(left.guest, guest_now(left.guest));
        left.plan.keep = keep_open(&left, &kill->keep);
    }
    world_run(&left, co_world_verify_crash);
    if (left.plan.keep && block_keep_pending(left.plan.keep))
        world_fail(&left, "the keep is not empty after a clean close");
    left.plan.keep = block_keep_close(left.plan.keep);
    if (!power && access(path, F_OK) == 0)
        world_fail(&left, "the keep is still there after a clean close");
    if (left.created && choice % ORACLE_ONE_IN == 0)
        oracle_check(&left, false);
    guest_free(left.guest);
    rt_free(left.rt);
}

/** @return true when the scenario had an operation number @k. */
static bool kill_once(const struct sweep *sweep, const struct kill *base, uint64_t k)
{
    static char note[32];
    struct random random = random_seed(base->at.plan.seed * 1000003 + k);
    unsigned lives = 1 + (unsigned)random_below(&random, LIVES_MAX);
    snprintf(note, sizeof(note), "%llu", (unsigned long long)k);
    world_note(&base->at, sweep->program, note);
    struct kill kill = live(sweep, base, k, k);
    bool happened = kill.happened || kill.faulty;
    for (unsigned i = 0; kill.happened; i++) {
        if (random_one_in(&random, POWER_ONE_IN) && !kill.faulty)
            verify(sweep, &kill, true, k + i);
        if (i + 1 == lives || !kill.at.created) {
            verify(sweep, &kill, false, k + i);
            break;
        }
        guest_killed(kill.guest);
        uint64_t at = 1 + random_below(&random, random_one_in(&random, 3) ? 200 : 25);
        struct kill next = live(sweep, &kill, at, k * 10 + i);
        kill_free(&kill);
        kill = next;
    }
    kill_free(&kill);
    return happened;
}

static uint64_t kill_sweep(const struct sweep *sweep, const struct plan *plan)
{
    struct world world = {.plan = *plan, .random = random_seed(plan->seed), .steps = 6};
    struct sim_options storage = sweep_storage(sweep, &world.plan);
    struct random stride = random_seed(plan->seed);
    uint64_t kills = 0;
    world_note(&world, sweep->program, "");
    if (sim_create(&storage, &world.rt) < 0)
        world_fail(&world, "cannot make the simulator");
    world_run(&world, co_world_setup);
    oracle_import(&world);
    world.steps = plan->churn ? 40 : 10;
    world.phases = 2;
    struct kill base = {.at = world, .guest = world.guest};
    uint64_t stride_max = plan->churn ? CHURN_STRIDE_MAX : 2;
    for (uint64_t k = sweep->only ? sweep->only : 1; kill_once(sweep, &base, k);
         k += 1 + random_below(&stride, stride_max)) {
        kills++;
        if (sweep->only)
            break;
    }
    kill_free(&base);
    return kills;
}

int main(int argc, char **argv)
{
    struct sweep sweep = sweep_begin(argc, argv, SEEDS_DEFAULT);
    uint64_t kills = 0;
    snprintf(folder, sizeof(folder), "%s/hawser-kill-XXXXXX",
             access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
    if (!mkdtemp(folder))
        return 1;
    snprintf(path, sizeof(path), "%s/keep", folder);
    for (uint64_t i = 0; i < sweep.count; i++) {
        struct plan plan = plan_make(sweep.first + i, true);
        kills += kill_sweep(&sweep, &plan);
    }
    unlink(path);
    rmdir(folder);
    printf("%llu seeds, %llu kills; %llu times a keep held changes; %u images checked by qemu-img "
           "too\n",
           (unsigned long long)sweep.count, (unsigned long long)kills,
           (unsigned long long)recoveries, oracle_count());
    return recoveries ? 0 : 1;
}
