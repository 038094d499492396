/*
 * Who has a shared pool; see control/lease.h.
 *
 * The catalog remembers the epoch in which its host had the pool: a file with a later one of
 * another host says that this catalog is behind, after a restart too, and then an operator decides.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "control/lease.h"
#include "base/log.h"
#include <stdarg.h>

#define KIND "lease"

uint64_t lease_now_ms(const struct leases *leases)
{
    struct control *control = leases->control;
    if (control->now)
        return clock_s(control) * 1000;
    struct timespec now;
    clock_gettime(CLOCK_BOOTTIME, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static bool is_mine(const struct lease *lease, const struct lease_record *record)
{
    return !strcmp(record->instance, lease->all->instance);
}

static bool is_same(const struct lease_record *a, const struct lease_record *b)
{
    return !strcmp(a->instance, b->instance) && a->epoch == b->epoch && a->counter == b->counter;
}

static void tell(struct lease *lease, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
static void tell(struct lease *lease, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(lease->why, sizeof(lease->why), format, args);
    va_end(args);
}

static void fail(struct lease *lease, const struct hws_error *err)
{
    pthread_mutex_lock(&lease->all->mutex);
    if (lease->state != LEASE_LOST)
        tell(lease, "%.300s", err->text);
    pthread_mutex_unlock(&lease->all->mutex);
}

/* "host X, since ..., epoch N" */
static const char *owner(const struct lease_record *record, char *text, size_t bytes)
{
    char since[32] = "?";
    struct tm tm;
    time_t at = (time_t)record->since;
    if (gmtime_r(&at, &tm))
        strftime(since, sizeof(since), "%Y-%m-%dT%H:%M:%SZ", &tm);
    snprintf(text, bytes, "host %s (%.8s), since %s, epoch %llu", record->name, record->host, since,
             (unsigned long long)record->epoch);
    return text;
}

void lease_drop(struct lease *lease, enum lease_state state, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(lease->why, sizeof(lease->why), format, args);
    va_end(args);
    snprintf(lease->reason, sizeof(lease->reason), "%s", lease->why);
    lease->state = state;
    lease->permitted = false;
    lease->seen_ms = 0;
    log_error("pool '%s' is not used here any more: %s", lease->name, lease->why);
    pthread_cond_signal(&lease->all->changed);
}

/* ---- becoming ours ---- */

/* The catalog knows the epoch before anything is written under it. */
static int note_epoch(struct lease *lease, uint64_t epoch, struct hws_error *err)
{
    auto_batch batch = {0};
    if (epoch == lease->epoch)
        return 0;
    batch_raw(&batch, KIND, lease->id, NULL,
              json_pack("{s:s, s:I}", "id", lease->id, "epoch", (json_int_t)epoch), false);
    int r = batch_commit(&batch, lease->all->control, err);
    if (r == 0)
        lease->epoch = epoch;
    return r;
}

static void hold(struct lease *lease, uint64_t began_ms)
{
    struct leases *all = lease->all;
    struct hws_error err = {0};
    int r = note_epoch(lease, lease->mine.epoch, &err);
    pthread_mutex_lock(&lease->fence); /* engines are not stopped any more */
    pthread_mutex_lock(&all->mutex);
    if (r < 0) {
        lease->state = LEASE_NONE;
        tell(lease, "the catalog does not take its epoch: %s", err.text);
    } else if (lease_now_ms(all) - began_ms >= all->lease_ms) {
        lease->state = LEASE_NONE; /* another host may have begun to take it meanwhile */
        tell(lease, "its lease could not be written in time");
    } else {
        lease->state = LEASE_HELD;
        lease->renewed_ms = began_ms;
        lease->wanted = lease->permitted = false;
        lease->guarded = true;
        lease->why[0] = lease->reason[0] = '\0';
        pthread_cond_signal(&all->changed);
        log_info("pool '%s' is used here, epoch %llu", lease->name,
                 (unsigned long long)lease->mine.epoch);
    }
    pthread_mutex_unlock(&all->mutex);
    pthread_mutex_unlock(&lease->fence);
}

static int write_mine(struct lease *lease, uint64_t epoch, bool fresh, struct hws_error *err)
{
    struct leases *all = lease->all;
    struct lease_record record = lease->mine;
    if (record.epoch != epoch || !record.since)
        record.since = clock_wall_s(all->control);
    snprintf(record.host, sizeof(record.host), "%s", all->host);
    snprintf(record.name, sizeof(record.name), "%s", all->name);
    snprintf(record.boot, sizeof(record.boot), "%s", all->control->boot);
    snprintf(record.instance, sizeof(record.instance), "%s", all->instance);
    record.epoch = epoch;
    record.counter++;
    int r = lease_write(all->control, lease->path, &record, fresh, err);
    if (r == 0)
        lease->mine = record;
    return r;
}

/* ---- a turn, by what is there ---- */

/* Of another host, while it is not held here. */
static void watch(struct lease *lease, const struct lease_record *there, uint64_t now_ms)
{
    struct leases *all = lease->all;
    struct hws_error err = {0};
    char text[200];
    pthread_mutex_lock(&all->mutex);
    /* Watching begins anew where nobody has looked for a while. */
    bool known = lease->seen_ms && now_ms - lease->looked_ms <= all->lease_ms;
    bool still = known && is_same(there, &lease->seen);
    lease->looked_ms = now_ms;
    lease->state = LEASE_WATCHED;
    if (there->epoch > lease->epoch && !lease->permitted)
        lease_drop(lease, LEASE_LOST, "%s has taken it", owner(there, text, sizeof(text)));
    else if (!still) {
        lease->seen = *there;
        lease->seen_ms = now_ms ? now_ms : 1;
        lease->wanted = !known; /* it lives: who wants the pool asks again */
        tell(lease, "it is used by %s", owner(there, text, sizeof(text)));
    }
    bool take = lease->state == LEASE_WATCHED && still && lease->wanted &&
                now_ms - lease->seen_ms >= 3 * all->lease_ms;
    pthread_mutex_unlock(&all->mutex);
    if (!take)
        return;
    int r = write_mine(lease, MAX(there->epoch, lease->epoch) + 1, false, &err);
    pthread_mutex_lock(&all->mutex);
    lease->written_ms = lease_now_ms(all);
    lease->seen_ms = 0;
    /* One that was written late may be written over somebody's who was faster. */
    if (r == 0 && lease->written_ms - now_ms < all->lease_ms)
        lease->state = LEASE_TAKING;
    if (r < 0)
        tell(lease, "%.300s", err.text);
    pthread_mutex_unlock(&all->mutex);
}

/* Nobody's, or this host's: at once. */
static void take_own(struct lease *lease, uint64_t epoch, bool fresh, uint64_t now_ms)
{
    struct hws_error err = {0};
    if (write_mine(lease, epoch, fresh, &err) == 0)
        hold(lease, now_ms);
    else
        fail(lease, &err);
}

static void confirm(struct lease *lease, const struct lease_record *there, uint64_t now_ms)
{
    struct hws_error err = {0};
    if (!is_mine(lease, there)) {
        watch(lease, there, now_ms);
        return;
    }
    if (write_mine(lease, lease->mine.epoch, false, &err) == 0 &&
        now_ms - lease->written_ms >= lease->all->lease_ms)
        hold(lease, now_ms);
}

static void renew(struct lease *lease, const struct lease_record *there, uint64_t now_ms)
{
    struct leases *all = lease->all;
    struct hws_error err = {0};
    char text[200];
    /* An earlier owner that was held up has written over ours, and gives up. */
    bool old = there && there->epoch < lease->mine.epoch;
    if (there && !is_mine(lease, there) && !old) {
        pthread_mutex_lock(&all->mutex);
        lease_drop(lease, LEASE_LOST, "%s has taken it", owner(there, text, sizeof(text)));
        pthread_mutex_unlock(&all->mutex);
        return;
    }
    int r = write_mine(lease, lease->mine.epoch, false, &err);
    pthread_mutex_lock(&all->mutex);
    if (lease->state == LEASE_HELD && r == 0 &&
        lease_now_ms(all) - lease->renewed_ms < 2 * all->lease_ms)
        lease->renewed_ms = now_ms;
    else if (r < 0)
        log_warning("the lease of pool '%s' is not renewed: %s", lease->name, err.text);
    pthread_mutex_unlock(&all->mutex);
}

static void look(struct lease *lease, const struct lease_record *there, uint64_t now_ms)
{
    bool own = there && !strcmp(there->host, lease->all->host);
    pthread_mutex_lock(&lease->all->mutex);
    enum lease_state state = lease->state;
    pthread_mutex_unlock(&lease->all->mutex);
    if (state == LEASE_HELD)
        renew(lease, there, now_ms);
    else if (state == LEASE_TAKING && there)
        confirm(lease, there, now_ms);
    else if (state == LEASE_LOST)
        return;
    else if (!there)
        take_own(lease, lease->epoch + 1, true, now_ms);
    else if (own)
        take_own(lease, MAX(there->epoch, lease->epoch), false, now_ms);
    else
        watch(lease, there, now_ms);
}

static int pool_folder(struct lease *lease, struct hws_error *err)
{
    struct pool pool = {.id = lease->id, .name = lease->name, .path = lease->path};
    return pool_is_there(&pool, err);
}

void lease_turn(struct lease *lease)
{
    struct lease_record there;
    struct hws_error err = {0};
    pthread_mutex_lock(&lease->turn);
    uint64_t now_ms = lease_now_ms(lease->all);
    int r = pool_folder(lease, &err);
    if (r == 0)
        r = lease_read(lease->path, &there, &err);
    if (r == 0 || r == -ENOENT)
        look(lease, r == 0 ? &there : NULL, now_ms);
    else
        fail(lease, &err);
    pthread_mutex_unlock(&lease->turn);
}

/* ---- what operations ask ---- */

struct lease *lease_find(struct control *control, const char *pool)
{
    struct leases *all = control->leases;
    pthread_mutex_lock(&all->mutex);
    struct lease *lease = all->first;
    while (lease && strcmp(lease->id, pool) != 0)
        lease = lease->next;
    pthread_mutex_unlock(&all->mutex);
    return lease;
}

static struct lease *lease_of(struct control *control, const struct pool *pool)
{
    struct leases *all = control->leases;
    auto_json *known = NULL;
    struct lease *lease = lease_find(control, pool->id);
    if (lease)
        return lease;
    uint64_t epoch = 0;
    if (control->store->driver->get(control->store, KIND, pool->id, &known, NULL) == 0)
        epoch = (uint64_t)json_integer_value(json_object_get(known, "epoch"));
    pthread_mutex_lock(&all->mutex);
    for (lease = all->first; lease && strcmp(lease->id, pool->id) != 0;)
        lease = lease->next; /* somebody was faster */
    if (!lease && (lease = calloc(1, sizeof(*lease)))) {
        snprintf(lease->id, sizeof(lease->id), "%s", pool->id);
        lease->name = strdup(pool->name);
        lease->path = strdup(pool->path);
        lease->all = all;
        lease->epoch = epoch;
        pthread_mutex_init(&lease->turn, NULL);
        pthread_mutex_init(&lease->fence, NULL);
        lease->next = all->first;
        all->first = lease;
    }
    if (lease)
        lease_watch(lease);
    pthread_mutex_unlock(&all->mutex);
    return lease;
}

/* With the mutex locked. */
static bool is_held(const struct lease *lease)
{
    return lease->state == LEASE_HELD &&
           lease_now_ms(lease->all) - lease->renewed_ms < 2 * lease->all->lease_ms;
}

static int refuse(const struct lease *lease, struct hws_error *err)
{
    const struct leases *all = lease->all;
    uint64_t now = lease_now_ms(all), need = 4 * all->lease_ms;
    if (lease->state == LEASE_LOST)
        return hws_fail(err, EBUSY,
                        "pool '%s' was lost: %s; 'hawser pool take' takes it back, once this "
                        "catalog is that host's again",
                        lease->name, lease->why);
    if (lease->state == LEASE_TAKING)
        return hws_fail(err, EBUSY,
                        "pool '%s' is being taken from another host; try again in %llu s",
                        lease->name, (unsigned long long)(all->lease_ms / 1000 + 1));
    if (lease->state == LEASE_WATCHED && lease->wanted && lease->seen_ms)
        return hws_fail(err, EBUSY,
                        "pool '%s': %s; whether that host lives is being watched: if not, the pool "
                        "is taken in %llu s",
                        lease->name, lease->why,
                        (unsigned long long)(need - MIN(need, now - lease->seen_ms)) / 1000 + 1);
    if (lease->state == LEASE_WATCHED)
        return hws_fail(err, EBUSY, "pool '%s': %s, and that host lives", lease->name, lease->why);
    return hws_fail(err, EIO, "pool '%s' cannot be used: %s", lease->name,
                    lease->why[0] ? lease->why : "its lease was not renewed");
}

int lease_need(struct control *control, const struct pool *pool, struct hws_error *err)
{
    if (!pool->shared)
        return 0;
    struct lease *lease = lease_of(control, pool);
    if (!lease)
        return hws_fail(err, ENOMEM, "out of memory");
    if (!control->leases->host[0])
        return hws_fail(err, ENOENT,
                        "this host has no /etc/machine-id, by which hosts of shared pools are told "
                        "apart; hawserd's host-id takes its place");
    pthread_mutex_lock(&control->leases->mutex);
    bool held = is_held(lease), lost = lease->state == LEASE_LOST;
    lease->wanted = true;
    pthread_mutex_unlock(&control->leases->mutex);
    if (held)
        return 0;
    if (!lost)
        lease_turn(lease);
    pthread_mutex_lock(&control->leases->mutex);
    int r = is_held(lease) ? 0 : refuse(lease, err);
    pthread_mutex_unlock(&control->leases->mutex);
    if (r < 0)
        lease_wake(lease);
    return r;
}

bool lease_is_gone(struct control *control, const char *pool)
{
    struct lease *lease = lease_find(control, pool);
    if (!lease)
        return false;
    pthread_mutex_lock(&control->leases->mutex);
    bool gone = lease->guarded && !is_held(lease);
    pthread_mutex_unlock(&control->leases->mutex);
    return gone;
}

int lease_look(struct control *control, const struct pool *pool, struct hws_error *err)
{
    struct lease *lease = pool->shared ? lease_find(control, pool->id) : NULL;
    if (!pool->shared)
        return 0;
    pthread_mutex_lock(&control->leases->mutex);
    int r = lease && is_held(lease) ? 0
            : lease
                ? refuse(lease, err)
                : hws_fail(err, EBUSY, "pool '%s' is shared, and has not been used by this host",
                           pool->name);
    pthread_mutex_unlock(&control->leases->mutex);
    return r;
}

void lease_forget(struct control *control, const char *pool)
{
    struct lease *lease = lease_find(control, pool);
    struct lease_record there;
    if (!lease)
        return;
    pthread_mutex_lock(&lease->turn);
    pthread_mutex_lock(&control->leases->mutex);
    lease->state = LEASE_NONE;
    lease->guarded = lease->wanted = false;
    pthread_mutex_unlock(&control->leases->mutex);
    if (lease_read(lease->path, &there, NULL) == 0 && is_mine(lease, &there)) {
        autofree char *path = NULL;
        if (asprintf(&path, "%s/" LEASE_FILE, lease->path) < 0)
            path = NULL;
        if (path)
            unlink(path);
    }
    pthread_mutex_unlock(&lease->turn);
}

/* ---- what operators ask ---- */

struct take_request {
    bool force;
};

const struct record_field request_pool_take[] = {
    {"force", RECORD_BOOL, offsetof(struct take_request, force),
     "at once, whatever another host does: it is off, or was cut off from the pool"},
    {NULL},
};

static void take_by_force(struct lease *lease)
{
    struct lease_record there = {0};
    struct hws_error err = {0};
    pthread_mutex_lock(&lease->turn);
    uint64_t now_ms = lease_now_ms(lease->all);
    int r = pool_folder(lease, &err);
    int read = r == 0 ? lease_read(lease->path, &there, &err) : r;
    if (r == 0 && read != 0 && read != -ENOENT && read != -EUCLEAN)
        r = read;
    if (r == 0)
        r = write_mine(lease, MAX(MAX(there.epoch, lease->epoch), lease->mine.epoch) + 1, false,
                       &err);
    if (r == 0)
        hold(lease, now_ms);
    else
        fail(lease, &err);
    pthread_mutex_unlock(&lease->turn);
}

int control_pool_take(struct control *control, const char *reference, const json_t *given,
                      json_t **ret, struct hws_error *err)
{
    struct take_request request;
    auto_pool pool = {0};
    int r = record_parse(request_pool_take, given, "take", &request, sizeof(request), err);
    if (r == 0)
        r = object_find(control, &pool_type, reference, &pool, err);
    if (r == 0 && !pool.shared)
        r = hws_fail(err, EINVAL, "pool '%s' is not shared", pool.name);
    if (r == 0)
        r = pool_is_there(&pool, err);
    struct lease *lease = r == 0 ? lease_of(control, &pool) : NULL;
    if (r == 0 && !lease)
        r = hws_fail(err, ENOMEM, "out of memory");
    if (r < 0)
        return r;
    pthread_mutex_lock(&control->leases->mutex);
    if (lease->state == LEASE_LOST)
        lease->state = LEASE_NONE;
    lease->permitted = true;
    bool held = is_held(lease);
    pthread_mutex_unlock(&control->leases->mutex);
    if (request.force && !held)
        take_by_force(lease);
    r = lease_need(control, &pool, err);
    return r < 0 ? r : control_pool_show(control, pool.id, ret, err);
}
