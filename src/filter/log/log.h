/*
 * The log filter's driver table.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef FILTER_LOG_H
#define FILTER_LOG_H

#include "block/driver.h"

extern const struct block_driver log_filter;

#endif
