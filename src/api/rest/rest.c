/*
 * From requests to calls, and from outcomes to answers; see api/rest/rest.h.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "api/rest/rest.h"
#include "api/rest/internal.h"
#include "base/log.h"
#include <ctype.h>

static const struct {
    int error;
    unsigned status;
    const char *code;
} kinds[] = {
    {EINVAL, 400, "invalid"},   {ENOENT, 404, "not-found"},    {EEXIST, 409, "exists"},
    {EBUSY, 409, "busy"},       {ESRCH, 409, "not-in-use"},    {EPERM, 403, "forbidden"},
    {EACCES, 403, "forbidden"}, {ENOTSUP, 501, "unsupported"}, {ENOSPC, 507, "no-space"},
    {EDQUOT, 507, "no-space"},  {ENOTDIR, 400, "invalid"},     {ENAMETOOLONG, 400, "invalid"},
    {EMLINK, 409, "too-deep"},  {EROFS, 409, "read-only"},     {ETIMEDOUT, 504, "timeout"},
    {EFBIG, 400, "invalid"},
};

static void refuse(const struct http_request *request, unsigned status, const char *code,
                   const char *error_name, const char *message, struct http_reply *reply)
{
    json_t *text = json_string(message);
    json_t *error = json_pack("{s:s, s:s*, s:o, s:s}", "code", code, "errno", error_name, "message",
                              text ? text : json_string("(not printable)"), "request", request->id);
    http_reply_json(reply, status, json_pack("{s:o}", "error", error));
}

void rest_refuse(const struct http_request *request, unsigned status, const char *message,
                 struct http_reply *reply)
{
    const char *code = status == 413   ? "too-large"
                       : status == 403 ? "forbidden"
                       : status == 503 ? "unavailable"
                       : status == 404 ? "not-found"
                       : status == 405 ? "no-such-method"
                                       : "invalid";
    refuse(request, status, code, NULL, message, reply);
}

static void answer_error(const struct http_request *request, int result,
                         const struct hws_error *err, struct http_reply *reply)
{
    unsigned status = 500;
    const char *code = "internal";
    for (unsigned i = 0; i < ARRAY_LEN(kinds); i++) {
        if (kinds[i].error == -result) {
            status = kinds[i].status;
            code = kinds[i].code;
        }
    }
    const char *text = err->text[0] ? err->text : strerror(-result);
    if (status >= 500)
        log_warning("rest %s: %s", request->id, text);
    refuse(request, status, code, strerrorname_np(-result), text, reply);
}

/* ---- routes ---- */

/* Whether @path is as @pattern tells; what stands for each '*' goes to @call. */
static bool matches(const char *pattern, const char *path, struct rest_call *call)
{
    unsigned arguments = 0;
    while (*pattern) {
        if (*pattern != '*') {
            if (*pattern++ != *path++)
                return false;
            continue;
        }
        size_t length = strcspn(path, "/");
        if (length == 0 || length >= sizeof(call->argument[0]))
            return false;
        assert(arguments < REST_ARGUMENTS_MAX);
        memcpy(call->argument[arguments], path, length);
        call->argument[arguments++][length] = '\0';
        path += length;
        pattern++;
    }
    return *path == '\0';
}

static const struct rest_route *find_route(struct rest_call *call, bool *ret_path_known)
{
    *ret_path_known = false;
    for (const struct rest_route *route = rest_routes; route->method; route++) {
        if (!matches(route->pattern, call->request->path, call))
            continue;
        *ret_path_known = true;
        if (!strcmp(route->method, call->request->method))
            return route;
    }
    return NULL;
}

/* ---- arguments ---- */

enum rest_role rest_role_of(const struct rest_route *route)
{
    if (route->role != ROLE_BY_METHOD)
        return route->role;
    return !strcmp(route->method, "GET") ? ROLE_VIEWER : ROLE_OPERATOR;
}

static const char *const role_names[] = {"none", "viewer", "operator", "admin"};

const char *rest_role_name(enum rest_role role)
{
    return role_names[role];
}

enum rest_role rest_role_named(const char *name)
{
    for (unsigned i = ROLE_VIEWER; i <= ROLE_ADMIN; i++)
        if (!strcmp(role_names[i], name))
            return (enum rest_role)i;
    return ROLE_BY_METHOD;
}

static int read_number(const char *name, const char *value, uint64_t min, uint64_t max,
                       uint64_t *ret, struct hws_error *err)
{
    char *end;
    errno = 0;
    *ret = strtoull(value, &end, 10);
    if (errno || *end || value[0] < '0' || value[0] > '9' || *ret < min || *ret > max)
        return hws_fail(err, EINVAL, "%s is '%.40s'; it can be %llu to %llu", name, value,
                        (unsigned long long)min, (unsigned long long)max);
    return 0;
}

struct query_check {
    const struct rest_query *table;
    struct hws_error *err;
    int result;
};

/* An argument that no call of this path has is told, rather than taken for one that was obeyed. */
static bool check_argument(void *arg, const char *name, const char *value)
{
    struct query_check *check = arg;
    const struct rest_query *row = check->table;
    uint64_t number;
    while (row && row->name && strcmp(row->name, name) != 0)
        row++;
    if (!row || !row->name) {
        check->result = hws_fail(check->err, EINVAL, "this call has no argument '%.100s'", name);
        return false;
    }
    if (row->max)
        check->result = read_number(name, value, row->min, row->max, &number, check->err);
    bool found = !row->choices;
    for (const char *const *choice = row->choices; choice && *choice; choice++)
        found = found || !strcmp(*choice, value);
    if (!found)
        check->result = hws_fail(check->err, EINVAL, "%s cannot be '%.100s'; it can be %s%s%s",
                                 name, value, row->choices[0], row->choices[1] ? " or " : "",
                                 row->choices[1] ? row->choices[1] : "");
    return check->result == 0;
}

static int read_query(const struct rest_route *route, struct rest_call *call, struct hws_error *err)
{
    struct query_check check = {.table = route->query, .err = err};
    http_query_each(call->request, check_argument, &check);
    const char *limit = http_query(call->request, "limit");
    call->page.after = http_query(call->request, "after");
    if (limit && check.result == 0)
        call->page.limit = (unsigned)strtoul(limit, NULL, 10);
    return check.result;
}

/* An empty body is an empty object. */
static int read_body(const struct http_request *request, json_t **ret, struct hws_error *err)
{
    json_error_t where;
    *ret = request->body_length
               ? json_loadb(request->body, request->body_length, JSON_REJECT_DUPLICATES, &where)
               : json_object();
    char *quote = *ret ? NULL : strstr(where.text, " near '");
    if (quote) /* what stands there may be a secret, and errors are logged */
        *quote = '\0';
    if (!*ret)
        return hws_fail(err, EINVAL, "the body is no JSON: %.200s (line %d)", where.text,
                        request->body_length ? where.line : 0);
    if (!json_is_object(*ret))
        return hws_fail(err, EINVAL, "the body must be a JSON object");
    return 0;
}

/* Takes over @result. What is no JSON comes as one text, and so do long lists. */
static void answer(const struct rest_route *route, json_t *result, struct http_reply *reply)
{
    if (!json_is_string(result)) {
        http_reply_json(reply, route->status, result);
        return;
    }
    char *text = strdup(json_string_value(result));
    reply->status = route->status;
    reply->type = route->type;
    reply->body = text;
    reply->length = text ? strlen(text) : 0;
    json_decref(result);
}

uint64_t rest_number(const struct rest_call *call, const char *name, uint64_t missing)
{
    const char *text = http_query(call->request, name);
    return text ? strtoull(text, NULL, 10) : missing; /* read_query() has looked at it */
}

/* Nothing has happened yet to what is watched: the call is made again when something has. */
static bool waits(const struct rest_route *route, const struct rest_call *call,
                  const json_t *result)
{
    const struct rest_schema *schema = rest_schemas;
    uint64_t wait_ms = rest_number(call, "wait", REST_WAIT_DEFAULT) * 1000;
    if (!http_query(call->request, "watch") || call->request->last ||
        call->request->waited_ms >= wait_ms)
        return false;
    while (schema->name && strcmp(schema->name, route->answer) != 0)
        schema++;
    char kind[32]; /* of objects that have no table to be seen: called as their schema */
    snprintf(kind, sizeof(kind), "%s", schema->type ? schema->type->kind : schema->name);
    kind[0] = (char)tolower((unsigned char)kind[0]);
    const char *id = json_string_value(json_object_get(result, "id"));
    if (control_events_seen(call->control, rest_number(call, "watch", 0), kind, id))
        return false;
    call->reply->wait_ms = wait_ms;
    return true;
}

static void run_route(const struct rest_route *route, struct rest_call *call,
                      struct http_reply *reply)
{
    struct hws_error err = {0};
    json_t *body = NULL, *result = NULL;
    /* Before the call: what happens meanwhile is seen twice rather than never. */
    uint64_t sequence = control_events_last(call->control);
    int r = read_query(route, call, &err);
    if (r == 0)
        r = read_body(call->request, &body, &err);
    call->body = body;
    if (r == 0 && !route->request && json_object_size(body) > 0)
        r = hws_fail(&err, EINVAL, "this call takes no body");
    if (r == 0)
        r = route->run(call, &result, &err);
    if (r < 0)
        answer_error(call->request, r, &err, reply);
    else if (reply->wait_ms || reply->stream.read || waits(route, call, result))
        json_decref(result);
    else
        answer(route, result, reply);
    snprintf(reply->sequence, sizeof(reply->sequence), "%llu", (unsigned long long)sequence);
    json_decref(body);
}

static void refuse_role(const struct rest_route *route, const struct http_request *request,
                        struct http_reply *reply)
{
    char text[128];
    snprintf(text, sizeof(text), "this call needs the role %s; yours is %s",
             rest_role_name(rest_role_of(route)), rest_role_name((enum rest_role)request->role));
    rest_refuse(request, 403, text, reply);
}

void rest_handle(void *arg, const struct http_request *request, struct http_reply *reply)
{
    struct rest_call call = {.control = arg, .request = request, .reply = reply};
    bool path_known;
    const struct rest_route *route = find_route(&call, &path_known);
    if (route && request->role < (int)rest_role_of(route))
        refuse_role(route, request, reply);
    else if (route)
        run_route(route, &call, reply);
    else if (path_known)
        rest_refuse(request, 405, "this path does not have this method", reply);
    else
        rest_refuse(request, 404, "there is no such path; GET /v1/openapi.json lists them", reply);
}
