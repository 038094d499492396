/*
 * The first frame of a coroutine for the hand-written switches; see switch_x86_64.S,
 * switch_aarch64.S.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "rt/co.h"

void co_context_start(void);

void co_context_init(struct co_context *context, void *stack, size_t stack_bytes,
                     void (*entry)(void *arg), void *arg)
{
    uintptr_t top = align_down((uintptr_t)stack + stack_bytes, 16);
#if defined(__x86_64__)
    /* r15 r14 r13 r12 rbx rbp, the address to go to, and padding: at co_context_start the stack
     * pointer is a multiple of 16, so that its call leaves it as the ABI wants. */
    uintptr_t *frame = (uintptr_t *)(top - 16) - 7;
    memset(frame, 0, 7 * sizeof(*frame));
    frame[2] = (uintptr_t)arg;
    frame[3] = (uintptr_t)entry;
    frame[6] = (uintptr_t)co_context_start;
#elif defined(__aarch64__)
    uintptr_t *frame = (uintptr_t *)(top - 160);
    memset(frame, 0, 160);
    frame[8] = (uintptr_t)entry;
    frame[9] = (uintptr_t)arg;
    frame[19] = (uintptr_t)co_context_start;
#else
#error "no hand-written switch for this machine: configure with -Dcoroutine_switch=portable"
#endif
    context->stack_pointer = frame;
}
