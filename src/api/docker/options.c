/*
 * Docker's options onto those of a volume; see api/docker/options.h. All values are texts.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "api/docker/options.h"

static const char *const names[] = {"size",       "pool",         "class",     "fs",
                                    "format",     "cluster-size", "protected", "from",
                                    "encryption", "compression",  "limits",    "replication"};

static int add_one(json_t *request, const char *name, const char *value, struct hws_error *err)
{
    unsigned i = 0;
    while (i < ARRAY_LEN(names) && strcmp(names[i], name) != 0)
        i++;
    if (i == ARRAY_LEN(names))
        return hws_fail(err, EINVAL,
                        "there is no option '%.60s': there are size, pool, class, fs, format, "
                        "cluster-size, protected and from",
                        name);
    if (!strcmp(name, "from")) /* an image is named by its absolute path */
        name = value[0] == '/' ? "image" : "clone";
    if (!strcmp(name, "protected")) {
        bool yes = !strcmp(value, "true");
        if (!yes && strcmp(value, "false") != 0)
            return hws_fail(err, EINVAL, "option protected is '%.40s'; it can be true or false",
                            value);
        json_object_set_new(request, name, json_boolean(yes));
        return 0;
    }
    json_object_set_new(request, name, json_string(value));
    return 0;
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
