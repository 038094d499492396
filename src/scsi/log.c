/*
 * LOG SENSE (SPC-4, 6.6 and 7.3): the list of pages, and Informational Exceptions, the one page
 * that a disk without a drive behind it has something true to say on: nothing is failing. There are
 * no counters that LOG SELECT could reset or save.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "scsi/internal.h"

#define PAGE_SUPPORTED  0x00
#define PAGE_EXCEPTIONS 0x2f
#define SUBPAGES_ALL    0xff
#define SPF             0x40

/* Page and subpage, in the order in which both lists give them. */
static const uint8_t pages[][2] = {
    {PAGE_SUPPORTED, 0}, {PAGE_SUPPORTED, SUBPAGES_ALL}, {PAGE_EXCEPTIONS, 0}};

/* SPC-4, 7.3.20 and 7.3.21: page codes alone, or with their subpages. */
static void put_list(struct call *c, bool subpages)
{
    for (unsigned i = 0; i < ARRAY_LEN(pages); i++) {
        if (subpages)
            reply_put(c, pages[i], 2);
        else if (pages[i][1] == 0)
            reply_u8(c, pages[i][0]);
    }
}

/* SPC-4, 7.3.9: additional sense code 00/00, no temperature. */
static void put_exceptions(struct call *c)
{
    static const uint8_t general[] = {0, 0, 0x03, 4, 0, 0, 0xff, 0};
    reply_put(c, general, sizeof(general));
}

int co_log_sense(struct call *c)
{
    uint8_t page = c->cdb[2] & 0x3f, subpage = c->cdb[3];
    bool known = false;
    for (unsigned i = 0; i < ARRAY_LEN(pages); i++)
        known = known || (pages[i][0] == page && pages[i][1] == subpage);
    if (!known)
        return fail_cdb(c, 2, 5);
    reply_begin(c, load_be16(c->cdb + 7));
    reply_u8(c, page | (subpage ? SPF : 0));
    reply_u8(c, subpage);
    reply_be16(c, 0);
    if (page == PAGE_SUPPORTED)
        put_list(c, subpage == SUBPAGES_ALL);
    else
        put_exceptions(c);
    reply_patch(c, 2, c->reply_at - 4, 2);
    return reply_end(c);
}
