/*
 * Image locks over the life of a live chain: an overlay snapshot gives the old top to readers,
 * going back gives the overlay up, and others are kept out or let in as the locks say.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "drivers_test.h"

#define QCOW2(file) \
    "{\"driver\":\"qcow2\",\"file\":{\"driver\":\"file\",\"filename\":\"" file "\"}}"
#define READ_WRITE (BLOCK_OPEN_WRITE | BLOCK_OPEN_RESIZE)

static bool can_open(const char *text, unsigned flags)
{
    struct hws_error err;
    struct block_node *node = try_open(text, flags, &err);
    if (node)
        must_close(node);
    else
        assert_int_equal(err.code, EAGAIN);
    return node != NULL;
}

static void create_overlay(const char *name, const char *backing)
{
    char text[400];
    snprintf(text, sizeof(text),
             "{\"driver\":\"qcow2\",\"size\":\"1M\",\"backing_file\":\"%s\",\"backing_fmt\":"
             "\"qcow2\",\"file\":{\"driver\":\"file\",\"filename\":\"/d/%s\"}}",
             backing, name);
    must_create(text);
}

static void push_and_go_back(void *arg)
{
    struct block_root_options options = {0};
    struct iovec iov;
    uint8_t byte = 1;
    must_create("{\"driver\":\"qcow2\",\"size\":\"1M\",\"file\":{\"driver\":\"file\",\"filename\":"
                "\"/d/base\"}}");
    struct block_node *node = must_open(QCOW2("/d/base"), READ_WRITE);
    struct block_root *root = block_root_new(node, &options);
    must_close(node); /* the root's reference stays */
    assert_int_equal(co_root_write(root, 5000, sgl_one(&iov, &byte, 1), 0), 0);
    assert_false(can_open(QCOW2("/d/base"), 0));

    create_overlay("overlay", "base");
    node = must_open(QCOW2("/d/overlay"), READ_WRITE | BLOCK_OPEN_NO_BACKING);
    assert_int_equal(co_root_push(root, node, NULL), 0);
    assert_true(can_open(QCOW2("/d/base"), 0));
    assert_false(can_open(QCOW2("/d/base"), READ_WRITE));
    assert_false(can_open(QCOW2("/d/overlay"), 0));
    byte = 2;
    assert_int_equal(co_root_write(root, 5000, sgl_one(&iov, &byte, 1), 0), 0);

    /* Another machine may run from the same base at the same time. */
    create_overlay("other", "base");
    struct block_node *other = must_open(QCOW2("/d/other"), READ_WRITE);
    assert_int_equal(read_fill(other, 5000, 1, 1), 0);

    /* Back to the snapshot: what was on top is free, the base still has readers only. */
    create_overlay("second", "base");
    node = must_open(QCOW2("/d/second"), READ_WRITE);
    assert_int_equal(co_root_replace(root, node, NULL), 0);
    assert_int_equal(co_root_read(root, 5000, sgl_one(&iov, &byte, 1), 0), 0);
    assert_int_equal(byte, 1);
    assert_true(can_open(QCOW2("/d/overlay"), READ_WRITE));
    assert_true(can_open(QCOW2("/d/base"), 0));
    assert_false(can_open(QCOW2("/d/base"), READ_WRITE));

    must_close(other);
    assert_int_equal(co_block_root_free(root, NULL), 0);
    assert_true(can_open(QCOW2("/d/base"), READ_WRITE));
    assert_true(can_open(QCOW2("/d/second"), READ_WRITE));
}

static void locks_follow_a_live_chain(void **state)
{
    for (uint64_t seed = 1; seed <= 5; seed++)
        run_sim(seed, push_and_go_back, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(locks_follow_a_live_chain),
    };
    drivers_register();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
