/*
 * VPD page 8Fh, third-party copy (SPC-4, 7.8.17): what 3PC of the standard INQUIRY data promises.
 * Descriptors of a type, a length and a body that is padded to a multiple of four bytes.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "scsi/xcopy.h"

enum {
    SUPPORTED_COMMANDS = 0x0001,
    PARAMETER_DATA = 0x0004,
    SUPPORTED_DESCRIPTORS = 0x0008,
    GENERAL_OPERATIONS = 0x8001,
};

/* @return where the descriptor begins, for descriptor_end(). */
static size_t descriptor_begin(struct call *c, uint16_t type)
{
    size_t at = c->reply_at;
    reply_be16(c, type);
    reply_be16(c, 0);
    return at;
}

static void descriptor_end(struct call *c, size_t at)
{
    reply_zero(c, align_up(c->reply_at - at, 4) - (c->reply_at - at));
    reply_patch(c, at + 2, c->reply_at - at - 4, 2);
}

/* The service actions of @opcode, out of the table of commands. */
static void put_command(struct call *c, uint8_t opcode)
{
    reply_u8(c, opcode);
    size_t length_at = c->reply_at;
    reply_u8(c, 0);
    for (unsigned i = 0; i < command_count; i++)
        if (commands[i].opcode == opcode)
            reply_u8(c, (uint8_t)commands[i].service_action);
    reply_patch(c, length_at, c->reply_at - length_at - 1, 1);
}

static void put_commands(struct call *c)
{
    size_t at = descriptor_begin(c, SUPPORTED_COMMANDS), length_at = c->reply_at;
    reply_u8(c, 0);
    put_command(c, OP_EXTENDED_COPY);
    put_command(c, OP_RECEIVE_COPY_RESULTS);
    reply_patch(c, length_at, c->reply_at - length_at - 1, 1);
    descriptor_end(c, at);
}

static void put_parameters(struct call *c)
{
    size_t at = descriptor_begin(c, PARAMETER_DATA);
    reply_zero(c, 4);
    reply_be16(c, XCOPY_CSCDS);
    reply_be16(c, XCOPY_SEGMENTS);
    reply_be32(c, XCOPY_DESCRIPTOR_BYTES);
    reply_be32(c, 0); /* no inline data */
    reply_zero(c, 12);
    descriptor_end(c, at);
}

static void put_descriptors(struct call *c)
{
    size_t at = descriptor_begin(c, SUPPORTED_DESCRIPTORS);
    reply_u8(c, 2);
    reply_u8(c, XCOPY_BLOCK_TO_BLOCK);
    reply_u8(c, XCOPY_IDENTIFICATION);
    descriptor_end(c, at);
}

static void put_operations(struct call *c)
{
    size_t at = descriptor_begin(c, GENERAL_OPERATIONS);
    reply_be32(c, COPY_RESULTS); /* TOTAL CONCURRENT COPIES */
    reply_be32(c, COPY_RESULTS); /* MAXIMUM IDENTIFIED CONCURRENT COPIES */
    reply_be32(c, XCOPY_SEGMENT_BYTES_MAX);
    reply_u8(c, XCOPY_GRANULARITY);
    reply_u8(c, 0); /* no inline data */
    reply_zero(c, 18);
    descriptor_end(c, at);
}

void vpd_third_party_copy(struct call *c)
{
    put_commands(c);
    put_parameters(c);
    put_descriptors(c);
    put_operations(c);
}
