/*
 * `hawser snapshot create|list|show|delete|revert`: snapshots of volumes, by way of hawserd. Those
 * of images are cmd_snapshot.c.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cli/snapshot.h"

struct snapshot_options {
    struct control_command control;
    struct cli_list labels;
};

const struct control_column cli_snapshot_columns[] = {
    {"VOLUME", "volume", CONTROL_REF, "/v1/volumes/"},
    {"NAME", "name"},
    {"STATE", "state"},
    {"SIZE", "size", CONTROL_SIZE},
    {"CREATED", "created", CONTROL_TIME},
    {"LABELS", "labels", CONTROL_LABELS},
    {NULL},
};

static const struct control_column fields[] = {
    {"name", "name"},
    {"id", "id"},
    {"volume", "volume", CONTROL_REF, "/v1/volumes/"},
    {"state", "state"},
    {"size", "size", CONTROL_SIZE},
    {"labels", "labels", CONTROL_LABELS},
    {"created", "created", CONTROL_TIME},
    {NULL},
};

/* Those of one volume, or of each that has any. */
static int all(const struct control_run *run, json_t **ret, struct hws_error *err)
{
    json_t *volumes = NULL, *volume, *list = json_array();
    char path[CONTROL_PATH_BYTES];
    size_t i;
    int r = control_list(run->control, "/v1/volumes", &volumes, err);
    json_array_foreach(volumes, i, volume)
    {
        const char *id = json_string_value(json_object_get(volume, "id"));
        json_t *some = NULL;
        if (!id || !json_integer_value(json_object_get(volume, "snapshots")))
            continue;
        snprintf(path, sizeof(path), "/v1/volumes/%.60s/snapshots", id);
        r = control_list(run->control, path, &some, err);
        if (r == -ENOENT) /* deleted meanwhile */
            r = 0;
        else if (r < 0)
            break;
        json_array_extend(list, some);
        json_decref(some);
    }
    json_decref(volumes);
    if (r < 0)
        json_decref(list);
    else
        *ret = list;
    return r;
}

static int list(const struct control_run *run, struct hws_error *err)
{
    json_t *items;
    if (run->count)
        return control_request(run, NULL, err);
    int r = all(run, &items, err);
    if (r == 0)
        control_print_list(run->control, items, cli_snapshot_columns);
    return r;
}

static const struct cli_verb verbs[] = {
    {"create", "VOLUME@NAME", "take a snapshot, of a volume in use too", "POST",
     "/v1/volumes/%/snapshots", "name", fields},
    {"list", "[VOLUME]", "show the snapshots of one volume, or of all", "GET",
     "/v1/volumes/%/snapshots", NULL, cli_snapshot_columns, true, .run = list},
    {"show", "VOLUME@SNAPSHOT", "show all of one", "GET", "/v1/volumes/%/snapshots/%", NULL,
     fields},
    {"delete", "VOLUME@SNAPSHOT...", "give up that state; what others need of it is kept", "DELETE",
     "/v1/volumes/%/snapshots/%"},
    {"revert", "VOLUME@SNAPSHOT",
     "make the volume what it was then; what was written since is given up", "POST",
     "/v1/volumes/%/revert", "snapshot"},
    {NULL},
};

static const struct cli_option table[] = {
    CLI_LABEL_OPTION(struct snapshot_options, labels, "create"),
    CLI_CONTROL_OPTIONS(struct snapshot_options),
    {NULL},
};

const struct cli_command cli_volume_snapshot_command = {
    .name = "snapshot",
    .summary = "Take snapshots of volumes, and go back to them",
    .description =
        "Where the first word is one of these actions, it is about volumes that hawserd keeps. A "
        "snapshot of a volume in use takes milliseconds. 'revert' needs the volume detached; all "
        "its snapshots stay. The data of a deleted snapshot that nothing needs any more is given "
        "back in the background: 'hawser job list' shows it.",
    .examples = {{"as it is now", "hawser snapshot create data@monday"},
                 {"back to that",
                  "hawser volume detach data && hawser snapshot revert data@monday"},
                 {"a volume of its own", "hawser volume create --from=data@monday test"}},
    .options = table,
    .options_bytes = sizeof(struct snapshot_options),
    .verbs = verbs,
};
