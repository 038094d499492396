/*
 * Importing an image: a volume whose content is a copy of it, made in the background.
 *
 *   begin   the volume, `creating`, its layer, and the intent
 *   copy    into the layer's file, by the thread of importer.c
 *   end     the volume is available; or it is gone, and the job's history tells why
 *
 * What was cut off, hawserd having ended or its pool being away, goes on where it was. A cancel is
 * written to the intent, so that it holds whatever happens next.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/log.h"
#include "control/internal.h"

static bool is_cancelled(const struct op *op)
{
    auto_json *intent = NULL;
    const struct store_driver *store = op->control->store->driver;
    return store->get(op->control->store, "intent", op->id, &intent, NULL) == 0 &&
           json_is_true(json_object_get(json_object_get(intent, "params"), "cancelled"));
}

static void set_state(struct op *op, const char *state, const char *error)
{
    json_object_set_new(op->result, "state", json_string(state));
    if (error)
        json_object_set_new(op->result, "error", json_string(error));
}

static const char *state_of(const struct op *op)
{
    const char *state = json_string_value(json_object_get(op->result, "state"));
    return state ? state : "";
}

/* ---- the operation ---- */

static bool tell(void *arg, uint64_t done_bytes, uint64_t total_bytes)
{
    struct op *op = arg;
    json_object_set_new(op->result, "done", json_integer((json_int_t)done_bytes));
    json_object_set_new(op->result, "total", json_integer((json_int_t)total_bytes));
    if (lease_is_gone(op->control, op_text(op, "pool")) ||
        (op->watch && op->watch->progress(op->watch->arg, op->object, done_bytes, total_bytes))) {
        set_state(op, "paused", NULL);
        return true;
    }
    return is_cancelled(op);
}

static int copy_from(struct op *op, const struct pool *pool, struct hws_error *err)
{
    char **allow = layer_allow(pool);
    if (!allow)
        return hws_fail(err, ENOMEM, "out of memory");
    const struct engine_copy copy = {
        .source = op_text(op, "source"),
        .source_format = op_text(op, "source-format"),
        .allow = (const char *const *)allow + LAYER_ALLOW_ROOTS,
        .image = {.path = op_text(op, "path"),
                  .format = op_text(op, "format"),
                  .size_bytes = op_number(op, "size"),
                  .cluster_bytes = op_number(op, "cluster-size"),
                  .preallocation = op_text(op, "preallocation"),
                  .lazy_refcounts = op_text(op, "lazy-refcounts"),
                  .extended_l2 = op_text(op, "extended-l2")},
        .progress = tell,
        .arg = op,
    };
    int r = op->control->engines->copy(&copy, err);
    layer_allow_free(allow);
    return r;
}

static int copy_image(struct op *op, struct hws_error *err)
{
    auto_pool pool = {0};
    struct hws_error why = {0};
    int r = object_get(op->control, &pool_type, op_text(op, "pool"), &pool, &why);
    if (r == 0)
        r = pool_check(op->control, &pool, &why);
    if (r == 0)
        r = copy_from(op, &pool, &why);
    if (r == 0)
        return 0;
    if (pool.id && pool_check(op->control, &pool, NULL) < 0)
        set_state(op, "paused", NULL); /* it may come back, with what there is of the copy */
    else if (strcmp(state_of(op), "paused") != 0)
        set_state(op, is_cancelled(op) ? "cancelled" : "failed", why.text);
    return hws_fail(err, -r, "%s", why.text);
}

static int forget_copy(struct op *op, struct hws_error *err)
{
    auto_pool pool = {0};
    int r = object_get(op->control, &pool_type, op_text(op, "pool"), &pool, err);
    if (r == 0)
        r = pool_check(op->control, &pool, err);
    if (r == 0)
        r = op->control->engines->forget_copy(op_text(op, "path"), err);
    return r;
}

static enum op_direction go_on_unless_failed(struct op *op)
{
    if (is_cancelled(op))
        return OP_BACK;
    return op->failed && strcmp(state_of(op), "paused") != 0 ? OP_BACK : OP_FORWARD;
}

static int import_end(struct op *op, struct batch *batch, struct hws_error *err)
{
    auto_volume volume = {0};
    int r = object_get(op->control, &volume_type, op->object, &volume, err);
    if (r == 0 && record_set_text(&volume.state, STATE_AVAILABLE) < 0)
        r = hws_fail(err, ENOMEM, "out of memory");
    if (r < 0)
        return r;
    batch_put(batch, &volume_type, &volume);
    return job_note(op, "concluded", batch, err);
}

static int import_undone(struct op *op, struct batch *batch, struct hws_error *err)
{
    batch_remove(batch, &volume_type, op->object);
    batch_remove(batch, &layer_type, op_text(op, "layer"));
    return job_note(op, !strcmp(state_of(op), "failed") ? "failed" : "cancelled", batch, err);
}

const struct operation volume_import_operation = {
    .name = "volume-import",
    .steps = {{"copy the image", copy_image, forget_copy}, {NULL}},
    .direction = go_on_unless_failed,
    .end = import_end,
    .undone = import_undone,
    .background = true,
};

int import_one(struct control *control, const struct merge_watch *watch, json_t *put_off,
               struct hws_error *err)
{
    return journal_work(control, &volume_import_operation, watch, put_off, err);
}

int import_cancel(struct control *control, const char *job, struct hws_error *err)
{
    int r = journal_mark(control, job, "cancelled", err);
    if (r == 0)
        importer_wake(control);
    return r == -ENOENT ? hws_fail(err, EINVAL, "the job has ended") : r;
}
