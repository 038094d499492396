/*
 * The crash sweep over generated images: what a crash leaves must check clean but for leaks, hold
 * everything that was flushed, and never show one guest address the data of another.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "crash.h"
#include "oracle.h"

#define SEEDS_DEFAULT 5

/* Seeds that found something which those from 1 on do not meet: a shrink that fails, a dirty image
 * with a data file. */
static const uint64_t found[] = {32, 73};

int main(int argc, char **argv)
{
    struct sweep sweep = sweep_begin(argc, argv, SEEDS_DEFAULT);
    uint64_t crashes = 0;
    uint64_t seeds = sweep.count + (sweep.by_default ? ARRAY_LEN(found) : 0);
    for (uint64_t i = 0; i < seeds; i++) {
        uint64_t seed = i < sweep.count ? sweep.first + i : found[i - sweep.count];
        struct plan plan = plan_make(seed, true);
        crashes += crash_sweep(&sweep, &plan);
    }
    printf("%llu seeds, %llu crashes, each %u power cuts and a kill; %u images checked by qemu-img "
           "too\n",
           (unsigned long long)seeds, (unsigned long long)crashes, CRASH_SURVIVORS, oracle_count());
    return 0;
}
