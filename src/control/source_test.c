/*
 * Where volumes come from, and what they are made as: options of classes and volumes, and what of
 * them is refused.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "control/policy.h"
#include "control/test_world.h"

#include <sys/wait.h>

/* ---- options ---- */

static int class_create(struct control *control, const char *text)
{
    json_t *body = request(text);
    int r = CALL(control_class_create, control, body);
    json_decref(body);
    return r;
}

static const char *text_of(const json_t *object, const char *name)
{
    const char *text = json_string_value(json_object_get(object, name));
    return text ? text : "";
}

static json_t *show(struct control *control, const char *volume)
{
    json_t *shown = NULL;
    must(control_volume_show(control, volume, &shown, &error));
    return shown;
}

static void options_that_could_do_harm_are_refused(void **state)
{
    static const struct {
        const char *fs, *option;
        bool mount, good;
    } cases[] = {
        {"ext4", "-i 16384", false, true},
        {"ext4", "-E stride=16,nodiscard", false, true},
        {"ext4", "-O ^has_journal,inline_data", false, true},
        {"ext4", "-d /etc", false, false},
        {"ext4", "-E root_owner=1000:1000", false, false},
        {"ext4", "-E stride=16,root_owner", false, false},
        {"ext4", "-E stride=16,", false, false},
        {"ext4", "-J device=/dev/sda", false, false},
        {"ext4", "-L /etc", false, false},
        {"ext4", "-L a b", false, false},
        {"ext4", "-L -d", false, false},
        {"ext4", "-i", false, false},
        {"ext4", "-i ", false, false},
        {"ext4", "-j yes", false, false},
        {"ext4", "-j", false, true},
        {"ext4", "", false, false},
        {"ext4", " ", false, false},
        {"ext4", "/dev/sda", false, false},
        {"ext4", "-z undo", false, false},
        {"ext4", "-b size=4096", false, true}, /* mkfs says what it thinks of it */
        {"xfs", "-m reflink=0", false, true},
        {"xfs", "-d file=1,name=x", false, false},
        {"xfs", "-p proto", false, false},
        {"xfs", "-l logdev=x", false, false},
        {"xfs", "-c options=x", false, false},
        {"btrfs", "-n 16k", false, true},
        {"btrfs", "-d raid0", false, false},
        {"btrfs", "--rootdir x", false, false},
        {"none", "-i 1", false, false},
        {"ext4", "noatime", true, true},
        {"ext4", "commit=30", true, true},
        {"ext4", "errors=remount-ro", true, true},
        {"ext4", "errors=panic", true, false},
        {"ext4", "nobarrier", true, false},
        {"ext4", "journal_path=/x", true, false},
        {"ext4", "noatime,suid", true, false},
        {"ext4", "commit=30,suid", true, false},
        {"ext4", "suid", true, false},
        {"ext4", "dev", true, false},
        {"ext4", "loop", true, false},
        {"ext4", "commit", true, false},
        {"ext4", "noatime=1", true, false},
        {"xfs", "logdev=/dev/sda", true, false},
        {"xfs", "allocsize=1m", true, true},
        {"btrfs", "device=/dev/sda", true, false},
        {"btrfs", "compress=zstd:3", true, true},
        {"btrfs", "subvol=x", true, false},
        {"other", "noatime", true, true},
        {"other", "commit=1", true, false},
        {"none", "noatime", true, false},
    };
    for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
        json_t *list = json_pack("[s]", cases[i].option);
        int r =
            (cases[i].mount ? policy_check_mount : policy_check_mkfs)(cases[i].fs, list, &error);
        if ((r == 0) != cases[i].good)
            fail_msg("%s, '%s': %d", cases[i].fs, cases[i].option, r);
        json_decref(list);
    }
}

static void a_volume_has_what_it_says_then_its_class_then_the_usual(void **state)
{
    clean();
    struct control *control = open_control(NULL);
    need_pool(control);
    must(class_create(
        control, "{\"name\": \"c\", \"fs\": \"xfs\", \"size\": \"400M\", \"trash-retention\": 60,"
                 " \"mkfs-options\": [\"-m reflink=0\"], \"mount-options\": [\"noatime\"],"
                 " \"preallocation\": \"metadata\", \"extended-l2\": \"off\"}"));
    assert_int_equal(class_create(control, "{\"name\": \"d\", \"mount-options\": [\"suid\"]}"),
                     -EINVAL);
    assert_int_equal(class_create(control, "{\"name\": \"d\", \"preallocation\": \"some\"}"),
                     -EINVAL);
    assert_int_equal(class_create(control, "{\"name\": \"d\", \"format\": \"raw\","
                                           " \"preallocation\": \"metadata\"}"),
                     -EINVAL);
    assert_int_equal(class_create(control, "{\"name\": \"d\", \"cluster-size\": 4096,"
                                           " \"extended-l2\": \"on\"}"),
                     -EINVAL);
    must(volume_create(control, "{\"name\": \"a\", \"class\": \"c\"}"));
    must(volume_create(control, "{\"name\": \"b\", \"class\": \"c\", \"fs\": \"ext4\","
                                " \"format\": \"raw\", \"trash-retention\": 5}"));
    must(volume_create(control,
                       "{\"name\": \"e\", \"class\": \"c\", \"mount-options\": [\"sync\"]}"));
    json_t *a = show(control, "a"), *b = show(control, "b"), *e = show(control, "e");
    assert_string_equal(text_of(a, "preallocation"), "metadata");
    assert_string_equal(text_of(a, "extended-l2"), "off");
    assert_int_equal(json_integer_value(json_object_get(a, "trash-retention")), 60);
    assert_int_equal(json_array_size(json_object_get(a, "mkfs-options")), 1);
    /* Another file system and format have none of the class's. */
    assert_string_equal(text_of(b, "preallocation"), "");
    assert_int_equal(json_array_size(json_object_get(b, "mkfs-options")), 0);
    assert_int_equal(json_array_size(json_object_get(b, "mount-options")), 0);
    assert_int_equal(json_integer_value(json_object_get(b, "trash-retention")), 5);
    assert_string_equal(json_string_value(json_array_get(json_object_get(e, "mount-options"), 0)),
                        "sync");
    json_decref(a);
    json_decref(b);
    json_decref(e);
    must(volume_create(control, "{\"name\": \"f\", \"clone\": \"e\"}"));
    json_t *f = show(control, "f");
    assert_string_equal(json_string_value(json_array_get(json_object_get(f, "mount-options"), 0)),
                        "sync");
    json_decref(f);
    assert_int_equal(volume_create(control, "{\"name\": \"g\", \"clone\": \"e\","
                                            " \"mkfs-options\": [\"-K\"]}"),
                     -EINVAL);
    must(with(control_volume_change, control, "f",
              "{\"mount-options\": [], \"trash-retention\": 7}"));
    assert_int_equal(with(control_volume_change, control, "f", "{\"mount-options\": [\"dev\"]}"),
                     -EINVAL);
    f = show(control, "f");
    assert_int_equal(json_array_size(json_object_get(f, "mount-options")), 0);
    assert_int_equal(json_integer_value(json_object_get(f, "trash-retention")), 7);
    json_decref(f);
    check_all(control);
    control_close(control);
}

static int pool_change(struct control *control, const char *text)
{
    return with(control_pool_change, control, "pool", text);
}

static void pools_and_classes_change_as_told(void **state)
{
    clean();
    struct control *control = open_control(NULL);
    need_image(control);
    json_t *body = json_pack("{s:s, s:s}", "name", "i", "image", in_top("roots/image"));
    must(CALL(control_volume_create, control, body));
    json_decref(body);
    must(pool_change(control, "{\"quota\": \"1M\", \"labels\": {\"a\": \"b\"}, \"name\": \"p\"}"));
    must(with(control_pool_change, control, "p", "{\"name\": \"pool\"}"));
    assert_int_equal(volume_create(control, "{\"name\": \"v\", \"size\": \"2M\"}"), -ENOSPC);
    must(pool_change(control, "{\"quota\": 0}"));
    must(volume_create(control, "{\"name\": \"v\", \"size\": \"2M\"}"));
    must(pool_change(control, "{\"quota\": 1, \"overcommit-percent\": 5}")); /* not for what is */
    assert_int_equal(with(control_volume_resize, control, "v", "{\"size\": \"3M\"}"), -ENOSPC);
    assert_int_equal(pool_change(control, "{\"image-roots\": []}"), -EBUSY);
    assert_int_equal(pool_change(control, "{\"image-roots\": [\"none\"]}"), -EINVAL);
    assert_int_equal(pool_change(control, "{\"path\": \"/\"}"), -EINVAL);
    assert_int_equal(pool_change(control, "{\"name\": \"-\"}"), -EINVAL);
    assert_int_equal(with(control_pool_change, control, "none", "{}"), -ENOENT);
    json_t *pool = NULL;
    must(control_pool_show(control, "pool", &pool, &error));
    assert_int_equal(json_integer_value(json_object_get(pool, "quota")), 1);
    assert_int_equal(json_object_size(json_object_get(pool, "labels")), 1);
    assert_int_equal(json_array_size(json_object_get(pool, "image-roots")), 1);
    json_decref(pool);

    must(class_create(control, "{\"name\": \"c\", \"fs\": \"xfs\", \"size\": \"400M\"}"));
    must(class_create(control, "{\"name\": \"d\"}"));
    must(with(control_class_change, control, "c", "{\"mkfs-options\": [\"-K\"]}"));
    assert_int_equal(with(control_class_change, control, "c", "{\"fs\": \"ext4\"}"), -EINVAL);
    must(with(control_class_change, control, "c", "{\"fs\": \"ext4\", \"mkfs-options\": []}"));
    assert_int_equal(with(control_class_change, control, "c", "{\"name\": \"d\"}"), -EEXIST);
    assert_int_equal(with(control_class_change, control, "c", "{\"limits\": {}}"), -ENOTSUP);
    check_all(control);
    control_close(control);
}

static int run_pool_change(struct control *control)
{
    return pool_change(control, "{\"quota\": \"1G\", \"labels\": {\"a\": \"b\"}}");
}

static void need_class(struct control *control)
{
    must(class_create(control, "{\"name\": \"c\", \"cluster-size\": 65536}"));
}

static int run_class_change(struct control *control)
{
    return with(control_class_change, control, "c", "{\"cluster-size\": 4096}");
}

static int run_volume_change(struct control *control)
{
    return with(control_volume_change, control, "v", "{\"mount-options\": [\"noatime\"]}");
}

static void changes_survive_a_kill_at_every_point(void **state)
{
    static const struct scenario scenarios[] = {
        {"pool change", need_pool, run_pool_change, 0},
        {"class change", need_class, run_class_change, 0},
        {"volume change", need_volume, run_volume_change, 0},
    };
    for (unsigned i = 0; i < ARRAY_LEN(scenarios); i++)
        world_kill_operations(&scenarios[i], 1);
}

/* What a class says of new images is not for one that is there. */
static void an_image_in_place_takes_nothing_of_the_default_class(void **state)
{
    clean();
    struct control *control = open_control(NULL);
    need_image(control);
    must(class_create(control, "{\"name\": \"default\", \"cluster-size\": 65536, \"fs\": \"xfs\","
                               " \"preallocation\": \"metadata\", \"mount-options\": [\"sync\"]}"));
    json_t *body = json_pack("{s:s, s:s}", "name", "i", "image", in_top("roots/image"));
    must(CALL(control_volume_create, control, body));
    json_object_set_new(body, "name", json_string("j"));
    json_object_set_new(body, "lazy-refcounts", json_string("on"));
    assert_int_equal(CALL(control_volume_create, control, body), -EINVAL);
    json_decref(body);
    json_t *volume = show(control, "i");
    assert_string_equal(text_of(volume, "preallocation"), "");
    assert_string_equal(text_of(volume, "fs"), "");
    assert_int_equal(json_integer_value(json_object_get(volume, "cluster-size")), 0);
    json_decref(volume);
    check_all(control);
    control_close(control);
}

/* As written by a program that knew none of the newer fields. */
static void old_records_read_as_the_default(void **state)
{
    struct class class;
    json_t *old = request("{\"id\": \"x\", \"name\": \"n\", \"created\": 1, \"generation\": 1}");
    must(object_parse(&class_type, old, &class, &error));
    assert_null(class.making.preallocation);
    assert_int_equal(class.making.trash_retention_s, 0);
    assert_int_equal(json_array_size(class.making.mkfs_options), 0);
    must(policy_check_making(&class.making, class.format, 0, class.fs, &error));
    record_free(class_type.fields, &class);
    json_decref(old);
}

/* ---- imports ---- */

static int run_import_request(struct control *control, const char *more)
{
    json_t *body = request(more);
    json_object_set_new(body, "name", json_string("v"));
    json_object_set_new(body, "image", json_string(in_top("roots/image")));
    json_object_set_new(body, "import", json_true());
    int r = CALL(control_volume_create, control, body);
    json_decref(body);
    return r;
}

/* @return how many were put off. */
static size_t import_all(struct control *control)
{
    json_t *put_off = json_object();
    while (import_one(control, NULL, put_off, &error) > 0)
        ;
    size_t left = json_object_size(put_off);
    json_decref(put_off);
    return left;
}

static int run_import(struct control *control)
{
    int r = run_import_request(control, "{}");
    return r == 0 ? (int)import_all(control) : r;
}

static unsigned passed, last;

static void die_at(void *arg, const char *where)
{
    if (++passed == last)
        _exit(42);
}

/* @return whether it died at that point of @run, after the catalog was opened. */
static bool dies_in(int (*run)(struct control *control), unsigned at)
{
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        last = 0;
        struct control *control = open_control(die_at);
        passed = 0;
        last = at;
        _exit(run(control) == 0 ? 0 : 1);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status) && (WEXITSTATUS(status) == 42 || WEXITSTATUS(status) == 0));
    return WEXITSTATUS(status) == 42;
}

static json_t *only_job(struct control *control)
{
    json_t *list = NULL;
    must(control_job_list(control, &list, &error));
    json_t *job = json_incref(json_array_get(json_object_get(list, "items"), 0));
    json_decref(list);
    return job;
}

static const char *last_state(struct control *control)
{
    static char state[32];
    const struct control_page page = {.limit = 1000};
    json_t *list = NULL;
    must(control_job_history(control, &page, &list, &error));
    const json_t *items = json_object_get(list, "items");
    snprintf(state, sizeof(state), "%s",
             text_of(json_array_get(items, json_array_size(items) - 1), "state"));
    json_decref(list);
    return state;
}

static void an_import_goes_on_after_a_kill_at_any_point(void **state)
{
    unsigned at = 1;
    for (bool killed = true; killed; at++) {
        assert_true(at < 100);
        clean();
        struct control *control = open_control(NULL);
        need_image(control);
        control_close(control);
        killed = dies_in(run_import, at);
        control = open_control(NULL);
        assert_int_equal(import_all(control), 0);
        check_all(control);
        int r = run_import_request(control, "{}");
        assert_true(r == 0 || r == -EEXIST);
        assert_int_equal(import_all(control), 0);
        check_all(control);
        json_t *volume = show(control, "v");
        assert_string_equal(text_of(volume, "state"), "available");
        json_decref(volume);
        must(control_volume_delete(control, "v", &error));
        check_all(control);
        control_close(control);
    }
    assert_true(at > 8);
}

static int run_cancel(struct control *control)
{
    json_t *job = only_job(control);
    int r = CALL(control_job_cancel, control, text_of(job, "id"));
    json_decref(job);
    return r == 0 ? (int)import_all(control) : r;
}

static void a_cancelled_import_is_gone_after_a_kill_at_any_point(void **state)
{
    unsigned at = 1;
    for (bool killed = true; killed; at++) {
        clean();
        struct control *control = open_control(NULL);
        need_image(control);
        must(run_import_request(control, "{}"));
        control_close(control);
        killed = dies_in(run_cancel, at);
        control = open_control(NULL);
        json_t *job = only_job(control);
        if (job && at == 1) /* before it was written down */
            must(run_cancel(control));
        json_decref(job);
        assert_int_equal(import_all(control), 0);
        check_all(control);
        json_t *volume = NULL;
        assert_int_equal(control_volume_show(control, "v", &volume, &error), -ENOENT);
        assert_string_equal(last_state(control), "cancelled");
        control_close(control);
    }
    assert_true(at > 4);
}

static bool stop_now(void *arg, const char *volume, uint64_t done_bytes, uint64_t total_bytes)
{
    return ++*(unsigned *)arg > 0;
}

static void an_import_that_fails_leaves_nothing_but_its_reason(void **state)
{
    clean();
    struct control *control = open_control(NULL);
    need_image(control);
    assert_int_equal(run_import_request(control, "{\"size\": 4096}"), -EINVAL);
    assert_int_equal(run_import_request(control, "{\"format\": \"vmdk\"}"), -EINVAL);
    assert_int_equal(run_import_request(control, "{\"mkfs-options\": [\"-j\"]}"), -EINVAL);
    assert_int_equal(run_import_request(control, "{\"clone\": \"x\"}"), -EINVAL);
    assert_int_equal(volume_create(control, "{\"name\": \"v\", \"import\": true}"), -EINVAL);
    assert_int_equal(volume_create(control, "{\"name\": \"v\", \"image-format\": \"raw\"}"),
                     -EINVAL);
    fake_engines_fail("copy", ENOSPC);
    must(run_import(control));
    check_all(control);
    const struct control_page page = {0};
    json_t *list = NULL, *volume = NULL;
    must(control_job_history(control, &page, &list, &error));
    const json_t *job = json_array_get(json_object_get(list, "items"), 0);
    assert_string_equal(text_of(job, "state"), "failed");
    assert_string_equal(text_of(job, "operation"), "volume-import");
    assert_string_equal(text_of(job, "error"), "copy was told to fail");
    json_decref(list);
    assert_int_equal(control_volume_show(control, "v", &volume, &error), -ENOENT);
    /* Its image is gone before it begins. */
    must(run_import_request(control, "{}"));
    assert_int_equal(unlink(in_top("roots/image")), 0);
    assert_int_equal(import_all(control), 0);
    assert_string_equal(last_state(control), "failed");
    check_all(control);
    control_close(control);
}

static void an_import_waits_for_its_pool_and_for_the_next_start(void **state)
{
    clean();
    struct control *control = open_control(NULL);
    need_image(control);
    must(run_import_request(control, "{\"size\": \"1M\", \"fs\": \"ext4\"}"));
    /* Meanwhile it is nobody's, and the pool stays. */
    assert_int_equal(with(control_volume_attach, control, "v", "{}"), -EBUSY);
    assert_int_equal(control_volume_delete(control, "v", &error), -EBUSY);
    assert_int_equal(control_pool_delete(control, "pool", &error), -EBUSY);
    json_t *volume = show(control, "v"), *job = only_job(control);
    assert_string_equal(text_of(volume, "state"), "creating");
    assert_string_equal(text_of(volume, "job"), text_of(job, "id"));
    assert_string_equal(text_of(job, "state"), "waiting");
    json_decref(volume);
    /* hawserd ends in the middle. */
    unsigned asked = 0;
    const struct merge_watch ending = {.progress = stop_now, .arg = &asked};
    json_t *put_off = json_object();
    assert_int_equal(import_one(control, &ending, put_off, &error), 1);
    assert_int_equal(json_object_size(put_off), 1);
    json_decref(put_off);
    assert_true(asked > 0);
    /* Its pool goes away, and comes back. */
    assert_int_equal(rename(in_top("pool"), in_top("away")), 0);
    assert_int_equal(import_all(control), 1);
    assert_int_equal(rename(in_top("away"), in_top("pool")), 0);
    control_close(control);
    control = open_control(NULL);
    assert_int_equal(import_all(control), 0);
    check_all(control);
    volume = show(control, "v");
    assert_string_equal(text_of(volume, "state"), "available");
    assert_true(json_is_true(json_object_get(volume, "grow")));
    assert_int_equal(json_integer_value(json_object_get(volume, "size")), 1048576);
    assert_int_equal(CALL(control_job_cancel, control, text_of(job, "id")), -EINVAL);
    json_decref(volume);
    json_decref(job);
    control_close(control);
}

static void threads_import_what_is_asked(void **state)
{
    clean();
    struct control *control = open_background(NULL);
    need_image(control);
    must(run_import_request(control, "{}"));
    for (unsigned i = 0; i < 1000; i++) {
        json_t *volume = show(control, "v");
        bool there = !strcmp(text_of(volume, "state"), "available");
        json_decref(volume);
        if (there)
            break;
        assert_true(i < 999);
        usleep(10000);
    }
    check_all(control);
    control_close(control);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_volume_has_what_it_says_then_its_class_then_the_usual),
        cmocka_unit_test(pools_and_classes_change_as_told),
        cmocka_unit_test(changes_survive_a_kill_at_every_point),
        cmocka_unit_test(an_image_in_place_takes_nothing_of_the_default_class),
        cmocka_unit_test(old_records_read_as_the_default),
        cmocka_unit_test(an_import_goes_on_after_a_kill_at_any_point),
        cmocka_unit_test(a_cancelled_import_is_gone_after_a_kill_at_any_point),
        cmocka_unit_test(an_import_that_fails_leaves_nothing_but_its_reason),
        cmocka_unit_test(an_import_waits_for_its_pool_and_for_the_next_start),
        cmocka_unit_test(threads_import_what_is_asked),
        cmocka_unit_test(options_that_could_do_harm_are_refused),
    };
    return cmocka_run_group_tests_name("control-source", tests, world_make, world_remove);
}
