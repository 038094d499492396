/*
 * `hawser volume`: volumes, by way of hawserd. Their snapshots are cmd_volume_snapshot.c.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cli/control.h"
#include "cli/policy.h"
#include "cli/snapshot.h"

struct volume_options {
    struct control_command control;
    struct control_policy policy;
    const char *pool, *class, *from, *user, *image_format;
    uint64_t process, keep;
    bool protect, device, read_only, force, purge, background, quiet;
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
    {"pool", "pool", CONTROL_REF, "/v1/pools/"},
    {"class", "class", CONTROL_REF, "/v1/classes/"},
    {"cloned from", "origin"},
    {"protected", "protected", CONTROL_FLAG},
    {"snapshots", "snapshots", CONTROL_NUMBER},
    {"job", "job"},
    {"failed", "attachment.failed"},
    {"device", "attachment.device"},
    {"mounted at", "attachment.mountpoint"},
    {"users", "attachment.users", CONTROL_LIST},
    CONTROL_POLICY_FIELDS,
    {NULL},
};

static const struct control_column trash_columns[] = {
    {"NAME", "name"},
    {"ID", "id"},
    {"SIZE", "size", CONTROL_SIZE},
    {"SNAPSHOTS", "snapshots", CONTROL_NUMBER},
    {"KEPT FOR", "remaining", CONTROL_SECONDS},
    {NULL},
};

static const struct control_column attachment_fields[] = {
    {"device", "device"},
    {"mounted at", "mountpoint"},
    {"users", "users", CONTROL_LIST},
    {"read-only", "read-only", CONTROL_FLAG},
    {NULL},
};

/* What has a '/' is an image's path, all else VOLUME or VOLUME@SNAPSHOT. */
static int fill_source(const struct control_run *run, json_t *body, struct hws_error *err)
{
    const struct volume_options *options = (const void *)run->control;
    const char *from = options->from;
    autofree char *path = NULL;
    if (!from)
        return 0;
    if (strchr(from, '/') && !(path = realpath(from, NULL)))
        return hws_fail_errno(err, errno, "image %.300s", from);
    json_t *text = json_string(path ? path : from);
    if (!text)
        return hws_fail(err, EINVAL, "--from is no UTF-8");
    json_object_set_new(body, path ? "image" : "clone", text);
    return 0;
}

/* A copy of "disk.v2.qcow2" is called "disk.v2". */
static int fill_import(const struct control_run *run, json_t *body, struct hws_error *err)
{
    const char *slash = strrchr(run->operands[0], '/');
    const char *base = slash ? slash + 1 : run->operands[0], *dot = strrchr(base, '.');
    if (run->count > 1)
        return 0;
    json_t *name = json_stringn(base, dot && dot > base ? (size_t)(dot - base) : strlen(base));
    if (!name)
        return hws_fail(err, EINVAL, "the image's name is no UTF-8; say the volume's: NAME");
    return json_object_set_new(body, "name", name);
}

/* Copying takes its time: it is shown, unless --background leaves it to itself. */
static int import(const struct control_run *run, struct hws_error *err)
{
    const struct volume_options *options = (const void *)run->control;
    json_t *volume = NULL;
    int r = control_request(run, &volume, err);
    if (r < 0)
        return r;
    const char *job = json_string_value(json_object_get(volume, "job"));
    const char *id = json_string_value(json_object_get(volume, "id"));
    if (!options->background && job && id) {
        json_t *made = NULL;
        r = control_wait(run->control, job, "importing", options->quiet, err);
        if (r == 0)
            r = control_call(run->control, "GET", NULL, &made, err, "/v1/volumes/%s", id);
        json_decref(volume);
        volume = made;
    }
    if (r == 0)
        control_print_one(run->control, volume, fields);
    return r;
}

static const struct cli_verb verbs[] = {
    {"list", "", "show the volumes", "GET", "/v1/volumes", NULL, columns, true},
    {"show", "VOLUME", "show all of one", "GET", "/v1/volumes/%", NULL, fields},
    {"create", "NAME", "make a volume, a clone of one, or one of an image", "POST", "/v1/volumes",
     "name", fields, .fill = fill_source},
    {"import", "IMAGE [NAME]", "make a volume that is a copy of an image of any format", "POST",
     "/v1/volumes", "image/ name import=true", fields, .fill = fill_import, .run = import},
    {"delete", "VOLUME...", "delete volumes, or move them to the trash if they are kept there",
     "DELETE", "/v1/volumes/%"},
    {"trash", "", "show deleted volumes that can be restored", "GET", "/v1/trash", NULL,
     trash_columns, true},
    {"restore", "DELETED [NAME]", "take one back out of the trash, under another name if given",
     "POST", "/v1/trash/%/restore", "name", fields},
    {"purge", "DELETED...", "delete for good what is in the trash", "DELETE", "/v1/trash/%"},
    {"attach", "VOLUME", "mount it, or with --device make a block device of it", "POST",
     "/v1/volumes/%/attach", NULL, attachment_fields},
    {"detach", "VOLUME...", "give it back; with its last user it is unmounted", "POST",
     "/v1/volumes/%/detach"},
    {"resize", "VOLUME SIZE", "make it larger, in use or not", "POST", "/v1/volumes/%/resize",
     "size#", fields},
    {"rename", "VOLUME NAME", "give it another name", "PATCH", "/v1/volumes/%", "name"},
    {"set", "VOLUME", "change what the options say", "PATCH", "/v1/volumes/%", NULL, fields},
    {"protect", "VOLUME...", "let nobody delete it", "PATCH", "/v1/volumes/%", "protected=true"},
    {"unprotect", "VOLUME...", "let it be deleted again", "PATCH", "/v1/volumes/%",
     "protected=false"},
    {"snapshot", "VOLUME NAME", "the same as 'hawser snapshot create VOLUME@NAME'", "POST",
     "/v1/volumes/%/snapshots", "name"},
    {"snapshots", "VOLUME", "the same as 'hawser snapshot list VOLUME'", "GET",
     "/v1/volumes/%/snapshots", NULL, cli_snapshot_columns, true},
    {"delete-snapshot", "VOLUME SNAPSHOT", "the same as 'hawser snapshot delete VOLUME@SNAPSHOT'",
     "DELETE", "/v1/volumes/%/snapshots/%"},
    {"revert", "VOLUME SNAPSHOT", "the same as 'hawser snapshot revert VOLUME@SNAPSHOT'", "POST",
     "/v1/volumes/%/revert", "snapshot"},
    {NULL},
};

const char *const cli_fs_choices[] = {"ext4", "xfs", "btrfs", "none", NULL};
const char *const cli_preallocation_choices[] = {"off", "metadata", "falloc", NULL};
const char *const cli_switch_choices[] = {"on", "off", NULL};

#define OPTION(field) offsetof(struct volume_options, field)

static const struct cli_option table[] = {
    CLI_POLICY_OPTIONS(struct volume_options, "create import", "create import set"),
    {"pool", 0, CLI_TEXT, OPTION(pool), "POOL",
     "where it lies (the only pool, or the one called 'default', if not given)",
     .completes = CLI_COMPLETE_POOL, .verbs = "create import", .member = "pool"},
    {"class", 0, CLI_TEXT, OPTION(class), "CLASS", "the policy that it is made by",
     .completes = CLI_COMPLETE_CLASS, .verbs = "create import", .member = "class"},
    {"from", 0, CLI_TEXT, OPTION(from), "SOURCE",
     "VOLUME or VOLUME@SNAPSHOT to clone, or the path of an image to take in place",
     .completes = CLI_COMPLETE_SNAPSHOT, .verbs = "create"},
    {"protect", 0, CLI_FLAG, OPTION(protect), NULL, "it cannot be deleted",
     .verbs = "create import", .member = "protected"},
    {"image-format", 0, CLI_TEXT, OPTION(image_format), "FMT",
     "format of the image; found from its header if not given, but raw must be said",
     .completes = CLI_COMPLETE_FORMAT, .verbs = "import", .member = "image-format"},
    {"background", 'b', CLI_FLAG, OPTION(background), NULL,
     "do not wait until it is copied; 'hawser job list' shows how far it is", .verbs = "import"},
    {"quiet", 'q', CLI_FLAG, OPTION(quiet), NULL, "show no progress", .verbs = "import"},
    {"device", 0, CLI_FLAG, OPTION(device), NULL, "as a block device, without mounting it",
     .verbs = "attach", .member = "mode=device"},
    {"read-only", 'r', CLI_FLAG, OPTION(read_only), NULL, "nobody writes", .verbs = "attach",
     .member = "read-only"},
    {"user", 0, CLI_TEXT, OPTION(user), "NAME", "who uses it ('manual' if not given)",
     .verbs = "attach detach", .member = "user"},
    {"process", 0, CLI_NUMBER, OPTION(process), "PID",
     "of the user; once it is gone, and no container has the mount, so is the user",
     .verbs = "attach", .member = "process"},
    {"purge", 0, CLI_FLAG, OPTION(purge), NULL, "for good, past the trash", .verbs = "delete",
     .member = "?purge"},
    {"keep", 0, CLI_TIME, OPTION(keep), "TIME",
     "it can be restored for so long, such as 7d (as it, its class or its pool says)",
     .verbs = "delete", .member = "?trash-retention"},
    {"force", 0, CLI_FLAG, OPTION(force), NULL, "whoever uses it", .verbs = "detach",
     .member = "force"},
    CLI_WATCH_OPTION(struct volume_options, "list show"),
    CLI_CONTROL_OPTIONS(struct volume_options),
    {NULL},
};

const struct cli_command cli_volume_command = {
    .name = "volume",
    .summary = "Manage volumes",
    .description =
        "Volumes are what hawserd makes of images: they have a name, a size and a file system, and "
        "containers use them. A volume that is attached is mounted, and the folder is told; with "
        "the last of its users it is detached. It can be resized and snapshotted while it is in "
        "use.\n\n"
        "'create --from' clones a volume, as it is or as it was at a snapshot, without copying: "
        "both share what neither has changed. Or it takes an image as it lies, which stays there "
        "when the volume is deleted; the image must lie in one of the pool's image roots.\n\n"
        "'import' copies an image, and shows how far it is; who stops waiting does not end it. The "
        "volume depends on nothing then. The image must lie in one of the image roots, too.\n\n"
        "A deleted volume is kept in the trash for as long as --keep, or the trash retention of "
        "the "
        "volume, its class or its pool says; DELETED is its id, or its name where only one there "
        "has it.",
    .examples = {{"a volume of 20 GiB", "hawser volume create --size=20G data"},
                 {"mounted", "hawser volume attach data"},
                 {"a copy that takes no space", "hawser volume create --from=data test"},
                 {"deleted, and back within a week",
                  "hawser volume delete --keep=7d test && hawser volume restore test"},
                 {"a copy of an image", "hawser volume import /srv/images/vm.qcow2 vm"},
                 {"all of them, as they change", "hawser volume list --watch"}},
    .options = table,
    .options_bytes = sizeof(struct volume_options),
    .verbs = verbs,
};
