/*
 * Integers as they lie on disk and on the wire.
 *
 * On-disk and on-wire structs are made only of these types, so that a byte order cannot be
 * forgotten: the compiler refuses to use one as a number. They have no alignment of their own.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef BASE_BYTEORDER_H
#define BASE_BYTEORDER_H

#include "base/common.h"
#include <endian.h>

#define ENDIAN_TYPE(order, bits)                                                               \
    struct order##bits {                                                                       \
        uint8_t byte[bits / 8];                                                                \
    };                                                                                         \
    static_assert(sizeof(struct order##bits) == bits / 8 && _Alignof(struct order##bits) == 1, \
                  "");                                                                         \
    static inline uint##bits##_t order##bits##_get(struct order##bits wire)                    \
    {                                                                                          \
        uint##bits##_t value;                                                                  \
        memcpy(&value, wire.byte, sizeof(value));                                              \
        return order##bits##toh(value);                                                        \
    }                                                                                          \
    static inline struct order##bits order##bits##_of(uint##bits##_t value)                    \
    {                                                                                          \
        struct order##bits wire;                                                               \
        value = hto##order##bits(value);                                                       \
        memcpy(wire.byte, &value, sizeof(value));                                              \
        return wire;                                                                           \
    }                                                                                          \
    static inline uint##bits##_t load_##order##bits(const void *bytes)                         \
    {                                                                                          \
        struct order##bits wire;                                                               \
        memcpy(&wire, bytes, sizeof(wire));                                                    \
        return order##bits##_get(wire);                                                        \
    }                                                                                          \
    static inline void store_##order##bits(void *bytes, uint##bits##_t value)                  \
    {                                                                                          \
        struct order##bits wire = order##bits##_of(value);                                     \
        memcpy(bytes, &wire, sizeof(wire));                                                    \
    }

ENDIAN_TYPE(be, 16)
ENDIAN_TYPE(be, 32)
ENDIAN_TYPE(be, 64)
ENDIAN_TYPE(le, 16)
ENDIAN_TYPE(le, 32)
ENDIAN_TYPE(le, 64)

#endif
