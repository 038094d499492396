/*
 * Every filter, and raw, over mem: seeded random operations against a model, through the stack and
 * beside it, from several coroutines and from several threads.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "drivers_test.h"

#define DEVICE_BYTES (3 * MiB + 512)
#define WORKERS      4
#define STEPS        250

struct stack_run {
    const char *text;
    uint64_t window; /* bytes of the device that one worker owns */
    struct block_node *node;
    uint8_t *model;
    struct co_group group;
    _Atomic unsigned next_worker;
    uint64_t seed;
    unsigned threads; /* 0: all workers on the queue of the test */
    struct rt_queue *queue[WORKERS];
};

static void one_step(struct stack_run *run, struct random *random, uint64_t base, uint8_t *bytes)
{
    uint64_t at = random_below(random, run->window);
    uint64_t length = 1 + random_below(random, MIN(run->window - at, (uint64_t)100000));
    struct iovec iov;
    struct sgl range = sgl_one(&iov, bytes, length);
    struct block_extent extent;
    at += base;

    switch (random_below(random, 8)) {
    case 0 ... 2:
        random_fill(random, bytes, length);
        memcpy(run->model + at, bytes, length);
        assert_int_equal(co_block_write(run->node, at, range, random_below(random, 2)), 0);
        break;
    case 3:
        memset(run->model + at, 0, length);
        assert_int_equal(co_block_write_zeroes(run->node, at, length,
                                               random_below(random, 2) ? BLOCK_MAY_UNMAP : 0),
                         0);
        break;
    case 4:
        assert_int_equal(co_block_status(run->node, at, length, &extent), 0);
        assert_in_range(extent.length, 1, length);
        assert_true(extent.flags & BLOCK_STATUS_ALLOCATED);
        if (extent.flags & BLOCK_STATUS_ZERO)
            assert_true(buffer_is_zero(run->model + at, extent.length));
        break;
    case 5:
        assert_int_equal(co_block_flush(run->node), 0);
        break;
    default:
        assert_int_equal(co_block_read(run->node, at, range, 0), 0);
        assert_memory_equal(bytes, run->model + at, length);
    }
}

static void work(void *arg)
{
    struct stack_run *run = arg;
    unsigned number = atomic_fetch_add(&run->next_worker, 1);
    struct random random = random_seed(run->seed * 100 + number);
    autofree uint8_t *bytes = malloc(DEVICE_BYTES);
    for (unsigned i = 0; i < STEPS; i++)
        one_step(run, &random, number * run->window, bytes);
    co_group_done(&run->group);
}

static void run_stack(void *arg)
{
    struct stack_run *run = arg;
    struct iovec iov;
    run->node = must_open(run->text, BLOCK_OPEN_WRITE | BLOCK_OPEN_RESIZE);
    uint64_t size = block_size(run->node);
    assert_true(size <= DEVICE_BYTES);
    run->model = calloc(1, DEVICE_BYTES);
    /* An odd window: what workers write touches inside one block. */
    run->window = size / WORKERS - 13;
    co_group_init(&run->group);
    co_group_add(&run->group, WORKERS);
    for (unsigned i = 0; i < run->threads; i++)
        assert_int_equal(rt_queue_start(rt_current(), "stacks", &run->queue[i], NULL), 0);
    for (unsigned i = 0; i < WORKERS; i++)
        assert_int_equal(rt_spawn(run->queue[i], work, run), 0);
    co_group_wait(&run->group);
    for (unsigned i = 0; i < run->threads; i++)
        co_queue_stop(run->queue[i]);
    co_group_destroy(&run->group);

    autofree uint8_t *bytes = malloc(size);
    assert_int_equal(co_block_read(run->node, 0, sgl_one(&iov, bytes, size), 0), 0);
    assert_memory_equal(bytes, run->model, size);
    if (block_size(run->node->child[BLOCK_FILE] ? run->node->child[BLOCK_FILE] : run->node) ==
        size) {
        assert_int_equal(co_block_resize(run->node, size / 2, NULL), 0);
        assert_int_equal(co_block_resize(run->node, size, NULL), 0);
        assert_int_equal(read_fill(run->node, size / 2, 0, size - size / 2), 0);
        assert_int_equal(co_block_read(run->node, 0, sgl_one(&iov, bytes, size / 2), 0), 0);
        assert_memory_equal(bytes, run->model, size / 2);
    }
    must_close(run->node);
    free(run->model);
}

/* JSON with single quotes, for readability here. @return to be freed. */
static char *json_of(const char *quoted)
{
    char *text = strdup(quoted);
    for (char *c = text; *c; c++)
        *c = *c == '\'' ? '"' : *c;
    return text;
}

static void every_stack_holds_what_was_written(void **state)
{
#define MEM "{'driver': 'mem', 'size': '3146240'}"
    static const char *const stacks[] = {
        MEM,
        "{'driver': 'raw', 'file': " MEM "}",
        "{'driver': 'raw', 'offset': '1000', 'file': " MEM "}",
        "{'driver': 'raw', 'offset': '4096', 'size': '2M', 'file': " MEM "}",
        "{'driver': 'raw', 'offset': '513', 'size': '1000001', 'file': " MEM "}",
        "{'driver': 'error', 'operation': 'read', 'percent': '0', 'file': " MEM "}",
        "{'driver': 'delay', 'write-us': '10', 'jitter-us': '50', 'read-us': '5', 'file': " MEM "}",
        "{'driver': 'log', 'filename': '/d/log', 'file': " MEM "}",
        "{'driver': 'verify', 'file': " MEM "}",
        "{'driver': 'verify', 'limit': '64k', 'file': " MEM "}",
        "{'driver': 'copy-on-read', 'file': " MEM "}",
        "{'driver': 'verify', 'file': {'driver': 'delay', 'write-us': '3', 'jitter-us': '9', "
        "'read-us': '1', 'zero-us': '5', 'flush-us': '4', 'file': {'driver': 'copy-on-read', "
        "'file': {'driver': 'raw', 'offset': '777', 'file': " MEM "}}}}",
    };
    for (unsigned i = 0; i < ARRAY_LEN(stacks); i++) {
        char *text = json_of(stacks[i]);
        struct stack_run run = {.text = text, .seed = 40 + i};
        run_sim(i + 1, run_stack, &run);
        free(text);
    }
}

static char image[64]; /* of this process: tests run side by side */

static void run_file_stack(void *arg)
{
    char text[200];
    snprintf(text, sizeof(text), "{\"driver\":\"file\",\"filename\":\"%s\",\"size\":\"3146240\"}",
             image);
    must_create(text);
    run_stack(arg);
    assert_int_equal(co_unlink(image, NULL), 0);
}

/* @file: the file node under @before, which ends with @after. */
static void run_threads(enum rt_kind kind, const char *before, const char *file, const char *after,
                        co_fn *fn)
{
    struct rt_options options = {.kind = kind};
    struct rt *rt;
    char quoted[400];
    if (rt_create(&options, &rt, NULL) < 0) {
        print_message("io_uring is refused here\n");
        assert_int_equal(kind, RT_URING);
        return;
    }
    snprintf(quoted, sizeof(quoted), "%s%s%s", before, file, after);
    char *text = json_of(quoted);
    struct stack_run run = {.text = text, .seed = 90, .threads = WORKERS};
    assert_int_equal(rt_run(rt, fn, &run), 0);
    rt_free(rt);
    free(text);
}

static void stacks_hold_from_several_threads(void **state)
{
    static const struct {
        const char *before, *after;
    } stack[] = {
        {"", ""},
        {"{'driver': 'verify', 'file': {'driver': 'raw', 'file': ", "}}"},
        {"{'driver': 'copy-on-read', 'file': {'driver': 'error', 'percent': '0', 'file': ", "}}"},
    };
    char file[2][200];
    snprintf(image, sizeof(image), "/var/tmp/hawser-stacks-test-%d", (int)getpid());
    for (unsigned direct = 0; direct < 2; direct++)
        snprintf(file[direct], sizeof(file[direct]),
                 "{'driver': 'file', 'filename': '%s', 'direct': '%s'}", image,
                 direct ? "on" : "off");
    for (unsigned i = 0; i < ARRAY_LEN(stack); i++) {
        run_threads(RT_THREADS, stack[i].before, MEM, stack[i].after, run_stack);
        run_threads(RT_THREADS, stack[i].before, file[0], stack[i].after, run_file_stack);
        run_threads(RT_URING, stack[i].before, file[0], stack[i].after, run_file_stack);
        run_threads(RT_URING, stack[i].before, file[1], stack[i].after, run_file_stack);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_stack_holds_what_was_written),
        cmocka_unit_test(stacks_hold_from_several_threads),
    };
    drivers_register();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
