/*
 * Loop devices; see host/loop.h. Every function named *_blocking runs on a worker thread.
 *
 * LOOP_CONFIGURE sets file, block size and flags at once (Linux 5.8), so nobody sees a half-made
 * device. LOOP_CTL_GET_FREE only proposes a number: another process may configure it first, which
 * shows as EBUSY and is tried again.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "host/loop.h"
#include "host/mounts.h"
#include "rt/rt.h"
#include <linux/loop.h>
#include <linux/major.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <time.h>

#define ATTACH_TRIES     64
#define GONE_PATIENCE_NS ((uint64_t)5 * 1000000000)
#define GONE_RETRY_NS    ((uint64_t)2 * 1000000)

struct loop_work {
    const struct loop_options *options;
    struct loop_device *device;
    const char *path;
    struct hws_error *err;
};

static void device_path(int number, char path[LOOP_NAME_BYTES])
{
    snprintf(path, LOOP_NAME_BYTES, "/dev/loop%d", number);
}

/* Where udev does not run (containers), the node of a new number has to be made. */
static int open_number(int number, int flags)
{
    char path[LOOP_NAME_BYTES];
    device_path(number, path);
    int fd = open(path, flags | O_CLOEXEC);
    if (fd < 0 && errno == ENOENT &&
        mknod(path, S_IFBLK | 0660, makedev(LOOP_MAJOR, (unsigned)number)) == 0)
        fd = open(path, flags | O_CLOEXEC);
    return fd < 0 ? -errno : fd;
}

/* ---- attach ---- */

static void fill_config(const struct loop_options *options, int file_fd, struct loop_config *config)
{
    *config = (struct loop_config){
        .fd = (uint32_t)file_fd,
        .block_size = options->block_bytes ? options->block_bytes : 512,
    };
    config->info.lo_flags = (options->read_only ? LO_FLAGS_READ_ONLY : 0) |
                            (options->buffered ? 0 : LO_FLAGS_DIRECT_IO) |
                            (options->scan_partitions ? LO_FLAGS_PARTSCAN : 0) |
                            (options->auto_clear ? LO_FLAGS_AUTOCLEAR : 0);
    strncpy((char *)config->info.lo_file_name, options->path, LO_NAME_SIZE - 1);
}

/* @return 0 with @ret filled, -EAGAIN when somebody else was faster, -errno. */
static int try_attach(int control, const struct loop_config *config, bool read_only,
                      struct loop_device *ret)
{
    int number = ioctl(control, LOOP_CTL_GET_FREE);
    if (number < 0)
        return -errno;
    int opened = open_number(number, read_only ? O_RDONLY : O_RDWR);
    if (opened < 0) /* ENXIO: removed in between */
        return opened == -ENXIO || opened == -ENOENT ? -EAGAIN : opened;
    autofd int fd = opened;
    struct loop_info64 info = {0};
    if (ioctl(fd, LOOP_CONFIGURE, config) < 0)
        return errno == EBUSY ? -EAGAIN : -errno;
    if (ioctl(fd, LOOP_GET_STATUS64, &info) < 0)
        return -errno;
    device_path(number, ret->path);
    ret->number = number;
    ret->direct_io = (info.lo_flags & LO_FLAGS_DIRECT_IO) != 0;
    ret->fd = steal_fd(&fd);
    return 0;
}

static int attach_blocking(void *arg)
{
    struct loop_work *w = arg;
    const struct loop_options *options = w->options;
    int access = options->read_only ? O_RDONLY : O_RDWR;
    autofd int file = open(options->path, access | O_CLOEXEC | (options->buffered ? 0 : O_DIRECT));
    if (file < 0)
        return hws_fail_errno(w->err, errno, "%s: cannot open for a loop device", options->path);
    autofd int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
    if (control < 0)
        return hws_fail_errno(w->err, errno,
                              "/dev/loop-control: cannot open (loop driver and root are needed)");
    struct loop_config config;
    fill_config(options, file, &config);
    int r = -EAGAIN;
    for (unsigned n = 0; r == -EAGAIN && n < ATTACH_TRIES; n++)
        r = try_attach(control, &config, options->read_only, w->device);
    if (r < 0)
        return hws_fail_errno(w->err, -r, "%s: cannot make a loop device", options->path);
    return 0;
}

static int refuse_block_size(const struct loop_options *options, struct hws_error *err)
{
    uint32_t block = options->block_bytes ? options->block_bytes : 512;
    if (block >= 512 && block <= 4096 && is_power_of_2(block))
        return 0;
    return hws_fail(err, EINVAL, "%s: block size %u; a loop device takes 512, 1024, 2048 or 4096",
                    options->path, block);
}

int co_loop_attach(const struct loop_options *options, struct loop_device *ret,
                   struct hws_error *err)
{
    struct loop_device device = {.fd = -1};
    struct loop_work w = {.options = options, .device = &device, .err = err};
    int r = refuse_block_size(options, err);
    if (r == 0)
        r = co_work(attach_blocking, &w);
    if (r == 0)
        *ret = device;
    return r;
}

int loop_attach(const struct loop_options *options, struct loop_device *ret, struct hws_error *err)
{
    struct loop_device device = {.fd = -1};
    struct loop_work w = {.options = options, .device = &device, .err = err};
    int r = refuse_block_size(options, err);
    if (r == 0)
        r = attach_blocking(&w);
    if (r == 0)
        *ret = device;
    return r;
}

static int open_blocking(void *arg)
{
    struct loop_work *w = arg;
    struct loop_info64 info = {0};
    int number;
    if (sscanf(w->path, "/dev/loop%d", &number) != 1 || number < 0)
        return hws_fail(w->err, EINVAL, "%s: not a loop device (/dev/loopN)", w->path);
    int opened = open_number(number, O_RDONLY);
    if (opened < 0)
        return hws_fail_errno(w->err, -opened, "%s: cannot open", w->path);
    autofd int fd = opened;
    /* Any other failure is its file's: that of a FUSE server that is dead cannot be asked. */
    if (ioctl(fd, LOOP_GET_STATUS64, &info) < 0 && errno == ENXIO)
        return hws_fail_errno(w->err, errno, "%s: has no file", w->path);
    device_path(number, w->device->path);
    w->device->number = number;
    w->device->direct_io = (info.lo_flags & LO_FLAGS_DIRECT_IO) != 0;
    w->device->fd = steal_fd(&fd);
    return 0;
}

int co_loop_open(const char *path, struct loop_device *ret, struct hws_error *err)
{
    struct loop_device device = {.fd = -1};
    struct loop_work w = {.device = &device, .path = path, .err = err};
    int r = co_work(open_blocking, &w);
    if (r == 0)
        *ret = device;
    return r;
}

void loop_device_close(struct loop_device *device)
{
    if (device->fd >= 0)
        close(device->fd);
    device->fd = -1;
}

uint64_t loop_sequence(const struct loop_device *device)
{
    uint64_t sequence = 0;
    return ioctl(device->fd, LOOP_DISK_SEQUENCE, &sequence) < 0 ? 0 : sequence;
}

uint64_t loop_sequence_now(const char *path)
{
    char name[64];
    int number;
    unsigned long long sequence = 0;
    if (sscanf(path, "/dev/loop%d", &number) != 1)
        return 0;
    snprintf(name, sizeof(name), "/sys/block/loop%d/diskseq", number);
    FILE *file = fopen(name, "re");
    if (file && fscanf(file, "%llu", &sequence) != 1)
        sequence = 0;
    if (file)
        fclose(file);
    return sequence;
}

/* ---- detach ---- */

static int busy(const struct loop_device *device, struct hws_error *err)
{
    char where[256];
    if (mounts_find_device(device->path, where, sizeof(where)))
        return hws_fail(err, EBUSY, "%s: mounted at %s; unmount it first", device->path, where);
    return hws_fail(
        err, EBUSY,
        "%s: in use (swap, device mapper, another name space's mount); release it first",
        device->path);
}

/*
 * An exclusive open fails while anything holds the device. Our own descriptor is closed first, so
 * that the exclusive one is the last user and the kernel clears at its close, not later.
 */
static int detach_blocking(void *arg)
{
    struct loop_work *w = arg;
    struct loop_device *device = w->device;
    int opened = open_number(device->number, O_RDONLY | O_EXCL);
    if (opened == -EBUSY)
        return busy(device, w->err);
    if (opened < 0)
        return opened == -ENXIO || opened == -ENOENT
                   ? 0
                   : hws_fail_errno(w->err, -opened, "%s: cannot open", device->path);
    autofd int fd = opened;
    if (device->fd >= 0)
        (void)fsync(device->fd);
    loop_device_close(device);
    if (ioctl(fd, LOOP_CLR_FD) < 0 && errno != ENXIO)
        return hws_fail_errno(w->err, errno, "%s: cannot detach", device->path);
    return 0;
}

/* @return 0 when gone, -EBUSY while it still has its file. */
static int gone_blocking(void *arg)
{
    struct loop_work *w = arg;
    char path[64];
    struct stat st;
    snprintf(path, sizeof(path), "/sys/block/loop%d/loop/backing_file", w->device->number);
    return stat(path, &st) == 0 ? -EBUSY : 0;
}

static int end_detach(struct loop_device *device, bool gone, struct hws_error *err)
{
    loop_device_close(device);
    return gone ? 0
                : hws_fail(err, EBUSY,
                           "%s: somebody opened it during the detach; it goes when they close it",
                           device->path);
}

int co_loop_detach(struct loop_device *device, struct hws_error *err)
{
    struct loop_work w = {.device = device, .err = err};
    const uint64_t deadline = rt_now_ns() + GONE_PATIENCE_NS;
    int r = co_work(detach_blocking, &w);
    if (r < 0)
        return r;
    while ((r = co_work(gone_blocking, &w)) == -EBUSY && rt_now_ns() < deadline)
        co_sleep_ns(GONE_RETRY_NS);
    return end_detach(device, r == 0, err);
}

int loop_detach(struct loop_device *device, struct hws_error *err)
{
    struct loop_work w = {.device = device, .err = err};
    int r = detach_blocking(&w);
    if (r < 0)
        return r;
    for (unsigned n = 0; (r = gone_blocking(&w)) == -EBUSY && n < GONE_PATIENCE_NS / GONE_RETRY_NS;
         n++)
        nanosleep(&(struct timespec){.tv_nsec = GONE_RETRY_NS}, NULL);
    return end_detach(device, r == 0, err);
}

/* ---- resize ---- */

static int resize_blocking(void *arg)
{
    struct loop_work *w = arg;
    struct loop_info64 info = {0};
    char link[64], file[4096];
    struct stat st;
    /* Kernels before 6.17 take the size that their inode has cached: a stat(2) refreshes it. */
    snprintf(link, sizeof(link), "/sys/block/loop%d/loop/backing_file", w->device->number);
    autofd int fd = open(link, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, file, sizeof(file) - 1);
    if (n > 0 && file[n - 1] == '\n')
        n--;
    if (n > 0) {
        file[n] = 0;
        if (stat(file, &st) < 0)
            return hws_fail_errno(w->err, errno, "%s: the file of %s cannot be seen", file,
                                  w->device->path);
    }
    if (ioctl(w->device->fd, LOOP_GET_STATUS64, &info) < 0 ||
        ioctl(w->device->fd, LOOP_SET_CAPACITY, 0) < 0)
        return hws_fail_errno(w->err, errno, "%s: cannot take the new size", w->device->path);
    return 0;
}

int co_loop_resize(const struct loop_device *device, struct hws_error *err)
{
    struct loop_device copy = *device;
    struct loop_work w = {.device = &copy, .err = err};
    return co_work(resize_blocking, &w);
}

int loop_resize(const struct loop_device *device, struct hws_error *err)
{
    struct loop_device copy = *device;
    return resize_blocking(&(struct loop_work){.device = &copy, .err = err});
}
