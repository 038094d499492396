/*
 * Ids that are held; see control/locks.h. They are few, as many as there are operations: an array.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "control/locks.h"
#include <time.h>

void locks_init(struct locks *locks)
{
    pthread_condattr_t attributes;
    *locks = (struct locks){0};
    pthread_mutex_init(&locks->mutex, NULL);
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&locks->freed, &attributes);
    pthread_condattr_destroy(&attributes);
}

void locks_end(struct locks *locks)
{
    assert(locks->count == 0);
    free(locks->held);
    pthread_cond_destroy(&locks->freed);
    pthread_mutex_destroy(&locks->mutex);
}

static unsigned find(const struct locks *locks, const char *id)
{
    unsigned i = 0;
    while (i < locks->count && strcmp(locks->held[i], id) != 0)
        i++;
    return i;
}

static int add(struct locks *locks, const char *id, struct hws_error *err)
{
    if (locks->count == locks->capacity) {
        unsigned capacity = locks->capacity ? 2 * locks->capacity : 16;
        void *grown = realloc(locks->held, capacity * sizeof(*locks->held));
        if (!grown)
            return hws_fail(err, ENOMEM, "out of memory");
        locks->held = grown;
        locks->capacity = capacity;
    }
    snprintf(locks->held[locks->count++], ID_BYTES, "%s", id);
    return 0;
}

int locks_take(struct locks *locks, const char *id, unsigned timeout_ms, struct hws_error *err)
{
    struct timespec end;
    clock_gettime(CLOCK_MONOTONIC, &end);
    end.tv_sec += timeout_ms / 1000;
    end.tv_nsec += (long)(timeout_ms % 1000) * 1000000;
    if (end.tv_nsec >= 1000000000) {
        end.tv_sec++;
        end.tv_nsec -= 1000000000;
    }
    pthread_mutex_lock(&locks->mutex);
    int waited = 0;
    struct locks_waiter self = {.id = id, .next = locks->waiters};
    if (timeout_ms > 0)
        locks->waiters = &self;
    while (find(locks, id) < locks->count && waited == 0)
        waited = pthread_cond_timedwait(&locks->freed, &locks->mutex, &end);
    for (struct locks_waiter **at = &locks->waiters; *at; at = &(*at)->next)
        if (*at == &self) {
            *at = self.next;
            break;
        }
    int r = find(locks, id) < locks->count
                ? hws_fail(err, EBUSY, "another operation works on it; try again later")
                : add(locks, id, err);
    pthread_mutex_unlock(&locks->mutex);
    return r;
}

void locks_release(struct locks *locks, const char *id)
{
    pthread_mutex_lock(&locks->mutex);
    unsigned i = find(locks, id);
    assert(i < locks->count);
    locks->count--;
    if (i < locks->count)
        memcpy(locks->held[i], locks->held[locks->count], ID_BYTES);
    pthread_cond_broadcast(&locks->freed);
    pthread_mutex_unlock(&locks->mutex);
}

bool locks_is_held(struct locks *locks, const char *id)
{
    pthread_mutex_lock(&locks->mutex);
    bool held = find(locks, id) < locks->count;
    pthread_mutex_unlock(&locks->mutex);
    return held;
}

bool locks_wanted(struct locks *locks, const char *id)
{
    bool wanted = false;
    pthread_mutex_lock(&locks->mutex);
    for (const struct locks_waiter *at = locks->waiters; at; at = at->next)
        wanted |= !strcmp(at->id, id);
    pthread_mutex_unlock(&locks->mutex);
    return wanted;
}
