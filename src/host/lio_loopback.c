/*
 * The loopback fabric of the kernel's SCSI target: a backstore as a disk of this host; see
 * host/lio.h.
 *
 *     loopback/naa.W                  makes a SCSI host
 *     loopback/naa.W/tpgt_1/nexus     the initiator's name
 *     loopback/naa.W/tpgt_1/address   "H:0:1": host, channel, target
 *     .../tpgt_1/lun/lun_0/disk -> core/user_N/NAME     making it scans the disk
 *
 * The scan sends INQUIRY and its like, so the link waits for whoever serves the backstore; sd then
 * reads the capacity in the background. Removing the link removes the disk, with a last SYNCHRONIZE
 * CACHE, so that is served too.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "host/configfs.h"
#include "host/lio.h"
#include "host/lio_reservations.h"
#include "rt/rt.h"
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#define TARGET             "loopback/%s"
#define TPG                TARGET "/tpgt_1"
#define LINK               TPG "/lun/lun_0/disk"

#define APPEAR_PATIENCE_NS ((uint64_t)30 * 1000000000)
#define APPEAR_RETRY_NS    ((uint64_t)5 * 1000000)
/* How much longer than TCMU the SCSI layer waits for a command; see set_limits(). */
#define TIMEOUT_SLACK_S 30

struct work {
    const struct lio_backstore *backstore;
    const char *target;
    const struct lio_disk *disk;
    bool force, online;
    struct lio_disk *ret;
    struct hws_error *err;
};

void lio_disk_target(const uint8_t naa[8], char ret[LIO_WWN_BYTES])
{
    size_t used = (size_t)snprintf(ret, LIO_WWN_BYTES, "naa.");
    for (unsigned i = 0; i < 8; i++)
        used += (size_t)snprintf(ret + used, LIO_WWN_BYTES - used, "%02x", naa[i]);
}

/* ---- the disk of a target ---- */

static int take_block_name(const char *name, void *arg)
{
    snprintf(arg, LIO_DISK_BYTES - sizeof("/dev/") + 1, "%s", name);
    return 1;
}

/* "8:16", as a number for mknod(2). */
static int read_device_number(const char *block, dev_t *ret)
{
    char text[32];
    unsigned major_number, minor_number;
    if (configfs_read(text, sizeof(text), "/sys/block/%s/dev", block) < 0 ||
        sscanf(text, "%u:%u", &major_number, &minor_number) != 2)
        return -ENOENT;
    *ret = makedev(major_number, minor_number);
    return 0;
}

/* Where neither devtmpfs nor udev makes the node of a new disk (containers), it has to be made. */
static int have_node(const char *block, const char *path)
{
    struct stat st;
    dev_t number;
    int r = read_device_number(block, &number);
    if (r < 0)
        return r;
    if (stat(path, &st) == 0)
        return S_ISBLK(st.st_mode) && st.st_rdev == number ? 0 : -EEXIST;
    return mknod(path, S_IFBLK | 0660, number) < 0 && errno != EEXIST ? -errno : 0;
}

/* @return 0 with @ret filled, -ENOENT where there is no target, -EAGAIN before its disk is up. */
static int find(const char *target, struct lio_disk *ret)
{
    char text[64], block[LIO_DISK_BYTES - sizeof("/dev/") + 1] = "";
    struct lio_disk found = {0};
    unsigned channel, id;
    if (configfs_read(text, sizeof(text), TPG "/address", target) < 0)
        return -ENOENT;
    if (sscanf(text, "%u:%u:%u", &found.host, &channel, &id) != 3)
        return -EAGAIN;
    configfs_each(take_block_name, block, true, "/sys/class/scsi_device/%u:%u:%u:0/device/block",
                  found.host, channel, id);
    if (!block[0])
        return -EAGAIN;
    snprintf(found.path, sizeof(found.path), "/dev/%s", block);
    snprintf(found.target, sizeof(found.target), "%s", target);
    *ret = found;
    return 0;
}

static int find_blocking(void *arg)
{
    struct work *w = arg;
    int r = find(w->target, w->ret);
    return r < 0 ? hws_fail(w->err, ENOENT, "the target %s has no disk on this host", w->target)
                 : 0;
}

int co_lio_disk_find(const uint8_t naa[8], struct lio_disk *ret, struct hws_error *err)
{
    char target[LIO_WWN_BYTES];
    struct work w = {.target = target, .ret = ret, .err = err};
    lio_disk_target(naa, target);
    return co_work(find_blocking, &w);
}

/* ---- taking apart ---- */

/* All that there is of a target, whole or half-made. @return the first failure. */
static int take_apart(const char *target, struct hws_error *err)
{
    int r = configfs_unlink(err, LINK, target);
    if (r == 0)
        r = configfs_rmdir(err, TPG "/lun/lun_0", target);
    if (r == 0)
        r = configfs_rmdir(err, TPG, target);
    if (r == 0)
        r = configfs_rmdir(err, TARGET, target);
    if (r == 0 && configfs_is_marked("loopback"))
        configfs_rmdir(NULL, "loopback"); /* stays while it has other targets */
    return r;
}

static const char *block_of(const struct lio_disk *disk)
{
    return disk->path + strlen("/dev/");
}

/*
 * Holds the disk alone, so that nobody mounts it any more, and writes what the kernel caches of it.
 * @return a descriptor, -EBUSY, -ENXIO where the disk is gone.
 */
static int claim(const struct lio_disk *disk, bool force, struct hws_error *err)
{
    autofd int fd = open(disk->path, O_RDONLY | O_CLOEXEC | (force ? 0 : O_EXCL));
    if (fd < 0 && (errno == ENXIO || errno == ENOENT || errno == ENODEV))
        return -ENXIO;
    if (fd < 0 && errno == EBUSY)
        return hws_fail(err, EBUSY, "%s is in use (mounted, or part of another device)",
                        disk->path);
    if (fd < 0)
        return hws_fail_errno(err, errno, "cannot open %s", disk->path);
    if (fsync(fd) < 0 && !force)
        return hws_fail_errno(err, errno, "%s: what is cached of it cannot be written", disk->path);
    return steal_fd(&fd);
}

static int stop_flushing(const char *scsi_disk, void *arg)
{
    const char *block = arg;
    return configfs_write(NULL, "temporary write through\n",
                          "/sys/block/%s/device/scsi_disk/%s/cache_type", block, scsi_disk) < 0;
}

static int remove_blocking(void *arg)
{
    struct work *w = arg;
    struct lio_disk now;
    autofd int held = -1;
    int r = find(w->disk->target, &now);
    if (r == -ENOENT && !configfs_exists(TARGET, w->disk->target))
        return 0;
    /* A disk that is up is claimed by the name that it has now. */
    if (r == 0 && (held = claim(&now, w->force, w->err)) < 0 && held != -ENXIO)
        return held;
    /* sd ends with a SYNCHRONIZE CACHE, which would wait for whoever does not serve any more. */
    if (r == 0 && w->force)
        configfs_each(stop_flushing, (void *)block_of(&now), true, "/sys/block/%s/device/scsi_disk",
                      block_of(&now));
    autofd int lock = configfs_lock(w->err);
    if (lock < 0)
        return lock;
    r = configfs_unlink(w->err, LINK, w->disk->target);
    if (held >= 0)
        close(steal_fd(&held)); /* the last user of the disk, or its host could not go */
    return r < 0 ? r : take_apart(w->disk->target, w->err);
}

int co_lio_disk_remove(const struct lio_disk *disk, bool force, struct hws_error *err)
{
    struct work w = {.disk = disk, .force = force, .err = err};
    return co_work(remove_blocking, &w);
}

/* ---- making ---- */

static int link_blocking(void *arg)
{
    struct work *w = arg;
    char core[LIO_NAME_MAX + 32];
    snprintf(core, sizeof(core), "core/user_%u/%s", w->backstore->hba, w->backstore->name);
    int r = lio_reservations_prepare(w->err);
    if (r == 0)
        r = lio_reservations_restore(w->backstore, w->err);
    return r < 0 ? r : configfs_link(w->err, core, LINK, w->target);
}

/* The name of the initiator's port: the target's, told apart by the last digit. */
static int set_nexus(const char *target, struct hws_error *err)
{
    char initiator[LIO_WWN_BYTES];
    snprintf(initiator, sizeof(initiator), "%s", target);
    char *last = initiator + strlen(initiator) - 1;
    *last = *last == '0' ? '1' : '0';
    return configfs_write(err, initiator, TPG "/nexus", target);
}

static int build_blocking(void *arg)
{
    struct work *w = arg;
    int r = configfs_load_module("tcm_loop", w->err);
    if (r == 0)
        r = configfs_load_module("sd_mod", w->err);
    if (r < 0)
        return r;
    autofd int lock = configfs_lock(w->err);
    if (lock < 0)
        return lock;
    r = configfs_mkdir_marked(w->err, "loopback");
    if (r < 0 && r != -EEXIST)
        return r;
    r = configfs_mkdir_marked(w->err, TARGET, w->target);
    if (r == -EEXIST)
        return hws_fail(w->err, EEXIST,
                        "the loopback target %s exists already: this image is a disk of this host "
                        "already, or its identifier is a copy's",
                        w->target);
    if (r == 0)
        r = configfs_mkdir(w->err, TPG, w->target);
    if (r == 0)
        r = set_nexus(w->target, w->err);
    if (r == 0)
        r = configfs_mkdir(w->err, TPG "/lun/lun_0", w->target);
    if (r < 0)
        (void)take_apart(w->target, NULL);
    return r;
}

/* ---- limits ---- */

static void set_limit(const char *block, const char *file, uint64_t value)
{
    char text[32];
    snprintf(text, sizeof(text), "%llu", (unsigned long long)value);
    (void)configfs_write(NULL, text, "/sys/block/%s/%s", block, file);
}

static uint64_t read_limit(const char *block, const char *file)
{
    char text[32];
    if (configfs_read(text, sizeof(text), "/sys/block/%s/%s", block, file) < 0)
        return 0;
    return strtoull(text, NULL, 10);
}

/*
 * - A command's time: longer than TCMU's, so that an engine that does not answer costs a failed
 *   command. With the SCSI layer's 30 s it would be error recovery, which aborts the command, and
 *   LIO's abort waits for the very answer that does not come: a task stuck for minutes.
 * - Requests as large as the disk takes; sd starts with less.
 * - No scheduler: the image is no spindle, what lies below it sorts for itself.
 * A kernel that lacks one of these files keeps what it has.
 */
static void set_limits(const struct lio_disk *disk, const struct lio_backstore *backstore)
{
    char text[32];
    const char *block = block_of(disk);
    uint64_t hardware_kib = read_limit(block, "queue/max_hw_sectors_kb"), timeout_s = 0;
    uint64_t wanted_kib = 0;
    if (configfs_read(text, sizeof(text), "core/user_%u/%s/attrib/cmd_time_out", backstore->hba,
                      backstore->name) > 0)
        timeout_s = strtoull(text, NULL, 10);
    if (timeout_s)
        set_limit(block, "device/timeout", timeout_s + TIMEOUT_SLACK_S);
    if (configfs_read(text, sizeof(text), "core/user_%u/%s/attrib/hw_max_sectors", backstore->hba,
                      backstore->name) > 0)
        wanted_kib =
            strtoull(text, NULL, 10) * read_limit(block, "queue/logical_block_size") / 1024;
    if (wanted_kib && hardware_kib)
        set_limit(block, "queue/max_sectors_kb", MIN(wanted_kib, hardware_kib));
    (void)configfs_write(NULL, "none", "/sys/block/%s/queue/scheduler", block);
}

/* @return 0 with a disk that has its size and its node, -EAGAIN, -errno. */
static int settle_blocking(void *arg)
{
    struct work *w = arg;
    int r = find(w->target, w->ret);
    if (r < 0)
        return -EAGAIN;
    const char *block = block_of(w->ret);
    if (read_limit(block, "size") == 0)
        return -EAGAIN;
    r = have_node(block, w->ret->path);
    if (r == -ENOENT || r == -EEXIST)
        return -EAGAIN;
    if (r < 0)
        return hws_fail_errno(w->err, -r, "cannot make %s", w->ret->path);
    /* sd has read everything once it can be opened. */
    autofd int fd = open(w->ret->path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -EAGAIN;
    set_limits(w->ret, w->backstore);
    return 0;
}

static int co_settle(struct work *w)
{
    const uint64_t deadline = rt_now_ns() + APPEAR_PATIENCE_NS;
    int r;
    while ((r = co_work(settle_blocking, w)) == -EAGAIN && rt_now_ns() < deadline)
        co_sleep_ns(APPEAR_RETRY_NS);
    if (r == -EAGAIN)
        return hws_fail(w->err, ETIMEDOUT,
                        "the disk of the loopback target %s does not come up; the kernel's log "
                        "(dmesg) may tell why",
                        w->target);
    return r;
}

int co_lio_disk_add(const struct lio_backstore *backstore, const uint8_t naa[8],
                    struct lio_disk *ret, struct hws_error *err)
{
    char target[LIO_WWN_BYTES];
    struct lio_disk disk = {0};
    struct work w = {.backstore = backstore, .target = target, .ret = &disk, .err = err};
    lio_disk_target(naa, target);
    int r = co_work(build_blocking, &w);
    if (r < 0)
        return hws_wrap(err, r, "backstore %s", backstore->name);
    r = co_work(link_blocking, &w);
    if (r == 0)
        r = co_settle(&w);
    if (r < 0) {
        snprintf(disk.target, sizeof(disk.target), "%s", target);
        if (co_lio_disk_remove(&disk, true, NULL) < 0)
            return hws_wrap(err, r, "backstore %s, whose loopback target %s is left behind",
                            backstore->name, target);
        return hws_wrap(err, r, "backstore %s", backstore->name);
    }
    *ret = disk;
    return 0;
}

/* ---- size ---- */

static int rescan_blocking(void *arg)
{
    struct work *w = arg;
    struct lio_disk now;
    int r = find(w->disk->target, &now);
    if (r < 0)
        return hws_fail(w->err, ENOENT, "the target %s has no disk on this host", w->disk->target);
    return configfs_write(w->err, "1", "/sys/block/%s/device/rescan", block_of(&now));
}

int co_lio_disk_rescan(const struct lio_disk *disk, struct hws_error *err)
{
    struct work w = {.disk = disk, .err = err};
    return co_work(rescan_blocking, &w);
}

/* ---- a disk that nobody serves ---- */

static int online_blocking(void *arg)
{
    struct work *w = arg;
    struct lio_disk now;
    char state[32];
    if (find(w->disk->target, &now) < 0 ||
        configfs_read(state, sizeof(state), "/sys/block/%s/device/state", block_of(&now)) < 0 ||
        !strcmp(state, w->online ? "running" : "offline"))
        return 0;
    return configfs_write(w->err, w->online ? "running\n" : "offline\n",
                          "/sys/block/%s/device/state", block_of(&now));
}

int co_lio_disk_set_online(const struct lio_disk *disk, bool online, struct hws_error *err)
{
    struct work w = {.disk = disk, .online = online, .err = err};
    return co_work(online_blocking, &w);
}
