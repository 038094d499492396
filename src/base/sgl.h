/*
 * A scatter-gather list: a view of `length` bytes over an array of iovecs that somebody else owns,
 * starting `skip` bytes into the first one. Passed by value; slicing copies nothing.
 *
 *   iov[0]         iov[1]           iov[2]
 *   |..skip..#######|###############|####.......|
 *            <----------- length ------->
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef BASE_SGL_H
#define BASE_SGL_H

#include "base/common.h"
#include <sys/uio.h>

struct sgl {
    const struct iovec *iov;
    unsigned count; /* iovecs from iov[0] that the view may touch */
    size_t skip;    /* < iov[0].iov_len, unless length is 0 */
    size_t length;
};

/** A view over one buffer; @iov is the caller's storage for it and must live as long as the view.
 */
static inline struct sgl sgl_one(struct iovec *iov, void *buffer, size_t length)
{
    *iov = (struct iovec){.iov_base = buffer, .iov_len = length};
    return (struct sgl){.iov = iov, .count = 1, .length = length};
}

/** A view over a whole array. */
struct sgl sgl_of(const struct iovec *iov, unsigned count);

/** The bytes [offset, offset + length) of @list, which must lie inside it. */
struct sgl sgl_slice(struct sgl list, size_t offset, size_t length);

/** The one address of a view that is contiguous, else NULL. */
static inline void *sgl_flat(struct sgl list)
{
    if (list.length == 0 || list.skip + list.length > list.iov[0].iov_len)
        return NULL;
    return (char *)list.iov[0].iov_base + list.skip;
}

/**
 * Writes the view as plain iovecs, at most @max of them.
 * @ret_bytes bytes that the iovecs written cover (all of the view when they sufficed).
 * @return number of iovecs written.
 */
unsigned sgl_export(struct sgl list, struct iovec *out, unsigned max, size_t *ret_bytes);

/** Copies the whole view out to @buffer, or in from it. @buffer holds list.length bytes. */
void sgl_to_buffer(struct sgl list, void *buffer);
void sgl_from_buffer(struct sgl list, const void *buffer);

/** Fills the whole view with @byte. */
void sgl_fill(struct sgl list, uint8_t byte);

/** True when every byte of the view is zero. */
bool sgl_is_zero(struct sgl list);

/** True when @length bytes at @buffer are zero. */
bool buffer_is_zero(const void *buffer, size_t length);

/** True when every address and length in the view is a multiple of @alignment (a power of two). */
bool sgl_is_aligned(struct sgl list, size_t alignment);

#endif
