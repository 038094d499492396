/*
 * The mem backend's driver table.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef BACKEND_MEM_MEM_H
#define BACKEND_MEM_MEM_H

#include "block/driver.h"

extern const struct block_driver mem_driver;

#endif
