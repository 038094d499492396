/*
 * The thread that does what the clock says: it takes the snapshots of schedules, deletes those that
 * no rule keeps, and empties the trash. hawserd's tick looks at the clock each second, and wakes it
 * when something is due.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "control/internal.h"

/** Between two times at which the catalog's clock is saved where something waits for it. */
#define SAVE_S 600

struct scheduler {
    struct control *control;
    pthread_t thread;
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    bool wanted, stop;
    /* When it looks again: the time of day, and the catalog's clock. UINT64_MAX: at no time. */
    uint64_t wall_s, clock_s;
    uint64_t seen_wall_s;
};

/* @return false at the end. */
static bool wait_for_wish(struct scheduler *scheduler)
{
    pthread_mutex_lock(&scheduler->mutex);
    while (!scheduler->wanted && !scheduler->stop)
        pthread_cond_wait(&scheduler->changed, &scheduler->mutex);
    bool go_on = !scheduler->stop;
    scheduler->wanted = false;
    scheduler->wall_s = scheduler->clock_s = UINT64_MAX;
    pthread_mutex_unlock(&scheduler->mutex);
    return go_on;
}

static void *work(void *arg)
{
    struct scheduler *scheduler = arg;
    while (wait_for_wish(scheduler)) {
        uint64_t clock_at = trash_empty(scheduler->control);
        uint64_t wall_at = schedules_run(scheduler->control);
        if (clock_at != UINT64_MAX || wall_at != UINT64_MAX) {
            clock_save(scheduler->control);
            clock_at = MIN(clock_at, clock_s(scheduler->control) + SAVE_S);
        }
        pthread_mutex_lock(&scheduler->mutex);
        scheduler->clock_s = clock_at;
        scheduler->wall_s = wall_at;
        pthread_mutex_unlock(&scheduler->mutex);
    }
    return NULL;
}

void scheduler_tick(struct control *control)
{
    struct scheduler *scheduler = control->scheduler;
    struct control_now now;
    if (!scheduler)
        return;
    clock_now(control, &now);
    pthread_mutex_lock(&scheduler->mutex);
    bool back = now.wall_s + 1 < scheduler->seen_wall_s && scheduler->wall_s != UINT64_MAX;
    scheduler->seen_wall_s = now.wall_s;
    if (back || now.wall_s >= scheduler->wall_s ||
        control->clock_offset_s + now.running_s >= scheduler->clock_s) {
        scheduler->wanted = true;
        pthread_cond_signal(&scheduler->changed);
    }
    pthread_mutex_unlock(&scheduler->mutex);
}

void scheduler_wake(struct control *control)
{
    struct scheduler *scheduler = control->scheduler;
    if (!scheduler)
        return;
    pthread_mutex_lock(&scheduler->mutex);
    scheduler->wanted = true;
    pthread_cond_signal(&scheduler->changed);
    pthread_mutex_unlock(&scheduler->mutex);
}

int scheduler_start(struct control *control, struct hws_error *err)
{
    struct scheduler *scheduler = calloc(1, sizeof(*scheduler));
    if (!scheduler)
        return hws_fail(err, ENOMEM, "out of memory");
    scheduler->control = control;
    scheduler->wanted = true; /* what was due while nobody looked */
    pthread_mutex_init(&scheduler->mutex, NULL);
    pthread_cond_init(&scheduler->changed, NULL);
    control->scheduler = scheduler;
    int r = pthread_create(&scheduler->thread, NULL, work, scheduler);
    if (r == 0)
        return 0;
    control->scheduler = NULL;
    pthread_cond_destroy(&scheduler->changed);
    pthread_mutex_destroy(&scheduler->mutex);
    free(scheduler);
    return hws_fail_errno(err, r, "cannot start a thread");
}

void scheduler_stop(struct control *control)
{
    struct scheduler *scheduler = control->scheduler;
    if (!scheduler)
        return;
    pthread_mutex_lock(&scheduler->mutex);
    scheduler->stop = true;
    pthread_cond_signal(&scheduler->changed);
    pthread_mutex_unlock(&scheduler->mutex);
    pthread_join(scheduler->thread, NULL);
    control->scheduler = NULL;
    pthread_cond_destroy(&scheduler->changed);
    pthread_mutex_destroy(&scheduler->mutex);
    free(scheduler);
}
