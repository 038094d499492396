/*
 * Percentiles; see base/histogram.h.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/histogram.h"

uint64_t histogram_percentile(const struct histogram *h, unsigned permille)
{
    uint64_t total = 0, seen = 0;
    for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++)
        total += atomic_load_explicit(&h->count[i], memory_order_relaxed);
    if (total == 0)
        return 0;
    uint64_t wanted = div_round_up(total * permille, 1000);
    for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++) {
        seen += atomic_load_explicit(&h->count[i], memory_order_relaxed);
        if (seen >= wanted)
            return histogram_floor(i);
    }
    return histogram_floor(HISTOGRAM_BUCKETS - 1);
}
