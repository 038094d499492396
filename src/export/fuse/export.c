/*
 * Life of a FUSE export: start, end, stop.
 *
 *   start:  open /dev/fuse -> mount -> channel 0 answers INIT -> further channels, ring entries
 *   end:    the kernel closes the connection (unmount, abort): every channel's coroutines return
 *   stop:   unmount, which ends it; join the threads; free
 *
 * Somebody else may unmount at any time. The watcher, a coroutine on the controlling queue, then
 * tells the owner, who stops the export in the usual way.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/log.h"
#include "export/fuse/internal.h"

/** How long the kernel may take from mount(2) to INIT. */
#define INIT_PATIENCE_NS ((uint64_t)10 * 1000000000)

/* ---- what the transports report ---- */

void fuse_export_became_ready(struct fuse_export *export, int error)
{
    rt_mutex_lock(&export->guard);
    export->ready = true;
    export->init_error = error;
    co_waitq_wake_all(&export->changed);
    rt_mutex_unlock(&export->guard);
}

void fuse_export_has_ended(struct fuse_export *export)
{
    rt_mutex_lock(&export->guard);
    export->ended = true;
    co_waitq_wake_all(&export->changed);
    rt_mutex_unlock(&export->guard);
}

/* The kernel goes back to /dev/fuse by itself when it refuses an entry; so do we. */
void fuse_export_ring_failed(struct fuse_export *export, int error)
{
    if (atomic_exchange(&export->over_ring, false))
        log_warning("%s: the kernel refuses FUSE over io_uring (%s); served through /dev/fuse",
                    export->path, strerror(-error));
}

static void co_watch(void *arg)
{
    struct fuse_export *export = arg;
    rt_mutex_lock(&export->guard);
    while (!export->disposing && (!export->ended || export->stopping))
        co_waitq_wait(&export->changed, &export->guard);
    bool tell = !export->disposing && export->ended_fn;
    void (*fn)(void *) = export->ended_fn;
    void *fn_arg = export->ended_arg;
    export->watching = false;
    co_waitq_wake_all(&export->changed);
    rt_mutex_unlock(&export->guard);
    if (tell)
        fn(fn_arg); /* may stop and free the export */
}

/* Attributes are fetched anew at the next stat(2); pages are never cached. */
static void size_changed(void *arg, uint64_t size_bytes)
{
    struct fuse_export *export = arg;
    struct {
        struct fuse_out_header header;
        struct fuse_notify_inval_inode_out body;
    } message = {
        .header = {.length = sizeof(message), .error = FUSE_NOTIFY_INVAL_INODE},
        .body = {.node = FUSE_NODE_ROOT, .offset = -1},
    };
    /* ENOENT: nobody has looked at the file yet, so there is nothing to invalidate. */
    ssize_t n = write(export->channel[0].fd, &message, sizeof(message));
    (void)n;
}

/* ---- start ---- */

static int add_channel(struct fuse_export *export, unsigned index, struct hws_error *err)
{
    struct fuse_channel *channel = &export->channel[index];
    char name[16];
    snprintf(name, sizeof(name), "fuse/%u", index);
    channel->export = export;
    channel->index = index;
    int r = rt_queue_start(rt_current(), name, &channel->queue, err);
    if (r < 0)
        return r;
    r = fuse_device_start(channel);
    return r < 0 ? hws_fail_errno(err, -r, "%s: cannot start a thread's requests", export->path)
                 : 0;
}

static int co_wait_ready(struct fuse_export *export, struct hws_error *err)
{
    const uint64_t deadline = rt_now_ns() + INIT_PATIENCE_NS;
    bool in_time = true;
    rt_mutex_lock(&export->guard);
    while (!export->ready && !export->ended && in_time)
        in_time = co_waitq_wait_until(&export->changed, &export->guard, deadline);
    bool ready = export->ready;
    int r = export->init_error;
    rt_mutex_unlock(&export->guard);
    if (!ready)
        return hws_fail(err, ETIMEDOUT, "%s: the kernel did not start the FUSE connection",
                        export->path);
    if (r < 0)
        return hws_fail(err, EPROTO, "%s: this kernel speaks a FUSE version below 7.%u",
                        export->path, FUSE_VERSION_MINOR_LEAST);
    return 0;
}

static int start_ring(struct fuse_export *export, struct hws_error *err)
{
    for (unsigned i = 0; i < export->channel_count; i++) {
        struct fuse_channel *channel = &export->channel[i];
        int copy = fcntl(channel->fd, F_DUPFD_CLOEXEC, 0);
        int r = copy < 0 ? -errno : rt_file_adopt(copy, &channel->file);
        if (r < 0 && copy >= 0)
            close(copy);
        if (r == 0)
            r = fuse_ring_start(channel);
        if (r < 0)
            return hws_fail_errno(err, -r, "%s: cannot start FUSE over io_uring", export->path);
    }
    return 0;
}

/* Reading /dev/fuse, a second thread costs CPU time and gains little; rings have a thread a CPU. */
static int start_others(struct fuse_export *export, struct hws_error *err)
{
    if (export->over_ring && !export->threads_chosen)
        export->channel_count = fuse_ring_threads();
    for (unsigned i = 1; i < export->channel_count; i++) {
        int r = fuse_device_clone(export->channel[0].fd, &export->channel[i].fd);
        if (r < 0)
            return hws_fail_errno(err, -r, "%s: cannot clone /dev/fuse", export->path);
        r = add_channel(export, i, err);
        if (r < 0)
            return r;
    }
    return export->over_ring ? start_ring(export, err) : 0;
}

static int co_connect(struct fuse_export *export, struct hws_error *err)
{
    bool before = export->abort_fd >= 0;
    int r = before ? 0 : fuse_device_open(&export->channel[0].fd, err);
    if (r < 0)
        return r;
    if (export->transport == FUSE_TRANSPORT_URING ||
        (export->transport == FUSE_TRANSPORT_AUTO && !fuse_ring_is_costly()))
        export->ring_wanted = co_fuse_ring_works(export->channel[0].fd);
    r = before ? 0 : co_fuse_mount(export, err);
    if (r < 0)
        return r;
    export->mounted = true;
    r = add_channel(export, 0, err);
    if (r < 0)
        return r;
    r = co_wait_ready(export, err);
    if (r < 0)
        return r;
    if (export->transport == FUSE_TRANSPORT_URING && !export->over_ring)
        return hws_fail(err, EOPNOTSUPP,
                        "%s: no FUSE over io_uring here: it needs Linux 6.14, "
                        "/sys/module/fuse/parameters/enable_uring = Y, and io_uring",
                        export->path);
    r = start_others(export, err);
    if (r < 0)
        return r;
    return co_fuse_identify(export, err);
}

static struct fuse_export *export_new(struct block_root *root,
                                      const struct fuse_export_options *options)
{
    struct fuse_export *export = calloc(1, sizeof(*export));
    if (!export)
        return NULL;
    export->path = strdup(options->path);
    if (!export->path) {
        free(export);
        return NULL;
    }
    export->root = root;
    export->read_only = options->read_only || block_is_read_only(block_root_node(root));
    export->mode = options->mode ? options->mode & 0777 : export->read_only ? 0400 : 0600;
    export->uid = options->uid;
    export->gid = options->gid;
    export->transport = options->transport;
    export->channel_count = MAX(options->threads, 1U);
    export->threads_chosen = options->threads != 0;
    export->ended_fn = options->ended;
    export->ended_arg = options->ended_arg;
    for (unsigned i = 0; i < FUSE_THREADS_MAX; i++)
        export->channel[i].fd = -1;
    export->abort_fd = options->premount ? options->premount->abort_fd : -1;
    if (options->premount)
        export->channel[0].fd = options->premount->fd;
    rt_mutex_init(&export->guard);
    co_waitq_init(&export->changed);
    return export;
}

/* The connection is over, or never began: joins the threads and frees. */
static void co_dispose(struct fuse_export *export)
{
    rt_mutex_lock(&export->guard);
    export->disposing = true;
    co_waitq_wake_all(&export->changed);
    while (export->watching)
        co_waitq_wait(&export->changed, &export->guard);
    rt_mutex_unlock(&export->guard);
    for (unsigned i = 0; i < export->channel_count; i++) {
        struct fuse_channel *channel = &export->channel[i];
        if (channel->queue)
            co_queue_stop(channel->queue);
        fuse_ring_free(channel);
        fuse_device_free(channel);
        rt_file_close(channel->file);
        if (channel->fd >= 0)
            close(channel->fd);
    }
    if (export->abort_fd >= 0)
        close(export->abort_fd);
    rt_mutex_destroy(&export->guard);
    free(export->path);
    free(export);
}

int co_fuse_export_start(struct block_root *root, const struct fuse_export_options *options,
                         struct fuse_export **ret, struct hws_error *err)
{
    if (options->threads > FUSE_THREADS_MAX)
        return hws_fail(err, EINVAL, "%s: %u threads asked for; at most %u are possible",
                        options->path, options->threads, FUSE_THREADS_MAX);
    struct fuse_export *export = export_new(root, options);
    if (!export)
        return hws_fail(err, ENOMEM, "%s: out of memory", options->path);
    int r = co_connect(export, err);
    if (r == 0) {
        export->watching = true;
        r = rt_spawn(NULL, co_watch, export);
        if (r < 0) {
            export->watching = false;
            hws_fail_errno(err, -r, "%s: cannot watch the mount", export->path);
        }
    }
    if (r < 0) {
        int gone = export->mounted ? co_fuse_unmount(export, true, NULL) : 0;
        if (gone < 0)
            hws_wrap(err, r, "%s stays mounted (unmount it by hand)", export->path);
        co_dispose(export);
        return r;
    }
    block_root_on_resize(root, size_changed, export);
    *ret = export;
    return 0;
}

/* While we unmount, the end of the connection is no news. */
static void set_stopping(struct fuse_export *export, bool stopping)
{
    rt_mutex_lock(&export->guard);
    export->stopping = stopping;
    co_waitq_wake_all(&export->changed);
    rt_mutex_unlock(&export->guard);
}

static bool co_wait_ended(struct fuse_export *export)
{
    const uint64_t deadline = rt_now_ns() + FUSE_STOP_PATIENCE_NS;
    bool in_time = true;
    rt_mutex_lock(&export->guard);
    while (!export->ended && in_time)
        in_time = co_waitq_wait_until(&export->changed, &export->guard, deadline);
    bool ended = export->ended;
    rt_mutex_unlock(&export->guard);
    return ended;
}

/* Unmounting ends the connection, unless somebody unmounted lazily before and has the file open. */
static int co_end_connection(struct fuse_export *export, bool force, struct hws_error *err)
{
    int r = co_fuse_unmount(export, force, err);
    if (r < 0 || co_wait_ended(export))
        return r;
    if (!force)
        return hws_fail(err, EBUSY, "%s: was unmounted lazily, and is still open somewhere",
                        export->path);
    return co_fuse_abort(export, err);
}

int co_fuse_export_stop(struct fuse_export *export, bool force, struct hws_error *err)
{
    set_stopping(export, true);
    int r = co_end_connection(export, force, err);
    if (r < 0) {
        set_stopping(export, false);
        return r;
    }
    block_root_on_resize(export->root, NULL, NULL);
    co_dispose(export);
    return 0;
}

void fuse_export_info(const struct fuse_export *export, struct fuse_export_info *ret)
{
    *ret = (struct fuse_export_info){
        .path = export->path,
        .transport = export->over_ring ? "io_uring" : "device",
        .threads = export->channel_count,
        .kernel_minor = export->kernel_minor,
        .read_only = export->read_only,
    };
    for (unsigned i = 0; i < export->channel_count; i++)
        ret->requests += atomic_load_explicit(&export->channel[i].requests, memory_order_relaxed);
}
