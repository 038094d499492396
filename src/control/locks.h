/*
 * One operation an object at a time: ids that are held. Who comes second waits.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef CONTROL_LOCKS_H
#define CONTROL_LOCKS_H

#include "control/name.h"
#include <pthread.h>

/* Who waits, on its own stack. */
struct locks_waiter {
    const char *id;
    struct locks_waiter *next;
};

struct locks {
    pthread_mutex_t mutex;
    pthread_cond_t freed;
    char (*held)[ID_BYTES];
    unsigned count, capacity;
    struct locks_waiter *waiters;
};

void locks_init(struct locks *locks);
void locks_end(struct locks *locks);

/**
 * Waits up to @timeout_ms for @id: -EBUSY. Whoever holds one id waits for no other, but those that
 * hold a group's: they take its volumes' in the order of the ids.
 */
HWS_MUST_CHECK int locks_take(struct locks *locks, const char *id, unsigned timeout_ms,
                              struct hws_error *err);
void locks_release(struct locks *locks, const char *id);

/** Whether @id is taken, at this moment. */
bool locks_is_held(struct locks *locks, const char *id);

/** Whether somebody waits for @id: what its holder does in the background makes way then. */
bool locks_wanted(struct locks *locks, const char *id);

#endif
