/*
 * `hawser serve`: the engine, in the foreground. `attach` starts it in the background.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cli/output.h"
#include "cli/nbd_export.h"
#include "cli/volume.h"
#include "engine/client.h"

struct serve_options {
    struct cli_volume volume;
    const char *config, *socket, *path, *state_file;
    struct cli_list nbd, nbd_exports;
    const char *nbd_tls;
    bool sandbox, nbd_activated, nbd_tls_optional, nbd_tls_any_client;
    int nbd_tls_mode;
    int log_level;
    uint64_t ready_fd;
};

static void set_text(json_t *object, const char *name, const char *text)
{
    if (text)
        json_object_set_new(object, name, json_string(text));
}

static json_t *volume_config(const struct serve_options *options, const char *image)
{
    const struct cli_volume *from = &options->volume;
    json_t *volume = json_object();
    set_text(volume, "name", from->name ? from->name : "volume");
    set_text(volume, "image", image);
    set_text(volume, "format", from->format);
    set_text(volume, "path", options->path);
    set_text(volume, "cache", cli_word(cli_cache_choices, from->cache));
    set_text(volume, "discard", cli_word(cli_discard_choices, from->discard));
    set_text(volume, "detect-zeroes", cli_word(cli_detect_choices, from->detect_zeroes));
    /* Without a place for the FUSE file there is no device, unless a way was asked for. */
    set_text(volume, "via",
             from->via < 0 && !options->path ? "none" : cli_word(cli_via_choices, from->via));
    set_text(volume, "block-size", cli_word(cli_block_choices, from->block_size));
    set_text(volume, "device", from->device);
    json_object_set_new(volume, "read-only", json_boolean(from->read_only));
    json_object_set_new(volume, "queues", json_integer((json_int_t)from->queues));
    json_t *allow = from->allow.count ? json_array() : NULL;
    for (unsigned i = 0; i < from->allow.count; i++)
        json_array_append_new(allow, json_string(from->allow.item[i]));
    if (allow)
        json_object_set_new(volume, "allow", allow);
    return volume;
}

static const char *const tls_choices[] = {"x509", "psk", NULL};

/* Puts "tls" into the configuration of the NBD server. */
static int add_tls(const struct serve_options *options, json_t *nbd, struct hws_error *err)
{
    if (!options->nbd_tls) {
        if (options->nbd_tls_optional || options->nbd_tls_any_client || options->nbd_tls_mode >= 0)
            return hws_fail(err, EINVAL, "say the folder of the credentials: --nbd-tls=FOLDER");
        return 0;
    }
    if (!nbd)
        return hws_fail(err, EINVAL, "--nbd-tls goes with --nbd");
    json_t *tls = json_pack("{s:s}", "credentials", options->nbd_tls);
    set_text(tls, "mode", cli_word(tls_choices, options->nbd_tls_mode));
    if (options->nbd_tls_optional)
        json_object_set_new(tls, "required", json_false());
    if (options->nbd_tls_any_client)
        json_object_set_new(tls, "verify-peer", json_false());
    return json_object_set_new(nbd, "tls", tls) < 0 ? hws_fail(err, ENOMEM, "out of memory") : 0;
}

static const char *const level_choices[] = {"error", "warning", "info", "debug", NULL};

static int read_config(const char *path, json_t **ret, struct hws_error *err)
{
    FILE *file = strcmp(path, "-") ? fopen(path, "re") : stdin;
    if (!file)
        return hws_fail_errno(err, errno, "cannot read %s", path);
    json_error_t where;
    *ret = json_loadf(file, JSON_REJECT_DUPLICATES, &where);
    if (file != stdin)
        fclose(file);
    return *ret ? 0 : hws_fail(err, EINVAL, "%s, line %d: %s", path, where.line, where.text);
}

/* The members that were asked for; the rest is the engine's to decide. */
static int nbd_config(const struct serve_options *options, json_t *config, struct hws_error *err)
{
    if (!options->nbd.count && !options->nbd_activated)
        return options->nbd_exports.count
                   ? hws_fail(err, EINVAL, "--nbd-export needs --nbd or --nbd-activated")
                   : 0;
    if (json_object_get(config, "nbd"))
        return hws_fail(err, EINVAL, "the configuration has \"nbd\" already: leave out --nbd");
    json_t *nbd = json_object(), *list = options->nbd.count ? json_array() : NULL;
    json_object_set_new(config, "nbd", nbd);
    for (unsigned i = 0; i < options->nbd.count; i++)
        json_array_append_new(list, json_string(options->nbd.item[i]));
    if (list)
        json_object_set_new(nbd, "listen", list);
    if (options->nbd_activated)
        json_object_set_new(nbd, "activated", json_true());
    list = options->nbd_exports.count ? json_array() : NULL;
    if (list)
        json_object_set_new(nbd, "exports", list);
    for (unsigned i = 0; i < options->nbd_exports.count; i++) {
        json_t *export;
        int r = cli_nbd_export(options->nbd_exports.item[i], &export, err);
        if (r < 0)
            return r;
        json_array_append_new(list, export);
    }
    return 0;
}

static int make_config(const struct serve_options *options, const char *image, json_t **ret,
                       struct hws_error *err)
{
    if (!options->config == !image)
        return hws_fail(err, EINVAL, "say an IMAGE to serve, or --config, and not both");
    int r = options->config ? read_config(options->config, ret, err) : 0;
    if (r < 0)
        return r;
    if (image)
        *ret = json_pack("{s:[o]}", "volumes", volume_config(options, image));
    set_text(*ret, "socket", options->socket);
    set_text(*ret, "state-file", options->state_file);
    set_text(*ret, "log-level", cli_word(level_choices, options->log_level));
    r = nbd_config(options, *ret, err);
    if (r < 0)
        return r;
    bool asked = options->nbd.count || options->nbd_activated;
    r = add_tls(options, asked ? json_object_get(*ret, "nbd") : NULL, err);
    if (r < 0)
        return r;
    if (options->sandbox)
        json_object_set_new(*ret, "sandbox", json_true());
    if (options->ready_fd)
        json_object_set_new(*ret, "ready-fd", json_integer((json_int_t)options->ready_fd));
    return 0;
}

static int run(const void *arg, char **operands, unsigned count)
{
    const struct serve_options *options = arg;
    struct hws_error err = {0};
    json_t *config = NULL;
    if (make_config(options, count ? operands[0] : NULL, &config, &err) < 0) {
        json_decref(config);
        return out_error("serve", CLI_USAGE, &err);
    }
    int r = engine_main(config, &err);
    json_decref(config);
    return r < 0 ? out_error("serve", CLI_FAILED, &err) : CLI_OK;
}

static const struct cli_option table[] = {
    {"config", 'c', CLI_TEXT, offsetof(struct serve_options, config), "FILE",
     "read the configuration from FILE (- is standard input): one or more volumes",
     .completes = CLI_COMPLETE_FILE},
    {"socket", 's', CLI_TEXT, offsetof(struct serve_options, socket), "PATH",
     "make the control socket at PATH; none if not given", .completes = CLI_COMPLETE_FILE},
    {"path", 'p', CLI_TEXT, offsetof(struct serve_options, path), "FILE",
     "mount the FUSE file over FILE, which is made if it is missing; no device if not given",
     .completes = CLI_COMPLETE_FILE},
    {"state-file", 0, CLI_TEXT, offsetof(struct serve_options, state_file), "FILE",
     "write what was made, the device's path among it, to FILE once running",
     .completes = CLI_COMPLETE_FILE},
    {"nbd", 0, CLI_LIST, offsetof(struct serve_options, nbd), "ADDRESS",
     "serve over NBD at unix:PATH or tcp:HOST:PORT, by the volume's name (may be repeated)"},
    {"nbd-tls", 0, CLI_TEXT, offsetof(struct serve_options, nbd_tls), "FOLDER",
     "NBD clients must use TLS; the credentials are in FOLDER: server-cert.pem, server-key.pem and "
     "ca-cert.pem, or keys.psk",
     .completes = CLI_COMPLETE_FOLDER},
    {"nbd-tls-optional", 0, CLI_FLAG, offsetof(struct serve_options, nbd_tls_optional), NULL,
     "NBD clients may use TLS, and need not"},
    {"nbd-tls-any-client", 0, CLI_FLAG, offsetof(struct serve_options, nbd_tls_any_client), NULL,
     "NBD clients need no certificate; without it one of ca-cert.pem's"},
    {"nbd-tls-mode", 0, CLI_CHOICE, offsetof(struct serve_options, nbd_tls_mode), "MODE",
     "which credentials to use, where FOLDER has both", tls_choices},
    {"nbd-export", 0, CLI_LIST, offsetof(struct serve_options, nbd_exports), "NAME[,OPTION...]",
     "an NBD export, instead of one by the volume's name (may be repeated). Options: volume=NAME, "
     "description=TEXT, read-only, connections=N, bitmap=NAME (may be repeated), no-bitmaps, "
     "no-allocation-depth; a comma in a value is written twice"},
    {"nbd-activated", 0, CLI_FLAG, offsetof(struct serve_options, nbd_activated), NULL,
     "serve over NBD at the sockets that a service manager has passed (LISTEN_FDS)"},
    {"sandbox", 0, CLI_FLAG, offsetof(struct serve_options, sandbox), NULL,
     "give up, before the image is opened, all rights that are not needed, and see no other "
     "folders "
     "than those of the image and of the files named here"},
    {"log-level", 0, CLI_CHOICE, offsetof(struct serve_options, log_level), "LEVEL",
     "how much to log (info if not given)", level_choices},
    CLI_VOLUME_OPTIONS(struct serve_options),
    {"ready-fd", 0, CLI_UINT, offsetof(struct serve_options, ready_fd), "FD",
     "descriptor to tell readiness on", .hidden = true},
    {NULL},
};

const struct cli_command cli_serve_command = {
    .name = "serve",
    .summary = "Run an engine in the foreground",
    .synopsis = "[OPTION...] IMAGE\n--config=FILE [OPTION...]",
    .description = "Opens an image, or all that the configuration lists, exports it and serves "
                   "until SIGTERM or SIGINT, "
                   "which take the devices away, flush and end the process. While a device is in "
                   "use the first "
                   "signal only flushes; a second one ends the engine anyway. Readiness is told to "
                   "a service manager "
                   "(NOTIFY_SOCKET). The control socket speaks JSON-RPC 2.0, one message a line; "
                   "its method 'methods' "
                   "lists the others.\n\n"
                   "'hawser attach' runs this in the background with all paths chosen; use it "
                   "unless a service manager "
                   "shall own the engine. docs/engine.md tells the configuration and the methods.",
    .operands = {{"IMAGE", "the image to serve", CLI_COMPLETE_FILE}},
    .examples =
        {{"a device and a control socket",
          "hawser serve --socket=/run/disk.sock --path=/run/disk.img --via=fuse-loop disk.qcow2"},
         {"ask it", "echo '{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"status\"}' | nc -NU "
                    "/run/disk.sock"}},
    .options = table,
    .options_bytes = sizeof(struct serve_options),
    .operands_max = 1,
    .run = run,
};
