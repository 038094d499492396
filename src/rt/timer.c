/*
 * The pairing heap behind rt/timer.h.
 *
 *   root -> child -> next -> next      each child is the root of a heap of its own
 *             |
 *           child -> next
 *
 * Arming is O(1), taking the first or cancelling O(log n) amortised. `link` is the one pointer that
 * refers to a node (its parent's child or its elder sibling's next), so that a node can be cut out.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "rt/timer.h"

static bool earlier(const struct timer *a, const struct timer *b)
{
    if (a->deadline_ns != b->deadline_ns)
        return a->deadline_ns < b->deadline_ns;
    return a->sequence < b->sequence;
}

/* Two heaps become one. Either may be NULL; neither has siblings. */
static struct timer *meld(struct timer *a, struct timer *b)
{
    if (!a || !b)
        return a ? a : b;
    if (earlier(b, a)) {
        struct timer *swap = a;
        a = b;
        b = swap;
    }
    b->next = a->child;
    if (b->next)
        b->next->link = &b->next;
    b->link = &a->child;
    a->child = b;
    return a;
}

/* The usual two passes: pairs from the left, then all of them from the right. */
static struct timer *meld_siblings(struct timer *first)
{
    struct timer *pairs = NULL;
    while (first) {
        struct timer *a = first, *b = a->next;
        first = b ? b->next : NULL;
        a->next = NULL;
        if (b)
            b->next = NULL;
        struct timer *pair = meld(a, b);
        pair->next = pairs;
        pairs = pair;
    }
    struct timer *heap = NULL;
    while (pairs) {
        struct timer *rest = pairs->next;
        pairs->next = NULL;
        heap = meld(heap, pairs);
        pairs = rest;
    }
    return heap;
}

static void set_root(struct timers *timers, struct timer *root)
{
    timers->root = root;
    if (root) {
        root->next = NULL;
        root->link = &timers->root;
    }
}

void timer_arm(struct timers *timers, struct timer *timer, uint64_t deadline_ns,
               void (*fire)(struct timer *timer))
{
    *timer =
        (struct timer){.deadline_ns = deadline_ns, .sequence = timers->sequence++, .fire = fire};
    set_root(timers, meld(timers->root, timer));
}

void timer_cancel(struct timers *timers, struct timer *timer)
{
    if (!timer_armed(timer))
        return;
    if (timer == timers->root) {
        set_root(timers, meld_siblings(timer->child));
    } else {
        *timer->link = timer->next;
        if (timer->next)
            timer->next->link = timer->link;
        set_root(timers, meld(timers->root, meld_siblings(timer->child)));
    }
    timer->child = timer->next = NULL;
    timer->link = NULL;
}

struct timer *timer_take_due(struct timers *timers, uint64_t now_ns)
{
    struct timer *first = timers->root;
    if (!first || first->deadline_ns > now_ns)
        return NULL;
    timer_cancel(timers, first);
    return first;
}
