/*
 * The command line of qemu-nbd, and serving one image.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cli/qemu_nbd/qemu_nbd.h"
#include "engine/client.h"
#include <limits.h>

/* ---- options ---- */

static const char help_text[] =
    "Usage: qemu-nbd [OPTIONS] FILE\n"
    "Serves the image FILE over the network block device protocol: Hawser's server with the\n"
    "command line of qemu-nbd\n\n"
    "  -h, --help                 this help\n"
    "  -V, --version              the version\n\n"
    "Where and to whom:\n"
    "  -p, --port=PORT            TCP port to listen at (10809)\n"
    "  -b, --bind=ADDRESS         address to listen at (0.0.0.0)\n"
    "  -k, --socket=PATH          listen at a unix socket instead\n"
    "  -e, --shared=NUM           clients at a time (1); 0 for any number\n"
    "  -t, --persistent           go on when the last client has left\n"
    "  -x, --export-name=NAME     name of the export (empty)\n"
    "  -D, --description=TEXT     what a list tells of the export\n\n"
    "What of the image:\n"
    "  -o, --offset=BYTES         from there on\n"
    "  -A, --allocation-depth     tell which layer of a chain answers\n"
    "  -B, --bitmap=NAME          tell what a dirty bitmap has marked; may be repeated\n"
    "  -l, --load-snapshot=WHICH  an internal snapshot, read-only: ID, name, or\n"
    "                             snapshot.id=ID,snapshot.name=NAME\n"
    "  -s, --snapshot             writes go to a temporary file\n"
    "  -r, --read-only            refuse writes\n\n"
    "How:\n"
    "  -f, --format=FORMAT        format of the image; found from its header if not given\n"
    "      --image-opts           FILE is a list of options: driver=qcow2,file.filename=...\n"
    "      --cache=MODE           none, writeback (default), writethrough, directsync, unsafe\n"
    "  -n, --nocache              --cache=none\n"
    "      --aio=MODE             native, io_uring or threads\n"
    "      --discard=MODE         ignore (default) or unmap\n"
    "      --detect-zeroes=MODE   off (default), on or unmap\n"
    "      --fork                 serve in the background\n"
    "      --pid-file=PATH        write the server's process number there\n"
    "  -v, --verbose              tell what happens\n\n"
    "Asking another server:\n"
    "  -L, --list                 tell what the server at -b and -p, or at -k, exports\n\n"
    "Devices of the kernel:\n"
    "  -c, --connect=DEVICE       serve the image as /dev/nbdN, in the background unless -v is "
    "given\n"
    "  -d, --disconnect           FILE is a device to be ended\n\n"
    "TLS:\n"
    "      --object=tls-creds-x509,id=ID,endpoint=server|client,dir=FOLDER[,verify-peer=off]\n"
    "      --object=tls-creds-psk,id=ID,endpoint=server|client,dir=FOLDER[,username=NAME]\n"
    "      --tls-creds=ID         credentials of an --object before it\n"
    "      --tls-hostname=NAME    whom the certificate of a listed server must be about\n\n"
    "What differs from QEMU's tool: docs/qemu-nbd.md.\n";

static int print_help(void)
{
    fputs(help_text, stdout);
    return 0;
}

static int print_version(void *command, const struct qi_arg *arg, char *value)
{
    (void)command, (void)arg, (void)value;
    printf("qemu-nbd " QI_VERSION " (hawser)\n");
    exit(fflush(stdout) == 0 ? EXIT_SUCCESS : EXIT_FAILURE);
}

static int point_to_help(void)
{
    return qi_error("Try `qemu-nbd --help' for more information.");
}

static bool is_one_of(const char *text, const char *const *words)
{
    while (*words && strcmp(*words, text) != 0)
        words++;
    return *words;
}

/* An option that is given once only: --cache, -n, --aio, --discard. */
static int take_once(const char **field, const char *value, const char *option)
{
    if (*field)
        return qi_error("%s can only be specified once", option);
    *field = value;
    return 0;
}

static int take_cache(void *arg, const struct qi_arg *row, char *value)
{
    static const char *const modes[] = {"none",       "off",    "writeback", "writethrough",
                                        "directsync", "unsafe", NULL};
    struct qn_command *command = arg;
    const char *mode = row->kind == QI_ARG_DO ? "none" : value;
    if (take_once(&command->cache, mode, "-n and --cache"))
        return 1;
    return is_one_of(mode, modes) ? 0 : qi_error("Invalid cache mode `%s'", mode);
}

static int take_aio(void *arg, const struct qi_arg *row, char *value)
{
    static const char *const modes[] = {"native", "io_uring", "threads", NULL};
    struct qn_command *command = arg;
    (void)row;
    if (take_once(&command->aio, value, "--aio"))
        return 1;
    return is_one_of(value, modes) ? 0 : qi_error("Invalid aio mode '%s'", value);
}

static int take_discard(void *arg, const struct qi_arg *row, char *value)
{
    static const char *const modes[] = {"ignore", "off", "unmap", "on", NULL};
    struct qn_command *command = arg;
    (void)row;
    if (take_once(&command->discard, value, "--discard"))
        return 1;
    return is_one_of(value, modes) ? 0 : qi_error("Invalid discard mode `%s'", value);
}

static int take_detect_zeroes(void *arg, const struct qi_arg *row, char *value)
{
    static const char *const modes[] = {"off", "on", "unmap", NULL};
    struct qn_command *command = arg;
    (void)row;
    command->detect_zeroes = value;
    if (!is_one_of(value, modes))
        return qi_error("Failed to parse detect_zeroes mode: invalid parameter value: %s", value);
    bool unmap =
        command->discard && (!strcmp(command->discard, "unmap") || !strcmp(command->discard, "on"));
    return strcmp(value, "unmap") == 0 && !unmap
               ? qi_error("setting detect-zeroes to unmap is not allowed without setting discard "
                          "operation to unmap")
               : 0;
}

/* A number as strtoull() with base 0 reads it, and nothing behind. */
static bool parse_number(const char *text, bool negative, uint64_t *ret)
{
    char *end;
    const char *at = text + strspn(text, " \t\n\v\f\r");
    errno = 0;
    *ret = strtoull(text, &end, 0);
    return !errno && end != text && !*end && (negative || *at != '-');
}

static int take_shared(void *arg, const struct qi_arg *row, char *value)
{
    struct qn_command *command = arg;
    uint64_t number;
    (void)row;
    if (!parse_number(value, false, &number) || number > INT_MAX)
        return qi_error("Invalid shared device number '%s'", value);
    command->shared = (unsigned)number;
    return 0;
}

static int take_offset(void *arg, const struct qi_arg *row, char *value)
{
    struct qn_command *command = arg;
    (void)row;
    if (!parse_number(value, true, &command->offset))
        return qi_error("Invalid offset '%s'", value);
    command->offset_given = command->offset != 0;
    return 0;
}

static int take_socket(void *arg, const struct qi_arg *row, char *value)
{
    struct qn_command *command = arg;
    (void)row;
    command->socket = value;
    return *value == '/' ? 0 : qi_error("socket path must be absolute");
}

static int take_name(void *arg, const struct qi_arg *row, char *value)
{
    struct qn_command *command = arg;
    bool name = row->letter == 'x';
    *(name ? &command->name : &command->description) = value;
    return strlen(value) <= QN_STRING_MAX
               ? 0
               : qi_error("export %s '%s' too long", name ? "name" : "description", value);
}

static int take_bitmap(void *arg, const struct qi_arg *row, char *value)
{
    struct qn_command *command = arg;
    (void)row;
    if (command->bitmaps == QN_BITMAPS_MAX)
        return qi_error("up to %d bitmaps are possible", QN_BITMAPS_MAX);
    command->bitmap[command->bitmaps++] = value;
    return 0;
}

static int take_snapshot(void *arg, const struct qi_arg *row, char *value)
{
    struct qn_command *command = arg;
    (void)row;
    command->snapshot = value;
    command->read_only = true;
    return 0;
}

static int take_object(void *arg, const struct qi_arg *row, char *value)
{
    struct qn_command *command = arg;
    (void)row;
    return qn_object_add(&command->objects, value);
}

static int refuse_trace(void *command, const struct qi_arg *row, char *value)
{
    (void)command, (void)row, (void)value;
    return qi_error("--trace: this program has no trace points");
}

static int refuse_label(void *command, const struct qi_arg *row, char *value)
{
    (void)command, (void)row, (void)value;
    return qi_error("--selinux-label: this program sets no labels");
}

#define N struct qn_command

static const struct qi_arg rows[] = {
    QI_DO("version", 'V', print_version),
    QI_WORD(N, bind, "bind", 'b'),
    QI_WORD(N, port, "port", 'p'),
    QI_TAKE("socket", 'k', take_socket),
    QI_TAKE("offset", 'o', take_offset),
    QI_FLAG(N, read_only, "read-only", 'r'),
    QI_FLAG(N, depth, "allocation-depth", 'A'),
    QI_TAKE("bitmap", 'B', take_bitmap),
    QI_FLAG(N, temporary, "snapshot", 's'),
    QI_TAKE("load-snapshot", 'l', take_snapshot),
    QI_DO("nocache", 'n', take_cache),
    QI_TAKE("cache", 0, take_cache),
    QI_TAKE("aio", 0, take_aio),
    QI_TAKE("discard", 0, take_discard),
    QI_TAKE("detect-zeroes", 0, take_detect_zeroes),
    QI_TAKE("shared", 'e', take_shared),
    QI_WORD(N, format, "format", 'f'),
    QI_FLAG(N, persistent, "persistent", 't'),
    QI_FLAG(N, verbose, "verbose", 'v'),
    QI_OPTS(N),
    QI_TAKE("export-name", 'x', take_name),
    QI_WORD(N, connect, "connect", 'c'),
    QI_FLAG(N, disconnect, "disconnect", 'd'),
    QI_FLAG(N, list, "list", 'L'),
    QI_TAKE("object", 0, take_object),
    QI_WORD(N, tls_creds, "tls-creds", 0),
    QI_WORD(N, tls_hostname, "tls-hostname", 0),
    QI_WORD(N, tls_authz, "tls-authz", 0),
    QI_TAKE("description", 'D', take_name),
    QI_FLAG(N, fork, "fork", 0),
    QI_WORD(N, pid_file, "pid-file", 0),
    QI_TAKE("trace", 'T', refuse_trace),
    QI_TAKE("selinux-label", 0, refuse_label),
};

/* ---- serving ---- */

/* What says how one image is served says nothing of a list. */
static int check_list(const struct qn_command *command, int operands)
{
    if (operands)
        return qi_error("List mode is incompatible with a file name");
    if (command->name || command->description || command->bitmaps || command->depth ||
        command->connect || command->disconnect || command->offset_given || command->format ||
        command->cache || command->aio || command->discard || command->snapshot)
        return qi_error("List mode is incompatible with per-device settings");
    if (command->fork)
        return qi_error("List mode is incompatible with forking");
    if (qn_activated())
        return qi_error("List mode is incompatible with socket activation");
    return 0;
}

static int check_activated(const struct qn_command *command)
{
    unsigned sockets = qn_activated();
    if (sockets > 1)
        return qi_error("qemu-nbd does not support socket activation with LISTEN_FDS > 1");
    if (sockets && command->port)
        return qi_error("TCP port number can't be set when using socket activation");
    if (sockets && command->bind)
        return qi_error("The interface can't be set when using socket activation");
    if (sockets && command->socket)
        return qi_error("Unix socket can't be set when using socket activation");
    if (sockets && (command->connect || command->disconnect))
        return qi_error("NBD device can't be set when using socket activation");
    return 0;
}

struct server {
    const struct qn_command *command;
    struct qn_daemon daemon;
    struct qn_image image;
    const struct qn_creds *creds; /* or NULL */
    bool started, told;
};

/* Of the engine's configuration. */
static json_t *describe_tls(const struct qn_creds *creds)
{
    json_t *tls = json_pack("{s:s, s:b, s:s}", "credentials", creds->folder, "required", true,
                            "mode", creds->psk ? "psk" : "x509");
    if (tls && !creds->psk)
        json_object_set_new(tls, "verify-peer", json_boolean(creds->verify_peer));
    return tls;
}

static int started(void *arg, struct hws_error *err)
{
    struct server *server = arg;
    server->started = true;
    qn_image_unlink(&server->image);
    if (server->command->connect && server->command->verbose)
        fprintf(stderr, "NBD device %s is now connected to %s\n", server->command->connect,
                server->command->file);
    server->told = qn_daemon_ready(&server->daemon, server->command->pid_file);
    return server->told ? hws_fail(err, EIO, "told already") : 0;
}

/* No limit is as many as the engine takes. */
#define CLIENTS_MAX (1u << 20)

static json_t *describe_export(const struct qn_command *command)
{
    unsigned clients = MIN(command->shared, CLIENTS_MAX);
    json_t *bitmaps = json_array();
    for (unsigned i = 0; i < command->bitmaps; i++)
        json_array_append_new(bitmaps, json_string_nocheck(command->bitmap[i]));
    return json_pack(
        "{s:o, s:s, s:o*, s:i, s:o, s:b}", "name",
        json_string_nocheck(command->name ? command->name : ""), "volume", QN_VOLUME, "description",
        command->description ? json_string_nocheck(command->description) : NULL, "connections",
        (int)clients, "bitmaps", bitmaps, "allocation-depth", command->depth);
}

static json_t *make_config(const struct server *server, int fd)
{
    const struct qn_command *command = server->command;
    unsigned clients = MIN(command->shared, CLIENTS_MAX);
    char address[32];
    json_t *config = json_pack("{s:[O], s:s}", "volumes", server->image.volume, "log-level",
                               command->verbose ? "info" : "error");
    if (!config || command->connect)
        return config;
    snprintf(address, sizeof(address), "fd:%d", fd);
    json_t *nbd =
        json_pack("{s:[s], s:i, s:[o]}", "listen", address, "connections",
                  (int)(clients ? clients : CLIENTS_MAX), "exports", describe_export(command));
    if (nbd && server->creds)
        json_object_set_new(nbd, "tls", describe_tls(server->creds));
    json_object_set_new(config, "nbd", nbd);
    return config;
}

/* Why it did not start. */
static int explain(const struct server *server, const struct hws_error *err)
{
    const struct qn_command *command = server->command;
    for (unsigned i = 0; i < command->bitmaps; i++) {
        autofree char *words = NULL;
        if (asprintf(&words, "no bitmap '%s'", command->bitmap[i]) >= 0 && strstr(err->text, words))
            return qi_error("Bitmap '%s' is not found", command->bitmap[i]);
    }
    return server->started || command->connect || strncmp(err->text, "TLS: ", 5) == 0
               ? qi_error("%s", err->text)
               : qi_explain(&server->image.operand, err);
}

static int serve_at(struct server *server, int fd)
{
    struct engine_manner manner = {.hangup_stops = true,
                                   .cut_clients = true,
                                   .until_left = !server->command->persistent,
                                   .clients_wait = true,
                                   .no_heir = true,
                                   .started = started,
                                   .arg = server};
    json_t *config = make_config(server, fd);
    if (!config)
        return qi_error("out of memory");
    struct hws_error err = {0};
    int r = engine_run(config, &manner, &err);
    json_decref(config);
    if (r == 0 || server->told)
        return r < 0;
    return explain(server, &err);
}

static int serve(const struct qn_command *command, const struct qn_creds *creds)
{
    struct server server = {.command = command, .creds = creds, .daemon = {-1, -1, -1}};
    if (command->fork || (command->connect && !command->verbose))
        qn_fork(&server.daemon);
    int fd = command->connect ? -1 : qn_listen(command);
    if (fd < 0 && !command->connect)
        return 1;
    int code = qn_image(command, &server.image);
    if (!code && command->connect)
        code = qn_check_device(command);
    if (!code)
        code = serve_at(&server, fd);
    if (command->socket)
        (void)unlink(command->socket);
    qn_image_free(&server.image);
    return code;
}

/* The credentials that are asked for. @return 0 or 1, told. */
static int take_creds(const struct qn_command *command, const struct qn_creds **ret)
{
    *ret = NULL;
    if (!command->tls_creds && command->tls_hostname)
        return qi_error("--tls-hostname is not permitted without --tls-creds");
    if (!command->tls_creds && command->tls_authz)
        return qi_error("--tls-authz is not permitted without --tls-creds");
    if (!command->tls_creds)
        return 0;
    *ret = qn_creds_find(command->objects, command->tls_creds, !command->list);
    if (!*ret)
        return 1;
    if (command->tls_hostname && !command->list)
        return qi_error("TLS hostname is only supported with export list");
    return command->tls_authz ? qi_error("--tls-authz: this program knows no authorization objects")
                              : 0;
}

static int run(struct qn_command *command, int operands, char **operand)
{
    const struct qn_creds *creds;
    int code = command->list ? check_list(command, operands) : 0;
    if (!code)
        code = take_creds(command, &creds);
    if (code || command->list)
        return code ? code : qn_list(command, creds);
    if (operands != 1)
        return qi_usage("Invalid number of arguments");
    command->file = operand[0];
    code = check_activated(command);
    if (!code && command->disconnect)
        return qn_disconnect(command->file);
    if (!code && command->connect)
        code = qn_check_connect(command);
    if (!code && command->format && command->reach & QI_IMAGE_OPTS)
        code = qi_error("--image-opts and -f are mutually exclusive");
    return code ? code : serve(command, creds);
}

int qemu_nbd_main(int argc, char **argv)
{
    static const struct qi_tool tool = {
        .name = "qemu-nbd",
        .cannot_open = "Failed to blk_new_open",
        .try_help = "Try `qemu-nbd --help' for more information.",
        .help = print_help,
    };
    static const struct qi_args args = {rows, ARRAY_LEN(rows), point_to_help};
    struct qn_command command = {.shared = 1};
    qi_tool = &tool;
    int code = qi_take(&args, &command, argc, argv);
    if (code == QI_GO)
        code = run(&command, argc - optind, argv + optind);
    qn_objects_free(command.objects);
    return code;
}
