/*
 * Where a thread goes while it measures: bound and free in turn, and back to freedom when requests
 * come in numbers. What is faster depends on the machine; that both ways are tried does not.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "export/fuse/internal.h"
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <sys/syscall.h>

#include <cmocka.h>

static unsigned allowed_now(void)
{
    cpu_set_t set;
    assert_int_equal(pthread_getaffinity_np(pthread_self(), sizeof(set), &set), 0);
    return (unsigned)CPU_COUNT(&set);
}

static void lone_requests_try_both_ways_and_many_set_free(void **state)
{
    struct fuse_follow follow = {0};
    uint32_t me = (uint32_t)syscall(SYS_gettid);
    bool was_bound = false, was_free_again = false;
    fuse_affinity_init(&follow.affinity);
    unsigned before = allowed_now();
    for (unsigned n = 0; n < 2000000 && !was_free_again; n++) {
        fuse_follow_one(&follow, me);
        was_bound |= follow.affinity.bound;
        was_free_again = was_bound && !follow.affinity.bound;
        if (follow.affinity.bound && n % 1000 == 0)
            assert_int_equal(allowed_now(), 1);
    }
    assert_true(was_bound);
    assert_true(was_free_again);
    assert_int_equal(allowed_now(), before);
    while (!follow.affinity.bound)
        fuse_follow_one(&follow, me);
    for (unsigned n = 0; n < 16; n++)
        fuse_follow_many(&follow);
    assert_false(follow.affinity.bound);
    assert_int_equal(allowed_now(), before);
}

static void a_user_that_cannot_be_seen_leaves_the_thread_free(void **state)
{
    struct fuse_follow follow = {0};
    fuse_affinity_init(&follow.affinity);
    for (unsigned n = 0; n < 100000; n++)
        fuse_follow_one(&follow, 0);
    assert_false(follow.affinity.bound);
}

static void a_thread_is_bound_only_where_it_was_allowed(void **state)
{
    struct fuse_affinity affinity;
    fuse_affinity_init(&affinity);
    CPU_ZERO(&affinity.allowed);
    fuse_affinity_bind(&affinity, 0, CPU_SETSIZE);
    assert_false(affinity.bound);
}

static void the_cpu_of_a_thread_is_found_by_its_number(void **state)
{
    int cpu = fuse_cpu_of_thread((uint32_t)syscall(SYS_gettid));
    assert_true(cpu >= 0 && cpu < CPU_SETSIZE);
    assert_int_equal(fuse_cpu_of_thread(0), -1);
    assert_int_equal(fuse_cpu_of_thread(UINT32_MAX), -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lone_requests_try_both_ways_and_many_set_free),
        cmocka_unit_test(a_user_that_cannot_be_seen_leaves_the_thread_free),
        cmocka_unit_test(a_thread_is_bound_only_where_it_was_allowed),
        cmocka_unit_test(the_cpu_of_a_thread_is_found_by_its_number),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
