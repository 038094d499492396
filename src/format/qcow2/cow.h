/*
 * A step of a write that changes L2, between write.c and cow.c.
 *
 *   range_start     guest                guest + length      range_end
 *      |<-- head -->|<------ data ------->|<---- tail ---->|
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef QCOW2_COW_H
#define QCOW2_COW_H

#include "format/qcow2/qcow2.h"

enum qcow2_write_mode {
    QCOW2_WRITE_DIRECT,
    QCOW2_WRITE_FRESH,
    QCOW2_WRITE_REUSE,
    QCOW2_WRITE_FILL,
    QCOW2_WRITE_PUBLISH,
};

struct qcow2_step {
    enum qcow2_write_mode mode;
    struct qcow2_slice *slice; /* pinned */
    uint64_t guest;
    size_t length;
    uint64_t first_guest; /* of the first cluster */
    uint32_t clusters;
    uint64_t range_start, range_end; /* guest; in units of clusters, FILL: of subclusters */
    uint64_t host;                   /* of the first cluster */
    bool host_is_zero;               /* nothing was ever written there: zeroes need not be */
    unsigned reserved;               /* entries of the freed list that were promised and not used */
    struct qcow2_in_flight in_flight;
};

/** Writes the step's data with what it must fill around it, as one host write. */
HWS_MUST_CHECK int qcow2_co_write_filled(struct qcow2 *q, const struct qcow2_step *step,
                                         struct sgl data);

/**
 * Puts what a replaced L2 entry named on the freed list, using one promised entry (also where it
 * named nothing). Caller holds q->lock.
 */
void qcow2_free_entry(struct qcow2 *q, uint64_t entry);

#endif
