/*
 * Roots: modes, drain, push, replace, resize, statistics.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "block/root.h"
#include "block/test_drivers.h"
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#define SIZE ((size_t)64 << 10)

static struct block_root *root_on(const char *text, const struct block_root_options *options)
{
    struct block_node *node = test_open(text, BLOCK_OPEN_WRITE | BLOCK_OPEN_RESIZE);
    struct block_root *root = block_root_new(node, options);
    assert_non_null(root);
    assert_int_equal(co_block_close(node, NULL), 0); /* the root has its own reference */
    return root;
}

static int write_byte(struct block_root *root, uint64_t offset, uint8_t byte, unsigned flags)
{
    uint8_t buffer[4096];
    struct iovec iov;
    memset(buffer, byte, sizeof(buffer));
    return co_root_write(root, offset, sgl_one(&iov, buffer, sizeof(buffer)), flags);
}

static uint8_t read_byte(struct block_root *root, uint64_t offset)
{
    uint8_t byte = 0xee;
    struct iovec iov;
    assert_int_equal(co_root_read(root, offset, sgl_one(&iov, &byte, 1), 0), 0);
    return byte;
}

static void check_cache_modes(void *arg)
{
    struct test_disk *disk = test_disk_new("d", SIZE);
    struct block_root *root =
        root_on("file:d", &(struct block_root_options){.cache = BLOCK_CACHE_WRITETHROUGH});
    assert_int_equal(write_byte(root, 0, 1, 0), 0);
    assert_int_equal(disk->flushes, 1);
    assert_int_equal(co_root_write_zeroes(root, 0, 4096, 0), 0);
    assert_int_equal(disk->flushes, 2);
    assert_int_equal(co_block_root_free(root, NULL), 0);

    disk->flushes = 0;
    root = root_on("file:d", &(struct block_root_options){.cache = BLOCK_CACHE_UNSAFE});
    assert_int_equal(write_byte(root, 0, 1, BLOCK_FUA), 0);
    assert_int_equal(co_root_flush(root), 0);
    assert_int_equal(disk->flushes, 0);
    assert_int_equal(co_block_root_free(root, NULL), 0);

    disk->flushes = 0;
    root = root_on("file:d", &(struct block_root_options){0});
    assert_int_equal(write_byte(root, 0, 1, 0), 0);
    assert_int_equal(disk->flushes, 0);
    assert_int_equal(co_root_flush(root), 0);
    assert_int_equal(disk->flushes, 1);
    assert_int_equal(co_block_root_free(root, NULL), 0);
}

static void cache_modes_decide_when_data_is_durable(void **state)
{
    test_run(check_cache_modes, NULL);
}

static void check_modes(void *arg)
{
    struct test_disk *disk = test_disk_new("d", SIZE);
    disk->zero_flags = BLOCK_MAY_UNMAP;
    struct block_root *root =
        root_on("file:d", &(struct block_root_options){.discard = BLOCK_DISCARD_IGNORE,
                                                       .detect_zeroes = BLOCK_DETECT_ON});
    assert_int_equal(co_root_discard(root, 0, 4096), 0);
    assert_int_equal(disk->discards, 0);
    assert_int_equal(write_byte(root, 0, 0, 0), 0);
    assert_true(disk->zeroes == 1 && disk->writes == 0);
    assert_int_equal(write_byte(root, 0, 1, 0), 0);
    assert_true(disk->zeroes == 1 && disk->writes == 1);
    assert_int_equal(co_block_root_free(root, NULL), 0);

    root = root_on("file:d", &(struct block_root_options){.read_only = true});
    assert_int_equal(write_byte(root, 0, 1, 0), -EROFS);
    assert_int_equal(co_root_discard(root, 0, 4096), -EROFS);
    assert_int_equal(co_root_write_zeroes(root, 0, 4096, 0), -EROFS);
    struct hws_error err = {0};
    assert_int_equal(co_root_resize(root, SIZE * 2, &err), -EROFS);
    assert_int_equal(co_block_root_free(root, NULL), 0);

    /* The storage grows, the device does not. */
    root = root_on("file:d", &(struct block_root_options){0});
    assert_int_equal(write_byte(root, SIZE - 4095, 1, 0), -EINVAL);
    assert_int_equal(co_root_discard(root, SIZE, 1), -EINVAL);
    assert_int_equal(disk->size, SIZE);
    assert_int_equal(co_block_root_free(root, NULL), 0);
}

static void discard_detect_zeroes_and_read_only_modes_hold(void **state)
{
    test_run(check_modes, NULL);
}

/* ---- drain ---- */

struct user {
    struct block_root *root;
    struct co_group *group;
    unsigned requests, done;
    _Atomic unsigned shares;
};

static void run_user(void *arg)
{
    struct user *user = arg;
    for (unsigned i = 0; i < user->requests; i++) {
        assert_int_equal(write_byte(user->root, 4096 * (i % 8), 1, 0), 0);
        user->done++;
    }
    co_group_done(user->group);
}

static void check_drain(void *arg)
{
    struct test_disk *disk = test_disk_new("d", SIZE);
    disk->delay_ns = 10000;
    struct block_root *root = root_on("file:d", &(struct block_root_options){0});
    struct co_group group;
    struct user user = {root, &group, 50};
    struct block_stats stats;
    co_group_init(&group);
    co_group_add(&group, 3);
    for (unsigned i = 0; i < 3; i++)
        assert_int_equal(rt_spawn(NULL, run_user, &user), 0);
    for (unsigned i = 0; i < 20; i++) {
        co_sleep_ns(20000);
        co_root_drain(root);
        co_root_drain(root);
        unsigned done = user.done, writes = disk->writes;
        block_root_stats(root, &stats);
        assert_int_equal(stats.in_flight, 0);
        co_sleep_ns(100000);
        co_root_undrain(root);
        co_sleep_ns(100000);
        assert_true(user.done == done && disk->writes == writes);
        co_root_undrain(root);
    }
    co_group_wait(&group);
    assert_int_equal(user.done, 150);
    assert_int_equal(disk->writes, 150);
    co_group_destroy(&group);
    assert_int_equal(co_block_root_free(root, NULL), 0);
}

static void a_drain_stops_requests_and_lets_them_go_on(void **state)
{
    test_run(check_drain, NULL);
}

/* ---- push and replace ---- */

static struct block_node *open_overlay(const char *name, size_t size)
{
    char text[64];
    test_layer_new(name, size, "base", "layer");
    snprintf(text, sizeof(text), "layer:file:%s", name);
    return test_open(text, BLOCK_OPEN_WRITE | BLOCK_OPEN_NO_BACKING);
}

static void check_push(void *arg)
{
    struct hws_error err = {0};
    struct test_disk *base = test_layer_new("base", SIZE, NULL, NULL);
    struct block_root *root = root_on("layer:file:base", &(struct block_root_options){0});
    assert_int_equal(write_byte(root, 0, 1, 0), 0);

    struct block_node *overlay = open_overlay("o1", SIZE);
    assert_int_equal(co_root_push(root, overlay, &err), 0);
    assert_ptr_equal(block_root_node(root), overlay);
    assert_true(base->read_only && block_is_read_only(block_child(overlay, BLOCK_BACKING)));
    assert_int_equal(write_byte(root, 4096, 2, 0), 0);
    assert_true(read_byte(root, 0) == 1 && read_byte(root, 4096) == 2);

    /* The pushed image has the old bytes, and is whole by itself. */
    struct block_node *old = test_open("layer:file:base", 0);
    struct iovec iov;
    uint8_t byte;
    assert_int_equal(co_block_read(old, 4096, sgl_one(&iov, &byte, 1), 0), 0);
    assert_int_equal(byte, 0);

    /* Back to the snapshot: a fresh overlay on it takes the place of the top. */
    struct block_node *fresh = test_open("{\"driver\":\"layer\",\"file\":{\"driver\":\"file\","
                                         "\"filename\":\"o2\"},\"backing\":null}",
                                         BLOCK_OPEN_WRITE);
    assert_int_equal(co_root_replace(root, old, &err), -EROFS);
    fresh->child[BLOCK_BACKING] = old;
    assert_int_equal(co_root_replace(root, fresh, &err), 0);
    assert_true(read_byte(root, 0) == 1 && read_byte(root, 4096) == 0);
    assert_true(test_disk_find("o1")->closed);
    assert_int_equal(co_block_root_free(root, NULL), 0);
    assert_true(test_disk_find("o2")->closed && base->closed);
}

static void pushing_an_overlay_freezes_the_old_top(void **state)
{
    test_layer_new("o2", SIZE, NULL, NULL);
    test_run(check_push, NULL);
}

static void check_push_errors(void *arg)
{
    struct hws_error err = {0};
    struct test_disk *base = test_layer_new("base", SIZE, NULL, NULL);
    struct block_root *root = root_on("layer:file:base", &(struct block_root_options){0});
    struct block_node *top = block_root_node(root);
    assert_int_equal(co_root_push(root, top, &err), -EINVAL);
    struct block_node *overlay = open_overlay("o1", SIZE / 2);
    assert_int_equal(co_root_push(root, overlay, &err), -EINVAL);
    assert_int_equal(co_block_close(overlay, NULL), 0);
    overlay = test_open("raw:file:base", 0);
    assert_int_equal(co_root_push(root, overlay, &err), -EINVAL);
    assert_int_equal(co_block_close(overlay, NULL), 0);

    /* Neither a failing flush nor a lock that cannot be changed leaves a half-made chain. */
    overlay = open_overlay("o1", SIZE);
    assert_int_equal(write_byte(root, 0, 1, 0), 0);
    base->flush_errors = 1;
    assert_int_equal(co_root_push(root, overlay, &err), -EIO);
    base->set_read_only_errors = 1;
    assert_int_equal(co_root_push(root, overlay, &err), -EAGAIN);
    assert_ptr_equal(block_root_node(root), top);
    assert_null(block_child(overlay, BLOCK_BACKING));
    assert_int_equal(write_byte(root, 0, 2, 0), 0);
    assert_int_equal(read_byte(root, 0), 2);
    assert_int_equal(co_root_push(root, overlay, &err), 0);
    assert_int_equal(read_byte(root, 0), 2);
    assert_int_equal(co_block_root_free(root, NULL), 0);
}

static void a_push_that_fails_leaves_the_chain_as_it_was(void **state)
{
    test_run(check_push_errors, NULL);
}

/* ---- resize and statistics ---- */

static void note_size(void *arg, uint64_t size)
{
    *(uint64_t *)arg = size;
}

static void check_resize(void *arg)
{
    struct hws_error err = {0};
    uint64_t told = 0;
    test_disk_new("d", SIZE);
    struct block_root *root = root_on("file:d", &(struct block_root_options){0});
    block_root_on_resize(root, note_size, &told);
    assert_int_equal(co_root_resize(root, SIZE * 2, &err), 0);
    assert_true(told == SIZE * 2 && block_root_size(root) == SIZE * 2);
    assert_int_equal(read_byte(root, SIZE * 2 - 1), 0);
    assert_int_equal(co_root_resize(root, 1 * GiB, &err), -ENOSPC);
    assert_true(told == SIZE * 2 && err.text[0]);
    assert_int_equal(co_block_root_free(root, NULL), 0);
}

static void listeners_learn_of_a_new_size(void **state)
{
    test_run(check_resize, NULL);
}

static void check_stats(void *arg)
{
    struct test_disk *disk = test_disk_new("d", SIZE);
    disk->delay_ns = 50000;
    struct block_root *root = root_on("file:d", &(struct block_root_options){0});
    for (unsigned i = 0; i < 10; i++)
        assert_int_equal(write_byte(root, 0, 1, 0), 0);
    assert_int_equal(read_byte(root, 0), 1);
    disk->write_errors = 1;
    assert_int_equal(write_byte(root, 0, 1, 0), -EIO);
    assert_int_equal(co_root_flush(root), 0);
    struct block_stats stats;
    block_root_stats(root, &stats);
    assert_true(stats.operations[BLOCK_OP_WRITE] == 11 && stats.failures[BLOCK_OP_WRITE] == 1);
    assert_true(stats.bytes[BLOCK_OP_WRITE] == 10 * 4096 && stats.bytes[BLOCK_OP_READ] == 1);
    assert_true(stats.operations[BLOCK_OP_FLUSH] == 1 && stats.in_flight == 0);
    assert_in_range(stats.latency_ns_p50[BLOCK_OP_WRITE], 35000, 80000);
    assert_true(stats.latency_ns_total[BLOCK_OP_WRITE] >= 11 * 50000);
    uint64_t counts[HISTOGRAM_BUCKETS], sum = 0;
    block_root_histogram(root, BLOCK_OP_WRITE, counts);
    for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++)
        sum += counts[i];
    assert_int_equal(sum, 11);
    assert_int_equal(co_block_root_free(root, NULL), 0);
}

static void statistics_count_every_request_once(void **state)
{
    test_run(check_stats, NULL);
}

/* ---- several threads ---- */

#define THREADS  4
#define REQUESTS 2000

/* 100 bytes each, so that writers of different threads share blocks. */
static void write_share(struct block_root *root, unsigned share)
{
    uint8_t buffer[100];
    struct iovec iov;
    memset(buffer, (int)share + 1, sizeof(buffer));
    assert_int_equal(co_root_write(root, 8192 + share * 100, sgl_one(&iov, buffer, 100), 0), 0);
}

static void run_thread_user(void *arg)
{
    struct user *user = arg;
    unsigned share = atomic_fetch_add(&user->shares, 1);
    for (unsigned i = 0; i < REQUESTS; i++) {
        assert_int_equal(read_byte(user->root, i), 0);
        if (i % 16 == 0)
            assert_int_equal(co_root_flush(user->root), 0);
        if (i % 4 == 0)
            write_share(user->root, share);
    }
    co_group_done(user->group);
}

static unsigned begun(const struct test_disk *disk)
{
    return disk->reads + disk->writes + disk->flushes;
}

/*
 * Nothing begins below a drained root. Who has just come counts as in flight until it has seen that
 * it must wait; once all wait, nobody does.
 */
static void check_drained(struct block_root *root, const struct test_disk *disk)
{
    struct block_stats stats;
    const uint64_t deadline = rt_now_ns() + 30000000000u;
    unsigned before = begun(disk);
    do {
        co_yield ();
        block_root_stats(root, &stats);
    } while (stats.in_flight && rt_now_ns() < deadline);
    assert_int_equal(stats.in_flight, 0);
    assert_int_equal(begun(disk), before);
}

static void check_threads(void *arg)
{
    struct hws_error err = {0};
    struct block_stats stats;
    struct rt_queue *queues[THREADS];
    struct co_group group;
    struct test_disk *disk = test_disk_new("d", SIZE);
    disk->limits = (struct block_limits){.request_alignment = 512};
    struct block_root *root = root_on("raw:file:d", &(struct block_root_options){0});
    struct user user = {.root = root, .group = &group};
    co_group_init(&group);
    co_group_add(&group, THREADS * 4);
    for (unsigned i = 0; i < THREADS; i++) {
        assert_int_equal(rt_queue_start(rt_current(), "user", &queues[i], &err), 0);
        for (unsigned j = 0; j < 4; j++)
            assert_int_equal(rt_spawn(queues[i], run_thread_user, &user), 0);
    }
    for (unsigned i = 0; i < 100; i++) {
        co_root_drain(root);
        check_drained(root, disk);
        co_root_undrain(root);
        co_yield ();
    }
    co_group_wait(&group);
    for (unsigned i = 0; i < THREADS; i++)
        co_queue_stop(queues[i]);
    block_root_stats(root, &stats);
    assert_int_equal(stats.operations[BLOCK_OP_READ], THREADS * 4 * REQUESTS);
    for (unsigned i = 0; i < THREADS * 4 * 100; i++)
        assert_int_equal(read_byte(root, 8192 + i), i / 100 + 1);
    co_group_destroy(&group);
    assert_int_equal(co_block_root_free(root, NULL), 0);
}

/* ---- several threads read a chain that grows ---- */

#define PUSHES 12

static void run_chain_reader(void *arg)
{
    struct user *user = arg;
    for (unsigned i = 0; i < REQUESTS; i++) {
        assert_int_equal(read_byte(user->root, (i * 512) % SIZE), 0x5a);
        if (i % 64 == 0)
            co_yield ();
    }
    co_group_done(user->group);
}

static void check_chain_threads(void *arg)
{
    struct hws_error err = {0};
    struct rt_queue *queues[THREADS];
    struct co_group group;
    test_layer_new("base", SIZE, NULL, NULL);
    test_layer_fill("base", 0, SIZE, 0x5a);
    struct block_root *root = root_on("layer:file:base", &(struct block_root_options){0});
    struct user user = {.root = root, .group = &group};
    co_group_init(&group);
    co_group_add(&group, THREADS * 2);
    for (unsigned i = 0; i < THREADS; i++) {
        assert_int_equal(rt_queue_start(rt_current(), "user", &queues[i], &err), 0);
        for (unsigned j = 0; j < 2; j++)
            assert_int_equal(rt_spawn(queues[i], run_chain_reader, &user), 0);
    }
    for (unsigned i = 0; i < PUSHES; i++) {
        char name[32];
        snprintf(name, sizeof(name), "o%u", i);
        assert_int_equal(co_root_push(root, open_overlay(name, SIZE), &err), 0);
        co_sleep_ns(2000000);
    }
    co_group_wait(&group);
    for (unsigned i = 0; i < THREADS; i++)
        co_queue_stop(queues[i]);
    co_group_destroy(&group);
    assert_int_equal(co_block_root_free(root, NULL), 0);
}

static void queues_read_a_chain_while_overlays_are_pushed(void **state)
{
    struct rt *rt = NULL;
    assert_int_equal(rt_create(NULL, &rt, NULL), 0);
    assert_int_equal(rt_run(rt, check_chain_threads, NULL), 0);
    rt_free(rt);
}

static void queues_share_a_root_while_it_is_drained_over_and_over(void **state)
{
    struct rt *rt = NULL;
    assert_int_equal(rt_create(NULL, &rt, NULL), 0);
    assert_int_equal(rt_run(rt, check_threads, NULL), 0);
    rt_free(rt);
}

static int teardown(void **state)
{
    test_disks_free();
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cache_modes_decide_when_data_is_durable),
        cmocka_unit_test(discard_detect_zeroes_and_read_only_modes_hold),
        cmocka_unit_test(a_drain_stops_requests_and_lets_them_go_on),
        cmocka_unit_test(pushing_an_overlay_freezes_the_old_top),
        cmocka_unit_test(a_push_that_fails_leaves_the_chain_as_it_was),
        cmocka_unit_test(listeners_learn_of_a_new_size),
        cmocka_unit_test(statistics_count_every_request_once),
        cmocka_unit_test(queues_read_a_chain_while_overlays_are_pushed),
        cmocka_unit_test(queues_share_a_root_while_it_is_drained_over_and_over),
    };
    test_drivers_register();
    return cmocka_run_group_tests(tests, NULL, teardown);
}
