/*
 * docs/scsi.md lists the commands as the table in command.c has them. Where it does not, the table
 * as it should be is printed.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "scsi/internal.h"
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

static const char *data_of(const struct command *command)
{
    return command->direction == DATA_IN ? "in" : command->direction == DATA_OUT ? "out" : "-";
}

static const char *reserve_of(const struct command *command)
{
    static const char *const words[] = {
        [RESERVE_ALLOWED] = "runs",
        [RESERVE_READ] = "unless exclusive access",
        [RESERVE_WRITE] = "conflict",
        [RESERVE_IN_BODY] = "depends",
    };
    return words[command->reserve];
}

static void format_row(const struct command *command, char *row, size_t size)
{
    char code[16];
    if (command->service_action >= 0)
        snprintf(code, sizeof(code), "%02X/%02X", command->opcode,
                 (unsigned)command->service_action);
    else
        snprintf(code, sizeof(code), "%02X", command->opcode);
    snprintf(row, size, "| %s | %s | %u | %s | %s | %s |\n", code, command->name, command->length,
             data_of(command), reserve_of(command), command->flags & COMMAND_WRITES ? "yes" : "");
}

static char *read_docs(void)
{
    FILE *file = fopen(SCSI_DOCS, "re");
    char *text = calloc(1, 64 * KiB);
    if (file && text)
        (void)!fread(text, 1, 64 * KiB - 1, file);
    if (file)
        fclose(file);
    return text;
}

static void the_commands_are_documented_as_they_are(void **state)
{
    static const char begin[] = "<!-- commands -->\n", end[] = "<!-- end of commands -->\n";
    autofree char *text = read_docs();
    size_t room = command_count * 160u + 512;
    autofree char *wanted = calloc(1, room);
    assert_non_null(text);
    assert_non_null(wanted);
    size_t used = (size_t)snprintf(wanted, room,
                                   "| code | command | bytes | data | reserved by another | writes "
                                   "|\n|---|---|---|---|---|---|\n");
    for (unsigned i = 0; i < command_count; i++) {
        char row[160];
        format_row(&commands[i], row, sizeof(row));
        used += (size_t)snprintf(wanted + used, room - used, "%s", row);
    }
    const char *from = strstr(text, begin), *to = from ? strstr(from, end) : NULL;
    bool same = to && (size_t)(to - from) - strlen(begin) == used &&
                !memcmp(from + strlen(begin), wanted, used);
    if (!same)
        fprintf(stderr, "docs/scsi.md is to have:\n%s%s%s", begin, wanted, end);
    assert_true(same);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_commands_are_documented_as_they_are),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
