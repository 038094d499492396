/*
 * copy-on-read over a small layered format of the test's own: each unit of 4 KiB is in the layer,
 * or in the one below.
 *
 *     copy-on-read -> layer -> (error) -> mem
 *                       backing -> error (counts reads) -> delay -> mem
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "drivers_test.h"
#include "backend/mem/mem.h"
#include "filter/copy-on-read/copy_on_read.h"
#include "filter/delay/delay.h"
#include "filter/error/error.h"

#define UNIT_BYTES   4096u
#define DEVICE_BYTES (1 * MiB)
#define UNITS        (DEVICE_BYTES / UNIT_BYTES)
#define READ_WRITE   (BLOCK_OPEN_WRITE | BLOCK_OPEN_RESIZE)

/* ---- the layered format ---- */

struct layer {
    atomic_bool present[UNITS];
};

static int co_layer_open(struct block_node *node, const void *options, struct hws_error *err)
{
    node->limits.request_alignment = UNIT_BYTES;
    node->limits.optimal_bytes = 4 * UNIT_BYTES;
    atomic_store(&node->size_bytes, block_size(node->child[BLOCK_FILE]));
    return 0;
}

static int co_layer_read(struct block_node *node, uint64_t offset, struct sgl buffer,
                         unsigned flags, struct block_holes *holes)
{
    struct layer *layer = node->state;
    for (uint64_t at = 0; at < buffer.length; at += UNIT_BYTES) {
        if (!layer->present[(offset + at) / UNIT_BYTES]) {
            block_hole(holes, offset + at, UNIT_BYTES);
            continue;
        }
        int r = co_block_read(node->child[BLOCK_FILE], offset + at,
                              sgl_slice(buffer, at, UNIT_BYTES), 0);
        if (r < 0)
            return r;
    }
    return 0;
}

static int co_layer_write(struct block_node *node, uint64_t offset, struct sgl buffer,
                          unsigned flags)
{
    struct layer *layer = node->state;
    int r = co_block_write(node->child[BLOCK_FILE], offset, buffer, 0);
    for (uint64_t at = 0; r == 0 && at < buffer.length; at += UNIT_BYTES)
        layer->present[(offset + at) / UNIT_BYTES] = true;
    return r;
}

static int co_layer_status(struct block_node *node, uint64_t offset, uint64_t length,
                           struct block_extent *ret)
{
    struct layer *layer = node->state;
    bool present = layer->present[offset / UNIT_BYTES];
    uint64_t end = offset;
    while (end < offset + length && layer->present[end / UNIT_BYTES] == present)
        end += UNIT_BYTES;
    *ret = (struct block_extent){
        .length = end - offset,
        .flags = present ? BLOCK_STATUS_DATA | BLOCK_STATUS_ALLOCATED : 0,
    };
    return 0;
}

static const struct option_desc layer_table[] = {OPTION_END};

static const struct block_driver layer_driver = {
    .name = "layer",
    .help = "the test's layered format",
    .kind = BLOCK_FORMAT,
    .needs_file = true,
    .state_bytes = sizeof(struct layer),
    .options = layer_table,
    .co_open = co_layer_open,
    .co_read_layer = co_layer_read,
    .co_write = co_layer_write,
    .co_status = co_layer_status,
};

static const struct block_driver *const test_table[] = {
    &layer_driver, &mem_driver, &copy_on_read_filter, &error_filter, &delay_filter, NULL,
};

/* ---- tests ---- */

#define MEM "{\"driver\":\"mem\",\"size\":\"1M\"}"
#define COUNTED_BACKING                                                                    \
    "{\"driver\":\"error\",\"operation\":\"read\",\"percent\":\"0\",\"file\":{\"driver\":" \
    "\"delay\",\"read-us\":\"50\",\"jitter-us\":\"300\",\"file\":" MEM "}}"
#define TOP(file)                                                                \
    "{\"driver\":\"copy-on-read\",\"file\":{\"driver\":\"layer\",\"file\":" file \
    ",\"backing\":" COUNTED_BACKING "}}"

static struct block_node *backing_of(struct block_node *top)
{
    return block_child(block_child(top, BLOCK_FILE), BLOCK_BACKING);
}

/* Fills the backing node, which is open read-only, under its filters. */
static void fill_backing(struct block_node *top, const uint8_t *bytes)
{
    struct block_node *node = backing_of(top);
    struct iovec iov;
    while (block_child(node, BLOCK_FILE))
        node = block_child(node, BLOCK_FILE);
    assert_int_equal(node->driver->co_write(node, 0, sgl_one(&iov, (void *)bytes, DEVICE_BYTES), 0),
                     0);
}

static json_int_t info_number(struct block_node *node, const char *object, const char *name)
{
    json_t *info = NULL;
    assert_int_equal(co_block_info(node, &info, NULL), 0);
    json_t *at = json_object_get(info, object);
    json_int_t value = json_integer_value(name ? json_object_get(at, name) : at);
    json_decref(info);
    return value;
}

static void read_twice(void *arg)
{
    autofree uint8_t *bytes = malloc(DEVICE_BYTES);
    struct block_extent extent;
    memset(bytes, 6, DEVICE_BYTES);
    struct block_node *top = must_open(TOP(MEM), READ_WRITE);
    struct block_node *layer = block_child(top, BLOCK_FILE);
    fill_backing(top, bytes);

    /* A byte brings its cluster of 16 KiB. */
    assert_int_equal(read_fill(top, 100000, 6, 1), 0);
    assert_int_equal(info_number(top, "copied-bytes", NULL), 16384);
    assert_int_equal(co_block_status(layer, 98304, 65536, &extent), 0);
    assert_true(extent.flags & BLOCK_STATUS_ALLOCATED);
    assert_int_equal(extent.length, 16384);
    /* And is not fetched again. */
    json_int_t reads = info_number(backing_of(top), "injected", "matched");
    assert_true(reads > 0);
    assert_int_equal(read_fill(top, 98304, 6, 16384), 0);
    assert_int_equal(info_number(backing_of(top), "injected", "matched"), reads);

    /* What the top image has already stays. */
    assert_int_equal(write_fill(top, 200 * KiB, 9, 4096), 0);
    assert_int_equal(read_fill(top, 0, 6, 200 * KiB), 0);
    assert_int_equal(read_fill(top, 200 * KiB, 9, 4096), 0);
    assert_int_equal(read_fill(top, 204 * KiB, 6, DEVICE_BYTES - 204 * KiB), 0);
    assert_int_equal(co_block_status(layer, 0, DEVICE_BYTES, &extent), 0);
    assert_true(extent.flags & BLOCK_STATUS_ALLOCATED);
    assert_int_equal(extent.length, DEVICE_BYTES);
    must_close(top);

    top = must_open(TOP(MEM), 0);
    fill_backing(top, bytes);
    assert_int_equal(read_fill(top, 0, 6, DEVICE_BYTES), 0);
    assert_int_equal(info_number(top, "copied-bytes", NULL), 0);
    must_close(top);
}

static void what_is_read_is_fetched_once(void **state)
{
    run_sim(1, read_twice, NULL);
}

static void read_with_full_disk(void *arg)
{
    autofree uint8_t *bytes = malloc(DEVICE_BYTES);
    memset(bytes, 6, DEVICE_BYTES);
    struct block_node *top = must_open(
        TOP("{\"driver\":\"error\",\"errno\":\"ENOSPC\",\"operation\":\"write\",\"file\":" MEM "}"),
        READ_WRITE);
    fill_backing(top, bytes);
    assert_int_equal(read_fill(top, 0, 6, DEVICE_BYTES), 0);
    assert_int_equal(info_number(top, "copied-bytes", NULL), 0);
    assert_int_equal(write_fill(top, 0, 1, 4096), -ENOSPC);
    must_close(top);
}

static void a_copy_that_cannot_be_stored_does_not_fail_the_read(void **state)
{
    run_sim(1, read_with_full_disk, NULL);
}

/* ---- writes and copies at the same time ---- */

#define WRITERS 3
#define READERS 12 /* more than may copy at a time */

struct race {
    struct block_node *top;
    uint8_t *model; /* each writer owns every third sector */
    struct co_group group;
    _Atomic unsigned next_writer, next_reader;
    uint64_t seed;
};

static void write_sectors(void *arg)
{
    struct race *race = arg;
    unsigned number = atomic_fetch_add(&race->next_writer, 1);
    struct random random = random_seed(race->seed * 64 + number);
    for (unsigned i = 0; i < 60; i++) {
        uint64_t sector = random_below(&random, DEVICE_BYTES / 512 / WRITERS) * WRITERS + number;
        uint8_t byte = (uint8_t)random_u64(&random);
        struct iovec iov;
        uint8_t bytes[512];
        memset(bytes, byte, sizeof(bytes));
        memset(race->model + sector * 512, byte, 512);
        assert_int_equal(co_block_write(race->top, sector * 512, sgl_one(&iov, bytes, 512), 0), 0);
        assert_int_equal(read_fill(race->top, sector * 512, byte, 512), 0);
        co_sleep_ns(random_below(&random, 200000));
    }
    co_group_done(&race->group);
}

static void read_anywhere(void *arg)
{
    struct race *race = arg;
    struct random random =
        random_seed(race->seed * 64 + 50 + atomic_fetch_add(&race->next_reader, 1));
    autofree uint8_t *bytes = malloc(40000);
    for (unsigned i = 0; i < 40; i++) {
        struct iovec iov;
        uint64_t offset = random_below(&random, DEVICE_BYTES - 40000);
        uint64_t length = 1 + random_below(&random, 40000);
        assert_int_equal(co_block_read(race->top, offset, sgl_one(&iov, bytes, length), 0), 0);
    }
    co_group_done(&race->group);
}

static void race_writes(void *arg)
{
    struct race *race = arg;
    struct iovec iov;
    struct random random = random_seed(race->seed);
    autofree uint8_t *bytes = malloc(DEVICE_BYTES);
    race->model = malloc(DEVICE_BYTES);
    random_fill(&random, race->model, DEVICE_BYTES);
    race->top = must_open(TOP("{\"driver\":\"delay\",\"write-us\":\"20\",\"jitter-us\":\"400\","
                              "\"file\":" MEM "}"),
                          READ_WRITE);
    fill_backing(race->top, race->model);
    co_group_init(&race->group);
    co_group_add(&race->group, WRITERS + READERS);
    for (unsigned i = 0; i < WRITERS; i++)
        assert_int_equal(rt_spawn(NULL, write_sectors, race), 0);
    for (unsigned i = 0; i < READERS; i++)
        assert_int_equal(rt_spawn(NULL, read_anywhere, race), 0);
    co_group_wait(&race->group);
    co_group_destroy(&race->group);

    assert_int_equal(co_block_read(race->top, 0, sgl_one(&iov, bytes, DEVICE_BYTES), 0), 0);
    assert_memory_equal(bytes, race->model, DEVICE_BYTES);
    assert_true(info_number(race->top, "copied-bytes", NULL) > 0);
    must_close(race->top);
    free(race->model);
}

static void a_copy_never_overwrites_a_newer_write(void **state)
{
    for (uint64_t seed = 1; seed <= 30; seed++) {
        struct race race = {.seed = seed};
        run_sim(seed, race_writes, &race);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_read_is_fetched_once),
        cmocka_unit_test(a_copy_that_cannot_be_stored_does_not_fail_the_read),
        cmocka_unit_test(a_copy_never_overwrites_a_newer_write),
    };
    block_drivers_register(test_table);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
