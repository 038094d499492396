/*
 * Docker's options onto those of a volume; see api/docker/options.h.
 *
 * All values are texts here. A list is told by commas, or, where it begins with a dash as the
 * options of mkfs do, as on a command line: "-E nodiscard -m 0" are two.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "api/docker/options.h"
#include "control/requests.h"

/** Fields that are no options: "from" sets two of them, Docker the name, and this file the labels.
 */
static const char *const not_options[] = {"name", "image", "clone", "labels"};
/** What control_volume_create() refuses by name, though no field has it. */
static const char *const later[] = {"encryption", "compression", "limits", "replication"};

static bool is_one_of(const char *name, const char *const *list, unsigned count)
{
    unsigned i = 0;
    while (i < count && strcmp(list[i], name) != 0)
        i++;
    return i < count;
}

static const struct record_field *field_of(const char *name)
{
    const struct record_field *field = request_volume_create;
    if (is_one_of(name, not_options, ARRAY_LEN(not_options)))
        return NULL;
    while (field->name && strcmp(field->name, name) != 0)
        field++;
    return field->name ? field : NULL;
}

static int refuse_unknown(const char *name, struct hws_error *err)
{
    char text[512] = "from";
    size_t used = strlen(text);
    for (const struct record_field *field = request_volume_create; field->name; field++)
        if (field_of(field->name) && used + strlen(field->name) + 2 < sizeof(text))
            used += (size_t)snprintf(text + used, sizeof(text) - used, ", %s", field->name);
    return hws_fail(
        err, EINVAL,
        "there is no option '%.60s'; options are: %s (for example -o size=20G -o fs=xfs, "
        "-o from=VOLUME@SNAPSHOT, -o from=/PATH/OF/IMAGE.qcow2)",
        name, text);
}

static int add_from(json_t *request, const char *value, struct hws_error *err)
{
    if (strstr(value, "://"))
        return hws_fail(
            err, ENOTSUP,
            "from='%.200s': images are not fetched from elsewhere yet; copy it to a folder of "
            "this host and name it by its path",
            value);
    if (value[0] != '/' && strchr(value, '/'))
        return hws_fail(
            err, EINVAL,
            "from='%.200s': an image is named by its absolute path, for hawserd does not know the "
            "folder that you are in",
            value);
    if (!value[0])
        return hws_fail(
            err, EINVAL,
            "from is empty; it can be VOLUME, VOLUME@SNAPSHOT or the absolute path of an image");
    json_object_set_new(request, value[0] == '/' ? "image" : "clone", json_string(value));
    return 0;
}

static json_t *list_of(const char *value)
{
    const char *between = value[0] == '-' ? " -" : ",";
    json_t *list = json_array();
    while (*value) {
        const char *end = strstr(value + 1, between);
        size_t length = end ? (size_t)(end - value) : strlen(value);
        json_array_append_new(list, json_stringn(value, length));
        value = end ? end + 1 : value + length;
    }
    return list;
}

static int convert(const struct record_field *field, const char *value, json_t **ret,
                   struct hws_error *err)
{
    bool yes = !strcmp(value, "true");
    char *end = NULL;
    switch (field->kind) {
    case RECORD_BOOL:
        if (!yes && strcmp(value, "false") != 0)
            return hws_fail(err, EINVAL, "option %s is '%.40s'; it can be true or false",
                            field->name, value);
        *ret = json_boolean(yes);
        return 0;
    case RECORD_UINT:
        errno = 0;
        *ret = json_integer(strtoll(value, &end, 10));
        if (!errno && *value >= '0' && *value <= '9' && !*end)
            return 0;
        json_decref(*ret);
        return hws_fail(err, EINVAL, "option %s is '%.40s'; it must be a number: %s", field->name,
                        value, field->help);
    case RECORD_LIST:
        *ret = list_of(value);
        return 0;
    default:
        *ret = json_string(value);
        return 0;
    }
}

static int add_one(json_t *request, const char *name, const char *value, struct hws_error *err)
{
    const struct record_field *field = field_of(name);
    json_t *converted = NULL;
    if (!strcmp(name, "from"))
        return add_from(request, value, err);
    if (!field && !is_one_of(name, later, ARRAY_LEN(later)))
        return refuse_unknown(name, err);
    int r = field ? convert(field, value, &converted, err) : 0;
    if (r == 0)
        json_object_set_new(request, name, field ? converted : json_string(value));
    return r;
}

int docker_options(const char *name, const json_t *opts, json_t **ret, struct hws_error *err)
{
    const char *option;
    json_t *value;
    int r = 0;
    if (opts && !json_is_null(opts) && !json_is_object(opts))
        return hws_fail(err, EINVAL, "Opts must be an object");
    json_t *request = json_pack("{s:s}", "name", name);
    json_object_foreach((json_t *)opts, option, value)
    {
        if (r == 0)
            r = json_is_string(value)
                    ? add_one(request, option, json_string_value(value), err)
                    : hws_fail(err, EINVAL, "option '%.60s' must be a text", option);
    }
    autofree char *text =
        json_is_object(opts) ? json_dumps(opts, JSON_COMPACT | JSON_SORT_KEYS) : strdup("{}");
    if (r == 0 && text)
        json_object_set_new(request, "labels", json_pack("{s:s}", DOCKER_LABEL, text));
    if (r < 0)
        json_decref(request);
    else
        *ret = request;
    return r;
}
