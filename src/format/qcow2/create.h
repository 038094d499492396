/*
 * Options of new images, and what create.c shares with prealloc.c.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef QCOW2_CREATE_H
#define QCOW2_CREATE_H

#include "format/qcow2/qcow2.h"

struct qcow2_create {
    uint64_t size, cluster_size, refcount_bits;
    int compat, extended_l2, compression, preallocation;
    bool lazy_refcounts;
    char *backing_file, *backing_format;
    char *data_file;
    bool data_file_raw;
};

/** What the options decide of the header, alignment and range checked; no names. */
HWS_MUST_CHECK int qcow2_create_decide(const struct qcow2_create *o, struct qcow2_header *h,
                                       struct hws_error *err);

/** Adds the names of features to the header of a new version 3 image; -ENOMEM. */
HWS_MUST_CHECK int qcow2_create_feature_names(struct qcow2_header *h);

/**
 * Maps the guest clusters of [@start, @end), where they have none, to host clusters of their own,
 * as @mode says.
 */
HWS_MUST_CHECK int qcow2_co_preallocate(struct qcow2 *q, uint64_t start, uint64_t end,
                                        enum block_preallocation mode, struct hws_error *err);
/** The driver's co_preallocate. */
HWS_MUST_CHECK int qcow2_co_preallocate_range(struct block_node *node, uint64_t offset,
                                              uint64_t length, enum block_preallocation mode,
                                              struct hws_error *err);

#endif
