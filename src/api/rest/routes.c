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

CALL(pool_change)
{
    return control_pool_change(c->control, c->argument[0], c->body, ret, err);
}

CALL(pool_take)
{
    return control_pool_take(c->control, c->argument[0], c->body, ret, err);
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

CALL(class_change)
{
    return control_class_change(c->control, c->argument[0], c->body, ret, err);
}

CALL(class_delete)
{
    return control_class_delete(c->control, c->argument[0], err);
}

CALL(volume_list)
{
    autofree char *text = NULL;
    int r = control_volume_list_text(c->control, &c->page, &text, err);
    *ret = r == 0 ? json_string_nocheck(text) : NULL;
    return r == 0 && !*ret ? hws_fail(err, ENOMEM, "out of memory") : r;
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

/* A deletion has no body: what it takes stands in the query. */
CALL(volume_delete)
{
    const char *purge = http_query(c->request, "purge");
    json_t *body = json_pack("{s:b, s:I}", "purge", purge && !strcmp(purge, "true"),
                             "trash-retention", (json_int_t)rest_number(c, "trash-retention", 0));
    int r = control_volume_discard(c->control, c->argument[0], body, err);
    json_decref(body);
    return r;
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

CALL(health)
{
    json_t *counts = NULL;
    int r = control_counts(c->control, &counts, err);
    if (r == 0)
        *ret = json_pack("{s:s, s:s, s:o}", "status", "ok", "version", HAWSER_VERSION, "objects",
                         counts);
    return r;
}

CALL(node_show)
{
    return control_node_show(c->control, ret, err);
}

CALL(node_upgrade)
{
    return control_node_upgrade(c->control, c->body, ret, err);
}

CALL(metrics)
{
    autofree char *text = NULL;
    int r = rest_metrics(c->control, &text, err);
    if (r == 0)
        *ret = json_string(text);
    return r;
}

CALL(doctor_look)
{
    const char *deep = http_query(c->request, "deep");
    auto_json *request = json_pack("{s:b}", "deep", deep && !strcmp(deep, "true"));
    return control_doctor(c->control, request, ret, err);
}

CALL(doctor_repair)
{
    return control_doctor(c->control, c->body, ret, err);
}

CALL(openapi)
{
    return rest_openapi(ret, err);
}

CALL(secret_list)
{
    return control_secret_list(c->control, &c->page, ret, err);
}

CALL(secret_create)
{
    return control_secret_create(c->control, c->body, ret, err);
}

CALL(secret_rotate)
{
    return control_secret_rotate(c->control, ret, err);
}

CALL(secret_show)
{
    return control_secret_show(c->control, c->argument[0], ret, err);
}

CALL(secret_change)
{
    return control_secret_change(c->control, c->argument[0], c->body, ret, err);
}

CALL(secret_delete)
{
    return control_secret_delete(c->control, c->argument[0], err);
}

CALL(export_list)
{
    return control_export_list(c->control, &c->page, ret, err);
}

CALL(export_create)
{
    return control_export_create(c->control, c->body, ret, err);
}

CALL(export_show)
{
    return control_export_show(c->control, c->argument[0], ret, err);
}

CALL(export_delete)
{
    const char *force = http_query(c->request, "force");
    return control_export_delete(c->control, c->argument[0], force && !strcmp(force, "true"), err);
}

const struct rest_query rest_query_page[] = {
    {"limit", "so many items at most; 100 if not given", .min = 1, .max = CONTROL_PAGE_MAX},
    {"after", "items behind this one, the \"next\" of the page before"},
    REST_QUERY_WATCH,
    {NULL},
};

const struct rest_query rest_query_watch[] = {REST_QUERY_WATCH, {NULL}};

static const char *const stream_kinds[] = {"lines", NULL};

static const struct rest_query event_query[] = {
    {"after", "events behind this one; where it is not given, the number of the last is answered",
     .min = 0, .max = INT64_MAX},
    {"limit", "so many at most; 100 if not given", .min = 1, .max = CONTROL_PAGE_MAX},
    {"wait", "seconds to wait for an event where there is none; 0 if not given", .min = 0,
     .max = REST_WAIT_MAX},
    {"stream", "an answer without an end: an event a line, empty lines to tell that it lives",
     .choices = stream_kinds},
    {NULL},
};

static const char *const truths[] = {"true", "false", NULL};

static const struct rest_query export_delete_query[] = {
    {"force", "also while it has clients", .choices = truths},
    {NULL},
};

CALL(trash_list)
{
    return control_trash_list(c->control, &c->page, ret, err);
}

CALL(trash_restore)
{
    return control_trash_restore(c->control, c->argument[0], c->body, ret, err);
}

CALL(trash_delete)
{
    return control_trash_delete(c->control, c->argument[0], err);
}

CALL(group_list)
{
    return control_group_list(c->control, &c->page, ret, err);
}

CALL(group_create)
{
    return control_group_create(c->control, c->body, ret, err);
}

CALL(group_show)
{
    return control_group_show(c->control, c->argument[0], ret, err);
}

CALL(group_change)
{
    return control_group_change(c->control, c->argument[0], c->body, ret, err);
}

CALL(group_delete)
{
    return control_group_delete(c->control, c->argument[0], err);
}

CALL(group_revert)
{
    return control_group_revert(c->control, c->argument[0], c->body, ret, err);
}

CALL(group_snapshot_list)
{
    return control_group_snapshot_list(c->control, c->argument[0], &c->page, ret, err);
}

CALL(group_snapshot_create)
{
    return control_group_snapshot_create(c->control, c->argument[0], c->body, ret, err);
}

CALL(group_snapshot_show)
{
    return control_group_snapshot_show(c->control, c->argument[0], c->argument[1], ret, err);
}

CALL(group_snapshot_delete)
{
    return control_group_snapshot_delete(c->control, c->argument[0], c->argument[1], err);
}

CALL(schedule_list)
{
    return control_schedule_list(c->control, &c->page, ret, err);
}

CALL(schedule_create)
{
    return control_schedule_create(c->control, c->body, ret, err);
}

CALL(schedule_show)
{
    return control_schedule_show(c->control, c->argument[0], ret, err);
}

CALL(schedule_change)
{
    return control_schedule_change(c->control, c->argument[0], c->body, ret, err);
}

CALL(schedule_delete)
{
    return control_schedule_delete(c->control, c->argument[0], err);
}

static const char *const yes_or_no[] = {"true", "false", NULL};

static const struct rest_query delete_query[] = {
    {"purge", "true: at once, past the trash", .choices = yes_or_no},
    {"trash-retention", "seconds in the trash, whatever class and pool say", .min = 1,
     .max = TRASH_RETENTION_MAX_S},
    {NULL},
};

static const char *const job_states[] = {"running", "ended", NULL};

static const struct rest_query job_query[] = {
    {"state", "running if not given", .choices = job_states},
    {"limit", "so many of the ended at most; 100 if not given", .min = 1, .max = CONTROL_PAGE_MAX},
    {"after", "the ended behind this one, the \"next\" of the page before"},
    REST_QUERY_WATCH,
    {NULL},
};

static const struct rest_query doctor_query[] = {
    {"deep", "images are looked into, too: their sizes, and what they lie on", .choices = truths},
    {NULL},
};

/* What a call takes and answers. */
#define NO_BODY             NULL, NULL
#define SHOWS(schema)       NULL, schema, .query = rest_query_watch
#define ANSWERS(schema)     NULL, schema
#define LISTS(schema)       NULL, schema, .list = true, .query = rest_query_page
#define TAKES(body, schema) request_##body, schema

const struct rest_route rest_routes[] = {
    {"GET", "/v1/pools", 200, pool_list, "Pools.", LISTS("Pool")},
    {"POST", "/v1/pools", 201, pool_create, "Makes a pool of a folder.", TAKES(pool_create, "Pool"),
     .role = ROLE_ADMIN},
    {"GET", "/v1/pools/*", 200, pool_show, "A pool.", SHOWS("Pool")},
    {"PATCH", "/v1/pools/*", 200, pool_change, "Changes what is given.", TAKES(pool_change, "Pool"),
     .role = ROLE_ADMIN},
    {"POST", "/v1/pools/*/take", 200, pool_take,
     "Takes a shared pool for this host that another one used.", TAKES(pool_take, "Pool"),
     .role = ROLE_ADMIN},
    {"DELETE", "/v1/pools/*", 204, pool_delete, "Gives up a pool that has no volumes.", NO_BODY,
     .role = ROLE_ADMIN},
    {"GET", "/v1/classes", 200, class_list, "Classes.", LISTS("Class")},
    {"POST", "/v1/classes", 201, class_create, "Makes a class.", TAKES(class_create, "Class"),
     .role = ROLE_ADMIN},
    {"GET", "/v1/classes/*", 200, class_show, "A class.", SHOWS("Class")},
    {"PATCH", "/v1/classes/*", 200, class_change, "Changes what is given.",
     TAKES(class_change, "Class"), .role = ROLE_ADMIN},
    {"DELETE", "/v1/classes/*", 204, class_delete, "Deletes a class.", NO_BODY, .role = ROLE_ADMIN},
    {"GET", "/v1/volumes", 200, volume_list, "Volumes.", LISTS("Volume")},
    {"POST", "/v1/volumes", 201, volume_create,
     "Makes a volume: an empty one, of an image, or as a clone.", TAKES(volume_create, "Volume")},
    {"GET", "/v1/volumes/*", 200, volume_show, "A volume.", SHOWS("Volume")},
    {"PATCH", "/v1/volumes/*", 200, volume_change, "Changes what is given.",
     TAKES(volume_change, "Volume")},
    {"DELETE", "/v1/volumes/*", 204, volume_delete,
     "Deletes a volume that is not in use and has no snapshots; or to the trash, with them.",
     NO_BODY, .query = delete_query},
    {"POST", "/v1/volumes/*/attach", 200, volume_attach,
     "Attaches and mounts it; with one more user where it is attached.",
     TAKES(volume_attach, "Attachment")},
    {"POST", "/v1/volumes/*/detach", 204, volume_detach,
     "One user less; with the last, or by force, it is detached.", TAKES(volume_detach, NULL)},
    {"POST", "/v1/volumes/*/resize", 200, volume_resize, "Makes it larger, in use or not.",
     TAKES(volume_resize, "Volume")},
    {"POST", "/v1/volumes/*/revert", 200, volume_revert,
     "Back to a snapshot; not while it is attached.", TAKES(volume_revert, "Volume")},
    {"GET", "/v1/volumes/*/snapshots", 200, snapshot_list, "A volume's snapshots.",
     LISTS("Snapshot")},
    {"POST", "/v1/volumes/*/snapshots", 201, snapshot_create, "Takes a snapshot, in use or not.",
     TAKES(snapshot_create, "Snapshot")},
    {"GET", "/v1/volumes/*/snapshots/*", 200, snapshot_show, "A snapshot.", SHOWS("Snapshot")},
    {"DELETE", "/v1/volumes/*/snapshots/*", 204, snapshot_delete, "Deletes a snapshot.", NO_BODY},
    {"GET", "/v1/trash", 200, trash_list, "Deleted volumes that are kept for a while.",
     LISTS("Trash")},
    {"POST", "/v1/trash/*/restore", 200, trash_restore, "Back from the trash.",
     TAKES(trash_restore, "Volume")},
    {"DELETE", "/v1/trash/*", 204, trash_delete, "Deletes for good.", NO_BODY},
    {"GET", "/v1/groups", 200, group_list, "Groups of volumes.", LISTS("Group")},
    {"POST", "/v1/groups", 201, group_create, "Makes a group.", TAKES(group_create, "Group")},
    {"GET", "/v1/groups/*", 200, group_show, "A group.", SHOWS("Group")},
    {"PATCH", "/v1/groups/*", 200, group_change, "Changes what is given.",
     TAKES(group_change, "Group")},
    {"DELETE", "/v1/groups/*", 204, group_delete, "Deletes a group that has no snapshots.",
     NO_BODY},
    {"POST", "/v1/groups/*/revert", 200, group_revert,
     "All its volumes back to a snapshot; none of them attached.", TAKES(group_revert, "Group")},
    {"GET", "/v1/groups/*/snapshots", 200, group_snapshot_list, "A group's snapshots.",
     LISTS("GroupSnapshot")},
    {"POST", "/v1/groups/*/snapshots", 201, group_snapshot_create,
     "Takes a snapshot of all its volumes at one moment.", TAKES(group_snapshot, "GroupSnapshot")},
    {"GET", "/v1/groups/*/snapshots/*", 200, group_snapshot_show, "A group's snapshot.",
     SHOWS("GroupSnapshot")},
    {"DELETE", "/v1/groups/*/snapshots/*", 204, group_snapshot_delete,
     "Deletes a snapshot of all volumes that it is of.", NO_BODY},
    {"GET", "/v1/schedules", 200, schedule_list, "Schedules of snapshots.", LISTS("Schedule")},
    {"POST", "/v1/schedules", 201, schedule_create, "Makes a schedule.",
     TAKES(schedule_create, "Schedule")},
    {"GET", "/v1/schedules/*", 200, schedule_show, "A schedule.", SHOWS("Schedule")},
    {"PATCH", "/v1/schedules/*", 200, schedule_change, "Changes what is given.",
     TAKES(schedule_change, "Schedule")},
    {"DELETE", "/v1/schedules/*", 204, schedule_delete, "Deletes it; its snapshots stay.", NO_BODY},
    {"GET", "/v1/attachments", 200, attachment_list, "What is in use on this host.",
     LISTS("Attachment")},
    {"GET", "/v1/jobs", 200, job_list, "Operations that are under way, or merges that have ended.",
     ANSWERS("Job"), .list = true, .query = job_query},
    {"GET", "/v1/jobs/*", 200, job_show, "A job.", SHOWS("Job")},
    {"POST", "/v1/jobs/*/cancel", 200, job_cancel, "Stops a merge.", ANSWERS("Job")},
    {"GET", "/v1/events", 200, rest_events, "What has happened to objects.", ANSWERS("Events"),
     .query = event_query},
    {"GET", "/v1/secrets", 200, secret_list, "Secrets, without their values.", LISTS("Secret"),
     .role = ROLE_OPERATOR},
    {"POST", "/v1/secrets", 201, secret_create, "Keeps a secret, or makes up a random one.",
     TAKES(secret_create, "Secret"), .role = ROLE_ADMIN},
    {"POST", "/v1/secrets/rotate", 200, secret_rotate, "Seals all secrets by a new master key.",
     ANSWERS("Rotation"), .role = ROLE_ADMIN},
    {"GET", "/v1/secrets/*", 200, secret_show, "A secret, without its value.", SHOWS("Secret"),
     .role = ROLE_OPERATOR},
    {"PATCH", "/v1/secrets/*", 200, secret_change,
     "Gives it another value; exports that use it begin anew with it.",
     TAKES(secret_change, "Secret"), .role = ROLE_ADMIN},
    {"DELETE", "/v1/secrets/*", 204, secret_delete, "Forgets a secret that nothing uses.", NO_BODY,
     .role = ROLE_ADMIN},
    {"GET", "/v1/exports", 200, export_list, "What is served over networks.", LISTS("Export")},
    {"POST", "/v1/exports", 201, export_create, "Serves a volume or a snapshot over NBD.",
     TAKES(export_create, "Export")},
    {"GET", "/v1/exports/*", 200, export_show, "An export.", SHOWS("Export")},
    {"DELETE", "/v1/exports/*", 204, export_delete, "Ends an export.", NO_BODY,
     .query = export_delete_query},
    {"GET", "/v1/doctor", 200, doctor_look,
     "What of files, engines, mounts and operations differs from the catalog.", ANSWERS("Finding"),
     .list = true, .query = doctor_query},
    {"POST", "/v1/doctor", 200, doctor_repair, "The same, and repairs what is named.",
     TAKES(doctor, "Finding"), .list = true, .role = ROLE_ADMIN},
    {"GET", "/v1/openapi.json", 200, openapi, "This document.", ANSWERS("OpenAPI")},
    {"GET", "/v1/node", 200, node_show, "This host and its engines.", ANSWERS("Node")},
    {"POST", "/v1/node/upgrade", 200, node_upgrade,
     "Puts a new program in the place of all engines, one after another.",
     TAKES(node_upgrade, "Upgrade"), .list = true, .role = ROLE_ADMIN},
    {"GET", "/healthz", 200, health, "Whether hawserd answers.", ANSWERS("Health")},
    {"GET", "/metrics", 200, metrics, "What Prometheus scrapes.", ANSWERS("Metrics"),
     .type = "text/plain; version=0.0.4"},
    {NULL},
};
