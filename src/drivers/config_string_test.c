/*
 * Configuration strings: what they mean, and what each wrong one is told.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "drivers/config_string.h"
#include "drivers/drivers.h"
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

static void assert_refused(const char *text, int code, const char *reason)
{
    struct config_string config;
    struct hws_error err = {0};
    int r = config_string_parse(text, &config, &err);
    if (r != -code || !strstr(err.text, reason))
        fail_msg("'%s': %d, %s", text, r, err.text);
}

static void a_path_and_its_options_are_found(void **state)
{
    struct config_string config;
    struct hws_error err = {0};
    assert_int_equal(config_string_parse("hawser//a/b.qcow2", &config, &err), 0);
    assert_string_equal(config.image, "/a/b.qcow2");
    assert_null(config.format);
    assert_int_equal(config.cache, BLOCK_CACHE_WRITEBACK);
    assert_false(config.read_only);
    config_string_free(&config);
    assert_int_equal(config_string_parse("/a/b;;c;cache=none;format=raw;read-only=on;allow=/x;"
                                         "discard=ignore;detect-zeroes=unmap",
                                         &config, &err),
                     0);
    assert_string_equal(config.image, "/a/b;c");
    assert_string_equal(config.format, "raw");
    assert_string_equal(config.allow, "/x");
    assert_int_equal(config.cache, BLOCK_CACHE_NONE);
    assert_int_equal(config.discard, BLOCK_DISCARD_IGNORE);
    assert_int_equal(config.detect_zeroes, BLOCK_DETECT_UNMAP);
    assert_true(config.read_only);
    config_string_free(&config);
    assert_int_equal(config_string_parse("/\xff", &config, &err), 0);
    assert_string_equal(config.image, "/\xff");
    config_string_free(&config);
}

static void what_is_wrong_is_told(void **state)
{
    char many[CONFIG_STRING_MAX + 2];
    memset(many, '/', sizeof(many));
    many[sizeof(many) - 1] = '\0';
    assert_refused(many, ENAMETOOLONG, "255");
    assert_refused("", EINVAL, "absolute path");
    assert_refused("hawser/", EINVAL, "absolute path");
    assert_refused("hawser/disk.qcow2", EINVAL, "'disk.qcow2' is not the absolute path");
    assert_refused("/a;", EINVAL, "'' is not option=value");
    assert_refused("/a;cache", EINVAL, "'cache' is not option=value");
    assert_refused("/a;=none", EINVAL, "not option=value");
    assert_refused("/a;cache=fast", EINVAL, "writeback");
    assert_refused("/a;image=/b", EINVAL, "path comes first");
    assert_refused("/a;cache=none;cache=none", EINVAL, "given twice");
    assert_refused("/a;tcmur_cmd_time_out=3", EINVAL, "tcmur_cmd_time_out");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_path_and_its_options_are_found),
        cmocka_unit_test(what_is_wrong_is_told),
    };
    drivers_register();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
