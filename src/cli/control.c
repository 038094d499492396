/*
 * Clients of hawserd; see cli/control.h.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cli/control.h"
#include "api/http/client.h"
#include "base/size.h"
#include <stdarg.h>

#define PATH_BYTES   4096
#define COLUMNS_MAX  12
#define CELL_BYTES   256
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

/* Appends @text with all that has a meaning in a path as %XX. */
static bool escape(char *path, size_t *used, const char *text)
{
    for (; *text && *used + 4 < PATH_BYTES; text++) {
        bool plain = (*text >= '0' && *text <= '9') || (*text >= 'a' && *text <= 'z') ||
                     (*text >= 'A' && *text <= 'Z') || strchr("._-", *text);
        *used += (size_t)snprintf(path + *used, PATH_BYTES - *used, plain ? "%c" : "%%%02x",
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
            fits = escape(path, &used, va_arg(names, const char *));
            at++;
        } else {
            fits = used + 2 < PATH_BYTES;
            if (fits)
                path[used++] = *at;
        }
    }
    path[used] = '\0';
    return fits ? 0 : hws_fail(err, ENAMETOOLONG, "a name is too long");
}

static int ask(const struct control_command *command, const char *method, const char *path,
               const json_t *body, json_t **ret, struct hws_error *err)
{
    char buffer[SOCKET_BYTES];
    unsigned status = 0;
    json_t *answer = NULL;
    int r = http_call(socket_of(command, buffer), method, path, body, &status, &answer, err);
    if (r == 0 && status >= 400) {
        const char *text =
            json_string_value(json_object_get(json_object_get(answer, "error"), "message"));
        r = hws_fail(err, EIO, "%.700s", text ? text : "hawserd gave no reason");
    }
    if (r < 0)
        json_decref(answer);
    else
        *ret = answer;
    return r;
}

int control_call(const struct control_command *command, const char *method, json_t *body,
                 json_t **ret, struct hws_error *err, const char *format, ...)
{
    char path[PATH_BYTES];
    va_list names;
    va_start(names, format);
    int r = make_path(path, format, names, err);
    va_end(names);
    *ret = NULL;
    if (r == 0)
        r = ask(command, method, path, body, ret, err);
    json_decref(body);
    return r;
}

int control_list(const struct control_command *command, const char *path, json_t **ret,
                 struct hws_error *err)
{
    char page[PATH_BYTES], after[CELL_BYTES] = "";
    json_t *all = json_array();
    for (;;) {
        json_t *answer = NULL;
        snprintf(page, sizeof(page), "%s?limit=1000%s%s", path, *after ? "&after=" : "", after);
        int r = ask(command, "GET", page, NULL, &answer, err);
        if (r < 0) {
            json_decref(all);
            return r;
        }
        json_array_extend(all, json_object_get(answer, "items"));
        const char *next = json_string_value(json_object_get(answer, "next"));
        snprintf(after, sizeof(after), "%s", next ? next : "");
        json_decref(answer);
        if (!*after)
            break;
    }
    *ret = all;
    return 0;
}

/* ---- printing ---- */

static const json_t *member_of(const json_t *item, const char *name)
{
    const char *dot = strchr(name, '.');
    char first[64];
    if (!dot)
        return json_object_get(item, name);
    snprintf(first, sizeof(first), "%.*s", (int)(dot - name), name);
    return json_object_get(json_object_get(item, first), dot + 1);
}

static const char *cell(const json_t *item, const struct control_column *column, char *buffer)
{
    const json_t *value = member_of(item, column->member);
    snprintf(buffer, CELL_BYTES, "-");
    if (json_is_string(value))
        snprintf(buffer, CELL_BYTES, "%s", json_string_value(value));
    else if (json_is_array(value))
        snprintf(buffer, CELL_BYTES, "%zu", json_array_size(value));
    else if (json_is_integer(value) && column->kind == CONTROL_SIZE)
        size_format((uint64_t)json_integer_value(value), buffer, CELL_BYTES);
    else if (json_is_integer(value))
        snprintf(buffer, CELL_BYTES, "%lld", (long long)json_integer_value(value));
    else if (json_is_boolean(value))
        snprintf(buffer, CELL_BYTES, "%s", json_is_true(value) ? "yes" : "no");
    return buffer;
}

void control_print_list(const struct control_command *command, json_t *items,
                        const struct control_column *columns)
{
    size_t width[COLUMNS_MAX] = {0}, i;
    unsigned count = 0;
    char buffer[CELL_BYTES];
    json_t *item;
    if (command->output == CLI_JSON) {
        out_json(items);
        return;
    }
    while (columns[count].title)
        count++;
    assert(count <= COLUMNS_MAX);
    for (unsigned c = 0; c < count; c++) {
        width[c] = strlen(columns[c].title);
        json_array_foreach(items, i, item) width[c] =
            MAX(width[c], strlen(cell(item, &columns[c], buffer)));
    }
    for (unsigned c = 0; c < count; c++)
        printf("%-*s%s", c + 1 < count ? (int)width[c] : 0, columns[c].title,
               c + 1 < count ? "  " : "\n");
    json_array_foreach(items, i, item)
    {
        for (unsigned c = 0; c < count; c++) {
            const char *text = cell(item, &columns[c], buffer);
            out_safe(stdout, text);
            printf("%*s", c + 1 < count ? (int)(width[c] - strlen(text)) + 2 : 0, "");
        }
        putchar('\n');
    }
    json_decref(items);
}

void control_print_one(const struct control_command *command, json_t *item,
                       const struct control_column *columns)
{
    char buffer[CELL_BYTES];
    if (command->output == CLI_JSON) {
        out_json(item);
        return;
    }
    for (; columns->title; columns++)
        if (member_of(item, columns->member))
            out_field(columns->title, "%s", cell(item, columns, buffer));
    json_decref(item);
}

/* ---- requests ---- */

void control_set_text(json_t *body, const char *name, const char *text)
{
    if (text)
        json_object_set_new(body, name, json_string(text));
}

void control_set_size(json_t *body, const char *name, uint64_t bytes)
{
    if (bytes != UINT64_MAX)
        json_object_set_new(body, name, json_integer((json_int_t)bytes));
}

int control_set_labels(json_t *body, const struct cli_list *labels, struct hws_error *err)
{
    json_t *object = json_object();
    int r = 0;
    for (unsigned i = 0; i < labels->count && r == 0; i++) {
        const char *equals = strchr(labels->item[i], '=');
        autofree char *name =
            equals ? strndup(labels->item[i], (size_t)(equals - labels->item[i])) : NULL;
        if (!name || json_object_set_new(object, name, json_string(equals + 1)) < 0)
            r = hws_fail(err, EINVAL, "label '%.100s' is not NAME=VALUE", labels->item[i]);
    }
    if (r == 0 && labels->count)
        json_object_set(body, "labels", object);
    json_decref(object);
    return r;
}

int control_run_action(const char *command, const struct control_action *actions,
                       const void *options, char **operands, unsigned count)
{
    const char *names[32] = {NULL};
    struct hws_error err = {0};
    unsigned i = 0;
    for (; actions[i].name && strcmp(actions[i].name, operands[0]) != 0; i++)
        names[MIN(i, ARRAY_LEN(names) - 2)] = actions[i].name;
    if (!actions[i].name) {
        const char *near = cli_nearest(operands[0], names);
        hws_fail(&err, EINVAL, "there is no action '%.100s'%s%s%s", operands[0],
                 near ? "; did you mean '" : "; see --help", near ? near : "", near ? "'?" : "");
        return out_error(command, CLI_USAGE, &err);
    }
    if (count - 1 != actions[i].operands) {
        hws_fail(&err, EINVAL, "usage: hawser %s %s %s", command, actions[i].name,
                 actions[i].usage);
        return out_error(command, CLI_USAGE, &err);
    }
    return actions[i].run(options, operands + 1, &err) < 0 ? out_error(command, CLI_FAILED, &err)
                                                           : CLI_OK;
}
