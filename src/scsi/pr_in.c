/*
 * PERSISTENT RESERVE IN (SPC-4, 6.15).
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "scsi/internal.h"

static bool is_holder(const struct reservations *pr, const struct registration *r)
{
    return r == pr->holder || pr_is_all_registrants(pr->type);
}

static void read_keys(struct call *c, struct reservations *pr)
{
    list_for_each (at, &pr->registrations)
        reply_be64(c, list_entry(at, struct registration, link)->key);
}

static void read_reservation(struct call *c, struct reservations *pr)
{
    if (!pr->type)
        return;
    reply_be64(c, pr->holder ? pr->holder->key : 0);
    reply_zero(c, 5);
    reply_u8(c, pr->type); /* SCOPE 0: the logical unit */
    reply_zero(c, 2);
}

static void read_full_status(struct call *c, struct reservations *pr)
{
    list_for_each (at, &pr->registrations) {
        const struct registration *r = list_entry(at, struct registration, link);
        bool holder = is_holder(pr, r);
        reply_be64(c, r->key);
        reply_zero(c, 4);
        reply_u8(c, (uint8_t)((r->all_ports ? 0x02 : 0) | (holder ? 0x01 : 0)));
        reply_u8(c, holder ? pr->type : 0);
        reply_zero(c, 4);
        reply_be16(c, r->all_ports ? 0 : r->who.port_id);
        reply_be32(c, r->who.length);
        reply_put(c, r->who.transport_id, r->who.length);
    }
}

static void report_capabilities(struct call *c, const struct reservations *pr)
{
    bool persist = c->disk->co_save != NULL;
    reply_be16(c, 8);
    reply_u8(c, (uint8_t)(0x10 | 0x08 | 0x04 | (persist ? 0x01 : 0))); /* CRH SIP_C ATP_C PTPL_C */
    reply_u8(c, (uint8_t)(0x80 | (pr->aptpl ? 0x01 : 0)));             /* TMV, PTPL_A */
    reply_u8(c, 0xea); /* WR_EX_AR EX_AC_RO WR_EX_RO EX_AC WR_EX */
    reply_u8(c, 0x01); /* EX_AC_AR */
    reply_zero(c, 2);
}

int co_pr_in(struct call *c)
{
    struct scsi_disk *disk = c->disk;
    struct reservations *pr = &disk->pr;
    uint8_t action = c->cdb[1] & 0x1f;
    reply_begin(c, load_be16(c->cdb + 7));
    rt_mutex_lock(&disk->lock);
    if (disk->spc2_holder) { /* SPC-2, 5.5.1: not while RESERVE holds, not even for its holder */
        rt_mutex_unlock(&disk->lock);
        return SCSI_RESERVATION_CONFLICT;
    }
    if (action == SA_PR_REPORT_CAPABILITIES) {
        report_capabilities(c, pr);
    } else {
        reply_be32(c, pr->generation);
        reply_zero(c, 4);
        if (action == SA_PR_READ_KEYS)
            read_keys(c, pr);
        else if (action == SA_PR_READ_RESERVATION)
            read_reservation(c, pr);
        else
            read_full_status(c, pr);
        reply_patch(c, 4, c->reply_at - 8, 4);
    }
    rt_mutex_unlock(&disk->lock);
    return reply_end(c);
}
