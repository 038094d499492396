/*
 * `hawser volume`: volumes and their snapshots, by way of hawserd.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/size.h"
#include "cli/control.h"
#include <limits.h>

struct volume_options {
    struct control_command control;
    uint64_t size, cluster_size;
    const char *pool, *class, *format, *fs, *from, *user;
    struct cli_list labels;
    bool protect, device, read_only, force;
};

static const struct control_column columns[] = {
    {"NAME", "name"},
    {"STATE", "state"},
    {"SIZE", "size", CONTROL_SIZE},
    {"FS", "fs"},
    {"SNAPSHOTS", "snapshots", CONTROL_NUMBER},
    {"USERS", "attachment.users", CONTROL_NUMBER},
    {"DEVICE", "attachment.device"},
    {"MOUNTED AT", "attachment.mountpoint"},
    {NULL},
};

static const struct control_column fields[] = {
    {"name", "name"},
    {"id", "id"},
    {"state", "state"},
    {"size", "size", CONTROL_SIZE},
    {"file system", "fs"},
    {"format", "format"},
    {"pool", "pool"},
    {"class", "class"},
    {"cloned from", "origin"},
    {"protected", "protected", CONTROL_FLAG},
    {"snapshots", "snapshots", CONTROL_NUMBER},
    {"device", "attachment.device"},
    {"mounted at", "attachment.mountpoint"},
    {"users", "attachment.users", CONTROL_NUMBER},
    {NULL},
};

static const struct control_column attachment_fields[] = {
    {"device", "device"},
    {"mounted at", "mountpoint"},
    {"users", "users", CONTROL_NUMBER},
    {"read-only", "read-only", CONTROL_FLAG},
    {NULL},
};

static const struct control_column snapshot_columns[] = {
    {"NAME", "name"}, {"STATE", "state"}, {"SIZE", "size", CONTROL_SIZE}, {"ID", "id"}, {NULL},
};

#define ACTION(name) static int name(const void *arg, char **operands, struct hws_error *err)

ACTION(list)
{
    const struct volume_options *options = arg;
    json_t *items;
    int r = control_list(&options->control, "/v1/volumes", &items, err);
    if (r == 0)
        control_print_list(&options->control, items, columns);
    return r;
}

ACTION(show)
{
    const struct volume_options *options = arg;
    json_t *volume;
    int r =
        control_call(&options->control, "GET", NULL, &volume, err, "/v1/volumes/%s", operands[0]);
    if (r == 0)
        control_print_one(&options->control, volume, fields);
    return r;
}

/* What has a '/' is an image's path, all else VOLUME or VOLUME@SNAPSHOT. */
static int set_source(json_t *body, const char *from, struct hws_error *err)
{
    if (!from || !strchr(from, '/')) {
        control_set_text(body, "clone", from);
        return 0;
    }
    autofree char *path = realpath(from, NULL);
    if (!path)
        return hws_fail_errno(err, errno, "image %.300s", from);
    control_set_text(body, "image", path);
    return 0;
}

ACTION(create)
{
    const struct volume_options *options = arg;
    json_t *body = json_object(), *volume;
    control_set_text(body, "name", operands[0]);
    control_set_text(body, "pool", options->pool);
    control_set_text(body, "class", options->class);
    control_set_text(body, "format", options->format);
    control_set_text(body, "fs", options->fs);
    control_set_size(body, "size", options->size);
    control_set_size(body, "cluster-size", options->cluster_size);
    json_object_set_new(body, "protected", json_boolean(options->protect));
    int r = set_source(body, options->from, err);
    if (r == 0)
        r = control_set_labels(body, &options->labels, err);
    if (r < 0) {
        json_decref(body);
        return r;
    }
    r = control_call(&options->control, "POST", body, &volume, err, "/v1/volumes");
    if (r == 0)
        control_print_one(&options->control, volume, fields);
    return r;
}

ACTION(delete)
{
    const struct volume_options *options = arg;
    json_t *none;
    return control_call(&options->control, "DELETE", NULL, &none, err, "/v1/volumes/%s",
                        operands[0]);
}

ACTION(attach)
{
    const struct volume_options *options = arg;
    json_t *attachment;
    json_t *body = json_pack("{s:s, s:b, s:s*}", "mode", options->device ? "device" : "mount",
                             "read-only", options->read_only, "user", options->user);
    int r = control_call(&options->control, "POST", body, &attachment, err, "/v1/volumes/%s/attach",
                         operands[0]);
    if (r == 0)
        control_print_one(&options->control, attachment, attachment_fields);
    return r;
}

ACTION(detach)
{
    const struct volume_options *options = arg;
    json_t *none;
    json_t *body = json_pack("{s:b, s:s*}", "force", options->force, "user", options->user);
    return control_call(&options->control, "POST", body, &none, err, "/v1/volumes/%s/detach",
                        operands[0]);
}

ACTION(resize)
{
    const struct volume_options *options = arg;
    json_t *volume;
    uint64_t bytes;
    int r = size_parse(operands[1], &bytes, err);
    if (r < 0)
        return r;
    r = control_call(&options->control, "POST",
                     json_pack("{s:I}", "size", (json_int_t)MIN(bytes, (uint64_t)INT64_MAX)),
                     &volume, err, "/v1/volumes/%s/resize", operands[0]);
    if (r == 0)
        control_print_one(&options->control, volume, fields);
    return r;
}

ACTION(rename_to)
{
    const struct volume_options *options = arg;
    json_t *volume, *body = json_object();
    control_set_text(body, "name", operands[1]);
    int r =
        control_call(&options->control, "PATCH", body, &volume, err, "/v1/volumes/%s", operands[0]);
    json_decref(r == 0 ? volume : NULL);
    return r;
}

static int set_protected(const struct volume_options *options, const char *name, bool yes,
                         struct hws_error *err)
{
    json_t *volume;
    int r = control_call(&options->control, "PATCH", json_pack("{s:b}", "protected", yes), &volume,
                         err, "/v1/volumes/%s", name);
    json_decref(r == 0 ? volume : NULL);
    return r;
}

ACTION(protect)
{
    return set_protected(arg, operands[0], true, err);
}

ACTION(unprotect)
{
    return set_protected(arg, operands[0], false, err);
}

ACTION(snapshot)
{
    const struct volume_options *options = arg;
    json_t *taken, *body = json_object();
    control_set_text(body, "name", operands[1]);
    int r = control_call(&options->control, "POST", body, &taken, err, "/v1/volumes/%s/snapshots",
                         operands[0]);
    json_decref(r == 0 ? taken : NULL);
    return r;
}

ACTION(snapshots)
{
    const struct volume_options *options = arg;
    json_t *answer;
    int r = control_call(&options->control, "GET", NULL, &answer, err,
                         "/v1/volumes/%s/snapshots?limit=1000", operands[0]);
    if (r < 0)
        return r;
    control_print_list(&options->control, json_incref(json_object_get(answer, "items")),
                       snapshot_columns);
    json_decref(answer);
    return 0;
}

ACTION(delete_snapshot)
{
    const struct volume_options *options = arg;
    json_t *none;
    return control_call(&options->control, "DELETE", NULL, &none, err,
                        "/v1/volumes/%s/snapshots/%s", operands[0], operands[1]);
}

ACTION(revert)
{
    const struct volume_options *options = arg;
    json_t *volume, *body = json_object();
    control_set_text(body, "snapshot", operands[1]);
    int r = control_call(&options->control, "POST", body, &volume, err, "/v1/volumes/%s/revert",
                         operands[0]);
    json_decref(r == 0 ? volume : NULL);
    return r;
}

static const struct control_action actions[] = {
    {"list", 0, "", list},
    {"show", 1, "VOLUME", show},
    {"create", 1, "VOLUME", create},
    {"delete", 1, "VOLUME", delete},
    {"attach", 1, "VOLUME", attach},
    {"detach", 1, "VOLUME", detach},
    {"resize", 2, "VOLUME SIZE", resize},
    {"rename", 2, "VOLUME NAME", rename_to},
    {"protect", 1, "VOLUME", protect},
    {"unprotect", 1, "VOLUME", unprotect},
    {"snapshot", 2, "VOLUME SNAPSHOT", snapshot},
    {"snapshots", 1, "VOLUME", snapshots},
    {"delete-snapshot", 2, "VOLUME SNAPSHOT", delete_snapshot},
    {"revert", 2, "VOLUME SNAPSHOT", revert},
    {NULL},
};

static int run(const void *options, char **operands, unsigned count)
{
    return control_run_action("volume", actions, options, operands, count);
}

#define OPTION(field) offsetof(struct volume_options, field)

static const struct cli_option table[] = {
    {"size", 's', CLI_SIZE, OPTION(size), "SIZE",
     "create: its size (its class's, or 10G, if not given; that of the source for a clone)"},
    {"pool", 0, CLI_TEXT, OPTION(pool), "POOL",
     "create: where it lies (the only pool, or the one called 'default', if not given)"},
    {"class", 0, CLI_TEXT, OPTION(class), "CLASS", "create: the policy that it is made by"},
    {"format", 'f', CLI_TEXT, OPTION(format), "FMT",
     "create: qcow2 (the default) or raw; with --from=IMAGE the image's own", NULL,
     CLI_COMPLETE_FORMAT},
    {"fs", 0, CLI_TEXT, OPTION(fs), "TYPE",
     "create: the file system that it gets at its first mount: ext4 (the default), xfs, btrfs or "
     "none"},
    {"from", 0, CLI_TEXT, OPTION(from), "SOURCE",
     "create: VOLUME or VOLUME@SNAPSHOT to clone, or the path of an image to take in place", NULL,
     CLI_COMPLETE_FILE},
    {"cluster-size", 0, CLI_SIZE, OPTION(cluster_size), "SIZE", "create: clusters of its images"},
    {"protect", 0, CLI_FLAG, OPTION(protect), NULL, "create: it cannot be deleted"},
    {"label", 0, CLI_LIST, OPTION(labels), "NAME=VALUE",
     "create: a text of your own (may be repeated)"},
    {"device", 0, CLI_FLAG, OPTION(device), NULL, "attach: as a block device, without mounting it"},
    {"read-only", 'r', CLI_FLAG, OPTION(read_only), NULL, "attach: nobody writes"},
    {"user", 0, CLI_TEXT, OPTION(user), "NAME",
     "attach, detach: who uses it ('manual' if not given)"},
    {"force", 0, CLI_FLAG, OPTION(force), NULL, "detach: whoever uses it"},
    CLI_CONTROL_OPTIONS(struct volume_options),
    {NULL},
};

const struct cli_command cli_volume_command = {
    .name = "volume",
    .summary = "Manage volumes and their snapshots",
    .synopsis = "[OPTION...] list\n"
                "[OPTION...] create|show|delete|attach|detach|snapshots VOLUME\n"
                "[OPTION...] protect|unprotect VOLUME\n"
                "[OPTION...] resize VOLUME SIZE\n"
                "[OPTION...] rename VOLUME NAME\n"
                "[OPTION...] snapshot|delete-snapshot|revert VOLUME SNAPSHOT",
    .description =
        "Volumes are what hawserd makes of images: they have a name, a size and a file system, and "
        "containers use them. A volume that is attached is mounted, and the folder is told; with "
        "the last of its users it is detached. It can be resized and snapshotted while it is in "
        "use; 'revert' goes back to a snapshot, and needs it detached.\n\n"
        "'create --from' clones a volume, as it is or as it was at a snapshot, without copying: "
        "both share what neither has changed. Or it takes an image as it lies, which stays there "
        "when the volume is deleted; the image must lie in one of the pool's image roots.",
    .operands = {{"ACTION", "see above", CLI_COMPLETE_NONE},
                 {"VOLUME", "its name or id", CLI_COMPLETE_NONE},
                 {"ARGUMENT", "a size, a new name, or a snapshot", CLI_COMPLETE_NONE}},
    .examples = {{"a volume of 20 GiB", "hawser volume create --size=20G data"},
                 {"mounted", "hawser volume attach data"},
                 {"as it is now, and back to that",
                  "hawser volume snapshot data monday\nhawser volume revert data monday"},
                 {"a copy that takes no space", "hawser volume create --from=data@monday test"}},
    .options = table,
    .options_bytes = sizeof(struct volume_options),
    .operands_min = 1,
    .operands_max = 3,
    .run = run,
};
