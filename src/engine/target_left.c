/*
 * What a process that is gone has left of a volume in the kernel's SCSI target: finding it, making
 * sure that nobody waits for it, and removing it. See engine/target.h.
 *
 * A command in the ring of a backstore that nobody serves would wait for its time limit, minutes
 * away, and a task with it. So the order is: new commands are refused (the disk is set offline, the
 * ring is blocked), those in the ring go back, and only then is anything removed.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/log.h"
#include "engine/device.h"
#include "engine/target.h"
#include <fcntl.h>

/** How long a process that is gone may take to let go of the ring: its I/O ends behind it. */
#define GONE_PATIENCE_NS ((uint64_t)1000000000)
#define FREE_RETRY_NS    ((uint64_t)2000000)

/* The first line of a small file; "" where there is none. */
static void read_line(char *text, size_t size, const char *format, ...) HWS_PRINTF(3, 4);
static void read_line(char *text, size_t size, const char *format, ...)
{
    char path[256];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(path, sizeof(path), format, arguments);
    va_end(arguments);
    FILE *file = fopen(path, "re");
    if (!file || !fgets(text, (int)size, file))
        text[0] = '\0';
    if (file)
        fclose(file);
    text[strcspn(text, "\n")] = '\0';
}

/* Whether the backstore of our name is of this very image. */
static int refuse_foreign(const struct volume_config *config, const struct lio_backstore *there,
                          const struct target_identity *identity, struct hws_error *err)
{
    char have[512], wanted[512], block[32];
    if (there->minor == LIO_NO_MINOR && there->hba >= LIO_HBA_FIRST)
        return 0; /* half made, by an engine */
    snprintf(wanted, sizeof(wanted), "tcm-user/%u/%s/" LIO_HANDLER "%s", there->hba, there->name,
             identity->config);
    read_line(have, sizeof(have), "/sys/class/uio/uio%u/name", there->minor);
    if (strcmp(have, wanted) != 0)
        return hws_fail(err, EEXIST,
                        "the kernel's SCSI target has a backstore '%s' of something else already "
                        "(core/user_%u/%s); choose another name",
                        there->name, there->hba, there->name);
    read_line(block, sizeof(block),
              "/sys/kernel/config/target/core/user_%u/%s/attrib/hw_block_size", there->hba,
              there->name);
    if (strtoull(block, NULL, 10) != config->block_bytes)
        return hws_fail(err, EEXIST,
                        "the backstore '%s' that is there has blocks of %s bytes; detach it first",
                        there->name, block);
    return 0;
}

int co_target_find(const struct volume_config *config, struct lio_backstore *ret,
                   struct hws_error *err)
{
    struct target_identity identity;
    target_identify(config, &identity);
    int r = co_lio_backstore_find(identity.backstore, ret, err);
    return r < 0 ? r : refuse_foreign(config, ret, &identity, err);
}

bool co_target_is_there(const struct volume_config *config)
{
    struct lio_backstore there;
    return co_target_find(config, &there, NULL) == 0 && there.minor != LIO_NO_MINOR;
}

static int open_blocking(void *arg)
{
    const struct lio_backstore *backstore = arg;
    char path[32];
    snprintf(path, sizeof(path), "/dev/uio%u", backstore->minor);
    autofd int fd = open(path, O_RDWR | O_CLOEXEC);
    return fd < 0 ? -errno : 0;
}

int co_target_wait_free(const struct lio_backstore *backstore, uint64_t patience_ns,
                        struct hws_error *err)
{
    const uint64_t deadline = rt_now_ns() + patience_ns;
    int r;
    while ((r = co_work(open_blocking, (void *)backstore)) == -EBUSY && rt_now_ns() < deadline)
        co_sleep_ns(FREE_RETRY_NS);
    if (r == -EBUSY)
        return hws_fail(err, EBUSY, "the backstore '%s' is served by another process",
                        backstore->name);
    return r < 0 ? hws_fail_errno(err, -r, "cannot open /dev/uio%u", backstore->minor) : 0;
}

static int co_abandon(const struct volume_config *config, const struct lio_backstore *there,
                      struct hws_error *err)
{
    struct target_identity identity;
    struct lio_disk disk;
    target_identify(config, &identity);
    int r = there->minor == LIO_NO_MINOR ? 0 : co_target_wait_free(there, GONE_PATIENCE_NS, err);
    if (r == 0 && co_lio_disk_find(identity.naa, &disk, NULL) == 0)
        r = co_lio_disk_set_online(&disk, false, err);
    if (r == 0 && there->minor != LIO_NO_MINOR)
        r = co_lio_backstore_block(there, true, err);
    if (r == 0 && there->minor != LIO_NO_MINOR)
        r = co_lio_backstore_reset_ring(there, err);
    return r;
}

int co_target_abandon(const struct volume_config *config, struct hws_error *err)
{
    struct lio_backstore there;
    int r = co_target_find(config, &there, err);
    if (r == -EEXIST) /* of its name, and not of this volume */
        return -ENOENT;
    return r < 0 ? r : co_abandon(config, &there, err);
}

static int open_alone_blocking(void *arg)
{
    autofd int fd = open(arg, O_RDONLY | O_EXCL | O_CLOEXEC);
    return fd < 0 ? -errno : 0; /* it is offline: only -EBUSY tells anything */
}

static int co_refuse_used(const struct lio_disk *disk, struct hws_error *err)
{
    char users[512];
    if (co_work(open_alone_blocking, (void *)disk->path) != -EBUSY)
        return 0;
    return hws_fail(err, EBUSY,
                    "its engine died, and %s is still in use: %s; end that, or say --force",
                    disk->path,
                    co_block_device_users(disk->path, users, sizeof(users))
                        ? users
                        : "perhaps by a program that works on what was mounted from it");
}

int co_target_clear(const struct volume_config *config, bool force, struct hws_error *err)
{
    struct target_identity identity;
    struct lio_backstore there;
    struct lio_disk disk = {0};
    int r = co_target_find(config, &there, err);
    if (r == -ENOENT || r == -EEXIST) /* of its name, and not of this volume */
        return 0;
    if (r == 0)
        r = co_abandon(config, &there, err);
    if (r < 0)
        return r == -EBUSY ? 0 : r;
    target_identify(config, &identity);
    if (!force && co_lio_disk_find(identity.naa, &disk, NULL) == 0)
        r = co_refuse_used(&disk, err);
    if (r < 0)
        return r;
    lio_disk_target(identity.naa, disk.target);
    r = co_lio_disk_remove(&disk, true, err);
    return r < 0 ? r : co_lio_backstore_remove(&there, err);
}
