/*
 * Exports with engines that pretend: killed at every point, with steps that fail, beside other
 * users of the same volume, and with engines that died.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "control/exports.h"
#include "control/test_world.h"
#include <pthread.h>

#define KEY "00112233445566778899aabbccddeeff"

/* ---- short calls ---- */

static int secret(struct control *control, const char *text)
{
    json_t *body = request(text);
    int r = CALL(control_secret_create, control, body);
    json_decref(body);
    return r;
}

static int export(struct control *control, const char *text)
{
    json_t *body = request(text);
    int r = CALL(control_export_create, control, body);
    json_decref(body);
    return r;
}

static int unexport(struct control *control, const char *name, bool force)
{
    error.code = 0;
    return control_export_delete(control, name, force, &error);
}

static const char plain[] =
    "{\"name\": \"e\", \"volume\": \"v\", \"listen\": \"unix:/run/e\", \"tls\": \"none\"}";
static const char second[] = "{\"name\": \"f\", \"volume\": \"v\", \"listen\": \"unix:/run/f\", "
                             "\"read-only\": true}";
static const char secured[] =
    "{\"name\": \"e\", \"volume\": \"v\", \"listen\": \"tcp::10809\", \"secret\": \"k\"}";
static const char of_snapshot[] =
    "{\"name\": \"e\", \"volume\": \"v@s\", \"listen\": \"unix:/run/e\"}";
static const char shared[] = "{\"name\": \"e\", \"volume\": \"v\", \"listen\": \"unix:/run/e\", "
                             "\"shared\": true}";

/* ---- states ---- */

static void need_secret(struct control *control)
{
    need_volume(control);
    must(secret(control, "{\"name\": \"k\", \"value\": \"" KEY "\"}"));
}

static void need_export(struct control *control)
{
    need_secret(control);
    must(export(control, secured));
}

static void need_two_exports(struct control *control)
{
    need_export(control);
    must(export(control, second));
}

static void need_attached_and_exported(struct control *control)
{
    need_attached(control);
    must(export(control, shared));
}

static void need_shared_export(struct control *control)
{
    need_volume(control);
    must(export(control, shared));
}

static void need_snapshot_export(struct control *control)
{
    need_snapshot(control);
    must(export(control, of_snapshot));
}

/* ---- operations ---- */

static int run_export(struct control *control)
{
    return export(control, plain);
}

static int run_export_secured(struct control *control)
{
    return export(control, secured);
}

static int run_export_second(struct control *control)
{
    return export(control, second);
}

static int run_export_shared(struct control *control)
{
    return export(control, shared);
}

static int run_export_snapshot(struct control *control)
{
    return export(control, of_snapshot);
}

static int run_unexport(struct control *control)
{
    return unexport(control, "e", false);
}

static int run_attach(struct control *control)
{
    return with(control_volume_attach, control, "v", "{\"user\": \"a\"}");
}

static int run_detach_by_force(struct control *control)
{
    return detach(control, "v", "{\"force\": true}");
}

static int run_snapshot(struct control *control)
{
    return with(control_snapshot_create, control, "v", "{\"name\": \"s\"}");
}

static int run_secret(struct control *control)
{
    return secret(control, "{\"name\": \"n\", \"value\": \"" KEY "\"}");
}

static int run_secret_change(struct control *control)
{
    return with(control_secret_change, control, "k", "{\"generate\": \"psk\"}");
}

static int run_secret_delete(struct control *control)
{
    error.code = 0;
    return control_secret_delete(control, "k", &error);
}

static int run_rotate(struct control *control)
{
    return CALL(control_secret_rotate, control);
}

static const struct scenario scenarios[] = {
    {"export", need_volume, run_export, -EEXIST},
    {"export with a key", need_secret, run_export_secured, -EEXIST},
    {"export a second time", need_export, run_export_second, -EEXIST},
    {"export what is attached", need_attached, run_export_shared, -EEXIST},
    {"export a snapshot", need_snapshot, run_export_snapshot, -EEXIST},
    {"unexport", need_export, run_unexport, -ENOENT},
    {"unexport one of two", need_two_exports, run_unexport, -ENOENT},
    {"unexport what is attached", need_attached_and_exported, run_unexport, -ENOENT},
    {"unexport a snapshot", need_snapshot_export, run_unexport, -ENOENT},
    {"attach what is exported", need_shared_export, run_attach, 0},
    {"detach what is exported", need_attached_and_exported, run_detach_by_force, 0},
    {"snapshot what is exported", need_export, run_snapshot, -EEXIST},
    {"keep a secret", need_pool, run_secret, -EEXIST},
    {"change a secret in use", need_export, run_secret_change, 0},
    {"forget a secret", need_secret, run_secret_delete, -ENOENT},
    {"rotate the master key", need_export, run_rotate, 0},
};

static void exports_survive_a_kill_at_every_point(void **state)
{
    world_kill_operations(scenarios, ARRAY_LEN(scenarios));
}

static void recovery_survives_a_kill_at_every_point(void **state)
{
    world_kill_recovery(scenarios, ARRAY_LEN(scenarios));
}

static void failing_steps_leave_nothing(void **state)
{
    static const struct failing_step cases[] = {
        {"attach", need_volume, run_export, -EIO},
        {"serve", need_volume, run_export, -EIO},
        {"serve-late", need_secret, run_export_secured, -EIO},
        {"serve", need_attached, run_export_shared, -EIO},
        {"serve-late", need_snapshot, run_export_snapshot, -EIO},
        {"unserve", need_export, run_unexport, -EIO},
        {"detach", need_export, run_unexport, -EIO},
        {"detach", need_snapshot_export, run_unexport, -EIO},
        {"attach", need_shared_export, run_attach, -EIO},
        /* Mended afterwards, by the thread that does it. */
        {"serve", need_export, run_secret_change, 0},
    };
    world_fail_steps(cases, ARRAY_LEN(cases));
}

/* ---- rules ---- */

static void one_writes_unless_it_is_said(void **state)
{
    clean();
    struct control *control = open_control(NULL);
    need_attached(control);
    assert_int_equal(export(control, plain), -EBUSY);
    must(export(control, shared));
    must(export(control, second));
    assert_int_equal(unexport(control, "e", false), 0);
    must(detach(control, "v", "{\"user\": \"a\"}"));
    must(unexport(control, "f", false));
    assert_false(is_attached(control, "v"));
    must(export(control, plain));
    assert_int_equal(run_attach(control), -EBUSY);
    assert_int_equal(export(control, "{\"name\": \"g\", \"volume\": \"v\", "
                                     "\"listen\": \"unix:/run/g\"}"),
                     -EBUSY);
    must(export(control, second));
    must(unexport(control, "e", false));
    must(run_attach(control)); /* the other cannot write */
    check_all(control);
    must(with(control_volume_attach, control, "v", "{\"user\": \"b\"}"));
    assert_int_equal(with(control_volume_attach, control, "v", "{\"user\": \"export:x\"}"),
                     -EINVAL);
    check_all(control);
    control_close(control);
}

static void what_is_exported_is_not_deleted(void **state)
{
    clean();
    struct control *control = open_control(NULL);
    need_two_snapshots(control);
    must(export(control, of_snapshot));
    assert_int_equal(control_snapshot_delete(control, "v", "s", &error), -EBUSY);
    assert_int_equal(control_volume_delete(control, "v", &error), -EBUSY);
    /* Nor merged: another engine has the chain open. */
    must(control_snapshot_delete(control, "v", "t", &error));
    unsigned layers = count_layers(control);
    json_t *put_off = json_object();
    assert_int_equal(merge_one(control, NULL, put_off, &error), 1);
    assert_int_equal(count_layers(control), layers);
    assert_int_equal(json_object_size(put_off), 1);
    json_object_clear(put_off);
    must(unexport(control, "e", false));
    assert_int_equal(merge_one(control, NULL, put_off, &error), 1);
    assert_int_equal(count_layers(control), layers - 1);
    json_decref(put_off);
    check_all(control);
    control_close(control);
}

static void a_dead_engine_is_started_again(void **state)
{
    clean();
    struct control *control = open_control(NULL);
    need_two_exports(control);
    auto_volume volume = {0};
    must(object_find(control, &volume_type, "v", &volume, &error));
    must(engines_fake.detach(volume.id, true, &error)); /* as a host that started again */
    check_all(control);
    char path[512];
    snprintf(path, sizeof(path), "run/%s", volume.id);
    FILE *file = fopen(in_top(path), "w"); /* dead, with its traces */
    assert_non_null(file);
    fclose(file);
    check_all(control);
    control_close(control);
    control = open_control(NULL);
    check_all(control);
    control_close(control);
}

static void what_cannot_be_is_refused(void **state)
{
    static const struct {
        const char *text;
        int result;
    } cases[] = {
        {"{\"name\": \"e\", \"volume\": \"v\", \"listen\": \"tcp::10809\"}", -EINVAL},
        {"{\"name\": \"e\", \"volume\": \"v\", \"listen\": \"tcp::0\"}", -EINVAL},
        {"{\"name\": \"e\", \"volume\": \"v\", \"listen\": \"tcp:10809\"}", -EINVAL},
        {"{\"name\": \"e\", \"volume\": \"v\", \"listen\": \"tcp:::99999\"}", -EINVAL},
        {"{\"name\": \"e\", \"volume\": \"v\", \"listen\": \"udp::1\"}", -EINVAL},
        {"{\"name\": \"e\", \"volume\": \"v\", \"listen\": \"unix:run\"}", -EINVAL},
        {"{\"name\": \"e\", \"volume\": \"v\", \"listen\": \"unix:/a\\nb\"}", -EINVAL},
        {"{\"name\": \"e\", \"volume\": \"v\", \"listen\": \"unix:/x\", \"tls\": \"psk\"}",
         -EINVAL},
        {"{\"name\": \"e\", \"volume\": \"v\", \"listen\": \"unix:/x\", \"secret\": \"none\"}",
         -ENOENT},
        {"{\"name\": \"e\", \"volume\": \"v\", \"listen\": \"unix:/x\", \"secret\": \"c\"}",
         -EINVAL},
        {"{\"name\": \"e\", \"volume\": \"v\", \"listen\": \"unix:/x\", \"secret\": \"k\", "
         "\"tls\": \"none\"}",
         -EINVAL},
        {"{\"name\": \"e\", \"volume\": \"v\", \"listen\": \"unix:/x\", \"secret\": \"k\", "
         "\"tls\": \"x509\"}",
         -EINVAL},
        {"{\"name\": \"e\", \"volume\": \"v\", \"listen\": \"unix:/x\", \"protocol\": \"iscsi\"}",
         -ENOTSUP},
        {"{\"name\": \"e\", \"volume\": \"w\", \"listen\": \"unix:/x\"}", -ENOENT},
        {"{\"name\": \"e\", \"volume\": \"v@s\", \"listen\": \"unix:/x\"}", -ENOENT},
        {"{\"name\": \"../e\", \"volume\": \"v\", \"listen\": \"unix:/x\"}", -EINVAL},
        {"{\"name\": \"e\", \"volume\": \"v\", \"listen\": \"unix:/x\", \"more\": 1}", -EINVAL},
        {"{\"name\": \"f\", \"volume\": \"v\", \"listen\": \"unix:/run/taken\", "
         "\"read-only\": true}",
         -EEXIST},
    };
    clean();
    struct control *control = open_control(NULL);
    need_secret(control);
    must(secret(control, "{\"name\": \"c\", \"generate\": \"chap\"}"));
    must(export(control, "{\"name\": \"t\", \"volume\": \"v\", \"read-only\": true, "
                         "\"listen\": \"unix:/run/taken\"}"));
    for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
        int r = export(control, cases[i].text);
        if (r != cases[i].result)
            fail_msg("%s: %d, %s", cases[i].text, r, error.text);
        assert_true(r == 0 || error.text[0]);
    }
    check_all(control);
    control_close(control);
}

/* Callers of all kinds, with the thread that mends and an engine that dies now and then. */
static void *call_at_random(void *arg)
{
    struct control *control = arg;
    unsigned seed = (unsigned)(uintptr_t)pthread_self();
    for (unsigned i = 0; i < 60; i++) {
        struct hws_error err = {0};
        const struct control_page page = {0};
        json_t *result = NULL, *body = NULL;
        int r = -1;
        switch (rand_r(&seed) % 7) {
        case 0:
            body = request(second);
            r = control_export_create(control, body, &result, &err);
            break;
        case 1:
            r = control_export_delete(control, "f", true, &err);
            break;
        case 2:
            body = request("{\"user\": \"a\"}");
            r = control_volume_attach(control, "v", body, &result, &err);
            break;
        case 3:
            body = request("{\"force\": true}");
            r = control_volume_detach(control, "v", body, &err);
            break;
        case 4:
            body = request("{\"generate\": \"psk\"}");
            r = control_secret_change(control, "k", body, &result, &err);
            break;
        case 5:
            r = control_secret_rotate(control, &result, &err);
            break;
        default:
            r = control_export_list(control, &page, &result, &err);
        }
        json_decref(r == 0 ? result : NULL);
        json_decref(body);
    }
    return NULL;
}

static void callers_at_once_leave_all_in_order(void **state)
{
    pthread_t threads[4];
    clean();
    struct control *control = open_background(NULL);
    need_volume(control);
    must(secret(control, "{\"name\": \"k\", \"value\": \"" KEY "\"}"));
    must(export(control, "{\"name\": \"e\", \"volume\": \"v\", \"listen\": \"tcp::10809\", "
                         "\"secret\": \"k\", \"shared\": true}"));
    for (unsigned i = 0; i < ARRAY_LEN(threads); i++)
        assert_int_equal(pthread_create(&threads[i], NULL, call_at_random, control), 0);
    for (unsigned i = 0; i < ARRAY_LEN(threads); i++)
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    control_close(control);
    control = open_control(NULL);
    check_all(control);
    control_close(control);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(exports_survive_a_kill_at_every_point),
        cmocka_unit_test(recovery_survives_a_kill_at_every_point),
        cmocka_unit_test(failing_steps_leave_nothing),
        cmocka_unit_test(one_writes_unless_it_is_said),
        cmocka_unit_test(what_is_exported_is_not_deleted),
        cmocka_unit_test(a_dead_engine_is_started_again),
        cmocka_unit_test(what_cannot_be_is_refused),
        cmocka_unit_test(callers_at_once_leave_all_in_order),
    };
    return cmocka_run_group_tests(tests, world_make, world_remove);
}
