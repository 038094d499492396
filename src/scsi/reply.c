/*
 * Small data of a command: replies written straight into the initiator's buffer, cut at the
 * allocation length, and parameter lists taken out of it.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "scsi/internal.h"

void call_residual(struct call *c, uint64_t expected, uint64_t available)
{
    c->task->residual = (int64_t)expected - (int64_t)available;
}

void reply_begin(struct call *c, size_t allocation_length)
{
    c->reply_limit = allocation_length;
    c->reply_at = 0;
}

/* How many of @length bytes at @at reach the initiator. */
static size_t visible(const struct call *c, size_t at, size_t length)
{
    size_t end = MIN(c->reply_limit, c->task->data_in.length);
    return at >= end ? 0 : MIN(length, end - at);
}

static void store(struct call *c, size_t at, const void *bytes, size_t length)
{
    size_t part = visible(c, at, length);
    if (part)
        sgl_from_buffer(sgl_slice(c->task->data_in, at, part), bytes);
}

void reply_put(struct call *c, const void *bytes, size_t length)
{
    store(c, c->reply_at, bytes, length);
    c->reply_at += length;
}

void reply_zero(struct call *c, size_t length)
{
    size_t part = visible(c, c->reply_at, length);
    if (part)
        sgl_fill(sgl_slice(c->task->data_in, c->reply_at, part), 0);
    c->reply_at += length;
}

void reply_u8(struct call *c, uint8_t value)
{
    reply_put(c, &value, 1);
}

void reply_be16(struct call *c, uint16_t value)
{
    struct be16 wire = be16_of(value);
    reply_put(c, &wire, sizeof(wire));
}

void reply_be32(struct call *c, uint32_t value)
{
    struct be32 wire = be32_of(value);
    reply_put(c, &wire, sizeof(wire));
}

void reply_be64(struct call *c, uint64_t value)
{
    struct be64 wire = be64_of(value);
    reply_put(c, &wire, sizeof(wire));
}

void reply_patch(struct call *c, size_t at, uint64_t value, unsigned bytes)
{
    struct be64 wire = be64_of(value);
    assert(bytes <= sizeof(wire) && at + bytes <= c->reply_at);
    store(c, at, wire.byte + sizeof(wire) - bytes, bytes);
}

int reply_end(struct call *c)
{
    size_t expected = MIN(c->reply_at, c->reply_limit);
    c->task->data_in_length = MIN(expected, c->task->data_in.length);
    call_residual(c, expected, c->task->data_in.length);
    return SCSI_GOOD;
}

int parameters_load(struct call *c, void *buffer, size_t length)
{
    if (c->task->data_out.length < length)
        return fail_with(c, SCSI_KEY_ILLEGAL_REQUEST, ASC_PARAMETER_LIST_LENGTH);
    if (length)
        sgl_to_buffer(sgl_slice(c->task->data_out, 0, length), buffer);
    call_residual(c, length, c->task->data_out.length);
    return 0;
}
