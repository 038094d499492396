/*
 * Compaction of an image that nobody else uses; compact.c.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef QCOW2_COMPACT_H
#define QCOW2_COMPACT_H

#include "format/qcow2/qcow2.h"

/** The driver's co_compact. */
HWS_MUST_CHECK int qcow2_co_compact(struct block_node *node, bool zeroes,
                                    const struct block_progress *progress,
                                    struct block_compact *ret, struct hws_error *err);

#endif
