/*
 * Moments of schedules; see control/schedule_time.h.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "control/schedule_time.h"
#include <time.h>

#define DAY_S 86400
/** The longest time without a 29th of February that is a certain day of the week is 40 years. */
#define DAYS_AHEAD (41 * 366)

/* ---- every ---- */

static const struct {
    const char *word, *cron;
} words[] = {
    {"hourly", "0 * * * *"},
    {"daily", "0 0 * * *"},
    {"weekly", "0 0 * * 1"},
    {"monthly", "0 0 1 * *"},
};

int moments_parse_every(const char *text, struct moments *ret, struct hws_error *err)
{
    static const struct {
        char letter;
        uint64_t seconds;
    } units[] = {{'\0', 1}, {'s', 1}, {'m', 60}, {'h', 3600}, {'d', DAY_S}, {'w', 7 * DAY_S}};
    for (unsigned i = 0; i < ARRAY_LEN(words); i++)
        if (!strcmp(words[i].word, text))
            return moments_parse_cron(words[i].cron, ret, err);
    char *end = NULL;
    uint64_t number = 0;
    if (text[0] >= '0' && text[0] <= '9' && strlen(text) < 12)
        number = strtoull(text, &end, 10);
    for (unsigned i = 0; end && i < ARRAY_LEN(units); i++) {
        if (*end != units[i].letter || (*end && end[1]))
            continue;
        uint64_t seconds;
        if (mul_overflows(number, units[i].seconds, &seconds) || seconds < EVERY_MIN_S ||
            seconds > EVERY_MAX_S)
            break;
        *ret = (struct moments){.every_s = seconds};
        return 0;
    }
    return hws_fail(err, EINVAL,
                    "every is '%.40s'; it can be hourly, daily, weekly, monthly, or a time of a "
                    "minute to 366 days: 15m, 2h, 1d, 900",
                    text);
}

/* ---- cron ---- */

struct field {
    const char *name;
    unsigned min, max;
};

static int refuse(const struct field *field, const char *text, struct hws_error *err)
{
    return hws_fail(err, EINVAL,
                    "cron: %s is '%.40s'; it can be * or of %u to %u, with - and / and ,",
                    field->name, text, field->min, field->max);
}

static bool take_number(const char **at, unsigned *ret)
{
    unsigned value = 0, digits = 0;
    for (; **at >= '0' && **at <= '9' && digits < 4; digits++)
        value = value * 10 + (unsigned)(*(*at)++ - '0');
    *ret = value;
    return digits > 0;
}

/* One of a list: "*", "a", "a-b", each with "/n". @return false where it is none of those. */
static bool take_part(const struct field *field, const char **at, uint64_t *bits)
{
    unsigned first = field->min, last = field->max, step = 1;
    bool open = **at == '*';
    if (open) {
        (*at)++;
    } else {
        if (!take_number(at, &first))
            return false;
        last = first;
        if (**at == '-') {
            (*at)++;
            if (!take_number(at, &last))
                return false;
        } else if (**at == '/') {
            last = field->max;
        }
    }
    if (**at == '/') {
        (*at)++;
        if (!take_number(at, &step) || step == 0)
            return false;
    }
    if (first < field->min || last > field->max || first > last)
        return false;
    for (unsigned value = first; value <= last; value += step)
        *bits |= 1ULL << value;
    return true;
}

static int parse_field(const struct field *field, const char *text, uint64_t *ret,
                       struct hws_error *err)
{
    const char *at = text;
    *ret = 0;
    do {
        if (!take_part(field, &at, ret))
            return refuse(field, text, err);
    } while (*at == ',' && *++at);
    return *at || at[-1] == ',' ? refuse(field, text, err) : 0;
}

int moments_parse_cron(const char *text, struct moments *ret, struct hws_error *err)
{
    static const struct field fields[5] = {{"minute", 0, 59},
                                           {"hour", 0, 23},
                                           {"day of the month", 1, 31},
                                           {"month", 1, 12},
                                           {"day of the week", 0, 7}};
    char copy[256], *rest = copy, *word, *given[5];
    uint64_t bits[5];
    unsigned count = 0;
    if (snprintf(copy, sizeof(copy), "%s", text) >= (int)sizeof(copy))
        return hws_fail(err, EINVAL, "cron is longer than %zu bytes", sizeof(copy) - 1);
    while ((word = strsep(&rest, " \t"))) {
        if (*word && count < 5)
            given[count] = word;
        count += *word != '\0';
    }
    if (count != 5)
        return hws_fail(err, EINVAL,
                        "cron is '%.100s'; it has five fields: minute, hour, day of the month, "
                        "month, day of the week",
                        text);
    for (unsigned i = 0; i < 5; i++) {
        int r = parse_field(&fields[i], given[i], &bits[i], err);
        if (r < 0)
            return r;
    }
    *ret = (struct moments){
        .minutes = bits[0],
        .hours = (uint32_t)bits[1],
        .days = (uint32_t)bits[2],
        .months = (uint32_t)bits[3],
        .weekdays = (uint32_t)((bits[4] | bits[4] >> 7) & 0x7f),
        .any_day = given[2][0] == '*',
        .any_weekday = given[4][0] == '*',
    };
    return moments_next(ret, 0) == UINT64_MAX
               ? hws_fail(err, EINVAL, "cron is '%.100s'; no day is like that", text)
               : 0;
}

/* ---- when ---- */

static bool fits_day(const struct moments *moments, const struct tm *day)
{
    bool of_month = moments->days >> day->tm_mday & 1;
    bool of_week = moments->weekdays >> day->tm_wday & 1;
    if (!(moments->months >> (day->tm_mon + 1) & 1))
        return false;
    return moments->any_day || moments->any_weekday ? of_month && of_week : of_month || of_week;
}

uint64_t moments_next(const struct moments *moments, uint64_t after_s)
{
    if (moments->every_s)
        return after_s + moments->every_s;
    uint64_t first = (after_s / 60 + 1) * 60;
    uint64_t day_s = first / DAY_S * DAY_S;
    for (unsigned i = 0; i < DAYS_AHEAD; i++, day_s += DAY_S) {
        struct tm day;
        time_t at = (time_t)day_s;
        if (!gmtime_r(&at, &day) || !fits_day(moments, &day))
            continue;
        unsigned minute = first > day_s ? (unsigned)((first - day_s) / 60) : 0;
        for (; minute < DAY_S / 60; minute++)
            if (moments->hours >> (minute / 60) & 1 && moments->minutes >> (minute % 60) & 1)
                return day_s + minute * 60;
    }
    return UINT64_MAX;
}
