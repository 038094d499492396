/*
 * Options that several subcommands have.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cli/qemu_img/qemu_img.h"

int qi_take_options(void *command, const struct qi_arg *arg, char *text)
{
    return qi_join_options((char **)((char *)command + arg->offset), text);
}

int qi_two_formats(const char *format, unsigned reach)
{
    return format && reach & QI_IMAGE_OPTS
               ? qi_error("--image-opts and --format are mutually exclusive")
               : 0;
}

bool qi_cache_known(const char *name, enum qi_cache_use use)
{
    static const char *const names[] = {"none",         "off",        "writeback",
                                        "writethrough", "directsync", "unsafe"};
    for (unsigned i = 0; i < ARRAY_LEN(names); i++)
        if (strcmp(name, names[i]) == 0)
            return true;
    if (use == QI_CACHE_BENCH)
        qi_error("Invalid cache mode");
    else
        qi_error(use == QI_CACHE_SOURCE ? "Invalid source cache option: %s"
                                        : "Invalid cache option: %s",
                 name);
    return false;
}

int qi_output(const char *name)
{
    if (!name || strcmp(name, "human") == 0)
        return 0;
    if (strcmp(name, "json") == 0)
        return 1;
    qi_error("--output must be used with human or json as argument.");
    return -1;
}
