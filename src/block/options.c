/*
 * Typed option tables: parsing from JSON members, text form, schema; see block/options.h.
 *
 * A value comes as a native JSON type (from a control socket) or as text (from a command line);
 * both mean the same. Every error names the owner, the option and what would have been right.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "block/options.h"
#include "base/size.h"

#define NAME_BYTES_MAX 64
/* Members of one description; more than any table has, and few enough for linear look-ups. */
#define MEMBERS_MAX 256
#define LIST_MAX    64

static void *field_of(const struct option_desc *desc, void *out)
{
    return (char *)out + desc->offset;
}

static const struct option_desc *find(const struct option_desc *table, const char *name)
{
    for (; table && table->name; table++)
        if (strcmp(table->name, name) == 0)
            return table;
    return NULL;
}

static bool listed(const char *const *names, const char *name)
{
    for (; names && *names; names++)
        if (strcmp(*names, name) == 0)
            return true;
    return false;
}

/* Edit distance of two short names; NAME_BYTES_MAX where one is too long to be a typing error. */
static unsigned distance(const char *a, const char *b)
{
    size_t a_length = strlen(a), b_length = strlen(b);
    unsigned row[NAME_BYTES_MAX + 1];
    if (a_length >= NAME_BYTES_MAX || b_length >= NAME_BYTES_MAX)
        return NAME_BYTES_MAX;
    for (size_t j = 0; j <= b_length; j++)
        row[j] = (unsigned)j;
    for (size_t i = 1; i <= a_length; i++) {
        unsigned diagonal = row[0];
        row[0] = (unsigned)i;
        for (size_t j = 1; j <= b_length; j++) {
            unsigned above = row[j];
            unsigned change = diagonal + (a[i - 1] != b[j - 1]);
            unsigned insert = MIN(above, row[j - 1]) + 1;
            row[j] = MIN(change, insert);
            diagonal = above;
        }
    }
    return row[b_length];
}

/* Appends to a bounded text; what does not fit is left out. */
static void append(char *text, size_t size, const char *more)
{
    size_t used = strlen(text);
    snprintf(text + used, size - used, "%s", more);
}

static int fail_unknown(const struct option_desc *table, const char *name, const char *owner,
                        struct hws_error *err)
{
    char known[512] = "";
    const char *near = NULL;
    unsigned best = 3; /* a name three edits away is no typing error */
    for (const struct option_desc *d = table; d && d->name; d++) {
        append(known, sizeof(known), d == table ? "" : ", ");
        append(known, sizeof(known), d->name);
        unsigned edits = distance(name, d->name);
        if (edits < best) {
            best = edits;
            near = d->name;
        }
    }
    if (near)
        return hws_fail(err, EINVAL, "%s has no option '%.64s'; did you mean '%s'? It knows: %s",
                        owner, name, near, known);
    return hws_fail(err, EINVAL, "%s has no option '%.64s'; it knows: %s", owner, name,
                    known[0] ? known : "none");
}

static int fail_range(const struct option_desc *desc, const char *owner, uint64_t value,
                      struct hws_error *err)
{
    if (desc->max)
        return hws_fail(err, EINVAL, "%s: option '%s' is %llu; it must lie in %llu..%llu", owner,
                        desc->name, (unsigned long long)value, (unsigned long long)desc->min,
                        (unsigned long long)desc->max);
    return hws_fail(err, EINVAL, "%s: option '%s' is %llu; it must be at least %llu", owner,
                    desc->name, (unsigned long long)value, (unsigned long long)desc->min);
}

static int set_number(const struct option_desc *desc, uint64_t value, const char *owner, void *out,
                      struct hws_error *err)
{
    if (value < desc->min || (desc->max && value > desc->max))
        return fail_range(desc, owner, value, err);
    *(uint64_t *)field_of(desc, out) = value;
    return 0;
}

static int set_bool(const struct option_desc *desc, const char *text, const char *owner, void *out,
                    struct hws_error *err)
{
    static const char *const yes[] = {"on", "true", "yes", "1", NULL};
    static const char *const no[] = {"off", "false", "no", "0", NULL};
    if (!listed(yes, text) && !listed(no, text))
        return hws_fail(err, EINVAL, "%s: option '%s' is '%.64s'; it must be on or off", owner,
                        desc->name, text);
    *(bool *)field_of(desc, out) = listed(yes, text);
    return 0;
}

static int set_enum(const struct option_desc *desc, const char *text, const char *owner, void *out,
                    struct hws_error *err)
{
    char known[256] = "";
    for (int i = 0; desc->choices[i]; i++) {
        if (strcmp(desc->choices[i], text) == 0) {
            *(int *)field_of(desc, out) = i;
            return 0;
        }
        append(known, sizeof(known), i ? ", " : "");
        append(known, sizeof(known), desc->choices[i]);
    }
    return hws_fail(err, EINVAL, "%s: option '%s' is '%.64s'; it must be one of %s", owner,
                    desc->name, text, known);
}

static int set_uint(const struct option_desc *desc, const char *text, const char *owner, void *out,
                    struct hws_error *err)
{
    char *end = NULL;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    if (errno || end == text || *end || text[0] < '0' || text[0] > '9')
        return hws_fail(err, EINVAL, "%s: option '%s' is '%.64s'; it must be a whole number", owner,
                        desc->name, text);
    return set_number(desc, value, owner, out, err);
}

static int set_string(const struct option_desc *desc, const char *text, void *out,
                      struct hws_error *err)
{
    char **field = field_of(desc, out);
    char *copy = strdup(text);
    if (!copy)
        return hws_fail(err, ENOMEM, "out of memory");
    free(*field);
    *field = copy;
    return 0;
}

static void free_list(char **list)
{
    for (char **at = list; at && *at; at++)
        free(*at);
    free(list);
}

static int set_list(const struct option_desc *desc, const json_t *array, const char *owner,
                    void *out, struct hws_error *err)
{
    uint64_t max = desc->max ? desc->max : LIST_MAX;
    size_t count = json_array_size(array);
    if (count > max)
        return hws_fail(err, E2BIG, "%s: option '%s' lists %zu; up to %llu are possible", owner,
                        desc->name, count, (unsigned long long)max);
    char **list = calloc(count + 1, sizeof(*list));
    int r = list ? 0 : hws_fail(err, ENOMEM, "out of memory");
    for (size_t i = 0; i < count && r == 0; i++) {
        const json_t *item = json_array_get(array, i);
        const char *text = json_string_value(item);
        if (!text || strlen(text) != json_string_length(item))
            r = hws_fail(err, EINVAL, "%s: option '%s' is a list of texts without NUL bytes", owner,
                         desc->name);
        else if (!(list[i] = strdup(text)))
            r = hws_fail(err, ENOMEM, "out of memory");
    }
    if (r < 0) {
        free_list(list);
        return r;
    }
    char ***field = field_of(desc, out);
    free_list(*field);
    *field = list;
    return 0;
}

static int set_list_of_one(const struct option_desc *desc, const char *text, const char *owner,
                           void *out, struct hws_error *err)
{
    json_t *array = json_pack("[s]", text);
    int r = array ? set_list(desc, array, owner, out, err)
                  : hws_fail(err, EINVAL, "%s: option '%s' is not valid UTF-8", owner, desc->name);
    json_decref(array);
    return r;
}

static int set_text(const struct option_desc *desc, const char *text, const char *owner, void *out,
                    struct hws_error *err)
{
    uint64_t bytes;
    switch (desc->type) {
    case OPTION_BOOL:
        return set_bool(desc, text, owner, out, err);
    case OPTION_UINT:
        return set_uint(desc, text, owner, out, err);
    case OPTION_SIZE:
        if (size_parse(text, &bytes, err) < 0)
            return hws_wrap(err, -EINVAL, "%s: option '%s'", owner, desc->name);
        return set_number(desc, bytes, owner, out, err);
    case OPTION_STRING:
        return set_string(desc, text, out, err);
    case OPTION_ENUM:
        return set_enum(desc, text, owner, out, err);
    case OPTION_LIST:
        return set_list_of_one(desc, text, owner, out, err);
    }
    return -EINVAL;
}

static const char *type_name(enum option_type type)
{
    static const char *const names[] = {"bool", "uint", "size", "string", "enum", "list"};
    return names[type];
}

static int set_json(const struct option_desc *desc, const json_t *value, const char *owner,
                    void *out, struct hws_error *err)
{
    bool number = desc->type == OPTION_UINT || desc->type == OPTION_SIZE;
    if (json_is_string(value)) {
        if (strlen(json_string_value(value)) != json_string_length(value))
            return hws_fail(err, EINVAL, "%s: option '%s' holds a NUL byte", owner, desc->name);
        return set_text(desc, json_string_value(value), owner, out, err);
    }
    if (json_is_boolean(value) && desc->type == OPTION_BOOL) {
        *(bool *)field_of(desc, out) = json_is_true(value);
        return 0;
    }
    if (json_is_boolean(value) && desc->type == OPTION_ENUM) /* a switch with further positions */
        return set_enum(desc, json_is_true(value) ? "on" : "off", owner, out, err);
    if (json_is_integer(value) && number) {
        json_int_t n = json_integer_value(value);
        if (n < 0)
            return hws_fail(err, EINVAL, "%s: option '%s' is negative", owner, desc->name);
        return set_number(desc, (uint64_t)n, owner, out, err);
    }
    if (json_is_array(value) && desc->type == OPTION_LIST)
        return set_list(desc, value, owner, out, err);
    return hws_fail(err, EINVAL, "%s: option '%s' has the wrong type; it is a %s", owner,
                    desc->name, type_name(desc->type));
}

void options_free(const struct option_desc *table, void *out)
{
    for (const struct option_desc *d = table; d && d->name; d++) {
        if (d->type == OPTION_LIST) {
            char ***list = field_of(d, out);
            free_list(*list);
            *list = NULL;
        }
        if (d->type == OPTION_STRING) {
            char **field = field_of(d, out);
            free(*field);
            *field = NULL;
        }
    }
}

/* Values that the object does not give: defaults, or a complaint. */
static int set_defaults(const struct option_desc *table, const json_t *object, const char *owner,
                        void *out, struct hws_error *err)
{
    for (const struct option_desc *d = table; d && d->name; d++) {
        if (json_object_get(object, d->name))
            continue;
        if (d->required)
            return hws_fail(err, EINVAL, "%s: option '%s' is missing: %s", owner, d->name, d->help);
        if (d->default_text) {
            int r = set_text(d, d->default_text, owner, out, err);
            if (r < 0)
                return r;
        }
    }
    return 0;
}

int options_parse(const struct option_desc *table, const json_t *object, const char *const *ignore,
                  const char *owner, void *out, size_t out_bytes, struct hws_error *err)
{
    const char *name;
    json_t *value;
    if (out_bytes)
        memset(out, 0, out_bytes);
    if (!json_is_object(object))
        return hws_fail(err, EINVAL, "%s: options must be a JSON object", owner);
    if (json_object_size(object) > MEMBERS_MAX)
        return hws_fail(err, E2BIG, "%s: more than %d options", owner, MEMBERS_MAX);

    int r = set_defaults(table, object, owner, out, err);
    json_object_foreach((json_t *)object, name, value)
    {
        if (r < 0)
            break;
        const struct option_desc *desc = find(table, name);
        if (desc)
            r = set_json(desc, value, owner, out, err);
        else if (!listed(ignore, name))
            r = fail_unknown(table, name, owner, err);
    }
    if (r < 0)
        options_free(table, out);
    return r;
}

/* Copies one item up to an unescaped comma into @item. @return where to go on, NULL at the end. */
static const char *next_item(const char *text, char *item)
{
    for (; *text; text++) {
        if (*text == ',') {
            if (text[1] != ',') {
                *item = '\0';
                return text + 1;
            }
            text++;
        }
        *item++ = *text;
    }
    *item = '\0';
    return NULL;
}

int options_from_text(const char *text, json_t *object, struct hws_error *err)
{
    autofree char *item = malloc(strlen(text) + 1);
    if (!item)
        return hws_fail(err, ENOMEM, "out of memory");
    if (!*text)
        return 0;
    while (text) {
        text = next_item(text, item);
        char *equals = strchr(item, '=');
        if (!equals || equals == item)
            return hws_fail(err, EINVAL, "'%.64s' is not name=value", item);
        *equals = '\0';
        if (json_object_get(object, item))
            return hws_fail(err, EINVAL, "option '%.64s' is given twice", item);
        if (json_object_size(object) >= MEMBERS_MAX)
            return hws_fail(err, E2BIG, "more than %d options", MEMBERS_MAX);
        if (json_object_set_new(object, item, json_string(equals + 1)) < 0)
            return hws_fail(err, EINVAL, "option '%.64s' is not valid UTF-8", item);
    }
    return 0;
}

static json_t *schema_of(const struct option_desc *d)
{
    json_t *entry = json_pack("{s:s, s:s, s:s, s:b}", "name", d->name, "type", type_name(d->type),
                              "help", d->help ? d->help : "", "required", d->required);
    if (entry && d->default_text)
        json_object_set_new(entry, "default", json_string(d->default_text));
    if (entry && (d->type == OPTION_UINT || d->type == OPTION_SIZE)) {
        json_object_set_new(entry, "min", json_integer((json_int_t)d->min));
        if (d->max)
            json_object_set_new(entry, "max", json_integer((json_int_t)d->max));
    }
    if (entry && d->type == OPTION_ENUM) {
        json_t *choices = json_array();
        for (int i = 0; d->choices[i]; i++)
            json_array_append_new(choices, json_string(d->choices[i]));
        json_object_set_new(entry, "choices", choices);
    }
    return entry;
}

json_t *options_schema(const struct option_desc *table)
{
    json_t *array = json_array();
    for (const struct option_desc *d = table; array && d && d->name; d++) {
        if (json_array_append_new(array, schema_of(d)) < 0) {
            json_decref(array);
            return NULL;
        }
    }
    return array;
}
