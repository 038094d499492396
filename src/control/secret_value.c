/*
 * What a secret's value may be, and what becomes of it: from requests, and to files for engines.
 *
 *   psk     lines NAME:HEX, as in keys.psk; HEX alone belongs to the secret's own name
 *   chap    a password
 *   x509    {"server-cert": PEM, "server-key": PEM, "ca-cert": PEM, "ca-crl": PEM}
 *
 * No message shows any of a value.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "control/secret_value.h"
#include <ctype.h>

/* As the NBD server takes them. */
#define PSK_MIN       16
#define PSK_MAX       64
#define PSK_GENERATED 32
#define PSK_NAME_MAX  128
/* RFC 3720, 8.2.1 wants 96 bits at least; initiators take up to 256 characters. */
#define CHAP_MIN       12
#define CHAP_MAX       255
#define CHAP_GENERATED 16

const struct secret_part secret_parts[SECRET_FILES_MAX] = {
    {"server-cert", "server-cert.pem", true},
    {"server-key", "server-key.pem", true},
    {"ca-cert", "ca-cert.pem", true},
    {"ca-crl", "ca-crl.pem", false},
};

static int check_key(const char *text, size_t length, struct hws_error *err)
{
    size_t digits = 0;
    while (digits < length && isxdigit((unsigned char)text[digits]))
        digits++;
    if (digits < length || length % 2 || length / 2 < PSK_MIN || length / 2 > PSK_MAX)
        return hws_fail(err, EINVAL,
                        "a pre-shared key is %d to %d bytes in hexadecimal digits, or lines "
                        "NAME:DIGITS",
                        PSK_MIN, PSK_MAX);
    return 0;
}

static int check_line(const char *line, size_t length, bool bare, struct hws_error *err)
{
    const char *colon = memchr(line, ':', length);
    if (bare)
        return check_key(line, length, err);
    if (!colon)
        return hws_fail(err, EINVAL, "several pre-shared keys need names: lines NAME:DIGITS");
    size_t name = (size_t)(colon - line);
    for (size_t i = 0; i < name; i++)
        if ((unsigned char)line[i] < 0x21 || line[i] == 0x7f)
            name = 0;
    if (name == 0 || name > PSK_NAME_MAX)
        return hws_fail(err, EINVAL, "the name of a pre-shared key is 1 to %d printable bytes",
                        PSK_NAME_MAX);
    return check_key(colon + 1, length - name - 1, err);
}

static int take_psk(const char *name, const char *value, char **ret, struct hws_error *err)
{
    size_t first = strcspn(value, "\n");
    bool bare = !strchr(value, ':') && !value[first + strspn(value + first, "\n")];
    unsigned lines = 0;
    for (const char *at = value; *at;) {
        size_t length = strcspn(at, "\n");
        int r = length ? check_line(at, length, bare, err) : 0;
        if (r < 0)
            return r;
        lines += length > 0;
        at += length + (at[length] == '\n');
    }
    if (lines == 0)
        return hws_fail(err, EINVAL, "value is empty");
    int n =
        bare ? asprintf(ret, "%s:%.*s\n", name, (int)first, value) : asprintf(ret, "%s\n", value);
    return n < 0 ? hws_fail(err, ENOMEM, "out of memory") : 0;
}

static int take_chap(const char *value, char **ret, struct hws_error *err)
{
    size_t length = strlen(value);
    for (size_t i = 0; i < length; i++)
        if ((unsigned char)value[i] < 0x21 || (unsigned char)value[i] > 0x7e)
            length = 0;
    if (length < CHAP_MIN || length > CHAP_MAX)
        return hws_fail(err, EINVAL, "a CHAP secret is %d to %d printable characters", CHAP_MIN,
                        CHAP_MAX);
    *ret = strdup(value);
    return *ret ? 0 : hws_fail(err, ENOMEM, "out of memory");
}

static int take_x509(const struct secret_request *request, char **ret, struct hws_error *err)
{
    auto_json *parts = json_object();
    for (unsigned i = 0; i < SECRET_FILES_MAX; i++) {
        const char *text = request->part[i];
        if (!text && secret_parts[i].required)
            return hws_fail(err, EINVAL, "a secret of certificates needs %s",
                            secret_parts[i].member);
        if (text && !strstr(text, "-----BEGIN "))
            return hws_fail(err, EINVAL, "%s is no PEM", secret_parts[i].member);
        if (text)
            json_object_set_new(parts, secret_parts[i].member, json_string(text));
    }
    *ret = json_dumps(parts, JSON_COMPACT);
    return *ret ? 0 : hws_fail(err, ENOMEM, "out of memory");
}

static int generate(struct secret_request *request, struct hws_error *err)
{
    bool psk = !strcmp(request->generate, SECRET_PSK);
    char text[2 * PSK_GENERATED + 1];
    int r = vault_random_text(text, psk ? PSK_GENERATED : CHAP_GENERATED, err);
    if (r == 0 && record_set_text(&request->value, text) < 0)
        r = hws_fail(err, ENOMEM, "out of memory");
    explicit_bzero(text, sizeof(text));
    return r;
}

static const char *kind_of(const struct secret_request *request, bool certificates)
{
    return certificates        ? SECRET_X509
           : request->generate ? request->generate
           : request->kind     ? request->kind
                               : SECRET_PSK;
}

int secret_value(struct secret_request *request, const char *name, const char **ret_kind,
                 char **ret, struct hws_error *err)
{
    bool certificates = false;
    for (unsigned i = 0; i < SECRET_FILES_MAX; i++)
        certificates |= request->part[i] != NULL;
    if (certificates + (request->value != NULL) + (request->generate != NULL) != 1)
        return hws_fail(err, EINVAL,
                        "a secret has one of: value, generate, server-cert with server-key and "
                        "ca-cert");
    const char *kind = kind_of(request, certificates);
    if (request->kind && strcmp(request->kind, kind) != 0)
        return hws_fail(err, EINVAL, "kind is '%s', and what is given is of kind %s", request->kind,
                        kind);
    if (!certificates && !strcmp(kind, SECRET_X509))
        return hws_fail(err, EINVAL, "certificates are given as server-cert, server-key, ca-cert");
    int r = request->generate ? generate(request, err) : 0;
    if (r < 0)
        return r;
    *ret_kind = kind;
    return certificates                ? take_x509(request, ret, err)
           : !strcmp(kind, SECRET_PSK) ? take_psk(name, request->value, ret, err)
                                       : take_chap(request->value, ret, err);
}

/* ---- to files ---- */

static int add_file(struct secret_files *files, const char *name, const char *text,
                    struct hws_error *err)
{
    files->name[files->count] = name;
    files->text[files->count] = strdup(text);
    return files->text[files->count++] ? 0 : hws_fail(err, ENOMEM, "out of memory");
}

int secret_value_files(const char *kind, const char *value, struct secret_files *ret,
                       struct hws_error *err)
{
    if (!strcmp(kind, SECRET_PSK))
        return add_file(ret, "keys.psk", value, err);
    auto_json *parts = !strcmp(kind, SECRET_X509) ? json_loads(value, 0, NULL) : NULL;
    if (!parts)
        return hws_fail(err, EINVAL, "a secret of kind %s is no credential of NBD", kind);
    int r = 0;
    for (unsigned i = 0; i < SECRET_FILES_MAX && r == 0; i++) {
        const char *text = json_string_value(json_object_get(parts, secret_parts[i].member));
        r = text ? add_file(ret, secret_parts[i].file, text, err) : 0;
    }
    return r;
}

void secret_files_free(struct secret_files *files)
{
    for (unsigned i = 0; i < files->count; i++)
        vault_free_text(files->text[i]);
    *files = (struct secret_files){0};
}
