/*
 * The files of saved exports; see engine/exports.h.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "engine/exports.h"
#include "host/fabric.h"
#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <sys/file.h>
#include <sys/stat.h>

#define VERSION     1
#define SUFFIX      ".json"
#define EXPORTS_MAX 10000
#define FILE_MAX    ((size_t)1 << 20)

/* ---- folders ---- */

static const char *folder_of(char *buffer, size_t size)
{
    const char *own = getenv("HAWSER_STATE_DIR");
    snprintf(buffer, size, "%s/exports", own && *own ? own : "/var/lib/hawser");
    return buffer;
}

static int make_folder(char *folder, size_t size, struct hws_error *err)
{
    struct stat st;
    folder_of(folder, size);
    char *last = strrchr(folder, '/');
    *last = '\0';
    bool made = mkdir(folder, 0755) == 0 || errno == EEXIST;
    *last = '/';
    if (!made || (mkdir(folder, 0700) < 0 && errno != EEXIST))
        return hws_fail_errno(err, errno,
                              "cannot make the folder for saved exports, %s (HAWSER_STATE_DIR "
                              "names another; --temporary saves nothing)",
                              folder);
    if (stat(folder, &st) < 0 || (st.st_uid != geteuid() && st.st_uid != 0) || (st.st_mode & 022))
        return hws_fail(err, EPERM, "%s must belong to this user and be writable by nobody else",
                        folder);
    return 0;
}

static int file_of(const char *name, char *path, size_t size)
{
    char folder[PATH_MAX];
    if (strchr(name, '/') || name[0] == '.' || !name[0] || strlen(name) > ATTACHMENT_NAME_MAX)
        return -EINVAL;
    int n = snprintf(path, size, "%s/%s" SUFFIX, folder_of(folder, sizeof(folder)), name);
    return n < 0 || (size_t)n >= size ? -ENAMETOOLONG : 0;
}

bool export_is_saved(const char *name)
{
    char path[PATH_MAX];
    return file_of(name, path, sizeof(path)) == 0 && access(path, F_OK) == 0;
}

int exports_lock(struct hws_error *err)
{
    char folder[PATH_MAX];
    int r = make_folder(folder, sizeof(folder), err);
    if (r < 0)
        return r;
    autofd int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return hws_fail_errno(err, errno, "cannot open %s", folder);
    while (flock(fd, LOCK_EX) < 0)
        if (errno != EINTR)
            return hws_fail_errno(err, errno, "cannot lock %s", folder);
    return steal_fd(&fd);
}

/* ---- saving ---- */

static void set_text(json_t *object, const char *name, const char *text)
{
    if (text)
        json_object_set_new(object, name, json_string(text));
}

/* The images as the engine knows them: absolute. */
static json_t *describe(const struct attachment *attachment, const struct attach_options *volume,
                        const char *secrets)
{
    const json_t *export = attachment_export(attachment);
    json_t *volumes = json_object_get(attachment->config, "volumes"), *one;
    json_t *images = json_array(), *words = json_object();
    json_t *options = json_deep_copy(json_object_get(export, "options"));
    size_t i;
    json_array_foreach(volumes, i, one) json_array_append(images, json_object_get(one, "image"));
    json_object_del(options, "secrets"); /* the text is saved, not where it lay */
    set_text(words, "format", volume->format);
    set_text(words, "cache", volume->cache);
    set_text(words, "discard", volume->discard);
    set_text(words, "detect-zeroes", volume->detect_zeroes);
    set_text(words, "block-size", volume->block_size);
    json_object_set_new(words, "read-only", json_boolean(volume->read_only));
    json_object_set_new(words, "queues", json_integer((json_int_t)volume->queues));
    json_t *allow = json_object_get(json_array_get(volumes, 0), "allow");
    if (allow)
        json_object_set(words, "allow", allow);
    json_t *object = json_pack("{s:i, s:s, s:O, s:o, s:o, s:o}", "version", VERSION, "name",
                               attachment->name, "fabric", json_object_get(export, "fabric"),
                               "options", options, "images", images, "volume", words);
    set_text(object, "secrets", secrets);
    return object;
}

static int write_file(const char *path, const json_t *object)
{
    autofree char *temporary = NULL;
    if (asprintf(&temporary, "%s.new", path) < 0)
        return -ENOMEM;
    (void)unlink(temporary); /* of a process that died */
    autofd int fd = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0)
        return -errno;
    errno = 0;
    if (json_dumpfd(object, fd, JSON_INDENT(2)) < 0 || fsync(fd) < 0 ||
        rename(temporary, path) < 0) {
        int r = errno ? -errno : -EIO;
        unlink(temporary);
        return r;
    }
    return 0;
}

int export_save(const struct attachment *attachment, const struct attach_options *volume,
                const char *secrets, struct hws_error *err)
{
    char folder[PATH_MAX], path[PATH_MAX];
    int r = make_folder(folder, sizeof(folder), err);
    if (r < 0)
        return r;
    r = file_of(attachment->name, path, sizeof(path));
    json_t *object = r == 0 ? describe(attachment, volume, secrets) : NULL;
    if (r == 0)
        r = object ? write_file(path, object) : -EINVAL;
    json_decref(object);
    if (r < 0)
        return hws_fail_errno(err, -r, "cannot save the export '%s' in %s", attachment->name,
                              folder);
    autofd int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return fd < 0 || fsync(fd) < 0 ? hws_fail_errno(err, errno, "cannot save %s", path) : 0;
}

int export_forget(const char *name, struct hws_error *err)
{
    char path[PATH_MAX];
    if (file_of(name, path, sizeof(path)) < 0)
        return 0;
    return unlink(path) < 0 && errno != ENOENT
               ? hws_fail_errno(err, errno, "cannot remove %s", path)
               : 0;
}

/* ---- loading ---- */

static int read_file(const char *path, json_t **ret, struct hws_error *err)
{
    struct stat st;
    json_error_t where;
    autofd int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0 || fstat(fd, &st) < 0)
        return hws_fail_errno(err, errno, "cannot open %s", path);
    if (!S_ISREG(st.st_mode) || (st.st_uid != geteuid() && st.st_uid != 0) || (st.st_mode & 022))
        return hws_fail(err, EPERM, "%s must belong to this user and be writable by nobody else",
                        path);
    if ((uint64_t)st.st_size > FILE_MAX)
        return hws_fail(err, EFBIG, "%s: too long for a saved export", path);
    *ret = json_loadfd(fd, JSON_REJECT_DUPLICATES, &where);
    return *ret ? 0
                : hws_fail(err, EINVAL,
                           "%s, line %d: %s; 'hawser detach' of it and a new 'hawser "
                           "export' make it anew",
                           path, where.line, where.text);
}

static const char *text_of(const json_t *object, const char *name)
{
    return json_string_value(json_object_get(object, name));
}

/* @return -EINVAL where it is no list of up to EXPORT_IMAGES_MAX texts. */
static int take_list(const json_t *list, const char **out)
{
    size_t i;
    const json_t *item;
    if (json_array_size(list) > EXPORT_IMAGES_MAX)
        return -EINVAL;
    json_array_foreach(list, i, item)
    {
        out[i] = json_string_value(item);
        if (!out[i])
            return -EINVAL;
    }
    return 0;
}

static int take(struct export_saved *saved, const char *name)
{
    json_t *object = saved->object;
    const json_t *words = json_object_get(object, "volume");
    json_t *allow = json_object_get(words, "allow");
    struct export_request *request = &saved->request;
    if (json_integer_value(json_object_get(object, "version")) != VERSION ||
        take_list(json_object_get(object, "images"), saved->images) < 0 || !saved->images[0] ||
        take_list(allow, saved->allow) < 0)
        return -EINVAL;
    request->volume = (struct attach_options){
        .name = text_of(object, "name"),
        .format = text_of(words, "format"),
        .cache = text_of(words, "cache"),
        .discard = text_of(words, "discard"),
        .detect_zeroes = text_of(words, "detect-zeroes"),
        .block_size = text_of(words, "block-size"),
        .read_only = json_is_true(json_object_get(words, "read-only")),
        .queues = (uint64_t)json_integer_value(json_object_get(words, "queues")),
        .allow = allow ? saved->allow : NULL,
    };
    request->images = saved->images;
    request->fabric = text_of(object, "fabric");
    request->options = json_object_get(object, "options");
    if (text_of(object, "secrets") && !(saved->secrets = strdup(text_of(object, "secrets"))))
        return -ENOMEM;
    return request->volume.name && !strcmp(request->volume.name, name) && request->fabric &&
                   json_is_object(request->options)
               ? 0
               : -EINVAL;
}

struct export_saved *export_saved_free(struct export_saved *saved)
{
    if (!saved)
        return NULL;
    if (saved->secrets)
        explicit_bzero(saved->secrets, strlen(saved->secrets));
    free(saved->secrets);
    json_decref(saved->object);
    free(saved);
    return NULL;
}

int export_load(const char *name, struct export_saved **ret, struct hws_error *err)
{
    char path[PATH_MAX];
    struct export_saved *saved = calloc(1, sizeof(*saved));
    if (!saved)
        return hws_fail(err, ENOMEM, "out of memory");
    int r = file_of(name, path, sizeof(path));
    r = r < 0 ? hws_fail_errno(err, -r, "%.80s", name) : read_file(path, &saved->object, err);
    if (r == 0) {
        r = take(saved, name);
        if (r < 0)
            hws_fail(err, -r, "%s: is not what this version saves of an export", path);
    }
    if (r < 0)
        export_saved_free(saved);
    else
        *ret = saved;
    return r;
}

json_t *export_saved(const char *name)
{
    struct export_saved *saved;
    if (export_load(name, &saved, NULL) < 0)
        return NULL;
    json_t *object = json_incref(saved->object);
    json_object_del(object, "secrets");
    export_saved_free(saved);
    return object;
}

/* ---- listing ---- */

void exports_names_free(char **names, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        free(names[i]);
    free(names);
}

static int by_text(const void *a, const void *b)
{
    const char *const *first = a, *const *second = b;
    return strcmp(*first, *second);
}

/* "disk.json" -> "disk" */
static char *name_of_file(const char *file)
{
    size_t length = strlen(file), suffix = strlen(SUFFIX);
    return file[0] != '.' && length > suffix && length - suffix <= ATTACHMENT_NAME_MAX &&
                   !strcmp(file + length - suffix, SUFFIX)
               ? strndup(file, length - suffix)
               : NULL;
}

int exports_saved(char ***ret, unsigned *ret_count, struct hws_error *err)
{
    char folder[PATH_MAX];
    char **names = NULL;
    unsigned count = 0;
    DIR *open_folder = opendir(folder_of(folder, sizeof(folder)));
    /* Who may not look there has none of his own. */
    if (!open_folder && errno != ENOENT && errno != EACCES)
        return hws_fail_errno(err, errno, "cannot read %s", folder);
    for (struct dirent *at; open_folder && count < EXPORTS_MAX && (at = readdir(open_folder));) {
        char *name = name_of_file(at->d_name);
        char **grown = name ? realloc(names, (count + 1) * sizeof(char *)) : NULL;
        if (grown) {
            names = grown;
            names[count++] = name;
        } else {
            free(name);
        }
    }
    if (open_folder)
        closedir(open_folder);
    if (count)
        qsort(names, count, sizeof(char *), by_text);
    *ret = names;
    *ret_count = count;
    return 0;
}
