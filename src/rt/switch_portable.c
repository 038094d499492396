/*
 * The coroutine switch for machines without a hand-written one: ucontext to get onto the new stack,
 * once, and _setjmp/_longjmp, which make no system call, from then on; see rt/co.h.
 *
 * A context points to a struct flow: on the stack of the caller of co_context_switch(), or, before
 * the first switch, at the top of the coroutine's own stack.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
/* The checked longjmp takes a jump to another stack for an overrun. */
#undef _FORTIFY_SOURCE
#include "rt/co.h"
#include <setjmp.h>
#include <ucontext.h>

struct flow {
    bool fresh; /* not yet started: lies in a struct first_flow */
    jmp_buf registers;
};

struct first_flow {
    struct flow flow;
    ucontext_t start;
    void (*entry)(void *arg);
    void *arg;
};

/* makecontext() passes ints only. */
static void start(unsigned high, unsigned low)
{
    struct first_flow *first = (struct first_flow *)(uintptr_t)((uint64_t)high << 32 | low);
    first->entry(first->arg);
    abort();
}

void co_context_init(struct co_context *context, void *stack, size_t stack_bytes,
                     void (*entry)(void *arg), void *arg)
{
    uintptr_t top = (uintptr_t)stack + stack_bytes - sizeof(struct first_flow);
    struct first_flow *first = (struct first_flow *)align_down(top, 64);
    first->flow.fresh = true;
    first->entry = entry;
    first->arg = arg;
    int failed = getcontext(&first->start);
    assert(!failed);
    first->start.uc_stack.ss_sp = stack;
    first->start.uc_stack.ss_size = (size_t)((char *)first - (char *)stack);
    first->start.uc_link = NULL;
    uint64_t address = (uintptr_t)first;
    makecontext(&first->start, (void (*)(void))start, 2, (unsigned)(address >> 32),
                (unsigned)address);
    context->stack_pointer = &first->flow;
}

void co_context_switch(struct co_context *from, struct co_context *to)
{
    struct flow here = {.fresh = false};
    struct flow *next = to->stack_pointer;
    from->stack_pointer = &here;
    if (_setjmp(here.registers))
        return;
    if (!next->fresh)
        _longjmp(next->registers, 1);
    next->fresh = false;
    setcontext(&container_of(next, struct first_flow, flow)->start);
    abort();
}
