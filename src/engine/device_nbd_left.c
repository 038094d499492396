/*
 * Finding a device of the kernel's NBD driver again, and what to do with one that a process which
 * is gone has left; see device_nbd.h.
 *
 * Whether somebody serves a device the kernel does not tell. But it takes a new socket only in the
 * place of one that is dead: where it takes one, nobody serves.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/log.h"
#include "engine/device.h"
#include "engine/device_nbd.h"
#include "engine/target.h"
#include <poll.h>
#include <sys/socket.h>

/** How long a process that is gone may take to let go of its sockets: its I/O ends behind it. */
#define GONE_PATIENCE_NS ((uint64_t)1000000000)
#define GONE_RETRY_NS    ((uint64_t)10000000)
#define SOCKET_BYTES     (1 << 20)

/* ---- names ---- */

static void make_prefix(const struct target_identity *identity, char *text, size_t size)
{
    const char *slash = strchr(identity->config, '/');
    snprintf(text, size, "hawser/%.*s/%.80s/",
             (int)(slash ? slash - identity->config : (ptrdiff_t)strlen(identity->config)),
             identity->config, identity->backstore);
}

void nbd_place_name(const struct volume_config *config, unsigned connections,
                    char backend[NBD_DEVICE_BACKEND_MAX + 1])
{
    struct target_identity identity;
    char prefix[NBD_DEVICE_BACKEND_MAX / 2 + 1];
    target_identify(config, &identity);
    make_prefix(&identity, prefix, sizeof(prefix));
    const char *slash = strchr(identity.config, '/');
    snprintf(backend, NBD_DEVICE_BACKEND_MAX + 1, "%s%u/%u/%s", prefix, connections,
             (unsigned)config->block_bytes, slash ? slash + 1 : "");
}

int nbd_place_find(const struct volume_config *config, bool disconnected, struct nbd_place *ret)
{
    struct target_identity identity;
    struct nbd_place place = {0};
    char prefix[NBD_DEVICE_BACKEND_MAX / 2 + 1];
    target_identify(config, &identity);
    make_prefix(&identity, prefix, sizeof(prefix));
    int r = nbd_device_find(prefix, disconnected, &place.index, place.backend);
    if (r < 0)
        return r;
    if (sscanf(place.backend + strlen(prefix), "%u/%u/", &place.connections, &place.block_bytes) !=
            2 ||
        place.connections == 0 || place.connections > NBD_DEVICE_SOCKETS_MAX)
        return -ENOENT; /* somebody else's idea of a name */
    nbd_device_path(place.index, place.path);
    *ret = place;
    return 0;
}

int engine_nbd_disconnect(const char *device, struct hws_error *err)
{
    unsigned index;
    int r = nbd_device_index(device, &index, err);
    return r < 0 ? r : nbd_device_disconnect(index, err);
}

/* ---- sockets ---- */

int nbd_place_sockets(int ends[2], struct hws_error *err)
{
    static const int bytes = SOCKET_BYTES;
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0)
        return hws_fail_errno(err, errno, "cannot make a pair of sockets");
    /* Whole requests with their data fit, so that neither side waits for the other's thread. */
    for (unsigned i = 0; i < 2; i++)
        if (setsockopt(ends[i], SOL_SOCKET, SO_SNDBUFFORCE, &bytes, sizeof(bytes)) < 0)
            (void)setsockopt(ends[i], SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes));
    return 0;
}

struct take_work {
    const struct nbd_place *place;
    int kernel_fd;
    struct hws_error *err;
};

static int take_blocking(void *arg)
{
    struct take_work *w = arg;
    return nbd_device_reconnect(w->place->index, w->place->backend, &w->kernel_fd, 1, w->err);
}

int co_nbd_place_take(const struct nbd_place *place, int *ret_fd, struct hws_error *err)
{
    int ends[2];
    int r = nbd_place_sockets(ends, err);
    if (r < 0)
        return r;
    struct take_work w = {place, ends[0], err};
    autofd int own = ends[1];
    r = co_work(take_blocking, &w);
    close(ends[0]);
    if (r < 0)
        return r;
    /* Where the kernel has not taken the other end, nobody has it any more. */
    struct pollfd look = {.fd = own, .events = POLLRDHUP};
    if (poll(&look, 1, 0) != 0)
        return hws_fail(err, EBUSY, "%s is served by another process", place->path);
    *ret_fd = steal_fd(&own);
    return 0;
}

struct disconnect_work {
    unsigned index;
    struct hws_error *err;
};

static int disconnect_blocking(void *arg)
{
    struct disconnect_work *w = arg;
    return nbd_device_disconnect(w->index, w->err);
}

int co_nbd_place_disconnect(const struct nbd_place *place, struct hws_error *err)
{
    struct disconnect_work w = {place->index, err};
    return co_work(disconnect_blocking, &w);
}

/* ---- left by a process that is gone ---- */

bool co_nbd_place_is_there(const struct volume_config *config)
{
    struct nbd_place place;
    return nbd_place_find(config, false, &place) == 0;
}

int co_nbd_place_abandon(const struct volume_config *config, struct hws_error *err)
{
    struct nbd_place place;
    const uint64_t deadline = rt_now_ns() + GONE_PATIENCE_NS;
    int fd = -1, r = nbd_place_find(config, false, &place);
    if (r < 0)
        return r;
    while ((r = co_nbd_place_take(&place, &fd, err)) == -EBUSY && rt_now_ns() < deadline)
        co_sleep_ns(GONE_RETRY_NS);
    if (r == -ENOTCONN)
        return 0;
    if (r == 0)
        r = co_nbd_place_disconnect(&place, err);
    if (fd >= 0)
        close(fd);
    return r;
}

static int open_alone_blocking(void *arg)
{
    autofd int fd = open(arg, O_RDONLY | O_EXCL | O_CLOEXEC);
    return fd < 0 ? -errno : 0; /* it is disconnected: only -EBUSY tells anything */
}

int co_nbd_place_clear(const struct volume_config *config, bool force, struct hws_error *err)
{
    struct nbd_place place;
    char users[512];
    int r = co_nbd_place_abandon(config, err);
    if (r == -EBUSY)
        return 0;
    if ((r < 0 && r != -ENOENT) || force || nbd_place_find(config, true, &place) < 0 ||
        co_work(open_alone_blocking, place.path) != -EBUSY)
        return r == -ENOENT ? 0 : r;
    return hws_fail(err, EBUSY,
                    "its engine died, and %s is still in use: %s; end that, or say --force",
                    place.path,
                    co_block_device_users(place.path, users, sizeof(users))
                        ? users
                        : "perhaps by a program that works on what was mounted from it");
}
