/*
 * nbd: volume -> connections of the kernel's NBD driver -> /dev/nbdN.
 *
 * The connections are socket pairs: one end is the kernel's, the other goes straight to a server of
 * the device's own. The device stays when the engine is killed, or lets go of it: requests wait,
 * and the next engine gives the kernel new sockets (device_nbd_left.c).
 *
 * What a lost connection had taken and not answered is sent again by the kernel when it looks at
 * requests that take long. With one connection that look costs nothing but a line in its log, so it
 * looks soon (LOOK_MS). With several, the kernel takes a connection on which a request takes too
 * long for dead: so it waits long (REQUEST_S). Whatever it hangs up on, all connections end, and
 * new ones are made once all that they had taken has ended: what is sent again must never run
 * beside the first, which could end later than what is written after it.
 *
 *     running --connection ended--> draining --last one ended--> reconnecting --> running
 *         \--the kernel says goodbye (somebody disconnected it)--> the engine stops
 *
 * Everything runs on the control queue but connection_ended().
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/log.h"
#include "engine/device.h"
#include "engine/device_nbd.h"
#include "export/nbd/nbd.h"
#include "wire/nbd/nbd.h"

#define CONNECTIONS_DEFAULT 1
#define LOOK_MS             2000
#define REQUEST_S           30
#define REQUEST_BYTES       (1 << 20)
/** As long as commands of the SCSI target wait. */
#define DEAD_S 600
/** What a dying process takes to let go of its sockets. */
#define ADOPT_PATIENCE_NS ((uint64_t)10000000000)
#define TAKE_RETRY_NS     ((uint64_t)5000000)
#define AGAIN_NS          ((uint64_t)1000000000)
/** After the disconnect, for those that only look at the device, such as udev. */
#define FREE_PATIENCE_NS ((uint64_t)5000000000)

struct nbd_device {
    struct device device;
    struct nbd_server *server;
    struct nbd_export *export;
    struct nbd_place place;
    bool adopted, is_made;
    struct rt_mutex lock; /* guards the rest */
    struct co_waitq changed;
    unsigned serving; /* connections */
    bool ended;       /* one has */
    bool asked;       /* the kernel was told to disconnect */
    bool stopping, keeping;
};

static struct nbd_device *nbd_device(struct device *device)
{
    return container_of(device, struct nbd_device, device);
}

/* ---- connections ---- */

/* On a queue thread of the server. */
static void connection_ended(void *arg, bool asked)
{
    struct nbd_device *nbd = arg;
    rt_mutex_lock(&nbd->lock);
    nbd->serving--;
    nbd->ended = true;
    nbd->asked |= asked;
    co_waitq_wake_all(&nbd->changed);
    rt_mutex_unlock(&nbd->lock);
}

static int serve(struct nbd_device *nbd, int fd, struct hws_error *err)
{
    rt_mutex_lock(&nbd->lock);
    nbd->serving++;
    rt_mutex_unlock(&nbd->lock);
    int r = nbd_serve_kernel(nbd->export, fd, err);
    if (r == 0)
        return 0;
    rt_mutex_lock(&nbd->lock);
    nbd->serving--;
    rt_mutex_unlock(&nbd->lock);
    return r;
}

static bool is_stopping(struct nbd_device *nbd)
{
    rt_mutex_lock(&nbd->lock);
    bool stopping = nbd->stopping;
    rt_mutex_unlock(&nbd->lock);
    return stopping;
}

/* New connections in the place of all. Succeeds where at least one is taken. */
static int co_take_all(struct nbd_device *nbd, uint64_t patience_ns, struct hws_error *err)
{
    const uint64_t deadline = rt_now_ns() + patience_ns;
    unsigned taken = 0;
    int r = 0;
    while (taken < nbd->place.connections && !is_stopping(nbd)) {
        int fd;
        r = co_nbd_place_take(&nbd->place, &fd, err);
        if (r == 0)
            r = serve(nbd, fd, err);
        if (r == 0)
            taken++;
        else if (r != -EBUSY || rt_now_ns() >= deadline)
            break;
        else
            co_sleep_ns(TAKE_RETRY_NS);
    }
    return taken ? 0 : r;
}

/* Somebody disconnected it. Who did so by the old interface has left half of it. */
static void co_give_in(struct nbd_device *nbd)
{
    struct engine *engine = nbd->device.volume->engine;
    struct hws_error err = {0};
    log_error("%s: somebody disconnected %s; stopping", nbd->device.volume->config.name,
              nbd->place.path);
    if (co_nbd_place_disconnect(&nbd->place, &err) < 0)
        log_error("%s", err.text);
    engine_ask_stop(engine, true);
}

/* @return whether to go on. */
static bool co_reconnect(struct nbd_device *nbd)
{
    struct hws_error err = {0};
    int r = co_take_all(nbd, ADOPT_PATIENCE_NS, &err);
    if (r == 0) {
        log_warning("%s: the kernel hung up; it is connected again", nbd->place.path);
        return true;
    }
    if (r == -ENOTCONN) {
        co_give_in(nbd);
        return false;
    }
    log_error("%s: cannot connect it again: %s", nbd->place.path, err.text);
    co_sleep_ns(AGAIN_NS);
    rt_mutex_lock(&nbd->lock);
    nbd->ended = true; /* once more */
    rt_mutex_unlock(&nbd->lock);
    return true;
}

/* As long as there is the device: sees to it that it is connected. */
static void co_keep_connected(void *arg)
{
    struct nbd_device *nbd = arg;
    bool on = true;
    rt_mutex_lock(&nbd->lock);
    while (on) {
        while (!nbd->stopping && (!nbd->ended || nbd->serving))
            co_waitq_wait(&nbd->changed, &nbd->lock);
        if (nbd->stopping)
            break;
        bool asked = nbd->asked;
        nbd->ended = false;
        rt_mutex_unlock(&nbd->lock);
        if (asked) {
            co_give_in(nbd);
            on = false;
        } else {
            on = co_reconnect(nbd);
        }
        rt_mutex_lock(&nbd->lock);
    }
    nbd->keeping = false;
    co_waitq_wake_all(&nbd->changed);
    rt_mutex_unlock(&nbd->lock);
}

static int keep_connected(struct nbd_device *nbd, struct hws_error *err)
{
    nbd->stopping = false;
    nbd->keeping = true;
    int r = rt_spawn(NULL, co_keep_connected, nbd);
    if (r == 0)
        return 0;
    nbd->keeping = false;
    return hws_fail_errno(err, -r, "cannot keep %s connected", nbd->place.path);
}

static void co_stop_keeping(struct nbd_device *nbd)
{
    rt_mutex_lock(&nbd->lock);
    nbd->stopping = true;
    co_waitq_wake_all(&nbd->changed);
    while (nbd->keeping)
        co_waitq_wait(&nbd->changed, &nbd->lock);
    rt_mutex_unlock(&nbd->lock);
}

/* ---- start ---- */

static uint64_t size_of(const struct nbd_device *nbd)
{
    return align_down(block_root_size(nbd->device.volume->root),
                      nbd->device.volume->config.block_bytes);
}

struct connect_work {
    struct nbd_device_options options;
    int fds[NBD_DEVICE_SOCKETS_MAX];
    unsigned index;
    struct hws_error *err;
};

static int connect_blocking(void *arg)
{
    struct connect_work *w = arg;
    int r = nbd_device_load_module(w->err);
    return r < 0 ? r : nbd_device_connect(&w->options, &w->index, w->err);
}

static int co_connect_with(struct nbd_device *nbd, struct connect_work *w, struct hws_error *err)
{
    int r = 0;
    for (unsigned i = 0; r == 0 && i < nbd->place.connections; i++) {
        int ends[2];
        r = nbd_place_sockets(ends, err);
        if (r < 0)
            break;
        w->fds[w->options.socket_count++] = ends[0];
        r = serve(nbd, ends[1], err);
    }
    return r < 0 ? r : co_work(connect_blocking, w);
}

static int co_connect(struct nbd_device *nbd, struct hws_error *err)
{
    const struct volume_config *config = &nbd->device.volume->config;
    nbd->place.connections = config->queues
                                 ? MIN((unsigned)config->queues, NBD_DEVICE_SOCKETS_MAX + 0u)
                                 : CONNECTIONS_DEFAULT;
    nbd->place.block_bytes = (uint32_t)config->block_bytes;
    nbd_place_name(config, nbd->place.connections, nbd->place.backend);
    struct connect_work w = {.err = err};
    unsigned index = 0;
    int r = config->device ? nbd_device_index(config->device, &index, err) : 0;
    if (r < 0)
        return r;
    w.options = (struct nbd_device_options){
        .index = config->device ? (int)index : NBD_DEVICE_ANY,
        .size_bytes = size_of(nbd),
        .block_bytes = nbd->place.block_bytes,
        .flags = nbd_kernel_flags(nbd->export),
        .timeout_s = nbd->place.connections > 1 ? REQUEST_S : 0,
        .dead_timeout_s = nbd->device.volume->engine->manner.no_heir ? 0 : DEAD_S,
        .backend = nbd->place.backend,
        .sockets = w.fds,
    };
    if (config->discard != BLOCK_DISCARD_UNMAP)
        w.options.flags &= (uint16_t)~NBD_FLAG_SEND_TRIM;
    r = co_connect_with(nbd, &w, err);
    for (unsigned i = 0; i < w.options.socket_count; i++)
        close(w.fds[i]);
    if (r < 0)
        return r;
    nbd->is_made = true;
    nbd->place.index = w.index;
    nbd_device_path(w.index, nbd->place.path);
    return 0;
}

/* Another engine must be able to find it. */
static int refuse_old_kernel(struct nbd_device *nbd, struct hws_error *err)
{
    struct nbd_place found;
    if (nbd_place_find(&nbd->device.volume->config, false, &found) == 0 &&
        found.index == nbd->place.index)
        return 0;
    return hws_fail(err, EOPNOTSUPP,
                    "this kernel does not remember whose a network block device is (Linux 5.14 "
                    "does), so it could not be found again; take another way, such as fuse-loop");
}

struct resize_work {
    const struct nbd_place *place;
    uint64_t size_bytes;
    struct hws_error *err;
};

static int resize_blocking(void *arg)
{
    struct resize_work *w = arg;
    return nbd_device_resize(w->place->index, w->place->backend, w->size_bytes, w->err);
}

static int co_resize(struct nbd_device *nbd, struct hws_error *err)
{
    struct resize_work w = {&nbd->place, size_of(nbd), err};
    return co_work(resize_blocking, &w);
}

/* The sockets that a predecessor left between two requests. One that has ended meanwhile shows so
 * when it is read from. @return whether there is any. */
static bool serve_handed(struct nbd_device *nbd)
{
    struct volume_config *config = &nbd->device.volume->config;
    bool any = false;
    for (unsigned i = 0; i < config->socket_count; i++) {
        struct hws_error err = {0};
        int fd = config->sockets[i];
        if (fcntl(fd, F_SETFD, FD_CLOEXEC) < 0)
            log_warning("%s: socket %d was not handed over", nbd->place.path, fd);
        else if (serve(nbd, fd, &err) < 0)
            log_warning("%s: %s", nbd->place.path, err.text);
        else
            any = true;
    }
    config->socket_count = 0;
    return any;
}

static int co_adopt(struct nbd_device *nbd, struct hws_error *err)
{
    const struct volume_config *config = &nbd->device.volume->config;
    if (nbd->place.block_bytes != config->block_bytes)
        return hws_fail(err, EEXIST, "%s is there and has blocks of %u bytes; detach it first",
                        nbd->place.path, nbd->place.block_bytes);
    unsigned wanted = nbd->place.index;
    if (config->device && nbd_device_index(config->device, &wanted, err) < 0)
        return -EINVAL;
    if (wanted != nbd->place.index)
        return hws_fail(err, EEXIST, "the volume is %s already; detach it first", nbd->place.path);
    int r = serve_handed(nbd) ? 0 : co_take_all(nbd, ADOPT_PATIENCE_NS, err);
    if (r == -ENOTCONN)
        return hws_fail(err, EBUSY,
                        "%s was disconnected while it was in use; end that (unmount it), and "
                        "attach again",
                        nbd->place.path);
    nbd->adopted = r == 0;
    return r < 0 ? r : co_resize(nbd, err);
}

static int co_start_server(struct nbd_device *nbd, struct hws_error *err)
{
    const struct volume *volume = nbd->device.volume;
    struct nbd_server_options server = {.threads = (unsigned)MAX(volume->config.queues, 1u)};
    struct nbd_export_options export = {
        .name = volume->config.name,
        .read_only = volume->config.read_only,
        .kernel_ended = connection_ended,
        .kernel_ended_arg = nbd,
    };
    int r = co_nbd_server_start(&server, &nbd->server, err);
    return r < 0 ? r : co_nbd_export_add(nbd->server, volume->root, &export, &nbd->export, err);
}

static int co_begin(struct nbd_device *nbd, struct hws_error *err)
{
    int r = co_start_server(nbd, err);
    if (r < 0)
        return r;
    if (nbd_place_find(&nbd->device.volume->config, false, &nbd->place) == 0) {
        r = co_adopt(nbd, err);
    } else {
        r = co_connect(nbd, err);
        if (r == 0)
            r = refuse_old_kernel(nbd, err);
        if (r == 0)
            nbd_device_tune(nbd->place.index, REQUEST_BYTES,
                            nbd->place.connections == 1 ? LOOK_MS : 0);
    }
    return r < 0 ? r : keep_connected(nbd, err);
}

/* What is in the kernel stays. */
static void co_free(struct nbd_device *nbd)
{
    struct nbd_export *export = steal_ptr(&nbd->export); /* `status` may ask until all is gone */
    if (export && co_nbd_export_remove(export, true, NULL) < 0)
        log_error("%s: its connections do not end", nbd->place.path);
    co_nbd_server_stop(nbd->server);
    rt_mutex_destroy(&nbd->lock);
    free(nbd);
}

static int co_start(struct volume *volume, struct device **ret, struct hws_error *err)
{
    struct nbd_device *nbd = calloc(1, sizeof(*nbd));
    if (!nbd)
        return hws_fail(err, ENOMEM, "out of memory");
    nbd->device.volume = volume;
    rt_mutex_init(&nbd->lock);
    co_waitq_init(&nbd->changed);
    int r = co_begin(nbd, err);
    if (r == 0) {
        *ret = &nbd->device;
        return 0;
    }
    if (nbd->is_made && co_nbd_place_disconnect(&nbd->place, NULL) < 0)
        log_error("%s is left behind", nbd->place.path);
    co_free(nbd);
    return r;
}

/* ---- end ---- */

static int gone_blocking(void *arg)
{
    const struct nbd_device *nbd = arg;
    bool connected = false;
    int r = nbd_device_is_connected(nbd->place.index, &connected, NULL);
    return r == 0 && connected ? -EBUSY : 0;
}

static int co_disconnect(struct nbd_device *nbd, bool force, struct hws_error *err)
{
    int claim = -1, r = force ? 0 : co_block_device_refuse_open(nbd->place.path, err);
    if (r == 0 && !force)
        r = co_block_device_claim(nbd->place.path, &claim, err);
    if (r < 0)
        return r;
    co_stop_keeping(nbd);
    r = co_nbd_place_disconnect(&nbd->place, err);
    if (claim >= 0)
        close(claim);
    if (r < 0) {
        struct hws_error why = {0};
        if (keep_connected(nbd, &why) < 0)
            log_error("%s", why.text);
        return r;
    }
    const uint64_t deadline = rt_now_ns() + FREE_PATIENCE_NS;
    while (!force && co_work(gone_blocking, nbd) == -EBUSY && rt_now_ns() < deadline)
        co_sleep_ns(TAKE_RETRY_NS);
    return 0;
}

static int co_stop(struct device *device, bool force, struct hws_error *err)
{
    struct nbd_device *nbd = nbd_device(device);
    int r = co_disconnect(nbd, force, err);
    if (r < 0)
        return r;
    co_free(nbd);
    return 0;
}

/* Between two requests, with the sockets kept: whoever goes on with them is not noticed. */
static void co_leave(struct device *device)
{
    struct nbd_device *nbd = nbd_device(device);
    struct volume *volume = device->volume;
    co_stop_keeping(nbd);
    static_assert(VOLUME_SOCKETS_MAX >= NBD_KERNEL_CONNECTIONS_MAX, "room for all");
    volume_close_left(volume);
    volume->left_count = co_nbd_export_park(nbd->export, volume->left);
    co_free(nbd);
}

/* ---- the rest ---- */

static unsigned copy_sockets(const struct device *device, int ret_fds[VOLUME_SOCKETS_MAX])
{
    const struct nbd_device *nbd = container_of(device, const struct nbd_device, device);
    return nbd_export_copy_sockets(nbd->export, ret_fds);
}

static bool is_adopted(const struct device *device)
{
    return container_of(device, const struct nbd_device, device)->adopted;
}

static int co_resized(struct device *device, struct hws_error *err)
{
    return co_resize(nbd_device(device), err);
}

static int co_claim(struct device *device, int *ret_claim, struct hws_error *err)
{
    return co_block_device_claim(nbd_device(device)->place.path, ret_claim, err);
}

static void co_release(struct device *device, int claim)
{
    co_block_device_release(nbd_device(device)->place.path, claim);
}

static void describe(const struct device *device, json_t *out)
{
    const struct nbd_device *nbd = container_of(device, const struct nbd_device, device);
    struct nbd_export_info info = {0};
    if (nbd->export) /* none while it goes */
        nbd_export_info(nbd->export, &info);
    json_object_set_new(out, "device", json_string(nbd->place.path));
    json_object_set_new(out, "transport", json_string("nbd"));
    json_object_set_new(out, "backend", json_string(nbd->place.backend));
    json_object_set_new(out, "queues", json_integer(nbd->place.connections));
    json_object_set_new(out, "connections", json_integer(info.connections));
    json_object_set_new(out, "adopted", json_boolean(nbd->adopted));
    json_object_set_new(out, "commands", json_integer((json_int_t)info.requests));
}

/* Looks, and loads nothing: "auto" takes what is there. */
static int probe(struct hws_error *why)
{
    return nbd_device_probe(why);
}

const struct device_way device_nbd = {
    .name = "nbd",
    .probe = probe,
    .co_start = co_start,
    .co_stop = co_stop,
    .co_leave = co_leave,
    .copy_sockets = copy_sockets,
    .is_adopted = is_adopted,
    .co_is_there = co_nbd_place_is_there,
    .co_abandon = co_nbd_place_abandon,
    .co_clear = co_nbd_place_clear,
    .co_resized = co_resized,
    .co_claim = co_claim,
    .co_release = co_release,
    .describe = describe,
};
