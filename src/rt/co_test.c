/*
 * Coroutines, queues, timers, the worker pool.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "rt/rt_test.h"
#include <pthread.h>
#include <sys/resource.h>
#include <sys/wait.h>

/* ---- order ---- */

static char trace[256];

static void note(char what)
{
    size_t length = strlen(trace);
    CHECK(length + 1 < sizeof(trace));
    trace[length] = what;
    trace[length + 1] = '\0';
}

static void co_two_steps(void *arg)
{
    char name = *(char *)arg;
    note(name);
    co_yield ();
    note((char)(name - 'a' + 'A'));
}

TEST(coroutines_run_in_the_order_of_spawning_and_yield_lets_others_first)
{
    static char names[] = "abc";
    trace[0] = '\0';
    for (int i = 0; i < 3; i++)
        CHECK_EQUAL(rt_spawn(NULL, co_two_steps, &names[i]), 0);
    CHECK_EQUAL(strlen(trace), 0);
    co_yield ();
    CHECK(strcmp(trace, "abc") == 0);
    co_yield ();
    CHECK(strcmp(trace, "abcABC") == 0);
    CHECK(co_running());
}

struct registers {
    uint64_t seed;
    struct co_group *group;
};

/* More live values than there are registers, of both kinds, so that all of them are in use. */
static void co_keeps_registers(void *arg)
{
    const struct registers *r = arg;
    uint64_t i0 = r->seed, i1 = i0 * 3, i2 = i0 * 5, i3 = i0 * 7, i4 = i0 * 11, i5 = i0 * 13;
    uint64_t i6 = i0 * 17, i7 = i0 * 19, i8 = i0 * 23, i9 = i0 * 29, i10 = i0 * 31;
    double base = (double)r->seed, d0 = base * 3, d1 = base * 5, d2 = base * 7, d3 = base * 11;
    double d4 = base * 13, d5 = base * 17, d6 = base * 19, d7 = base * 23;
    for (unsigned n = 1; n <= 50; n++) {
        i0++, i1++, i2++, i3++, i4++, i5++, i6++, i7++, i8++, i9++, i10++;
        d0++, d1++, d2++, d3++, d4++, d5++, d6++, d7++;
        co_yield ();
        CHECK(i1 == r->seed * 3 + n && i5 == r->seed * 13 + n && i10 == r->seed * 31 + n);
    }
    uint64_t s = r->seed;
    CHECK_EQUAL(i0 + i1 + i2 + i3 + i4 + i5 + i6 + i7 + i8 + i9 + i10, s * 159 + 11 * 50);
    CHECK(d0 == base * 3 + 50 && d1 == base * 5 + 50 && d2 == base * 7 + 50);
    CHECK(d3 == base * 11 + 50 && d4 == base * 13 + 50 && d5 == base * 17 + 50);
    CHECK(d6 == base * 19 + 50 && d7 == base * 23 + 50);
    co_group_done(r->group);
}

TEST(registers_survive_switches)
{
    struct co_group group;
    struct registers each[7];
    co_group_init(&group);
    co_group_add(&group, ARRAY_LEN(each));
    for (unsigned i = 0; i < ARRAY_LEN(each); i++) {
        each[i] = (struct registers){1000 * i + 7, &group};
        CHECK_EQUAL(rt_spawn(NULL, co_keeps_registers, &each[i]), 0);
    }
    co_group_wait(&group);
    co_group_destroy(&group);
}

struct sleep_order {
    uint64_t duration_ns;
    char name;
    struct co_group *group;
};

static void co_sleeps(void *arg)
{
    struct sleep_order *s = arg;
    uint64_t start = rt_now_ns();
    co_sleep_ns(s->duration_ns);
    CHECK(rt_now_ns() - start >= s->duration_ns);
    note(s->name);
    co_group_done(s->group);
}

TEST(timers_fire_by_deadline)
{
    struct co_group group;
    struct sleep_order sleeps[] = {
        {30 * MS, 'd', &group}, {0, 'a', &group}, {10 * MS, 'b', &group}, {20 * MS, 'c', &group}};
    trace[0] = '\0';
    co_group_init(&group);
    co_group_add(&group, ARRAY_LEN(sleeps));
    for (size_t i = 0; i < ARRAY_LEN(sleeps); i++)
        CHECK_EQUAL(rt_spawn(NULL, co_sleeps, &sleeps[i]), 0);
    co_group_wait(&group);
    co_group_destroy(&group);
    CHECK(strcmp(trace, "abcd") == 0);
}

/* ---- stacks ---- */

#define MANY 2000

static void co_waits_in_crowd(void *arg)
{
    struct co_group *group = arg;
    co_sleep_ns(5 * MS);
    co_group_done(group);
}

TEST(thousands_of_coroutines_live_at_once)
{
    struct co_group group;
    co_group_init(&group);
    for (int round = 0; round < 2; round++) {
        co_group_add(&group, MANY);
        for (int i = 0; i < MANY; i++)
            CHECK_EQUAL(rt_spawn(NULL, co_waits_in_crowd, &group), 0);
        CHECK_EQUAL(rt_queue_counters(NULL).coroutines, MANY + 1);
        co_group_wait(&group);
    }
    co_group_destroy(&group);
    co_yield (); /* the last of them may not have returned yet */
    CHECK_EQUAL(rt_queue_counters(NULL).coroutines, 1);
}

static unsigned recurse(unsigned depth)
{
    char frame[1024];
    memset(frame, (char)depth, sizeof(frame));
    __asm__ volatile("" ::"r"(frame) : "memory"); /* so that it is really there */
    if (depth == 0) {
        co_yield ();
        return 0;
    }
    unsigned below = recurse(depth - 1);
    CHECK(frame[0] == (char)depth && frame[1023] == (char)depth);
    return below + 1;
}

static void co_deep(void *arg)
{
    CHECK_EQUAL(recurse(40), 40);
    co_group_done(arg);
}

TEST(deep_stacks_survive_suspension)
{
    struct co_group group;
    co_group_init(&group);
    co_group_add(&group, 20);
    for (int i = 0; i < 20; i++)
        CHECK_EQUAL(rt_spawn(NULL, co_deep, &group), 0);
    co_group_wait(&group);
    co_group_destroy(&group);
}

#ifndef SANITIZED
static volatile unsigned overflow_depth = 1u << 20;

static void co_nothing(void *arg)
{
}

static void co_overflow(void *arg)
{
    recurse(overflow_depth);
}

static void an_overflowing_stack_hits_the_guard_page(void **state)
{
    run_on(state, co_nothing); /* skips here, not in the child */
    pid_t child = fork();
    if (child == 0) {
        struct rlimit none = {0};
        setrlimit(RLIMIT_CORE, &none);
        signal(SIGSEGV, SIG_DFL);
        run_on(state, co_overflow);
        _exit(0);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
}

static long resident_kib(void)
{
    long pages = 0, ignored;
    FILE *f = fopen("/proc/self/statm", "re");
    CHECK(f && fscanf(f, "%ld %ld", &ignored, &pages) == 2);
    fclose(f);
    return pages * (sysconf(_SC_PAGESIZE) / 1024);
}

static void co_touches_stack(void *arg)
{
    CHECK_EQUAL(recurse(40), 40);
    co_group_done(arg);
}

TEST(an_idle_queue_gives_its_stacks_back)
{
    struct co_group group;
    long before = resident_kib();
    co_group_init(&group);
    co_group_add(&group, 200);
    for (int i = 0; i < 200; i++)
        CHECK_EQUAL(rt_spawn(NULL, co_touches_stack, &group), 0);
    co_group_wait(&group);
    CHECK(resident_kib() - before > 200 * 30);
    co_sleep_ns(1500 * MS);
    CHECK(resident_kib() - before < 1024);
    co_group_destroy(&group);
}
#endif

/* ---- several queues ---- */

static struct rt_queue *start_queue(const char *name)
{
    struct hws_error err = {0};
    struct rt_queue *q;
    CHECK_EQUAL(rt_queue_start(rt_current(), name, &q, &err), 0);
    return q;
}

static void co_notes_queue(void *arg)
{
    *(struct rt_queue **)arg = rt_self();
    co_sleep_ns(MS);
    CHECK(rt_self() == *(struct rt_queue **)arg);
}

TEST(queues_start_and_stop_with_their_coroutines_ended)
{
    for (int i = 0; i < 30; i++) {
        struct rt_queue *q = start_queue("short"), *seen = NULL;
        CHECK_EQUAL(rt_spawn(q, co_notes_queue, &seen), 0);
        co_queue_stop(q);
        CHECK(seen == q);
    }
    struct rt_queue *unused = start_queue("unused");
    co_queue_stop(unused);
}

#define STORM 4

/* A wake-up costs a hundredfold where the processor is emulated (tests/lab). */
static int storm_rounds(void)
{
    return getenv("HAWSER_TEST_EMULATED") ? 300 : 3000;
}

/* Two coroutines on two queues wake each other, as fast as they can. */
struct pair {
    struct rt_mutex mutex;
    struct co_waitq turn;
    unsigned count;
    struct co_group *group;
};

static void co_ping_pong(void *arg, unsigned parity)
{
    struct pair *p = arg;
    int rounds = storm_rounds();
    for (int i = 0; i < rounds; i++) {
        rt_mutex_lock(&p->mutex);
        while (p->count % 2 != parity)
            co_waitq_wait(&p->turn, &p->mutex);
        p->count++;
        co_waitq_wake_all(&p->turn);
        rt_mutex_unlock(&p->mutex);
    }
    co_group_done(p->group);
}

static void co_ping(void *arg)
{
    co_ping_pong(arg, 0);
}

static void co_pong(void *arg)
{
    co_ping_pong(arg, 1);
}

TEST(wake_storms_between_queues_lose_nothing)
{
    struct rt_queue *a = start_queue("storm-a"), *b = start_queue("storm-b");
    struct co_group group;
    static struct pair pairs[STORM];
    co_group_init(&group);
    co_group_add(&group, 2 * STORM);
    for (int i = 0; i < STORM; i++) {
        pairs[i] = (struct pair){.group = &group};
        rt_mutex_init(&pairs[i].mutex);
        co_waitq_init(&pairs[i].turn);
        CHECK_EQUAL(rt_spawn(a, co_ping, &pairs[i]), 0);
        CHECK_EQUAL(rt_spawn(i % 2 ? b : a, co_pong, &pairs[i]), 0);
    }
    co_group_wait(&group);
    for (int i = 0; i < STORM; i++)
        CHECK_EQUAL(pairs[i].count, 2 * storm_rounds());
    co_queue_stop(a);
    co_queue_stop(b);
    co_group_destroy(&group);
}

static void co_counts(void *arg)
{
    atomic_fetch_add((_Atomic int *)arg, 1);
}

struct foreign {
    struct rt_queue *queue;
    _Atomic int count;
};

static void *spawn_many(void *arg)
{
    struct foreign *f = arg;
    for (int i = 0; i < 200; i++)
        CHECK_EQUAL(rt_spawn(f->queue, co_counts, &f->count), 0);
    return NULL;
}

static int join(void *thread)
{
    return pthread_join(*(pthread_t *)thread, NULL);
}

TEST(threads_without_a_queue_may_spawn)
{
    struct foreign f = {.queue = rt_self()};
    pthread_t threads[3];
    for (size_t i = 0; i < ARRAY_LEN(threads); i++)
        CHECK_EQUAL(pthread_create(&threads[i], NULL, spawn_many, &f), 0);
    for (size_t i = 0; i < ARRAY_LEN(threads); i++)
        CHECK_EQUAL(co_work(join, &threads[i]), 0);
    while (f.count < 600)
        co_sleep_ns(MS);
    CHECK_EQUAL(f.count, 600);
}

/* ---- work ---- */

struct work_unit {
    int input;
    pthread_t thread;
    struct co_group *group;
};

static int work(void *arg)
{
    struct work_unit *unit = arg;
    unit->thread = pthread_self();
    usleep(500);
    return -unit->input;
}

static void co_works(void *arg)
{
    struct work_unit *unit = arg;
    CHECK_EQUAL(co_work(work, unit), -unit->input);
    CHECK(!pthread_equal(unit->thread, pthread_self()));
    co_group_done(unit->group);
}

TEST(work_runs_on_other_threads_and_answers)
{
    struct work_unit units[64];
    struct co_group group;
    co_group_init(&group);
    co_group_add(&group, ARRAY_LEN(units));
    for (int i = 0; i < (int)ARRAY_LEN(units); i++) {
        units[i] = (struct work_unit){.input = i, .group = &group};
        CHECK_EQUAL(rt_spawn(NULL, co_works, &units[i]), 0);
    }
    co_group_wait(&group);
    co_group_destroy(&group);
}

TEST(random_numbers_and_time_move)
{
    CHECK(rt_random_u64() != rt_random_u64());
    uint64_t before = rt_now_ns();
    co_sleep_ns(2 * MS);
    CHECK(rt_now_ns() >= before + 2 * MS);
    CHECK(rt_now_ns() < before + 60000 * MS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        ON_BOTH(coroutines_run_in_the_order_of_spawning_and_yield_lets_others_first),
        ON_BOTH(registers_survive_switches),
        ON_BOTH(timers_fire_by_deadline),
        ON_BOTH(thousands_of_coroutines_live_at_once),
        ON_BOTH(deep_stacks_survive_suspension),
#ifndef SANITIZED
        ON_BOTH(an_overflowing_stack_hits_the_guard_page),
        ON_BOTH(an_idle_queue_gives_its_stacks_back),
#endif
        ON_BOTH(queues_start_and_stop_with_their_coroutines_ended),
        ON_BOTH(wake_storms_between_queues_lose_nothing),
        ON_BOTH(threads_without_a_queue_may_spawn),
        ON_BOTH(work_runs_on_other_threads_and_answers),
        ON_BOTH(random_numbers_and_time_move),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
