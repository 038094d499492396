/*
 * File systems on this host's devices: finding, mounting and unmounting them.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef HOST_MOUNTS_H
#define HOST_MOUNTS_H

#include "base/common.h"
#include "hawser/error.h"

/**
 * Where a block device is mounted in this mount name space, the first place found. Reads
 * /proc/self/mountinfo. @return false when it is not mounted; @where then holds "".
 */
bool mounts_find_device(const char *device, char *where, size_t where_bytes);

enum mounts_place {
    MOUNTS_NOT_THERE,
    MOUNTS_ON_TOP,  /* what an unmount of the target would take */
    MOUNTS_COVERED, /* something else is mounted over it */
};

/** Whether @device is what is mounted at @target, a path without links, in this name space. */
enum mounts_place mounts_look(const char *device, const char *target);

struct mount_options {
    const char *device;
    const char *target; /* an existing folder */
    const char *type;   /* NULL: probe; more than one signature on the device is refused */
    bool read_only;
    bool trusted;     /* else nosuid and nodev: an image is somebody else's file system */
    const char *data; /* options as mount(8) takes them, "noatime,commit=30"; may be NULL */
};

/** Mounts. Errors name device, type and target. */
HWS_MUST_CHECK int co_mount(const struct mount_options *options, struct hws_error *err);

/** Unmounts what is mounted at @target. -EBUSY while it is in use. */
HWS_MUST_CHECK int co_unmount(const char *target, struct hws_error *err);

#endif
