/*
 * What a switch between coroutines costs: 2 and 32 that only yield to each other, through the run
 * list of their queue, as the engine does it; and the bare exchange of stacks under it.
 *
 * Prints nanoseconds of CPU a switch: the median of the rounds, and the fastest and slowest of
 * them.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "rt/co.h"
#include "bench/rounds.h"

#define ROUNDS   21
#define SWITCHES 400000

struct result {
    unsigned others; /* coroutines that yield besides the one that measures */
    double round[ROUNDS];
};

static void print(const char *what, struct result *r)
{
    struct rounds all = rounds_of(r->round, ROUNDS);
    printf("%-32s %6.2f ns  (%.2f to %.2f)\n", what, all.median, all.least, all.most);
}

static void co_partner(void *arg)
{
    const bool *done = arg;
    while (!*done)
        co_yield ();
}

static void co_measure(void *arg)
{
    struct result *r = arg;
    unsigned all = r->others + 1;
    bool done = false;
    for (unsigned i = 0; i < r->others; i++)
        if (rt_spawn(NULL, co_partner, &done))
            abort();
    co_yield ();
    for (unsigned i = 0; i < ROUNDS; i++) {
        uint64_t start = cpu_ns(CLOCK_THREAD_CPUTIME_ID);
        for (unsigned n = 0; n < SWITCHES / all; n++)
            co_yield (); /* each of the others runs, then we again */
        r->round[i] = (double)(cpu_ns(CLOCK_THREAD_CPUTIME_ID) - start) / (SWITCHES / all * all);
    }
    done = true;
    co_yield ();
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
        uint64_t start = cpu_ns(CLOCK_THREAD_CPUTIME_ID);
        for (unsigned n = 0; n < SWITCHES / 2; n++)
            co_context_switch(&here, &there);
        r->round[i] = (double)(cpu_ns(CLOCK_THREAD_CPUTIME_ID) - start) / SWITCHES;
    }
}

int main(void)
{
    struct hws_error err = {0};
    struct result pair = {.others = 1}, crowd = {.others = 31}, bare = {0};
    struct rt *rt;
    if (rt_create(NULL, &rt, &err) || rt_run(rt, co_measure, &pair) ||
        rt_run(rt, co_measure, &crowd)) {
        fprintf(stderr, "switch: %s\n", err.text);
        return 1;
    }
    rt_free(rt);
    print("co_yield between 2 coroutines", &pair);
    print("co_yield among 32 coroutines", &crowd);
    measure_bare(&bare);
    print("one exchange of stacks", &bare);
    return 0;
}
