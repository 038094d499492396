/*
 * The table of calls is whole, and so is its description: a call that was added without what the
 * description needs fails here.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "api/rest/internal.h"
#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

static const struct rest_schema *schema_called(const char *name)
{
    for (const struct rest_schema *row = rest_schemas; row->name; row++)
        if (!strcmp(row->name, name))
            return row;
    return NULL;
}

static void check_fields(const struct rest_route *route)
{
    for (const struct record_field *field = route->request; field && field->name; field++)
        if (!field->help || !*field->help)
            fail_msg("%s %s: field %s has no help", route->method, route->pattern, field->name);
}

static void every_call_is_described(void **state)
{
    for (const struct rest_route *route = rest_routes; route->method; route++) {
        const char *m = route->method, *p = route->pattern;
        if (!route->summary || strlen(route->summary) < 3)
            fail_msg("%s %s has no summary: its row in routes.c", m, p);
        if (route->answer && !schema_called(route->answer))
            fail_msg("%s %s answers %s, which has no row in schemas.c", m, p, route->answer);
        if ((route->status == 204) != !route->answer)
            fail_msg("%s %s: status 204, and it alone, has no answer", m, p);
        if (!strcmp(m, "GET") && route->request)
            fail_msg("%s %s: GET takes no body", m, p);
        for (const struct rest_route *other = rest_routes; other < route; other++)
            if (!strcmp(m, other->method) && !strcmp(p, other->pattern))
                fail_msg("%s %s stands there twice", m, p);
        check_fields(route);
    }
    for (const struct rest_schema *row = rest_schemas; row->name; row++) {
        bool used = row->type != NULL;
        for (const struct rest_route *route = rest_routes; route->method; route++)
            used = used || (route->answer && !strcmp(route->answer, row->name));
        for (const struct rest_schema *other = rest_schemas; other->name; other++)
            for (const struct rest_member *m = other->more; m && m->name; m++)
                used = used || strstr(m->kind, row->name);
        if (!used || !row->help)
            fail_msg("schema %s is nobody's answer, or has no help", row->name);
    }
}

/* Every "$ref" in @value leads to something of @document. */
static void check_references(const json_t *document, json_t *value)
{
    const char *name, *prefix = "#/components/schemas/";
    json_t *member;
    size_t i;
    json_array_foreach(value, i, member) check_references(document, member);
    json_object_foreach(value, name, member)
    {
        if (strcmp(name, "$ref") == 0) {
            const char *target = json_string_value(member);
            const json_t *schemas =
                json_object_get(json_object_get(document, "components"), "schemas");
            assert_non_null(target);
            if (strncmp(target, prefix, strlen(prefix)) != 0 ||
                !json_object_get(schemas, target + strlen(prefix)))
                fail_msg("%s leads nowhere", target);
        }
        check_references(document, member);
    }
}

static void the_document_has_every_call(void **state)
{
    struct hws_error err = {0};
    json_t *document = NULL, *calls, *call;
    const char *path, *method;
    size_t count = 0, routes = 0;
    if (rest_openapi(&document, &err) < 0)
        fail_msg("%s", err.text);
    check_references(document, document);
    json_t *names = json_object();
    json_object_foreach(json_object_get(document, "paths"), path, calls)
    {
        json_object_foreach(calls, method, call)
        {
            const char *name = json_string_value(json_object_get(call, "operationId"));
            assert_non_null(name);
            assert_null(json_object_get(names, name)); /* one name, one call */
            json_object_set_new(names, name, json_true());
            count++;
        }
    }
    while (rest_routes[routes].method)
        routes++;
    assert_int_equal(count, routes);
    const json_t *snapshot = json_object_get(json_object_get(document, "paths"),
                                             "/v1/volumes/{volume}/snapshots/{snapshot}");
    assert_non_null(json_object_get(snapshot, "delete"));
    json_decref(names);
    json_decref(document);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_call_is_described),
        cmocka_unit_test(the_document_has_every_call),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
