/*
 * Timers of one queue: an intrusive pairing heap, so that nothing is allocated. Timers that are due
 * at the same nanosecond fire in the order in which they were armed. A timer lies on the stack of
 * the coroutine that waits for it. Own thread only.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef RT_TIMER_H
#define RT_TIMER_H

#include "base/common.h"

struct timer {
    uint64_t deadline_ns;
    uint64_t sequence;
    void (*fire)(struct timer *timer); /* runs in the scheduler: may not suspend */
    struct timer *child, *next;        /* first child; next sibling */
    struct timer **link;               /* the pointer that points here; NULL when not armed */
};

struct timers {
    struct timer *root;
    uint64_t sequence;
};

/** Arms @timer, which is not armed. */
void timer_arm(struct timers *timers, struct timer *timer, uint64_t deadline_ns,
               void (*fire)(struct timer *timer));

/** Disarms; harmless when it has fired or was not armed. */
void timer_cancel(struct timers *timers, struct timer *timer);

/** Takes off the first timer if it is due at @now_ns, else NULL. The caller fires it. */
struct timer *timer_take_due(struct timers *timers, uint64_t now_ns);

static inline bool timer_armed(const struct timer *timer)
{
    return timer->link != NULL;
}

#endif
