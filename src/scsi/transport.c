/*
 * TransportIDs: how persistent reservations name an initiator port (SPC-4, 7.6.4).
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "scsi/internal.h"

#define PROTOCOL_ISCSI 5
#define FIXED_BYTES    24 /* of every protocol but iSCSI */
#define ISCSI_NAME_MIN 20 /* ADDITIONAL LENGTH is at least this, and a multiple of four */
#define INITIATOR_MAX  240

int transport_id_from_name(const char *name, struct identity *ret)
{
    size_t length = strlen(name);
    if (length == 0 || length > INITIATOR_MAX)
        return -EINVAL;
    size_t field = MAX(align_up(length + 1, 4), (uint64_t)ISCSI_NAME_MIN);
    memset(ret->transport_id, 0, sizeof(ret->transport_id));
    /* FORMAT CODE 01b: an initiator port (name and ISID); 00b: the initiator device. */
    ret->transport_id[0] = (uint8_t)(PROTOCOL_ISCSI | (strstr(name, ",i,0x") ? 0x40 : 0));
    store_be16(ret->transport_id + 2, (uint16_t)field);
    memcpy(ret->transport_id + 4, name, length);
    ret->length = (uint16_t)(4 + field);
    return 0;
}

size_t transport_id_length(const uint8_t *bytes, size_t left)
{
    struct cursor c = cursor_of(bytes, left);
    uint8_t head = cursor_u8(&c);
    cursor_u8(&c);
    uint16_t additional = cursor_be16(&c);
    size_t length = FIXED_BYTES;
    if ((head & 0x0f) == PROTOCOL_ISCSI) {
        length = 4u + additional;
        if (additional < ISCSI_NAME_MIN || additional % 4 || length > SCSI_TRANSPORT_ID_MAX)
            return 0;
    }
    return !c.failed && length <= left ? length : 0;
}
