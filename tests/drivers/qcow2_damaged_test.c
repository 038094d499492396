/*
 * qcow2 images that another program or a lost power supply left half right: what a guest does with
 * them must not make it worse.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "drivers_test.h"

#define READ_WRITE (BLOCK_OPEN_WRITE | BLOCK_OPEN_RESIZE)
#define FILE_OF    "{\"driver\":\"file\",\"filename\":\"/d/image\"}"
#define IMAGE      "{\"driver\":\"qcow2\",\"file\":" FILE_OF "}"
#define CLUSTER    (64 * KiB)

static uint64_t host_of(struct block_node *node, uint64_t guest)
{
    struct block_extent extent;
    assert_int_equal(co_block_status(node, guest, CLUSTER, &extent), 0);
    assert_true(extent.flags & BLOCK_STATUS_MAPPED);
    return extent.host_offset;
}

static void create_filled(unsigned clusters, uint64_t *ret_last_host)
{
    must_create("{\"driver\":\"qcow2\",\"size\":\"8M\",\"cluster_size\":\"64k\","
                "\"extended_l2\":\"off\",\"file\":" FILE_OF "}");
    struct block_node *node = must_open(IMAGE, READ_WRITE);
    assert_int_equal(write_fill(node, 0, 1, clusters * CLUSTER), 0);
    *ret_last_host = host_of(node, (clusters - 1) * CLUSTER);
    must_close(node);
}

/* ---- files that are shorter than their tables say ---- */

static void write_behind_the_end(void *arg)
{
    bool allocate = *(const bool *)arg;
    uint64_t last_host;
    create_filled(8, &last_host);
    struct block_node *node = must_open(FILE_OF, READ_WRITE);
    assert_int_equal(co_block_resize(node, last_host - 4 * CLUSTER, NULL), 0);
    must_close(node);

    node = must_open(IMAGE, READ_WRITE);
    assert_int_equal(read_fill(node, 7 * CLUSTER, 0, CLUSTER), 0);
    assert_int_equal(write_fill(node, 7 * CLUSTER, 2, CLUSTER), 0);
    if (allocate) /* an allocation as well */
        assert_int_equal(write_fill(node, 100 * CLUSTER, 3, CLUSTER), 0);
    must_close(node);

    node = must_open(IMAGE, 0);
    assert_int_equal(read_fill(node, 7 * CLUSTER, 2, CLUSTER), 0);
    if (allocate)
        assert_int_equal(read_fill(node, 100 * CLUSTER, 3, CLUSTER), 0);
    must_close(node);
}

static void what_lies_behind_the_end_of_a_cut_file_is_kept(void **state)
{
    bool allocate = false;
    run_sim(1, write_behind_the_end, &allocate);
    allocate = true;
    run_sim(1, write_behind_the_end, &allocate);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_lies_behind_the_end_of_a_cut_file_is_kept),
    };
    drivers_register();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
