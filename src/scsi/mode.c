/*
 * Mode pages and MODE SENSE (SPC-4, 6.13, 7.5; SBC-4, 6.5). Caching (WCE can be changed), control
 * (D_SENSE and SWP can), informational exceptions, read-write error recovery.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "scsi/mode.h"

#define WCE     0x04
#define D_SENSE 0x04
#define SWP     0x08
#define ALL     0x3f

static void put_caching(const struct mode_state *state, uint8_t *page)
{
    page[2] |= state->write_cache ? WCE : 0;
}

static void take_caching(struct mode_state *state, const uint8_t *page)
{
    state->write_cache = page[2] & WCE;
}

static void put_control(const struct mode_state *state, uint8_t *page)
{
    page[2] |= state->descriptor_sense ? D_SENSE : 0;
    page[4] |= state->software_write_protect ? SWP : 0;
}

static void take_control(struct mode_state *state, const uint8_t *page)
{
    state->descriptor_sense = page[2] & D_SENSE;
    state->software_write_protect = page[4] & SWP;
}

/* By page code: that is the order in which 3Fh returns them. */
const struct mode_page mode_pages[] = {
    {.code = 0x01, .length = 12, .base = {0x01, 0x0a, 0xc0}}, /* AWRE, ARRE */
    {.code = 0x08,
     .length = 20,
     .base = {0x08, 0x12},
     .changeable = {0, 0, WCE},
     .put = put_caching,
     .take = take_caching},
    {.code = 0x0a, /* GLTSD; unrestricted reordering; no busy timeout */
     .length = 12,
     .base = {0x0a, 0x0a, 0x02, 0x10, 0, 0, 0, 0, 0xff, 0xff},
     .changeable = {0, 0, D_SENSE, 0, SWP},
     .put = put_control,
     .take = take_control},
    {.code = 0x1c, .length = 12, .base = {0x1c, 0x0a, 0x08}}, /* DEXCPT */
};
const unsigned mode_page_count = ARRAY_LEN(mode_pages);

struct mode_state mode_current(const struct scsi_disk *disk)
{
    return (struct mode_state){
        .write_cache = atomic_load(&disk->write_cache),
        .descriptor_sense = atomic_load(&disk->descriptor_sense),
        .software_write_protect = atomic_load(&disk->software_write_protect),
    };
}

void mode_page_fill(const struct mode_page *page, const struct mode_state *state, uint8_t *ret)
{
    memcpy(ret, page->base, page->length);
    if (page->put)
        page->put(state, ret);
}

enum { CURRENT, CHANGEABLE, DEFAULT, SAVED };

static void put_page(struct call *c, const struct mode_page *page, unsigned control)
{
    uint8_t bytes[MODE_PAGE_MAX];
    struct mode_state state = control == DEFAULT ? c->disk->mode_default : mode_current(c->disk);
    if (control == CHANGEABLE) {
        memcpy(bytes, page->changeable, page->length);
        memcpy(bytes, page->base, 2);
    } else {
        mode_page_fill(page, &state, bytes);
    }
    reply_put(c, bytes, page->length);
}

/* SBC-4, 6.5.2: the number of blocks, all ones where it does not fit. */
static void put_block_descriptor(struct call *c, bool long_lba)
{
    uint64_t blocks = disk_blocks(c->disk);
    if (long_lba) {
        reply_be64(c, blocks);
        reply_be32(c, 0);
    } else {
        reply_be32(c, (uint32_t)MIN(blocks, (uint64_t)UINT32_MAX));
    }
    reply_be32(c, c->disk->block_bytes);
}

static void put_header(struct call *c, bool ten, bool long_lba, uint8_t descriptor_bytes)
{
    bool protected = c->disk->read_only || atomic_load(&c->disk->software_write_protect);
    uint8_t specific = (uint8_t)((protected ? 0x80 : 0) | 0x10); /* WP, DPOFUA */
    if (ten)
        reply_u8(c, 0);
    reply_u8(c, 0); /* MODE DATA LENGTH: when it is known */
    reply_u8(c, 0);
    reply_u8(c, specific);
    if (ten) {
        reply_u8(c, long_lba ? 1 : 0);
        reply_u8(c, 0);
        reply_u8(c, 0);
    }
    reply_u8(c, descriptor_bytes);
}

int co_mode_sense(struct call *c)
{
    bool ten = c->command->length == 10, found = false;
    bool no_descriptor = c->cdb[1] & 0x08;
    bool long_lba = ten && !no_descriptor && (c->cdb[1] & 0x10);
    unsigned control = c->cdb[2] >> 6, code = c->cdb[2] & 0x3f, subpage = c->cdb[3];
    if (control == SAVED)
        return fail_with(c, SCSI_KEY_ILLEGAL_REQUEST, ASC_SAVING_NOT_SUPPORTED);
    if (subpage != 0 && !(subpage == 0xff && code == ALL))
        return fail_cdb(c, 3, 7);
    reply_begin(c, ten ? load_be16(c->cdb + 7) : c->cdb[4]);
    put_header(c, ten, long_lba, no_descriptor ? 0 : long_lba ? 16 : 8);
    if (!no_descriptor)
        put_block_descriptor(c, long_lba);
    for (unsigned i = 0; i < mode_page_count; i++) {
        if (code != ALL && mode_pages[i].code != code)
            continue;
        found = true;
        put_page(c, &mode_pages[i], control);
    }
    if (!found)
        return fail_cdb(c, 2, 5);
    if (ten)
        reply_patch(c, 0, c->reply_at - 2, 2);
    else
        reply_patch(c, 0, c->reply_at - 1, 1);
    return reply_end(c);
}
