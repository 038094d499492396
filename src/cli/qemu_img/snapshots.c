/*
 * The table of internal snapshots, of `info` and of `snapshot -l`.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cli/qemu_img/qemu_img.h"
#include <time.h>

static long long number(json_t *snapshot, const char *name)
{
    return (long long)json_integer_value(json_object_get(snapshot, name));
}

static void print_one(json_t *snapshot)
{
    char size[64], date[64] = "", clock[64], icount[32] = "";
    time_t when = (time_t)number(snapshot, "date-sec");
    long long seconds = number(snapshot, "vm-clock-sec");
    struct tm local;
    if (localtime_r(&when, &local))
        strftime(date, sizeof(date), "%Y-%m-%d %H:%M:%S", &local);
    snprintf(clock, sizeof(clock), "%02lld:%02lld:%02lld.%03lld", seconds / 3600, seconds / 60 % 60,
             seconds % 60, number(snapshot, "vm-clock-nsec") / 1000000);
    if (json_object_get(snapshot, "icount"))
        snprintf(icount, sizeof(icount), "%lld", number(snapshot, "icount"));
    printf("%-9s %-16s %8s%20s%13s%11s\n", json_string_value(json_object_get(snapshot, "id")),
           json_string_value(json_object_get(snapshot, "name")),
           qi_human_size((uint64_t)number(snapshot, "vm-state-size"), size, sizeof(size)), date,
           clock, icount);
}

void qi_print_snapshots(json_t *snapshots)
{
    size_t i;
    json_t *snapshot;
    printf("%-10s%-17s%8s%20s%13s%11s\n", "ID", "TAG", "VM SIZE", "DATE", "VM CLOCK", "ICOUNT");
    json_array_foreach(snapshots, i, snapshot) print_one(snapshot);
}
