/*
 * Tables of fields; see control/record.h.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "control/record.h"
#include "base/size.h"

static void *at(const struct record_field *field, void *record)
{
    return (char *)record + field->offset;
}

static int check_text(const struct record_field *field, const json_t *value, const char *what,
                      struct hws_error *err)
{
    const char *text = json_string_value(value);
    size_t max = field->max ? field->max : RECORD_TEXT_MAX;
    if (json_string_length(value) > max)
        return hws_fail(err, EINVAL, "%s: %s is longer than %zu bytes", what, field->name, max);
    if (strlen(text) != json_string_length(value))
        return hws_fail(err, EINVAL, "%s: %s contains a NUL character", what, field->name);
    for (const char *const *choice = field->choices; choice && *choice; choice++)
        if (!strcmp(*choice, text))
            return 0;
    if (!field->choices)
        return 0;
    char list[256] = "";
    for (const char *const *choice = field->choices; *choice; choice++) {
        size_t used = strlen(list);
        snprintf(list + used, sizeof(list) - used, "%s%s", used ? ", " : "", *choice);
    }
    return hws_fail(err, EINVAL, "%s: %s is '%.100s'; it can be %s", what, field->name, text, list);
}

static int parse_text(const struct record_field *field, const json_t *value, const char *what,
                      void *out, struct hws_error *err)
{
    if (!json_is_string(value))
        return hws_fail(err, EINVAL, "%s: %s must be a text", what, field->name);
    int r = check_text(field, value, what, err);
    if (r < 0)
        return r;
    char *copy = strdup(json_string_value(value));
    *(char **)out = copy;
    return copy ? 0 : hws_fail(err, ENOMEM, "out of memory");
}

static int parse_number(const struct record_field *field, const json_t *value, const char *what,
                        uint64_t *out, struct hws_error *err)
{
    uint64_t max = field->max ? field->max : INT64_MAX, number;
    if (field->kind == RECORD_SIZE && json_is_string(value)) {
        int r = strlen(json_string_value(value)) == json_string_length(value)
                    ? size_parse(json_string_value(value), &number, err)
                    : hws_fail(err, EINVAL, "not a size");
        if (r < 0)
            return hws_wrap(err, -EINVAL, "%s: %s", what, field->name);
    } else if (json_is_integer(value) && json_integer_value(value) >= 0) {
        number = (uint64_t)json_integer_value(value);
    } else {
        return hws_fail(err, EINVAL, "%s: %s must be a whole number%s", what, field->name,
                        field->kind == RECORD_SIZE ? " of bytes, or a text such as \"10G\"" : "");
    }
    if (number > max)
        return hws_fail(err, EINVAL, "%s: %s is %llu; the most is %llu", what, field->name,
                        (unsigned long long)number, (unsigned long long)max);
    *out = number;
    return 0;
}

static int check_member(const struct record_field *field, const char *name, const json_t *value,
                        const char *what, struct hws_error *err)
{
    if (name && (!*name || strlen(name) > 128))
        return hws_fail(err, EINVAL, "%s: a name in %s is empty or longer than 128 bytes", what,
                        field->name);
    if (!json_is_string(value) || json_string_length(value) > RECORD_TEXT_MAX ||
        strlen(json_string_value(value)) != json_string_length(value))
        return hws_fail(err, EINVAL, "%s: %s holds what is no text of up to %d bytes", what,
                        field->name, RECORD_TEXT_MAX);
    return 0;
}

static int parse_members(const struct record_field *field, const json_t *value, const char *what,
                         json_t **out, struct hws_error *err)
{
    bool labels = field->kind == RECORD_LABELS;
    size_t max = field->max ? field->max : RECORD_MEMBERS_MAX, i;
    const char *name;
    json_t *member;
    int r = 0;
    if (labels ? !json_is_object(value) : !json_is_array(value))
        return hws_fail(err, EINVAL, "%s: %s must be %s", what, field->name,
                        labels ? "an object of texts" : "an array of texts");
    if ((labels ? json_object_size(value) : json_array_size(value)) > max)
        return hws_fail(err, EINVAL, "%s: %s has more than %zu members", what, field->name, max);
    if (labels)
        json_object_foreach((json_t *)value, name, member) r =
            r < 0 ? r : check_member(field, name, member, what, err);
    else
        json_array_foreach(value, i, member) r =
            r < 0 ? r : check_member(field, NULL, member, what, err);
    if (r < 0)
        return r;
    json_decref(*out);
    *out = json_deep_copy(value);
    return *out ? 0 : hws_fail(err, ENOMEM, "out of memory");
}

static int parse_field(const struct record_field *field, const json_t *value, const char *what,
                       void *out, struct hws_error *err)
{
    switch (field->kind) {
    case RECORD_TEXT:
        return parse_text(field, value, what, out, err);
    case RECORD_UINT:
    case RECORD_SIZE:
        return parse_number(field, value, what, out, err);
    case RECORD_BOOL:
        if (!json_is_boolean(value))
            return hws_fail(err, EINVAL, "%s: %s must be true or false", what, field->name);
        *(bool *)out = json_is_true(value);
        return 0;
    case RECORD_LABELS:
    case RECORD_LIST:
        return parse_members(field, value, what, out, err);
    }
    return -EINVAL;
}

static int check_known(const struct record_field *fields, const json_t *given, const char *what,
                       struct hws_error *err)
{
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)given, name, value)
    {
        const struct record_field *field = fields;
        while (field->name && strcmp(field->name, name))
            field++;
        if (!field->name)
            return hws_fail(err, EINVAL, "%s: there is no '%.100s' here", what, name);
    }
    return 0;
}

int record_parse(const struct record_field *fields, const json_t *given, const char *what,
                 void *out, size_t out_bytes, struct hws_error *err)
{
    memset(out, 0, out_bytes);
    if (!json_is_object(given))
        return hws_fail(err, EINVAL, "%s: this must be a JSON object", what);
    int r = check_known(fields, given, what, err);
    for (const struct record_field *field = fields; r == 0 && field->name; field++) {
        const json_t *value = json_object_get(given, field->name);
        if (field->kind == RECORD_LABELS)
            *(json_t **)at(field, out) = json_object();
        else if (field->kind == RECORD_LIST)
            *(json_t **)at(field, out) = json_array();
        if (value && !json_is_null(value))
            r = parse_field(field, value, what, at(field, out), err);
        else if (field->required)
            r = hws_fail(err, EINVAL, "%s: %s is missing", what, field->name);
    }
    if (r < 0)
        record_free(fields, out);
    return r;
}

json_t *record_json(const struct record_field *fields, const void *record)
{
    json_t *object = json_object();
    for (const struct record_field *field = fields; field->name; field++) {
        const void *from = (const char *)record + field->offset;
        json_t *value = NULL;
        switch (field->kind) {
        case RECORD_TEXT:
            value = *(char *const *)from ? json_string(*(char *const *)from) : NULL;
            break;
        case RECORD_UINT:
        case RECORD_SIZE:
            if (!field->sparse || *(const uint64_t *)from)
                value = json_integer((json_int_t) * (const uint64_t *)from);
            break;
        case RECORD_BOOL:
            value = json_boolean(*(const bool *)from);
            break;
        case RECORD_LABELS:
        case RECORD_LIST:
            value = json_incref(*(json_t *const *)from);
            break;
        }
        if (value)
            json_object_set_new(object, field->name, value);
    }
    return object;
}

static size_t width_of(const struct record_field *field)
{
    switch (field->kind) {
    case RECORD_UINT:
    case RECORD_SIZE:
        return sizeof(uint64_t);
    case RECORD_BOOL:
        return sizeof(bool);
    case RECORD_TEXT:
    case RECORD_LABELS:
    case RECORD_LIST:
        break;
    }
    return sizeof(void *);
}

void record_change(const struct record_field *fields, const json_t *request, void *from, void *to)
{
    for (const struct record_field *field = fields; field->name; field++) {
        const json_t *value = json_object_get(request, field->name);
        const struct record_field one[] = {*field, {NULL}};
        if (!value || json_is_null(value))
            continue;
        record_free(one, to);
        memcpy(at(field, to), at(field, from), width_of(field));
        memset(at(field, from), 0, width_of(field));
    }
}

void record_free(const struct record_field *fields, void *record)
{
    for (const struct record_field *field = fields; field->name; field++) {
        void *from = at(field, record);
        if (field->kind == RECORD_TEXT) {
            free(*(char **)from);
            *(char **)from = NULL;
        } else if (field->kind == RECORD_LABELS || field->kind == RECORD_LIST) {
            json_decref(*(json_t **)from);
            *(json_t **)from = NULL;
        }
    }
}

int record_set_text(char **field, const char *text)
{
    char *copy = text ? strdup(text) : NULL;
    if (text && !copy)
        return -ENOMEM;
    free(*field);
    *field = copy;
    return 0;
}
