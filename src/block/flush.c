/*
 * Flushes. Those that arrive while one is running share the next one: a flush covers every write
 * that completed before it began, so one that has begun already is too early for them.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "block/core.h"

struct flush_request {
    struct list link;
    bool done;
    int result;
};

/* What the driver has, then the files below it. */
static int flush_now(struct block_node *node)
{
    int r = 0;
    /* With the unsafe cache mode nothing waits for the disk, a format's own order included. */
    if (node->driver->kind == BLOCK_BACKEND && block_policy_of(node)->cache == BLOCK_CACHE_UNSAFE)
        return 0;
    if (node->driver->co_flush)
        r = node->driver->co_flush(node);
    if (r == 0 && !node->driver->flushes_children) {
        if (node->child[BLOCK_DATA])
            r = co_block_flush(node->child[BLOCK_DATA]);
        if (r == 0 && node->child[BLOCK_FILE])
            r = co_block_flush(node->child[BLOCK_FILE]);
    }
    return r;
}

/* Flushes for everybody who waits now. Called and returns with the guard held. */
static void run_batch(struct block_node *node, struct flush_state *state)
{
    struct list batch = LIST_INIT(batch);
    list_splice_back(&batch, &state->requests);
    state->running = true;
    atomic_store(&state->dirty, false);
    rt_mutex_unlock(&state->guard);

    int r = flush_now(node);

    rt_mutex_lock(&state->guard);
    if (r < 0)
        atomic_store(&state->dirty, true);
    state->running = false;
    for (struct list *link; (link = list_pop_front(&batch));) {
        struct flush_request *request = list_entry(link, struct flush_request, link);
        request->result = r;
        request->done = true;
    }
    co_waitq_wake_all(&state->waiters);
}

int co_block_flush(struct block_node *node)
{
    struct flush_state *state = &node->core->flush;
    struct flush_request request = {0};
    if (node->read_only)
        return 0;
    rt_mutex_lock(&state->guard);
    if (!atomic_load(&state->dirty) && !state->running) {
        rt_mutex_unlock(&state->guard);
        return 0;
    }
    list_push_back(&state->requests, &request.link);
    while (!request.done) {
        if (state->running)
            co_waitq_wait(&state->waiters, &state->guard);
        else
            run_batch(node, state);
    }
    rt_mutex_unlock(&state->guard);
    return request.result;
}
