/*
 * Going over the whole of an image with several requests in flight, on several queue threads: what
 * copying and comparing have in common.
 *
 *     cursor   over the source's map, through its whole backing chain; each extent is asked for
 * once workers  each takes the next piece, and calls `co_piece` with it
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef JOB_COPY_SCAN_H
#define JOB_COPY_SCAN_H

#include "block/block.h"
#include "base/list.h"
#include "job/copy/copy.h"
#include "rt/sync.h"
#include <stdatomic.h>

/**
 * Pieces of data have at most this much (or `unit`, where that is more), and end at multiples of
 * it. Holes may be of any length.
 */
#define SCAN_PIECE_BYTES ((uint64_t)1 * MiB)

struct scan_piece {
    uint64_t offset, length;
    bool zero; /* the source reads as zeroes; else it may */
};

struct scan {
    /* Set by the owner. */
    struct block_node *from;
    uint64_t start, end; /* where pieces lie; the source has them at `shift` more (modulo 2^64) */
    uint64_t shift;
    const struct job_load *load;
    unsigned buffers; /* of a piece for each worker */
    uint64_t unit;    /* holes and data are told apart in units of this, a power of two; 0: 1 */
    /* Does what there is to do; ends with scan_done() or scan_fail(). */
    void (*co_piece)(struct scan *scan, const struct scan_piece *piece, uint8_t *buffer);

    /* The scan's own. */
    uint64_t piece_bytes;
    struct co_mutex lock; /* of the cursor */
    uint64_t cursor, extent_end;
    bool extent_zero;
    bool salvage;          /* what the map of cannot be read is data; set by the owner */
    struct rt_mutex guard; /* of the rest */
    uint64_t done;
    uint64_t paced_ns; /* until when the bytes moved so far have been paid for */
    int error;         /* the first one */
    uint64_t error_offset;
    const struct block_node *error_node; /* NULL: stopped, or no memory */
    _Atomic bool ended;
    struct list active;  /* pieces being worked on, ascending; guarded by `guard` */
    uint64_t checked_ns; /* when the last checkpoint began */
    bool checking;
    struct hws_error failed_check;
    struct co_group workers;
};

/** Goes over [scan->start, scan->end). @return 0, or what the first failure was, told in @err. */
HWS_MUST_CHECK int co_scan(struct scan *scan, const char *verb_of_others, struct hws_error *err);

/**
 * As co_block_status_chain(); what a format stores in a hole of its file (preallocated, or punched
 * by the host) has BLOCK_STATUS_ZERO as well.
 */
HWS_MUST_CHECK int co_scan_extent(struct block_node *node, uint64_t offset, uint64_t length,
                                  struct block_extent *ret);

/** A piece is done. Any queue thread. */
void scan_done(struct scan *scan, uint64_t bytes);

/** Holds the worker back as the load's rate asks, after it has moved @bytes. */
void co_scan_pace(struct scan *scan, uint64_t bytes);

/** Ends the scan: no worker takes another piece. @node where it happened; NULL with -ENOMEM. */
void scan_fail(struct scan *scan, int error, const struct block_node *node, uint64_t offset);

/** Ends it without a failure: all is known. */
void scan_end(struct scan *scan);

#endif
