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
 * Makes FABRIC (and so loads its module), TARGET and tpgt_1. -EEXIST where there is such a target:
 * nothing was touched. Any other failure leaves nothing.
 */
HWS_MUST_CHECK int lio_target_make(const struct lio_target *t, struct hws_error *err);

/** LUNs 0, 1, ... on the backstores of the units. */
HWS_MUST_CHECK int lio_target_add_luns(const struct lio_target *t,
                                       const struct fabric_export *export, struct hws_error *err);

/** An ACL for @initiator with all LUNs of @export, those of read-only units write-protected. */
HWS_MUST_CHECK int lio_target_add_acl(const struct lio_target *t, const char *initiator,
                                      const struct fabric_export *export, struct hws_error *err);

/** Whether there is such a target, whole or half-made, that a process of ours has made. */
bool lio_target_is_ours(const struct lio_target *t);

/** Removes ACLs, portals, LUNs, the group, the target, and the fabric with its last target. */
HWS_MUST_CHECK int lio_target_take_apart(const struct lio_target *t, struct hws_error *err);

#endif
