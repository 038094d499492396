/*
 * Options, taken by getopt_long() as qemu-img takes them: letters in a bunch, values behind a
 * letter or after it, long names cut short, operands and options in any order. Each command has a
 * table of its options; the row of an option says which field of the command's struct it sets, or
 * which function takes it where its place among the others counts.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cli/qemu/qemu.h"

#define ROWS_MAX  48
#define ROW_FIRST 256 /* what getopt_long() returns for the long name of the first row */

/* The rows in getopt's language. */
struct words {
    char letters[2 * ROWS_MAX + 3];
    struct option longs[ROWS_MAX + 2];
};

/* Objects that another build of qemu-img knows; each is refused by its name. */
int qi_refuse_object(void *command, const struct qi_arg *arg, char *text)
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

static void spell(const struct qi_args *args, struct words *words)
{
    char *letter = words->letters;
    struct option *next = words->longs;
    assert(args->count <= ROWS_MAX);
    if (!args->getopt_told)
        *letter++ = ':';
    *letter++ = 'h';
    *next++ = (struct option){"help", no_argument, NULL, 'h'};
    for (unsigned i = 0; i < args->count; i++) {
        const struct qi_arg *row = &args->rows[i];
        bool value = row->kind >= QI_ARG_TEXT;
        if (row->letter)
            *letter++ = row->letter;
        if (row->letter && value)
            *letter++ = ':';
        if (row->name)
            *next++ = (struct option){row->name, value ? required_argument : no_argument, NULL,
                                      ROW_FIRST + (int)i};
    }
    *letter = '\0';
    *next = (struct option){0};
}

/* The row of what getopt_long() found, which is one of those that it was given. */
static const struct qi_arg *find_row(const struct qi_args *args, int option)
{
    if (option >= ROW_FIRST)
        return &args->rows[option - ROW_FIRST];
    const struct qi_arg *row = args->rows;
    while (row->letter != option)
        row++;
    return row;
}

static int take(const struct qi_arg *row, void *command, char *value)
{
    void *field = (char *)command + row->offset;
    switch (row->kind) {
    case QI_ARG_NOTHING:
        return 0;
    case QI_ARG_FLAG:
        *(bool *)field = true;
        return 0;
    case QI_ARG_BITS:
        *(unsigned *)field |= row->bits;
        return 0;
    case QI_ARG_TEXT:
        *(const char **)field = value;
        return 0;
    case QI_ARG_SIZE:
        return qi_size_argument(row->what, value, row->min, row->max, field);
    case QI_ARG_DO:
    case QI_ARG_TAKE:
        return row->call(command, row, value);
    }
    return 0;
}

int qi_take(const struct qi_args *args, void *command, int argc, char **argv)
{
    struct words words = {0};
    int code = 0;
    spell(args, &words);
    for (int c;
         code == 0 && (c = getopt_long(argc, argv, words.letters, words.longs, NULL)) != -1;) {
        if (c == '?' && !args->getopt_told)
            return qi_usage("unrecognized option '%s'", argv[optind - 1]);
        if (c == ':')
            return qi_usage("missing argument for option '%s'", argv[optind - 1]);
        if (c == 'h' || c == '?') {
            return c == 'h' ? qi_tool->help() : args->getopt_told();
        }
        code = take(find_row(args, c), command, optarg);
    }
    return code ? code : QI_GO;
}
