/*
 * `hawser version`.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cli/command.h"
#include "cli/output.h"

struct version_options {
    int output;
};

static int run(const void *arg, char **operands, unsigned count)
{
    const struct version_options *options = arg;
    if (options->output == CLI_JSON)
        out_json(json_pack("{s:s}", "version", HAWSER_VERSION));
    else
        printf("hawser %s\n", HAWSER_VERSION);
    return CLI_OK;
}

static const struct cli_option table[] = {
    CLI_OUTPUT_OPTION(struct version_options),
    {NULL},
};

const struct cli_command cli_version_command = {
    .name = "version",
    .summary = "Print the version",
    .synopsis = "[OPTION...]",
    .description = "Prints the version of this program.",
    .examples = {{"for a program", "hawser version --output=json"}},
    .options = table,
    .options_bytes = sizeof(struct version_options),
    .run = run,
};
