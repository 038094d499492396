/*
 * Snapshots inside an image; see internal_snapshot.h.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cli/internal_snapshot.h"
#include "base/size.h"
#include "cli/image.h"
#include "cli/output.h"
#include "engine/client.h"
#include <time.h>

static uint64_t number(const json_t *entry, const char *key)
{
    return (uint64_t)json_integer_value(json_object_get(entry, key));
}

/* Pads a text of unknown bytes to @width columns, and parts it from the next. */
static void print_cell(const json_t *entry, const char *key, size_t width)
{
    const char *text = json_string_value(json_object_get(entry, key));
    out_safe(stdout, text ? text : "?");
    for (size_t length = text ? strlen(text) : 1; length < width; length++)
        putchar(' ');
    putchar(' ');
}

static void print_snapshot(const json_t *entry)
{
    char size[32], date[32] = "-", clock[48];
    time_t seconds = (time_t)number(entry, "date-sec");
    uint64_t up = number(entry, "vm-clock-sec");
    struct tm local;
    if (localtime_r(&seconds, &local))
        strftime(date, sizeof(date), "%Y-%m-%d %H:%M:%S", &local);
    snprintf(clock, sizeof(clock), "%02llu:%02llu:%02llu.%03llu", (unsigned long long)(up / 3600),
             (unsigned long long)(up / 60 % 60), (unsigned long long)(up % 60),
             (unsigned long long)(number(entry, "vm-clock-nsec") / 1000000));
    print_cell(entry, "id", 9);
    print_cell(entry, "name", 24);
    printf("%10s %19s %12s\n", size_format(number(entry, "vm-state-size"), size, sizeof(size)),
           date, clock);
}

void cli_print_snapshots(const json_t *snapshots)
{
    size_t i;
    json_t *entry;
    printf("%-9s %-24s %10s %19s %12s\n", "ID", "NAME", "VM STATE", "DATE", "VM CLOCK");
    json_array_foreach(snapshots, i, entry) print_snapshot(entry);
}

void cli_show_snapshots(json_t *snapshots, bool json)
{
    if (json) {
        out_json(snapshots);
        return;
    }
    if (json_array_size(snapshots))
        cli_print_snapshots(snapshots);
    else
        fprintf(stderr, "there are no snapshots inside this image\n");
    json_decref(snapshots);
}

int cli_list_snapshots(const struct hws_image *image, bool json)
{
    struct hws_error err = {0};
    char *text;
    if (hws_internal_snapshots(image, &text, &err) < 0) {
        cli_explain_open(&err, image->path);
        return out_error("snapshot", CLI_FAILED, &err);
    }
    json_t *snapshots = json_loads(text, 0, NULL);
    free(text);
    cli_show_snapshots(snapshots, json);
    return CLI_OK;
}

void cli_show_change(const char *what, enum hws_snapshot_action action, const char *name, bool json)
{
    static const struct {
        const char *key, *text;
    } done[] = {
        [HWS_SNAPSHOT_CREATE] = {"created", "took the snapshot"},
        [HWS_SNAPSHOT_APPLY] = {"applied", "went back to the snapshot"},
        [HWS_SNAPSHOT_DELETE] = {"deleted", "deleted the snapshot"},
    };
    if (json) {
        out_json(
            json_pack("{s:o, s:o}", "image", out_string(what), done[action].key, out_string(name)));
        return;
    }
    out_safe(stdout, what);
    printf(": %s ", done[action].text);
    out_safe(stdout, name);
    putchar('\n');
}

int cli_change_snapshot(const struct hws_image *image, enum hws_snapshot_action action,
                        const char *name, bool json)
{
    struct hws_error err = {0};
    if (hws_internal_snapshot(image, action, name, &err) < 0) {
        cli_explain_open(&err, image->path);
        return out_error("snapshot", CLI_FAILED, &err);
    }
    cli_show_change(image->path, action, name, json);
    return CLI_OK;
}
