/*
 * Tests of the checker's map of references.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/random.h"
#include "format/qcow2/check_map.h"
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

static void add(struct check_map *map, uint64_t cluster, uint64_t times)
{
    struct check_chunk *chunk = check_map_make(map, cluster);
    assert_non_null(chunk);
    assert_int_equal(check_chunk_add(chunk, cluster % CHECK_CHUNK_CLUSTERS, times), 0);
}

static void nothing_is_referenced_at_first(void **state)
{
    struct check_map map;
    assert_int_equal(check_map_init(&map, 10), 0);
    assert_null(check_map_group(&map, 0));
    assert_int_equal(check_map_count(&map, UINT64_MAX), 0);
    assert_int_equal(check_map_kind(&map, 5), CHECK_FREE);
    check_map_free(&map);
}

static void counts_grow_past_a_byte_without_touching_neighbours(void **state)
{
    struct check_map map;
    assert_int_equal(check_map_init(&map, 10), 0);
    add(&map, 7, 254);
    add(&map, 8, 1);
    assert_int_equal(check_map_count(&map, 7), 254);
    add(&map, 7, 1);
    add(&map, 7, 100000);
    assert_int_equal(check_map_count(&map, 7), 100255);
    assert_int_equal(check_map_count(&map, 8), 1);
    assert_int_equal(check_map_count(&map, 6), 0);
    check_map_free(&map);
}

static void counts_end_at_the_largest_number(void **state)
{
    struct check_map map;
    assert_int_equal(check_map_init(&map, 10), 0);
    add(&map, 1, UINT64_MAX);
    add(&map, 1, 5);
    assert_true(check_map_count(&map, 1) == UINT64_MAX);
    check_map_free(&map);
}

static void clusters_far_apart_keep_their_own_counts(void **state)
{
    struct check_map map;
    struct random random = random_seed(3);
    assert_int_equal(check_map_init(&map, 100000), 0);
    for (unsigned i = 0; i < 20000; i++)
        add(&map, random_u64(&random), 1 + i % 3);
    random = random_seed(3);
    for (unsigned i = 0; i < 20000; i++)
        assert_int_equal(check_map_count(&map, random_u64(&random)), 1 + i % 3);
    check_map_free(&map);
}

static void more_chunks_than_allowed_are_refused_and_told(void **state)
{
    struct check_map map;
    assert_int_equal(check_map_init(&map, 4), 0); /* the group counts too */
    for (uint64_t i = 0; i < 3; i++)
        add(&map, i * CHECK_CHUNK_CLUSTERS, 1);
    assert_false(map.limit_hit);
    assert_null(check_map_make(&map, 3 * CHECK_CHUNK_CLUSTERS));
    assert_true(map.limit_hit);
    add(&map, 2 * CHECK_CHUNK_CLUSTERS + 5, 1); /* a chunk that is there */
    check_map_free(&map);
}

static void a_bit_becomes_a_count_when_it_has_to(void **state)
{
    struct check_map map;
    assert_int_equal(check_map_init(&map, 10), 0);
    assert_true(check_map_once(&map, 70));
    assert_true(check_map_once(&map, 127));
    assert_false(check_map_once(&map, 70));
    assert_int_equal(check_map_count(&map, 70), 1);
    assert_int_equal(check_map_count(&map, 71), 0);
    assert_int_equal(check_map_kind(&map, 127), CHECK_DATA | CHECK_COPIED_SET);
    add(&map, 70, 3);
    assert_int_equal(check_map_count(&map, 70), 4);
    assert_int_equal(check_map_count(&map, 127), 1);
    assert_int_equal(check_map_kind(&map, 127), CHECK_DATA | CHECK_COPIED_SET);
    assert_false(check_map_once(&map, 71));
    check_map_free(&map);
}

static void groups_are_listed_in_order(void **state)
{
    struct check_map map;
    uint64_t *first = NULL;
    assert_int_equal(check_map_init(&map, 10000), 0);
    for (uint64_t i = 1000; i-- > 0;)
        assert_true(check_map_once(&map, i * 7 * CHECK_GROUP_CLUSTERS + i % 64));
    assert_int_equal(check_map_groups(&map, &first), 1000);
    for (uint64_t i = 0; i < 1000; i++)
        assert_int_equal(first[i], i * 7 * CHECK_GROUP_CLUSTERS);
    free(first);
    check_map_free(&map);
}

static void setting_a_count_replaces_it_and_its_kind(void **state)
{
    struct check_map map;
    assert_int_equal(check_map_init(&map, 10), 0);
    add(&map, 3, 1000);
    assert_int_equal(check_map_set(&map, 3, 1, CHECK_REFCOUNT_BLOCK), 0);
    assert_int_equal(check_map_count(&map, 3), 1);
    assert_int_equal(check_map_kind(&map, 3), CHECK_REFCOUNT_BLOCK);
    check_map_free(&map);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_is_referenced_at_first),
        cmocka_unit_test(counts_grow_past_a_byte_without_touching_neighbours),
        cmocka_unit_test(counts_end_at_the_largest_number),
        cmocka_unit_test(clusters_far_apart_keep_their_own_counts),
        cmocka_unit_test(more_chunks_than_allowed_are_refused_and_told),
        cmocka_unit_test(a_bit_becomes_a_count_when_it_has_to),
        cmocka_unit_test(groups_are_listed_in_order),
        cmocka_unit_test(setting_a_count_replaces_it_and_its_kind),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
