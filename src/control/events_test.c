/*
 * Events: their numbers, what is told and what not, the ring that grows and then forgets, restarts,
 * and threads that write and read at once.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "control/events.h"
#include "control/internal.h"
#include "control/test_world.h"
#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#define WRITERS 4
#define EACH    4000

static struct control *begin(void)
{
    clean();
    return open_control(NULL);
}

/* As if a transaction had put or removed an object. */
static void happen(struct control *control, const char *kind, const char *id, unsigned generation)
{
    json_t *value = generation ? json_pack("{s:s, s:s, s:i}", "id", id, "name", "n", "generation",
                                           (int)generation)
                               : NULL;
    struct store_change change = {.kind = kind, .id = id, .value = value};
    events_add(control, &change, 1);
    json_decref(value);
}

static json_t *after(struct control *control, uint64_t number, unsigned limit)
{
    json_t *answer = NULL;
    assert_int_equal(control_events(control, number, limit, &answer, NULL), 0);
    return answer;
}

static const char *text(const json_t *answer, size_t i, const char *name)
{
    const json_t *item = json_array_get(json_object_get(answer, "items"), i);
    return json_string_value(json_object_get(item, name));
}

static void what_is_told(void **state)
{
    struct control *control = begin();
    uint64_t start = control_events_last(control);
    happen(control, "volume", "v", 1);
    happen(control, "layer", "l", 1); /* nobody's business */
    happen(control, "volume", "v", 2);
    happen(control, "intent", "i", 1);
    happen(control, "intent", "i", 0);
    happen(control, "volume", "v", 0);
    auto_json *answer = after(control, start, 100);
    assert_null(json_object_get(answer, "gap"));
    assert_int_equal(json_array_size(json_object_get(answer, "items")), 5);
    static const char *const expected[][2] = {{"volume", "created"},
                                              {"volume", "changed"},
                                              {"job", "begun"},
                                              {"job", "ended"},
                                              {"volume", "removed"}};
    for (unsigned i = 0; i < ARRAY_LEN(expected); i++) {
        assert_string_equal(text(answer, i, "kind"), expected[i][0]);
        assert_string_equal(text(answer, i, "event"), expected[i][1]);
    }
    assert_int_equal(json_integer_value(json_object_get(answer, "next")), start + 5);
    assert_true(control_events_seen(control, start, "volume", "v"));
    assert_true(control_events_seen(control, start + 4, "volume", NULL));
    assert_false(control_events_seen(control, start, "volume", "w"));
    assert_false(control_events_seen(control, start, "pool", NULL));
    assert_false(control_events_seen(control, start + 5, "volume", "v"));
    control_close(control);
}

static void the_oldest_are_forgotten_and_that_is_told(void **state)
{
    struct control *control = begin();
    uint64_t start = control_events_last(control);
    for (unsigned i = 1; i <= EVENTS_KEPT; i++) {
        happen(control, "volume", "v", i);
        if (i == 65 || i == 257 || i == EVENTS_KEPT) { /* the ring has grown: none is lost */
            auto_json *answer = after(control, start, 1);
            assert_null(json_object_get(answer, "gap"));
            assert_string_equal(text(answer, 0, "event"), "created");
        }
    }
    happen(control, "volume", "v", EVENTS_KEPT + 1);
    auto_json *late = after(control, start, 1), *in_time = after(control, start + 1, 1);
    assert_true(json_is_true(json_object_get(late, "gap")));
    assert_int_equal(json_integer_value(json_object_get(late, "next")), start + 2);
    assert_null(json_object_get(in_time, "gap"));
    assert_true(control_events_seen(control, start, "pool", "unknown")); /* nobody knows */
    auto_json *future = after(control, control_events_last(control) + 1, 1);
    assert_true(json_is_true(json_object_get(future, "gap")));
    control_close(control);
}

static void numbers_grow_over_restarts(void **state)
{
    struct control *control = begin();
    happen(control, "volume", "v", 1);
    for (unsigned i = 0; i < 3; i++) {
        uint64_t before = control_events_last(control);
        control_close(control);
        control = open_control(NULL);
        assert_true(control_events_last(control) > before);
        auto_json *answer = after(control, before, 10);
        assert_true(json_is_true(json_object_get(answer, "gap")));
    }
    control_close(control);
}

static void *write_many(void *control)
{
    for (unsigned i = 1; i <= EACH; i++)
        happen(control, "volume", "v", i);
    return NULL;
}

static void count_wake(void *arg)
{
    (*(unsigned *)arg)++; /* under the events' lock */
}

static void writers_and_a_reader(void **state)
{
    struct control *control = begin();
    uint64_t start = control_events_last(control), at = start, seen = 0;
    pthread_t threads[WRITERS];
    unsigned wakes = 0;
    control_events_wake(control, count_wake, &wakes);
    for (unsigned i = 0; i < WRITERS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, write_many, control), 0);
    while (at < start + WRITERS * EACH) {
        auto_json *answer = after(control, at, 500);
        const json_t *items = json_object_get(answer, "items");
        json_int_t next = json_integer_value(json_object_get(answer, "next"));
        seen += json_array_size(items);
        if (json_object_get(answer, "gap")) /* too slow: told, and what follows is whole */
            at = (uint64_t)next - json_array_size(items);
        assert_int_equal(at + json_array_size(items), next);
        at = (uint64_t)next;
    }
    for (unsigned i = 0; i < WRITERS; i++)
        pthread_join(threads[i], NULL);
    control_events_wake(control, NULL, NULL);
    assert_int_equal(wakes, WRITERS * EACH);
    assert_true(seen > 0 && seen <= WRITERS * EACH);
    control_close(control);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_told),
        cmocka_unit_test(the_oldest_are_forgotten_and_that_is_told),
        cmocka_unit_test(numbers_grow_over_restarts),
        cmocka_unit_test(writers_and_a_reader),
    };
    return cmocka_run_group_tests(tests, world_make, world_remove);
}
