/*
 * The way of a command: found in the table, admitted (reservations, unit attentions, access state,
 * power), its reserved bits checked, and run.
 *
 * The fast way takes no lock: one atomic count of commands in flight, one look at the gate, one at
 * the unit attentions.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "scsi/internal.h"

/* ---- commands in flight ---- */

void lun_leave(struct scsi_lun *lun, unsigned epoch)
{
    struct scsi_disk *disk = lun->disk;
    if (atomic_fetch_sub(&lun->in_flight[epoch & 1], 1) == 1 &&
        unlikely(atomic_load(&disk->idle_waiters))) {
        rt_mutex_lock(&disk->lock);
        co_waitq_wake_all(&disk->idle);
        rt_mutex_unlock(&disk->lock);
    }
}

unsigned lun_enter(struct scsi_lun *lun)
{
    for (;;) {
        unsigned epoch = atomic_load(&lun->epoch);
        atomic_fetch_add(&lun->in_flight[epoch & 1], 1);
        if (likely(atomic_load(&lun->epoch) == epoch))
            return epoch;
        lun_leave(lun, epoch);
    }
}

/* True while a command of the last epoch is in flight on a marked LUN. disk->lock is held. */
static bool marked_busy(struct scsi_disk *disk)
{
    list_for_each (at, &disk->luns) {
        struct scsi_lun *lun = list_entry(at, struct scsi_lun, link);
        unsigned last = atomic_load(&lun->epoch) - 1;
        if (lun->abort_wait && atomic_load(&lun->in_flight[last & 1]))
            return true;
    }
    return false;
}

void co_disk_wait_marked(struct scsi_disk *disk)
{
    atomic_fetch_add(&disk->idle_waiters, 1);
    rt_mutex_lock(&disk->lock);
    list_for_each (at, &disk->luns) {
        struct scsi_lun *lun = list_entry(at, struct scsi_lun, link);
        if (lun->abort_wait)
            atomic_fetch_add(&lun->epoch, 1);
    }
    while (marked_busy(disk))
        co_waitq_wait(&disk->idle, &disk->lock);
    list_for_each (at, &disk->luns)
        list_entry(at, struct scsi_lun, link)->abort_wait = false;
    rt_mutex_unlock(&disk->lock);
    atomic_fetch_sub(&disk->idle_waiters, 1);
}

int call_cancelled(const struct call *c)
{
    return atomic_load(&c->lun->epoch) != c->epoch ? -ECANCELED : 0;
}

/* ---- admission ---- */

static int check_access(struct call *c)
{
    switch (access_state(c->disk, c->nexus->port_group)) {
    case SCSI_TRANSITIONING:
        return c->command->access > ACCESS_ALWAYS
                   ? fail_with(c, SCSI_KEY_NOT_READY, ASC_NOT_READY_TRANSITION)
                   : 0;
    case SCSI_OFFLINE:
        return c->command->access > ACCESS_UNAVAILABLE
                   ? fail_with(c, SCSI_KEY_NOT_READY, ASC_NOT_READY_OFFLINE)
                   : 0;
    case SCSI_UNAVAILABLE:
        return c->command->access > ACCESS_UNAVAILABLE
                   ? fail_with(c, SCSI_KEY_NOT_READY, ASC_NOT_READY_UNAVAILABLE)
                   : 0;
    case SCSI_STANDBY:
        return c->command->access > ACCESS_STANDBY
                   ? fail_with(c, SCSI_KEY_NOT_READY, ASC_NOT_READY_STANDBY)
                   : 0;
    default:
        return 0;
    }
}

static bool reserved_against(struct call *c)
{
    struct scsi_disk *disk = c->disk;
    rt_mutex_lock(&disk->lock);
    bool conflict;
    if (disk->spc2_holder)
        conflict = disk->spc2_holder != c->nexus && !(c->command->flags & COMMAND_SPC2_EXEMPT);
    else
        conflict = reservation_conflicts(disk, c->nexus, c->command->reserve);
    rt_mutex_unlock(&disk->lock);
    return conflict;
}

/* SAM-5, 5.3.3: a reservation conflict takes precedence over a unit attention, which stays. */
static int admit(struct call *c)
{
    unsigned gate = atomic_load(&c->disk->gate), flags = c->command->flags;
    uint16_t asc;
    if (unlikely(gate & GATE_RESERVED) && reserved_against(c))
        return SCSI_RESERVATION_CONFLICT;
    if (unlikely(atomic_load(&c->lun->attentions)) && !(flags & COMMAND_NO_LUN) &&
        attention_take(c->lun, &asc))
        return fail_with(c, SCSI_KEY_UNIT_ATTENTION, asc);
    if (unlikely(gate & GATE_ACCESS)) {
        int status = check_access(c);
        if (status)
            return status;
    }
    if (unlikely(gate & GATE_STOPPED) && (flags & COMMAND_MEDIUM))
        return fail_with(c, SCSI_KEY_NOT_READY, ASC_NOT_READY_START_NEEDED);
    if (!(flags & COMMAND_WRITES))
        return 0;
    if (c->disk->read_only)
        return fail_with(c, SCSI_KEY_DATA_PROTECT, ASC_WRITE_PROTECTED);
    if (atomic_load(&c->disk->software_write_protect))
        return fail_with(c, SCSI_KEY_DATA_PROTECT, ASC_SOFTWARE_WRITE_PROTECTED);
    return 0;
}

/*
 * Bits that have no meaning must be zero: SPC-4, 4.2.4 lets us say so, and an initiator that relies
 * on a feature learns that it is not there. Of the CONTROL byte only NACA matters.
 */
static int check_reserved_bits(struct call *c)
{
    const struct command *command = c->command;
    unsigned control = command->length - 1u;
    for (unsigned i = 1; i < command->length; i++) {
        uint8_t meaning = i == control ? (uint8_t)~0x04 : command->usage[i];
        if (i == 1 && command->service_action >= 0)
            meaning |= 0x1f;
        uint8_t wrong = c->cdb[i] & (uint8_t)~meaning;
        if (unlikely(wrong))
            return fail_cdb(c, i, 31 - __builtin_clz(wrong));
    }
    return 0;
}

static int co_run_on_lun(struct call *c)
{
    bool counted = !(c->command->flags & COMMAND_UNCOUNTED);
    if (counted)
        c->epoch = lun_enter(c->lun);
    int status = admit(c);
    if (likely(!status))
        status = check_reserved_bits(c);
    if (likely(!status))
        status = c->command->co_run(c);
    if (counted)
        lun_leave(c->lun, c->epoch);
    return status;
}

static int co_dispatch(struct call *c)
{
    bool opcode_known = false;
    c->command =
        c->task->cdb_length ? command_find(c->cdb[0], c->cdb[1] & 0x1f, &opcode_known) : NULL;
    if (c->command && c->disk && !command_supported(c->disk, c->command))
        c->command = NULL;
    bool answers = c->command && (c->lun || (c->command->flags & COMMAND_NO_LUN));
    if (!c->lun && !answers)
        return fail_with(c, SCSI_KEY_ILLEGAL_REQUEST, ASC_LUN_NOT_SUPPORTED);
    if (!c->command)
        return opcode_known ? fail_cdb(c, 1, 4)
                            : fail_with(c, SCSI_KEY_ILLEGAL_REQUEST, ASC_INVALID_OPCODE);
    if (c->task->cdb_length < c->command->length)
        return fail_with(c, SCSI_KEY_ILLEGAL_REQUEST, ASC_INVALID_FIELD_IN_CDB);
    if (c->lun)
        return co_run_on_lun(c);
    int status = check_reserved_bits(c);
    return status ? status : c->command->co_run(c);
}

void co_scsi_execute(struct scsi_nexus *nexus, struct scsi_lun *lun, struct scsi_task *task)
{
    struct call c = {.task = task, .nexus = nexus, .lun = lun, .disk = lun ? lun->disk : NULL};
    assert(!lun || lun->nexus == nexus);
    if (task->cdb_length)
        memcpy(c.cdb, task->cdb, MIN(task->cdb_length, sizeof(c.cdb)));
    task->sense_length = 0;
    task->data_in_length = 0;
    task->residual = -(int64_t)MAX(task->data_in.length, task->data_out.length);
    task->status = (uint8_t)co_dispatch(&c);
    assert((task->status == SCSI_CHECK_CONDITION) == (task->sense_length > 0));
    assert(task->data_in_length <= task->data_in.length);
}
