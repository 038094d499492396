/*
 * The null backend's driver table.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef BACKEND_NULL_NULL_H
#define BACKEND_NULL_NULL_H

#include "block/driver.h"

extern const struct block_driver null_driver;

#endif
