/*
 * What hawserd answers as tables and fields for people, or as JSON; see cli/control.h.
 *
 * Names of objects that others refer to by id are asked for once each.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cli/control.h"
#include "base/size.h"
#include <time.h>

#define COLUMNS_MAX 12
#define CELL_BYTES  256

static const json_t *member_of(const json_t *item, const char *name)
{
    const char *dot = strchr(name, '.');
    char first[64];
    if (!dot)
        return json_object_get(item, name);
    snprintf(first, sizeof(first), "%.*s", (int)(dot - name), name);
    return member_of(json_object_get(item, first), dot + 1);
}

/* The name of the object that @ref and @id are the path of; the id itself where it is gone. */
static void print_name(const struct control_command *command, const char *ref, const char *id,
                       char *buffer)
{
    static json_t *names;
    struct hws_error err = {0};
    json_t *object = NULL;
    if (!names)
        names = json_object();
    if (!json_object_get(names, id)) {
        char path[CONTROL_PATH_BYTES];
        size_t used = (size_t)snprintf(path, sizeof(path), "%s", ref);
        const char *name = NULL;
        if (control_escape(path, &used, id) &&
            control_ask(command, "GET", path, NULL, &object, &err) == 0)
            name = json_string_value(json_object_get(object, "name"));
        json_object_set_new(names, id, json_string(name ? name : id));
        json_decref(object);
    }
    snprintf(buffer, CELL_BYTES, "%s", json_string_value(json_object_get(names, id)));
}

static void print_seconds(uint64_t seconds, char *buffer)
{
    static const struct {
        uint64_t seconds;
        const char *name;
    } units[] = {{604800, "w"}, {86400, "d"}, {3600, "h"}, {60, "m"}, {1, "s"}};
    unsigned i = 0;
    while (i + 1 < ARRAY_LEN(units) && (seconds < units[i].seconds || seconds % units[i].seconds))
        i++;
    snprintf(buffer, CELL_BYTES, "%llu%s", (unsigned long long)(seconds / units[i].seconds),
             units[i].name);
}

static void print_time(time_t at, char *buffer)
{
    struct tm parts;
    if (!at || !localtime_r(&at, &parts) ||
        !strftime(buffer, CELL_BYTES, "%Y-%m-%d %H:%M:%S", &parts))
        snprintf(buffer, CELL_BYTES, "-");
}

/* An item of a list, "NAME=VALUE" of an object, or, where that is a truth, "NAME". */
static int print_item(char *buffer, size_t bytes, const char *key, const json_t *value)
{
    const char *before = key ? key : "", *equals = key ? "=" : "";
    if (json_is_string(value))
        return snprintf(buffer, bytes, "%s%s%s", before, equals, json_string_value(value));
    if (json_is_integer(value))
        return snprintf(buffer, bytes, "%s%s%lld", before, equals,
                        (long long)json_integer_value(value));
    return snprintf(buffer, bytes, "%s", json_is_true(value) ? before : "");
}

/* What does not fit ends in "...". */
static void print_many(const json_t *value, char *buffer)
{
    size_t used = 0, i = 0, count = json_is_array(value) ? json_array_size(value) : 0;
    void *at = json_object_iter((json_t *)value);
    for (; (at || i < count) && used + 3 < CELL_BYTES; i++) {
        const json_t *item = at ? json_object_iter_value(at) : json_array_get(value, i);
        const char *key = at ? json_object_iter_key(at) : NULL;
        size_t start = used ? used + 2 : 0;
        int length = print_item(buffer + start, CELL_BYTES - start, key, item);
        if (length > 0 && used)
            memcpy(buffer + used, ", ", 2);
        used = length > 0 ? start + (size_t)length : used;
        at = at ? json_object_iter_next((json_t *)value, at) : NULL;
    }
    if (used >= CELL_BYTES || at || i < count)
        snprintf(buffer + MIN(used, (size_t)CELL_BYTES - 4), 4, "...");
    else
        snprintf(buffer + used, CELL_BYTES - used, used ? "" : "-");
}

static void print_integer(json_int_t value, enum control_kind kind, char *buffer)
{
    if (kind == CONTROL_SIZE || kind == CONTROL_LIMIT)
        size_format((uint64_t)value, buffer, CELL_BYTES);
    else if (kind == CONTROL_PERCENT)
        snprintf(buffer, CELL_BYTES, "%lld %%", (long long)value);
    else if (kind == CONTROL_TIME)
        print_time((time_t)value, buffer);
    else if (kind == CONTROL_SECONDS)
        print_seconds((uint64_t)value, buffer);
    else
        snprintf(buffer, CELL_BYTES, "%lld", (long long)value);
}

static bool says_nothing(const json_t *value, enum control_kind kind)
{
    if (json_is_array(value))
        return kind != CONTROL_NUMBER && !json_array_size(value);
    if (json_is_object(value))
        return !json_object_size(value);
    return !value || (json_is_integer(value) && !json_integer_value(value) &&
                      (kind == CONTROL_LIMIT || kind == CONTROL_PERCENT ||
                       kind == CONTROL_SECONDS || kind == CONTROL_TIME));
}

static const char *cell(const struct control_command *command, const json_t *item,
                        const struct control_column *column, char *buffer)
{
    const json_t *value = member_of(item, column->member);
    snprintf(buffer, CELL_BYTES, "-");
    if (says_nothing(value, column->kind))
        return buffer;
    if (json_is_string(value) && column->kind == CONTROL_REF)
        print_name(command, column->ref, json_string_value(value), buffer);
    else if (json_is_string(value))
        snprintf(buffer, CELL_BYTES, "%s", json_string_value(value));
    else if (json_is_array(value) && column->kind == CONTROL_NUMBER)
        snprintf(buffer, CELL_BYTES, "%zu", json_array_size(value));
    else if (json_is_array(value) || json_is_object(value))
        print_many(value, buffer);
    else if (json_is_integer(value))
        print_integer(json_integer_value(value), column->kind, buffer);
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
            MAX(width[c], strlen(cell(command, item, &columns[c], buffer)));
    }
    for (unsigned c = 0; c < count; c++)
        printf("%-*s%s", c + 1 < count ? (int)width[c] : 0, columns[c].title,
               c + 1 < count ? "  " : "\n");
    json_array_foreach(items, i, item)
    {
        for (unsigned c = 0; c < count; c++) {
            const char *text = cell(command, item, &columns[c], buffer);
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
        if (!says_nothing(member_of(item, columns->member), columns->kind))
            out_field(columns->title, "%s", cell(command, item, columns, buffer));
    json_decref(item);
}
