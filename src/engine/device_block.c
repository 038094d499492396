/*
 * Block devices of this host as their engine sees them: who has one open, and holding one so that
 * its content can be changed. The kernel is asked on worker threads, because opening and flushing
 * a device may wait for this very engine.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/log.h"
#include "engine/device.h"
#include "engine/holders.h"
#include "engine/sandbox.h"
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

/** How long a program may have the device open before a stop calls it in use. */
#define OPEN_PATIENCE_NS ((uint64_t)1000000000)
#define OPEN_RETRY_NS    ((uint64_t)20000000)

struct users_work {
    const char *path;
    char *text;
    size_t text_bytes;
};

static int describe_blocking(void *arg)
{
    struct users_work *w = arg;
    return holders_describe(w->path, w->text, w->text_bytes);
}

bool co_block_device_users(const char *path, char *text, size_t text_bytes)
{
    struct users_work w = {path, text, text_bytes};
    return co_work(describe_blocking, &w);
}

/*
 * Writes out and forgets what the kernel caches of a device. Without CAP_SYS_ADMIN, in a sandbox,
 * pages are asked to go: those of a device that nobody has mounted or mapped do. Nothing here sends
 * a flush to the device: it would wait for this engine, and with it a kill.
 */
static int flush_cache(int fd)
{
    if (ioctl(fd, BLKFLSBUF, 0) == 0)
        return 0;
    if (errno != EACCES && errno != EPERM)
        return -errno;
    const unsigned all =
        SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER;
    return sync_file_range(fd, 0, 0, all) < 0 ? -errno
                                              : -posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
}

static int claim_blocking(void *arg)
{
    int fd = open(arg, O_RDONLY | O_EXCL | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    /* What is dirty now must not be written over the content to come. */
    int r = flush_cache(fd);
    if (r < 0) {
        close(fd);
        return r;
    }
    return fd;
}

static int describe_open_blocking(void *arg)
{
    struct users_work *w = arg;
    return holders_describe_open(w->path, -1, w->text, w->text_bytes);
}

/* Those that only look at the device, such as udev, are waited for. */
int co_block_device_refuse_open(const char *path, struct hws_error *err)
{
    char users[768];
    struct users_work w = {path, users, sizeof(users)};
    const uint64_t deadline = rt_now_ns() + OPEN_PATIENCE_NS;
    int claim = co_work(claim_blocking, (void *)path);
    if (claim < 0)
        return 0; /* mounted or the like */
    bool open;
    while ((open = co_work(describe_open_blocking, &w)) && rt_now_ns() < deadline)
        co_sleep_ns(OPEN_RETRY_NS);
    close(claim);
    return open ? hws_fail(err, EBUSY, "%s is in use: %.600s", path, users) : 0;
}

int co_block_device_claim(const char *path, int *ret_claim, struct hws_error *err)
{
    char users[768];
    if (sandbox_is_closed())
        return hws_fail(err, EBUSY,
                        "an engine with a sandbox cannot tell who has %s open; make sure that "
                        "nobody does, then say --force",
                        path);
    int fd = co_work(claim_blocking, (void *)path);
    bool used = co_block_device_users(path, users, sizeof(users));
    if (fd >= 0 && !used) {
        *ret_claim = fd;
        return 0;
    }
    if (fd >= 0)
        close(fd);
    if (fd < 0 && fd != -EBUSY)
        return hws_fail_errno(err, -fd, "cannot open %s", path);
    return hws_fail(err, EBUSY, "%s is in use: %.600s", path,
                    used ? users : "the kernel holds it (swap, or a mount in another name space)");
}

static int forget_blocking(void *arg)
{
    autofd int fd = open(arg, O_RDONLY | O_CLOEXEC);
    return fd < 0 ? -errno : flush_cache(fd);
}

void co_block_device_release(const char *path, int claim)
{
    int r = co_work(forget_blocking, (void *)path);
    if (r < 0)
        log_warning("%s: cannot drop what the kernel cached: %s", path, strerror(-r));
    if (claim >= 0)
        close(claim);
}
