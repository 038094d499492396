/*
 * The error filter's driver table.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef FILTER_ERROR_H
#define FILTER_ERROR_H

#include "block/driver.h"

extern const struct block_driver error_filter;

#endif
