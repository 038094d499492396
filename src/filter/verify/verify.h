/*
 * The verify filter's driver table.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef FILTER_VERIFY_H
#define FILTER_VERIFY_H

#include "block/driver.h"

extern const struct block_driver verify_filter;

#endif
