/*
 * A bounded, sticky-fail cursor over untrusted bytes. Reads past the end return zero and mark the
 * cursor failed; the parser checks `failed` once, at the end, so it reads like a schema.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef BASE_CURSOR_H
#define BASE_CURSOR_H

#include "base/byteorder.h"

struct cursor {
    const uint8_t *bytes;
    size_t length;
    size_t position;
    bool failed;
};

static inline struct cursor cursor_of(const void *bytes, size_t length)
{
    return (struct cursor){.bytes = bytes, .length = length};
}

/** The next @length bytes, or NULL (and the cursor fails) where there are fewer. */
static inline const uint8_t *cursor_take(struct cursor *c, size_t length)
{
    if (c->failed || length > c->length - c->position) {
        c->failed = true;
        return NULL;
    }
    const uint8_t *at = c->bytes + c->position;
    c->position += length;
    return at;
}

static inline size_t cursor_left(const struct cursor *c)
{
    return c->failed ? 0 : c->length - c->position;
}

#define CURSOR_READ(order, bits)                                        \
    static inline uint##bits##_t cursor_##order##bits(struct cursor *c) \
    {                                                                   \
        const uint8_t *at = cursor_take(c, bits / 8);                   \
        return at ? load_##order##bits(at) : 0;                         \
    }

CURSOR_READ(be, 16)
CURSOR_READ(be, 32)
CURSOR_READ(be, 64)
CURSOR_READ(le, 16)
CURSOR_READ(le, 32)
CURSOR_READ(le, 64)

static inline uint8_t cursor_u8(struct cursor *c)
{
    const uint8_t *at = cursor_take(c, 1);
    return at ? *at : 0;
}

#endif
