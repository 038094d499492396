/*
 * `hawser attach`: an image becomes a block device of this host.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cli/image.h"
#include "cli/output.h"
#include "cli/volume.h"
#include "engine/client.h"
#include <sys/stat.h>

struct attach_command {
    struct cli_volume volume;
    const char *mount, *mkfs;
    bool sandbox;
    int output;
};

static json_t *times_json(const struct attach_times *times)
{
    return json_pack("{s:I, s:I, s:I, s:I, s:I}", "total", (json_int_t)times->total_us, "spawn",
                     (json_int_t)times->spawn_us, "open", (json_int_t)times->open_us, "export",
                     (json_int_t)times->export_us, "mount", (json_int_t)times->mount_us);
}

static int print_attached(const struct attach_command *options, const struct attachment *attachment,
                          const struct attach_times *times)
{
    const char *device = attachment_device(attachment);
    if (options->output == CLI_JSON) {
        json_t *volume = json_array_get(json_object_get(attachment->state, "volumes"), 0);
        json_t *object = json_deep_copy(volume);
        json_object_set(object, "pid", json_object_get(attachment->state, "pid"));
        json_object_set_new(object, "folder", json_string(attachment->folder));
        if (options->mount)
            json_object_set_new(object, "mount", out_string(options->mount));
        json_object_set_new(object, "times-us", times_json(times));
        out_json(object);
        return CLI_OK;
    }
    puts(device ? device : attachment->name);
    if (options->mount)
        out_note("attach", "'%s' is mounted at %s; 'hawser detach %s' unmounts it",
                 attachment->name, options->mount, attachment->name);
    return CLI_OK;
}

static int run(const void *arg, char **operands, unsigned count)
{
    const struct attach_command *options = arg;
    struct hws_error err = {0};
    struct attach_options how = {
        .image = operands[0],
        .name = options->volume.name,
        .format = options->volume.format,
        .allow = options->volume.allow.count ? options->volume.allow.item : NULL,
        .cache = cli_word(cli_cache_choices, options->volume.cache),
        .discard = cli_word(cli_discard_choices, options->volume.discard),
        .detect_zeroes = cli_word(cli_detect_choices, options->volume.detect_zeroes),
        .via = cli_word(cli_via_choices, options->volume.via),
        .block_size = cli_word(cli_block_choices, options->volume.block_size),
        .device = options->volume.device,
        .read_only = options->volume.read_only,
        .queues = options->volume.queues,
        .sandbox = options->sandbox,
        .mount = options->mount,
        .mkfs = options->mkfs,
    };
    if (options->mkfs && !options->mount) {
        hws_fail(&err, EINVAL, "--mkfs makes a file system for --mount, which is missing");
        return out_error("attach", CLI_USAGE, &err);
    }
    struct attachment *attachment;
    struct attach_times times;
    if (attach_start(&how, &attachment, &times, &err) < 0)
        return out_error("attach", CLI_FAILED, &err);
    int code = print_attached(options, attachment, &times);
    cli_note_leftover("attach", attachment_image(attachment));
    attachment_free(attachment);
    return code;
}

static const struct cli_option table[] = {
    CLI_VOLUME_OPTIONS(struct attach_command),
    {"mount", 0, CLI_TEXT, offsetof(struct attach_command, mount), "DIR",
     "mount the device there; the folder is made if it is missing",
     .completes = CLI_COMPLETE_FOLDER},
    {"mkfs", 0, CLI_TEXT, offsetof(struct attach_command, mkfs), "TYPE",
     "with --mount: make a file system first where the device is blank, such as ext4 or xfs"},
    {"sandbox", 0, CLI_FLAG, offsetof(struct attach_command, sandbox), NULL,
     "the engine gives up, before the image is opened, all rights that it does not need, and sees "
     "no other folders than the image's and those of --allow"},
    CLI_OUTPUT_OPTION(struct attach_command),
    {NULL},
};

const struct cli_command cli_attach_command = {
    .name = "attach",
    .summary = "Make an image a block device of this host",
    .synopsis = "[OPTION...] IMAGE",
    .description =
        "Starts an engine that serves the image, makes a device of it, and prints the device's "
        "path. The engine "
        "outlives the shell and goes on until 'hawser detach'. The best way that this host has is "
        "taken: a SCSI disk by the kernel's target, where its module target_core_user is loaded; "
        "else a network block device (/dev/nbdN), where the module nbd is; "
        "else a loop device with direct I/O on a FUSE file, or the FUSE file alone. --via=tcmu "
        "and --via=nbd load the modules that they need: those devices outlive a crash of their "
        "engine, which is started "
        "again, without an error to their users, and 'hawser upgrade' replaces the engine below "
        "them.\n\n"
        "With --mount the device is mounted too, without set-user-ID programs and device nodes "
        "(nosuid, nodev), because an image is somebody else's file system. --mkfs makes a file "
        "system on a "
        "blank device only, so that the same command attaches the volume again later.\n\n"
        "Attachments live in /run/hawser, or $XDG_RUNTIME_DIR/hawser for other users; "
        "HAWSER_RUN_DIR names "
        "another folder. The engine's log is the file 'log' in the attachment's folder there.",
    .operands = {{"IMAGE", "the image to attach", CLI_COMPLETE_FILE}},
    .examples = {{"a device", "hawser attach disk.qcow2"},
                 {"a mounted volume, made ready at its first use",
                  "hawser attach disk.qcow2 --mount /mnt/disk --mkfs ext4"},
                 {"a raw image, read-only, under another name",
                  "hawser attach -f raw --read-only --name=cd install.iso"},
                 {"with the times that it took", "hawser attach --output=json disk.qcow2"}},
    .options = table,
    .options_bytes = sizeof(struct attach_command),
    .operands_min = 1,
    .operands_max = 1,
    .run = run,
};
