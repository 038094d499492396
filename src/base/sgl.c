/*
 * Walking, slicing and copying of scatter-gather lists; see base/sgl.h.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/sgl.h"

struct sgl sgl_of(const struct iovec *iov, unsigned count)
{
    struct sgl list = {.iov = iov, .count = count};
    for (unsigned i = 0; i < count; i++)
        list.length += iov[i].iov_len;
    return list;
}

/* Takes the next contiguous piece off the front of @list; the piece is empty at the end. */
static struct iovec next_piece(struct sgl *list)
{
    while (list->length && list->skip == list->iov[0].iov_len) {
        assert(list->count > 1);
        list->iov++;
        list->count--;
        list->skip = 0;
    }
    if (list->length == 0)
        return (struct iovec){0};
    struct iovec piece = {
        .iov_base = (char *)list->iov[0].iov_base + list->skip,
        .iov_len = MIN(list->iov[0].iov_len - list->skip, list->length),
    };
    list->skip += piece.iov_len;
    list->length -= piece.iov_len;
    return piece;
}

struct sgl sgl_slice(struct sgl list, size_t offset, size_t length)
{
    assert(range_fits(offset, length, list.length));
    list.skip += offset;
    while (list.count > 1 && list.skip >= list.iov[0].iov_len) {
        list.skip -= list.iov[0].iov_len;
        list.iov++;
        list.count--;
    }
    list.length = length;
    return list;
}

unsigned sgl_export(struct sgl list, struct iovec *out, unsigned max, size_t *ret_bytes)
{
    size_t wanted = list.length;
    unsigned count = 0;
    while (count < max && list.length)
        out[count++] = next_piece(&list);
    *ret_bytes = wanted - list.length;
    return count;
}

void sgl_to_buffer(struct sgl list, void *buffer)
{
    char *to = buffer;
    for (struct iovec piece; (piece = next_piece(&list)).iov_len; to += piece.iov_len)
        memcpy(to, piece.iov_base, piece.iov_len);
}

void sgl_from_buffer(struct sgl list, const void *buffer)
{
    const char *from = buffer;
    for (struct iovec piece; (piece = next_piece(&list)).iov_len; from += piece.iov_len)
        memcpy(piece.iov_base, from, piece.iov_len);
}

void sgl_fill(struct sgl list, uint8_t byte)
{
    for (struct iovec piece; (piece = next_piece(&list)).iov_len;)
        memset(piece.iov_base, byte, piece.iov_len);
}

bool buffer_is_zero(const void *buffer, size_t length)
{
    /* The first 16 bytes by hand; if they are zero, the rest is when it equals itself shifted. */
    const unsigned char *bytes = buffer;
    size_t head = MIN(length, (size_t)16);
    for (size_t i = 0; i < head; i++)
        if (bytes[i])
            return false;
    return length <= 16 || memcmp(bytes, bytes + 16, length - 16) == 0;
}

bool sgl_is_zero(struct sgl list)
{
    for (struct iovec piece; (piece = next_piece(&list)).iov_len;)
        if (!buffer_is_zero(piece.iov_base, piece.iov_len))
            return false;
    return true;
}

bool sgl_is_aligned(struct sgl list, size_t alignment)
{
    for (struct iovec piece; (piece = next_piece(&list)).iov_len;)
        if (!is_aligned((uintptr_t)piece.iov_base | piece.iov_len, alignment))
            return false;
    return true;
}
