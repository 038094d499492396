/*
 * Where control groups are made and how they end, on folders that look like some: what is
 * delegated, named, missing and refused. tests/system/control_engine.py has the kernel's own.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "host/cgroup.h"
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/xattr.h>

#include <cmocka.h>

struct tree {
    char folder[64];
    char mounts[96], own[96];
    struct cgroup_host host;
};

static const char *in(const struct tree *tree, const char *name)
{
    static char path[4][PATH_MAX];
    static unsigned next;
    char *to = path[next++ % ARRAY_LEN(path)];
    snprintf(to, PATH_MAX, "%s/%s", tree->folder, name);
    return to;
}

static void put(const struct tree *tree, const char *name, const char *text)
{
    FILE *file = fopen(in(tree, name), "w");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
}

static bool is_there(const struct tree *tree, const char *name)
{
    return access(in(tree, name), F_OK) == 0;
}

static const char *content(const struct tree *tree, const char *name)
{
    static char text[128];
    FILE *file = fopen(in(tree, name), "r");
    assert_non_null(file);
    text[fread(text, 1, sizeof(text) - 1, file)] = '\0';
    fclose(file);
    return text;
}

static void make(const struct tree *tree, const char *name)
{
    assert_int_equal(mkdir(in(tree, name), 0755), 0);
}

/* A hybrid host: the second version beside the first, this process in /system/hawserd. */
static int set_up(void **state)
{
    struct tree *tree = calloc(1, sizeof(*tree));
    char text[512];
    snprintf(tree->folder, sizeof(tree->folder), "/tmp/cgroup-test-XXXXXX");
    assert_non_null(mkdtemp(tree->folder));
    snprintf(tree->mounts, sizeof(tree->mounts), "%s/mountinfo", tree->folder);
    snprintf(tree->own, sizeof(tree->own), "%s/own", tree->folder);
    snprintf(text, sizeof(text),
             "30 1 0:9 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n"
             "31 1 0:9 / /a\\040b rw shared:1 - cgroup2 cgroup2 rw\n"
             "41 1 0:9 / %s/v2 rw,relatime shared:7 - cgroup2 cgroup2 rw\n",
             tree->folder);
    put(tree, "mountinfo", text);
    put(tree, "own", "9:name=systemd:/system/hawserd\n1:cpu:/\n0::/system/hawserd\n");
    make(tree, "v2");
    make(tree, "v2/system");
    make(tree, "v2/system/hawserd");
    tree->host = (struct cgroup_host){tree->mounts, tree->own, .pretend = true};
    *state = tree;
    return 0;
}

static int remove_entry(const char *path, const struct stat *st, int kind, struct FTW *at)
{
    return remove(path);
}

static int tear_down(void **state)
{
    struct tree *tree = *state;
    nftw(tree->folder, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
    free(tree);
    return 0;
}

/* The kernel's files are there as soon as a group is. */
static void add_controllers(const struct tree *tree, const char *group, const char *there)
{
    char name[PATH_MAX];
    snprintf(name, sizeof(name), "%s/cgroup.controllers", group);
    put(tree, name, there);
    snprintf(name, sizeof(name), "%s/cgroup.subtree_control", group);
    put(tree, name, "");
}

static void delegate(const struct tree *tree, const char *group)
{
    if (setxattr(in(tree, group), "trusted.delegate", "1", 1, 0) < 0 &&
        setxattr(in(tree, group), "user.delegate", "1", 1, 0) < 0)
        skip(); /* attributes that this file system or user cannot set */
}

static void without_delegation_there_is_a_group_at_the_root(void **state)
{
    struct tree *tree = *state;
    struct cgroup_base base;
    cgroup_find(NULL, &tree->host, &base);
    assert_string_equal(base.folder, in(tree, "v2/hawser"));
    assert_null(base.controllers);
    assert_null(base.reason);
    assert_false(is_there(tree, "v2/system/hawserd/daemon"));
    cgroup_base_free(&base);
    cgroup_find(NULL, &tree->host, &base); /* it is there now */
    assert_string_equal(base.folder, in(tree, "v2/hawser"));
    cgroup_base_free(&base);
}

static void controllers_that_are_there_are_enabled(void **state)
{
    struct tree *tree = *state;
    struct cgroup_base base;
    make(tree, "v2/hawser");
    add_controllers(tree, "v2/hawser", "cpuset hugetlb memory_v2 pids\n");
    cgroup_find(NULL, &tree->host, &base);
    assert_string_equal(base.controllers, "+pids"); /* as it was written: nobody answers here */
    cgroup_base_free(&base);
}

static void a_delegated_group_is_left_for_a_leaf_and_without_controllers(void **state)
{
    struct tree *tree = *state;
    struct cgroup_base base;
    delegate(tree, "v2/system/hawserd");
    add_controllers(tree, "v2/system/hawserd", "cpu io memory pids\n");
    cgroup_find(NULL, &tree->host, &base);
    assert_string_equal(base.folder, in(tree, "v2/system/hawserd"));
    assert_true(is_there(tree, "v2/system/hawserd/daemon"));
    assert_string_equal(content(tree, "v2/system/hawserd/cgroup.subtree_control"), "");
    cgroup_base_free(&base);
}

static void beside_its_own_subgroup_controllers_are_enabled(void **state)
{
    struct tree *tree = *state;
    struct cgroup_base base;
    delegate(tree, "v2/system/hawserd");
    make(tree, "v2/system/hawserd/daemon");
    put(tree, "own", "0::/system/hawserd/daemon\n");
    add_controllers(tree, "v2/system/hawserd", "memory\n");
    cgroup_find(NULL, &tree->host, &base);
    assert_string_equal(base.folder, in(tree, "v2/system/hawserd"));
    assert_string_equal(base.controllers, "+memory");
    assert_false(is_there(tree, "v2/system/hawserd/daemon/daemon"));
    cgroup_base_free(&base);
}

static void a_group_called_daemon_of_somebody_else_is_nothing(void **state)
{
    struct tree *tree = *state;
    struct cgroup_base base;
    make(tree, "v2/system/hawserd/daemon");
    put(tree, "own", "0::/system/hawserd/daemon\n");
    cgroup_find(NULL, &tree->host, &base);
    assert_string_equal(base.folder, in(tree, "v2/hawser"));
    cgroup_base_free(&base);
}

/* In a container the mount shows a part of the tree, or this process is outside of it. */
static void groups_that_cannot_be_seen_are_not_ours(void **state)
{
    static const char *const owns[] = {"0::/\n", "0::/../other\n", "1:cpu:/x\n", "", "0::"};
    struct tree *tree = *state;
    for (unsigned i = 0; i < ARRAY_LEN(owns); i++) {
        struct cgroup_base base;
        put(tree, "own", owns[i]);
        cgroup_find(NULL, &tree->host, &base);
        assert_string_equal(base.folder, in(tree, "v2/hawser"));
        cgroup_base_free(&base);
    }
}

static void a_folder_that_is_named_is_taken_and_made(void **state)
{
    struct tree *tree = *state;
    struct cgroup_base base;
    cgroup_find(in(tree, "v2/other"), &tree->host, &base);
    assert_string_equal(base.folder, in(tree, "v2/other"));
    assert_false(is_there(tree, "v2/hawser"));
    cgroup_base_free(&base);
}

static void what_cannot_be_had_has_a_reason(void **state)
{
    struct tree *tree = *state;
    const struct cgroup_host real = {tree->mounts, tree->own, .pretend = false};
    const struct cgroup_host none = {in(tree, "own"), tree->own, .pretend = true};
    struct {
        const char *setting;
        const struct cgroup_host *host;
        const char *reason;
    } cases[] = {
        {"none", &tree->host, "switched off"},
        {"relative", &tree->host, "no absolute path"},
        {NULL, &none, "no cgroup2 file system"},
        {in(tree, "v2/other"), &real, "in no cgroup2"},
        {in(tree, "v2/a/b"), &tree->host, "cannot make the group"},
    };
    for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
        struct cgroup_base base;
        cgroup_find(cases[i].setting, cases[i].host, &base);
        assert_null(base.folder);
        assert_non_null(strstr(base.reason, cases[i].reason));
        cgroup_base_free(&base);
    }
    assert_false(is_there(tree, "v2/other"));
}

static void a_group_is_entered_with_a_bound(void **state)
{
    struct tree *tree = *state;
    make(tree, "v2/engine-1");
    put(tree, "v2/engine-1/cgroup.procs", "");
    put(tree, "v2/engine-1/pids.max", "max\n");
    assert_int_equal(cgroup_enter(in(tree, "v2/engine-1"), NULL), 0);
    assert_string_equal(content(tree, "v2/engine-1/cgroup.procs"), "0");
    assert_string_equal(content(tree, "v2/engine-1/pids.max"), "4096");
    struct hws_error err = {0};
    assert_int_equal(cgroup_enter(in(tree, "v2/engine-2"), &err), -ENOENT); /* no such files */
    assert_non_null(strstr(err.text, "engine-2"));
}

static void usage_has_what_the_group_has(void **state)
{
    struct tree *tree = *state;
    struct cgroup_usage usage;
    make(tree, "v2/engine-1");
    assert_int_equal(cgroup_usage(in(tree, "v2/engine-1"), &usage, NULL), -ENOENT);
    put(tree, "v2/engine-1/cpu.stat", "user_usec 1\n");
    assert_int_equal(cgroup_usage(in(tree, "v2/engine-1"), &usage, NULL), -EIO);
    put(tree, "v2/engine-1/cpu.stat", "usage_usec 1234567\nuser_usec 1\n");
    assert_int_equal(cgroup_usage(in(tree, "v2/engine-1"), &usage, NULL), 0);
    assert_int_equal(usage.cpu_us, 1234567);
    assert_false(usage.has_memory);
    put(tree, "v2/engine-1/memory.current", "8192\n");
    assert_int_equal(cgroup_usage(in(tree, "v2/engine-1"), &usage, NULL), 0);
    assert_true(usage.has_memory);
    assert_int_equal(usage.memory_bytes, 8192);
    put(tree, "v2/engine-1/cgroup.procs", "12\n123\n");
    assert_true(cgroup_has(in(tree, "v2/engine-1"), 123));
    assert_false(cgroup_has(in(tree, "v2/engine-1"), 23));
    assert_false(cgroup_has(in(tree, "v2/engine-2"), 12));
}

static void empty_groups_of_engines_alone_are_removed(void **state)
{
    struct tree *tree = *state;
    make(tree, "v2/engine-1");
    make(tree, "v2/engine-2");
    put(tree, "v2/engine-2/cgroup.procs", "12\n"); /* a folder with files is not removed either */
    make(tree, "v2/daemon");
    assert_int_equal(cgroup_clean(in(tree, "v2")), 1);
    assert_false(is_there(tree, "v2/engine-1"));
    assert_true(is_there(tree, "v2/engine-2"));
    assert_true(is_there(tree, "v2/daemon"));
    assert_int_equal(cgroup_clean(in(tree, "v3")), 0);
    assert_int_equal(cgroup_remove(in(tree, "v2/engine-1"), false, NULL), 0);
    assert_int_equal(cgroup_remove(in(tree, "v2/engine-2"), false, NULL), -ENOTEMPTY);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(without_delegation_there_is_a_group_at_the_root),
        TEST(controllers_that_are_there_are_enabled),
        TEST(a_delegated_group_is_left_for_a_leaf_and_without_controllers),
        TEST(beside_its_own_subgroup_controllers_are_enabled),
        TEST(a_group_called_daemon_of_somebody_else_is_nothing),
        TEST(groups_that_cannot_be_seen_are_not_ours),
        TEST(a_folder_that_is_named_is_taken_and_made),
        TEST(what_cannot_be_had_has_a_reason),
        TEST(a_group_is_entered_with_a_bound),
        TEST(usage_has_what_the_group_has),
        TEST(empty_groups_of_engines_alone_are_removed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
