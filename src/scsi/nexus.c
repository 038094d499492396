/*
 * I_T nexuses and the LUNs that they may see; REPORT LUNS.
 *
 * EXTENDED COPY reaches other LUNs of its own nexus: it finds them here, and nowhere else, and pins
 * them while it copies.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "scsi/internal.h"

int scsi_nexus_new(const struct scsi_nexus_options *options, struct scsi_nexus **ret,
                   struct hws_error *err)
{
    struct scsi_nexus *nexus = calloc(1, sizeof(*nexus));
    if (!nexus)
        return hws_fail(err, ENOMEM, "SCSI nexus: out of memory");
    nexus->who.port_id = options->port_id ? options->port_id : 1;
    nexus->port_group = options->port_group;
    nexus->co_may_copy = options->co_may_copy;
    nexus->may_copy_arg = options->may_copy_arg;
    int result = 0;
    if (options->transport_id) {
        size_t length = options->transport_id_length;
        if (length > SCSI_TRANSPORT_ID_MAX ||
            transport_id_length(options->transport_id, length) != length)
            result = hws_fail(err, EINVAL, "SCSI nexus: the TransportID is not well formed");
        else
            memcpy(nexus->who.transport_id, options->transport_id, length);
        nexus->who.length = (uint16_t)length;
    } else if (!options->initiator || transport_id_from_name(options->initiator, &nexus->who) < 0) {
        result = hws_fail(err, EINVAL, "SCSI nexus: an initiator name has 1 to 240 bytes");
    }
    if (result == 0 && options->port_name && !(nexus->port_name = strdup(options->port_name)))
        result = hws_fail(err, ENOMEM, "SCSI nexus: out of memory");
    if (result < 0) {
        free(nexus);
        return result;
    }
    rt_mutex_init(&nexus->lock);
    co_waitq_init(&nexus->unpinned);
    *ret = nexus;
    return 0;
}

struct scsi_nexus *scsi_nexus_free(struct scsi_nexus *nexus)
{
    if (!nexus)
        return NULL;
    assert(nexus->lun_count == 0);
    rt_mutex_destroy(&nexus->lock);
    free(nexus->port_name);
    free(nexus);
    return NULL;
}

/* Index of @number, or of the first one above it. nexus->lock is held. */
static unsigned position(const struct scsi_nexus *nexus, uint16_t number)
{
    unsigned i = 0;
    while (i < nexus->lun_count && nexus->luns[i]->number < number)
        i++;
    return i;
}

/* REPORTED LUNS DATA HAS CHANGED, for every LUN there is. nexus->lock is held. */
static void luns_changed(struct scsi_nexus *nexus)
{
    for (unsigned i = 0; i < nexus->lun_count; i++)
        atomic_fetch_or(&nexus->luns[i]->attentions, ATTENTION_LUNS);
}

int scsi_map(struct scsi_nexus *nexus, uint16_t number, struct scsi_disk *disk,
             struct scsi_lun **ret)
{
    if (number >= 0x4000)
        return -ERANGE; /* beyond flat addressing, SAM-5, 4.7.7.3 */
    struct scsi_lun *lun = calloc(1, sizeof(*lun));
    if (!lun)
        return -ENOMEM;
    *lun = (struct scsi_lun){.nexus = nexus, .disk = disk, .number = number};
    atomic_init(&lun->attentions, ATTENTION_POWER_ON);
    rt_mutex_lock(&nexus->lock);
    unsigned at = position(nexus, number);
    int result = 0;
    if (at < nexus->lun_count && nexus->luns[at]->number == number)
        result = -EEXIST;
    else if (nexus->lun_count == SCSI_LUNS_MAX)
        result = -ENOSPC;
    if (result == 0) {
        luns_changed(nexus);
        memmove(nexus->luns + at + 1, nexus->luns + at,
                (nexus->lun_count - at) * sizeof(nexus->luns[0]));
        nexus->luns[at] = lun;
        nexus->lun_count++;
        rt_mutex_lock(&disk->lock);
        list_push_back(&disk->luns, &lun->link);
        rt_mutex_unlock(&disk->lock);
    }
    rt_mutex_unlock(&nexus->lock);
    if (result < 0) {
        free(lun);
        return result;
    }
    *ret = lun;
    return 0;
}

/* An SPC-2 reservation ends with the nexus, or its LUN. */
static void drop_spc2(struct scsi_lun *lun)
{
    struct scsi_disk *disk = lun->disk;
    rt_mutex_lock(&disk->lock);
    if (disk->spc2_holder == lun->nexus) {
        disk->spc2_holder = NULL;
        reservation_update_gate(disk);
    }
    rt_mutex_unlock(&disk->lock);
}

void co_scsi_unmap(struct scsi_lun *lun)
{
    struct scsi_nexus *nexus = lun->nexus;
    struct scsi_disk *disk = lun->disk;
    rt_mutex_lock(&nexus->lock);
    unsigned at = position(nexus, lun->number);
    assert(at < nexus->lun_count && nexus->luns[at] == lun);
    nexus->lun_count--;
    memmove(nexus->luns + at, nexus->luns + at + 1,
            (nexus->lun_count - at) * sizeof(nexus->luns[0]));
    luns_changed(nexus);
    while (lun->pins)
        co_waitq_wait(&nexus->unpinned, &nexus->lock);
    rt_mutex_unlock(&nexus->lock);
    drop_spc2(lun);
    rt_mutex_lock(&disk->lock);
    list_del(&lun->link);
    co_waitq_wake_all(&disk->idle);
    rt_mutex_unlock(&disk->lock);
    free(lun);
}

struct scsi_disk *scsi_lun_disk(const struct scsi_lun *lun)
{
    return lun->disk;
}

void scsi_nexus_lost(struct scsi_nexus *nexus)
{
    rt_mutex_lock(&nexus->lock);
    for (unsigned i = 0; i < nexus->lun_count; i++) {
        atomic_fetch_or(&nexus->luns[i]->attentions, ATTENTION_NEXUS_LOSS);
        drop_spc2(nexus->luns[i]);
    }
    rt_mutex_unlock(&nexus->lock);
}

struct scsi_lun *lun_pin_by(struct scsi_nexus *nexus,
                            bool (*match)(const struct scsi_lun *lun, const void *arg),
                            const void *arg)
{
    struct scsi_lun *found = NULL;
    rt_mutex_lock(&nexus->lock);
    for (unsigned i = 0; i < nexus->lun_count && !found; i++)
        if (match(nexus->luns[i], arg))
            found = nexus->luns[i];
    if (found)
        found->pins++;
    rt_mutex_unlock(&nexus->lock);
    return found;
}

void lun_unpin(struct scsi_lun *lun)
{
    struct scsi_nexus *nexus = lun->nexus;
    rt_mutex_lock(&nexus->lock);
    assert(lun->pins > 0);
    if (--lun->pins == 0)
        co_waitq_wake_all(&nexus->unpinned);
    rt_mutex_unlock(&nexus->lock);
}

/* SAM-5, 4.7.7: peripheral device addressing below 256, flat space addressing above. */
static uint64_t wire_lun(uint16_t number)
{
    uint64_t address = number < 256 ? number : 0x4000u | number;
    return address << 48;
}

/* SPC-4, 6.33. There are no well-known logical units. */
int co_report_luns(struct call *c)
{
    struct scsi_nexus *nexus = c->nexus;
    uint32_t allocation = load_be32(c->cdb + 6);
    uint8_t select = c->cdb[2];
    if (select > 2)
        return fail_cdb(c, 2, 7);
    if (allocation < 16)
        return fail_cdb(c, 6, 7);
    reply_begin(c, allocation);
    reply_zero(c, 8);
    rt_mutex_lock(&nexus->lock);
    for (unsigned i = 0; select != 1 && i < nexus->lun_count; i++)
        reply_be64(c, wire_lun(nexus->luns[i]->number));
    for (unsigned i = 0; i < nexus->lun_count; i++)
        attention_clear(nexus->luns[i], ATTENTION_LUNS);
    rt_mutex_unlock(&nexus->lock);
    reply_patch(c, 0, c->reply_at - 8, 4);
    return reply_end(c);
}
