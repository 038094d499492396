/*
 * Engines that only pretend; see control/fake_engines.h.
 *
 *   image                one line: FORMAT SIZE, and one with the path of the layer below, or "-"
 *   FOLDER/ID            attached: the path of the top
 *   FOLDER/.ID.EXPORT    served by it: the tag
 *   FOLDER/.ID.unmounted its mount was taken away by hand
 *   FOLDER/.ID.held      its requests wait
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "control/fake_engines.h"
#include <dirent.h>
#include <limits.h>
#include <sys/stat.h>

static char folder[PATH_MAX];
static void (*hook)(void *arg, const char *where);
static char failing[32];
static int failure;

void fake_engines_prepare(const char *where, void (*at)(void *arg, const char *where))
{
    snprintf(folder, sizeof(folder), "%s", where);
    hook = at;
    failing[0] = '\0';
    if (mkdir(folder, 0700) < 0)
        assert(errno == EEXIST);
}

void fake_engines_fail(const char *function, int error)
{
    snprintf(failing, sizeof(failing), "%s", function);
    failure = error;
}

static void pass(const char *where)
{
    if (hook)
        hook(NULL, where);
}

static int may_fail(const char *function, struct hws_error *err)
{
    if (strcmp(failing, function) != 0)
        return 0;
    failing[0] = '\0';
    return hws_fail(err, failure, "%s was told to fail", function);
}

static int write_text(const char *path, const char *text, struct hws_error *err)
{
    FILE *file = fopen(path, "we");
    pass("a file is empty");
    if (!file || fputs(text, file) < 0 || fclose(file) != 0)
        return hws_fail_errno(err, errno, "%s", path);
    return 0;
}

static int create(const struct engine_image *image, struct hws_error *err)
{
    char text[2 * PATH_MAX];
    int r = may_fail("create", err);
    if (r < 0)
        return r;
    if (image->backing && access(image->backing, F_OK) < 0)
        return hws_fail_errno(err, errno, "%s", image->backing);
    snprintf(text, sizeof(text), "%s %llu\n%s\n", image->format,
             (unsigned long long)image->size_bytes, image->backing ? image->backing : "-");
    return write_text(image->path, text, err);
}

static int look(const char *path, const char *const *allow, char *format, uint64_t *ret_size,
                struct hws_error *err)
{
    unsigned long long size;
    int r = may_fail("look", err);
    FILE *file = r == 0 ? fopen(path, "re") : NULL;
    if (!file)
        return r < 0 ? r : hws_fail_errno(err, errno, "%s", path);
    bool good = fscanf(file, "%15s %llu", format, &size) == 2;
    fclose(file);
    *ret_size = good ? size : 0;
    return good ? 0 : hws_fail(err, EINVAL, "%s is no image", path);
}

static int resize_file(const char *path, const char *format, const char *const *allow,
                       uint64_t size_bytes, struct hws_error *err)
{
    char kind[16], below[PATH_MAX], text[2 * PATH_MAX];
    unsigned long long size;
    int r = may_fail("resize_file", err);
    FILE *file = r == 0 ? fopen(path, "re") : NULL;
    if (!file)
        return r < 0 ? r : hws_fail_errno(err, errno, "%s", path);
    bool good = fscanf(file, "%15s %llu %4095s", kind, &size, below) == 3;
    fclose(file);
    if (!good || size > size_bytes)
        return hws_fail(err, EINVAL, "%s cannot be resized", path);
    snprintf(text, sizeof(text), "%s %llu\n%s\n", kind, (unsigned long long)size_bytes, below);
    pass("a resize begins");
    file = fopen(path, "r+e");
    if (!file || fputs(text, file) < 0 || fclose(file) != 0)
        return hws_fail_errno(err, errno, "%s", path);
    return 0;
}

static char *place_of(const char *id)
{
    char *path;
    return asprintf(&path, "%s/%s", folder, id) < 0 ? NULL : path;
}

/* ---- what it serves: files .ENGINE.EXPORT with the tag in them ---- */

static char *service_of(const char *id, const char *export)
{
    char *path;
    return asprintf(&path, "%s/.%s.%s", folder, id, export) < 0 ? NULL : path;
}

/* Those of an engine; @end: they go. */
static json_t *walk_services(const char *id, bool end)
{
    DIR *dir = opendir(folder);
    json_t *list = json_array();
    for (struct dirent *at; dir && (at = readdir(dir));) {
        char tag[32] = "";
        if (at->d_name[0] != '.' || strncmp(at->d_name + 1, id, strlen(id)) != 0)
            continue;
        const char *export = at->d_name + strlen(id) + 2;
        autofree char *path = service_of(id, export);
        FILE *file = end ? NULL : fopen(path, "re");
        if (end)
            unlink(path);
        bool whole = file && fgets(tag, sizeof(tag), file);
        if (file)
            fclose(file);
        if (whole)
            json_array_append_new(list, json_pack("{s:s, s:s}", "name", export, "tag", tag));
    }
    if (dir)
        closedir(dir);
    return list;
}

static json_t *services_of(const char *id)
{
    return walk_services(id, false);
}

static int serve(const struct engine_export *export, struct hws_error *err)
{
    autofree char *engine = place_of(export->engine);
    autofree char *path = service_of(export->engine, export->id);
    int r = may_fail("serve", err);
    if (r < 0)
        return r;
    if (access(engine, F_OK) < 0)
        return hws_fail(err, ENOENT, "there is no engine");
    r = write_text(path, export->tag, err);
    pass("an export is served");
    return r == 0 ? may_fail("serve-late", err) : r;
}

static int unserve(const char *engine, const char *id, const char *listen, bool force,
                   struct hws_error *err)
{
    autofree char *path = service_of(engine, id);
    int r = force ? 0 : may_fail("unserve", err);
    if (r < 0)
        return r;
    unlink(path);
    pass("an export ends");
    return 0;
}

static int find(const char *id, struct engine_place *ret, struct hws_error *err)
{
    autofree char *path = place_of(id);
    char top[PATH_MAX] = "";
    FILE *file = fopen(path, "re");
    *ret = (struct engine_place){0};
    if (!file)
        return -ENOENT;
    bool got = fgets(top, sizeof(top), file) != NULL;
    fclose(file);
    top[strcspn(top, "\n")] = '\0';
    ret->services = services_of(id);
    /* An empty one is an engine that was killed at its start. */
    ret->running = got;
    ret->device = strdup("/dev/fake");
    ret->top = strdup(top);
    return 0;
}

static int attach(const struct engine_wish *wish, struct engine_place *ret, struct hws_error *err)
{
    autofree char *path = place_of(wish->id);
    int r = may_fail("attach", err);
    if (r < 0)
        return r;
    if (access(wish->path, F_OK) < 0)
        return hws_fail_errno(err, errno, "%s", wish->path);
    if (find(wish->id, ret, NULL) == 0 && ret->running) {
        engine_place_free(ret);
        return hws_fail(err, EEXIST, "it is attached");
    }
    engine_place_free(ret);
    r = write_text(path, wish->path, err);
    pass("an engine runs");
    return r < 0 ? r : find(wish->id, ret, err);
}

static int detach(const char *id, bool force, struct hws_error *err)
{
    autofree char *path = place_of(id);
    int r = force ? 0 : may_fail("detach", err);
    if (r < 0)
        return r;
    json_decref(walk_services(id, true));
    pass("an engine ends");
    return unlink(path) < 0 && errno != ENOENT ? hws_fail_errno(err, errno, "%s", path) : 0;
}

static int snapshot(const char *id, const char *overlay, struct hws_error *err)
{
    struct engine_place place;
    int r = find(id, &place, err);
    if (r < 0)
        return r;
    if (access(overlay, F_OK) == 0) {
        engine_place_free(&place);
        return hws_fail(err, EEXIST, "%s is there", overlay);
    }
    char format[16];
    uint64_t size_bytes = 0;
    (void)look(place.top, NULL, format, &size_bytes, NULL);
    struct engine_image image = {.path = overlay,
                                 .format = "qcow2",
                                 .size_bytes = size_bytes,
                                 .backing = place.top,
                                 .backing_format = "qcow2"};
    r = create(&image, err);
    pass("an overlay is there");
    if (r == 0)
        r = may_fail("snapshot", err);
    if (r == 0) {
        autofree char *path = place_of(id), *fresh = NULL;
        if (asprintf(&fresh, "%s/.%s.new", folder, id) < 0)
            return -ENOMEM;
        r = write_text(fresh, overlay, err);
        if (r == 0)
            r = rename(fresh, path) < 0 ? -errno : 0;
        pass("an overlay is the top");
        if (r == 0)
            r = may_fail("snapshot-late", err);
    }
    engine_place_free(&place);
    return r;
}

/* ---- holding ---- */

struct hold {
    unsigned count;
    char id[64][40];
};

static char *mark_of(const char *id)
{
    char *path;
    return asprintf(&path, "%s/.%s.held", folder, id) < 0 ? NULL : path;
}

static int release(void *arg, struct hws_error *err)
{
    struct hold *held = arg;
    int r = may_fail("release", err);
    for (unsigned i = 0; i < held->count; i++) {
        autofree char *path = mark_of(held->id[i]);
        if (unlink(path) < 0 && r == 0)
            r = hws_fail(err, ETIMEDOUT, "%s is not held", held->id[i]);
        pass("one is let go");
    }
    free(held);
    return r;
}

static int hold(const struct engine_held *what, unsigned count, void **ret, struct hws_error *err)
{
    struct hold *held = calloc(1, sizeof(*held));
    int r = 0;
    assert(count > 0 && count <= ARRAY_LEN(held->id));
    for (unsigned i = 0; r == 0 && i < count; i++) {
        struct engine_place place;
        autofree char *path = mark_of(what[i].id);
        r = find(what[i].id, &place, err);
        engine_place_free(&place);
        if (r == 0)
            r = write_text(path, "", err);
        if (r == 0)
            snprintf(held->id[held->count++], sizeof(held->id[0]), "%s", what[i].id);
        pass("one is held");
        if (r == 0 && i == 0)
            r = may_fail("hold", err);
    }
    if (r < 0) {
        if (release(held, NULL) < 0)
            return r;
        return r;
    }
    *ret = held;
    return 0;
}

static int settle(const char *id, struct hws_error *err)
{
    autofree char *path = mark_of(id);
    int r = may_fail("settle", err);
    if (r == 0 && unlink(path) < 0 && errno != ENOENT)
        r = hws_fail_errno(err, errno, "%s", path);
    return r;
}

static int resize(const char *id, uint64_t size_bytes, struct hws_error *err)
{
    struct engine_place place;
    int r = may_fail("resize", err);
    if (r == 0)
        r = find(id, &place, err);
    if (r < 0)
        return r;
    r = resize_file(place.top, "", NULL, size_bytes, err);
    engine_place_free(&place);
    return r;
}

static int grow(const char *fs, const char *device, const char *mountpoint, struct hws_error *err)
{
    pass("a file system grows");
    return may_fail("grow", err);
}

/* .ID.unmounted tells that somebody has unmounted it; devices are all called the same. */
static char *unmounted_path(const char *mountpoint)
{
    const char *slash = strrchr(mountpoint, '/');
    char *path;
    return asprintf(&path, "%s/.%s.unmounted", folder, slash ? slash + 1 : mountpoint) < 0 ? NULL
                                                                                           : path;
}

static int mount_again(const char *device, const char *mountpoint, bool read_only, const char *fs,
                       const char *options, struct hws_error *err)
{
    autofree char *path = unmounted_path(mountpoint);
    int r = may_fail("remount", err);
    if (r == 0)
        unlink(path);
    return r;
}

static int is_mounted(const char *device, const char *mountpoint, bool *ret, struct hws_error *err)
{
    autofree char *path = unmounted_path(mountpoint);
    *ret = access(path, F_OK) < 0;
    return 0;
}

static int list(json_t **ret, struct hws_error *err)
{
    DIR *dir = opendir(folder);
    *ret = json_array();
    for (struct dirent *at; dir && (at = readdir(dir));)
        if (at->d_name[0] != '.')
            json_array_append_new(*ret, json_string(at->d_name));
    if (dir)
        closedir(dir);
    return 0;
}

static int sync_fs(const char *mountpoint, struct hws_error *err)
{
    return may_fail("sync", err);
}

/* ---- merging: the line of what lies below is written anew ---- */

static int read_below(const char *path, char *kind, unsigned long long *size, char *below,
                      struct hws_error *err)
{
    FILE *file = fopen(path, "re");
    bool good = file && fscanf(file, "%15s %llu %4095s", kind, size, below) == 3;
    if (file)
        fclose(file);
    return good ? 0 : hws_fail(err, EINVAL, "%s is no image", path);
}

static int is_merged(const struct engine_merge *merge, bool *ret, struct hws_error *err)
{
    char kind[16], below[PATH_MAX];
    unsigned long long size;
    int r = read_below(merge->path, kind, &size, below, err);
    *ret = r == 0 && !strcmp(below, merge->below ? merge->below : "-");
    return r;
}

static int merge_layers(const struct engine_merge *merge, struct hws_error *err)
{
    char kind[16], below[PATH_MAX], text[2 * PATH_MAX];
    unsigned long long size;
    int r = may_fail("merge", err);
    if (r == 0)
        r = read_below(merge->path, kind, &size, below, err);
    if (r < 0)
        return r;
    pass("a merge begins");
    if (merge->progress && merge->progress(merge->arg, 1, 2))
        return hws_fail(err, ECANCELED, "it was stopped");
    snprintf(text, sizeof(text), "%s %llu\n%s\n", kind, size, merge->below ? merge->below : "-");
    autofree char *fresh = NULL;
    if (asprintf(&fresh, "%s/.merge.new", folder) < 0)
        return -ENOMEM;
    r = write_text(fresh, text, err);
    if (r == 0)
        r = rename(fresh, merge->path) < 0 ? -errno : 0;
    pass("a merge has ended");
    return r == 0 ? may_fail("merge-late", err) : r;
}

/* ---- copying: half of it lies beside, and what is there is gone on with ---- */

static int forget_copy(const char *path, struct hws_error *err)
{
    char partial[PATH_MAX];
    snprintf(partial, sizeof(partial), "%s.partial", path);
    if ((unlink(path) < 0 && errno != ENOENT) || (unlink(partial) < 0 && errno != ENOENT))
        return hws_fail_errno(err, errno, "%s", path);
    pass("a copy is forgotten");
    return 0;
}

static int copy_image(const struct engine_copy *copy, struct hws_error *err)
{
    char partial[PATH_MAX], text[2 * PATH_MAX];
    if (access(copy->image.path, F_OK) == 0)
        return 0;
    if (access(copy->source, F_OK) < 0)
        return hws_fail_errno(err, errno, "%s", copy->source);
    snprintf(partial, sizeof(partial), "%s.partial", copy->image.path);
    snprintf(text, sizeof(text), "%s %llu\n-\n", copy->image.format,
             (unsigned long long)copy->image.size_bytes);
    pass("a copy begins");
    int r = write_text(partial, text, err);
    pass("a copy is half made");
    if (r == 0 && copy->progress(copy->arg, copy->image.size_bytes / 2, copy->image.size_bytes))
        return hws_fail(err, ECANCELED, "it was stopped");
    if (r == 0)
        r = may_fail("copy", err);
    if (r == 0 && rename(partial, copy->image.path) < 0)
        r = hws_fail_errno(err, errno, "%s", partial);
    pass("a copy is made");
    return r;
}

const struct engine_driver engines_fake = {
    .create = create,
    .look = look,
    .look_below = look,
    .resize_file = resize_file,
    .attach = attach,
    .find = find,
    .detach = detach,
    .snapshot = snapshot,
    .hold = hold,
    .release = release,
    .settle = settle,
    .resize = resize,
    .grow = grow,
    .remount = mount_again,
    .is_mounted = is_mounted,
    .list = list,
    .sync = sync_fs,
    .merge = merge_layers,
    .is_merged = is_merged,
    .serve = serve,
    .unserve = unserve,
    .copy = copy_image,
    .forget_copy = forget_copy,
};
