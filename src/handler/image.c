/*
 * Which image a backstore's configuration names, and whether it may and can be served.
 *
 * The folders of --allow are the administrator's guard against configurations that others write:
 * the image and the folder that it may name files in must lie below one of them, links followed.
 * The path that was checked is the one that is opened.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/size.h"
#include "handler/internal.h"
#include <limits.h>
#include <sys/stat.h>

#define KEEP_FOLDER "/run/hawser-tcmu-handler"

struct resolve_work {
    struct config_string *config;
    const char *const *allow;
    struct hws_error *err;
};

/* Is @path @folder itself or below it? Both are resolved. */
static bool lies_below(const char *path, const char *folder)
{
    size_t length = strlen(folder);
    if (length && folder[length - 1] == '/')
        length--; /* the root */
    return strncmp(path, folder, length) == 0 && (path[length] == '/' || path[length] == '\0');
}

static bool is_allowed(const char *path, const char *const *allow)
{
    for (; *allow; allow++) {
        autofree char *folder = realpath(*allow, NULL);
        if (folder && lies_below(path, folder))
            return true;
    }
    return false;
}

static int resolve(const char *what, char **path, const char *const *allow, struct hws_error *err)
{
    char *resolved = realpath(*path, NULL);
    if (!resolved)
        return hws_fail_errno(err, errno, "%s %s", what, *path);
    if (!is_allowed(resolved, allow)) {
        hws_fail(err, EPERM,
                 "%s %s is in none of the folders that this handler may use (option --allow)", what,
                 resolved);
        free(resolved);
        return -EPERM;
    }
    free(*path);
    *path = resolved;
    return 0;
}

static int resolve_blocking(void *arg)
{
    struct resolve_work *w = arg;
    int r = resolve("image", &w->config->image, w->allow, w->err);
    if (r == 0 && w->config->allow)
        r = resolve("folder", &w->config->allow, w->allow, w->err);
    return r;
}

int co_image_configure(const char *text, const char *const *allow, struct config_string *ret,
                       struct hws_error *err)
{
    struct config_string config = {0};
    int r = config_string_parse(text, &config, err);
    if (r < 0)
        return r;
    if (allow) {
        struct resolve_work w = {&config, allow, err};
        r = co_work(resolve_blocking, &w);
    }
    if (r < 0)
        config_string_free(&config);
    else
        *ret = config;
    return r;
}

/* ---- the keep ---- */

struct keep_work {
    const char *path;
    struct block_keep **ret;
    struct hws_error *err;
};

static uint64_t hash_text(const char *text)
{
    uint64_t hash = 0xcbf29ce484222325; /* FNV-1a */
    for (; *text; text++)
        hash = (hash ^ (uint8_t)*text) * 0x100000001b3;
    return hash;
}

static int keep_blocking(void *arg)
{
    struct keep_work *w = arg;
    autofree char *resolved = realpath(w->path, NULL);
    char path[sizeof(KEEP_FOLDER) + 32];
    if (!resolved)
        return hws_fail_errno(w->err, errno, "cannot open '%s'", w->path);
    if (mkdir(KEEP_FOLDER, 0700) < 0 && errno != EEXIST)
        return hws_fail_errno(w->err, errno, "cannot make %s", KEEP_FOLDER);
    snprintf(path, sizeof(path), KEEP_FOLDER "/%016llx.keep",
             (unsigned long long)hash_text(resolved));
    return block_keep_open(path, w->ret, w->err);
}

int co_image_keep(const char *path, struct block_keep **ret, struct hws_error *err)
{
    struct keep_work w = {path, ret, err};
    return co_work(keep_blocking, &w);
}

/* ---- sizes, checks ---- */

int image_size_check(uint64_t image_bytes, uint64_t backstore_bytes, uint32_t block_bytes,
                     struct hws_error *err)
{
    uint64_t usable = align_down(image_bytes, block_bytes);
    char has[16], wanted[16];
    if (usable == 0)
        return hws_fail(err, EINVAL, "the image has %llu bytes, which is not one block of %u",
                        (unsigned long long)image_bytes, block_bytes);
    if (backstore_bytes == usable)
        return IMAGE_SIZE_FITS;
    if (backstore_bytes < usable)
        return IMAGE_SIZE_CORRECT;
    return hws_fail(err, EINVAL,
                    "the backstore is to have %llu bytes (%s), but the image has %llu (%s): give "
                    "the size 0 for that of the image, or grow the image first (hawser resize)",
                    (unsigned long long)backstore_bytes,
                    size_format(backstore_bytes, wanted, sizeof(wanted)),
                    (unsigned long long)usable, size_format(usable, has, sizeof(has)));
}

/* One backstore an image: their caches know nothing of each other. */
static int check_unused(const struct handler *handler, const struct config_string *config,
                        struct hws_error *err)
{
    list_for_each (node, (struct list *)&handler->devices) {
        const struct device *device = list_entry(node, struct device, link);
        if (device->root && !strcmp(device->config.image, config->image) &&
            !(device->config.read_only && config->read_only))
            return hws_fail(err, EBUSY, "image %s is served as backstore '%s' already",
                            config->image, device->name.name);
    }
    return 0;
}

int co_image_check(const struct handler *handler, const char *text, struct hws_error *err)
{
    struct config_string config;
    int r = co_image_configure(text, handler->options->allow, &config, err);
    if (r < 0)
        return r;
    r = check_unused(handler, &config, err);
    if (r == 0)
        r = co_config_string_check(&config, err);
    config_string_free(&config);
    return r;
}
