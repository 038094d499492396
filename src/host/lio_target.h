/*
 * What the fabrics of the kernel's SCSI target have in common: the inside of a target portal group.
 *
 *     FABRIC/TARGET/tpgt_1/lun/lun_N/unit -> core/user_M/NAME
 *     FABRIC/TARGET/tpgt_1/acls/INITIATOR/lun_N/unit -> .../tpgt_1/lun/lun_N, write_protect
 *
 * Targets, and the fabric's own folder, are marked as ours (configfs_mkdir_marked()), so that those
 * of targetcli and others are never taken for ours, whatever they are called.
 *
 * All of it blocks, so it is called from co_work() functions.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef HOST_LIO_TARGET_H
#define HOST_LIO_TARGET_H

#include "host/configfs.h"
#include "host/fabric.h"

struct lio_target {
    const char *fabric; /* "iscsi" */
    const char *target; /* "iqn...." */
};

/**
 * Makes a target, and fills it by @fill; of a failure nothing is left. All under configfs_lock(),
 * so that a target without LUNs is never somebody's who is still at it.
 * @return -EEXIST where there is such a target: nothing was touched.
 */
HWS_MUST_CHECK int lio_target_build(const struct lio_target *t,
                                    int (*fill)(void *arg, struct hws_error *err), void *arg,
                                    struct hws_error *err);

/**
 * Takes the target of @export apart, whole or half-made. One that is gone, somebody else's, or of
 * another export (its LUNs are of other backstores) is left alone, and no error.
 * @close called first, before anything is removed; may be NULL.
 */
HWS_MUST_CHECK int lio_target_remove(const struct lio_target *t, const struct fabric_export *export,
                                     void (*close)(void *arg), void *arg, struct hws_error *err);

/** LUNs 0, 1, ... on the backstores of the units. */
HWS_MUST_CHECK int lio_target_add_luns(const struct lio_target *t,
                                       const struct fabric_export *export, struct hws_error *err);

/** An ACL for @initiator with all LUNs of @export, those of read-only units write-protected. */
HWS_MUST_CHECK int lio_target_add_acl(const struct lio_target *t, const char *initiator,
                                      const struct fabric_export *export, struct hws_error *err);

/** Whether there is such a target, whole or half-made, that a process of ours has made. */
bool lio_target_is_ours(const struct lio_target *t);

/** As lio_target_is_ours(), and it has no LUN that is not of a unit of @export. */
bool lio_target_belongs(const struct lio_target *t, const struct fabric_export *export);

/**
 * As lio_target_belongs(), and each unit of @export has its LUN: what a predecessor made of this
 * export, to be served on.
 */
bool lio_target_is_whole(const struct lio_target *t, const struct fabric_export *export);

#endif
