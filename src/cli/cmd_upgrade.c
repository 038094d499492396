/*
 * `hawser upgrade`: a new program serves what is attached, without a break for its users.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cli/command.h"
#include "cli/output.h"
#include "engine/client.h"
#include <limits.h>

/** The engine waits a minute each for its successor to be prepared and ready. */
#define REPLACE_TIMEOUT_MS 180000

struct upgrade_options {
    const char *program;
    bool all;
    int output;
};

static int upgrade_one(const struct upgrade_options *options, const char *program,
                       const struct attachment *attachment, json_t *results)
{
    struct hws_error err = {0};
    json_t *result;
    if (attachment_call_within(attachment, "replace", json_pack("{s:s}", "program", program),
                               REPLACE_TIMEOUT_MS, &result, &err) < 0) {
        hws_wrap(&err, -err.code, "'%s'", attachment->name);
        return out_error("upgrade", CLI_FAILED, &err);
    }
    json_int_t pause = json_integer_value(json_object_get(result, "pause-ns"));
    json_object_set_new(result, "name", json_string(attachment->name));
    json_object_set_new(result, "program", out_string(program));
    json_array_append_new(results, result);
    if (options->output != CLI_JSON)
        out_note("upgrade", "'%s' is served by %s now; its commands waited for %.1f ms",
                 attachment->name, program, (double)pause / 1e6);
    return CLI_OK;
}

static int upgrade_all(const struct upgrade_options *options, const char *program, json_t *results)
{
    struct hws_error err = {0};
    struct attachment **list;
    unsigned count;
    if (attachment_list(&list, &count, &err) < 0)
        return out_error("upgrade", CLI_FAILED, &err);
    int code = CLI_OK;
    for (unsigned i = 0; i < count; i++) {
        int one = list[i]->running ? upgrade_one(options, program, list[i], results) : CLI_OK;
        code = one ? one : code;
        attachment_free(list[i]);
    }
    free(list);
    return code;
}

static int upgrade_named(const struct upgrade_options *options, const char *program,
                         char **operands, unsigned count, json_t *results)
{
    int code = CLI_OK;
    for (unsigned i = 0; i < count; i++) {
        struct hws_error err = {0};
        struct attachment *attachment;
        int one;
        if (attachment_find(operands[i], &attachment, &err) < 0) {
            one = out_error("upgrade", CLI_FAILED, &err);
        } else {
            one = upgrade_one(options, program, attachment, results);
            attachment_free(attachment);
        }
        code = one ? one : code;
    }
    return code;
}

static int run(const void *arg, char **operands, unsigned count)
{
    const struct upgrade_options *options = arg;
    struct hws_error err = {0};
    if (options->all == (count > 0)) {
        hws_fail(&err, EINVAL, "say what to upgrade, or --all");
        return out_error("upgrade", CLI_USAGE, &err);
    }
    const char *given = options->program ? options->program : "/proc/self/exe";
    autofree char *program = realpath(given, NULL);
    if (!program) {
        hws_fail_errno(&err, errno, "cannot find %s", given);
        return out_error("upgrade", CLI_FAILED, &err);
    }
    json_t *results = json_array();
    int code = options->all ? upgrade_all(options, program, results)
                            : upgrade_named(options, program, operands, count, results);
    if (options->output == CLI_JSON)
        out_json(json_incref(results));
    json_decref(results);
    return code;
}

static const struct cli_option table[] = {
    {"program", 0, CLI_TEXT, offsetof(struct upgrade_options, program), "FILE",
     "the program to serve with; the one that runs this command if not given",
     .completes = CLI_COMPLETE_FILE},
    {"all", 'a', CLI_FLAG, offsetof(struct upgrade_options, all), NULL,
     "upgrade everything that is attached"},
    CLI_OUTPUT_OPTION(struct upgrade_options),
    {NULL},
};

const struct cli_command cli_upgrade_command = {
    .name = "upgrade",
    .summary = "Serve devices in use with a new version",
    .synopsis = "[OPTION...] NAME|DEVICE|IMAGE|FOLDER...\n[OPTION...] --all",
    .description =
        "Puts this version of hawser, or another program, in the place of the engine that serves "
        "a device, while the device is in use. The new program is started first; then the old one "
        "answers the commands that it has, flushes and closes the image, and the new one opens it. "
        "Commands that come meanwhile wait in the kernel, and the time is told. Where the new "
        "program fails, the old one goes on.\n\n"
        "Only SCSI disks ('attach --via tcmu') outlive the process that serves them. Others are "
        "refused: detach them and attach them again.",
    .operands = {{"NAME", "a name, device, image or mount folder, as 'hawser list' shows them",
                  CLI_COMPLETE_ATTACHMENT}},
    .examples = {{"after a new package was installed", "hawser upgrade --all"},
                 {"to another build", "hawser upgrade disk --program=/opt/hawser/bin/hawser"}},
    .options = table,
    .options_bytes = sizeof(struct upgrade_options),
    .operands_max = 64,
    .run = run,
};
