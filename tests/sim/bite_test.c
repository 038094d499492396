/*
 * The test of the crash sweep: a little format whose writer keeps its order passes; with any one
 * step of the order left out, the sweep must find it.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "backend/file/file.h"
#include "crash.h"
#include "shuffle.h"
#include <sys/wait.h>

static const struct block_driver *const drivers[] = {&shuffle_driver, &file_driver, NULL};

static const struct {
    enum shuffle_fault fault;
    const char *what;
} faults[] = {
    {SHUFFLE_RIGHT, "the right order"},
    {SHUFFLE_MAP_FIRST, "the map before the data"},
    {SHUFFLE_NO_FLUSH, "no flush between data and map"},
    {SHUFFLE_REUSE_EARLY, "clusters reused before the map is durable"},
    {SHUFFLE_FLUSH_NOTHING, "flushes that do nothing"},
};

static struct plan shuffle_plan(uint64_t seed)
{
    struct plan plan = plan_make(seed, true);
    plan.plain = "shuffle";
    plan.filter = NULL;
    plan.imported = false;
    plan.depth = 0;
    plan.layer[0].raw = true;
    plan.layer[0].cluster_bits = 12;
    plan.layer[0].sectors = 160;
    plan.sectors_max = 160; /* it cannot grow */
    plan.cache = BLOCK_CACHE_WRITEBACK;
    return plan;
}

/** Runs the sweep in a process of its own, which ends with 1 where it finds something. */
static int sweep_outcome(const struct sweep *sweep, enum shuffle_fault fault)
{
    pid_t child = fork();
    if (child == 0) {
        if (fault != SHUFFLE_RIGHT && !sweep->trace && !freopen("/dev/null", "w", stderr))
            _exit(2);
        shuffle_fault = fault;
        for (uint64_t i = 0; i < sweep->count; i++) {
            struct plan plan = shuffle_plan(sweep->first + i);
            (void)crash_sweep(sweep, &plan);
        }
        _exit(0);
    }
    int status;
    if (child < 0 || waitpid(child, &status, 0) != child || !WIFEXITED(status))
        return -1;
    return WEXITSTATUS(status);
}

int main(int argc, char **argv)
{
    struct sweep sweep = sweep_begin(argc, argv, 4);
    int missed = 0;
    block_drivers_register(drivers);
    for (size_t i = 0; i < ARRAY_LEN(faults); i++) {
        int expected = faults[i].fault == SHUFFLE_RIGHT ? 0 : 1;
        int outcome = sweep_outcome(&sweep, faults[i].fault);
        printf("%s: %s\n", faults[i].what,
               outcome == 0   ? "passed"
               : outcome == 1 ? "found"
                              : "died");
        missed += outcome != expected;
    }
    return missed > 0;
}
