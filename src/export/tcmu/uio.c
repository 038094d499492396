/*
 * The device file of a `user` backstore: /dev/uioN, and what sysfs says of it.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "export/tcmu/internal.h"
#include <fcntl.h>
#include <sys/mman.h>

#define MAP_BYTES_MAX ((uint64_t)64 * GiB)

/* One line of /sys/class/uio/uioN/@file. */
static int read_line(unsigned minor, const char *file, char *ret, size_t size,
                     struct hws_error *err)
{
    char path[96];
    snprintf(path, sizeof(path), "/sys/class/uio/uio%u/%s", minor, file);
    autofd int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t got = fd < 0 ? -1 : read(fd, ret, size - 1);
    if (got < 0)
        return hws_fail_errno(err, errno, "cannot read %s", path);
    ret[got] = '\0';
    ret[strcspn(ret, "\n")] = '\0';
    return 0;
}

static int map_size(unsigned minor, uint64_t *ret, struct hws_error *err)
{
    char name[320], text[32], *end;
    int result = read_line(minor, "name", name, sizeof(name), err);
    if (result < 0)
        return result;
    if (strncmp(name, "tcm-user/", 9))
        return hws_fail(err, ENODEV,
                        "/dev/uio%u is no device of the SCSI target's user backstores but '%s'",
                        minor, name);
    result = read_line(minor, "maps/map0/size", text, sizeof(text), err);
    if (result < 0)
        return result;
    errno = 0;
    *ret = strtoull(text, &end, 0);
    if (errno || *end || *ret == 0 || *ret > MAP_BYTES_MAX)
        return hws_fail(err, EPROTO, "/dev/uio%u: '%s' is no size of a shared area", minor, text);
    return 0;
}

int tcmu_uio_open(unsigned minor, struct tcmu_device *ret, struct hws_error *err)
{
    char path[32];
    uint64_t bytes = 0;
    int result = map_size(minor, &bytes, err);
    if (result < 0)
        return result;
    snprintf(path, sizeof(path), "/dev/uio%u", minor);
    autofd int fd = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0 && errno == EBUSY)
        return hws_fail(err, EBUSY, "another process serves %s", path);
    if (fd < 0)
        return hws_fail_errno(err, errno, "cannot open %s", path);
    void *map = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED)
        return hws_fail_errno(err, errno, "cannot map the %llu bytes of %s",
                              (unsigned long long)bytes, path);
    *ret = (struct tcmu_device){.map = map, .map_bytes = bytes};
    ret->event_fd = ret->bell_fd = steal_fd(&fd);
    return 0;
}

void tcmu_uio_close(struct tcmu_device *device)
{
    munmap(device->map, device->map_bytes);
    close(device->event_fd);
    if (device->bell_fd != device->event_fd)
        close(device->bell_fd);
}
