/*
 * Configuration strings of backstores; see drivers/config_string.h.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "drivers/config_string.h"
#include "block/options.h"

static const char *const cache_names[] = {"writeback", "none", "writethrough", "unsafe", NULL};
static const char *const discard_names[] = {"unmap", "ignore", NULL};
static const char *const detect_names[] = {"off", "on", "unmap", NULL};

#define FIELD(name) offsetof(struct config_string, name)

static const struct option_desc table[] = {
    {"image", OPTION_STRING, FIELD(image), "absolute path of the image", .required = true},
    {"format", OPTION_STRING, FIELD(format), "format driver; found from the header if not given"},
    {"allow", OPTION_STRING, FIELD(allow), "folder that may hold backing files too"},
    {"cache", OPTION_ENUM, FIELD(cache), "cache mode", "writeback", .choices = cache_names},
    {"discard", OPTION_ENUM, FIELD(discard), "what discards do", "unmap", .choices = discard_names},
    {"detect-zeroes", OPTION_ENUM, FIELD(detect_zeroes), "find zeroes in written data", "off",
     .choices = detect_names},
    {"read-only", OPTION_BOOL, FIELD(read_only), "refuse writes"},
    OPTION_END,
};

/* Copies the next part of @text, up to a single ';', to @part. @return what follows, or NULL. */
static const char *next_part(const char *text, char *part)
{
    for (; *text; text++) {
        if (text[0] == ';' && text[1] != ';') {
            *part = '\0';
            return text + 1;
        }
        if (text[0] == ';')
            text++;
        *part++ = *text;
    }
    *part = '\0';
    return NULL;
}

static int put(json_t *object, const char *name, const char *value, struct hws_error *err)
{
    if (json_object_get(object, name))
        return hws_fail(err, EINVAL, "option '%s' is given twice", name);
    if (json_object_set_new_nocheck(object, name, json_string_nocheck(value)) < 0)
        return hws_fail(err, ENOMEM, "out of memory");
    return 0;
}

static int put_options(json_t *object, const char *rest, struct hws_error *err)
{
    char part[CONFIG_STRING_MAX + 1];
    int r = 0;
    while (rest && r == 0) {
        rest = next_part(rest, part);
        char *equals = strchr(part, '=');
        if (!equals || equals == part)
            return hws_fail(err, EINVAL, "'%s' is not option=value", part);
        *equals = '\0';
        if (!strcmp(part, "image"))
            return hws_fail(err, EINVAL, "the image's path comes first, without a name");
        r = put(object, part, equals + 1, err);
    }
    return r;
}

int config_string_parse(const char *text, struct config_string *ret, struct hws_error *err)
{
    static const char subtype[] = CONFIG_STRING_SUBTYPE "/";
    char part[CONFIG_STRING_MAX + 1];
    size_t length = strnlen(text, CONFIG_STRING_MAX + 1);
    if (length > CONFIG_STRING_MAX)
        return hws_fail(err, ENAMETOOLONG, "the configuration has more than %d characters",
                        CONFIG_STRING_MAX);
    if (!strncmp(text, subtype, sizeof(subtype) - 1))
        text += sizeof(subtype) - 1;
    const char *rest = next_part(text, part);
    if (part[0] != '/')
        return hws_fail(err, EINVAL,
                        "'%s' is not the absolute path of an image; the configuration is "
                        "/path/of/image[;option=value...]",
                        part);
    json_t *object = json_object();
    int r = put(object, "image", part, err);
    if (r == 0)
        r = put_options(object, rest, err);
    if (r == 0)
        r = options_parse(table, object, NULL, CONFIG_STRING_SUBTYPE, ret, sizeof(*ret), err);
    json_decref(object);
    return r;
}

void config_string_free(struct config_string *config)
{
    options_free(table, config);
}

static int co_open_node(const struct config_string *config, struct block_keep *keep, unsigned flags,
                        struct block_node **ret, struct hws_error *err)
{
    autofree char *folder = strdup(config->image);
    if (!folder)
        return hws_fail(err, ENOMEM, "out of memory");
    char *slash = strrchr(folder, '/');
    slash[slash == folder] = '\0';
    const char *allow[] = {config->allow, folder, NULL};
    struct block_policy policy = {.cache = (enum block_cache)config->cache,
                                  .allow = config->allow ? allow : NULL,
                                  .keep = keep};
    if (!config->format)
        flags |= BLOCK_OPEN_PROBE;
    json_t *description; /* a path that begins with '/' is a path, colons included */
    int r = block_describe(config->image, config->format, &description, err);
    if (r < 0)
        return r;
    r = co_block_open(description, flags, &policy, ret, err);
    json_decref(description);
    return r;
}

int co_config_string_open(const struct config_string *config, struct block_keep *keep,
                          struct block_root **ret, struct hws_error *err)
{
    struct block_root_options options = {
        .cache = (enum block_cache)config->cache,
        .discard = (enum block_discard)config->discard,
        .detect_zeroes = (enum block_detect_zeroes)config->detect_zeroes,
        .read_only = config->read_only,
    };
    struct block_node *node;
    int r = co_open_node(config, keep, config->read_only ? 0 : BLOCK_OPEN_WRITE | BLOCK_OPEN_RESIZE,
                         &node, err);
    if (r < 0)
        return r;
    struct block_root *root = block_root_new(node, &options);
    r = co_block_close(node, err); /* the root has its own reference */
    if (!root)
        return hws_fail(err, ENOMEM, "out of memory");
    *ret = root;
    return r;
}

int co_config_string_check(const struct config_string *config, struct hws_error *err)
{
    struct block_node *node;
    int r = co_open_node(config, NULL, BLOCK_OPEN_NO_LOCK, &node, err);
    return r < 0 ? r : co_block_close(node, err);
}
