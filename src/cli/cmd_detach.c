/*
 * `hawser detach`: the device goes, the image is whole.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cli/image.h"
#include "cli/output.h"
#include "engine/client.h"

struct detach_options {
    bool force, all;
    int output;
};

static char *copy_of(const char *text)
{
    return text ? strdup(text) : NULL;
}

static int detach_one(const struct detach_options *options, struct attachment *attachment,
                      json_t *results)
{
    struct hws_error err = {0};
    bool was_running = attachment->running;
    /* Copies: what is known of it may be read anew while it ends. */
    autofree char *top = copy_of(attachment_top(attachment));
    autofree char *image = copy_of(attachment_image(attachment));
    if (attach_stop(attachment, options->force, &err) < 0)
        return out_error("detach", CLI_FAILED, &err);
    if (attachment_export(attachment) && export_forget(attachment->name, &err) < 0)
        return out_error("detach", CLI_FAILED, &err);
    if (options->output == CLI_JSON) {
        json_array_append_new(results, json_pack("{s:s, s:b, s:s*}", "name", attachment->name,
                                                 "was-running", was_running, "top", top));
        return CLI_OK;
    }
    if (top && image && strcmp(top, image))
        out_note(
            "detach",
            "the newest state of '%s' is in %s: attach that one next time, and do not write to %s",
            attachment->name, top, image);
    if (!was_running)
        out_note("detach",
                 "the engine of '%s' had died; what it left is removed. 'hawser check' tells "
                 "whether its image is whole",
                 attachment->name);
    if (!was_running)
        cli_note_leftover("detach", top ? top : image);
    return CLI_OK;
}

/* An export that is saved and does not run: there is nothing to stop, and all to forget. */
static int forget_saved(const struct detach_options *options, const char *name, json_t *results)
{
    struct hws_error err = {0};
    if (export_forget(name, &err) < 0)
        return out_error("detach", CLI_FAILED, &err);
    if (options->output == CLI_JSON)
        json_array_append_new(results, json_pack("{s:s, s:b}", "name", name, "was-running", false));
    return CLI_OK;
}

static int detach_named(const struct detach_options *options, const char *name, json_t *results)
{
    struct hws_error err = {0};
    struct attachment *attachment;
    if (attachment_find(name, &attachment, &err) == 0) {
        int code = detach_one(options, attachment, results);
        attachment_free(attachment);
        return code;
    }
    return export_is_saved(name) ? forget_saved(options, name, results)
                                 : out_error("detach", CLI_FAILED, &err);
}

static int detach_all(const struct detach_options *options, json_t *results)
{
    struct hws_error err = {0};
    struct attachment **list;
    unsigned count;
    if (attachment_list(&list, &count, &err) < 0)
        return out_error("detach", CLI_FAILED, &err);
    int code = CLI_OK;
    for (unsigned i = 0; i < count; i++) {
        int one = detach_one(options, list[i], results);
        code = one ? one : code;
        attachment_free(list[i]);
    }
    free(list);
    return code;
}

static int run(const void *arg, char **operands, unsigned count)
{
    const struct detach_options *options = arg;
    struct hws_error err = {0};
    if (options->all == (count > 0)) {
        hws_fail(&err, EINVAL, "say what to detach, or --all");
        return out_error("detach", CLI_USAGE, &err);
    }
    json_t *results = json_array();
    int code = options->all ? detach_all(options, results) : CLI_OK;
    for (unsigned i = 0; i < count; i++) {
        int one = detach_named(options, operands[i], results);
        code = one ? one : code;
    }
    if (options->output == CLI_JSON)
        out_json(json_incref(results));
    json_decref(results);
    return code;
}

static const struct cli_option table[] = {
    {"force", 0, CLI_FLAG, offsetof(struct detach_options, force), NULL,
     "take the device from its users; what they had not written is lost"},
    {"all", 'a', CLI_FLAG, offsetof(struct detach_options, all), NULL, "detach everything"},
    CLI_OUTPUT_OPTION(struct detach_options),
    {NULL},
};

const struct cli_command cli_detach_command = {
    .name = "detach",
    .summary = "Take a device away again",
    .synopsis = "[OPTION...] NAME|DEVICE|IMAGE|FOLDER...\n[OPTION...] --all",
    .description = "Unmounts what attach mounted, takes the device away, flushes the image, stops "
                   "the engine and removes "
                   "all traces. A device that is in use is left alone, and the message says who "
                   "uses it. What an engine "
                   "that was killed has left behind is cleaned up as well.\n\nAn export is taken "
                   "back from "
                   "its initiators, who must have logged out unless --force is given, and no "
                   "longer saved.",
    .operands = {{"NAME", "a name, device, image or mount folder, as 'hawser list' shows them",
                  CLI_COMPLETE_ATTACHMENT}},
    .examples = {{"by name", "hawser detach disk"},
                 {"by device", "hawser detach /dev/loop7"},
                 {"by the folder that it is mounted at", "hawser detach /mnt/disk"}},
    .options = table,
    .options_bytes = sizeof(struct detach_options),
    .operands_max = 64,
    .run = run,
};
