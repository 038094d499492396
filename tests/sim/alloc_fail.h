/*
 * Allocations that fail, for programs linked with -Wl,--wrap of malloc, calloc, realloc and
 * aligned_alloc (meson.build).
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TESTS_SIM_ALLOC_FAIL_H
#define TESTS_SIM_ALLOC_FAIL_H

#include <stdbool.h>
#include <stdint.h>

struct alloc_fail {
    bool counting;    /* the rest has no effect while it is not set */
    uint64_t count;   /* allocations so far */
    uint64_t fail_at; /* the number of the first one that fails; 0: none */
    bool sticky;      /* those after it fail too */
};

extern struct alloc_fail alloc_fail;

#endif
