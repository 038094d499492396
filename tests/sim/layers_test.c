/*
 * Rebase, commit and the change of the backing file's name, cut off at every storage operation by a
 * power cut or a kill, and with every storage operation failing: whatever is left, the top reads
 * what it read before, over the chain that its header names then, and no image is corrupt.
 *
 *    /base <- /mid <- /top        /other, with another content
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/log.h"
#include "base/random.h"
#include "drivers/drivers.h"
#include "job/copy/layers.h"
#include "rt/sim.h"
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#define TOP_BYTES  (160 * KiB)
#define STEPS_MAX  120 /* of a sweep; longer ones are strided */
#define SURVIVORS  3
#define NAME_BYTES 400

enum work { REBASE, FLATTEN, COMMIT, COMMIT_DEEP, NAMES };

struct chain {
    unsigned cluster;
    bool extended;
    enum work work;
    uint64_t seed;
    int result;
    bool read; /* what co_look() could not read fails */
    uint8_t top[TOP_BYTES];
};

static const struct block_policy anywhere = {.allow = (const char *const[]){"/", NULL}};

/* ---- coroutines ---- */

static int co_open_path(const char *path, unsigned flags, struct block_node **ret)
{
    struct hws_error err = {0};
    json_t *description = json_pack("{s:s, s:{s:s, s:s}}", "driver", "qcow2", "file", "driver",
                                    "file", "filename", path);
    int r = co_block_open(description, flags, &anywhere, ret, &err);
    json_decref(description);
    return r;
}

static void co_create(const struct chain *c, const char *path, const char *backing, uint64_t size)
{
    struct hws_error err = {0};
    json_t *options = json_pack(
        "{s:s, s:{s:s, s:s}, s:I, s:I, s:s, s:s*, s:s*}", "driver", "qcow2", "file", "driver",
        "file", "filename", path, "size", (json_int_t)size, "cluster_size",
        (json_int_t)(c->extended ? 16384 : c->cluster), "extended_l2", c->extended ? "on" : "off",
        "backing_file", backing, "backing_fmt", backing ? "qcow2" : NULL);
    assert_non_null(options);
    assert_int_equal(co_block_create(options, false, &anywhere, &err), 0);
    json_decref(options);
}

static void co_fill(const struct chain *c, const char *path, unsigned count, uint64_t salt)
{
    struct random random = random_seed(c->seed * 16 + salt);
    struct block_node *node;
    uint8_t bytes[12000];
    assert_int_equal(co_open_path(path, BLOCK_OPEN_WRITE, &node), 0);
    for (unsigned i = 0; i < count; i++) {
        struct iovec iov;
        uint64_t at = random_below(&random, block_size(node));
        uint64_t length = 1 + random_below(&random, MIN(block_size(node) - at, sizeof(bytes)));
        int r;
        random_fill(&random, bytes, sizeof(bytes));
        if (random_one_in(&random, 4))
            r = co_block_write_zeroes(node, at, length, BLOCK_MAY_UNMAP);
        else
            r = co_block_write(node, at, sgl_one(&iov, bytes, (size_t)length), 0);
        assert_int_equal(r, 0);
    }
    assert_int_equal(co_block_close(node, NULL), 0);
}

static void co_look(void *arg)
{
    struct chain *c = arg;
    struct block_node *node;
    struct iovec iov;
    c->result = co_open_path("/top", c->work == NAMES ? BLOCK_OPEN_NO_BACKING : 0, &node);
    if (c->result < 0)
        return;
    c->result = co_block_read(node, 0, sgl_one(&iov, c->top, TOP_BYTES), 0);
    (void)co_block_close(node, NULL);
}

static void co_make(void *arg)
{
    struct chain *c = arg;
    /* The one below may be shorter, and the one at its side longer. */
    co_create(c, "/base", NULL, TOP_BYTES - 20 * KiB);
    co_fill(c, "/base", 12, 1);
    co_create(c, "/mid", "base", c->seed % 2 ? TOP_BYTES - 9 * KiB : TOP_BYTES + 8 * KiB);
    co_fill(c, "/mid", 6, 2);
    co_create(c, "/other", NULL, c->seed % 3 ? TOP_BYTES + 32 * KiB : TOP_BYTES - 30 * KiB);
    co_fill(c, "/other", 12, 3);
    co_create(c, "/top", "mid", TOP_BYTES);
    co_fill(c, "/top", 6, 4);
    co_look(c);
    assert_int_equal(c->result, 0);
}

static const struct job_load load = {.threads = 1, .requests = 3};

static int co_rebase(struct block_node *top, struct block_node *other)
{
    struct hws_error err = {0};
    int r = co_copy_up(top, other, &load, &err);
    if (r == 0)
        r = co_block_flush(top);
    if (r == 0)
        r = co_block_change_backing(top, other ? "other" : NULL, other ? "qcow2" : NULL, &err);
    return r;
}

static int co_commit(struct block_node *top, bool deep)
{
    struct hws_error err = {0};
    struct block_node *base = block_child(top, BLOCK_BACKING);
    if (deep)
        base = block_child(base, BLOCK_BACKING);
    int r = co_block_allow_write(base, &err);
    if (r == 0 && block_size(base) < block_size(top))
        r = co_block_resize(base, block_size(top), &err);
    if (r == 0)
        r = co_copy_down(top, base, &load, &err);
    if (r == 0)
        r = co_block_flush(base);
    if (r == 0 && !deep)
        r = co_block_make_empty(top, &err);
    return r;
}

/* Names of many lengths, so that the header is laid out anew in every way. */
static int co_names(const struct chain *c, struct block_node *top)
{
    static const char *const formats[] = {"raw", "qcow2", "a-long-format-name"};
    struct random random = random_seed(c->seed);
    struct hws_error err = {0};
    int r = 0;
    for (unsigned i = 0; i < 5 && r == 0; i++) {
        char name[NAME_BYTES + 1] = "";
        size_t length = 1 + random_below(&random, c->cluster == 512 ? 60 : NAME_BYTES);
        memset(name, 'a' + (int)i, length);
        bool none = random_one_in(&random, 4);
        r = co_block_change_backing(top, none ? NULL : name,
                                    none ? NULL : formats[random_below(&random, 3)], &err);
    }
    return r;
}

static void co_work_on(void *arg)
{
    struct chain *c = arg;
    struct block_node *top, *other = NULL;
    unsigned flags = BLOCK_OPEN_WRITE | (c->work == NAMES ? BLOCK_OPEN_NO_BACKING : 0);
    c->result = co_open_path("/top", flags, &top);
    if (c->result < 0)
        return;
    if (c->work == REBASE)
        c->result = co_open_path("/other", 0, &other);
    if (c->result == 0 && c->work <= FLATTEN)
        c->result = co_rebase(top, other);
    else if (c->result == 0 && c->work == NAMES)
        c->result = co_names(c, top);
    else if (c->result == 0)
        c->result = co_commit(top, c->work == COMMIT_DEEP);
    int closed = co_block_close(top, NULL);
    (void)co_block_close(other, NULL);
    c->result = c->result < 0 ? c->result : closed;
}

static void co_check_all(void *arg)
{
    static const char *const paths[] = {"/base", "/mid", "/other", "/top"};
    struct chain *c = arg;
    for (unsigned i = 0; i < ARRAY_LEN(paths); i++) {
        struct block_check check = {0};
        struct hws_error err = {0};
        struct block_node *node;
        assert_int_equal(co_open_path(paths[i], BLOCK_OPEN_CHECK | BLOCK_OPEN_NO_BACKING, &node),
                         0);
        assert_int_equal(co_block_check(node, 0, &check, &err), 0);
        assert_int_equal(check.corruptions, 0);
        assert_int_equal(check.errors, 0);
        if (c->read)
            assert_int_equal(check.leaks, 0);
        (void)co_block_close(node, NULL);
    }
}

/* The layer that was committed into holds it all. */
static void co_look_below(void *arg)
{
    struct chain *c = arg;
    struct block_node *node;
    struct iovec iov;
    assert_int_equal(co_open_path(c->work == COMMIT_DEEP ? "/base" : "/mid", 0, &node), 0);
    assert_true(block_size(node) >= TOP_BYTES);
    assert_int_equal(co_block_read(node, 0, sgl_one(&iov, c->top, TOP_BYTES), 0), 0);
    (void)co_block_close(node, NULL);
}

/* ---- sweeps ---- */

static void run(struct rt *rt, void (*co_step)(void *arg), struct chain *c)
{
    assert_int_equal(rt_run(rt, co_step, c), 0);
}

static void expect_whole(struct rt *left, const struct chain *made, bool clean)
{
    struct chain *c = malloc(sizeof(*c));
    assert_non_null(c);
    *c = *made;
    c->read = clean;
    run(left, co_look, c);
    assert_int_equal(c->result, 0);
    assert_memory_equal(c->top, made->top, TOP_BYTES);
    run(left, co_check_all, c);
    free(c);
}

static void expect_survives(struct rt *ended, const struct chain *made, uint64_t choice)
{
    for (unsigned i = 0; i <= SURVIVORS; i++) {
        struct sim_options options = {.seed = choice * 10 + i};
        struct rt *left = NULL;
        assert_int_equal(i == SURVIVORS ? sim_after_kill(ended, &options, &left)
                                        : sim_after_crash(ended, &options, &left),
                         0);
        expect_whole(left, made, false);
        rt_free(left);
    }
}

/* The work on a copy of @base; @options says what becomes of it. @return storage operations. */
static uint64_t work_once(struct rt *base, const struct chain *made, struct sim_options options)
{
    struct chain *c = malloc(sizeof(*c));
    struct rt *rt = NULL;
    bool undisturbed = !options.crash_at && !options.fail_at;
    assert_non_null(c);
    *c = *made;
    assert_int_equal(sim_after_kill(base, &options, &rt), 0);
    run(rt, co_work_on, c);
    uint64_t operations = sim_operations(rt);
    if (undisturbed) {
        assert_int_equal(c->result, 0);
        expect_whole(rt, made, true);
        if (c->work == COMMIT || c->work == COMMIT_DEEP) {
            run(rt, co_look_below, c);
            assert_memory_equal(c->top, made->top, TOP_BYTES);
        }
    }
    expect_survives(rt, made, options.crash_at + options.fail_at);
    rt_free(rt);
    free(c);
    return operations;
}

static void sweep(unsigned cluster, bool extended, enum work work, uint64_t seed)
{
    struct chain *made = calloc(1, sizeof(*made));
    struct sim_options options = {.seed = seed};
    struct rt *base = NULL;
    assert_non_null(made);
    made->cluster = cluster;
    made->extended = extended;
    made->work = work;
    made->seed = seed;
    assert_int_equal(sim_create(&options, &base), 0);
    run(base, co_make, made);
    if (work == NAMES)
        run(base, co_look, made);
    uint64_t operations = work_once(base, made, options);
    uint64_t stride = operations / STEPS_MAX + 1;
    assert_true(operations > 10);
    for (uint64_t at = 1 + seed % stride; at <= operations; at += stride) {
        work_once(base, made, (struct sim_options){.seed = seed, .crash_at = at});
        work_once(base, made, (struct sim_options){.seed = seed, .fail_at = at, .fail_errno = EIO});
        work_once(base, made,
                  (struct sim_options){
                      .seed = seed, .fail_at = at, .fail_errno = ENOSPC, .fail_sticky = true});
    }
    rt_free(base);
    free(made);
}

static void sweep_shapes(enum work work)
{
    for (uint64_t seed = 1; seed <= 3; seed++) {
        sweep(512, false, work, seed);
        sweep(4096, false, work, seed);
        sweep(0, true, work, seed);
    }
}

static void a_rebase_may_end_anywhere(void **state)
{
    sweep_shapes(REBASE);
}

static void a_flattening_may_end_anywhere(void **state)
{
    sweep_shapes(FLATTEN);
}

static void a_commit_may_end_anywhere(void **state)
{
    sweep_shapes(COMMIT);
}

static void a_deep_commit_may_end_anywhere(void **state)
{
    sweep_shapes(COMMIT_DEEP);
}

static void a_change_of_name_may_end_anywhere(void **state)
{
    sweep_shapes(NAMES);
}

/* Worlds that end complain about every flush. */
static void drop_log(enum log_level level, const char *line, void *arg)
{
}

int main(void)
{
    drivers_register();
    log_set_sink(drop_log, NULL);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_change_of_name_may_end_anywhere),
        cmocka_unit_test(a_rebase_may_end_anywhere),
        cmocka_unit_test(a_flattening_may_end_anywhere),
        cmocka_unit_test(a_commit_may_end_anywhere),
        cmocka_unit_test(a_deep_commit_may_end_anywhere),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
