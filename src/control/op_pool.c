/*
 * Pools and classes: folders of images, and the policies that volumes are made by.
 *
 * A pool's folder is marked by a file with the pool's id, so that the empty mount point of a file
 * system that is not there is never taken for the pool, and no folder is two pools.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/log.h"
#include "control/internal.h"
#include <fcntl.h>
#include <limits.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#define MARK "hawser-pool.json"

static int in_folder(const char *folder, const char *name, char *path, struct hws_error *err)
{
    return snprintf(path, PATH_MAX, "%s/%s", folder, name) < PATH_MAX
               ? 0
               : hws_fail(err, ENAMETOOLONG, "%s: the path is too long", folder);
}

/* The id in the folder's mark; -ENOENT where there is none. */
static int read_mark(const char *folder, char *id, struct hws_error *err)
{
    char path[PATH_MAX];
    int r = in_folder(folder, MARK, path, err);
    if (r < 0)
        return r;
    if (access(path, F_OK) < 0)
        return hws_fail_errno(err, errno, "%s", path);
    auto_json *mark = json_load_file(path, 0, NULL);
    const char *text = json_string_value(json_object_get(mark, "id"));
    if (!text || !id_is_valid(text))
        return hws_fail(err, EUCLEAN, "%s cannot be read", path);
    snprintf(id, ID_BYTES, "%s", text);
    return 0;
}

int pool_is_there(const struct pool *pool, struct hws_error *err)
{
    char id[ID_BYTES];
    int r = read_mark(pool->path, id, err);
    if (r == 0 && strcmp(id, pool->id) != 0)
        r = hws_fail(err, EIO, "%s belongs to another pool, %s", pool->path, id);
    return r < 0 ? hws_wrap(err, -EIO, "pool '%s' is not there", pool->name) : 0;
}

int pool_check(struct control *control, const struct pool *pool, struct hws_error *err)
{
    int r = pool_is_there(pool, err);
    return r == 0 ? lease_need(control, pool, err) : r;
}

int pool_of(struct control *control, const struct volume *volume, struct pool *ret,
            struct hws_error *err)
{
    int r = object_get(control, &pool_type, volume->pool, ret, err);
    return r == 0 ? pool_check(control, ret, err) : r;
}

/* ---- limits ---- */

static int provisioned(struct control *control, const struct pool *pool, uint64_t *ret,
                       unsigned *ret_count, struct hws_error *err)
{
    auto_json *list = NULL;
    size_t i;
    json_t *volume;
    int r = object_list(control, &volume_type, pool->id, &list, err);
    *ret = 0;
    *ret_count = (unsigned)json_array_size(list);
    json_array_foreach(list, i, volume)
    {
        uint64_t size = (uint64_t)json_integer_value(json_object_get(volume, "size"));
        if (add_overflows(*ret, size, ret))
            *ret = UINT64_MAX;
    }
    return r;
}

static uint64_t capacity_of(const struct pool *pool, uint64_t *ret_free)
{
    struct statvfs st;
    *ret_free = 0;
    if (statvfs(pool->path, &st) < 0)
        return pool->capacity_bytes;
    *ret_free = (uint64_t)st.f_bavail * st.f_frsize;
    return pool->capacity_bytes ? pool->capacity_bytes : (uint64_t)st.f_blocks * st.f_frsize;
}

int pool_admit(struct control *control, const struct pool *pool, uint64_t more,
               struct hws_error *err)
{
    uint64_t now, free_bytes, limit = UINT64_MAX;
    unsigned count;
    if (!pool->quota_bytes && !pool->overcommit_percent)
        return 0;
    int r = provisioned(control, pool, &now, &count, err);
    if (r < 0)
        return r;
    if (pool->overcommit_percent &&
        mul_overflows(capacity_of(pool, &free_bytes) / 100, pool->overcommit_percent, &limit))
        limit = UINT64_MAX;
    const char *why = "overcommit limit";
    if (pool->quota_bytes && pool->quota_bytes < limit) {
        limit = pool->quota_bytes;
        why = "quota";
    }
    if (now > limit || more > limit - now)
        return hws_fail(err, ENOSPC,
                        "pool '%s': its volumes have %llu bytes; %llu more are past its %s of %llu",
                        pool->name, (unsigned long long)now, (unsigned long long)more, why,
                        (unsigned long long)limit);
    return 0;
}

static bool lies_in(const char *path, const char *folder)
{
    size_t length = strlen(folder);
    return !strncmp(path, folder, length) && (path[length] == '/' || !strcmp(folder, "/"));
}

bool pool_has_root_of(const struct pool *pool, const char *path)
{
    size_t i;
    json_t *root;
    json_array_foreach(pool->image_roots, i, root)
    {
        if (lies_in(path, json_string_value(root)))
            return true;
    }
    return false;
}

int pool_allow_image(const struct pool *pool, const char *path, char **ret, struct hws_error *err)
{
    if (path[0] != '/')
        return hws_fail(err, EINVAL, "image '%.300s' is no absolute path", path);
    autofree char *real = realpath(path, NULL);
    if (!real)
        return hws_fail_errno(err, errno, "image %.300s", path);
    if (pool_has_root_of(pool, real)) {
        *ret = steal_ptr(&real);
        return 0;
    }
    return hws_fail(err, EPERM, "image %.300s lies in none of the image roots of pool '%s'", real,
                    pool->name);
}

/* ---- making ---- */

static int make_folder(const char *path, struct hws_error *err)
{
    if (mkdir(path, 0700) < 0 && errno != EEXIST)
        return hws_fail_errno(err, errno, "cannot make the folder %s", path);
    return folder_sync(path, err);
}

static int write_mark(const char *folder, const char *id, struct hws_error *err)
{
    char path[PATH_MAX], there[ID_BYTES], temporary[PATH_MAX], text[64];
    int r = in_folder(folder, MARK, path, err);
    if (r == 0)
        r = in_folder(folder, MARK ".new", temporary, err);
    if (r < 0)
        return r;
    if (read_mark(folder, there, NULL) == 0)
        return strcmp(there, id) == 0
                   ? 0
                   : hws_fail(err, EEXIST, "%s is the folder of another pool, %s", folder, there);
    int length = snprintf(text, sizeof(text), "{\"id\": \"%s\"}\n", id);
    autofd int fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0 || write(fd, text, (size_t)length) != length || fsync(fd) < 0 ||
        rename(temporary, path) < 0)
        return hws_fail_errno(err, errno, "cannot write %s", path);
    return folder_sync(path, err);
}

static int make_pool(struct op *op, struct hws_error *err)
{
    char images[PATH_MAX];
    const char *folder = op_text(op, "path");
    int r = in_folder(folder, "images", images, err);
    if (r == 0)
        r = make_folder(folder, err);
    if (r == 0)
        r = write_mark(folder, op->object, err);
    return r == 0 ? make_folder(images, err) : r;
}

/* Takes away what is ours: a mark with another id means that the folder was another's before. */
static int remove_pool(struct op *op, struct hws_error *err)
{
    char path[PATH_MAX], images[PATH_MAX], there[ID_BYTES];
    const char *folder = op_text(op, "path");
    int r = in_folder(folder, MARK, path, err);
    if (r == 0)
        r = in_folder(folder, "images", images, err);
    if (r < 0)
        return r;
    if (read_mark(folder, there, NULL) == 0 && strcmp(there, op->object) == 0) {
        lease_forget(op->control, op->object);
        rmdir(images); /* one that holds something stays */
        r = file_unlink(path, err);
    }
    if (r == 0 && json_is_true(json_object_get(op->params, "made")))
        rmdir(folder);
    return r;
}

static int pool_end(struct op *op, struct batch *batch, struct hws_error *err)
{
    auto_pool pool = {0};
    int r = object_parse(&pool_type, json_object_get(op->params, "pool"), &pool, err);
    if (r == 0)
        batch_add(batch, &pool_type, &pool);
    return r;
}

static int pool_undone(struct op *op, struct batch *batch, struct hws_error *err)
{
    return 0;
}

const struct operation pool_create_operation = {
    .name = "pool-create",
    .steps = {{"make the folder", make_pool, remove_pool}, {NULL}},
    .direction = op_always_back,
    .end = pool_end,
    .undone = pool_undone,
};

const struct record_field request_pool_create[] = {
    {"name", RECORD_TEXT, offsetof(struct pool, name), "unique name", true},
    {"path", RECORD_TEXT, offsetof(struct pool, path), "absolute path of its folder", true},
    {"capacity", RECORD_SIZE, offsetof(struct pool, capacity_bytes), "0: of its file system"},
    {"overcommit-percent", RECORD_UINT, offsetof(struct pool, overcommit_percent), "0: any",
     .max = OVERCOMMIT_MAX_PERCENT},
    {"quota", RECORD_SIZE, offsetof(struct pool, quota_bytes), "0: any"},
    {"labels", RECORD_LABELS, offsetof(struct pool, labels), "texts of the user's own"},
    {"image-roots", RECORD_LIST, offsetof(struct pool, image_roots), "absolute paths"},
    TRASH_RETENTION_FIELD(pool, trash_retention_s,
                          "seconds that deleted volumes are kept; 0: they go at once"),
    {"shared", RECORD_BOOL, offsetof(struct pool, shared),
     "other hosts see its folder, too: one at a time uses it"},
    {NULL},
};

/* Paths are kept as they resolve: what a link becomes later is not followed. */
int pool_resolve_roots(struct pool *pool, struct hws_error *err)
{
    size_t i;
    json_t *root;
    json_array_foreach(pool->image_roots, i, root)
    {
        const char *text = json_string_value(root);
        autofree char *real = text[0] == '/' ? realpath(text, NULL) : NULL;
        if (!real)
            return hws_fail(err, EINVAL, "image root '%.300s' is no absolute path of a folder",
                            text);
        json_t *resolved = json_string(real);
        if (!resolved || json_array_set_new(pool->image_roots, i, resolved) < 0)
            return hws_fail(err, EINVAL, "image root '%.300s' is no UTF-8", text);
    }
    return 0;
}

/* The folder's parent must be there; the folder itself may be missing. */
static int resolve_path(struct pool *pool, bool *ret_made, struct hws_error *err)
{
    struct stat st;
    size_t length = strlen(pool->path);
    while (length > 1 && pool->path[length - 1] == '/')
        pool->path[--length] = '\0';
    *ret_made = lstat(pool->path, &st) < 0 && errno == ENOENT;
    if (pool->path[0] != '/' || length == 1)
        return hws_fail(err, EINVAL, "path '%.300s' is no absolute path of a folder", pool->path);
    if (*ret_made) {
        char *name = strrchr(pool->path, '/') + 1;
        autofree char *parent = strndup(pool->path, (size_t)(name - pool->path));
        autofree char *real = parent ? realpath(parent, NULL) : NULL;
        char *path = NULL;
        if (!real || !strcmp(name, "..") || !strcmp(name, "."))
            return hws_fail_errno(err, errno ? errno : EINVAL, "the folder above %.300s",
                                  pool->path);
        if (asprintf(&path, "%s/%s", strcmp(real, "/") ? real : "", name) < 0)
            return hws_fail(err, ENOMEM, "out of memory");
        free(pool->path);
        pool->path = path;
        return 0;
    }
    char *real = realpath(pool->path, NULL);
    if (!real || stat(real, &st) < 0 || !S_ISDIR(st.st_mode)) {
        free(real);
        return hws_fail(err, ENOTDIR, "%.300s is no folder", pool->path);
    }
    free(pool->path);
    pool->path = real;
    return 0;
}

int control_pool_create(struct control *control, const json_t *request, json_t **ret,
                        struct hws_error *err)
{
    auto_pool pool = {0};
    auto_batch begin = {0};
    char id[ID_BYTES];
    bool made = false;
    int r = record_parse(request_pool_create, request, "pool", &pool, sizeof(pool), err);
    if (r == 0)
        r = name_check("pool", pool.name, err);
    if (r == 0)
        r = resolve_path(&pool, &made, err);
    if (r == 0)
        r = pool_resolve_roots(&pool, err);
    id_make(id);
    pool.created = (uint64_t)time(NULL);
    if (r == 0 && record_set_text(&pool.id, id) < 0)
        r = hws_fail(err, ENOMEM, "out of memory");
    if (r == 0)
        r = locks_take(&control->locks, id, OBJECT_WAIT_MS, err);
    if (r < 0)
        return r;
    auto_json *taken = NULL;
    control_lock_model(control);
    if (control->store->driver->find(control->store, "pool", pool.name, &taken, NULL) == 0) {
        control_unlock_model(control);
        r = hws_fail(err, EEXIST, "there is a pool '%s' already", pool.name);
    } else {
        json_t *params = json_pack("{s:s, s:b, s:o}", "path", pool.path, "made", made, "pool",
                                   record_json(pool_type.fields, &pool));
        r = journal_run(control, &pool_create_operation, id, params, &begin, NULL, err);
    }
    struct hws_error why = {0};
    if (r == 0 && lease_need(control, &pool, &why) < 0)
        log_warning("%s", why.text); /* it is there all the same */
    locks_release(&control->locks, id);
    return r < 0 ? r : control_pool_show(control, id, ret, err);
}

/* ---- deleting ---- */

static enum op_direction always_forward(struct op *op)
{
    return OP_FORWARD;
}

static int nothing_more(struct op *op, struct batch *batch, struct hws_error *err)
{
    return 0;
}

const struct operation pool_delete_operation = {
    .name = "pool-delete",
    .steps = {{"remove the folder", remove_pool, NULL}, {NULL}},
    .direction = always_forward,
    .end = nothing_more,
};

static int delete_taken(struct control *control, const struct pool *pool, struct hws_error *err)
{
    auto_batch begin = {0};
    uint64_t bytes;
    unsigned count = 0, trashed = 0;
    auto_json *purge = NULL;
    struct store_query query = {.kind = "intent"};
    size_t i;
    json_t *intent;
    control_lock_model(control);
    int r = provisioned(control, pool, &bytes, &count, err);
    if (r == 0)
        r = control->store->driver->count(control->store, trash_type.kind, pool->id, &trashed, err);
    if (r == 0 && trashed)
        r = hws_fail(err, EBUSY, "pool '%s' has %u volumes in the trash; empty that first",
                     pool->name, trashed);
    if (r == 0)
        r = control->store->driver->list(control->store, &query, &purge, err);
    json_array_foreach(purge, i, intent)
    {
        const char *of =
            json_string_value(json_object_get(json_object_get(intent, "params"), "pool"));
        count += of && !strcmp(of, pool->id);
    }
    if (r == 0 && count)
        r = hws_fail(err, EBUSY, "pool '%s' has %u volumes or operations; delete those first",
                     pool->name, count);
    if (r < 0) {
        control_unlock_model(control);
        return r;
    }
    batch_remove(&begin, &pool_type, pool->id);
    return journal_run(control, &pool_delete_operation, pool->id,
                       json_pack("{s:s}", "path", pool->path), &begin, NULL, err);
}

int control_pool_delete(struct control *control, const char *reference, struct hws_error *err)
{
    auto_pool pool = {0};
    int r = object_find(control, &pool_type, reference, &pool, err);
    if (r == 0)
        r = locks_take(&control->locks, pool.id, OBJECT_WAIT_MS, err);
    if (r < 0)
        return r;
    auto_pool again = {0};
    r = object_get(control, &pool_type, pool.id, &again, err);
    /* Its mark and its lease are those of the host that uses it. */
    if (r == 0 && again.shared && pool_is_there(&again, NULL) == 0)
        r = lease_need(control, &again, err);
    if (r == 0)
        r = delete_taken(control, &again, err);
    locks_release(&control->locks, pool.id);
    return r;
}

/* ---- showing ---- */

static int describe(struct control *control, json_t *item, struct hws_error *err)
{
    auto_pool pool = {0};
    uint64_t bytes, free_bytes, capacity;
    unsigned count;
    int r = object_parse(&pool_type, item, &pool, err);
    if (r == 0)
        r = provisioned(control, &pool, &bytes, &count, err);
    if (r < 0)
        return r;
    struct hws_error why = {0};
    bool there = pool_is_there(&pool, NULL) == 0;
    bool ours = there && lease_look(control, &pool, &why) == 0;
    capacity = capacity_of(&pool, &free_bytes);
    json_object_set_new(item, "state",
                        json_string(ours    ? "available"
                                    : there ? "not held"
                                            : "away"));
    if (there && !ours)
        json_object_set_new(item, "lease", json_string(why.text));
    json_object_set_new(item, "volumes", json_integer(count));
    json_object_set_new(item, "provisioned", json_integer((json_int_t)bytes));
    if (there) {
        json_object_set_new(item, "capacity", json_integer((json_int_t)capacity));
        json_object_set_new(item, "free", json_integer((json_int_t)free_bytes));
    }
    return 0;
}

int control_pool_show(struct control *control, const char *reference, json_t **ret,
                      struct hws_error *err)
{
    auto_pool pool = {0};
    int r = object_find(control, &pool_type, reference, &pool, err);
    if (r < 0)
        return r;
    json_t *item = record_json(pool_type.fields, &pool);
    r = describe(control, item, err);
    if (r < 0)
        json_decref(item);
    else
        *ret = item;
    return r;
}

int control_pool_list(struct control *control, const struct control_page *page, json_t **ret,
                      struct hws_error *err)
{
    return control_page(control, &pool_type, NULL, page, "", describe, ret, err);
}
