/*
 * Loop devices: a file as a block device. What `losetup` does, with direct I/O to the file, so that
 * nothing is cached twice and a flush reaches the engine.
 *
 * Needs CAP_SYS_ADMIN and /dev/loop-control. All calls suspend; the kernel's part runs on a worker
 * thread, because opening and closing the file may wait for our own FUSE export.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef HOST_LOOP_H
#define HOST_LOOP_H

#include "base/common.h"
#include "hawser/error.h"
#include <sys/ioctl.h>

#define LOOP_NAME_BYTES 32
/** BLKGETDISKSEQ, which older headers do not have. */
#define LOOP_DISK_SEQUENCE _IOR(0x12, 128, uint64_t)

struct loop_options {
    const char *path;     /* the file */
    uint32_t block_bytes; /* logical block size, 512..4096, power of two; 0: 512 */
    bool read_only;
    bool buffered;        /* page cache instead of direct I/O to the file */
    bool scan_partitions; /* make /dev/loopNpM; off, because an image's table is not trusted */
    /**
     * The kernel takes the device down when its last user closes it: whoever holds it open ties it
     * to its own life. Without it the device stays until co_loop_detach(). The holder must not be
     * the one that serves the file: its last close waits for dirty pages to be written.
     */
    bool auto_clear;
};

struct loop_device {
    char path[LOOP_NAME_BYTES]; /* "/dev/loop3" */
    int number;
    int fd;         /* open on the device: co_loop_detach() or loop_device_close() */
    bool direct_io; /* what the kernel made of it */
};

/**
 * Makes a loop device on a file. Races for free numbers are retried.
 * @return 0 or -errno; @ret untouched on failure.
 */
HWS_MUST_CHECK int co_loop_attach(const struct loop_options *options, struct loop_device *ret,
                                  struct hws_error *err);

/** The same for a process without a runtime: blocks. */
HWS_MUST_CHECK int loop_attach(const struct loop_options *options, struct loop_device *ret,
                               struct hws_error *err);

/**
 * Takes /dev/loopN down and returns when it is gone, with the file closed. A device that is mounted
 * or otherwise held is left alone: -EBUSY, and @err names the mount point. One that is not set up
 * is no error. @device->fd is closed on success.
 */
HWS_MUST_CHECK int co_loop_detach(struct loop_device *device, struct hws_error *err);

/** The same for a process without a runtime: blocks. */
HWS_MUST_CHECK int loop_detach(struct loop_device *device, struct hws_error *err);

/** The number of this use of the device, never given again; 0 before Linux 5.15. */
uint64_t loop_sequence(const struct loop_device *device);
/** The same of "/dev/loopN", as sysfs tells it. */
uint64_t loop_sequence_now(const char *path);

/** Makes the device as large as the file is now. */
HWS_MUST_CHECK int co_loop_resize(const struct loop_device *device, struct hws_error *err);
/** The same for a process without a runtime: blocks. */
HWS_MUST_CHECK int loop_resize(const struct loop_device *device, struct hws_error *err);

/**
 * Opens a device that exists, for detach and resize by name. -ENXIO when it is not set up.
 * @ret as from co_loop_attach().
 */
HWS_MUST_CHECK int co_loop_open(const char *path, struct loop_device *ret, struct hws_error *err);

/** Closes the descriptor; the device stays, unless it was made with auto_clear. */
void loop_device_close(struct loop_device *device);

#endif
