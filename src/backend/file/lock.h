/*
 * Image locks: two processes must not write one image, and none may read what another is changing.
 *
 * Advisory open-file-description locks on single bytes of the file say what its users do, in the
 * way that QEMU's tools do it, so that both keep out of each other's way:
 *
 *     byte 100 + p   shared lock: the holder uses permission p
 *     byte 200 + p   shared lock: the holder lets nobody else use permission p
 *
 * with p = 0 consistent read, 1 write, 2 write of unchanged data, 3 resize. A newcomer takes its
 * own locks first and then tests the opposite byte of each with an exclusive lock, so of two that
 * start together at least one sees the other.
 *
 *     who                     uses         does not share
 *     reader (format)         0            1, 3
 *     writer                  0, 1 (, 3)   1, 3
 *     create                  1, 3         1, 3
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef BACKEND_FILE_LOCK_H
#define BACKEND_FILE_LOCK_H

#include "rt/rt.h"

enum image_permission {
    IMAGE_READ = 1 << 0,
    IMAGE_WRITE = 1 << 1,
    IMAGE_WRITE_UNCHANGED = 1 << 2,
    IMAGE_RESIZE = 1 << 3,
};
#define IMAGE_PERMISSIONS 4

/** What one open file holds; all zero at the start. */
struct image_lock {
    unsigned used;     /* enum image_permission bits */
    unsigned unshared; /* the same */
};

/**
 * Changes what @lock holds on @file to @used and @unshared. Permissions that are given up never
 * fail; on failure nothing has changed.
 * @path names the file in messages.
 * @return 0, -EAGAIN when another holder forbids it or uses what we do not share, or another
 * -errno: the file system has no such locks.
 */
HWS_MUST_CHECK int co_image_lock_set(struct image_lock *lock, struct rt_file *file, unsigned used,
                                     unsigned unshared, const char *path, struct hws_error *err);

/** Gives up everything. Closing the last descriptor does it too. */
void image_lock_drop(struct image_lock *lock, struct rt_file *file);

#endif
