/*
 * Leases of shared pools: hosts with copies of one catalog and one folder, a clock of the test's
 * own, and threads' work done by hand.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "control/lease.h"
#include "control/test_world.h"
#include <sys/stat.h>
#include <sys/wait.h>

#define KILLED     42
#define POINTS_MAX 120
#define STEP_S     3

static struct control_now now;
static void (*hook)(const char *where);

static void tell_now(void *arg, struct control_now *ret)
{
    *ret = now;
}

static void pass_point(void *arg, const char *where)
{
    if (hook)
        hook(where);
}

/* ---- hosts: each with a state and engines of its own; "a2" is another hawserd of "a" ---- */

static void use_engines_of(const char *host)
{
    char run[16];
    snprintf(run, sizeof(run), "run-%s", host);
    fake_engines_prepare(in_top(run), pass_point);
}

static struct control *open_host(const char *host)
{
    char state[16], letter[2] = {host[0]};
    struct control *control = NULL;
    snprintf(state, sizeof(state), "state-%s", host);
    struct control_options options = {.folder = in_top(state),
                                      .engines = &engines_fake,
                                      .at = pass_point,
                                      .now = tell_now,
                                      .host = letter};
    use_engines_of(host);
    must(control_open(&options, &control, &error));
    return control;
}

static void copy_catalog(const char *from, const char *to)
{
    char command[1024];
    snprintf(command, sizeof(command), "cp -a %s/state-%s %s/state-%s", top, from, top, to);
    assert_int_equal(system(command), 0);
}

/* What the threads of a host do. */
static void turn(struct control *control)
{
    for (struct lease *lease = control->leases->first; lease; lease = lease->next) {
        if (lease->state == LEASE_HELD || lease->state == LEASE_TAKING ||
            (lease->wanted && lease->state != LEASE_LOST))
            lease_turn(lease);
    }
    lease_guard(control);
}

static void pass_time(unsigned seconds, struct control *one, struct control *other)
{
    for (unsigned s = 0; s < seconds; s += STEP_S) {
        now.wall_s += STEP_S;
        now.running_s += STEP_S;
        if (one)
            turn(one);
        if (other)
            turn(other);
    }
}

static int make_shared(struct control *control)
{
    json_t *body =
        json_pack("{s:s, s:s, s:b}", "name", "pool", "path", in_top("pool"), "shared", true);
    int r = CALL(control_pool_create, control, body);
    json_decref(body);
    return r;
}

static int attach(struct control *control, const char *host)
{
    use_engines_of(host);
    return with(control_volume_attach, control, "v", "{\"user\": \"u\"}");
}

/* The pool and the volume "v", made by host a; b has a copy of the catalog. */
static void prepare(void)
{
    clean();
    hook = NULL;
    now = (struct control_now){.wall_s = 1800000000, .running_s = 1000};
    struct control *control = open_host("a");
    must(make_shared(control));
    must(volume_create(control, "{\"name\": \"v\", \"size\": 1048576}"));
    control_close(control);
    copy_catalog("a", "b");
}

static struct lease_record there(void)
{
    struct lease_record record;
    must(lease_read(in_top("pool"), &record, &error));
    return record;
}

static bool holds(struct control *control)
{
    auto_pool pool = {0};
    must(object_find(control, &pool_type, "pool", &pool, &error));
    return lease_look(control, &pool, NULL) == 0;
}

/* An engine runs; @failed what its attachment tells. */
static bool has_engine(struct control *control, const char *host, char failed[400])
{
    auto_volume volume = {0};
    auto_attachment attachment = {0};
    struct engine_place place = {0};
    bool attached;
    use_engines_of(host);
    must(object_find(control, &volume_type, "v", &volume, &error));
    must(attachment_get(control, volume.id, &attachment, &attached, &error));
    snprintf(failed, 400, "%s", attachment.failed ? attachment.failed : "");
    bool found = engines_fake.find(volume.id, &place, NULL) == 0;
    engine_place_free(&place);
    return found;
}

static int take(struct control *control, const char *host, bool force)
{
    use_engines_of(host);
    return with(control_pool_take, control, "pool", force ? "{\"force\": true}" : "{}");
}

/* ---- rules ---- */

static void a_pool_of_one_host_has_no_lease(void **state)
{
    char failed[400];
    clean();
    hook = NULL;
    struct control *control = open_host("a");
    need_volume(control);
    must(attach(control, "a"));
    assert_null(control->leases->first);
    assert_int_not_equal(access(in_top("pool/" LEASE_FILE), F_OK), 0);
    assert_int_equal(take(control, "a", true), -EINVAL);
    /* Its folder may be away for long. */
    assert_int_equal(rename(in_top("pool"), in_top("gone")), 0);
    pass_time(300, control, NULL);
    assert_true(has_engine(control, "a", failed) && !failed[0]);
    assert_int_equal(rename(in_top("gone"), in_top("pool")), 0);
    check_all(control);
    control_close(control);
}

static void what_stands_still_is_taken_and_its_owner_stops(void **state)
{
    char failed[400];
    prepare();
    struct control *a = open_host("a"), *b = open_host("b");
    must(attach(a, "a"));
    assert_int_equal(there().epoch, 1);
    /* It lives: asked again and again, b never has it. */
    for (unsigned i = 0; i < 30; i++) {
        assert_int_equal(attach(b, "b"), -EBUSY);
        pass_time(6, a, b);
    }
    assert_true(holds(a) && !holds(b));
    /* a stands still: what has changed just now is watched from the next time on. */
    assert_int_equal(attach(b, "b"), -EBUSY);
    assert_int_equal(attach(b, "b"), -EBUSY);
    pass_time(27, NULL, b);
    assert_int_equal(there().epoch, 1);
    assert_int_equal(attach(b, "b"), -EBUSY);
    pass_time(15, NULL, b);
    assert_int_equal(there().epoch, 2);
    must(attach(b, "b"));
    /* a goes on: it has lost the pool, also after a restart, until somebody says otherwise. */
    use_engines_of("a");
    lease_turn(a->leases->first);
    assert_true(lease_is_gone(a, a->leases->first->id));
    turn(a);
    assert_false(has_engine(a, "a", failed));
    assert_non_null(strstr(failed, "has taken it"));
    for (unsigned i = 0; i < 2; i++) {
        assert_int_equal(volume_create(a, "{\"name\": \"w\", \"size\": 1048576}"), -EBUSY);
        assert_non_null(strstr(error.text, "pool take"));
        control_close(a);
        a = open_host("a");
    }
    pass_time(200, a, NULL); /* b stands still, and a does not ask */
    assert_int_equal(volume_create(a, "{\"name\": \"w\", \"size\": 1048576}"), -EBUSY);
    use_engines_of("b");
    turn(b);
    pass_time(6, NULL, b);
    /* Taken back. */
    assert_int_equal(take(a, "a", false), -EBUSY);
    pass_time(90, b, a);
    assert_false(holds(a));
    must(take(a, "a", true));
    assert_int_equal(there().epoch, 3);
    use_engines_of("b");
    turn(b);
    assert_true(holds(a) && !holds(b) && !has_engine(b, "b", failed));
    must(detach(a, "v", "{\"force\": true}"));
    must(attach(a, "a"));
    control_close(a);
    control_close(b);
}

static void taking_back_without_force_waits(void **state)
{
    prepare();
    struct control *a = open_host("a"), *b = open_host("b");
    must(take(b, "b", true));
    assert_int_equal(take(a, "a", false), -EBUSY);
    assert_non_null(strstr(error.text, "is being watched"));
    pass_time(48, a, NULL);
    assert_true(holds(a));
    assert_int_equal(there().epoch, 3);
    must(take(a, "a", false));
    control_close(a);
    control_close(b);
}

static void a_host_takes_its_own_at_once(void **state)
{
    char failed[400];
    prepare();
    struct control *a = open_host("a");
    must(attach(a, "a"));
    for (unsigned i = 0; i < 3; i++) {
        control_close(a);
        a = open_host("a"); /* takes what is in use */
        assert_true(holds(a) && has_engine(a, "a", failed) && !failed[0]);
        assert_int_equal(there().epoch, 1);
    }
    /* Two of one host: the later one has it. */
    copy_catalog("b", "a2");
    struct control *second = open_host("a2");
    must(attach(second, "a2"));
    use_engines_of("a");
    turn(a);
    assert_true(holds(second) && !holds(a) && !has_engine(a, "a", failed));
    control_close(a);
    control_close(second);
}

static void what_cannot_be_renewed_is_given_up(void **state)
{
    char failed[400];
    prepare();
    struct control *a = open_host("a");
    must(attach(a, "a"));
    pass_time(30, a, NULL);
    assert_int_equal(rename(in_top("pool"), in_top("gone")), 0);
    pass_time(15, a, NULL);
    assert_true(has_engine(a, "a", failed) && !failed[0]);
    pass_time(9, a, NULL);
    assert_false(has_engine(a, "a", failed));
    assert_non_null(strstr(failed, "could not be renewed"));
    assert_int_equal(volume_create(a, "{\"name\": \"w\", \"size\": 1048576}"), -EIO);
    assert_int_equal(rename(in_top("gone"), in_top("pool")), 0);
    pass_time(3, a, NULL); /* nobody has taken it */
    assert_true(holds(a));
    must(detach(a, "v", "{\"force\": true}"));
    must(attach(a, "a"));
    check_all(a);
    control_close(a);
}

/* ---- hosts that are held up at the worst moment ---- */

static void sleep_long(const char *where)
{
    if (!strcmp(where, "a lease is written")) {
        hook = NULL;
        now.running_s += 100;
    }
}

static void an_owner_that_was_held_up_gives_up(void **state)
{
    char failed[400];
    prepare();
    struct control *a = open_host("a"), *b = open_host("b");
    must(attach(a, "a"));
    hook = sleep_long;
    turn(a);
    assert_false(has_engine(a, "a", failed));
    assert_non_null(strstr(failed, "could not be renewed"));
    /* What it wrote late over another's is put right by that one. */
    must(take(b, "b", true));
    struct lease_record old = there();
    old.epoch = 1;
    snprintf(old.instance, sizeof(old.instance), "%s", a->leases->instance);
    must(lease_write(a, in_top("pool"), &old, false, &error));
    turn(b);
    assert_true(holds(b));
    assert_int_equal(there().epoch, 2);
    control_close(a);
    control_close(b);
}

static struct control *faster;

static void let_other_be_faster(const char *where)
{
    if (!strcmp(where, "a lease is written")) {
        hook = NULL;
        turn(faster);
    }
}

static void of_two_that_take_one_has_it(void **state)
{
    prepare();
    copy_catalog("b", "c");
    struct control *b = open_host("b");
    faster = open_host("c");
    assert_int_equal(attach(b, "b"), -EBUSY);
    assert_int_equal(attach(faster, "c"), -EBUSY);
    pass_time(27, b, faster);
    assert_int_equal(there().epoch, 1);
    hook = let_other_be_faster;
    pass_time(STEP_S, b, NULL);
    assert_null(hook);
    for (unsigned i = 0; i < 12; i++) {
        pass_time(STEP_S, b, faster);
        assert_false(holds(b) && holds(faster));
    }
    assert_true(holds(b) && !holds(faster));
    control_close(b);
    control_close(faster);
}

/* ---- files ---- */

static void write_file(const char *text)
{
    FILE *file = fopen(in_top("pool/" LEASE_FILE), "w");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
}

static void what_is_no_lease_is_replaced_by_force_alone(void **state)
{
    static const char *const texts[] = {
        "",
        "{",
        "[]",
        "{\"host\": \"a\", \"name\": \"a\", \"boot\": \"b\", \"instance\": \"i\", \"epoch\": -1, "
        "\"counter\": 1, \"since\": 1}",
        "{\"host\": \"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\", \"name\": \"a\", \"boot\": "
        "\"b\", \"instance\": \"i\", \"epoch\": 1, \"counter\": 1, \"since\": 1}",
    };
    for (unsigned i = 0; i < ARRAY_LEN(texts); i++) {
        prepare();
        write_file(texts[i]);
        struct control *a = open_host("a");
        assert_int_equal(attach(a, "a"), -EIO);
        assert_int_equal(take(a, "a", false), -EIO);
        must(take(a, "a", true));
        must(attach(a, "a"));
        check_all(a);
        control_close(a);
    }
}

static void what_is_not_held_is_not_repaired(void **state)
{
    static const char name[] = "pool/images/00000000-0000-4000-8000-000000000000.qcow2";
    prepare();
    struct control *a = open_host("a"), *b = open_host("b");
    must(attach(a, "a"));
    FILE *file = fopen(in_top(name), "w");
    assert_non_null(file);
    fclose(file);
    json_t *all = request("{\"repair\": \"all\"}");
    use_engines_of("b");
    must(CALL(control_doctor, b, all));
    assert_int_equal(access(in_top(name), F_OK), 0);
    assert_int_equal(control_pool_delete(b, "pool", &error), -EBUSY);
    assert_int_equal(with(control_pool_change, b, "pool", "{\"shared\": false}"), -EBUSY);
    use_engines_of("a");
    must(CALL(control_doctor, a, all));
    assert_int_not_equal(access(in_top(name), F_OK), 0);
    json_decref(all);
    /* It is a pool of one host again. */
    must(with(control_pool_change, a, "pool", "{\"shared\": false}"));
    assert_int_not_equal(access(in_top("pool/" LEASE_FILE), F_OK), 0);
    must(detach(a, "v", "{\"force\": true}"));
    must(control_volume_delete(a, "v", &error));
    must(with(control_pool_change, a, "pool", "{\"shared\": true}"));
    must(control_pool_delete(a, "pool", &error));
    assert_int_not_equal(access(in_top("pool/" LEASE_FILE), F_OK), 0);
    control_close(a);
    control_close(b);
}

/* ---- kills ---- */

static unsigned passed, last;

static void crash(const char *where)
{
    if (++passed == last)
        _exit(KILLED);
}

static void ready_nothing(void)
{
    clean();
    hook = NULL;
}

/* a has v attached. */
static void ready_attached(void)
{
    prepare();
    struct control *a = open_host("a");
    must(attach(a, "a"));
    control_close(a);
}

static void ready_taken(void)
{
    ready_attached();
    struct control *b = open_host("b");
    must(take(b, "b", true));
    control_close(b);
}

static void run_make(void)
{
    struct control *a = open_host("a");
    int r = make_shared(a);
    assert_true(r == 0 || r == -EEXIST);
    r = volume_create(a, "{\"name\": \"v\", \"size\": 1048576}");
    assert_true(r == 0 || r == -EEXIST);
    must(attach(a, "a"));
    assert_true(holds(a));
    assert_int_equal(there().epoch, 1);
    control_close(a);
}

static void run_renew(void)
{
    struct control *a = open_host("a");
    char failed[400];
    pass_time(30, a, NULL);
    assert_true(holds(a) && has_engine(a, "a", failed) && !failed[0]);
    control_close(a);
}

static void run_takeover(void)
{
    struct control *b = open_host("b");
    if (attach(b, "b") < 0) {
        pass_time(48, b, NULL);
        must(attach(b, "b"));
    }
    assert_true(holds(b));
    assert_true(there().epoch >= 2);
    control_close(b);
}

static void run_force(void)
{
    struct control *b = open_host("b");
    must(take(b, "b", true));
    must(attach(b, "b"));
    control_close(b);
}

/* At its start already: the engines of a go. */
static void run_lose(void)
{
    struct control *a = open_host("a");
    char failed[400];
    turn(a);
    assert_false(has_engine(a, "a", failed));
    /* Where it was killed in between, the next start has found no engine: it is detached. */
    assert_true(strstr(failed, "has taken it") || !failed[0]);
    assert_int_equal(attach(a, "a"), failed[0] ? -EIO : -EBUSY);
    must(detach(a, "v", "{\"force\": true}"));
    assert_int_equal(attach(a, "a"), -EBUSY);
    assert_int_equal(there().epoch, 2);
    control_close(a);
}

static void a_kill_at_every_point_leaves_one_owner(void **state)
{
    static const struct {
        const char *name;
        void (*prepare)(void), (*run)(void);
        bool once; /* its end is another state than its beginning */
    } cases[] = {
        {"make", ready_nothing, run_make},           {"renew", ready_attached, run_renew},
        {"take over", ready_attached, run_takeover}, {"force", ready_attached, run_force},
        {"lose", ready_taken, run_lose, true},
    };
    for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
        unsigned at = 1;
        for (int status = KILLED; status == KILLED; at++) {
            assert_true(at < POINTS_MAX);
            cases[i].prepare();
            pid_t child = fork();
            assert_true(child >= 0);
            if (child == 0) {
                passed = 0;
                last = at;
                hook = crash;
                cases[i].run();
                _exit(0);
            }
            assert_int_equal(waitpid(child, &status, 0), child);
            assert_true(WIFEXITED(status));
            status = WEXITSTATUS(status);
            assert_true(status == KILLED || status == 0);
            if (status == KILLED || !cases[i].once)
                cases[i].run();
        }
        print_message("%s: %u points\n", cases[i].name, at - 2);
        assert_true(at > 4);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_pool_of_one_host_has_no_lease),
        cmocka_unit_test(what_stands_still_is_taken_and_its_owner_stops),
        cmocka_unit_test(taking_back_without_force_waits),
        cmocka_unit_test(a_host_takes_its_own_at_once),
        cmocka_unit_test(what_cannot_be_renewed_is_given_up),
        cmocka_unit_test(an_owner_that_was_held_up_gives_up),
        cmocka_unit_test(of_two_that_take_one_has_it),
        cmocka_unit_test(what_is_no_lease_is_replaced_by_force_alone),
        cmocka_unit_test(what_is_not_held_is_not_repaired),
        cmocka_unit_test(a_kill_at_every_point_leaves_one_owner),
    };
    return cmocka_run_group_tests(tests, world_make, world_remove);
}
