/*
 * Schedules: when snapshots are taken of a volume or a group, and which of those stay.
 *
 * When a snapshot is due, the time of day says. One that was missed, the host being off for
 * instance, is taken once when it is noticed; a clock that was set forwards makes one early, and
 * one that was set back lets nothing wait longer than the schedule's own time. How old a snapshot
 * is, the catalog's clock says (clock.c). Only snapshots that carry the schedule's id are deleted.
 *
 * A snapshot and the schedule's next moment are two transactions: a snapshot that was taken since
 * the moment was due tells that the second one is missing.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "control/internal.h"
#include "control/schedule_time.h"

/** Room for the date behind the name. */
#define SCHEDULE_NAME_MAX 100

#define RULES                                                                                      \
    {"keep", RECORD_UINT, offsetof(struct schedule, keep), "the last ones that stay"},             \
        {"keep-hourly", RECORD_UINT, offsetof(struct schedule, keep_hourly),                       \
         "hours of which the last one stays"},                                                     \
        {"keep-daily", RECORD_UINT, offsetof(struct schedule, keep_daily),                         \
         "days of which the last one stays"},                                                      \
        {"keep-weekly", RECORD_UINT, offsetof(struct schedule, keep_weekly),                       \
         "weeks of which the last one stays"},                                                     \
        {"keep-monthly", RECORD_UINT, offsetof(struct schedule, keep_monthly),                     \
         "months of which the last one stays"},                                                    \
        {"keep-for", RECORD_UINT, offsetof(struct schedule, keep_for_s), "seconds that all stay"}, \
        {"paused", RECORD_BOOL, offsetof(struct schedule, paused),                                 \
         "nothing is taken, and nothing deleted"},                                                 \
    {                                                                                              \
        "labels", RECORD_LABELS, offsetof(struct schedule, labels), "texts of the user's own"      \
    }
#define MOMENTS                                                                            \
    {"every", RECORD_TEXT, offsetof(struct schedule, every),                               \
     "hourly, daily, weekly, monthly, or a time: 15m, 2h, 1d, 900"},                       \
    {                                                                                      \
        "cron", RECORD_TEXT, offsetof(struct schedule, cron), "cron's five fields, in UTC" \
    }

const struct record_field request_schedule_create[] = {
    {"name", RECORD_TEXT, offsetof(struct schedule, name), "unique name", true,
     .max = SCHEDULE_NAME_MAX},
    {"volume", RECORD_TEXT, offsetof(struct schedule, volume), "what snapshots are taken of"},
    {"group", RECORD_TEXT, offsetof(struct schedule, group), "or of which volumes together"},
    MOMENTS,
    RULES,
    {NULL},
};

const struct record_field request_schedule_change[] = {
    {"name", RECORD_TEXT, offsetof(struct schedule, name), "unique name", .max = SCHEDULE_NAME_MAX},
    MOMENTS,
    RULES,
    {NULL},
};

static int read_moments(const struct schedule *schedule, struct moments *ret, struct hws_error *err)
{
    if (!schedule->every == !schedule->cron)
        return hws_fail(err, EINVAL, "a schedule has either 'every' or 'cron'");
    return schedule->every ? moments_parse_every(schedule->every, ret, err)
                           : moments_parse_cron(schedule->cron, ret, err);
}

static int set_next(struct control *control, struct schedule *schedule, struct hws_error *err)
{
    struct moments moments;
    int r = read_moments(schedule, &moments, err);
    if (r == 0)
        schedule->next = moments_next(&moments, clock_wall_s(control));
    return r;
}

/* Names become ids. The model is locked. */
static int resolve(struct control *control, struct schedule *schedule, struct hws_error *err)
{
    auto_volume volume = {0};
    auto_group group = {0};
    if (!schedule->volume == !schedule->group)
        return hws_fail(err, EINVAL, "a schedule is for either a 'volume' or a 'group'");
    int r = schedule->volume ? object_find(control, &volume_type, schedule->volume, &volume, err)
                             : object_find(control, &group_type, schedule->group, &group, err);
    if (r == 0 && (schedule->volume ? record_set_text(&schedule->volume, volume.id)
                                    : record_set_text(&schedule->group, group.id)) < 0)
        r = hws_fail(err, ENOMEM, "out of memory");
    return r;
}

static int commit_schedule(struct control *control, struct schedule *schedule, bool fresh,
                           struct hws_error *err)
{
    auto_batch batch = {0};
    control_lock_model(control);
    int r = fresh ? resolve(control, schedule, err) : 0;
    if (r == 0) {
        (fresh ? batch_add : batch_put)(&batch, &schedule_type, schedule);
        r = batch_commit(&batch, control, err);
    }
    control_unlock_model(control);
    return r == -EEXIST ? hws_fail(err, EEXIST, "there is a schedule '%s' already", schedule->name)
                        : r;
}

int control_schedule_create(struct control *control, const json_t *given, json_t **ret,
                            struct hws_error *err)
{
    auto_schedule schedule = {0};
    char id[ID_BYTES];
    id_make(id);
    int r =
        record_parse(request_schedule_create, given, "schedule", &schedule, sizeof(schedule), err);
    if (r == 0)
        r = name_check("schedule", schedule.name, err);
    if (r == 0)
        r = set_next(control, &schedule, err);
    if (r == 0 && record_set_text(&schedule.id, id) < 0)
        r = hws_fail(err, ENOMEM, "out of memory");
    if (r < 0)
        return r;
    schedule.created = clock_wall_s(control);
    r = commit_schedule(control, &schedule, true, err);
    scheduler_wake(control);
    return r < 0 ? r : control_schedule_show(control, id, ret, err);
}

/* ---- changing ---- */

int schedule_take(struct control *control, const char *reference, struct schedule *ret,
                  struct hws_error *err)
{
    char id[ID_BYTES];
    int r = object_find(control, &schedule_type, reference, ret, err);
    if (r < 0)
        return r;
    snprintf(id, sizeof(id), "%s", ret->id);
    record_free(schedule_type.fields, ret);
    r = locks_take(&control->locks, id, OBJECT_WAIT_MS, err);
    if (r < 0)
        return hws_wrap(err, r, "schedule '%.140s'", reference);
    r = object_get(control, &schedule_type, id, ret, err);
    if (r < 0)
        locks_release(&control->locks, id);
    return r;
}

static bool is_given(const json_t *given, const char *name)
{
    const json_t *value = json_object_get(given, name);
    return value && !json_is_null(value);
}

static int take_moments(struct control *control, struct schedule *schedule,
                        const struct schedule *change, struct hws_error *err)
{
    if (change->every || change->cron) {
        if (record_set_text(&schedule->every, change->every) < 0 ||
            record_set_text(&schedule->cron, change->cron) < 0)
            return hws_fail(err, ENOMEM, "out of memory");
    } else if (!schedule->paused || change->paused) {
        return 0;
    }
    return set_next(control, schedule, err); /* what was missed in a pause was not wanted */
}

static int apply_change(struct control *control, struct schedule *schedule,
                        const struct schedule *change, const json_t *given, struct hws_error *err)
{
    const struct {
        const char *name;
        uint64_t *to;
        uint64_t from;
    } rules[] = {
        {"keep", &schedule->keep, change->keep},
        {"keep-hourly", &schedule->keep_hourly, change->keep_hourly},
        {"keep-daily", &schedule->keep_daily, change->keep_daily},
        {"keep-weekly", &schedule->keep_weekly, change->keep_weekly},
        {"keep-monthly", &schedule->keep_monthly, change->keep_monthly},
        {"keep-for", &schedule->keep_for_s, change->keep_for_s},
    };
    int r = change->name ? name_check("schedule", change->name, err) : 0;
    if (r == 0 && change->name && record_set_text(&schedule->name, change->name) < 0)
        r = hws_fail(err, ENOMEM, "out of memory");
    if (r == 0)
        r = take_moments(control, schedule, change, err);
    if (r < 0)
        return r;
    for (unsigned i = 0; i < ARRAY_LEN(rules); i++)
        if (is_given(given, rules[i].name))
            *rules[i].to = rules[i].from;
    if (is_given(given, "paused"))
        schedule->paused = change->paused;
    if (is_given(given, "labels")) {
        json_decref(schedule->labels);
        schedule->labels = json_incref(change->labels);
    }
    return commit_schedule(control, schedule, false, err);
}

int control_schedule_change(struct control *control, const char *reference, const json_t *given,
                            json_t **ret, struct hws_error *err)
{
    auto_schedule schedule = {0};
    struct schedule change;
    int r = record_parse(request_schedule_change, given, "schedule", &change, sizeof(change), err);
    if (r < 0)
        return r;
    r = schedule_take(control, reference, &schedule, err);
    if (r == 0) {
        r = apply_change(control, &schedule, &change, given, err);
        if (r == 0)
            r = control_schedule_show(control, schedule.id, ret, err);
        locks_release(&control->locks, schedule.id);
        scheduler_wake(control);
    }
    record_free(request_schedule_change, &change);
    return r;
}

int control_schedule_delete(struct control *control, const char *reference, struct hws_error *err)
{
    auto_schedule schedule = {0};
    auto_batch batch = {0};
    int r = schedule_take(control, reference, &schedule, err);
    if (r < 0)
        return r;
    batch_remove(&batch, &schedule_type, schedule.id);
    control_lock_model(control);
    r = batch_commit(&batch, control, err);
    control_unlock_model(control);
    locks_release(&control->locks, schedule.id);
    return r;
}

/* ---- showing ---- */

int control_schedule_show(struct control *control, const char *reference, json_t **ret,
                          struct hws_error *err)
{
    auto_schedule schedule = {0};
    int r = object_find(control, &schedule_type, reference, &schedule, err);
    if (r == 0)
        *ret = record_json(schedule_type.fields, &schedule);
    return r;
}

int control_schedule_list(struct control *control, const struct control_page *page, json_t **ret,
                          struct hws_error *err)
{
    return control_page(control, &schedule_type, NULL, page, "", NULL, ret, err);
}
