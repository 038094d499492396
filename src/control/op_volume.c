/*
 * Volumes: making them (empty, of an image in place, as a clone), and deleting them.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "control/exports.h"
#include "control/policy.h"

#define SIZE_DEFAULT   (10 * GiB)
#define SIZE_MULTIPLE  4096
#define FORMAT_DEFAULT "qcow2"

/** What a request asks for, with what its class adds. */
struct request {
    char *name, *pool, *class, *format, *fs, *image, *image_format, *clone;
    uint64_t size_bytes, cluster_bytes;
    struct making making;
    bool protected, import;
    json_t *labels;
};

const struct record_field request_volume_create[] = {
    {"name", RECORD_TEXT, offsetof(struct request, name), "unique name", true},
    {"pool", RECORD_TEXT, offsetof(struct request, pool), "its pool"},
    {"class", RECORD_TEXT, offsetof(struct request, class), "its class"},
    {"size", RECORD_SIZE, offsetof(struct request, size_bytes), "bytes", .max = VOLUME_SIZE_MAX},
    /* Of an image in place it can be any that the engine reads. */
    {"format", RECORD_TEXT, offsetof(struct request, format), "of the image", .max = 15},
    {"fs", RECORD_TEXT, offsetof(struct request, fs), "file system", .choices = fs_choices},
    {"cluster-size", RECORD_SIZE, offsetof(struct request, cluster_bytes), "of the image"},
    MAKING_FIELDS(request),
    {"image", RECORD_TEXT, offsetof(struct request, image), "path of an image to take in place",
     .max = 4095},
    {"import", RECORD_BOOL, offsetof(struct request, import),
     "copy the image in the background, and leave it alone"},
    {"image-format", RECORD_TEXT, offsetof(struct request, image_format),
     "of the image that is imported", .max = 15},
    {"clone", RECORD_TEXT, offsetof(struct request, clone), "VOLUME or VOLUME@SNAPSHOT"},
    {"protected", RECORD_BOOL, offsetof(struct request, protected), "cannot be deleted"},
    {"labels", RECORD_LABELS, offsetof(struct request, labels), "texts of the user's own"},
    {NULL},
};

static void free_request(struct request *request)
{
    record_free(request_volume_create, request);
}
#define auto_request __attribute__((cleanup(free_request))) struct request

/* ---- the operation ---- */

static int make_image(struct op *op, struct hws_error *err)
{
    if (!op_text(op, "path"))
        return 0; /* taken in place */
    auto_pool pool = {0};
    int r = object_get(op->control, &pool_type, op_text(op, "pool"), &pool, err);
    if (r == 0)
        r = pool_check(op->control, &pool, err);
    if (r < 0)
        return r;
    struct engine_image image = {
        .path = op_text(op, "path"),
        .format = op_text(op, "format"),
        .size_bytes = op_number(op, "size"),
        .cluster_bytes = op_number(op, "cluster-size"),
        .backing = op_text(op, "backing"),
        .backing_format = op_text(op, "backing-format"),
        .preallocation = op_text(op, "preallocation"),
        .lazy_refcounts = op_text(op, "lazy-refcounts"),
        .extended_l2 = op_text(op, "extended-l2"),
    };
    return op->control->engines->create(&image, err);
}

static int unmake_image(struct op *op, struct hws_error *err)
{
    return op_text(op, "path") ? layer_unmake(op, "path", err) : 0;
}

static int create_end(struct op *op, struct batch *batch, struct hws_error *err)
{
    auto_volume volume = {0};
    int r = object_get(op->control, &volume_type, op->object, &volume, err);
    if (r == 0 && record_set_text(&volume.state, STATE_AVAILABLE) < 0)
        r = hws_fail(err, ENOMEM, "out of memory");
    if (r == 0)
        batch_put(batch, &volume_type, &volume);
    return r;
}

static int create_undone(struct op *op, struct batch *batch, struct hws_error *err)
{
    batch_remove(batch, &volume_type, op->object);
    batch_remove(batch, &layer_type, op_text(op, "layer"));
    return 0;
}

const struct operation volume_create_operation = {
    .name = "volume-create",
    .steps = {{"make the image", make_image, unmake_image}, {NULL}},
    .direction = op_always_back,
    .end = create_end,
    .undone = create_undone,
};

/* ---- what is asked ---- */

static int find_pool(struct control *control, const char *name, struct pool *ret,
                     struct hws_error *err)
{
    auto_json *list = NULL;
    if (name)
        return object_find(control, &pool_type, name, ret, err);
    if (object_find(control, &pool_type, "default", ret, NULL) == 0)
        return 0;
    int r = object_list(control, &pool_type, NULL, &list, err);
    if (r < 0)
        return r;
    if (json_array_size(list) == 1)
        return object_parse(&pool_type, json_array_get(list, 0), ret, err);
    return json_array_size(list) == 0
               ? hws_fail(err, ENOENT, "there is no pool yet; 'hawser pool create' makes one")
               : hws_fail(err, EINVAL,
                          "there are several pools and none is called 'default': "
                          "say in which");
}

static int take_text(char **field, const char *text)
{
    return *field || !text ? 0 : record_set_text(field, text);
}

/* What a class says of its own file system and format is not for others. */
static int inherit(struct request *request, const struct class *class, struct hws_error *err)
{
    unsigned which = 0;
    if (request->fs && !strcmp(request->fs, class->fs ? class->fs : FS_DEFAULT))
        which |= request->import ? MAKING_OF_MOUNT : MAKING_OF_MKFS | MAKING_OF_MOUNT;
    if (!strcmp(request->format, class->format ? class->format : FORMAT_DEFAULT))
        which |= MAKING_OF_IMAGE | MAKING_OF_FORMAT;
    return making_inherit(&request->making, &class->making, which, err);
}

/* Overrides first, then the class (the one called "default" where none is named), then what is
 * built in. */
static int apply_class(struct control *control, struct request *request, struct class *class,
                       struct hws_error *err)
{
    int r =
        object_find(control, &class_type, request->class ? request->class : "default", class, err);
    if (r == -ENOENT && !request->class)
        r = 0;
    if (r < 0)
        return r;
    bool fresh = !request->image && !request->clone;
    bool made = fresh || request->import; /* an image of our own */
    if (fresh && !request->size_bytes)
        request->size_bytes = class->size_bytes ? class->size_bytes : SIZE_DEFAULT;
    if ((made && (take_text(&request->format, class->format) < 0 ||
                  take_text(&request->format, FORMAT_DEFAULT) < 0)) ||
        (fresh &&
         (take_text(&request->fs, class->fs) < 0 || take_text(&request->fs, FS_DEFAULT) < 0)))
        return hws_fail(err, ENOMEM, "out of memory");
    bool raw = request->format && !strcmp(request->format, "raw");
    if ((made || request->clone) && !request->cluster_bytes && !raw)
        request->cluster_bytes = class->cluster_bytes;
    return made ? inherit(request, class, err)
                : making_inherit(&request->making, &class->making, 0, err);
}

/* What the tools that make file systems refuse, told before there is a volume. */
static int check_fs_size(const char *fs, uint64_t size, struct hws_error *err)
{
    static const struct {
        const char *fs;
        uint64_t least;
    } sizes[] = {{"ext4", 1 * MiB}, {"xfs", 300 * MiB}, {"btrfs", 128 * MiB}};
    for (unsigned i = 0; fs && i < ARRAY_LEN(sizes); i++)
        if (!strcmp(fs, sizes[i].fs) && size < sizes[i].least)
            return hws_fail(err, EINVAL, "size is %llu; the least for %s is %llu",
                            (unsigned long long)size, fs, (unsigned long long)sizes[i].least);
    return 0;
}

static int check_format(const struct request *request, struct hws_error *err)
{
    const char *const *known = format_choices;
    while (*known && strcmp(*known, request->format) != 0)
        known++;
    return *known ? 0
                  : hws_fail(err, EINVAL, "format is '%s'; new volumes can be qcow2 or raw",
                             request->format);
}

static int check_fresh(struct request *request, struct hws_error *err)
{
    int r = check_format(request, err);
    if (r < 0)
        return r;
    request->size_bytes = align_up(request->size_bytes, SIZE_MULTIPLE);
    r = check_fs_size(request->fs, request->size_bytes, err);
    return r == 0 ? policy_check_making(&request->making, request->format, request->cluster_bytes,
                                        request->fs, err)
                  : r;
}

/* Looks into the image that the request names, which may name others of the image roots alone. */
static int look_at_image(struct control *control, const struct pool *pool, struct request *request,
                         char **format, uint64_t *ret_size, struct hws_error *err)
{
    char found[16] = "", *real = NULL;
    int r = pool_allow_image(pool, request->image, &real, err);
    if (r < 0)
        return r;
    free(request->image);
    request->image = real;
    char **allow = layer_allow(pool);
    if (!allow)
        return hws_fail(err, ENOMEM, "out of memory");
    snprintf(found, sizeof(found), "%s", *format ? *format : "");
    r = control->engines->look_below(real, (const char *const *)allow + LAYER_ALLOW_ROOTS, found,
                                     ret_size, err);
    layer_allow_free(allow);
    if (r < 0)
        return r;
    if (!found[0])
        return hws_fail(err, EINVAL, "%.300s: its format is not known; say it", real);
    return record_set_text(format, found) < 0 ? hws_fail(err, ENOMEM, "out of memory") : 0;
}

static int check_in_place(struct control *control, const struct pool *pool, struct request *request,
                          struct hws_error *err)
{
    if (request->size_bytes || request->cluster_bytes)
        return hws_fail(err, EINVAL,
                        "an image in place has the size and clusters that it has; "
                        "'resize' makes it larger");
    int r = making_refuse(&request->making, ~(unsigned)MAKING_OF_MOUNT, "an image in place", err);
    if (r == 0)
        r = policy_check_mount(request->fs ? request->fs : "other", request->making.mount_options,
                               err);
    return r == 0
               ? look_at_image(control, pool, request, &request->format, &request->size_bytes, err)
               : r;
}

/* @ret_more whether the volume is larger than the image. */
static int check_import(struct control *control, const struct pool *pool, struct request *request,
                        bool *ret_more, struct hws_error *err)
{
    uint64_t size;
    int r = check_format(request, err);
    if (r == 0)
        r = making_refuse(&request->making, MAKING_OF_MKFS, "an image that is imported", err);
    if (r == 0)
        r = policy_check_making(&request->making, request->format, request->cluster_bytes,
                                request->fs ? request->fs : "other", err);
    if (r == 0)
        r = look_at_image(control, pool, request, &request->image_format, &size, err);
    if (r < 0)
        return r;
    if (request->size_bytes && request->size_bytes < size)
        return hws_fail(err, EINVAL, "size is less than that of the image, %llu",
                        (unsigned long long)size);
    *ret_more = request->size_bytes > size;
    request->size_bytes = align_up(MAX(size, request->size_bytes), 512);
    return 0;
}

/* ---- making one ---- */

static int fill(struct volume *volume, struct request *request, const struct pool *pool,
                const struct class *class, struct hws_error *err)
{
    char id[ID_BYTES];
    id_make(id);
    volume->name = steal_ptr(&request->name);
    volume->labels = steal_ptr(&request->labels);
    volume->making = request->making;
    request->making = (struct making){0};
    volume->size_bytes = request->size_bytes;
    volume->cluster_bytes = request->cluster_bytes;
    volume->protected = request->protected;
    volume->created = (uint64_t)time(NULL);
    if (record_set_text(&volume->id, id) < 0 || record_set_text(&volume->pool, pool->id) < 0 ||
        record_set_text(&volume->state, STATE_CREATING) < 0 ||
        record_set_text(&volume->fs, request->fs) < 0 ||
        record_set_text(&volume->class, class->id) < 0)
        return hws_fail(err, ENOMEM, "out of memory");
    return 0;
}

/* The model is locked, and released. @import NULL: the image is made here and now. */
static int begin(struct control *control, const struct pool *pool, struct volume *volume,
                 struct layer *layer, const struct layer *parent, const struct request *import,
                 struct hws_error *err)
{
    auto_batch batch = {0};
    auto_pool now = {0};
    int r = object_get(control, &pool_type, pool->id, &now, err);
    if (r == 0)
        r = journal_check(control, pool->id, err);
    if (r == 0 && layer->path && !pool_has_root_of(&now, layer->path))
        r = hws_fail(err, EPERM, "the image roots of pool '%s' have just been changed", now.name);
    auto_layer below_now = {0};
    if (r == 0 && parent) /* its snapshot may have been deleted meanwhile */
        r = object_get(control, &layer_type, parent->id, &below_now, err);
    if (r == 0 && parent && !below_now.snapshot)
        r = hws_fail(err, ENOENT, "the snapshot has just been deleted");
    if (r == 0)
        r = pool_admit(control, &now, volume->size_bytes, err);
    if (r == 0 && (record_set_text(&layer->volume, volume->id) < 0 ||
                   record_set_text(&volume->layer, layer->id) < 0 ||
                   record_set_text(&volume->format, layer->format) < 0))
        r = hws_fail(err, ENOMEM, "out of memory");
    if (r < 0) {
        control_unlock_model(control);
        return r;
    }
    autofree char *path = layer->path ? NULL : layer_path(pool, layer);
    autofree char *below = parent ? layer_path(pool, parent) : NULL;
    const struct making *making = &volume->making;
    json_t *params = json_pack(
        "{s:s, s:s, s:s, s:I, s:I, s:s*, s:s*, s:s*, s:s*, s:s*, s:s*}", "pool", pool->id, "layer",
        layer->id, "format", layer->format, "size", (json_int_t)volume->size_bytes, "cluster-size",
        (json_int_t)volume->cluster_bytes, "path", path, "backing", below, "backing-format",
        parent ? parent->format : NULL, "preallocation", making->preallocation, "lazy-refcounts",
        making->lazy_refcounts, "extended-l2", making->extended_l2);
    batch_add(&batch, &volume_type, volume);
    batch_add(&batch, &layer_type, layer);
    if (import) {
        json_object_set_new(params, "source", json_string(import->image));
        json_object_set_new(params, "source-format", json_string(import->image_format));
        json_object_set_new(params, "started", json_integer((json_int_t)time(NULL)));
        journal_add(&batch, &volume_import_operation, volume->id, params);
        r = batch_commit(&batch, control, err);
        control_unlock_model(control);
        return r;
    }
    return journal_run(control, &volume_create_operation, volume->id, params, &batch, NULL, err);
}

/* Both a name and an image in place are told as taken with the word for each. */
static int explain_taken(struct control *control, const struct volume *volume,
                         const struct layer *layer, struct hws_error *err)
{
    auto_json *other = NULL;
    if (layer->path &&
        control->store->driver->find(control->store, "layer", layer->path, &other, NULL) == 0)
        return hws_fail(err, EEXIST, "image %.300s is a volume already", layer->path);
    return hws_fail(err, EEXIST, "there is a volume '%s' already", volume->name);
}

static int make(struct control *control, const struct pool *pool, struct volume *volume,
                struct layer *layer, const struct layer *parent, const struct request *import,
                json_t **ret, struct hws_error *err)
{
    int r = locks_take(&control->locks, volume->id, OBJECT_WAIT_MS, err);
    if (r < 0)
        return r;
    control_lock_model(control);
    r = begin(control, pool, volume, layer, parent, import, err);
    if (r == -EEXIST)
        r = explain_taken(control, volume, layer, err);
    locks_release(&control->locks, volume->id);
    if (r == 0 && import)
        importer_wake(control);
    return r < 0 ? r : control_volume_show(control, volume->id, ret, err);
}

static int create_here(struct control *control, struct request *request, const struct class *class,
                       json_t **ret, struct hws_error *err)
{
    auto_pool pool = {0};
    auto_volume volume = {0};
    auto_layer layer = {0};
    bool more = false;
    int r = find_pool(control, request->pool, &pool, err);
    if (r == 0)
        r = pool_check(control, &pool, err);
    if (r == 0)
        r = request->import  ? check_import(control, &pool, request, &more, err)
            : request->image ? check_in_place(control, &pool, request, err)
                             : check_fresh(request, err);
    if (r == 0)
        r = layer_make(&pool, NULL, request->format, request->size_bytes, &layer, err);
    if (r == 0)
        r = fill(&volume, request, &pool, class, err);
    if (r < 0)
        return r;
    volume.formatted = request->image != NULL;
    volume.grow = more && volume.fs && strcmp(volume.fs, "none") != 0;
    if (request->import)
        return make(control, &pool, &volume, &layer, NULL, request, ret, err);
    layer.path = steal_ptr(&request->image);
    return make(control, &pool, &volume, &layer, NULL, NULL, ret, err);
}

/* ---- clones ---- */

/** What is cloned: a layer, and what is known of its content. */
struct origin {
    const struct volume *volume;
    uint64_t size_bytes;
    bool formatted;
    const char *snapshot; /* id; NULL: the volume as it is now */
};

/* Fills @volume and @layer, its top over @parent. */
static int fill_clone(struct request *request, const struct class *class,
                      const struct origin *origin, const struct pool *pool,
                      const struct layer *parent, struct volume *volume, struct layer *layer,
                      struct hws_error *err)
{
    const char *fs = origin->volume->fs;
    if (request->pool && strcmp(request->pool, pool->id) && strcmp(request->pool, pool->name))
        return hws_fail(err, EINVAL, "a clone lies in the pool of its source, '%s'", pool->name);
    if (request->format && strcmp(request->format, "qcow2"))
        return hws_fail(err, EINVAL, "a clone has the format qcow2");
    if (request->fs && fs && strcmp(request->fs, fs))
        return hws_fail(err, EINVAL, "a clone has the file system of its source, %s", fs);
    int r = making_refuse(&request->making, MAKING_OF_IMAGE | MAKING_OF_MKFS, "a clone", err);
    if (r == 0)
        r = making_inherit(&request->making, &origin->volume->making, MAKING_OF_MOUNT, err);
    if (r < 0)
        return r;
    if (!request->size_bytes)
        request->size_bytes = origin->size_bytes;
    request->size_bytes = align_up(request->size_bytes, 512);
    if (request->size_bytes < origin->size_bytes)
        return hws_fail(err, EINVAL, "size is less than that of the source, %llu",
                        (unsigned long long)origin->size_bytes);
    volume->formatted = origin->formatted;
    volume->grow =
        origin->formatted && (origin->volume->grow || request->size_bytes > origin->size_bytes);
    volume->part = origin->formatted;
    if (take_text(&request->fs, fs) < 0)
        return hws_fail(err, ENOMEM, "out of memory");
    r = policy_check_making(&request->making, "qcow2", request->cluster_bytes,
                            request->fs ? request->fs : "other", err);
    if (r == 0)
        r = layer_make(pool, parent, "qcow2", request->size_bytes, layer, err);
    if (r == 0)
        r = fill(volume, request, pool, class, err);
    if (r == 0 && record_set_text(&volume->origin, origin->snapshot) < 0)
        r = hws_fail(err, ENOMEM, "out of memory");
    return r;
}

static int find_below(struct control *control, const char *id, struct layer *parent,
                      struct pool *pool, struct hws_error *err)
{
    int r = object_get(control, &layer_type, id, parent, err);
    if (r == 0)
        r = object_get(control, &pool_type, parent->pool, pool, err);
    return r == 0 ? pool_check(control, pool, err) : r;
}

static int clone_snapshot(struct control *control, struct request *request,
                          const struct class *class, const struct volume *source, const char *name,
                          json_t **ret, struct hws_error *err)
{
    auto_pool pool = {0};
    auto_volume volume = {0};
    auto_layer layer = {0}, parent = {0};
    auto_snapshot snapshot = {0};
    int r = snapshot_find(control, source, name, &snapshot, err);
    if (r == 0)
        r = find_below(control, snapshot.layer, &parent, &pool, err);
    if (r < 0)
        return r;
    const struct origin origin = {source, snapshot.size_bytes, snapshot.formatted, snapshot.id};
    r = fill_clone(request, class, &origin, &pool, &parent, &volume, &layer, err);
    return r == 0 ? make(control, &pool, &volume, &layer, &parent, NULL, ret, err) : r;
}

static int clone_volume(struct control *control, struct request *request, const struct class *class,
                        const struct volume *source, json_t **ret, struct hws_error *err)
{
    auto_pool pool = {0};
    auto_volume volume = {0};
    auto_layer layer = {0}, parent = {0};
    int r = find_below(control, source->layer, &parent, &pool, err);
    if (r < 0)
        return r;
    const struct origin origin = {source, source->size_bytes, source->formatted, NULL};
    r = fill_clone(request, class, &origin, &pool, &parent, &volume, &layer, err);
    if (r == 0)
        r = snapshot_split(control, source, &volume, &layer, err);
    return r == 0 ? control_volume_show(control, volume.id, ret, err) : r;
}

/* The source is taken meanwhile, so that nothing of it is deleted. */
static int create_clone(struct control *control, struct request *request, const struct class *class,
                        json_t **ret, struct hws_error *err)
{
    auto_volume source = {0};
    char *at = strchr(request->clone, '@');
    if (at)
        *at = '\0';
    int r = volume_take(control, request->clone, &source, err);
    if (r < 0)
        return r;
    r = at ? clone_snapshot(control, request, class, &source, at + 1, ret, err)
           : clone_volume(control, request, class, &source, ret, err);
    volume_release(control, &source);
    return r;
}

int control_volume_create(struct control *control, const json_t *given, json_t **ret,
                          struct hws_error *err)
{
    auto_request request = {0};
    auto_class class = {0};
    int r = policy_refuse(given, err);
    if (r == 0)
        r = record_parse(request_volume_create, given, "volume", &request, sizeof(request), err);
    if (r == 0)
        r = name_check("volume", request.name, err);
    if (r == 0 && request.image && request.clone)
        r = hws_fail(err, EINVAL, "a volume is an image in place or a clone, not both");
    if (r == 0 && request.import && !request.image)
        r = hws_fail(err, EINVAL, "there is no image that could be imported");
    if (r == 0 && request.image_format && !request.import)
        r = hws_fail(err, EINVAL,
                     "image-format is of an image that is imported; 'format' is of one in place");
    if (r == 0)
        r = apply_class(control, &request, &class, err);
    if (r < 0)
        return r;
    return request.clone ? create_clone(control, &request, &class, ret, err)
                         : create_here(control, &request, &class, ret, err);
}

/* ---- deleting ---- */

int volume_delete_taken(struct control *control, const struct volume *volume, struct hws_error *err)
{
    auto_batch begin_batch = {0};
    auto_attachment attachment = {0};
    auto_json *snapshots = NULL;
    json_t *purge = NULL;
    bool attached;
    control_lock_model(control);
    int r = attachment_get(control, volume->id, &attachment, &attached, err);
    if (r == 0)
        r = exports_refuse_use(control, volume->id, NULL, NULL, err);
    if (r == 0 && attached)
        r = hws_fail(err, EBUSY, "volume '%s' is attached; detach it first", volume->name);
    if (r == 0)
        r = group_check_member(control, volume, err);
    if (r == 0)
        r = object_list(control, &snapshot_type, volume->id, &snapshots, err);
    if (r == 0 && json_array_size(snapshots))
        r = hws_fail(err, EBUSY, "volume '%s' has %zu snapshots; delete those first", volume->name,
                     json_array_size(snapshots));
    if (r == 0)
        r = layer_drop(control, volume->layer, &begin_batch, &purge, err);
    if (r < 0) {
        control_unlock_model(control);
        json_decref(purge);
        return r;
    }
    batch_remove(&begin_batch, &volume_type, volume->id);
    return journal_run(control, &purge_operation, volume->id, purge, &begin_batch, NULL, err);
}
