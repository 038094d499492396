/*
 * The bitmap directory: what is written is read back, and each rule of the format is held to.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "format/qcow2/bitmap.h"
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

static const struct qcow2_bitmap_limits limits = {.cluster_bits = 16, .file_bytes = 16 * MiB};

static struct qcow2_bitmap plain(const char *name)
{
    return (struct qcow2_bitmap){.table_offset = 1 * MiB,
                                 .table_entries = 3,
                                 .flags = QCOW2_BITMAP_AUTO,
                                 .type = QCOW2_BITMAP_DIRTY_TRACKING,
                                 .granularity_bits = 16,
                                 .name = (char *)(uintptr_t)name,
                                 .name_bytes = (uint16_t)strlen(name)};
}

/* Serialises and parses again. */
static int again(struct qcow2_bitmap *bitmaps, uint32_t count, struct qcow2_bitmap **ret)
{
    struct hws_error err = {0};
    size_t length = qcow2_bitmaps_bytes(bitmaps, count);
    autofree uint8_t *bytes = malloc(length);
    qcow2_bitmaps_serialise(bitmaps, count, bytes);
    int r = qcow2_bitmaps_parse(bytes, length, count, &limits, ret, &err);
    assert_true(r == 0 || err.text[0]);
    return r;
}

static void a_directory_is_read_as_it_was_written(void **state)
{
    uint8_t extra[5] = {1, 2, 3, 4, 5};
    struct qcow2_bitmap b[3] = {plain("a"), plain("with extra"), plain("third one")}, *read;
    b[1].extra = extra;
    b[1].extra_bytes = sizeof(extra);
    b[1].flags = QCOW2_BITMAP_EXTRA_COMPATIBLE | QCOW2_BITMAP_IN_USE;
    b[2].type = 7;
    assert_int_equal(again(b, 3, &read), 0);
    for (unsigned i = 0; i < 3; i++) {
        assert_string_equal(read[i].name, b[i].name);
        assert_true(read[i].flags == b[i].flags && read[i].type == b[i].type &&
                    read[i].table_offset == b[i].table_offset &&
                    read[i].table_entries == b[i].table_entries &&
                    read[i].granularity_bits == b[i].granularity_bits &&
                    read[i].flags_at == b[i].flags_at && read[i].extra_bytes == b[i].extra_bytes);
    }
    assert_memory_equal(read[1].extra, extra, sizeof(extra));
    assert_null(qcow2_bitmap_strange(&read[0]));
    assert_null(qcow2_bitmap_strange(&read[1]));
    assert_non_null(qcow2_bitmap_strange(&read[2]));
    qcow2_bitmaps_free(read, 3);
}

static void assert_refused(struct qcow2_bitmap b)
{
    struct qcow2_bitmap *read;
    assert_int_equal(again(&b, 1, &read), -EINVAL);
}

static void entries_that_break_the_format_are_refused(void **state)
{
    struct qcow2_bitmap b = plain("a");
    b.name_bytes = 0;
    assert_refused(b);
    b = plain("a");
    b.name = (char *)(uintptr_t) "a\0b";
    b.name_bytes = 3;
    assert_refused(b);
    static const uint64_t places[] = {
        0, 512, 1 * MiB + 512, 16 * MiB, UINT64_MAX & ~0xffffull, 16 * MiB - 65536 + 1};
    for (unsigned i = 0; i < ARRAY_LEN(places); i++) {
        b = plain("a");
        b.table_offset = places[i];
        assert_refused(b);
    }
    b = plain("a");
    b.table_entries = UINT32_MAX;
    assert_refused(b);
    b.table_entries = (uint32_t)(15 * MiB / 8 + 1);
    assert_refused(b);
    b = plain("a");
    b.granularity_bits = 64;
    assert_refused(b);
    char name[QCOW2_BITMAP_NAME_MAX + 2];
    memset(name, 'n', sizeof(name));
    name[sizeof(name) - 1] = '\0';
    b = plain(name);
    assert_refused(b);
    struct qcow2_bitmap two[2] = {plain("same"), plain("same")}, *read;
    assert_int_equal(again(two, 2, &read), -EINVAL);
}

static void what_does_not_fit_the_directory_is_refused(void **state)
{
    struct qcow2_bitmap b[2] = {plain("first"), plain("second")}, *read;
    struct hws_error err = {0};
    size_t length = qcow2_bitmaps_bytes(b, 2);
    autofree uint8_t *bytes = malloc(length + 8);
    memset(bytes, 0, length + 8);
    qcow2_bitmaps_serialise(b, 2, bytes);
    for (size_t cut = 0; cut < length; cut++)
        assert_int_equal(qcow2_bitmaps_parse(bytes, cut, 2, &limits, &read, &err), -EINVAL);
    assert_int_equal(qcow2_bitmaps_parse(bytes, length + 8, 2, &limits, &read, &err), -EINVAL);
    assert_int_equal(qcow2_bitmaps_parse(bytes, length, 1, &limits, &read, &err), -EINVAL);
    assert_int_equal(qcow2_bitmaps_parse(bytes, length, 0, &limits, &read, &err), -EINVAL);
    assert_int_equal(qcow2_bitmaps_parse(bytes, length, UINT32_MAX, &limits, &read, &err), -EINVAL);
    bytes[24 + 5] = 1; /* padding of the first name */
    assert_int_equal(qcow2_bitmaps_parse(bytes, length, 2, &limits, &read, &err), -EINVAL);
    bytes[24 + 5] = 0;
    store_be32(bytes + 20, UINT32_MAX); /* extra data */
    assert_int_equal(qcow2_bitmaps_parse(bytes, length, 2, &limits, &read, &err), -EINVAL);
}

static void what_must_be_understood_and_is_not_is_strange(void **state)
{
    struct qcow2_bitmap b = plain("a");
    b.flags |= 1u << 3;
    assert_non_null(qcow2_bitmap_strange(&b));
    b = plain("a");
    b.extra_bytes = 1;
    assert_non_null(qcow2_bitmap_strange(&b));
    b = plain("a");
    b.granularity_bits = 8;
    assert_non_null(qcow2_bitmap_strange(&b));
    b.granularity_bits = 32;
    assert_non_null(qcow2_bitmap_strange(&b));
}

static int parse_place(struct qcow2_bitmaps_place place, size_t length)
{
    uint8_t bytes[32] = {0};
    struct hws_error err = {0};
    qcow2_bitmaps_place_store(&place, bytes);
    return qcow2_bitmaps_place_parse(bytes, length, &limits, &place, &err);
}

static void the_extension_is_held_to_its_limits(void **state)
{
    struct qcow2_bitmaps_place good = {.count = 2, .size = 64, .offset = 1 * MiB}, p;
    assert_int_equal(parse_place(good, 24), 0);
    assert_int_equal(parse_place(good, 23), -EINVAL);
    assert_int_equal(parse_place(good, 25), -EINVAL);
    p = good;
    p.count = 0;
    assert_int_equal(parse_place(p, 24), -EINVAL);
    p.count = QCOW2_BITMAPS_MAX + 1;
    p.size = 8 * MiB;
    assert_int_equal(parse_place(p, 24), -EINVAL);
    p = good;
    p.size = 47;
    assert_int_equal(parse_place(p, 24), -EINVAL);
    p.size = QCOW2_BITMAP_DIRECTORY_MAX + 1;
    assert_int_equal(parse_place(p, 24), -EINVAL);
    p.size = UINT64_MAX;
    assert_int_equal(parse_place(p, 24), -EINVAL);
    static const uint64_t places[] = {0, 512, 16 * MiB, UINT64_MAX & ~0xffffull};
    for (unsigned i = 0; i < ARRAY_LEN(places); i++) {
        p = good;
        p.offset = places[i];
        assert_int_equal(parse_place(p, 24), -EINVAL);
    }
}

static void entries_of_tables_are_checked(void **state)
{
    assert_true(qcow2_bitmap_table_entry_valid(0, &limits));
    assert_true(qcow2_bitmap_table_entry_valid(1, &limits));
    assert_true(qcow2_bitmap_table_entry_valid(1 * MiB, &limits));
    assert_false(qcow2_bitmap_table_entry_valid(1 * MiB | 1, &limits));
    assert_false(qcow2_bitmap_table_entry_valid(2, &limits));
    assert_false(qcow2_bitmap_table_entry_valid(1ull << 63, &limits));
    assert_false(qcow2_bitmap_table_entry_valid(1 * MiB + 512, &limits));
    assert_false(qcow2_bitmap_table_entry_valid(16 * MiB, &limits));
    assert_int_equal(qcow2_bitmap_table_entries(9, 0, 16), 0);
    assert_int_equal(qcow2_bitmap_table_entries(16, 1, 16), 1);
    assert_int_equal(qcow2_bitmap_table_entries(9, 256 * MiB, 16), 1);
    assert_int_equal(qcow2_bitmap_table_entries(9, 256 * MiB + 1, 16), 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_directory_is_read_as_it_was_written),
        cmocka_unit_test(entries_that_break_the_format_are_refused),
        cmocka_unit_test(what_does_not_fit_the_directory_is_refused),
        cmocka_unit_test(what_must_be_understood_and_is_not_is_strange),
        cmocka_unit_test(the_extension_is_held_to_its_limits),
        cmocka_unit_test(entries_of_tables_are_checked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
