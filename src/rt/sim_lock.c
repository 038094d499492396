/*
 * Byte-range locks of simulated files; see sim_lock.h.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "rt/sim_lock.h"
#include "rt/sim_image.h"

struct sim_lock {
    struct list link;
    const struct sim_inode *inode;
    const void *owner;
    uint64_t start, end;
    enum rt_lock lock;
};

void sim_locks_init(struct sim_locks *locks)
{
    list_init(&locks->held);
}

static uint64_t range_end(uint64_t start, uint64_t length)
{
    uint64_t end;
    return length == 0 || add_overflows(start, length, &end) ? UINT64_MAX : end;
}

static void lock_add(struct sim_locks *locks, struct sim_lock lock)
{
    struct sim_lock *added = sim_alloc(NULL, 1, sizeof(*added));
    *added = lock;
    list_push_back(&locks->held, &added->link);
}

static void lock_free(struct sim_lock *lock)
{
    list_del(&lock->link);
    free(lock);
}

static bool conflicts(const struct sim_locks *locks, const struct sim_lock *wanted)
{
    list_for_each (link, &locks->held) {
        const struct sim_lock *held = list_entry(link, struct sim_lock, link);
        if (held->inode == wanted->inode && held->owner != wanted->owner &&
            held->start < wanted->end && wanted->start < held->end &&
            (held->lock == RT_LOCK_EXCLUSIVE || wanted->lock == RT_LOCK_EXCLUSIVE))
            return true;
    }
    return false;
}

/** Cuts [start, end) out of what the owner of @range holds. */
static void cut_out(struct sim_locks *locks, const struct sim_lock *range)
{
    list_for_each_safe (link, &locks->held) {
        struct sim_lock *held = list_entry(link, struct sim_lock, link);
        if (held->inode != range->inode || held->owner != range->owner ||
            held->end <= range->start || range->end <= held->start)
            continue;
        struct sim_lock before = *held, after = *held;
        before.end = range->start;
        after.start = range->end;
        lock_free(held);
        if (before.start < before.end)
            lock_add(locks, before);
        if (after.start < after.end)
            lock_add(locks, after);
    }
}

int sim_lock_set(struct sim_locks *locks, const struct sim_inode *inode, const void *owner,
                 uint64_t start, uint64_t length, enum rt_lock lock)
{
    struct sim_lock wanted = {.inode = inode,
                              .owner = owner,
                              .start = start,
                              .end = range_end(start, length),
                              .lock = lock};
    if (lock != RT_UNLOCK && conflicts(locks, &wanted))
        return -EAGAIN;
    cut_out(locks, &wanted);
    if (lock != RT_UNLOCK)
        lock_add(locks, wanted);
    return 0;
}

int sim_lock_test(const struct sim_locks *locks, const struct sim_inode *inode, const void *owner,
                  uint64_t start, uint64_t length)
{
    struct sim_lock wanted = {.inode = inode,
                              .owner = owner,
                              .start = start,
                              .end = range_end(start, length),
                              .lock = RT_LOCK_EXCLUSIVE};
    return conflicts(locks, &wanted) ? -EAGAIN : 0;
}

void sim_lock_drop_owner(struct sim_locks *locks, const void *owner)
{
    list_for_each_safe (link, &locks->held) {
        struct sim_lock *held = list_entry(link, struct sim_lock, link);
        if (held->owner == owner)
            lock_free(held);
    }
}
