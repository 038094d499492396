/*
 * Locks on byte ranges: shared or exclusive, across suspension, first come first served among those
 * that overlap. For drivers that must keep requests on the same bytes in order.
 *
 * The holder keeps the entry (on its stack). Few requests are in flight on one node, so a list
 * does. Any queue thread.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef BLOCK_RANGE_LOCK_H
#define BLOCK_RANGE_LOCK_H

#include "rt/sync.h"

struct range_lock {
    struct rt_mutex guard;
    struct co_waitq waiters;
    struct list entries; /* held and waiting, in the order of arrival */
};

struct range_entry {
    struct list link;
    uint64_t start, end;
    bool exclusive;
};

void range_lock_init(struct range_lock *lock);
/** Nobody may hold or wait. */
void range_lock_destroy(struct range_lock *lock);

/** Waits for every earlier entry that overlaps [offset, offset + length) and excludes this one. */
void co_range_lock(struct range_lock *lock, struct range_entry *entry, uint64_t offset,
                   uint64_t length, bool exclusive);
void range_unlock(struct range_lock *lock, struct range_entry *entry);

#endif
