/*
 * iSCSI's names, portals and secrets; see host/iscsi.h.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "host/iscsi.h"
#include "host/portal.h"
#include "host/secrets.h"
#include <ctype.h>

/* ---- names ---- */

static bool is_hex(const char *text, size_t length)
{
    return strlen(text) == length && strspn(text, "0123456789abcdef") == length;
}

/* "2026-11.org.example" and then nothing, or ':' and something. */
static bool is_dated_domain(const char *text)
{
    static const char pattern[] = "dddd-dd.";
    for (unsigned i = 0; pattern[i]; i++)
        if (pattern[i] == 'd' ? !isdigit((unsigned char)text[i]) : text[i] != pattern[i])
            return false;
    int month = 10 * (text[5] - '0') + text[6] - '0';
    const char *domain = text + strlen(pattern);
    size_t length = strcspn(domain, ":");
    return month >= 1 && month <= 12 && length && domain[0] != '.' && domain[length - 1] != '.' &&
           (!domain[length] || domain[length + 1]);
}

int iscsi_name_check(char *name, const char *what, struct hws_error *err)
{
    size_t length = strlen(name);
    if (length == 0 || length > FABRIC_NAME_MAX)
        return hws_fail(err, EINVAL, "%s '%.80s': an iSCSI name has 1 to %d bytes", what, name,
                        FABRIC_NAME_MAX);
    for (char *at = name; *at; at++) {
        *at = (char)tolower((unsigned char)*at);
        if (!isalnum((unsigned char)*at) && !strchr("-.:", *at))
            return hws_fail(err, EINVAL,
                            "%s '%.230s': iSCSI names are made of letters, digits, '-', '.' and "
                            "':'",
                            what, name);
    }
    if (!strncmp(name, "iqn.", 4) && is_dated_domain(name + 4))
        return 0;
    if (!strncmp(name, "eui.", 4) && is_hex(name + 4, 16))
        return 0;
    if (!strncmp(name, "naa.", 4) && (is_hex(name + 4, 16) || is_hex(name + 4, 32)))
        return 0;
    return hws_fail(err, EINVAL,
                    "%s '%.230s' is no iSCSI name; one is iqn.YYYY-MM.DOMAIN[:NAME] with the "
                    "domain reversed, as in iqn.2026-11.org.example:disk1",
                    what, name);
}

/* ".internal" is set aside for private use since July 2024, so nobody else names targets in it. */
void iscsi_name_make(const char *export, char ret[FABRIC_NAME_MAX + 1])
{
    char host[48];
    fabric_host_name(host);
    int used =
        snprintf(ret, FABRIC_NAME_MAX + 1, "iqn.2024-07.internal.hawser:%s:%s", host, export);
    assert(used > 0 && used <= FABRIC_NAME_MAX);
    for (char *at = ret; *at; at++)
        *at = *at == '_' ? '-' : (char)tolower((unsigned char)*at);
}

int iscsi_portal_parse(const char *text, char ret[ISCSI_PORTAL_BYTES], struct hws_error *err)
{
    return portal_parse(text, ISCSI_PORT, ret, err);
}

/* ---- secrets ---- */

static const char *check_chap_value(const char *value)
{
    static_assert(ISCSI_CHAP_MAX == 255, "as told below");
    if (!value[0])
        return "has 1 to 255 bytes";
    for (const char *at = value; *at; at++)
        if (!isprint((unsigned char)*at))
            return "has what is no printable ASCII";
    /* The kernel takes this word for "none". */
    return strncmp(value, "NULL", 4) ? NULL : "must not begin with NULL";
}

static int check_chap(const struct iscsi_chap *chap, const char *name, struct hws_error *err)
{
    const char *const secrets[] = {chap->password, chap->mutual_password};
    if (!chap->user[0] || !chap->password[0])
        return hws_fail(err, EINVAL, "%s: CHAP needs a line user= and a line password=", name);
    if (!chap->mutual_user[0] != !chap->mutual_password[0])
        return hws_fail(err, EINVAL, "%s: mutual-user= and mutual-password= go together", name);
    for (unsigned i = 0; i < ARRAY_LEN(secrets); i++)
        if (secrets[i][0] && strlen(secrets[i]) < ISCSI_CHAP_SECRET_MIN)
            return hws_fail(err, EINVAL,
                            "%s: a CHAP secret has at least %d bytes (96 bits); Windows takes 12 "
                            "to 16",
                            name, ISCSI_CHAP_SECRET_MIN);
    /* RFC 7143, 9.2.1: whoever has heard one direction could answer for the other. */
    if (!strcmp(chap->password, chap->mutual_password))
        return hws_fail(err, EINVAL, "%s: password= and mutual-password= must differ", name);
    return 0;
}

int iscsi_chap_parse(const char *text, const char *name, struct iscsi_chap *ret,
                     struct hws_error *err)
{
    struct iscsi_chap chap = {0};
    const struct secrets_field fields[] = {
        {"user=", chap.user, sizeof(chap.user), check_chap_value},
        {"password=", chap.password, sizeof(chap.password), check_chap_value},
        {"mutual-user=", chap.mutual_user, sizeof(chap.mutual_user), check_chap_value},
        {"mutual-password=", chap.mutual_password, sizeof(chap.mutual_password), check_chap_value},
        {NULL},
    };
    int r = secrets_parse(text, name, fields, err);
    if (r == 0)
        r = check_chap(&chap, name, err);
    if (r == 0)
        *ret = chap;
    explicit_bzero(&chap, sizeof(chap));
    return r;
}

int iscsi_chap_load(const char *path, struct iscsi_chap *ret, struct hws_error *err)
{
    char text[SECRETS_MAX + 1];
    int r = secrets_read(path, text, err);
    if (r == 0)
        r = iscsi_chap_parse(text, path, ret, err);
    explicit_bzero(text, sizeof(text));
    return r;
}
