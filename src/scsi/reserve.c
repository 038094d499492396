/*
 * Who may do what: registrations, the persistent reservation, and the SPC-2 reservation that
 * RESERVE and RELEASE make (SPC-4, 5.12; the exceptions of 5.12.3 are "CRH").
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "scsi/internal.h"

bool identity_equal(const struct identity *a, const struct identity *b)
{
    return a->length == b->length && !memcmp(a->transport_id, b->transport_id, a->length);
}

struct registration *registration_find(struct reservations *pr, const struct identity *who)
{
    list_for_each (at, &pr->registrations) {
        struct registration *r = list_entry(at, struct registration, link);
        if (identity_equal(&r->who, who) && (r->all_ports || r->who.port_id == who->port_id))
            return r;
    }
    return NULL;
}

struct registration *registration_add(struct reservations *pr, const struct identity *who,
                                      uint64_t key, bool all_ports)
{
    struct registration *r = pr->count < REGISTRATIONS_MAX ? malloc(sizeof(*r)) : NULL;
    if (!r)
        return NULL;
    *r = (struct registration){.who = *who, .key = key, .all_ports = all_ports};
    list_push_back(&pr->registrations, &r->link);
    pr->count++;
    return r;
}

/* The reservation goes with its holder, or with the last of all registrants. */
void registration_remove(struct reservations *pr, struct registration *r)
{
    list_del(&r->link);
    pr->count--;
    if (pr->holder == r || (pr_is_all_registrants(pr->type) && pr->count == 0)) {
        pr->holder = NULL;
        pr->type = 0;
    }
    free(r);
}

void reservations_clear(struct reservations *pr)
{
    while (!list_empty(&pr->registrations))
        registration_remove(pr, list_entry(pr->registrations.next, struct registration, link));
    pr->type = 0;
    pr->holder = NULL;
}

bool pr_is_all_registrants(uint8_t type)
{
    return type == PR_WRITE_EXCLUSIVE_ALL_REGISTRANTS ||
           type == PR_EXCLUSIVE_ACCESS_ALL_REGISTRANTS;
}

bool pr_is_registrants(uint8_t type)
{
    return type == PR_WRITE_EXCLUSIVE_REGISTRANTS_ONLY ||
           type == PR_EXCLUSIVE_ACCESS_REGISTRANTS_ONLY || pr_is_all_registrants(type);
}

static bool is_write_exclusive(uint8_t type)
{
    return type == PR_WRITE_EXCLUSIVE || type == PR_WRITE_EXCLUSIVE_REGISTRANTS_ONLY ||
           type == PR_WRITE_EXCLUSIVE_ALL_REGISTRANTS;
}

bool reservation_conflicts(struct scsi_disk *disk, struct scsi_nexus *nexus,
                           enum reserve_class class)
{
    struct reservations *pr = &disk->pr;
    if (!pr->type || class == RESERVE_ALLOWED || class == RESERVE_IN_BODY)
        return false;
    const struct registration *own = registration_find(pr, &nexus->who);
    if (own && (own == pr->holder || pr_is_registrants(pr->type)))
        return false;
    return class == RESERVE_WRITE || !is_write_exclusive(pr->type);
}

void reservation_update_gate(struct scsi_disk *disk)
{
    if (disk->pr.type || disk->spc2_holder)
        atomic_fetch_or(&disk->gate, GATE_RESERVED);
    else
        atomic_fetch_and(&disk->gate, ~(unsigned)GATE_RESERVED);
}

/* ---- RESERVE and RELEASE ---- */

/*
 * SPC-4, 5.12.3: while there are registrations, those who may use the medium get GOOD and nothing
 * changes; the others conflict. @return true when that settles it. disk->lock is held.
 */
static bool settled_by_registrations(struct call *c, int *ret_status)
{
    struct reservations *pr = &c->disk->pr;
    if (pr->count == 0)
        return false;
    const struct registration *own = registration_find(pr, &c->nexus->who);
    bool good = own && pr->type && (own == pr->holder || pr_is_registrants(pr->type));
    *ret_status = good ? SCSI_GOOD : SCSI_RESERVATION_CONFLICT;
    return true;
}

int co_reserve(struct call *c)
{
    struct scsi_disk *disk = c->disk;
    int status = SCSI_GOOD;
    rt_mutex_lock(&disk->lock);
    if (!settled_by_registrations(c, &status)) {
        if (disk->spc2_holder && disk->spc2_holder != c->nexus)
            status = SCSI_RESERVATION_CONFLICT;
        else
            disk->spc2_holder = c->nexus;
        reservation_update_gate(disk);
    }
    rt_mutex_unlock(&disk->lock);
    return status;
}

int co_release(struct call *c)
{
    struct scsi_disk *disk = c->disk;
    int status = SCSI_GOOD;
    rt_mutex_lock(&disk->lock);
    if (!settled_by_registrations(c, &status) && disk->spc2_holder == c->nexus) {
        disk->spc2_holder = NULL;
        reservation_update_gate(disk);
    }
    rt_mutex_unlock(&disk->lock);
    return status;
}
