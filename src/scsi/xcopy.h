/*
 * Limits and results of EXTENDED COPY, shared with RECEIVE COPY RESULTS.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef SCSI_XCOPY_H
#define SCSI_XCOPY_H

#include "scsi/internal.h"

#define XCOPY_CSCDS    16
#define XCOPY_SEGMENTS 32

/** Remembers how the copy @list_id of this LUN ended, for RECEIVE COPY RESULTS. */
void copy_result_keep(struct call *c, uint8_t list_id, int status, unsigned segments,
                      uint64_t bytes);

#endif
