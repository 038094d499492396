/*
 * `hawser secret`: credentials that hawserd keeps sealed, by way of hawserd.
 *
 * Values come from files or standard input, never from the command line, which others can see.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cli/control.h"
#include <fcntl.h>

#define VALUE_MAX 65536

struct secret_options {
    struct control_command control;
    const char *value, *server_cert, *server_key, *ca_cert, *ca_crl;
    int kind, generate;
};

static const char *const kinds[] = {"psk", "chap", "x509", NULL};
static const char *const generated[] = {"psk", "chap", NULL};

static const struct control_column columns[] = {
    {"NAME", "name"},
    {"KIND", "kind"},
    {"VERSION", "version", CONTROL_NUMBER},
    {"CREATED", "created", CONTROL_TIME},
    {NULL},
};

static const struct control_column fields[] = {
    {"name", "name"},
    {"id", "id"},
    {"kind", "kind"},
    {"version", "version", CONTROL_NUMBER},
    {"created", "created", CONTROL_TIME},
    {"value", "value"},
    {NULL},
};

/* All of the file, "-" standard input, without the line's end that editors add. */
static int read_value(const char *path, bool whole, json_t **ret, struct hws_error *err)
{
    char text[VALUE_MAX + 1];
    size_t used = 0;
    ssize_t n = 0;
    bool input = !strcmp(path, "-");
    autofd int file = input ? -1 : open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    int fd = input ? STDIN_FILENO : file, failed;
    if (fd < 0)
        return hws_fail_errno(err, errno, "%.300s", path);
    while (used < sizeof(text) && (n = read(fd, text + used, sizeof(text) - used)) > 0)
        used += (size_t)n;
    failed = n < 0 ? errno : 0;
    while (!whole && used && (text[used - 1] == '\n' || text[used - 1] == '\r'))
        used--;
    *ret = !failed && used <= VALUE_MAX ? json_stringn(text, used) : NULL;
    explicit_bzero(text, sizeof(text));
    if (failed)
        return hws_fail_errno(err, failed, "%.300s", path);
    if (used > VALUE_MAX)
        return hws_fail(err, EFBIG, "%.300s: more than %d bytes", path, VALUE_MAX);
    return *ret ? 0 : hws_fail(err, EINVAL, "%.300s: no text", path);
}

/* A secret of which nothing is said is made up. */
static int fill(const struct control_run *run, json_t *body, struct hws_error *err)
{
    const struct secret_options *options = (const void *)run->control;
    const struct {
        const char *member, *path;
        bool whole;
    } files[] = {
        {"value", options->value, false},          {"server-cert", options->server_cert, true},
        {"server-key", options->server_key, true}, {"ca-cert", options->ca_cert, true},
        {"ca-crl", options->ca_crl, true},
    };
    bool any =
        options->generate >= 0 || (options->kind >= 0 && !strcmp(kinds[options->kind], "x509"));
    for (unsigned i = 0; i < ARRAY_LEN(files); i++) {
        json_t *value = NULL;
        int r = files[i].path ? read_value(files[i].path, files[i].whole, &value, err) : 0;
        if (r < 0)
            return r;
        if (value)
            json_object_set_new(body, files[i].member, value);
        any = any || value;
    }
    if (!any)
        json_object_set_new(body, "generate",
                            json_string(options->kind >= 0 ? kinds[options->kind] : "psk"));
    return 0;
}

static const struct cli_verb verbs[] = {
    {"list", "", "show the secrets, without their values", "GET", "/v1/secrets", NULL, columns,
     true},
    {"show", "SECRET", "show one, without its value", "GET", "/v1/secrets/%", NULL, fields},
    {"create", "NAME", "keep a secret; one that is made up is told, this once", "POST",
     "/v1/secrets", "name", fields, .fill = fill},
    {"set", "SECRET", "give it another value; exports that use it begin anew with it", "PATCH",
     "/v1/secrets/%", NULL, fields, .fill = fill},
    {"delete", "SECRET...", "forget secrets that nothing uses", "DELETE", "/v1/secrets/%"},
    {"rotate", "", "seal all secrets by a new master key", "POST", "/v1/secrets/rotate"},
    {NULL},
};

#define OPTION(field) offsetof(struct secret_options, field)

static const struct cli_option table[] = {
    {"value", 0, CLI_TEXT, OPTION(value), "FILE",
     "the file that holds the secret, - for standard input; without it, and without certificates, "
     "a random one is made",
     .completes = CLI_COMPLETE_FILE, .verbs = "create set"},
    {"generate", 0, CLI_CHOICE, OPTION(generate), "KIND", "make a random one of this kind",
     generated, .verbs = "create set", .member = "generate"},
    {"kind", 0, CLI_CHOICE, OPTION(kind), "KIND", "what it is (psk if not given)", kinds,
     .verbs = "create set", .member = "kind"},
    {"server-cert", 0, CLI_TEXT, OPTION(server_cert), "FILE",
     "x509: the server's certificate, in PEM; its issuers may follow",
     .completes = CLI_COMPLETE_FILE, .verbs = "create set"},
    {"server-key", 0, CLI_TEXT, OPTION(server_key), "FILE", "x509: its private key",
     .completes = CLI_COMPLETE_FILE, .verbs = "create set"},
    {"ca-cert", 0, CLI_TEXT, OPTION(ca_cert), "FILE", "x509: whose certificates clients show",
     .completes = CLI_COMPLETE_FILE, .verbs = "create set"},
    {"ca-crl", 0, CLI_TEXT, OPTION(ca_crl), "FILE", "x509: which of them are revoked",
     .completes = CLI_COMPLETE_FILE, .verbs = "create set"},
    CLI_WATCH_OPTION(struct secret_options, "list"),
    CLI_CONTROL_OPTIONS(struct secret_options),
    {NULL},
};

const struct cli_command cli_secret_command = {
    .name = "secret",
    .summary = "Manage secrets: keys and certificates of exports",
    .description =
        "hawserd keeps secrets sealed under a master key, and gives none of them out. 'psk' is a "
        "pre-shared key of 16 to 64 bytes in hexadecimal digits, of a client that has the secret's "
        "name; 'x509' is certificates; 'chap' a password. A value is read from a file or from "
        "standard input, for a command line is seen by others.",
    .examples = {{"a random key, which is told this once", "hawser secret create alice"},
                 {"a key that exists", "hawser secret create --value=alice.hex alice"},
                 {"a password from a pipe", "pass show nas | hawser secret create --kind=chap "
                                            "--value=- nas"}},
    .options = table,
    .options_bytes = sizeof(struct secret_options),
    .verbs = verbs,
};
