/*
 * One device, from the kernel's word of it to its end:
 *
 *     opened      the image is open, and the uio device held so that nobody else takes it
 *     serving     from the first command on: SCSI disk, export, threads
 *     closed      the backstore was removed, or is left for a successor
 *
 * The disk is made at the first command, not before, because targetcli gives a backstore its serial
 * number after it was enabled; once a LUN names the backstore, and commands come, it cannot change.
 *
 * Everything here is the control queue's; `busy` serializes what suspends.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/log.h"
#include "export/tcmu/tcmu.h"
#include "handler/internal.h"
#include <poll.h>
#include <sys/sysmacros.h>

/* tcmu-runner opens a device that it then finds is none of its own: how long that is borne. */
#define CLAIM_PATIENCE_NS ((uint64_t)5 * 1000000000)
#define CLAIM_RETRY_NS    ((uint64_t)20 * 1000000)
/* A predecessor that was asked to end still flushes, and holds the image meanwhile. */
#define LOCK_PATIENCE_NS ((uint64_t)10 * 1000000000)
#define LOCK_RETRY_NS    ((uint64_t)100 * 1000000)

/* ---- the struct ---- */

struct device *device_new(struct handler *handler, const struct tcmu_device_name *name,
                          unsigned minor)
{
    struct device *device = calloc(1, sizeof(*device));
    if (!device)
        return NULL;
    *device = (struct device){.handler = handler,
                              .name = *name,
                              .minor = minor,
                              .opened = 1,
                              .uio_fd = -1,
                              .backstore = {.is_awaited = true}};
    co_mutex_init(&device->busy);
    list_push_back(&handler->devices, &device->link);
    handler->device_count++;
    device->listed = true;
    device->users = 1; /* the table */
    return device;
}

struct device *device_hold(struct device *device)
{
    device->users++;
    return device;
}

void device_release(struct device *device)
{
    assert(device->users > 0);
    if (--device->users > 0)
        return;
    assert(!device->listed && !device->root && device->uio_fd < 0);
    co_mutex_destroy(&device->busy);
    config_string_free(&device->config);
    free(device);
}

void device_unlist(struct device *device)
{
    if (!device->listed)
        return;
    device->listed = false;
    list_del(&device->link);
    device->handler->device_count--;
    device_release(device);
}

/* ---- the first command ---- */

static int co_open_uio(struct device *device, struct hws_error *err)
{
    char path[32];
    uint64_t deadline = rt_now_ns() + CLAIM_PATIENCE_NS;
    snprintf(path, sizeof(path), "/dev/uio%u", device->minor);
    for (;;) {
        device->uio_fd = open(path, O_RDWR | O_CLOEXEC | O_NONBLOCK);
        if (device->uio_fd >= 0)
            return 0;
        if (errno != EBUSY || rt_now_ns() > deadline)
            break;
        co_sleep_ns(CLAIM_RETRY_NS);
    }
    if (errno == EBUSY)
        return hws_fail(err, EBUSY,
                        "%s: another process serves this device; does tcmu-runner have "
                        "handler_hawser.so, or does another hawser tcmu-handler run?",
                        path);
    return hws_fail_errno(err, errno, "%s", path);
}

static int make_disk(struct device *device, struct hws_error *err)
{
    const struct backstore *backstore = &device->backstore;
    char initiator[sizeof("hawser-tcmu-") + TCMU_NAME_MAX];
    struct scsi_disk_options options = {
        .block_bytes = backstore->block_bytes,
        .name = backstore->serial[0] ? backstore->serial : device->name.name,
        .read_only = device->config.read_only,
        .write_through = !backstore->write_cache,
    };
    backstore_serial_uuid(backstore->serial, options.uuid); /* else from the name */
    int r = scsi_disk_new(device->root, &options, &device->disk, err);
    if (r < 0)
        return r;
    snprintf(initiator, sizeof(initiator), "hawser-tcmu-%s", device->name.name);
    r = scsi_nexus_new(&(struct scsi_nexus_options){.initiator = initiator}, &device->nexus, err);
    if (r < 0)
        return r;
    r = scsi_map(device->nexus, 0, device->disk, &device->lun);
    return r < 0 ? hws_fail_errno(err, -r, "cannot map the disk") : 0;
}

static void co_unmake_disk(struct device *device)
{
    if (device->export)
        co_tcmu_export_stop(device->export);
    device->export = NULL;
    if (device->lun)
        co_scsi_unmap(device->lun);
    device->lun = NULL;
    device->nexus = scsi_nexus_free(device->nexus);
    device->disk = scsi_disk_free(device->disk);
}

static void let_go_of_uio(struct device *device)
{
    co_watch_stop(device->first_command);
    device->first_command = NULL;
    cleanup_fd_(&device->uio_fd);
    device->uio_fd = -1;
}

static int co_serve(struct device *device, struct hws_error *err)
{
    struct backstore now = {0};
    int r = co_backstore_read(&device->name, &now, err);
    if (r < 0)
        return r;
    memcpy(device->backstore.serial, now.serial, sizeof(now.serial));
    r = make_disk(device, err);
    if (r < 0)
        return r;
    struct rt_queue *queue;
    r = co_handler_queue(device->handler, &queue, err);
    if (r < 0)
        return r;
    let_go_of_uio(device);
    struct tcmu_export_options options = {
        .minor = device->minor,
        .name = device->name.name,
        .nexus = device->nexus,
        .lun = device->lun,
        .threads = 1,
        .queues = &queue,
    };
    return co_tcmu_export_start(&options, &device->export, err);
}

static void co_close_image(struct device *device)
{
    struct hws_error err = {0};
    if (!device->root)
        return;
    int flushed = device->config.read_only ? 0 : co_root_flush(device->root);
    if (flushed < 0)
        log_error("backstore '%s': the last flush failed: %s", device->name.name,
                  strerror(-flushed));
    if (co_block_root_free(device->root, &err) < 0)
        log_error("backstore '%s': %s", device->name.name, err.text);
    device->root = NULL;
    device->keep = block_keep_close(device->keep);
}

/*
 * The device may be gone without a word: the kernel was told of a failure by somebody else. Or its
 * end, which wakes whoever polls it as a command does, was seen before its removal was heard of.
 * The backstore's folder goes before the uio device does.
 */
static void co_give_up(struct device *device, const struct hws_error *why)
{
    device->why = *why;
    co_unmake_disk(device);
    let_go_of_uio(device);
    co_close_image(device);
    if (!co_backstore_exists(&device->name)) {
        handler_ask_rescan(device->handler);
        return;
    }
    device->told = false;
    log_error("backstore '%s': cannot be served: %s", device->name.name, why->text);
}

static void co_first_command(void *arg)
{
    struct device *device = arg;
    struct handler *handler = device->handler;
    struct hws_error err = {0};
    co_mutex_lock(&device->busy);
    if (device->listed && device->opened == 0 && !device->export && !handler->stopping) {
        device->opened = co_serve(device, &err);
        if (device->opened < 0)
            co_give_up(device, &err);
    }
    co_mutex_unlock(&device->busy);
    device_release(device);
    co_group_done(&handler->work);
}

/* The watch's function: it may spawn, not suspend. */
static void on_first_command(void *arg)
{
    struct device *device = arg;
    struct handler *handler = device->handler;
    if (device->starting)
        return;
    device->starting = true;
    device_hold(device);
    co_group_add(&handler->work, 1);
    if (rt_spawn(NULL, co_first_command, device) < 0) {
        log_error("backstore '%s': out of memory", device->name.name);
        device->starting = false; /* the next command asks again */
        device_release(device);
        co_group_done(&handler->work);
    }
}

/* ---- opening ---- */

/* What a killed predecessor had completed and not yet written lies in the image's keep. */
static int co_open_with_keep(struct device *device, struct hws_error *err)
{
    int r = 0;
    if (!device->config.read_only)
        r = co_image_keep(device->config.image, &device->keep, err);
    if (r < 0)
        return r;
    r = co_config_string_open(&device->config, device->keep, &device->root, err);
    if (r < 0)
        device->keep = block_keep_close(device->keep);
    return r;
}

static int co_open_image(struct device *device, bool adopt, struct hws_error *err)
{
    uint64_t deadline = rt_now_ns() + (adopt ? LOCK_PATIENCE_NS : 0);
    int r = co_image_configure(device->name.config, device->handler->options->allow,
                               &device->config, err);
    if (r < 0)
        return r;
    for (;;) {
        r = co_open_with_keep(device, err);
        if (r != -EAGAIN || rt_now_ns() > deadline)
            return r;
        co_sleep_ns(LOCK_RETRY_NS);
    }
}

/* Makes backstore and image agree. The kernel asks nobody before the device is enabled. */
static int co_agree(struct device *device, bool adopt, struct hws_error *err)
{
    struct backstore *backstore = &device->backstore;
    uint64_t image_bytes = block_root_size(device->root);
    int r = image_size_check(image_bytes, backstore->size_bytes, backstore->block_bytes, err);
    if (r < 0)
        return r;
    if (r == IMAGE_SIZE_CORRECT) {
        uint64_t usable = align_down(image_bytes, backstore->block_bytes);
        if (backstore->size_bytes)
            log_warning("backstore '%s' says %llu bytes, its image has %llu: the image counts",
                        device->name.name, (unsigned long long)backstore->size_bytes,
                        (unsigned long long)usable);
        backstore->size_bytes = usable;
        if (!adopt && co_backstore_write(&device->name, "attrib/dev_size", (int64_t)usable) < 0)
            log_debug("backstore '%s': dev_size stays as it is", device->name.name);
    }
    if (!adopt) {
        backstore->write_cache = device->config.cache != BLOCK_CACHE_WRITETHROUGH;
        if (co_backstore_write(&device->name, "attrib/emulate_write_cache",
                               backstore->write_cache) < 0)
            log_debug("backstore '%s': emulate_write_cache stays as it is", device->name.name);
    }
    return 0;
}

/*
 * New commands are turned away, and what a predecessor took is sent again. Without that the ring
 * cannot be served: a killed predecessor may have put answers over entries that still count.
 */
static int co_adopt(struct device *device, struct hws_error *err)
{
    int r = co_backstore_write(&device->name, "action/block_dev", 1);
    if (r == 0)
        r = co_backstore_write(&device->name, "action/reset_ring", 1);
    if (r == -EINVAL)
        return 0; /* just being enabled: nobody can have taken anything */
    return r < 0 ? hws_fail_errno(err, -r, "cannot send back what its last server left") : 0;
}

static int co_open_all(struct device *device, bool adopt, struct hws_error *err)
{
    bool edge;
    int r = co_backstore_read(&device->name, &device->backstore, err);
    if (r == 0)
        r = co_open_image(device, adopt, err);
    if (r == 0)
        r = co_agree(device, adopt, err);
    if (r == 0)
        r = co_open_uio(device, err);
    if (r < 0)
        return r;
    if (adopt)
        r = co_adopt(device, err);
    if (r == 0) {
        r = rt_watch_start(device->uio_fd, on_first_command, device, &device->first_command, &edge);
        if (r < 0)
            hws_fail_errno(err, -r, "/dev/uio%u", device->minor);
    }
    if (adopt)
        co_backstore_write(&device->name, "action/block_dev", 0);
    return r;
}

int co_device_open(struct device *device, bool adopt, struct hws_error *err)
{
    co_mutex_lock(&device->busy);
    if (device->opened == 1 && device->listed) {
        device->opened = co_open_all(device, adopt, &device->why);
        if (device->opened < 0) {
            let_go_of_uio(device);
            co_close_image(device);
        } else {
            device->told = true;
            log_info("backstore '%s': %s of %s, %llu bytes, at /dev/uio%u", device->name.name,
                     adopt ? "taken over" : "added", device->config.image,
                     (unsigned long long)device->backstore.size_bytes, device->minor);
        }
    }
    int r = device->listed ? device->opened : -ENODEV;
    if (r < 0 && err)
        *err = device->why;
    co_mutex_unlock(&device->busy);
    return r;
}

void co_device_close(struct device *device, bool leave)
{
    co_mutex_lock(&device->busy);
    if (device->opened == 0) {
        if (leave)
            co_backstore_write(&device->name, "action/block_dev", 1);
        co_unmake_disk(device);
        let_go_of_uio(device);
        co_close_image(device);
        device->opened = -ENODEV;
    }
    if (device->told)
        log_info("backstore '%s': %s", device->name.name, leave ? "left" : "removed");
    device->told = false;
    co_mutex_unlock(&device->busy);
}

/* ---- changes ---- */

static int co_resize(struct device *device, uint64_t size_bytes, struct hws_error *err)
{
    struct backstore *backstore = &device->backstore;
    uint64_t image_bytes = block_root_size(device->root);
    if (size_bytes == align_down(image_bytes, backstore->block_bytes))
        return 0;
    if (!is_aligned(size_bytes, backstore->block_bytes))
        return hws_fail(err, EINVAL, "dev_size %llu is no multiple of the block size %u",
                        (unsigned long long)size_bytes, backstore->block_bytes);
    if (size_bytes < image_bytes)
        return hws_fail(err, EINVAL,
                        "dev_size %llu is less than the image's %llu bytes: a backstore in use is "
                        "not made smaller",
                        (unsigned long long)size_bytes, (unsigned long long)image_bytes);
    if (device->config.read_only)
        return hws_fail(err, EROFS, "the image is opened read-only, and cannot grow");
    int r = co_root_resize(device->root, size_bytes, err);
    if (r < 0)
        return r;
    backstore->size_bytes = size_bytes;
    if (device->disk)
        scsi_disk_resized(device->disk);
    return 0;
}

static int co_change(struct device *device, const struct tcmu_event *event, struct hws_error *err)
{
    if (event->has_size)
        return co_resize(device, event->size_bytes, err);
    if (event->has_write_cache) {
        device->backstore.write_cache = event->write_cache;
        if (device->disk)
            scsi_disk_set_write_cache(device->disk, event->write_cache);
        return 0;
    }
    if (event->has_config && strcmp(event->config, device->name.config) == 0)
        return 0;
    if (event->has_config)
        return hws_fail(err, EOPNOTSUPP,
                        "the image and its options do not change while the backstore exists: "
                        "delete it and make it anew");
    return hws_fail(err, EOPNOTSUPP, "the kernel asks for a change that is not known here");
}

int co_device_reconfigure(struct device *device, const struct tcmu_event *event,
                          struct hws_error *err)
{
    co_mutex_lock(&device->busy);
    int r = device->opened == 0 && device->listed ? co_change(device, event, err)
                                                  : hws_fail(err, ENODEV, "it is not served");
    co_mutex_unlock(&device->busy);
    return r;
}
