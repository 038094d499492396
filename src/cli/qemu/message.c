/*
 * Messages of a tool, by its name.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cli/qemu/qemu.h"

static const struct qi_tool nobody = {.name = "qemu", .cannot_open = "Could not open"};

const struct qi_tool *qi_tool = &nobody;

static void print_message(const char *prefix, const char *format, va_list arguments)
{
    fprintf(stderr, "%s: %s", qi_tool->name, prefix);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
}

int qi_error(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fflush(stdout);
    print_message("", format, arguments);
    va_end(arguments);
    return 1;
}

int qi_usage(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fflush(stdout);
    print_message("", format, arguments);
    va_end(arguments);
    fprintf(stderr, "%s\n", qi_tool->try_help);
    return 1;
}

void qi_warning(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fflush(stdout);
    print_message("warning: ", format, arguments);
    va_end(arguments);
}
