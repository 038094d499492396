/*
 * What the doctor can repair of files, layers and volumes; see control/doctor.h. Each looks again
 * first, with the object or the model locked: what has become well meanwhile is left alone.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "control/doctor.h"
#include <fcntl.h>
#include <limits.h>
#include <sys/stat.h>

#define NAMES_MAX 1000

/* ---- helpers ---- */

bool doctor_is_open(const char *path)
{
    autofd int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    return fd >= 0 && fcntl(fd, F_OFD_GETLK, &lock) == 0 && lock.l_type != F_UNLCK;
}

int doctor_names(struct control *control, const char *id, bool *ret, struct hws_error *err)
{
    const struct store_query query = {.kind = "intent"};
    auto_json *list = NULL;
    int r = control->store->driver->list(control->store, &query, &list, err);
    autofree char *text = r == 0 ? json_dumps(list, JSON_COMPACT) : NULL;
    if (r == 0 && !text)
        r = hws_fail(err, ENOMEM, "out of memory");
    *ret = text && strstr(text, id);
    return r;
}

char *doctor_lost_path(const char *pool_path, const char *name)
{
    char *path;
    return asprintf(&path, "%s/lost+found%s%s", pool_path, name ? "/" : "", name ? name : "") < 0
               ? NULL
               : path;
}

static const char *last_part(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

/* Moves a file of a pool to its lost+found: NAME, or NAME.1 where that is taken. */
static int move_to_lost(const struct pool *pool, const char *path, struct hws_error *err)
{
    autofree char *folder = doctor_lost_path(pool->path, NULL);
    if (!folder)
        return hws_fail(err, ENOMEM, "out of memory");
    if (mkdir(folder, 0700) < 0 && errno != EEXIST)
        return hws_fail_errno(err, errno, "cannot make %s", folder);
    int r = -EEXIST;
    for (unsigned i = 0; r == -EEXIST && i < NAMES_MAX; i++) {
        char to[PATH_MAX + 16], number[16] = "";
        if (i > 0)
            snprintf(number, sizeof(number), ".%u", i);
        snprintf(to, sizeof(to), "%s/%s%s", folder, last_part(path), number);
        r = renameat2(AT_FDCWD, path, AT_FDCWD, to, RENAME_NOREPLACE) < 0 ? -errno : 0;
        if (r == 0)
            r = folder_sync(to, err);
    }
    if (r == -ENOENT)
        return 0; /* gone by itself */
    if (r < 0)
        return err->code ? r : hws_fail_errno(err, -r, "cannot move %s to %s", path, folder);
    return folder_sync(path, err);
}

static int take_pool(struct control *control, const char *id, struct pool *ret,
                     struct hws_error *err)
{
    int r = object_get(control, &pool_type, id, ret, err);
    return r == 0 ? pool_check(control, ret, err) : r;
}

/* ---- files ---- */

int doctor_bring_back_file(struct control *control, const char *id, const char *path,
                           struct hws_error *err)
{
    auto_layer layer = {0};
    auto_pool pool = {0};
    int r = object_get(control, &layer_type, id, &layer, err);
    if (r == 0)
        r = take_pool(control, layer.pool, &pool, err);
    if (r < 0)
        return r;
    autofree char *lost = doctor_lost_path(pool.path, last_part(path));
    if (!lost)
        return hws_fail(err, ENOMEM, "out of memory");
    if (access(path, F_OK) == 0)
        return 0;
    if (layer.path || access(lost, F_OK) < 0)
        return hws_fail(err, ENOENT,
                        "%s is in no lost+found; bring it back from a backup, or delete what needs "
                        "it",
                        last_part(path));
    if (renameat2(AT_FDCWD, lost, AT_FDCWD, path, RENAME_NOREPLACE) < 0)
        return hws_fail_errno(err, errno, "cannot move %s to %s", lost, path);
    r = folder_sync(path, err);
    return r == 0 ? folder_sync(lost, err) : r;
}

/* Whose is it? What names it as its own in the catalog decides; NULL: nobody does. */
static int find_owner(struct control *control, const char *kind, const char *layer, char **ret,
                      struct hws_error *err)
{
    const struct store_query query = {.kind = kind};
    auto_json *list = NULL;
    size_t i;
    json_t *value;
    int r = control->store->driver->list(control->store, &query, &list, err);
    json_array_foreach(list, i, value)
    {
        if (r == 0 && !*ret && !strcmp(doctor_text(value, "layer"), layer) &&
            record_set_text(ret, doctor_text(value, "id")) < 0)
            r = hws_fail(err, ENOMEM, "out of memory");
    }
    return r;
}

/* Whether something of the catalog needs a file by its layer's id, though it lost that layer. */
static int is_needed(struct control *control, const char *id, bool *ret, struct hws_error *err)
{
    static const char *const kinds[] = {"volume", "trash", "snapshot"};
    autofree char *owner = NULL;
    unsigned children = 0;
    bool named = false;
    int r = doctor_names(control, id, &named, err);
    for (unsigned i = 0; r == 0 && i < ARRAY_LEN(kinds); i++)
        r = find_owner(control, kinds[i], id, &owner, err);
    if (r == 0)
        r = control->store->driver->count(control->store, layer_type.kind, id, &children, err);
    *ret = named || owner || children > 0;
    return r;
}

static int move_foreign_locked(struct control *control, const char *pool_id, const char *path,
                               struct hws_error *err)
{
    auto_pool pool = {0};
    auto_layer layer = {0};
    char id[ID_BYTES];
    bool needed = false;
    int r = take_pool(control, pool_id, &pool, err);
    snprintf(id, sizeof(id), "%.36s", last_part(path));
    if (r == 0 && id_is_valid(id) && object_get(control, &layer_type, id, &layer, NULL) == 0) {
        autofree char *own = layer_path(&pool, &layer);
        needed = !own || !strcmp(own, path);
    } else if (r == 0 && id_is_valid(id)) {
        r = is_needed(control, id, &needed, err);
    }
    if (r < 0 || needed || access(path, F_OK) < 0)
        return r;
    if (doctor_is_open(path))
        return hws_fail(err, EBUSY, "%s is in use", path);
    return move_to_lost(&pool, path, err);
}

int doctor_move_foreign(struct control *control, const char *id, const char *path,
                        struct hws_error *err)
{
    control_lock_model(control);
    int r = move_foreign_locked(control, id, path, err);
    control_unlock_model(control);
    return r;
}

/* ---- layers ---- */

static int is_unused(struct control *control, const struct layer *layer, bool *ret,
                     struct hws_error *err)
{
    unsigned children = 0;
    bool named = true;
    int r =
        control->store->driver->count(control->store, layer_type.kind, layer->id, &children, err);
    if (r == 0)
        r = doctor_names(control, layer->id, &named, err);
    *ret = r == 0 && children == 0 && !named && !layer->volume && !layer->snapshot;
    return r;
}

static int forget_locked(struct control *control, const char *id, struct hws_error *err)
{
    auto_layer layer = {0};
    auto_pool pool = {0};
    auto_batch batch = {0};
    bool unused = false;
    int r = object_get(control, &layer_type, id, &layer, err);
    if (r == 0)
        r = is_unused(control, &layer, &unused, err);
    if (r == 0)
        r = take_pool(control, layer.pool, &pool, err);
    if (r < 0 || !unused)
        return r;
    autofree char *path = layer_path(&pool, &layer);
    if (!path)
        return hws_fail(err, ENOMEM, "out of memory");
    if (!layer.path && doctor_is_open(path))
        return hws_fail(err, EBUSY, "%s is in use", path);
    batch_remove(&batch, &layer_type, id);
    r = batch_commit(&batch, control, err);
    /* Where this is cut off the file is a foreign one, and moved then. */
    return r == 0 && !layer.path ? move_to_lost(&pool, path, err) : r;
}

int doctor_forget_layer(struct control *control, const char *id, const char *path,
                        struct hws_error *err)
{
    control_lock_model(control);
    int r = forget_locked(control, id, err);
    control_unlock_model(control);
    return r;
}

static int correct_reference_locked(struct control *control, const char *id, struct hws_error *err)
{
    auto_layer layer = {0};
    auto_batch batch = {0};
    autofree char *volume = NULL, *snapshot = NULL;
    bool named = false;
    int r = object_get(control, &layer_type, id, &layer, err);
    if (r == 0)
        r = doctor_names(control, id, &named, err);
    if (r < 0 || named)
        return r;
    r = find_owner(control, "volume", id, &volume, err);
    if (r == 0)
        r = find_owner(control, "trash", id, &volume, err);
    if (r == 0)
        r = find_owner(control, "snapshot", id, &snapshot, err);
    if (r == 0 && volume && snapshot)
        r = hws_fail(err, EUCLEAN, "volume %s and snapshot %s both say that it is theirs", volume,
                     snapshot);
    if (r < 0)
        return r;
    free(layer.volume);
    free(layer.snapshot);
    layer.volume = steal_ptr(&volume);
    layer.snapshot = steal_ptr(&snapshot);
    batch_put(&batch, &layer_type, &layer);
    return batch_commit(&batch, control, err);
}

int doctor_correct_reference(struct control *control, const char *id, const char *path,
                             struct hws_error *err)
{
    control_lock_model(control);
    int r = correct_reference_locked(control, id, err);
    control_unlock_model(control);
    return r;
}

static int correct_depth_locked(struct control *control, const char *id, struct hws_error *err)
{
    auto_layer layer = {0}, parent = {0};
    auto_batch batch = {0};
    int r = object_get(control, &layer_type, id, &layer, err);
    if (r == 0 && layer.parent)
        r = object_get(control, &layer_type, layer.parent, &parent, err);
    if (r < 0)
        return r;
    layer.depth = layer.parent ? parent.depth + 1 : 0;
    batch_put(&batch, &layer_type, &layer);
    return batch_commit(&batch, control, err);
}

int doctor_correct_depth(struct control *control, const char *id, const char *path,
                         struct hws_error *err)
{
    control_lock_model(control);
    int r = correct_depth_locked(control, id, err);
    control_unlock_model(control);
    return r;
}

/* A volume that grew behind our back keeps what it has; one that is smaller than it was grows. */
static int correct_size_taken(struct control *control, struct volume *volume, struct layer *layer,
                              const struct pool *pool, const char *path, struct hws_error *err)
{
    auto_batch batch = {0};
    uint64_t size;
    char format[16];
    char **allow = layer_allow(pool);
    snprintf(format, sizeof(format), "%s", layer->format ? layer->format : "");
    const char *const *folders = (const char *const *)allow;
    int r = control->engines->look(path, folders, format, &size, err);
    if (r == 0 && size < layer->size_bytes && layer->snapshot)
        r = hws_fail(err, ENOTSUP, "it is a snapshot's, and is not written");
    else if (r == 0 && size < layer->size_bytes)
        r = control->engines->resize_file(path, format, folders, layer->size_bytes, err);
    layer_allow_free(allow);
    if (r < 0 || size <= layer->size_bytes)
        return r;
    layer->size_bytes = size;
    batch_put(&batch, &layer_type, layer);
    if (layer->volume) {
        volume->size_bytes = size;
        volume->grow = volume->formatted;
        batch_put(&batch, &volume_type, volume);
    }
    control_lock_model(control);
    r = batch_commit(&batch, control, err);
    control_unlock_model(control);
    return r;
}

int doctor_correct_size(struct control *control, const char *id, const char *path,
                        struct hws_error *err)
{
    auto_layer layer = {0};
    auto_snapshot snapshot = {0};
    auto_volume volume = {0};
    auto_pool pool = {0};
    auto_attachment attachment = {0};
    bool attached = false;
    int r = object_get(control, &layer_type, id, &layer, err);
    if (r == 0 && layer.snapshot)
        r = object_get(control, &snapshot_type, layer.snapshot, &snapshot, err);
    if (r < 0)
        return r;
    const char *owner = layer.volume ? layer.volume : snapshot.volume;
    r = owner ? volume_take(control, owner, &volume, err)
              : hws_fail(err, EBUSY, "it is nobody's: it waits for being merged");
    if (r < 0)
        return r;
    record_free(layer_type.fields, &layer);
    r = object_get(control, &layer_type, id, &layer, err);
    if (r == 0)
        r = take_pool(control, layer.pool, &pool, err);
    if (r == 0)
        r = attachment_get(control, volume.id, &attachment, &attached, err);
    if (r == 0 && attached && layer.volume)
        r = hws_fail(err, EBUSY, "volume '%s' is in use", volume.name);
    if (r == 0)
        r = correct_size_taken(control, &volume, &layer, &pool, path, err);
    volume_release(control, &volume);
    return r;
}

/* ---- volumes and snapshots ---- */

static int settle_volume(struct control *control, const char *id, struct hws_error *err)
{
    auto_volume volume = {0};
    auto_layer layer = {0};
    auto_pool pool = {0};
    auto_batch batch = {0};
    int r = object_get(control, &volume_type, id, &volume, err);
    if (r == 0)
        r = object_get(control, &layer_type, volume.layer ? volume.layer : "", &layer, err);
    if (r == 0)
        r = take_pool(control, layer.pool, &pool, err);
    if (r < 0)
        return r;
    autofree char *path = layer_path(&pool, &layer);
    if (!path || access(path, F_OK) < 0)
        return hws_fail_errno(err, errno, "%s", path ? path : "its image");
    if (record_set_text(&volume.state, STATE_AVAILABLE) < 0)
        return hws_fail(err, ENOMEM, "out of memory");
    batch_put(&batch, &volume_type, &volume);
    return batch_commit(&batch, control, err);
}

static int settle_snapshot(struct control *control, const char *id, struct hws_error *err)
{
    auto_snapshot snapshot = {0};
    auto_layer layer = {0};
    auto_batch batch = {0};
    int r = object_get(control, &snapshot_type, id, &snapshot, err);
    if (r == 0)
        r = object_get(control, &layer_type, snapshot.layer ? snapshot.layer : "", &layer, err);
    if (r < 0)
        return r;
    if (!layer.snapshot || strcmp(layer.snapshot, id) != 0)
        return hws_fail(err, EUCLEAN, "its layer is not its own");
    if (record_set_text(&snapshot.state, STATE_AVAILABLE) < 0)
        return hws_fail(err, ENOMEM, "out of memory");
    batch_put(&batch, &snapshot_type, &snapshot);
    return batch_commit(&batch, control, err);
}

int doctor_settle_state(struct control *control, const char *id, const char *path,
                        struct hws_error *err)
{
    bool named = false;
    control_lock_model(control);
    int r = doctor_names(control, id, &named, err);
    if (r == 0 && !named) {
        r = settle_volume(control, id, err);
        if (r == -ENOENT)
            r = settle_snapshot(control, id, err);
        if (r == 0)
            err->code = 0;
    }
    control_unlock_model(control);
    return r;
}
