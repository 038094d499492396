/*
 * The SCSI target's tree: what of host/lio.h and host/configfs.h can be told from any tree of
 * folders and links. What needs the kernel is in tests/lab/tests.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "host/configfs.h"
#include "host/lio.h"
#include "host/lio_reservations.h"
#include "rt/rt.h"
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <sys/stat.h>

#include <cmocka.h>

static char root[64];

static void make_folders(const char *path)
{
    char text[512];
    snprintf(text, sizeof(text), "%s/%s", root, path);
    for (char *at = text + strlen(root) + 1; (at = strchr(at, '/')); at++) {
        *at = '\0';
        assert_true(mkdir(text, 0700) == 0 || errno == EEXIST);
        *at = '/';
    }
    assert_true(mkdir(text, 0700) == 0 || errno == EEXIST);
}

static void make_file(const char *path, const char *text)
{
    char full[512];
    snprintf(full, sizeof(full), "%s/%s", root, path);
    int fd = open(full, O_CREAT | O_WRONLY | O_TRUNC | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), strlen(text));
    close(fd);
}

static int set_up(void **state)
{
    snprintf(root, sizeof(root), "%s", "/tmp/hawser-lio-XXXXXX");
    assert_non_null(mkdtemp(root));
    configfs_target_root = root;
    make_folders("core/user_1/a");
    make_folders("core/user_2/b");
    make_folders("core/alua");
    return 0;
}

static int tear_down(void **state)
{
    char command[128];
    snprintf(command, sizeof(command), "rm -r %s", root);
    return system(command);
}

/* A LUN of a target portal group, or what an ACL makes of one. */
static void add_link(const char *folder, const char *target)
{
    char path[512];
    make_folders(folder);
    snprintf(path, sizeof(path), "%s/xyz", folder);
    assert_int_equal(configfs_link(NULL, target, "%s", path), 0);
}

struct answer {
    bool forth, back, forth_reading;
};

static void co_ask(void *arg)
{
    struct answer *answer = arg;
    struct lio_backstore a = {.name = "a", .hba = 1}, b = {.name = "b", .hba = 2};
    answer->forth = co_lio_covisible(&a, &b, true);
    answer->back = co_lio_covisible(&b, &a, true);
    answer->forth_reading = co_lio_covisible(&a, &b, false);
}

static struct answer ask(void)
{
    struct rt *rt;
    struct answer answer;
    assert_int_equal(rt_create(NULL, &rt, NULL), 0);
    assert_int_equal(rt_run(rt, co_ask, &answer), 0);
    rt_free(rt);
    return answer;
}

#define T "iscsi/iqn.2026-11.example:t/tpgt_1"

static void what_one_group_exports_is_seen_together(void **state)
{
    add_link(T "/lun/lun_0", "core/user_1/a");
    add_link(T "/lun/lun_1", "core/user_2/b");
    struct answer answer = ask();
    assert_true(answer.forth && answer.back);
}

static void a_group_that_exports_one_alone_hides_the_other(void **state)
{
    add_link(T "/lun/lun_0", "core/user_1/a");
    add_link(T "/lun/lun_1", "core/user_2/b");
    add_link("loopback/naa.6001405000000000/tpgt_1/lun/lun_0", "core/user_1/a");
    struct answer answer = ask();
    assert_false(answer.forth);
    assert_true(answer.back);
}

static void this_host_sees_all_its_own_disks_together(void **state)
{
    add_link("loopback/naa.6001405000000000/tpgt_1/lun/lun_0", "core/user_1/a");
    struct answer answer = ask();
    assert_false(answer.forth);
    add_link("loopback/naa.6001405000000001/tpgt_1/lun/lun_0", "core/user_2/b");
    answer = ask();
    assert_true(answer.forth && answer.back);
}

static void an_acl_that_maps_one_alone_hides_the_other(void **state)
{
    add_link(T "/lun/lun_0", "core/user_1/a");
    add_link(T "/lun/lun_1", "core/user_2/b");
    add_link(T "/acls/iqn.both/lun_0", T "/lun/lun_0");
    add_link(T "/acls/iqn.both/lun_1", T "/lun/lun_1");
    struct answer answer = ask();
    assert_true(answer.forth && answer.back);
    add_link(T "/acls/iqn.one/lun_7", T "/lun/lun_0");
    answer = ask();
    assert_false(answer.forth);
    assert_true(answer.back);
}

static void what_is_write_protected_is_seen_and_not_written(void **state)
{
    add_link(T "/lun/lun_0", "core/user_1/a");
    add_link(T "/lun/lun_1", "core/user_2/b");
    add_link(T "/acls/iqn.both/lun_0", T "/lun/lun_0");
    add_link(T "/acls/iqn.both/lun_1", T "/lun/lun_1");
    make_file(T "/acls/iqn.both/lun_0/write_protect", "0\n");
    make_file(T "/acls/iqn.both/lun_1/write_protect", "1\n");
    struct answer answer = ask();
    assert_false(answer.forth);
    assert_true(answer.forth_reading && answer.back);
}

static void co_refusals(void *arg)
{
    char longest[300];
    struct lio_backstore found;
    struct hws_error err = {0};
    struct lio_backstore_options options = {
        .name = "..", .config = "x", .size_bytes = 4096, .block_bytes = 512, .serial = ""};
    assert_int_equal(co_lio_backstore_make(&options, &found, &err), -EINVAL);
    options.name = "a/b";
    assert_int_equal(co_lio_backstore_make(&options, &found, &err), -EINVAL);
    assert_non_null(strstr(err.text, "a/b"));
    options.name = "good";
    options.config = "with:colon";
    assert_int_equal(co_lio_backstore_make(&options, &found, &err), -EINVAL);
    options.config = "with,comma";
    assert_int_equal(co_lio_backstore_make(&options, &found, &err), -EINVAL);
    memset(longest, 'x', sizeof(longest) - 1);
    longest[sizeof(longest) - 1] = '\0';
    options.config = longest;
    assert_int_equal(co_lio_backstore_make(&options, &found, &err), -EINVAL);
    options.config = "x";
    options.size_bytes = 4097;
    assert_int_equal(co_lio_backstore_make(&options, &found, &err), -EINVAL);
    assert_non_null(strstr(err.text, "4097"));
    options.size_bytes = 0;
    assert_int_equal(co_lio_backstore_make(&options, &found, &err), -EINVAL);
    options.size_bytes = 4096;
    options.block_bytes = 1024;
    assert_int_equal(co_lio_backstore_make(&options, &found, &err), -EINVAL);
    assert_int_equal(co_lio_backstore_find("../core", &found, &err), -ENOENT);
    assert_int_equal(co_lio_backstore_find("none", &found, &err), -ENOENT);
    assert_int_equal(co_lio_backstore_find("b", &found, &err), 0);
    assert_int_equal(found.hba, 2);
    assert_int_equal(found.minor, LIO_NO_MINOR);
}

static void bad_options_are_refused_before_the_kernel_sees_them(void **state)
{
    struct rt *rt;
    assert_int_equal(rt_create(NULL, &rt, NULL), 0);
    assert_int_equal(rt_run(rt, co_refusals, NULL), 0);
    rt_free(rt);
}

static void values_come_without_the_lines_end(void **state)
{
    char text[8];
    make_file("core/user_1/a/value", "17\n");
    assert_int_equal(configfs_read(text, sizeof(text), "core/user_1/a/value"), 2);
    assert_string_equal(text, "17");
    make_file("core/user_1/a/value", "a long value\n");
    assert_int_equal(configfs_read(text, sizeof(text), "core/user_1/a/value"), 7);
    assert_string_equal(text, "a long ");
    assert_int_equal(configfs_read(text, sizeof(text), "core/user_9/value"), -ENOENT);
}

static void secrets_are_not_told(void **state)
{
    struct hws_error err = {0};
    assert_true(configfs_write_secret(&err, "tell nobody", "core/none/password") < 0);
    assert_null(strstr(err.text, "nobody"));
    assert_non_null(strstr(err.text, "core/none/password"));
}

static void what_is_gone_is_removed(void **state)
{
    assert_int_equal(configfs_rmdir(NULL, "core/user_7"), 0);
    assert_int_equal(configfs_unlink(NULL, "core/user_7/x"), 0);
    assert_int_equal(configfs_rmdir(NULL, "core/user_1"), -ENOTEMPTY);
    assert_int_equal(configfs_mkdir(NULL, "core/user_1"), -EEXIST);
}

/* ---- saved reservations ---- */

static void save_reservations(const char *text)
{
    char database[80];
    snprintf(database, sizeof(database), "%s/db\n", root);
    make_file("dbroot", database);
    make_folders("core/user_1/a/wwn");
    make_folders("core/user_1/a/pr");
    make_file("core/user_1/a/wwn/vpd_unit_serial", "T10 VPD Unit Serial Number: 0123abcd\n");
    make_file("core/user_1/a/pr/res_aptpl_metadata", "");
    struct hws_error err = {0};
    assert_int_equal(lio_reservations_prepare(&err), 0);
    assert_int_equal(lio_reservations_prepare(&err), 0);
    if (text)
        make_file("db/pr/aptpl_0123abcd", text);
}

static int restore(char *ret_given, size_t size, struct hws_error *err)
{
    struct lio_backstore a = {.name = "a", .hba = 1};
    int r = lio_reservations_restore(&a, err);
    assert_true(configfs_read(ret_given, size, "core/user_1/a/pr/res_aptpl_metadata") >= 0);
    return r;
}

static void saved_reservations_are_given_back(void **state)
{
    char given[512];
    save_reservations("PR_REG_START: 0\ninitiator_fabric=iSCSI\ninitiator_node=iqn.x\n"
                      "sa_res_key=161\nres_holder=1\nPR_REG_END: 0\n");
    assert_int_equal(restore(given, sizeof(given), NULL), 0);
    assert_string_equal(given,
                        "initiator_fabric=iSCSI,initiator_node=iqn.x,sa_res_key=161,res_holder=1");
}

static void nothing_saved_is_nothing_given(void **state)
{
    char given[512];
    save_reservations(NULL);
    assert_int_equal(restore(given, sizeof(given), NULL), 0);
    assert_string_equal(given, "");
    save_reservations("");
    assert_int_equal(restore(given, sizeof(given), NULL), 0);
    assert_string_equal(given, "");
}

static void damaged_reservations_are_refused_by_the_name_of_their_file(void **state)
{
    static const char *const damaged[] = {
        "PR_REG_START: 0\ninitiator_node=iqn.x\n",
        "PR_REG_START: 0\nPR_REG_END: 0\n",
        "PR_REG_START:",
        "PR_REG_START: 0\ninitiator_node=iqn.x,res_holder=1\nPR_REG_END: 0\n",
    };
    for (unsigned i = 0; i < sizeof(damaged) / sizeof(damaged[0]); i++) {
        char given[512];
        struct hws_error err = {0};
        save_reservations(damaged[i]);
        assert_int_equal(restore(given, sizeof(given), &err), -EUCLEAN);
        assert_non_null(strstr(err.text, "db/pr/aptpl_0123abcd"));
        assert_string_equal(given, "");
    }
}

#define TREE_TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TREE_TEST(what_one_group_exports_is_seen_together),
        TREE_TEST(a_group_that_exports_one_alone_hides_the_other),
        TREE_TEST(this_host_sees_all_its_own_disks_together),
        TREE_TEST(an_acl_that_maps_one_alone_hides_the_other),
        TREE_TEST(what_is_write_protected_is_seen_and_not_written),
        TREE_TEST(bad_options_are_refused_before_the_kernel_sees_them),
        TREE_TEST(values_come_without_the_lines_end),
        TREE_TEST(secrets_are_not_told),
        TREE_TEST(what_is_gone_is_removed),
        TREE_TEST(saved_reservations_are_given_back),
        TREE_TEST(nothing_saved_is_nothing_given),
        TREE_TEST(damaged_reservations_are_refused_by_the_name_of_their_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
