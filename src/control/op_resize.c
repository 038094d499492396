/*
 * Making a volume larger: its image, in use or not, and its file system. What cannot be grown now
 * is grown at the next mount.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/log.h"
#include "control/internal.h"

static int grow_image(struct op *op, struct hws_error *err)
{
    const struct engine_driver *engines = op->control->engines;
    struct engine_place place = {0};
    int r = engines->find(op->object, &place, NULL);
    bool running = r == 0 && place.running;
    engine_place_free(&place);
    if (running)
        return engines->resize(op->object, op_number(op, "size"), err);
    if (r == 0)
        return hws_fail(err, EIO, "its engine died; detach it first");
    auto_pool pool = {0};
    r = object_get(op->control, &pool_type, op_text(op, "pool"), &pool, err);
    if (r == 0)
        r = pool_check(op->control, &pool, err);
    if (r < 0)
        return r;
    char **allow = layer_allow(&pool);
    r = allow ? engines->resize_file(op_text(op, "path"), op_text(op, "format"),
                                     (const char *const *)allow, op_number(op, "size"), err)
              : hws_fail(err, ENOMEM, "out of memory");
    layer_allow_free(allow);
    return r;
}

static int grow_fs(struct op *op, struct hws_error *err)
{
    auto_attachment attachment = {0};
    struct hws_error why = {0};
    bool attached;
    int r = attachment_get(op->control, op->object, &attachment, &attached, err);
    const char *fs = op_text(op, "fs");
    if (r < 0 || !attached || !attachment.mountpoint || !fs || !attachment.device ||
        attachment.read_only)
        return r;
    if (op->control->engines->grow(fs, attachment.device, attachment.mountpoint, &why) < 0)
        log_warning("volume %s: its file system is grown at the next mount: %s", op->object,
                    why.text);
    else
        json_object_set_new(op->result, "grown", json_true());
    return 0;
}

static enum op_direction forward_once(struct op *op)
{
    return op->failed ? OP_BACK : OP_FORWARD;
}

static int resize_end(struct op *op, struct batch *batch, struct hws_error *err)
{
    auto_volume volume = {0};
    auto_layer layer = {0};
    int r = object_get(op->control, &volume_type, op->object, &volume, err);
    if (r == 0)
        r = object_get(op->control, &layer_type, volume.layer, &layer, err);
    if (r < 0)
        return r;
    volume.size_bytes = layer.size_bytes = op_number(op, "size");
    volume.grow = volume.formatted && volume.fs && strcmp(volume.fs, "none") != 0 &&
                  !json_object_get(op->result, "grown");
    batch_put(batch, &volume_type, &volume);
    batch_put(batch, &layer_type, &layer);
    return 0;
}

static int resize_undone(struct op *op, struct batch *batch, struct hws_error *err)
{
    return 0; /* an image that is larger than its volume does no harm */
}

const struct operation volume_resize_operation = {
    .name = "volume-resize",
    .steps = {{"grow the image", grow_image, NULL},
              {"grow the mounted file system", grow_fs, NULL},
              {NULL}},
    .direction = forward_once,
    .end = resize_end,
    .undone = resize_undone,
};

static int resize_taken(struct control *control, const struct volume *volume, uint64_t size,
                        struct hws_error *err)
{
    auto_layer layer = {0};
    auto_pool pool = {0};
    auto_attachment attachment = {0};
    auto_batch begin = {0};
    bool attached;
    size = align_up(size, 512);
    if (size == volume->size_bytes)
        return 0;
    if (size < volume->size_bytes)
        return hws_fail(err, EINVAL, "volume '%s' has %llu bytes; it cannot be made smaller",
                        volume->name, (unsigned long long)volume->size_bytes);
    int r = object_get(control, &layer_type, volume->layer, &layer, err);
    if (r == 0)
        r = pool_of(control, volume, &pool, err);
    if (r == 0)
        r = attachment_get(control, volume->id, &attachment, &attached, err);
    if (r == 0 && attached && attachment.read_only)
        r = hws_fail(err, EBUSY, "volume '%s' is attached read-only", volume->name);
    if (r < 0)
        return r;
    autofree char *path = layer_path(&pool, &layer);
    bool has_fs = volume->fs && strcmp(volume->fs, "none") != 0;
    json_t *params =
        json_pack("{s:s, s:s, s:s, s:I, s:s*}", "pool", pool.id, "path", path ? path : "", "format",
                  layer.format, "size", (json_int_t)size, "fs", has_fs ? volume->fs : NULL);
    control_lock_model(control);
    r = pool_admit(control, &pool, size - volume->size_bytes, err);
    if (r < 0) {
        control_unlock_model(control);
        json_decref(params);
        return r;
    }
    return journal_run(control, &volume_resize_operation, volume->id, params, &begin, NULL, err);
}

struct resize_request {
    uint64_t size_bytes;
};

const struct record_field request_volume_resize[] = {
    {"size", RECORD_SIZE, offsetof(struct resize_request, size_bytes), "new size in bytes", true,
     .max = VOLUME_SIZE_MAX},
    {NULL},
};

int control_volume_resize(struct control *control, const char *reference, const json_t *given,
                          json_t **ret, struct hws_error *err)
{
    auto_volume volume = {0};
    struct resize_request request;
    int r = record_parse(request_volume_resize, given, "resize", &request, sizeof(request), err);
    if (r == 0)
        r = volume_take(control, reference, &volume, err);
    if (r < 0)
        return r;
    r = resize_taken(control, &volume, request.size_bytes, err);
    if (r == 0)
        r = control_volume_show(control, volume.id, ret, err);
    volume_release(control, &volume);
    return r;
}
