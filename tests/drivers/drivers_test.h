/*
 * What the tests of stacked drivers share: a runtime to run in, and graphs from JSON text.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef DRIVERS_TEST_H
#define DRIVERS_TEST_H

#include "base/random.h"
#include "block/driver.h"
#include "drivers/drivers.h"
#include "rt/sim.h"
#include "rt/sync.h"
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

/* Runs @fn in the simulator. */
static inline void run_sim(uint64_t seed, co_fn *fn, void *arg)
{
    struct sim_options options = {.seed = seed};
    struct rt *rt;
    assert_int_equal(sim_create(&options, &rt), 0);
    assert_int_equal(rt_run(rt, fn, arg), 0);
    rt_free(rt);
}

/* Opens the graph that @text, JSON, describes. @return NULL and the reason in @err. */
static inline struct block_node *try_open(const char *text, unsigned flags, struct hws_error *err)
{
    static const char *const anywhere[] = {"/", NULL};
    struct block_policy policy = {.allow = anywhere};
    struct block_node *node = NULL;
    json_error_t where;
    json_t *d = json_loads(text, 0, &where);
    if (!d)
        print_message("%s: %s\n", text, where.text);
    assert_non_null(d);
    *err = (struct hws_error){0};
    int r = co_block_open(d, flags, &policy, &node, err);
    json_decref(d);
    assert_true(r == 0 || (node == NULL && err->text[0] && err->code == -r));
    return node;
}

static inline struct block_node *must_open(const char *text, unsigned flags)
{
    struct hws_error err;
    struct block_node *node = try_open(text, flags, &err);
    if (!node)
        print_message("%s\n", err.text);
    assert_non_null(node);
    return node;
}

static inline void must_close(struct block_node *node)
{
    struct hws_error err = {0};
    int r = co_block_close(node, &err);
    if (r < 0)
        print_message("%s\n", err.text);
    assert_int_equal(r, 0);
}

static inline int create(const char *text, struct hws_error *err)
{
    struct block_policy policy = {0};
    json_t *d = json_loads(text, 0, NULL);
    assert_non_null(d);
    *err = (struct hws_error){0};
    int r = co_block_create(d, false, &policy, err);
    json_decref(d);
    return r;
}

static inline void must_create(const char *text)
{
    struct hws_error err;
    int r = create(text, &err);
    if (r < 0)
        print_message("%s\n", err.text);
    assert_int_equal(r, 0);
}

static inline int write_fill(struct block_node *node, uint64_t offset, uint8_t byte, size_t length)
{
    struct iovec iov;
    autofree uint8_t *bytes = malloc(length);
    memset(bytes, byte, length);
    return co_block_write(node, offset, sgl_one(&iov, bytes, length), 0);
}

/* Reads, and checks that all bytes are @byte. @return what the read returned. */
static inline int read_fill(struct block_node *node, uint64_t offset, uint8_t byte, size_t length)
{
    struct iovec iov;
    autofree uint8_t *bytes = malloc(length);
    memset(bytes, (uint8_t)~byte, length);
    int r = co_block_read(node, offset, sgl_one(&iov, bytes, length), 0);
    for (size_t i = 0; r == 0 && i < length; i++)
        assert_int_equal(bytes[i], byte);
    return r;
}

#endif
