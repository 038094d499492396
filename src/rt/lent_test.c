/*
 * Tests of queues that run inside calls of a thread that is somebody else's, and of doorbells.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "rt/rt_test.h"
#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>

static struct rt *new_runtime(void **state)
{
    struct rt_options options = {.kind = *(enum rt_kind *)*state};
    struct hws_error err = {0};
    struct rt *rt;
    int result = rt_create(&options, &rt, &err);
    if (result < 0 && options.kind == RT_URING) {
        print_message("SKIP: %s\n", err.text);
        skip();
    }
    CHECK_EQUAL(result, 0);
    return rt;
}

static bool readable(int fd, int timeout_ms)
{
    struct pollfd event = {.fd = fd, .events = POLLIN};
    return poll(&event, 1, timeout_ms) == 1;
}

struct work {
    bool done;
    int fd;
    struct co *co;
    _Atomic bool waits;
    uint64_t sleep_ns;
};

static void co_read_something(void *arg)
{
    struct work *work = arg;
    struct rt_file *file;
    struct hws_error err = {0};
    CHECK_EQUAL(co_open("/proc/self/exe", &(struct rt_open){.flags = O_RDONLY}, &file, &err), 0);
    char magic[4];
    struct iovec iov;
    CHECK_EQUAL(co_pread(file, 0, sgl_one(&iov, magic, sizeof(magic))), 4);
    CHECK(memcmp(magic, "\177ELF", 4) == 0);
    rt_file_close(file);
    work->done = true;
}

static void a_thread_runs_coroutines_inside_its_calls(void **state)
{
    struct rt *rt = new_runtime(state);
    struct rt_queue *q;
    CHECK_EQUAL(rt_lent_start(rt, &q), 0);
    for (unsigned i = 0; i < 50; i++) {
        struct work work = {0};
        rt_lent_enter(q);
        CHECK(rt_serves());
        CHECK_EQUAL(rt_spawn(NULL, co_read_something, &work), 0);
        rt_lent_serve(q, &work.done);
        rt_lent_leave(q, NULL);
        CHECK(work.done && !rt_serves());
    }
    rt_lent_stop(q);
    rt_free(rt);
}

static void co_wait_for_wake(void *arg)
{
    struct work *work = arg;
    work->co = co_self();
    atomic_store(&work->waits, true);
    co_suspend();
    work->done = true;
}

static void *wake_it(void *arg)
{
    struct work *work = arg;
    CHECK(atomic_load(&work->waits));
    co_wake(work->co);
    return NULL;
}

static void what_happens_outside_shows_on_the_descriptor(void **state)
{
    struct rt *rt = new_runtime(state);
    struct rt_queue *q;
    CHECK_EQUAL(rt_lent_start(rt, &q), 0);
    int fd = rt_lent_descriptor(q);
    CHECK(fd >= 0);
    for (unsigned i = 0; i < 20; i++) {
        struct work work = {0};
        rt_lent_enter(q);
        CHECK_EQUAL(rt_spawn(NULL, co_wait_for_wake, &work), 0);
        rt_lent_serve_ready(q);
        rt_lent_leave(q, NULL);
        CHECK(!work.done && !readable(fd, 0));
        pthread_t thread;
        CHECK_EQUAL(pthread_create(&thread, NULL, wake_it, &work), 0);
        CHECK(readable(fd, 10000));
        pthread_join(thread, NULL);
        CHECK(!work.done); /* it stands still until its thread is inside */
        for (unsigned tries = 0; tries < 1000 && !work.done; tries++) {
            rt_lent_enter(q);
            rt_lent_serve_ready(q);
            rt_lent_leave(q, NULL);
        }
        CHECK(work.done);
        rt_lent_enter(q); /* it may be readable once more, without cause */
        rt_lent_serve_ready(q);
        rt_lent_leave(q, NULL);
        CHECK(!readable(fd, 0));
    }
    rt_lent_stop(q);
    rt_free(rt);
}

static void co_sleep_a_while(void *arg)
{
    struct work *work = arg;
    co_sleep_ns(work->sleep_ns);
    work->done = true;
}

static void leaving_tells_when_a_timer_is_due(void **state)
{
    struct rt *rt = new_runtime(state);
    struct rt_queue *q;
    struct work work = {.sleep_ns = 20 * MS};
    uint64_t wake_ns, started = rt_now_ns();
    CHECK_EQUAL(rt_lent_start(rt, &q), 0);
    rt_lent_enter(q);
    rt_lent_leave(q, &wake_ns);
    CHECK(wake_ns == UINT64_MAX);
    rt_lent_enter(q);
    CHECK_EQUAL(rt_spawn(NULL, co_sleep_a_while, &work), 0);
    rt_lent_serve_ready(q);
    rt_lent_leave(q, &wake_ns);
    CHECK(!work.done && wake_ns >= started + 20 * MS && wake_ns < started + 10000 * MS);
    while (rt_now_ns() < wake_ns)
        usleep(1000);
    rt_lent_enter(q);
    rt_lent_serve_ready(q);
    rt_lent_leave(q, &wake_ns);
    CHECK(work.done && wake_ns == UINT64_MAX);
    rt_lent_stop(q);
    rt_free(rt);
}

static void stopping_waits_for_what_is_alive(void **state)
{
    struct rt *rt = new_runtime(state);
    struct rt_queue *q;
    struct work work = {.sleep_ns = 5 * MS};
    CHECK_EQUAL(rt_lent_start(rt, &q), 0);
    rt_lent_enter(q);
    CHECK_EQUAL(rt_spawn(NULL, co_sleep_a_while, &work), 0);
    rt_lent_leave(q, NULL);
    rt_lent_stop(q);
    CHECK(work.done);
    rt_free(rt);
}

/* ---- doorbells ---- */

struct door {
    struct rt_queue *queue;
    struct rt_doorbell *bell;
    _Atomic unsigned rung, answered;
};

static void answer(void *arg)
{
    struct door *door = arg;
    CHECK(rt_self() == door->queue);
    atomic_fetch_add(&door->answered, 1);
}

static void *ring_often(void *arg)
{
    struct door *door = arg;
    for (unsigned i = 0; i < 1000; i++) {
        atomic_fetch_add(&door->rung, 1);
        rt_doorbell_ring(door->queue, door->bell);
        while (atomic_load(&door->answered) != atomic_load(&door->rung))
            sched_yield();
    }
    return NULL;
}

TEST(every_ring_is_answered_on_the_queues_thread)
{
    struct door door = {0};
    struct hws_error err = {0};
    pthread_t thread;
    CHECK_EQUAL(rt_queue_start(rt_current(), "door", &door.queue, &err), 0);
    CHECK((door.bell = rt_doorbell_new(answer, &door)));
    CHECK_EQUAL(pthread_create(&thread, NULL, ring_often, &door), 0);
    pthread_join(thread, NULL);
    CHECK_EQUAL(door.answered, 1000);
    co_queue_stop(door.queue);
    rt_doorbell_free(door.bell);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        ON_BOTH(a_thread_runs_coroutines_inside_its_calls),
        ON_BOTH(what_happens_outside_shows_on_the_descriptor),
        ON_BOTH(leaving_tells_when_a_timer_is_due),
        ON_BOTH(stopping_waits_for_what_is_alive),
        ON_BOTH(every_ring_is_answered_on_the_queues_thread),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
