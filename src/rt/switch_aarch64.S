/*
 * The coroutine switch for aarch64, AAPCS64; see rt/co.h.
 *
 * x19-x30, the stack pointer and the low halves of v8-v15 are callee-saved. The frame is 160 bytes:
 *
 *   sp +   0  d8  d9  d10 d11 d12 d13 d14 d15
 *   sp +  64  x19 x20 x21 x22 x23 x24 x25 x26 x27 x28
 *   sp + 144  x29 x30
 *
 * The entry is reached by a branch through a register and begins with bti jc. Return addresses are
 * not signed here: a signature would be bound to the stack pointer, which is right for each flow, but
 * buys nothing for a frame that only this file writes.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
    .text

/* void co_context_switch(struct co_context *from, struct co_context *to) */
    .globl  co_context_switch
    .hidden co_context_switch
    .type   co_context_switch, %function
    .p2align 4
co_context_switch:
    .cfi_startproc
    hint    #34                         /* bti c */
    sub     sp, sp, #160
    stp     d8, d9, [sp, #0]
    stp     d10, d11, [sp, #16]
    stp     d12, d13, [sp, #32]
    stp     d14, d15, [sp, #48]
    stp     x19, x20, [sp, #64]
    stp     x21, x22, [sp, #80]
    stp     x23, x24, [sp, #96]
    stp     x25, x26, [sp, #112]
    stp     x27, x28, [sp, #128]
    stp     x29, x30, [sp, #144]
    mov     x9, sp
    str     x9, [x0]
    ldr     x9, [x1]
    mov     sp, x9
    ldp     d8, d9, [sp, #0]
    ldp     d10, d11, [sp, #16]
    ldp     d12, d13, [sp, #32]
    ldp     d14, d15, [sp, #48]
    ldp     x19, x20, [sp, #64]
    ldp     x21, x22, [sp, #80]
    ldp     x23, x24, [sp, #96]
    ldp     x25, x26, [sp, #112]
    ldp     x27, x28, [sp, #128]
    ldp     x29, x30, [sp, #144]
    add     sp, sp, #160
    br      x30
    .cfi_endproc
    .size   co_context_switch, . - co_context_switch

/* First arrival in a coroutine: x19 holds the entry, x20 its argument. */
    .globl  co_context_start
    .hidden co_context_start
    .type   co_context_start, %function
    .p2align 4
co_context_start:
    .cfi_startproc
    .cfi_undefined x30
    hint    #38                         /* bti jc */
    mov     x29, xzr
    mov     x0, x20
    blr     x19
    brk     #1
    .cfi_endproc
    .size   co_context_start, . - co_context_start

    .section .note.GNU-stack, "", %progbits
