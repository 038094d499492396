/*
 * The server: threads, listening sockets, and the life of connections.
 *
 *   accepted -> negotiating (a coroutine) -> transmission (transmission.c) -> closing -> freed
 *
 * A connection is freed when its reader, its requests and its sender have ended: whoever of them
 * ends calls nbd_connection_touch(), and the lane does the rest (lane.c).
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/log.h"
#include "export/nbd/stream.h"
#include "export/nbd/tls.h"
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/sysinfo.h>

#define THREADS_DEFAULT_MAX 4
/* Descriptors or memory are used up: the next try. */
#define ACCEPT_PAUSE_NS ((uint64_t)100 * 1000000)

struct nbd_listener {
    struct list link;
    struct nbd_server *server;
    int fd;
};

/* ---- connections ---- */

void co_nbd_connection_free(struct nbd_connection *c)
{
    struct nbd_lane *lane = c->lane;
    struct nbd_server *server = lane->server;
    co_watch_stop(steal_ptr(&c->watch));
    nbd_tls_session_free(steal_ptr(&c->tls));
    bool served = c->export != NULL;
    if (c->parked && !c->broken)
        nbd_export_keep_socket(c);
    else if (c->kernel)
        (void)shutdown(c->fd, SHUT_RDWR); /* whoever else has it, too */
    if (c->kernel && c->export->kernel_ended)
        c->export->kernel_ended(c->export->kernel_ended_arg, c->asked);
    free(c->contexts_export);
    nbd_contexts_clear(c);
    nbd_chunk_put(&lane->pool, c->chunk);
    rt_mutex_lock(&server->lock);
    list_del(&c->link);
    if (served)
        nbd_export_ended(c);
    lane->connections--;
    server->connection_count--;
    if (c->fd >= 0)
        close(c->fd);
    if (served && server->left && server->connection_count == 0 && !server->stopping)
        server->left(server->left_arg);
    co_waitq_wake_all(&server->changed);
    rt_mutex_unlock(&server->lock);
    list_del(&c->flush.link);
    free(c);
}

void co_nbd_connection(void *arg)
{
    struct nbd_connection *c = arg;
    nbd_send_init(c);
    int r = c->kernel ? 0 : co_nbd_negotiate(c);
    c->negotiating = false;
    if (r == 0) {
        nbd_transmission_start(c);
    } else {
        log_debug("nbd: negotiation ended: %s", strerror(-r));
        nbd_connection_close(c);
    }
    nbd_connection_touch(c);
}

static struct nbd_lane *choose_lane(struct nbd_server *server)
{
    struct nbd_lane *best = &server->lane[0];
    for (unsigned i = 1; i < server->lanes; i++)
        if (server->lane[i].connections < best->connections)
            best = &server->lane[i];
    return best;
}

/* @return 0 or why it is refused; @c and its socket are gone then. */
static int begin(struct nbd_server *server, struct nbd_connection *c)
{
    c->negotiating = true;
    list_init(&c->hungry);
    rt_mutex_lock(&server->lock);
    unsigned there = server->connection_count;
    bool refused = server->stopping || there >= server->connections_max;
    if (!refused) {
        c->lane = choose_lane(server);
        c->lane->connections++;
        server->connection_count++;
        list_push_back(&server->connections, &c->link);
    }
    nbd_count(refused ? &server->refused : &server->accepted, 1);
    rt_mutex_unlock(&server->lock);
    if (refused)
        log_warning("nbd: a connection is refused: there are %u", there);
    int r = refused ? -EUSERS : rt_spawn(c->lane->queue, co_nbd_connection, c);
    if (r == 0)
        return 0;
    rt_mutex_lock(&server->lock);
    if (!refused) {
        list_del(&c->link);
        c->lane->connections--;
        server->connection_count--;
    }
    rt_mutex_unlock(&server->lock);
    close(c->fd);
    free(c);
    return r;
}

void nbd_server_adopt(struct nbd_server *server, int fd)
{
    static const int on = 1;
    struct nbd_connection *c = calloc(1, sizeof(*c));
    if (!c) {
        close(fd);
        return;
    }
    /* Fails on a unix socket, which needs neither. */
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    (void)setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
    c->fd = fd;
    if (begin(server, c) < 0)
        log_debug("nbd: the connection is closed");
}

int nbd_serve_kernel(struct nbd_export *export, int fd, struct hws_error *err)
{
    struct nbd_connection *c = calloc(1, sizeof(*c));
    if (!c) {
        close(fd);
        return hws_fail(err, ENOMEM, "out of memory");
    }
    c->fd = fd;
    c->kernel = true;
    c->export = export;
    nbd_export_join(export);
    int r = begin(export->server, c);
    if (r == 0)
        return 0;
    nbd_export_leave(export, false);
    return hws_fail_errno(err, -r, "cannot serve the kernel's connection");
}

/* ---- listening ---- */

/* Until there is room for one more, where clients wait for that. */
static void co_wait_room(struct nbd_server *server)
{
    rt_mutex_lock(&server->lock);
    while (server->clients_wait && !server->stopping &&
           server->connection_count >= server->connections_max)
        co_waitq_wait(&server->changed, &server->lock);
    rt_mutex_unlock(&server->lock);
}

static void co_accept(void *arg)
{
    struct nbd_listener *l = arg;
    struct nbd_server *server = l->server;
    for (;;) {
        co_wait_room(server);
        if (server->stopping)
            break;
        int fd = accept4(l->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd >= 0) {
            nbd_server_adopt(server, fd);
            continue;
        }
        if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS) {
            log_warning("nbd: cannot accept a connection: %s", strerror(errno));
            co_sleep_ns(ACCEPT_PAUSE_NS);
        } else if (errno == EAGAIN) {
            int r = co_poll(l->fd, POLLIN);
            if (r < 0 || r & (POLLERR | POLLNVAL))
                break;
            if (r & POLLHUP && !(r & POLLIN))
                break;
        } else if (errno == EINVAL || errno == EBADF) {
            break; /* shut down */
        }
    }
    rt_mutex_lock(&server->lock);
    list_del(&l->link);
    close(l->fd);
    co_waitq_wake_all(&server->changed);
    rt_mutex_unlock(&server->lock);
    free(l);
}

int co_nbd_server_listen(struct nbd_server *server, int fd, struct hws_error *err)
{
    struct nbd_listener *l = calloc(1, sizeof(*l));
    if (!l) {
        close(fd);
        return hws_fail(err, ENOMEM, "out of memory");
    }
    l->server = server;
    l->fd = fd;
    rt_mutex_lock(&server->lock);
    list_push_back(&server->listeners, &l->link);
    rt_mutex_unlock(&server->lock);
    int r = rt_spawn(NULL, co_accept, l);
    if (r == 0)
        return 0;
    rt_mutex_lock(&server->lock);
    list_del(&l->link);
    rt_mutex_unlock(&server->lock);
    close(fd);
    free(l);
    return hws_fail_errno(err, -r, "NBD server");
}

/* ---- life ---- */

static void co_stop_lanes(struct nbd_server *server)
{
    for (unsigned i = 0; i < server->lanes; i++) {
        struct nbd_lane *lane = &server->lane[i];
        nbd_lane_end(lane);
        co_queue_stop(lane->queue);
        nbd_pool_free(&lane->pool);
        rt_mutex_destroy(&lane->lock);
        co_mutex_destroy(&lane->handshake);
    }
    rt_mutex_destroy(&server->lock);
    nbd_tls_free(server->tls);
    free(server);
}

int co_nbd_server_start(const struct nbd_server_options *options, struct nbd_server **ret,
                        struct hws_error *err)
{
    unsigned threads = options->threads;
    if (threads > NBD_THREADS_MAX)
        return hws_fail(err, EINVAL, "an NBD server has up to %d threads", NBD_THREADS_MAX);
    if (!threads)
        threads = (unsigned)MIN(MAX(get_nprocs(), 1), THREADS_DEFAULT_MAX);
    struct nbd_server *server = calloc(1, sizeof(*server));
    if (!server)
        return hws_fail(err, ENOMEM, "out of memory");
    rt_mutex_init(&server->lock);
    co_waitq_init(&server->changed);
    list_init(&server->exports);
    list_init(&server->connections);
    list_init(&server->listeners);
    server->clients_wait = options->clients_wait;
    nbd_memory_init(server, options->memory);
    server->left = options->left;
    server->left_arg = options->left_arg;
    server->connections_max = options->connections ? options->connections : NBD_CONNECTIONS_DEFAULT;
    for (unsigned i = 0; i < threads; i++) {
        struct nbd_lane *lane = &server->lane[i];
        char name[16];
        snprintf(name, sizeof(name), "nbd-%u", i);
        lane->server = server;
        rt_mutex_init(&lane->lock);
        co_waitq_init(&lane->woken);
        co_mutex_init(&lane->handshake);
        list_init(&lane->ended);
        int r = rt_queue_start(rt_current(), name, &lane->queue, err);
        if (r == 0) {
            server->lanes++;
            r = rt_spawn(lane->queue, co_nbd_lane, lane);
        }
        if (r < 0) {
            co_stop_lanes(server);
            return err && err->code ? r : hws_fail_errno(err, -r, "NBD server");
        }
    }
    *ret = server;
    return 0;
}

static void hang_up(struct nbd_server *server, int how)
{
    list_for_each (link, &server->connections)
        (void)shutdown(list_entry(link, struct nbd_connection, link)->fd, how);
}

void co_nbd_server_stop(struct nbd_server *server)
{
    if (!server)
        return;
    rt_mutex_lock(&server->lock);
    assert(list_empty(&server->exports));
    server->stopping = true;
    co_waitq_wake_all(&server->changed);
    list_for_each (link, &server->listeners)
        (void)shutdown(list_entry(link, struct nbd_listener, link)->fd, SHUT_RDWR);
    while (!list_empty(&server->listeners))
        co_waitq_wait(&server->changed, &server->lock);
    /* Those that have chosen no export yet. */
    hang_up(server, SHUT_RDWR);
    while (!list_empty(&server->connections))
        co_waitq_wait(&server->changed, &server->lock);
    rt_mutex_unlock(&server->lock);
    co_stop_lanes(server);
}

void nbd_server_info(struct nbd_server *server, struct nbd_server_info *ret)
{
    rt_mutex_lock(&server->lock);
    *ret = (struct nbd_server_info){
        .connections = server->connection_count,
        .connections_max = server->connections_max,
        .waiting = atomic_load_explicit(&server->hungry, memory_order_relaxed),
        .accepted = server->accepted,
        .refused = server->refused,
        .cut = server->cut,
        .memory_bytes = atomic_load_explicit(&server->memory_used, memory_order_relaxed),
        .memory_max_bytes = server->memory_max,
    };
    rt_mutex_unlock(&server->lock);
}
