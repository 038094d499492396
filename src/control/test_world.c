/*
 * What the tests of the control plane share; see control/test_world.h.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "control/test_world.h"
#include "base/log.h"
#include <ftw.h>
#include <sys/stat.h>
#include <sys/wait.h>

#define KILLED     42
#define POINTS_MAX 200

static unsigned passed, last;

static void crash_at(void *arg, const char *where)
{
    if (++passed == last)
        _exit(KILLED);
}

static int remove_one(const char *path, const struct stat *st, int kind, struct FTW *ftw)
{
    return remove(path);
}

void clean(void)
{
    nftw(top, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    assert_int_equal(mkdir(top, 0700), 0);
    assert_int_equal(mkdir(in_top("roots"), 0700), 0);
}

struct control *open_control(void (*at)(void *, const char *))
{
    struct control_options options = {
        .folder = in_top("state"), .engines = &engines_fake, .at = at};
    struct control *control = NULL;
    struct hws_error err = {0};
    fake_engines_prepare(in_top("run"), at);
    if (control_open(&options, &control, &err) < 0)
        fail_msg("%s", err.text);
    return control;
}

/* ---- short calls; a failure is returned ---- */

json_t *request(const char *text)
{
    json_error_t where;
    json_t *value = json_loads(text, 0, &where);
    if (!value)
        fail_msg("%s: %s", text, where.text);
    return value;
}

int with(int (*function)(struct control *, const char *, const json_t *, json_t **,
                         struct hws_error *),
         struct control *control, const char *object, const char *text)
{
    json_t *body = request(text);
    int r = CALL(function, control, object, body);
    json_decref(body);
    return r;
}

int pool_create(struct control *control)
{
    json_t *body = json_pack("{s:s, s:s, s:[s]}", "name", "pool", "path", in_top("pool"),
                             "image-roots", in_top("roots"));
    int r = CALL(control_pool_create, control, body);
    json_decref(body);
    return r;
}

int volume_create(struct control *control, const char *text)
{
    json_t *body = request(text);
    int r = CALL(control_volume_create, control, body);
    json_decref(body);
    return r;
}

int detach(struct control *control, const char *volume, const char *text)
{
    json_t *body = request(text);
    error.code = 0;
    int r = control_volume_detach(control, volume, body, &error);
    json_decref(body);
    return r;
}

/* ---- what operations need ---- */

void need_nothing(struct control *control)
{
}

void need_pool(struct control *control)
{
    must(pool_create(control));
}

void need_volume(struct control *control)
{
    must(pool_create(control));
    must(volume_create(control, "{\"name\": \"v\", \"size\": 1048576}"));
}

void need_attached(struct control *control)
{
    need_volume(control);
    must(with(control_volume_attach, control, "v", "{\"user\": \"a\"}"));
}

void need_two_users(struct control *control)
{
    need_attached(control);
    must(with(control_volume_attach, control, "v", "{\"user\": \"b\"}"));
}

void need_snapshot(struct control *control)
{
    need_volume(control);
    must(with(control_snapshot_create, control, "v", "{\"name\": \"s\"}"));
}

void need_two_snapshots(struct control *control)
{
    need_snapshot(control);
    must(with(control_snapshot_create, control, "v", "{\"name\": \"t\"}"));
}

void need_image(struct control *control)
{
    must(pool_create(control));
    FILE *file = fopen(in_top("roots/image"), "w");
    assert_non_null(file);
    fputs("vmdk 5000\n-\n", file);
    fclose(file);
}

void need_middle_deleted(struct control *control)
{
    need_two_snapshots(control);
    must(control_snapshot_delete(control, "v", "t", &error));
}

void need_lowest_deleted(struct control *control)
{
    need_two_snapshots(control);
    must(control_snapshot_delete(control, "v", "s", &error));
}

void need_deleted_in_use(struct control *control)
{
    need_middle_deleted(control);
    must(with(control_volume_attach, control, "v", "{\"user\": \"a\"}"));
}

/* ---- kills ---- */

static void prepare(const struct scenario *scenario)
{
    clean();
    struct control *control = open_control(NULL);
    scenario->prepare(control);
    control_close(control);
}

/* Runs the scenario in a process that ends at point @at. @return whether it did. */
static bool run_until(const struct scenario *scenario, unsigned at)
{
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        passed = 0;
        last = 0;
        struct control *control = open_control(crash_at);
        passed = 0;
        last = at;
        _exit(scenario->run(control) == 0 ? 0 : 1);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    if (WEXITSTATUS(status) != KILLED && WEXITSTATUS(status) != 0)
        fail_msg("%s fails", scenario->name);
    return WEXITSTATUS(status) == KILLED;
}

/* The same operation after the crash works, or has been done. */
static void run_again(const struct scenario *scenario, struct control *control)
{
    int r = scenario->run(control);
    if (r != 0 && r != scenario->again)
        fail_msg("%s after a crash: %d, %s", scenario->name, r, error.text);
    check_all(control);
    if (scenario->run(control) != scenario->again && scenario->again)
        fail_msg("%s three times: %s", scenario->name, error.text);
}

void world_kill_operations(const struct scenario *scenarios, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        const struct scenario *scenario = &scenarios[i];
        unsigned at = 1;
        bool killed = true;
        for (; killed; at++) {
            assert_true(at < POINTS_MAX);
            prepare(scenario);
            killed = run_until(scenario, at);
            struct control *control = open_control(NULL);
            check_all(control);
            run_again(scenario, control);
            control_close(control);
        }
        print_message("%s: %u points\n", scenario->name, at - 2);
        assert_true(at > 2);
    }
}

void world_kill_recovery(const struct scenario *scenarios, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        const struct scenario *scenario = &scenarios[i];
        for (unsigned first = 3; first < POINTS_MAX; first += 3) {
            bool killed = true;
            for (unsigned at = 1; killed; at += 2) {
                prepare(scenario);
                if (!run_until(scenario, first))
                    goto next;
                pid_t child = fork();
                if (child == 0) {
                    passed = 0;
                    last = at;
                    open_control(crash_at);
                    _exit(0);
                }
                int status;
                assert_int_equal(waitpid(child, &status, 0), child);
                killed = WIFEXITED(status) && WEXITSTATUS(status) == KILLED;
                struct control *control = open_control(NULL);
                check_all(control);
                control_close(control);
            }
        }
    next:;
    }
}

/* ---- failing steps ---- */

void world_fail_steps(const struct failing_step *cases, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        clean();
        struct control *control = open_control(NULL);
        cases[i].prepare(control);
        fake_engines_fail(cases[i].function, EIO);
        int r = cases[i].run(control);
        if (r != cases[i].result)
            fail_msg("%s, case %u: %d, %s", cases[i].function, i, r, error.text);
        check_all(control);
        r = cases[i].run(control);
        assert_true(r == 0 || cases[i].result == 0);
        check_all(control);
        control_close(control);
    }
}

/* ---- the rest ---- */

unsigned count_layers(struct control *control)
{
    auto_json *list = NULL;
    must(object_list(control, &layer_type, NULL, &list, &error));
    return (unsigned)json_array_size(list);
}

struct control *open_background(void (*at)(void *, const char *))
{
    struct control_options options = {
        .folder = in_top("state"), .engines = &engines_fake, .background = true};
    struct control *control = NULL;
    fake_engines_prepare(in_top("run"), at);
    must(control_open(&options, &control, &error));
    return control;
}

int world_make(void **state)
{
    snprintf(top, sizeof(top), "%s/hawser-control.XXXXXX",
             access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
    log_set_level(LOG_LEVEL_ERROR);
    return mkdtemp(top) ? 0 : -1;
}

int world_remove(void **state)
{
    return nftw(top, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}
