/*
 * What the file backend's tests share: running a body on a runtime, opening and creating files.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef BACKEND_FILE_FILE_TEST_H
#define BACKEND_FILE_FILE_TEST_H

#include "backend/file/file.h"
#include "base/random.h"
#include "rt/sim.h"
#include <setjmp.h>
#include <stdarg.h>
#include <sys/stat.h>
#include <cmocka.h>

static const struct block_driver *const test_drivers[] = {&file_driver, NULL};

/* Runs @fn as a coroutine on a runtime of @kind. */
static inline void run_real(enum rt_kind kind, co_fn *fn, void *arg)
{
    struct rt_options options = {.kind = kind};
    struct rt *rt = NULL;
    struct hws_error err = {0};
    int r = rt_create(&options, &rt, &err);
    if (r < 0 && kind == RT_URING)
        print_message("io_uring is refused here: %s\n", err.text);
    if (r < 0 && kind == RT_URING)
        return;
    assert_int_equal(r, 0);
    assert_int_equal(rt_run(rt, fn, arg), 0);
    rt_free(rt);
}

static inline struct block_node *try_open(const char *path, unsigned flags,
                                          const struct block_policy *policy, const char *direct,
                                          struct hws_error *err, int *ret)
{
    struct block_node *node = NULL;
    json_t *d = json_pack("{s:s, s:s, s:s}", "driver", "file", "filename", path, "direct", direct);
    struct block_policy none = {0};
    assert_non_null(d);
    *err = (struct hws_error){0};
    *ret = co_block_open(d, flags, policy ? policy : &none, &node, err);
    json_decref(d);
    return *ret == 0 ? node : NULL;
}

static inline struct block_node *must_open(const char *path, unsigned flags, const char *direct)
{
    struct hws_error err;
    int r;
    struct block_node *node = try_open(path, flags, NULL, direct, &err, &r);
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

static inline int create(const char *path, uint64_t size, const char *preallocation, bool overwrite,
                         struct hws_error *err)
{
    struct block_policy policy = {0};
    json_t *d = json_pack("{s:s, s:s, s:I, s:s}", "driver", "file", "filename", path, "size",
                          (json_int_t)size, "preallocation", preallocation);
    assert_non_null(d);
    *err = (struct hws_error){0};
    int r = co_block_create(d, overwrite, &policy, err);
    json_decref(d);
    return r;
}

static inline void must_create(const char *path, uint64_t size)
{
    struct hws_error err;
    int r = create(path, size, "off", false, &err);
    if (r < 0)
        print_message("%s\n", err.text);
    assert_int_equal(r, 0);
}

static inline int write_fill(struct block_node *node, uint64_t offset, uint8_t byte, size_t length,
                             unsigned flags)
{
    struct iovec iov;
    autofree uint8_t *bytes = malloc(length);
    memset(bytes, byte, length);
    return co_block_write(node, offset, sgl_one(&iov, bytes, length), flags);
}

#endif
