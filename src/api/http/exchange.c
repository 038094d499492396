/*
 * One request. libmicrohttpd calls back first with the head, then with pieces of the body, then
 * with none. There the connection is suspended and the request queued; the worker resumes it with
 * the reply made, and the next call back sends that.
 *
 * A handler that has nothing to tell yet leaves its request waiting: without a thread, until
 * something happens (http_server_wake) or its time is over, and then it is called again. A wake
 * that comes between the handler's look and the waiting is seen by its count.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "api/http/internal.h"
#include "base/log.h"
#include <sys/random.h>
#include <sys/socket.h>
#include <time.h>

uint64_t http_now_ms(void)
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

static struct client *client_of(struct MHD_Connection *connection)
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    return info ? info->socket_context : NULL;
}

static void set_sending(struct exchange *x, bool sending)
{
    pthread_mutex_lock(&x->server->mutex);
    if (x->client)
        x->client->since_ms = sending ? http_now_ms() : 0;
    pthread_mutex_unlock(&x->server->mutex);
}

/* ---- who it is ---- */

uint64_t http_peer_process(const struct http_request *request)
{
    struct ucred peer;
    socklen_t length = sizeof(peer);
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(request->connection, MHD_CONNECTION_INFO_CONNECTION_FD);
    if (!info || getsockopt(info->connect_fd, SOL_SOCKET, SO_PEERCRED, &peer, &length) < 0)
        return 0;
    return peer.pid > 0 ? (uint64_t)peer.pid : 0;
}

static void local_peer(int fd, struct http_peer *peer)
{
    struct ucred credentials = {.uid = (uid_t)-1, .gid = (gid_t)-1};
    socklen_t length = sizeof(credentials);
    peer->local = true;
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &credentials, &length) < 0)
        credentials.uid = (uid_t)-1;
    peer->uid = credentials.uid;
    peer->groups[peer->group_count++] = credentials.gid;
    length = sizeof(peer->groups) - sizeof(gid_t);
    if (getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, peer->groups + 1, &length) == 0)
        peer->group_count += length / sizeof(gid_t);
}

/* Who has no certificate, or none that holds, may do nothing: -1. */
static int identify(struct exchange *x)
{
    const struct http_options *options = &x->server->options;
    struct http_peer peer = {0};
    struct hws_error err = {0};
    if (x->server->tls) {
        if (http_tls_peer(x->server->tls, x->connection, &peer, &err) < 0) {
            log_warning("%s: a client is refused: %s", options->log_name, err.text);
            return -1;
        }
    } else if (x->client) {
        local_peer(x->client->fd, &peer);
    }
    return options->admit ? options->admit(options->admit_arg, &peer) : 0;
}

static void take_role(struct exchange *x)
{
    if (x->client && x->client->known) {
        x->request.role = x->client->role;
    } else {
        x->request.role = identify(x);
        if (x->client) {
            x->client->role = x->request.role;
            x->client->known = true;
        }
    }
    if (x->request.role < 0)
        x->refused = 403;
}

/* ---- its turn at a worker ---- */

static void finish(struct exchange *x)
{
    log_info("%s %s: %s %.200s: %u in %llu ms", x->server->options.log_name, x->request.id,
             x->request.method, x->request.path, x->reply.status,
             (unsigned long long)(http_now_ms() - x->started_ms));
    x->done = true;
    atomic_fetch_add(&x->server->answering, 1);
    MHD_resume_connection(x->connection);
}

static void refuse(struct exchange *x, unsigned status)
{
    const char *message = status == 413   ? "the body is larger than 1 MiB"
                          : status == 403 ? "you have no role here; hawserd's \"roles\" give them"
                          : status == 507 ? "too many requests are under way; try again"
                                          : "hawserd is being stopped";
    x->server->options.refuse(&x->request, status == 507 ? 503 : status, message, &x->reply);
}

static void run_again(struct exchange *x)
{
    if (http_workers_add(x->server->workers, &x->work))
        return;
    refuse(x, 503);
    finish(x);
}

static void wait_or_finish(struct exchange *x, uint64_t wakes_seen)
{
    struct http_server *server = x->server;
    if (!x->reply.wait_ms) {
        finish(x);
        return;
    }
    pthread_mutex_lock(&server->mutex);
    if (server->wakes != wakes_seen || server->stopping)
        run_again(x);
    else
        list_push_back(&server->waiting, &x->waits);
    pthread_mutex_unlock(&server->mutex);
}

static void run(struct http_work *work)
{
    struct exchange *x = container_of(work, struct exchange, work);
    const struct http_options *options = &x->server->options;
    pthread_mutex_lock(&x->server->mutex);
    uint64_t wakes_seen = x->server->wakes;
    x->request.last = x->server->stopping;
    pthread_mutex_unlock(&x->server->mutex);
    x->request.waited_ms = http_now_ms() - x->started_ms;
    x->reply.wait_ms = 0;
    log_set_context(x->request.id);
    if (x->refused)
        refuse(x, x->refused);
    else
        options->handler(options->arg, &x->request, &x->reply);
    wait_or_finish(x, wakes_seen);
    log_set_context("");
}

void http_waiting_run(struct http_server *server, bool all)
{
    uint64_t now = http_now_ms();
    struct list *next;
    for (struct list *node = server->waiting.next; node != &server->waiting; node = next) {
        struct exchange *x = list_entry(node, struct exchange, waits);
        next = node->next;
        if (!all && now - x->started_ms < x->reply.wait_ms)
            continue;
        list_del(node);
        run_again(x);
    }
}

/* ---- its body ---- */

static void exchange_free(struct exchange *x)
{
    if (x->capacity)
        atomic_fetch_sub(&x->server->body_bytes, x->capacity);
    atomic_fetch_sub(&x->server->reply_bytes, x->reply_bytes);
    if (x->reply.stream.end)
        x->reply.stream.end(x->reply.stream.arg);
    free(x->method);
    free(x->path);
    free(x->body);
    free(x->reply.body);
    free(x);
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
    x->started_ms = http_now_ms();
    list_init(&x->waits);
    if (getrandom(&random, sizeof(random), 0) != sizeof(random) || !x->method || !x->path ||
        !x->body) {
        exchange_free(x);
        return NULL;
    }
    x->request = (struct http_request){
        .method = x->method, .path = x->path, .body = x->body, .connection = connection};
    snprintf(x->request.id, sizeof(x->request.id), "%016llx", (unsigned long long)random);
    take_role(x);
    return x;
}

/* Room for @size bytes, within what all bodies of this server may have. */
static bool grow_body(struct exchange *x, size_t size)
{
    if (size <= x->capacity)
        return true;
    size_t capacity = MAX(2 * x->capacity, size), more = capacity - x->capacity;
    if (atomic_fetch_add(&x->server->body_bytes, more) + more > HTTP_BODIES_MAX) {
        atomic_fetch_sub(&x->server->body_bytes, more);
        return false;
    }
    char *grown = realloc(x->body, capacity);
    if (!grown) {
        atomic_fetch_sub(&x->server->body_bytes, more);
        return false;
    }
    x->body = grown;
    x->capacity = capacity;
    return true;
}

/* What was refused makes room for others at once. */
static void drop_body(struct exchange *x)
{
    free(x->body);
    atomic_fetch_sub(&x->server->body_bytes, x->capacity);
    x->body = NULL;
    x->capacity = x->request.body_length = 0;
    x->request.body = "";
}

static void add_body(struct exchange *x, const char *data, size_t length)
{
    size_t used = x->request.body_length;
    if (x->refused)
        return; /* read on and dropped: a client hears the answer only then */
    if (length > HTTP_BODY_MAX - used)
        x->refused = 413;
    else if (!grow_body(x, used + length + 1))
        x->refused = 507;
    if (x->refused) {
        drop_body(x);
        return;
    }
    memcpy(x->body + used, data, length);
    x->body[used + length] = '\0';
    x->request.body = x->body;
    x->request.body_length = used + length;
}

/* ---- its reply ---- */

static struct MHD_Response *make_response(struct exchange *x)
{
    struct http_reply *reply = &x->reply;
    if (reply->stream.read) {
        struct MHD_Response *response =
            http_stream_response(x->server, x->connection, &reply->stream);
        if (response)
            reply->stream = (struct http_stream){0};
        return response;
    }
    size_t held = atomic_fetch_add(&x->server->reply_bytes, reply->length) + reply->length;
    x->reply_bytes = reply->length;
    if (held > HTTP_REPLIES_MAX && reply->length > 4 * KiB)
        refuse(x, 507);
    struct MHD_Response *response = MHD_create_response_from_buffer(
        reply->length, reply->body ? reply->body : (char *)"",
        reply->body ? MHD_RESPMEM_MUST_FREE : MHD_RESPMEM_PERSISTENT);
    if (response)
        reply->body = NULL;
    return response;
}

static enum MHD_Result send_reply(struct exchange *x)
{
    const struct http_reply *reply = &x->reply;
    bool stream = reply->stream.read != NULL;
    struct MHD_Response *response = make_response(x);
    if (!response)
        return MHD_NO;
    MHD_add_response_header(response, "Content-Type",
                            reply->type ? reply->type : "application/json");
    MHD_add_response_header(response, "X-Request-Id", x->request.id);
    if (reply->sequence[0])
        MHD_add_response_header(response, "X-Sequence", reply->sequence);
    enum MHD_Result queued = MHD_queue_response(x->connection, reply->status, response);
    MHD_destroy_response(response);
    if (!stream) /* one that reads nothing of a stream runs into the connection's time limit */
        set_sending(x, true);
    return queued;
}

enum MHD_Result http_access(void *arg, struct MHD_Connection *connection, const char *path,
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
    set_sending(x, false);
    MHD_suspend_connection(connection);
    run_again(x);
    return MHD_YES;
}

void http_completed(void *arg, struct MHD_Connection *connection, void **context,
                    enum MHD_RequestTerminationCode code)
{
    struct exchange *x = *context;
    if (x && x->done)
        atomic_fetch_sub(&x->server->answering, 1);
    if (x)
        exchange_free(x);
    *context = NULL;
}
