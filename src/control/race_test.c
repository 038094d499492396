/*
 * Many callers at once, with engines that pretend: two for the same thing, and many for anything,
 * with the background's merges and the doctor's repairs among them. Made for the thread sanitizer;
 * what is there in the end must match in any case.
 *
 *   HAWSER_SOAK_STEPS   calls of each thread; 600 if not given
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/random.h"
#include "control/test_world.h"
#include <pthread.h>
#include <stdatomic.h>

#define CALLS     600
#define CALLERS   6
#define NAMES     4
#define SNAPSHOTS 3

static struct control *control;

/* ---- calls of a thread of its own: an error of its own ---- */

static json_t *parse(const char *format, unsigned a)
{
    char text[160];
    snprintf(text, sizeof(text), format, a);
    return json_loads(text, 0, NULL);
}

#define ANSWER(function, ...)                                     \
    ({                                                            \
        json_t *answer_ = NULL;                                   \
        struct hws_error err_ = {0};                              \
        int r_ = function(control, __VA_ARGS__, &answer_, &err_); \
        json_decref(r_ == 0 ? answer_ : NULL);                    \
        r_;                                                       \
    })

static int create(const char *name, const char *clone)
{
    auto_json *body = json_pack("{s:s, s:s*}", "name", name, "clone", clone);
    return ANSWER(control_volume_create, body);
}

static int attach(const char *name, unsigned user)
{
    auto_json *body = parse("{\"user\": \"u%u\"}", user);
    return ANSWER(control_volume_attach, name, body);
}

static int detach_user(const char *name, unsigned user)
{
    auto_json *body = parse("{\"user\": \"u%u\"}", user);
    struct hws_error err = {0};
    return control_volume_detach(control, name, body, &err);
}

static int detach_all(const char *name)
{
    auto_json *body = json_pack("{s:b}", "force", true);
    struct hws_error err = {0};
    return control_volume_detach(control, name, body, &err);
}

static int snapshot(const char *name, unsigned i)
{
    auto_json *body = parse("{\"name\": \"s%u\"}", i);
    return ANSWER(control_snapshot_create, name, body);
}

static int snapshot_delete(const char *name, unsigned i)
{
    struct hws_error err = {0};
    char text[8];
    snprintf(text, sizeof(text), "s%u", i);
    return control_snapshot_delete(control, name, text, &err);
}

static int volume_delete(const char *name)
{
    struct hws_error err = {0};
    return control_volume_delete(control, name, &err);
}

static int look_around(unsigned what)
{
    const struct control_page page = {.limit = 3};
    struct hws_error err = {0};
    if (what == 0)
        return ANSWER(control_volume_list, &page);
    if (what == 1)
        return ANSWER(control_attachment_list, &page);
    if (what == 2)
        return ANSWER(control_job_history, &page);
    char *text = NULL;
    int r = control_volume_list_text(control, &page, &text, &err);
    free(r == 0 ? text : NULL);
    return r;
}

static int doctor(bool repair)
{
    auto_json *body = json_pack("{s:b}", "deep", true);
    if (repair)
        json_object_set_new(body, "repair", json_string("all"));
    return ANSWER(control_doctor, body);
}

/* ---- at once ---- */

struct caller {
    pthread_t thread;
    int (*call)(unsigned number);
    unsigned number;
    int result;
};

static pthread_barrier_t barrier;

static void *run_call(void *arg)
{
    struct caller *caller = arg;
    pthread_barrier_wait(&barrier);
    caller->result = caller->call(caller->number);
    return NULL;
}

/** The others may answer what is usual. */
#define ANYTHING 1

static bool is_usual(int r)
{
    static const int usual[] = {0, -EBUSY, -ENOENT, -EEXIST, -ESRCH, -EINVAL, -EMLINK, -EPERM};
    for (unsigned i = 0; i < ARRAY_LEN(usual); i++)
        if (r == usual[i])
            return true;
    return false;
}

/* @return how many have succeeded; the others must have answered @other. */
static unsigned at_once(int (*call)(unsigned number), int other)
{
    struct caller callers[CALLERS];
    unsigned good = 0;
    pthread_barrier_init(&barrier, NULL, CALLERS);
    for (unsigned i = 0; i < CALLERS; i++) {
        callers[i] = (struct caller){.call = call, .number = i};
        assert_int_equal(pthread_create(&callers[i].thread, NULL, run_call, &callers[i]), 0);
    }
    for (unsigned i = 0; i < CALLERS; i++) {
        pthread_join(callers[i].thread, NULL);
        good += callers[i].result == 0;
        if (other == ANYTHING)
            assert_true(is_usual(callers[i].result));
        else if (callers[i].result != 0)
            assert_int_equal(callers[i].result, other);
    }
    pthread_barrier_destroy(&barrier);
    return good;
}

static int call_create(unsigned number)
{
    return create("v", NULL);
}

static int call_clone(unsigned number)
{
    return create("w", "v");
}

static int call_attach(unsigned number)
{
    return attach("v", number);
}

static int call_detach(unsigned number)
{
    return detach_user("v", number);
}

static int call_force(unsigned number)
{
    return detach_all("v");
}

static int call_snapshot(unsigned number)
{
    return snapshot("v", 1);
}

static int call_own_snapshot(unsigned number)
{
    return snapshot("v", 10 + number);
}

static int call_snapshot_delete(unsigned number)
{
    return snapshot_delete("v", 1);
}

static int call_resize(unsigned number)
{
    auto_json *body = parse("{\"size\": \"%uG\"}", 64);
    return ANSWER(control_volume_resize, "v", body);
}

static int call_revert(unsigned number)
{
    auto_json *body = parse("{\"snapshot\": \"s%u\"}", 1);
    return ANSWER(control_volume_revert, "v", body);
}

static int call_rename(unsigned number)
{
    auto_json *body = parse("{\"name\": \"n%u\"}", 0);
    return ANSWER(control_volume_change, number % 2 ? "v" : "w", body);
}

static int call_delete(unsigned number)
{
    return volume_delete("w");
}

static int call_pool(unsigned number)
{
    auto_json *body = json_pack("{s:s, s:s}", "name", "pool", "path", in_top("pool"));
    return ANSWER(control_pool_create, body);
}

static int call_pool_delete(unsigned number)
{
    struct hws_error err = {0};
    return control_pool_delete(control, "pool", &err);
}

static int call_class(unsigned number)
{
    auto_json *body = json_pack("{s:s}", "name", "c");
    return ANSWER(control_class_create, body);
}

static int call_class_delete(unsigned number)
{
    struct hws_error err = {0};
    return control_class_delete(control, "c", &err);
}

static int call_repair(unsigned number)
{
    return doctor(true);
}

static void two_callers_for_the_same_thing(void **state)
{
    static const struct {
        int (*call)(unsigned number);
        unsigned good; /* so many succeed */
        int other;     /* what the others are answered */
    } cases[] = {
        {call_pool, 1, -EEXIST},         {call_class, 1, -EEXIST},
        {call_create, 1, -EEXIST},       {call_attach, CALLERS, 0},
        {call_snapshot, 1, -EEXIST},     {call_own_snapshot, CALLERS, 0},
        {call_resize, CALLERS, 0},       {call_clone, 1, -EEXIST},
        {call_repair, CALLERS, 0},       {call_detach, CALLERS, 0},
        {call_attach, CALLERS, 0},       {call_force, CALLERS, 0},
        {call_revert, CALLERS, 0},       {call_snapshot_delete, 1, -ENOENT},
        {call_delete, 1, -ENOENT},       {call_clone, 1, -EEXIST},
        {call_class_delete, 1, -ENOENT}, {call_pool_delete, 0, -EBUSY},
    };
    clean();
    control = open_background(NULL);
    for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
        unsigned good = at_once(cases[i].call, cases[i].other);
        if (good != cases[i].good)
            fail_msg("case %u: %u succeed, and %u should", i, good, cases[i].good);
    }
    control_close(control);
    control = open_control(NULL);
    check_all(control);
    control_close(control);
}

/* Who found the volume by its old name before may give it the same new one again. */
static void a_name_goes_to_one(void **state)
{
    clean();
    control = open_control(NULL);
    must(pool_create(control));
    must(create("v", NULL));
    must(create("w", NULL));
    assert_true(at_once(call_rename, ANYTHING) >= 1);
    auto_json *list = NULL;
    const struct control_page page = {0};
    must(control_volume_list(control, &page, &list, &error));
    json_t *items = json_object_get(list, "items");
    assert_int_equal(json_array_size(items), 2);
    assert_string_equal(json_string_value(json_object_get(json_array_get(items, 0), "name")), "n0");
    check_all(control);
    control_close(control);
}

/* ---- anything ---- */

static atomic_uint done;

static int anything(struct random *draw)
{
    char name[8], other[8], source[16];
    unsigned i = (unsigned)random_below(draw, SNAPSHOTS);
    snprintf(name, sizeof(name), "v%u", (unsigned)random_below(draw, NAMES));
    snprintf(other, sizeof(other), "v%u", (unsigned)random_below(draw, NAMES));
    snprintf(source, sizeof(source), "%s@s%u", name, i);
    auto_json *revert = parse("{\"snapshot\": \"s%u\"}", i);
    auto_json *size = parse("{\"size\": \"%uG\"}", 11 + (unsigned)random_below(draw, 9));
    switch (random_below(draw, 16)) {
    case 0:
    case 1:
        return create(name, NULL);
    case 2:
        return volume_delete(name);
    case 3:
        return create(other, source);
    case 4:
        return create(other, name);
    case 5:
    case 6:
        return attach(name, i);
    case 7:
        return detach_user(name, i);
    case 8:
        return detach_all(name);
    case 9:
    case 10:
        return snapshot(name, i);
    case 11:
        return snapshot_delete(name, i);
    case 12:
        return ANSWER(control_volume_revert, name, revert);
    case 13:
        return ANSWER(control_volume_resize, name, size);
    case 14:
        return doctor(random_one_in(draw, 2));
    default:
        return look_around(i);
    }
}

static unsigned calls(void)
{
    const char *text = getenv("HAWSER_SOAK_STEPS");
    return text && *text ? (unsigned)strtoul(text, NULL, 10) : CALLS;
}

static void *call_anything(void *arg)
{
    struct random draw = random_seed((uintptr_t)arg);
    for (unsigned i = 0; i < calls(); i++) {
        int r = anything(&draw);
        if (!is_usual(r)) {
            fprintf(stderr, "call %u of caller %zu: %s\n", i, (size_t)arg, strerror(-r));
            return (void *)1;
        }
    }
    return NULL;
}

/* What hawserd's main thread does meanwhile. */
static void *tick(void *arg)
{
    while (atomic_load(&done) < CALLERS) {
        control_tick(control);
        usleep(10000);
    }
    return NULL;
}

static void many_callers_for_anything(void **state)
{
    pthread_t threads[CALLERS], ticker;
    void *bad;
    clean();
    control = open_background(NULL);
    must(pool_create(control));
    assert_int_equal(pthread_create(&ticker, NULL, tick, NULL), 0);
    for (uintptr_t i = 0; i < CALLERS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, call_anything, (void *)(i + 1)), 0);
    unsigned failed = 0;
    for (unsigned i = 0; i < CALLERS; i++) {
        pthread_join(threads[i], &bad);
        failed += bad != NULL;
        atomic_fetch_add(&done, 1);
    }
    pthread_join(ticker, NULL);
    assert_int_equal(failed, 0);
    control_close(control);
    control = open_control(NULL);
    check_all(control);
    auto_json *body = json_pack("{s:b}", "deep", true), *told = NULL;
    must(control_doctor(control, body, &told, &error));
    autofree char *text = json_dumps(told, JSON_INDENT(2));
    if (json_array_size(json_object_get(told, "items")))
        fail_msg("%s", text);
    control_close(control);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(two_callers_for_the_same_thing),
        cmocka_unit_test(a_name_goes_to_one),
        cmocka_unit_test(many_callers_for_anything),
    };
    return cmocka_run_group_tests(tests, world_make, world_remove);
}
