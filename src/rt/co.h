/*
 * Inside the runtime: the coroutine itself, its stack, and the switch.
 *
 * The switch is hand-written for x86-64 and aarch64 (switch_*.S) and made of ucontext and _setjmp
 * elsewhere (switch_portable.c). Every switch goes between the scheduler of a queue and a
 * coroutine.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef RT_CO_H
#define RT_CO_H

#include "rt/ops.h"

/* ---- the switch ---- */

/* Where a flow of control rests: its stack pointer, callee-saved registers pushed on its stack. */
struct co_context {
    void *stack_pointer;
};

/** Prepares @context so that the first switch to it calls @entry(@arg), which never returns. */
void co_context_init(struct co_context *context, void *stack, size_t stack_bytes,
                     void (*entry)(void *arg), void *arg);

/** Saves the running flow in @from and goes on in @to. */
void co_context_switch(struct co_context *from, struct co_context *to);

/* ---- coroutines ---- */

enum co_state { CO_RUNNABLE, CO_RUNNING, CO_SUSPENDED, CO_ENDED };

/* Lies at the top of its own stack mapping:
 *
 *   mapping                                                       mapping + mapping_bytes
 *   | guard page | stack, grows down <-------- | struct co |
 */
struct co {
    struct co_context context;
    struct rt_queue *queue;
    struct list run_link;
    struct rt_mail mail; /* to wake or to start it from another thread */
    co_fn *fn;
    void *arg;
    enum co_state state;
    char *mapping;
    size_t mapping_bytes;
    char *stack;
    size_t stack_bytes;
    void *tsan_fiber;
    unsigned valgrind_stack;
};

/** A coroutine with a stack for @q, from its pool where @q is the calling queue. NULL: no memory.
 */
struct co *co_new(struct rt_queue *q, co_fn *fn, void *arg);

/** Runs @co on the calling queue thread until it suspends or ends. */
void co_resume(struct co *co);

/** From the running coroutine @co to the next, or the scheduler, until it is resumed. */
void co_leave(struct co *co);

/** True when the calling thread serves @q. */
bool co_on_queue(const struct rt_queue *q);

/** The runtime of the calling thread's queue; NULL where it serves none. */
struct rt *queue_current_rt(void);

/** Unmaps free stacks until @keep are left. */
void co_trim_stacks(struct rt_queue *q, unsigned keep);

/** rt_mutexes that the calling thread holds: a holder may not suspend. */
extern _Thread_local unsigned rt_mutexes_held;

#endif
