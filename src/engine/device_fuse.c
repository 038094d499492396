/*
 * Devices that need no kernel module beyond FUSE and loop.
 *
 *   fuse-loop   volume -> FUSE file -> loop device with direct I/O -> /dev/loopN
 *   fuse        volume -> FUSE file
 *
 * The loop device is held open by the engine's porter and clears itself with its last user, so that
 * it goes with the engine, however that ends.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/log.h"
#include "engine/device.h"
#include "export/fuse/fuse.h"
#include "host/attach.h"
#include "host/loop.h"
#include <sys/stat.h>

struct fuse_device {
    struct device device;
    char *path; /* of the FUSE file */
    bool made_file;
    struct fuse_export *export;
    struct loop_device loop;
    uint64_t loop_sequence;
    struct porter porter; /* that holds it; line -1: there is no loop device */
};

static struct fuse_device *fuse_device(struct device *device)
{
    return container_of(device, struct fuse_device, device);
}

/* Somebody unmounted the file or aborted the connection: without its device the engine has no use.
 */
static void export_ended(void *arg)
{
    struct fuse_device *fuse = arg;
    log_error("%s: the FUSE file was unmounted or its connection aborted; stopping",
              fuse->device.volume->config.name);
    engine_ask_stop(fuse->device.volume->engine, true);
}

static int make_file(struct fuse_device *fuse, struct hws_error *err)
{
    int fd = open(fuse->path, O_CREAT | O_EXCL | O_RDONLY | O_CLOEXEC, 0600);
    if (fd < 0 && errno != EEXIST)
        return hws_fail_errno(err, errno, "cannot make the mount point %s", fuse->path);
    fuse->made_file = fd >= 0;
    if (fd >= 0)
        close(fd);
    return 0;
}

static void fuse_device_free(struct fuse_device *fuse)
{
    if (fuse->made_file)
        unlink(fuse->path);
    free(fuse->path);
    free(fuse);
}

static int co_start_export(struct fuse_device *fuse, struct hws_error *err)
{
    const struct volume_config *config = &fuse->device.volume->config;
    fuse->path = strdup(config->path);
    if (!fuse->path)
        return hws_fail(err, ENOMEM, "out of memory");
    int r = config->fuse_fd < 0 ? make_file(fuse, err) : 0;
    if (r < 0)
        return r;
    const struct fuse_premount premount = {config->fuse_fd, config->fuse_abort_fd};
    struct fuse_export_options options = {
        .path = fuse->path,
        .read_only = config->read_only,
        .uid = geteuid(),
        .gid = getegid(),
        .threads = (unsigned)config->queues,
        .premount = premount.fd >= 0 ? &premount : NULL,
        .ended = export_ended,
        .ended_arg = fuse,
    };
    return co_fuse_export_start(fuse->device.volume->root, &options, &fuse->export, err);
}

struct porter_work {
    struct porter *porter;
    struct hws_error *err;
};

static int start_porter(void *arg)
{
    const struct porter_work *w = arg;
    return porter_start(w->porter, w->err);
}

static int co_start_loop(struct fuse_device *fuse, struct hws_error *err)
{
    const struct volume_config *config = &fuse->device.volume->config;
    struct loop_options options = {
        .path = fuse->path,
        .block_bytes = (uint32_t)config->block_bytes,
        .read_only = config->read_only,
        .auto_clear = true,
    };
    struct porter_work work = {&fuse->porter, err};
    fuse->porter = config->porter; /* of an engine in a sandbox */
    int r = config->porter.line < 0 ? co_work(start_porter, &work) : 0;
    return r == 0
               ? co_porter_attach(&fuse->porter, &options, &fuse->loop, &fuse->loop_sequence, err)
               : r;
}

static int co_start(struct volume *volume, bool with_loop, struct device **ret,
                    struct hws_error *err)
{
    struct fuse_device *fuse = calloc(1, sizeof(*fuse));
    if (!fuse)
        return hws_fail(err, ENOMEM, "out of memory");
    fuse->device.volume = volume;
    fuse->porter.line = -1;
    int r = co_start_export(fuse, err);
    if (r == 0 && with_loop)
        r = co_start_loop(fuse, err);
    if (r == 0) {
        *ret = &fuse->device;
        return 0;
    }
    if (fuse->export && co_fuse_export_stop(fuse->export, true, NULL) < 0)
        log_error("%s: cannot unmount", fuse->path);
    fuse_device_free(fuse);
    return r;
}

static int co_start_fuse_loop(struct volume *volume, struct device **ret, struct hws_error *err)
{
    return co_start(volume, true, ret, err);
}

static int co_start_fuse(struct volume *volume, struct device **ret, struct hws_error *err)
{
    return co_start(volume, false, ret, err);
}

static int co_stop_loop(struct fuse_device *fuse, bool force, struct hws_error *err)
{
    char users[768];
    int r = force ? 0 : co_block_device_refuse_open(fuse->loop.path, err);
    if (r == 0)
        r = co_porter_detach(&fuse->porter, err);
    if (r == -EBUSY && force && fuse->porter.line >= 0) {
        log_warning("%s: taken from its users", fuse->loop.path);
        co_porter_let_go(&fuse->porter); /* goes when its last user does */
        return 0;
    }
    if (r == -EBUSY && fuse->porter.line >= 0 &&
        co_block_device_users(fuse->loop.path, users, sizeof(users)))
        hws_fail(err, EBUSY, "%s is in use: %.600s", fuse->loop.path, users);
    return r;
}

static int co_stop(struct device *device, bool force, struct hws_error *err)
{
    struct fuse_device *fuse = fuse_device(device);
    int r = fuse->porter.line >= 0 ? co_stop_loop(fuse, force, err) : 0;
    if (r < 0)
        return r;
    r = co_fuse_export_stop(fuse->export, force, err);
    if (r == -EBUSY && device->way == &device_fuse_loop)
        r = hws_fail(
            err, ESTALE,
            "the loop device is gone, but another mount name space holds a copy of the mount "
            "at %s",
            fuse->path);
    if (r == 0)
        fuse_device_free(fuse);
    return r;
}

static int look_at_file(void *arg)
{
    struct stat st;
    return stat(arg, &st) < 0 ? -errno : 0;
}

static int co_resized(struct device *device, struct hws_error *err)
{
    struct fuse_device *fuse = fuse_device(device);
    /* In a sandbox the loop device's own way to its file is not seen. */
    if (co_work(look_at_file, fuse->path) < 0)
        log_warning("%s: cannot be looked at", fuse->path);
    return co_porter_resize(&fuse->porter, err);
}

static int co_claim_loop(struct device *device, int *ret_claim, struct hws_error *err)
{
    return co_block_device_claim(fuse_device(device)->loop.path, ret_claim, err);
}

static int co_claim_file(struct device *device, int *ret_claim, struct hws_error *err)
{
    return hws_fail(err, EBUSY,
                    "who uses the FUSE file %s cannot be told; make sure that nobody "
                    "does, then say --force",
                    fuse_device(device)->path);
}

static void co_release_loop(struct device *device, int claim)
{
    co_block_device_release(fuse_device(device)->loop.path, claim);
}

static void describe(const struct device *device, json_t *out)
{
    const struct fuse_device *fuse = container_of(device, const struct fuse_device, device);
    struct fuse_export_info info;
    fuse_export_info(fuse->export, &info);
    json_object_set_new(out, "file", json_string(fuse->path));
    json_object_set_new(out, "device",
                        json_string(fuse->porter.line >= 0 ? fuse->loop.path : fuse->path));
    json_object_set_new(out, "transport", json_string(info.transport));
    json_object_set_new(out, "queues", json_integer(info.threads));
    if (fuse->porter.line >= 0) {
        json_object_set_new(out, "direct-io", json_boolean(fuse->loop.direct_io));
        json_object_set_new(out, "disk-sequence", json_integer((json_int_t)fuse->loop_sequence));
    }
}

static int probe_fuse_loop(struct hws_error *why)
{
    return attach_path_choose("fuse+loop", why) ? 0 : -ENODEV;
}

static int probe_fuse(struct hws_error *why)
{
    return access("/dev/fuse", R_OK | W_OK) < 0
               ? hws_fail_errno(why, errno, "/dev/fuse cannot be used")
               : 0;
}

const struct device_way device_fuse_loop = {
    .name = "fuse-loop",
    .needs_path = true,
    .probe = probe_fuse_loop,
    .co_start = co_start_fuse_loop,
    .co_stop = co_stop,
    .co_resized = co_resized,
    .co_claim = co_claim_loop,
    .co_release = co_release_loop,
    .describe = describe,
};

const struct device_way device_fuse = {
    .name = "fuse",
    .needs_path = true,
    .probe = probe_fuse,
    .co_start = co_start_fuse,
    .co_stop = co_stop,
    .co_claim = co_claim_file,
    .describe = describe,
};
