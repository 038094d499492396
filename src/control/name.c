/*
 * Ids and names; see control/name.h.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "control/name.h"
#include <sys/random.h>

void id_make(char *id)
{
    uint8_t b[16];
    size_t done = 0;
    while (done < sizeof(b)) {
        ssize_t n = getrandom(b + done, sizeof(b) - done, 0);
        assert(n > 0 || errno == EINTR);
        done += n > 0 ? (size_t)n : 0;
    }
    b[6] = (uint8_t)((b[6] & 0x0f) | 0x40); /* RFC 9562, section 5.4: version 4 */
    b[8] = (uint8_t)((b[8] & 0x3f) | 0x80);
    snprintf(id, ID_BYTES, "%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x",
             b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7], b[8], b[9], b[10], b[11], b[12], b[13],
             b[14], b[15]);
}

bool id_is_valid(const char *text)
{
    for (unsigned i = 0; i < ID_BYTES - 1; i++) {
        bool dash = i == 8 || i == 13 || i == 18 || i == 23;
        if (!text[i] || (dash ? text[i] != '-' : !strchr("0123456789abcdef", text[i])))
            return false;
    }
    return text[ID_BYTES - 1] == '\0';
}

static bool is_alnum(char c)
{
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

int name_check(const char *what, const char *name, struct hws_error *err)
{
    size_t length = strlen(name);
    bool good = length >= 1 && length <= NAME_MAX_BYTES && is_alnum(name[0]);
    for (size_t i = 0; good && i < length; i++)
        good = is_alnum(name[i]) || strchr("._-", name[i]);
    if (!good)
        return hws_fail(err, EINVAL,
                        "'%.140s' is no name for a %s: use 1 to %d letters, digits, '_', '.' and "
                        "'-', the first one a letter or digit",
                        name, what, NAME_MAX_BYTES);
    if (id_is_valid(name))
        return hws_fail(err, EINVAL, "'%s' looks like an id; give the %s another name", name, what);
    return 0;
}
