/*
 * `hawser snapshot`: overlay snapshots of images and of attached volumes, and the way back.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cli/image.h"
#include "cli/output.h"
#include "engine/client.h"
#include <limits.h>

struct snapshot_options {
    const char *format;
    struct cli_list allow;
    bool force_share; /* never set: snapshots need the image for themselves */
    bool revert, force;
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

static int run(const void *arg, char **operands, unsigned count)
{
    const struct snapshot_options *options = arg;
    struct hws_error err = {0};
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
    {"revert", 0, CLI_FLAG, offsetof(struct snapshot_options, revert), NULL,
     "go back: give up what was written since the snapshot"},
    {"force", 0, CLI_FLAG, offsetof(struct snapshot_options, force), NULL,
     "with --revert: change the content although the device is in use"},
    CLI_FORMAT_OPTION(struct snapshot_options),
    CLI_ALLOW_OPTION(struct snapshot_options),
    CLI_OUTPUT_OPTION(struct snapshot_options),
    {NULL},
};

const struct cli_command cli_snapshot_command = {
    .name = "snapshot",
    .summary = "Take a snapshot by an overlay, or go back to one",
    .synopsis =
        "[OPTION...] NAME|DEVICE|IMAGE OVERLAY\n--revert [OPTION...] NAME|DEVICE|IMAGE [LAYER]",
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
        "nothing of this image uses them any more.",
    .operands = {{"NAME", "an image, or the name or device of an attachment",
                  CLI_COMPLETE_ATTACHMENT},
                 {"OVERLAY", "the file to make", CLI_COMPLETE_FILE}},
    .examples = {{"of a volume in use", "hawser snapshot disk disk-monday.qcow2"},
                 {"of an image", "hawser snapshot disk.qcow2 try.qcow2"},
                 {"back to it", "umount /mnt/disk && hawser snapshot --revert disk"}},
    .options = table,
    .options_bytes = sizeof(struct snapshot_options),
    .operands_min = 1,
    .operands_max = 2,
    .run = run,
};
