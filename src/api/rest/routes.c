/*
 * The calls of the REST API, one row each.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "api/rest/internal.h"

#define CALL(name) static int name(const struct rest_call *c, json_t **ret, struct hws_error *err)

CALL(pool_list)
{
    return control_pool_list(c->control, &c->page, ret, err);
}

CALL(pool_create)
{
    return control_pool_create(c->control, c->body, ret, err);
}

CALL(pool_show)
{
    return control_pool_show(c->control, c->argument[0], ret, err);
}

CALL(pool_delete)
{
    return control_pool_delete(c->control, c->argument[0], err);
}

CALL(class_list)
{
    return control_class_list(c->control, &c->page, ret, err);
}

CALL(class_create)
{
    return control_class_create(c->control, c->body, ret, err);
}

CALL(class_show)
{
    return control_class_show(c->control, c->argument[0], ret, err);
}

CALL(class_delete)
{
    return control_class_delete(c->control, c->argument[0], err);
}

CALL(volume_list)
{
    return control_volume_list(c->control, &c->page, ret, err);
}

CALL(volume_create)
{
    return control_volume_create(c->control, c->body, ret, err);
}

CALL(volume_show)
{
    return control_volume_show(c->control, c->argument[0], ret, err);
}

CALL(volume_change)
{
    return control_volume_change(c->control, c->argument[0], c->body, ret, err);
}

CALL(volume_delete)
{
    return control_volume_delete(c->control, c->argument[0], err);
}

CALL(volume_attach)
{
    return control_volume_attach(c->control, c->argument[0], c->body, ret, err);
}

CALL(volume_detach)
{
    return control_volume_detach(c->control, c->argument[0], c->body, err);
}

CALL(volume_resize)
{
    return control_volume_resize(c->control, c->argument[0], c->body, ret, err);
}

CALL(volume_revert)
{
    return control_volume_revert(c->control, c->argument[0], c->body, ret, err);
}

CALL(snapshot_list)
{
    return control_snapshot_list(c->control, c->argument[0], &c->page, ret, err);
}

CALL(snapshot_create)
{
    return control_snapshot_create(c->control, c->argument[0], c->body, ret, err);
}

CALL(snapshot_show)
{
    return control_snapshot_show(c->control, c->argument[0], c->argument[1], ret, err);
}

CALL(snapshot_delete)
{
    return control_snapshot_delete(c->control, c->argument[0], c->argument[1], err);
}

CALL(attachment_list)
{
    return control_attachment_list(c->control, &c->page, ret, err);
}

CALL(job_list)
{
    const char *state = http_query(c->request, "state");
    if (!state || !strcmp(state, "running"))
        return control_job_list(c->control, ret, err);
    return strcmp(state, "ended") ? hws_fail(err, EINVAL, "state can be running or ended")
                                  : control_job_history(c->control, &c->page, ret, err);
}

CALL(job_show)
{
    return control_job_show(c->control, c->argument[0], ret, err);
}

CALL(job_cancel)
{
    return control_job_cancel(c->control, c->argument[0], ret, err);
}

const struct rest_route rest_routes[] = {
    {"GET", "/v1/pools", 200, pool_list},
    {"POST", "/v1/pools", 201, pool_create},
    {"GET", "/v1/pools/*", 200, pool_show},
    {"DELETE", "/v1/pools/*", 204, pool_delete},
    {"GET", "/v1/classes", 200, class_list},
    {"POST", "/v1/classes", 201, class_create},
    {"GET", "/v1/classes/*", 200, class_show},
    {"DELETE", "/v1/classes/*", 204, class_delete},
    {"GET", "/v1/volumes", 200, volume_list},
    {"POST", "/v1/volumes", 201, volume_create},
    {"GET", "/v1/volumes/*", 200, volume_show},
    {"PATCH", "/v1/volumes/*", 200, volume_change},
    {"DELETE", "/v1/volumes/*", 204, volume_delete},
    {"POST", "/v1/volumes/*/attach", 200, volume_attach},
    {"POST", "/v1/volumes/*/detach", 204, volume_detach},
    {"POST", "/v1/volumes/*/resize", 200, volume_resize},
    {"POST", "/v1/volumes/*/revert", 200, volume_revert},
    {"GET", "/v1/volumes/*/snapshots", 200, snapshot_list},
    {"POST", "/v1/volumes/*/snapshots", 201, snapshot_create},
    {"GET", "/v1/volumes/*/snapshots/*", 200, snapshot_show},
    {"DELETE", "/v1/volumes/*/snapshots/*", 204, snapshot_delete},
    {"GET", "/v1/attachments", 200, attachment_list},
    {"GET", "/v1/jobs", 200, job_list},
    {"GET", "/v1/jobs/*", 200, job_show},
    {"POST", "/v1/jobs/*/cancel", 200, job_cancel},
    {NULL},
};
