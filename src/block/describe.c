/*
 * From what a user typed to an open description. Pure: no file is touched, so it is fuzzed
 * directly.
 *
 *   qcow2:file:/a/b   {"driver": "qcow2", "file": {"driver": "file", "filename": "/a/b"}}
 *   /a/b              {"file": {"driver": "file", "filename": "/a/b"}}        the caller probes
 *   null://1G         {"driver": "null", "size": "1G"}
 *   json:{...}        as it stands
 *
 * Only the names of known drivers count as prefixes, and a backend's name ends the chain:
 * everything behind "file:" is the path, colons included. So "a:b" is a path unless a driver is
 * called "a".
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "block/core.h"

/* Longer than any path that the kernel takes, and room for a description of a deep graph. */
#define TEXT_BYTES_MAX (64 * 1024)
/* jansson parses by recursion, and coroutine stacks are small. */
#define JSON_DEPTH_MAX 40

/* Members are bytes, not UTF-8: a path may hold anything but NUL. */
static int put_text(json_t *object, const char *name, const char *text)
{
    return json_object_set_new(object, name, json_string_nocheck(text));
}

json_t *describe_file(const char *path)
{
    json_t *file = json_object();
    if (!file || put_text(file, "driver", "file") < 0 || put_text(file, "filename", path) < 0) {
        json_decref(file);
        return NULL;
    }
    return file;
}

const struct block_driver *describe_prefix(const char *text, const char **ret_rest)
{
    for (const struct block_driver *const *d = block_drivers(); *d; d++) {
        size_t length = strlen((*d)->name);
        if (strncmp(text, (*d)->name, length) == 0 && text[length] == ':') {
            *ret_rest = text + length + 1;
            return *d;
        }
    }
    return NULL;
}

/* The scheme of "scheme://...": letters, digits, + - . behind a letter (RFC 3986, section 3.1). */
static size_t scheme_length(const char *text)
{
    size_t i = 0;
    while ((text[i] >= 'a' && text[i] <= 'z') || (text[i] >= 'A' && text[i] <= 'Z') ||
           (i && ((text[i] >= '0' && text[i] <= '9') || strchr("+-.", text[i]))))
        if (!text[i++])
            return 0;
    return i && strncmp(text + i, "://", 3) == 0 ? i : 0;
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* Percent-decoding of a URI (RFC 3986, section 2.1), in place. */
static int decode_uri(char *text, struct hws_error *err)
{
    char *out = text;
    for (const char *in = text; *in; in++) {
        if (*in != '%') {
            *out++ = *in;
            continue;
        }
        int high = hex_digit(in[1]), low = high < 0 ? -1 : hex_digit(in[2]);
        if (low < 0 || (high | low) == 0)
            return hws_fail(err, EINVAL,
                            "'%.200s': '%%' must be followed by two hex digits, not 00", in);
        *out++ = (char)(high << 4 | low);
        in += 2;
    }
    *out = '\0';
    return 0;
}

static int describe_backend(const struct block_driver *driver, const char *rest, json_t **ret,
                            struct hws_error *err)
{
    if (!driver->text_option)
        return hws_fail(err, EINVAL, "driver '%s' has no text form; describe it as JSON",
                        driver->name);
    autofree char *text = strdup(rest);
    if (!text)
        return hws_fail(err, ENOMEM, "out of memory");
    const char *value = text;
    if (strncmp(text, "//", 2) == 0) {
        int r = decode_uri(text, err);
        if (r < 0)
            return r;
        value = text + 2;
        if (strcmp(driver->text_option, "filename") == 0 && *value != '/')
            return hws_fail(err, EINVAL, "'%s:%.200s': a path in a URI is absolute: %s:///path",
                            driver->name, rest, driver->name);
    }
    json_t *object = json_object();
    if (!object || put_text(object, "driver", driver->name) < 0 ||
        (*value && put_text(object, driver->text_option, value) < 0)) {
        json_decref(object);
        return hws_fail(err, ENOMEM, "out of memory");
    }
    *ret = object;
    return 0;
}

/* Puts the driver @name (NULL: none yet) on top of @file, whose reference it takes. */
static json_t *put_on_top(const char *name, json_t *file)
{
    json_t *object = json_object();
    if (!object || !file || (name && put_text(object, "driver", name) < 0)) {
        json_decref(object);
        json_decref(file);
        return NULL;
    }
    if (json_object_set_new(object, "file", file) < 0) {
        json_decref(object);
        return NULL;
    }
    return object;
}

static int describe_plain(const char *text, json_t **ret, struct hws_error *err)
{
    size_t scheme = scheme_length(text);
    if (scheme)
        return hws_fail(err, EINVAL,
                        "no driver is called '%.*s'; a file of that name is written file:%.200s",
                        (int)MIN(scheme, (size_t)32), text, text);
    if (!*text)
        return hws_fail(err, EINVAL, "the name of the image is empty");
    *ret = describe_file(text);
    return *ret ? 0 : hws_fail(err, ENOMEM, "out of memory");
}

static int describe_chain(const char *text, json_t **ret, struct hws_error *err)
{
    const char *names[BLOCK_NESTING_MAX], *rest = text;
    unsigned count = 0;
    const struct block_driver *driver;
    json_t *object = NULL;
    int r;
    while ((driver = describe_prefix(text, &rest)) && driver->kind != BLOCK_BACKEND) {
        if (count == BLOCK_NESTING_MAX)
            return hws_fail(err, EINVAL, "'%.200s...': more than %d drivers", text,
                            BLOCK_NESTING_MAX);
        names[count++] = driver->name;
        text = rest;
    }
    r = driver ? describe_backend(driver, rest, &object, err) : describe_plain(text, &object, err);
    if (r < 0)
        return r;
    if (!driver && count == 0)
        object = put_on_top(NULL, object);
    while (object && count)
        object = put_on_top(names[--count], object);
    if (!object)
        return hws_fail(err, ENOMEM, "out of memory");
    *ret = object;
    return 0;
}

/* How deep the brackets of a JSON text go. Counts more rather than less where the text is broken.
 */
static unsigned json_depth(const char *text)
{
    unsigned depth = 0, deepest = 0;
    bool quoted = false;
    for (; *text; text++) {
        if (quoted) {
            if (*text == '\\' && text[1])
                text++;
            else if (*text == '"')
                quoted = false;
        } else if (*text == '"') {
            quoted = true;
        } else if (*text == '{' || *text == '[') {
            deepest = MAX(deepest, ++depth);
        } else if ((*text == '}' || *text == ']') && depth) {
            depth--;
        }
    }
    return deepest;
}

static int describe_json(const char *text, json_t **ret, struct hws_error *err)
{
    json_error_t where;
    if (json_depth(text) > JSON_DEPTH_MAX)
        return hws_fail(err, EINVAL, "the JSON description is nested deeper than %d",
                        JSON_DEPTH_MAX);
    json_t *object = json_loads(text, JSON_REJECT_DUPLICATES, &where);
    if (!object)
        return hws_fail(err, EINVAL, "the JSON description is broken at line %d, column %d: %s",
                        where.line, where.column, where.text);
    if (!json_is_object(object)) {
        json_decref(object);
        return hws_fail(err, EINVAL, "the JSON description is not an object");
    }
    *ret = object;
    return 0;
}

/* Puts the format that the user named on top of what the text says. Takes @object's reference. */
static int add_format(json_t *object, const char *format, json_t **ret, struct hws_error *err)
{
    const char *top = json_string_value(json_object_get(object, "driver"));
    const struct block_driver *top_driver = top ? block_driver_find(top) : NULL;
    const struct block_driver *driver = block_driver_find(format);
    int r = 0;
    if (!driver || driver->kind == BLOCK_BACKEND)
        r = hws_fail(err, EINVAL, "no format is called '%.64s'", format);
    else if (top && strcmp(top, format) == 0)
        *ret = object;
    else if (top && (!top_driver || top_driver->kind != BLOCK_BACKEND))
        r = hws_fail(err, EINVAL, "the format is given as '%s', but the description says '%.64s'",
                     format, top);
    else if (top)
        *ret = put_on_top(format, object);
    else if (put_text(object, "driver", format) == 0)
        *ret = object;
    if (r < 0)
        json_decref(object);
    else if (!*ret)
        r = hws_fail(err, ENOMEM, "out of memory");
    return r;
}

int block_describe(const char *text, const char *format, json_t **ret, struct hws_error *err)
{
    json_t *object = NULL, *full = NULL;
    if (strnlen(text, TEXT_BYTES_MAX) == TEXT_BYTES_MAX)
        return hws_fail(err, ENAMETOOLONG, "the description is longer than %d bytes",
                        TEXT_BYTES_MAX);
    int r;
    if (strncmp(text, "json:", 5) == 0)
        r = describe_json(text + 5, &object, err);
    else if (*text == '{')
        r = describe_json(text, &object, err);
    else
        r = describe_chain(text, &object, err);
    if (r < 0)
        return r;
    if (format) {
        r = add_format(object, format, &full, err);
        if (r < 0)
            return r;
        object = full;
    }
    *ret = object;
    return 0;
}
