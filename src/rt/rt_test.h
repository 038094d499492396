/*
 * What the tests of the real runtimes share: every test runs on io_uring and on threads, and its
 * body is a coroutine. CHECK() aborts: cmocka's own asserts would jump off the coroutine's stack.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef RT_RT_TEST_H
#define RT_RT_TEST_H

#include "rt/rt.h"
#include "rt/sync.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <cmocka.h>

#define CHECK(condition)                                                                  \
    do {                                                                                  \
        if (!(condition)) {                                                               \
            fprintf(stderr, "%s:%d: check failed: %s\n", __FILE__, __LINE__, #condition); \
            abort();                                                                      \
        }                                                                                 \
    } while (0)

#define CHECK_EQUAL(a, b)                                                            \
    do {                                                                             \
        int64_t check_a_ = (int64_t)(a), check_b_ = (int64_t)(b);                    \
        if (check_a_ != check_b_) {                                                  \
            fprintf(stderr, "%s:%d: %s is %lld, not %lld\n", __FILE__, __LINE__, #a, \
                    (long long)check_a_, (long long)check_b_);                       \
            abort();                                                                 \
        }                                                                            \
    } while (0)

#define MS 1000000ull

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED 1
#endif
#endif

/* Runs @body in a new runtime of the kind that @state points to. */
static void run_on(void **state, co_fn *body)
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
    CHECK_EQUAL(rt_run(rt, body, NULL), 0);
    CHECK(rt_free(rt) == NULL);
}

static enum rt_kind test_uring = RT_URING, test_threads = RT_THREADS;

/* A test whose body is the coroutine co_NAME. */
#define TEST(name)                    \
    static void co_##name(void *arg); \
    static void name(void **state)    \
    {                                 \
        run_on(state, co_##name);     \
    }                                 \
    static void co_##name(void *arg)

#define ON_BOTH(test)                                        \
    {#test "_on_io_uring", test, NULL, NULL, &test_uring},   \
    {                                                        \
#test "_on_threads", test, NULL, NULL, &test_threads \
    }

#endif
