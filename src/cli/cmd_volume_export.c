/*
 * `hawser export create|list|show|delete`: volumes that are served over NBD, by way of hawserd.
 * Those of images, by fabrics of the kernel, are cmd_export.c.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cli/control.h"
#include <limits.h>

#define LISTEN_DEFAULT "tcp::10809"

struct export_options {
    struct control_command control;
    const char *protocol, *listen, *secret, *description;
    int tls;
    bool read_only, shared, force;
};

static const char *const tls_choices[] = {"none", "psk", "x509", NULL};

static const struct control_column columns[] = {
    {"NAME", "name"},
    {"VOLUME", "volume", CONTROL_REF, "/v1/volumes/"},
    {"STATE", "state"},
    {"SERVING", "serving", CONTROL_FLAG},
    {"LISTEN", "listen"},
    {"TLS", "tls"},
    {"READ-ONLY", "read-only", CONTROL_FLAG},
    {NULL},
};

static const struct control_column fields[] = {
    {"name", "name"},
    {"id", "id"},
    {"volume", "volume", CONTROL_REF, "/v1/volumes/"},
    {"snapshot", "snapshot"},
    {"state", "state"},
    {"serving", "serving", CONTROL_FLAG},
    {"error", "error"},
    {"protocol", "protocol"},
    {"listen", "listen"},
    {"TLS", "tls"},
    {"secret", "secret-name"},
    {"description", "description"},
    {"read-only", "read-only", CONTROL_FLAG},
    {"shared", "shared", CONTROL_FLAG},
    {"created", "created", CONTROL_TIME},
    {NULL},
};

/* An export of "data@monday" is called "data-monday". A socket's path is hawserd's. */
static int fill(const struct control_run *run, json_t *body, struct hws_error *err)
{
    const struct export_options *options = (const void *)run->control;
    const char *listen = options->listen ? options->listen : LISTEN_DEFAULT;
    char whole[PATH_MAX], address[PATH_MAX + 8];
    if (!json_object_get(body, "name")) {
        autofree char *name = strdup(run->operands[0]);
        char *at = name ? strchr(name, '@') : NULL;
        if (at)
            *at = '-';
        json_object_set_new(body, "name", json_string(name ? name : ""));
    }
    snprintf(address, sizeof(address), "%s", listen);
    if (!strncmp(listen, "unix:", 5)) {
        int r = control_absolute(listen + 5, whole, err);
        if (r < 0)
            return r;
        snprintf(address, sizeof(address), "unix:%s", whole);
    }
    json_object_set_new(body, "listen", json_string(address));
    return 0;
}

static const struct cli_verb verbs[] = {
    {"create", "SOURCE [NAME]",
     "serve VOLUME or VOLUME@SNAPSHOT over NBD, by its own name if none is given", "POST",
     "/v1/exports", "volume name", fields, .fill = fill},
    {"list", "", "show the exports", "GET", "/v1/exports", NULL, columns, true},
    {"show", "EXPORT", "show all of one", "GET", "/v1/exports/%", NULL, fields},
    {"delete", "EXPORT...", "end exports", "DELETE", "/v1/exports/%"},
    {NULL},
};

#define OPTION(field) offsetof(struct export_options, field)

static const struct cli_option table[] = {
    {"listen", 'l', CLI_TEXT, OPTION(listen), "ADDRESS",
     "tcp:HOST:PORT or unix:PATH (" LISTEN_DEFAULT " if not given: all addresses of this host)",
     .verbs = "create"},
    {"tls", 0, CLI_CHOICE, OPTION(tls), "MODE", "what clients must come with", tls_choices,
     .verbs = "create", .member = "tls"},
    {"secret", 0, CLI_TEXT, OPTION(secret), "SECRET", "the keys or the certificates, for TLS",
     .completes = CLI_COMPLETE_SECRET, .verbs = "create", .member = "secret"},
    {"read-only", 'r', CLI_FLAG, OPTION(read_only), NULL, "clients cannot write", .verbs = "create",
     .member = "read-only"},
    {"shared", 0, CLI_FLAG, OPTION(shared), NULL,
     "others may write the volume meanwhile: all of them know of each other", .verbs = "create",
     .member = "shared"},
    {"description", 0, CLI_TEXT, OPTION(description), "TEXT", "told to clients", .verbs = "create",
     .member = "description"},
    {"protocol", 0, CLI_TEXT, OPTION(protocol), "NAME", "nbd, which is the only one",
     .verbs = "create", .member = "protocol"},
    {"force", 0, CLI_FLAG, OPTION(force), NULL, "although clients are connected", .verbs = "delete",
     .member = "?force"},
    CLI_WATCH_OPTION(struct export_options, "list show"),
    CLI_CONTROL_OPTIONS(struct export_options),
    {NULL},
};

const struct cli_command cli_volume_export_command = {
    .name = "export",
    .summary = "Serve volumes over NBD",
    .description =
        "Where the first word is one of these actions, it is about volumes that hawserd keeps. "
        "What is exported is served until the export is deleted, over restarts of hawserd, of "
        "engines and of the host. A volume that is attached can be exported read-only, or with "
        "--shared. Over TCP clients should come with keys or certificates: --secret.",
    .examples = {{"to whoever has the key", "hawser secret create alice\n"
                                            "hawser export create data --secret=alice"},
                 {"Monday's state, to this host",
                  "hawser export create data@monday --listen=unix:/run/monday.sock"}},
    .options = table,
    .options_bytes = sizeof(struct export_options),
    .verbs = verbs,
};
