/*
 * Small words for the kernel's trees of objects, configfs and sysfs: what host/lio*.c and the
 * fabrics beside it are written in. All of it blocks, so it is called from co_work() functions.
 *
 * Paths are given as a format and its arguments. One that begins with '/' is taken as it is, any
 * other is below the SCSI target's folder ("core/user_0/x"). Errors name the path and what the
 * kernel said; an `err` of NULL is fine everywhere.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef HOST_CONFIGFS_H
#define HOST_CONFIGFS_H

#include "base/common.h"
#include "hawser/error.h"

#define CONFIGFS_PATH_MAX  1024
#define CONFIGFS_VALUE_MAX 4096 /* what one attribute holds at most */

/** The SCSI target's folder; tests put a tree of their own in its place. */
extern const char *configfs_target_root;

/**
 * Loads @module unless it is there (as a module or built in). @return 0; -ENODEV where the kernel
 * has not got it, and says which package or option has.
 */
HWS_MUST_CHECK int configfs_load_module(const char *module, struct hws_error *err);

/** Writes @value by one write(2). */
int configfs_write(struct hws_error *err, const char *value, const char *format, ...)
    HWS_PRINTF(3, 4);

/** As configfs_write(), for a secret: neither errors nor logs ever show @value. */
HWS_MUST_CHECK int configfs_write_secret(struct hws_error *err, const char *value,
                                         const char *format, ...) HWS_PRINTF(3, 4);

/**
 * Reads an attribute without the line's end. @return bytes, or -errno (no message: what is not
 * there is often no error). Longer values are cut.
 */
HWS_MUST_CHECK int configfs_read(char *ret, size_t size, const char *format, ...) HWS_PRINTF(3, 4);

/** Makes a folder. -EEXIST where it is there already. */
HWS_MUST_CHECK int configfs_mkdir(struct hws_error *err, const char *format, ...) HWS_PRINTF(2, 3);

/**
 * As configfs_mkdir(), and marks the folder as made by us (its sticky bit): what we may remove once
 * nobody needs it, whichever process of ours made it, while others' objects of that kind stay.
 */
HWS_MUST_CHECK int configfs_mkdir_marked(struct hws_error *err, const char *format, ...)
    HWS_PRINTF(2, 3);
bool configfs_is_marked(const char *format, ...) HWS_PRINTF(1, 2);

/** Removes a folder; one that is gone is no error. -EBUSY, -ENOTEMPTY while it is in use. */
int configfs_rmdir(struct hws_error *err, const char *format, ...) HWS_PRINTF(2, 3);

/** Makes @target (a path like the others) known at the path by a link. */
HWS_MUST_CHECK int configfs_link(struct hws_error *err, const char *target, const char *format, ...)
    HWS_PRINTF(3, 4);

/** Removes a link; one that is gone is no error. */
int configfs_unlink(struct hws_error *err, const char *format, ...) HWS_PRINTF(2, 3);

bool configfs_exists(const char *format, ...) HWS_PRINTF(1, 2);

/**
 * Calls @visit for each folder (and link, where @links) at the path, in no order, until it returns
 * something else than 0, which is returned then. What is not there has no entries.
 */
typedef int configfs_visit(const char *name, void *arg);
int configfs_each(configfs_visit *visit, void *arg, bool links, const char *format, ...)
    HWS_PRINTF(4, 5);

/** Where a link points to: its last two parts, "user_0/disk", or "" where it is none. */
void configfs_link_tail(char *ret, size_t size, const char *format, ...) HWS_PRINTF(3, 4);

/**
 * One change of the tree at a time among all processes of ours, so that none finds another's half
 * of it. Waits. @return a descriptor to close, or -errno.
 */
HWS_MUST_CHECK int configfs_lock(struct hws_error *err);

#endif
