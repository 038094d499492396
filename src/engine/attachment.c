/*
 * The folders of attachments: listing, finding, locking, removing. See engine/client.h for what is
 * in one.
 *
 * Whether an engine lives is told by its lock, which the kernel drops when the process ends however
 * it ends: no process number that may be somebody else's by now is ever trusted.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "engine/internal.h"
#include "job/overlay/overlay.h"
#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <sys/file.h>
#include <sys/stat.h>

#define ATTACHMENTS_MAX 10000
#define REMOVE_TRIES    3
#define LOCK_TRIES      10
#define LOOK_TRIES      10000
#define LOCK_RETRY_US   500

/* All that an attachment's folder may hold. */
static const char *const files[] = {"control.sock",
                                    "config.json",
                                    "state.json",
                                    "mounts.json",
                                    "state.json.new",
                                    "config.json.new",
                                    "mounts.json.new",
                                    "log",
                                    "image",
                                    "control.sock.new",
                                    "ending",
                                    "keep",
                                    "secrets",
                                    "control.sock.old",
                                    "lock"};

struct attachment *attachment_free(struct attachment *attachment)
{
    if (!attachment)
        return NULL;
    free(attachment->name);
    free(attachment->folder);
    json_decref(attachment->config);
    json_decref(attachment->state);
    free(attachment);
    return NULL;
}

const char *attachment_root(char *buffer, size_t size)
{
    const char *own = getenv("HAWSER_RUN_DIR"), *user = getenv("XDG_RUNTIME_DIR");
    char here[PATH_MAX];
    /* The engine leaves the current folder: paths are absolute from the start. */
    if (own && *own && *own != '/' && getcwd(here, sizeof(here)))
        snprintf(buffer, size, "%s/%s", here, own);
    else if (own && *own)
        snprintf(buffer, size, "%s", own);
    else if (geteuid() != 0 && user && *user)
        snprintf(buffer, size, "%s/hawser", user);
    else if (geteuid() != 0)
        snprintf(buffer, size, "/run/user/%u/hawser", (unsigned)geteuid());
    else
        snprintf(buffer, size, "/run/hawser");
    return buffer;
}

char *attachment_path(const struct attachment *attachment, const char *file)
{
    char *path;
    return asprintf(&path, "%s/%s", attachment->folder, file) < 0 ? NULL : path;
}

static json_t *load_json(const struct attachment *attachment, const char *file)
{
    autofree char *path = attachment_path(attachment, file);
    return path ? json_load_file(path, 0, NULL) : NULL;
}

static bool is_locked(const struct attachment *attachment)
{
    autofree char *path = attachment_path(attachment, "lock");
    autofd int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    return fd >= 0 && flock(fd, LOCK_SH | LOCK_NB) < 0 && errno == EWOULDBLOCK;
}

void attachment_reload(struct attachment *attachment)
{
    attachment->running = is_locked(attachment);
    json_decref(attachment->state);
    attachment->state = load_json(attachment, "state.json");
}

int attachment_load(const char *name, struct attachment **ret, struct hws_error *err)
{
    char root[PATH_MAX];
    struct stat st;
    struct attachment *attachment = calloc(1, sizeof(*attachment));
    if (attachment && (attachment->name = strdup(name)) &&
        asprintf(&attachment->folder, "%s/%s", attachment_root(root, sizeof(root)), name) < 0)
        attachment->folder = NULL;
    if (!attachment || !attachment->folder) {
        attachment_free(attachment);
        return hws_fail(err, ENOMEM, "out of memory");
    }
    if (strchr(name, '/') || name[0] == '.' || !name[0] || lstat(attachment->folder, &st) < 0 ||
        !S_ISDIR(st.st_mode)) {
        attachment_free(attachment);
        return hws_fail(err, ENOENT, "nothing is attached as '%.80s'", name);
    }
    attachment->config = load_json(attachment, "config.json");
    attachment_reload(attachment);
    *ret = attachment;
    return 0;
}

static json_t *first_volume(const json_t *object)
{
    return json_array_get(json_object_get(object, "volumes"), 0);
}

const char *attachment_device(const struct attachment *attachment)
{
    return json_string_value(json_object_get(first_volume(attachment->state), "device"));
}

const char *attachment_image(const struct attachment *attachment)
{
    return json_string_value(json_object_get(first_volume(attachment->config), "image"));
}

const char *attachment_top(const struct attachment *attachment)
{
    return json_string_value(json_object_get(first_volume(attachment->state), "top"));
}

static int by_name(const void *a, const void *b)
{
    const struct attachment *const *first = a, *const *second = b;
    return strcmp((*first)->name, (*second)->name);
}

int attachment_list(struct attachment ***ret, unsigned *ret_count, struct hws_error *err)
{
    char root[PATH_MAX];
    struct attachment **list = NULL;
    unsigned count = 0;
    DIR *folder = opendir(attachment_root(root, sizeof(root)));
    if (!folder && errno != ENOENT)
        return hws_fail_errno(err, errno, "cannot read %s", root);
    for (struct dirent *at; folder && count < ATTACHMENTS_MAX && (at = readdir(folder));) {
        struct attachment **grown = realloc(list, (count + 1) * sizeof(struct attachment *));
        if (!grown)
            break;
        list = grown;
        if (attachment_load(at->d_name, &list[count], NULL) == 0)
            count++;
    }
    if (folder)
        closedir(folder);
    if (count)
        qsort(list, count, sizeof(struct attachment *), by_name);
    *ret = list;
    *ret_count = count;
    return 0;
}

static bool is_mounted_at(const struct attachment *attachment, const char *path)
{
    json_t *mounts = load_json(attachment, "mounts.json"), *mount;
    size_t i;
    bool found = false;
    json_array_foreach(mounts, i, mount)
    {
        const char *target = json_string_value(json_object_get(mount, "target"));
        found = found || (target && !strcmp(target, path));
    }
    json_decref(mounts);
    return found;
}

static const char *member(const json_t *volumes, size_t index, const char *name)
{
    return json_string_value(json_object_get(json_array_get(volumes, index), name));
}

static const char *volume_at(const struct attachment *attachment, const char *what,
                             const char *real)
{
    const json_t *config = json_object_get(attachment->config, "volumes");
    const json_t *state = json_object_get(attachment->state, "volumes");
    size_t count = MAX(json_array_size(config), json_array_size(state));
    for (size_t i = 0; i < count; i++) {
        const char *device = member(state, i, "device"), *image = member(config, i, "image");
        const char *top = member(state, i, "top"), *name = member(state, i, "name");
        if ((device && !strcmp(device, what)) ||
            (real && ((image && !strcmp(image, real)) || (top && !strcmp(top, real)))))
            return name ? name : member(config, i, "name");
    }
    return NULL;
}

const char *attachment_volume(const struct attachment *attachment, const char *what)
{
    autofree char *real = realpath(what, NULL);
    return volume_at(attachment, what, real);
}

/* By device, mount point, image or the file that is its top now. */
static bool answers_to(const struct attachment *attachment, const char *what, const char *real)
{
    return volume_at(attachment, what, real) || (real && is_mounted_at(attachment, real));
}

int attachment_find(const char *what, struct attachment **ret, struct hws_error *err)
{
    if (!strchr(what, '/') && attachment_load(what, ret, NULL) == 0)
        return 0;
    autofree char *real = realpath(what, NULL);
    struct attachment **list;
    unsigned count;
    int r = attachment_list(&list, &count, err);
    if (r < 0)
        return r;
    r = -ENOENT;
    for (unsigned i = 0; i < count; i++) {
        if (r < 0 && answers_to(list[i], what, real)) {
            *ret = list[i];
            r = 0;
        } else {
            attachment_free(list[i]);
        }
    }
    free(list);
    return r < 0 ? hws_fail(err, ENOENT,
                            "nothing is attached as '%.400s'; 'hawser list' shows what is", what)
                 : 0;
}

char *attachment_leftover(const char *path)
{
    return overlay_find_leftover(path);
}

static bool is_only_looked_at(int fd)
{
    bool shared = flock(fd, LOCK_SH | LOCK_NB) == 0;
    if (shared)
        flock(fd, LOCK_UN);
    return shared;
}

/* Who only looks whether an engine lives (is_locked()) shares it for a moment, which may be long on
 * a busy host. */
static int lock_alone(int fd)
{
    for (unsigned n = 0; flock(fd, LOCK_EX | LOCK_NB) < 0; n++) {
        if (errno != EWOULDBLOCK || n == LOOK_TRIES || (n >= LOCK_TRIES && !is_only_looked_at(fd)))
            return -1;
        usleep(LOCK_RETRY_US);
    }
    return 0;
}

int attachment_lock(const struct attachment *attachment, int *ret, struct hws_error *err)
{
    autofree char *path = attachment_path(attachment, "lock");
    if (!path)
        return hws_fail(err, ENOMEM, "out of memory");
    autofd int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0)
        return hws_fail_errno(err, errno, "cannot open %s", path);
    /* A file that was deleted since the open guards nothing: the name may be another's by now. */
    struct stat ours, named;
    if (lock_alone(fd) < 0 || fstat(fd, &ours) < 0 || stat(path, &named) < 0 ||
        ours.st_ino != named.st_ino || ours.st_dev != named.st_dev)
        return hws_fail(err, EAGAIN, "'%s' is attached, or being attached or detached",
                        attachment->name);
    *ret = steal_fd(&fd);
    return 0;
}

int attachment_store(const struct attachment *attachment, const char *file, json_t *value,
                     struct hws_error *err)
{
    autofree char *path = attachment_path(attachment, file), *temporary = NULL;
    int r = !path || asprintf(&temporary, "%s.new", path) < 0 ? -ENOMEM : 0;
    if (r == 0 && !value)
        r = -EILSEQ; /* text that is no UTF-8 cannot be told in JSON */
    errno = 0;
    if (r == 0 && json_dump_file(value, temporary, JSON_INDENT(2)) < 0)
        r = errno ? -errno : -EIO;
    if (r == 0 && rename(temporary, path) < 0)
        r = -errno;
    json_decref(value);
    return r < 0 ? hws_fail_errno(err, -r, "cannot write %s", path ? path : file) : 0;
}

void attachment_mark_ending(const struct attachment *attachment)
{
    autofree char *path = attachment_path(attachment, "ending");
    int fd = path ? open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600) : -1;
    if (fd >= 0)
        close(fd);
}

bool attachment_is_ending(const struct attachment *attachment)
{
    autofree char *path = attachment_path(attachment, "ending");
    return path && access(path, F_OK) == 0;
}

/* One for each volume, where there are several. */
static void remove_keeps(const struct attachment *attachment)
{
    DIR *folder = opendir(attachment->folder);
    for (struct dirent *at; folder && (at = readdir(folder));)
        if (!strncmp(at->d_name, "keep.", 5))
            unlinkat(dirfd(folder), at->d_name, 0);
    if (folder)
        closedir(folder);
}

static int remove_files(const struct attachment *attachment, struct hws_error *err)
{
    remove_keeps(attachment);
    attachment_clear_services(attachment);
    for (unsigned i = 0; i < ARRAY_LEN(files); i++) {
        autofree char *path = attachment_path(attachment, files[i]);
        if (path && unlink(path) < 0 && errno != ENOENT)
            return hws_fail_errno(err, errno, "cannot remove %s", path);
    }
    return 0;
}

int attachment_remove(const struct attachment *attachment, struct hws_error *err)
{
    /* Another detach may make the lock anew in between: once more, then. */
    for (unsigned n = 0; n < REMOVE_TRIES; n++) {
        int r = remove_files(attachment, err);
        if (r < 0 || rmdir(attachment->folder) == 0 || errno == ENOENT)
            return r;
        if (errno != ENOTEMPTY)
            break;
    }
    return hws_fail_errno(err, errno, "cannot remove %s", attachment->folder);
}

struct run {
    blocking_fn *fn;
    void *arg;
    struct hws_error *err;
    int result;
};

static void run_entry(void *arg)
{
    struct run *run = arg;
    run->result = run->fn(run->arg, run->err);
}

int attachment_run(blocking_fn *fn, void *arg, struct hws_error *err)
{
    struct rt *rt;
    struct rt_options options = {.kind = RT_THREADS};
    struct run run = {fn, arg, err, 0};
    int r = rt_create(&options, &rt, err);
    if (r < 0)
        return r;
    r = rt_run(rt, run_entry, &run);
    rt_free(rt);
    return r < 0 ? hws_fail_errno(err, -r, "cannot start the I/O runtime") : run.result;
}
