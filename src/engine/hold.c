/*
 * Holding a volume's requests for a moment, so that snapshots of several volumes are of one moment:
 *
 *   hold (each volume) -> snapshot (each) -> release (each)
 *
 * A hold drains the root: what was begun has ended, what comes waits. Whoever asked for it may die,
 * so it ends by itself after its time; `release` tells whether it lasted. Every other change of the
 * engine ends it, too: such a change may wait for requests.
 *
 * On the control queue, under engine.control; only the end of the time comes by itself.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "engine/hold.h"
#include "base/log.h"
#include "rt/sync.h"

struct volume_hold {
    struct volume *volume; /* NULL: it was let go */
    uint64_t end_ns;
    struct rt_mutex guard;
    struct co_waitq let_go;
};

static void end(struct volume_hold *hold)
{
    struct volume *volume = hold->volume;
    hold->volume = NULL;
    volume->hold = NULL;
    co_root_undrain(volume->root);
}

/* Ends the hold in time, and frees it. */
static void co_watch(void *arg)
{
    struct volume_hold *hold = arg;
    rt_mutex_lock(&hold->guard);
    while (hold->volume && co_waitq_wait_until(&hold->let_go, &hold->guard, hold->end_ns))
        ;
    rt_mutex_unlock(&hold->guard);
    if (hold->volume) {
        log_warning("volume '%s': nobody ended its hold in time", hold->volume->config.name);
        end(hold);
    }
    rt_mutex_destroy(&hold->guard);
    free(hold);
}

int co_volume_hold(struct volume *volume, uint64_t timeout_ms, struct hws_error *err)
{
    if (volume->hold)
        volume_let_go(volume); /* of somebody who died since */
    struct volume_hold *hold = calloc(1, sizeof(*hold));
    if (!hold)
        return hws_fail(err, ENOMEM, "out of memory");
    hold->volume = volume;
    rt_mutex_init(&hold->guard);
    co_waitq_init(&hold->let_go);
    co_root_drain(volume->root);
    hold->end_ns = rt_now_ns() + timeout_ms * 1000000;
    if (rt_spawn(NULL, co_watch, hold) < 0) {
        co_root_undrain(volume->root);
        rt_mutex_destroy(&hold->guard);
        free(hold);
        return hws_fail(err, ENOMEM, "out of memory");
    }
    volume->hold = hold;
    return 0;
}

bool volume_let_go(struct volume *volume)
{
    struct volume_hold *hold = volume->hold;
    if (!hold)
        return false;
    end(hold);
    rt_mutex_lock(&hold->guard);
    co_waitq_wake_all(&hold->let_go);
    rt_mutex_unlock(&hold->guard);
    return true;
}

void engine_release(struct engine *engine)
{
    for (unsigned i = 0; i < engine->config->volume_count; i++)
        volume_let_go(&engine->volumes[i]);
}
