/*
 * `hawser export`: images for other hosts, or virtual machines, by a fabric of the kernel.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cli/image.h"
#include "cli/output.h"
#include "cli/volume.h"
#include "engine/client.h"

extern const struct cli_command cli_volume_export_command;

struct export_command {
    struct cli_volume volume;
    bool iscsi, fc, nvme, vhost_scsi;
    bool restore, stop, temporary, any_initiator, fcloop;
    const char *target, *secrets;
    struct cli_list portals, initiators;
    int output;
};

/* ---- a new export ---- */

static void set_list(json_t *options, const char *name, const struct cli_list *list)
{
    autofree char *text = NULL;
    size_t length = 1;
    for (unsigned i = 0; i < list->count; i++)
        length += strlen(list->item[i]) + 1;
    if (list->count == 0 || !(text = calloc(1, length)))
        return;
    for (unsigned i = 0; i < list->count; i++) {
        size_t used = strlen(text);
        snprintf(text + used, length - used, "%s%s", i ? "," : "", list->item[i]);
    }
    json_object_set_new(options, name, json_string(text));
}

/* What was given; the fabric knows which of them it has, and what the others are. */
static json_t *fabric_options(const struct export_command *command)
{
    json_t *options = json_object();
    if (command->target)
        json_object_set_new(options, "target", json_string(command->target));
    set_list(options, "portals", &command->portals);
    set_list(options, "initiators", &command->initiators);
    if (command->any_initiator)
        json_object_set_new(options, "any-initiator", json_true());
    if (command->fcloop)
        json_object_set_new(options, "fcloop", json_true());
    return options;
}

static const char *chosen_fabric(const struct export_command *command, struct hws_error *err)
{
    const struct {
        bool chosen;
        const char *name;
    } fabrics[] = {
        {command->iscsi, "iscsi"},
        {command->fc, "fc"},
        {command->nvme, "nvme"},
        {command->vhost_scsi, "vhost-scsi"},
    };
    const char *name = NULL;
    for (unsigned i = 0; i < ARRAY_LEN(fabrics); i++) {
        if (fabrics[i].chosen && name) {
            hws_fail(err, EINVAL, "--%s and --%s: one export goes by one of them", name,
                     fabrics[i].name);
            return NULL;
        }
        name = fabrics[i].chosen ? fabrics[i].name : name;
    }
    if (!name)
        hws_fail(err, EINVAL, "say how: --iscsi, --nvme, --fc or --vhost-scsi");
    return name;
}

static int print_started(const struct export_command *command, const struct attachment *attachment,
                         const char *fabric)
{
    const json_t *export = attachment_export(attachment);
    const json_t *options = json_object_get(export, "options");
    if (command->output == CLI_JSON) {
        json_t *object = json_deep_copy(json_object_get(attachment->state, "export"));
        json_t *shown = json_deep_copy(options);
        json_object_del(shown, "secrets");
        json_object_set_new(object, "options", shown);
        json_object_set(object, "volumes", json_object_get(attachment->state, "volumes"));
        json_object_set_new(object, "folder", json_string(attachment->folder));
        json_object_set_new(object, "saved", json_boolean(!command->temporary));
        out_json(object);
        return CLI_OK;
    }
    const char *target = json_string_value(json_object_get(options, "target"));
    puts(target ? target : attachment->name);
    out_note("export", "'%s' is exported by %s; 'hawser detach %s' takes it back", attachment->name,
             fabric, attachment->name);
    return CLI_OK;
}

static int start(const struct export_command *command, char **operands, unsigned count)
{
    struct hws_error err = {0};
    const char *images[CLI_LIST_MAX + 1] = {NULL};
    const char *fabric = chosen_fabric(command, &err);
    if (!fabric)
        return out_error("export", CLI_USAGE, &err);
    if (count == 0) {
        hws_fail(&err, EINVAL, "IMAGE is missing");
        return out_error("export", CLI_USAGE, &err);
    }
    for (unsigned i = 0; i < count; i++)
        images[i] = operands[i];
    struct export_request request = {
        .volume =
            {
                .name = command->volume.name,
                .format = command->volume.format,
                .allow = command->volume.allow.count ? command->volume.allow.item : NULL,
                .cache = cli_word(cli_cache_choices, command->volume.cache),
                .discard = cli_word(cli_discard_choices, command->volume.discard),
                .detect_zeroes = cli_word(cli_detect_choices, command->volume.detect_zeroes),
                .block_size = cli_word(cli_block_choices, command->volume.block_size),
                .read_only = command->volume.read_only,
                .queues = command->volume.queues,
            },
        .images = images,
        .fabric = fabric,
        .options = fabric_options(command),
        .secrets = command->secrets,
        .temporary = command->temporary,
    };
    struct attachment *attachment;
    struct attach_times times;
    int r = export_start(&request, &attachment, &times, &err);
    json_decref(request.options);
    if (r < 0)
        return out_error("export", CLI_FAILED, &err);
    int code = print_started(command, attachment, fabric);
    attachment_free(attachment);
    return code;
}

/* ---- saved exports ---- */

static int report(const struct export_command *command, const struct export_outcome *outcomes,
                  unsigned count)
{
    json_t *list = json_array();
    int code = CLI_OK;
    for (unsigned i = 0; i < count; i++) {
        const struct export_outcome *outcome = &outcomes[i];
        bool failed = outcome->err.code != 0;
        const char *state = failed                                     ? "failed"
                            : command->restore && outcome->was_running ? "running"
                            : command->restore                         ? "started"
                            : outcome->was_running                     ? "stopped"
                                                                       : "not running";
        json_t *entry = json_pack("{s:s, s:s}", "name", outcome->name, "result", state);
        if (failed)
            json_object_set_new(entry, "error", out_string(outcome->err.text));
        json_array_append_new(list, entry);
        if (failed)
            code = CLI_FAILED;
        if (command->output == CLI_JSON)
            continue;
        if (failed) {
            struct hws_error err = {0};
            hws_fail(&err, outcome->err.code, "'%s': %.600s", outcome->name, outcome->err.text);
            out_error("export", CLI_FAILED, &err);
        } else {
            printf("%s: %s\n", outcome->name, state);
        }
    }
    if (command->output == CLI_JSON)
        out_json(json_incref(list));
    json_decref(list);
    return code;
}

static int all_saved(const struct export_command *command, char **operands, unsigned count)
{
    struct hws_error err = {0};
    struct export_outcome *outcomes;
    unsigned found;
    const char *name = count ? operands[0] : NULL;
    if (count > 1 || command->restore == command->stop || command->iscsi || command->fc ||
        command->nvme || command->vhost_scsi) {
        hws_fail(&err, EINVAL,
                 "--restore and --stop are about exports that are saved: give the name of one, or "
                 "none for all");
        return out_error("export", CLI_USAGE, &err);
    }
    int r = command->restore ? exports_restore(name, &outcomes, &found, &err)
                             : exports_stop(name, &outcomes, &found, &err);
    if (r < 0)
        return out_error("export", CLI_FAILED, &err);
    int code = report(command, outcomes, found);
    free(outcomes);
    return code;
}

static int run(const void *arg, char **operands, unsigned count)
{
    const struct export_command *command = arg;
    return command->restore || command->stop ? all_saved(command, operands, count)
                                             : start(command, operands, count);
}

static const struct cli_option table[] = {
    {"iscsi", 0, CLI_FLAG, offsetof(struct export_command, iscsi), NULL,
     "export over TCP to iSCSI initiators"},
    {"nvme", 0, CLI_FLAG, offsetof(struct export_command, nvme), NULL,
     "export by NVMe over TCP, or with --fcloop over Fibre Channel within this host"},
    {"fc", 0, CLI_FLAG, offsetof(struct export_command, fc), NULL,
     "export by a Fibre Channel port of this host in target mode"},
    {"vhost-scsi", 0, CLI_FLAG, offsetof(struct export_command, vhost_scsi), NULL,
     "export to a virtual machine of this host"},
    {"target", 't', CLI_TEXT, offsetof(struct export_command, target), "NAME",
     "name of the target: IQN, NQN, WWPN of the port, or naa. and 16 digits; made up if not given"},
    {"portal", 'p', CLI_LIST, offsetof(struct export_command, portals), "ADDRESS[:PORT]",
     "address of this host to listen on (may be repeated; all IPv4 addresses if not given)"},
    {"initiator", 'i', CLI_LIST, offsetof(struct export_command, initiators), "NAME",
     "who may use the images: its IQN, host NQN or WWPN (may be repeated)"},
    {"any-initiator", 0, CLI_FLAG, offsetof(struct export_command, any_initiator), NULL,
     "everybody who reaches a portal may use the images, and write to them"},
    {"secrets", 0, CLI_TEXT, offsetof(struct export_command, secrets), "FILE",
     "file of CHAP names and secrets, - for standard input", .completes = CLI_COMPLETE_FILE},
    {"fcloop", 0, CLI_FLAG, offsetof(struct export_command, fcloop), NULL,
     "with --nvme: Fibre Channel within this host, by the module nvme-fcloop"},
    {"temporary", 0, CLI_FLAG, offsetof(struct export_command, temporary), NULL,
     "do not save the export: it is gone after the host's next start"},
    {"restore", 0, CLI_FLAG, offsetof(struct export_command, restore), NULL,
     "start the saved exports that do not run"},
    {"stop", 0, CLI_FLAG, offsetof(struct export_command, stop), NULL,
     "stop the saved exports, from under their users; they stay saved"},
    CLI_VOLUME_COMMON_OPTIONS(struct export_command),
    CLI_OUTPUT_OPTION(struct export_command),
    {NULL},
};

const struct cli_command cli_export_command = {
    .name = "export",
    .summary = "Export images to other hosts and to virtual machines",
    .synopsis = "--iscsi|--nvme|--fc|--vhost-scsi [OPTION...] IMAGE...\n--restore [NAME]\n--stop "
                "[NAME]",
    .description =
        "Starts an engine that serves the images to the kernel's storage target, and makes one "
        "target of them. The images are its LUNs from 0 on (of NVMe, namespaces from 1) in the "
        "order given. Its name is printed.\n\n"
        "Nobody gets in unasked: --initiator names who may, --any-initiator lets everybody in who "
        "reaches the target. For iSCSI, --secrets adds CHAP; its file has the lines user=NAME and "
        "password=SECRET, and, for the target to prove itself too, mutual-user=NAME and "
        "mutual-password=SECRET. Secrets have at least 12 bytes (Windows: 12 to 16), never appear "
        "in "
        "an argument, a message or a log, and the file must be readable by its owner alone.\n\n"
        "Exports are attachments: 'hawser list' shows them, with who is logged in, and 'hawser "
        "detach' takes them back. They are saved in /var/lib/hawser/exports (HAWSER_STATE_DIR "
        "names "
        "another folder than /var/lib/hawser), readable by root alone. 'hawser export --restore' "
        "starts "
        "those that do not run, each by itself; the unit hawser-exports.service does so when the "
        "host starts.\n\n"
        "This needs root, and a kernel with the SCSI target (target_core_user and the module of "
        "the "
        "fabric), or nvmet for --nvme.",
    .operands = {{"IMAGE",
                  "an image to export; or with --restore and --stop, a saved export's name",
                  CLI_COMPLETE_FILE}},
    .examples =
        {{"to one initiator",
          "hawser export --iscsi -i iqn.1993-08.org.debian:01:a1b2c3 disk.qcow2"},
         {"two LUNs, with CHAP",
          "hawser export --iscsi -i iqn.2026-11.org.example:db --secrets chap a.qcow2 b.qcow2"},
         {"NVMe over TCP to everybody in a closed network",
          "hawser export --nvme --portal 10.0.0.1 --any-initiator disk.qcow2"},
         {"after a start of the host", "hawser export --restore"}},
    .options = table,
    .options_bytes = sizeof(struct export_command),
    .operands_max = CLI_LIST_MAX,
    .managed = &cli_volume_export_command,
    .run = run,
};
