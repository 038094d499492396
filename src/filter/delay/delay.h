/*
 * The delay filter's driver table.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef FILTER_DELAY_H
#define FILTER_DELAY_H

#include "block/driver.h"

extern const struct block_driver delay_filter;

#endif
