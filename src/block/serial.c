/*
 * Keeps a read-modify-write apart from writes that touch the same aligned blocks.
 *
 *      block 0          block 1
 *   |.....AAAAAAAAAA|AAAAAA.........|    A is padded to both blocks: it reads and writes back dots
 *   |BBBB...........|               |    B must not land between that read and that write
 *
 * Only nodes with request_alignment above 1 come here. Two writes that rewrite nothing but their
 * own bytes never wait for each other.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "block/core.h"

void serial_init(struct serial_set *set)
{
    rt_mutex_init(&set->guard);
    co_waitq_init(&set->waiters);
    list_init(&set->active);
}

void serial_destroy(struct serial_set *set)
{
    assert(list_empty(&set->active));
    rt_mutex_destroy(&set->guard);
}

static bool conflicts(const struct serial_set *set, const struct serial_entry *entry)
{
    list_for_each (node, &set->active) {
        const struct serial_entry *other = list_entry(node, struct serial_entry, link);
        if ((entry->rewrites || other->rewrites) && entry->start < other->end &&
            other->start < entry->end)
            return true;
    }
    return false;
}

void co_serial_begin(struct serial_set *set, struct serial_entry *entry)
{
    rt_mutex_lock(&set->guard);
    while (conflicts(set, entry))
        co_waitq_wait(&set->waiters, &set->guard);
    list_push_back(&set->active, &entry->link);
    rt_mutex_unlock(&set->guard);
}

void serial_end(struct serial_set *set, struct serial_entry *entry)
{
    rt_mutex_lock(&set->guard);
    list_del(&entry->link);
    co_waitq_wake_all(&set->waiters);
    rt_mutex_unlock(&set->guard);
}
