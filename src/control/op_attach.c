/*
 * Attaching and detaching: an engine for a volume, and who uses it.
 *
 * A volume has one engine on this host, however many use it. Each user is a text of its own, a
 * container's id for instance; who comes twice counts once. With the last user the engine goes.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/log.h"
#include "control/exports.h"
#include "control/policy.h"
#include <limits.h>

#define USER_DEFAULT "manual"
/** What a program that a dead attach left on the device (mkfs) gets to end. */
#define UNDO_TRIES    50
#define UNDO_RETRY_US 200000

struct attach_request {
    char *user, *mode;
    bool read_only, force;
    uint64_t process;
};

static const char *const modes[] = {ATTACH_DEVICE, ATTACH_MOUNT, NULL};

const struct record_field request_volume_attach[] = {
    {"user", RECORD_TEXT, offsetof(struct attach_request, user), "who uses it", .max = 256},
    {"mode", RECORD_TEXT, offsetof(struct attach_request, mode), "device or mount",
     .choices = modes},
    {"read-only", RECORD_BOOL, offsetof(struct attach_request, read_only), "nobody writes"},
    {"process", RECORD_UINT, offsetof(struct attach_request, process),
     "PID of the container engine; once it is gone and no container has the mount, its user is "
     "dropped"},
    {NULL},
};

const struct record_field request_volume_detach[] = {
    {"user", RECORD_TEXT, offsetof(struct attach_request, user), "who used it", .max = 256},
    {"force", RECORD_BOOL, offsetof(struct attach_request, force), "whoever uses it"},
    {NULL},
};

/* ---- attach ---- */

/* One that only exports have is ended; they are served again by the one that comes. */
static int end_exporting_engine(struct op *op, struct hws_error *err)
{
    return json_is_true(json_object_get(op->params, "exported"))
               ? op->control->engines->detach(op->object, true, err)
               : 0;
}

static int start_engine(struct op *op, struct hws_error *err)
{
    const char *mountpoint = op_text(op, "mountpoint"), *fs = op_text(op, "fs");
    auto_pool pool = {0};
    int r = object_get(op->control, &pool_type, op_text(op, "pool"), &pool, err);
    if (r == 0)
        r = pool_check(op->control, &pool, err);
    if (r < 0)
        return r;
    char **allow = layer_allow(&pool);
    if (!allow)
        return hws_fail(err, ENOMEM, "out of memory");
    const char *const writable[] = {allow[0], NULL}; /* the pool's own folder */
    struct engine_wish wish = {
        .id = op->object,
        .path = op_text(op, "path"),
        .format = op_text(op, "format"),
        .allow = (const char *const *)allow,
        .writable = writable,
        .read_only = json_is_true(json_object_get(op->params, "read-only")),
        .mountpoint = mountpoint,
        .mkfs = mountpoint && json_is_true(json_object_get(op->params, "mkfs")) ? fs : NULL,
        .mkfs_options = op_text(op, "mkfs-options"),
        .mount_options = op_text(op, "mount-options"),
        .grow = json_is_true(json_object_get(op->params, "grow")),
        .part = json_is_true(json_object_get(op->params, "part")),
    };
    struct engine_place place = {0};
    r = op->control->engines->attach(&wish, &place, err);
    layer_allow_free(allow);
    if (r == 0 && place.device)
        json_object_set_new(op->result, "device", json_string(place.device));
    engine_place_free(&place);
    return r;
}

/* A program that made a file system may still be at it: it gets time, then the device is taken. */
static int stop_engine(struct op *op, struct hws_error *err)
{
    int r = -EBUSY;
    for (unsigned i = 0; r == -EBUSY && i <= UNDO_TRIES; i++) {
        r = op->control->engines->detach(op->object, i == UNDO_TRIES, err);
        if (r == -EBUSY)
            usleep(UNDO_RETRY_US);
    }
    return r;
}

static int grow_fs(struct op *op, struct hws_error *err)
{
    const char *device = json_string_value(json_object_get(op->result, "device"));
    const char *mountpoint = op_text(op, "mountpoint"), *fs = op_text(op, "fs");
    struct hws_error why = {0};
    if (!json_is_true(json_object_get(op->params, "grow")) || !mountpoint || !fs || !device)
        return 0;
    if (op->control->engines->grow(fs, device, mountpoint, &why) < 0)
        log_warning("volume %s: its file system stays as small as it was: %s", op->object,
                    why.text);
    else
        json_object_set_new(op->result, "grown", json_true());
    return 0;
}

static int attach_end(struct op *op, struct batch *batch, struct hws_error *err)
{
    auto_attachment attachment = {0};
    auto_volume volume = {0};
    json_t *record = json_deep_copy(json_object_get(op->params, "record"));
    json_object_set(record, "device", json_object_get(op->result, "device"));
    int r = object_parse(&attachment_type, record, &attachment, err);
    json_decref(record);
    if (r == 0)
        r = object_get(op->control, &volume_type, op->object, &volume, err);
    if (r < 0)
        return r;
    batch_put(batch, &attachment_type, &attachment);
    if (attachment.mountpoint && !attachment.read_only &&
        (!volume.formatted || volume.part || json_object_get(op->result, "grown"))) {
        volume.formatted = true;
        volume.part = false;
        volume.grow = volume.grow && !json_object_get(op->result, "grown");
        batch_put(batch, &volume_type, &volume);
    }
    return 0;
}

static int attach_undone(struct op *op, struct batch *batch, struct hws_error *err)
{
    return 0;
}

const struct operation volume_attach_operation = {
    .name = "volume-attach",
    .steps = {{"end the engine of exports", end_exporting_engine, NULL},
              {"start the engine", start_engine, stop_engine},
              {"grow the file system", grow_fs, NULL},
              {NULL}},
    .direction = op_always_back,
    .end = attach_end,
    .undone = attach_undone,
};

/*
 * An engine that could not be stopped, a container's name space still holding its device, has its
 * mount taken away all the same: nobody shall write to the empty folder below.
 */
int attachment_keep_mounted(struct control *control, const struct attachment_record *attachment,
                            const struct volume *volume, struct hws_error *err)
{
    if (!attachment->mountpoint || !attachment->device)
        return 0;
    autofree char *options = policy_join(volume->making.mount_options, ',');
    return control->engines->remount(attachment->device, attachment->mountpoint,
                                     attachment->read_only, volume->fs, options, err);
}

static void note_process(json_t *processes, const struct attach_request *request)
{
    autofree char *process = request->process ? users_process(request->process) : NULL;
    if (process)
        json_object_set_new(processes, request->user, json_string(process));
    else
        json_object_del(processes, request->user);
}

static int add_user(struct control *control, struct attachment_record *attachment,
                    const struct volume *volume, const struct attach_request *request,
                    struct hws_error *err)
{
    auto_batch batch = {0};
    struct engine_place place = {0};
    size_t i;
    json_t *user;
    if (strcmp(attachment->mode, request->mode) != 0 || attachment->read_only != request->read_only)
        return hws_fail(err, EBUSY, "volume '%s' is attached already, as a %s%s", volume->name,
                        attachment->mode, attachment->read_only ? ", read-only" : "");
    int r = control->engines->find(volume->id, &place, err);
    bool running = r == 0 && place.running;
    engine_place_free(&place);
    if (!running)
        return hws_fail(err, EIO,
                        "the engine of volume '%s' died; detach it with force, and attach it again",
                        volume->name);
    r = attachment_keep_mounted(control, attachment, volume, err);
    if (r < 0)
        return r;
    bool there = false;
    json_array_foreach(attachment->users, i, user) there =
        there || !strcmp(json_string_value(user), request->user);
    if (there && !request->process)
        return 0;
    if (!there)
        json_array_append_new(attachment->users, json_string(request->user));
    note_process(attachment->processes, request);
    batch_put(&batch, &attachment_type, attachment);
    control_lock_model(control);
    r = batch_commit(&batch, control, err);
    control_unlock_model(control);
    return r;
}

static json_t *attach_params(struct control *control, const struct volume *volume,
                             const struct pool *pool, const struct layer *layer,
                             const struct attach_request *request)
{
    autofree char *path = layer_path(pool, layer), *mountpoint = NULL;
    autofree char *mkfs_options = policy_join(volume->making.mkfs_options, ' ');
    autofree char *mount_options = policy_join(volume->making.mount_options, ',');
    bool mount = !strcmp(request->mode, ATTACH_MOUNT);
    if (mount && asprintf(&mountpoint, "%s/mounts/%s", control->folder, volume->id) < 0)
        mountpoint = NULL;
    json_t *record =
        json_pack("{s:s, s:s, s:s, s:[s], s:b, s:I, s:s*}", "id", volume->id, "mode", request->mode,
                  "boot", control->boot, "users", request->user, "read-only", request->read_only,
                  "created", (json_int_t)time(NULL), "mountpoint", mountpoint);
    json_t *processes = json_object();
    note_process(processes, request);
    json_object_set_new(record, "processes", processes);
    bool made = volume->fs && strcmp(volume->fs, "none") != 0;
    return json_pack(
        "{s:s, s:s, s:s, s:s, s:b, s:b, s:b, s:b, s:s*, s:s*, s:s*, s:s*, s:o}", "pool", pool->id,
        "layer", layer->id, "path", path ? path : "", "format", layer->format, "read-only",
        request->read_only, "mkfs", made && !request->read_only && !volume->formatted, "grow",
        volume->grow && !request->read_only, "part", volume->part && !request->read_only,
        "mountpoint", mountpoint, "fs", made ? volume->fs : NULL, "mkfs-options", mkfs_options,
        "mount-options", mount_options, "record", record);
}

static int attach_taken(struct control *control, const struct volume *volume,
                        const struct attach_request *request, struct hws_error *err)
{
    auto_attachment attachment = {0};
    auto_layer layer = {0};
    auto_pool pool = {0};
    auto_batch begin = {0};
    bool attached;
    int r = attachment_get(control, volume->id, &attachment, &attached, err);
    bool exported = r == 0 && attached && !strcmp(attachment.mode, ATTACH_NONE);
    if (r == 0 && attached && !exported)
        return add_user(control, &attachment, volume, request, err);
    if (r == 0)
        r = exports_allow_attach(control, volume, request->read_only, err);
    if (r == 0)
        r = object_get(control, &layer_type, volume->layer, &layer, err);
    if (r == 0)
        r = pool_of(control, volume, &pool, err);
    if (r == 0 && !strcmp(request->mode, ATTACH_MOUNT) && volume->fs && !strcmp(volume->fs, "none"))
        r = hws_fail(err, EINVAL, "volume '%s' has no file system; attach it as a device",
                     volume->name);
    if (r < 0)
        return r;
    json_t *params = attach_params(control, volume, &pool, &layer, request);
    json_object_set_new(params, "exported", json_boolean(exported));
    control_lock_model(control);
    if (exported)
        batch_remove(&begin, &attachment_type, attachment.id);
    r = journal_run(control, &volume_attach_operation, volume->id, params, &begin, NULL, err);
    exporter_wake(control);
    return r;
}

static int take_defaults(struct attach_request *request, struct hws_error *err)
{
    if ((!request->user && record_set_text(&request->user, USER_DEFAULT) < 0) ||
        (!request->mode && record_set_text(&request->mode, ATTACH_MOUNT) < 0))
        return hws_fail(err, ENOMEM, "out of memory");
    if (user_is_export(request->user))
        return hws_fail(err, EINVAL, "users that begin with '" EXPORT_USER "' are exports");
    return request->user[0] ? 0 : hws_fail(err, EINVAL, "user is empty");
}

int control_volume_attach(struct control *control, const char *reference, const json_t *given,
                          json_t **ret, struct hws_error *err)
{
    auto_volume volume = {0};
    auto_attachment attachment = {0};
    struct attach_request request;
    int r = record_parse(request_volume_attach, given, "attach", &request, sizeof(request), err);
    if (r == 0)
        r = take_defaults(&request, err);
    if (r == 0)
        r = volume_take(control, reference, &volume, err);
    if (r == 0) {
        r = attach_taken(control, &volume, &request, err);
        if (r == 0)
            r = object_get(control, &attachment_type, volume.id, &attachment, err);
        if (r == 0)
            *ret = record_json(attachment_type.fields, &attachment);
        volume_release(control, &volume);
    }
    record_free(request_volume_attach, &request);
    return r;
}

/* ---- detach ---- */

static int end_engine(struct op *op, struct hws_error *err)
{
    bool force = json_is_true(json_object_get(op->params, "force"));
    return op->control->engines->detach(op->object, force, err);
}

static int keep_engine(struct op *op, struct hws_error *err)
{
    auto_attachment attachment = {0};
    auto_volume volume = {0};
    struct engine_place place = {0};
    bool attached;
    int r = attachment_get(op->control, op->object, &attachment, &attached, err);
    if (r == 0)
        r = object_get(op->control, &volume_type, op->object, &volume, err);
    bool running = op->control->engines->find(op->object, &place, NULL) == 0 && place.running;
    engine_place_free(&place);
    return r == 0 && attached && running
               ? attachment_keep_mounted(op->control, &attachment, &volume, err)
               : r;
}

static enum op_direction forward_once(struct op *op)
{
    return op->failed ? OP_BACK : OP_FORWARD;
}

static int detach_end(struct op *op, struct batch *batch, struct hws_error *err)
{
    batch_remove(batch, &attachment_type, op->object);
    return 0;
}

static int detach_undone(struct op *op, struct batch *batch, struct hws_error *err)
{
    return 0; /* in use: it stays attached, with its users */
}

const struct operation volume_detach_operation = {
    .name = "volume-detach",
    .steps = {{"stop the engine", end_engine, keep_engine}, {NULL}},
    .direction = forward_once,
    .end = detach_end,
    .undone = detach_undone,
};

static int detach_taken(struct control *control, const struct volume *volume,
                        const struct attach_request *request, struct hws_error *err)
{
    auto_attachment attachment = {0};
    auto_batch batch = {0};
    bool attached;
    size_t i, found = SIZE_MAX;
    json_t *user;
    int r = attachment_get(control, volume->id, &attachment, &attached, err);
    if (r < 0 || !attached || !strcmp(attachment.mode, ATTACH_NONE))
        return r; /* asked again, after an answer that was lost */
    json_array_foreach(attachment.users, i, user)
    {
        if (!strcmp(json_string_value(user), request->user))
            found = i;
    }
    if (found == SIZE_MAX && !request->force)
        return hws_fail(err, ESRCH,
                        "volume '%s' is in use, but not by '%s'; force detaches it from all users",
                        volume->name, request->user);
    control_lock_model(control);
    if (!request->force && json_array_size(attachment.users) > 1) {
        json_array_remove(attachment.users, found);
        json_object_del(attachment.processes, request->user);
        batch_put(&batch, &attachment_type, &attachment);
        r = batch_commit(&batch, control, err);
        control_unlock_model(control);
        return r;
    }
    r = journal_run(control, &volume_detach_operation, volume->id,
                    json_pack("{s:b}", "force", request->force), &batch, NULL, err);
    exporter_wake(control);
    return r;
}

int control_volume_detach(struct control *control, const char *reference, const json_t *given,
                          struct hws_error *err)
{
    auto_volume volume = {0};
    struct attach_request request;
    int r = record_parse(request_volume_detach, given, "detach", &request, sizeof(request), err);
    if (r == 0)
        r = take_defaults(&request, err);
    if (r == 0)
        r = volume_take(control, reference, &volume, err);
    if (r == 0) {
        r = detach_taken(control, &volume, &request, err);
        volume_release(control, &volume);
    }
    record_free(request_volume_detach, &request);
    free(request.mode);
    return r;
}

int attachment_drop_user(struct control *control, const char *id, const char *user,
                         const char *process, struct hws_error *err)
{
    auto_volume volume = {0};
    auto_attachment attachment = {0};
    struct attach_request request = {.user = (char *)user};
    bool attached;
    int r = volume_take(control, id, &volume, err);
    if (r < 0)
        return r;
    r = attachment_get(control, id, &attachment, &attached, err);
    const char *now = json_string_value(json_object_get(attachment.processes, user));
    if (r == 0 && attached && now && !strcmp(now, process)) /* else it has come again meanwhile */
        r = detach_taken(control, &volume, &request, err);
    volume_release(control, &volume);
    return r;
}

int control_attachment_list(struct control *control, const struct control_page *page, json_t **ret,
                            struct hws_error *err)
{
    return control_page(control, &attachment_type, NULL, page, "", NULL, ret, err);
}
