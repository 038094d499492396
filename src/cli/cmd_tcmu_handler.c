/*
 * `hawser tcmu-handler`: serves the backstores that targetcli makes.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cli/command.h"
#include "cli/output.h"
#include "handler/client.h"

struct tcmu_handler_options {
    struct cli_list allow;
    uint64_t threads;
    int log_level;
    bool no_dbus, keep_answers;
};

#define THREADS_MAX 16
#define LEVEL_INFO  2

static const char *const level_choices[] = {"error", "warning", "info", "debug", NULL};

static int run(const void *arg, char **operands, unsigned count)
{
    const struct tcmu_handler_options *options = arg;
    struct hws_error err = {0};
    if (options->threads > THREADS_MAX) {
        hws_fail(&err, EINVAL, "--threads is %llu; up to %d are possible",
                 (unsigned long long)options->threads, THREADS_MAX);
        return out_error("tcmu-handler", CLI_USAGE, &err);
    }
    struct handler_options handler = {
        .allow = options->allow.count ? options->allow.item : NULL,
        .threads = (unsigned)options->threads,
        .log_level = options->log_level < 0 ? LEVEL_INFO : options->log_level,
        .no_dbus = options->no_dbus,
        .keep_answers = options->keep_answers,
    };
    int r = handler_main(&handler, &err);
    return r < 0 ? out_error("tcmu-handler", CLI_FAILED, &err) : CLI_OK;
}

static const struct cli_option table[] = {
    {"allow", 0, CLI_LIST, offsetof(struct tcmu_handler_options, allow), "FOLDER",
     "serve only images below FOLDER, and let them name files only there; may be given many times",
     .completes = CLI_COMPLETE_FOLDER},
    {"threads", 0, CLI_UINT, offsetof(struct tcmu_handler_options, threads), "N",
     "threads that serve all devices together (one a processor, at most 8, if not given; at most "
     "16)"},
    {"no-dbus", 0, CLI_FLAG, offsetof(struct tcmu_handler_options, no_dbus), NULL,
     "do not register with D-Bus: targetcli then lists no user:hawser"},
    {"keep-answers", 0, CLI_FLAG, offsetof(struct tcmu_handler_options, keep_answers), NULL,
     "beside tcmu-runner: let the kernel wait for handlers' answers as before; backstores of this "
     "handler must then be made with control=nl_reply_supported=-1"},
    {"log-level", 0, CLI_CHOICE, offsetof(struct tcmu_handler_options, log_level), "LEVEL",
     "how much to log (info if not given)", level_choices},
    {NULL},
};

const struct cli_command cli_tcmu_handler_command = {
    .name = "tcmu-handler",
    .summary = "Serve the backstores that targetcli makes",
    .synopsis = "[OPTION...]",
    .description =
        "Serves every backstore of the kernel's SCSI target that is made as user:hawser, by "
        "targetcli, by a restored configuration or by hand in configfs, as long as it exists. One "
        "process serves them all. A configuration is the absolute path of an image, then options: "
        "/srv/disk.qcow2;cache=none.\n\n"
        "It runs in the foreground until SIGTERM or SIGINT, and leaves the devices to its "
        "successor: commands that come meanwhile wait. SIGHUP makes it try again what it could not "
        "open. Readiness is told to a service manager (NOTIFY_SOCKET). It needs root.\n\n"
        "Alone it is the service that targetcli looks for on D-Bus; beside a running tcmu-runner "
        "it "
        "registers there. docs/targetcli.md tells the rest.",
    .examples = {{"the service, for images in one folder",
                  "hawser tcmu-handler --allow=/srv/images"},
                 {"a LUN on an image", "targetcli /backstores/user:hawser create name=disk size=0 "
                                       "cfgstring=/srv/images/a.qcow2"}},
    .options = table,
    .options_bytes = sizeof(struct tcmu_handler_options),
    .run = run,
};
