/*
 * Merging the layers of a chain while a guest reads and writes it.
 *
 *   commit    base <- a <- b <- top        b and a go down into base:     base' <- top
 *             base <- a <- top             top and a go down into base:   base' is the top
 *   stream    base <- a <- b <- top        a and b come up into top:      base <- top'
 *             base <- a <- top             all comes up into top:         top', with no backing
 * file
 *
 * The layer that takes the data gains what it reads as through the layers that are to go, so that
 * the chain reads the same at every moment, before the links change and after: a job may end at
 * any instant, by a failure, a cancel or a crash.
 *
 *   1  the layer that takes the data gets the right to write (drained)
 *   2  copying, piece after piece, while the guest goes on; where the guest can write to what is
 *      copied, through a gate (block/gate.h)
 *   3  all of it is made durable
 *   4  the switch (drained): what is left, the image above records its new backing file, the
 *      edges change
 *   5  what fell out is closed
 *
 * The controlling coroutine runs a job; copying has a queue thread of its own. Nobody else may
 * change the graph, or the size of the root, meanwhile.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef JOB_LIVE_LIVE_H
#define JOB_LIVE_LIVE_H

#include "block/block.h"
#include <stdatomic.h>

enum live_phase {
    LIVE_STARTING,
    LIVE_COPYING,
    LIVE_WAITING,   /* all is copied, and kept so, until `complete` */
    LIVE_SWITCHING, /* cannot be cancelled any more */
};

/** How others steer a job that runs, and see how far it is. Any thread; zeroed at the start. */
struct live_control {
    atomic_bool cancel, pause;
    atomic_bool hold; /* set before the start: wait, once all is copied, until it is cleared */
    _Atomic uint64_t rate_bytes;              /* of data moved a second; 0: no limit */
    _Atomic uint64_t done_bytes, total_bytes; /* gone over, of the range to go over */
    _Atomic uint64_t moved_bytes;             /* read and written */
    _Atomic int phase;                        /* enum live_phase */
};

struct live_job {
    struct block_root *root;
    /* commit: the uppermost layer that goes, which may be the top. stream: the layer that takes. */
    struct block_node *upper;
    /* commit: the layer that takes. stream: the layer that stays below, or NULL. */
    struct block_node *base;
    /* What the image above the gap is to record: of @base, as that image names it. NULL where
       no image does (commit of the top; stream without a base). */
    const char *name, *format;
    unsigned requests; /* in flight, up to 16; 0: 4 */
    struct live_control *control;
    /** Called before step 4, while requests still run. A failure ends the job. May be NULL. */
    int (*co_prepare)(void *arg, struct hws_error *err);
    /**
     * Called in step 4, with the root drained and all data durable in the layer that takes it. A
     * failure gives the switch up. After a success of a commit of the top nothing can fail. May be
     * NULL.
     */
    int (*co_switch)(void *arg, struct hws_error *err);
    void *arg;
    uint64_t ret_pause_ns; /* how long requests were held at the switch */
};

/** Refuses what cannot be done; changes nothing. */
HWS_MUST_CHECK int co_live_check_commit(const struct live_job *job, struct hws_error *err);
HWS_MUST_CHECK int co_live_check_stream(const struct live_job *job, struct hws_error *err);

/**
 * Both: @return 0 when the chain has its new shape, else it has its old one, and reads the same.
 * -ECANCELED where the control said so.
 */
HWS_MUST_CHECK int co_live_commit(struct live_job *job, struct hws_error *err);
HWS_MUST_CHECK int co_live_stream(struct live_job *job, struct hws_error *err);

#endif
