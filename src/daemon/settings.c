/*
 * hawserd's settings: one table for the configuration file, and for the command line, whose options
 * have the same names.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "control/record.h"
#include "daemon/daemon.h"
#include <limits.h>

#define CONFIG_DEFAULT "/etc/hawser/hawserd.json"

static const char *const levels[] = {"error", "warning", "info", "debug", NULL};

static const char *const formats[] = {"text", "json", NULL};
static const char *const scopes[] = {"local", "global", NULL};

static const struct record_field fields[] = {
    {"state", RECORD_TEXT, offsetof(struct settings, state),
     "folder of the catalog and of mount points (/var/lib/hawser)"},
    {"socket", RECORD_TEXT, offsetof(struct settings, socket),
     "of the REST API (/run/hawser/hawserd.sock)"},
    {"docker-socket", RECORD_TEXT, offsetof(struct settings, docker_socket),
     "of the volume plugin (/run/docker/plugins/hawser.sock); none: not served"},
    {"docker-scope", RECORD_TEXT, offsetof(struct settings, docker_scope),
     "local (the default); global where all hosts have one catalog", .choices = scopes},
    {"program", RECORD_TEXT, offsetof(struct settings, program),
     "the program hawser (the one beside hawserd)"},
    {"cgroup", RECORD_TEXT, offsetof(struct settings, cgroup),
     "cgroup2 folder for a control group for each engine (one that is delegated, or hawser at the "
     "root); none: no such groups"},
    {"master-key", RECORD_TEXT, offsetof(struct settings, master_key),
     "how master keys of secrets are kept: file, tpm2[:TCTI] or pkcs11:... (file)", .max = 4096},
    {"lease-seconds", RECORD_UINT, offsetof(struct settings, lease_s),
     "a lease of a shared pool is good for; the same on all hosts (10)", .max = 300},
    {"host-id", RECORD_TEXT, offsetof(struct settings, host),
     "what shared pools tell this host by (its machine id)", .max = 256},
    {"log-level", RECORD_TEXT, offsetof(struct settings, log_level),
     "error, warning, info (the default) or debug", .choices = levels},
    {"log-format", RECORD_TEXT, offsetof(struct settings, log_format), "text (the default) or json",
     .choices = formats},
    {"listen", RECORD_TEXT, offsetof(struct settings, listen),
     "HOST:PORT of the REST API over TLS; by default it is not served so"},
    {"tls", RECORD_TEXT, offsetof(struct settings, tls),
     "folder of ca-cert.pem, server-cert.pem, server-key.pem, and ca-crl.pem if there is one"},
    {"roles", RECORD_LABELS, offsetof(struct settings, roles),
     "who may do what, an object from users, groups and certificates to roles; in the file alone",
     .max = 1000},
    {"workers", RECORD_UINT, offsetof(struct settings, workers), "requests that run at a time (16)",
     .max = 256},
    {"events", RECORD_UINT, offsetof(struct settings, events),
     "changes of objects that are remembered (10000)", .max = 1000000},
    {"request-seconds", RECORD_UINT, offsetof(struct settings, request_s),
     "a client has for sending a request (30)", .max = 86400},
    {NULL},
};

void settings_free(struct settings *settings)
{
    record_free(fields, settings);
}

static void help(void)
{
    puts("hawserd: the control plane of Hawser\n\nusage: hawserd [--config=FILE] [--NAME=VALUE...]"
         "\n\nPools, volumes and snapshots of this host, over a REST API and the volume plugin "
         "protocol\nof Docker and podman. The configuration file (" CONFIG_DEFAULT
         ") is a JSON\nobject with these members, which are options too:\n");
    for (const struct record_field *field = fields; field->name; field++)
        printf("  %-15s %s\n", field->name, field->help);
    puts(
        "\nSIGTERM ends it; engines and mounts go on. $HAWSER_RUN_DIR is the folder of attachments "
        "(/run/hawser).");
}

/* What the manual page hawserd(8) is made of. */
static void dump(void)
{
    json_t *options = json_array();
    for (const struct record_field *field = fields; field->name; field++) {
        json_t *choices = json_array();
        for (const char *const *choice = field->choices; choice && *choice; choice++)
            json_array_append_new(choices, json_string(*choice));
        json_array_append_new(
            options, json_pack("{s:s, s:s, s:b, s:b, s:o}", "name", field->name, "help",
                               field->help, "number", field->kind == RECORD_UINT, "file-only",
                               field->kind == RECORD_LABELS || field->kind == RECORD_LIST,
                               "choices", choices));
    }
    json_dumpf(options, stdout, JSON_INDENT(1));
    putchar('\n');
    json_decref(options);
}

static bool is_number(const char *text)
{
    return *text && strspn(text, "0123456789") == strlen(text) && strlen(text) < 19;
}

/* "--name=value" or "--name value" into @given, numbers as numbers. */
static int add_option(int argc, char **argv, int *at, json_t *given, const char **ret_config,
                      struct hws_error *err)
{
    const char *word = argv[*at], *value = strchr(word, '=');
    if (strncmp(word, "--", 2) != 0)
        return hws_fail(err, EINVAL, "'%.100s' is no option; see --help", word);
    autofree char *name = value ? strndup(word + 2, (size_t)(value - word - 2)) : strdup(word + 2);
    if (!name)
        return hws_fail(err, ENOMEM, "out of memory");
    if (!value && ++*at >= argc)
        return hws_fail(err, EINVAL, "option %.100s needs a value; see --help", word);
    value = value ? value + 1 : argv[*at];
    if (!strcmp(name, "config")) {
        *ret_config = value;
        return 0;
    }
    const struct record_field *field = fields;
    while (field->name && strcmp(field->name, name) != 0)
        field++;
    json_t *text = field->kind == RECORD_UINT && is_number(value)
                       ? json_integer(strtoll(value, NULL, 10))
                       : json_string(value);
    return json_object_set_new(given, name, text) < 0
               ? hws_fail(err, EINVAL, "option %.100s: the value is no UTF-8", word)
               : 0;
}

static int read_file(const char *path, json_t **ret, struct hws_error *err)
{
    json_error_t where;
    if (!path && access(CONFIG_DEFAULT, F_OK) < 0) {
        *ret = json_object();
        return 0;
    }
    path = path ? path : CONFIG_DEFAULT;
    *ret = json_load_file(path, JSON_REJECT_DUPLICATES, &where);
    return *ret ? 0 : hws_fail(err, EINVAL, "%.300s: %s (line %d)", path, where.text, where.line);
}

/* `hawser` beside this program, or, where this is SBIN/hawserd, in the bin folder beside that. */
static char *find_program(void)
{
    static const char *const places[] = {"hawser", "../bin/hawser"};
    char path[PATH_MAX], candidate[PATH_MAX + 32];
    ssize_t length = readlink("/proc/self/exe", path, sizeof(path) - 1);
    path[MAX(length, 0)] = '\0';
    char *slash = strrchr(path, '/');
    if (!slash)
        return NULL;
    *slash = '\0';
    for (unsigned i = 0; i < ARRAY_LEN(places); i++) {
        snprintf(candidate, sizeof(candidate), "%s/%s", path, places[i]);
        if (access(candidate, X_OK) == 0)
            return realpath(candidate, NULL);
    }
    return NULL;
}

static int fill_defaults(struct settings *settings, struct hws_error *err)
{
    const char *state = getenv("HAWSER_STATE_DIR"), *run = getenv("HAWSER_RUN_DIR");
    char socket[PATH_MAX];
    snprintf(socket, sizeof(socket), "%s/hawserd.sock", run && *run ? run : "/run/hawser");
    settings->workers = settings->workers ? settings->workers : 16;
    settings->request_s = settings->request_s ? settings->request_s : 30;
    if ((!settings->state &&
         record_set_text(&settings->state, state && *state ? state : "/var/lib/hawser") < 0) ||
        (!settings->socket && record_set_text(&settings->socket, socket) < 0) ||
        (!settings->docker_socket &&
         record_set_text(&settings->docker_socket, "/run/docker/plugins/hawser.sock") < 0) ||
        (!settings->log_format && record_set_text(&settings->log_format, "text") < 0) ||
        (!settings->docker_scope && record_set_text(&settings->docker_scope, "local") < 0) ||
        (!settings->log_level && record_set_text(&settings->log_level, "info") < 0))
        return hws_fail(err, ENOMEM, "out of memory");
    if (settings->listen && !settings->tls)
        return hws_fail(err, EINVAL, "configuration: listen needs tls, the folder of certificates");
    if (!settings->program)
        settings->program = find_program();
    if (!settings->program || access(settings->program, X_OK) < 0)
        return hws_fail(err, ENOENT, "the program hawser is not there; --program says where it is");
    return 0;
}

int settings_read(int argc, char **argv, struct settings *ret, struct hws_error *err)
{
    json_t *given = json_object(), *file = NULL;
    const char *config = NULL;
    int r = 0;
    for (int i = 1; r == 0 && i < argc; i++) {
        if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h")) {
            help();
            r = 1;
        } else if (!strcmp(argv[i], "--dump-options")) {
            dump();
            r = 1;
        } else if (!strcmp(argv[i], "--version")) {
            puts("hawserd " HAWSER_VERSION);
            r = 1;
        } else {
            r = add_option(argc, argv, &i, given, &config, err);
        }
    }
    if (r == 0)
        r = read_file(config, &file, err);
    if (r == 0 && json_object_update(file, given) < 0)
        r = hws_fail(err, EINVAL, "the configuration is no JSON object");
    if (r == 0)
        r = record_parse(fields, file, "configuration", ret, sizeof(*ret), err);
    if (r == 0)
        r = roles_check(ret->roles, err);
    if (r == 0)
        r = fill_defaults(ret, err);
    json_decref(given);
    json_decref(file);
    return r;
}
