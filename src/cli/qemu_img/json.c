/*
 * JSON in qemu-img's layout: four spaces a level, and objects in the order in which qemu's hash
 * table yields their keys. That order is the same for every object, so one list of the known keys,
 * as observed, sorts them all.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cli/qemu_img/qemu_img.h"

static const char *const key_order[] = {
    "icount",
    "vm-clock-nsec",
    "backing-filename-format",
    "snapshots",
    "flags",
    "name",
    "date-sec",
    "date-nsec",
    "vm-clock-sec",
    "id",
    "vm-state-size",
    "granularity",
    "image-end-offset",
    "compressed-clusters",
    "total-clusters",
    "corruptions",
    "corruptions-fixed",
    "check-errors",
    "leaks",
    "leaks-fixed",
    "allocated-clusters",
    "virtual-size",
    "filename",
    "cluster-size",
    "format",
    "fragmented-clusters",
    "actual-size",
    "type",
    "compat",
    "compression-type",
    "lazy-refcounts",
    "bitmaps",
    "refcount-bits",
    "data-file",
    "data-file-raw",
    "corrupt",
    "extended-l2",
    "data",
    "required",
    "fully-allocated",
    "format-specific",
    "full-backing-filename",
    "backing-filename",
    "dirty-flag",
};

#define MEMBERS_MAX 256

struct member {
    const char *key;
    json_t *value;
    size_t rank;
};

static size_t rank_of(const char *key, size_t position)
{
    for (size_t i = 0; i < ARRAY_LEN(key_order); i++)
        if (strcmp(key_order[i], key) == 0)
            return i;
    return ARRAY_LEN(key_order) + position;
}

static int by_rank(const void *a, const void *b)
{
    size_t x = ((const struct member *)a)->rank, y = ((const struct member *)b)->rank;
    return x < y ? -1 : x > y;
}

static size_t sorted(json_t *object, struct member *members)
{
    size_t count = 0;
    const char *key;
    json_t *value;
    json_object_foreach(object, key, value)
    {
        if (count == MEMBERS_MAX)
            break;
        members[count] = (struct member){key, value, rank_of(key, count)};
        count++;
    }
    qsort(members, count, sizeof(*members), by_rank);
    return count;
}

json_t *qi_json_string(const char *text)
{
    json_t *string = json_string(text);
    if (string)
        return string;
    size_t length = strlen(text);
    autofree char *clean = malloc(length * 3 + 1);
    size_t used = 0;
    for (const char *at = text; clean && *at; at++) {
        if ((unsigned char)*at < 0x80)
            clean[used++] = *at;
        else
            memcpy(clean + used, "\xef\xbf\xbd", 3), used += 3;
    }
    return clean ? json_stringn(clean, used) : NULL;
}

static void print_value(json_t *value, int indent);

static void new_line(int indent)
{
    printf("\n%*s", indent * 4, "");
}

static void print_object(json_t *object, int indent)
{
    struct member members[MEMBERS_MAX];
    size_t count = sorted(object, members);
    putchar('{');
    for (size_t i = 0; i < count; i++) {
        json_t *name = json_string(members[i].key);
        autofree char *key = json_dumps(name, JSON_ENCODE_ANY);
        json_decref(name);
        new_line(indent + 1);
        printf("%s: ", key ? key : "\"\"");
        print_value(members[i].value, indent + 1);
        if (i + 1 < count)
            putchar(',');
    }
    new_line(indent);
    putchar('}');
}

static void print_array(json_t *array, int indent)
{
    size_t i;
    json_t *value;
    putchar('[');
    json_array_foreach(array, i, value)
    {
        new_line(indent + 1);
        print_value(value, indent + 1);
        if (i + 1 < json_array_size(array))
            putchar(',');
    }
    new_line(indent);
    putchar(']');
}

static void print_value(json_t *value, int indent)
{
    if (json_is_object(value)) {
        print_object(value, indent);
    } else if (json_is_array(value)) {
        print_array(value, indent);
    } else {
        autofree char *text = json_dumps(value, JSON_ENCODE_ANY | JSON_ENSURE_ASCII);
        fputs(text ? text : "null", stdout);
    }
}

void qi_print_json(json_t *value)
{
    print_value(value, 0);
    putchar('\n');
}

static void print_text(json_t *value, int indent);

static void print_items(json_t *array, int indent)
{
    size_t i;
    json_t *value;
    json_array_foreach(array, i, value)
    {
        bool nested = json_is_object(value) || json_is_array(value);
        printf("%*s[%zu]:%c", indent * 4, "", i, nested ? '\n' : ' ');
        print_text(value, indent + 1);
        if (!nested)
            putchar('\n');
    }
}

static void print_text(json_t *value, int indent)
{
    if (json_is_object(value))
        qi_print_members(value, indent);
    else if (json_is_array(value))
        print_items(value, indent);
    else if (json_is_string(value))
        fputs(json_string_value(value), stdout);
    else if (json_is_boolean(value))
        fputs(json_is_true(value) ? "true" : "false", stdout);
    else
        printf("%lld", (long long)json_integer_value(value));
}

void qi_print_members(json_t *object, int indent)
{
    struct member members[MEMBERS_MAX];
    size_t count = sorted(object, members);
    for (size_t i = 0; i < count; i++) {
        json_t *value = members[i].value;
        bool nested = json_is_object(value) || json_is_array(value);
        printf("%*s", indent * 4, "");
        for (const char *at = members[i].key; *at; at++)
            putchar(*at == '-' ? ' ' : *at);
        printf(":%c", nested ? '\n' : ' ');
        print_text(value, indent + 1);
        if (!nested)
            putchar('\n');
    }
}
