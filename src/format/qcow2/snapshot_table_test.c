/*
 * The table of internal snapshots without I/O: what comes back, what is refused, what is found.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/common.h"
#include "format/qcow2/snapshot.h"
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

/* An entry of @extra bytes of extra data, as it lies on disk. @return its bytes. */
static size_t put(uint8_t *at, const char *id, const char *name, uint32_t extra)
{
    struct qcow2_disk_snapshot *disk = (struct qcow2_disk_snapshot *)at;
    size_t id_bytes = strlen(id), name_bytes = strlen(name);
    disk->l1_table_offset = be64_of(0x50000);
    disk->l1_size = be32_of(2);
    disk->id_size = be16_of((uint16_t)id_bytes);
    disk->name_size = be16_of((uint16_t)name_bytes);
    disk->date_s = be32_of(1700000000);
    disk->date_ns = be32_of(999);
    disk->vm_clock_ns = be64_of(7777);
    disk->vm_state_bytes = be32_of(0x1234);
    disk->extra_size = be32_of(extra);
    for (uint32_t i = 0; i < extra; i++)
        at[sizeof(*disk) + i] = (uint8_t)(i < 24 ? (i % 8 == 7 ? i : 0) : i);
    memcpy(at + sizeof(*disk) + extra, id, id_bytes);
    memcpy(at + sizeof(*disk) + extra + id_bytes, name, name_bytes);
    return align_up(sizeof(*disk) + extra + id_bytes + name_bytes, 8);
}

static void every_size_of_extra_data_comes_back_byte_for_byte(void **state)
{
    static const uint32_t sizes[] = {0, 7, 8, 15, 16, 17, 24, 40, 1024};
    (void)state;
    for (unsigned i = 0; i < ARRAY_LEN(sizes); i++) {
        uint8_t bytes[4096] = {0}, again[4096];
        struct qcow2_snapshots table;
        struct hws_error err = {0};
        size_t length = put(bytes, "1", "a snapshot", sizes[i]);
        length += put(bytes + length, "", "\xff\xfe", sizes[i]);
        assert_int_equal(qcow2_snapshots_parse(bytes, length, 2, &table, &err), 0);
        const struct qcow2_snapshot *s = &table.entry[0];
        assert_int_equal(s->extra_bytes, sizes[i]);
        assert_int_equal(s->vm_state_bytes, sizes[i] >= 8 ? 7 : 0x1234);
        assert_int_equal(s->has_disk_bytes, sizes[i] >= 16);
        assert_int_equal(s->disk_bytes, sizes[i] >= 16 ? 15 : 0);
        assert_int_equal(s->has_icount, sizes[i] >= 24);
        assert_int_equal(s->icount, sizes[i] >= 24 ? 23 : 0);
        assert_int_equal(table.bytes, length);
        assert_int_equal(qcow2_snapshots_bytes(&table), length);
        qcow2_snapshots_serialise(&table, again);
        assert_memory_equal(bytes, again, length);
        qcow2_snapshots_free(&table);
    }
}

static void a_table_that_is_cut_short_asks_for_more(void **state)
{
    (void)state;
    uint8_t bytes[512] = {0};
    size_t length = put(bytes, "1", "first", 24);
    length += put(bytes + length, "2", "second", 24);
    for (size_t cut = 0; cut < length; cut++) {
        struct qcow2_snapshots table = {0};
        struct hws_error err = {0};
        autofree uint8_t *exact = malloc(cut + 1);
        memcpy(exact, bytes, cut);
        int r = qcow2_snapshots_parse(exact, cut, 2, &table, &err);
        /* The one byte of padding behind the last entry need not be there. */
        assert_int_equal(r, cut >= length - 1 ? 0 : -ENODATA);
        if (r == 0)
            qcow2_snapshots_free(&table);
    }
}

static void what_is_past_the_limits_is_refused_by_name(void **state)
{
    (void)state;
    uint8_t bytes[4096] = {0};
    struct qcow2_snapshots table;
    struct hws_error err = {0};
    size_t length = put(bytes, "1", "x", 1024);
    store_be32(bytes + 36, 1025);
    assert_int_equal(qcow2_snapshots_parse(bytes, length + 8, 1, &table, &err), -EFBIG);
    assert_non_null(strstr(err.text, "1025"));
    assert_int_equal(qcow2_snapshots_parse(bytes, length, 65537, &table, &err), -EFBIG);
}

static void the_id_is_looked_for_before_the_name(void **state)
{
    (void)state;
    uint8_t bytes[1024] = {0};
    struct qcow2_snapshots table;
    struct hws_error err = {0};
    size_t length = put(bytes, "5", "7", 16);
    length += put(bytes + length, "7", "same", 16);
    length += put(bytes + length, "9", "same", 16);
    assert_int_equal(qcow2_snapshots_parse(bytes, length, 3, &table, &err), 0);
    assert_int_equal(qcow2_snapshots_find(&table, "7"), 1);
    assert_int_equal(qcow2_snapshots_find(&table, "same"), 1);
    assert_int_equal(qcow2_snapshots_find(&table, "9"), 2);
    assert_int_equal(qcow2_snapshots_find(&table, "sam"), -1);
    assert_int_equal(qcow2_snapshots_find(&table, ""), -1);
    qcow2_snapshots_free(&table);
}

static void new_ids_are_above_all_numbers_and_never_taken(void **state)
{
    (void)state;
    uint8_t bytes[1024] = {0};
    struct qcow2_snapshots table;
    struct hws_error err = {0};
    char id[24];
    size_t length = put(bytes, "-3", "a", 16);
    length += put(bytes + length, "12", "b", 16);
    length += put(bytes + length, "12x", "13", 16);
    length += put(bytes + length, "99999999999999999999999", "c", 16);
    assert_int_equal(qcow2_snapshots_parse(bytes, length, 4, &table, &err), 0);
    qcow2_snapshots_new_id(&table, id);
    assert_string_equal(id, "13");
    qcow2_snapshots_free(&table);
    length = put(bytes, "999999999999999999", "a", 16);
    length += put(bytes + length, "1000000000000000000", "b", 16);
    assert_int_equal(qcow2_snapshots_parse(bytes, length, 2, &table, &err), 0);
    qcow2_snapshots_new_id(&table, id);
    assert_string_equal(id, "1000000000000000001");
    qcow2_snapshots_free(&table);
}

static void entries_come_and_go(void **state)
{
    (void)state;
    uint8_t bytes[1024] = {0};
    struct qcow2_snapshots table, copy;
    struct qcow2_snapshot s;
    struct hws_error err = {0};
    size_t length = put(bytes, "1", "a", 40);
    length += put(bytes + length, "2", "b", 0);
    assert_int_equal(qcow2_snapshots_parse(bytes, length, 2, &table, &err), 0);
    assert_int_equal(qcow2_snapshots_copy(&table, &copy), 0);
    assert_int_equal(qcow2_snapshot_make("3", "c", &s), 0);
    s.disk_bytes = 4096;
    qcow2_snapshot_store_extra(&s);
    assert_int_equal(qcow2_snapshots_append(&copy, &s), 0);
    qcow2_snapshots_remove(&copy, 1);
    assert_int_equal(copy.count, 2);
    assert_string_equal(copy.entry[0].name, "a");
    assert_string_equal(copy.entry[1].name, "c");
    assert_int_equal(table.count, 2);
    assert_true(qcow2_snapshots_bytes(&copy) <= sizeof(bytes));
    memset(bytes, 0xff, sizeof(bytes));
    qcow2_snapshots_serialise(&copy, bytes);
    qcow2_snapshots_free(&table);
    assert_int_equal(qcow2_snapshots_parse(bytes, qcow2_snapshots_bytes(&copy), 2, &table, &err),
                     0);
    assert_int_equal(table.entry[1].disk_bytes, 4096);
    qcow2_snapshots_free(&table);
    qcow2_snapshots_free(&copy);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_size_of_extra_data_comes_back_byte_for_byte),
        cmocka_unit_test(a_table_that_is_cut_short_asks_for_more),
        cmocka_unit_test(what_is_past_the_limits_is_refused_by_name),
        cmocka_unit_test(the_id_is_looked_for_before_the_name),
        cmocka_unit_test(new_ids_are_above_all_numbers_and_never_taken),
        cmocka_unit_test(entries_come_and_go),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
