/*
 * The catalog's clock: seconds that this host ran, which never go back and never jump, whatever
 * happens to the time of day. What is deleted after a time is deleted by this clock, so a wrong
 * time of day deletes nothing too early; while the host is off nothing grows older.
 *
 *   clock = offset + CLOCK_BOOTTIME        {"boot", "offset", "clock"} in the catalog
 *
 * In another boot the offset is what the clock was when it was last saved: what passed since then
 * until the host's end is lost, and all stays that much longer.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/log.h"
#include "control/internal.h"

#define KIND "clock"
/** Between two times at which it is saved, when there is something that waits for it. */
#define SAVE_S 600

static void read_host(void *arg, struct control_now *ret)
{
    struct timespec running;
    clock_gettime(CLOCK_BOOTTIME, &running);
    ret->wall_s = (uint64_t)time(NULL);
    ret->running_s = (uint64_t)running.tv_sec;
}

void clock_now(struct control *control, struct control_now *ret)
{
    (control->now ? control->now : read_host)(control->at_arg, ret);
}

uint64_t clock_wall_s(struct control *control)
{
    struct control_now now;
    clock_now(control, &now);
    return now.wall_s;
}

uint64_t clock_s(struct control *control)
{
    struct control_now now;
    clock_now(control, &now);
    return control->clock_offset_s + now.running_s;
}

static uint64_t number(const json_t *record, const char *member)
{
    return (uint64_t)json_integer_value(json_object_get(record, member));
}

int clock_open(struct control *control, struct hws_error *err)
{
    auto_json *saved = NULL;
    int r = control->store->driver->get(control->store, KIND, KIND, &saved, err);
    if (r < 0)
        return r == -ENOENT ? 0 : r;
    const char *boot = json_string_value(json_object_get(saved, "boot"));
    bool same = boot && !strcmp(boot, control->boot);
    control->clock_offset_s = number(saved, same ? "offset" : "clock");
    control->clock_saved_s = number(saved, "clock");
    /* A machine that was set back with its memory, and without its catalog. */
    uint64_t now = clock_s(control);
    if (now < control->clock_saved_s)
        control->clock_offset_s += control->clock_saved_s - now;
    return 0;
}

void clock_note(struct control *control, struct batch *batch)
{
    control->clock_saved_s = clock_s(control);
    batch_raw(batch, KIND, KIND, NULL,
              json_pack("{s:s, s:s, s:I, s:I}", "id", KIND, "boot", control->boot, "offset",
                        (json_int_t)control->clock_offset_s, "clock",
                        (json_int_t)control->clock_saved_s),
              false);
}

void clock_save(struct control *control)
{
    auto_batch batch = {0};
    struct hws_error err = {0};
    control_lock_model(control);
    if (clock_s(control) - control->clock_saved_s >= SAVE_S) {
        clock_note(control, &batch);
        if (batch_commit(&batch, control, &err) < 0)
            log_warning("the catalog's clock cannot be saved: %s", err.text);
    }
    control_unlock_model(control);
}
