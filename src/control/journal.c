/*
 * Running, completing and taking back operations; see control/journal.h.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/log.h"
#include "control/internal.h"

#define KIND "intent"

static const struct operation *const operations[] = {
    &pool_create_operation,     &pool_delete_operation,   &volume_create_operation,
    &volume_resize_operation,   &volume_attach_operation, &volume_detach_operation,
    &snapshot_create_operation, &volume_revert_operation, &merge_operation,
    &purge_operation,           &export_serve_operation,  &export_delete_operation,
    &layer_drop_operation,      &group_member_operation,  &group_snapshot_operation,
    &group_revert_operation,    &volume_import_operation,
};

const char *op_text(const struct op *op, const char *name)
{
    return json_string_value(json_object_get(op->params, name));
}

uint64_t op_number(const struct op *op, const char *name)
{
    return (uint64_t)json_integer_value(json_object_get(op->params, name));
}

static int run_steps(struct op *op, struct hws_error *err)
{
    for (const struct op_step *step = op->type->steps; step->name; step++) {
        control_at(op->control, step->name);
        int r = step->run(op, err);
        if (r < 0)
            return r;
        control_at(op->control, step->name);
    }
    return 0;
}

static int undo_steps(struct op *op, struct hws_error *err)
{
    unsigned count = 0;
    while (op->type->steps[count].name)
        count++;
    while (count-- > 0) {
        const struct op_step *step = &op->type->steps[count];
        control_at(op->control, step->name);
        int r = step->undo ? step->undo(op, err) : 0;
        if (r < 0)
            return r;
    }
    return 0;
}

static int end(struct op *op, bool undone, struct hws_error *err)
{
    auto_batch batch = {0};
    control_lock_model(op->control);
    int r = (undone ? op->type->undone : op->type->end)(op, &batch, err);
    batch_raw(&batch, KIND, op->id, NULL, NULL, false);
    if (r == 0)
        r = batch_commit(&batch, op->control, err);
    control_unlock_model(op->control);
    return r;
}

static int forward(struct op *op, struct hws_error *err)
{
    int r = run_steps(op, err);
    return r < 0 ? r : end(op, false, err);
}

static int back(struct op *op, struct hws_error *err)
{
    int r = undo_steps(op, err);
    return r < 0 ? r : end(op, true, err);
}

enum op_direction op_always_back(struct op *op)
{
    return OP_BACK;
}

/* A step has failed with @result: the operation is taken back, completed, or left for later. */
static int settle(struct op *op, int result, struct hws_error *err)
{
    struct hws_error why = {0};
    op->failed = true;
    if (op->type->direction(op) == OP_FORWARD && forward(op, &why) == 0)
        return 0;
    /* What could not be told at first may be known by now. */
    if (op->type->direction(op) == OP_BACK && back(op, &why) == 0)
        return result;
    log_warning("operation %s (%s) on %s is not finished: %s", op->id, op->type->name, op->object,
                why.text);
    return hws_wrap(err, result, "not finished, and tried again later");
}

static void add_intent(struct batch *batch, const struct operation *type, const char *id,
                       const char *object, json_t *params)
{
    batch_raw(batch, KIND, id, object,
              json_pack("{s:s, s:s, s:s, s:o, s:I, s:s*}", "id", id, "operation", type->name,
                        "object", object, "params", params, "created", (json_int_t)time(NULL),
                        "request", *log_context() ? log_context() : NULL),
              true);
}

void journal_add(struct batch *batch, const struct operation *type, const char *object,
                 json_t *params)
{
    char id[ID_BYTES];
    id_make(id);
    add_intent(batch, type, id, object, params);
}

int journal_drop(struct control *control, const char *object, struct batch *batch,
                 struct hws_error *err)
{
    auto_json *intent = NULL;
    int r = control->store->driver->find(control->store, KIND, object, &intent, err);
    if (r == 0)
        batch_raw(batch, KIND, json_string_value(json_object_get(intent, "id")), NULL, NULL, false);
    return r == -ENOENT ? 0 : r;
}

static int run(struct control *control, const struct operation *type, const char *object,
               json_t *params, struct batch *begin, const struct merge_watch *watch,
               json_t **ret_result, struct hws_error *err)
{
    struct op op = {.control = control,
                    .type = type,
                    .params = params,
                    .watch = watch,
                    .result = json_object()};
    id_make(op.id);
    snprintf(op.object, sizeof(op.object), "%s", object);
    add_intent(begin, type, op.id, object, json_incref(params));
    int r = batch_commit(begin, control, err);
    control_unlock_model(control);
    if (r == 0) {
        r = forward(&op, err);
        if (r < 0)
            r = settle(&op, r, err);
    }
    if (r == 0 && ret_result)
        *ret_result = json_incref(op.result);
    json_decref(op.params);
    json_decref(op.result);
    return r;
}

int journal_run(struct control *control, const struct operation *type, const char *object,
                json_t *params, struct batch *begin, json_t **ret_result, struct hws_error *err)
{
    return run(control, type, object, params, begin, NULL, ret_result, err);
}

int journal_run_watched(struct control *control, const struct operation *type, const char *object,
                        json_t *params, struct batch *begin, const struct merge_watch *watch,
                        struct hws_error *err)
{
    return run(control, type, object, params, begin, watch, NULL, err);
}

int journal_check(struct control *control, const char *object, struct hws_error *err)
{
    auto_json *intent = NULL;
    int r = control->store->driver->find(control->store, KIND, object, &intent, err);
    if (r == -ENOENT)
        return 0;
    return r < 0
               ? r
               : hws_fail(err, EBUSY, "an operation on it (%s) is not finished; it is tried again",
                          json_string_value(json_object_get(intent, "operation")));
}

static int load(struct control *control, const json_t *intent, struct op *op)
{
    const char *id = json_string_value(json_object_get(intent, "id"));
    const char *name = json_string_value(json_object_get(intent, "operation"));
    const char *object = json_string_value(json_object_get(intent, "object"));
    *op = (struct op){.control = control};
    for (unsigned i = 0; name && i < ARRAY_LEN(operations); i++)
        if (!strcmp(operations[i]->name, name))
            op->type = operations[i];
    if (!id || !object || !op->type || strlen(id) >= ID_BYTES || strlen(object) >= ID_BYTES)
        return -EINVAL;
    snprintf(op->id, sizeof(op->id), "%s", id);
    snprintf(op->object, sizeof(op->object), "%s", object);
    op->params = json_incref(json_object_get(intent, "params"));
    op->result = json_object();
    return 0;
}

/* Of an operation that may have gone since it was listed. */
static bool is_there(const struct op *op)
{
    auto_json *intent = NULL;
    return op->control->store->driver->get(op->control->store, KIND, op->id, &intent, NULL) == 0;
}

/* @quiet: nothing was interrupted. */
static bool recover_one(struct op *op, bool quiet)
{
    struct hws_error err = {0};
    if (locks_take(&op->control->locks, op->object, 0, NULL) < 0)
        return false; /* somebody works on it */
    bool forwards = op->type->direction(op) == OP_FORWARD;
    bool gone = !is_there(op);
    int r = gone ? 0 : forwards ? forward(op, &err) : back(op, &err);
    op->failed = r < 0;
    if (r < 0 && forwards && op->type->direction(op) == OP_BACK) {
        forwards = false;
        r = back(op, &err);
    }
    locks_release(&op->control->locks, op->object);
    if (!gone && r == 0 && !quiet)
        log_info("operation %s (%s) on %s was %s", op->id, op->type->name, op->object,
                 forwards ? "completed" : "taken back");
    /* What is done in the background is tried often, and its job tells. */
    if (r < 0)
        log_write(op->type->background ? LOG_LEVEL_DEBUG : LOG_LEVEL_WARNING,
                  "operation %s (%s) on %s cannot be finished: %s", op->id, op->type->name,
                  op->object, err.text);
    return r == 0;
}

void journal_finish(struct control *control, const char *object)
{
    auto_json *intent = NULL;
    struct op op;
    if (control->store->driver->find(control->store, KIND, object, &intent, NULL) < 0 ||
        load(control, intent, &op) < 0)
        return;
    recover_one(&op, true);
    json_decref(op.params);
    json_decref(op.result);
}

static int find_work(struct control *control, const struct operation *type, const json_t *put_off,
                     json_t **ret, struct hws_error *err)
{
    struct store_query query = {.kind = KIND};
    auto_json *list = NULL;
    size_t i;
    json_t *intent;
    int r = control->store->driver->list(control->store, &query, &list, err);
    json_array_foreach(list, i, intent)
    {
        const char *name = json_string_value(json_object_get(intent, "operation"));
        const char *id = json_string_value(json_object_get(intent, "id"));
        if (*ret || !name || !id || strcmp(name, type->name) != 0 || json_object_get(put_off, id) ||
            locks_is_held(&control->locks, json_string_value(json_object_get(intent, "object"))))
            continue;
        *ret = json_incref(intent);
    }
    return r;
}

int journal_work(struct control *control, const struct operation *type,
                 const struct merge_watch *watch, json_t *put_off, struct hws_error *err)
{
    auto_json *intent = NULL;
    struct op op;
    int r = find_work(control, type, put_off, &intent, err);
    if (r < 0 || !intent)
        return r;
    r = load(control, intent, &op);
    if (r < 0)
        return hws_fail(err, EUCLEAN, "the journal cannot be read");
    op.watch = watch;
    if (!recover_one(&op, false))
        json_object_set_new(put_off, op.id, json_true());
    json_decref(op.params);
    json_decref(op.result);
    return 1;
}

int journal_mark(struct control *control, const char *id, const char *member, struct hws_error *err)
{
    auto_batch batch = {0};
    json_t *intent = NULL;
    control_lock_model(control);
    int r = control->store->driver->get(control->store, KIND, id, &intent, err);
    if (r == 0) {
        json_object_set_new(json_object_get(intent, "params"), member, json_true());
        batch_raw(&batch, KIND, id, json_string_value(json_object_get(intent, "object")), intent,
                  false);
        r = batch_commit(&batch, control, err);
    }
    control_unlock_model(control);
    return r;
}

bool journal_is_background(const char *name)
{
    for (unsigned i = 0; i < ARRAY_LEN(operations); i++)
        if (!strcmp(operations[i]->name, name))
            return operations[i]->background;
    return false;
}

bool journal_waits(const char *name)
{
    for (unsigned i = 0; i < ARRAY_LEN(operations); i++)
        if (!strcmp(operations[i]->name, name))
            return operations[i]->background || operations[i]->follows;
    return false;
}

void journal_background(struct control *control, const char *object, char id[ID_BYTES])
{
    auto_json *intent = NULL;
    struct op op;
    id[0] = '\0';
    if (control->store->driver->find(control->store, KIND, object, &intent, NULL) < 0 ||
        load(control, intent, &op) < 0)
        return;
    if (op.type->background)
        snprintf(id, ID_BYTES, "%s", op.id);
    json_decref(op.params);
    json_decref(op.result);
}

/* @ret_done how many are finished now. */
static unsigned recover_listed(struct control *control, unsigned *ret_done)
{
    struct store_query query = {.kind = KIND};
    struct hws_error err = {0};
    auto_json *list = NULL;
    unsigned left = 0;
    size_t i;
    json_t *intent;
    *ret_done = 0;
    if (control->store->driver->list(control->store, &query, &list, &err) < 0) {
        log_error("the journal cannot be read: %s", err.text);
        return 1;
    }
    json_array_foreach(list, i, intent)
    {
        struct op op;
        if (load(control, intent, &op) < 0) {
            log_error("the journal holds what this program does not know; run a newer one");
            left++;
            continue;
        }
        bool done = !op.type->follows && !op.type->background && recover_one(&op, false);
        left += !done;
        *ret_done += done;
        json_decref(op.params);
        json_decref(op.result);
    }
    return left;
}

unsigned journal_recover(struct control *control)
{
    unsigned done, left;
    do {
        left = recover_listed(control, &done);
    } while (done > 0); /* the end of one may have added another */
    return left;
}
