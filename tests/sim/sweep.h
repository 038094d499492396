/*
 * What the programs of this folder share: seeds from the command line or the environment, and
 * making worlds.
 *
 *   PROGRAM            the default seeds, or as many as HAWSER_SIM_SEEDS says
 *   PROGRAM SEED       one seed, with every storage operation printed
 *   PROGRAM SEED K     one seed, and of the sweep only its K-th operation
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TESTS_SIM_SWEEP_H
#define TESTS_SIM_SWEEP_H

#include "world.h"

struct sweep {
    const char *program;
    uint64_t first, count; /* seeds */
    uint64_t only;         /* operation; 0: all */
    bool trace;
    bool by_default; /* nobody said which seeds */
};

/** Reads the arguments and registers the drivers. */
struct sweep sweep_begin(int argc, char **argv, uint64_t count_default);

/** How the storage of @plan behaves, without faults. */
struct sim_options sweep_storage(const struct sweep *sweep, const struct plan *plan);

#endif
