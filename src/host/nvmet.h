/*
 * The kernel's NVMe target by its configfs tree:
 *
 *     subsystems/NQN/namespaces/1..   block devices, with the identities of their volumes
 *     subsystems/NQN/allowed_hosts/   links to hosts
 *     hosts/NQN                       one a host, with its keys; all subsystems share it
 *     ports/N/subsystems/             links to subsystems; all subsystems of one address share it
 *
 * What is made here is marked (configfs_mkdir_marked()): hosts and ports of ours go with the last
 * subsystem that needs them, those of others are used and left. All of it blocks, so it is called
 * from co_work() functions; between nvmet_lock() and the close of what it returned, where the tree
 * changes.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef HOST_NVMET_H
#define HOST_NVMET_H

#include "host/fabric.h"

#define NVMET_ROOT          "/sys/kernel/config/nvmet"
#define NVMET_ADDRESS_BYTES 64 /* "nn-0x" and 16 digits, ":pn-0x" and 16 digits; IPv6 */
#define NVMET_KEY_BYTES     160

struct nvmet_port {
    const char *transport, *family; /* "tcp" and "ipv4" or "ipv6"; "fc" and "fc" */
    char address[NVMET_ADDRESS_BYTES];
    char service[8]; /* the TCP port, "none" */
};

/** "ADDRESS:PORT" or "[IPV6]:PORT", checked. */
void nvmet_port_tcp(const char *portal, struct nvmet_port *ret);
/** A port of Fibre Channel by its node's and its own name. */
void nvmet_port_fc(uint64_t wwnn, uint64_t wwpn, struct nvmet_port *ret);

/** DH-HMAC-CHAP keys of one host; empty: not used. */
struct nvmet_keys {
    char host[NVMET_KEY_BYTES];       /* the host proves who it is */
    char controller[NVMET_KEY_BYTES]; /* and so does the subsystem */
};

/**
 * Lines "host-key=" and "controller-key=" with keys as `nvme gen-dhchap-key` prints them
 * ("DHHC-1:00:...:"); empty ones and those that begin with '#' are passed over. Errors name the
 * line and never a key. @name of the file.
 */
HWS_MUST_CHECK int nvmet_keys_parse(const char *text, const char *name, struct nvmet_keys *ret,
                                    struct hws_error *err);

HWS_MUST_CHECK int nvmet_lock(struct hws_error *err);

struct nvmet_subsystem {
    const char *nqn;
    const struct fabric_export *export; /* its units are the namespaces 1, 2, ... */
    const struct fabric_list *hosts;    /* none: any host may connect */
    const struct nvmet_keys *keys;      /* of each of them; NULL: no authentication */
};

/** Makes the subsystem, on no port yet. -EEXIST; a failure leaves nothing. */
HWS_MUST_CHECK int nvmet_subsystem_make(const struct nvmet_subsystem *subsystem,
                                        struct hws_error *err);

/** Makes the subsystem known on @port, which is made unless it is there. */
HWS_MUST_CHECK int nvmet_subsystem_listen(const char *nqn, const struct nvmet_port *port,
                                          struct hws_error *err);

/** Whether a process of ours made it of units of @export, or has begun to. */
bool nvmet_subsystem_belongs(const char *nqn, const struct fabric_export *export);

/** As nvmet_subsystem_belongs(), and all of them are its namespaces, enabled, and it is on a port.
 */
bool nvmet_subsystem_is_whole(const char *nqn, const struct fabric_export *export);

/** Takes it from its ports, which cuts its hosts, and removes it, as far as it is there. */
HWS_MUST_CHECK int nvmet_subsystem_remove(const char *nqn, struct hws_error *err);

/** Tells hosts the size that its block devices have now. */
HWS_MUST_CHECK int nvmet_subsystem_resized(const char *nqn, struct hws_error *err);

/**
 * Adds the hosts that are connected to @out, as far as it can be told: controllers of this very
 * host by "this host", others by the addresses that TCP is connected to, where the port is this
 * subsystem's alone.
 */
void nvmet_subsystem_sessions(const char *nqn, json_t *out);

/* ---- nvmet_loop.c: Fibre Channel within this host (nvme-fcloop), for NVMe over FC ---- */

/** The names that the loop of the export called @name has. */
struct nvmet_loop {
    uint64_t target_wwnn, target_wwpn, host_wwnn, host_wwpn;
};
void nvmet_loop_names(const char *name, struct nvmet_loop *ret);

/** Makes the target's port. The host's comes last, when the subsystem listens: it logs in at once.
 */
HWS_MUST_CHECK int nvmet_loop_add_target(const struct nvmet_loop *loop, struct hws_error *err);
HWS_MUST_CHECK int nvmet_loop_add_host(const struct nvmet_loop *loop, struct hws_error *err);
/** Takes all of it away; what is gone is no error. */
void nvmet_loop_remove(const struct nvmet_loop *loop);

#endif
