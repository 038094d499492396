/*
 * Classes: the policies that volumes are made by.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "control/internal.h"
#include "control/policy.h"

/* All but the name. */
#define CLASS_FIELDS                                                                              \
    {"format", RECORD_TEXT, offsetof(struct class, format), "of new images",                      \
     .choices = format_choices},                                                                  \
        {"fs", RECORD_TEXT, offsetof(struct class, fs), "file system", .choices = fs_choices},    \
        {"size", RECORD_SIZE, offsetof(struct class, size_bytes), "of volumes that ask for none", \
         .max = VOLUME_SIZE_MAX},                                                                 \
        {"cluster-size", RECORD_SIZE, offsetof(struct class, cluster_bytes), "of new images"},    \
        MAKING_FIELDS(class),                                                                     \
    {                                                                                             \
        "labels", RECORD_LABELS, offsetof(struct class, labels), "texts of the user's own"        \
    }

const struct record_field request_class_create[] = {
    {"name", RECORD_TEXT, offsetof(struct class, name), "unique name", true},
    CLASS_FIELDS,
    {NULL},
};

const struct record_field request_class_change[] = {
    {"name", RECORD_TEXT, offsetof(struct class, name), "unique name"},
    CLASS_FIELDS,
    {NULL},
};

int control_class_create(struct control *control, const json_t *request, json_t **ret,
                         struct hws_error *err)
{
    auto_class class = {0};
    auto_batch batch = {0};
    char id[ID_BYTES];
    id_make(id);
    int r = policy_refuse(request, err);
    if (r == 0)
        r = record_parse(request_class_create, request, "class", &class, sizeof(class), err);
    if (r == 0)
        r = name_check("class", class.name, err);
    if (r == 0)
        r = policy_check_making(&class.making, class.format, class.cluster_bytes, class.fs, err);
    if (r < 0)
        return r;
    if (record_set_text(&class.id, id) < 0)
        return hws_fail(err, ENOMEM, "out of memory");
    class.created = (uint64_t)time(NULL);
    batch_add(&batch, &class_type, &class);
    control_lock_model(control);
    r = batch_commit(&batch, control, err);
    control_unlock_model(control);
    if (r == 0)
        *ret = record_json(class_type.fields, &class);
    return r;
}

int control_class_show(struct control *control, const char *reference, json_t **ret,
                       struct hws_error *err)
{
    auto_class class = {0};
    int r = object_find(control, &class_type, reference, &class, err);
    if (r == 0)
        *ret = record_json(class_type.fields, &class);
    return r;
}

int control_class_list(struct control *control, const struct control_page *page, json_t **ret,
                       struct hws_error *err)
{
    return control_page(control, &class_type, NULL, page, "", NULL, ret, err);
}

int control_class_delete(struct control *control, const char *reference, struct hws_error *err)
{
    auto_class class = {0};
    auto_batch batch = {0};
    control_lock_model(control);
    int r = object_find(control, &class_type, reference, &class, err);
    if (r == 0) {
        batch_remove(&batch, &class_type, class.id); /* volumes keep what they were made with */
        r = batch_commit(&batch, control, err);
    }
    control_unlock_model(control);
    return r;
}
