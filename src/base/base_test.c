/*
 * Unit tests of src/base.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/cursor.h"
#include "base/histogram.h"
#include "base/list.h"
#include "base/random.h"
#include "base/sgl.h"
#include "base/size.h"
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

static void sizes_parse_as_people_write_them(void **state)
{
    static const struct {
        const char *text;
        uint64_t bytes;
    } good[] = {{"0", 0},
                {"512", 512},
                {"4k", 4096},
                {"64KiB", 65536},
                {"10G", 10 * GiB},
                {"1.5T", 1536 * GiB},
                {"7E", 7 * (GiB << 30)},
                {"2MB", 2 * MiB},
                {"0.5M", 512 * KiB},
                {"100b", 100}};
    for (size_t i = 0; i < ARRAY_LEN(good); i++) {
        uint64_t bytes;
        assert_int_equal(size_parse(good[i].text, &bytes, NULL), 0);
        assert_true(bytes == good[i].bytes);
    }
    static const char *const bad[] = {
        "",   "-1",  "k",  "1x",   "1.5",   "16E", "99999999999999999999",
        " 1", "1kk", "1 ", "0x10", "1Kbit", "+5"};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        uint64_t bytes = 77;
        struct hws_error err = {0};
        assert_true(size_parse(bad[i], &bytes, &err) < 0);
        assert_true(bytes == 77 && err.code > 0 && err.text[0]);
    }
}

static void sizes_print_in_the_largest_fitting_unit(void **state)
{
    char text[32];
    assert_string_equal(size_format(0, text, sizeof(text)), "0 B");
    assert_string_equal(size_format(10 * GiB, text, sizeof(text)), "10 GiB");
    assert_string_equal(size_format(1536 * MiB, text, sizeof(text)), "1.5 GiB");
    assert_string_equal(size_format(UINT64_MAX, text, sizeof(text)), "16 EiB");
}

static void errors_gather_context_on_the_way_up(void **state)
{
    struct hws_error err = {0};
    int r = hws_fail(&err, EINVAL, "field %s is %d", "x", 7);
    assert_int_equal(r, -EINVAL);
    assert_int_equal(hws_wrap(&err, r, "image '%s'", "a"), -EINVAL);
    assert_string_equal(err.text, "image 'a': field x is 7");
    struct hws_error bare = {0};
    assert_int_equal(hws_wrap(&bare, -ENOSPC, "writing"), -ENOSPC);
    assert_string_equal(bare.text, "writing: No space left on device");
    assert_int_equal(hws_fail(NULL, EIO, "nobody listens"), -EIO);
}

static void overlong_errors_are_marked_as_cut(void **state)
{
    struct hws_error err = {0};
    char many[2 * HWS_ERROR_TEXT_BYTES];
    memset(many, 'a', sizeof(many) - 1);
    many[sizeof(many) - 1] = 0;
    assert_int_equal(hws_fail(&err, EINVAL, "%s", many), -EINVAL);
    assert_string_equal(err.text + HWS_ERROR_TEXT_BYTES - 4, "...");
}

static void slices_see_the_same_bytes_as_a_flat_copy(void **state)
{
    struct random random = random_seed(1);
    uint8_t bytes[300], out[300];
    random_fill(&random, bytes, sizeof(bytes));
    for (int round = 0; round < 2000; round++) {
        struct iovec iov[6];
        unsigned count = 1 + (unsigned)random_below(&random, 6);
        size_t at = 0;
        for (unsigned i = 0; i < count; i++) {
            size_t length = random_below(&random, 50);
            iov[i] = (struct iovec){bytes + at, length};
            at += length;
        }
        struct sgl list = sgl_of(iov, count);
        assert_int_equal(list.length, at);
        size_t offset = random_below(&random, at + 1),
               length = random_below(&random, at - offset + 1);
        struct sgl slice = sgl_slice(list, offset, length);
        sgl_to_buffer(slice, out);
        assert_memory_equal(out, bytes + offset, length);
        struct iovec flat[6];
        size_t covered;
        unsigned pieces = sgl_export(slice, flat, 6, &covered);
        assert_int_equal(covered, length);
        sgl_to_buffer(sgl_of(flat, pieces), out);
        assert_memory_equal(out, bytes + offset, length);
        if (sgl_flat(slice))
            assert_ptr_equal(sgl_flat(slice), bytes + offset);
    }
}

static void zero_detection_finds_a_single_set_bit(void **state)
{
    uint8_t bytes[100] = {0};
    for (size_t length = 0; length <= sizeof(bytes); length++) {
        assert_true(buffer_is_zero(bytes, length));
        for (size_t i = 0; i < length; i++) {
            bytes[i] = 1;
            assert_false(buffer_is_zero(bytes, length));
            bytes[i] = 0;
        }
    }
}

static void cursors_stick_when_they_run_out(void **state)
{
    const uint8_t bytes[] = {1, 2, 3, 4, 5, 6};
    struct cursor c = cursor_of(bytes, sizeof(bytes));
    assert_int_equal(cursor_be32(&c), 0x01020304);
    assert_int_equal(cursor_be32(&c), 0);
    assert_true(c.failed);
    assert_int_equal(cursor_u8(&c), 0);
    assert_int_equal(cursor_left(&c), 0);
}

static void histogram_buckets_bound_their_values(void **state)
{
    for (uint64_t value = 0; value < 1u << 20; value += 1 + value / 64) {
        unsigned bucket = histogram_bucket(value);
        assert_true(histogram_floor(bucket) <= value);
        assert_true(value < histogram_floor(bucket + 1));
    }
    assert_int_equal(histogram_bucket(UINT64_MAX), HISTOGRAM_BUCKETS - 1);
    static struct histogram h;
    assert_int_equal(histogram_percentile(&h, 500), 0);
    for (unsigned i = 0; i < 100; i++)
        histogram_add(&h, 1000 * (i + 1));
    uint64_t median = histogram_percentile(&h, 500);
    assert_true(median > 37000 && median <= 50000);
}

static void lists_keep_their_order(void **state)
{
    struct list head = LIST_INIT(head), other = LIST_INIT(other), node[4];
    for (int i = 0; i < 4; i++)
        list_push_back(i < 2 ? &head : &other, &node[i]);
    list_splice_back(&head, &other);
    assert_true(list_empty(&other));
    for (int i = 0; i < 4; i++)
        assert_ptr_equal(list_pop_front(&head), &node[i]);
    assert_null(list_pop_front(&head));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sizes_parse_as_people_write_them),
        cmocka_unit_test(sizes_print_in_the_largest_fitting_unit),
        cmocka_unit_test(errors_gather_context_on_the_way_up),
        cmocka_unit_test(overlong_errors_are_marked_as_cut),
        cmocka_unit_test(slices_see_the_same_bytes_as_a_flat_copy),
        cmocka_unit_test(zero_detection_finds_a_single_set_bit),
        cmocka_unit_test(cursors_stick_when_they_run_out),
        cmocka_unit_test(histogram_buckets_bound_their_values),
        cmocka_unit_test(lists_keep_their_order),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
