/*
 * Crashes at every storage operation of a scenario, each with several choices of what survives, and
 * as many killed programs.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TESTS_SIM_CRASH_H
#define TESTS_SIM_CRASH_H

#include "sweep.h"

/* Power cuts with different outcomes at each operation. */
#define CRASH_SURVIVORS 3

/** Ends the program where something is wrong. @return how many crashes there were. */
uint64_t crash_sweep(const struct sweep *sweep, const struct plan *plan);

#endif
