/*
 * Bounce buffers for requests that a driver cannot take as they lie in memory or in the image.
 *
 * Each node has its own small pool: a request that holds a buffer of one node only ever waits for
 * one of a node further down, so waiting cannot go in a circle. An exhausted pool is back-pressure.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "block/core.h"

void bounce_init(struct bounce_pool *pool)
{
    rt_mutex_init(&pool->guard);
    co_waitq_init(&pool->waiters);
}

void bounce_destroy(struct bounce_pool *pool)
{
    assert(pool->in_use == 0);
    while (pool->kept)
        free(pool->keep[--pool->kept]);
    rt_mutex_destroy(&pool->guard);
}

void *co_bounce_get(struct bounce_pool *pool)
{
    void *buffer = NULL;
    rt_mutex_lock(&pool->guard);
    while (pool->in_use == BOUNCE_MAX)
        co_waitq_wait(&pool->waiters, &pool->guard);
    pool->in_use++;
    if (pool->kept)
        buffer = pool->keep[--pool->kept];
    rt_mutex_unlock(&pool->guard);

    if (!buffer && posix_memalign(&buffer, BOUNCE_ALIGNMENT, BOUNCE_BYTES) != 0) {
        rt_mutex_lock(&pool->guard);
        pool->in_use--;
        co_waitq_wake_one(&pool->waiters);
        rt_mutex_unlock(&pool->guard);
        return NULL;
    }
    return buffer;
}

void bounce_put(struct bounce_pool *pool, void *buffer)
{
    rt_mutex_lock(&pool->guard);
    assert(pool->in_use > 0);
    pool->in_use--;
    if (pool->kept < BOUNCE_KEEP)
        pool->keep[pool->kept++] = steal_ptr(&buffer);
    co_waitq_wake_one(&pool->waiters);
    rt_mutex_unlock(&pool->guard);
    free(buffer);
}
