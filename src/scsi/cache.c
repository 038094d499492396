/*
 * SYNCHRONIZE CACHE, PRE-FETCH and START STOP UNIT (SBC-4, 5.33, 5.14 and 5.31), and PREVENT ALLOW
 * MEDIUM REMOVAL (5.15).
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "scsi/internal.h"

/* A NUMBER OF BLOCKS of zero means: up to the last one. */
static int check_range(struct call *c)
{
    struct extent e = cdb_extent(c);
    return extent_check(c, &e);
}

/* IMMED lets us answer early; we answer when it is done. */
int co_synchronize_cache(struct call *c)
{
    int status = check_range(c);
    if (status)
        return status;
    int result = co_root_flush(c->disk->root);
    return result < 0 ? fail_errno(c, result, true) : SCSI_GOOD;
}

/* GOOD, and not CONDITION MET: not all of the blocks are in the cache now. */
int co_pre_fetch(struct call *c)
{
    return check_range(c);
}

int co_start_stop_unit(struct call *c)
{
    struct scsi_disk *disk = c->disk;
    bool start = c->cdb[4] & 0x01, no_flush = c->cdb[4] & 0x04;
    rt_mutex_lock(&disk->lock);
    /* SBC-4, table 13: starting is allowed whoever holds a reservation, the rest is not. */
    bool conflict = !start && reservation_conflicts(disk, c->nexus, RESERVE_WRITE);
    if (!conflict && start)
        atomic_fetch_and(&disk->gate, ~(unsigned)GATE_STOPPED);
    else if (!conflict)
        atomic_fetch_or(&disk->gate, GATE_STOPPED);
    rt_mutex_unlock(&disk->lock);
    if (conflict)
        return SCSI_RESERVATION_CONFLICT;
    int result = start || no_flush || disk->read_only ? 0 : co_root_flush(disk->root);
    return result < 0 ? fail_errno(c, result, true) : SCSI_GOOD;
}

/* The medium cannot be removed; who asks for that has it. SPC-4, table 65: to allow is free. */
int co_prevent_allow(struct call *c)
{
    if (!(c->cdb[4] & 0x03))
        return SCSI_GOOD;
    rt_mutex_lock(&c->disk->lock);
    bool conflict = reservation_conflicts(c->disk, c->nexus, RESERVE_WRITE);
    rt_mutex_unlock(&c->disk->lock);
    return conflict ? SCSI_RESERVATION_CONFLICT : SCSI_GOOD;
}
