/*
 * The control plane with engines that pretend: every operation is killed at every point where a
 * crash makes a difference, opened again, and compared: catalog, files and attachments. And what
 * requests are refused.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "control/test_world.h"
#include <stdatomic.h>
#include <sys/stat.h>

/* ---- operations ---- */

static int run_volume_create(struct control *control)
{
    return volume_create(control, "{\"name\": \"v\", \"size\": 1048576}");
}

static int run_volume_delete(struct control *control)
{
    return control_volume_delete(control, "v", &error);
}

static int run_clone(struct control *control)
{
    return volume_create(control, "{\"name\": \"w\", \"clone\": \"v@s\"}");
}

static int run_clone_now(struct control *control)
{
    return volume_create(control, "{\"name\": \"w\", \"clone\": \"v\"}");
}

static int run_in_place(struct control *control)
{
    json_t *body = json_pack("{s:s, s:s}", "name", "v", "image", in_top("roots/image"));
    int r = CALL(control_volume_create, control, body);
    json_decref(body);
    return r;
}

static int run_resize(struct control *control)
{
    return with(control_volume_resize, control, "v", "{\"size\": 2097152}");
}

static int run_attach(struct control *control)
{
    return with(control_volume_attach, control, "v", "{\"user\": \"a\"}");
}

static int run_detach(struct control *control)
{
    return detach(control, "v", "{\"user\": \"a\"}");
}

static int run_snapshot(struct control *control)
{
    return with(control_snapshot_create, control, "v", "{\"name\": \"s\"}");
}

static int run_snapshot_delete(struct control *control)
{
    return control_snapshot_delete(control, "v", "s", &error);
}

static int run_revert(struct control *control)
{
    return with(control_volume_revert, control, "v", "{\"snapshot\": \"s\"}");
}

/* All that can be merged; what could not be is an error. */
static int run_merge(struct control *control)
{
    json_t *put_off = json_object();
    int r;
    do {
        r = merge_one(control, NULL, put_off, &error);
    } while (r > 0);
    if (r == 0 && json_object_size(put_off))
        r = -EIO;
    json_decref(put_off);
    return r;
}

static int run_rename(struct control *control)
{
    return with(control_volume_change, control, "v", "{\"name\": \"u\"}");
}

static int run_pool_delete(struct control *control)
{
    return control_pool_delete(control, "pool", &error);
}

static const struct scenario scenarios[] = {
    {"pool create", need_nothing, pool_create, -EEXIST},
    {"pool delete", need_pool, run_pool_delete, -ENOENT},
    {"volume create", need_pool, run_volume_create, -EEXIST},
    {"volume of an image in place", need_image, run_in_place, -EEXIST},
    {"volume delete", need_volume, run_volume_delete, -ENOENT},
    {"clone of a snapshot", need_snapshot, run_clone, -EEXIST},
    {"clone of a volume", need_volume, run_clone_now, -EEXIST},
    {"clone of a volume in use", need_attached, run_clone_now, -EEXIST},
    {"resize", need_volume, run_resize, 0},
    {"resize in use", need_attached, run_resize, 0},
    {"attach", need_volume, run_attach, 0},
    {"detach", need_attached, run_detach, 0},
    {"detach of one of two", need_two_users, run_detach, -ESRCH},
    {"snapshot", need_volume, run_snapshot, -EEXIST},
    {"snapshot in use", need_attached, run_snapshot, -EEXIST},
    {"snapshot delete", need_two_snapshots, run_snapshot_delete, -ENOENT},
    {"revert", need_two_snapshots, run_revert, 0},
    {"merge into the top", need_middle_deleted, run_merge, 0},
    {"merge of the lowest", need_lowest_deleted, run_merge, 0},
    {"merge in use", need_deleted_in_use, run_merge, 0},
    {"rename", need_volume, run_rename, -ENOENT},
};

static void every_operation_survives_a_kill_at_every_point(void **state)
{
    world_kill_operations(scenarios, ARRAY_LEN(scenarios));
}

static void recovery_survives_a_kill_at_every_point(void **state)
{
    world_kill_recovery(scenarios, ARRAY_LEN(scenarios));
}

/* ---- failing steps ---- */

static void a_failing_step_leaves_nothing(void **state)
{
    static const struct failing_step cases[] = {
        {"create", need_pool, run_volume_create, -EIO},
        {"create", need_volume, run_snapshot, -EIO},
        {"create", need_snapshot, run_clone, -EIO},
        {"create", need_two_snapshots, run_revert, -EIO},
        {"attach", need_volume, run_attach, -EIO},
        {"detach", need_attached, run_detach, -EIO},
        {"snapshot", need_attached, run_snapshot, -EIO},
        {"snapshot-late", need_attached, run_snapshot, 0}, /* the engine has done it */
        {"sync", need_attached, run_snapshot, -EIO},
        {"resize", need_attached, run_resize, -EIO},
        {"resize_file", need_volume, run_resize, -EIO},
        {"grow", need_attached, run_resize, 0}, /* grown at the next mount */
        {"look", need_image, run_in_place, -EIO},
        {"merge", need_middle_deleted, run_merge, -EIO},
        {"merge", need_deleted_in_use, run_merge, -EIO},
        {"merge-late", need_deleted_in_use, run_merge, 0}, /* the engine has done it */
    };
    world_fail_steps(cases, ARRAY_LEN(cases));
}

/* A pool that is away: nothing is made in the empty folder, and what was begun is finished later.
 */
static void a_pool_that_is_away_is_not_touched(void **state)
{
    clean();
    struct control *control = open_control(NULL);
    need_snapshot(control);
    assert_int_equal(rename(in_top("pool"), in_top("away")), 0);
    assert_int_equal(mkdir(in_top("pool"), 0700), 0);
    assert_int_equal(volume_create(control, "{\"name\": \"x\"}"), -EIO);
    assert_int_equal(run_clone(control), -EIO);
    assert_int_equal(run_volume_delete(control), -EIO);
    assert_int_equal(run_attach(control), -EIO);
    assert_int_equal(with(control_snapshot_create, control, "v", "{\"name\": \"t\"}"), -EIO);
    assert_int_equal(rmdir(in_top("pool")), 0); /* still empty */
    assert_int_equal(rename(in_top("away"), in_top("pool")), 0);
    control_close(control);
    control = open_control(NULL);
    check_all(control);
    must(run_clone(control));
    check_all(control);
    control_close(control);
}

/* ---- what is refused ---- */

static void requests_are_checked(void **state)
{
    static const struct {
        const char *body;
        int result;
        const char *says;
    } cases[] = {
        {"{}", -EINVAL, "name is missing"},
        {"{\"name\": 5}", -EINVAL, "name must be a text"},
        {"{\"name\": \"\"}", -EINVAL, "no name"},
        {"{\"name\": \"../x\"}", -EINVAL, "no name"},
        {"{\"name\": \"a/b\"}", -EINVAL, "no name"},
        {"{\"name\": \".x\"}", -EINVAL, "no name"},
        {"{\"name\": \"a\\u0000b\"}", -EINVAL, "not"},
        {"{\"name\": \"\\u00e4\"}", -EINVAL, "no name"},
        {"{\"name\": \"0b2cb9e5-0000-4000-8000-000000000000\"}", -EINVAL, "looks like an id"},
        {"{\"name\": \"x\", \"sise\": 5}", -EINVAL, "no 'sise'"},
        {"{\"name\": \"x\", \"size\": -1}", -EINVAL, "size must be"},
        {"{\"name\": \"x\", \"size\": 1.5}", -EINVAL, "size must be"},
        {"{\"name\": \"x\", \"size\": \"1Q\"}", -EINVAL, "size"},
        {"{\"name\": \"x\", \"size\": 9223372036854775807}", -EINVAL, "the most is"},
        {"{\"name\": \"x\", \"size\": \"1k\", \"fs\": \"ext4\"}", -EINVAL, "least"},
        {"{\"name\": \"x\", \"format\": \"vmdk\"}", -EINVAL, "qcow2 or raw"},
        {"{\"name\": \"x\", \"fs\": \"ntfs\"}", -EINVAL, "it can be"},
        {"{\"name\": \"x\", \"cluster-size\": 1000}", -EINVAL, "power of two"},
        {"{\"name\": \"x\", \"format\": \"raw\", \"cluster-size\": 65536}", -EINVAL, "no clusters"},
        {"{\"name\": \"x\", \"labels\": {\"a\": 1}}", -EINVAL, "labels"},
        {"{\"name\": \"x\", \"labels\": []}", -EINVAL, "labels"},
        {"{\"name\": \"x\", \"protected\": \"yes\"}", -EINVAL, "true or false"},
        {"{\"name\": \"x\", \"pool\": \"none\"}", -ENOENT, "no pool"},
        {"{\"name\": \"x\", \"class\": \"none\"}", -ENOENT, "no class"},
        {"{\"name\": \"x\", \"clone\": \"none\"}", -ENOENT, "no volume"},
        {"{\"name\": \"x\", \"clone\": \"v@none\"}", -ENOENT, "no snapshot"},
        {"{\"name\": \"x\", \"clone\": \"v@\"}", -ENOENT, "no snapshot"},
        {"{\"name\": \"x\", \"image\": \"/etc/passwd\"}", -EPERM, "image roots"},
        {"{\"name\": \"x\", \"image\": \"etc\"}", -EINVAL, "absolute"},
        {"{\"name\": \"x\", \"image\": \"/\", \"clone\": \"v\"}", -EINVAL, "not both"},
        {"{\"name\": \"v\"}", -EEXIST, "already"},
        {"{\"name\": \"x\", \"encryption\": \"luks\"}", -ENOTSUP, "encryption"},
        {"{\"name\": \"x\", \"limits\": {\"iops\": 5}}", -ENOTSUP, "limits"},
        {"{\"name\": \"x\", \"compression\": true}", -ENOTSUP, "compression"},
        {"{\"name\": \"x\", \"replication\": 2}", -ENOTSUP, "replication"},
    };
    clean();
    struct control *control = open_control(NULL);
    need_volume(control);
    for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
        json_t *body = json_loads(cases[i].body, JSON_ALLOW_NUL, NULL);
        assert_non_null(body);
        int r = CALL(control_volume_create, control, body);
        json_decref(body);
        if (r != cases[i].result ||
            (strcmp(cases[i].says, "not") && !strstr(error.text, cases[i].says)))
            fail_msg("%s: %d, %s", cases[i].body, r, error.text);
    }
    assert_int_equal(with(control_volume_resize, control, "v", "{\"size\": 512}"), -EINVAL);
    assert_int_equal(with(control_volume_change, control, "v", "{\"name\": \"/\"}"), -EINVAL);
    assert_int_equal(with(control_volume_attach, control, "v", "{\"mode\": \"x\"}"), -EINVAL);
    assert_int_equal(with(control_volume_attach, control, "v", "{\"user\": \"\"}"), -EINVAL);
    check_all(control);
    control_close(control);
}

static void limits_of_pools_hold(void **state)
{
    clean();
    struct control *control = open_control(NULL);
    json_t *body = json_pack("{s:s, s:s, s:I, s:I, s:i}", "name", "p", "path", in_top("pool"),
                             "quota", (json_int_t)10 * 1048576, "capacity", (json_int_t)8 * 1048576,
                             "overcommit-percent", 150);
    must(CALL(control_pool_create, control, body));
    json_object_set_new(body, "name", json_string("q"));
    assert_int_equal(CALL(control_pool_create, control, body), -EEXIST); /* the same folder */
    json_decref(body);
    must(volume_create(control, "{\"name\": \"a\", \"size\": \"6M\"}"));
    assert_int_equal(volume_create(control, "{\"name\": \"b\", \"size\": \"5M\"}"), -ENOSPC);
    must(volume_create(control, "{\"name\": \"b\", \"size\": \"4M\"}"));
    assert_int_equal(with(control_volume_resize, control, "b", "{\"size\": \"5M\"}"), -ENOSPC);
    must(control_volume_delete(control, "a", &error));
    must(with(control_volume_resize, control, "b", "{\"size\": \"5M\"}"));
    assert_int_equal(control_pool_delete(control, "p", &error), -EBUSY);
    check_all(control);
    control_close(control);
}

static void what_is_in_use_is_kept(void **state)
{
    clean();
    struct control *control = open_control(NULL);
    need_two_users(control);
    must(with(control_snapshot_create, control, "v", "{\"name\": \"s\"}"));
    assert_int_equal(run_volume_delete(control), -EBUSY);
    assert_int_equal(run_revert(control), -EBUSY);
    assert_int_equal(
        with(control_volume_attach, control, "v", "{\"user\": \"c\", \"read-only\": true}"),
        -EBUSY);
    assert_int_equal(detach(control, "v", "{\"user\": \"x\"}"), -ESRCH);
    must(detach(control, "v", "{\"user\": \"a\"}"));
    fake_engines_fail("detach", EBUSY);
    assert_int_equal(detach(control, "v", "{\"user\": \"b\"}"), -EBUSY);
    check_all(control);
    must(detach(control, "v", "{\"force\": true}"));
    must(detach(control, "v", "{\"user\": \"b\"}"));      /* again */
    assert_int_equal(run_volume_delete(control), -EBUSY); /* its snapshot */
    must(run_clone(control));
    must(run_snapshot_delete(control)); /* the clone keeps the layer */
    check_all(control);
    must(with(control_volume_change, control, "v", "{\"protected\": true}"));
    assert_int_equal(run_volume_delete(control), -EPERM);
    must(with(control_volume_change, control, "v", "{\"protected\": false}"));
    must(run_volume_delete(control));
    check_all(control);
    must(control_volume_delete(control, "w", &error));
    check_all(control);
    must(run_pool_delete(control));
    control_close(control);
}

/* Of another boot nothing is left; an engine that somebody stopped by hand is told no longer. */
static void attachments_that_are_gone_are_forgotten(void **state)
{
    clean();
    struct control *control = open_control(NULL);
    auto_attachment attachment = {0};
    auto_volume volume = {0};
    auto_batch batch = {0};
    need_attached(control);
    must(object_find(control, &volume_type, "v", &volume, &error));
    must(object_get(control, &attachment_type, volume.id, &attachment, &error));
    control_close(control);
    control = open_control(NULL);
    assert_true(is_attached(control, volume.id)); /* a restart keeps it */
    must(engines_fake.detach(volume.id, true, &error));
    control_close(control);
    control = open_control(NULL);
    assert_false(is_attached(control, volume.id));
    must(run_attach(control));
    must(record_set_text(&attachment.boot, "0b2cb9e5-0000-4000-8000-000000000000"));
    batch_put(&batch, &attachment_type, &attachment);
    must(batch_commit(&batch, control, &error));
    control_close(control);
    control = open_control(NULL);
    assert_false(is_attached(control, volume.id));
    check_all(control);
    must(run_attach(control));
    control_close(control);
}

static bool stop_at_once(void *arg, const char *volume, uint64_t done_bytes, uint64_t total_bytes)
{
    *(unsigned *)arg += 1;
    return true;
}

static void only_layers_of_nobody_are_merged(void **state)
{
    clean();
    struct control *control = open_control(NULL);
    need_two_snapshots(control);
    must(run_merge(control));
    assert_int_equal(count_layers(control), 3); /* each has a name */
    must(volume_create(control, "{\"name\": \"w\", \"clone\": \"v@s\"}"));
    must(run_snapshot_delete(control));
    must(run_merge(control));
    assert_int_equal(count_layers(control), 4); /* two lie on it */
    must(control_volume_delete(control, "w", &error));
    must(run_merge(control));
    assert_int_equal(count_layers(control), 2);
    check_all(control);
    /* What another volume's snapshot lies on waits for that. */
    must(with(control_snapshot_create, control, "v", "{\"name\": \"u\"}"));
    must(volume_create(control, "{\"name\": \"w\", \"clone\": \"v@u\"}"));
    must(with(control_volume_revert, control, "v", "{\"snapshot\": \"t\"}"));
    must(control_snapshot_delete(control, "v", "t", &error));
    must(with(control_volume_resize, control, "v", "{\"size\": 2097152}"));
    must(run_merge(control));
    check_all(control);
    must(control_volume_delete(control, "w", &error));
    must(control_snapshot_delete(control, "v", "u", &error));
    must(run_merge(control));
    assert_int_equal(count_layers(control), 1);
    check_all(control);
    control_close(control);
}

static void a_merge_makes_way(void **state)
{
    unsigned asked = 0;
    const struct merge_watch watch = {.progress = stop_at_once, .arg = &asked};
    clean();
    struct control *control = open_control(NULL);
    need_deleted_in_use(control);
    json_t *put_off = json_object();
    assert_int_equal(merge_one(control, &watch, put_off, &error), 1);
    assert_int_equal(json_object_size(put_off), 1);
    assert_int_equal(merge_one(control, &watch, put_off, &error), 0);
    json_decref(put_off);
    assert_int_equal(asked, 1);
    assert_int_equal(count_layers(control), 3);
    check_all(control);
    must(run_detach(control));
    must(run_merge(control));
    assert_int_equal(count_layers(control), 2);
    check_all(control);
    control_close(control);
}

static bool stop_then(void *arg, const char *volume, uint64_t done_bytes, uint64_t total_bytes)
{
    return ++*(unsigned *)arg > 2;
}

/* Somebody wants the volume just when the engine has done it: it is completed, and not put off. */
static void a_merge_that_is_done_is_completed(void **state)
{
    unsigned asked = 0;
    const struct merge_watch watch = {.progress = stop_then, .arg = &asked};
    clean();
    struct control *control = open_control(NULL);
    need_deleted_in_use(control);
    auto_json *put_off = json_object();
    fake_engines_fail("merge-late", ECANCELED);
    assert_int_equal(merge_one(control, &watch, put_off, &error), 1);
    assert_int_equal(json_object_size(put_off), 0);
    assert_int_equal(count_layers(control), 2);
    check_all(control);
    control_close(control);
}

static atomic_bool reached, go_on;

static void hold_up(void *arg, const char *where)
{
    if (strcmp(where, "a merge begins") != 0)
        return;
    atomic_store(&reached, true);
    while (!atomic_load(&go_on))
        usleep(1000);
}

/* The only job that runs, or that has ended last; NULL where there is none. */
static json_t *job_of(struct control *control, bool ended)
{
    const struct control_page page = {0};
    auto_json *list = NULL;
    must(ended ? control_job_history(control, &page, &list, &error)
               : control_job_list(control, &list, &error));
    json_t *items = json_object_get(list, "items");
    size_t count = json_array_size(items);
    return count ? json_incref(json_array_get(items, count - 1)) : NULL;
}

static const char *text_of(const json_t *job, const char *member)
{
    return json_string_value(json_object_get(job, member));
}

static void jobs_are_told_cancelled_and_remembered(void **state)
{
    clean();
    struct control *control = open_control(NULL);
    need_middle_deleted(control);
    control_close(control);
    control = open_background(hold_up);
    for (unsigned i = 0; !atomic_load(&reached); i++) {
        assert_true(i < 20000);
        usleep(1000);
    }
    auto_json *job = job_of(control, false), *shown = NULL, *ended = NULL;
    assert_string_equal(text_of(job, "operation"), "merge");
    assert_string_equal(text_of(job, "state"), "running");
    must(CALL(control_job_cancel, control, text_of(job, "id")));
    atomic_store(&go_on, true);
    must(with(control_volume_attach, control, "v", "{\"user\": \"a\"}")); /* it makes way */
    must(control_job_show(control, text_of(job, "id"), &shown, &error));
    assert_string_equal(text_of(shown, "state"), "cancelled");
    assert_int_equal(CALL(control_job_cancel, control, text_of(job, "id")), -EINVAL);
    assert_int_equal(CALL(control_job_cancel, control, "none"), -ENOENT);
    assert_int_equal(count_layers(control), 3);
    check_all(control);
    control_close(control);
    control = open_background(NULL);
    for (unsigned i = 0; count_layers(control) > 2; i++) {
        assert_true(i < 20000);
        usleep(1000);
    }
    must(run_detach(control));
    ended = job_of(control, true);
    assert_string_equal(text_of(ended, "state"), "concluded");
    assert_int_equal(json_integer_value(json_object_get(ended, "total")), 2);
    check_all(control);
    control_close(control);
}

/* One more than are remembered: the oldest has gone. */
static void the_history_has_an_end(void **state)
{
    clean();
    struct control *control = open_control(NULL);
    struct op op = {.control = control, .type = &merge_operation, .result = json_object()};
    const struct control_page page = {.limit = CONTROL_PAGE_MAX};
    auto_json *list = NULL;
    op.params = json_pack("{s:i}", "started", 5);
    for (unsigned i = 0; i < JOBS_KEPT + 3; i++) {
        auto_batch batch = {0};
        id_make(op.id);
        must(job_note(&op, "concluded", &batch, &error));
        must(batch_commit(&batch, control, &error));
    }
    must(control_job_history(control, &page, &list, &error));
    assert_int_equal(json_array_size(json_object_get(list, "items")), JOBS_KEPT);
    assert_null(json_object_get(list, "next"));
    json_decref(op.params);
    json_decref(op.result);
    control_close(control);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_operation_survives_a_kill_at_every_point),
        cmocka_unit_test(recovery_survives_a_kill_at_every_point),
        cmocka_unit_test(a_failing_step_leaves_nothing),
        cmocka_unit_test(a_pool_that_is_away_is_not_touched),
        cmocka_unit_test(requests_are_checked),
        cmocka_unit_test(limits_of_pools_hold),
        cmocka_unit_test(what_is_in_use_is_kept),
        cmocka_unit_test(attachments_that_are_gone_are_forgotten),
        cmocka_unit_test(only_layers_of_nobody_are_merged),
        cmocka_unit_test(a_merge_makes_way),
        cmocka_unit_test(a_merge_that_is_done_is_completed),
        cmocka_unit_test(jobs_are_told_cancelled_and_remembered),
        cmocka_unit_test(the_history_has_an_end),
    };
    return cmocka_run_group_tests(tests, world_make, world_remove);
}
