/*
 * Names of the storage networks; see host/wwn.h.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "host/wwn.h"
#include "host/fabric.h"
#include <ctype.h>
#include <strings.h>

#define NQN_UUID_PREFIX "nqn.2014-08.org.nvmexpress:uuid:"
#define NQN_DISCOVERY   "nqn.2014-08.org.nvmexpress.discovery"

static int digit_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c = (char)tolower((unsigned char)c);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* ---- world wide names ---- */

int wwn_parse(const char *text, const char *what, uint64_t *ret, struct hws_error *err)
{
    const char *at = text;
    uint64_t wwn = 0;
    if (!strncasecmp(at, "0x", 2))
        at += 2;
    else if (!strncasecmp(at, "naa.", 4))
        at += 4;
    bool colons = at == text && at[0] && at[1] && at[2] == ':';
    for (unsigned n = 0; n < 16; n++) {
        if (colons && n && n % 2 == 0 && *at++ != ':')
            goto bad;
        int value = digit_value(*at);
        if (value < 0)
            goto bad;
        at++;
        wwn = wwn << 4 | (unsigned)value;
    }
    if (*at || !wwn)
        goto bad;
    *ret = wwn;
    return 0;
bad:
    return hws_fail(err, EINVAL,
                    "%s: '%.60s' is no world wide name; it has 16 hexadecimal digits "
                    "(21:00:00:24:ff:00:00:01, 0x21000024ff000001, naa.21000024ff000001)",
                    what, text);
}

void wwn_colons(uint64_t wwn, char ret[WWN_COLONS_BYTES])
{
    for (unsigned n = 0; n < 8; n++)
        snprintf(ret + (size_t)n * 3, WWN_COLONS_BYTES - (size_t)n * 3, n < 7 ? "%02x:" : "%02x",
                 (unsigned)(wwn >> (56 - 8 * n)) & 0xff);
}

void wwn_naa(uint64_t wwn, char ret[WWN_NAA_BYTES])
{
    snprintf(ret, WWN_NAA_BYTES, "naa.%016llx", (unsigned long long)wwn);
}

/* ---- NVMe qualified names ---- */

static bool is_uuid(const char *text)
{
    for (unsigned n = 0; n < 36; n++) {
        bool dash = n == 8 || n == 13 || n == 18 || n == 23;
        if (dash ? text[n] != '-' : digit_value(text[n]) < 0 || isupper((unsigned char)text[n]))
            return false;
    }
    return text[36] == '\0';
}

/* "nqn.YYYY-MM." and a domain name up to the ':', which may be missing. */
static bool is_dated(const char *text)
{
    static const char pattern[] = "nqn.0000-00.";
    size_t n = 0;
    for (; pattern[n]; n++)
        if (pattern[n] == '0' ? !isdigit((unsigned char)text[n]) : text[n] != pattern[n])
            return false;
    int month = (text[9] - '0') * 10 + text[10] - '0';
    return month >= 1 && month <= 12 && isalnum((unsigned char)text[n]);
}

int nqn_check(const char *text, const char *what, struct hws_error *err)
{
    size_t length = strlen(text);
    if (length > NQN_MAX)
        return hws_fail(err, EINVAL, "%s: the NVMe name has %zu bytes; there may be %d", what,
                        length, NQN_MAX);
    for (size_t n = 0; n < length; n++)
        if (text[n] <= ' ' || text[n] == '/' || text[n] == 0x7f)
            return hws_fail(err, EINVAL,
                            "%s: '%.230s' has a blank, a '/' or a control character in it", what,
                            text);
    if (!is_dated(text))
        return hws_fail(err, EINVAL,
                        "%s: '%.230s' is no NVMe qualified name; they look like "
                        "nqn.2026-01.org.example:disk or " NQN_UUID_PREFIX "UUID",
                        what, text);
    if (!strncmp(text, NQN_UUID_PREFIX, strlen(NQN_UUID_PREFIX)) &&
        !is_uuid(text + strlen(NQN_UUID_PREFIX)))
        return hws_fail(err, EINVAL,
                        "%s: '%.230s' has to end in a UUID of lower-case digits "
                        "(xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx)",
                        what, text);
    if (!strcmp(text, NQN_DISCOVERY))
        return hws_fail(err, EINVAL, "%s: %s is the discovery service's own name", what, text);
    return 0;
}

void uuid_text(const uint8_t uuid[16], char ret[UUID_TEXT_BYTES])
{
    size_t used = 0;
    for (unsigned n = 0; n < 16; n++) {
        bool dash = n == 4 || n == 6 || n == 8 || n == 10;
        used +=
            (size_t)snprintf(ret + used, UUID_TEXT_BYTES - used, dash ? "-%02x" : "%02x", uuid[n]);
    }
}

/* ---- names that nobody chose ---- */

static uint64_t digest_text(uint64_t digest, const char *text)
{
    do
        digest = (digest ^ (uint8_t)*text) * 0x100000001b3ull; /* FNV-1a; the NUL parts the texts */
    while (*text++);
    return digest ^ digest >> 29;
}

void name_digest(const char *kind, const char *name, uint8_t ret[16])
{
    char host[48];
    fabric_host_name(host);
    for (unsigned half = 0; half < 2; half++) {
        uint64_t digest = half ? 0x9e3779b97f4a7c15ull : 0xcbf29ce484222325ull;
        digest = digest_text(digest_text(digest_text(digest, host), kind), name);
        for (unsigned n = 0; n < 8; n++)
            ret[half * 8 + n] = (uint8_t)(digest >> (8 * n));
    }
    ret[6] = (uint8_t)(0x80 | (ret[6] & 0x0f));
    ret[8] = (uint8_t)(0x80 | (ret[8] & 0x3f));
}

uint64_t wwn_local(const uint8_t digest[16])
{
    uint64_t wwn = 0;
    for (unsigned n = 0; n < 8; n++)
        wwn = wwn << 8 | digest[n];
    return (wwn & 0x0fffffffffffffffull) | 3ull << 60;
}
