/*
 * The HTTP server; see api/http/server.h.
 *
 * libmicrohttpd calls back on its one thread: first with the head, then with pieces of the body,
 * then with none. There the connection is suspended and the request queued; the worker resumes it
 * with the reply made, and the next call back sends that.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "api/http/server.h"
#include "api/http/workers.h"
#include "base/log.h"
#include <fcntl.h>
#include <microhttpd.h>
#include <pthread.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>

#define BACKLOG 256

struct http_server {
    struct http_options options;
    char *path;
    struct http_workers *workers;
    struct MHD_Daemon *daemon;
    pthread_mutex_t mutex; /* guards clients */
    struct list clients;
};

/* A connection, for its deadline. */
struct client {
    struct list node;
    int fd;
    uint64_t since_ms; /* when it began to send a request; 0: one is being worked on */
};

struct exchange {
    struct http_work work;
    struct http_server *server;
    struct MHD_Connection *connection;
    struct client *client;
    struct http_request request;
    struct http_reply reply;
    char *method, *path, *body;
    size_t capacity;
    uint64_t started_ms;
    bool too_large, done;
};

static uint64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

const char *http_query(const struct http_request *request, const char *name)
{
    return MHD_lookup_connection_value(request->connection, MHD_GET_ARGUMENT_KIND, name);
}

struct each_argument {
    bool (*each)(void *arg, const char *name, const char *value);
    void *arg;
};

static enum MHD_Result tell_argument(void *context, enum MHD_ValueKind kind, const char *name,
                                     const char *value)
{
    const struct each_argument *told = context;
    return told->each(told->arg, name, value ? value : "") ? MHD_YES : MHD_NO;
}

void http_query_each(const struct http_request *request,
                     bool (*each)(void *arg, const char *name, const char *value), void *arg)
{
    struct each_argument told = {each, arg};
    MHD_get_connection_values(request->connection, MHD_GET_ARGUMENT_KIND, tell_argument, &told);
}

void http_reply_json(struct http_reply *reply, unsigned status, json_t *value)
{
    free(reply->body);
    reply->status = status;
    reply->type = NULL;
    reply->body = value ? json_dumps(value, JSON_COMPACT) : NULL;
    reply->length = reply->body ? strlen(reply->body) : 0;
    json_decref(value);
}

/* ---- one request ---- */

static struct client *client_of(struct MHD_Connection *connection)
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    return info ? info->socket_context : NULL;
}

static void set_waiting(struct exchange *x, bool waiting)
{
    pthread_mutex_lock(&x->server->mutex);
    if (x->client)
        x->client->since_ms = waiting ? now_ms() : 0;
    pthread_mutex_unlock(&x->server->mutex);
}

static void run(struct http_work *work)
{
    struct exchange *x = container_of(work, struct exchange, work);
    const struct http_options *options = &x->server->options;
    if (x->too_large)
        options->refuse(&x->request, 413, "the body is larger than 1 MiB", &x->reply);
    else
        options->handler(options->arg, &x->request, &x->reply);
    log_info("%s %s: %s %.200s: %u in %llu ms", options->log_name, x->request.id, x->request.method,
             x->request.path, x->reply.status, (unsigned long long)(now_ms() - x->started_ms));
    x->done = true;
    MHD_resume_connection(x->connection);
}

static struct exchange *exchange_new(struct http_server *server, struct MHD_Connection *connection,
                                     const char *path, const char *method)
{
    struct exchange *x = calloc(1, sizeof(*x));
    uint64_t random = 0;
    if (!x)
        return NULL;
    x->server = server;
    x->connection = connection;
    x->client = client_of(connection);
    x->work.run = run;
    x->method = strdup(method);
    x->path = strdup(path);
    x->body = calloc(1, 1);
    x->started_ms = now_ms();
    if (getrandom(&random, sizeof(random), 0) != sizeof(random) || !x->method || !x->path ||
        !x->body) {
        free(x->method);
        free(x->path);
        free(x->body);
        free(x);
        return NULL;
    }
    x->request = (struct http_request){
        .method = x->method, .path = x->path, .body = x->body, .connection = connection};
    snprintf(x->request.id, sizeof(x->request.id), "%016llx", (unsigned long long)random);
    return x;
}

static void add_body(struct exchange *x, const char *data, size_t length)
{
    size_t used = x->request.body_length;
    if (x->too_large || length > HTTP_BODY_MAX - used) {
        x->too_large = true; /* read on and dropped: a client hears the answer only then */
        return;
    }
    if (used + length + 1 > x->capacity) {
        size_t capacity = MAX(2 * x->capacity, used + length + 1);
        char *grown = realloc(x->body, capacity);
        if (!grown) {
            x->too_large = true;
            return;
        }
        x->body = grown;
        x->capacity = capacity;
    }
    memcpy(x->body + used, data, length);
    x->body[used + length] = '\0';
    x->request.body = x->body;
    x->request.body_length = used + length;
}

static enum MHD_Result send_reply(struct exchange *x)
{
    struct http_reply *reply = &x->reply;
    struct MHD_Response *response = MHD_create_response_from_buffer(
        reply->length, reply->body ? reply->body : (char *)"",
        reply->body ? MHD_RESPMEM_MUST_FREE : MHD_RESPMEM_PERSISTENT);
    if (!response)
        return MHD_NO;
    reply->body = NULL;
    MHD_add_response_header(response, "Content-Type",
                            reply->type ? reply->type : "application/json");
    MHD_add_response_header(response, "X-Request-Id", x->request.id);
    enum MHD_Result queued = MHD_queue_response(x->connection, reply->status, response);
    MHD_destroy_response(response);
    set_waiting(x, true);
    return queued;
}

static enum MHD_Result access_cb(void *arg, struct MHD_Connection *connection, const char *path,
                                 const char *method, const char *version, const char *data,
                                 size_t *length, void **context)
{
    struct exchange *x = *context;
    if (!x) {
        *context = x = exchange_new(arg, connection, path, method);
        return x ? MHD_YES : MHD_NO;
    }
    if (x->done)
        return send_reply(x);
    if (*length) {
        add_body(x, data, *length);
        *length = 0;
        return MHD_YES;
    }
    set_waiting(x, false);
    MHD_suspend_connection(connection);
    if (!http_workers_add(x->server->workers, &x->work)) {
        x->server->options.refuse(&x->request, 503, "hawserd is being stopped", &x->reply);
        x->done = true;
        MHD_resume_connection(connection);
    }
    return MHD_YES;
}

static void completed_cb(void *arg, struct MHD_Connection *connection, void **context,
                         enum MHD_RequestTerminationCode code)
{
    struct exchange *x = *context;
    if (!x)
        return;
    free(x->method);
    free(x->path);
    free(x->body);
    free(x->reply.body);
    free(x);
    *context = NULL;
}

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
        client->since_ms = now_ms();
        pthread_mutex_lock(&server->mutex);
        list_push_back(&server->clients, &client->node);
        pthread_mutex_unlock(&server->mutex);
    } else if (client) {
        pthread_mutex_lock(&server->mutex);
        list_del(&client->node);
        pthread_mutex_unlock(&server->mutex);
        free(client);
        *context = NULL;
    }
}

void http_server_tick(struct http_server *server)
{
    uint64_t now = now_ms();
    pthread_mutex_lock(&server->mutex);
    list_for_each (node, &server->clients) {
        struct client *client = list_entry(node, struct client, node);
        if (client->since_ms && now - client->since_ms > server->options.request_s * 1000ull)
            shutdown(client->fd, SHUT_RDWR); /* libmicrohttpd sees the end and closes it */
    }
    pthread_mutex_unlock(&server->mutex);
}

/* ---- the server ---- */

/* Whether somebody listens there; a socket that a dead server left is removed. */
static int claim_path(const struct sockaddr_un *address, struct hws_error *err)
{
    struct stat st;
    if (lstat(address->sun_path, &st) < 0)
        return 0;
    if (!S_ISSOCK(st.st_mode))
        return hws_fail(err, EEXIST, "%s is there and no socket", address->sun_path);
    autofd int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd >= 0 &&
        (connect(fd, (const struct sockaddr *)address, sizeof(*address)) == 0 || errno == EAGAIN))
        return hws_fail(err, EADDRINUSE, "somebody listens at %s", address->sun_path);
    if (unlink(address->sun_path) < 0 && errno != ENOENT)
        return hws_fail_errno(err, errno, "cannot remove %s", address->sun_path);
    return 0;
}

static int listen_at(const char *path, int *ret, struct hws_error *err)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof(address.sun_path))
        return hws_fail(err, ENAMETOOLONG, "socket path %s is too long", path);
    memcpy(address.sun_path, path, strlen(path));
    int r = claim_path(&address, err);
    if (r < 0)
        return r;
    autofd int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return hws_fail_errno(err, errno, "cannot make a socket");
    mode_t before = umask(0177); /* root and who runs this, nobody else */
    r = bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0 ? -errno : 0;
    umask(before);
    if (r < 0 || listen(fd, BACKLOG) < 0)
        return hws_fail_errno(err, r < 0 ? -r : errno, "cannot listen at %s", path);
    *ret = steal_fd(&fd);
    return 0;
}

static void log_library(void *arg, const char *format, va_list args)
{
    char line[512];
    vsnprintf(line, sizeof(line), format, args);
    line[strcspn(line, "\n")] = '\0';
    log_debug("libmicrohttpd: %s", line);
}

static int start_daemon(struct http_server *server, int fd, struct hws_error *err)
{
    const struct MHD_OptionItem options[] = {
        {MHD_OPTION_LISTEN_SOCKET, fd, NULL},
        {MHD_OPTION_CONNECTION_LIMIT, HTTP_CONNECTIONS_MAX, NULL},
        {MHD_OPTION_CONNECTION_TIMEOUT, server->options.request_s, NULL},
        {MHD_OPTION_CONNECTION_MEMORY_LIMIT, HTTP_HEAD_MAX, NULL},
        {MHD_OPTION_NOTIFY_COMPLETED, (intptr_t)completed_cb, server},
        {MHD_OPTION_NOTIFY_CONNECTION, (intptr_t)connection_cb, server},
        {MHD_OPTION_END, 0, NULL},
    };
    server->daemon = MHD_start_daemon(MHD_USE_EPOLL_INTERNAL_THREAD | MHD_ALLOW_SUSPEND_RESUME |
                                          MHD_USE_ERROR_LOG,
                                      0, NULL, NULL, access_cb, server, MHD_OPTION_EXTERNAL_LOGGER,
                                      log_library, NULL, MHD_OPTION_ARRAY, options, MHD_OPTION_END);
    return server->daemon ? 0 : hws_fail(err, EIO, "cannot start the HTTP server");
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
    pthread_mutex_init(&server->mutex, NULL);
    int r = fd < 0 ? listen_at(options->path, &fd, err) : 0;
    if (r == 0 && options->fd < 0)
        server->path = strdup(options->path);
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
}

void http_server_stop(struct http_server *server)
{
    if (!server)
        return;
    if (server->daemon)
        MHD_stop_daemon(server->daemon);
    pthread_mutex_destroy(&server->mutex);
    free(server->path);
    free(server);
}
