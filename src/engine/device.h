/*
 * The ways to make a device of a volume, inside: each is a file device_*.c that ends in one struct
 * device_way, and device.c has the table of them.
 *
 *   device_fuse.c    fuse-loop: volume -> FUSE file -> loop device with direct I/O -> /dev/loopN
 *                    fuse:      volume -> FUSE file
 *   device_tcmu.c    tcmu:      volume -> backstore of the SCSI target -> loopback -> /dev/sdX
 *                    target:    volume -> backstore of the SCSI target
 *   device_nbd.c     nbd:       volume -> connections of the kernel's NBD driver -> /dev/nbdN
 *   device_block.c   what ways that make a block device share: who has it open, holding it
 *
 * Everything runs on the control queue, under engine.control once the engine runs.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef ENGINE_DEVICE_H
#define ENGINE_DEVICE_H

#include "engine/engine.h"

/** Each way's own struct begins with it. */
struct device {
    const struct device_way *way;
    struct volume *volume;
};

struct device_way {
    const char *name; /* word for "via" */
    bool needs_path;  /* of a FUSE file */

    /** For "auto": 0 where this host has what the way needs. Changes nothing, loads no modules;
     * a way that was asked for may load them. */
    int (*probe)(struct hws_error *why);

    /** @ret made and ended by the way; its `way` and `volume` are set by device.c. */
    int (*co_start)(struct volume *volume, struct device **ret, struct hws_error *err);

    /** Ends and frees @device; a failure leaves it as it was, or tells what is left of it. */
    int (*co_stop)(struct device *device, bool force, struct hws_error *err);

    /* These three may be NULL where there is nothing to do; the contracts are in engine.h. */
    int (*co_resized)(struct device *device, struct hws_error *err);
    int (*co_claim)(struct device *device, int *ret_claim, struct hws_error *err);
    void (*co_release)(struct device *device, int claim);

    /** NULL: the device goes with the process that serves it. */
    void (*co_leave)(struct device *device);

    /* ---- of ways with co_leave: devices that a process that is gone has left ---- */

    /** May be NULL. Copies of the sockets that it is served on, which the next process can go on
     * with; owned by the caller. @return how many. */
    unsigned (*copy_sockets)(const struct device *device, int ret_fds[VOLUME_SOCKETS_MAX]);
    /** Whether @device was one of those. */
    bool (*is_adopted)(const struct device *device);
    /* These are as their namesakes in engine.h. */
    bool (*co_is_there)(const struct volume_config *config);
    int (*co_abandon)(const struct volume_config *config, struct hws_error *err);
    int (*co_clear)(const struct volume_config *config, bool force, struct hws_error *err);

    void (*describe)(const struct device *device, json_t *out);
};

extern const struct device_way device_tcmu, device_target, device_nbd, device_fuse_loop,
    device_fuse;

/* ---- device_block.c ---- */

/**
 * Refuses while a program has @path open, after it had a second to let go: it would see errors from
 * then on. Mounts are not looked at: the removal itself tells of those.
 */
HWS_MUST_CHECK int co_block_device_refuse_open(const char *path, struct hws_error *err);

/** Who uses @path, in words; false where nobody is found. */
bool co_block_device_users(const char *path, char *text, size_t text_bytes);

/** co_device_claim() for the block device at @path. */
HWS_MUST_CHECK int co_block_device_claim(const char *path, int *ret_claim, struct hws_error *err);

/** co_device_release() of it; drops what the kernel cached. */
void co_block_device_release(const char *path, int claim);

#endif
