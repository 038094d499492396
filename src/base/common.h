/*
 * What every file of the project uses: attributes, small macros, checked arithmetic, cleanup
 * attributes. No state, no I/O.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef BASE_COMMON_H
#define BASE_COMMON_H

#include <assert.h>
#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifdef NDEBUG
#error "assertions guard data and stay on in release builds"
#endif

#define HWS_MUST_CHECK                  __attribute__((warn_unused_result))
#define HWS_PRINTF(text, first)         __attribute__((format(printf, text, first)))
#define HWS_COLD                        __attribute__((cold, noinline))

#define likely(x)                       __builtin_expect(!!(x), 1)
#define unlikely(x)                     __builtin_expect(!!(x), 0)

#define KiB                             ((uint64_t)1 << 10)
#define MiB                             ((uint64_t)1 << 20)
#define GiB                             ((uint64_t)1 << 30)

#define ARRAY_LEN(a)                    (sizeof(a) / sizeof((a)[0]))
#define container_of(ptr, type, member) ((type *)((char *)(ptr)-offsetof(type, member)))

/* Each use has variables of its own names, so that uses nest without a warning. */
#define MIN(a, b)            MIN_EXPAND_(a, b, __COUNTER__)
#define MAX(a, b)            MAX_EXPAND_(a, b, __COUNTER__)
#define MIN_EXPAND_(a, b, n) MIN_NAMED_(a, b, n)
#define MAX_EXPAND_(a, b, n) MAX_NAMED_(a, b, n)
#define MIN_NAMED_(a, b, n)                            \
    ({                                                 \
        __auto_type min_a_##n = (a);                   \
        __auto_type min_b_##n = (b);                   \
        min_a_##n < min_b_##n ? min_a_##n : min_b_##n; \
    })
#define MAX_NAMED_(a, b, n)                            \
    ({                                                 \
        __auto_type max_a_##n = (a);                   \
        __auto_type max_b_##n = (b);                   \
        max_a_##n > max_b_##n ? max_a_##n : max_b_##n; \
    })

/* Overflow-checked arithmetic: true when the result did not fit. */
#define add_overflows(a, b, ret) __builtin_add_overflow(a, b, ret)
#define mul_overflows(a, b, ret) __builtin_mul_overflow(a, b, ret)

static inline bool is_power_of_2(uint64_t value)
{
    return value != 0 && (value & (value - 1)) == 0;
}

/** @alignment a power of two. */
static inline bool is_aligned(uint64_t value, uint64_t alignment)
{
    return (value & (alignment - 1)) == 0;
}

static inline uint64_t align_down(uint64_t value, uint64_t alignment)
{
    return value & ~(alignment - 1);
}

/** The caller knows that value + alignment does not overflow. */
static inline uint64_t align_up(uint64_t value, uint64_t alignment)
{
    return (value + alignment - 1) & ~(alignment - 1);
}

static inline uint64_t div_round_up(uint64_t value, uint64_t divisor)
{
    return value / divisor + (value % divisor != 0);
}

/** log2 of a power of two. */
static inline unsigned log2_of(uint64_t value)
{
    return (unsigned)__builtin_ctzll(value);
}

/** True when [offset, offset + length) lies in [0, size), without overflow. */
static inline bool range_fits(uint64_t offset, uint64_t length, uint64_t size)
{
    return offset <= size && length <= size - offset;
}

/** True when two ranges share a byte. Neither range may wrap. */
static inline bool ranges_overlap(uint64_t a, uint64_t a_length, uint64_t b, uint64_t b_length)
{
    return a < b + b_length && b < a + a_length;
}

/* Cleanup attributes. A descriptor starts at -1, a pointer at NULL; steal_*() hands ownership on.
 */
static inline void cleanup_free_(void *p)
{
    free(*(void **)p);
}

static inline void cleanup_fd_(int *fd)
{
    if (*fd >= 0)
        close(*fd);
}

#define autofree __attribute__((cleanup(cleanup_free_)))
#define autofd   __attribute__((cleanup(cleanup_fd_)))

static inline int steal_fd(int *fd)
{
    int taken = *fd;
    *fd = -1;
    return taken;
}

#define steal_ptr(p)               \
    ({                             \
        __auto_type taken_ = *(p); \
        *(p) = NULL;               \
        taken_;                    \
    })

#endif
