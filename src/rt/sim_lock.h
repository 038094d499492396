/*
 * Open-file-description locks of simulated files: byte ranges, shared or exclusive, never waited
 * for.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef RT_SIM_LOCK_H
#define RT_SIM_LOCK_H

#include "base/list.h"
#include "rt/rt.h"

struct sim_inode;

struct sim_locks {
    struct list held;
};

void sim_locks_init(struct sim_locks *locks);

/**
 * @owner, which has @inode open, takes, changes or gives up its lock on the range. @length 0: to
 * the end. @return 0, or -EAGAIN where another owner's lock conflicts.
 */
HWS_MUST_CHECK int sim_lock_set(struct sim_locks *locks, const struct sim_inode *inode,
                                const void *owner, uint64_t start, uint64_t length,
                                enum rt_lock lock);

/** Would an exclusive lock conflict? @return 0 or -EAGAIN. */
HWS_MUST_CHECK int sim_lock_test(const struct sim_locks *locks, const struct sim_inode *inode,
                                 const void *owner, uint64_t start, uint64_t length);

/** Gives up all locks of @owner. */
void sim_lock_drop_owner(struct sim_locks *locks, const void *owner);

#endif
