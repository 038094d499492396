/*
 * Moments of schedules and what is kept, against slow and obvious ways to tell the same.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "control/retention.h"
#include "control/schedule_time.h"
#include <time.h>

#define DAY 86400
#define T0  1800000000 /* Friday 2027-01-15 08:00:00 UTC */

static struct hws_error error;
static uint32_t seed = 12345;

static uint32_t any(uint32_t below)
{
    seed = seed * 1664525 + 1013904223;
    return (uint32_t)(((uint64_t)seed * below) >> 32);
}

static uint64_t next_of(const char *cron, uint64_t after_s)
{
    struct moments moments;
    if (moments_parse_cron(cron, &moments, &error) < 0)
        fail_msg("%s: %s", cron, error.text);
    return moments_next(&moments, after_s);
}

static void moments_are_found(void **state)
{
    static const struct {
        const char *cron;
        uint64_t after;
        const char *next;
    } cases[] = {
        {"* * * * *", T0, "2027-01-15 08:01"},
        {"* * * * *", T0 - 1, "2027-01-15 08:00"},
        {"0 0 * * *", T0, "2027-01-16 00:00"},
        {"30 2 1 * *", T0, "2027-02-01 02:30"},
        {"0 0 * * 1", T0, "2027-01-18 00:00"},
        {"0 0 * * 0", T0, "2027-01-17 00:00"},
        {"0 0 * * 7", T0, "2027-01-17 00:00"},
        {"0 0 29 2 *", T0, "2028-02-29 00:00"},
        {"0 0 29 2 *", 1835395200 /* 2028-02-29 */, "2032-02-29 00:00"},
        {"0 0 29 2 *", 3981744000 /* 2096-03-05: 2100 has none */, "2104-02-29 00:00"},
        {"*/15 8-9 * * *", T0, "2027-01-15 08:15"},
        {"5-10/5,59 8 * * *", T0 + 600, "2027-01-15 08:59"},
        {"0 12 13 * 5", T0, "2027-01-15 12:00"}, /* a Friday: either day will do */
        {"0 12 14 * 6", T0, "2027-01-16 12:00"},
        {"59 23 31 12 *", T0, "2027-12-31 23:59"},
        {"0/20 * * * *", T0, "2027-01-15 08:20"},
        {" 0  0\t* * * ", T0, "2027-01-16 00:00"},
    };
    for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
        char text[32];
        struct tm tm;
        time_t next = (time_t)next_of(cases[i].cron, cases[i].after);
        assert_non_null(gmtime_r(&next, &tm));
        strftime(text, sizeof(text), "%Y-%m-%d %H:%M", &tm);
        if (strcmp(text, cases[i].next) != 0)
            fail_msg("%s: %s, not %s", cases[i].cron, text, cases[i].next);
    }
}

/* A field at random: its text, and the bits that it means. */
static uint64_t any_field(unsigned min, unsigned max, char *text, size_t size)
{
    uint64_t bits = 0;
    text[0] = '\0';
    if (any(3) == 0) {
        snprintf(text, size, "*");
        for (unsigned i = min; i <= max; i++)
            bits |= 1ULL << i;
        return bits;
    }
    for (unsigned parts = 1 + any(3); parts > 0; parts--) {
        size_t used = strlen(text);
        unsigned first = min + any(max - min + 1), last = first + any(max - first + 1);
        unsigned step = 1 + any(5);
        snprintf(text + used, size - used, "%s%u-%u/%u", used ? "," : "", first, last, step);
        for (unsigned i = first; i <= last; i += step)
            bits |= 1ULL << i;
    }
    return bits;
}

/* Minute by minute. */
static void moments_are_those_of_a_walk(void **state)
{
    for (unsigned round = 0; round < 200; round++) {
        char f[5][64], cron[512];
        uint64_t minute = any_field(0, 59, f[0], sizeof(f[0]));
        uint64_t hour = any_field(0, 23, f[1], sizeof(f[1]));
        uint64_t day = any_field(1, 31, f[2], sizeof(f[2]));
        uint64_t month = (1ULL << 13) - 2;
        uint64_t weekday = any_field(0, 7, f[4], sizeof(f[4]));
        snprintf(cron, sizeof(cron), "%s %s %s * %s", f[0], f[1], f[2], f[4]);
        weekday |= weekday >> 7;
        bool both = f[2][0] != '*' && f[4][0] != '*';
        uint64_t from = T0 + any(400 * DAY), at = from / 60 * 60;
        struct moments moments;
        if (strlen(cron) > 255)
            continue;
        if (moments_parse_cron(cron, &moments, &error) < 0)
            fail_msg("%s: %s", cron, error.text);
        bool fits = false;
        while (!fits && at < from + 100 * DAY) {
            at += 60;
            struct tm tm;
            time_t time = (time_t)at;
            gmtime_r(&time, &tm);
            bool of_month = day >> tm.tm_mday & 1, of_week = weekday >> tm.tm_wday & 1;
            fits = (minute >> tm.tm_min & 1) && (hour >> tm.tm_hour & 1) &&
                   (month >> (tm.tm_mon + 1) & 1) &&
                   (both ? of_month || of_week : of_month && of_week);
        }
        if (fits)
            assert_int_equal(moments_next(&moments, from), at);
        else
            assert_true(moments_next(&moments, from) >= at);
    }
}

static void wrong_texts_are_refused(void **state)
{
    static const char *const crons[] = {"",
                                        "*",
                                        "* * * *",
                                        "* * * * * *",
                                        "60 * * * *",
                                        "* 24 * * *",
                                        "* * 0 * *",
                                        "* * 32 * *",
                                        "* * * 0 *",
                                        "* * * 13 *",
                                        "* * * * 8",
                                        "-1 * * * *",
                                        "1- * * * *",
                                        "-5 * * * *",
                                        "5-1 * * * *",
                                        "*/0 * * * *",
                                        "*/ * * * *",
                                        "1,, * * * *",
                                        "1, * * * *",
                                        ",1 * * * *",
                                        "a * * * *",
                                        "1a * * * *",
                                        "** * * * *",
                                        "*5 * * * *",
                                        "0 0 30 2 *",
                                        "0 0 31 4,6,9,11 *",
                                        "@daily",
                                        "1-2-3 * * * *",
                                        "99999999999999999999 * * * *",
                                        "1/1/1 * * * *",
                                        "* * * jan *"};
    static const char *const everies[] = {"",
                                          "x",
                                          "59",
                                          "59s",
                                          "0m",
                                          "1",
                                          "1y",
                                          "1dd",
                                          "-1d",
                                          "d",
                                          "367d",
                                          "999999999999d",
                                          "1.5h",
                                          " 1d",
                                          "1 d",
                                          "18446744073709551615",
                                          "18446744073709551617m",
                                          "Daily"};
    struct moments moments;
    for (unsigned i = 0; i < ARRAY_LEN(crons); i++)
        if (moments_parse_cron(crons[i], &moments, &error) != -EINVAL)
            fail_msg("cron '%s' is taken", crons[i]);
    for (unsigned i = 0; i < ARRAY_LEN(everies); i++)
        if (moments_parse_every(everies[i], &moments, &error) != -EINVAL)
            fail_msg("every '%s' is taken", everies[i]);
    char length[300];
    memset(length, '1', sizeof(length) - 1);
    length[sizeof(length) - 1] = '\0';
    assert_int_equal(moments_parse_cron(length, &moments, &error), -EINVAL);
    assert_int_equal(moments_parse_every(length, &moments, &error), -EINVAL);
}

static void times_between_are_read(void **state)
{
    static const struct {
        const char *text;
        uint64_t next;
    } cases[] = {{"60", T0 + 60},
                 {"90s", T0 + 90},
                 {"15m", T0 + 900},
                 {"2h", T0 + 7200},
                 {"1d", T0 + DAY},
                 {"1w", T0 + 7 * DAY},
                 {"366d", T0 + 366 * DAY},
                 {"hourly", T0 + 3600},
                 {"daily", T0 + 16 * 3600},
                 {"weekly", T0 + 16 * 3600 + 2 * DAY},
                 {"monthly", T0 + 16 * 3600 + 16 * DAY}};
    struct moments moments;
    for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
        assert_int_equal(moments_parse_every(cases[i].text, &moments, &error), 0);
        if (moments_next(&moments, T0) != cases[i].next)
            fail_msg("%s: %llu", cases[i].text,
                     (unsigned long long)moments_next(&moments, T0) - T0);
    }
}

/* ---- what is kept ---- */

#define MANY 400

/* One every @step_s, the newest at @T0 + step. @return how many stay. */
static size_t keep(const struct retention *retention, uint64_t step_s, struct kept *kept)
{
    size_t left = 0;
    for (size_t i = 0; i < MANY; i++) {
        kept[i] = (struct kept){.created_s = T0 - i * step_s, .clock_s = 100000000 - i * step_s};
    }
    retention_apply(retention, 100000000, kept, MANY);
    for (size_t i = 0; i < MANY; i++)
        left += kept[i].keep;
    return left;
}

static void rules_keep_what_they_say(void **state)
{
    struct kept kept[MANY];
    assert_int_equal(keep(&(struct retention){0}, 3600, kept), MANY); /* no rule */
    assert_int_equal(keep(&(struct retention){.keep = 3}, 3600, kept), 3);
    assert_true(kept[0].keep && kept[2].keep && !kept[3].keep);
    assert_int_equal(keep(&(struct retention){.keep = 1000}, 3600, kept), MANY);
    assert_int_equal(keep(&(struct retention){.keep = INT64_MAX}, 3600, kept), MANY);
    assert_int_equal(keep(&(struct retention){.daily = 7}, 3600, kept), 7);
    assert_true(kept[0].keep && kept[9].keep && kept[33].keep); /* 08:00, and the last at 23:00 */
    assert_int_equal(keep(&(struct retention){.hourly = 5}, 600, kept), 5);
    assert_int_equal(keep(&(struct retention){.weekly = 3}, DAY, kept), 3);
    assert_true(kept[0].keep && kept[5].keep && kept[12].keep); /* Sundays */
    assert_int_equal(keep(&(struct retention){.monthly = 2}, DAY, kept), 2);
    assert_true(kept[0].keep && kept[15].keep); /* the 31st of December */
    assert_int_equal(keep(&(struct retention){.keep_for_s = 10 * 3600}, 3600, kept), 10);
    assert_int_equal(keep(&(struct retention){.keep_for_s = INT64_MAX}, DAY, kept), MANY);
    assert_int_equal(keep(&(struct retention){.keep = 2, .daily = 2}, 3600, kept), 3);
}

/* Days are counted where there are snapshots; a date that was wrong for a while takes one place. */
static void a_wrong_date_takes_one_place(void **state)
{
    struct kept kept[6];
    const uint64_t created[6] = {T0,       T0 + 50 * DAY, T0 - 60,
                                 T0 - DAY, T0 - 20 * DAY, T0 - 21 * DAY};
    for (unsigned i = 0; i < 6; i++)
        kept[i] = (struct kept){.created_s = created[i], .clock_s = 5000 - i};
    retention_apply(&(struct retention){.daily = 3}, 6000, kept, 6);
    assert_true(kept[0].keep && kept[1].keep && !kept[2].keep && kept[3].keep);
    assert_true(!kept[4].keep && !kept[5].keep);
    retention_apply(&(struct retention){.daily = 4}, 6000, kept, 6);
    assert_true(kept[4].keep && !kept[5].keep);
    /* One whose clock is ahead of ours is not old. */
    retention_apply(&(struct retention){.keep_for_s = 1}, 4998, kept, 6);
    assert_true(kept[0].keep && kept[2].keep && !kept[3].keep);
}

/* More time and more snapshots never bring back what has gone: run after each one, only what the
 * rules name stays, as if all had been kept until the end. */
static void rules_say_the_same_step_by_step(void **state)
{
    const struct retention rules[] = {{.keep = 4},
                                      {.daily = 5, .keep = 2},
                                      {.hourly = 6, .daily = 3, .weekly = 2, .monthly = 3},
                                      {.keep_for_s = 3 * DAY}};
    for (unsigned rule = 0; rule < ARRAY_LEN(rules); rule++) {
        static struct kept all[MANY], left[MANY + 1];
        size_t count = 0;
        uint64_t at = T0;
        for (size_t i = 0; i < MANY; i++) {
            at += 1800 + any(20000);
            memmove(&left[1], &left[0], count++ * sizeof(left[0]));
            left[0] = (struct kept){.created_s = at, .clock_s = at};
            all[MANY - 1 - i] = left[0];
            retention_apply(&rules[rule], at, left, count);
            size_t kept = 0;
            for (size_t j = 0; j < count; j++)
                if (left[j].keep)
                    left[kept++] = left[j];
            count = kept;
        }
        retention_apply(&rules[rule], at, all, MANY);
        size_t next = 0;
        for (size_t i = 0; i < MANY; i++) {
            if (all[i].keep) {
                assert_true(next < count);
                assert_int_equal(all[i].created_s, left[next++].created_s);
            }
        }
        assert_int_equal(next, count);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(moments_are_found),
        cmocka_unit_test(moments_are_those_of_a_walk),
        cmocka_unit_test(wrong_texts_are_refused),
        cmocka_unit_test(times_between_are_read),
        cmocka_unit_test(rules_keep_what_they_say),
        cmocka_unit_test(a_wrong_date_takes_one_place),
        cmocka_unit_test(rules_say_the_same_step_by_step),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
