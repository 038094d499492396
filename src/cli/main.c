/*
 * `hawser`, the one command: the table of subcommands, and the way to them.
 *
 * Each subcommand is one file, cmd_*.c, that ends in its table (cli/command.h). Results go to
 * standard output, everything else to standard error.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cli/command.h"
#include "cli/control.h"
#include "cli/output.h"
#include "cli/qemu_img/qemu_img.h"
#include "cli/qemu_nbd/qemu_nbd.h"
#include <sys/resource.h>

extern const struct cli_command cli_create_command, cli_info_command, cli_check_command,
    cli_convert_command, cli_compare_command, cli_map_command, cli_resize_command,
    cli_commit_command, cli_bench_command, cli_dd_command, cli_measure_command, cli_rebase_command,
    cli_amend_command, cli_compact_command, cli_snapshot_command, cli_bitmap_command,
    cli_attach_command, cli_export_command, cli_detach_command, cli_upgrade_command,
    cli_list_command, cli_pool_command, cli_class_command, cli_volume_command, cli_group_command,
    cli_schedule_command, cli_job_command, cli_secret_command, cli_node_command, cli_events_command,
    cli_doctor_command, cli_serve_command, cli_tcmu_handler_command, cli_complete_command,
    cli_help_command, cli_version_command;

const struct cli_command *const cli_commands[] = {
    &cli_create_command,
    &cli_info_command,
    &cli_check_command,
    &cli_convert_command,
    &cli_compare_command,
    &cli_map_command,
    &cli_resize_command,
    &cli_commit_command,
    &cli_bench_command,
    &cli_dd_command,
    &cli_measure_command,
    &cli_rebase_command,
    &cli_amend_command,
    &cli_compact_command,
    &cli_snapshot_command,
    &cli_bitmap_command,
    &cli_attach_command,
    &cli_export_command,
    &cli_detach_command,
    &cli_upgrade_command,
    &cli_list_command,
    &cli_pool_command,
    &cli_class_command,
    &cli_volume_command,
    &cli_group_command,
    &cli_schedule_command,
    &cli_job_command,
    &cli_secret_command,
    &cli_node_command,
    &cli_events_command,
    &cli_doctor_command,
    &cli_serve_command,
    &cli_tcmu_handler_command,
    &cli_complete_command,
    &cli_help_command,
    &cli_version_command,
    NULL,
};

#define COMMANDS_MAX      48
#define OPTIONS_BYTES_MAX 4096

const struct cli_command *cli_command_find(const char *name)
{
    const char *names[COMMANDS_MAX + 1] = {NULL};
    unsigned count = 0;
    for (const struct cli_command *const *at = cli_commands; *at && count < COMMANDS_MAX; at++) {
        if (!strcmp((*at)->name, name))
            return *at;
        if (!(*at)->hidden)
            names[count++] = (*at)->name;
    }
    const char *near = cli_nearest(name, names);
    struct hws_error err = {0};
    if (near)
        hws_fail(&err, EINVAL, "unknown command '%.100s'; did you mean '%s'?", name, near);
    else
        hws_fail(&err, EINVAL, "unknown command '%.100s'; 'hawser help' lists them", name);
    out_error(NULL, CLI_USAGE, &err);
    return NULL;
}

/* Of the verb that was said, or of the command. */
static void print_help(const struct cli_command *command, const char *word)
{
    const struct cli_verb *verb = cli_verb_find(command, word);
    if (verb)
        cli_help_verb(command, verb, stdout);
    else
        cli_help(command, stdout);
}

static int run_command(const struct cli_command *command, char **arguments, unsigned count)
{
    _Alignas(max_align_t) uint8_t options[OPTIONS_BYTES_MAX];
    assert(command->options_bytes <= sizeof(options));
    struct hws_error err = {0};
    if (command->managed && count && cli_verb_find(command->managed, arguments[0]))
        command = command->managed;
    int operands = cli_parse(command, arguments, count, options, &err);
    if (operands == -2) {
        print_help(command, count ? arguments[0] : "");
        return CLI_OK;
    }
    if (operands < 0) {
        out_error(command->name, CLI_USAGE, &err);
        if (!command->verbs)
            fprintf(stderr, "usage: hawser %s %.*s\n", command->name,
                    (int)strcspn(command->synopsis, "\n"), command->synopsis);
        return command->usage_exit ? command->usage_exit : CLI_USAGE;
    }
    return command->verbs ? control_run_verb(command, options, arguments, (unsigned)operands)
                          : command->run(options, arguments, (unsigned)operands);
}

/* A full disk or a closed pipe under standard output is a failure, not silence. */
static int close_output(int exit_code)
{
    if (fflush(stdout) == 0 && !ferror(stdout))
        return exit_code;
    struct hws_error err = {0};
    hws_fail_errno(&err, errno ? errno : EIO, "cannot write the output");
    return out_error(NULL, exit_code ? exit_code : CLI_FAILED, &err);
}

/* A chain of images needs a descriptor a layer, and the usual soft limit is 1024. */
static void raise_descriptor_limit(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}

int main(int argc, char **argv)
{
    raise_descriptor_limit();
    const char *slash = argc > 0 ? strrchr(argv[0], '/') : NULL;
    const char *called = argc > 0 ? (slash ? slash + 1 : argv[0]) : "";
    if (strcmp(called, "qemu-img") == 0)
        return close_output(qemu_img_main(argc, argv));
    if (strcmp(called, "qemu-nbd") == 0)
        return close_output(qemu_nbd_main(argc, argv));
    if (argc < 2) {
        cli_help(NULL, stderr);
        return CLI_USAGE;
    }
    const char *name = argv[1];
    if (!strcmp(name, "--help") || !strcmp(name, "-h"))
        name = "help";
    else if (!strcmp(name, "--version") || !strcmp(name, "-V"))
        name = "version";
    const struct cli_command *command = cli_command_find(name);
    if (!command)
        return CLI_USAGE;
    return close_output(run_command(command, argv + 2, (unsigned)argc - 2));
}
