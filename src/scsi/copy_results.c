/*
 * RECEIVE COPY RESULTS: what copies are possible, and how the last ones of this nexus ended
 * (SPC-4, 6.24 to 6.27). A copy ends with its command, so it is never found in progress.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "scsi/xcopy.h"

#define NO_ERRORS   0x01
#define WITH_ERRORS 0x02

static struct copy_result *find(struct scsi_nexus *nexus, const struct scsi_lun *lun, uint8_t id)
{
    for (unsigned i = 0; i < COPY_RESULTS; i++) {
        struct copy_result *r = &nexus->copies[i];
        if (r->used && r->list_id == id && r->lun_number == lun->number)
            return r;
    }
    return NULL;
}

void copy_result_keep(struct call *c, uint8_t list_id, int status, unsigned segments,
                      uint64_t bytes)
{
    struct scsi_nexus *nexus = c->nexus;
    rt_mutex_lock(&nexus->lock);
    struct copy_result *r = find(nexus, c->lun, list_id);
    if (!r)
        r = &nexus->copies[nexus->copy_next++ % COPY_RESULTS];
    *r = (struct copy_result){.used = true,
                              .list_id = list_id,
                              .lun_number = c->lun->number,
                              .status = status ? WITH_ERRORS : NO_ERRORS,
                              .segments = (uint16_t)segments,
                              .bytes = bytes,
                              .sense_length = c->task->sense_length};
    memcpy(r->sense, c->task->sense, c->task->sense_length);
    rt_mutex_unlock(&nexus->lock);
}

static void put_status(struct call *c, const struct copy_result *r)
{
    reply_be32(c, 8);
    reply_u8(c, r->status); /* HDD 0 */
    reply_be16(c, r->segments);
    /* TRANSFER COUNT in KiB: the smallest of the units of table 178 is bytes, but it has 32 bits */
    reply_u8(c, 0x01);
    reply_be32(c, (uint32_t)MIN(r->bytes / KiB, (uint64_t)UINT32_MAX));
}

static void put_failure(struct call *c, const struct copy_result *r)
{
    bool failed = r->status == WITH_ERRORS;
    reply_zero(c, 4);
    reply_zero(c, 52);
    reply_u8(c, failed ? (r->sense_length ? SCSI_CHECK_CONDITION : SCSI_BUSY) : SCSI_GOOD);
    reply_zero(c, 1);
    reply_be16(c, r->sense_length);
    reply_put(c, r->sense, r->sense_length);
    reply_patch(c, 0, c->reply_at - 4, 4);
}

static void put_parameters(struct call *c)
{
    reply_be32(c, 42);
    reply_u8(c, 0x01); /* SNLID: a list without identifier is fine */
    reply_zero(c, 3);
    reply_be16(c, XCOPY_CSCDS);
    reply_be16(c, XCOPY_SEGMENTS);
    reply_be32(c, XCOPY_DESCRIPTOR_BYTES);
    reply_be32(c, XCOPY_SEGMENT_BYTES_MAX);
    reply_be32(c, 0); /* no inline data */
    reply_be32(c, 0); /* no held data */
    reply_be32(c, 0); /* nor of streams */
    reply_zero(c, 2);
    reply_be16(c, COPY_RESULTS); /* TOTAL CONCURRENT COPIES */
    reply_u8(c, COPY_RESULTS);   /* MAXIMUM CONCURRENT COPIES */
    reply_u8(c, XCOPY_GRANULARITY);
    reply_u8(c, 0);
    reply_u8(c, 0);
    reply_zero(c, 3);
    reply_u8(c, 2); /* two descriptor types are implemented */
    reply_u8(c, XCOPY_BLOCK_TO_BLOCK);
    reply_u8(c, XCOPY_IDENTIFICATION);
}

int co_receive_copy_results(struct call *c)
{
    struct scsi_nexus *nexus = c->nexus;
    uint8_t action = c->cdb[1] & 0x1f;
    reply_begin(c, load_be32(c->cdb + 10));
    if (action == SA_COPY_OPERATING_PARAMETERS) {
        put_parameters(c);
        return reply_end(c);
    }
    rt_mutex_lock(&nexus->lock);
    struct copy_result *r = find(nexus, c->lun, c->cdb[2]);
    if (r && action == SA_COPY_STATUS_LID1) {
        put_status(c, r);
    } else if (r) {
        put_failure(c, r);
        r->used = false; /* told once */
    }
    rt_mutex_unlock(&nexus->lock);
    return r ? reply_end(c) : fail_cdb(c, 2, 7);
}
