/*
 * The lanes of a root, and their sums.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "block/root.h"
#include <pthread.h>

/* ---- numbers of threads ---- */

static pthread_mutex_t numbers_guard = PTHREAD_MUTEX_INITIALIZER;
static uint64_t numbers_used; /* one bit a number; the last number is shared and never taken */
static pthread_once_t numbers_once = PTHREAD_ONCE_INIT;
static pthread_key_t numbers_key;

static void give_back(void *value)
{
    pthread_mutex_lock(&numbers_guard);
    numbers_used &= ~((uint64_t)1 << ((uintptr_t)value - 1));
    pthread_mutex_unlock(&numbers_guard);
}

static void make_key(void)
{
    int r = pthread_key_create(&numbers_key, give_back);
    assert(r == 0);
}

static unsigned take_number(void)
{
    pthread_once(&numbers_once, make_key);
    pthread_mutex_lock(&numbers_guard);
    uint64_t left = ~numbers_used & (((uint64_t)1 << (LANES_MAX - 1)) - 1);
    unsigned number = left ? (unsigned)__builtin_ctzll(left) : LANES_MAX - 1;
    if (left)
        numbers_used |= (uint64_t)1 << number;
    pthread_mutex_unlock(&numbers_guard);
    /* The key's destructor gives the number back when the thread ends. */
    if (left && pthread_setspecific(numbers_key, (void *)(uintptr_t)(number + 1)) != 0) {
        give_back((void *)(uintptr_t)(number + 1));
        return LANES_MAX - 1;
    }
    return number;
}

unsigned lane_number(void)
{
    static _Thread_local unsigned mine; /* number + 1 */
    if (unlikely(!mine))
        mine = take_number() + 1;
    return mine - 1;
}

static __attribute__((noinline)) struct root_lane *make_lane(struct block_root *root,
                                                             unsigned number)
{
    struct root_lane *lane = aligned_alloc(128, sizeof(*lane));
    if (!lane)
        return atomic_load(&root->lane[LANES_MAX - 1]);
    memset(lane, 0, sizeof(*lane));
    /* Only the thread of that number stores here. */
    atomic_store(&root->lane[number], lane);
    return lane;
}

struct root_lane *root_lane(struct block_root *root)
{
    unsigned number = lane_number();
    struct root_lane *lane = atomic_load_explicit(&root->lane[number], memory_order_acquire);
    return likely(lane) ? lane : make_lane(root, number);
}

/* ---- sums ---- */

void block_root_histogram(const struct block_root *root, enum block_op op,
                          uint64_t ret_count[HISTOGRAM_BUCKETS])
{
    memset(ret_count, 0, HISTOGRAM_BUCKETS * sizeof(*ret_count));
    for (unsigned i = 0; i < LANES_MAX; i++) {
        struct root_lane *lane = atomic_load(&((struct block_root *)root)->lane[i]);
        for (unsigned b = 0; lane && b < HISTOGRAM_BUCKETS; b++)
            ret_count[b] += atomic_load_explicit(&lane->latency[op].count[b], memory_order_relaxed);
    }
}

static uint64_t load(_Atomic uint64_t *counter)
{
    return atomic_load_explicit(counter, memory_order_relaxed);
}

static void add_percentiles(const struct block_root *root, enum block_op op,
                            struct block_stats *ret)
{
    uint64_t count[HISTOGRAM_BUCKETS];
    struct histogram sum;
    block_root_histogram(root, op, count);
    for (unsigned b = 0; b < HISTOGRAM_BUCKETS; b++)
        atomic_init(&sum.count[b], count[b]);
    ret->latency_ns_p50[op] = histogram_percentile(&sum, 500);
    ret->latency_ns_p99[op] = histogram_percentile(&sum, 990);
}

void block_root_stats(const struct block_root *root, struct block_stats *ret)
{
    *ret = (struct block_stats){0};
    for (unsigned i = 0; i < LANES_MAX; i++) {
        struct root_lane *lane = atomic_load(&((struct block_root *)root)->lane[i]);
        if (!lane)
            continue;
        ret->in_flight += load(&lane->in_flight);
        for (unsigned op = 0; op < BLOCK_OPS; op++) {
            ret->operations[op] += load(&lane->operations[op]);
            ret->bytes[op] += load(&lane->bytes[op]);
            ret->failures[op] += load(&lane->failures[op]);
            ret->latency_ns_total[op] += load(&lane->latency_ns[op]);
        }
    }
    for (unsigned op = 0; op < BLOCK_OPS; op++)
        add_percentiles(root, op, ret);
}
