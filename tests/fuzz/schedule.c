/*
 * Fuzz target: "every" and cron texts of schedules. What is taken has a moment after any other, on
 * a whole minute and in the next 41 years, and the moment after that one is later.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "control/schedule_time.h"
#include "fuzz.h"

#define TEXT_MAX 1024

static void check(const struct moments *moments, uint64_t after_s)
{
    uint64_t next = moments_next(moments, after_s), later = moments_next(moments, next);
    assert(next > after_s && later > next && later != UINT64_MAX);
    assert(next - after_s <= 41ULL * 366 * 86400);
    if (!moments->every_s)
        assert(next % 60 == 0 && moments_next(moments, next - 1) == next);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    static const uint64_t times[] = {0, 59, 1800000000, 4107542400 /* 2100-03-01 */};
    char text[TEXT_MAX + 1];
    struct moments moments;
    struct hws_error err = {0};
    if (length > TEXT_MAX)
        return 0;
    memcpy(text, bytes, length);
    text[length] = '\0';
    bool every = moments_parse_every(text, &moments, &err) == 0;
    if (!every)
        assert(err.code == EINVAL && err.text[0]);
    for (unsigned i = 0; every && i < ARRAY_LEN(times); i++)
        check(&moments, times[i]);
    err.code = 0;
    bool cron = moments_parse_cron(text, &moments, &err) == 0;
    if (!cron)
        assert(err.code == EINVAL && err.text[0]);
    for (unsigned i = 0; cron && i < ARRAY_LEN(times); i++)
        check(&moments, times[i]);
    return 0;
}
