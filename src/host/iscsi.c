/*
 * iSCSI's names, portals and secrets; see host/iscsi.h.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "host/iscsi.h"
#include <arpa/inet.h>
#include <ctype.h>
#include <fcntl.h>
#include <sys/stat.h>

#define CHAP_FILE_MAX 4096

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

/* ---- portals ---- */

static int bad_portal(const char *text, struct hws_error *err)
{
    return hws_fail(err, EINVAL,
                    "portal '%.80s': give an address of this host, as 192.0.2.1, 192.0.2.1:3260, "
                    "2001:db8::1 or [2001:db8::1]:3260",
                    text);
}

/* @return the port, 0 where there is none such. */
static unsigned parse_port(const char *text)
{
    char *end;
    if (!isdigit((unsigned char)text[0]))
        return 0;
    unsigned long port = strtoul(text, &end, 10);
    return *end || port > 65535 ? 0 : (unsigned)port;
}

int iscsi_portal_parse(const char *text, char ret[ISCSI_PORTAL_BYTES], struct hws_error *err)
{
    char address[64], clean[INET6_ADDRSTRLEN];
    uint8_t bytes[16];
    unsigned port = ISCSI_PORT;
    if (strlen(text) >= sizeof(address))
        return bad_portal(text, err);
    snprintf(address, sizeof(address), "%s", text);
    char *inner = address, *bracket = strchr(address, ']'), *colon = strchr(address, ':');
    bool bare_v6 = colon && strchr(colon + 1, ':') && !bracket;
    char *port_text = bracket ? bracket + 1 : bare_v6 ? NULL : colon;
    if (bracket) {
        inner = address + 1;
        *bracket = '\0';
        if (address[0] != '[' || (*port_text && *port_text != ':'))
            return bad_portal(text, err);
        if (!*port_text)
            port_text = NULL;
    }
    if (port_text) {
        port = parse_port(port_text + 1);
        *port_text = '\0';
    }
    if (!port)
        return bad_portal(text, err);
    if (!bracket && inet_pton(AF_INET, inner, bytes) == 1)
        snprintf(ret, ISCSI_PORTAL_BYTES, "%s:%u", inner, port);
    else if ((bracket || bare_v6) && inet_pton(AF_INET6, inner, bytes) == 1 &&
             inet_ntop(AF_INET6, bytes, clean, sizeof(clean)))
        snprintf(ret, ISCSI_PORTAL_BYTES, "[%s]:%u", clean, port);
    else
        return bad_portal(text, err);
    return 0;
}

/* ---- secrets ---- */

static int take_chap_line(const char *line, size_t length, const char *name, unsigned number,
                          struct iscsi_chap *chap, struct hws_error *err)
{
    const struct {
        const char *word;
        char *field;
    } fields[] = {
        {"user=", chap->user},
        {"password=", chap->password},
        {"mutual-user=", chap->mutual_user},
        {"mutual-password=", chap->mutual_password},
    };
    for (unsigned i = 0; i < ARRAY_LEN(fields); i++) {
        size_t word = strlen(fields[i].word), value = length - word;
        if (length < word || strncmp(line, fields[i].word, word) != 0)
            continue;
        if (value == 0 || value > ISCSI_CHAP_MAX)
            return hws_fail(err, EINVAL, "%s, line %u: %s has 1 to %d bytes", name, number,
                            fields[i].word, ISCSI_CHAP_MAX);
        if (fields[i].field[0])
            return hws_fail(err, EINVAL, "%s, line %u: %s is there twice", name, number,
                            fields[i].word);
        memcpy(fields[i].field, line + word, value);
        fields[i].field[value] = '\0';
        for (const char *at = fields[i].field; *at; at++)
            if (!isprint((unsigned char)*at))
                return hws_fail(err, EINVAL, "%s, line %u: %s has what is no printable ASCII", name,
                                number, fields[i].word);
        /* The kernel takes this word for "none". */
        if (!strncmp(fields[i].field, "NULL", 4))
            return hws_fail(err, EINVAL, "%s, line %u: %s must not begin with NULL", name, number,
                            fields[i].word);
        return 0;
    }
    return hws_fail(err, EINVAL,
                    "%s, line %u: a line is user=, password=, mutual-user= or mutual-password=, "
                    "and then the value",
                    name, number);
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
    int r = 0;
    unsigned number = 1;
    for (const char *at = text; r == 0 && *at; number++) {
        size_t line = strcspn(at, "\n"), length = line;
        while (length && at[length - 1] == '\r')
            length--;
        if (length && at[0] != '#')
            r = take_chap_line(at, length, name, number, &chap, err);
        at += line + (at[line] == '\n');
    }
    if (r == 0)
        r = check_chap(&chap, name, err);
    if (r == 0)
        *ret = chap;
    explicit_bzero(&chap, sizeof(chap));
    return r;
}

int iscsi_chap_load(const char *path, struct iscsi_chap *ret, struct hws_error *err)
{
    char text[CHAP_FILE_MAX + 1];
    struct stat st;
    autofd int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    if (fd < 0 || fstat(fd, &st) < 0)
        return hws_fail_errno(err, errno, "cannot open the file of secrets %s", path);
    if ((st.st_uid != geteuid() && st.st_uid != 0) || (st.st_mode & 077))
        return hws_fail(err, EPERM,
                        "%s: a file of secrets must belong to this user and be readable by nobody "
                        "else (chmod 600)",
                        path);
    ssize_t n = read(fd, text, sizeof(text));
    if (n < 0)
        return hws_fail_errno(err, errno, "cannot read %s", path);
    if (n > CHAP_FILE_MAX)
        return hws_fail(err, EFBIG, "%s: longer than a file of secrets can be (%d bytes)", path,
                        CHAP_FILE_MAX);
    text[n] = '\0';
    int r = strlen(text) < (size_t)n ? hws_fail(err, EINVAL, "%s: is no text", path)
                                     : iscsi_chap_parse(text, path, ret, err);
    explicit_bzero(text, sizeof(text));
    return r;
}
