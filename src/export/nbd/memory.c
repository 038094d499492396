/*
 * What all clients together may cost.
 *
 *   server: memory_used of memory_max, in large pieces <-- lanes: credit, spent without a lock
 *
 * Charged are the buffers of requests, a fixed sum for each request (its coroutine's stack among
 * it) and the chunks that are received into. A request that does not fit waits, and its client with
 * it, in the lane's line of the hungry.
 *
 * Fairness. A connection may hold as much as is free: one alone holds half at most, N greedy ones
 * an (N+1)th each, and that much stays free for whoever comes next. Small requests of a connection
 * that has no other go before the hungry, and have a reserve. Who has waited for CLAIM_NS with
 * nothing in flight claims what becomes free until it has enough.
 *
 * While somebody is hungry, a client that neither takes its replies nor sends the rest of its
 * request is hung up on after NBD_STALLS_MAX seconds: what it holds is somebody else's share. The
 * kernel's own connections are charged, and never wait: the memory that they free may be what the
 * host needs.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "export/nbd/internal.h"
#include "base/log.h"
#include <sys/socket.h>

/* What a lane takes from the server at a time. */
#define STEP  ((int64_t)MiB)
#define SMALL ((uint64_t)128 * KiB)
/* One part of so many is left to small requests, and to what nobody is asked for. */
#define RESERVE  8
#define CLAIM_NS ((uint64_t)1000000000)
#define TICK_NS  ((uint64_t)1000000000)
/* Progress within a tick that keeps a client from being called stalled. */
#define PROGRESS_BYTES ((uint64_t)16 * KiB)

void nbd_memory_init(struct nbd_server *server, uint64_t memory)
{
    server->memory_max = memory ? memory : NBD_MEMORY_DEFAULT;
    for (unsigned i = 0; i < NBD_THREADS_MAX; i++)
        list_init(&server->lane[i].hungry);
}

static bool anybody_hungry(struct nbd_server *server)
{
    return atomic_load_explicit(&server->hungry, memory_order_relaxed) > 0;
}

void nbd_memory_charge(struct nbd_lane *lane, uint64_t bytes)
{
    struct nbd_server *server = lane->server;
    lane->credit -= (int64_t)bytes;
    if (likely(lane->credit >= 0))
        return;
    uint64_t want = (uint64_t)-lane->credit;
    if (atomic_load_explicit(&server->memory_used, memory_order_relaxed) + want + STEP <
        server->memory_max / 2)
        want += STEP;
    atomic_fetch_add_explicit(&server->memory_used, want, memory_order_relaxed);
    lane->credit += (int64_t)want;
}

/* The first in line tries again; where it fits in, nbd_memory_sated() has the next one try. */
static void nudge_first(struct nbd_lane *lane)
{
    if (list_empty(&lane->hungry))
        return;
    struct nbd_connection *c = list_entry(lane->hungry.next, struct nbd_connection, hungry);
    if (c->blocked)
        co_wake(steal_ptr(&c->blocked));
}

static void nudge_all(struct nbd_lane *lane)
{
    struct nbd_server *server = lane->server;
    nudge_first(lane);
    for (unsigned i = 0; i < server->lanes; i++)
        if (&server->lane[i] != lane &&
            atomic_load_explicit(&server->lane[i].hungry_count, memory_order_relaxed))
            nbd_lane_wake(&server->lane[i]);
}

static void give_back(struct nbd_lane *lane, int64_t keep)
{
    int64_t surplus = lane->credit - keep;
    if (surplus <= 0)
        return;
    lane->credit -= surplus;
    atomic_fetch_sub_explicit(&lane->server->memory_used, (uint64_t)surplus, memory_order_relaxed);
}

void nbd_memory_give(struct nbd_lane *lane, uint64_t bytes)
{
    lane->credit += (int64_t)bytes;
    if (unlikely(anybody_hungry(lane->server))) {
        give_back(lane, 0);
        nudge_all(lane);
    } else if (unlikely(lane->credit > 2 * STEP)) {
        give_back(lane, STEP);
    }
}

static bool take(struct nbd_connection *c, uint64_t bytes)
{
    struct nbd_lane *lane = c->lane;
    struct nbd_server *server = lane->server;
    if (c->kernel || likely(!anybody_hungry(server) && lane->credit >= (int64_t)bytes)) {
        nbd_memory_charge(lane, bytes);
        return true;
    }
    bool small = bytes <= SMALL && c->in_flight == 0;
    struct nbd_connection *claim = atomic_load_explicit(&server->claim, memory_order_relaxed);
    if (claim && claim != c && !small)
        return false;
    uint64_t used = atomic_load_explicit(&server->memory_used, memory_order_relaxed);
    uint64_t limit = server->memory_max - (small ? 0 : server->memory_max / RESERVE);
    uint64_t unused = (uint64_t)lane->credit + (used < limit ? limit - used : 0);
    if (c->in_flight_bytes + bytes > unused)
        return false;
    uint64_t want = bytes > (uint64_t)lane->credit ? bytes - (uint64_t)lane->credit : 0;
    used = atomic_fetch_add_explicit(&server->memory_used, want, memory_order_relaxed);
    if (want && used + want > limit) { /* another lane was first */
        atomic_fetch_sub_explicit(&server->memory_used, want, memory_order_relaxed);
        return false;
    }
    lane->credit += (int64_t)want - (int64_t)bytes;
    return true;
}

bool nbd_memory_take(struct nbd_connection *c, uint64_t bytes)
{
    if (likely(take(c, bytes)))
        return true;
    uint64_t now = rt_now_ns();
    if (list_empty(&c->hungry)) {
        struct nbd_server *server = c->lane->server;
        c->hungry_since_ns = now;
        list_push_back(&c->lane->hungry, &c->hungry);
        atomic_fetch_add_explicit(&c->lane->hungry_count, 1, memory_order_relaxed);
        if (atomic_fetch_add_explicit(&server->hungry, 1, memory_order_relaxed) == 0)
            for (unsigned i = 0; i < server->lanes; i++)
                nbd_lane_wake(&server->lane[i]);
    } else if (now - c->hungry_since_ns > CLAIM_NS && c->in_flight == 0) {
        struct nbd_connection *nobody = NULL;
        (void)atomic_compare_exchange_strong(&c->lane->server->claim, &nobody, c);
    }
    return false;
}

void nbd_memory_sated(struct nbd_connection *c)
{
    struct nbd_server *server = c->lane->server;
    struct nbd_connection *claim = c;
    if (list_empty(&c->hungry))
        return;
    list_del(&c->hungry);
    (void)atomic_compare_exchange_strong(&server->claim, &claim, NULL);
    atomic_fetch_sub_explicit(&c->lane->hungry_count, 1, memory_order_relaxed);
    atomic_fetch_sub_explicit(&server->hungry, 1, memory_order_relaxed);
    nudge_all(c->lane);
}

/* ---- while somebody is hungry ---- */

static bool is_stalled(struct nbd_connection *c)
{
    uint64_t sent = atomic_load_explicit(&c->counts.sent_bytes, memory_order_relaxed);
    uint64_t received = atomic_load_explicit(&c->counts.received_bytes, memory_order_relaxed);
    bool sends = c->sending && sent - c->seen_sent_bytes < PROGRESS_BYTES;
    bool receives = c->waiting && received - c->seen_received_bytes < PROGRESS_BYTES;
    c->seen_sent_bytes = sent;
    c->seen_received_bytes = received;
    return sends || receives;
}

static void cut_stalled(struct nbd_lane *lane)
{
    struct nbd_server *server = lane->server;
    unsigned cut = 0;
    rt_mutex_lock(&server->lock);
    list_for_each (link, &server->connections) {
        struct nbd_connection *c = list_entry(link, struct nbd_connection, link);
        if (c->lane != lane || c->kernel || c->negotiating)
            continue;
        c->stalls = is_stalled(c) ? c->stalls + 1 : 0;
        if (c->stalls <= NBD_STALLS_MAX)
            continue;
        nbd_connection_close(c);
        (void)shutdown(c->fd, SHUT_RDWR);
        cut++;
    }
    rt_mutex_unlock(&server->lock);
    server->cut += cut;
    if (cut)
        log_warning("nbd: memory is short: %u clients that stand still are hung up on", cut);
}

void nbd_memory_tick(struct nbd_lane *lane)
{
    uint64_t now = rt_now_ns();
    give_back(lane, 0);
    if (now - lane->swept_ns >= TICK_NS) {
        lane->swept_ns = now;
        cut_stalled(lane);
    }
    nudge_first(lane);
}

bool nbd_memory_is_short(struct nbd_lane *lane)
{
    return anybody_hungry(lane->server);
}
