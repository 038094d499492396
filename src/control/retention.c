/*
 * Which of a schedule's snapshots stay; see control/retention.h.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "control/retention.h"
#include <time.h>

static uint64_t hour_of(uint64_t s)
{
    return s / 3600;
}

static uint64_t day_of(uint64_t s)
{
    return s / 86400;
}

static uint64_t week_of(uint64_t s)
{
    return (s / 86400 + 3) / 7; /* the first day was a Thursday */
}

static uint64_t month_of(uint64_t s)
{
    struct tm tm;
    time_t at = (time_t)s;
    return gmtime_r(&at, &tm) ? (uint64_t)tm.tm_year * 12 + (uint64_t)tm.tm_mon : 0;
}

/* Whether a newer one is of that time: not only the next newer, as clocks are set back. */
static bool is_seen(uint64_t (*time_of)(uint64_t s), const struct kept *kept, size_t index)
{
    uint64_t time = time_of(kept[index].created_s);
    for (size_t i = index; i-- > 0;)
        if (time_of(kept[i].created_s) == time)
            return true;
    return false;
}

/* Keeps the newest of each of the last @many different times. */
static void keep_newest(uint64_t (*time_of)(uint64_t s), uint64_t many, struct kept *kept,
                        size_t count)
{
    for (size_t i = 0; i < count && many > 0; i++) {
        if (is_seen(time_of, kept, i))
            continue;
        kept[i].keep = true;
        many--;
    }
}

bool retention_is_given(const struct retention *retention)
{
    return retention->keep || retention->hourly || retention->daily || retention->weekly ||
           retention->monthly || retention->keep_for_s;
}

void retention_apply(const struct retention *retention, uint64_t now_s, struct kept *kept,
                     size_t count)
{
    bool all = !retention_is_given(retention);
    for (size_t i = 0; i < count; i++) {
        bool young = retention->keep_for_s &&
                     (kept[i].clock_s >= now_s || now_s - kept[i].clock_s < retention->keep_for_s);
        kept[i].keep = all || i < retention->keep || young;
    }
    keep_newest(hour_of, retention->hourly, kept, count);
    keep_newest(day_of, retention->daily, kept, count);
    keep_newest(week_of, retention->weekly, kept, count);
    keep_newest(month_of, retention->monthly, kept, count);
}
