/*
 * A little copy-on-write format for the test of the tests: its writer can be made to forget its
 * order.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TESTS_SIM_SHUFFLE_H
#define TESTS_SIM_SHUFFLE_H

#include "block/driver.h"

enum shuffle_fault {
    SHUFFLE_RIGHT,
    SHUFFLE_MAP_FIRST,     /* the map is written before the data that it points to */
    SHUFFLE_NO_FLUSH,      /* data, then map, but nothing flushed between them */
    SHUFFLE_REUSE_EARLY,   /* old clusters are given to others before the map is durable */
    SHUFFLE_FLUSH_NOTHING, /* flushes are answered without doing anything */
};

extern enum shuffle_fault shuffle_fault;
extern const struct block_driver shuffle_driver;

#endif
