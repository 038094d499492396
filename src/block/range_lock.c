/*
 * Locks on byte ranges; see block/range_lock.h.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "block/range_lock.h"

void range_lock_init(struct range_lock *lock)
{
    rt_mutex_init(&lock->guard);
    co_waitq_init(&lock->waiters);
    list_init(&lock->entries);
}

void range_lock_destroy(struct range_lock *lock)
{
    assert(list_empty(&lock->entries));
    rt_mutex_destroy(&lock->guard);
}

/* True while an entry that came before @entry keeps it waiting. */
static bool must_wait(const struct range_entry *entry, const struct list *head)
{
    for (const struct list *at = entry->link.prev; at != head; at = at->prev) {
        const struct range_entry *earlier = list_entry(at, struct range_entry, link);
        if ((entry->exclusive || earlier->exclusive) && entry->start < earlier->end &&
            earlier->start < entry->end)
            return true;
    }
    return false;
}

void co_range_lock(struct range_lock *lock, struct range_entry *entry, uint64_t offset,
                   uint64_t length, bool exclusive)
{
    entry->start = offset;
    entry->end = offset + length;
    entry->exclusive = exclusive;
    rt_mutex_lock(&lock->guard);
    list_push_back(&lock->entries, &entry->link);
    while (must_wait(entry, &lock->entries))
        co_waitq_wait(&lock->waiters, &lock->guard);
    rt_mutex_unlock(&lock->guard);
}

void range_unlock(struct range_lock *lock, struct range_entry *entry)
{
    rt_mutex_lock(&lock->guard);
    list_del(&entry->link);
    co_waitq_wake_all(&lock->waiters);
    rt_mutex_unlock(&lock->guard);
}
