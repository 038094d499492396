/*
 * Command line and environment of the programs of this folder; see sweep.h.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "sweep.h"
#include "base/log.h"
#include "drivers/drivers.h"
#include <malloc.h>

static uint64_t number(const char *text)
{
    char *end;
    unsigned long long value = strtoull(text, &end, 10);
    if (end == text || *end) {
        fprintf(stderr, "'%s' is no number; usage: PROGRAM [SEED [OPERATION]]\n", text);
        exit(2);
    }
    return value;
}

/* Planned faults are told by the thousand. */
static void keep_quiet(enum log_level level, const char *line, void *arg)
{
}

struct sweep sweep_begin(int argc, char **argv, uint64_t count_default)
{
    struct sweep sweep = {.program = argv[0], .first = 1, .count = count_default};
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    sweep.count = div_round_up(sweep.count, 2); /* they take several times as long */
#endif
    const char *seeds = getenv("HAWSER_SIM_SEEDS");
    sweep.by_default = argc == 1 && !(seeds && *seeds);
    if (seeds && *seeds)
        sweep.count = number(seeds);
    if (argc > 1) {
        sweep.first = number(argv[1]);
        sweep.count = 1;
        sweep.trace = true;
    }
    if (argc > 2)
        sweep.only = number(argv[2]);
    if (!sweep.trace)
        log_set_sink(keep_quiet, NULL);
    /* Worlds are made and thrown away by the thousand: keep their memory. */
    mallopt(M_MMAP_THRESHOLD, 64 << 20);
    mallopt(M_TRIM_THRESHOLD, 256 << 20);
    drivers_register();
    return sweep;
}

struct sim_options sweep_storage(const struct sweep *sweep, const struct plan *plan)
{
    return (struct sim_options){.seed = plan->seed,
                                .offset_alignment = plan->alignment,
                                .no_direct_offload = plan->no_offload,
                                .trace = sweep->trace};
}
