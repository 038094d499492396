/*
 * Layers: the files of a pool, how they lie on each other, and which of them may go.
 *
 *   POOL/hawser-pool.json      which pool this folder is
 *   POOL/images/ID.FORMAT      a layer
 *
 * A layer is referred to by the volume whose top it is, by the snapshot that it is, or by layers
 * over it. What loses its last reference leaves the catalog in the same transaction that takes the
 * reference away, and its file's path goes to the journal (`purge`), which unlinks it.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "control/internal.h"
#include <fcntl.h>

char *layer_path(const struct pool *pool, const struct layer *layer)
{
    char *path;
    if (layer->path)
        return strdup(layer->path);
    return asprintf(&path, "%s/images/%s.%s", pool->path, layer->id, layer->format) < 0 ? NULL
                                                                                        : path;
}

char **layer_allow(const struct pool *pool)
{
    size_t roots = json_array_size(pool->image_roots), i;
    char **allow = calloc(roots + 2, sizeof(char *));
    json_t *root;
    if (!allow || asprintf(&allow[0], "%s/images", pool->path) < 0) {
        free(allow);
        return NULL;
    }
    json_array_foreach(pool->image_roots, i, root)
    {
        allow[i + 1] = strdup(json_string_value(root));
        if (!allow[i + 1]) {
            layer_allow_free(allow);
            return NULL;
        }
    }
    return allow;
}

void layer_allow_free(char **allow)
{
    for (char **at = allow; at && *at; at++)
        free(*at);
    free(allow);
}

int layer_make(const struct pool *pool, const struct layer *parent, const char *format,
               uint64_t size_bytes, struct layer *ret, struct hws_error *err)
{
    char id[ID_BYTES];
    *ret = (struct layer){.size_bytes = size_bytes, .depth = parent ? parent->depth + 1 : 0};
    if (ret->depth >= LAYER_DEPTH_MAX)
        return hws_fail(err, EMLINK,
                        "there are %d layers below already; delete the volume's old snapshots by "
                        "copying it, or clone an older one",
                        LAYER_DEPTH_MAX);
    id_make(id);
    if (record_set_text(&ret->id, id) < 0 || record_set_text(&ret->pool, pool->id) < 0 ||
        record_set_text(&ret->format, format) < 0 ||
        (parent && record_set_text(&ret->parent, parent->id) < 0))
        return hws_fail(err, ENOMEM, "out of memory");
    return 0;
}

/* Whether another layer than @except lies over @id. */
static int has_children(struct control *control, const char *id, const char *except, bool *ret,
                        struct hws_error *err)
{
    auto_json *list = NULL;
    size_t i;
    json_t *child;
    int r = object_list(control, &layer_type, id, &list, err);
    *ret = false;
    json_array_foreach(list, i, child)
    {
        const char *other = json_string_value(json_object_get(child, "id"));
        *ret |= !except || !other || strcmp(other, except) != 0;
    }
    return r;
}

static int drop_one(const struct pool *pool, const struct layer *layer, struct batch *batch,
                    json_t *files, struct hws_error *err)
{
    batch_remove(batch, &layer_type, layer->id);
    if (layer->path)
        return 0; /* it was there before the volume was, and stays */
    autofree char *path = layer_path(pool, layer);
    if (!path || json_array_append_new(files, json_string(path)) < 0)
        return hws_fail(err, ENOMEM, "out of memory");
    return 0;
}

static int drop_chain(struct control *control, const struct pool *pool, const char *id,
                      struct batch *batch, json_t *files, struct hws_error *err)
{
    char at[ID_BYTES], removed[ID_BYTES] = "";
    snprintf(at, sizeof(at), "%s", id);
    for (unsigned depth = 0; at[0] && depth <= LAYER_DEPTH_MAX; depth++) {
        auto_layer layer = {0};
        bool used = false;
        int r = object_get(control, &layer_type, at, &layer, err);
        if (r == 0)
            r = has_children(control, at, removed[0] ? removed : NULL, &used, err);
        if (r < 0)
            return r;
        if (depth == 0 && used) {
            free(steal_ptr(&layer.volume));
            free(steal_ptr(&layer.snapshot));
            batch_put(batch, &layer_type, &layer);
            return 0;
        }
        if (used || (depth > 0 && (layer.volume || layer.snapshot)))
            return 0;
        r = drop_one(pool, &layer, batch, files, err);
        if (r < 0)
            return r;
        snprintf(removed, sizeof(removed), "%s", at);
        snprintf(at, sizeof(at), "%s", layer.parent ? layer.parent : "");
    }
    return 0;
}

int layer_drop(struct control *control, const char *id, struct batch *batch, json_t **ret_purge,
               struct hws_error *err)
{
    auto_layer layer = {0};
    auto_pool pool = {0};
    int r = object_get(control, &layer_type, id, &layer, err);
    if (r == 0)
        r = object_get(control, &pool_type, layer.pool, &pool, err);
    if (r < 0)
        return r;
    json_t *files = json_array();
    *ret_purge = json_pack("{s:s, s:o}", "pool", layer.pool, "files", files);
    return drop_chain(control, &pool, id, batch, files, err);
}

/* ---- files ---- */

int folder_sync(const char *path, struct hws_error *err)
{
    const char *slash = strrchr(path, '/');
    autofree char *folder =
        slash && slash > path ? strndup(path, (size_t)(slash - path)) : strdup("/");
    autofd int fd = folder ? open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    if (fd < 0 || fsync(fd) < 0)
        return hws_fail_errno(err, errno, "cannot sync %s", folder ? folder : path);
    return 0;
}

int file_unlink(const char *path, struct hws_error *err)
{
    if (unlink(path) < 0)
        return errno == ENOENT ? 0 : hws_fail_errno(err, errno, "cannot remove %s", path);
    return folder_sync(path, err);
}

int layer_unmake(struct op *op, const char *key, struct hws_error *err)
{
    auto_pool pool = {0};
    int r = object_get(op->control, &pool_type, op_text(op, "pool"), &pool, err);
    if (r == 0)
        r = pool_check(op->control, &pool, err);
    return r == 0 ? file_unlink(op_text(op, key), err) : r;
}

/* ---- the operation that removes files ---- */

static int purge_files(struct op *op, struct hws_error *err)
{
    auto_pool pool = {0};
    size_t i;
    json_t *path;
    if (json_array_size(json_object_get(op->params, "files")) == 0)
        return 0;
    int r = object_get(op->control, &pool_type, op_text(op, "pool"), &pool, err);
    if (r == 0)
        r = pool_check(op->control, &pool, err);
    json_array_foreach(json_object_get(op->params, "files"), i, path)
    {
        if (r == 0)
            r = file_unlink(json_string_value(path), err);
    }
    return r;
}

static enum op_direction always_forward(struct op *op)
{
    return OP_FORWARD;
}

static int purge_end(struct op *op, struct batch *batch, struct hws_error *err)
{
    return 0; /* the catalog forgot the layers when the operation began */
}

const struct operation purge_operation = {
    .name = "purge",
    .steps = {{"unlink files", purge_files, NULL}, {NULL}},
    .direction = always_forward,
    .end = purge_end,
};
