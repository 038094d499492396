/*
 * rt_later() and watches, on both real runtimes.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "rt/rt_test.h"
#include <sys/eventfd.h>
#include <sys/socket.h>

/* ---- later ---- */

struct tally {
    struct rt_later later;
    unsigned runs, steps_before, steps;
    struct co_group group;
};

static void count_run(struct rt_later *later)
{
    struct tally *t = container_of(later, struct tally, later);
    CHECK(!co_running());
    t->runs++;
    t->steps_before = t->steps;
}

static void co_step(void *arg)
{
    struct tally *t = arg;
    t->steps++;
    rt_later(&t->later);
    co_group_done(&t->group);
}

TEST(later_runs_once_after_all_that_was_runnable)
{
    struct tally t = {0};
    rt_later_init(&t.later, count_run);
    co_group_init(&t.group);
    co_group_add(&t.group, 10);
    for (unsigned i = 0; i < 10; i++)
        CHECK_EQUAL(rt_spawn(NULL, co_step, &t), 0);
    co_group_wait(&t.group);
    co_yield ();
    CHECK_EQUAL(t.runs, 1);
    CHECK_EQUAL(t.steps_before, 10);
    co_group_destroy(&t.group);
}

struct chain {
    struct rt_later later;
    unsigned left;
    struct co_group group;
};

static void co_again(void *arg)
{
    struct chain *c = arg;
    if (--c->left > 0)
        rt_later(&c->later);
    else
        co_group_done(&c->group);
}

static void spawn_again(struct rt_later *later)
{
    CHECK_EQUAL(rt_spawn(NULL, co_again, container_of(later, struct chain, later)), 0);
}

TEST(what_later_starts_may_ask_for_later_again)
{
    struct chain c = {.left = 1000};
    rt_later_init(&c.later, spawn_again);
    co_group_init(&c.group);
    co_group_add(&c.group, 1);
    rt_later(&c.later);
    co_group_wait(&c.group);
    CHECK_EQUAL(c.left, 0);
    co_group_destroy(&c.group);
}

/* ---- watches ---- */

struct bell {
    int fd;
    bool edge;
    _Atomic unsigned calls;
    struct co *waiting;
};

static void rung(void *arg)
{
    struct bell *b = arg;
    eventfd_t value;
    CHECK(!co_running());
    if (!b->edge)
        CHECK_EQUAL(eventfd_read(b->fd, &value), 0);
    atomic_fetch_add(&b->calls, 1);
    if (b->waiting)
        co_wake(steal_ptr(&b->waiting));
}

static int ring(void *arg)
{
    struct bell *b = arg;
    usleep(2000);
    return eventfd_write(b->fd, 1);
}

static struct rt_watch *watch(struct bell *b)
{
    struct rt_watch *w = NULL;
    b->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    CHECK(b->fd >= 0);
    CHECK_EQUAL(rt_watch_start(b->fd, rung, b, &w, &b->edge), 0);
    return w;
}

TEST(a_watch_tells_of_each_event)
{
    struct bell b = {0};
    struct rt_watch *w = watch(&b);
    for (unsigned i = 1; i <= 50; i++) {
        CHECK_EQUAL(co_work(ring, &b), 0);
        if (atomic_load(&b.calls) < i) {
            b.waiting = co_self();
            co_suspend();
        }
        CHECK_EQUAL(atomic_load(&b.calls), i);
    }
    co_watch_stop(w);
    CHECK_EQUAL(eventfd_write(b.fd, 1), 0);
    co_sleep_ns(5 * MS);
    CHECK_EQUAL(atomic_load(&b.calls), 50);
    close(b.fd);
}

static void heard(void *arg)
{
    struct bell *b = arg;
    atomic_fetch_add(&b->calls, 1);
    if (b->waiting)
        co_wake(steal_ptr(&b->waiting));
}

/* Data and the end of it may be told by one call. */
TEST(a_watch_knows_of_the_end)
{
    for (unsigned way = 0; way < 2; way++) {
        int fd[2];
        char byte[8];
        struct bell b = {0};
        struct rt_watch *w = NULL;
        CHECK_EQUAL(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fd), 0);
        CHECK_EQUAL(rt_watch_start(fd[0], heard, &b, &w, &b.edge), 0);
        CHECK_EQUAL(write(fd[1], "x", 1), 1);
        while (atomic_load(&b.calls) == 0) {
            b.waiting = co_self();
            co_suspend();
        }
        CHECK(!rt_watch_has_ended(w));
        CHECK_EQUAL(read(fd[0], byte, sizeof(byte)), 1);
        CHECK_EQUAL(write(fd[1], "y", 1), 1);
        CHECK_EQUAL(way ? close(fd[1]) : shutdown(fd[1], SHUT_WR), 0);
        while (!rt_watch_has_ended(w)) {
            b.waiting = co_self();
            co_suspend();
        }
        CHECK_EQUAL(read(fd[0], byte, sizeof(byte)), 1);
        CHECK_EQUAL(read(fd[0], byte, sizeof(byte)), 0);
        co_watch_stop(w);
        close(fd[0]);
        if (!way)
            close(fd[1]);
    }
}

TEST(a_watch_can_end_before_any_event_or_right_after_one)
{
    for (unsigned i = 0; i < 20; i++) {
        struct bell b = {0};
        struct rt_watch *w = watch(&b);
        if (i % 3)
            CHECK_EQUAL(eventfd_write(b.fd, 1), 0);
        if (i % 3 == 2)
            co_yield ();
        co_watch_stop(w);
        close(b.fd);
    }
    co_watch_stop(NULL);
}

TEST(a_bad_descriptor_is_never_called)
{
    struct bell b = {.fd = -1};
    struct rt_watch *w = NULL;
    if (rt_watch_start(-1, rung, &b, &w, &b.edge) == 0) {
        co_sleep_ns(5 * MS);
        co_watch_stop(w);
    }
    CHECK_EQUAL(atomic_load(&b.calls), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        ON_BOTH(later_runs_once_after_all_that_was_runnable),
        ON_BOTH(what_later_starts_may_ask_for_later_again),
        ON_BOTH(a_watch_tells_of_each_event),
        ON_BOTH(a_watch_knows_of_the_end),
        ON_BOTH(a_watch_can_end_before_any_event_or_right_after_one),
        ON_BOTH(a_bad_descriptor_is_never_called),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
