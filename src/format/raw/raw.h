/*
 * The raw format's driver table.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef FORMAT_RAW_RAW_H
#define FORMAT_RAW_RAW_H

#include "block/driver.h"

extern const struct block_driver raw_driver;

#endif
