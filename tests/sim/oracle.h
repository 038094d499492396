/*
 * A foreign opinion: qemu-img checks the images of a run, where it is installed.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TESTS_SIM_ORACLE_H
#define TESTS_SIM_ORACLE_H

#include "world.h"

/**
 * Writes the images of @world into a temporary folder and has qemu-img check the top. Anything that
 * it finds ends the test, but for leaks where @leaks_allowed. Does nothing for a top that is not
 * qcow2.
 */
void oracle_check(const struct world *world, bool leaks_allowed);

/**
 * Makes the top of a run that is `imported`: compressed clusters with data that the model then
 * knows, perhaps a snapshot. Where qemu-img is not installed the run makes its top itself.
 */
void oracle_import(struct world *world);

/** How often qemu-img was asked. */
unsigned oracle_count(void);

#endif
