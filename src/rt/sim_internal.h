/*
 * What the scheduler (sim.c) and the operations (sim_io.c) of the simulator share.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef RT_SIM_INTERNAL_H
#define RT_SIM_INTERNAL_H

#include "rt/ops.h"
#include "rt/sim.h"
#include "rt/sim_disk.h"
#include "rt/sim_lock.h"

/* The last events that a dump shows. */
#define SIM_EVENTS_KEPT 32

struct sim_event {
    uint64_t time_ns, offset, length;
    int64_t result;
    int op; /* enum rt_opcode */
    unsigned inode;
};

struct sim {
    struct rt rt;
    struct sim_options options;
    struct sim_disk *disk;
    struct sim_locks locks;
    struct random schedule;    /* order and time of everything */
    struct random identifiers; /* what the program gets as random bits */
    uint64_t now_ns;
    uint64_t operations;
    uint64_t digest;
    bool crashed;
    bool serving;
    struct sim_flight *renaming; /* the rename that the disk knows of */
    struct list in_flight;       /* sim_flight */
    struct rt_queue **queues;
    size_t queue_count;
    struct sim_event events[SIM_EVENTS_KEPT]; /* a ring */
    uint64_t event_count;
};

struct sim_file {
    struct rt_file file;
    struct sim *sim;
    struct sim_inode *inode;
    int flags;          /* of open */
    unsigned in_flight; /* operations; to assert at close */
};

/* An operation between submission and completion. */
struct sim_flight {
    struct list link;
    struct rt_queue *queue;
    struct rt_io *io;
    uint64_t due_ns;
    int failure;       /* injected: positive errno */
    uint64_t length;   /* of the transfer, which may be cut short */
    struct sim_op *op; /* the change, or NULL */
    struct sim_op *op_grow;
    uint64_t sequence; /* what an fdatasync covers */
};

static inline struct sim *sim_of(const struct rt *rt)
{
    return container_of(rt, struct sim, rt);
}

static inline struct sim_file *sim_file_of(const struct rt_file *file)
{
    return container_of(file, struct sim_file, file);
}

/* ---- sim_io.c ---- */

/** ops->submit. */
bool sim_io_submit(struct rt_queue *q, struct rt_io *io);

/** The time of @flight has come: it takes effect, and its coroutine goes on. */
void sim_io_land(struct sim *sim, struct sim_flight *flight);

void sim_io_dump(const struct sim *sim);

#endif
