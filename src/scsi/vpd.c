/*
 * Vital product data: pages 00h, 80h, 83h, 86h, 8Fh, B0h, B1h and B2h; B6h is for zoned devices,
 * which this is not, and so is not listed. SPC-4, 7.8; SBC-4, 6.6.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "scsi/internal.h"

static void page_serial(struct call *c)
{
    reply_put(c, c->disk->serial, strlen(c->disk->serial));
}

/* ---- 83h: device identification ---- */

enum { BINARY = 1, ASCII = 2, UTF8 = 3 };
enum { OF_UNIT = 0x00, OF_PORT = 0x10 };
enum { T10 = 1, EUI = 2, NAA = 3, PORT = 4, PORT_GROUP = 5, NAME = 8 };

static void put_designator(struct call *c, uint8_t code, uint8_t type, const void *bytes,
                           size_t length)
{
    reply_u8(c, code);
    reply_u8(c, type);
    reply_u8(c, 0);
    reply_u8(c, (uint8_t)length);
    reply_put(c, bytes, length);
}

static void page_identification(struct call *c)
{
    const struct scsi_disk *disk = c->disk;
    char text[64];
    struct be32 port = be32_of(c->nexus->who.port_id), group = be32_of(c->nexus->port_group);
    memcpy(text, disk->vendor, 8);
    memcpy(text + 8, disk->serial, 32);
    put_designator(c, BINARY, OF_UNIT | NAA, disk->naa, sizeof(disk->naa));
    put_designator(c, BINARY, OF_UNIT | EUI, disk->eui, sizeof(disk->eui));
    put_designator(c, ASCII, OF_UNIT | T10, text, 40);
    /* SPC-4, 7.8.6.11: "naa." and the digits, NUL-padded to a multiple of four bytes. */
    memset(text, 0, sizeof(text));
    snprintf(text, sizeof(text), "naa.%016llx", (unsigned long long)load_be64(disk->naa));
    put_designator(c, UTF8, OF_UNIT | NAME, text, 24);
    put_designator(c, BINARY, OF_PORT | PORT, &port, sizeof(port));
    put_designator(c, BINARY, OF_PORT | PORT_GROUP, &group, sizeof(group));
    const char *name = c->nexus->port_name;
    if (name && strlen(name) < 224) {
        char padded[228] = {0};
        memcpy(padded, name, strlen(name));
        put_designator(c, UTF8, OF_PORT | NAME, padded, align_up(strlen(name) + 1, 4));
    }
}

/* 86h: extended INQUIRY data. */
static void page_extended(struct call *c)
{
    uint8_t d[60] = {0};
    d[1] = 0x07;           /* SIMPSUP, ORDSUP, HEADSUP */
    d[2] = 0x01;           /* V_SUP: there is a volatile cache */
    d[3] = 0x01;           /* LUICLR */
    d[9] = SCSI_SENSE_MAX; /* MAXIMUM SUPPORTED SENSE DATA LENGTH */
    reply_put(c, d, sizeof(d));
}

/* B0h: block limits, SBC-4, 6.6.4. */
static void page_limits(struct call *c)
{
    const struct scsi_disk *disk = c->disk;
    unsigned shift = disk->block_shift;
    uint8_t d[60] = {0};
    uint32_t granularity = MAX(disk->unmap_granularity, 1u << disk->physical_exponent);
    d[0] = 0x01; /* WSNZ */
    d[1] = (uint8_t)MIN(COMPARE_MAX >> shift, (uint64_t)255);
    store_be16(d + 2, (uint16_t)(1u << MIN(disk->physical_exponent, 15u)));
    store_be32(d + 4, (uint32_t)(TRANSFER_MAX >> shift));
    store_be32(d + 8, (uint32_t)(MiB >> shift)); /* OPTIMAL TRANSFER LENGTH */
    store_be32(d + 16, (uint32_t)UNMAP_BLOCKS_MAX);
    store_be32(d + 20, UNMAP_DESCRIPTORS);
    store_be32(d + 24, granularity);
    store_be32(d + 28, 0x80000000); /* UGAVALID, alignment 0 */
    store_be64(d + 32, WRITE_SAME_MAX >> shift);
    reply_put(c, d, sizeof(d));
}

/* B1h: block device characteristics. */
static void page_characteristics(struct call *c)
{
    uint8_t d[60] = {0};
    store_be16(d, c->disk->rotational ? 7200 : 1);
    d[4] = 0x01; /* VBULS: VERIFY of unmapped blocks works */
    reply_put(c, d, sizeof(d));
}

/* B2h: logical block provisioning: unmapped blocks read as zeroes. */
static void page_provisioning(struct call *c)
{
    uint8_t d[4] = {0, 0x80 | 0x40 | 0x20 | 0x04, 0x02, 0}; /* LBPU LBPWS LBPWS10 LBPRZ; thin */
    reply_put(c, d, sizeof(d));
}

static void page_list(struct call *c);

static const struct {
    uint8_t page;
    void (*put)(struct call *c);
} pages[] = {
    {0x00, page_list},
    {0x80, page_serial},
    {0x83, page_identification},
    {0x86, page_extended},
    {0x8f, vpd_third_party_copy},
    {0xb0, page_limits},
    {0xb1, page_characteristics},
    {0xb2, page_provisioning},
};

static void page_list(struct call *c)
{
    for (unsigned i = 0; i < ARRAY_LEN(pages); i++)
        reply_u8(c, pages[i].page);
}

int vpd_page(struct call *c, uint8_t page)
{
    for (unsigned i = 0; i < ARRAY_LEN(pages); i++) {
        if (pages[i].page != page)
            continue;
        reply_u8(c, 0);
        reply_u8(c, page);
        reply_zero(c, 2);
        pages[i].put(c);
        reply_patch(c, 2, c->reply_at - 4, 2);
        return reply_end(c);
    }
    return fail_cdb(c, 2, 7);
}
