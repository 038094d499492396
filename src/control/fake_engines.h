/*
 * Engines that only pretend, for tests: images are text files, and what is attached is a file in a
 * folder. They can be cut off at the same points as real ones.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef CONTROL_FAKE_ENGINES_H
#define CONTROL_FAKE_ENGINES_H

#include "control/engines.h"

extern const struct engine_driver engines_fake;

/** Where attachments are; and who is called between two effects (may be NULL). */
void fake_engines_prepare(const char *folder, void (*at)(void *arg, const char *where));

/** The next call of the function with that name ("create", "attach", ...) fails with @error. */
void fake_engines_fail(const char *function, int error);

#endif
