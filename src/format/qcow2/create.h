/*
 * Options of new images, and what create.c shares with prealloc.c.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef QCOW2_CREATE_H
#define QCOW2_CREATE_H

#include "format/qcow2/qcow2.h"

enum qcow2_preallocation {
    QCOW2_PREALLOC_OFF,
    QCOW2_PREALLOC_METADATA,
    QCOW2_PREALLOC_FALLOC,
    QCOW2_PREALLOC_FULL,
};

struct qcow2_create {
    uint64_t size, cluster_size, refcount_bits;
    int compat, extended_l2, compression, preallocation;
    bool lazy_refcounts;
    char *backing_file, *backing_format;
};

/** What the options decide of the header, alignment and range checked; no names. */
HWS_MUST_CHECK int qcow2_create_decide(const struct qcow2_create *o, struct qcow2_header *h,
                                       struct hws_error *err);

/** Maps every guest cluster of a new image to host clusters of its own, as @mode says. */
HWS_MUST_CHECK int qcow2_co_preallocate(struct qcow2 *q, enum qcow2_preallocation mode,
                                        struct hws_error *err);

#endif
