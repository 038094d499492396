/*
 * Sizes as qemu-img reads and prints them.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cli/qemu/qemu.h"
#include <ctype.h>
#include <math.h>

static int suffix_shift(char c)
{
    static const char suffixes[] = "bkmgtpe";
    const char *at = c ? strchr(suffixes, tolower((unsigned char)c)) : NULL;
    return at ? (int)(at - suffixes) * 10 : -1;
}

static const char *skip_digits(const char *text)
{
    while (isdigit((unsigned char)*text))
        text++;
    return text;
}

/* The bytes of "whole.fraction << shift", rounded to the nearest. */
static int scale(uint64_t whole, double fraction, int shift, uint64_t *ret)
{
    double part = ldexp(fraction, shift) + (fraction > 0 ? 0.5 : 0);
    if (shift && whole > UINT64_MAX >> shift)
        return -ERANGE;
    if (__builtin_add_overflow(whole << shift, (uint64_t)part, ret))
        return -ERANGE;
    return 0;
}

static int parse_hex(const char *text, const char *whole_text, uint64_t *ret)
{
    char *end;
    errno = 0;
    uint64_t whole = strtoull(text, &end, 16);
    if (!isxdigit((unsigned char)text[2]))
        return -EINVAL;
    if (errno)
        return -ERANGE;
    int shift = suffix_shift(*end);
    if (shift >= 0 && shift != 0) {
        qi_warning("Using a multiplier suffix on hex numbers is deprecated: %s", whole_text);
        end++;
    }
    if (*end)
        return -EINVAL;
    return scale(whole, 0, MAX(shift, 0), ret);
}

int qi_parse_size(const char *text, uint64_t *ret)
{
    const char *at = text;
    while (isspace((unsigned char)*at))
        at++;
    if (*at == '+')
        at++;
    if (*at == '0' && (at[1] == 'x' || at[1] == 'X'))
        return parse_hex(at, text, ret);
    if (!isdigit((unsigned char)*at))
        return -EINVAL;
    const char *end = skip_digits(at);
    double fraction = 0;
    errno = 0;
    uint64_t whole = strtoull(at, NULL, 10);
    bool too_large = errno == ERANGE;
    if (*end == '.') {
        const char *digits = end;
        end = skip_digits(end + 1);
        autofree char *copy = strndup(digits, (size_t)(end - digits));
        fraction = copy && copy[1] ? strtod(copy, NULL) : 0;
    }
    int shift = suffix_shift(*end);
    if (*end) {
        if (shift < 0 || end[1])
            return -EINVAL;
    }
    shift = MAX(shift, 0);
    if (fraction > 0 && shift == 0)
        return -EINVAL;
    return too_large ? -ERANGE : scale(whole, fraction, shift, ret);
}

int qi_size_argument(const char *what, const char *text, uint64_t min, uint64_t max, uint64_t *ret)
{
    uint64_t value;
    int r = qi_parse_size(text, &value);
    if (r == 0 && value >= min && value <= max) {
        *ret = value;
        return 0;
    }
    if (r == -EINVAL) {
        qi_error("Invalid %s specified. You may use k, M, G, T, P or E suffixes for", what);
        return qi_error("kilobytes, megabytes, gigabytes, terabytes, petabytes and exabytes.");
    }
    return qi_error("Invalid %s specified. Must be between %llu and %llu.", what,
                    (unsigned long long)min, (unsigned long long)max);
}

const char *qi_human_size(uint64_t bytes, char *buffer, size_t length)
{
    static const char *const units[] = {"", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"};
    double value = (double)bytes;
    unsigned unit = 0;
    for (; value >= 1000 && unit + 1 < ARRAY_LEN(units); unit++)
        value /= 1024;
    snprintf(buffer, length, "%0.3g %sB", value, units[unit]);
    return buffer;
}
