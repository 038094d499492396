/*
 * Sense data: what went wrong, in fixed or descriptor format as D_SENSE of the control mode page
 * says (SPC-4, 4.5). A negative errno of the block layer becomes the sense that fits it best.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "scsi/internal.h"

#define FIXED_LENGTH 18

/* SPC-4, 4.5.2.4.2: field pointer sense key specific data. */
static void encode_field_pointer(const struct sense *sense, uint8_t at[3])
{
    at[0] = (uint8_t)(0x80 | (sense->in_cdb ? 0x40 : 0) |
                      (sense->bit >= 0 ? 0x08 | (sense->bit & 7) : 0));
    store_be16(at + 1, sense->byte);
}

static size_t encode_fixed(const struct sense *sense, uint8_t *ret)
{
    memset(ret, 0, FIXED_LENGTH);
    ret[0] = 0x70;
    ret[2] = sense->key;
    ret[7] = FIXED_LENGTH - 8;
    store_be16(ret + 12, sense->asc);
    /* SPC-4, 4.5.3: VALID only where the value fits into four bytes. */
    if (sense->has_information && sense->information <= UINT32_MAX) {
        ret[0] |= 0x80;
        store_be32(ret + 3, (uint32_t)sense->information);
    }
    if (sense->has_field)
        encode_field_pointer(sense, ret + 15);
    return FIXED_LENGTH;
}

static size_t encode_descriptor(const struct sense *sense, uint8_t *ret)
{
    size_t at = 8;
    memset(ret, 0, 8 + 12 + 8);
    ret[0] = 0x72;
    ret[1] = sense->key;
    store_be16(ret + 2, sense->asc);
    if (sense->has_information) { /* 4.5.2.2 */
        ret[at + 1] = 0x0a;
        ret[at + 2] = 0x80;
        store_be64(ret + at + 4, sense->information);
        at += 12;
    }
    if (sense->has_field) { /* 4.5.2.4 */
        ret[at] = 0x02;
        ret[at + 1] = 0x06;
        encode_field_pointer(sense, ret + at + 4);
        at += 8;
    }
    ret[7] = (uint8_t)(at - 8);
    return at;
}

size_t sense_encode(const struct sense *sense, bool descriptor, uint8_t ret[SCSI_SENSE_MAX])
{
    return descriptor ? encode_descriptor(sense, ret) : encode_fixed(sense, ret);
}

int fail_sense(struct call *c, const struct sense *sense)
{
    bool descriptor = c->disk && atomic_load(&c->disk->descriptor_sense);
    c->task->sense_length = (uint8_t)sense_encode(sense, descriptor, c->task->sense);
    return SCSI_CHECK_CONDITION;
}

int fail_with(struct call *c, uint8_t key, uint16_t asc)
{
    return fail_sense(c, &(struct sense){.key = key, .asc = asc});
}

int fail_cdb(struct call *c, unsigned byte, int bit)
{
    return fail_sense(c, &(struct sense){.key = SCSI_KEY_ILLEGAL_REQUEST,
                                         .asc = ASC_INVALID_FIELD_IN_CDB,
                                         .has_field = true,
                                         .in_cdb = true,
                                         .bit = (int8_t)bit,
                                         .byte = (uint16_t)byte});
}

int fail_parameter(struct call *c, unsigned byte, int bit)
{
    return fail_sense(c, &(struct sense){.key = SCSI_KEY_ILLEGAL_REQUEST,
                                         .asc = ASC_INVALID_FIELD_IN_PARAMETERS,
                                         .has_field = true,
                                         .bit = (int8_t)bit,
                                         .byte = (uint16_t)byte});
}

int fail_miscompare(struct call *c, uint64_t offset)
{
    return fail_sense(c, &(struct sense){.key = SCSI_KEY_MISCOMPARE,
                                         .asc = ASC_MISCOMPARE,
                                         .has_information = true,
                                         .information = offset});
}

int fail_errno(struct call *c, int error, bool write)
{
    switch (-error) {
    case ENOMEM:
    case EAGAIN:
        return SCSI_BUSY;
    case ECANCELED:
        return SCSI_TASK_ABORTED;
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
        return fail_with(c, SCSI_KEY_DATA_PROTECT, ASC_SPACE_ALLOCATION_FAILED);
    case EROFS:
    case EACCES:
    case EPERM:
        return fail_with(c, SCSI_KEY_DATA_PROTECT, ASC_WRITE_PROTECTED);
    case EINVAL: /* the image shrank since the check */
        return fail_with(c, SCSI_KEY_ILLEGAL_REQUEST, ASC_LBA_OUT_OF_RANGE);
    case EIO:
    case EBADMSG:
    case EILSEQ:
        return fail_with(c, SCSI_KEY_MEDIUM_ERROR, write ? ASC_WRITE_ERROR : ASC_READ_ERROR);
    default:
        return fail_with(c, SCSI_KEY_HARDWARE_ERROR, ASC_INTERNAL_FAILURE);
    }
}
