/*
 * mem, null and raw: what is theirs alone.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "drivers_test.h"

#define READ_WRITE (BLOCK_OPEN_WRITE | BLOCK_OPEN_RESIZE)

static json_int_t actual_size(struct block_node *node)
{
    json_t *info = NULL;
    assert_int_equal(co_block_info(node, &info, NULL), 0);
    json_int_t size = json_integer_value(json_object_get(info, "actual-size"));
    json_decref(info);
    return size;
}

static void fill_memory(void *arg)
{
    struct block_extent extent;
    struct block_node *node =
        must_open("{\"driver\":\"mem\",\"size\":\"1T\",\"limit\":\"1M\"}", READ_WRITE);
    assert_int_equal(block_size(node), 1024 * GiB);
    assert_int_equal(actual_size(node), 0);
    /* The ends of the device, and a piece across two groups of chunks. */
    assert_int_equal(write_fill(node, 0, 1, 100), 0);
    assert_int_equal(write_fill(node, 1024 * GiB - 100, 2, 100), 0);
    assert_int_equal(write_fill(node, 256 * MiB - 50, 3, 100), 0);
    assert_int_equal(actual_size(node), 4 * 64 * KiB);
    assert_int_equal(read_fill(node, 0, 1, 100), 0);
    assert_int_equal(read_fill(node, 1024 * GiB - 100, 2, 100), 0);
    assert_int_equal(read_fill(node, 256 * MiB - 50, 3, 100), 0);
    assert_int_equal(read_fill(node, 512 * MiB - 50, 0, 100), 0);

    assert_int_equal(co_block_status(node, 0, 1024 * GiB, &extent), 0);
    assert_true(extent.flags & BLOCK_STATUS_DATA);
    assert_int_equal(extent.length, 64 * KiB);
    assert_int_equal(co_block_status(node, 64 * KiB, 128 * MiB, &extent), 0);
    assert_true(extent.flags & BLOCK_STATUS_ZERO);

    /* No more than the limit, whatever the size; what is given back can be used again. */
    assert_int_equal(write_fill(node, MiB, 4, MiB), -ENOSPC);
    assert_int_equal(actual_size(node), MiB);
    assert_int_equal(read_fill(node, 0, 1, 100), 0);
    assert_int_equal(co_block_write_zeroes(node, MiB, 512 * MiB, BLOCK_MAY_UNMAP), 0);
    assert_int_equal(actual_size(node), 2 * 64 * KiB);
    assert_int_equal(write_fill(node, 2 * MiB, 5, 256 * KiB), 0);
    assert_int_equal(co_block_discard(node, 0, 1024 * GiB), 0);
    assert_int_equal(actual_size(node), 0);
    must_close(node);
}

static void mem_is_sparse_and_bounded(void **state)
{
    run_sim(1, fill_memory, NULL);
}

static void use_null(void *arg)
{
    struct hws_error err;
    struct block_extent extent;
    struct block_node *node = must_open("{\"driver\":\"null\"}", READ_WRITE);
    assert_int_equal(block_size(node), GiB);
    assert_int_equal(write_fill(node, 5, 1, 100000), 0);
    assert_int_equal(read_fill(node, 5, 0, 100000), 0);
    assert_int_equal(co_block_status(node, 0, GiB, &extent), 0);
    assert_int_equal(extent.length, GiB);
    assert_true(extent.flags & BLOCK_STATUS_ZERO);
    assert_int_equal(co_block_flush(node), 0);
    assert_int_equal(co_block_discard(node, 0, GiB), 0);
    assert_int_equal(co_block_resize(node, 2 * GiB, NULL), 0);
    assert_int_equal(read_fill(node, 2 * GiB - 10, 0, 10), 0);
    must_close(node);
    assert_null(try_open("{\"driver\":\"null\",\"size\":\"8E\"}", 0, &err));
    assert_null(try_open("{\"driver\":\"null\",\"size\":\"-1\"}", 0, &err));
    assert_null(try_open("{\"driver\":\"null\",\"what\":\"1\"}", 0, &err));
    assert_non_null(strstr(err.text, "size"));
}

static void null_reads_zeroes_and_forgets_writes(void **state)
{
    run_sim(1, use_null, NULL);
}

#define RAW(options) "{\"driver\":\"raw\"," options "\"file\":{\"driver\":\"mem\",\"size\":\"1M\"}}"

static void use_windows(void *arg)
{
    struct hws_error err;
    struct block_extent extent;
    assert_null(try_open(RAW("\"offset\":\"2M\","), 0, &err));
    assert_non_null(strstr(err.text, "2097152"));
    assert_null(try_open(RAW("\"offset\":\"1M\",\"size\":\"1\","), 0, &err));
    assert_null(try_open(RAW("\"offset\":\"16\",\"size\":\"1048561\","), 0, &err));
    assert_null(try_open(RAW("\"size\":\"7E\","), 0, &err));
    struct block_node *node = must_open(RAW("\"offset\":\"1M\","), 0);
    assert_int_equal(block_size(node), 0);
    must_close(node);

    node = must_open(RAW("\"offset\":\"64k\",\"size\":\"128k\","), READ_WRITE);
    struct block_node *file = block_child(node, BLOCK_FILE);
    assert_int_equal(write_fill(file, 0, 9, MiB), 0);
    assert_int_equal(write_fill(node, 0, 1, 128 * KiB), 0);
    assert_int_equal(read_fill(file, 0, 9, 64 * KiB), 0);
    assert_int_equal(read_fill(file, 64 * KiB, 1, 128 * KiB), 0);
    assert_int_equal(read_fill(file, 192 * KiB, 9, MiB - 192 * KiB), 0);
    assert_int_equal(write_fill(node, 128 * KiB, 1, 1), -EINVAL);
    assert_int_equal(co_block_write_zeroes(node, 64 * KiB, 64 * KiB, BLOCK_MAY_UNMAP), 0);
    assert_int_equal(co_block_status(node, 0, 128 * KiB, &extent), 0);
    assert_int_equal(extent.length, 64 * KiB);
    assert_int_equal(extent.host_offset, 64 * KiB);
    assert_ptr_equal(extent.file, file);
    assert_int_equal(co_block_resize(node, 64 * KiB, &err), -EINVAL);
    assert_non_null(strstr(err.text, "fixed size"));
    must_close(node);

    node = must_open(RAW("\"offset\":\"64k\","), READ_WRITE);
    assert_int_equal(block_size(node), MiB - 64 * KiB);
    assert_int_equal(co_block_resize(node, MiB, &err), 0);
    assert_int_equal(block_size(block_child(node, BLOCK_FILE)), MiB + 64 * KiB);
    must_close(node);
}

static void raw_shows_a_window(void **state)
{
    run_sim(1, use_windows, NULL);
}

/* A raw image of 1 MiB in @folder: all zeroes, with @least_bytes of storage at the start. */
static void create_one(const char *folder, const char *mode, json_int_t least_bytes)
{
    char text[300];
    struct hws_error err;
    snprintf(text, sizeof(text),
             "{\"driver\":\"raw\",\"size\":\"1M\",\"preallocation\":\"%s\",\"file\":{\"driver\":"
             "\"file\",\"filename\":\"%s/%s\"}}",
             mode, folder, mode);
    must_create(text);
    assert_int_equal(create(text, &err), -EEXIST);
    snprintf(text, sizeof(text),
             "{\"driver\":\"raw\",\"file\":{\"driver\":\"file\",\"filename\":\"%s/%s\"}}", folder,
             mode);
    struct block_node *node = must_open(text, 0);
    assert_int_equal(block_size(node), MiB);
    assert_int_equal(read_fill(node, 0, 0, MiB), 0);
    assert_true(actual_size(block_child(node, BLOCK_FILE)) >= least_bytes);
    assert_true(least_bytes || actual_size(block_child(node, BLOCK_FILE)) == 0);
    must_close(node);
    snprintf(text, sizeof(text), "%s/%s", folder, mode);
    assert_int_equal(co_unlink(text, NULL), 0);
}

static void create_raw(void *arg)
{
    struct hws_error err;
    create_one(arg, "off", 0);
    create_one(arg, "falloc", (json_int_t)MiB);
    create_one(arg, "full", (json_int_t)MiB);
    assert_int_equal(
        create("{\"driver\":\"raw\",\"size\":\"1M\",\"file\":{\"driver\":\"mem\"}}", &err),
        -ENOTSUP);
}

static void raw_images_are_made_in_files(void **state)
{
    char folder[] = "/var/tmp/hawser-raw-XXXXXX";
    struct rt *rt;
    assert_non_null(mkdtemp(folder));
    assert_int_equal(rt_create(NULL, &rt, NULL), 0);
    assert_int_equal(rt_run(rt, create_raw, folder), 0);
    rt_free(rt);
    assert_int_equal(rmdir(folder), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(mem_is_sparse_and_bounded),
        cmocka_unit_test(null_reads_zeroes_and_forgets_writes),
        cmocka_unit_test(raw_shows_a_window),
        cmocka_unit_test(raw_images_are_made_in_files),
    };
    drivers_register();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
