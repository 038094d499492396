/*
 * The words of --nbd-export: the name first, then options, some of them flags. The engine checks
 * their values.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cli/nbd_export.h"
#include "base/common.h"

/* Copies up to a single comma. @return where to go on, NULL at the end. */
static const char *next_word(const char *text, char *word)
{
    for (; *text; *word++ = *text++)
        if (*text == ',' && *++text != ',') {
            *word = 0;
            return text;
        }
    *word = 0;
    return NULL;
}

static int set(json_t *export, const char *name, json_t *value, struct hws_error *err)
{
    if (json_object_get(export, name)) {
        json_decref(value);
        return hws_fail(err, EINVAL, "--nbd-export: '%s' is given twice", name);
    }
    return json_object_set_new(export, name, value) < 0
               ? hws_fail(err, EINVAL, "--nbd-export: the value of '%s' is not valid UTF-8", name)
               : 0;
}

static int add_bitmap(json_t *export, const char *name, struct hws_error *err)
{
    json_t *list = json_object_get(export, "bitmaps");
    if (!list)
        json_object_set_new(export, "bitmaps", list = json_array());
    return json_array_append_new(list, json_string(name)) < 0
               ? hws_fail(err, EINVAL, "--nbd-export: a bitmap's name is not valid UTF-8")
               : 0;
}

static int set_word(json_t *export, char *word, struct hws_error *err)
{
    static const char *const valued[] = {"volume", "description", "connections"};
    char *value = strchr(word, '=');
    if (value)
        *value++ = 0;
    if (!value && !strcmp(word, "read-only"))
        return set(export, word, json_true(), err);
    if (!value && !strcmp(word, "no-bitmaps"))
        return set(export, "bitmaps", json_array(), err);
    if (!value && !strcmp(word, "no-allocation-depth"))
        return set(export, "allocation-depth", json_false(), err);
    if (value && !strcmp(word, "bitmap"))
        return add_bitmap(export, value, err);
    for (unsigned i = 0; value && i < ARRAY_LEN(valued); i++)
        if (!strcmp(word, valued[i]))
            return set(export, word, json_string(value), err);
    return hws_fail(err, EINVAL,
                    "--nbd-export has no option '%.80s'; it knows: volume=, description=, "
                    "read-only, connections=, bitmap=, no-bitmaps, no-allocation-depth",
                    word);
}

int cli_nbd_export(const char *text, json_t **ret, struct hws_error *err)
{
    autofree char *word = malloc(strlen(text) + 1);
    json_t *export = json_object();
    if (!word)
        return hws_fail(err, ENOMEM, "out of memory");
    const char *at = next_word(text, word);
    int r = set(export, "name", json_string(word), err);
    while (at && r == 0) {
        at = next_word(at, word);
        r = set_word(export, word, err);
    }
    if (r < 0)
        json_decref(export);
    else
        *ret = export;
    return r;
}
