/*
 * Calls of hawserd; see cli/control.h.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cli/control.h"
#include "api/http/client.h"
#include <limits.h>
#include <stdarg.h>

#define SOCKET_BYTES 4096

static const char *socket_of(const struct control_command *command, char *buffer)
{
    const char *own = getenv("HAWSERD_SOCKET"), *run = getenv("HAWSER_RUN_DIR");
    if (command->socket)
        return command->socket;
    if (own && *own)
        return own;
    snprintf(buffer, SOCKET_BYTES, "%s/hawserd.sock", run && *run ? run : "/run/hawser");
    return buffer;
}

bool control_escape(char *path, size_t *used, const char *text)
{
    for (; *text && *used + 4 < CONTROL_PATH_BYTES; text++) {
        bool plain = (*text >= '0' && *text <= '9') || (*text >= 'a' && *text <= 'z') ||
                     (*text >= 'A' && *text <= 'Z') || strchr("._-", *text);
        *used += (size_t)snprintf(path + *used, CONTROL_PATH_BYTES - *used, plain ? "%c" : "%%%02x",
                                  (unsigned char)*text);
    }
    return !*text;
}

static int make_path(char *path, const char *format, va_list names, struct hws_error *err)
{
    size_t used = 0;
    bool fits = true;
    for (const char *at = format; *at && fits; at++) {
        if (at[0] == '%' && at[1] == 's') {
            fits = control_escape(path, &used, va_arg(names, const char *));
            at++;
        } else {
            fits = used + 2 < CONTROL_PATH_BYTES;
            if (fits)
                path[used++] = *at;
        }
    }
    path[used] = '\0';
    return fits ? 0 : hws_fail(err, ENAMETOOLONG, "a name is too long");
}

/* What to do about it is told with the error. */
static int explain(int r, const char *path, struct hws_error *err)
{
    if (r == -ENOENT || r == -ECONNREFUSED)
        return hws_fail(err, -r,
                        "nothing listens at %.300s: does it run? Start hawserd with 'systemctl "
                        "start hawserd', or as root with 'hawserd &'; if it listens elsewhere, say "
                        "where: --socket=PATH or HAWSERD_SOCKET=PATH",
                        path);
    if (r == -EACCES || r == -EPERM)
        return hws_fail(err, -r, "hawserd's socket %.300s is not for this user; try it as root",
                        path);
    return r;
}

int control_ask(const struct control_command *command, const char *method, const char *path,
                json_t *body, json_t **ret, struct hws_error *err)
{
    char buffer[SOCKET_BYTES];
    const char *at = socket_of(command, buffer);
    unsigned status = 0;
    json_t *answer = NULL;
    *ret = NULL;
    int r = explain(http_call(at, method, path, body, &status, &answer, err), at, err);
    if (r == 0 && status >= 400) {
        const char *text =
            json_string_value(json_object_get(json_object_get(answer, "error"), "message"));
        r = hws_fail(err, status == 404 ? ENOENT : EIO, "%.700s",
                     text ? text : "hawserd gave no reason");
    }
    json_decref(body);
    if (r < 0)
        json_decref(answer);
    else
        *ret = answer;
    return r;
}

int control_call(const struct control_command *command, const char *method, json_t *body,
                 json_t **ret, struct hws_error *err, const char *format, ...)
{
    char path[CONTROL_PATH_BYTES];
    va_list names;
    va_start(names, format);
    int r = make_path(path, format, names, err);
    va_end(names);
    *ret = NULL;
    if (r == 0)
        return control_ask(command, method, path, body, ret, err);
    json_decref(body);
    return r;
}

int control_list(const struct control_command *command, const char *path, json_t **ret,
                 struct hws_error *err)
{
    char page[CONTROL_PATH_BYTES], after[512] = "";
    json_t *all = json_array();
    do {
        json_t *answer = NULL;
        size_t used = (size_t)snprintf(page, sizeof(page), "%s%climit=1000%s", path,
                                       strchr(path, '?') ? '&' : '?', *after ? "&after=" : "");
        int r = used < sizeof(page) && control_escape(page, &used, after)
                    ? control_ask(command, "GET", page, NULL, &answer, err)
                    : hws_fail(err, ENAMETOOLONG, "a name is too long");
        if (r < 0) {
            json_decref(all);
            return r;
        }
        json_array_extend(all, json_object_get(answer, "items"));
        const char *next = json_string_value(json_object_get(answer, "next"));
        snprintf(after, sizeof(after), "%s", next ? next : "");
        json_decref(answer);
    } while (*after);
    *ret = all;
    return 0;
}

int control_absolute(const char *path, char *buffer, struct hws_error *err)
{
    char here[PATH_MAX];
    if (path[0] != '/' && !getcwd(here, sizeof(here)))
        return hws_fail_errno(err, errno, "the current folder");
    int length = path[0] == '/' ? snprintf(buffer, PATH_MAX, "%s", path)
                                : snprintf(buffer, PATH_MAX, "%s/%s", here, path);
    return length < PATH_MAX ? 0 : hws_fail(err, ENAMETOOLONG, "%.200s: too long", path);
}
