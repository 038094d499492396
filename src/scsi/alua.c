/*
 * Asymmetric logical unit access (SPC-4, 5.15, 6.37, 6.45). A group that was never set is
 * active/optimized. States change from outside (implicit), and where the disk was made with
 * explicit_access, by SET TARGET PORT GROUPS.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "scsi/internal.h"

#define PORTS_MAX 64

struct port {
    uint16_t group, id;
};

/* disk->lock is held. */
static struct port_group *find_group(struct scsi_disk *disk, uint16_t id)
{
    for (unsigned i = 0; i < disk->group_count; i++)
        if (disk->groups[i].id == id)
            return &disk->groups[i];
    return NULL;
}

static void update_gate(struct scsi_disk *disk)
{
    bool all_active = true;
    for (unsigned i = 0; i < disk->group_count; i++)
        all_active &= disk->groups[i].state <= SCSI_ACTIVE_NON_OPTIMIZED;
    if (all_active)
        atomic_fetch_and(&disk->gate, ~(unsigned)GATE_ACCESS);
    else
        atomic_fetch_or(&disk->gate, GATE_ACCESS);
}

static int set_group(struct scsi_disk *disk, uint16_t id, uint8_t state)
{
    struct port_group *group = find_group(disk, id);
    if (!group) {
        if (disk->group_count == SCSI_PORT_GROUPS_MAX)
            return -ENOSPC;
        group = &disk->groups[disk->group_count++];
        group->id = id;
    }
    group->state = state;
    update_gate(disk);
    return 0;
}

uint8_t access_state(struct scsi_disk *disk, uint16_t group)
{
    rt_mutex_lock(&disk->lock);
    const struct port_group *found = find_group(disk, group);
    uint8_t state = found ? found->state : SCSI_ACTIVE_OPTIMIZED;
    rt_mutex_unlock(&disk->lock);
    return state;
}

int scsi_disk_set_access_state(struct scsi_disk *disk, uint16_t group, enum scsi_access_state state)
{
    rt_mutex_lock(&disk->lock);
    int result = set_group(disk, group, (uint8_t)state);
    rt_mutex_unlock(&disk->lock);
    if (result == 0)
        attention_raise(disk, ATTENTION_ACCESS_STATE, NULL);
    return result;
}

/* Adds a port unless it is there already. */
static unsigned add_port(struct port *ports, unsigned count, struct port port)
{
    for (unsigned i = 0; i < count; i++)
        if (ports[i].group == port.group && ports[i].id == port.id)
            return count;
    if (count < PORTS_MAX)
        ports[count++] = port;
    return count;
}

/* The ports by which some nexus sees the disk. disk->lock is held. */
static unsigned collect_ports(struct scsi_disk *disk, struct port ports[PORTS_MAX])
{
    unsigned count = 0;
    list_for_each (at, &disk->luns) {
        const struct scsi_nexus *nexus = list_entry(at, struct scsi_lun, link)->nexus;
        count = add_port(ports, count, (struct port){nexus->port_group, nexus->who.port_id});
    }
    return count;
}

static void put_group(struct call *c, uint16_t id, const struct port *ports, unsigned count)
{
    const struct port_group *known = find_group(c->disk, id);
    unsigned members = 0;
    for (unsigned i = 0; i < count; i++)
        members += ports[i].group == id;
    reply_u8(c, known ? known->state : SCSI_ACTIVE_OPTIMIZED);
    reply_u8(c, 0x80 | 0x40 | 0x08 | 0x04 | 0x02 | 0x01); /* every state is supported */
    reply_be16(c, id);
    reply_u8(c, 0);
    reply_u8(c, known ? 0x02 : 0x00); /* changed implicitly, or never */
    reply_u8(c, 0);
    reply_u8(c, (uint8_t)members);
    for (unsigned i = 0; i < count; i++)
        if (ports[i].group == id)
            reply_be32(c, ports[i].id);
}

int co_report_port_groups(struct call *c)
{
    struct scsi_disk *disk = c->disk;
    struct port ports[PORTS_MAX];
    unsigned format = c->cdb[1] >> 5;
    if (format > 1)
        return fail_cdb(c, 1, 7);
    reply_begin(c, load_be32(c->cdb + 6));
    reply_zero(c, 4);
    if (format == 1) {
        reply_u8(c, 0x10); /* extended header; IMPLICIT TRANSITION TIME not given */
        reply_zero(c, 3);
    }
    rt_mutex_lock(&disk->lock);
    unsigned count = collect_ports(disk, ports);
    for (unsigned i = 0; i < count; i++) {
        bool seen = false;
        for (unsigned k = 0; k < i; k++)
            seen |= ports[k].group == ports[i].group;
        if (!seen)
            put_group(c, ports[i].group, ports, count);
    }
    rt_mutex_unlock(&disk->lock);
    reply_patch(c, 0, c->reply_at - 4, 4);
    return reply_end(c);
}

/* ---- SET TARGET PORT GROUPS ---- */

/* disk->lock is held. */
static bool group_exists(struct scsi_disk *disk, uint16_t id)
{
    list_for_each (at, &disk->luns)
        if (list_entry(at, struct scsi_lun, link)->nexus->port_group == id)
            return true;
    return false;
}

/* disk->lock is held. @return 0, or the byte of the parameter list that is wrong. */
static unsigned check_group_list(struct scsi_disk *disk, const uint8_t *list, size_t length)
{
    for (unsigned at = 4; at + 4 <= length; at += 4) {
        if ((list[at] & 0xf0) || list[at] > SCSI_UNAVAILABLE)
            return at;
        if (!group_exists(disk, load_be16(list + at + 2)))
            return at + 2;
    }
    return 0;
}

int co_set_port_groups(struct call *c)
{
    struct scsi_disk *disk = c->disk;
    uint8_t list[4 + 4 * SCSI_PORT_GROUPS_MAX];
    uint32_t length = load_be32(c->cdb + 6);
    if (length == 0) {
        call_residual(c, 0, c->task->data_out.length);
        return SCSI_GOOD;
    }
    if (length < 4 || length % 4 || length > sizeof(list))
        return fail_with(c, SCSI_KEY_ILLEGAL_REQUEST, ASC_PARAMETER_LIST_LENGTH);
    int status = parameters_load(c, list, length), result = 0;
    if (status)
        return status;
    rt_mutex_lock(&disk->lock);
    unsigned wrong = check_group_list(disk, list, length);
    for (unsigned at = 4; !wrong && !result && at + 4 <= length; at += 4)
        result = set_group(disk, load_be16(list + at + 2), list[at]);
    rt_mutex_unlock(&disk->lock);
    if (wrong)
        return fail_parameter(c, wrong, 7);
    attention_raise(disk, ATTENTION_ACCESS_STATE, c->lun);
    return result ? fail_with(c, SCSI_KEY_HARDWARE_ERROR, ASC_SET_TARGET_PORT_GROUPS_FAILED)
                  : SCSI_GOOD;
}
