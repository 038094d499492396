/*
 * The description of the API, OpenAPI 3.1, made of the tables that the server itself works with:
 * calls (routes.c), requests (control/requests.h), objects (control/objects.h), members that
 * answers have beside those (schemas.c).
 *
 *   rest_routes --> paths, parameters, bodies --> components.schemas <-- rest_schemas
 *
 * A body's schema is exact: what does not fit it is refused, but for what only the catalog can tell
 * (whether a name is taken, a pool is there). An answer's schema is open: later versions add
 * members.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "api/rest/internal.h"
#include <ctype.h>

#define SCHEMA_REF "#/components/schemas/"
/** What base/size.h reads. */
#define SIZE_PATTERN "^([0-9]+\\.?[bB]?|[0-9]+(\\.[0-9]*)?[kKmMgGtTpPeE]([iI]?[bB])?)$"

/* ---- fields ---- */

static json_t *texts(const char *const *list)
{
    json_t *array = json_array();
    for (; list && *list; list++)
        json_array_append_new(array, json_string(*list));
    return array;
}

static json_t *text_schema(const struct record_field *field, bool request)
{
    json_t *schema = json_pack("{s:s}", "type", "string");
    if (field->choices && request)
        json_object_set_new(schema, "enum", texts(field->choices));
    else if (request)
        json_object_set_new(schema, "maxLength",
                            json_integer((json_int_t)(field->max ? field->max : RECORD_TEXT_MAX)));
    return schema;
}

static json_t *number_schema(const struct record_field *field, bool request)
{
    json_int_t max = (json_int_t)(field->max ? field->max : INT64_MAX);
    json_t *number = json_pack("{s:s, s:i, s:I}", "type", "integer", "minimum", 0, "maximum", max);
    if (!request || field->kind != RECORD_SIZE)
        return number;
    json_t *text = json_pack("{s:s, s:s, s:[s, s]}", "type", "string", "pattern", SIZE_PATTERN,
                             "examples", "10G", "512M");
    return json_pack("{s:[o, o]}", "anyOf", number, text);
}

static json_t *members_schema(const struct record_field *field)
{
    json_int_t max = (json_int_t)(field->max ? field->max : RECORD_MEMBERS_MAX);
    json_t *member = json_pack("{s:s, s:i}", "type", "string", "maxLength", RECORD_TEXT_MAX);
    if (field->kind == RECORD_LIST)
        return json_pack("{s:s, s:o, s:I}", "type", "array", "items", member, "maxItems", max);
    return json_pack("{s:s, s:o, s:{s:i, s:i}, s:I}", "type", "object", "additionalProperties",
                     member, "propertyNames", "minLength", 1, "maxLength", 128, "maxProperties",
                     max);
}

/* An optional field of a request may be null, which is as if it were absent. */
static json_t *allow_null(json_t *schema)
{
    json_t *null = json_pack("{s:s}", "type", "null");
    return json_pack("{s:[o, o]}", "anyOf", schema, null);
}

static json_t *field_schema(const struct record_field *field, bool request)
{
    json_t *schema = NULL;
    switch (field->kind) {
    case RECORD_TEXT:
        schema = text_schema(field, request);
        break;
    case RECORD_UINT:
    case RECORD_SIZE:
        schema = number_schema(field, request);
        break;
    case RECORD_BOOL:
        schema = json_pack("{s:s}", "type", "boolean");
        break;
    case RECORD_LABELS:
    case RECORD_LIST:
        schema = members_schema(field);
        break;
    }
    if (request && !field->required)
        schema = allow_null(schema);
    json_object_set_new(schema, "description", json_string(field->help));
    return schema;
}

static json_t *record_schema(const struct record_field *fields, bool request)
{
    json_t *properties = json_object(), *required = json_array();
    for (const struct record_field *field = fields; field->name; field++) {
        if (!request && !strcmp(field->name, "key"))
            continue; /* by which the catalog finds it; not everywhere told */
        json_object_set_new(properties, field->name, field_schema(field, request));
        if (field->required)
            json_array_append_new(required, json_string(field->name));
    }
    json_t *schema = json_pack("{s:s, s:o, s:o}", "type", "object", "properties", properties,
                               "required", required);
    if (request)
        json_object_set_new(schema, "additionalProperties", json_false());
    return schema;
}

/* ---- schemas ---- */

static json_t *kind_schema(const char *kind, size_t length)
{
    if (*kind == '[')
        return json_pack("{s:s, s:o}", "type", "array", "items", kind_schema(kind + 1, length - 2));
    if (isupper((unsigned char)*kind))
        return json_pack("{s:s+%}", "$ref", SCHEMA_REF, kind, length);
    return json_pack("{s:s%}", "type", kind, length);
}

static json_t *answer_schema(const struct rest_schema *row)
{
    json_t *schema = row->type ? record_schema(row->type->fields, false)
                               : json_pack("{s:s, s:{}}", "type", "object", "properties");
    json_t *properties = json_object_get(schema, "properties");
    for (const struct rest_member *member = row->more; member && member->name; member++) {
        json_t *value = kind_schema(member->kind, strlen(member->kind));
        json_object_set_new(value, "description", json_string(member->help));
        json_object_set_new(properties, member->name, value);
    }
    json_object_set_new(schema, "description", json_string(row->help));
    return schema;
}

static json_t *error_schema(void)
{
    return json_pack(
        "{s:s, s:[s], s:{s:{s:s, s:[s, s, s], s:{s:{s:s, s:s}, s:{s:s, s:s}, s:{s:s, s:s},"
        " s:{s:s, s:s}}}}}",
        "type", "object", "required", "error", "properties", "error", "type", "object", "required",
        "code", "message", "request", "properties", "code", "type", "string", "description",
        "for programs: busy, not-found, ...", "errno", "type", "string", "description",
        "name of the system's error", "message", "type", "string", "description", "for people",
        "request", "type", "string", "description", "id of the request, as in the log");
}

static json_t *all_schemas(void)
{
    json_t *schemas = json_object();
    for (const struct rest_schema *row = rest_schemas; row->name; row++)
        json_object_set_new(schemas, row->name, answer_schema(row));
    json_object_set_new(schemas, "Error", error_schema());
    return schemas;
}

static json_t *reference(const char *name)
{
    return json_pack("{s:s+}", "$ref", SCHEMA_REF, name);
}

/* ---- calls ---- */

/* What is called by the '*' behind "volumes/" is a "volume". */
static void singular(char *word)
{
    size_t length = strlen(word);
    if (length > 4 && !strcmp(word + length - 4, "sses"))
        word[length - 2] = '\0';
    else if (length > 1 && word[length - 1] == 's')
        word[length - 1] = '\0';
}

/*
 * The pattern with names for its asterisks in @path, the call's name in @name, and what the
 * asterisks are in @parameters. Both texts are of @size bytes.
 */
static void read_pattern(const struct rest_route *route, char *path, char *name, size_t size,
                         json_t *parameters)
{
    char word[64] = "";
    size_t length, path_used = 0;
    size_t name_used = (size_t)snprintf(name, size, "%s", route->method);
    for (char *at = name; *at; at++)
        *at = (char)tolower((unsigned char)*at);
    for (const char *at = route->pattern; *at; at += length) {
        length = strcspn(++at, "/");
        bool argument = *at == '*';
        if (argument)
            json_array_append_new(parameters,
                                  json_pack("{s:s, s:s, s:b, s:s, s:{s:s, s:i, s:i}}", "name", word,
                                            "in", "path", "required", true, "description",
                                            "its id or name", "schema", "type", "string",
                                            "minLength", 1, "maxLength", 255));
        else
            snprintf(word, sizeof(word), "%.*s", (int)length, at);
        path_used +=
            (size_t)snprintf(path + path_used, size - path_used, argument ? "/{%s}" : "/%s", word);
        if (strcmp(word, "v1") != 0)
            name_used += (size_t)snprintf(name + name_used, size - name_used, "_%s", word);
        singular(word);
    }
}

static void add_query(const struct rest_query *query, json_t *parameters)
{
    for (; query && query->name; query++) {
        json_t *schema = json_pack("{s:s}", "type", query->max ? "integer" : "string");
        if (query->max) {
            json_object_set_new(schema, "minimum", json_integer((json_int_t)query->min));
            json_object_set_new(schema, "maximum", json_integer((json_int_t)query->max));
        }
        if (query->choices)
            json_object_set_new(schema, "enum", texts(query->choices));
        json_array_append_new(parameters,
                              json_pack("{s:s, s:s, s:s, s:o}", "name", query->name, "in", "query",
                                        "description", query->help, "schema", schema));
    }
}

static json_t *answer_of(const struct rest_route *route)
{
    if (!route->answer)
        return json_pack("{s:s}", "description", "Done.");
    json_t *schema = route->type ? json_pack("{s:s}", "type", "string") : reference(route->answer);
    if (route->list)
        schema = json_pack("{s:s, s:[s], s:{s:{s:s, s:o}, s:{s:s, s:s}}}", "type", "object",
                           "required", "items", "properties", "items", "type", "array", "items",
                           schema, "next", "type", "string", "description",
                           "\"after\" of the next page; absent from the last");
    return json_pack("{s:s, s:{s:{s:o}}}", "description", route->summary, "content",
                     route->type ? route->type : "application/json", "schema", schema);
}

static json_t *call_of(const struct rest_route *route, const char *name, json_t *parameters)
{
    char status[8];
    snprintf(status, sizeof(status), "%u", route->status);
    json_t *call = json_pack("{s:s, s:s, s:s, s:{s:o, s:{s:s, s:{s:{s:{s:s}}}}}}", "operationId",
                             name, "summary", route->summary, "x-role",
                             rest_role_name(rest_role_of(route)), "responses", status,
                             answer_of(route), "default", "description", "Refused, or failed.",
                             "content", "application/json", "schema", "$ref", SCHEMA_REF "Error");
    add_query(route->query, parameters);
    if (json_array_size(parameters) > 0)
        json_object_set(call, "parameters", parameters);
    if (!route->request)
        return call;
    json_t *schema = record_schema(route->request, true);
    bool required = json_array_size(json_object_get(schema, "required")) > 0;
    json_object_set_new(call, "requestBody",
                        json_pack("{s:b, s:{s:{s:o}}}", "required", required, "content",
                                  "application/json", "schema", schema));
    return call;
}

static void add_route(const struct rest_route *route, json_t *paths)
{
    char path[256] = "", name[256] = "";
    auto_json *parameters = json_array();
    read_pattern(route, path, name, sizeof(path), parameters);
    json_t *calls = json_object_get(paths, path);
    if (!calls) {
        calls = json_object();
        json_object_set_new(paths, path, calls);
    }
    json_t *call = call_of(route, name, parameters);
    char method[8];
    snprintf(method, sizeof(method), "%.*s", (int)strcspn(name, "_"), name);
    json_object_set_new(calls, method, call);
}

int rest_openapi(json_t **ret, struct hws_error *err)
{
    json_t *paths = json_object();
    for (const struct rest_route *route = rest_routes; route->method; route++)
        add_route(route, paths);
    *ret = json_pack(
        "{s:s, s:{s:s, s:s, s:s, s:{s:s, s:s}}, s:[{s:s}], s:o, s:{s:o}}", "openapi", "3.1.0",
        "info", "title", "hawserd", "version", HAWSER_VERSION, "description",
        "Pools, volumes and snapshots of a host. Objects are named in paths by id or by name.",
        "license", "name", "Apache-2.0", "identifier", "Apache-2.0", "servers", "url", "/", "paths",
        paths, "components", "schemas", all_schemas());
    return *ret ? 0 : hws_fail(err, ENOMEM, "out of memory");
}
