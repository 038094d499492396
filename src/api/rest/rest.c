/*
 * From requests to calls, and from outcomes to answers; see api/rest/rest.h.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "api/rest/rest.h"
#include "api/rest/internal.h"
#include "base/log.h"

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

static int read_page(struct rest_call *call, struct hws_error *err)
{
    const char *limit = http_query(call->request, "limit");
    call->page.after = http_query(call->request, "after");
    if (!limit)
        return 0;
    char *end;
    errno = 0;
    unsigned long number = strtoul(limit, &end, 10);
    if (errno || *end || limit[0] < '0' || limit[0] > '9' || number < 1 ||
        number > CONTROL_PAGE_MAX)
        return hws_fail(err, EINVAL, "limit is '%.40s'; it can be 1 to %d", limit,
                        CONTROL_PAGE_MAX);
    call->page.limit = (unsigned)number;
    return 0;
}

/* An empty body is an empty object. */
static int read_body(const struct http_request *request, json_t **ret, struct hws_error *err)
{
    json_error_t where;
    *ret = request->body_length
               ? json_loadb(request->body, request->body_length, JSON_REJECT_DUPLICATES, &where)
               : json_object();
    if (!*ret)
        return hws_fail(err, EINVAL, "the body is no JSON: %.200s (line %d)", where.text,
                        request->body_length ? where.line : 0);
    if (!json_is_object(*ret))
        return hws_fail(err, EINVAL, "the body must be a JSON object");
    return 0;
}

static void run_route(const struct rest_route *route, struct rest_call *call,
                      struct http_reply *reply)
{
    struct hws_error err = {0};
    json_t *body = NULL, *result = NULL;
    int r = read_page(call, &err);
    if (r == 0)
        r = read_body(call->request, &body, &err);
    call->body = body;
    if (r == 0)
        r = route->run(call, &result, &err);
    if (r < 0)
        answer_error(call->request, r, &err, reply);
    else
        http_reply_json(reply, route->status, result);
    json_decref(body);
}

static void answer_metrics(struct control *control, const struct http_request *request,
                           struct http_reply *reply)
{
    struct hws_error err = {0};
    char *text;
    int r = rest_metrics(control, &text, &err);
    if (r < 0) {
        answer_error(request, r, &err, reply);
        return;
    }
    *reply = (struct http_reply){200, "text/plain; version=0.0.4", text, strlen(text)};
}

void rest_handle(void *arg, const struct http_request *request, struct http_reply *reply)
{
    struct rest_call call = {.control = arg, .request = request};
    bool path_known, get = !strcmp(request->method, "GET");
    if (get && !strcmp(request->path, "/healthz")) {
        struct hws_error err = {0};
        json_t *counts = NULL;
        int r = control_counts(arg, &counts, &err);
        if (r < 0)
            answer_error(request, r, &err, reply);
        else
            http_reply_json(reply, 200,
                            json_pack("{s:s, s:s, s:o}", "status", "ok", "version", HAWSER_VERSION,
                                      "objects", counts));
        return;
    }
    if (get && !strcmp(request->path, "/metrics")) {
        answer_metrics(arg, request, reply);
        return;
    }
    const struct rest_route *route = find_route(&call, &path_known);
    if (route)
        run_route(route, &call, reply);
    else if (path_known)
        rest_refuse(request, 405, "this path does not have this method", reply);
    else
        rest_refuse(request, 404, "there is no such path; docs/control.md lists them", reply);
}
