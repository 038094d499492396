/*
 * A latency histogram: buckets grow by powers of two, each cut in four, so a value is known to
 * within 25 %. Written by one thread; readers on other threads see each counter whole.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef BASE_HISTOGRAM_H
#define BASE_HISTOGRAM_H

#include "base/common.h"
#include <stdatomic.h>

/* 4 buckets an octave up to 2^40 ns (18 minutes); longer waits fall in the last one. */
#define HISTOGRAM_BUCKETS 160

struct histogram {
    _Atomic uint64_t count[HISTOGRAM_BUCKETS];
};

static inline unsigned histogram_bucket(uint64_t value)
{
    if (value < 4)
        return (unsigned)value;
    unsigned octave = 63 - (unsigned)__builtin_clzll(value);
    unsigned bucket = (octave - 1) * 4 + (unsigned)((value >> (octave - 2)) & 3);
    return MIN(bucket, HISTOGRAM_BUCKETS - 1u);
}

/** Smallest value that falls in @bucket. */
static inline uint64_t histogram_floor(unsigned bucket)
{
    if (bucket < 4)
        return bucket;
    return (uint64_t)(4 + bucket % 4) << (bucket / 4 - 1);
}

static inline void histogram_add(struct histogram *h, uint64_t value)
{
    _Atomic uint64_t *slot = &h->count[histogram_bucket(value)];
    atomic_store_explicit(slot, atomic_load_explicit(slot, memory_order_relaxed) + 1,
                          memory_order_relaxed);
}

/** Smallest bucket floor that at least @permille of the values lie at or below; 0 when empty. */
uint64_t histogram_percentile(const struct histogram *h, unsigned permille);

#endif
