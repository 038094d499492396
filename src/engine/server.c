/*
 * The control socket: JSON-RPC 2.0 over a unix stream socket, one message a line.
 *
 * Newline framing, because a person with `nc -U` or `socat` can speak it, and JSON text needs no
 * raw newline. What a client may cost is bounded:
 * - a message has at most MESSAGE_BYTES_MAX bytes and must be complete PARTIAL_TIMEOUT after its
 * first byte;
 * - an answer must be taken within ANSWER_TIMEOUT, else the client is cut;
 * - there are at most CLIENTS_MAX clients; one more cuts the one that was quiet longest;
 * - clients of one queue take turns, one message a turn.
 * The socket's mode is 0600, and peers must have this process's user or be root (SO_PEERCRED).
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "engine/engine.h"
#include "base/log.h"
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#define MESSAGE_BYTES_MAX   (64 * KiB)
#define MESSAGE_BYTES_START ((size_t)2 * KiB)
#define CLIENTS_MAX         32
#define BACKLOG             256
#define PARTIAL_TIMEOUT_NS  (10 * 1000000000ull)
#define ANSWER_TIMEOUT_NS   (10 * 1000000000ull)
#define GOODBYE_NS          500000000ull

struct server {
    struct engine *engine;
    char *path, *lent; /* lent: the socket's other name, or NULL */
    int fd;
    bool stopping, owns_path;
    struct list clients; /* quiet longest first */
    unsigned client_count;
    struct co_group coroutines;
};

struct client {
    struct list link;
    struct server *server;
    int fd;
    bool busy; /* a method runs: not to be cut for another client */
    bool cut;  /* on its way out */
    char *buffer;
    size_t used, capacity;
    size_t scanned; /* bytes known to hold no newline */
};

/* ---- one client ---- */

static int co_send(struct client *client, const char *text, size_t length)
{
    uint64_t deadline = rt_now_ns() + ANSWER_TIMEOUT_NS;
    while (length > 0) {
        ssize_t n = send(client->fd, text, length, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && errno != EAGAIN && errno != EINTR)
            return -errno;
        if (n > 0) {
            text += n;
            length -= (size_t)n;
            continue;
        }
        uint64_t now = rt_now_ns();
        int events = now < deadline ? co_poll_timeout(client->fd, POLLOUT, deadline - now) : 0;
        if (events <= 0)
            return events < 0 ? events : -ETIMEDOUT;
    }
    return 0;
}

static int co_answer(struct client *client, const char *message, size_t length)
{
    client->busy = true;
    json_t *answer = co_method_answer(client->server->engine, message, length);
    client->busy = false;
    if (!answer)
        return 0;
    char *text = json_dumps(answer, JSON_COMPACT);
    json_decref(answer);
    if (!text)
        return -ENOMEM;
    size_t end = strlen(text);
    text[end] = '\n'; /* in place of the terminator: one send */
    int r = co_send(client, text, end + 1);
    free(text);
    return r;
}

static int make_room(struct client *client)
{
    if (client->used < client->capacity)
        return 0;
    if (client->capacity >= MESSAGE_BYTES_MAX)
        return -EMSGSIZE;
    size_t capacity = client->capacity ? client->capacity * 4 : MESSAGE_BYTES_START;
    char *grown = realloc(client->buffer, MIN(capacity, (size_t)MESSAGE_BYTES_MAX));
    if (!grown)
        return -ENOMEM;
    client->buffer = grown;
    client->capacity = MIN(capacity, (size_t)MESSAGE_BYTES_MAX);
    return 0;
}

/* One line into @ret_length (the newline not counted); 0 bytes read is the end: -EPIPE. */
static int co_receive(struct client *client, size_t *ret_length)
{
    uint64_t deadline = client->used ? rt_now_ns() + PARTIAL_TIMEOUT_NS : 0;
    for (;;) {
        char *end = client->used > client->scanned ? memchr(client->buffer + client->scanned, '\n',
                                                            client->used - client->scanned)
                                                   : NULL;
        if (end) {
            *ret_length = (size_t)(end - client->buffer);
            return 0;
        }
        client->scanned = client->used;
        int r = make_room(client);
        if (r < 0)
            return r;
        ssize_t n = recv(client->fd, client->buffer + client->used, client->capacity - client->used,
                         MSG_DONTWAIT);
        if (n == 0)
            return -EPIPE;
        if (n < 0 && errno != EAGAIN && errno != EINTR)
            return -errno;
        if (n > 0) {
            deadline = deadline ? deadline : rt_now_ns() + PARTIAL_TIMEOUT_NS;
            client->used += (size_t)n;
            continue;
        }
        uint64_t now = rt_now_ns();
        if (deadline && now >= deadline)
            return -ETIMEDOUT;
        int events = co_poll_timeout(client->fd, POLLIN, deadline ? deadline - now : 0);
        if (events < 0)
            return events;
    }
}

/* Between messages a quiet client keeps no more than the first, small buffer. */
static void drop_message(struct client *client, size_t length)
{
    client->used -= length + 1;
    client->scanned = 0;
    memmove(client->buffer, client->buffer + length + 1, client->used);
    if (client->used == 0 && client->capacity > MESSAGE_BYTES_START) {
        free(client->buffer);
        client->buffer = NULL;
        client->capacity = 0;
    }
}

static void co_client(void *arg)
{
    struct client *client = arg;
    struct server *server = client->server;
    int r = 0;
    while (r == 0 && !server->stopping) {
        size_t length = 0;
        r = co_receive(client, &length);
        if (r < 0)
            break;
        list_del(&client->link);
        list_push_back(&server->clients, &client->link);
        r = co_answer(client, client->buffer, length);
        drop_message(client, length);
        co_yield ();
    }
    if (r == -EMSGSIZE) {
        static const char too_long[] =
            "{\"jsonrpc\":\"2.0\",\"id\":null,\"error\":{\"code\":-32600,\"message\":"
            "\"the message is longer than 65536 bytes\"}}\n";
        r = co_send(client, too_long, sizeof(too_long) - 1);
    }
    log_debug("client left: %s", strerror(-r));
    list_del(&client->link);
    server->client_count--;
    close(client->fd);
    free(client->buffer);
    free(client);
    co_group_done(&server->coroutines);
}

/* ---- all clients ---- */

static bool peer_allowed(int fd)
{
    struct ucred peer;
    socklen_t length = sizeof(peer);
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &length) < 0)
        return false;
    return peer.uid == 0 || peer.uid == geteuid();
}

/* Its coroutine sees the end and frees it. */
static void cut_quietest(struct server *server)
{
    list_for_each (at, &server->clients) {
        struct client *client = list_entry(at, struct client, link);
        if (client->busy || client->cut)
            continue;
        client->cut = true;
        shutdown(client->fd, SHUT_RDWR);
        return;
    }
}

static void welcome(struct server *server, int fd)
{
    struct client *client = peer_allowed(fd) ? calloc(1, sizeof(*client)) : NULL;
    if (!client) {
        close(fd);
        return;
    }
    if (server->client_count >= CLIENTS_MAX)
        cut_quietest(server);
    client->server = server;
    client->fd = fd;
    list_push_back(&server->clients, &client->link);
    server->client_count++;
    co_group_add(&server->coroutines, 1);
    if (rt_spawn(NULL, co_client, client) < 0) {
        list_del(&client->link);
        server->client_count--;
        co_group_done(&server->coroutines);
        close(fd);
        free(client);
    }
}

static void co_accept(void *arg)
{
    struct server *server = arg;
    while (!server->stopping) {
        /* Twice the limit only while cut clients are on their way out. */
        if (server->client_count >= 2 * CLIENTS_MAX) {
            co_sleep_ns(1000000);
            continue;
        }
        int events = co_poll(server->fd, POLLIN);
        if (events < 0 || server->stopping)
            break;
        int fd = accept4(server->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd >= 0)
            welcome(server, fd);
        else if (errno == EMFILE || errno == ENFILE || errno == ENOMEM)
            co_sleep_ns(10000000);
    }
    co_group_done(&server->coroutines);
}

/* ---- life ---- */

static int listen_at(const char *path, int *ret, struct hws_error *err)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof(address.sun_path))
        return hws_fail(err, ENAMETOOLONG,
                        "socket path %s is longer than the %zu bytes that the "
                        "kernel takes",
                        path, sizeof(address.sun_path) - 1);
    memcpy(address.sun_path, path, strlen(path));
    autofd int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return hws_fail_errno(err, errno, "cannot make a socket");
    struct stat old;
    if (lstat(path, &old) == 0 && S_ISSOCK(old.st_mode) &&
        connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0 && errno == ECONNREFUSED)
        unlink(path); /* left by a process that is gone */
    mode_t mask = umask(0177);
    int r = bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0 ? -errno : 0;
    umask(mask);
    if (r < 0)
        return hws_fail_errno(err, -r, "cannot make the control socket %s", path);
    if (listen(fd, BACKLOG) < 0)
        return hws_fail_errno(err, errno, "cannot listen on %s", path);
    *ret = steal_fd(&fd);
    return 0;
}

/* A predecessor listens there until we do: one name takes the other's place. */
static int listen_instead(const char *path, int *ret, struct hws_error *err)
{
    char temporary[sizeof(((struct sockaddr_un *)0)->sun_path) + 8];
    if (snprintf(temporary, sizeof(temporary), "%s.new", path) >= (int)sizeof(temporary))
        return hws_fail(err, ENAMETOOLONG, "socket path %s is too long", path);
    unlink(temporary);
    int r = listen_at(temporary, ret, err);
    if (r == 0 && rename(temporary, path) < 0) {
        r = hws_fail_errno(err, errno, "cannot make the control socket %s", path);
        close(*ret);
        unlink(temporary);
    }
    return r;
}

int server_start(struct engine *engine, const char *path, struct server **ret,
                 struct hws_error *err)
{
    struct server *server = calloc(1, sizeof(*server));
    if (!server || !(server->path = strdup(path))) {
        free(server);
        return hws_fail(err, ENOMEM, "out of memory");
    }
    server->engine = engine;
    server->fd = -1;
    list_init(&server->clients);
    co_group_init(&server->coroutines);
    int r = engine->succeeds ? listen_instead(path, &server->fd, err)
                             : listen_at(path, &server->fd, err);
    if (r == 0) {
        server->owns_path = true;
        co_group_add(&server->coroutines, 1);
        r = rt_spawn(NULL, co_accept, server);
        if (r < 0) {
            co_group_done(&server->coroutines);
            hws_fail_errno(err, -r, "cannot serve %s", path);
        }
    }
    if (r < 0) {
        if (server->fd >= 0)
            close(server->fd);
        co_group_destroy(&server->coroutines);
        free(server->path);
        free(server);
        return r;
    }
    *ret = server;
    return 0;
}

static void forget_lent(struct server *server)
{
    if (server->lent)
        unlink(server->lent);
    free(server->lent);
    server->lent = NULL;
}

void server_lend_path(struct server *server)
{
    char *lent;
    if (!server || asprintf(&lent, "%s.old", server->path) < 0)
        return;
    server->lent = lent;
    unlink(server->lent); /* of a process that died meanwhile */
    if (link(server->path, server->lent) < 0)
        log_warning("%s: cannot be given a second name: %s", server->path, strerror(errno));
}

void server_take_path(struct server *server)
{
    if (!server || !server->lent)
        return;
    if (rename(server->lent, server->path) < 0 && errno != ENOENT)
        log_warning("%s: cannot be taken back: %s", server->path, strerror(errno));
    forget_lent(server); /* two names of one socket are left by the rename */
}

void server_give_path(struct server *server)
{
    server->owns_path = false;
    forget_lent(server);
}

void co_server_stop(struct server *server)
{
    if (!server)
        return;
    server->stopping = true;
    if (server->owns_path)
        unlink(server->path);
    shutdown(server->fd, SHUT_RDWR);
    list_for_each (at, &server->clients)
        shutdown(list_entry(at, struct client, link)->fd, SHUT_RD);
    /* A client that does not take its answer holds the end up no longer than this. */
    for (unsigned i = 0; server->client_count && i < 100; i++)
        co_sleep_ns(GOODBYE_NS / 100);
    list_for_each (at, &server->clients)
        shutdown(list_entry(at, struct client, link)->fd, SHUT_RDWR);
    co_group_wait(&server->coroutines);
    close(server->fd);
    co_group_destroy(&server->coroutines);
    free(server->lent);
    free(server->path);
    free(server);
}
