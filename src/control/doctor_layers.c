/*
 * What the doctor finds in pools: files, layers, and what refers to them; see control/doctor.h.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "control/doctor.h"
#include <dirent.h>

static bool is_away(const struct doctor *doctor, const char *pool)
{
    return json_object_get(doctor->away, pool) || !json_object_get(doctor->pools, pool);
}

static char *path_of(const struct doctor *doctor, const json_t *value)
{
    auto_layer layer = {0};
    auto_pool pool = {0};
    if (object_parse(&layer_type, value, &layer, NULL) < 0 ||
        object_parse(&pool_type, json_object_get(doctor->pools, layer.pool), &pool, NULL) < 0)
        return NULL;
    return layer_path(&pool, &layer);
}

/* ---- pools and their folders ---- */

/* Whose file is it? An image is called by the id of its layer. */
static bool is_known(const struct doctor *doctor, const char *pool, const char *name)
{
    char id[ID_BYTES];
    snprintf(id, sizeof(id), "%.36s", name);
    if (!id_is_valid(id))
        return false;
    if (doctor_is_busy(doctor, id))
        return true;
    const json_t *layer = json_object_get(doctor->layers, id);
    if (!layer && (json_object_get(doctor->wanted, id) || json_object_get(doctor->children, id)))
        return true; /* the catalog has lost its layer: that is told of what needs it */
    return layer && !json_object_get(layer, "path") && !strcmp(doctor_text(layer, "pool"), pool) &&
           name[36] == '.' && !strcmp(name + 37, doctor_text(layer, "format"));
}

static void look_through(struct doctor *doctor, const struct pool *pool)
{
    autofree char *folder = NULL;
    if (asprintf(&folder, "%s/images", pool->path) < 0)
        folder = NULL;
    DIR *dir = folder ? opendir(folder) : NULL;
    for (struct dirent *at; dir && (at = readdir(dir));) {
        autofree char *path = NULL;
        if (!strcmp(at->d_name, ".") || !strcmp(at->d_name, "..") ||
            is_known(doctor, pool->id, at->d_name))
            continue;
        if (asprintf(&path, "%s/%s", folder, at->d_name) < 0) {
            path = NULL;
            continue;
        }
        /* One whose operation has ended since the catalog was read is gone, or has its layer. */
        auto_layer layer = {0};
        char id[ID_BYTES];
        bool named = false;
        snprintf(id, sizeof(id), "%.36s", at->d_name);
        if (id_is_valid(id) && (doctor_names(doctor->control, id, &named, NULL) < 0 || named ||
                                object_get(doctor->control, &layer_type, id, &layer, NULL) == 0))
            named = !json_object_get(doctor->layers, id);
        if (access(path, F_OK) == 0 && !named)
            doctor_tell(doctor, "file-foreign", pool->id, path, "%s is no layer's%s", path,
                        doctor_is_open(path) ? ", but in use: another host's, perhaps" : "");
    }
    if (dir)
        closedir(dir);
}

int doctor_pools(struct doctor *doctor, struct hws_error *err)
{
    const char *id;
    json_t *value;
    json_object_foreach(doctor->pools, id, value)
    {
        auto_pool pool = {0};
        struct hws_error why = {0};
        int r = object_parse(&pool_type, value, &pool, err);
        if (r < 0)
            return r;
        if (pool_is_there(&pool, &why) < 0 || lease_look(doctor->control, &pool, &why) < 0) {
            json_object_set_new(doctor->away, id, json_true());
            if (!doctor_is_busy(doctor, id))
                doctor_tell(doctor, "pool-away", id, pool.path, "%s", why.text);
            continue;
        }
        look_through(doctor, &pool);
    }
    return 0;
}

/* ---- layers ---- */

/* Whose top or snapshot a layer says that it is, and is not. */
static void check_references(struct doctor *doctor, const char *id, const json_t *layer)
{
    const char *volume = doctor_text(layer, "volume"), *snapshot = doctor_text(layer, "snapshot");
    const json_t *owners =
        json_object_get(doctor->volumes, volume) ? doctor->volumes : doctor->trash;
    if (*volume && strcmp(doctor_text_of(owners, volume, "layer"), id) != 0)
        doctor_tell(doctor, "layer-reference", id, NULL,
                    "it says that it is the top of volume %s, whose top it is not", volume);
    else if (*snapshot && strcmp(doctor_text_of(doctor->snapshots, snapshot, "layer"), id) != 0)
        doctor_tell(doctor, "layer-reference", id, NULL,
                    "it says that it is snapshot %s, which it is not", snapshot);
    else if (!*volume && !*snapshot && !json_object_get(doctor->children, id))
        doctor_tell(doctor, "layer-unused", id, NULL,
                    "no volume, no snapshot and no layer needs it");
}

static void check_parent(struct doctor *doctor, const char *id, const json_t *layer)
{
    const char *parent = doctor_text(layer, "parent");
    json_int_t depth = json_integer_value(json_object_get(layer, "depth"));
    const json_t *below = json_object_get(doctor->layers, parent);
    if (*parent && !below) {
        doctor_tell(doctor, "layer-parent", id, NULL,
                    "it lies on layer %s, of which the catalog knows nothing", parent);
        return;
    }
    json_int_t right = below ? json_integer_value(json_object_get(below, "depth")) + 1 : 0;
    if (depth != right)
        doctor_tell(doctor, "layer-depth", id, NULL,
                    "it has the depth %lld; what it lies on makes that %lld", (long long)depth,
                    (long long)right);
}

/* The volume that may write a layer, or merge it: while nobody works on it, the file is still. */
static const char *owner_of(const struct doctor *doctor, const json_t *layer)
{
    const char *volume = doctor_text(layer, "volume");
    return *volume ? volume
                   : doctor_text_of(doctor->snapshots, doctor_text(layer, "snapshot"), "volume");
}

static void look_into(struct doctor *doctor, const char *id, const json_t *value, const char *path)
{
    auto_layer layer = {0};
    auto_pool pool = {0};
    struct hws_error why = {0};
    uint64_t size = 0;
    bool lies = true;
    char format[16];
    if (object_parse(&layer_type, value, &layer, NULL) < 0 ||
        object_parse(&pool_type, json_object_get(doctor->pools, layer.pool), &pool, NULL) < 0)
        return;
    autofree char *below =
        path_of(doctor, json_object_get(doctor->layers, layer.parent ? layer.parent : ""));
    char **allow = layer_allow(&pool);
    snprintf(format, sizeof(format), "%s", layer.format ? layer.format : "");
    const struct engine_merge merge = {
        .path = path, .below = below, .allow = (const char *const *)allow};
    int r = doctor->control->engines->look(path, merge.allow, format, &size, &why);
    if (r == 0 && size != layer.size_bytes)
        doctor_tell(doctor, "layer-size", id, path,
                    "the catalog says that it has %llu bytes, and the image that it has %llu",
                    (unsigned long long)layer.size_bytes, (unsigned long long)size);
    if (r == 0 && !layer.path && !strcmp(format, "qcow2"))
        r = doctor->control->engines->is_merged(&merge, &lies, &why);
    layer_allow_free(allow);
    if (r < 0)
        doctor_tell(doctor, "layer-chain", id, path, "it cannot be opened: %.600s", why.text);
    else if (!lies)
        doctor_tell(doctor, "layer-chain", id, path, "it should lie on %s, and does not",
                    below ? below : "nothing");
}

/* Not what is in use: an engine writes it. */
static void look_into_quietly(struct doctor *doctor, const char *id, const json_t *layer,
                              const char *path)
{
    char owner[ID_BYTES];
    auto_layer now = {0};
    struct locks *locks = &doctor->control->locks;
    snprintf(owner, sizeof(owner), "%s", owner_of(doctor, layer));
    if (!owner[0] ||
        (json_object_get(doctor->attachments, owner) && json_object_get(layer, "volume")))
        return;
    if (locks_take(locks, owner, 0, NULL) < 0)
        return;
    uint64_t generation = (uint64_t)json_integer_value(json_object_get(layer, "generation"));
    if (journal_check(doctor->control, owner, NULL) == 0 &&
        object_get(doctor->control, &layer_type, id, &now, NULL) == 0 &&
        now.generation == generation && !doctor_is_open(path))
        look_into(doctor, id, layer, path);
    locks_release(locks, owner);
}

int doctor_layers(struct doctor *doctor, struct hws_error *err)
{
    const char *id;
    json_t *value;
    json_object_foreach(doctor->layers, id, value)
    {
        auto_layer now = {0};
        const char *pool = doctor_text(value, "pool");
        if (doctor_is_busy(doctor, id))
            continue;
        check_references(doctor, id, value);
        check_parent(doctor, id, value);
        if (is_away(doctor, pool))
            continue;
        autofree char *path = path_of(doctor, value);
        if (!path)
            return hws_fail(err, ENOMEM, "layer %s has no path", id);
        if (access(path, F_OK) == 0) {
            if (doctor->deep)
                look_into_quietly(doctor, id, value, path);
        } else if (errno == ENOENT &&
                   object_get(doctor->control, &layer_type, id, &now, NULL) == 0) {
            doctor_tell(doctor, "file-missing", id, path, "%s is not there", path);
        }
    }
    return 0;
}

/* ---- volumes and snapshots ---- */

static void check_owner(struct doctor *doctor, const char *what, const char *id,
                        const json_t *value)
{
    const char *layer = doctor_text(value, "layer"), *state = doctor_text(value, "state");
    const json_t *found = json_object_get(doctor->layers, layer);
    if (doctor_is_busy(doctor, id) || doctor_is_busy(doctor, doctor_text(value, "volume")))
        return;
    if (!found)
        doctor_tell(doctor, "volume-layer", id, NULL,
                    "%s '%s': of its layer %s the catalog knows nothing", what,
                    doctor_text(value, "name"), layer);
    else if (strcmp(doctor_text(found, what), id) != 0)
        doctor_tell(doctor, "layer-reference", layer, NULL,
                    "it does not say that it is that of %s '%s'", what, doctor_text(value, "name"));
    if (strcmp(state, STATE_CREATING) == 0)
        doctor_tell(doctor, "object-unfinished", id, NULL,
                    "%s '%s' is being made, and no operation makes it", what,
                    doctor_text(value, "name"));
}

int doctor_volumes(struct doctor *doctor, struct hws_error *err)
{
    const char *id;
    json_t *value;
    json_object_foreach(doctor->volumes, id, value) check_owner(doctor, "volume", id, value);
    json_object_foreach(doctor->trash, id, value) check_owner(doctor, "volume", id, value);
    json_object_foreach(doctor->snapshots, id, value)
    {
        const char *volume = doctor_text(value, "volume");
        check_owner(doctor, "snapshot", id, value);
        if (!json_object_get(doctor->volumes, volume) && !json_object_get(doctor->trash, volume) &&
            !doctor_is_busy(doctor, volume))
            doctor_tell(doctor, "snapshot-volume", id, NULL,
                        "snapshot '%s' is of volume %s, of which the catalog knows nothing",
                        doctor_text(value, "name"), volume);
    }
    return 0;
}
