/*
 * The ways to make a device of a volume on this host.
 *
 *   fuse-loop   volume -> FUSE file -> loop device with direct I/O -> /dev/loopN
 *   fuse        volume -> FUSE file
 *   none        no device: the control socket only
 *
 * "auto" takes the best that this host has (host/attach.h) and tells which.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "engine/engine.h"
#include "base/log.h"
#include "engine/holders.h"
#include "export/fuse/fuse.h"
#include "host/attach.h"
#include "host/loop.h"
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

/** How long a program may have the device open before a stop calls it in use. */
#define OPEN_PATIENCE_NS ((uint64_t)1000000000)
#define OPEN_RETRY_NS    ((uint64_t)20000000)

const char *const device_way_names[] = {"auto", "fuse-loop", "fuse", "none", NULL};

struct device {
    struct volume *volume;
    int way;
    char *path; /* of the FUSE file */
    bool made_file;
    struct fuse_export *export;
    struct loop_device loop; /* fd -1: none */
};

/* Somebody unmounted the file or aborted the connection: without its device the engine has no use.
 */
static void export_ended(void *arg)
{
    struct device *device = arg;
    log_error("%s: the FUSE file was unmounted or its connection aborted; stopping",
              device->volume->config.name);
    engine_ask_stop(device->volume->engine, true);
}

static int choose_way(int wanted, int *ret, struct hws_error *err)
{
    struct hws_error why = {0};
    *ret = wanted;
    if (wanted != DEVICE_AUTO && wanted != DEVICE_FUSE_LOOP)
        return 0;
    if (attach_path_choose("fuse+loop", &why)) {
        *ret = DEVICE_FUSE_LOOP;
        return 0;
    }
    if (wanted == DEVICE_FUSE_LOOP || access("/dev/fuse", R_OK | W_OK) < 0) {
        if (err)
            *err = why;
        return -why.code;
    }
    log_warning("%s; the volume is a FUSE file only", why.text);
    *ret = DEVICE_FUSE;
    return 0;
}

static int make_file(struct device *device, struct hws_error *err)
{
    int fd = open(device->path, O_CREAT | O_EXCL | O_RDONLY | O_CLOEXEC, 0600);
    if (fd < 0 && errno != EEXIST)
        return hws_fail_errno(err, errno, "cannot make the mount point %s", device->path);
    device->made_file = fd >= 0;
    if (fd >= 0)
        close(fd);
    return 0;
}

static struct device *device_free(struct device *device)
{
    if (device->made_file)
        unlink(device->path);
    free(device->path);
    free(device);
    return NULL;
}

static int co_start_fuse(struct device *device, struct hws_error *err)
{
    const struct volume_config *config = &device->volume->config;
    if (!config->path)
        return hws_fail(err, EINVAL, "volume '%s' needs a path for its FUSE file", config->name);
    device->path = strdup(config->path);
    if (!device->path)
        return hws_fail(err, ENOMEM, "out of memory");
    int r = make_file(device, err);
    if (r < 0)
        return r;
    struct fuse_export_options options = {
        .path = device->path,
        .read_only = config->read_only,
        .uid = geteuid(),
        .gid = getegid(),
        .threads = (unsigned)config->queues,
        .ended = export_ended,
        .ended_arg = device,
    };
    return co_fuse_export_start(device->volume->root, &options, &device->export, err);
}

static int co_start_loop(struct device *device, struct hws_error *err)
{
    struct loop_options options = {
        .path = device->path,
        .read_only = device->volume->config.read_only,
        .auto_clear = true,
    };
    return co_loop_attach(&options, &device->loop, err);
}

int co_device_start(struct volume *volume, struct device **ret, struct hws_error *err)
{
    int way, r = choose_way(volume->config.via, &way, err);
    if (r < 0 || way == DEVICE_NONE)
        return r;
    struct device *device = calloc(1, sizeof(*device));
    if (!device)
        return hws_fail(err, ENOMEM, "out of memory");
    device->volume = volume;
    device->way = way;
    device->loop.fd = -1;
    r = co_start_fuse(device, err);
    if (r == 0 && way == DEVICE_FUSE_LOOP)
        r = co_start_loop(device, err);
    if (r == 0) {
        *ret = device;
        return 0;
    }
    if (device->export && co_fuse_export_stop(device->export, true, NULL) < 0)
        log_error("%s: cannot unmount", device->path);
    device_free(device);
    return r;
}

struct describe_work {
    const char *device;
    char *text;
    size_t text_bytes;
};

static int describe_blocking(void *arg)
{
    struct describe_work *w = arg;
    return holders_describe(w->device, w->text, w->text_bytes);
}

static bool co_describe_holders(const struct device *device, char *text, size_t text_bytes)
{
    struct describe_work w = {device->loop.path, text, text_bytes};
    return co_work(describe_blocking, &w);
}

static int claim_blocking(void *arg)
{
    struct device *device = arg;
    int fd = open(device->loop.path, O_RDONLY | O_EXCL | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    /* What is dirty now must not be written over the content to come. */
    if (ioctl(fd, BLKFLSBUF, 0) < 0) {
        int r = -errno;
        close(fd);
        return r;
    }
    return fd;
}

static int describe_open_blocking(void *arg)
{
    struct describe_work *w = arg;
    return holders_describe_open(w->device, w->text, w->text_bytes);
}

/*
 * A program that has the device open, as a virtual machine does, keeps nobody from detaching it,
 * and would see errors from then on. Those that only look at it, such as udev, are waited for.
 */
static int co_refuse_open(struct device *device, struct hws_error *err)
{
    char users[768];
    struct describe_work w = {device->loop.path, users, sizeof(users)};
    const uint64_t deadline = rt_now_ns() + OPEN_PATIENCE_NS;
    int claim = co_work(claim_blocking, device);
    if (claim < 0)
        return 0; /* mounted or the like: the detach itself tells */
    bool open;
    while ((open = co_work(describe_open_blocking, &w)) && rt_now_ns() < deadline)
        co_sleep_ns(OPEN_RETRY_NS);
    close(claim);
    return open ? hws_fail(err, EBUSY, "%s is in use: %.600s", device->loop.path, users) : 0;
}

static int co_stop_loop(struct device *device, bool force, struct hws_error *err)
{
    char users[768];
    int r = force ? 0 : co_refuse_open(device, err);
    if (r < 0)
        return r;
    r = co_loop_detach(&device->loop, err);
    if (r == -EBUSY && device->loop.fd >= 0) {
        if (force) {
            log_warning("%s: taken from its users", device->loop.path);
            loop_device_close(&device->loop); /* goes when its last user does */
            return 0;
        }
        if (co_describe_holders(device, users, sizeof(users)))
            hws_fail(err, EBUSY, "%s is in use: %.600s", device->loop.path, users);
    }
    /* Once our descriptor is closed the kernel takes the device down without us. */
    return device->loop.fd < 0 ? 0 : r;
}

int co_device_stop(struct device *device, bool force, struct hws_error *err)
{
    int r = device->loop.fd >= 0 ? co_stop_loop(device, force, err) : 0;
    if (r < 0)
        return r;
    r = co_fuse_export_stop(device->export, force, err);
    if (r == -EBUSY && device->way == DEVICE_FUSE_LOOP)
        r = hws_fail(
            err, ESTALE,
            "the loop device is gone, but another mount name space holds a copy of the mount "
            "at %s",
            device->path);
    if (r == 0)
        device_free(device);
    return r;
}

int co_device_resized(struct device *device, struct hws_error *err)
{
    return device->loop.fd >= 0 ? co_loop_resize(&device->loop, err) : 0;
}

int co_device_claim(struct device *device, int *ret_claim, struct hws_error *err)
{
    char users[768];
    if (device->loop.fd < 0)
        return hws_fail(err, EBUSY,
                        "who uses the FUSE file %s cannot be told; make sure that nobody "
                        "does, then say --force",
                        device->path);
    int fd = co_work(claim_blocking, device);
    bool used = co_describe_holders(device, users, sizeof(users));
    if (fd >= 0 && !used) {
        *ret_claim = fd;
        return 0;
    }
    if (fd >= 0)
        close(fd);
    if (fd < 0 && fd != -EBUSY)
        return hws_fail_errno(err, -fd, "cannot open %s", device->loop.path);
    return hws_fail(err, EBUSY, "%s is in use: %.600s", device->loop.path,
                    used ? users : "the kernel holds it (swap, or a mount in another name space)");
}

static int forget_blocking(void *arg)
{
    struct device *device = arg;
    return ioctl(device->loop.fd, BLKFLSBUF, 0) < 0 ? -errno : 0;
}

void co_device_release(struct device *device, int claim)
{
    if (device->loop.fd >= 0) {
        int r = co_work(forget_blocking, device);
        if (r < 0)
            log_warning("%s: cannot drop what the kernel cached: %s", device->loop.path,
                        strerror(-r));
    }
    if (claim >= 0)
        close(claim);
}

void device_describe(const struct device *device, json_t *out)
{
    struct fuse_export_info info;
    fuse_export_info(device->export, &info);
    json_object_set_new(out, "via", json_string(device_way_names[device->way]));
    json_object_set_new(out, "file", json_string(device->path));
    json_object_set_new(out, "device",
                        json_string(device->loop.fd >= 0 ? device->loop.path : device->path));
    json_object_set_new(out, "transport", json_string(info.transport));
    json_object_set_new(out, "queues", json_integer(info.threads));
    if (device->loop.fd >= 0)
        json_object_set_new(out, "direct-io", json_boolean(device->loop.direct_io));
}
