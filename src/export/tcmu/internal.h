/*
 * What the parts of the TCMU export share.
 *
 *   ring.c       entries out of the shared ring, answers into it
 *   serve.c      from the ring to the SCSI disk and back, on all threads
 *   export.c     life: start, stop, threads, information
 *   uio.c        the kernel's device file
 *
 * Threads: lane 0 watches the device and takes entries; any lane executes commands, answers them
 * and wakes the kernel. `guard` protects what is named below it; a few dozen instructions a
 * command.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef EXPORT_TCMU_INTERNAL_H
#define EXPORT_TCMU_INTERNAL_H

#include "export/tcmu/ring.h"
#include "export/tcmu/tcmu.h"
#include "rt/sync.h"
#include <stdatomic.h>

struct tcmu_lane;

/** A command's place while it is here. */
struct tcmu_task {
    struct tcmu_lane *lane;
    struct list link; /* in the lane's inbox */
    uint16_t index;
    _Atomic bool aborted; /* by a task management function: whoever sent it waits for nothing */
    struct tcmu_command command;
    struct scsi_task scsi;
};

/** A queue thread. */
struct tcmu_lane {
    struct tcmu_export *export;
    struct rt_queue *queue;
    struct rt_later bell;   /* tells the kernel what was answered in this round */
    struct co_waitq wakeup; /* guard; the lane's coroutine */
    struct list inbox;      /* guard; tasks that another thread took for this one */
};

/** How to reach the kernel, or what stands for it in a test. */
struct tcmu_device {
    int event_fd; /* readable when there may be new entries */
    int bell_fd;  /* four bytes written wake the kernel. The same descriptor for a uio device */
    void *map;
    uint64_t map_bytes;
};

struct tcmu_export {
    char *name;
    unsigned minor;
    struct scsi_nexus *nexus;
    struct scsi_lun *lun;
    struct tcmu_device device;
    bool edge;          /* events need not be read; see rt_watch_start() */
    bool shared_queues; /* the caller's, not ours */
    unsigned lane_count;
    struct tcmu_lane lane[TCMU_THREADS_MAX];
    struct tcmu_task *task; /* TCMU_TASKS_MAX */

    struct rt_mutex guard;
    struct co_waitq changed; /* for who waits for the end of all commands or lanes */
    struct tcmu_ring ring;
    uint16_t free[TCMU_TASKS_MAX]; /* indices of free tasks; the last one freed goes first */
    unsigned free_count;
    unsigned lanes_alive;
    bool stopping;
    bool broken;    /* nothing can be taken any more */
    bool resetting; /* nothing is taken until a LUN RESET is done */
    bool starved;   /* lane 0 found no free task, or was kept from taking; it is to look again */
    uint64_t commands, failures, malformed, aborts;
    _Atomic uint64_t wakeups;
};

/* serve.c */

/** The coroutine of a lane (arg): serves until the export stops. */
void co_tcmu_lane(void *arg);
void tcmu_lane_init(struct tcmu_export *export, unsigned index);

/* export.c */

/**
 * As co_tcmu_export_start() on a device that is open already, which the export owns from here only
 * when it succeeds.
 */
HWS_MUST_CHECK int co_tcmu_export_serve(const struct tcmu_export_options *options,
                                        const struct tcmu_device *device, struct tcmu_export **ret,
                                        struct hws_error *err);

/* uio.c */

HWS_MUST_CHECK int tcmu_uio_open(unsigned minor, struct tcmu_device *ret, struct hws_error *err);
void tcmu_uio_close(struct tcmu_device *device);

#endif
