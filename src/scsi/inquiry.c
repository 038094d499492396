/*
 * Standard INQUIRY data (SPC-4, 6.6.2). Vital product data is in vpd.c.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "scsi/internal.h"

#define STANDARD_LENGTH 96

static const uint16_t versions[] = {
    0x00a0, /* SAM-5 */
    0x0460, /* SPC-4 */
    0x04c0, /* SBC-3: initiators look for the oldest that has what they use */
    0x0600, /* SBC-4 */
};

static void fill_standard(const struct scsi_disk *disk, uint8_t *d)
{
    d[2] = 0x06; /* SPC-4 */
    d[3] = 0x12; /* HISUP; response data format 2 */
    d[4] = STANDARD_LENGTH - 5;
    d[5] = (uint8_t)(0x10 | (disk->explicit_access ? 0x20 : 0) | 0x08); /* TPGS; 3PC */
    d[6] = 0x10;                                                        /* MULTIP */
    d[7] = 0x02;                                                        /* CMDQUE */
    memcpy(d + 8, disk->vendor, sizeof(disk->vendor));
    memcpy(d + 16, disk->product, sizeof(disk->product));
    memcpy(d + 32, disk->revision, sizeof(disk->revision));
    for (unsigned i = 0; i < ARRAY_LEN(versions); i++)
        store_be16(d + 58 + 2 * (size_t)i, versions[i]);
}

int co_inquiry(struct call *c)
{
    bool vital = c->cdb[1] & 1;
    uint8_t data[STANDARD_LENGTH] = {0};
    reply_begin(c, load_be16(c->cdb + 3));
    if (!vital && c->cdb[2])
        return fail_cdb(c, 2, 7);
    if (!c->lun) {
        if (vital)
            return fail_cdb(c, 1, 0);
        data[0] = 0x7f; /* no such logical unit */
        data[2] = 0x06;
        data[3] = 0x12;
        data[4] = STANDARD_LENGTH - 5;
    } else if (vital) {
        return vpd_page(c, c->cdb[2]);
    } else {
        fill_standard(c->disk, data);
    }
    reply_put(c, data, sizeof(data));
    return reply_end(c);
}
