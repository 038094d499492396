/*
 * What a switch between coroutines costs: two that only yield to each other, through the run list of
 * their queue, as the engine does it; and the bare exchange of stacks under it.
 *
 * Prints nanoseconds a switch: the median of the rounds, and the fastest and slowest of them.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "rt/co.h"

#define ROUNDS 21
#define SWITCHES 400000

struct result {
    double round[ROUNDS];
};

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void print(const char *what, struct result *r)
{
    qsort(r->round, ROUNDS, sizeof(r->round[0]), by_size);
    printf("%-44s %6.2f ns  (%.2f to %.2f)\n", what, r->round[ROUNDS / 2], r->round[0],
           r->round[ROUNDS - 1]);
}

static void co_partner(void *arg)
{
    for (unsigned i = 0; i < ROUNDS * SWITCHES / 2; i++)
        co_yield();
}

static void co_measure(void *arg)
{
    struct result *r = arg;
    if (rt_spawn(NULL, co_partner, NULL))
        abort();
    co_yield();
    for (unsigned i = 0; i < ROUNDS; i++) {
        uint64_t start = rt_clock_ns();
        for (unsigned n = 0; n < SWITCHES / 2; n++)
            co_yield(); /* the partner runs, then we again: two switches */
        r->round[i] = (double)(rt_clock_ns() - start) / SWITCHES;
    }
}

static struct co_context here, there;

static void bounce(void *arg)
{
    for (;;)
        co_context_switch(&there, &here);
}

static void measure_bare(struct result *r)
{
    static _Alignas(64) char stack[64 * 1024];
    co_context_init(&there, stack, sizeof(stack), bounce, NULL);
    for (unsigned i = 0; i < ROUNDS; i++) {
        uint64_t start = rt_clock_ns();
        for (unsigned n = 0; n < SWITCHES / 2; n++)
            co_context_switch(&here, &there);
        r->round[i] = (double)(rt_clock_ns() - start) / SWITCHES;
    }
}

int main(void)
{
    struct hws_error err = {0};
    struct result yield = {0}, bare = {0};
    struct rt *rt;
    if (rt_create(NULL, &rt, &err) || rt_run(rt, co_measure, &yield)) {
        fprintf(stderr, "switch: %s\n", err.text);
        return 1;
    }
    rt_free(rt);
    print("from one coroutine to another (co_yield)", &yield);
    measure_bare(&bare);
    print("one exchange of stacks", &bare);
    return 0;
}
