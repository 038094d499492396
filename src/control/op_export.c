/*
 * Making and ending exports.
 *
 * The rules: an engine opens its image once, so whoever uses a volume sees the same data; but file
 * systems are of one writer. So one of a volume's users writes, unless it is said that they know of
 * each other ("shared").
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "control/exports.h"
#include "control/requests.h"
#include <limits.h>

#define LISTEN_MAX 160
/* sun_path, with the end. */
#define SOCKET_PATH_MAX 107

struct export_request {
    char *name, *volume, *protocol, *listen, *tls, *secret, *description;
    bool read_only, shared;
};

#define FIELD(field) offsetof(struct export_request, field)

const struct record_field request_export_create[] = {
    {"name", RECORD_TEXT, FIELD(name), "unique name, which clients ask for", true},
    {"volume", RECORD_TEXT, FIELD(volume), "VOLUME or VOLUME@SNAPSHOT", true},
    {"protocol", RECORD_TEXT, FIELD(protocol), "nbd", .max = 32},
    {"listen", RECORD_TEXT, FIELD(listen), "tcp:HOST:PORT or unix:PATH", true, .max = LISTEN_MAX},
    {"tls", RECORD_TEXT, FIELD(tls), "what clients must come with", .choices = tls_choices},
    {"secret", RECORD_TEXT, FIELD(secret), "pre-shared keys or certificates for TLS"},
    {"description", RECORD_TEXT, FIELD(description), "told to clients"},
    {"read-only", RECORD_BOOL, FIELD(read_only), "clients cannot write"},
    {"shared", RECORD_BOOL, FIELD(shared), "others may write the volume meanwhile"},
    {NULL},
};

/* ---- the operation that begins to serve ---- */

static int start_engine(struct op *op, struct hws_error *err)
{
    auto_pool pool = {0};
    if (!json_is_true(json_object_get(op->params, "start")))
        return 0;
    int r = object_get(op->control, &pool_type, op_text(op, "pool"), &pool, err);
    if (r == 0)
        r = pool_check(op->control, &pool, err);
    if (r < 0)
        return r;
    char **allow = layer_allow(&pool);
    if (!allow)
        return hws_fail(err, ENOMEM, "out of memory");
    const struct engine_wish wish = {
        .id = op_text(op, "engine"),
        .path = op_text(op, "path"),
        .format = op_text(op, "format"),
        .allow = (const char *const *)allow,
        .read_only = json_is_true(json_object_get(op->params, "engine-read-only")),
        .no_device = true,
    };
    struct engine_place place = {0};
    r = op->control->engines->attach(&wish, &place, err);
    layer_allow_free(allow);
    engine_place_free(&place);
    return r;
}

static int stop_engine(struct op *op, struct hws_error *err)
{
    return json_is_true(json_object_get(op->params, "start"))
               ? op->control->engines->detach(op_text(op, "engine"), true, err)
               : 0;
}

static int serve(struct op *op, struct hws_error *err)
{
    auto_export export = {0};
    int r = object_get(op->control, &export_type, op_text(op, "export"), &export, err);
    return r == 0 ? export_serve(op->control, &export, err) : r;
}

static int unserve(struct op *op, struct hws_error *err)
{
    return op->control->engines->unserve(op_text(op, "engine"), op_text(op, "export"),
                                         op_text(op, "listen"), true, err);
}

static int add_user(struct op *op, struct batch *batch, const struct export_record *export,
                    struct hws_error *err)
{
    auto_attachment attachment = {0};
    char user[EXPORT_USER_BYTES];
    size_t i;
    json_t *other;
    bool attached;
    int r = attachment_get(op->control, export_target(export), &attachment, &attached, err);
    if (r == 0 && !attached)
        r = object_parse(&attachment_type, json_object_get(op->params, "record"), &attachment, err);
    if (r < 0)
        return r;
    export_user(export, user);
    json_array_foreach(attachment.users, i, other)
    {
        if (!strcmp(json_string_value(other), user))
            return 0;
    }
    json_array_append_new(attachment.users, json_string(user));
    batch_put(batch, &attachment_type, &attachment);
    return 0;
}

static int serve_end(struct op *op, struct batch *batch, struct hws_error *err)
{
    auto_export export = {0};
    int r = object_get(op->control, &export_type, op_text(op, "export"), &export, err);
    if (r == 0)
        r = add_user(op, batch, &export, err);
    if (r < 0 || !strcmp(export.state, STATE_AVAILABLE))
        return r;
    if (record_set_text(&export.state, STATE_AVAILABLE) < 0)
        return hws_fail(err, ENOMEM, "out of memory");
    batch_put(batch, &export_type, &export);
    return 0;
}

static int serve_undone(struct op *op, struct batch *batch, struct hws_error *err)
{
    if (json_is_true(json_object_get(op->params, "fresh")))
        batch_remove(batch, &export_type, op_text(op, "export"));
    return 0;
}

const struct operation export_serve_operation = {
    .name = "export-serve",
    .steps = {{"start an engine", start_engine, stop_engine},
              {"serve over the network", serve, unserve},
              {NULL}},
    .direction = op_always_back,
    .end = serve_end,
    .undone = serve_undone,
};

static json_t *attachment_without_device(struct control *control,
                                         const struct export_record *export)
{
    return json_pack("{s:s, s:s, s:s, s:[], s:b, s:I}", "id", export_target(export), "mode",
                     ATTACH_NONE, "boot", control->boot, "users", "read-only",
                     export->snapshot != NULL, "created", (json_int_t)time(NULL));
}

/* The file that the target's engine opens. */
static int find_layer(struct control *control, const struct volume *volume,
                      const struct export_record *export, struct layer *ret, struct hws_error *err)
{
    auto_snapshot snapshot = {0};
    int r = export->snapshot ? object_get(control, &snapshot_type, export->snapshot, &snapshot, err)
                             : 0;
    if (r == 0 && snapshot.state && strcmp(snapshot.state, STATE_AVAILABLE) != 0)
        r = hws_fail(err, EBUSY, "snapshot '%s' is %s", snapshot.name, snapshot.state);
    return r == 0 ? object_get(control, &layer_type,
                               export->snapshot ? snapshot.layer : volume->layer, ret, err)
                  : r;
}

/* Whether the target has an engine that can serve; @ret_start where one is to be started. */
static int look_at_engine(struct control *control, const struct volume *volume,
                          const struct attachment_record *attachment, bool attached,
                          bool *ret_start, struct hws_error *err)
{
    struct engine_place place = {0};
    *ret_start = !attached;
    if (!attached)
        return 0;
    bool running = control->engines->find(attachment->id, &place, NULL) == 0 && place.running;
    engine_place_free(&place);
    if (running)
        return 0;
    *ret_start = !strcmp(attachment->mode, ATTACH_NONE);
    return *ret_start ? 0
                      : hws_fail(err, EIO, "the engine of volume '%s' does not run", volume->name);
}

int export_bring_up(struct control *control, const struct volume *volume,
                    struct export_record *export, bool fresh, struct hws_error *err)
{
    auto_attachment attachment = {0};
    auto_layer layer = {0};
    auto_pool pool = {0};
    auto_batch begin = {0};
    bool attached, start = false;
    int r = find_layer(control, volume, export, &layer, err);
    if (r == 0)
        r = object_get(control, &pool_type, layer.pool, &pool, err);
    if (r == 0)
        r = attachment_get(control, export_target(export), &attachment, &attached, err);
    if (r == 0)
        r = look_at_engine(control, volume, &attachment, attached, &start, err);
    autofree char *path = r == 0 ? layer_path(&pool, &layer) : NULL;
    if (r == 0 && !path)
        r = hws_fail(err, ENOMEM, "out of memory");
    if (r < 0) {
        control_unlock_model(control);
        return r;
    }
    if (start && attached) /* of an engine that died */
        batch_remove(&begin, &attachment_type, attachment.id);
    if (fresh)
        batch_add(&begin, &export_type, export);
    json_t *params = json_pack(
        "{s:s, s:s, s:s, s:s, s:s, s:s, s:b, s:b, s:b, s:o}", "export", export->id, "engine",
        export_target(export), "listen", export->listen, "pool", pool.id, "path", path, "format",
        layer.format, "start", start, "fresh", fresh, "engine-read-only", export->snapshot != NULL,
        "record", attachment_without_device(control, export));
    return journal_run(control, &export_serve_operation, volume->id, params, &begin, NULL, err);
}

/* ---- the operation that ends it ---- */

static int end_service(struct op *op, struct hws_error *err)
{
    bool force = json_is_true(json_object_get(op->params, "force"));
    return op->control->engines->unserve(op_text(op, "engine"), op_text(op, "export"),
                                         op_text(op, "listen"), force, err);
}

static int end_engine(struct op *op, struct hws_error *err)
{
    bool force = json_is_true(json_object_get(op->params, "force"));
    return json_is_true(json_object_get(op->params, "last"))
               ? op->control->engines->detach(op_text(op, "engine"), force, err)
               : 0;
}

static enum op_direction forward_once(struct op *op)
{
    return op->failed ? OP_BACK : OP_FORWARD;
}

static int delete_end(struct op *op, struct batch *batch, struct hws_error *err)
{
    auto_attachment attachment = {0};
    char user[EXPORT_USER_BYTES];
    size_t i = 0;
    bool attached;
    int r = attachment_get(op->control, op_text(op, "engine"), &attachment, &attached, err);
    if (r < 0)
        return r;
    batch_remove(batch, &export_type, op_text(op, "export"));
    if (attached && json_is_true(json_object_get(op->params, "last"))) {
        batch_remove(batch, &attachment_type, attachment.id);
    } else if (attached) {
        snprintf(user, sizeof(user), EXPORT_USER "%s", op_text(op, "export"));
        while (i < json_array_size(attachment.users))
            if (!strcmp(json_string_value(json_array_get(attachment.users, i)), user))
                json_array_remove(attachment.users, i);
            else
                i++;
        batch_put(batch, &attachment_type, &attachment);
    }
    return 0;
}

static int delete_undone(struct op *op, struct batch *batch, struct hws_error *err)
{
    return 0; /* it has clients: it stays, and what was ended is mended */
}

const struct operation export_delete_operation = {
    .name = "export-delete",
    .steps = {{"end the service", end_service, NULL}, {"end its engine", end_engine, NULL}, {NULL}},
    .direction = forward_once,
    .end = delete_end,
    .undone = delete_undone,
};

/* ---- requests ---- */

static int check_socket(const char *path, struct hws_error *err)
{
    if (path[0] != '/' || strlen(path) > SOCKET_PATH_MAX || strstr(path, "/../"))
        return hws_fail(err, EINVAL, "listen: the path of a socket is absolute, of up to %d bytes",
                        SOCKET_PATH_MAX);
    for (const char *at = path; *at; at++)
        if ((unsigned char)*at < 0x20 || *at == 0x7f)
            return hws_fail(err, EINVAL, "listen: the path has a control character");
    return 0;
}

static int check_listen(const char *listen, struct hws_error *err)
{
    if (!strncmp(listen, "unix:", 5))
        return check_socket(listen + 5, err);
    const char *port = !strncmp(listen, "tcp:", 4) ? strrchr(listen, ':') + 1 : NULL;
    char *end = NULL;
    long number =
        port && *port >= '0' && *port <= '9' && port > listen + 4 ? strtol(port, &end, 10) : 0;
    if (number < 1 || number > 65535 || !end || *end)
        return hws_fail(err, EINVAL,
                        "listen is '%s'; it can be tcp:HOST:PORT (tcp::PORT: all addresses of this "
                        "host) or unix:PATH",
                        listen);
    return 0;
}

/* @ret_tls what it comes to where it is not said. */
static int check_tls(const struct export_request *request, const struct secret *secret,
                     const char **ret_tls, struct hws_error *err)
{
    bool tcp = !strncmp(request->listen, "tcp:", 4);
    const char *tls = request->tls;
    if (secret->id && !strcmp(secret->kind, SECRET_CHAP))
        return hws_fail(err, EINVAL, "secret '%s' is of kind chap, which NBD has no use for",
                        secret->name);
    if (!tls && secret->id)
        tls = secret->kind;
    if (!tls && tcp)
        return hws_fail(err, EINVAL,
                        "who reaches the address could read and write: give a secret, or say "
                        "\"tls\": \"none\"");
    *ret_tls = tls = tls ? tls : TLS_NONE;
    if (strcmp(tls, TLS_NONE) != 0 && !secret->id)
        return hws_fail(err, EINVAL, "tls %s needs a secret of that kind", tls);
    if (secret->id && strcmp(tls, secret->kind) != 0)
        return hws_fail(err, EINVAL, "secret '%s' is of kind %s, which is nothing for tls %s",
                        secret->name, secret->kind, tls);
    return 0;
}

static int check_request(const struct export_request *request, struct hws_error *err)
{
    int r = name_check("export", request->name, err);
    if (r == 0 && request->protocol && strcmp(request->protocol, "nbd") != 0)
        r = hws_fail(err, ENOTSUP, "protocol '%s' is not served by hawserd; nbd is",
                     request->protocol);
    return r == 0 ? check_listen(request->listen, err) : r;
}

static int fill(struct export_record *export, const struct export_request *request,
                const struct volume *volume, const struct secret *secret, const char *tls,
                struct hws_error *err)
{
    char id[ID_BYTES];
    id_make(id);
    export->created = (uint64_t)time(NULL);
    export->shared = request->shared;
    if (record_set_text(&export->id, id) < 0 || record_set_text(&export->name, request->name) < 0 ||
        record_set_text(&export->state, STATE_CREATING) < 0 ||
        record_set_text(&export->volume, volume->id) < 0 ||
        record_set_text(&export->protocol, "nbd") < 0 ||
        record_set_text(&export->listen, request->listen) < 0 ||
        record_set_text(&export->tls, tls) < 0 ||
        record_set_text(&export->secret, secret->id) < 0 ||
        record_set_text(&export->description, request->description) < 0)
        return hws_fail(err, ENOMEM, "out of memory");
    return 0;
}

/* Who else is there, and writes? The model is locked. */
static int check_others(struct control *control, const struct volume *volume,
                        const struct export_record *export, struct hws_error *err)
{
    auto_attachment attachment = {0};
    auto_json *list = NULL;
    size_t i;
    json_t *value;
    bool attached;
    int r = object_list(control, &export_type, NULL, &list, err);
    json_array_foreach(list, i, value)
    {
        auto_export other = {0};
        if (r == 0)
            r = object_parse(&export_type, value, &other, err);
        if (r == 0 && !strcmp(other.listen, export->listen))
            r = hws_fail(err, EEXIST, "export '%s' listens at %s already", other.name,
                         other.listen);
        if (r == 0 && !strcmp(other.volume, volume->id) && !other.snapshot && !export->snapshot &&
            !other.read_only && !export->read_only && !export->shared)
            r = hws_fail(err, EBUSY,
                         "volume '%s' is exported for writing as '%s': make this one read-only, or "
                         "shared",
                         volume->name, other.name);
    }
    if (r == 0)
        r = attachment_get(control, volume->id, &attachment, &attached, err);
    if (r < 0 || !attached || export->read_only || !strcmp(attachment.mode, ATTACH_NONE))
        return r;
    if (attachment.read_only)
        return hws_fail(err, EBUSY, "volume '%s' is attached read-only: so must the export be",
                        volume->name);
    return export->shared ? 0
                          : hws_fail(err, EBUSY,
                                     "volume '%s' is attached as a %s: make the export read-only, "
                                     "or shared where its users know of each other",
                                     volume->name, attachment.mode);
}

static int create_taken(struct control *control, const struct volume *volume,
                        struct export_record *export, const struct export_request *request,
                        const char *snapshot_name, struct hws_error *err)
{
    auto_snapshot snapshot = {0};
    auto_secret secret = {0};
    const char *tls = NULL;
    int r = snapshot_name ? snapshot_find(control, volume, snapshot_name, &snapshot, err) : 0;
    control_lock_model(control);
    if (r == 0 && request->secret)
        r = object_find(control, &secret_type, request->secret, &secret, err);
    if (r == 0)
        r = check_tls(request, &secret, &tls, err);
    if (r == 0)
        r = fill(export, request, volume, &secret, tls, err);
    export->read_only = request->read_only || snapshot.id;
    if (r == 0 && record_set_text(&export->snapshot, snapshot.id) < 0)
        r = hws_fail(err, ENOMEM, "out of memory");
    if (r == 0)
        r = check_others(control, volume, export, err);
    if (r < 0) {
        control_unlock_model(control);
        return r;
    }
    r = export_bring_up(control, volume, export, true, err);
    auto_export other = {0};
    if (r == -EEXIST && object_find(control, &export_type, request->name, &other, NULL) == 0)
        r = hws_fail(err, EEXIST, "there is an export '%s' already", request->name);
    return r;
}

int control_export_create(struct control *control, const json_t *given, json_t **ret,
                          struct hws_error *err)
{
    auto_volume volume = {0};
    auto_export export = {0};
    struct export_request request;
    int r = record_parse(request_export_create, given, "export", &request, sizeof(request), err);
    if (r < 0)
        return r;
    r = check_request(&request, err);
    char *at = strchr(request.volume, '@');
    if (at)
        *at++ = '\0';
    if (r == 0)
        r = volume_take(control, request.volume, &volume, err);
    if (r == 0) {
        r = create_taken(control, &volume, &export, &request, at, err);
        volume_release(control, &volume);
    }
    if (r == 0)
        r = control_export_show(control, export.id, ret, err);
    record_free(request_export_create, &request);
    return r;
}

static int delete_taken(struct control *control, const char *id, const struct volume *volume,
                        bool force, struct hws_error *err)
{
    auto_export export = {0};
    auto_attachment attachment = {0};
    auto_batch begin = {0};
    bool attached;
    control_lock_model(control);
    int r = object_get(control, &export_type, id, &export, err);
    if (r == 0)
        r = attachment_get(control, export_target(&export), &attachment, &attached, err);
    if (r < 0) {
        control_unlock_model(control);
        return r;
    }
    char user[EXPORT_USER_BYTES];
    export_user(&export, user);
    size_t users = attached ? json_array_size(attachment.users) : 0;
    bool last =
        users == 0 ||
        (users == 1 && !strcmp(json_string_value(json_array_get(attachment.users, 0)), user));
    json_t *params = json_pack("{s:s, s:s, s:s, s:b, s:b}", "export", export.id, "engine",
                               export_target(&export), "listen", export.listen, "force", force,
                               "last", last && attached);
    return journal_run(control, &export_delete_operation, volume->id, params, &begin, NULL, err);
}

int control_export_delete(struct control *control, const char *reference, bool force,
                          struct hws_error *err)
{
    auto_export export = {0};
    auto_volume volume = {0};
    int r = object_find(control, &export_type, reference, &export, err);
    if (r == 0)
        r = volume_take(control, export.volume, &volume, err);
    if (r < 0)
        return r;
    r = delete_taken(control, export.id, &volume, force, err);
    volume_release(control, &volume);
    if (r < 0)
        exporter_wake(control);
    return r;
}
