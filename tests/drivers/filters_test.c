/*
 * The filters: what each is for.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "drivers_test.h"
#include "base/log.h"

#define READ_WRITE (BLOCK_OPEN_WRITE | BLOCK_OPEN_RESIZE)
#define MEM        "\"file\":{\"driver\":\"mem\",\"size\":\"1M\"}"

/* ---- error ---- */

static json_int_t counter(struct block_node *node, const char *object, const char *name)
{
    json_t *info = NULL;
    assert_int_equal(co_block_info(node, &info, NULL), 0);
    json_t *at = json_object_get(info, object);
    json_int_t value = json_integer_value(name ? json_object_get(at, name) : at);
    json_decref(info);
    return value;
}

static void inject_by_range_and_count(void *arg)
{
    struct block_node *node =
        must_open("{\"driver\":\"error\",\"operation\":\"write\",\"errno\":\"ENOSPC\",\"offset\":"
                  "\"4096\",\"length\":\"4096\",\"after\":\"1\",\"count\":\"2\"," MEM "}",
                  READ_WRITE);
    assert_int_equal(write_fill(node, 0, 1, 4096), 0);
    assert_int_equal(write_fill(node, 8192, 1, 4096), 0);
    assert_int_equal(write_fill(node, 8191, 2, 1), 0); /* the first that matches passes */
    assert_int_equal(read_fill(node, 8191, 2, 1), 0);
    assert_int_equal(write_fill(node, 4096, 3, 1), -ENOSPC);
    assert_int_equal(write_fill(node, 0, 3, 4097), -ENOSPC);
    assert_int_equal(read_fill(node, 0, 1, 4096), 0); /* nothing of it was written */
    assert_int_equal(write_fill(node, 0, 4, 8192), 0);
    assert_int_equal(counter(node, "injected", "matched"), 4);
    assert_int_equal(counter(node, "injected", "failed"), 2);
    must_close(node);
}

static void inject_by_operation(void *arg)
{
    static const char *const operations[] = {"read", "write", "zero", "discard", "flush", "status"};
    for (unsigned i = 0; i < ARRAY_LEN(operations); i++) {
        char text[200];
        struct block_extent extent;
        snprintf(text, sizeof(text), "{\"driver\":\"error\",\"operation\":\"%s\"," MEM "}",
                 operations[i]);
        struct block_node *node = must_open(text, READ_WRITE);
        int w = write_fill(node, 0, 1, 512);
        int result[] = {
            read_fill(node, 1024, 0, 512),
            w,
            co_block_write_zeroes(node, 0, 64 * KiB, 0),
            co_block_discard(node, 0, 64 * KiB),
            w == 0 ? co_block_flush(node) : 0,
            co_block_status(node, 0, 512, &extent),
        };
        for (unsigned j = 0; j < ARRAY_LEN(result); j++)
            assert_int_equal(result[j], i == j ? -EIO : 0);
        assert_int_equal(co_block_close(node, NULL), i == 4 ? -EIO : 0);
    }
}

static unsigned failures_of_seed(unsigned seed, uint64_t *ret_pattern)
{
    char text[200];
    unsigned failures = 0;
    snprintf(text, sizeof(text),
             "{\"driver\":\"error\",\"operation\":\"read\",\"percent\":\"25\",\"seed\":\"%u\"," MEM
             "}",
             seed);
    struct block_node *node = must_open(text, 0);
    for (unsigned i = 0; i < 400; i++) {
        bool failed = read_fill(node, i, 0, 1) < 0;
        failures += failed;
        *ret_pattern = (*ret_pattern * 1099511628211u) ^ failed;
    }
    must_close(node);
    return failures;
}

static void inject_by_chance(void *arg)
{
    uint64_t pattern[3] = {0};
    assert_in_range(failures_of_seed(1, &pattern[0]), 60, 140);
    assert_in_range(failures_of_seed(1, &pattern[1]), 60, 140);
    assert_in_range(failures_of_seed(2, &pattern[2]), 60, 140);
    assert_true(pattern[0] == pattern[1]);
    assert_true(pattern[0] != pattern[2]);
}

static void error_fails_what_its_rule_says(void **state)
{
    run_sim(1, inject_by_range_and_count, NULL);
    run_sim(1, inject_by_operation, NULL);
    run_sim(1, inject_by_chance, NULL);
}

/* ---- delay ---- */

static uint64_t time_of_read(struct block_node *node)
{
    uint64_t began = rt_now_ns();
    assert_int_equal(read_fill(node, 0, 0, 512), 0);
    return rt_now_ns() - began;
}

static void wait_for_reads(void *arg)
{
    struct block_node *node =
        must_open("{\"driver\":\"delay\",\"read-us\":\"500000\",\"jitter-us\":\"100000\"," MEM "}",
                  READ_WRITE);
    uint64_t least = UINT64_MAX, most = 0;
    for (unsigned i = 0; i < 50; i++) {
        uint64_t took = time_of_read(node);
        least = MIN(least, took);
        most = MAX(most, took);
    }
    assert_in_range(least, 500000000, 520000000);
    assert_in_range(most, 580000000, 601000000);
    uint64_t began = rt_now_ns();
    assert_int_equal(write_fill(node, 0, 1, 512), 0);
    assert_true(rt_now_ns() - began < 1000000);
    must_close(node);
}

static void delay_waits_as_long_as_it_says(void **state)
{
    run_sim(1, wait_for_reads, NULL);
}

/* ---- log ---- */

static void log_requests(void *arg)
{
    struct hws_error err;
    struct block_extent extent;
    struct block_node *node = must_open(
        "{\"driver\":\"log\",\"filename\":\"/d/log\",\"file\":{\"driver\":\"error\",\"operation\":"
        "\"read\"," MEM "}}",
        READ_WRITE);
    assert_int_equal(write_fill(node, 4096, 1, 512), 0);
    assert_int_equal(read_fill(node, 5, 0, 7), -EIO);
    assert_int_equal(co_block_write_zeroes(node, 0, 8192, BLOCK_MAY_UNMAP), 0);
    assert_int_equal(co_block_discard(node, 65536, 65536), 0);
    assert_int_equal(co_block_status(node, 1, 2, &extent), 0);
    assert_int_equal(co_block_flush(node), 0);
    assert_int_equal(co_block_resize(node, 2 * MiB, NULL), 0);
    must_close(node);
    /* A description is never a way to overwrite a file. */
    assert_null(try_open("{\"driver\":\"log\",\"filename\":\"/d/log\"," MEM "}", 0, &err));
    assert_int_equal(err.code, EEXIST);
}

static void log_writes_a_line_a_request(void **state)
{
    static const char *const lines[] = {"write 4096 512 = 0 ",    "read 5 7 = -5 ",
                                        "zero 0 8192 unmap = 0 ", "discard 65536 65536 = 0 ",
                                        "status 1 2 = 0 ",        "flush 0 0 = 0 ",
                                        "resize 2097152 0 = 0 "};
    struct sim_options options = {.seed = 1};
    struct rt *rt;
    void *text = NULL;
    size_t length;
    assert_int_equal(sim_create(&options, &rt), 0);
    assert_int_equal(rt_run(rt, log_requests, NULL), 0);
    assert_int_equal(sim_file_load(rt, "/d/log", &text, &length), 0);
    rt_free(rt);
    char *cursor = strndup(text, length), *start = cursor;
    for (unsigned i = 0; i < ARRAY_LEN(lines); i++) {
        char *line = strsep(&cursor, "\n");
        assert_non_null(line);
        if (!strstr(line, lines[i]))
            print_message("line %u is: %s\n", i, line);
        assert_non_null(strstr(line, lines[i]));
        assert_non_null(strstr(line, "us"));
    }
    free(start);
    free(text);
}

/* ---- verify ---- */

static void quiet(enum log_level level, const char *line, void *arg)
{
    snprintf(arg, 300, "%s", line);
}

static void watch_sums(void *arg)
{
    char *line = arg;
    struct block_node *node = must_open("{\"driver\":\"verify\"," MEM "}", READ_WRITE);
    struct block_node *file = block_child(node, BLOCK_FILE);
    assert_int_equal(write_fill(node, 1000, 1, 70000), 0);
    assert_int_equal(read_fill(node, 1000, 1, 70000), 0);
    assert_int_equal(co_block_discard(node, 64 * KiB, 64 * KiB), 0);
    assert_int_equal(read_fill(node, 64 * KiB, 0, 64 * KiB), 0);
    assert_int_equal(read_fill(node, MiB - 100, 0, 100), 0);

    /* Nobody has read or written it through the filter: it is learnt. */
    assert_int_equal(write_fill(file, 512 * KiB, 7, 512), 0);
    assert_int_equal(read_fill(node, 512 * KiB, 7, 512), 0);
    /* Now it is known. */
    assert_int_equal(write_fill(file, 512 * KiB + 511, 8, 1), 0);
    assert_int_equal(read_fill(node, 0, 0, 100), 0);
    assert_int_equal(read_fill(node, 511 * KiB, 0, 4096), -EIO);
    assert_non_null(strstr(line, "offset 524288 "));
    assert_int_equal(read_fill(node, 0, 0, 100), -EIO);
    assert_int_equal(write_fill(node, 0, 0, 512), -EIO);
    assert_int_equal(co_block_write_zeroes(node, 0, 512, 0), -EIO);
    must_close(node);
}

static void watch_image(void *arg)
{
    static const char text[] =
        "{\"driver\":\"verify\",\"image\":\"/d/copy\",\"image-format\":\"raw\",\"file\":{"
        "\"driver\":\"file\",\"filename\":\"/d/a\"}}";
    char *line = arg;
    struct hws_error err;
    must_create("{\"driver\":\"file\",\"filename\":\"/d/a\",\"size\":\"1M\"}");
    must_create("{\"driver\":\"file\",\"filename\":\"/d/copy\",\"size\":\"512k\"}");
    assert_null(try_open(text, READ_WRITE, &err));
    assert_non_null(strstr(err.text, "cannot be compared"));
    assert_int_equal(co_unlink("/d/copy", NULL), 0);
    must_create("{\"driver\":\"file\",\"filename\":\"/d/copy\",\"size\":\"1M\"}");

    struct block_node *node = must_open(text, READ_WRITE);
    assert_int_equal(write_fill(node, 100, 3, 600000), 0);
    assert_int_equal(co_block_write_zeroes(node, 5000, 100000, BLOCK_MAY_UNMAP), 0);
    assert_int_equal(co_block_discard(node, 200000, 100000), 0);
    assert_int_equal(read_fill(node, 5000, 0, 100000), 0);
    assert_int_equal(read_fill(node, 300000, 3, 300100), 0);
    assert_int_equal(co_block_resize(node, 2 * MiB, NULL), 0);
    assert_int_equal(read_fill(node, MiB, 0, MiB), 0);
    assert_int_equal(co_block_flush(node), 0);

    assert_int_equal(write_fill(block_child(node, BLOCK_FILE), 400003, 4, 1), 0);
    assert_int_equal(read_fill(node, 0, 0, 50), 0);
    assert_int_equal(read_fill(node, 300000, 3, 300000), -EIO);
    assert_non_null(strstr(line, "offset 400003: 0x04 instead of 0x03"));
    assert_int_equal(read_fill(node, 0, 0, 50), -EIO);
    must_close(node);
}

static void verify_stops_the_world_at_the_first_difference(void **state)
{
    char line[300] = "";
    log_set_sink(quiet, line);
    run_sim(1, watch_sums, line);
    line[0] = '\0';
    run_sim(1, watch_image, line);
    log_set_sink(NULL, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(error_fails_what_its_rule_says),
        cmocka_unit_test(delay_waits_as_long_as_it_says),
        cmocka_unit_test(log_writes_a_line_a_request),
        cmocka_unit_test(verify_stops_the_world_at_the_first_difference),
    };
    drivers_register();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
