/*
 * Trash, groups and schedules with engines that pretend: kills at every point, failing steps, what
 * is refused, and clocks that go wrong.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "control/test_world.h"
#include <stdatomic.h>

#define DAY 86400
#define T0  1800000000 /* 2027-01-15 08:00:00 UTC */

/* ---- a clock ---- */

static struct control_now now = {.wall_s = T0, .running_s = 1000};

static void tell_now(void *arg, struct control_now *ret)
{
    *ret = now;
}

static void pass_time(uint64_t seconds)
{
    now.wall_s += seconds;
    now.running_s += seconds;
}

static struct control *open_at(void (*at)(void *, const char *))
{
    struct control *control = open_control(at);
    control->now = tell_now;
    must(clock_open(control, &error)); /* again, by that clock */
    return control;
}

/* ---- what operations need ---- */

static int discard(struct control *control, const char *volume, const char *text)
{
    json_t *body = request(text);
    int r = control_volume_discard(control, volume, body, &error);
    json_decref(body);
    return r;
}

static int create(int (*function)(struct control *, const json_t *, json_t **, struct hws_error *),
                  struct control *control, const char *text)
{
    json_t *body = request(text);
    int r = CALL(function, control, body);
    json_decref(body);
    return r;
}

static void need_trash(struct control *control)
{
    need_two_snapshots(control);
    must(discard(control, "v", "{\"trash-retention\": 3600}"));
}

static void need_trash_and_clone(struct control *control)
{
    need_two_snapshots(control);
    must(volume_create(control, "{\"name\": \"c\", \"clone\": \"v@s\"}"));
    must(discard(control, "v", "{\"trash-retention\": 3600}"));
}

/* v is attached, w not; x is attached as a device would be. */
static void need_group(struct control *control)
{
    need_attached(control);
    must(volume_create(control, "{\"name\": \"w\", \"size\": 1048576}"));
    must(volume_create(control, "{\"name\": \"x\", \"size\": 1048576}"));
    must(with(control_volume_attach, control, "x", "{\"user\": \"a\", \"mode\": \"device\"}"));
    must(create(control_group_create, control,
                "{\"name\": \"g\", \"volumes\": [\"x\", \"v\", \"w\"]}"));
}

static void need_group_snapshot(struct control *control)
{
    need_group(control);
    must(with(control_group_snapshot_create, control, "g", "{\"name\": \"s\"}"));
}

static void need_group_of_clones(struct control *control)
{
    need_snapshot(control);
    must(volume_create(control, "{\"name\": \"w\", \"clone\": \"v@s\"}"));
    must(control_snapshot_delete(control, "v", "s", &error));
    must(create(control_group_create, control, "{\"name\": \"g\", \"volumes\": [\"w\", \"v\"]}"));
    must(with(control_group_snapshot_create, control, "g", "{\"name\": \"s\"}"));
    must(with(control_group_snapshot_create, control, "g", "{\"name\": \"t\"}"));
}

static void need_detached_group(struct control *control)
{
    need_group_snapshot(control);
    must(detach(control, "v", "{\"user\": \"a\"}"));
    must(detach(control, "x", "{\"user\": \"a\"}"));
}

static int run_discard(struct control *control)
{
    return discard(control, "v", "{\"trash-retention\": 3600}");
}

static int run_restore(struct control *control)
{
    return with(control_trash_restore, control, "v", "{}");
}

static int run_empty(struct control *control)
{
    return control_trash_delete(control, "v", &error);
}

static int run_group_snapshot(struct control *control)
{
    return with(control_group_snapshot_create, control, "g", "{\"name\": \"s\"}");
}

static int run_group_delete(struct control *control)
{
    return control_group_snapshot_delete(control, "g", "s", &error);
}

static int run_group_revert(struct control *control)
{
    return with(control_group_revert, control, "g", "{\"snapshot\": \"s\"}");
}

static void need_due(struct control *control)
{
    need_volume(control);
    must(create(control_schedule_create, control,
                "{\"name\": \"n\", \"volume\": \"v\", \"every\": \"1m\", \"keep\": 1}"));
    must(with(control_snapshot_create, control, "v", "{\"name\": \"mine\"}"));
}

/* An hour passes each time: what is taken now, and what was taken before goes. */
static int run_schedule(struct control *control)
{
    auto_json *left = NULL;
    control->now = tell_now;
    pass_time(3600);
    schedules_run(control);
    const struct control_page page = {0};
    must(control_snapshot_list(control, "v", &page, &left, &error));
    return json_array_size(json_object_get(left, "items")) == 2 ? 0 : -EIO;
}

static const struct scenario scenarios[] = {
    {"delete to the trash", need_two_snapshots, run_discard, -ENOENT},
    {"restore", need_trash, run_restore, -ENOENT},
    {"empty with a clone", need_trash_and_clone, run_empty, -ENOENT},
    {"group snapshot", need_group, run_group_snapshot, -EEXIST},
    {"group snapshot delete of clones", need_group_of_clones, run_group_delete, -ENOENT},
    {"schedule", need_due, run_schedule, 0},
    /* Recovery from these is as from those above. */
    {"empty", need_trash, run_empty, -ENOENT},
    {"group snapshot delete", need_group_snapshot, run_group_delete, -ENOENT},
    {"group revert", need_detached_group, run_group_revert, 0},
    {"group revert of clones", need_group_of_clones, run_group_revert, 0},
};
#define RECOVERED 6

static void every_operation_survives_a_kill_at_every_point(void **state)
{
    world_kill_operations(scenarios, ARRAY_LEN(scenarios));
}

static void recovery_survives_a_kill_at_every_point(void **state)
{
    world_kill_recovery(scenarios, RECOVERED);
}

static void a_failing_step_leaves_nothing(void **state)
{
    static const struct failing_step cases[] = {
        {"create", need_group, run_group_snapshot, -EIO},
        {"hold", need_group, run_group_snapshot, -EIO},
        {"snapshot", need_group, run_group_snapshot, -EIO},
        {"snapshot-late", need_group, run_group_snapshot, -EIO},
        {"release", need_group, run_group_snapshot, -EIO}, /* it did not last */
        {"create", need_detached_group, run_group_revert, -EIO},
    };
    world_fail_steps(cases, ARRAY_LEN(cases));
}

/* ---- the trash ---- */

static size_t count_trash(struct control *control)
{
    const struct control_page page = {0};
    auto_json *list = NULL;
    must(control_trash_list(control, &page, &list, &error));
    return json_array_size(json_object_get(list, "items"));
}

static void the_trash_keeps_for_its_time(void **state)
{
    clean();
    struct control *control = open_at(NULL);
    need_two_snapshots(control);
    must(run_discard(control));
    assert_int_equal(control_volume_delete(control, "v", &error), -ENOENT);
    assert_int_equal(with(control_volume_attach, control, "v", "{}"), -ENOENT);
    assert_int_equal(control_pool_delete(control, "pool", &error), -EBUSY);
    must(volume_create(control, "{\"name\": \"v\", \"size\": 1048576}")); /* the name is free */
    assert_int_equal(with(control_trash_restore, control, "v", "{}"), -EEXIST);
    check_all(control);
    now.wall_s += 400 * DAY; /* a clock that is wrong */
    trash_empty(control);
    now.wall_s -= 800 * DAY;
    trash_empty(control);
    assert_int_equal(count_trash(control), 1);
    now.wall_s = T0;
    pass_time(3599);
    assert_true(trash_empty(control) == clock_s(control) + 1);
    assert_int_equal(count_trash(control), 1);
    must(with(control_trash_restore, control, "v", "{\"name\": \"old\"}"));
    auto_json *shown = NULL;
    must(control_volume_show(control, "old", &shown, &error));
    assert_int_equal(json_integer_value(json_object_get(shown, "snapshots")), 2);
    assert_null(json_object_get(shown, "expires"));
    must(discard(control, "old", "{\"trash-retention\": 10}"));
    pass_time(10);
    assert_true(trash_empty(control) == UINT64_MAX);
    assert_int_equal(count_trash(control), 0);
    assert_int_equal(count_layers(control), 1);
    must(discard(control, "v", "{\"purge\": true}"));
    check_all(control);
    control_close(control);
}

/* The host is started again: what passed since the clock was saved is not counted. */
static void no_start_of_the_host_makes_it_older(void **state)
{
    clean();
    struct control *control = open_at(NULL);
    need_trash(control);
    pass_time(1800);
    control_close(control);
    control = open_at(NULL);
    assert_true(trash_empty(control) == clock_s(control) + 1800);
    auto_json *saved = NULL;
    auto_batch batch = {0};
    must(control->store->driver->get(control->store, "clock", "clock", &saved, &error));
    json_object_set_new(saved, "boot", json_string("0b2cb9e5-0000-4000-8000-000000000000"));
    batch_raw(&batch, "clock", "clock", NULL, json_incref(saved), false);
    must(batch_commit(&batch, control, &error));
    control_close(control);
    now.running_s = 100;
    now.wall_s += 100 * DAY;
    control = open_at(NULL);
    assert_true(trash_empty(control) == clock_s(control) + 3500);
    pass_time(3500);
    now.running_s -= 200; /* a machine whose memory was set back */
    trash_empty(control);
    assert_int_equal(count_trash(control), 1);
    pass_time(200);
    trash_empty(control);
    assert_int_equal(count_trash(control), 0);
    check_all(control);
    control_close(control);
    now = (struct control_now){.wall_s = T0, .running_s = 1000};
}

static void classes_and_pools_say_how_long(void **state)
{
    clean();
    struct control *control = open_at(NULL);
    json_t *body =
        json_pack("{s:s, s:s, s:i}", "name", "p", "path", in_top("pool"), "trash-retention", 100);
    must(CALL(control_pool_create, control, body));
    json_decref(body);
    must(create(control_class_create, control, "{\"name\": \"c\", \"trash-retention\": 50}"));
    must(volume_create(control, "{\"name\": \"a\"}"));
    must(volume_create(control, "{\"name\": \"b\", \"class\": \"c\"}"));
    must(volume_create(control, "{\"name\": \"d\", \"class\": \"c\", \"protected\": true}"));
    must(control_volume_delete(control, "a", &error));
    must(control_volume_delete(control, "b", &error));
    assert_int_equal(control_volume_delete(control, "d", &error), -EPERM);
    pass_time(50);
    trash_empty(control);
    assert_int_equal(count_trash(control), 1);
    pass_time(50);
    trash_empty(control);
    assert_int_equal(count_trash(control), 0);
    check_all(control);
    control_close(control);
}

/* ---- groups ---- */

static void groups_are_whole_or_nothing(void **state)
{
    clean();
    struct control *control = open_at(NULL);
    need_group_snapshot(control);
    assert_int_equal(count_layers(control), 6);
    assert_int_equal(control_snapshot_delete(control, "v", "s", &error), -EBUSY);
    assert_int_equal(run_group_revert(control), -EBUSY); /* attached */
    assert_int_equal(control_group_delete(control, "g", &error), -EBUSY);
    assert_int_equal(discard(control, "w", "{\"trash-retention\": 5}"), -EBUSY);
    must(with(control_snapshot_create, control, "w", "{\"name\": \"t\"}"));
    assert_int_equal(with(control_group_snapshot_create, control, "g", "{\"name\": \"t\"}"),
                     -EEXIST);
    check_all(control);
    assert_int_equal(with(control_group_change, control, "g", "{\"volumes\": [\"v\", \"v\"]}"),
                     -EINVAL);
    must(with(control_group_change, control, "g", "{\"volumes\": [\"v\"], \"name\": \"h\"}"));
    assert_int_equal(discard(control, "w", "{\"trash-retention\": 5}"), -EBUSY); /* s */
    assert_int_equal(control_volume_delete(control, "w", &error), -EBUSY);
    must(volume_create(control, "{\"name\": \"c\", \"clone\": \"w@s\"}"));
    must(control_group_snapshot_delete(control, "h", "s", &error)); /* the clone keeps its layer */
    check_all(control);
    must(discard(control, "w", "{\"trash-retention\": 5}"));
    must(control_group_delete(control, "h", &error));
    check_all(control);
    control_close(control);
}

/* The file system may have been smaller at the snapshot than its volume is. */
static void groups_go_back_as_volumes_do(void **state)
{
    clean();
    struct control *control = open_at(NULL);
    json_t *volume = NULL;
    need_detached_group(control);
    must(run_group_revert(control));
    must(control_volume_show(control, "v", &volume, &error));
    assert_true(json_is_true(json_object_get(volume, "formatted")));
    assert_true(json_is_true(json_object_get(volume, "grow")));
    json_decref(volume);
    control_close(control);
}

/* What one volume's engine cannot do, none does; the layers that are left over are merged. */
static void what_is_taken_back_leaves_no_layers(void **state)
{
    clean();
    struct control *control = open_at(NULL);
    need_group(control);
    fake_engines_fail("release", ETIMEDOUT);
    assert_int_equal(run_group_snapshot(control), -ETIMEDOUT);
    check_all(control);
    assert_int_equal(count_layers(control), 5); /* both that are in use went over */
    json_t *put_off = json_object();
    while (merge_one(control, NULL, put_off, &error) > 0)
        ;
    assert_int_equal(json_object_size(put_off), 0);
    json_decref(put_off);
    assert_int_equal(count_layers(control), 3);
    check_all(control);
    control_close(control);
}

/* An engine that does not answer: nothing is decided, and its volume waits. */
static void what_cannot_be_taken_back_waits(void **state)
{
    clean();
    struct control *control = open_at(NULL);
    need_group(control);
    fake_engines_fail("settle", EIO);
    assert_int_equal(rename(in_top("pool"), in_top("away")), 0);
    assert_int_equal(run_group_snapshot(control), -EIO);
    assert_int_equal(with(control_volume_resize, control, "w", "{\"size\": 2097152}"), -EBUSY);
    assert_int_equal(run_group_snapshot(control), -EBUSY);
    assert_int_equal(rename(in_top("away"), in_top("pool")), 0);
    assert_true(journal_recover(control) > 0); /* the engine */
    assert_int_equal(journal_recover(control), 0);
    check_all(control);
    must(run_group_snapshot(control));
    check_all(control);
    control_close(control);
}

/* ---- schedules ---- */

static size_t count_snapshots(struct control *control, const char *volume)
{
    const struct control_page page = {.limit = CONTROL_PAGE_MAX};
    auto_json *list = NULL;
    must(control_snapshot_list(control, volume, &page, &list, &error));
    return json_array_size(json_object_get(list, "items"));
}

static void what_was_missed_is_taken_once(void **state)
{
    clean();
    now = (struct control_now){.wall_s = T0, .running_s = 1000};
    struct control *control = open_at(NULL);
    need_volume(control);
    must(create(control_schedule_create, control,
                "{\"name\": \"n\", \"volume\": \"v\", \"every\": \"hourly\"}"));
    assert_true(schedules_run(control) == T0 + 3600);
    assert_int_equal(count_snapshots(control, "v"), 0);
    pass_time(3600);
    schedules_run(control);
    schedules_run(control);
    assert_int_equal(count_snapshots(control, "v"), 1);
    pass_time(100 * 3600 + 5);
    assert_true(schedules_run(control) == now.wall_s - 5 + 3600);
    assert_int_equal(count_snapshots(control, "v"), 2);
    now.wall_s += 365 * DAY; /* set forwards: one early */
    schedules_run(control);
    assert_int_equal(count_snapshots(control, "v"), 3);
    now.wall_s -= 365 * DAY; /* and back: none waits for a year */
    assert_true(schedules_run(control) < now.wall_s + 3601);
    pass_time(3600);
    schedules_run(control);
    assert_int_equal(count_snapshots(control, "v"), 4);
    must(with(control_schedule_change, control, "n", "{\"paused\": true}"));
    pass_time(7200);
    assert_true(schedules_run(control) == UINT64_MAX);
    must(with(control_schedule_change, control, "n", "{\"paused\": false}"));
    schedules_run(control);
    assert_int_equal(count_snapshots(control, "v"), 4); /* missed on purpose */
    check_all(control);
    control_close(control);
}

static const char *error_of(struct control *control, const char *schedule)
{
    static char text[600];
    auto_json *shown = NULL;
    must(control_schedule_show(control, schedule, &shown, &error));
    const char *why = json_string_value(json_object_get(shown, "error"));
    snprintf(text, sizeof(text), "%s", why ? why : "");
    return text;
}

static void a_schedule_that_fails_tries_again(void **state)
{
    clean();
    struct control *control = open_at(NULL);
    need_group(control);
    must(create(control_schedule_create, control,
                "{\"name\": \"n\", \"group\": \"g\", \"every\": \"1h\", \"keep\": 2}"));
    pass_time(3600);
    fake_engines_fail("release", ETIMEDOUT);
    assert_true(schedules_run(control) <= now.wall_s + 60);
    assert_string_not_equal(error_of(control, "n"), "");
    pass_time(60);
    schedules_run(control);
    assert_string_equal(error_of(control, "n"), "");
    assert_int_equal(count_snapshots(control, "w"), 1);
    for (unsigned i = 0; i < 5; i++) {
        pass_time(3600);
        schedules_run(control);
    }
    assert_int_equal(count_snapshots(control, "w"), 2);
    must(create(control_schedule_create, control,
                "{\"name\": \"m\", \"volume\": \"w\", \"every\": \"1h\", \"keep-for\": 7200}"));
    for (unsigned i = 0; i < 5; i++) {
        pass_time(3600);
        schedules_run(control);
    }
    assert_int_equal(count_snapshots(control, "w"), 4);
    now.wall_s += 1000 * DAY; /* makes nothing older, but one more of each is due */
    schedules_run(control);
    assert_int_equal(count_snapshots(control, "w"), 5);
    check_all(control);
    control_close(control);
    now = (struct control_now){.wall_s = T0, .running_s = 1000};
}

/* ---- the thread, and callers side by side ---- */

static _Atomic uint64_t passed_s;

static void tell_atomic(void *arg, struct control_now *ret)
{
    uint64_t seconds = atomic_load(&passed_s);
    *ret = (struct control_now){.wall_s = T0 + seconds, .running_s = 1000 + seconds};
}

static struct control *open_scheduled(void)
{
    struct control_options options = {.folder = in_top("state"),
                                      .engines = &engines_fake,
                                      .background = true,
                                      .now = tell_atomic};
    struct control *control = NULL;
    fake_engines_prepare(in_top("run"), NULL);
    must(control_open(&options, &control, &error));
    return control;
}

static void wait_for(struct control *control, size_t (*count)(struct control *), size_t wanted)
{
    for (unsigned i = 0; count(control) != wanted; i++) {
        assert_true(i < 20000);
        usleep(1000);
        control_tick(control);
    }
}

static size_t snapshots_of_v(struct control *control)
{
    return count_snapshots(control, "v");
}

static void the_tick_does_what_is_due(void **state)
{
    clean();
    atomic_store(&passed_s, 0);
    struct control *control = open_scheduled();
    need_volume(control);
    must(volume_create(control, "{\"name\": \"w\", \"size\": 1048576}"));
    must(create(control_schedule_create, control,
                "{\"name\": \"n\", \"volume\": \"v\", \"every\": \"1h\"}"));
    must(discard(control, "w", "{\"trash-retention\": 5000}"));
    control_tick(control);
    usleep(20000);
    assert_int_equal(snapshots_of_v(control), 0);
    atomic_store(&passed_s, 3600);
    wait_for(control, snapshots_of_v, 1);
    assert_int_equal(count_trash(control), 1);
    atomic_store(&passed_s, 5000);
    wait_for(control, count_trash, 0);
    atomic_store(&passed_s, 7200);
    wait_for(control, snapshots_of_v, 2);
    control_close(control);
    atomic_store(&passed_s, 100000);
    control = open_scheduled(); /* what was due meanwhile */
    wait_for(control, snapshots_of_v, 3);
    control_close(control);
    control = open_control(NULL);
    check_all(control);
    control_close(control);
}

#define ROUNDS 15

struct caller {
    pthread_t thread;
    struct control *control;
    unsigned number;
    unsigned worked;
};

/* Each wants the same group, and what its volumes are. */
static void *call_all(void *arg)
{
    struct caller *caller = arg;
    struct control *control = caller->control;
    for (unsigned i = 0; i < ROUNDS; i++) {
        struct hws_error err = {0};
        char name[32];
        json_t *ret = NULL;
        snprintf(name, sizeof(name), "s%u", i);
        json_t *named = json_pack("{s:s}", "name", name), *nothing = json_object();
        json_t *retention = json_pack("{s:i}", "trash-retention", 100);
        int r = control_group_snapshot_create(control, "g", named, &ret, &err);
        json_decref(ret);
        ret = NULL;
        caller->worked += r == 0;
        if (caller->number % 2)
            r = control_snapshot_create(control, "v", named, &ret, &err);
        else
            r = control_group_snapshot_delete(control, "g", name, &err);
        json_decref(ret);
        ret = NULL;
        if (control_volume_discard(control, "spare", retention, &err) == 0)
            caller->worked++;
        r = control_trash_restore(control, "spare", nothing, &ret, &err);
        json_decref(ret);
        caller->worked += r == 0;
        schedules_run(control);
        trash_empty(control);
        json_decref(named);
        json_decref(nothing);
        json_decref(retention);
    }
    return NULL;
}

static void callers_side_by_side_lose_nothing(void **state)
{
    clean();
    struct control *control = open_at(NULL);
    struct caller callers[4];
    unsigned worked = 0;
    need_group(control);
    must(volume_create(control, "{\"name\": \"spare\", \"size\": 1048576}"));
    must(create(control_schedule_create, control,
                "{\"name\": \"n\", \"group\": \"g\", \"every\": \"1h\", \"keep\": 1}"));
    pass_time(3600);
    for (unsigned i = 0; i < ARRAY_LEN(callers); i++) {
        callers[i] = (struct caller){.control = control, .number = i};
        assert_int_equal(pthread_create(&callers[i].thread, NULL, call_all, &callers[i]), 0);
    }
    for (unsigned i = 0; i < ARRAY_LEN(callers); i++) {
        assert_int_equal(pthread_join(callers[i].thread, NULL), 0);
        worked += callers[i].worked;
    }
    assert_true(worked >= ROUNDS);
    check_all(control);
    assert_int_equal(
        count_trash(control) + (size_t)(control_volume_delete(control, "spare", &error) == 0), 1);
    check_all(control);
    control_close(control);
}

/* A record without the fields that came later, or from an earlier program. */
static void old_records_are_read(void **state)
{
    clean();
    struct control *control = open_at(NULL);
    auto_json *volume = NULL, *snapshot = NULL;
    auto_volume read = {0};
    auto_snapshot old = {0};
    need_snapshot(control);
    must(control->store->driver->find(control->store, "volume", "v", &volume, &error));
    json_object_del(volume, "deleted");
    json_object_del(volume, "expires");
    must(object_parse(&volume_type, volume, &read, &error));
    assert_int_equal(read.deleted, 0);
    auto_json *list = NULL;
    must(object_list(control, &snapshot_type, read.id, &list, &error));
    snapshot = json_incref(json_array_get(list, 0));
    json_object_del(snapshot, "clock");
    must(object_parse(&snapshot_type, snapshot, &old, &error));
    assert_null(old.schedule);
    assert_null(old.group_snapshot);
    control_close(control);
}

/* ---- what is refused ---- */

static void requests_are_checked(void **state)
{
    static const struct {
        int (*function)(struct control *, const json_t *, json_t **, struct hws_error *);
        const char *body;
        int result;
        const char *says;
    } cases[] = {
        {control_group_create, "{\"name\": \"x\"}", -EINVAL, "volumes is missing"},
        {control_group_create, "{\"name\": \"/\", \"volumes\": []}", -EINVAL, "no name"},
        {control_group_create, "{\"name\": \"x\", \"volumes\": \"v\"}", -EINVAL, "array"},
        {control_group_create, "{\"name\": \"x\", \"volumes\": [5]}", -EINVAL, "no text"},
        {control_group_create, "{\"name\": \"x\", \"volumes\": [\"y\"]}", -ENOENT, "no volume"},
        {control_group_create, "{\"name\": \"g\", \"volumes\": [\"v\"]}", -EEXIST, "already"},
        {control_group_create, "{\"name\": \"x\", \"volums\": []}", -EINVAL, "volums"},
        {control_schedule_create, "{\"name\": \"x\"}", -EINVAL, "either 'every' or 'cron'"},
        {control_schedule_create, "{\"name\": \"x\", \"every\": \"daily\"}", -EINVAL,
         "'volume' or a 'group'"},
        {control_schedule_create,
         "{\"name\": \"x\", \"volume\": \"v\", \"every\": \"1h\", \"cron\": \"* * * * *\"}",
         -EINVAL, "either 'every' or 'cron'"},
        {control_schedule_create,
         "{\"name\": \"x\", \"volume\": \"v\", \"group\": \"g\", \"every\": \"1h\"}", -EINVAL,
         "'volume' or a 'group'"},
        {control_schedule_create, "{\"name\": \"x\", \"volume\": \"y\", \"every\": \"1h\"}",
         -ENOENT, "no volume"},
        {control_schedule_create, "{\"name\": \"x\", \"volume\": \"v\", \"every\": \"59\"}",
         -EINVAL, "every"},
        {control_schedule_create, "{\"name\": \"x\", \"volume\": \"v\", \"cron\": \"* *\"}",
         -EINVAL, "five fields"},
        {control_schedule_create,
         "{\"name\": \"x\", \"volume\": \"v\", \"every\": \"1h\", \"keep\": -1}", -EINVAL, "keep"},
        {control_schedule_create,
         "{\"name\": \"12345678901234567890123456789012345678901234567890"
         "123456789012345678901234567890123456789012345678901\", \"volume\": \"v\", \"every\": "
         "\"1h\"}",
         -EINVAL, "longer than 100"},
    };
    clean();
    struct control *control = open_at(NULL);
    need_group(control);
    for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
        int r = create(cases[i].function, control, cases[i].body);
        if (r != cases[i].result || !strstr(error.text, cases[i].says))
            fail_msg("%s: %d, %s", cases[i].body, r, error.text);
    }
    assert_int_equal(discard(control, "v", "{\"purge\": true, \"trash-retention\": 5}"), -EINVAL);
    assert_int_equal(discard(control, "v", "{\"trash-retention\": 315360001}"), -EINVAL);
    assert_int_equal(with(control_trash_restore, control, "none", "{}"), -ENOENT);
    assert_int_equal(with(control_trash_restore, control, "none", "{\"nam\": \"x\"}"), -EINVAL);
    assert_int_equal(with(control_group_snapshot_create, control, "g", "{}"), -EINVAL);
    assert_int_equal(with(control_group_snapshot_create, control, "g", "{\"name\": \"../x\"}"),
                     -EINVAL);
    assert_int_equal(with(control_group_revert, control, "g", "{\"snapshot\": \"none\"}"), -ENOENT);
    must(create(control_group_create, control, "{\"name\": \"empty\", \"volumes\": []}"));
    assert_int_equal(with(control_group_snapshot_create, control, "empty", "{\"name\": \"s\"}"),
                     -EINVAL);
    must(create(control_schedule_create, control,
                "{\"name\": \"n\", \"volume\": \"v\", \"every\": \"1h\"}"));
    assert_int_equal(with(control_schedule_change, control, "n", "{\"volume\": \"w\"}"), -EINVAL);
    assert_int_equal(with(control_schedule_change, control, "n", "{\"cron\": \"0 0 31 2 *\"}"),
                     -EINVAL);
    must(with(control_schedule_change, control, "n", "{\"cron\": \"0 0 31 1 *\", \"keep\": 3}"));
    must(control_schedule_delete(control, "n", &error));
    assert_int_equal(control_schedule_delete(control, "n", &error), -ENOENT);
    check_all(control);
    control_close(control);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_operation_survives_a_kill_at_every_point),
        cmocka_unit_test(recovery_survives_a_kill_at_every_point),
        cmocka_unit_test(a_failing_step_leaves_nothing),
        cmocka_unit_test(the_trash_keeps_for_its_time),
        cmocka_unit_test(no_start_of_the_host_makes_it_older),
        cmocka_unit_test(classes_and_pools_say_how_long),
        cmocka_unit_test(groups_are_whole_or_nothing),
        cmocka_unit_test(groups_go_back_as_volumes_do),
        cmocka_unit_test(what_is_taken_back_leaves_no_layers),
        cmocka_unit_test(what_cannot_be_taken_back_waits),
        cmocka_unit_test(what_was_missed_is_taken_once),
        cmocka_unit_test(a_schedule_that_fails_tries_again),
        cmocka_unit_test(the_tick_does_what_is_due),
        cmocka_unit_test(callers_side_by_side_lose_nothing),
        cmocka_unit_test(old_records_are_read),
        cmocka_unit_test(requests_are_checked),
    };
    return cmocka_run_group_tests(tests, world_make, world_remove);
}
