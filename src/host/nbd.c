/*
 * The kernel's network block devices; see host/nbd.h. Requests go by netlink (nbd_control.c), the
 * rest is told by /sys.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "host/nbd.h"
#include "host/configfs.h"
#include "host/nbd_control.h"
#include "wire/netlink/genl.h"
#include <dirent.h>
#include <fcntl.h>
#include <linux/nbd-netlink.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

/* The kernel waits for what it has sent to a server when it ends a device. */
#define ANSWER_MS 60000
/* Of a new device, where something makes it that is not the kernel itself. */
#define NODE_TRIES    100
#define NODE_RETRY_US 10000
#define INDEX_MAX     ((1 << 20) - 1)

/* ---- paths ---- */

void nbd_device_path(unsigned index, char path[NBD_DEVICE_PATH_BYTES])
{
    snprintf(path, NBD_DEVICE_PATH_BYTES, "/dev/nbd%u", index);
}

int nbd_device_index(const char *path, unsigned *ret, struct hws_error *err)
{
    const char *at = strncmp(path, "/dev/", 5) ? path : path + 5;
    char *end;
    unsigned long index = strncmp(at, "nbd", 3) ? 0 : strtoul(at + 3, &end, 10);
    if (strncmp(at, "nbd", 3) || at[3] < '0' || at[3] > '9' || *end || index > INDEX_MAX)
        return hws_fail(err, EINVAL, "'%.80s' is no network block device (/dev/nbdN)", path);
    *ret = (unsigned)index;
    return 0;
}

/* Where nothing makes nodes (containers) it has to be done here. */
static int make_node(const char *path, const char *numbers)
{
    unsigned major_number, minor_number;
    if (sscanf(numbers, "%u:%u", &major_number, &minor_number) != 2)
        return -EIO;
    if (mknod(path, S_IFBLK | 0660, makedev(major_number, minor_number)) < 0 && errno != EEXIST)
        return -errno;
    return 0;
}

static int have_node(unsigned index)
{
    char path[NBD_DEVICE_PATH_BYTES], numbers[32];
    nbd_device_path(index, path);
    for (unsigned n = 0; n < NODE_TRIES && access(path, F_OK) < 0; n++)
        usleep(NODE_RETRY_US);
    if (access(path, F_OK) == 0)
        return 0;
    int r = configfs_read(numbers, sizeof(numbers), "/sys/block/nbd%u/dev", index);
    return r < 0 ? r : make_node(path, numbers);
}

/* ---- the module ---- */

static const char missing[] = "the kernel has no nbd: load its module with 'modprobe nbd'";

int nbd_device_load_module(struct hws_error *err)
{
    return configfs_load_module("nbd", err);
}

int nbd_device_probe(struct hws_error *why)
{
    if (access("/sys/module/nbd", F_OK) < 0)
        return hws_fail(why, ENODEV, "%s", missing);
    if (geteuid() != 0)
        return hws_fail(why, EPERM, "the kernel's nbd: root is needed");
    return 0;
}

static int control_open(struct nbd_control *control, struct hws_error *err)
{
    struct genl_family family;
    autofd int fd = genl_open(err);
    if (fd < 0)
        return fd;
    int r = genl_find_family(fd, NBD_GENL_FAMILY_NAME, &family, err);
    if (r == -ENOENT && access("/sys/module/nbd", F_OK) == 0)
        return hws_fail(err, ENODEV,
                        "this kernel's nbd knows no netlink: Linux 4.12 or newer is needed");
    if (r == -ENOENT)
        return hws_fail(err, ENODEV, "%s", missing);
    if (r < 0)
        return r;
    *control = (struct nbd_control){.family = family.id, .timeout_ms = ANSWER_MS};
    control->fd = steal_fd(&fd);
    return 0;
}

static int fail(struct hws_error *err, int r, const char *what)
{
    if (r == -EPERM)
        return hws_fail(err, EPERM, "%s: root (CAP_SYS_ADMIN) is needed", what);
    return hws_fail_errno(err, -r, "%s", what);
}

/* ---- requests ---- */

int nbd_device_connect(const struct nbd_device_options *options, unsigned *ret_index,
                       struct hws_error *err)
{
    struct nbd_control control;
    unsigned index;
    int r = control_open(&control, err);
    if (r < 0)
        return r;
    r = nbd_control_connect(&control, options, &index);
    close(control.fd);
    if (r == -EBUSY)
        return hws_fail(err, EBUSY, "/dev/nbd%d is in use; choose another, or none",
                        options->index);
    if (r == -EINVAL && options->index >= 0)
        return hws_fail(err, EINVAL,
                        "the kernel has no place for /dev/nbd%d, or is just removing it",
                        options->index);
    if (r < 0)
        return fail(err, r, "cannot make a network block device");
    r = have_node(index);
    if (r < 0) {
        int ended = nbd_device_disconnect(index, NULL);
        return hws_fail_errno(err, -r, "cannot make /dev/nbd%u%s", index,
                              ended < 0 ? ", and it is connected" : "");
    }
    *ret_index = index;
    return 0;
}

int nbd_device_reconnect(unsigned index, const char *backend, const int *sockets,
                         unsigned socket_count, struct hws_error *err)
{
    struct nbd_control control;
    int r = control_open(&control, err);
    if (r < 0)
        return r;
    r = nbd_control_reconnect(&control, index, backend, sockets, socket_count);
    close(control.fd);
    if (r == -EINVAL)
        return hws_fail(err, ENOTCONN, "/dev/nbd%u was disconnected, or is another's", index);
    return r < 0 ? fail(err, r, "cannot go on with a network block device") : 0;
}

int nbd_device_resize(unsigned index, const char *backend, uint64_t size_bytes,
                      struct hws_error *err)
{
    struct nbd_control control;
    int r = control_open(&control, err);
    if (r < 0)
        return r;
    r = nbd_control_resize(&control, index, backend, size_bytes);
    close(control.fd);
    return r < 0 ? fail(err, r, "cannot change the size of a network block device") : 0;
}

int nbd_device_disconnect(unsigned index, struct hws_error *err)
{
    struct nbd_control control;
    int r = control_open(&control, err);
    if (r < 0)
        return r == -ENODEV ? 0 : r;
    r = nbd_control_disconnect(&control, index);
    close(control.fd);
    /* -EINVAL: no such device. */
    return r < 0 && r != -EINVAL ? fail(err, r, "cannot disconnect a network block device") : 0;
}

int nbd_device_is_connected(unsigned index, bool *ret, struct hws_error *err)
{
    struct nbd_control control;
    int r = control_open(&control, err);
    if (r < 0)
        return r;
    r = nbd_control_status(&control, index, ret);
    close(control.fd);
    return r < 0 ? fail(err, r, "cannot ask for the state of a network block device") : 0;
}

/* ---- /sys ---- */

int nbd_device_find(const char *prefix, bool disconnected, unsigned *ret_index,
                    char backend[NBD_DEVICE_BACKEND_MAX + 1])
{
    DIR *folder = opendir("/sys/block");
    if (!folder)
        return -ENOENT;
    int r = -ENOENT;
    for (struct dirent *at; r < 0 && (at = readdir(folder));) {
        char text[NBD_DEVICE_BACKEND_MAX + 1];
        unsigned index;
        if (strncmp(at->d_name, "nbd", 3) || nbd_device_index(at->d_name, &index, NULL) < 0 ||
            configfs_read(text, sizeof(text), "/sys/block/nbd%u/backend", index) < 0)
            continue;
        if (strncmp(text, prefix, strlen(prefix)))
            continue;
        if (!disconnected && nbd_device_reconnect(index, text, NULL, 0, NULL) == -ENOTCONN)
            continue;
        memcpy(backend, text, sizeof(text));
        *ret_index = index;
        r = 0;
    }
    closedir(folder);
    return r;
}

static void set(unsigned index, const char *file, unsigned value)
{
    char text[16];
    snprintf(text, sizeof(text), "%u", value);
    (void)configfs_write(NULL, text, "/sys/block/nbd%u/queue/%s", index, file);
}

void nbd_device_tune(unsigned index, unsigned request_bytes, unsigned look_ms)
{
    char text[32];
    unsigned most_kib = request_bytes / 1024;
    if (configfs_read(text, sizeof(text), "/sys/block/nbd%u/queue/max_hw_sectors_kb", index) > 0)
        most_kib = MIN(most_kib, (unsigned)strtoul(text, NULL, 10));
    set(index, "max_sectors_kb", most_kib);
    (void)configfs_write(NULL, "none", "/sys/block/nbd%u/queue/scheduler", index);
    if (look_ms)
        set(index, "io_timeout", look_ms);
}
