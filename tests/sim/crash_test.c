/*
 * The crash sweep over generated images: what a crash leaves must check clean but for leaks, hold
 * everything that was flushed, and never show one guest address the data of another.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "crash.h"
#include "oracle.h"

#define SEEDS_DEFAULT 5

int main(int argc, char **argv)
{
    struct sweep sweep = sweep_begin(argc, argv, SEEDS_DEFAULT);
    uint64_t crashes = 0;
    for (uint64_t i = 0; i < sweep.count; i++) {
        struct plan plan = plan_make(sweep.first + i, true);
        crashes += crash_sweep(&sweep, &plan);
    }
    printf("%llu seeds, %llu crashes, each %u power cuts and a kill; %u images checked by qemu-img "
           "too\n",
           (unsigned long long)sweep.count, (unsigned long long)crashes, CRASH_SURVIVORS,
           oracle_count());
    return 0;
}
