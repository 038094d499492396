/*
 * Options, taken by getopt_long() as qemu-img takes them: letters in a bunch, values behind a
 * letter or after it, long names cut short, operands and options in any order.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cli/qemu_img/qemu_img.h"

/* Objects that another build of qemu-img knows; each is refused by its name. */
int qi_refuse_object(const char *text)
{
    char type[64];
    size_t length = strcspn(text, ",");
    const char *at = text;
    if (strncmp(text, "qom-type=", 9) == 0) {
        at += 9;
        length -= 9;
    } else if (memchr(text, '=', length)) {
        return qi_error("Parameter 'qom-type' is missing");
    }
    snprintf(type, sizeof(type), "%.*s", (int)MIN(length, sizeof(type) - 1), at);
    return qi_error("Parameter 'qom-type' does not accept value '%s'", type);
}

int qi_next(struct qi_args *args)
{
    if (!*args->all_letters)
        snprintf(args->all_letters, sizeof(args->all_letters), ":h%s", args->letters);
    int c = getopt_long(args->argc, args->argv, args->all_letters, args->longs, NULL);
    switch (c) {
    case 'h':
        qi_help();
        args->exit_code = 0;
        return QI_EXIT;
    case '?':
        args->exit_code = qi_usage("unrecognized option '%s'", args->argv[optind - 1]);
        return QI_EXIT;
    case ':':
        args->exit_code = qi_usage("missing argument for option '%s'", args->argv[optind - 1]);
        return QI_EXIT;
    case QI_OBJECT:
        args->exit_code = qi_refuse_object(optarg);
        return QI_EXIT;
    default:
        return c;
    }
}

bool qi_cache_known(const char *name, enum qi_cache_use use)
{
    static const char *const names[] = {"none",         "off",        "writeback",
                                        "writethrough", "directsync", "unsafe"};
    for (unsigned i = 0; i < ARRAY_LEN(names); i++)
        if (strcmp(name, names[i]) == 0)
            return true;
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
