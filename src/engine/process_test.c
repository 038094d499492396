/*
 * What guards the engine's small stacks: JSON that nests too deep is recognised before it is
 * parsed. And the words for who uses a device.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "engine/engine.h"
#include "engine/holders.h"
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <sys/stat.h>
#include <cmocka.h>

static bool flat(const char *text)
{
    return process_json_is_flat(text, strlen(text));
}

static void shallow_text_is_flat(void **state)
{
    assert_true(flat(""));
    assert_true(flat("{\"a\":[1,{\"b\":[]}]}"));
    assert_true(flat("]]]]}}}}"));
    assert_true(flat("[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[["));
}

static void deep_text_is_not(void **state)
{
    assert_false(flat("[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[["));
    assert_false(flat("{{{{{{{{{{{{{{{{[[[[[[[[[[[[[[[[["));
}

static void brackets_in_strings_do_not_count(void **state)
{
    assert_true(flat("\"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[\""));
    assert_true(flat("\"\\\"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[\""));
    assert_false(flat("\"\\\\\"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[["));
    assert_true(flat("\"unfinished \\"));
}

static void whoever_works_in_a_folder_is_named(void **state)
{
    char folder[] = "/tmp/hawser-holders-XXXXXX", text[256], path[64], wanted[64];
    assert_non_null(mkdtemp(folder));
    assert_false(holders_describe_mount(folder, text, sizeof(text)));
    assert_string_equal(text, "");
    snprintf(path, sizeof(path), "%s/file", folder);
    int fd = open(path, O_CREAT | O_RDWR | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_true(holders_describe_mount(folder, text, sizeof(text)));
    snprintf(wanted, sizeof(wanted), "process %d ", (int)getpid());
    assert_non_null(strstr(text, wanted));
    close(fd);
    unlink(path);
    rmdir(folder);
}

static void what_is_no_device_has_no_users(void **state)
{
    char text[64] = "x";
    assert_false(holders_describe("/nonexistent", text, sizeof(text)));
    assert_false(holders_describe("/tmp", text, sizeof(text)));
    assert_string_equal(text, "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(shallow_text_is_flat),
        cmocka_unit_test(deep_text_is_not),
        cmocka_unit_test(brackets_in_strings_do_not_count),
        cmocka_unit_test(whoever_works_in_a_folder_is_named),
        cmocka_unit_test(what_is_no_device_has_no_users),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
