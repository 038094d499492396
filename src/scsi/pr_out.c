/*
 * PERSISTENT RESERVE OUT (SPC-4, 6.16, 5.12.7 to 5.12.11).
 *
 * A change is made in memory, saved where APTPL is on, and answered after that. Where saving fails
 * it is taken back. Unit attentions wait in lun->pending_attentions until then. disk->order keeps
 * the order of changes on the way to the disk.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "scsi/internal.h"

#define BASIC_BYTES 24
#define LIST_MAX    8192

struct change {
    struct call *c;
    struct scsi_disk *disk;
    struct reservations *pr;
    struct registration *own; /* NULL: this nexus is not registered */
    uint64_t key, action_key;
    uint8_t action, scope, type;
    bool spec_i_pt, all_ports, aptpl;
    const uint8_t *list;
    size_t length;
};

/* ---- telling the others ---- */

/* A unit attention for every LUN by which @r comes in, but not for the one that asks. */
static void notify(struct change *ch, const struct registration *r, unsigned attention, bool abort)
{
    list_for_each (at, &ch->disk->luns) {
        struct scsi_lun *lun = list_entry(at, struct scsi_lun, link);
        if (lun == ch->c->lun || !identity_equal(&lun->nexus->who, &r->who) ||
            (!r->all_ports && lun->nexus->who.port_id != r->who.port_id))
            continue;
        lun->pending_attentions |= attention;
        lun->abort_wait |= abort;
    }
}

static void notify_others(struct change *ch, unsigned attention)
{
    list_for_each (at, &ch->pr->registrations) {
        struct registration *r = list_entry(at, struct registration, link);
        if (r != ch->own)
            notify(ch, r, attention, false);
    }
}

static void settle_attentions(struct scsi_disk *disk, bool publish)
{
    list_for_each (at, &disk->luns) {
        struct scsi_lun *lun = list_entry(at, struct scsi_lun, link);
        if (publish)
            atomic_fetch_or(&lun->attentions, lun->pending_attentions);
        else
            lun->abort_wait = false;
        lun->pending_attentions = 0;
    }
}

/* ---- registering ---- */

static bool holds(const struct reservations *pr, const struct registration *r)
{
    return pr->type && r && (r == pr->holder || pr_is_all_registrants(pr->type));
}

static int insufficient(struct change *ch)
{
    return fail_with(ch->c, SCSI_KEY_ILLEGAL_REQUEST, ASC_INSUFFICIENT_REGISTRATIONS);
}

/* 5.12.11.2: the reservation ends with its holder; those of a registrants type are told. */
static void unregister(struct change *ch, struct registration *r)
{
    uint8_t type = ch->pr->type;
    registration_remove(ch->pr, r);
    if (r == ch->own)
        ch->own = NULL;
    if (pr_is_registrants(type) && !ch->pr->type)
        notify_others(ch, ATTENTION_RELEASED);
}

/* The TransportIDs that follow the basic list: all of them are looked at before one counts. */
static int register_listed(struct change *ch, bool check_only)
{
    struct cursor c = cursor_of(ch->list + BASIC_BYTES, ch->length - BASIC_BYTES);
    uint32_t described = cursor_be32(&c);
    unsigned count = 0;
    if (c.failed || described != cursor_left(&c))
        return fail_with(ch->c, SCSI_KEY_ILLEGAL_REQUEST, ASC_PARAMETER_LIST_LENGTH);
    while (cursor_left(&c)) {
        unsigned at = BASIC_BYTES + (unsigned)c.position;
        size_t length = transport_id_length(c.bytes + c.position, cursor_left(&c));
        struct identity who = {.length = (uint16_t)length, .port_id = ch->c->nexus->who.port_id};
        if (length == 0)
            return fail_parameter(ch->c, at, 7);
        memcpy(who.transport_id, cursor_take(&c, length), length);
        if (registration_find(ch->pr, &who))
            return fail_parameter(ch->c, at, 7); /* it is registered, or listed twice */
        count++;
        if (!check_only && !registration_add(ch->pr, &who, ch->action_key, ch->all_ports))
            return insufficient(ch);
    }
    return ch->pr->count + (check_only ? count + 1 : 0) > REGISTRATIONS_MAX ? insufficient(ch) : 0;
}

static int do_register(struct change *ch)
{
    bool ignore = ch->action == SA_PR_REGISTER_AND_IGNORE;
    if (!ignore && ch->key != (ch->own ? ch->own->key : 0))
        return SCSI_RESERVATION_CONFLICT;
    if (ch->spec_i_pt && (ignore || ch->own))
        return fail_parameter(ch->c, 20, 3);
    if (ch->spec_i_pt) {
        int status = register_listed(ch, true);
        if (status)
            return status;
    }
    if (ch->own && ch->action_key) {
        ch->own->key = ch->action_key;
        ch->own->all_ports |= ch->all_ports;
    } else if (ch->own) {
        unregister(ch, ch->own);
    } else if (ch->action_key) {
        ch->own = registration_add(ch->pr, &ch->c->nexus->who, ch->action_key, ch->all_ports);
        if (!ch->own)
            return insufficient(ch);
    }
    if (ch->spec_i_pt && ch->action_key) {
        int status = register_listed(ch, false);
        if (status)
            return status;
    }
    ch->pr->aptpl = ch->aptpl;
    ch->pr->generation++;
    return SCSI_GOOD;
}

static int do_register_and_move(struct change *ch)
{
    struct reservations *pr = ch->pr;
    struct identity who = {.port_id = load_be16(ch->list + 18)};
    size_t described = load_be32(ch->list + 20);
    bool unregister_own = ch->list[17] & 0x02;
    if (!holds(pr, ch->own) || pr_is_all_registrants(pr->type))
        return SCSI_RESERVATION_CONFLICT;
    if (ch->action_key == 0)
        return fail_parameter(ch->c, 8, 7);
    if (described != ch->length - BASIC_BYTES)
        return fail_with(ch->c, SCSI_KEY_ILLEGAL_REQUEST, ASC_PARAMETER_LIST_LENGTH);
    if (described == 0 || transport_id_length(ch->list + BASIC_BYTES, described) != described)
        return fail_parameter(ch->c, BASIC_BYTES, 7);
    who.length = (uint16_t)described;
    memcpy(who.transport_id, ch->list + BASIC_BYTES, described);
    struct registration *to = registration_find(pr, &who);
    if (to == ch->own || who.port_id == 0) /* 6.16.4: not to where it is */
        return fail_parameter(ch->c, to == ch->own ? BASIC_BYTES : 18, 7);
    if (!to && !(to = registration_add(pr, &who, ch->action_key, false)))
        return insufficient(ch);
    to->key = ch->action_key;
    pr->holder = to;
    pr->aptpl = ch->aptpl;
    pr->generation++;
    if (unregister_own)
        unregister(ch, ch->own);
    return SCSI_GOOD;
}

/* ---- reserving ---- */

static int check_type(struct change *ch)
{
    if (ch->scope)
        return fail_cdb(ch->c, 2, 7);
    bool known = ch->type == 1 || ch->type == 3 || (ch->type >= 5 && ch->type <= 8);
    return known ? 0 : fail_cdb(ch->c, 2, 3);
}

static void take_reservation(struct change *ch)
{
    ch->pr->type = ch->type;
    ch->pr->holder = pr_is_all_registrants(ch->type) ? NULL : ch->own;
}

static int do_reserve(struct change *ch)
{
    int status = check_type(ch);
    if (status)
        return status;
    if (ch->pr->type)
        return holds(ch->pr, ch->own) && ch->pr->type == ch->type ? SCSI_GOOD
                                                                  : SCSI_RESERVATION_CONFLICT;
    take_reservation(ch);
    return SCSI_GOOD;
}

static int do_release(struct change *ch)
{
    if (!holds(ch->pr, ch->own))
        return SCSI_GOOD;
    if (ch->scope || ch->type != ch->pr->type)
        return fail_with(ch->c, SCSI_KEY_ILLEGAL_REQUEST, ASC_INVALID_RELEASE);
    uint8_t type = ch->pr->type;
    ch->pr->type = 0;
    ch->pr->holder = NULL;
    if (pr_is_registrants(type))
        notify_others(ch, ATTENTION_RELEASED);
    return SCSI_GOOD;
}

static int do_clear(struct change *ch)
{
    notify_others(ch, ATTENTION_PREEMPTED);
    reservations_clear(ch->pr);
    ch->own = NULL;
    ch->pr->generation++;
    return SCSI_GOOD;
}

/* Removes the registrations with action_key, or all with @everybody. @return how many. */
static unsigned remove_registrations(struct change *ch, bool everybody, bool spare_own)
{
    unsigned removed = 0;
    bool abort = ch->action == SA_PR_PREEMPT_AND_ABORT;
    list_for_each_safe (at, &ch->pr->registrations) {
        struct registration *r = list_entry(at, struct registration, link);
        if ((!everybody && r->key != ch->action_key) || (spare_own && r == ch->own))
            continue;
        notify(ch, r, ATTENTION_UNREGISTERED, abort);
        if (r == ch->own)
            ch->own = NULL;
        registration_remove(ch->pr, r);
        removed++;
    }
    return removed;
}

/* 5.12.11.4: the reservation itself changes hands. */
static int preempt_reservation(struct change *ch, bool everybody)
{
    uint8_t before = ch->pr->type;
    (void)remove_registrations(ch, everybody, true);
    take_reservation(ch);
    if (before != ch->type)
        notify_others(ch, ATTENTION_RELEASED);
    ch->pr->generation++;
    return SCSI_GOOD;
}

static int do_preempt(struct change *ch)
{
    struct reservations *pr = ch->pr;
    bool all = pr_is_all_registrants(pr->type);
    bool takes = pr->type && (all ? ch->action_key == 0 : ch->action_key == pr->holder->key);
    if (takes) {
        int status = check_type(ch);
        return status ? status : preempt_reservation(ch, all);
    }
    if (ch->action_key == 0)
        return fail_parameter(ch->c, 8, 7);
    if (!remove_registrations(ch, false, false))
        return SCSI_RESERVATION_CONFLICT;
    pr->generation++;
    return SCSI_GOOD;
}

/* ---- the command ---- */

/* disk->lock is held. Nothing has changed unless GOOD is returned, or the caller takes it back. */
static int change(struct change *ch)
{
    if (ch->disk->spc2_holder)
        return SCSI_RESERVATION_CONFLICT;
    ch->own = registration_find(ch->pr, &ch->c->nexus->who);
    bool registers = ch->action == SA_PR_REGISTER || ch->action == SA_PR_REGISTER_AND_IGNORE;
    if (!registers && (!ch->own || ch->own->key != ch->key))
        return SCSI_RESERVATION_CONFLICT;
    switch (ch->action) {
    case SA_PR_REGISTER:
    case SA_PR_REGISTER_AND_IGNORE:
        return do_register(ch);
    case SA_PR_RESERVE:
        return do_reserve(ch);
    case SA_PR_RELEASE:
        return do_release(ch);
    case SA_PR_CLEAR:
        return do_clear(ch);
    case SA_PR_PREEMPT:
    case SA_PR_PREEMPT_AND_ABORT:
        return do_preempt(ch);
    default:
        return do_register_and_move(ch);
    }
}

/* Without APTPL nothing outlives a loss of power: what is saved then is that there is nothing. */
static int serialise_durable(const struct reservations *pr, void **ret, size_t *ret_length)
{
    struct reservations none = {.registrations = LIST_INIT(none.registrations)};
    return pr_serialise(pr->aptpl ? pr : &none, ret, ret_length);
}

/* A copy of everything, so that taking a change back cannot fail. */
static int back_up(const struct reservations *pr, struct reservations *ret)
{
    autofree void *bytes = NULL;
    size_t length;
    list_init(&ret->registrations);
    int result = pr_serialise(pr, &bytes, &length);
    return result < 0 ? result : pr_parse(bytes, length, ret);
}

static void take_back(struct reservations *pr, struct reservations *backup)
{
    reservations_clear(pr);
    *pr = *backup;
    list_init(&pr->registrations);
    list_splice_back(&pr->registrations, &backup->registrations);
    backup->count = 0;
}

static int co_change_and_save(struct change *ch)
{
    struct scsi_disk *disk = ch->disk;
    struct reservations backup = {0};
    autofree void *after = NULL;
    size_t after_length = 0;
    rt_mutex_lock(&disk->lock);
    bool was_durable = disk->pr.aptpl;
    int result = back_up(&disk->pr, &backup);
    int status = result < 0 ? SCSI_BUSY : change(ch);
    bool save = status == SCSI_GOOD && (was_durable || disk->pr.aptpl);
    if (save)
        result = serialise_durable(&disk->pr, &after, &after_length);
    reservation_update_gate(disk);
    rt_mutex_unlock(&disk->lock);
    if (save && result == 0)
        result = disk->co_save(disk->save_arg, after, after_length);
    rt_mutex_lock(&disk->lock);
    bool undo = status != SCSI_GOOD || result < 0;
    if (undo && status != SCSI_BUSY)
        take_back(&disk->pr, &backup);
    reservations_clear(&backup);
    reservation_update_gate(disk);
    settle_attentions(disk, !undo);
    rt_mutex_unlock(&disk->lock);
    if (status == SCSI_GOOD && result < 0)
        status = fail_with(ch->c, SCSI_KEY_HARDWARE_ERROR, ASC_INTERNAL_FAILURE);
    return status;
}

static int parse_list(struct change *ch)
{
    bool move = ch->action == SA_PR_REGISTER_AND_MOVE;
    ch->key = load_be64(ch->list);
    ch->action_key = load_be64(ch->list + 8);
    if (move) {
        ch->aptpl = ch->list[17] & 0x01;
    } else {
        bool registers = ch->action == SA_PR_REGISTER || ch->action == SA_PR_REGISTER_AND_IGNORE;
        /* The other service actions ignore these. */
        ch->spec_i_pt = registers && (ch->list[20] & 0x08);
        ch->all_ports = registers && (ch->list[20] & 0x04);
        ch->aptpl = registers && (ch->list[20] & 0x01);
        if (!ch->spec_i_pt && ch->length != BASIC_BYTES)
            return fail_with(ch->c, SCSI_KEY_ILLEGAL_REQUEST, ASC_PARAMETER_LIST_LENGTH);
    }
    if (ch->aptpl && !ch->disk->co_save)
        return fail_parameter(ch->c, move ? 17 : 20, 0);
    return 0;
}

int co_pr_out(struct call *c)
{
    size_t length = load_be32(c->cdb + 5);
    if (length < BASIC_BYTES || length > LIST_MAX)
        return fail_with(c, SCSI_KEY_ILLEGAL_REQUEST, ASC_PARAMETER_LIST_LENGTH);
    autofree uint8_t *list = malloc(length);
    if (!list)
        return SCSI_BUSY;
    int status = parameters_load(c, list, length);
    if (status)
        return status;
    struct change ch = {.c = c,
                        .disk = c->disk,
                        .pr = &c->disk->pr,
                        .action = c->cdb[1] & 0x1f,
                        .scope = c->cdb[2] >> 4,
                        .type = c->cdb[2] & 0x0f,
                        .list = list,
                        .length = length};
    status = parse_list(&ch);
    if (status)
        return status;
    co_mutex_lock(&c->disk->order);
    status = co_change_and_save(&ch);
    if (status == SCSI_GOOD && ch.action == SA_PR_PREEMPT_AND_ABORT)
        co_disk_wait_marked(c->disk);
    co_mutex_unlock(&c->disk->order);
    return status;
}
