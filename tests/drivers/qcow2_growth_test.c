/*
 * The power goes while refcount structures grow under concurrent flushes: the image is whole, but
 * for leaks, at each moment.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "drivers_test.h"

#define READ_WRITE  (BLOCK_OPEN_WRITE | BLOCK_OPEN_RESIZE)
#define FILE_OF     "{\"driver\":\"file\",\"filename\":\"/d/image\"}"
#define IMAGE       "{\"driver\":\"qcow2\",\"file\":" FILE_OF "}"

#define WRITERS     4
#define WRITES      40
#define WRITE_BYTES 8192u
#define FLUSHERS    2

struct world {
    struct rt *rt;
    uint64_t created_at; /* storage operation */
};

struct guest {
    struct block_node *node;
    struct co_group group;
    atomic_uint next;
    atomic_bool done;
};

static void co_writer(void *arg)
{
    struct guest *g = arg;
    unsigned i;
    while ((i = atomic_fetch_add(&g->next, 1)) < WRITES)
        if (write_fill(g->node, i * WRITE_BYTES, (uint8_t)i, WRITE_BYTES) < 0)
            break;
    atomic_store(&g->done, true);
    co_group_done(&g->group);
}

static void co_flusher(void *arg)
{
    struct guest *g = arg;
    while (!atomic_load(&g->done) && co_block_flush(g->node) == 0)
        co_sleep_ns(rt_random_u64() % 100000);
    co_group_done(&g->group);
}

/* Everything fails once the power is gone. A block describes 64 clusters, 32 KiB: it takes a new
 * one every few writes. */
static void co_grow(void *arg)
{
    struct world *world = arg;
    struct guest g = {0};
    struct hws_error err;
    const char *new =
        "{\"driver\":\"qcow2\",\"size\":\"1M\",\"cluster_size\":\"512\",\"refcount_bits\":"
        "\"64\",\"extended_l2\":\"off\",\"file\":" FILE_OF "}";
    if (create(new, &err) < 0 || !(g.node = try_open(IMAGE, READ_WRITE, &err)))
        return;
    world->created_at = sim_operations(world->rt);
    co_group_init(&g.group);
    co_group_add(&g.group, WRITERS + FLUSHERS);
    for (int i = 0; i < WRITERS; i++)
        assert_int_equal(rt_spawn(NULL, co_writer, &g), 0);
    for (int i = 0; i < FLUSHERS; i++)
        assert_int_equal(rt_spawn(NULL, co_flusher, &g), 0);
    co_group_wait(&g.group);
    co_group_destroy(&g.group);
    (void)!co_block_close(g.node, NULL);
}

static void co_judge(void *arg)
{
    struct hws_error err;
    struct block_check check = {0};
    struct block_node *node = must_open(IMAGE, BLOCK_OPEN_CHECK);
    assert_int_equal(co_block_check(node, 0, &check, &err), 0);
    if (check.corruptions)
        print_message("crash at operation %lu\n", (unsigned long)*(const uint64_t *)arg);
    assert_int_equal(check.corruptions, 0);
    must_close(node);
}

/* @return the operations of a run; @ret_created_at the first of them that found the image there. */
static uint64_t run(uint64_t seed, uint64_t crash_at, uint64_t *ret_created_at)
{
    struct sim_options options = {.seed = seed, .crash_at = crash_at};
    struct world world = {0};
    struct rt *after;
    assert_int_equal(sim_create(&options, &world.rt), 0);
    (void)!rt_run(world.rt, co_grow, &world);
    uint64_t operations = sim_operations(world.rt);
    options.crash_at = 0;
    for (uint64_t i = 0; crash_at && i < 3; i++) {
        options.seed = seed * 1000 + i;
        assert_int_equal(sim_after_crash(world.rt, &options, &after), 0);
        assert_int_equal(rt_run(after, co_judge, &crash_at), 0);
        rt_free(after);
    }
    rt_free(world.rt);
    *ret_created_at = world.created_at;
    return operations;
}

static void the_growth_of_refcounts_survives_power_cuts(void **state)
{
    for (uint64_t seed = 1; seed <= 5; seed++) {
        uint64_t at, ignored, operations = run(seed, 0, &at);
        for (; at < operations; at += 1 + operations / 150)
            (void)run(seed, at, &ignored);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_growth_of_refcounts_survives_power_cuts),
    };
    drivers_register();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
