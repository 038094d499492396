/*
 * The HTTP server: connections and their deadlines, start and end; see api/http/server.h.
 *
 * A client has request_s seconds for sending a request, and as long for taking the answer. Where
 * connections or room for answers get few, the seconds do: whoever sends or takes nothing for
 * HTTP_CROWDED_MS goes.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "api/http/internal.h"
#include "base/log.h"
#include <sys/socket.h>

/** Between two times at which streams that have nothing may tell that they live. */
#define BEAT_MS 5000
/** For answers to get through at the end. */
#define END_MS 2000

/* ---- connections ---- */

static void connection_cb(void *arg, struct MHD_Connection *connection, void **context,
                          enum MHD_ConnectionNotificationCode code)
{
    struct http_server *server = arg;
    struct client *client = *context;
    if (code == MHD_CONNECTION_NOTIFY_STARTED) {
        const union MHD_ConnectionInfo *info =
            MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
        client = calloc(1, sizeof(*client));
        if (!client || !info) {
            free(client);
            return;
        }
        *context = client;
        client->fd = info->connect_fd;
        client->since_ms = http_now_ms();
        pthread_mutex_lock(&server->mutex);
        list_push_back(&server->clients, &client->node);
        server->client_count++;
        pthread_mutex_unlock(&server->mutex);
    } else if (client) {
        pthread_mutex_lock(&server->mutex);
        list_del(&client->node);
        server->client_count--;
        pthread_mutex_unlock(&server->mutex);
        free(client);
        *context = NULL;
    }
}

void http_server_wake(struct http_server *server)
{
    pthread_mutex_lock(&server->mutex);
    server->wakes++;
    http_waiting_run(server, true);
    http_streams_run(server);
    pthread_mutex_unlock(&server->mutex);
}

void http_server_tick(struct http_server *server)
{
    uint64_t now = http_now_ms(), limit = server->options.request_s * 1000ull;
    pthread_mutex_lock(&server->mutex);
    if (server->client_count > HTTP_CROWDED ||
        atomic_load(&server->reply_bytes) > HTTP_REPLIES_MAX / 2)
        limit = MIN(limit, HTTP_CROWDED_MS);
    list_for_each (node, &server->clients) {
        struct client *client = list_entry(node, struct client, node);
        if (client->since_ms && now - client->since_ms > limit)
            shutdown(client->fd, SHUT_RDWR); /* libmicrohttpd sees the end and closes it */
    }
    http_waiting_run(server, false);
    if (now - server->beat_ms > BEAT_MS) {
        server->beat_ms = now;
        http_streams_run(server);
    }
    pthread_mutex_unlock(&server->mutex);
}

/* ---- the server ---- */

static void log_library(void *arg, const char *format, va_list args)
{
    char line[512];
    vsnprintf(line, sizeof(line), format, args);
    line[strcspn(line, "\n")] = '\0';
    log_debug("libmicrohttpd: %s", line);
}

static int start_daemon(struct http_server *server, int fd, struct hws_error *err)
{
    struct MHD_OptionItem tls[HTTP_TLS_OPTIONS] = {{MHD_OPTION_END, 0, NULL}};
    const struct MHD_OptionItem options[] = {
        {MHD_OPTION_LISTEN_SOCKET, fd, NULL},
        {MHD_OPTION_CONNECTION_LIMIT, HTTP_CONNECTIONS_MAX, NULL},
        {MHD_OPTION_CONNECTION_TIMEOUT, server->options.request_s, NULL},
        {MHD_OPTION_CONNECTION_MEMORY_LIMIT, HTTP_HEAD_MAX, NULL},
        {MHD_OPTION_NOTIFY_COMPLETED, (intptr_t)http_completed, server},
        {MHD_OPTION_NOTIFY_CONNECTION, (intptr_t)connection_cb, server},
        {MHD_OPTION_END, 0, NULL},
    };
    unsigned flags = MHD_USE_EPOLL_INTERNAL_THREAD | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG;
    if (server->tls) {
        http_tls_options(server->tls, tls);
        flags |= MHD_USE_TLS;
    }
    server->daemon = MHD_start_daemon(
        flags, 0, NULL, NULL, http_access, server, MHD_OPTION_EXTERNAL_LOGGER, log_library, NULL,
        MHD_OPTION_ARRAY, options, MHD_OPTION_ARRAY, tls, MHD_OPTION_END);
    return server->daemon ? 0 : hws_fail(err, EIO, "cannot start the HTTP server");
}

static int start_listening(struct http_server *server, int *fd, struct hws_error *err)
{
    const struct http_options *options = &server->options;
    int r = 0;
    if (options->tls_folder)
        r = http_tls_read(options->tls_folder, &server->tls, err);
    if (r < 0 || *fd >= 0)
        return r;
    if (options->address)
        return http_listen_tcp(options->address, fd, err);
    r = http_listen_unix(options->path, options->everybody, fd, err);
    server->path = r == 0 ? strdup(options->path) : NULL;
    return r;
}

int http_server_start(const struct http_options *options, struct http_workers *workers,
                      struct http_server **ret, struct hws_error *err)
{
    struct http_server *server = calloc(1, sizeof(*server));
    autofd int fd = options->fd;
    if (!server)
        return hws_fail(err, ENOMEM, "out of memory");
    server->options = *options;
    server->workers = workers;
    list_init(&server->clients);
    list_init(&server->waiting);
    list_init(&server->streams);
    pthread_mutex_init(&server->mutex, NULL);
    int r = start_listening(server, &fd, err);
    if (r == 0)
        r = start_daemon(server, fd, err);
    if (r < 0) {
        http_server_stop(server);
        return r;
    }
    steal_fd(&fd); /* libmicrohttpd closes it */
    *ret = server;
    return 0;
}

void http_server_quiesce(struct http_server *server)
{
    if (!server || !server->daemon)
        return;
    if (server->path)
        unlink(server->path);
    int fd = MHD_quiesce_daemon(server->daemon);
    if (fd >= 0)
        close(fd);
    pthread_mutex_lock(&server->mutex);
    server->stopping = true;
    http_waiting_run(server, true);
    http_streams_run(server);
    pthread_mutex_unlock(&server->mutex);
}

/* Answers are on their way: who takes them gets them. */
static void let_out(struct http_server *server)
{
    uint64_t until = http_now_ms() + END_MS;
    while (atomic_load(&server->answering) > 0 && http_now_ms() < until)
        usleep(5000);
}

void http_server_stop(struct http_server *server)
{
    if (!server)
        return;
    if (server->daemon) {
        let_out(server);
        MHD_stop_daemon(server->daemon);
    }
    pthread_mutex_destroy(&server->mutex);
    http_tls_free(server->tls);
    free(server->path);
    free(server);
}
