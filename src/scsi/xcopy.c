/*
 * EXTENDED COPY(LID1): block to block, between disks that this nexus sees (SPC-4, 6.4).
 *
 *     0 list id | 1 flags | 2 be16 CSCD descriptors | 8 be32 segment descriptors | 12 be32 inline
 *     16  CSCD descriptors of 32 bytes: E4h, an identification as in VPD page 83h
 *     ..  segment descriptors of 28 bytes: 02h, block device to block device
 *
 * A CSCD is looked for among the LUNs of the nexus that asks, and nowhere else; where the nexus
 * stands for many initiators, its owner tells which of them are seen together. What it may not do
 * by itself (reservations, write protection, ports that are not active), it may not do by a copy.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "scsi/xcopy.h"

#define HEADER_BYTES  16
#define CSCD_BYTES    XCOPY_CSCD_BYTES
#define SEGMENT_BYTES XCOPY_SEGMENT_BYTES
#define LIST_MAX      (HEADER_BYTES + XCOPY_DESCRIPTOR_BYTES)

struct copy {
    struct call *c;
    struct scsi_lun *luns[XCOPY_CSCDS];
    unsigned cscd_count, segment_count;
    const uint8_t *segments;
    uint8_t *scratch;
    bool readable[XCOPY_CSCDS], writable[XCOPY_CSCDS]; /* by whoever asks, as far as asked */
    unsigned segments_done;
    uint64_t bytes_done;
};

struct wanted {
    uint8_t code_set, type, length;
    const uint8_t *bytes;
};

static bool lun_matches(const struct scsi_lun *lun, const void *arg)
{
    const struct wanted *w = arg;
    const struct scsi_disk *disk = lun->disk;
    if (w->code_set == 1 && w->type == 3)
        return w->length == 8 && !memcmp(w->bytes, disk->naa, 8);
    if (w->code_set == 1 && w->type == 2)
        return w->length == 8 && !memcmp(w->bytes, disk->eui, 8);
    return false;
}

/* SPC-4, 6.4.5.2: identification descriptor CSCD descriptor. */
static int resolve_cscd(struct copy *x, const uint8_t *d, unsigned at, struct scsi_lun **ret)
{
    struct call *c = x->c;
    if (d[0] != XCOPY_IDENTIFICATION)
        return fail_with(c, SCSI_KEY_ILLEGAL_REQUEST, ASC_BAD_TARGET_TYPE);
    /* LU ID TYPE is ignored; NUL (obsolete: a disk that is none) is refused, and so is anything but
       a direct access block device. */
    if (d[1] & 0x3f)
        return fail_parameter(c, at + 1, 5);
    struct wanted wanted = {
        .code_set = d[4] & 0x0f, .type = d[5] & 0x0f, .length = d[7], .bytes = d + 8};
    if ((d[5] & 0x30) || wanted.length > 20)
        return fail_parameter(c, at + (d[5] & 0x30 ? 5 : 7), 7);
    *ret = lun_pin_by(c->nexus, lun_matches, &wanted);
    if (!*ret)
        return fail_with(c, SCSI_KEY_COPY_ABORTED, ASC_COPY_TARGET_NOT_REACHABLE);
    uint32_t block = load_be32(d + 28) & 0xffffff; /* of the device type specific parameters */
    if (block != 0 && block != (*ret)->disk->block_bytes)
        return fail_parameter(c, at + 29, 7);
    return 0;
}

/* ---- segments ---- */

struct segment {
    unsigned from_index, to_index; /* of the CSCDs */
    struct scsi_disk *from, *to;
    struct scsi_lun *to_lun;
    uint64_t from_offset, to_offset, bytes;
};

static bool permitted(struct call *c, struct scsi_disk *disk, bool write)
{
    rt_mutex_lock(&disk->lock);
    bool reserved = (disk->spc2_holder && disk->spc2_holder != c->nexus) ||
                    reservation_conflicts(disk, c->nexus, write ? RESERVE_WRITE : RESERVE_READ);
    rt_mutex_unlock(&disk->lock);
    bool active = access_state(disk, c->nexus->port_group) <= SCSI_ACTIVE_NON_OPTIMIZED;
    bool stopped = atomic_load(&disk->gate) & GATE_STOPPED;
    bool protected = disk->read_only || atomic_load(&disk->software_write_protect);
    return !reserved && active && !stopped && !(write && protected);
}

/* COPY ABORTED, with a segment pointer (SPC-4, 4.5.2.4.5) to the byte @at of the parameter list. */
static int fail_segment(struct call *c, unsigned at)
{
    return fail_sense(c, &(struct sense){.key = SCSI_KEY_COPY_ABORTED,
                                         .asc = ASC_NONE,
                                         .has_field = true,
                                         .bit = 7,
                                         .byte = (uint16_t)at});
}

/* SPC-4, 6.4.6.2 and .4. The count is in blocks of the source, or with DC of the destination. */
static int parse_segment(struct copy *x, unsigned index, struct segment *ret)
{
    const uint8_t *d = x->segments + (size_t)index * SEGMENT_BYTES;
    unsigned at = HEADER_BYTES + x->cscd_count * CSCD_BYTES + index * SEGMENT_BYTES;
    struct call *c = x->c;
    if (load_be16(d + 2) != SEGMENT_BYTES - 4)
        return fail_parameter(c, at + 2, 7);
    uint16_t from = load_be16(d + 4), to = load_be16(d + 6), count = load_be16(d + 10);
    if (from >= x->cscd_count || to >= x->cscd_count)
        return fail_with(c, SCSI_KEY_COPY_ABORTED, ASC_COPY_TARGET_NOT_REACHABLE);
    ret->from_index = from;
    ret->to_index = to;
    ret->from = x->luns[from]->disk;
    ret->to_lun = x->luns[to];
    ret->to = ret->to_lun->disk;
    const struct scsi_disk *counted = d[1] & 0x02 ? ret->to : ret->from;
    ret->bytes = (uint64_t)count << counted->block_shift;
    uint64_t from_lba = load_be64(d + 12), to_lba = load_be64(d + 20);
    if (ret->bytes % ret->from->block_bytes || ret->bytes % ret->to->block_bytes)
        return fail_parameter(c, at + 10, 7);
    if (!range_fits(from_lba, ret->bytes >> ret->from->block_shift, disk_blocks(ret->from)))
        return fail_segment(c, at + 12);
    if (!range_fits(to_lba, ret->bytes >> ret->to->block_shift, disk_blocks(ret->to)))
        return fail_segment(c, at + 20);
    ret->from_offset = from_lba << ret->from->block_shift;
    ret->to_offset = to_lba << ret->to->block_shift;
    return 0;
}

/* Where one nexus stands for many initiators, whether the one that asks sees that LUN too. */
static bool co_reaches(struct copy *x, unsigned index, bool write)
{
    const struct scsi_nexus *nexus = x->c->nexus;
    bool *known = write ? &x->writable[index] : &x->readable[index];
    uint16_t asked = x->c->lun->number, other = x->luns[index]->number;
    if (!*known)
        *known = !nexus->co_may_copy || asked == other ||
                 nexus->co_may_copy(nexus->may_copy_arg, asked, other, write);
    return *known;
}

static int co_copy_piece(struct copy *x, const struct segment *s, uint64_t done, size_t part)
{
    struct iovec iov;
    struct range_entry entry;
    struct sgl buffer = sgl_one(&iov, x->scratch, part);
    unsigned flags = atomic_load(&s->to->write_cache) ? 0 : BLOCK_FUA;
    int result = co_root_read(s->from->root, s->from_offset + done, buffer, 0);
    if (result < 0)
        return result;
    co_range_lock(&s->to->ranges, &entry, s->to_offset + done, part, false);
    result = co_root_write(s->to->root, s->to_offset + done, buffer, flags);
    range_unlock(&s->to->ranges, &entry);
    return result;
}

/*
 * Where source and destination overlap, the copy goes from the end that keeps what is still to be
 * read: as if all had been read first.
 */
static int co_copy_segment(struct copy *x, const struct segment *s, unsigned epoch)
{
    bool backwards = s->from == s->to && s->to_offset > s->from_offset;
    uint64_t left = s->bytes, front = 0;
    if (!co_reaches(x, s->from_index, false) || !co_reaches(x, s->to_index, true))
        return fail_with(x->c, SCSI_KEY_COPY_ABORTED, ASC_COPY_TARGET_NOT_REACHABLE);
    if (!permitted(x->c, s->from, false) || !permitted(x->c, s->to, true))
        return fail_with(x->c, SCSI_KEY_COPY_ABORTED, ASC_THIRD_PARTY_FAILURE);
    while (left) {
        size_t part = MIN(left, SCRATCH_BYTES);
        int result = call_cancelled(x->c);
        if (atomic_load(&s->to_lun->epoch) != epoch)
            result = -ECANCELED;
        if (result == 0)
            result = co_copy_piece(x, s, backwards ? left - part : front, part);
        if (result == -ENOMEM || result == -ECANCELED)
            return fail_errno(x->c, result, true);
        if (result < 0)
            return fail_with(x->c, SCSI_KEY_COPY_ABORTED, ASC_THIRD_PARTY_FAILURE);
        left -= part;
        front += part;
        x->bytes_done += part;
    }
    return 0;
}

static int co_run_segments(struct copy *x)
{
    struct segment segment;
    int status = 0;
    for (unsigned i = 0; i < x->segment_count && !status; i++)
        status = parse_segment(x, i, &segment); /* all, before the first one is carried out */
    for (unsigned i = 0; i < x->segment_count && !status; i++) {
        status = parse_segment(x, i, &segment);
        if (!status) {
            unsigned epoch = lun_enter(segment.to_lun);
            status = co_copy_segment(x, &segment, epoch);
            lun_leave(segment.to_lun, epoch);
        }
        x->segments_done += !status;
    }
    return status;
}

/* ---- the command ---- */

/* Types come first: of one that is not known, the length is not known either. */
static int check_segment_types(struct call *c, const uint8_t *segments, size_t length)
{
    for (size_t at = 0; at < length; at += SEGMENT_BYTES) {
        if (segments[at] != XCOPY_BLOCK_TO_BLOCK)
            return fail_with(c, SCSI_KEY_ILLEGAL_REQUEST, ASC_BAD_SEGMENT_TYPE);
        if (length - at < SEGMENT_BYTES)
            return fail_parameter(c, 8, 7);
    }
    return 0;
}

static int check_lengths(struct call *c, const uint8_t *list, size_t length)
{
    size_t cscds = load_be16(list + 2), segments = load_be32(list + 8);
    if (load_be32(list + 12))
        return fail_with(c, SCSI_KEY_ILLEGAL_REQUEST, ASC_INLINE_DATA);
    if (cscds % CSCD_BYTES)
        return fail_parameter(c, 2, 7);
    if (cscds > XCOPY_CSCDS * CSCD_BYTES)
        return fail_with(c, SCSI_KEY_ILLEGAL_REQUEST, ASC_TOO_MANY_TARGETS);
    if (segments > XCOPY_SEGMENTS * SEGMENT_BYTES)
        return fail_with(c, SCSI_KEY_ILLEGAL_REQUEST, ASC_TOO_MANY_SEGMENTS);
    if (HEADER_BYTES + cscds + segments > length)
        return fail_with(c, SCSI_KEY_ILLEGAL_REQUEST, ASC_PARAMETER_LIST_LENGTH);
    return check_segment_types(c, list + HEADER_BYTES + cscds, segments);
}

static int co_copy(struct copy *x, const uint8_t *list)
{
    unsigned count = load_be16(list + 2) / CSCD_BYTES;
    int status = 0;
    x->segment_count = load_be32(list + 8) / SEGMENT_BYTES;
    x->segments = list + HEADER_BYTES + (size_t)count * CSCD_BYTES;
    for (unsigned i = 0; i < count && !status; i++) {
        unsigned at = HEADER_BYTES + i * CSCD_BYTES;
        status = resolve_cscd(x, list + at, at, &x->luns[i]);
        x->cscd_count += x->luns[i] != NULL;
    }
    if (!status && x->segment_count && !(x->scratch = malloc(SCRATCH_BYTES)))
        status = SCSI_BUSY;
    if (!status)
        status = co_run_segments(x);
    free(x->scratch);
    for (unsigned i = 0; i < x->cscd_count; i++)
        lun_unpin(x->luns[i]);
    return status;
}

int co_extended_copy(struct call *c)
{
    size_t length = load_be32(c->cdb + 10);
    if (length == 0) {
        call_residual(c, 0, c->task->data_out.length);
        return SCSI_GOOD;
    }
    if (length < HEADER_BYTES || length > LIST_MAX)
        return fail_with(c, SCSI_KEY_ILLEGAL_REQUEST, ASC_PARAMETER_LIST_LENGTH);
    autofree uint8_t *list = malloc(length);
    struct copy x = {.c = c};
    if (!list)
        return SCSI_BUSY;
    int status = parameters_load(c, list, length);
    if (status || (status = check_lengths(c, list, length)))
        return status;
    status = co_copy(&x, list);
    /* LIST ID USAGE 11b: the list has no identifier, and no result is kept. */
    if (((list[1] >> 3) & 3) != 3)
        copy_result_keep(c, list[0], status, x.segments_done, x.bytes_done);
    return status;
}
