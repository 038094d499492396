/*
 * What of host/ can be tested without rights: the table of attach paths, and the look-up of mounts.
 * Devices are tested in tests/export.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "host/attach.h"
#include "host/loop.h"
#include "host/mounts.h"
#include "rt/rt.h"
#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

static void every_path_either_works_or_says_what_is_missing(void **state)
{
    for (const struct attach_path *path = attach_paths; path->name; path++) {
        struct hws_error why = {0};
        int r = path->probe(&why);
        assert_true(r <= 0);
        assert_int_equal(r < 0, why.text[0] != 0);
    }
}

static void a_choice_is_supported_and_probed(void **state)
{
    struct hws_error err = {0};
    const struct attach_path *path = attach_path_choose(NULL, &err);
    if (path) {
        assert_true(path->supported);
        assert_int_equal(path->probe(NULL), 0);
    } else {
        assert_non_null(strstr(err.text, "fuse+loop"));
    }
}

static void what_is_not_supported_is_refused_with_the_reason(void **state)
{
    struct hws_error err = {0};
    assert_null(attach_path_choose("ublk", &err));
    assert_int_equal(err.code, ENODEV);
    assert_non_null(strstr(err.text, "not supported by this version"));
    assert_null(attach_path_choose("floppy", &err));
    assert_int_equal(err.code, EINVAL);
    assert_non_null(strstr(err.text, "floppy"));
}

static void only_block_devices_are_mounted_devices(void **state)
{
    char where[64] = "before";
    assert_false(mounts_find_device("/dev/null", where, sizeof(where)));
    assert_string_equal(where, "");
    assert_false(mounts_find_device("/nonexistent", where, sizeof(where)));
    assert_int_equal(mounts_look("/dev/null", "/"), MOUNTS_NOT_THERE);
    assert_int_equal(mounts_look("/nonexistent", "/"), MOUNTS_NOT_THERE);
}

static void co_refusals(void *arg)
{
    struct hws_error err = {0};
    struct loop_device device = {.fd = -7};
    struct loop_options options = {.path = "/nonexistent", .block_bytes = 777};
    assert_int_equal(co_loop_attach(&options, &device, &err), -EINVAL);
    assert_non_null(strstr(err.text, "777"));
    options.block_bytes = 0;
    assert_int_equal(co_loop_attach(&options, &device, &err), -ENOENT);
    assert_non_null(strstr(err.text, "/nonexistent"));
    assert_int_equal(device.fd, -7);
    assert_int_equal(co_loop_open("/dev/null", &device, &err), -EINVAL);
    int r = co_unmount("/nonexistent", &err); /* who may not unmount is told that first */
    assert_true(r == -ENOENT || r == -EPERM);
}

static void wrong_arguments_are_named(void **state)
{
    struct rt *rt;
    assert_int_equal(rt_create(NULL, &rt, NULL), 0);
    assert_int_equal(rt_run(rt, co_refusals, NULL), 0);
    rt_free(rt);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_path_either_works_or_says_what_is_missing),
        cmocka_unit_test(a_choice_is_supported_and_probed),
        cmocka_unit_test(what_is_not_supported_is_refused_with_the_reason),
        cmocka_unit_test(only_block_devices_are_mounted_devices),
        cmocka_unit_test(wrong_arguments_are_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
