/*
 * Fuzz target: the names that an image gives for its backing file never lead out of the allowed
 * folder, and option objects of any shape are parsed or refused.
 *
 * The input is three texts, separated by NUL: the naming image, the name, a JSON object.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "block/core.h"
#include "drivers/drivers.h"
#include "fuzz.h"

#define TEXT_MAX 4096

/* A path that climbs out of @beneath by its text. */
static void assert_inside(const char *path, const char *beneath)
{
    size_t length = strcmp(beneath, ".") == 0 ? 0 : strlen(beneath);
    assert(strncmp(path, beneath, length) == 0);
    path += length;
    int depth = 0;
    while (*path) {
        path += strspn(path, "/");
        size_t part = strcspn(path, "/");
        depth += part == 2 && memcmp(path, "..", 2) == 0 ? -1 : part > 0;
        assert(depth >= 0);
        path += part;
    }
}

static void resolve(const char *naming, const char *name)
{
    struct hws_error err = {0};
    struct block_policy policy = {0};
    char *path = NULL, *beneath = NULL;
    int r = policy_resolve(&policy, naming, name, &path, &beneath, &err);
    if (r == 0) {
        assert(path && beneath);
        assert_inside(path, beneath);
    } else {
        assert(!path && !beneath && err.text[0]);
    }
    free(path);
    free(beneath);
}

static void parse(const char *text)
{
    json_t *object = NULL;
    if (*text != '{' || block_describe(text, NULL, &object, NULL) < 0)
        return;
    static const char *const ignored[] = {"driver", "file", NULL};
    for (const struct block_driver *const *d = block_drivers(); *d; d++) {
        struct hws_error err = {0};
        size_t bytes = MAX((*d)->options_bytes, (*d)->create_options_bytes);
        void *out = calloc(1, MAX(bytes, (size_t)1));
        if (options_parse((*d)->options, object, ignored, (*d)->name, out, (*d)->options_bytes,
                          &err) == 0)
            options_free((*d)->options, out);
        else
            assert(err.text[0]);
        if (options_parse((*d)->create_options, object, ignored, (*d)->name, out,
                          (*d)->create_options_bytes, &err) == 0)
            options_free((*d)->create_options, out);
        free(out);
    }
    json_decref(object);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    char text[TEXT_MAX + 3] = {0};
    if (length > TEXT_MAX)
        return 0;
    memcpy(text, bytes, length);
    drivers_register();
    const char *naming = text, *name = naming + strlen(naming) + 1;
    if (name > text + length)
        name = naming;
    resolve(naming, name);
    const char *json = name + strlen(name) + 1;
    parse(json <= text + length ? json : text);
    return 0;
}
