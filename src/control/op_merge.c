/*
 * Giving up the layer of a deleted snapshot, on which one layer lies and which nothing else refers
 * to: the layer over it takes its data, and lies on what was below it; then its file goes.
 *
 *   before   volume -> U -> L -> B          after   volume -> U' -> B
 *
 * All layers from there up to a volume's top must be that volume's alone: it is locked, so nobody
 * else can open the layer that changes. What it reads as stays the same throughout. Whether a merge
 * that was cut off is completed or forgotten, what U lies on tells; begun anew, it does the rest.
 *
 * A merge makes way for other operations on its volume (merger.c), and the space that the data may
 * take is there before it begins.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/log.h"
#include "control/exports.h"
#include <sys/stat.h>
#include <sys/statvfs.h>

/** What stays free in the pool beside the data that moves. */
#define SPARE_BYTES (64 * MiB)

/* ---- the operation ---- */

static bool tell(void *arg, uint64_t done_bytes, uint64_t total_bytes)
{
    struct op *op = arg;
    if (lease_is_gone(op->control, op_text(op, "pool")))
        return true; /* another host may write what this one does */
    /* A merge that had ended when it was to be stopped keeps what it told. */
    if (!total_bytes)
        return op->watch && op->watch->progress(op->watch->arg, op->object, 0, 0);
    json_object_set_new(op->result, "done", json_integer((json_int_t)done_bytes));
    json_object_set_new(op->result, "total", json_integer((json_int_t)total_bytes));
    return op->watch && op->watch->progress(op->watch->arg, op->object, done_bytes, total_bytes);
}

/* Calls @with with what is to be merged; the volume is in use or not, as it is now. */
static int with_merge(struct op *op,
                      int (*with)(struct op *op, const struct engine_merge *merge,
                                  struct hws_error *err),
                      struct hws_error *err)
{
    auto_pool pool = {0};
    struct engine_place place = {0};
    int r = object_get(op->control, &pool_type, op_text(op, "pool"), &pool, err);
    if (r == 0)
        r = pool_check(op->control, &pool, err);
    if (r < 0)
        return r;
    bool used = op->control->engines->find(op->object, &place, NULL) == 0 && place.running;
    engine_place_free(&place);
    char **allow = layer_allow(&pool);
    if (!allow)
        return hws_fail(err, ENOMEM, "out of memory");
    const struct engine_merge merge = {
        .id = used ? op->object : NULL,
        .path = op_text(op, "path"),
        .below = op_text(op, "below"),
        .below_format = op_text(op, "below-format"),
        .allow = (const char *const *)allow,
        .progress = tell,
        .arg = op,
    };
    r = with(op, &merge, err);
    layer_allow_free(allow);
    return r;
}

static int look(struct op *op, const struct engine_merge *merge, struct hws_error *err)
{
    bool merged = false;
    int r = op->control->engines->is_merged(merge, &merged, err);
    return r < 0 ? r : merged;
}

static int look_and_merge(struct op *op, const struct engine_merge *merge, struct hws_error *err)
{
    int r = look(op, merge, err);
    return r == 0 ? op->control->engines->merge(merge, err) : MIN(r, 0);
}

/* Once it has failed it is completed only where that needs no merging: others may wait for it. */
static int look_again(struct op *op, const struct engine_merge *merge, struct hws_error *err)
{
    int r = look(op, merge, err);
    return r == 0 ? hws_fail(err, ECANCELED, "it is not merged") : MIN(r, 0);
}

static int merge_layers(struct op *op, struct hws_error *err)
{
    struct hws_error why = {0};
    int r = !op->failed && tell(op, 0, 0)
                ? hws_fail(&why, ECANCELED, "it makes way")
                : with_merge(op, op->failed ? look_again : look_and_merge, &why);
    if (r == 0)
        return 0;
    /* What only makes way is no end of a job. */
    if (r != -ECANCELED) {
        json_object_set_new(op->result, "state", json_string("failed"));
        json_object_set_new(op->result, "error", json_string(why.text));
    } else if (merger_is_cancelled(op->control, op->object)) {
        json_object_set_new(op->result, "state", json_string("cancelled"));
    }
    return hws_fail(err, -r, "%s", why.text);
}

/* Where nobody can tell, the step that comes forward cannot either, and all is left for later. */
static enum op_direction look_what_is(struct op *op)
{
    return with_merge(op, look, NULL) == 0 ? OP_BACK : OP_FORWARD;
}

/* The layers over @id have one less below them. */
static int raise_above(struct control *control, const char *id, struct batch *batch,
                       struct hws_error *err)
{
    char at[ID_BYTES];
    snprintf(at, sizeof(at), "%s", id);
    for (unsigned i = 0; i <= LAYER_DEPTH_MAX; i++) {
        auto_json *children = NULL;
        auto_layer layer = {0};
        int r = object_list(control, &layer_type, at, &children, err);
        if (r < 0 || json_array_size(children) != 1)
            return r;
        r = object_parse(&layer_type, json_array_get(children, 0), &layer, err);
        if (r < 0)
            return r;
        layer.depth -= layer.depth > 0;
        batch_put(batch, &layer_type, &layer);
        snprintf(at, sizeof(at), "%s", layer.id);
    }
    return 0;
}

static int merge_end(struct op *op, struct batch *batch, struct hws_error *err)
{
    auto_layer above = {0}, layer = {0};
    struct control *control = op->control;
    int r = object_get(control, &layer_type, op_text(op, "above"), &above, err);
    if (r == 0)
        r = object_get(control, &layer_type, op_text(op, "layer"), &layer, err);
    if (r == 0)
        r = raise_above(control, above.id, batch, err);
    if (r < 0)
        return r;
    free(above.parent);
    above.parent = steal_ptr(&layer.parent);
    above.depth -= above.depth > 0;
    batch_put(batch, &layer_type, &above);
    batch_remove(batch, &layer_type, layer.id);
    journal_add(
        batch, &purge_operation, layer.id,
        json_pack("{s:s, s:[s]}", "pool", op_text(op, "pool"), "files", op_text(op, "gone")));
    return job_note(op, "concluded", batch, err);
}

static int merge_undone(struct op *op, struct batch *batch, struct hws_error *err)
{
    /* The layer above may hold more than before; it reads the same. */
    const char *state = json_string_value(json_object_get(op->result, "state"));
    return state ? job_note(op, state, batch, err) : 0;
}

const struct operation merge_operation = {
    .name = "merge",
    .steps = {{"merge the layer", merge_layers, NULL}, {NULL}},
    .direction = look_what_is,
    .end = merge_end,
    .undone = merge_undone,
};

/* ---- what may be merged ---- */

struct candidate {
    struct layer layer, above;
    char volume[ID_BYTES];
};

static void candidate_free(struct candidate *c)
{
    record_free(layer_type.fields, &c->layer);
    record_free(layer_type.fields, &c->above);
}

static int only_child(struct control *control, const char *id, struct layer *ret,
                      struct hws_error *err)
{
    auto_json *children = NULL;
    *ret = (struct layer){0};
    int r = object_list(control, &layer_type, id, &children, err);
    if (r < 0 || json_array_size(children) != 1)
        return r;
    r = object_parse(&layer_type, json_array_get(children, 0), ret, err);
    return r < 0 ? r : 1;
}

/* Whether the snapshots on the way up are the volume's own: a clone of another's would be made
 * without this volume's lock. */
static int is_own(struct control *control, const json_t *snapshots, const char *volume,
                  struct hws_error *err)
{
    size_t i;
    json_t *id;
    json_array_foreach(snapshots, i, id)
    {
        auto_snapshot snapshot = {0};
        int r = object_get(control, &snapshot_type, json_string_value(id), &snapshot, err);
        if (r < 0)
            return r;
        if (!snapshot.volume || strcmp(snapshot.volume, volume) != 0)
            return 0;
    }
    return 1;
}

/* Follows the chain from c->layer up to one volume's top. @return 1 where it is that alone. */
static int follow(struct control *control, struct candidate *c, struct hws_error *err)
{
    auto_json *snapshots = json_array();
    char at[ID_BYTES];
    snprintf(at, sizeof(at), "%s", c->layer.id);
    for (unsigned i = 0; i <= LAYER_DEPTH_MAX; i++) {
        auto_layer over = {0};
        int r = only_child(control, at, &over, err);
        if (r <= 0)
            return r;
        snprintf(at, sizeof(at), "%s", over.id);
        if (over.snapshot)
            json_array_append_new(snapshots, json_string(over.snapshot));
        snprintf(c->volume, sizeof(c->volume), "%s", over.volume ? over.volume : "");
        if (i == 0) {
            c->above = over;
            over = (struct layer){0};
        }
        if (!c->volume[0])
            continue;
        auto_json *more = NULL;
        auto_volume volume = {0};
        r = object_list(control, &layer_type, at, &more, err);
        if (r < 0 || json_array_size(more))
            return r;
        if (object_get(control, &volume_type, c->volume, &volume, NULL) == -ENOENT)
            return 0; /* it is in the trash */
        return is_own(control, snapshots, c->volume, err);
    }
    return 0;
}

/* Reads the layer @id, and what a merge of it is. @return 1 where it may be merged. */
static int consider(struct control *control, const char *id, struct candidate *c,
                    struct hws_error *err)
{
    *c = (struct candidate){0};
    int r = object_get(control, &layer_type, id, &c->layer, err);
    if (r < 0)
        return r == -ENOENT ? 0 : r;
    /* An image that was taken in place stays, whatever is merged. */
    if (c->layer.volume || c->layer.snapshot || c->layer.path)
        return 0;
    r = follow(control, c, err);
    if (r > 0 && strcmp(c->above.format, "qcow2") != 0)
        r = 0;
    return r;
}

static int find(struct control *control, const json_t *put_off, struct candidate *ret,
                struct hws_error *err)
{
    auto_json *list = NULL;
    size_t i;
    json_t *value;
    int r = object_list(control, &layer_type, NULL, &list, err);
    json_array_foreach(list, i, value)
    {
        const char *id = json_string_value(json_object_get(value, "id"));
        if (r < 0 || !id || json_object_get(value, "volume") ||
            json_object_get(value, "snapshot") || json_object_get(put_off, id))
            continue;
        r = consider(control, id, ret, err);
        if (r != 0)
            return r;
        candidate_free(ret);
    }
    return r;
}

static int check_space(const char *path, struct hws_error *err)
{
    struct stat file;
    struct statvfs fs;
    if (stat(path, &file) < 0 || statvfs(path, &fs) < 0)
        return hws_fail_errno(err, errno, "%s", path);
    uint64_t needed = (uint64_t)file.st_blocks * 512 + SPARE_BYTES;
    uint64_t there = (uint64_t)fs.f_bavail * fs.f_frsize;
    return there >= needed ? 0
                           : hws_fail(err, ENOSPC, "merging may take %llu bytes, and %llu are free",
                                      (unsigned long long)needed, (unsigned long long)there);
}

static int check_use(struct control *control, const char *volume, struct hws_error *err)
{
    auto_attachment attachment = {0};
    auto_volume now = {0};
    struct engine_place place = {0};
    bool attached;
    int r = object_get(control, &volume_type, volume, &now, err);
    if (r == 0) /* what a merge changes, another engine may have open then */
        r = exports_refuse_snapshots(control, volume, err);
    if (r == 0 && strcmp(now.state, STATE_AVAILABLE) != 0)
        r = hws_fail(err, EBUSY, "volume '%s' is %s", now.name, now.state);
    if (r == 0)
        r = journal_check(control, volume, err);
    if (r == 0)
        r = attachment_get(control, volume, &attachment, &attached, err);
    if (r < 0)
        return r;
    int there = control->engines->find(volume, &place, NULL);
    if (there == 0 && (!place.running || !attached || attachment.read_only))
        r = hws_fail(err, EBUSY, "volume '%s' is in use, and not written by its engine", now.name);
    else if (there < 0 && attached)
        r = hws_fail(err, EBUSY, "volume '%s' has no engine", now.name);
    engine_place_free(&place);
    return r;
}

/* The volume is locked; the model too, and released. */
static int begin(struct control *control, const struct candidate *c,
                 const struct merge_watch *watch, struct hws_error *err)
{
    auto_pool pool = {0};
    auto_layer below = {0};
    auto_batch batch = {0};
    int r = check_use(control, c->volume, err);
    if (r == 0)
        r = object_get(control, &pool_type, c->layer.pool, &pool, err);
    if (r == 0)
        r = pool_check(control, &pool, err);
    if (r == 0 && c->layer.parent)
        r = object_get(control, &layer_type, c->layer.parent, &below, err);
    autofree char *path = r == 0 ? layer_path(&pool, &c->above) : NULL;
    autofree char *gone = r == 0 ? layer_path(&pool, &c->layer) : NULL;
    autofree char *under = r == 0 && below.id ? layer_path(&pool, &below) : NULL;
    if (r == 0 && (!path || !gone || (below.id && !under)))
        r = hws_fail(err, ENOMEM, "out of memory");
    if (r == 0)
        r = check_space(gone, err);
    if (r < 0) {
        control_unlock_model(control);
        return r;
    }
    json_t *params =
        json_pack("{s:s, s:s, s:s, s:s, s:s, s:s*, s:s*, s:I}", "pool", pool.id, "layer",
                  c->layer.id, "above", c->above.id, "path", path, "gone", gone, "below", under,
                  "below-format", below.format, "started", (json_int_t)time(NULL));
    return journal_run_watched(control, &merge_operation, c->volume, params, &batch, watch, err);
}

static int merge_taken(struct control *control, const struct candidate *found,
                       const struct merge_watch *watch, struct hws_error *err)
{
    struct candidate now;
    control_lock_model(control);
    int r = consider(control, found->layer.id, &now, err);
    if (r > 0 && !strcmp(now.volume, found->volume)) {
        r = begin(control, &now, watch, err);
        if (r == 0)
            journal_finish(control, now.layer.id); /* its file */
    } else {
        control_unlock_model(control);
        r = MIN(r, 0);
    }
    candidate_free(&now);
    return r;
}

int merge_one(struct control *control, const struct merge_watch *watch, json_t *put_off,
              struct hws_error *err)
{
    struct candidate found = {0};
    struct hws_error why = {0};
    int r = find(control, put_off, &found, err);
    if (r > 0) {
        int merged = locks_take(&control->locks, found.volume, 0, &why);
        if (merged == 0) {
            merged = merge_taken(control, &found, watch, &why);
            locks_release(&control->locks, found.volume);
        }
        if (merged < 0) {
            json_object_set_new(put_off, found.layer.id, json_string(why.text));
            log_info("layer %s is merged later: %s", found.layer.id, why.text);
        }
    }
    candidate_free(&found);
    return r;
}
