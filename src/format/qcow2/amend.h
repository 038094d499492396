/*
 * The steps of changing an image's options (amend.c), each of which leaves a whole image.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef QCOW2_AMEND_H
#define QCOW2_AMEND_H

#include "format/qcow2/qcow2.h"

struct qcow2_amend {
    int compat, lazy_refcounts, data_file_raw; /* 0: as it is */
    uint64_t size, refcount_bits;              /* 0: as it is */
    char *backing_file, *backing_format, *data_file;
};

extern const struct option_desc qcow2_amend_options[];

HWS_MUST_CHECK int qcow2_co_amend(struct block_node *node, const void *options, bool force,
                                  const struct block_progress *progress, struct hws_error *err);

/** Edits a copy of the header; @return 0 or -errno. */
typedef int qcow2_edit_fn(struct qcow2_header *header, const void *arg);

/** Replaces the header by what @edit makes of it, durably. What was written before is so too. */
HWS_MUST_CHECK int qcow2_co_header_edit(struct qcow2 *q, qcow2_edit_fn *edit, const void *arg,
                                        struct hws_error *err);

/** Version 2 becomes version 3 (amend_version.c). */
HWS_MUST_CHECK int qcow2_co_upgrade(struct qcow2 *q, struct hws_error *err);
/** -EPROTONOSUPPORT where the image has what version 2 cannot hold. */
HWS_MUST_CHECK int qcow2_co_check_downgrade(struct qcow2 *q, struct hws_error *err);
/** Version 3 becomes version 2: zero clusters become data or nothing. */
HWS_MUST_CHECK int qcow2_co_downgrade(struct qcow2 *q, const struct block_progress *progress,
                                      struct hws_error *err);

/** Reference counts of 1 << @order bits (refcount_width.c). -EOVERFLOW where one does not fit. */
HWS_MUST_CHECK int qcow2_co_refcount_width(struct qcow2 *q, unsigned order,
                                           const struct block_progress *progress,
                                           struct hws_error *err);

#endif
