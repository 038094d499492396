/*
 * The qcow2 format's driver table: all that other folders see of this one.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef FORMAT_QCOW2_QCOW2_DRIVER_H
#define FORMAT_QCOW2_QCOW2_DRIVER_H

#include "block/driver.h"

extern const struct block_driver qcow2_driver;

#endif
