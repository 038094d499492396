/*
 * qcow2 images that another program or a lost power supply left half right: what a guest does with
 * them must not make it worse.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/byteorder.h"
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

static uint64_t load_field(struct block_node *file, uint64_t offset)
{
    struct iovec iov;
    uint8_t bytes[8];
    assert_int_equal(co_block_read(file, offset, sgl_one(&iov, bytes, 8), 0), 0);
    return load_be64(bytes);
}

static void store_field(struct block_node *file, uint64_t offset, uint64_t value)
{
    struct iovec iov;
    uint8_t bytes[8];
    store_be64(bytes, value);
    assert_int_equal(co_block_write(file, offset, sgl_one(&iov, bytes, 8), 0), 0);
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

/* ---- tables that are data as well ---- */

enum victim { REFCOUNT_BLOCK, L1_TABLE, L2_TABLE };

static void discard_a_table(void *arg)
{
    enum victim which = *(const enum victim *)arg;
    uint64_t last_host;
    create_filled(2, &last_host);
    struct block_node *node = must_open(FILE_OF, READ_WRITE);
    uint64_t table = load_field(node, 48), block = load_field(node, table);
    uint64_t l1 = load_field(node, 40), l2 = load_field(node, l1) & 0x00fffffffffffe00ull;
    uint64_t victim = which == REFCOUNT_BLOCK ? block : which == L1_TABLE ? l1 : l2;
    store_field(node, l2, victim | 1ull << 63);
    uint64_t before = load_field(node, victim);
    must_close(node);

    node = must_open(IMAGE, READ_WRITE);
    (void)!co_block_discard(node, 0, CLUSTER);
    (void)!co_block_flush(node);
    (void)!co_block_flush(node);
    must_close(node);

    node = must_open(FILE_OF, 0);
    uint64_t after = load_field(node, victim);
    must_close(node);
    if (victim != l2) /* its first entry is the one that was discarded */
        assert_int_equal(after, before);
    node = must_open(IMAGE, 0);
    assert_int_equal(read_fill(node, CLUSTER, 1, CLUSTER), 0);
    must_close(node);
}

static void a_discard_takes_no_table_away(void **state)
{
    enum victim victim;
    for (victim = REFCOUNT_BLOCK; victim <= L2_TABLE; victim++)
        run_sim(1, discard_a_table, &victim);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_lies_behind_the_end_of_a_cut_file_is_kept),
        cmocka_unit_test(a_discard_takes_no_table_away),
    };
    drivers_register();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
