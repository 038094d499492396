/*
 * Limits and results of EXTENDED COPY, shared with RECEIVE COPY RESULTS.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef SCSI_XCOPY_H
#define SCSI_XCOPY_H

#include "scsi/internal.h"

#define XCOPY_CSCDS         16
#define XCOPY_SEGMENTS      32
#define XCOPY_CSCD_BYTES    32
#define XCOPY_SEGMENT_BYTES 28
#define XCOPY_DESCRIPTOR_BYTES \
    (XCOPY_CSCDS * XCOPY_CSCD_BYTES + XCOPY_SEGMENTS * XCOPY_SEGMENT_BYTES)
#define XCOPY_SEGMENT_BYTES_MAX (UINT16_MAX * 4096u)
#define XCOPY_GRANULARITY       12 /* of what is copied: 2^12 bytes */

/* The descriptor types (SPC-4, table 128): a block segment, and a CSCD by VPD page 83h. */
#define XCOPY_BLOCK_TO_BLOCK 0x02
#define XCOPY_IDENTIFICATION 0xe4

/** Remembers how the copy @list_id of this LUN ended, for RECEIVE COPY RESULTS. */
void copy_result_keep(struct call *c, uint8_t list_id, int status, unsigned segments,
                      uint64_t bytes);

#endif
