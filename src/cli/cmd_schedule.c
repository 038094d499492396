/*
 * `hawser schedule`: when snapshots are taken, and which of them stay, by way of hawserd.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cli/control.h"

struct schedule_options {
    struct control_command control;
    const char *volume, *group, *every, *cron;
    uint64_t keep, keep_hourly, keep_daily, keep_weekly, keep_monthly, keep_for;
    struct cli_list labels;
    bool no_labels, paused;
};

static const struct control_column columns[] = {
    {"NAME", "name"},
    {"VOLUME", "volume", CONTROL_REF, "/v1/volumes/"},
    {"GROUP", "group", CONTROL_REF, "/v1/groups/"},
    {"EVERY", "every"},
    {"CRON", "cron"},
    {"NEXT", "next", CONTROL_TIME},
    {"LAST", "last", CONTROL_TIME},
    {"PAUSED", "paused", CONTROL_FLAG},
    {"ERROR", "error"},
    {NULL},
};

static const struct control_column fields[] = {
    {"name", "name"},
    {"id", "id"},
    {"volume", "volume", CONTROL_REF, "/v1/volumes/"},
    {"group", "group", CONTROL_REF, "/v1/groups/"},
    {"every", "every"},
    {"cron (UTC)", "cron"},
    {"next", "next", CONTROL_TIME},
    {"last", "last", CONTROL_TIME},
    {"error", "error"},
    {"paused", "paused", CONTROL_FLAG},
    {"keep", "keep", CONTROL_NUMBER},
    {"keep hourly", "keep-hourly", CONTROL_NUMBER},
    {"keep daily", "keep-daily", CONTROL_NUMBER},
    {"keep weekly", "keep-weekly", CONTROL_NUMBER},
    {"keep monthly", "keep-monthly", CONTROL_NUMBER},
    {"keep for", "keep-for", CONTROL_SECONDS},
    {"labels", "labels", CONTROL_LABELS},
    {"created", "created", CONTROL_TIME},
    {NULL},
};

static const struct cli_verb verbs[] = {
    {"list", "", "show the schedules", "GET", "/v1/schedules", NULL, columns, true},
    {"show", "SCHEDULE", "show all of one", "GET", "/v1/schedules/%", NULL, fields},
    {"create", "NAME", "take snapshots of a volume or a group from now on", "POST", "/v1/schedules",
     "name", fields},
    {"set", "SCHEDULE", "change what the options say", "PATCH", "/v1/schedules/%", NULL, fields},
    {"rename", "SCHEDULE NAME", "give it another name", "PATCH", "/v1/schedules/%", "name"},
    {"pause", "SCHEDULE...", "take nothing, and delete nothing, until it goes on", "PATCH",
     "/v1/schedules/%", "paused=true"},
    {"resume", "SCHEDULE...", "go on", "PATCH", "/v1/schedules/%", "paused=false"},
    {"delete", "SCHEDULE...", "forget schedules; their snapshots stay", "DELETE",
     "/v1/schedules/%"},
    {NULL},
};

#define OPTION(field) offsetof(struct schedule_options, field)
#define BOTH          "create set"

static const struct cli_option table[] = {
    {"volume", 0, CLI_TEXT, OPTION(volume), "VOLUME", "what snapshots are taken of",
     .completes = CLI_COMPLETE_VOLUME, .verbs = "create", .member = "volume"},
    {"group", 0, CLI_TEXT, OPTION(group), "GROUP", "or of which volumes together",
     .completes = CLI_COMPLETE_GROUP, .verbs = "create", .member = "group"},
    {"every", 0, CLI_TEXT, OPTION(every), "WHEN",
     "hourly, daily, weekly, monthly, or a time such as 15m, 2h or 1d", .verbs = BOTH,
     .member = "every"},
    {"cron", 0, CLI_TEXT, OPTION(cron), "FIELDS",
     "instead of that, the five fields of cron, in UTC: '30 2 * * 1-5'", .verbs = BOTH,
     .member = "cron"},
    {"keep", 0, CLI_NUMBER, OPTION(keep), "N", "the last N stay", .verbs = BOTH, .member = "keep"},
    {"keep-hourly", 0, CLI_NUMBER, OPTION(keep_hourly), "N",
     "the last one of each of N hours stays", .verbs = BOTH, .member = "keep-hourly"},
    {"keep-daily", 0, CLI_NUMBER, OPTION(keep_daily), "N", "of each of N days", .verbs = BOTH,
     .member = "keep-daily"},
    {"keep-weekly", 0, CLI_NUMBER, OPTION(keep_weekly), "N", "of each of N weeks", .verbs = BOTH,
     .member = "keep-weekly"},
    {"keep-monthly", 0, CLI_NUMBER, OPTION(keep_monthly), "N", "of each of N months", .verbs = BOTH,
     .member = "keep-monthly"},
    {"keep-for", 0, CLI_TIME, OPTION(keep_for), "TIME", "all stay so long, such as 2w",
     .verbs = BOTH, .member = "keep-for"},
    {"paused", 0, CLI_FLAG, OPTION(paused), NULL, "it begins with 'hawser schedule resume'",
     .verbs = "create", .member = "paused"},
    CLI_LABEL_OPTION(struct schedule_options, labels, BOTH),
    CLI_NO_LABELS_OPTION(struct schedule_options, no_labels, "set"),
    CLI_WATCH_OPTION(struct schedule_options, "list show"),
    CLI_CONTROL_OPTIONS(struct schedule_options),
    {NULL},
};

const struct cli_command cli_schedule_command = {
    .name = "schedule",
    .summary = "Manage schedules: snapshots at their time, and which of them stay",
    .description =
        "A schedule takes snapshots of a volume, or of a group of volumes, and deletes those of "
        "its "
        "own that no rule keeps; without a rule all stay, and what a person took is never deleted. "
        "One that is missed, the host being off, is taken once when it is on again.",
    .examples = {{"every night, for a week",
                  "hawser schedule create nightly --volume=data --every=daily --keep=7"},
                 {"of a group, at half past two on weekdays",
                  "hawser schedule create work --group=db --cron='30 2 * * 1-5' --keep-weekly=8"},
                 {"when the next ones are", "hawser schedule list"}},
    .options = table,
    .options_bytes = sizeof(struct schedule_options),
    .verbs = verbs,
};
