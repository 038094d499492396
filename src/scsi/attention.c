/*
 * Unit attentions: what happened behind an initiator's back, told once on its next command
 * (SAM-5, 5.14). Bits of one atomic word a LUN, most important first.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "scsi/internal.h"

static const uint16_t attention_asc[] = {
    ASC_POWER_ON,
    ASC_DEVICE_RESET,
    ASC_NEXUS_LOSS,
    ASC_MODE_CHANGED,
    ASC_CAPACITY_CHANGED,
    ASC_RESERVATIONS_PREEMPTED,
    ASC_RESERVATIONS_RELEASED,
    ASC_REGISTRATIONS_PREEMPTED,
    ASC_ACCESS_STATE_CHANGED,
    ASC_LUNS_CHANGED,
};
static_assert(ATTENTION_LUNS == 1 << (ARRAY_LEN(attention_asc) - 1), "a code for each bit");

void attention_raise(struct scsi_disk *disk, unsigned bits, const struct scsi_lun *except)
{
    rt_mutex_lock(&disk->lock);
    list_for_each (at, &disk->luns) {
        struct scsi_lun *lun = list_entry(at, struct scsi_lun, link);
        if (lun != except)
            atomic_fetch_or(&lun->attentions, bits);
    }
    rt_mutex_unlock(&disk->lock);
}

bool attention_take(struct scsi_lun *lun, uint16_t *ret_asc)
{
    unsigned bits = atomic_load(&lun->attentions);
    while (bits) {
        unsigned index = (unsigned)__builtin_ctz(bits);
        if (atomic_compare_exchange_weak(&lun->attentions, &bits, bits & ~(1u << index))) {
            *ret_asc = attention_asc[index];
            return true;
        }
    }
    return false;
}

void attention_clear(struct scsi_lun *lun, unsigned bits)
{
    atomic_fetch_and(&lun->attentions, ~bits);
}
