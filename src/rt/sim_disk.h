/*
 * The simulated disk: named files, what a running program sees of them, and what a crash would
 * leave. A pure model without time, coroutines or faults; sim.c drives it.
 *
 *   begin            complete                     fdatasync of the file
 *     |  in flight      |  unsynced (the log)          |  durable
 *     +-----------------+------------------------------+----------->
 *        may land at       a crash keeps, tears or        survives
 *        a crash           drops it
 *
 * A file has two images: the volatile one, which programs read, and the durable one, which lags
 * behind by the file's log. A sync makes durable what completed before it began. An operation that
 * was written through (RWF_DSYNC) stays in the log, so that order is kept, but no crash drops it.
 *
 * Names work alike: making and removing a file is durable once the file is synced (as ext4, XFS and
 * btrfs do) or the folder is (sim_disk_rename_complete()); before that a crash keeps the first few.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef RT_SIM_DISK_H
#define RT_SIM_DISK_H

#include "base/list.h"
#include "base/random.h"
#include "base/sgl.h"
#include "rt/sim_image.h"

/* What a disk writes whole or not at all. */
#define SIM_SECTOR_BYTES 512

/* Logs longer than this are written back from their old end, as a page cache would do by itself. */
#define SIM_LOG_BYTES_MAX (32 * MiB)

struct sim_disk;

struct sim_inode {
    unsigned index; /* in the disk's table; never reused */
    struct sim_image volatile_image, durable_image;
    struct list log;       /* sim_op: completed, oldest first */
    struct list in_flight; /* sim_op */
    uint64_t log_bytes;
};

enum sim_op_kind {
    SIM_OP_WRITE,
    SIM_OP_ZERO,   /* punch, or zero range */
    SIM_OP_RESIZE, /* length is the new size */
    SIM_OP_GROW,   /* to at least the size `length` */
};

/* A change of a file, in flight or in the log. */
struct sim_op {
    struct list link;
    struct sim_inode *inode;
    enum sim_op_kind kind;
    uint64_t offset, length;
    uint64_t sequence; /* when it completed, in the disk's count */
    bool durable;      /* a crash keeps it */
    uint8_t *bytes;    /* SIM_OP_WRITE: what was in the buffer at submission */
};

/* ---- disk and names ---- */

struct sim_disk *sim_disk_new(void);
/** @disk may be NULL. @return NULL. */
struct sim_disk *sim_disk_free(struct sim_disk *disk);

/**
 * Finds or makes a file. @flags O_CREAT, O_EXCL and O_TRUNC count; names are cleaned of "//", "/./"
 * and "/../" first. @return 0, -ENOENT, -EEXIST.
 */
HWS_MUST_CHECK int sim_disk_open(struct sim_disk *disk, const char *path, int flags,
                                 struct sim_inode **ret);
HWS_MUST_CHECK int sim_disk_unlink(struct sim_disk *disk, const char *path);

/** True when @path, cleaned, lies in the folder @folder. */
bool sim_disk_beneath(const char *path, const char *folder);

/** While a rename is between these two a crash may find it done or not. @return 0 or -ENOENT. */
HWS_MUST_CHECK int sim_disk_rename_begin(struct sim_disk *disk, const char *from, const char *to);
void sim_disk_rename_complete(struct sim_disk *disk);
void sim_disk_rename_cancel(struct sim_disk *disk);

/** Bytes that the volatile images take up. */
uint64_t sim_disk_allocated(const struct sim_disk *disk);

/* ---- changes of a file ---- */

/** @data is copied; empty unless @kind is SIM_OP_WRITE. */
struct sim_op *sim_op_begin(struct sim_inode *inode, enum sim_op_kind kind, uint64_t offset,
                            uint64_t length, struct sgl data);

/**
 * The change takes place. Where the caller changed @data since sim_op_begin(), each sector gets the
 * old or the new bytes, as @random says: a device may read memory at any time until it completes.
 */
void sim_op_complete(struct sim_disk *disk, struct sim_op *op, struct sgl data, bool durable,
                     struct random *random);

/** The change failed. @torn: part of it took place, nobody knows which. */
void sim_op_fail(struct sim_disk *disk, struct sim_op *op, bool torn, struct random *random);

/** Bytes that the change would have to allocate. */
uint64_t sim_op_allocates(const struct sim_op *op);

/** The count of completed changes so far: a sync that begins now covers these. */
uint64_t sim_disk_sequence(const struct sim_disk *disk);

/** Makes durable what completed in the file up to @sequence, and its name. */
void sim_inode_sync(struct sim_disk *disk, struct sim_inode *inode, uint64_t sequence);

/**
 * A sync that covered the changes up to @sequence failed, as Linux fails it: each of them is
 * durable or lost, nobody knows which; reads still show them, and later syncs know nothing of them.
 */
void sim_inode_sync_failed(struct sim_inode *inode, uint64_t sequence, struct random *random);

/* ---- ends of the world ---- */

/** The disk after a power cut, chosen by @random. @disk is left as it is. */
struct sim_disk *sim_disk_crash(const struct sim_disk *disk, struct random *random);

/**
 * The disk after the program was killed: what it saw, with the log still unsynced; each change in
 * flight took place or did not.
 */
struct sim_disk *sim_disk_kill(const struct sim_disk *disk, struct random *random);

#endif
