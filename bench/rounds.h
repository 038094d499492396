/*
 * What the benchmarks in C share: CPU time, and the median of rounds with its spread.
 *
 * CPU time, because others that take the processor away do not count in it.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef BENCH_ROUNDS_H
#define BENCH_ROUNDS_H

#include "base/common.h"
#include <time.h>

/** Nanoseconds of CPU. @clock CLOCK_THREAD_CPUTIME_ID or CLOCK_PROCESS_CPUTIME_ID. */
static inline uint64_t cpu_ns(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static inline int rounds_order(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

struct rounds {
    double median, least, most;
};

/** @round is sorted. @count at least 1. */
static inline struct rounds rounds_of(double *round, size_t count)
{
    qsort(round, count, sizeof(round[0]), rounds_order);
    return (struct rounds){.median = round[count / 2], .least = round[0], .most = round[count - 1]};
}

#endif
