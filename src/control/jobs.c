/*
 * Jobs: operations that are under way, which are the intents of the journal, and work in the
 * background that has ended, of which the catalog keeps the last.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "control/internal.h"

#define INTENT "intent"

/* ---- what has ended ---- */

static void drop_oldest(struct control *control, struct batch *batch)
{
    struct store_query query = {.kind = job_type.kind, .limit = 1};
    auto_json *list = NULL;
    unsigned count = 0;
    if (control->store->driver->count(control->store, job_type.kind, NULL, &count, NULL) < 0 ||
        count < JOBS_KEPT || control->store->driver->list(control->store, &query, &list, NULL) < 0)
        return;
    const char *id = json_string_value(json_object_get(json_array_get(list, 0), "id"));
    if (id)
        batch_remove(batch, &job_type, id);
}

int job_note(struct op *op, const char *state, struct batch *batch, struct hws_error *err)
{
    const json_t *result = op->result;
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    auto_job job = {
        .done_bytes = (uint64_t)json_integer_value(json_object_get(result, "done")),
        .total_bytes = (uint64_t)json_integer_value(json_object_get(result, "total")),
        .created = op_number(op, "started"),
        .ended = (uint64_t)now.tv_sec,
    };
    if (asprintf(&job.key, "%012llx.%09ld", (unsigned long long)job.ended, now.tv_nsec) < 0)
        job.key = NULL;
    if (!job.key || record_set_text(&job.id, op->id) < 0 ||
        record_set_text(&job.operation, op->type->name) < 0 ||
        record_set_text(&job.object, op->object) < 0 || record_set_text(&job.state, state) < 0 ||
        (!strcmp(state, "failed") &&
         record_set_text(&job.error, json_string_value(json_object_get(result, "error"))) < 0))
        return hws_fail(err, ENOMEM, "out of memory");
    drop_oldest(op->control, batch);
    batch_put(batch, &job_type, &job);
    return 0;
}

int control_job_history(struct control *control, const struct control_page *page, json_t **ret,
                        struct hws_error *err)
{
    return control_page(control, &job_type, NULL, page, "", NULL, ret, err);
}

/* ---- what is under way ---- */

static void describe(struct control *control, json_t *intent)
{
    json_object_del(intent, "params");
    merger_describe(control, intent);
    importer_describe(control, intent);
}

int control_job_list(struct control *control, json_t **ret, struct hws_error *err)
{
    struct store_query query = {.kind = INTENT};
    json_t *list = NULL, *intent;
    size_t i;
    int r = control->store->driver->list(control->store, &query, &list, err);
    if (r < 0)
        return r;
    json_array_foreach(list, i, intent) describe(control, intent);
    *ret = json_pack("{s:o}", "items", list);
    return 0;
}

int control_job_show(struct control *control, const char *id, json_t **ret, struct hws_error *err)
{
    auto_job job = {0};
    int r = control->store->driver->get(control->store, INTENT, id, ret, err);
    if (r == 0)
        describe(control, *ret);
    if (r != -ENOENT)
        return r;
    r = object_get(control, &job_type, id, &job, err);
    if (r == 0)
        *ret = record_json(job_type.fields, &job);
    return r;
}

int control_job_cancel(struct control *control, const char *id, json_t **ret, struct hws_error *err)
{
    auto_json *job = NULL;
    int r = control_job_show(control, id, &job, err);
    if (r < 0)
        return r;
    const char *operation = json_string_value(json_object_get(job, "operation"));
    const char *object = json_string_value(json_object_get(job, "object"));
    if (json_object_get(job, "ended"))
        return hws_fail(err, EINVAL, "the job has ended");
    bool import = operation && !strcmp(operation, volume_import_operation.name);
    if (!operation || !object || (!import && strcmp(operation, merge_operation.name) != 0))
        return hws_fail(err, EINVAL, "operations of this kind (%s) are not cancelled",
                        operation ? operation : "?");
    r = import ? import_cancel(control, id, err) : merger_cancel(control, object, err);
    if (r == 0)
        *ret = json_incref(job);
    return r;
}
