/*
 * REPORT SUPPORTED OPERATION CODES and TASK MANAGEMENT FUNCTIONS, generated from the table of
 * commands; TEST UNIT READY, REQUEST SENSE and SEND DIAGNOSTIC.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "scsi/internal.h"

/* Admission answered everything already. */
int co_test_unit_ready(struct call *c)
{
    (void)c;
    return SCSI_GOOD;
}

/* SPC-4, 6.39: a pending unit attention is told, as data, and taken. */
int co_request_sense(struct call *c)
{
    struct sense sense = {.key = SCSI_KEY_NO_SENSE, .asc = ASC_NONE};
    uint8_t bytes[SCSI_SENSE_MAX];
    if (!c->lun)
        sense = (struct sense){.key = SCSI_KEY_ILLEGAL_REQUEST, .asc = ASC_LUN_NOT_SUPPORTED};
    else if (attention_take(c->lun, &sense.asc))
        sense.key = SCSI_KEY_UNIT_ATTENTION;
    else if (atomic_load(&c->disk->gate) & GATE_STOPPED)
        sense = (struct sense){.key = SCSI_KEY_NOT_READY, .asc = ASC_NOT_READY_START_NEEDED};
    size_t length = sense_encode(&sense, c->cdb[1] & 1, bytes);
    reply_begin(c, c->cdb[4]);
    reply_put(c, bytes, length);
    return reply_end(c);
}

/* SPC-4, 6.42: the default self-test has nothing to test that a command would not find. */
int co_send_diagnostic(struct call *c)
{
    if (!(c->cdb[1] & 0x04))
        return fail_cdb(c, 1, 2); /* only the default self-test */
    if (c->cdb[1] & 0xf0)
        return fail_cdb(c, 1, 7);
    if (load_be16(c->cdb + 3))
        return fail_cdb(c, 3, 7);
    call_residual(c, 0, c->task->data_out.length);
    return SCSI_GOOD;
}

/* ---- REPORT SUPPORTED OPERATION CODES, SPC-4, 6.35 ---- */

enum { REPORT_ALL, REPORT_OPCODE, REPORT_SERVICE_ACTION, REPORT_EITHER };

static void put_timeouts(struct call *c, const struct command *command)
{
    reply_be16(c, 0x0a);
    reply_zero(c, 2);
    reply_be32(c, 0); /* NOMINAL COMMAND PROCESSING TIMEOUT: not given */
    reply_be32(c, command->timeout_s);
}

static int report_all(struct call *c, bool timeouts)
{
    reply_zero(c, 4);
    for (unsigned i = 0; i < command_count; i++) {
        const struct command *at = &commands[i];
        if (!command_supported(c->disk, at))
            continue;
        bool action = at->service_action >= 0;
        reply_u8(c, at->opcode);
        reply_u8(c, 0);
        reply_be16(c, action ? (uint16_t)at->service_action : 0);
        reply_u8(c, 0);
        reply_u8(c, (uint8_t)((timeouts ? 0x02 : 0) | (action ? 0x01 : 0)));
        reply_be16(c, at->length);
        if (timeouts)
            put_timeouts(c, at);
    }
    reply_patch(c, 0, c->reply_at - 4, 4);
    return reply_end(c);
}

static int report_one(struct call *c, const struct command *command, bool timeouts)
{
    reply_u8(c, 0);
    if (!command || !command_supported(c->disk, command)) {
        reply_u8(c, 0x01); /* SUPPORT: not supported */
        reply_be16(c, 0);
        return reply_end(c);
    }
    uint8_t usage[CDB_MAX];
    memcpy(usage, command->usage, sizeof(usage));
    if (command->service_action >= 0)
        usage[1] |= 0x1f;
    usage[command->length - 1] |= 0x04; /* NACA is looked at, and refused */
    reply_u8(c, (uint8_t)((timeouts ? 0x80 : 0) | 0x03));
    reply_be16(c, command->length);
    reply_put(c, usage, command->length);
    if (timeouts)
        put_timeouts(c, command);
    return reply_end(c);
}

int co_report_operation_codes(struct call *c)
{
    bool timeouts = c->cdb[2] & 0x80, known;
    unsigned options = c->cdb[2] & 0x07;
    uint8_t opcode = c->cdb[3];
    uint16_t action = load_be16(c->cdb + 4);
    reply_begin(c, load_be32(c->cdb + 6));
    if (options == REPORT_ALL)
        return report_all(c, timeouts);
    if (options > REPORT_EITHER)
        return fail_cdb(c, 2, 2);
    bool has_actions = command_has_service_actions(opcode);
    if (options == REPORT_OPCODE && has_actions)
        return fail_cdb(c, 2, 2);
    const struct command *command =
        action <= 0x1f ? command_find(opcode, (uint8_t)action, &known) : NULL;
    if (options == REPORT_SERVICE_ACTION && command && !has_actions)
        return fail_cdb(c, 2, 2);
    if (options == REPORT_OPCODE)
        command = command_find(opcode, 0, &known);
    if (options == REPORT_EITHER && command && !has_actions && action)
        command = NULL;
    return report_one(c, command, timeouts);
}

/* SPC-4, 6.36: what every front end must carry out: ABORT TASK, ABORT TASK SET, LU RESET. */
int co_report_task_management(struct call *c)
{
    bool extended = c->cdb[2] & 0x80;
    uint32_t allocation = load_be32(c->cdb + 6);
    if (allocation < 4)
        return fail_cdb(c, 6, 7);
    reply_begin(c, allocation);
    reply_u8(c, 0x80 | 0x40 | 0x08); /* ATS, ATSS, LURS */
    reply_zero(c, 2);
    reply_u8(c, extended ? 0x0c : 0);
    if (extended)
        reply_zero(c, 12); /* no timeouts are given */
    return reply_end(c);
}
