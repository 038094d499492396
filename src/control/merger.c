/*
 * The thread that merges the layers of deleted snapshots, one after the other, and makes way for
 * whoever wants something of the volume that it works on.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/log.h"
#include "control/internal.h"

/** After a wish: more may follow, and the volume itself may go. */
#define DELAY_S 1
/** Until what could not be merged is looked at again. */
#define AGAIN_S 30

struct merger {
    struct control *control;
    pthread_t thread;
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    bool wanted, stop;
};

static bool must_stop(void *arg, const char *volume, uint64_t done_bytes, uint64_t total_bytes)
{
    struct merger *merger = arg;
    pthread_mutex_lock(&merger->mutex);
    bool stop = merger->stop;
    pthread_mutex_unlock(&merger->mutex);
    return stop || locks_wanted(&merger->control->locks, volume);
}

/* @seconds 0: for ever. @return false at the end. */
static bool wait_for_wish(struct merger *merger, unsigned seconds, bool whatever)
{
    struct timespec end;
    clock_gettime(CLOCK_MONOTONIC, &end);
    end.tv_sec += seconds;
    pthread_mutex_lock(&merger->mutex);
    int waited = 0;
    while (!merger->stop && (whatever || !merger->wanted) && waited == 0)
        waited = seconds ? pthread_cond_timedwait(&merger->changed, &merger->mutex, &end)
                         : pthread_cond_wait(&merger->changed, &merger->mutex);
    bool go_on = !merger->stop;
    if (!whatever)
        merger->wanted = false;
    pthread_mutex_unlock(&merger->mutex);
    return go_on;
}

/* @return whether something was put off. */
static bool merge_all(struct merger *merger)
{
    const struct merge_watch watch = {.progress = must_stop, .arg = merger};
    auto_json *put_off = json_object();
    struct hws_error err = {0};
    int r;
    do {
        r = merge_one(merger->control, &watch, put_off, &err);
    } while (r > 0 && !must_stop(merger, "", 0, 0));
    if (r < 0)
        log_warning("deleted snapshots are merged later: %s", err.text);
    return r < 0 || json_object_size(put_off);
}

static void *work(void *arg)
{
    struct merger *merger = arg;
    bool later = false;
    /* Twice: for a wish, and until it has settled. */
    while (wait_for_wish(merger, later ? AGAIN_S : 0, false) &&
           wait_for_wish(merger, DELAY_S, true))
        later = merge_all(merger);
    return NULL;
}

int merger_start(struct control *control, struct hws_error *err)
{
    struct merger *merger = calloc(1, sizeof(*merger));
    pthread_condattr_t attributes;
    if (!merger)
        return hws_fail(err, ENOMEM, "out of memory");
    merger->control = control;
    merger->wanted = true; /* what an earlier process left */
    pthread_mutex_init(&merger->mutex, NULL);
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&merger->changed, &attributes);
    pthread_condattr_destroy(&attributes);
    int r = pthread_create(&merger->thread, NULL, work, merger);
    if (r == 0) {
        control->merger = merger;
        return 0;
    }
    pthread_cond_destroy(&merger->changed);
    pthread_mutex_destroy(&merger->mutex);
    free(merger);
    return hws_fail_errno(err, r, "cannot start a thread");
}

void merger_stop(struct control *control)
{
    struct merger *merger = control->merger;
    if (!merger)
        return;
    pthread_mutex_lock(&merger->mutex);
    merger->stop = true;
    pthread_cond_signal(&merger->changed);
    pthread_mutex_unlock(&merger->mutex);
    pthread_join(merger->thread, NULL);
    pthread_cond_destroy(&merger->changed);
    pthread_mutex_destroy(&merger->mutex);
    free(merger);
    control->merger = NULL;
}

void merger_wake(struct control *control)
{
    struct merger *merger = control->merger;
    if (!merger)
        return;
    pthread_mutex_lock(&merger->mutex);
    merger->wanted = true;
    pthread_cond_signal(&merger->changed);
    pthread_mutex_unlock(&merger->mutex);
}
