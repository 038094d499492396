/*
 * Live commits and streams in a run of tests/sim: the guest works on the chain while its layers
 * are merged, and whatever happens the path of the first top reads what the model says.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TESTS_SIM_LIVE_H
#define TESTS_SIM_LIVE_H

#include "world.h"

/** A plan with a chain of two to eight layers, of all shapes. */
struct plan live_plan(uint64_t seed, bool small);

/** Makes the chain, the top included, with data in each layer. */
void co_live_setup(void *world);

/** Opens it, merges layers under a working guest, closes it. */
void co_live_scenario(void *world);

/** Every file of the chain that is there, the fallen ones too, is whole. */
void co_live_check_files(void *world);

/** Jobs that ran to their end, and those that were cancelled or failed, in all runs. */
extern struct live_count {
    uint64_t commits, top_commits, streams, cancelled, failed;
} live_count;

#endif
