/*
 * A small seeded generator (splitmix64) for tests, fault injection and the simulator: the same seed
 * gives the same sequence everywhere. Not for secrets.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef BASE_RANDOM_H
#define BASE_RANDOM_H

#include "base/common.h"

struct random {
    uint64_t state;
};

static inline struct random random_seed(uint64_t seed)
{
    return (struct random){seed};
}

static inline uint64_t random_u64(struct random *r)
{
    uint64_t z = (r->state += 0x9e3779b97f4a7c15ull);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

/** Uniform in [0, limit); limit > 0. */
static inline uint64_t random_below(struct random *r, uint64_t limit)
{
    return (uint64_t)(((__uint128_t)random_u64(r) * limit) >> 64);
}

/** True once in @n calls on average. */
static inline bool random_one_in(struct random *r, uint64_t n)
{
    return random_below(r, n) == 0;
}

void random_fill(struct random *r, void *buffer, size_t length);

#endif
