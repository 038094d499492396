/*
 * Descriptors of /dev/fuse, and mounting and unmounting of the one file. mount(2), umount(2) and
 * whatever looks at the mounted path may wait for our own answers, so they run on worker threads.
 *
 * A mount whose server died (ENOTCONN) is taken away before a new one goes over the same file, but
 * only if it is one of ours, by its type.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "export/fuse/internal.h"
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#define FUSE_MOUNT_TYPE   "fuse.hawser"
#define FUSE_MOUNT_SOURCE "hawser"

/** How long an unmount waits for users that are just closing (a loop device lets go late). */
#define UNMOUNT_PATIENCE_NS FUSE_STOP_PATIENCE_NS
#define UNMOUNT_RETRY_NS    (5 * (uint64_t)1000000)

int fuse_device_open(int *ret, struct hws_error *err)
{
    int fd = open("/dev/fuse", O_RDWR | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return hws_fail_errno(err, errno,
                              "/dev/fuse: cannot open (is the fuse module loaded, and the device "
                              "allowed in this container?)");
    *ret = fd;
    return 0;
}

int fuse_device_clone(int mounted_fd, int *ret)
{
    autofd int fd = open("/dev/fuse", O_RDWR | O_CLOEXEC | O_NONBLOCK);
    uint32_t source = (uint32_t)mounted_fd;
    if (fd < 0 || ioctl(fd, FUSE_DEV_IOC_CLONE, &source) < 0)
        return -errno;
    *ret = steal_fd(&fd);
    return 0;
}

/* ---- worker thread side ---- */

struct mount_work {
    const char *path;
    int fd;
    bool read_only;
    uint32_t mode;
    bool force;
    uint64_t device_id;
    struct hws_error *err;
};

static int path_device(const char *path, uint64_t *ret)
{
    struct statx st;
    if (statx(AT_FDCWD, path, AT_STATX_DONT_SYNC, STATX_TYPE, &st) < 0)
        return -errno;
    *ret = makedev(st.stx_dev_major, st.stx_dev_minor);
    return 0;
}

/* As mountinfo writes it: blanks, line ends and backslashes as \ooo. free(). */
static char *escape(const char *path)
{
    char *text = malloc(strlen(path) * 4 + 1), *out = text;
    for (; text && *path; path++) {
        if (strchr(" \t\n\\", *path))
            out += snprintf(out, 5, "\\%03o", (unsigned char)*path);
        else
            *out++ = *path;
    }
    if (text)
        *out = '\0';
    return text;
}

/* Is a dead mount at @path of our type? Field 5 of mountinfo is the path, the type follows " - ".
 */
static bool is_our_mount(const char *path)
{
    autofree char *real = realpath(path, NULL), *want = escape(real ? real : path);
    FILE *file = fopen("/proc/self/mountinfo", "re");
    char line[4096];
    bool found = false;
    while (file && want && fgets(line, sizeof(line), file)) {
        char point[2048];
        if (sscanf(line, "%*s %*s %*s %*s %2047s", point) != 1 || strcmp(point, want) != 0)
            continue;
        const char *type = strstr(line, " - ");
        found = type && strncmp(type + 3, FUSE_MOUNT_TYPE " ", strlen(FUSE_MOUNT_TYPE) + 1) == 0;
    }
    if (file)
        fclose(file);
    return found;
}

/* What a mount whose server is gone answers; the second while the kernel still takes it apart. */
static bool is_dead(int error)
{
    return error == ENOTCONN || error == ECONNABORTED;
}

static int check_mount_point(const struct mount_work *w)
{
    struct stat st;
    if (stat(w->path, &st) < 0 && is_dead(errno) && is_our_mount(w->path))
        (void)umount2(w->path, MNT_DETACH); /* left behind by a server that was killed */
    if (stat(w->path, &st) < 0)
        return hws_fail_errno(w->err, errno,
                              "%s: cannot be the mount point; make it as an empty file first",
                              w->path);
    if (!S_ISREG(st.st_mode))
        return hws_fail(w->err, EINVAL, "%s: the mount point must be a regular file", w->path);
    if (st.st_size != 0)
        return hws_fail(w->err, EEXIST,
                        "%s: the mount point holds %lld bytes; name an empty file, so that "
                        "nothing is hidden by the mount",
                        w->path, (long long)st.st_size);
    return 0;
}

static int mount_blocking(void *arg)
{
    struct mount_work *w = arg;
    char options[160];
    int r = check_mount_point(w);
    if (r < 0)
        return r;
    snprintf(options, sizeof(options),
             "fd=%d,rootmode=%o,user_id=%u,group_id=%u,default_permissions,allow_other", w->fd,
             S_IFREG | w->mode, (unsigned)geteuid(), (unsigned)getegid());
    unsigned long flags = MS_NOSUID | MS_NODEV | MS_NOATIME | (w->read_only ? MS_RDONLY : 0);
    if (mount(FUSE_MOUNT_SOURCE, w->path, FUSE_MOUNT_TYPE, flags, options) < 0) {
        if (errno == EPERM)
            return hws_fail(w->err, EPERM, "%s: not allowed to mount; run as root (CAP_SYS_ADMIN)",
                            w->path);
        return hws_fail_errno(w->err, errno, "%s: cannot mount a FUSE file", w->path);
    }
    return 0;
}

static int identify_blocking(void *arg)
{
    struct mount_work *w = arg;
    int r = path_device(w->path, &w->device_id);
    return r < 0 ? hws_fail_errno(w->err, -r, "%s: the new mount does not answer", w->path) : 0;
}

static int unmount_blocking(void *arg)
{
    struct mount_work *w = arg;
    uint64_t device;
    int r = path_device(w->path, &device);
    if (r == 0 && w->device_id && device != w->device_id)
        return 0; /* gone, or covered by another mount that is none of our business */
    if (r < 0 && !is_dead(-r))
        return r == -ENOENT ? 0 : r;
    if (umount2(w->path, UMOUNT_NOFOLLOW | (w->force ? MNT_FORCE | MNT_DETACH : 0)) < 0)
        return errno == EINVAL || errno == ENOENT ? 0 : -errno;
    return 0;
}

/* fusectl as a mount of nobody's name space, where the system has not mounted it itself. */
static int open_fusectl(void)
{
    autofd int context = fsopen("fusectl", FSOPEN_CLOEXEC);
    if (context < 0 || fsconfig(context, FSCONFIG_CMD_CREATE, NULL, NULL, 0) < 0)
        return -1;
    return fsmount(context, FSMOUNT_CLOEXEC, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV);
}

/* The kernel's own list of connections, by the device number of the mount. */
static int open_abort(const struct mount_work *w)
{
    char name[32];
    snprintf(name, sizeof(name), "%u/abort", minor(w->device_id));
    autofd int fusectl = open_fusectl();
    return fusectl < 0 ? -1 : openat(fusectl, name, O_WRONLY | O_CLOEXEC);
}

static int abort_blocking(void *arg)
{
    struct mount_work *w = arg;
    autofd int fd = w->fd >= 0 ? dup(w->fd) : open_abort(w);
    if (fd < 0 || write(fd, "1", 1) != 1)
        return hws_fail_errno(w->err, errno,
                              "%s: unmounted, but still open somewhere, and its connection (%u of "
                              "fusectl) cannot be aborted",
                              w->path, minor(w->device_id));
    return 0;
}

int fuse_premount(const char *path, bool read_only, struct fuse_premount *ret,
                  struct hws_error *err)
{
    autofd int fd = -1;
    int r = fuse_device_open(&fd, err);
    if (r < 0)
        return r;
    struct mount_work w = {.path = path,
                           .fd = fd,
                           .read_only = read_only,
                           .mode = read_only ? 0400 : 0600,
                           .err = err};
    r = mount_blocking(&w);
    if (r == 0)
        r = identify_blocking(&w); /* asks the kernel alone: nobody answers yet */
    if (r < 0)
        return r;
    ret->abort_fd = open_abort(&w);
    if (ret->abort_fd < 0)
        return hws_fail_errno(err, errno, "%s: its FUSE connection cannot be found", path);
    ret->fd = steal_fd(&fd);
    return 0;
}

/* ---- coroutine side ---- */

int co_fuse_mount(struct fuse_export *export, struct hws_error *err)
{
    struct mount_work w = {.path = export->path,
                           .fd = export->channel[0].fd,
                           .read_only = export->read_only,
                           .mode = export->mode,
                           .err = err};
    return co_work(mount_blocking, &w);
}

int co_fuse_identify(struct fuse_export *export, struct hws_error *err)
{
    struct mount_work w = {.path = export->path, .err = err};
    int r = co_work(identify_blocking, &w);
    export->device_id = w.device_id;
    return r;
}

int co_fuse_unmount(struct fuse_export *export, bool force, struct hws_error *err)
{
    struct mount_work w = {.path = export->path, .force = force, .device_id = export->device_id};
    const uint64_t deadline = rt_now_ns() + UNMOUNT_PATIENCE_NS;
    int r;
    if (export->abort_fd >= 0)
        return co_fuse_abort(export, err);
    while ((r = co_work(unmount_blocking, &w)) == -EBUSY && rt_now_ns() < deadline)
        co_sleep_ns(UNMOUNT_RETRY_NS);
    if (r == -EBUSY)
        return hws_fail(err, EBUSY,
                        "%s: still in use (a loop device or a program has it open); detach that "
                        "first, or force",
                        export->path);
    if (r < 0)
        return hws_fail_errno(err, -r, "%s: cannot unmount", export->path);
    return 0;
}

int co_fuse_abort(struct fuse_export *export, struct hws_error *err)
{
    struct mount_work w = {
        .path = export->path, .fd = export->abort_fd, .device_id = export->device_id, .err = err};
    return co_work(abort_blocking, &w);
}
