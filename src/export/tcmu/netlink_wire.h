/*
 * Numbers of the TCM-USER family (linux/target_core_user.h), for code that cannot include the
 * kernel's header beside the C library's sockets; netlink_event.c holds them to it.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef EXPORT_TCMU_NETLINK_WIRE_H
#define EXPORT_TCMU_NETLINK_WIRE_H

enum tcmu_wire {
    TCMU_WIRE_VERSION = 2,

    TCMU_WIRE_ADDED_DONE = 4,
    TCMU_WIRE_REMOVED_DONE = 5,
    TCMU_WIRE_RECONFIG_DONE = 6,
    TCMU_WIRE_SET_FEATURES = 7,

    TCMU_WIRE_ATTR_STATUS = 7,
    TCMU_WIRE_ATTR_DEVICE_ID = 8,
    TCMU_WIRE_ATTR_ANSWERS = 9,
};

#endif
