/*
 * Snapshots: the volume's top layer becomes the snapshot, and the volume goes on in a new one over
 * it. In use or not; the engine does it between two requests.
 *
 * A new layer that lies over the old top reads as that does. So wherever a crash finds the new file
 * whole, going on with it is right; and once an engine writes to it, nothing else is.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "control/exports.h"
#include "control/overlays.h"

bool snapshot_engine_top(struct control *control, const char *volume, char **ret)
{
    struct engine_place place = {0};
    *ret = NULL;
    if (control->engines->find(volume, &place, NULL) < 0)
        return false;
    bool running = place.running;
    *ret = steal_ptr(&place.top);
    engine_place_free(&place);
    return running;
}

bool snapshot_is_whole(struct control *control, const struct pool *pool, const char *path)
{
    char format[16] = "qcow2";
    uint64_t size;
    char **allow = layer_allow(pool);
    bool whole = allow && access(path, F_OK) == 0 &&
                 control->engines->look(path, (const char *const *)allow, format, &size, NULL) == 0;
    layer_allow_free(allow);
    return whole;
}

/* Where an engine may have switched to the new layer, what is there decides. */
static enum op_direction look_what_is(struct op *op)
{
    autofree char *top = NULL;
    auto_pool pool = {0};
    const char *path = op_text(op, "path");
    if (!json_is_true(json_object_get(op->params, "online")))
        return OP_BACK;
    if (snapshot_engine_top(op->control, op->object, &top))
        return top && !strcmp(top, path) ? OP_FORWARD : OP_BACK;
    if (object_get(op->control, &pool_type, op_text(op, "pool"), &pool, NULL) < 0 ||
        pool_check(op->control, &pool, NULL) < 0)
        return OP_FORWARD; /* not now: it is tried again when the pool is there */
    return snapshot_is_whole(op->control, &pool, path) ? OP_FORWARD : OP_BACK;
}

static int make_overlay(struct op *op, struct hws_error *err)
{
    const char *path = op_text(op, "path");
    autofree char *top = NULL;
    auto_pool pool = {0};
    int r = object_get(op->control, &pool_type, op_text(op, "pool"), &pool, err);
    if (r == 0)
        r = pool_check(op->control, &pool, err);
    if (r < 0)
        return r;
    if (json_is_true(json_object_get(op->params, "online"))) {
        if (!snapshot_engine_top(op->control, op->object, &top))
            return snapshot_is_whole(op->control, &pool, path)
                       ? 0
                       : hws_fail(err, EIO, "its engine died");
        if (top && !strcmp(top, path))
            return 0;
        r = file_unlink(path, err);
        /* What was written before the call is in the snapshot; the file system's own journal makes
         * it whole. */
        if (r == 0 && op_text(op, "mountpoint"))
            r = op->control->engines->sync(op_text(op, "mountpoint"), err);
        return r == 0 ? op->control->engines->snapshot(op->object, path, err) : r;
    }
    return overlay_make(op->control, op->params, err);
}

/* The volume that is cloned off: an image over the same layer. */
static int make_clone(struct op *op, struct hws_error *err)
{
    auto_pool pool = {0};
    if (!op_text(op, "clone"))
        return 0;
    int r = object_get(op->control, &pool_type, op_text(op, "pool"), &pool, err);
    if (r == 0)
        r = pool_check(op->control, &pool, err);
    struct engine_image image = {
        .path = op_text(op, "clone-path"),
        .format = "qcow2",
        .size_bytes = op_number(op, "clone-size"),
        .cluster_bytes = op_number(op, "clone-cluster-size"),
        .lazy_refcounts = op_text(op, "clone-lazy-refcounts"),
        .extended_l2 = op_text(op, "clone-extended-l2"),
        .backing = op_text(op, "backing"),
        .backing_format = op_text(op, "backing-format"),
    };
    return r == 0 ? op->control->engines->create(&image, err) : r;
}

static int remove_clone(struct op *op, struct hws_error *err)
{
    return op_text(op, "clone") ? layer_unmake(op, "clone-path", err) : 0;
}

static int remove_overlay(struct op *op, struct hws_error *err)
{
    return layer_unmake(op, "path", err);
}

static int end_snapshot(struct op *op, struct layer *old, struct batch *batch,
                        struct hws_error *err)
{
    auto_snapshot snapshot = {0};
    int r = object_get(op->control, &snapshot_type, op_text(op, "snapshot"), &snapshot, err);
    if (r < 0)
        return r;
    if (record_set_text(&old->snapshot, snapshot.id) < 0 ||
        record_set_text(&snapshot.layer, old->id) < 0 ||
        record_set_text(&snapshot.state, STATE_AVAILABLE) < 0)
        return hws_fail(err, ENOMEM, "out of memory");
    batch_put(batch, &snapshot_type, &snapshot);
    return 0;
}

static int end_clone(struct op *op, struct batch *batch, struct hws_error *err)
{
    auto_volume clone = {0};
    int r = object_get(op->control, &volume_type, op_text(op, "clone"), &clone, err);
    if (r == 0 && record_set_text(&clone.state, STATE_AVAILABLE) < 0)
        r = hws_fail(err, ENOMEM, "out of memory");
    if (r == 0)
        batch_put(batch, &volume_type, &clone);
    return r;
}

static int create_end(struct op *op, struct batch *batch, struct hws_error *err)
{
    auto_volume volume = {0};
    auto_layer old = {0}, layer = {0};
    struct control *control = op->control;
    int r = object_get(control, &volume_type, op->object, &volume, err);
    if (r == 0)
        r = object_get(control, &layer_type, volume.layer, &old, err);
    if (r == 0)
        r = object_get(control, &layer_type, op_text(op, "layer"), &layer, err);
    if (r == 0)
        r = op_text(op, "snapshot") ? end_snapshot(op, &old, batch, err)
                                    : end_clone(op, batch, err);
    if (r < 0)
        return r;
    free(steal_ptr(&old.volume));
    if (record_set_text(&layer.volume, volume.id) < 0 ||
        record_set_text(&volume.layer, layer.id) < 0 ||
        record_set_text(&volume.format, layer.format) < 0)
        return hws_fail(err, ENOMEM, "out of memory");
    batch_put(batch, &volume_type, &volume);
    batch_put(batch, &layer_type, &old);
    batch_put(batch, &layer_type, &layer);
    return 0;
}

static int create_undone(struct op *op, struct batch *batch, struct hws_error *err)
{
    batch_remove(batch, &layer_type, op_text(op, "layer"));
    if (op_text(op, "snapshot"))
        batch_remove(batch, &snapshot_type, op_text(op, "snapshot"));
    if (op_text(op, "clone")) {
        batch_remove(batch, &volume_type, op_text(op, "clone"));
        batch_remove(batch, &layer_type, op_text(op, "clone-layer"));
    }
    return 0;
}

/* A snapshot, or a clone of the volume as it is now: both leave the top to what comes over it. */
const struct operation snapshot_create_operation = {
    .name = "snapshot-create",
    .steps = {{"make the clone", make_clone, remove_clone},
              {"make the overlay", make_overlay, remove_overlay},
              {NULL}},
    .direction = look_what_is,
    .end = create_end,
    .undone = create_undone,
};

const struct record_field request_snapshot_create[] = {
    {"name", RECORD_TEXT, offsetof(struct snapshot, name), "unique in its volume", true},
    {"labels", RECORD_LABELS, offsetof(struct snapshot, labels), "the user's own"},
    {NULL},
};

int snapshot_fill(struct snapshot *snapshot, const struct volume *volume, struct hws_error *err)
{
    char id[ID_BYTES];
    id_make(id);
    snapshot->size_bytes = volume->size_bytes;
    snapshot->formatted = volume->formatted;
    snapshot->created = (uint64_t)time(NULL);
    if (asprintf(&snapshot->key, "%s/%s", volume->id, snapshot->name) < 0)
        snapshot->key = NULL;
    if (!snapshot->key || record_set_text(&snapshot->id, id) < 0 ||
        record_set_text(&snapshot->state, STATE_CREATING) < 0 ||
        record_set_text(&snapshot->volume, volume->id) < 0 ||
        record_set_text(&snapshot->pool, volume->pool) < 0)
        return hws_fail(err, ENOMEM, "out of memory");
    return 0;
}

int snapshot_params(struct control *control, const struct volume *volume, struct layer *layer,
                    json_t **ret, struct hws_error *err)
{
    auto_pool pool = {0};
    auto_layer old = {0};
    auto_attachment attachment = {0};
    bool attached;
    int r = object_get(control, &pool_type, volume->pool, &pool, err);
    if (r == 0)
        r = object_get(control, &layer_type, volume->layer, &old, err);
    if (r == 0)
        r = attachment_get(control, volume->id, &attachment, &attached, err);
    if (r == 0 && attached && attachment.read_only)
        r = hws_fail(err, EBUSY, "volume '%s' is attached read-only", volume->name);
    if (r == 0)
        r = layer_make(&pool, &old, "qcow2", volume->size_bytes, layer, err);
    if (r == 0)
        r = overlay_params(volume, &pool, layer, &old, ret, err);
    if (r < 0)
        return r;
    json_object_set_new(*ret, "online", json_boolean(attached));
    if (attached && attachment.mountpoint)
        json_object_set_new(*ret, "mountpoint", json_string(attachment.mountpoint));
    return 0;
}

static int create_taken(struct control *control, const struct volume *volume,
                        struct snapshot *snapshot, struct hws_error *err)
{
    auto_layer layer = {0};
    auto_batch begin = {0};
    auto_pool pool = {0};
    json_t *params = NULL;
    int r = pool_of(control, volume, &pool, err);
    if (r == 0)
        r = snapshot_params(control, volume, &layer, &params, err);
    if (r < 0)
        return r;
    json_object_set_new(params, "snapshot", json_string(snapshot->id));
    batch_add(&begin, &snapshot_type, snapshot);
    batch_add(&begin, &layer_type, &layer);
    control_lock_model(control);
    r = journal_run(control, &snapshot_create_operation, volume->id, params, &begin, NULL, err);
    return r == -EEXIST ? hws_fail(err, EEXIST, "volume '%s' has a snapshot '%s' already",
                                   volume->name, snapshot->name)
                        : r;
}

int snapshot_split(struct control *control, const struct volume *source, struct volume *clone,
                   struct layer *clone_layer, struct hws_error *err)
{
    auto_layer layer = {0};
    auto_pool pool = {0};
    auto_batch begin = {0};
    json_t *params = NULL;
    int r = snapshot_params(control, source, &layer, &params, err);
    if (r == 0)
        r = object_get(control, &pool_type, source->pool, &pool, err);
    autofree char *path = r == 0 ? layer_path(&pool, clone_layer) : NULL;
    if (r == 0 && (!path || record_set_text(&clone_layer->volume, clone->id) < 0 ||
                   record_set_text(&clone->layer, clone_layer->id) < 0 ||
                   record_set_text(&clone->format, clone_layer->format) < 0))
        r = hws_fail(err, ENOMEM, "out of memory");
    if (r < 0) {
        json_decref(params);
        return r;
    }
    json_object_set_new(params, "clone", json_string(clone->id));
    json_object_set_new(params, "clone-layer", json_string(clone_layer->id));
    json_object_set_new(params, "clone-path", json_string(path));
    json_object_set_new(params, "clone-size", json_integer((json_int_t)clone->size_bytes));
    json_object_set_new(params, "clone-cluster-size",
                        json_integer((json_int_t)clone->cluster_bytes));
    if (clone->making.lazy_refcounts)
        json_object_set_new(params, "clone-lazy-refcounts",
                            json_string(clone->making.lazy_refcounts));
    if (clone->making.extended_l2)
        json_object_set_new(params, "clone-extended-l2", json_string(clone->making.extended_l2));
    batch_add(&begin, &volume_type, clone);
    batch_add(&begin, &layer_type, clone_layer);
    batch_add(&begin, &layer_type, &layer);
    control_lock_model(control);
    r = pool_admit(control, &pool, clone->size_bytes, err);
    if (r < 0) {
        control_unlock_model(control);
        json_decref(params);
        return r;
    }
    r = journal_run(control, &snapshot_create_operation, source->id, params, &begin, NULL, err);
    return r == -EEXIST ? hws_fail(err, EEXIST, "there is a volume '%s' already", clone->name) : r;
}

int snapshot_make(struct control *control, const char *reference, struct snapshot *snapshot,
                  struct hws_error *err)
{
    auto_volume volume = {0};
    int r = name_check("snapshot", snapshot->name, err);
    if (r == 0)
        r = volume_take(control, reference, &volume, err);
    if (r < 0)
        return r;
    r = snapshot_fill(snapshot, &volume, err);
    if (r == 0)
        r = create_taken(control, &volume, snapshot, err);
    volume_release(control, &volume);
    return r;
}

int control_snapshot_create(struct control *control, const char *reference, const json_t *given,
                            json_t **ret, struct hws_error *err)
{
    auto_snapshot snapshot = {0};
    int r =
        record_parse(request_snapshot_create, given, "snapshot", &snapshot, sizeof(snapshot), err);
    if (r == 0)
        r = snapshot_make(control, reference, &snapshot, err);
    return r < 0 ? r : control_snapshot_show(control, snapshot.volume, snapshot.id, ret, err);
}

/* ---- deleting ---- */

static int delete_taken(struct control *control, const struct volume *volume, const char *name,
                        struct hws_error *err)
{
    auto_snapshot snapshot = {0};
    auto_batch begin = {0};
    json_t *purge = NULL;
    control_lock_model(control);
    int r = snapshot_find(control, volume, name, &snapshot, err);
    if (r == 0 && snapshot.group_snapshot)
        r = hws_fail(err, EBUSY, "snapshot '%s' is a part of a group's; delete that",
                     snapshot.name);
    if (r == 0)
        r = exports_refuse_use(control, NULL, snapshot.id, NULL, err);
    if (r == 0)
        r = layer_drop(control, snapshot.layer, &begin, &purge, err);
    if (r < 0) {
        control_unlock_model(control);
        json_decref(purge);
        return r;
    }
    batch_remove(&begin, &snapshot_type, snapshot.id);
    return journal_run(control, &purge_operation, volume->id, purge, &begin, NULL, err);
}

int control_snapshot_delete(struct control *control, const char *reference, const char *name,
                            struct hws_error *err)
{
    auto_volume volume = {0};
    int r = volume_take(control, reference, &volume, err);
    if (r < 0)
        return r;
    r = delete_taken(control, &volume, name, err);
    volume_release(control, &volume);
    if (r == 0)
        merger_wake(control);
    return r;
}

/* ---- showing ---- */

int snapshot_find(struct control *control, const struct volume *volume, const char *name,
                  struct snapshot *ret, struct hws_error *err)
{
    autofree char *key = NULL;
    int r;
    if (id_is_valid(name)) {
        r = object_get(control, &snapshot_type, name, ret, err);
        if (r == 0 && strcmp(ret->volume, volume->id) != 0) {
            record_free(snapshot_type.fields, ret);
            r = -ENOENT;
        }
    } else {
        if (asprintf(&key, "%s/%s", volume->id, name) < 0)
            return hws_fail(err, ENOMEM, "out of memory");
        r = object_find(control, &snapshot_type, key, ret, err);
    }
    if (r == -ENOENT)
        return hws_fail(err, ENOENT, "volume '%s' has no snapshot '%.140s'", volume->name, name);
    if (r == 0 && strcmp(ret->state, STATE_AVAILABLE) != 0) {
        record_free(snapshot_type.fields, ret);
        return hws_fail(err, EBUSY, "snapshot '%.140s' is being made", name);
    }
    return r;
}

int control_snapshot_show(struct control *control, const char *reference, const char *name,
                          json_t **ret, struct hws_error *err)
{
    auto_volume volume = {0};
    auto_snapshot snapshot = {0};
    int r = object_find(control, &volume_type, reference, &volume, err);
    if (r == 0)
        r = snapshot_find(control, &volume, name, &snapshot, err);
    if (r == 0) {
        *ret = record_json(snapshot_type.fields, &snapshot);
        json_object_del(*ret, "key");
    }
    return r;
}

static int hide_key(struct control *control, json_t *item, struct hws_error *err)
{
    json_object_del(item, "key");
    return 0;
}

int control_snapshot_list(struct control *control, const char *reference,
                          const struct control_page *page, json_t **ret, struct hws_error *err)
{
    auto_volume volume = {0};
    char prefix[ID_BYTES + 1];
    int r = object_find(control, &volume_type, reference, &volume, err);
    if (r < 0)
        return r;
    snprintf(prefix, sizeof(prefix), "%s/", volume.id);
    return control_page(control, &snapshot_type, volume.id, page, prefix, hide_key, ret, err);
}
