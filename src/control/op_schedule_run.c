/*
 * What schedules do when their time has come; op_schedule.c has the rules.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/log.h"
#include "control/internal.h"
#include "control/retention.h"
#include "control/schedule_time.h"

/** Until what failed is tried again, and ages are looked at. */
#define AGAIN_S 60
/** Snapshots that one moment may make where their names are taken. */
#define NAMES_MAX 20

/** A snapshot of the schedule, of a volume or a group. */
struct taken {
    struct kept kept;
    char id[ID_BYTES];
};

/* ---- those there are ---- */

static int compare(const void *a, const void *b)
{
    const struct kept *x = &((const struct taken *)a)->kept, *y = &((const struct taken *)b)->kept;
    if (x->clock_s != y->clock_s)
        return x->clock_s > y->clock_s ? -1 : 1;
    return x->created_s > y->created_s ? -1 : x->created_s < y->created_s;
}

static bool is_of(const json_t *snapshot, const struct schedule *schedule)
{
    const char *by = json_string_value(json_object_get(snapshot, "schedule"));
    const char *state = json_string_value(json_object_get(snapshot, "state"));
    return by && !strcmp(by, schedule->id) && state && !strcmp(state, STATE_AVAILABLE) &&
           !json_object_get(snapshot, "group-snapshot");
}

static uint64_t number(const json_t *snapshot, const char *member)
{
    return (uint64_t)json_integer_value(json_object_get(snapshot, member));
}

/* @ret the newest first; free(). */
static int list_taken(struct control *control, const struct schedule *schedule, struct taken **ret,
                      size_t *ret_count, struct hws_error *err)
{
    auto_json *list = NULL;
    size_t i, count = 0;
    json_t *snapshot;
    int r = object_list(control, schedule->volume ? &snapshot_type : &group_snapshot_type,
                        schedule->volume ? schedule->volume : schedule->group, &list, err);
    struct taken *taken = r == 0 ? calloc(json_array_size(list) + 1, sizeof(*taken)) : NULL;
    if (!taken)
        return r < 0 ? r : hws_fail(err, ENOMEM, "out of memory");
    json_array_foreach(list, i, snapshot)
    {
        const char *id = json_string_value(json_object_get(snapshot, "id"));
        if (!id || !is_of(snapshot, schedule))
            continue;
        snprintf(taken[count].id, ID_BYTES, "%s", id);
        taken[count].kept.created_s = number(snapshot, "created");
        taken[count++].kept.clock_s = number(snapshot, "clock");
    }
    qsort(taken, count, sizeof(*taken), compare);
    *ret = taken;
    *ret_count = count;
    return 0;
}

/* ---- taking one ---- */

static int take_named(struct control *control, const struct schedule *schedule, const char *name,
                      struct hws_error *err)
{
    auto_snapshot snapshot = {.labels = json_object(), .clock = clock_s(control)};
    auto_group_snapshot group = {.labels = json_object(), .clock = clock_s(control)};
    if (record_set_text(&snapshot.name, name) < 0 || record_set_text(&group.name, name) < 0 ||
        record_set_text(&snapshot.schedule, schedule->id) < 0 ||
        record_set_text(&group.schedule, schedule->id) < 0)
        return hws_fail(err, ENOMEM, "out of memory");
    return schedule->volume ? snapshot_make(control, schedule->volume, &snapshot, err)
                            : group_snapshot_make(control, schedule->group, &group, err);
}

/* The name tells the time; a clock that was set back makes times come twice. */
static int take_one(struct control *control, const struct schedule *schedule, uint64_t now_s,
                    struct hws_error *err)
{
    char date[32], name[160];
    struct tm tm;
    time_t at = (time_t)now_s;
    int r = -EEXIST;
    if (!gmtime_r(&at, &tm) || !strftime(date, sizeof(date), "%Y%m%dT%H%M%SZ", &tm))
        return hws_fail(err, ERANGE, "the time of day is no date");
    for (unsigned i = 1; r == -EEXIST && i <= NAMES_MAX; i++) {
        if (i == 1)
            snprintf(name, sizeof(name), "%s-%s", schedule->name, date);
        else
            snprintf(name, sizeof(name), "%s-%s-%u", schedule->name, date, i);
        r = take_named(control, schedule, name, err);
    }
    return r;
}

/* ---- deleting ---- */

static int delete_one(struct control *control, const struct schedule *schedule, const char *id,
                      struct hws_error *err)
{
    int r = schedule->volume ? control_snapshot_delete(control, schedule->volume, id, err)
                             : control_group_snapshot_delete(control, schedule->group, id, err);
    return r == -ENOENT ? 0 : r;
}

static int prune(struct control *control, const struct schedule *schedule, struct hws_error *err)
{
    const struct retention retention = {
        .keep = schedule->keep,
        .hourly = schedule->keep_hourly,
        .daily = schedule->keep_daily,
        .weekly = schedule->keep_weekly,
        .monthly = schedule->keep_monthly,
        .keep_for_s = schedule->keep_for_s,
    };
    autofree struct taken *taken = NULL;
    size_t count = 0;
    if (!retention_is_given(&retention))
        return 0;
    int r = list_taken(control, schedule, &taken, &count, err);
    autofree struct kept *kept = r == 0 ? calloc(count + 1, sizeof(*kept)) : NULL;
    if (!kept)
        return r < 0 ? r : hws_fail(err, ENOMEM, "out of memory");
    for (size_t i = 0; i < count; i++)
        kept[i] = taken[i].kept;
    retention_apply(&retention, clock_s(control), kept, count);
    for (size_t i = count; i-- > 0 && r == 0;)
        if (!kept[i].keep)
            r = delete_one(control, schedule, taken[i].id, err);
    return r;
}

/* ---- when it is time ---- */

/* A crash may have come between the snapshot and the note of it. */
static int is_taken(struct control *control, const struct schedule *schedule, uint64_t now_s,
                    struct hws_error *err)
{
    autofree struct taken *taken = NULL;
    size_t count = 0;
    int r = list_taken(control, schedule, &taken, &count, err);
    if (r < 0)
        return r;
    return count > 0 && taken[0].kept.created_s >= schedule->next &&
           taken[0].kept.created_s <= now_s;
}

static void note(struct control *control, struct schedule *schedule, struct hws_error *err)
{
    auto_batch batch = {0};
    batch_put(&batch, &schedule_type, schedule);
    control_lock_model(control);
    clock_note(control, &batch);
    if (batch_commit(&batch, control, err) < 0)
        log_warning("schedule '%s' is not noted: %s", schedule->name, err->text);
    control_unlock_model(control);
}

/* @return whether the record is another now. */
static bool run_due(struct control *control, struct schedule *schedule,
                    const struct moments *moments, uint64_t now_s, int *ret_result,
                    struct hws_error *err)
{
    uint64_t next = moments_next(moments, now_s);
    *ret_result = 0;
    if (schedule->next > now_s) {
        bool late = schedule->next > next; /* the clock was set back */
        schedule->next = MIN(schedule->next, next);
        return late;
    }
    int r = is_taken(control, schedule, now_s, err);
    if (r == 0)
        r = take_one(control, schedule, now_s, err);
    *ret_result = MIN(r, 0);
    if (r < 0)
        return false;
    schedule->last = now_s;
    schedule->next = next;
    return true;
}

/* What went wrong last stands in the record, and once in the log. @return whether it is new. */
static bool note_error(struct schedule *schedule, int result, const struct hws_error *err)
{
    const char *text = result < 0 ? err->text : NULL;
    if (!text && !schedule->error)
        return false;
    if (text && schedule->error && !strncmp(text, schedule->error, RECORD_TEXT_MAX))
        return false;
    if (text)
        log_warning("schedule '%s': %s", schedule->name, text);
    char shown[512];
    snprintf(shown, sizeof(shown), "%.500s", text ? text : "");
    return record_set_text(&schedule->error, text ? shown : NULL) == 0;
}

static uint64_t run_one(struct control *control, const char *id)
{
    auto_schedule schedule = {0};
    struct hws_error err = {0}, why = {0};
    struct moments moments;
    uint64_t now_s = clock_wall_s(control);
    if (schedule_take(control, id, &schedule, &err) < 0)
        return now_s + AGAIN_S; /* deleted, or worked on */
    uint64_t next = UINT64_MAX;
    int result = schedule.cron ? moments_parse_cron(schedule.cron, &moments, &err)
                               : moments_parse_every(schedule.every, &moments, &err);
    if (!schedule.paused && result == 0) {
        uint64_t before = schedule.next;
        bool changed = run_due(control, &schedule, &moments, now_s, &result, &err);
        if (changed && before <= now_s)
            note(control, &schedule, &why); /* before what comes of it */
        if (result == 0)
            result = prune(control, &schedule, &err);
        if (note_error(&schedule, result, &err) || (changed && before > now_s))
            note(control, &schedule, &why);
        next = schedule.next;
        if (result < 0 || schedule.keep_for_s || next <= now_s)
            next = MIN(MAX(next, now_s + 1), now_s + AGAIN_S);
    }
    locks_release(&control->locks, schedule.id);
    return next;
}

uint64_t schedules_run(struct control *control)
{
    auto_json *list = NULL;
    uint64_t next = UINT64_MAX;
    size_t i;
    json_t *schedule;
    if (object_list(control, &schedule_type, NULL, &list, NULL) < 0)
        return clock_wall_s(control) + AGAIN_S;
    json_array_foreach(list, i, schedule)
    {
        const char *id = json_string_value(json_object_get(schedule, "id"));
        if (id)
            next = MIN(next, run_one(control, id));
    }
    return next;
}
