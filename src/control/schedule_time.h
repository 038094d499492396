/*
 * Moments of schedules: "every" and cron texts, and when each is due next. All in UTC. Pure.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef CONTROL_SCHEDULE_TIME_H
#define CONTROL_SCHEDULE_TIME_H

#include "base/common.h"
#include "hawser/error.h"

/** Shortest time between two snapshots. */
#define EVERY_MIN_S 60
#define EVERY_MAX_S (366 * 86400)

/** When a schedule is due. */
struct moments {
    uint64_t every_s; /* 0: by the fields below, one bit a value */
    uint64_t minutes;
    uint32_t hours, days, months, weekdays; /* days from bit 1, months from bit 1, Sunday is 0 */
    bool any_day, any_weekday;              /* "*": only the other one counts */
};

/**
 * Reads "hourly", "daily", "weekly", "monthly" (at their beginning), or a time: "900", "15m", "2h",
 * "1d", "1w".
 */
HWS_MUST_CHECK int moments_parse_every(const char *text, struct moments *ret,
                                       struct hws_error *err);

/**
 * Reads the five fields of cron: minute, hour, day of month, month, day of week (0 or 7 is
 * Sunday), each "*", a number, a range "a-b", with a step "/n", and lists of those. Where both days
 * are given either will do, as with cron. A text that no moment fits is refused.
 */
HWS_MUST_CHECK int moments_parse_cron(const char *text, struct moments *ret, struct hws_error *err);

/** The first moment after @after_s, seconds since 1970; UINT64_MAX: none in the next 41 years. */
uint64_t moments_next(const struct moments *moments, uint64_t after_s);

#endif
