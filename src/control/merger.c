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
    char volume[ID_BYTES];    /* that is worked on; empty: none */
    char cancelled[ID_BYTES]; /* the same, once that is to end */
    uint64_t done_bytes, total_bytes;
    json_t *held; /* layers whose merge was cancelled, by their ids; the thread's own */
};

static bool must_stop(void *arg, const char *volume, uint64_t done_bytes, uint64_t total_bytes)
{
    struct merger *merger = arg;
    pthread_mutex_lock(&merger->mutex);
    snprintf(merger->volume, sizeof(merger->volume), "%s", volume);
    merger->done_bytes = done_bytes;
    merger->total_bytes = total_bytes;
    bool stop = merger->stop || (*volume && !strcmp(merger->cancelled, volume));
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

/* What has been put off since @before because it was cancelled stays so. */
static void hold_cancelled(struct merger *merger, const json_t *before, json_t *put_off)
{
    const char *id;
    json_t *why;
    pthread_mutex_lock(&merger->mutex);
    bool cancelled = merger->cancelled[0];
    merger->cancelled[0] = merger->volume[0] = '\0';
    pthread_mutex_unlock(&merger->mutex);
    json_object_foreach(put_off, id, why)
    {
        if (cancelled && !json_object_get(before, id))
            json_object_set(merger->held, id, why);
    }
}

/* @return whether something was put off that is to be tried again. */
static bool merge_all(struct merger *merger)
{
    const struct merge_watch watch = {.progress = must_stop, .arg = merger};
    auto_json *put_off = json_copy(merger->held);
    struct hws_error err = {0};
    int r;
    do {
        auto_json *before = json_copy(put_off);
        r = merge_one(merger->control, &watch, put_off, &err);
        hold_cancelled(merger, before, put_off);
    } while (r > 0 && !must_stop(merger, "", 0, 0));
    if (r < 0)
        log_warning("deleted snapshots are merged later: %s", err.text);
    return r < 0 || json_object_size(put_off) > json_object_size(merger->held);
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
    merger->held = json_object();
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
    json_decref(merger->held);
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
    json_decref(merger->held);
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

void merger_describe(struct control *control, json_t *intent)
{
    struct merger *merger = control->merger;
    const char *object = json_string_value(json_object_get(intent, "object"));
    const char *operation = json_string_value(json_object_get(intent, "operation"));
    if (!merger || !object || !operation || strcmp(operation, merge_operation.name) != 0)
        return;
    pthread_mutex_lock(&merger->mutex);
    if (!strcmp(merger->volume, object)) {
        json_object_set_new(intent, "state", json_string("running"));
        json_object_set_new(intent, "done", json_integer((json_int_t)merger->done_bytes));
        json_object_set_new(intent, "total", json_integer((json_int_t)merger->total_bytes));
    }
    pthread_mutex_unlock(&merger->mutex);
}

int merger_cancel(struct control *control, const char *volume, struct hws_error *err)
{
    struct merger *merger = control->merger;
    bool found = false;
    if (merger) {
        pthread_mutex_lock(&merger->mutex);
        found = !strcmp(merger->volume, volume);
        if (found)
            snprintf(merger->cancelled, sizeof(merger->cancelled), "%s", volume);
        pthread_mutex_unlock(&merger->mutex);
    }
    return found ? 0 : hws_fail(err, EINVAL, "the job does not run");
}

bool merger_is_cancelled(struct control *control, const char *volume)
{
    struct merger *merger = control->merger;
    if (!merger)
        return false;
    pthread_mutex_lock(&merger->mutex);
    bool cancelled = !strcmp(merger->cancelled, volume);
    pthread_mutex_unlock(&merger->mutex);
    return cancelled;
}
