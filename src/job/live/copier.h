/*
 * Copying inside a chain that is in use: what commit and stream have in common.
 *
 * Workers take pieces in ascending order from a cursor. Where the guest may write to what is
 * copied, a worker moves the cursor first and locks the piece then; a change of the guest holds
 * its own range and looks at the cursor afterwards:
 *
 *     in front of the cursor   it is copied later, with the change
 *     behind it                the change is passed on at once (copier_mirror)
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef JOB_LIVE_COPIER_H
#define JOB_LIVE_COPIER_H

#include "block/gate.h"
#include "job/live/live.h"
#include "rt/sync.h"

/* Data of one piece, or a cluster where that is more. A change of the guest waits at most for the
   copying of the pieces that it touches. */
#define COPIER_PIECE_BYTES ((uint64_t)256 * KiB)
/* A piece in which nothing is to be done. */
#define COPIER_HOLE_BYTES (64 * MiB)

enum copier_step { STEP_NONE, STEP_DATA, STEP_ZERO };

struct copier {
    struct block_gate gate; /* first: the gate's callbacks get it */
    /* Set by the owner. */
    struct live_job *job;
    bool gated;
    struct block_node *from, *to; /* read through, written */
    unsigned zero_flags;          /* of co_block_write_zeroes() */
    uint64_t end;                 /* [0, end) is gone over */
    uint64_t unit;                /* pieces end at multiples of it, a power of two */
    /* What is to be done from @at on, and for how much of @length; failures name a node. */
    int (*co_step)(struct copier *c, uint64_t at, uint64_t length, uint64_t *ret_length,
                   enum copier_step *ret, const struct block_node **ret_failed);

    /* The copier's own. */
    uint64_t piece_bytes;
    struct co_mutex take; /* of the cursor */
    _Atomic uint64_t cursor;
    struct rt_mutex guard; /* of the rest */
    uint64_t paced_ns;
    int error;
    const struct block_node *error_node;
    uint64_t error_offset;
    atomic_bool ended;
    struct co_group workers;
};

void copier_init(struct copier *c);
void copier_destroy(struct copier *c);

/** Copies all. @return 0, -ECANCELED, or the first failure, told in @err. */
HWS_MUST_CHECK int co_copier_run(struct copier *c, struct hws_error *err);

/** Copies a range once more, by the calling coroutine; a failure ends the copier. */
void co_copier_range(struct copier *c, uint64_t offset, uint64_t length);

/** The gate's co_changed of a copier whose target must follow what the guest changes. */
void co_copier_mirror(struct block_gate *gate, uint64_t offset, uint64_t length,
                      const struct sgl *data);

/** Waits while the job is held, and prepares the switch. @return 0, -ECANCELED, or a failure of the
 * mirror. */
HWS_MUST_CHECK int co_copier_hold(struct copier *c, struct hws_error *err);

/** What has failed until now, told in @err. */
HWS_MUST_CHECK int copier_verdict(struct copier *c, struct hws_error *err);

/* ---- what commit and stream check alike ---- */

/** Layers from @upper down to @base, which is in its chain; 0: it is not. */
unsigned live_depth(const struct block_node *upper, const struct block_node *base);
/** The layer over @node in the root's chain; NULL: it is the top. */
struct block_node *live_above(const struct live_job *job, const struct block_node *node);
/** Refuses where a layer from @from down to, and without, @to has internal snapshots. */
HWS_MUST_CHECK int co_live_refuse_snapshots(struct block_node *from, const struct block_node *to,
                                            struct hws_error *err);

#endif
