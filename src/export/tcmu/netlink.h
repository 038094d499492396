/*
 * The kernel's news about `user` backstores: generic netlink, family TCM-USER, group "config". For
 * processes that serve the backstores of others (targetcli); one that made its own needs none.
 *
 * While an event is under way the program that caused it (a write to configfs) waits in the kernel,
 * without a timeout, for the matching answer - where some process declared that answers will come
 * (tcmu_netlink_features()), and the backstore was not made with nl_reply_supported=-1. An answer
 * that does not match what is waited for leaves that program in the kernel for ever, so every event
 * is answered at most once, and with its own kind.
 *
 * Raw sockets, not libnl: the protocol is six messages, and the receive buffer, lost messages and
 * the parser of untrusted bytes matter here.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef EXPORT_TCMU_NETLINK_H
#define EXPORT_TCMU_NETLINK_H

#include "base/common.h"
#include "hawser/error.h"

#define TCMU_CONFIG_MAX 255 /* characters of dev_config that the kernel keeps */
#define TCMU_NAME_MAX   255 /* of a backstore: a folder of configfs */

/* ---- the name of a backstore's uio device: "tcm-user/HBA/NAME/CONFIG" ---- */

struct tcmu_device_name {
    unsigned hba;
    char name[TCMU_NAME_MAX + 1];
    char config[TCMU_CONFIG_MAX + 1]; /* dev_config: "handler/text" */
};

/** @text of @length characters. @return 0, -EINVAL where it is no backstore's, or too long. */
HWS_MUST_CHECK int tcmu_device_name_parse(const char *text, size_t length,
                                          struct tcmu_device_name *ret);

/** Does @config begin with "@handler/"? */
bool tcmu_config_is_for(const char *config, const char *handler);

/* ---- events ---- */

enum tcmu_event_kind { TCMU_ADDED = 1, TCMU_REMOVED = 2, TCMU_RECONFIG = 3 };

struct tcmu_event {
    enum tcmu_event_kind kind;
    struct tcmu_device_name device;
    uint32_t minor;       /* of /dev/uioN */
    uint32_t device_id;   /* what an answer names */
    bool can_be_answered; /* protocol version 2 */
    /* Of RECONFIG: one of them. */
    bool has_config, has_size, has_write_cache;
    char config[TCMU_CONFIG_MAX + 1];
    uint64_t size_bytes;
    bool write_cache;
};

/**
 * Reads one netlink message, header included, of the family numbered @family.
 * @return 0, -ENOMSG where it is no event, -EBADMSG where it is malformed. @ret untouched then.
 */
HWS_MUST_CHECK int tcmu_event_parse(const void *bytes, size_t length, uint16_t family,
                                    struct tcmu_event *ret);

/* ---- the socket ---- */

struct tcmu_netlink;

/**
 * Joins the group. The module target_core_user must be loaded. Not a coroutine: any thread.
 * @ret owned by the caller.
 */
HWS_MUST_CHECK int tcmu_netlink_open(struct tcmu_netlink **ret, struct hws_error *err);

/** Nobody may be in tcmu_netlink_receive(). @netlink may be NULL. @return NULL. */
struct tcmu_netlink *tcmu_netlink_close(struct tcmu_netlink *netlink);

/** Makes the present and later calls of tcmu_netlink_receive() return -ECANCELED. Any thread. */
void tcmu_netlink_stop(struct tcmu_netlink *netlink);

typedef void tcmu_event_fn(void *arg, const struct tcmu_event *event);

/**
 * Blocks until something comes, and hands over what came. Malformed messages and those of others
 * are dropped. One thread. @ret_lost messages were lost since the last call: look at
 * /sys/class/uio for what they told. @return 0, -ECANCELED, -errno.
 */
HWS_MUST_CHECK int tcmu_netlink_receive(struct tcmu_netlink *netlink, tcmu_event_fn *fn, void *arg,
                                        bool *ret_lost);

/** Answers @event with @status, 0 or a negative errno, which its causer is told. Any thread. */
HWS_MUST_CHECK int tcmu_netlink_answer(struct tcmu_netlink *netlink, const struct tcmu_event *event,
                                       int status);

/** Tells the kernel whether to wait for answers; for all handlers of the machine. Any thread. */
HWS_MUST_CHECK int tcmu_netlink_features(struct tcmu_netlink *netlink, bool answers,
                                         struct hws_error *err);

/** How many sockets of other processes are in the group; -ENOTSUP where it cannot be told. */
HWS_MUST_CHECK int tcmu_netlink_others(const struct tcmu_netlink *netlink);

/**
 * Fails every event that still waits for an answer (-EINTR), of all handlers: after a predecessor's
 * death, or when events were lost, their causers wait for ever otherwise.
 */
HWS_MUST_CHECK int tcmu_netlink_reset(struct hws_error *err);

#endif
