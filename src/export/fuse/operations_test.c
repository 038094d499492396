/*
 * Requests as no sane kernel sends them, and what INIT settles: operations.c without any transport,
 * on an image in memory. Needs no rights.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "drivers/drivers.h"
#include "export/fuse/internal.h"
#include <linux/falloc.h>
#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#define SIZE 1048577 /* no multiple of anything */

static struct fuse_export export;
static uint8_t *payload;

void fuse_export_became_ready(struct fuse_export *e, int error)
{
    e->ready = true;
    e->init_error = error;
}

/* ---- scaffolding ---- */

static void co_setup(bool read_only)
{
    struct hws_error err = {0};
    struct block_node *node = NULL;
    struct block_root_options options = {.read_only = read_only};
    json_t *description = json_pack("{s:s, s:i}", "driver", "mem", "size", SIZE);
    assert_int_equal(
        co_block_open(description, read_only ? 0 : BLOCK_OPEN_WRITE, NULL, &node, &err), 0);
    json_decref(description);
    memset(&export, 0, sizeof(export));
    rt_mutex_init(&export.guard);
    export.root = block_root_new(node, &options);
    export.read_only = read_only;
    export.mode = 0600;
    assert_non_null(export.root);
    assert_int_equal(co_block_close(node, &err), 0);
}

static void co_teardown(void)
{
    assert_int_equal(co_block_root_free(export.root, NULL), 0);
    rt_mutex_destroy(&export.guard);
}

static struct fuse_request co_ask(uint32_t opcode, const void *fixed, size_t fixed_bytes,
                                  size_t payload_bytes)
{
    struct fuse_request request = {
        .header = {.opcode = opcode, .node = FUSE_NODE_ROOT, .unique = 2},
        .fixed = fixed,
        .fixed_bytes = fixed_bytes,
        .payload = payload,
        .payload_bytes = payload_bytes,
    };
    co_fuse_serve(&export, &request);
    assert_true(request.error <= 0 && request.error > -512);
    assert_true(request.answer_bytes <= FUSE_PAYLOAD_BYTES);
    return request;
}

static void run(co_fn *fn)
{
    struct rt *rt;
    struct hws_error err = {0};
    assert_int_equal(rt_create(NULL, &rt, &err), 0);
    assert_int_equal(rt_run(rt, fn, NULL), 0);
    rt_free(rt);
}

/* ---- tests ---- */

static void co_short(void *arg)
{
    static const struct {
        uint32_t opcode;
        size_t fixed_bytes;
    } cases[] = {
        {FUSE_READ, sizeof(struct fuse_read_in)},
        {FUSE_WRITE, sizeof(struct fuse_write_in)},
        {FUSE_GETATTR, sizeof(struct fuse_getattr_in)},
        {FUSE_SETATTR, sizeof(struct fuse_setattr_in)},
        {FUSE_OPEN, sizeof(struct fuse_open_in)},
        {FUSE_FSYNC, sizeof(struct fuse_fsync_in)},
        {FUSE_FALLOCATE, sizeof(struct fuse_fallocate_in)},
        {FUSE_LSEEK, sizeof(struct fuse_lseek_in)},
        {FUSE_INIT, FUSE_INIT_IN_LEAST_BYTES},
    };
    static const uint8_t zeroes[128];
    co_setup(false);
    for (unsigned i = 0; i < ARRAY_LEN(cases); i++)
        for (size_t bytes = 0; bytes < cases[i].fixed_bytes; bytes++)
            assert_int_equal(co_ask(cases[i].opcode, zeroes, bytes, 0).error, -EINVAL);
    co_teardown();
}

static void requests_that_are_too_short_are_refused(void **state)
{
    run(co_short);
}

static void co_unknown(void *arg)
{
    static const uint8_t zeroes[128];
    static const uint32_t opcodes[] = {0,  FUSE_LOOKUP, FUSE_INTERRUPT, FUSE_ACCESS,
                                       47, 52,          4096,           UINT32_MAX};
    co_setup(false);
    for (unsigned i = 0; i < ARRAY_LEN(opcodes); i++)
        assert_int_equal(co_ask(opcodes[i], zeroes, sizeof(zeroes), 0).error, -ENOSYS);
    assert_true(co_ask(FUSE_FORGET, zeroes, 8, 0).no_answer);
    assert_true(co_ask(FUSE_BATCH_FORGET, zeroes, 8, 0).no_answer);
    co_teardown();
}

static void unknown_operations_are_answered_and_forgets_are_not(void **state)
{
    run(co_unknown);
}

static void co_bounds(void *arg)
{
    struct fuse_read_in read = {.size = FUSE_PAYLOAD_BYTES + 1};
    struct fuse_write_in write = {.size = 4097};
    struct fuse_fallocate_in punch = {.offset = UINT64_MAX - 5,
                                      .length = UINT64_MAX,
                                      .mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE};
    struct fuse_lseek_in seek = {.offset = UINT64_MAX, .whence = SEEK_DATA};
    co_setup(false);
    assert_int_equal(co_ask(FUSE_READ, &read, sizeof(read), 0).error, -EINVAL);
    assert_int_equal(co_ask(FUSE_WRITE, &write, sizeof(write), 4096).error, -EINVAL);
    write = (struct fuse_write_in){.offset = UINT64_MAX, .size = 1};
    assert_int_equal(co_ask(FUSE_WRITE, &write, sizeof(write), 1).error, -ENOSPC);
    read = (struct fuse_read_in){.offset = UINT64_MAX, .size = 4096};
    assert_int_equal(co_ask(FUSE_READ, &read, sizeof(read), 0).answer_bytes, 0);
    read.offset = SIZE - 1;
    assert_int_equal(co_ask(FUSE_READ, &read, sizeof(read), 0).answer_bytes, 1);
    assert_int_equal(co_ask(FUSE_FALLOCATE, &punch, sizeof(punch), 0).error, 0);
    punch.offset = 1;
    assert_int_equal(co_ask(FUSE_FALLOCATE, &punch, sizeof(punch), 0).error, 0);
    punch.mode = FALLOC_FL_ZERO_RANGE;
    assert_int_equal(co_ask(FUSE_FALLOCATE, &punch, sizeof(punch), 0).error, -EPERM);
    punch.mode = UINT32_MAX;
    assert_int_equal(co_ask(FUSE_FALLOCATE, &punch, sizeof(punch), 0).error, -EOPNOTSUPP);
    assert_int_equal(co_ask(FUSE_LSEEK, &seek, sizeof(seek), 0).error, -ENXIO);
    seek = (struct fuse_lseek_in){.whence = 77};
    assert_int_equal(co_ask(FUSE_LSEEK, &seek, sizeof(seek), 0).error, -EINVAL);
    co_teardown();
}

static void offsets_and_lengths_beyond_reason_do_no_harm(void **state)
{
    run(co_bounds);
}

static void co_read_only(void *arg)
{
    struct fuse_open_in open = {.flags = O_RDWR};
    struct fuse_write_in write = {.size = 512};
    struct fuse_fallocate_in punch = {.length = 1,
                                      .mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE};
    co_setup(true);
    assert_int_equal(co_ask(FUSE_OPEN, &open, sizeof(open), 0).error, -EROFS);
    assert_int_equal(co_ask(FUSE_WRITE, &write, sizeof(write), 512).error, -EROFS);
    assert_int_equal(co_ask(FUSE_FALLOCATE, &punch, sizeof(punch), 0).error, -EROFS);
    open.flags = O_RDONLY;
    assert_int_equal(co_ask(FUSE_OPEN, &open, sizeof(open), 0).error, 0);
    co_teardown();
}

static void a_read_only_export_refuses_what_writes(void **state)
{
    run(co_read_only);
}

static void co_versions(void *arg)
{
    struct fuse_init_in init = {.major = 8, .minor = 1, .flags = UINT32_MAX, .flags2 = UINT32_MAX};
    struct fuse_init_out out;
    co_setup(false);
    /* A newer major: we name ours, and the kernel asks again. */
    assert_int_equal(co_ask(FUSE_INIT, &init, sizeof(init), 0).error, 0);
    memcpy(&out, payload, sizeof(out));
    assert_int_equal(out.major, 7);
    assert_false(export.negotiated);
    /* Nothing is accepted that we did not ask for, and io_uring only where it works. */
    init.major = 7;
    init.minor = 45;
    assert_int_equal(co_ask(FUSE_INIT, &init, sizeof(init), 0).error, 0);
    memcpy(&out, payload, sizeof(out));
    assert_true(export.negotiated);
    assert_false(export.over_ring);
    assert_int_equal(out.flags2 & (uint32_t)(FUSE_OVER_IO_URING >> 32), 0);
    assert_int_equal(out.max_write, FUSE_PAYLOAD_BYTES);
    export.ring_wanted = true;
    assert_int_equal(co_ask(FUSE_INIT, &init, sizeof(init), 0).error, 0);
    assert_true(export.over_ring);
    /* The short INIT of old kernels has no flags2. */
    assert_int_equal(co_ask(FUSE_INIT, &init, FUSE_INIT_IN_LEAST_BYTES, 0).error, 0);
    assert_false(export.over_ring);
    init.minor = FUSE_VERSION_MINOR_LEAST - 1;
    assert_int_equal(co_ask(FUSE_INIT, &init, sizeof(init), 0).error, -EPROTO);
    assert_int_equal(export.init_error, -EPROTO);
    co_teardown();
}

static void init_settles_version_and_transport(void **state)
{
    run(co_versions);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(requests_that_are_too_short_are_refused),
        cmocka_unit_test(unknown_operations_are_answered_and_forgets_are_not),
        cmocka_unit_test(offsets_and_lengths_beyond_reason_do_no_harm),
        cmocka_unit_test(a_read_only_export_refuses_what_writes),
        cmocka_unit_test(init_settles_version_and_transport),
    };
    drivers_register();
    payload = aligned_alloc(4096, FUSE_PAYLOAD_BYTES);
    int failed = payload ? cmocka_run_group_tests(tests, NULL, NULL) : 1;
    free(payload);
    return failed;
}
