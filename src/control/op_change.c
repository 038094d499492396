/*
 * Changing pools and classes: what a request gives, the rest stays. Neither touches what there is:
 * limits are for what is made from now on, and volumes keep what they were made with.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "control/internal.h"
#include "control/policy.h"
#include "control/requests.h"

/* ---- pools ---- */

const struct record_field request_pool_change[] = {
    {"name", RECORD_TEXT, offsetof(struct pool, name), "unique name"},
    {"capacity", RECORD_SIZE, offsetof(struct pool, capacity_bytes), "0: of its file system"},
    {"overcommit-percent", RECORD_UINT, offsetof(struct pool, overcommit_percent), "0: any",
     .max = OVERCOMMIT_MAX_PERCENT},
    {"quota", RECORD_SIZE, offsetof(struct pool, quota_bytes), "0: any"},
    {"image-roots", RECORD_LIST, offsetof(struct pool, image_roots), "absolute paths"},
    TRASH_RETENTION_FIELD(pool, trash_retention_s,
                          "seconds that deleted volumes are kept; 0: they go at once"),
    {"shared", RECORD_BOOL, offsetof(struct pool, shared),
     "other hosts see its folder, too: one at a time uses it"},
    {"labels", RECORD_LABELS, offsetof(struct pool, labels), "texts of the user's own"},
    {NULL},
};

/* An image that was taken in place must lie in one of the folders, or its volume cannot be used. */
static int check_roots(struct control *control, const struct pool *pool, struct hws_error *err)
{
    auto_json *layers = NULL;
    size_t i;
    json_t *layer;
    int r = object_list(control, &layer_type, NULL, &layers, err);
    json_array_foreach(layers, i, layer)
    {
        const char *of = json_string_value(json_object_get(layer, "pool"));
        const char *path = json_string_value(json_object_get(layer, "path"));
        if (r == 0 && of && path && !strcmp(of, pool->id) && !pool_has_root_of(pool, path))
            r = hws_fail(err, EBUSY, "image-roots: %.300s is a volume's, and would lie in none",
                         path);
    }
    return r;
}

static int change_pool(struct control *control, const char *reference, const json_t *request,
                       struct pool *given, struct pool *pool, struct hws_error *err)
{
    auto_batch batch = {0};
    int r = object_find(control, &pool_type, reference, pool, err);
    if (r == 0)
        r = journal_check(control, pool->id, err);
    if (r < 0)
        return r;
    record_change(request_pool_change, request, given, pool);
    r = check_roots(control, pool, err);
    if (r < 0)
        return r;
    batch_put(&batch, &pool_type, pool);
    r = batch_commit(&batch, control, err);
    return r == -EEXIST ? hws_fail(err, EEXIST, "there is a pool '%s' already", pool->name) : r;
}

/* One that another host uses does not begin or cease to be shared. */
static int check_lease(struct control *control, const char *reference, struct hws_error *err)
{
    auto_pool pool = {0};
    int r = object_find(control, &pool_type, reference, &pool, err);
    pool.shared = true;
    return r == 0 ? pool_check(control, &pool, err) : r;
}

int control_pool_change(struct control *control, const char *reference, const json_t *request,
                        json_t **ret, struct hws_error *err)
{
    auto_pool given = {0}, pool = {0};
    int r = record_parse(request_pool_change, request, "pool", &given, sizeof(given), err);
    if (r == 0 && given.name)
        r = name_check("pool", given.name, err);
    if (r == 0)
        r = pool_resolve_roots(&given, err);
    if (r < 0)
        return r;
    if (json_object_get(request, "shared"))
        r = check_lease(control, reference, err);
    if (r < 0)
        return r;
    control_lock_model(control);
    r = change_pool(control, reference, request, &given, &pool, err);
    control_unlock_model(control);
    if (r == 0 && !pool.shared)
        lease_forget(control, pool.id);
    return r < 0 ? r : control_pool_show(control, pool.id, ret, err);
}

/* ---- classes ---- */

static int change_class(struct control *control, const char *reference, const json_t *request,
                        struct class *given, struct class *class, struct hws_error *err)
{
    auto_batch batch = {0};
    int r = object_find(control, &class_type, reference, class, err);
    if (r < 0)
        return r;
    record_change(request_class_change, request, given, class);
    r = policy_check_making(&class->making, class->format, class->cluster_bytes, class->fs, err);
    if (r < 0)
        return r;
    batch_put(&batch, &class_type, class);
    r = batch_commit(&batch, control, err);
    return r == -EEXIST ? hws_fail(err, EEXIST, "there is a class '%s' already", class->name) : r;
}

int control_class_change(struct control *control, const char *reference, const json_t *request,
                         json_t **ret, struct hws_error *err)
{
    auto_class given = {0}, class = {0};
    int r = policy_refuse(request, err);
    if (r == 0)
        r = record_parse(request_class_change, request, "class", &given, sizeof(given), err);
    if (r == 0 && given.name)
        r = name_check("class", given.name, err);
    if (r < 0)
        return r;
    control_lock_model(control);
    r = change_class(control, reference, request, &given, &class, err);
    control_unlock_model(control);
    if (r == 0)
        *ret = record_json(class_type.fields, &class);
    return r;
}
