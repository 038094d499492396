/*
 * Exports by name, and who uses them.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "export/nbd/internal.h"
#include <sys/socket.h>

/* Caller holds server->lock. */
static struct nbd_export *find(struct nbd_server *server, const char *name, size_t length)
{
    list_for_each (link, &server->exports) {
        struct nbd_export *export = list_entry(link, struct nbd_export, link);
        if (strlen(export->name) == length && (!length || !memcmp(export->name, name, length)))
            return export;
    }
    return NULL;
}

static int use(struct nbd_server *server, const char *name, size_t length, bool look,
               struct nbd_export **ret)
{
    int r = 0;
    rt_mutex_lock(&server->lock);
    struct nbd_export *export = find(server, name, length);
    if (!export && length == 0 && !list_empty(&server->exports))
        export = list_entry(server->exports.next, struct nbd_export, link);
    if (!export)
        r = -ENOENT;
    else if (export->removed || server->stopping)
        r = -ESHUTDOWN;
    else if (!look && export->connections_max && export->connections >= export->connections_max)
        r = -EUSERS;
    else if (look)
        export->looks++;
    else
        export->connections++;
    rt_mutex_unlock(&server->lock);
    *ret = export;
    return r;
}

int nbd_export_use(struct nbd_server *server, const char *name, size_t length,
                   struct nbd_export **ret)
{
    return use(server, name, length, false, ret);
}

int nbd_export_look(struct nbd_server *server, const char *name, size_t length,
                    struct nbd_export **ret)
{
    return use(server, name, length, true, ret);
}

void nbd_export_join(struct nbd_export *export)
{
    rt_mutex_lock(&export->server->lock);
    export->connections++;
    rt_mutex_unlock(&export->server->lock);
}

void nbd_export_leave(struct nbd_export *export, bool look)
{
    struct nbd_server *server = export->server;
    rt_mutex_lock(&server->lock);
    if (look)
        export->looks--;
    else
        export->connections--;
    co_waitq_wake_all(&server->changed);
    rt_mutex_unlock(&server->lock);
}

uint16_t nbd_export_flags(const struct nbd_export *export, bool structured)
{
    unsigned flags =
        NBD_FLAG_HAS_FLAGS | NBD_FLAG_SEND_FLUSH | NBD_FLAG_SEND_FUA | NBD_FLAG_SEND_CACHE;
    /* Where only one client is served at a time, a second connection of its would wait for ever. */
    if (export->connections_max != 1 && export->server->connections_max != 1)
        flags |= NBD_FLAG_CAN_MULTI_CONN;
    if (export->read_only)
        flags |= NBD_FLAG_READ_ONLY;
    else
        flags |= NBD_FLAG_SEND_TRIM | NBD_FLAG_SEND_WRITE_ZEROES | NBD_FLAG_SEND_FAST_ZERO;
    if (export->rotational)
        flags |= NBD_FLAG_ROTATIONAL;
    if (structured)
        flags |= NBD_FLAG_SEND_DF;
    return (uint16_t)flags;
}

bool nbd_export_shows(const struct nbd_export *export, const char *name)
{
    char **at = export->bitmaps;
    while (at && *at && strcmp(*at, name) != 0)
        at++;
    return !at || *at;
}

static void free_export(struct nbd_export *export)
{
    for (char **name = export->bitmaps; name && *name; name++)
        free(*name);
    free(export->bitmaps);
    free(export->name);
    free(export->description);
    free(export);
}

static char **copy_names(const char *const *names)
{
    size_t count = 0;
    while (names[count])
        count++;
    char **copy = calloc(count + 1, sizeof(*copy));
    for (size_t i = 0; copy && i < count; i++) {
        copy[i] = strdup(names[i]);
        if (copy[i])
            continue;
        while (i-- > 0)
            free(copy[i]);
        free(copy);
        return NULL;
    }
    return copy;
}

int co_nbd_export_add(struct nbd_server *server, struct block_root *root,
                      const struct nbd_export_options *options, struct nbd_export **ret,
                      struct hws_error *err)
{
    size_t length = strlen(options->name);
    if (length > NBD_EXPORT_NAME_MAX)
        return hws_fail(err, ENAMETOOLONG, "the name of an NBD export has up to %d bytes",
                        NBD_EXPORT_NAME_MAX);
    if (options->description && strlen(options->description) > NBD_STRING_MAX)
        return hws_fail(err, ENAMETOOLONG, "the description of an NBD export has up to %d bytes",
                        NBD_STRING_MAX);
    struct nbd_export *export = calloc(1, sizeof(*export));
    if (!export)
        return hws_fail(err, ENOMEM, "out of memory");
    export->server = server;
    export->root = root;
    export->name = strdup(options->name);
    export->description = options->description ? strdup(options->description) : NULL;
    export->read_only = options->read_only || block_is_read_only(block_root_node(root));
    export->connections_max = options->connections;
    export->kernel_ended = options->kernel_ended;
    export->kernel_ended_arg = options->kernel_ended_arg;
    uint32_t cluster = block_cluster_bytes(block_root_node(root));
    export->rotational = block_is_rotational(block_root_node(export->root));
    export->preferred_bytes = MIN(MAX(cluster, 4096u), (uint32_t)(64 * KiB));
    export->no_depth = options->no_depth;
    if (options->bitmaps)
        export->bitmaps = copy_names(options->bitmaps);
    if (!export->name || (options->description && !export->description) ||
        (options->bitmaps && !export->bitmaps)) {
        free_export(export);
        return hws_fail(err, ENOMEM, "out of memory");
    }
    rt_mutex_lock(&server->lock);
    struct nbd_export *other = find(server, options->name, length);
    if (!other)
        list_push_back(&server->exports, &export->link);
    rt_mutex_unlock(&server->lock);
    if (other) {
        free_export(export);
        return hws_fail(err, EEXIST, "there is an NBD export called '%.255s'", options->name);
    }
    *ret = export;
    return 0;
}

/* Sockets stay valid as long as their connections are in the list. Caller holds server->lock. */
static void cut_connections(struct nbd_export *export, int how)
{
    list_for_each (link, &export->server->connections) {
        struct nbd_connection *c = list_entry(link, struct nbd_connection, link);
        if (c->export == export)
            (void)shutdown(c->fd, how);
    }
}

void nbd_export_cut(struct nbd_export *export)
{
    rt_mutex_lock(&export->server->lock);
    cut_connections(export, SHUT_RDWR);
    rt_mutex_unlock(&export->server->lock);
}

/* ---- handing sockets over ---- */

void nbd_export_keep_socket(struct nbd_connection *c)
{
    struct nbd_export *export = c->export;
    rt_mutex_lock(&export->server->lock);
    if (export->parked_count < NBD_KERNEL_CONNECTIONS_MAX)
        export->parked[export->parked_count++] = steal_fd(&c->fd);
    rt_mutex_unlock(&export->server->lock);
}

struct park {
    struct nbd_export *export;
    struct nbd_lane *lane;
    unsigned *pending; /* lanes that are not done; guarded by server->lock */
};

/* One that still goes on on this lane. Caller holds server->lock. */
static struct nbd_connection *unparked(const struct park *park)
{
    list_for_each (link, &park->lane->server->connections) {
        struct nbd_connection *c = list_entry(link, struct nbd_connection, link);
        if (c->lane == park->lane && c->export == park->export && !c->parking && !c->closing)
            return c;
    }
    return NULL;
}

/* On the lane's thread, so that none of its connections goes while it is told. */
static void co_park_lane(void *arg)
{
    const struct park *park = arg;
    struct nbd_server *server = park->lane->server;
    struct nbd_connection *c;
    do {
        rt_mutex_lock(&server->lock);
        c = unparked(park);
        rt_mutex_unlock(&server->lock);
        if (c)
            nbd_transmission_park(c);
    } while (c);
    rt_mutex_lock(&server->lock);
    --*park->pending;
    co_waitq_wake_all(&server->changed);
    rt_mutex_unlock(&server->lock);
}

unsigned co_nbd_export_park(struct nbd_export *export, int ret_fds[NBD_KERNEL_CONNECTIONS_MAX])
{
    struct nbd_server *server = export->server;
    struct park park[NBD_THREADS_MAX];
    const uint64_t deadline = rt_now_ns() + NBD_PARK_NS;
    unsigned pending = server->lanes;
    for (unsigned i = 0; i < server->lanes; i++) {
        park[i] = (struct park){export, &server->lane[i], &pending};
        if (rt_spawn(server->lane[i].queue, co_park_lane, &park[i]) == 0)
            continue;
        nbd_export_cut(export);
        rt_mutex_lock(&server->lock);
        pending--;
        rt_mutex_unlock(&server->lock);
    }
    rt_mutex_lock(&server->lock);
    while (pending)
        co_waitq_wait(&server->changed, &server->lock);
    while (export->connections && co_waitq_wait_until(&server->changed, &server->lock, deadline))
        ;
    cut_connections(export, SHUT_RDWR);
    while (export->connections)
        co_waitq_wait(&server->changed, &server->lock);
    unsigned count = export->parked_count;
    memcpy(ret_fds, export->parked, count * sizeof(ret_fds[0]));
    export->parked_count = 0;
    rt_mutex_unlock(&server->lock);
    return count;
}

unsigned nbd_export_copy_sockets(struct nbd_export *export, int ret_fds[NBD_KERNEL_CONNECTIONS_MAX])
{
    unsigned count = 0;
    rt_mutex_lock(&export->server->lock);
    list_for_each (link, &export->server->connections) {
        struct nbd_connection *c = list_entry(link, struct nbd_connection, link);
        if (!c->kernel || c->export != export || c->fd < 0 || count == NBD_KERNEL_CONNECTIONS_MAX)
            continue;
        ret_fds[count] = fcntl(c->fd, F_DUPFD_CLOEXEC, 0);
        count += ret_fds[count] >= 0;
    }
    rt_mutex_unlock(&export->server->lock);
    return count;
}

uint16_t nbd_kernel_flags(const struct nbd_export *export)
{
    /* As every device of an image: the disk below has a scheduler of its own. */
    return nbd_export_flags(export, false) & (uint16_t)~NBD_FLAG_ROTATIONAL;
}

int co_nbd_export_remove(struct nbd_export *export, bool force, struct hws_error *err)
{
    struct nbd_server *server = export->server;
    uint64_t patience = rt_now_ns() + NBD_GOODBYE_NS;
    rt_mutex_lock(&server->lock);
    while (!force && export->connections &&
           co_waitq_wait_until(&server->changed, &server->lock, patience))
        ;
    unsigned users = export->connections;
    if (!users || force) {
        export->removed = true;
        cut_connections(export, SHUT_RD);
        uint64_t deadline = rt_now_ns() + NBD_GOODBYE_NS;
        while (export->connections &&
               co_waitq_wait_until(&server->changed, &server->lock, deadline))
            ;
        cut_connections(export, SHUT_RDWR);
        while (export->connections || export->looks) /* who looks has his handshake's time */
            co_waitq_wait(&server->changed, &server->lock);
        list_del(&export->link);
    }
    rt_mutex_unlock(&server->lock);
    if (users && !force)
        return hws_fail(err, EBUSY, "NBD export '%.255s' has %u connection%s", export->name, users,
                        users == 1 ? "" : "s");
    free_export(export);
    return 0;
}

static void add_counts(struct nbd_counts *to, const struct nbd_counts *from)
{
    nbd_count(&to->requests, atomic_load_explicit(&from->requests, memory_order_relaxed));
    nbd_count(&to->sent_bytes, atomic_load_explicit(&from->sent_bytes, memory_order_relaxed));
    nbd_count(&to->received_bytes,
              atomic_load_explicit(&from->received_bytes, memory_order_relaxed));
}

void nbd_export_info(const struct nbd_export *export, struct nbd_export_info *ret)
{
    struct nbd_counts sum = {0};
    rt_mutex_lock(&export->server->lock);
    add_counts(&sum, &export->ended);
    list_for_each (link, &export->server->connections) {
        const struct nbd_connection *c = list_entry(link, struct nbd_connection, link);
        if (c->export == export)
            add_counts(&sum, &c->counts);
    }
    *ret = (struct nbd_export_info){
        .name = export->name,
        .read_only = export->read_only,
        .connections = export->connections,
        .requests = sum.requests,
        .sent_bytes = sum.sent_bytes,
        .received_bytes = sum.received_bytes,
    };
    rt_mutex_unlock(&export->server->lock);
}

void nbd_export_ended(struct nbd_connection *c)
{
    add_counts(&c->export->ended, &c->counts);
    c->export->connections--;
}
