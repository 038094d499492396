/*
 * What answers look like: the objects' own tables, and the members that calls add to them.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "api/rest/internal.h"

static const struct rest_member pool_more[] = {
    {"state", "string", "available, not held (shared, and not used by this host) or away"},
    {"lease", "string", "why it is not held"},
    {"volumes", "integer", "how many it has"},
    {"provisioned", "integer", "bytes of its volumes' sizes"},
    {"free", "integer", "bytes that are left"},
    {NULL},
};

static const struct rest_member volume_more[] = {
    {"snapshots", "integer", "how many it has"},
    {"attachment", "Attachment", "absent where it is not in use"},
    {"job", "string", "id of the job that imports it"},
    {NULL},
};

static const struct rest_member trash_more[] = {
    {"snapshots", "integer", "how many it has"},
    {"remaining", "integer", "seconds of its time that are left"},
    {NULL},
};

static const struct rest_member group_more[] = {
    {"members", "array", "names of its volumes"},
    {"snapshots", "integer", "how many it has"},
    {NULL},
};

static const struct rest_member secret_members[] = {
    {"id", "string", "UUID"},
    {"name", "string", "unique name"},
    {"kind", "string", "psk, chap or x509"},
    {"version", "integer", "grows with every new value"},
    {"value", "string", "where it was generated just now, and never again"},
    {"created", "integer", "seconds since 1970"},
    {"generation", "integer", "grows with every change"},
    {NULL},
};

static const struct rest_member rotation_members[] = {
    {"secrets", "integer", "how many are sealed by the new master key"},
    {NULL},
};

static const struct rest_member export_more[] = {
    {"serving", "boolean", "clients reach it now"},
    {"error", "string", "why they do not"},
    {"secret-name", "string", "of its secret; who comes with one pre-shared key has this name"},
    {NULL},
};

static const struct rest_member job_members[] = {
    {"id", "string", "UUID"},
    {"operation", "string", "what it does"},
    {"object", "string", "id of what it works on"},
    {"state", "string", "running, concluded, failed or cancelled"},
    {"error", "string", "why it failed"},
    {"done", "integer", "bytes"},
    {"total", "integer", "bytes"},
    {"created", "integer", "seconds since 1970"},
    {"ended", "integer", "seconds since 1970"},
    {"request", "string", "id of the request that began it, while it is under way"},
    {NULL},
};

static const struct rest_member finding_members[] = {
    {"code", "string", "of its kind"},
    {"object", "string", "id of what it is about"},
    {"path", "string", "of a file, where it is about one"},
    {"text", "string", "what was found"},
    {"repair", "string", "what repairing does; absent where that is for a person to decide"},
    {"outcome", "string", "repaired, failed, or would be repaired; absent where nothing was tried"},
    {"error", "string", "why it failed"},
    {NULL},
};

static const struct rest_member engine_members[] = {
    {"volume", "string", "id of the volume that it serves"},
    {"pid", "integer", "its process"},
    {"version", "string", "of its program"},
    {"via", "string", "the way of its device"},
    {"sandbox", "boolean", "whether it has given up what it does not need"},
    {"cgroup", "string", "the folder of its control group; absent where it has none of its own"},
    {NULL},
};

static const struct rest_member node_members[] = {
    {"host", "string", "its name"},
    {"version", "string", "of hawserd"},
    {"kernel", "string", "its version"},
    {"machine", "string", "the kind of its processors"},
    {"boot", "string", "id of this boot"},
    {"features", "object", "what its kernel has that engines can use; of landlock, the version"},
    {"cgroup", "object",
     "where engines have control groups: folder, and controllers of groups there; or the reason "
     "why "
     "they have none"},
    {"engines", "[Engine]", "of the volumes in use"},
    {NULL},
};

static const struct rest_member upgrade_members[] = {
    {"volume", "string", "id of the volume"},
    {"name", "string", "its name"},
    {"outcome", "string", "replaced or refused"},
    {"pause-ns", "integer", "how long its commands waited"},
    {"error", "string", "why it was refused: the engine goes on as it was"},
    {NULL},
};

static const struct rest_member health_members[] = {
    {"status", "string", "ok"},
    {"version", "string", "of the program"},
    {"objects", "object", "how many of each kind"},
    {NULL},
};

static const struct rest_member event_members[] = {
    {"sequence", "integer", "its number; later ones are larger"},
    {"time", "integer", "seconds since 1970"},
    {"kind", "string", "of the object: volume, snapshot, job, ..."},
    {"event", "string", "created, changed or removed; of a job, begun or ended"},
    {"id", "string", "of the object; of an attachment, its volume's"},
    {"name", "string", "of the object; of a job, what it does"},
    {"owner", "string", "id of what it belongs to"},
    {"generation", "integer", "of the object after it"},
    {"request", "string", "id of the request that did it"},
    {NULL},
};

static const struct rest_member events_members[] = {
    {"items", "[Event]", "the oldest first"},
    {"next", "integer", "\"after\" of the next call"},
    {"gap", "boolean", "true: there may have been more, that are lost; look at the objects"},
    {NULL},
};

const struct rest_schema rest_schemas[] = {
    {"Pool", "A folder of images.", &pool_type, pool_more},
    {"Class", "A policy that volumes are made by.", &class_type, NULL},
    {"Volume", "A disk.", &volume_type, volume_more},
    {"Snapshot", "A state of a volume.", &snapshot_type, NULL},
    {"Trash", "A deleted volume that is kept for a while.", &trash_type, trash_more},
    {"Group", "Volumes whose snapshots are taken at one moment.", &group_type, group_more},
    {"GroupSnapshot", "A state of a group's volumes.", &group_snapshot_type, NULL},
    {"Schedule", "When snapshots are taken, and which stay.", &schedule_type, NULL},
    {"Attachment", "A volume in use on this host.", &attachment_type, NULL},
    {"Job", "An operation that is under way, or a merge that has ended.", NULL, job_members},
    {"Event", "A change of an object.", NULL, event_members},
    {"Events", "Changes.", NULL, events_members},
    {"Secret", "Credentials, whose value is not told.", NULL, secret_members},
    {"Rotation", "A new master key.", NULL, rotation_members},
    {"Export", "A volume or snapshot that is served over a network.", &export_type, export_more},
    {"Finding", "What differs from the catalog.", NULL, finding_members},
    {"Node", "This host.", NULL, node_members},
    {"Engine", "A process that serves a volume.", NULL, engine_members},
    {"Upgrade", "What became of replacing an engine.", NULL, upgrade_members},
    {"Health", "That hawserd answers, and its catalog.", NULL, health_members},
    {"Metrics", "Prometheus' text format, version 0.0.4.", NULL, NULL},
    {"OpenAPI", "This document.", NULL, NULL},
    {NULL},
};
