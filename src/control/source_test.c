/*
 * Where volumes come from, and what they are made as: options of classes and volumes, and what of
 * them is refused.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "control/policy.h"
#include "control/test_world.h"

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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_volume_has_what_it_says_then_its_class_then_the_usual),
        cmocka_unit_test(pools_and_classes_change_as_told),
        cmocka_unit_test(old_records_read_as_the_default),
        cmocka_unit_test(options_that_could_do_harm_are_refused),
    };
    return cmocka_run_group_tests_name("control-source", tests, world_make, world_remove);
}
