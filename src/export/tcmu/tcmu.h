/*
 * The TCMU export: the user-space half of one `user` backstore of the kernel's SCSI target (LIO).
 * The kernel puts SCSI commands into a ring that both share and copies their data to and from a
 * data area beside it; this half executes them on a SCSI disk and completes them in any order.
 *
 *     LIO fabric -> target core -> ring and data area (/dev/uioN) -> scsi_lun -> block_root
 *
 * The backstore and what is exported of it is configfs's business (host/lio.h), not this folder's:
 * it takes a uio device that exists, and lets go of it.
 *
 * Everything here is called from one coroutine, the one that controls the disk.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef EXPORT_TCMU_TCMU_H
#define EXPORT_TCMU_TCMU_H

#include "scsi/scsi.h"

struct tcmu_export;

#define TCMU_THREADS_MAX 16

struct tcmu_export_options {
    unsigned minor;   /* of /dev/uioN */
    const char *name; /* for messages; copied */
    /* Whose commands they are. TCMU does not tell the initiator: one nexus stands for all. */
    struct scsi_nexus *nexus;
    struct scsi_lun *lun;
    unsigned threads; /* queue threads that execute commands, 1..TCMU_THREADS_MAX; 0: what measured
                         best */
    /*
     * NULL: threads of its own. Else @threads queues of the caller's, which outlive the export and
     * may serve others too: for a process with many devices. Copied.
     */
    struct rt_queue *const *queues;
};

/**
 * Opens the device, checks the ring's layout, and serves commands until co_tcmu_export_stop(). The
 * nexus and the LUN must outlive the export.
 *
 * Commands that a dead predecessor left in the ring must have been taken out of it before (the
 * configfs file action/reset_ring, host/lio.h): their slots may have been reused.
 * @ret owned by the caller. @return 0, -EBUSY where another process has the device open, -errno.
 */
HWS_MUST_CHECK int co_tcmu_export_start(const struct tcmu_export_options *options,
                                        struct tcmu_export **ret, struct hws_error *err);

/**
 * Takes no more commands, completes those that it has taken, closes the device and frees @export.
 * Commands that come later stay in the ring for whoever opens the device next.
 */
void co_tcmu_export_stop(struct tcmu_export *export);

struct tcmu_export_info {
    unsigned minor, threads;
    uint32_t ring_bytes;
    uint64_t data_area_bytes;
    bool out_of_order, read_length, task_management; /* what the kernel offers */
    uint64_t commands, failures, malformed, aborts;  /* since the start */
    uint64_t wakeups;                                /* batches of completions told to the kernel */
};

/** Any thread. */
void tcmu_export_info(const struct tcmu_export *export, struct tcmu_export_info *ret);

#endif
