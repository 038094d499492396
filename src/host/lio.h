/*
 * The kernel's SCSI target (LIO) by its configfs tree: `user` backstores and the loopback fabric,
 * which makes a SCSI disk of this host of one. Other fabrics build on the same backstores.
 *
 *     /sys/kernel/config/target/core/user_N/NAME            the backstore
 *     /sys/kernel/config/target/loopback/naa.W/tpgt_1       the loopback target, one a disk
 *
 * The kernel side of making a backstore never waits for user space here: backstores are made with
 * nl_reply_supported=-1, and who makes one opens its uio device. All calls suspend; configfs is
 * written on a worker thread. They need CAP_SYS_ADMIN and load the modules that they need.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef HOST_LIO_H
#define HOST_LIO_H

#include "base/common.h"
#include "hawser/error.h"

#define LIO_NAME_MAX   64
#define LIO_CONFIG_MAX 255 /* characters of "handler/text" that the kernel keeps; no ':', ',' */
#define LIO_WWN_BYTES  24  /* "naa." and 16 hexadecimal digits */
#define LIO_DISK_BYTES 32  /* "/dev/sdb" */
#define LIO_NO_MINOR   ((unsigned)-1)
#define LIO_HBA_FIRST  1000 /* N of user_N: ours from here on, targetcli's count from 0 */

/*
 * Before the config of the backstores that are made here. Not "hawser/": those are made by others
 * (targetcli), and the handler service or tcmu-runner opens each one that it sees.
 */
#define LIO_HANDLER "hawser-attach/"

struct lio_backstore {
    char name[LIO_NAME_MAX + 1];
    unsigned hba;   /* N of user_N */
    unsigned minor; /* of /dev/uioN; LIO_NO_MINOR where its maker died before it was enabled */
};

struct lio_backstore_options {
    const char *name;     /* [A-Za-z0-9._-], up to LIO_NAME_MAX */
    const char *config;   /* what follows LIO_HANDLER in dev_config: tells the user what it is */
    uint64_t size_bytes;  /* a multiple of block_bytes */
    uint32_t block_bytes; /* 512 or 4096 */
    const char *serial;   /* 32 hexadecimal digits (scsi_disk_serial()) */
    bool write_cache;
    uint32_t max_sectors;   /* of 512 bytes a command; 0: what measured best */
    uint32_t ring_mib;      /* 0: the kernel's */
    uint32_t data_area_mib; /* 0: what measured best */
    uint32_t timeout_s;     /* a command not answered in that time fails; 0: 600 s */
};

/** Makes and enables a backstore under an HBA of its own. On return /dev/uioN is there. */
HWS_MUST_CHECK int co_lio_backstore_make(const struct lio_backstore_options *options,
                                         struct lio_backstore *ret, struct hws_error *err);

/** The one called @name, made by us or by others; -ENOENT. */
HWS_MUST_CHECK int co_lio_backstore_find(const char *name, struct lio_backstore *ret,
                                         struct hws_error *err);

/** Removes it; -EBUSY while a LUN of a fabric names it. One that is gone is no error. */
HWS_MUST_CHECK int co_lio_backstore_remove(const struct lio_backstore *backstore,
                                           struct hws_error *err);

/** Tells the kernel the new size; the SCSI disk tells initiators (scsi_disk_resized()). */
HWS_MUST_CHECK int co_lio_backstore_resize(const struct lio_backstore *backstore,
                                           uint64_t size_bytes, struct hws_error *err);

/** New commands wait in the kernel while @blocked: around a change of the process that serves. */
HWS_MUST_CHECK int co_lio_backstore_block(const struct lio_backstore *backstore, bool blocked,
                                          struct hws_error *err);

/** Commands in the ring go back to their initiators, which send them again (status BUSY). */
HWS_MUST_CHECK int co_lio_backstore_reset_ring(const struct lio_backstore *backstore,
                                               struct hws_error *err);

/**
 * May whoever sees @from also see @to, and with @write write to it? True where every target portal
 * group and every ACL that exports @from exports @to: the condition for a copy that is asked for at
 * @from and reads or writes @to.
 */
bool co_lio_covisible(const struct lio_backstore *from, const struct lio_backstore *to, bool write);

/* ---- the loopback fabric: a SCSI disk of this host ---- */

struct lio_disk {
    char path[LIO_DISK_BYTES]; /* "/dev/sdb" */
    char target[LIO_WWN_BYTES];
    unsigned host; /* SCSI host */
};

/**
 * Exports @backstore to this host. Waits for the disk to come up and sets sane limits on it
 * (timeout, request sizes). The backstore must be served. @naa the target's 8-byte name.
 */
HWS_MUST_CHECK int co_lio_disk_add(const struct lio_backstore *backstore, const uint8_t naa[8],
                                   struct lio_disk *ret, struct hws_error *err);

/** The disk that the loopback target of @naa makes; -ENOENT. For a process that takes over. */
HWS_MUST_CHECK int co_lio_disk_find(const uint8_t naa[8], struct lio_disk *ret,
                                    struct hws_error *err);

/**
 * Removes the disk and its target, with the backstore still served, so that what is cached is
 * written first. -EBUSY with the users unless @force: then it goes without a last flush, so that it
 * may be one that nobody serves and that is offline. One that is gone is no error.
 */
HWS_MUST_CHECK int co_lio_disk_remove(const struct lio_disk *disk, bool force,
                                      struct hws_error *err);

/**
 * Offline, every command fails at once, those that were sent back by a ring too: for a disk that
 * nobody serves. No error where the disk is gone.
 */
HWS_MUST_CHECK int co_lio_disk_set_online(const struct lio_disk *disk, bool online,
                                          struct hws_error *err);

/** The name of the loopback target of @naa. */
void lio_disk_target(const uint8_t naa[8], char ret[LIO_WWN_BYTES]);

/** Makes the kernel look at the disk's size again. */
HWS_MUST_CHECK int co_lio_disk_rescan(const struct lio_disk *disk, struct hws_error *err);

#endif
