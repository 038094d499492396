/*
 * Coroutines: their stacks, pooled by queue, and the way in and out with what the sanitizers and
 * valgrind want to know about it.
 *
 * All of it belongs to the queue's thread, except that co_new() on behalf of another queue maps a
 * fresh stack, which joins that queue's pool when the coroutine ends.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "rt/co.h"
#include <sys/mman.h>

#if defined(__SANITIZE_ADDRESS__)
#define CO_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define CO_ASAN 1
#endif
#endif
#if defined(__SANITIZE_THREAD__)
#define CO_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define CO_TSAN 1
#endif
#endif

#ifdef CO_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#ifdef CO_TSAN
#include <sanitizer/tsan_interface.h>
#endif
#ifdef HAVE_VALGRIND
#include <valgrind/valgrind.h>
#endif

/* Free stacks that a busy queue keeps; an idle one keeps fewer (queue.c). */
#define STACKS_KEPT 256u

_Thread_local unsigned rt_mutexes_held;

/* Where this thread's scheduler rests while a coroutine runs. */
static _Thread_local struct scheduler {
    struct co_context context;
    const void *stack; /* its bounds, learnt by the first switch away from it */
    size_t stack_bytes;
    void *tsan_fiber;
} scheduler;

/* ---- annotations ---- */

/* Around a switch: leave() on the old stack, arrive() on the new one. */
static inline void leave(void **fake_stack, const void *stack, size_t bytes, void *tsan_fiber)
{
#ifdef CO_ASAN
    __sanitizer_start_switch_fiber(fake_stack, stack, bytes);
#endif
#ifdef CO_TSAN
    __tsan_switch_to_fiber(tsan_fiber, 0);
#endif
}

static inline void arrive(void *fake_stack)
{
#ifdef CO_ASAN
    const void *old_stack;
    size_t old_bytes;
    __sanitizer_finish_switch_fiber(fake_stack, &old_stack, &old_bytes);
    if (!scheduler.stack) { /* the first switch of a thread comes from its scheduler */
        scheduler.stack = old_stack;
        scheduler.stack_bytes = old_bytes;
    }
#endif
}

static void register_stack(struct co *co)
{
#ifdef CO_TSAN
    co->tsan_fiber = __tsan_create_fiber(0);
#endif
#ifdef HAVE_VALGRIND
    co->valgrind_stack = VALGRIND_STACK_REGISTER(co->stack, co->stack + co->stack_bytes);
#endif
}

static void unregister_stack(struct co *co)
{
#ifdef CO_TSAN
    __tsan_destroy_fiber(co->tsan_fiber);
#endif
#ifdef HAVE_VALGRIND
    VALGRIND_STACK_DEREGISTER(co->valgrind_stack);
#endif
}

/* ---- stacks ---- */

static struct co *map_stack(size_t stack_bytes)
{
    size_t guard = (size_t)sysconf(_SC_PAGESIZE);
    size_t bytes = guard + align_up(stack_bytes, guard);
    char *mapping = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK | MAP_NORESERVE, -1, 0);
    if (mapping == MAP_FAILED)
        return NULL;
    if (mprotect(mapping, guard, PROT_NONE)) {
        munmap(mapping, bytes);
        return NULL;
    }
    struct co *co = (struct co *)align_down((uintptr_t)mapping + bytes - sizeof(struct co), 64);
    *co = (struct co){.mapping = mapping, .mapping_bytes = bytes, .stack = mapping + guard};
    co->stack_bytes = (size_t)((char *)co - co->stack);
    register_stack(co);
    return co;
}

/* The frames of a flow that ended without returning are still marked, and the marks would stay with
 * the addresses, whatever is mapped there next. */
static void unpoison(struct co *co)
{
#ifdef CO_ASAN
    __asan_unpoison_memory_region(co->stack, co->stack_bytes);
#endif
}

static void unmap_stack(struct co *co)
{
    unregister_stack(co);
    unpoison(co);
    munmap(co->mapping, co->mapping_bytes);
}

void co_trim_stacks(struct rt_queue *q, unsigned keep)
{
    while (q->stacks_free > keep) {
        q->stacks_free--;
        unmap_stack(list_entry(list_pop_front(&q->stacks), struct co, run_link));
    }
}

static void recycle(struct rt_queue *q, struct co *co)
{
    if (q->stacks_free == STACKS_KEPT) {
        unmap_stack(co);
        return;
    }
    unpoison(co);
    /* The warmest first. */
    list_push_front(&q->stacks, &co->run_link);
    q->stacks_free++;
}

/* ---- life ---- */

static void co_main(void *arg)
{
    struct co *co = arg;
    arrive(NULL);
    co->fn(co->arg);
    assert(rt_mutexes_held == 0);
    co->state = CO_ENDED;
    /* No place to keep a fake stack: this one is not coming back. */
    leave(NULL, scheduler.stack, scheduler.stack_bytes, scheduler.tsan_fiber);
    co_context_switch(&co->context, &scheduler.context);
    abort();
}

struct co *co_new(struct rt_queue *q, co_fn *fn, void *arg)
{
    struct co *co;
    if (co_on_queue(q) && q->stacks_free > 0) {
        co = list_entry(list_pop_front(&q->stacks), struct co, run_link);
        q->stacks_free--;
    } else {
        co = map_stack(q->rt->options.stack_bytes);
        if (!co)
            return NULL;
    }
    co->queue = q;
    co->fn = fn;
    co->arg = arg;
    co->state = CO_SUSPENDED;
    list_init(&co->run_link);
    co_context_init(&co->context, co->stack, co->stack_bytes, co_main, co);
    return co;
}

static inline void begin(struct rt_queue *q, struct co *co)
{
    assert(co->state == CO_RUNNABLE);
    q->running = co;
    co->state = CO_RUNNING;
    rt_count(&q->count.switches, 1);
}

void co_resume(struct co *co)
{
    struct rt_queue *q = co->queue;
    void *fake_stack = NULL;
    assert(!q->running);
    begin(q, co);
#ifdef CO_TSAN
    scheduler.tsan_fiber = __tsan_get_current_fiber();
#endif
    leave(&fake_stack, co->stack, co->stack_bytes, co->tsan_fiber);
    co_context_switch(&scheduler.context, &co->context);
    arrive(fake_stack);
    co = q->running; /* the last one of those that went on to each other */
    q->running = NULL;
    if (co->state == CO_ENDED) {
        q->alive--;
        rt_count(&q->count.coroutines, -1ull);
        recycle(q, co);
    }
}

/* Straight to the next coroutine of the round where there is one: half the switches. */
void co_leave(struct co *co)
{
    struct rt_queue *q = co->queue;
    void *fake_stack = NULL;
    assert(rt_mutexes_held == 0);
    if (list_empty(&q->round)) {
        leave(&fake_stack, scheduler.stack, scheduler.stack_bytes, scheduler.tsan_fiber);
        co_context_switch(&co->context, &scheduler.context);
    } else {
        struct co *next = list_entry(q->round.next, struct co, run_link);
        list_del(&next->run_link);
        begin(q, next);
        leave(&fake_stack, next->stack, next->stack_bytes, next->tsan_fiber);
        co_context_switch(&co->context, &next->context);
    }
    arrive(fake_stack);
}
