/*
 * The copy-on-read filter's driver table.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef FILTER_COPY_ON_READ_H
#define FILTER_COPY_ON_READ_H

#include "block/driver.h"

extern const struct block_driver copy_on_read_filter;

#endif
