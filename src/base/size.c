/*
 * Human sizes; see base/size.h.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/size.h"
#include <ctype.h>
#include <strings.h>

static const char suffixes[] = "bkmgtpe";

/* Shift for a suffix such as "", "K", "KiB"; -1 for anything else. */
static int suffix_shift(const char *text)
{
    if (*text == '\0')
        return 0;
    const char *at = strchr(suffixes, tolower((unsigned char)*text));
    if (!at)
        return -1;
    int power = (int)(at - suffixes);
    const char *rest = text + 1;
    if (*rest == '\0' || (power > 0 && (!strcasecmp(rest, "b") || !strcasecmp(rest, "ib"))))
        return power * 10;
    return -1;
}

int size_parse(const char *text, uint64_t *ret_bytes, struct hws_error *err)
{
    const char *at = text;
    uint64_t whole = 0;
    if (!isdigit((unsigned char)*at))
        return hws_fail(err, EINVAL, "'%.64s' is not a size: write a number such as 512M or 10G",
                        text);
    for (; isdigit((unsigned char)*at); at++)
        if (mul_overflows(whole, 10, &whole) || add_overflows(whole, (unsigned)(*at - '0'), &whole))
            return hws_fail(err, ERANGE, "size '%.64s' does not fit in 64 bits", text);

    /* The fraction is kept as numerator / denominator: no floating point, no rounding surprises. */
    uint64_t numerator = 0, denominator = 1;
    if (*at == '.') {
        for (at++; isdigit((unsigned char)*at); at++) {
            if (denominator >= 1000000000)
                continue;
            numerator = numerator * 10 + (unsigned)(*at - '0');
            denominator *= 10;
        }
    }
    int shift = suffix_shift(at);
    if (shift < 0)
        return hws_fail(err, EINVAL, "'%.64s' is not a size: the suffixes are k, M, G, T, P and E",
                        text);
    if (denominator > 1 && shift == 0)
        return hws_fail(err, EINVAL, "'%.64s' is not a size: a fraction needs a suffix", text);

    uint64_t unit = (uint64_t)1 << shift, bytes;
    uint64_t fraction = (uint64_t)(((__uint128_t)numerator * unit) / denominator);
    if (mul_overflows(whole, unit, &bytes) || add_overflows(bytes, fraction, &bytes))
        return hws_fail(err, ERANGE, "size '%.64s' does not fit in 64 bits", text);
    *ret_bytes = bytes;
    return 0;
}

const char *size_format(uint64_t bytes, char *buffer, size_t buffer_size)
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    unsigned unit = 0;
    while (unit + 1 < ARRAY_LEN(units) && bytes >> (10 * (unit + 1)))
        unit++;
    uint64_t scale = (uint64_t)1 << (10 * unit);
    if (bytes % scale == 0)
        snprintf(buffer, buffer_size, "%llu %s", (unsigned long long)(bytes / scale), units[unit]);
    else
        snprintf(buffer, buffer_size, "%.3g %s", (double)bytes / (double)scale, units[unit]);
    return buffer;
}
