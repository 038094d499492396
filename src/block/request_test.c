/*
 * The request path: padding, splitting, order of overlapping writes, zeroes, discard, flush, reads
 * through chains.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "block/test_drivers.h"
#include "base/random.h"
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#define SIZE ((size_t)1 << 20)

static struct sgl flat(struct iovec *iov, void *buffer, size_t length)
{
    return sgl_one(iov, buffer, length);
}

static int write_bytes(struct block_node *node, uint64_t offset, size_t length, uint8_t byte,
                       unsigned flags)
{
    struct iovec iov;
    autofree uint8_t *buffer = malloc(length + 1);
    memset(buffer, byte, length);
    return co_block_write(node, offset, flat(&iov, buffer, length), flags);
}

static void assert_bytes(struct block_node *node, uint64_t offset, size_t length, uint8_t byte)
{
    struct iovec iov;
    autofree uint8_t *buffer = malloc(length + 1);
    memset(buffer, ~byte, length);
    assert_int_equal(co_block_read(node, offset, flat(&iov, buffer, length), 0), 0);
    for (size_t i = 0; i < length; i++)
        if (buffer[i] != byte)
            fail_msg("byte %zu is 0x%02x, not 0x%02x", (size_t)offset + i, buffer[i], byte);
}

static void check_ranges(void *arg)
{
    test_disk_new("d", 1000);
    struct block_node *node = test_open("raw:d", BLOCK_OPEN_WRITE);
    struct iovec iov;
    uint8_t b[16] = {0};
    assert_int_equal(co_block_read(node, 1000, flat(&iov, b, 0), 0), 0);
    assert_int_equal(co_block_read(node, 990, flat(&iov, b, 10), 0), 0);
    assert_int_equal(co_block_read(node, 990, flat(&iov, b, 11), 0), -EINVAL);
    assert_int_equal(co_block_read(node, 1001, flat(&iov, b, 0), 0), -EINVAL);
    assert_int_equal(co_block_read(node, UINT64_MAX, flat(&iov, b, 2), 0), -EINVAL);
    assert_int_equal(co_block_write(node, 990, flat(&iov, b, 11), 0), -EINVAL);
    assert_int_equal(co_block_write_zeroes(node, 990, 11, 0), -EINVAL);
    assert_int_equal(co_block_write_zeroes(node, 1, UINT64_MAX, 0), -EINVAL);
    assert_int_equal(co_block_discard(node, 990, 11), -EINVAL);
    struct block_extent extent;
    assert_int_equal(co_block_status(node, 1000, 1, &extent), -EINVAL);
    assert_int_equal(co_block_status_chain(node, 0, 0, &extent), -EINVAL);
    assert_int_equal(co_block_close(node, NULL), 0);

    node = test_open("raw:d", 0);
    assert_int_equal(co_block_write(node, 0, flat(&iov, b, 1), 0), -EROFS);
    assert_int_equal(co_block_write_zeroes(node, 0, 1, 0), -EROFS);
    assert_int_equal(co_block_discard(node, 0, 1), -EROFS);
    assert_int_equal(co_block_flush(node), 0);
    assert_int_equal(co_block_close(node, NULL), 0);
}

static void requests_outside_the_node_and_writes_on_read_only_ones_are_refused(void **state)
{
    test_run(check_ranges, NULL);
}

/* One seeded run of random requests against a model, with the limits in @arg. */
static void check_model(void *arg)
{
    const struct block_limits *limits = arg;
    uint64_t odd = limits->request_alignment > 1 ? 777 : 0;
    struct test_disk *disk = test_disk_new("d", SIZE + odd);
    disk->limits = *limits;
    disk->zero_flags = BLOCK_MAY_UNMAP;
    size_t size = disk->size;
    struct block_node *node = test_open("raw:d", BLOCK_OPEN_WRITE);
    autofree uint8_t *model = calloc(1, size), *buffer = malloc(size + 64), *copy = malloc(size);
    struct random random = random_seed(42 + limits->request_alignment);
    for (unsigned i = 0; i < 600; i++) {
        size_t max = i % 16 ? 9000 : 300000;
        size_t offset = random_below(&random, size);
        size_t length = MIN(size - offset, 1 + random_below(&random, max));
        size_t skew = random_below(&random, 2) * random_below(&random, 64);
        size_t cut = random_below(&random, length + 1);
        struct iovec iov[2] = {{buffer + skew, cut}, {buffer + skew + cut, length - cut}};
        struct sgl list = sgl_of(iov, 2);
        switch (random_below(&random, 4)) {
        case 0:
            memset(buffer + skew, (int)i, length);
            assert_int_equal(co_block_write(node, offset, list, 0), 0);
            memset(model + offset, (int)i, length);
            break;
        case 1:
            assert_int_equal(co_block_write_zeroes(node->child[BLOCK_FILE], offset, length, 0), 0);
            memset(model + offset, 0, length);
            break;
        default:
            assert_int_equal(co_block_read(node, offset, list, 0), 0);
            sgl_to_buffer(list, copy);
            assert_memory_equal(copy, model + offset, length);
        }
    }
    assert_memory_equal(disk->bytes, model, size);
    assert_int_equal(co_block_close(node, NULL), 0);
}

static void any_alignment_and_limit_gives_the_same_bytes(void **state)
{
    static struct block_limits cases[] = {
        {.request_alignment = 1},
        {.request_alignment = 512, .memory_alignment = 512},
        {.request_alignment = 4096, .memory_alignment = 4096},
        {.request_alignment = 512, .transfer_max = 4096, .zero_max = 8192},
        {.request_alignment = 4096, .memory_alignment = 512, .transfer_max = 5000},
        {.request_alignment = 1, .transfer_max = 1000, .zero_alignment = 4096},
        {.request_alignment = 32768, .zero_alignment = 65536},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++)
        test_run(check_model, &cases[i]);
}

/* ---- writers that meet in one block ---- */

struct writer {
    struct block_node *node;
    struct co_group *group;
    uint64_t offset;
    size_t length;
    uint8_t byte;
};

static void run_writer(void *arg)
{
    struct writer *w = arg;
    assert_int_equal(write_bytes(w->node, w->offset, w->length, w->byte, 0), 0);
    co_group_done(w->group);
}

static void check_overlap(void *arg)
{
    struct test_disk *disk = test_disk_new("d", 64 * KiB);
    disk->limits = (struct block_limits){.request_alignment = 4096};
    disk->delay_ns = 1000;
    struct block_node *node = test_open("raw:d", BLOCK_OPEN_WRITE);
    struct writer writers[64];
    struct co_group group;
    co_group_init(&group);
    co_group_add(&group, 64);
    for (unsigned i = 0; i < 64; i++) {
        /* 1,000 bytes each: most blocks are shared by five writers. */
        writers[i] = (struct writer){node, &group, i * 1000, 1000, (uint8_t)(i + 1)};
        assert_int_equal(rt_spawn(NULL, run_writer, &writers[i]), 0);
    }
    co_group_wait(&group);
    for (unsigned i = 0; i < 64; i++)
        assert_bytes(node, i * 1000, 1000, (uint8_t)(i + 1));
    co_group_destroy(&group);
    assert_int_equal(co_block_close(node, NULL), 0);
}

/* As a format appends to its file: no writer knows how far the others are. */
static void check_append(void *arg)
{
    struct test_disk *disk = test_disk_new("d", 1000);
    disk->limits = (struct block_limits){.request_alignment = 4096};
    disk->delay_ns = 1000;
    struct block_node *node = test_open("file:d", BLOCK_OPEN_WRITE);
    struct writer writers[64];
    struct co_group group;
    co_group_init(&group);
    co_group_add(&group, 64);
    for (unsigned i = 0; i < 64; i++) {
        writers[i] = (struct writer){node, &group, 1000 + i * 777, 777, (uint8_t)(i + 1)};
        assert_int_equal(rt_spawn(NULL, run_writer, &writers[i]), 0);
    }
    co_group_wait(&group);
    assert_bytes(node, 0, 1000, 0);
    for (unsigned i = 0; i < 64; i++)
        assert_bytes(node, 1000 + i * 777, 777, (uint8_t)(i + 1));
    assert_int_equal(block_size(node), 1000 + 64 * 777);
    co_group_destroy(&group);
    assert_int_equal(co_block_close(node, NULL), 0);
}

static void writers_that_make_a_file_longer_do_not_undo_each_other(void **state)
{
    test_run(check_append, NULL);
}

static void writers_that_share_a_block_do_not_undo_each_other(void **state)
{
    test_run(check_overlap, NULL);
}

/* ---- FUA and flush ---- */

static void check_fua(void *arg)
{
    struct test_disk *disk = test_disk_new("d", SIZE);
    struct block_node *node = test_open("file:d", BLOCK_OPEN_WRITE);
    assert_int_equal(write_bytes(node, 0, 4096, 1, BLOCK_FUA), 0);
    assert_true(disk->flushes == 1 && disk->fua_writes == 0);
    assert_int_equal(co_block_write_zeroes(node, 0, 4096, BLOCK_FUA), 0);
    assert_int_equal(disk->flushes, 2);
    assert_int_equal(co_block_close(node, NULL), 0);

    disk->write_flags = BLOCK_FUA;
    disk->flushes = 0;
    node = test_open("file:d", BLOCK_OPEN_WRITE);
    assert_int_equal(write_bytes(node, 0, 4096, 1, BLOCK_FUA), 0);
    assert_true(disk->flushes == 0 && disk->fua_writes == 1);
    assert_int_equal(co_block_close(node, NULL), 0);
}

static void fua_is_the_drivers_or_a_flush(void **state)
{
    test_run(check_fua, NULL);
}

struct flusher {
    struct block_node *node;
    struct co_group *group;
    int result;
};

static void run_flusher(void *arg)
{
    struct flusher *f = arg;
    f->result = co_block_flush(f->node);
    co_group_done(f->group);
}

static void check_flush(void *arg)
{
    struct test_disk *disk = test_disk_new("d", SIZE);
    disk->delay_ns = 100000;
    struct block_node *node = test_open("file:d", BLOCK_OPEN_WRITE);
    struct flusher flushers[20];
    struct co_group group;
    co_group_init(&group);
    assert_int_equal(write_bytes(node, 0, 4096, 1, 0), 0);
    co_group_add(&group, 20);
    for (unsigned i = 0; i < 20; i++) {
        flushers[i] = (struct flusher){node, &group, 1};
        assert_int_equal(rt_spawn(NULL, run_flusher, &flushers[i]), 0);
    }
    co_group_wait(&group);
    for (unsigned i = 0; i < 20; i++)
        assert_int_equal(flushers[i].result, 0);
    assert_in_range(disk->flushes, 1, 2);

    /* Nothing was written since: nothing to do. */
    unsigned before = disk->flushes;
    assert_int_equal(co_block_flush(node), 0);
    assert_int_equal(disk->flushes, before);

    /* Everybody who waits for a flush that fails is told, and the next one tries again. */
    assert_int_equal(write_bytes(node, 0, 4096, 1, 0), 0);
    disk->flush_errors = 1;
    co_group_add(&group, 1);
    assert_int_equal(rt_spawn(NULL, run_flusher, &flushers[0]), 0);
    assert_int_equal(co_block_flush(node), -EIO);
    co_group_wait(&group);
    assert_int_equal(co_block_flush(node), 0);
    co_group_destroy(&group);
    assert_int_equal(co_block_close(node, NULL), 0);
}

static void flushes_are_merged_and_failures_told_to_all(void **state)
{
    test_run(check_flush, NULL);
}

/* ---- zeroes and discard ---- */

static void check_zeroes(void *arg)
{
    struct test_disk *disk = test_disk_new("d", SIZE);
    disk->limits = (struct block_limits){.zero_alignment = 65536, .discard_alignment = 65536};
    struct block_node *node = test_open("file:d", BLOCK_OPEN_WRITE);
    memset(disk->bytes, 1, SIZE);
    assert_int_equal(co_block_write_zeroes(node, 1000, 200000, 0), 0);
    assert_true(disk->zeroes == 1 && disk->writes == 2);
    assert_bytes(node, 1000, 200000, 0);
    assert_bytes(node, 0, 1000, 1);
    assert_bytes(node, 201000, 1000, 1);

    assert_int_equal(co_block_write_zeroes(node, 1000, 100, BLOCK_NO_FALLBACK), -ENOTSUP);
    disk->no_zeroes = true;
    memset(disk->bytes, 1, SIZE);
    assert_int_equal(co_block_write_zeroes(node, 0, 65536, BLOCK_NO_FALLBACK), -ENOTSUP);
    assert_bytes(node, 0, 65536, 1);
    assert_int_equal(co_block_write_zeroes(node, 0, SIZE, 0), 0);
    assert_bytes(node, 0, SIZE, 0);

    memset(disk->bytes, 1, SIZE);
    assert_int_equal(co_block_discard(node, 1, 65536), 0);
    assert_int_equal(disk->discards, 0);
    assert_int_equal(co_block_discard(node, 1, 3 * 65536), 0);
    assert_int_equal(disk->discards, 1);
    assert_bytes(node, 0, 65536, 1);
    assert_bytes(node, 65536, 2 * 65536, 0xdd);
    assert_int_equal(co_block_close(node, NULL), 0);

    /* The end of the image counts as aligned. */
    disk = test_disk_new("d", 100000);
    disk->limits = (struct block_limits){.zero_alignment = 65536, .discard_alignment = 65536};
    node = test_open("file:d", BLOCK_OPEN_WRITE);
    assert_int_equal(co_block_write_zeroes(node, 65536, 100000 - 65536, 0), 0);
    assert_true(disk->zeroes == 1 && disk->writes == 0);
    assert_int_equal(co_block_discard(node, 0, 100000), 0);
    assert_int_equal(disk->discards, 1);
    assert_int_equal(co_block_close(node, NULL), 0);
}

static void zeroes_and_discards_are_cut_to_what_the_driver_takes(void **state)
{
    test_run(check_zeroes, NULL);
}

/* ---- chains ---- */

static void make_chain(unsigned layers, size_t size)
{
    for (unsigned i = 0; i < layers; i++) {
        char name[32], below[32];
        snprintf(name, sizeof(name), "l%u", i);
        snprintf(below, sizeof(below), "l%u", i - 1);
        test_layer_new(name, size, i ? below : NULL, "layer");
    }
}

static void check_chain_model(void *arg)
{
    enum { LAYERS = 5, CHAIN_SIZE = 256 * 1024 };
    make_chain(LAYERS, CHAIN_SIZE);
    autofree uint8_t *model = calloc(1, CHAIN_SIZE), *buffer = malloc(CHAIN_SIZE);
    struct random random = random_seed(7);
    /* Single sectors all over: far more holes than the core's lists take. */
    for (unsigned layer = 0; layer < LAYERS; layer++) {
        char name[32];
        snprintf(name, sizeof(name), "l%u", layer);
        for (unsigned i = 0; i < 100; i++) {
            size_t at = random_below(&random, CHAIN_SIZE / 512) * 512;
            test_layer_fill(name, at, 512, (uint8_t)(1 + layer * 50 + i % 50));
            memset(model + at, (int)(1 + layer * 50 + i % 50), 512);
        }
    }
    struct block_node *node = test_open("layer:file:l4", BLOCK_OPEN_WRITE);
    struct iovec iov;
    assert_int_equal(co_block_read(node, 0, flat(&iov, buffer, CHAIN_SIZE), 0), 0);
    assert_memory_equal(buffer, model, CHAIN_SIZE);
    for (unsigned i = 0; i < 300; i++) {
        size_t offset = random_below(&random, CHAIN_SIZE - 1);
        size_t length = MIN(1 + random_below(&random, 60000), CHAIN_SIZE - offset);
        if (i % 3 == 0) {
            assert_int_equal(write_bytes(node, offset, length % 3000 + 1, (uint8_t)i, 0),
                             range_fits(offset, length % 3000 + 1, CHAIN_SIZE) ? 0 : -EINVAL);
            if (range_fits(offset, length % 3000 + 1, CHAIN_SIZE))
                memset(model + offset, (int)i, length % 3000 + 1);
        }
        assert_int_equal(co_block_read(node, offset, flat(&iov, buffer, length), 0), 0);
        assert_memory_equal(buffer, model + offset, length);
    }
    assert_int_equal(co_block_close(node, NULL), 0);
}

static void reads_through_layers_full_of_holes_match_the_model(void **state)
{
    test_run(check_chain_model, NULL);
}

/* The map of a long chain is learnt while it is read, in every order. */
static void check_shortcuts(void *arg)
{
    enum { LAYERS = 40, CHAIN_SIZE = 1024 * 1024 + 512 };
    make_chain(LAYERS, CHAIN_SIZE);
    autofree uint8_t *model = calloc(1, CHAIN_SIZE), *buffer = malloc(CHAIN_SIZE);
    struct random random = random_seed(11);
    for (unsigned layer = 0; layer < LAYERS; layer += 3) {
        char name[32];
        snprintf(name, sizeof(name), "l%u", layer);
        for (unsigned i = 0; i < 4; i++) {
            size_t at = (2 + random_below(&random, CHAIN_SIZE / 512 - 10)) * 512;
            test_layer_fill(name, at, 4096, (uint8_t)(layer + 1));
            memset(model + at, (int)layer + 1, 4096);
        }
    }
    struct block_node *node = test_open("layer:file:l39", BLOCK_OPEN_WRITE);
    for (unsigned i = 0; i < 3000; i++) {
        size_t offset = random_below(&random, CHAIN_SIZE);
        size_t length = MIN(1 + random_below(&random, i % 50 ? 9000 : 300000), CHAIN_SIZE - offset);
        struct iovec iov;
        if (i % 40 == 0 && offset >= 1024) {
            assert_int_equal(write_bytes(node, offset, length, (uint8_t)i, 0), 0);
            memset(model + offset, (int)i & 0xff, length);
        }
        assert_int_equal(co_block_read(node, offset, flat(&iov, buffer, length), 0), 0);
        assert_memory_equal(buffer, model + offset, length);
    }
    /* A layer in the middle becomes writable, gets data, and is read-only again. */
    struct block_node *middle = node;
    for (unsigned i = 0; i < 20; i++)
        middle = middle->child[BLOCK_BACKING];
    assert_int_equal(co_node_set_read_only(middle, false, NULL), 0);
    assert_int_equal(write_bytes(middle, 512, 512, 0xc3, 0), 0);
    assert_bytes(middle, 512, 512, 0xc3);
    assert_int_equal(co_node_set_read_only(middle, true, NULL), 0);
    assert_bytes(node, 512, 512, 0xc3);
    assert_bytes(node, 0, 512, 0);
    assert_int_equal(co_block_close(node, NULL), 0);
}

static void shortcuts_through_long_chains_never_change_an_answer(void **state)
{
    test_run(check_shortcuts, NULL);
}

static void check_deep(void *arg)
{
    enum { LAYERS = 2000 };
    make_chain(LAYERS, 65536);
    test_layer_fill("l0", 4096, 4096, 0xaa);
    test_layer_fill("l1000", 16384, 512, 0xbb);
    struct block_node *node = test_open("layer:file:l1999", BLOCK_OPEN_WRITE);
    assert_bytes(node, 0, 4096, 0);
    assert_bytes(node, 4096, 4096, 0xaa);
    assert_bytes(node, 16384, 512, 0xbb);
    struct block_extent extent;
    assert_int_equal(co_block_status_chain(node, 4096, 61440, &extent), 0);
    assert_true(extent.depth == 1999 && extent.length == 4096);
    assert_int_equal(co_block_status_chain(node, 0, 65536, &extent), 0);
    assert_true(extent.flags == BLOCK_STATUS_ZERO && extent.length == 4096);
    json_t *info = NULL;
    assert_int_equal(co_block_info(node, &info, NULL), 0);
    json_decref(info);
    assert_int_equal(co_block_close(node, NULL), 0);
    assert_true(test_disk_find("l0")->closed);
}

static void a_chain_of_2000_layers_opens_reads_and_closes_on_a_small_stack(void **state)
{
    test_run(check_deep, NULL);
}

static void check_short_backing(void *arg)
{
    test_layer_new("l0", 8192, NULL, NULL);
    test_layer_fill("l0", 0, 8192, 0x11);
    test_layer_new("l1", 32768, "l0", "layer");
    test_layer_fill("l1", 16384, 512, 0x22);
    struct block_node *node = test_open("layer:file:l1", BLOCK_OPEN_WRITE);
    assert_bytes(node, 0, 8192, 0x11);
    assert_bytes(node, 8192, 8192, 0);
    assert_bytes(node, 16384, 512, 0x22);
    struct block_extent extent;
    assert_int_equal(co_block_status_chain(node, 4096, 28672, &extent), 0);
    assert_true(extent.length == 4096 && extent.depth == 1);
    assert_int_equal(co_block_status_chain(node, 8192, 24576, &extent), 0);
    assert_true(extent.length == 8192 && extent.flags == BLOCK_STATUS_ZERO);
    uint8_t all[20000];
    struct iovec iov;
    assert_int_equal(
        co_block_read_padded(node->child[BLOCK_BACKING], 100, flat(&iov, all, sizeof(all))), 0);
    assert_true(all[0] == 0x11 && all[8191 - 100] == 0x11 && all[8192 - 100] == 0 &&
                all[19999] == 0);
    assert_int_equal(co_block_read_padded(NULL, 0, flat(&iov, all, 100)), 0);
    assert_true(buffer_is_zero(all, 100));
    assert_int_equal(co_block_close(node, NULL), 0);
}

static void past_a_short_backing_file_there_are_zeroes(void **state)
{
    test_run(check_short_backing, NULL);
}

static void check_resize(void *arg)
{
    test_layer_new("l0", 32768, NULL, NULL);
    test_layer_fill("l0", 0, 32768, 0x11);
    test_layer_new("l1", 65536, "l0", "layer");
    struct block_node *node = test_open("layer:file:l1", BLOCK_OPEN_WRITE | BLOCK_OPEN_RESIZE);
    struct hws_error err = {0};
    assert_int_equal(co_block_resize(node, 8192, &err), 0);
    assert_int_equal(co_block_resize(node, 65536, &err), 0);
    assert_bytes(node, 0, 8192, 0x11);
    assert_bytes(node, 8192, 65536 - 8192, 0);

    /* Where the new part cannot be hidden, the image keeps its size. */
    assert_int_equal(co_block_resize(node, 4096, &err), 0);
    test_disk_find("l1")->write_errors = 1;
    assert_int_equal(co_block_resize(node, 65536, &err), -EIO);
    assert_int_equal(block_size(node), 4096);
    assert_int_equal(co_block_resize(node, BLOCK_SIZE_MAX + 1, &err), -EFBIG);
    assert_int_equal(co_block_close(node, NULL), 0);
}

static void growing_over_a_longer_backing_file_shows_zeroes(void **state)
{
    test_run(check_resize, NULL);
}

static void check_filter_status(void *arg)
{
    test_layer_new("l0", 8192, NULL, NULL);
    test_layer_fill("l0", 0, 4096, 0x11);
    test_layer_new("l1", 8192, "l0", "layer");
    struct block_node *node = test_open("pass:layer:file:l1", 0);
    struct block_extent extent;
    assert_int_equal(co_block_status_chain(node, 0, 8192, &extent), 0);
    assert_true(extent.length == 4096 && (extent.flags & BLOCK_STATUS_DATA));
    assert_int_equal(co_block_status_chain(node, 4096, 4096, &extent), 0);
    assert_true(extent.flags == (BLOCK_STATUS_ZERO | BLOCK_STATUS_ALLOCATED));
    assert_int_equal(co_block_status(node, 4100, 10, &extent), 0);
    assert_int_equal(extent.length, 10);
    assert_int_equal(co_block_close(node, NULL), 0);
}

static void a_filter_passes_on_the_status_of_its_file(void **state)
{
    test_run(check_filter_status, NULL);
}

static int teardown(void **state)
{
    test_disks_free();
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(requests_outside_the_node_and_writes_on_read_only_ones_are_refused),
        cmocka_unit_test(any_alignment_and_limit_gives_the_same_bytes),
        cmocka_unit_test(writers_that_share_a_block_do_not_undo_each_other),
        cmocka_unit_test(writers_that_make_a_file_longer_do_not_undo_each_other),
        cmocka_unit_test(fua_is_the_drivers_or_a_flush),
        cmocka_unit_test(flushes_are_merged_and_failures_told_to_all),
        cmocka_unit_test(zeroes_and_discards_are_cut_to_what_the_driver_takes),
        cmocka_unit_test(reads_through_layers_full_of_holes_match_the_model),
        cmocka_unit_test_teardown(shortcuts_through_long_chains_never_change_an_answer, teardown),
        cmocka_unit_test_teardown(a_chain_of_2000_layers_opens_reads_and_closes_on_a_small_stack,
                                  teardown),
        cmocka_unit_test(past_a_short_backing_file_there_are_zeroes),
        cmocka_unit_test(growing_over_a_longer_backing_file_shows_zeroes),
        cmocka_unit_test(a_filter_passes_on_the_status_of_its_file),
    };
    test_drivers_register();
    return cmocka_run_group_tests(tests, NULL, teardown);
}
