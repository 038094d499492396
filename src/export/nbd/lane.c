/*
 * What a thread of the server does beside its connections: it frees those that have ended, and
 * gives memory back that was not used for a while. One coroutine, there from the start, so that no
 * end of a connection has to wait for memory.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "export/nbd/internal.h"

/* After this long without requests memory goes back. */
#define REST_NS ((uint64_t)1000000000)

void nbd_lane_wake(struct nbd_lane *lane)
{
    rt_mutex_lock(&lane->lock);
    co_waitq_wake_all(&lane->woken);
    rt_mutex_unlock(&lane->lock);
}

void nbd_lane_watch_pool(struct nbd_lane *lane)
{
    lane->pool.watched = true;
    nbd_lane_wake(lane);
}

void nbd_lane_end(struct nbd_lane *lane)
{
    rt_mutex_lock(&lane->lock);
    lane->ending = true;
    co_waitq_wake_all(&lane->woken);
    rt_mutex_unlock(&lane->lock);
}

void nbd_connection_touch(struct nbd_connection *c)
{
    if (!c->closing || c->reading || c->negotiating || c->sending || c->in_flight || c->ending)
        return;
    c->ending = true;
    list_push_back(&c->lane->ended, &c->ended);
    nbd_lane_wake(c->lane);
}

/* Waits for something to do. Holds lane->lock. */
static void co_rest(struct nbd_lane *lane)
{
    struct nbd_pool *pool = &lane->pool;
    bool is_short = nbd_memory_is_short(lane);
    if (!pool->watched && !is_short) {
        co_waitq_wait(&lane->woken, &lane->lock);
        return;
    }
    pool->used = false;
    bool woken = co_waitq_wait_until(&lane->woken, &lane->lock, rt_now_ns() + REST_NS);
    if (is_short) {
        rt_mutex_unlock(&lane->lock);
        nbd_memory_tick(lane);
        rt_mutex_lock(&lane->lock);
    }
    if (woken || pool->used || !pool->watched)
        return;
    nbd_pool_trim(pool);
    pool->watched = false;
}

void co_nbd_lane(void *arg)
{
    struct nbd_lane *lane = arg;
    rt_mutex_lock(&lane->lock);
    for (;;) {
        struct list *link = list_pop_front(&lane->ended);
        if (!link && lane->ending)
            break;
        if (!link) {
            co_rest(lane);
            continue;
        }
        rt_mutex_unlock(&lane->lock);
        co_nbd_connection_free(list_entry(link, struct nbd_connection, ended));
        rt_mutex_lock(&lane->lock);
    }
    rt_mutex_unlock(&lane->lock);
}
