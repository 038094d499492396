/*
 * Mutexes, condition queues with timeouts, and groups, over several queues; and the timers by
 * themselves against a model.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "rt/rt_test.h"
#include "base/random.h"
#include "rt/timer.h"

#define QUEUES 3

static struct rt_queue *queues[QUEUES];

static void start_queues(void)
{
    struct hws_error err = {0};
    for (int i = 0; i < QUEUES; i++)
        CHECK_EQUAL(rt_queue_start(rt_current(), "test", &queues[i], &err), 0);
}

static void co_stop_queues(void)
{
    for (int i = 0; i < QUEUES; i++)
        co_queue_stop(queues[i]);
}

/* ---- co_mutex ---- */

struct counted {
    struct co_mutex mutex;
    struct co_group group;
    bool inside;
    unsigned count;
};

static void co_increments(void *arg)
{
    struct counted *c = arg;
    for (int i = 0; i < 40; i++) {
        co_mutex_lock(&c->mutex);
        CHECK(!c->inside);
        c->inside = true;
        unsigned before = c->count;
        if (i % 4 == 0)
            co_sleep_ns(10000);
        else
            co_yield ();
        c->count = before + 1;
        c->inside = false;
        co_mutex_unlock(&c->mutex);
    }
    co_group_done(&c->group);
}

TEST(a_co_mutex_held_over_suspension_excludes_all_queues)
{
    struct counted c = {0};
    co_mutex_init(&c.mutex);
    co_group_init(&c.group);
    co_group_add(&c.group, 4 * QUEUES);
    start_queues();
    for (int i = 0; i < 4 * QUEUES; i++)
        CHECK_EQUAL(rt_spawn(queues[i % QUEUES], co_increments, &c), 0);
    co_group_wait(&c.group);
    CHECK_EQUAL(c.count, 4 * QUEUES * 40);
    co_stop_queues();
    co_mutex_destroy(&c.mutex);
    co_group_destroy(&c.group);
}

struct fairness {
    struct co_mutex mutex;
    unsigned arrived, served;
};

static void co_queues_up(void *arg)
{
    struct fairness *f = arg;
    unsigned mine = f->arrived++;
    co_mutex_lock(&f->mutex);
    CHECK_EQUAL(f->served, mine);
    f->served++;
    co_mutex_unlock(&f->mutex);
}

TEST(a_co_mutex_is_first_come_first_served)
{
    struct fairness f = {0};
    co_mutex_init(&f.mutex);
    CHECK(co_mutex_try_lock(&f.mutex));
    for (int i = 0; i < 20; i++)
        CHECK_EQUAL(rt_spawn(NULL, co_queues_up, &f), 0);
    co_yield ();
    CHECK_EQUAL(f.arrived, 20);
    CHECK_EQUAL(f.served, 0);
    co_mutex_unlock(&f.mutex);
    CHECK(!co_mutex_try_lock(&f.mutex)); /* handed over, not up for grabs */
    while (f.served < 20)
        co_yield ();
    co_yield ();
    co_mutex_destroy(&f.mutex);
}

/* ---- timeouts ---- */

TEST(a_wait_that_nobody_ends_times_out)
{
    struct rt_mutex mutex;
    struct co_waitq wq;
    rt_mutex_init(&mutex);
    co_waitq_init(&wq);
    rt_mutex_lock(&mutex);
    uint64_t deadline = rt_now_ns() + 5 * MS;
    CHECK(!co_waitq_wait_until(&wq, &mutex, deadline));
    CHECK(rt_now_ns() >= deadline);
    CHECK(!co_waitq_wait_until(&wq, &mutex, 0)); /* a deadline in the past */
    CHECK(list_empty(&wq.waiters));
    rt_mutex_unlock(&mutex);
    rt_mutex_destroy(&mutex);
}

/* Consumers with short timeouts against a producer on another queue: every token that was handed to
 * a waiter is taken by exactly one, however close its timeout. */
struct tokens {
    struct rt_mutex mutex;
    struct co_waitq wq;
    unsigned available, woken, timeouts;
    uint64_t seed;
    struct co_group group;
};

static void co_consumes(void *arg)
{
    struct tokens *t = arg;
    rt_mutex_lock(&t->mutex);
    struct random random = random_seed(t->seed++);
    for (int taken = 0; taken < 60;) {
        if (t->available > 0) {
            t->available--;
            taken++;
            continue;
        }
        uint64_t deadline_ns = rt_now_ns() + random_below(&random, 60000);
        if (co_waitq_wait_until(&t->wq, &t->mutex, deadline_ns))
            t->woken++;
        else
            t->timeouts++;
    }
    rt_mutex_unlock(&t->mutex);
    co_group_done(&t->group);
}

static void co_produces(void *arg)
{
    struct tokens *t = arg;
    struct random random = random_seed(99);
    for (int i = 0; i < 8 * 60; i++) {
        rt_mutex_lock(&t->mutex);
        t->available++;
        if (i % 5)
            co_waitq_wake_one(&t->wq);
        else
            co_waitq_wake_all(&t->wq);
        rt_mutex_unlock(&t->mutex);
        co_sleep_ns(random_below(&random, 40000));
    }
    co_group_done(&t->group);
}

TEST(timeouts_race_wake_ups_without_losing_either)
{
    struct tokens t = {0};
    rt_mutex_init(&t.mutex);
    co_waitq_init(&t.wq);
    co_group_init(&t.group);
    co_group_add(&t.group, 9);
    start_queues();
    for (int i = 0; i < 8; i++)
        CHECK_EQUAL(rt_spawn(queues[i % QUEUES], co_consumes, &t), 0);
    CHECK_EQUAL(rt_spawn(NULL, co_produces, &t), 0);
    co_group_wait(&t.group);
    CHECK_EQUAL(t.available, 0);
    CHECK(t.woken > 0 && t.timeouts > 0);
    CHECK(list_empty(&t.wq.waiters));
    co_stop_queues();
    co_group_destroy(&t.group);
    rt_mutex_destroy(&t.mutex);
}

/* ---- co_group ---- */

static void co_ends_later(void *arg)
{
    co_sleep_ns(MS);
    co_group_done(arg);
}

static void co_waits_too(void *arg)
{
    struct co_group **groups = arg;
    co_group_wait(groups[0]);
    co_group_done(groups[1]);
}

TEST(a_group_has_many_waiters_and_can_be_used_again)
{
    struct co_group work, waiters;
    struct co_group *both[] = {&work, &waiters};
    co_group_init(&work);
    co_group_init(&waiters);
    co_group_wait(&work); /* empty: at once */
    start_queues();
    for (int round = 0; round < 3; round++) {
        co_group_add(&work, 30);
        co_group_add(&waiters, 6);
        for (int i = 0; i < 6; i++)
            CHECK_EQUAL(rt_spawn(queues[i % QUEUES], co_waits_too, both), 0);
        for (int i = 0; i < 30; i++)
            CHECK_EQUAL(rt_spawn(queues[i % QUEUES], co_ends_later, &work), 0);
        co_group_wait(&work);
        CHECK_EQUAL(work.pending, 0);
        co_group_wait(&waiters);
    }
    co_stop_queues();
    co_group_destroy(&work);
    co_group_destroy(&waiters);
}

/* ---- timers ---- */

static void never_fired(struct timer *timer)
{
    abort();
}

#define TIMERS 300

static void timers_agree_with_a_sorted_model(void **state)
{
    static struct timer timer[TIMERS];
    struct random random = random_seed(7);
    for (int round = 0; round < 200; round++) {
        struct timers timers = {0};
        unsigned armed = 0;
        memset(timer, 0, sizeof(timer));
        for (int step = 0; step < TIMERS; step++) {
            timer_arm(&timers, &timer[step], random_below(&random, 50), never_fired);
            armed++;
            struct timer *victim = &timer[random_below(&random, (uint64_t)step + 1)];
            if (random_one_in(&random, 3) && timer_armed(victim)) {
                timer_cancel(&timers, victim);
                timer_cancel(&timers, victim); /* harmless */
                armed--;
            }
        }
        uint64_t last_deadline = 0, last_sequence = 0;
        for (uint64_t now = 0; now < 50; now += 7) {
            struct timer *due;
            while ((due = timer_take_due(&timers, now))) {
                assert_true(due->deadline_ns <= now && !timer_armed(due));
                assert_true(due->deadline_ns > last_deadline ||
                            (due->deadline_ns == last_deadline && due->sequence >= last_sequence));
                last_deadline = due->deadline_ns;
                last_sequence = due->sequence;
                armed--;
            }
            assert_true(!timers.root || timers.root->deadline_ns > now);
        }
        while (timer_take_due(&timers, 50))
            armed--;
        assert_int_equal(armed, 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(timers_agree_with_a_sorted_model),
        ON_BOTH(a_co_mutex_held_over_suspension_excludes_all_queues),
        ON_BOTH(a_co_mutex_is_first_come_first_served),
        ON_BOTH(a_wait_that_nobody_ends_times_out),
        ON_BOTH(timeouts_race_wake_ups_without_losing_either),
        ON_BOTH(a_group_has_many_waiters_and_can_be_used_again),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
