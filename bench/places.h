/*
 * Reads at far places, one after the other over a whole disk, and the clocks. Shared by programs
 * that know nothing of Hawser's insides.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef BENCH_PLACES_H
#define BENCH_PLACES_H

#include <stdint.h>
#include <time.h>

#define BYTES     4096u
#define STEP      (4096ull * 10007)
#define DEPTH_MAX 256u

static uint64_t size; /* of the disk; set by the program */
static uint64_t next_offset;

/* The next place. */
static inline uint64_t place(void)
{
    uint64_t offset = next_offset;
    next_offset += STEP;
    if (next_offset > size - BYTES)
        next_offset %= size - BYTES + 1;
    next_offset -= next_offset % BYTES;
    return offset;
}

static inline int64_t now_ns(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return now.tv_sec * 1000000000ll + now.tv_nsec;
}

#endif
