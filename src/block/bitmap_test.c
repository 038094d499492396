/*
 * Dirty bitmaps of the core: bits against a plain model, what requests mark, sizes, limits,
 * threads.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/random.h"
#include "block/bitmap.h"
#include "block/test_drivers.h"
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#define SIZE ((size_t)5 << 20)

static struct block_bitmap *add(struct block_node *node, uint64_t granularity, unsigned flags)
{
    struct block_bitmap *bitmap;
    struct hws_error err = {0};
    if (co_block_bitmap_add(node, NULL, granularity, flags, &bitmap, &err) < 0)
        fail_msg("%s", err.text);
    return bitmap;
}

/* The model: a byte a grain. */
struct model {
    uint8_t *dirty;
    uint64_t granularity, size;
};

static void model_set(struct model *m, uint64_t offset, uint64_t length)
{
    for (uint64_t at = offset / m->granularity;
         length && at <= (offset + length - 1) / m->granularity; at++)
        m->dirty[at] = 1;
}

static void assert_same(struct block_bitmap *bitmap, const struct model *m)
{
    uint64_t length, sum = 0, counted;
    for (uint64_t at = 0; at < m->size; at += length) {
        bool dirty;
        assert_int_equal(co_block_bitmap_next(bitmap, at, m->size - at, &dirty, &length), 0);
        assert_true(length > 0 && length <= m->size - at);
        for (uint64_t grain = at / m->granularity; grain <= (at + length - 1) / m->granularity;
             grain++)
            assert_int_equal(m->dirty[grain], dirty);
        uint64_t next = (at + length) / m->granularity;
        if (at + length < m->size) /* a run is as long as it can be */
            assert_int_equal(m->dirty[next], !dirty);
        sum += dirty ? length : 0;
    }
    assert_int_equal(co_block_bitmap_count(bitmap, &counted), 0);
    assert_int_equal(counted, sum);
}

static void check_model(void *arg)
{
    unsigned seed = *(unsigned *)arg;
    struct random random = random_seed(seed);
    test_disk_new("d", SIZE + seed * 512);
    struct block_node *node = test_open("raw:d", BLOCK_OPEN_WRITE);
    uint64_t granularity = 512ull << random_below(&random, 12);
    struct block_bitmap *bitmap = add(node, granularity, BLOCK_BITMAP_DISABLED);
    struct model m = {.granularity = granularity, .size = block_size(node)};
    m.dirty = calloc(m.size / 512 + 2, 1);
    for (unsigned i = 0; i < 60; i++) {
        uint64_t offset = random_below(&random, m.size);
        uint64_t most = random_below(&random, 4) ? 9000 : m.size;
        uint64_t length = random_below(&random, MIN(most, m.size - offset) + 1);
        if (random_below(&random, 8)) {
            block_bitmap_set(bitmap, offset, length);
            model_set(&m, offset, length);
        } else {
            assert_int_equal(co_block_bitmap_clear(bitmap, NULL), 0);
            memset(m.dirty, 0, m.size / 512 + 2);
        }
        if (i % 10 == 9)
            assert_same(bitmap, &m);
    }
    struct block_bitmap *other = add(node, 512ull << random_below(&random, 12), 0);
    assert_int_equal(co_block_bitmap_merge(other, bitmap, NULL), 0);
    struct model o = {.granularity = 1ull << other->granularity_bits, .size = m.size};
    o.dirty = calloc(m.size / 512 + 2, 1);
    for (uint64_t at = 0; at < m.size; at += granularity)
        if (m.dirty[at / granularity])
            model_set(&o, at, MIN(granularity, m.size - at));
    assert_same(other, &o);
    assert_int_equal(co_block_bitmap_clear(other, NULL), 0);
    memset(o.dirty, 0, m.size / 512 + 2);
    assert_same(other, &o);
    free(m.dirty);
    free(o.dirty);
    assert_int_equal(co_block_close(node, NULL), 0);
}

static void bits_match_a_plain_model(void **state)
{
    for (unsigned seed = 1; seed <= 40; seed++)
        test_run(check_model, &seed);
}

static bool is_dirty(struct block_bitmap *bitmap, uint64_t offset)
{
    bool dirty;
    uint64_t length;
    assert_int_equal(co_block_bitmap_next(bitmap, offset, 1, &dirty, &length), 0);
    return dirty;
}

static void check_requests(void *arg)
{
    struct test_disk *disk = test_disk_new("d", SIZE);
    struct block_node *node = test_open("raw:d", BLOCK_OPEN_WRITE);
    struct block_bitmap *bitmap = add(node, 4096, 0);
    struct block_bitmap *still = add(node, 4096, BLOCK_BITMAP_DISABLED);
    uint8_t bytes[600] = {1};
    struct iovec iov;
    uint64_t sum;
    assert_int_equal(co_block_write(node, 8000, sgl_one(&iov, bytes, 600), 0), 0);
    assert_true(!is_dirty(bitmap, 0) && is_dirty(bitmap, 8000) && is_dirty(bitmap, 8599));
    assert_int_equal(co_block_write_zeroes(node, 65536, 8192, 0), 0);
    assert_true(is_dirty(bitmap, 65536) && is_dirty(bitmap, 73727) && !is_dirty(bitmap, 73728));
    assert_int_equal(co_block_discard(node, 1 << 20, 4096), 0); /* it has none: no change */
    assert_true(!is_dirty(bitmap, 1 << 20));
    disk->write_errors = 1;
    assert_true(co_block_write(node, 2 << 20, sgl_one(&iov, bytes, 600), 0) < 0);
    assert_true(is_dirty(bitmap, 2 << 20));
    assert_int_equal(co_block_write(node, SIZE, sgl_one(&iov, bytes, 600), 0), -EINVAL);
    assert_int_equal(co_block_bitmap_count(bitmap, &sum), 0);
    assert_int_equal(sum, 5 * 4096);
    assert_int_equal(co_block_bitmap_count(still, &sum), 0);
    assert_int_equal(sum, 0);
    assert_int_equal(co_block_bitmap_enable(bitmap, false, NULL), 0);
    assert_int_equal(co_block_bitmap_enable(still, true, NULL), 0);
    assert_int_equal(co_block_write(node, 3 << 20, sgl_one(&iov, bytes, 600), 0), 0);
    assert_true(!is_dirty(bitmap, 3 << 20) && is_dirty(still, 3 << 20));
    assert_int_equal(co_block_bitmap_remove(still, NULL), 0);
    assert_int_equal(co_block_write(node, 3 << 20, sgl_one(&iov, bytes, 600), 0), 0);
    assert_int_equal(co_block_close(node, NULL), 0);
}

static void every_change_marks_its_range_failed_ones_too(void **state)
{
    test_run(check_requests, NULL);
}

static void check_resize(void *arg)
{
    test_layer_new("l", 1 << 20, NULL, NULL);
    struct block_node *node = test_open("layer:file:l", BLOCK_OPEN_WRITE);
    struct block_bitmap *bitmap = add(node, 512, BLOCK_BITMAP_DISABLED);
    struct hws_error err = {0};
    uint64_t sum;
    assert_int_equal(co_block_resize(node, 65536, &err), 0);
    block_bitmap_set(bitmap, 0, 65536);
    if (co_block_resize(node, 1 << 20, &err) < 0)
        fail_msg("%s", err.text);
    assert_true(is_dirty(bitmap, 65535) && !is_dirty(bitmap, 65536) &&
                !is_dirty(bitmap, (1 << 20) - 1));
    block_bitmap_set(bitmap, 0, 1 << 20);
    assert_int_equal(co_block_bitmap_count(bitmap, &sum), 0);
    assert_int_equal(sum, 1 << 20);
    assert_int_equal(co_block_resize(node, 8192 + 512, &err), 0);
    assert_int_equal(co_block_resize(node, 1 << 20, &err), 0);
    assert_int_equal(co_block_bitmap_count(bitmap, &sum), 0);
    assert_int_equal(sum, 8192 + 512);
    assert_int_equal(co_block_close(node, NULL), 0);
}

static void what_is_new_is_clean(void **state)
{
    test_run(check_resize, NULL);
}

static void check_refused(void *arg)
{
    test_disk_new("d", SIZE);
    struct block_node *node = test_open("raw:d", BLOCK_OPEN_WRITE);
    struct block_bitmap *bitmap;
    struct hws_error err = {0};
    char name[BLOCK_BITMAP_NAME_MAX + 2];
    memset(name, 'n', sizeof(name));
    name[sizeof(name) - 1] = '\0';
    static const uint64_t wrong[] = {1, 256, 768, 4096 + 1, 4ull << 30};
    for (unsigned i = 0; i < ARRAY_LEN(wrong); i++)
        assert_int_equal(co_block_bitmap_add(node, "a", wrong[i], 0, NULL, &err), -EINVAL);
    assert_int_equal(co_block_bitmap_add(node, name, 0, 0, NULL, &err), -EINVAL);
    assert_int_equal(co_block_bitmap_add(node, "", 0, 0, NULL, &err), -EINVAL);
    name[BLOCK_BITMAP_NAME_MAX] = '\0';
    assert_int_equal(co_block_bitmap_add(node, name, 0, 0, &bitmap, &err), 0);
    assert_int_equal(co_block_bitmap_add(node, name, 0, 0, NULL, &err), -EEXIST);
    assert_ptr_equal(block_bitmap_find(node, name), bitmap);
    assert_ptr_equal(block_bitmap_after(node, NULL), bitmap);
    assert_null(block_bitmap_after(node, bitmap));
    assert_int_equal(co_block_bitmap_add(node, "p", 0, BLOCK_BITMAP_PERSISTENT, NULL, &err),
                     -ENOTSUP);
    bool dirty;
    uint64_t length;
    assert_int_equal(co_block_bitmap_next(bitmap, SIZE, 1, &dirty, &length), -EINVAL);
    assert_int_equal(co_block_bitmap_next(bitmap, 0, 0, &dirty, &length), -EINVAL);
    /* 4 EiB in grains of 512 bytes are 2^53 bits. */
    atomic_store(&node->size_bytes, (uint64_t)4 << 60);
    assert_int_equal(co_block_bitmap_add(node, "huge", 512, 0, NULL, &err), -EFBIG);
    atomic_store(&node->size_bytes, SIZE);
    assert_int_equal(co_block_close(node, NULL), 0);
}

static void what_cannot_be_is_refused(void **state)
{
    test_run(check_refused, NULL);
}

#define THREADS 4

struct setter {
    struct block_bitmap *bitmap;
    unsigned number;
};

/* Each its own grains, all of them in shared words. */
static void *set_own(void *arg)
{
    const struct setter *s = arg;
    for (uint64_t grain = s->number; grain < SIZE / 512; grain += THREADS)
        if (grain % 3)
            block_bitmap_set(s->bitmap, grain * 512, 512);
    return NULL;
}

static void check_threads(void *arg)
{
    test_disk_new("d", SIZE);
    struct block_node *node = test_open("raw:d", BLOCK_OPEN_WRITE);
    struct block_bitmap *bitmap = add(node, 512, 0);
    pthread_t thread[THREADS];
    struct setter setter[THREADS];
    for (unsigned i = 0; i < THREADS; i++) {
        setter[i] = (struct setter){bitmap, i};
        assert_int_equal(pthread_create(&thread[i], NULL, set_own, &setter[i]), 0);
    }
    for (unsigned i = 0; i < THREADS; i++)
        pthread_join(thread[i], NULL);
    for (uint64_t grain = 0; grain < SIZE / 512; grain++)
        assert_int_equal(is_dirty(bitmap, grain * 512), grain % 3 != 0);
    assert_int_equal(co_block_close(node, NULL), 0);
}

static void threads_that_share_words_lose_no_bit(void **state)
{
    test_run(check_threads, NULL);
}

static int teardown(void **state)
{
    test_disks_free();
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bits_match_a_plain_model),
        cmocka_unit_test(every_change_marks_its_range_failed_ones_too),
        cmocka_unit_test(what_is_new_is_clean),
        cmocka_unit_test(what_cannot_be_is_refused),
        cmocka_unit_test(threads_that_share_words_lose_no_bit),
    };
    test_drivers_register();
    return cmocka_run_group_tests(tests, NULL, teardown);
}
