/*
 * `hawser snapshot`: overlay snapshots of images and of attached volumes, and the way back; and
 * snapshots inside an image.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cli/image.h"
#include "cli/internal_snapshot.h"
#include "cli/merge_snapshot.h"
#include "cli/output.h"
#include "engine/client.h"
#include <limits.h>

extern const struct cli_command cli_volume_snapshot_command;

struct snapshot_options {
    const char *format;
    struct cli_list allow;
    bool force_share;
    bool revert, force;
    bool list;
    const char *create, *apply, *remove, *merge;
    uint64_t rate;
    bool keep, quiet;
    int output;
};

/* The engine has another working folder: it is told absolute paths. */
static int absolute(const char *path, char *ret, size_t ret_bytes, struct hws_error *err)
{
    char here[PATH_MAX];
    if (*path == '/') {
        snprintf(ret, ret_bytes, "%s", path);
        return 0;
    }
    if (!getcwd(here, sizeof(here)))
        return hws_fail_errno(err, errno, "cannot tell the current folder");
    return snprintf(ret, ret_bytes, "%s/%s", here, path) >= (int)ret_bytes
               ? hws_fail(err, ENAMETOOLONG, "%s: path too long", path)
               : 0;
}

static int print_snapshot(const struct snapshot_options *options, const char *what,
                          const char *overlay, const json_t *result)
{
    json_int_t pause = json_integer_value(json_object_get(result, "pause-ns"));
    if (options->output == CLI_JSON) {
        json_t *object = json_pack("{s:o, s:o, s:b}", "snapshot-of", out_string(what), "overlay",
                                   out_string(overlay), "online", result != NULL);
        if (result)
            json_object_set_new(object, "pause-us", json_integer(pause / 1000));
        out_json(object);
    } else if (result) {
        printf("%s: writes go to ", what);
        out_safe(stdout, overlay);
        printf(" now; requests waited %.3f ms. Attach that file next time\n", (double)pause / 1e6);
    } else {
        printf("made ");
        out_safe(stdout, overlay);
        printf(" over ");
        out_safe(stdout, what);
        printf("; do not write to the latter any more\n");
    }
    return CLI_OK;
}

static int take(const struct snapshot_options *options, const char *what, const char *overlay_name)
{
    struct hws_error err = {0};
    struct attachment *attachment = NULL;
    char overlay[PATH_MAX];
    json_t *result = NULL;
    int r = absolute(overlay_name, overlay, sizeof(overlay), &err);
    if (r == 0)
        r = cli_find_engine(what, &attachment, &err);
    if (r > 0) {
        json_t *params = NULL;
        r = cli_refuse_reach(what, options->format, &options->allow, &err);
        if (r == 0)
            params = json_pack("{s:s, s:s*}", "overlay", overlay, "volume",
                               attachment_volume(attachment, what));
        if (r == 0)
            r = params ? attachment_call(attachment, "snapshot", params, &result, &err)
                       : hws_fail(&err, EINVAL, "the overlay's name is no UTF-8");
    } else if (r == 0) {
        struct hws_image image = CLI_IMAGE(options, what);
        r = hws_snapshot(&image, overlay, NULL, &err);
    }
    int code = r < 0 ? out_error("snapshot", CLI_FAILED, &err)
                     : print_snapshot(options, what, overlay, result);
    if (r == 0)
        json_decref(result);
    attachment_free(attachment);
    return code;
}

static int print_reverted(const struct snapshot_options *options, const char *what,
                          const char *layer, bool online)
{
    if (options->output == CLI_JSON) {
        out_json(json_pack("{s:o, s:o, s:b}", "reverted", out_string(what), "layer",
                           out_string(layer), "online", online));
        return CLI_OK;
    }
    out_safe(stdout, what);
    printf(": back to the state of ");
    out_safe(stdout, layer);
    putchar('\n');
    return CLI_OK;
}

static int revert_online(const struct snapshot_options *options, struct attachment *attachment,
                         const char *what, const char *layer, char **ret, struct hws_error *err)
{
    char path[PATH_MAX];
    json_t *params = json_pack("{s:b, s:s*}", "force", options->force, "volume",
                               attachment_volume(attachment, what)),
           *result;
    int r = layer ? absolute(layer, path, sizeof(path), err) : 0;
    if (r < 0) {
        json_decref(params);
        return r;
    }
    if (layer)
        json_object_set_new(params, "layer", json_string(path));
    r = attachment_call(attachment, "revert", params, &result, err);
    if (r < 0)
        return r;
    const char *back = json_string_value(json_object_get(result, "layer"));
    *ret = strdup(back ? back : "?");
    json_decref(result);
    return 0;
}

static int revert(const struct snapshot_options *options, const char *what, const char *layer)
{
    struct hws_error err = {0};
    struct attachment *attachment = NULL;
    autofree char *back = NULL;
    int r = cli_find_engine(what, &attachment, &err);
    bool online = r > 0;
    if (online) {
        r = cli_refuse_reach(what, options->format, &options->allow, &err);
        if (r == 0)
            r = revert_online(options, attachment, what, layer, &back, &err);
    } else if (r == 0 && options->force) {
        r = hws_fail(&err, EINVAL,
                     "--force is about the device of an attached volume, and '%.400s' is "
                     "not attached",
                     what);
    } else if (r == 0) {
        struct hws_image image = CLI_IMAGE(options, what);
        r = hws_revert(&image, layer, &back, &err);
        cli_note_leftover("snapshot", what);
    }
    attachment_free(attachment);
    return r < 0 ? out_error("snapshot", CLI_FAILED, &err)
                 : print_reverted(options, what, back ? back : "?", online);
}

/* @ret_name of what is to be done inside the image; NULL: nothing of that kind, or the list. */
static int inside(const struct snapshot_options *options, enum hws_snapshot_action *ret_action,
                  const char **ret_name)
{
    const char *const names[] = {[HWS_SNAPSHOT_CREATE] = options->create,
                                 [HWS_SNAPSHOT_APPLY] = options->apply,
                                 [HWS_SNAPSHOT_DELETE] = options->remove};
    int wishes = options->list;
    *ret_name = NULL;
    for (unsigned i = 0; i < ARRAY_LEN(names); i++) {
        if (!names[i])
            continue;
        wishes++;
        *ret_name = names[i];
        *ret_action = (enum hws_snapshot_action)i;
    }
    return wishes;
}

/* The engine of an attached volume does it: the device goes on. */
static int run_online(const struct snapshot_options *options, struct attachment *attachment,
                      const char *what, enum hws_snapshot_action action, const char *name)
{
    static const char *const actions[] = {
        [HWS_SNAPSHOT_CREATE] = "create", [HWS_SNAPSHOT_DELETE] = "delete"};
    struct hws_error err = {0};
    json_t *result = NULL;
    int r = cli_refuse_reach(what, options->format, &options->allow, &err);
    if (r == 0 && !options->list && action == HWS_SNAPSHOT_APPLY)
        r = hws_fail(&err, EBUSY,
                     "'%.400s' is attached: its content would change under whoever uses the "
                     "device; detach it first",
                     what);
    if (r == 0) {
        json_t *params =
            json_pack("{s:s, s:s*, s:s*}", "action", options->list ? "list" : actions[action],
                      "volume", attachment_volume(attachment, what), "name", name);
        r = params ? attachment_call(attachment, "internal-snapshot", params, &result, &err)
                   : hws_fail(&err, EINVAL, "the snapshot's name is no UTF-8");
    }
    if (r < 0)
        return out_error("snapshot", CLI_FAILED, &err);
    bool json = options->output == CLI_JSON;
    if (options->list)
        cli_show_snapshots(json_incref(json_object_get(result, "snapshots")), json);
    else
        cli_show_change(what, action, name, json);
    json_decref(result);
    return CLI_OK;
}

static int run_inside(const struct snapshot_options *options, char **operands, unsigned count)
{
    struct hws_error err = {0};
    struct hws_image image = CLI_IMAGE(options, operands[0]);
    enum hws_snapshot_action action = HWS_SNAPSHOT_CREATE;
    const char *name;
    int wishes = inside(options, &action, &name);
    if (wishes > 1 || options->revert || options->force)
        hws_fail(&err, EINVAL, "only one of --list, --create, --apply, --delete and --revert");
    else if (count > 1)
        hws_fail(&err, EINVAL, "'%.200s': a snapshot inside the image needs no other file",
                 operands[1]);
    else if (options->force_share && !options->list)
        hws_fail(&err, EINVAL, "-U is for looking: --list");
    if (err.code)
        return out_error("snapshot", CLI_USAGE, &err);
    struct attachment *attachment = NULL;
    int r = options->force_share ? 0 : cli_find_engine(operands[0], &attachment, &err);
    if (r < 0)
        return out_error("snapshot", CLI_FAILED, &err);
    if (r > 0) {
        r = run_online(options, attachment, operands[0], action, name);
        attachment_free(attachment);
        return r;
    }
    return options->list ? cli_list_snapshots(&image, options->output == CLI_JSON)
                         : cli_change_snapshot(&image, action, name, options->output == CLI_JSON);
}

static int run_merge(const struct snapshot_options *options, char **operands, unsigned count)
{
    struct hws_error err = {0};
    char layer[PATH_MAX];
    const struct merge_options merge = {.rate = options->rate,
                                        .keep = options->keep,
                                        .json = options->output == CLI_JSON,
                                        .quiet = options->quiet};
    enum hws_snapshot_action action;
    const char *name;
    if (inside(options, &action, &name) || options->revert || options->force ||
        options->force_share)
        hws_fail(&err, EINVAL, "--merge goes with --rate, --keep and --quiet alone");
    else if (count > 1)
        hws_fail(&err, EINVAL, "'%.200s': --merge needs no other file", operands[1]);
    if (err.code)
        return out_error("snapshot", CLI_USAGE, &err);
    if (cli_refuse_reach(operands[0], options->format, &options->allow, &err) < 0 ||
        absolute(options->merge, layer, sizeof(layer), &err) < 0)
        return out_error("snapshot", CLI_FAILED, &err);
    return cli_merge_snapshot(operands[0], layer, &merge);
}

static int run(const void *arg, char **operands, unsigned count)
{
    const struct snapshot_options *options = arg;
    struct hws_error err = {0};
    enum hws_snapshot_action action;
    const char *name;
    if (options->merge)
        return run_merge(options, operands, count);
    if (options->rate != UINT64_MAX || options->keep || options->quiet) {
        hws_fail(&err, EINVAL, "--rate, --keep and --quiet go with --merge");
        return out_error("snapshot", CLI_USAGE, &err);
    }
    if (inside(options, &action, &name))
        return run_inside(options, operands, count);
    if (options->force_share) {
        hws_fail(&err, EINVAL, "-U is for looking: --list");
        return out_error("snapshot", CLI_USAGE, &err);
    }
    if (options->revert)
        return revert(options, operands[0], count > 1 ? operands[1] : NULL);
    if (options->force) {
        hws_fail(&err, EINVAL, "--force goes with --revert");
        return out_error("snapshot", CLI_USAGE, &err);
    }
    if (count < 2) {
        hws_fail(&err, EINVAL,
                 "OVERLAY is missing: the file that takes what is written from now on");
        return out_error("snapshot", CLI_USAGE, &err);
    }
    return take(options, operands[0], operands[1]);
}

static const struct cli_option table[] = {
    {"list", 'l', CLI_FLAG, offsetof(struct snapshot_options, list), NULL,
     "list the snapshots inside the image"},
    {"create", 'c', CLI_TEXT, offsetof(struct snapshot_options, create), "NAME",
     "take a snapshot inside the image"},
    {"apply", 'a', CLI_TEXT, offsetof(struct snapshot_options, apply), "NAME",
     "make the image what that snapshot is, and give up what it is now"},
    {"delete", 'd', CLI_TEXT, offsetof(struct snapshot_options, remove), "NAME",
     "delete a snapshot inside the image"},
    {"revert", 0, CLI_FLAG, offsetof(struct snapshot_options, revert), NULL,
     "go back: give up what was written since the snapshot"},
    {"force", 0, CLI_FLAG, offsetof(struct snapshot_options, force), NULL,
     "with --revert: change the content although the device is in use"},
    {"merge", 'm', CLI_TEXT, offsetof(struct snapshot_options, merge), "LAYER",
     "give up the state that a file of an attached volume's chain holds",
     .completes = CLI_COMPLETE_FILE},
    {"rate", 'r', CLI_SIZE, offsetof(struct snapshot_options, rate), "SIZE",
     "with --merge: copy at most this much a second"},
    {"keep", 0, CLI_FLAG, offsetof(struct snapshot_options, keep), NULL,
     "with --merge: do not delete the file that is not used any more"},
    {"quiet", 'q', CLI_FLAG, offsetof(struct snapshot_options, quiet), NULL,
     "with --merge: say nothing, show no progress"},
    CLI_FORMAT_OPTION(struct snapshot_options),
    CLI_ALLOW_OPTION(struct snapshot_options),
    CLI_FORCE_SHARE_OPTION(struct snapshot_options),
    CLI_OUTPUT_OPTION(struct snapshot_options),
    {NULL},
};

const struct cli_command cli_snapshot_command = {
    .name = "snapshot",
    .summary = "Take snapshots, by overlays or inside an image, and go back to them",
    .synopsis =
        "[OPTION...] NAME|DEVICE|IMAGE OVERLAY\n--revert [OPTION...] NAME|DEVICE|IMAGE [LAYER]\n"
        "--merge LAYER [OPTION...] NAME|DEVICE\n"
        "-l|-c NAME|-a NAME|-d NAME [OPTION...] NAME|DEVICE|IMAGE",
    .description =
        "Makes the qcow2 image OVERLAY with the present image as its backing file. The present "
        "image is the "
        "snapshot: it is not written any more, and everything new goes to OVERLAY. It takes no "
        "time and no "
        "room. An attached volume goes on without interruption; the time that requests waited is "
        "printed. "
        "The volume's newest file is OVERLAY from then on: attach that one next time.\n\n"
        "With --revert the image (of an attached volume: its newest file) is replaced by an empty "
        "overlay over "
        "the layer below, or over LAYER, a file of its backing chain: what was written since is "
        "given up. The "
        "file is replaced in one step, so that a crash leaves the old state or the new one. The "
        "device "
        "of an attached volume must not be mounted or open meanwhile. Layers between are left as "
        "they are; "
        "nothing of this image uses them any more.\n\n"
        "With --merge the state that LAYER, a file of an attached volume's chain, holds is given "
        "up, and all others are kept: its data and that of the layer above it become one file, in "
        "the way that moves less, and the other file is deleted. The volume goes on meanwhile. "
        "A crash or an interruption leaves the chain as it was or as it shall be. Where LAYER has "
        "no layer below it, or holds more than the one above, it takes the data of that and stands "
        "for the newer state from then on; so nothing else may be based on it. Where that newer "
        "state is the volume's own, LAYER is the file to attach next time.\n\n"
        "--create, --apply, --delete and --list work on snapshots inside one qcow2 image, QEMU's "
        "internal ones; NAME is the ID of one, or else its name. They share what has not changed, "
        "and record the size of the disk. Each change takes effect in one step, so that a crash "
        "leaves the image as it was or as it shall be. --apply is not for attached volumes. Other "
        "commands read such a snapshot with "
        "--snapshot.",
    .operands = {{"NAME", "an image, or the name or device of an attachment",
                  CLI_COMPLETE_ATTACHMENT},
                 {"OVERLAY", "the file to make", CLI_COMPLETE_FILE}},
    .examples = {{"of a volume in use", "hawser snapshot disk disk-monday.qcow2"},
                 {"of an image", "hawser snapshot disk.qcow2 try.qcow2"},
                 {"back to it", "umount /mnt/disk && hawser snapshot --revert disk"},
                 {"without Monday's state", "hawser snapshot --merge disk-monday.qcow2 disk"},
                 {"inside an image", "hawser snapshot -c monday disk.qcow2"},
                 {"the disk as it was then",
                  "hawser convert --snapshot monday disk.qcow2 old.raw"}},
    .options = table,
    .options_bytes = sizeof(struct snapshot_options),
    .operands_min = 1,
    .operands_max = 2,
    .managed = &cli_volume_snapshot_command,
    .run = run,
};
