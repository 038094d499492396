/*
 * What follows where a shared pool is held no longer: its engines are stopped, first all at once by
 * a signal, so that none writes any more, then with all that they leave; see control/lease.h.
 *
 * Each pool has a thread that looks at its file: it hangs with its storage, and nothing else does.
 * The guard looks at no pool's folder. It finds what was not renewed in time, whoever hangs.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/log.h"
#include "control/lease.h"

/* ---- stopping ---- */

/* Engines are called by the ids of volumes, or of snapshots that are exported. */
static bool is_in(struct control *control, const char *pool, const char *id)
{
    auto_volume volume = {0};
    auto_snapshot snapshot = {0};
    if (object_get(control, &volume_type, id, &volume, NULL) == 0)
        return !strcmp(volume.pool, pool);
    return object_get(control, &snapshot_type, id, &snapshot, NULL) == 0 &&
           !strcmp(snapshot.pool, pool);
}

static int mark_taken(struct control *control, const char *id, const char *why,
                      struct hws_error *err)
{
    auto_attachment attachment = {0};
    auto_batch batch = {0};
    struct engine_place place = {0};
    bool attached, running = control->engines->find(id, &place, NULL) == 0 && place.running;
    engine_place_free(&place);
    if (running)
        return 0; /* of another try, or to be stopped the next time */
    int r = attachment_get(control, id, &attachment, &attached, err);
    if (r < 0 || !attached || (attachment.failed && !strcmp(attachment.failed, why)))
        return r;
    if (record_set_text(&attachment.failed, why) < 0)
        return hws_fail(err, ENOMEM, "out of memory");
    batch_put(&batch, &attachment_type, &attachment);
    control_lock_model(control);
    r = batch_commit(&batch, control, err);
    control_unlock_model(control);
    return r;
}

/* What an operation is at is marked the next time. */
static void mark_failed(struct lease *lease, const char *why)
{
    struct control *control = lease->all->control;
    auto_json *all = NULL;
    size_t i;
    json_t *value;
    if (object_list(control, &attachment_type, NULL, &all, NULL) < 0)
        return;
    json_array_foreach(all, i, value)
    {
        struct hws_error err = {0};
        const char *id = json_string_value(json_object_get(value, "id"));
        if (!is_in(control, lease->id, id) || locks_take(&control->locks, id, 0, NULL) < 0)
            continue;
        if (mark_taken(control, id, why, &err) < 0)
            log_warning("volume %s: %s", id, err.text);
        locks_release(&control->locks, id);
    }
}

static void stop_engines(struct lease *lease)
{
    struct control *control = lease->all->control;
    auto_json *ids = NULL;
    struct hws_error err = {0};
    size_t i;
    json_t *id;
    if (control->engines->list(&ids, &err) < 0) {
        log_error("the engines of pool '%s' are not found: %s", lease->name, err.text);
        return;
    }
    for (size_t at = json_array_size(ids); at-- > 0;) {
        if (!is_in(control, lease->id, json_string_value(json_array_get(ids, at))))
            json_array_remove(ids, at);
    }
    control_at(control, "engines are stopped");
    json_array_foreach(ids, i, id)
    {
        if (control->engines->kill)
            control->engines->kill(json_string_value(id));
    }
    json_array_foreach(ids, i, id)
    {
        if (control->engines->detach(json_string_value(id), true, &err) < 0)
            log_error("volume %s: %s", json_string_value(id), err.text);
        control_at(control, "an engine is stopped");
    }
}

static void fence(struct lease *lease)
{
    struct leases *all = lease->all;
    char why[LEASE_WHY_BYTES + 160];
    pthread_mutex_lock(&lease->fence);
    pthread_mutex_lock(&all->mutex);
    bool due = lease->guarded && lease->state != LEASE_HELD;
    snprintf(why, sizeof(why), "pool '%.80s' is not held: %s", lease->name,
             lease->reason[0] ? lease->reason : lease->why);
    pthread_mutex_unlock(&all->mutex);
    if (due)
        stop_engines(lease);
    /* Who has locked the model may wait for the former lock. */
    pthread_mutex_unlock(&lease->fence);
    if (due)
        mark_failed(lease, why);
}

void lease_guard(struct control *control)
{
    struct leases *all = control->leases;
    pthread_mutex_lock(&all->mutex);
    struct lease *first = all->first; /* none ever goes */
    for (struct lease *lease = first; lease; lease = lease->next) {
        uint64_t age = lease_now_ms(all) - lease->renewed_ms;
        if (lease->state != LEASE_HELD || age < 2 * all->lease_ms)
            continue;
        lease_drop(lease, LEASE_NONE, "its lease could not be renewed for %llu s",
                   (unsigned long long)age / 1000);
        lease->wanted = true; /* whose it is now is looked at as soon as that can be */
        lease_wake(lease);
    }
    pthread_mutex_unlock(&all->mutex);
    for (struct lease *lease = first; lease; lease = lease->next)
        fence(lease);
}

/* ---- threads ---- */

static void wait_until(struct leases *all, pthread_cond_t *changed, uint64_t ms)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += (time_t)(ms / 1000);
    until.tv_nsec += (long)(ms % 1000) * 1000000;
    if (until.tv_nsec >= 1000000000) {
        until.tv_sec++;
        until.tv_nsec -= 1000000000;
    }
    pthread_cond_timedwait(changed, &all->mutex, &until);
}

static void *renew(void *arg)
{
    struct lease *lease = arg;
    struct leases *all = lease->all;
    pthread_mutex_lock(&all->mutex);
    while (!all->stop) {
        bool busy = lease->state == LEASE_HELD || lease->state == LEASE_TAKING ||
                    (lease->wanted && lease->state != LEASE_LOST);
        if (busy)
            wait_until(all, &lease->changed, all->lease_ms / 3);
        else
            pthread_cond_wait(&lease->changed, &all->mutex);
        if (all->stop || !busy)
            continue;
        pthread_mutex_unlock(&all->mutex);
        lease_turn(lease);
        pthread_mutex_lock(&all->mutex);
    }
    pthread_mutex_unlock(&all->mutex);
    return NULL;
}

static void *guard(void *arg)
{
    struct leases *all = arg;
    pthread_mutex_lock(&all->mutex);
    while (!all->stop) {
        bool any = false;
        for (struct lease *lease = all->first; lease; lease = lease->next)
            any |= lease->guarded;
        pthread_mutex_unlock(&all->mutex);
        if (any)
            lease_guard(all->control);
        pthread_mutex_lock(&all->mutex);
        if (all->stop)
            break;
        if (any)
            wait_until(all, &all->changed, all->lease_ms / 4);
        else
            pthread_cond_wait(&all->changed, &all->mutex);
    }
    pthread_mutex_unlock(&all->mutex);
    return NULL;
}

static void make_condition(pthread_cond_t *condition)
{
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(condition, &attributes);
    pthread_condattr_destroy(&attributes);
}

void lease_watch(struct lease *lease)
{
    struct leases *all = lease->all;
    if (lease->there)
        return;
    make_condition(&lease->changed);
    lease->there = true;
    if (!all->threads)
        return;
    if (!all->guarding)
        all->guarding = pthread_create(&all->guard, NULL, guard, all) == 0;
    lease->threaded = all->guarding && pthread_create(&lease->thread, NULL, renew, lease) == 0;
    if (!lease->threaded)
        log_error("pool '%s': no thread can be started to renew its lease", lease->name);
}

void lease_wake(struct lease *lease)
{
    pthread_cond_signal(&lease->changed);
}

/* ---- beginning and end ---- */

int leases_start(struct control *control, const char *host, unsigned lease_s, bool threads,
                 struct hws_error *err)
{
    struct leases *all = calloc(1, sizeof(*all));
    if (!all)
        return hws_fail(err, ENOMEM, "out of memory");
    control->leases = all;
    all->control = control;
    all->threads = threads;
    all->lease_ms = 1000ull * (lease_s ? lease_s : LEASE_SECONDS);
    id_make(all->instance);
    if (gethostname(all->name, sizeof(all->name)) < 0 || !all->name[0])
        snprintf(all->name, sizeof(all->name), "unknown");
    all->name[sizeof(all->name) - 1] = '\0';
    pthread_mutex_init(&all->mutex, NULL);
    make_condition(&all->changed);
    /* Without one it can be used, but for shared pools: lease_need() tells. */
    int r = lease_host(host, all->host, err);
    if (r < 0 && !host && err)
        err->code = 0;
    return host ? r : 0;
}

static bool has_engines(struct control *control, const char *pool)
{
    auto_json *ids = NULL;
    bool found = false;
    size_t i;
    json_t *id;
    if (control->engines->list(&ids, NULL) < 0)
        return true;
    json_array_foreach(ids, i, id) found |= is_in(control, pool, json_string_value(id));
    return found;
}

void leases_adopt(struct control *control)
{
    auto_json *pools = NULL;
    size_t i;
    json_t *value;
    if (object_list(control, &pool_type, NULL, &pools, NULL) < 0)
        return;
    json_array_foreach(pools, i, value)
    {
        auto_pool pool = {0};
        struct hws_error err = {0};
        if (object_parse(&pool_type, value, &pool, &err) < 0 || !pool.shared ||
            !has_engines(control, pool.id))
            continue;
        int r = lease_need(control, &pool, &err);
        struct lease *lease = lease_find(control, pool.id);
        if (r == 0 || !lease)
            continue;
        log_error("%s", err.text);
        pthread_mutex_lock(&control->leases->mutex);
        lease->guarded = true;
        pthread_cond_signal(&control->leases->changed);
        pthread_mutex_unlock(&control->leases->mutex);
        fence(lease);
    }
}

void leases_stop(struct control *control)
{
    struct leases *all = control->leases;
    if (!all)
        return;
    pthread_mutex_lock(&all->mutex);
    all->stop = true;
    pthread_cond_signal(&all->changed);
    for (struct lease *lease = all->first; lease; lease = lease->next)
        pthread_cond_signal(&lease->changed);
    pthread_mutex_unlock(&all->mutex);
    if (all->guarding)
        pthread_join(all->guard, NULL);
    for (struct lease *lease = all->first, *next; lease; lease = next) {
        next = lease->next;
        if (lease->threaded)
            pthread_join(lease->thread, NULL);
        pthread_cond_destroy(&lease->changed);
        pthread_mutex_destroy(&lease->turn);
        pthread_mutex_destroy(&lease->fence);
        free(lease->name);
        free(lease->path);
        free(lease);
    }
    pthread_cond_destroy(&all->changed);
    pthread_mutex_destroy(&all->mutex);
    free(all);
    control->leases = NULL;
}
