/*
 * Requests on a disk: checking them, carrying them out, and the calls that wait for one.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "lib/disk.h"
#include "lib/thread.h"
#include <limits.h>

/* What a comparison reads at a time. */
#define COMPARE_BYTES ((size_t)256 * KiB)

static const char *const op_names[] = {NULL, "read", "write", "zeroing", "discard", "flush"};

/* What the operations take, by HWS_OP_*. */
static const uint32_t op_flags[] = {
    [HWS_OP_WRITE] = HWS_FUA,
    [HWS_OP_ZERO] = HWS_FUA | HWS_UNMAP | HWS_NO_FALLBACK,
    [HWS_OP_FLUSH] = 0,
};

static unsigned core_flags(uint32_t flags)
{
    return (flags & HWS_FUA ? BLOCK_FUA : 0) | (flags & HWS_UNMAP ? BLOCK_MAY_UNMAP : 0) |
           (flags & HWS_NO_FALLBACK ? BLOCK_NO_FALLBACK : 0);
}

/* ---- checking ---- */

static int check_data(const struct hws_request *from, struct disk_request *ret,
                      struct hws_error *err)
{
    if (from->iov_count == 0) {
        if (from->length > SSIZE_MAX)
            return hws_fail(err, EINVAL, "a request of %llu bytes is longer than any buffer",
                            (unsigned long long)from->length);
        if (!from->buffer && from->length)
            return hws_fail(err, EINVAL, "the buffer is NULL");
        ret->data = sgl_one(&ret->one, from->buffer, from->length);
        return 0;
    }
    if (!from->iov || from->iov_count > HWS_IOV_MAX)
        return hws_fail(err, EINVAL, "there may be up to %d buffers, and the array is not NULL",
                        HWS_IOV_MAX);
    uint64_t length = 0;
    for (unsigned i = 0; i < from->iov_count; i++) {
        if (!from->iov[i].iov_base && from->iov[i].iov_len)
            return hws_fail(err, EINVAL, "buffer %u is NULL", i);
        if (add_overflows(length, (uint64_t)from->iov[i].iov_len, &length) || length > SSIZE_MAX)
            return hws_fail(err, EINVAL, "the buffers are longer than memory can be");
    }
    ret->data = sgl_of(from->iov, from->iov_count);
    ret->length = length;
    return 0;
}

static int check_range(const struct hws_disk *disk, const struct disk_request *request,
                       struct hws_error *err)
{
    uint64_t size = block_root_size(disk->root);
    if (likely(range_fits(request->offset, request->length, size)))
        return 0;
    return hws_fail(err, EINVAL, "'%.200s': a %s of %llu bytes at %llu reaches past the end, %llu",
                    disk->name, op_names[request->op], (unsigned long long)request->length,
                    (unsigned long long)request->offset, (unsigned long long)size);
}

int disk_request_check(const struct hws_disk *disk, const struct hws_request *from,
                       struct disk_request *ret, struct hws_error *err)
{
    int r = disk_check(disk, err);
    if (unlikely(r < 0))
        return r;
    uint32_t op = from->op;
    if (unlikely(op < HWS_OP_READ || op > HWS_OP_FLUSH))
        return hws_fail(err, EINVAL, "there is no operation %u", op);
    uint32_t known = op < ARRAY_LEN(op_flags) ? op_flags[op] : 0;
    if (unlikely((from->flags & ~known) || from->reserved[0] || from->reserved[1] ||
                 from->reserved[2]))
        return hws_fail(err, EINVAL,
                        "a %s does not take the flags 0x%x, or what is reserved is not 0",
                        op_names[op], from->flags & ~known);
    ret->op = op;
    ret->offset = from->offset;
    ret->length = op == HWS_OP_FLUSH ? 0 : from->length;
    ret->flags = core_flags(from->flags);
    if (op == HWS_OP_READ || op == HWS_OP_WRITE)
        r = check_data(from, ret, err);
    if (likely(r == 0) && op != HWS_OP_FLUSH)
        r = check_range(disk, ret, err);
    if (likely(r == 0) && unlikely(disk->read_only) && op != HWS_OP_READ && op != HWS_OP_FLUSH)
        r = hws_fail(err, EROFS, "'%.200s' is open read-only", disk->name);
    return r;
}

/* ---- carrying out ---- */

int co_disk_request(struct hws_disk *disk, const struct disk_request *request)
{
    struct block_root *root = disk->root;
    switch (request->op) {
    case HWS_OP_READ:
        return co_root_read(root, request->offset, request->data, 0);
    case HWS_OP_WRITE:
        return co_root_write(root, request->offset, request->data, request->flags);
    case HWS_OP_ZERO:
        return co_root_write_zeroes(root, request->offset, request->length, request->flags);
    case HWS_OP_DISCARD:
        return co_root_discard(root, request->offset, request->length);
    default:
        return co_root_flush(root);
    }
}

struct io_call {
    struct hws_disk *disk;
    struct disk_request request;
    int result;
};

static void co_io_call(void *arg)
{
    struct io_call *call = arg;
    call->result = co_disk_request(call->disk, &call->request);
}

static int perform(struct hws_disk *disk, const struct hws_request *request, struct hws_error *err)
{
    struct io_call call = {.disk = disk};
    int r = disk_request_check(disk, request, &call.request, err);
    if (r == 0)
        r = lib_thread_run(co_io_call, &call, err);
    if (r < 0 || call.result == 0)
        return r;
    return hws_fail_errno(err, -call.result, "'%.200s': %s of %llu bytes at offset %llu",
                          disk->name, op_names[request->op],
                          (unsigned long long)call.request.length,
                          (unsigned long long)request->offset);
}

/* ---- the calls ---- */

int hws_disk_read(struct hws_disk *disk, uint64_t offset, size_t length, void *buffer,
                  unsigned flags, struct hws_error *err)
{
    struct hws_request request = {
        .op = HWS_OP_READ, .offset = offset, .length = length, .buffer = buffer, .flags = flags};
    return perform(disk, &request, err);
}

/* The calls with no iovec at all are those of length 0. */
static int perform_v(struct hws_disk *disk, uint32_t op, uint64_t offset, const struct iovec *iov,
                     unsigned count, unsigned flags, struct hws_error *err)
{
    struct hws_request request = {
        .op = op, .offset = offset, .iov = iov, .iov_count = count, .flags = flags};
    return perform(disk, &request, err);
}

int hws_disk_readv(struct hws_disk *disk, uint64_t offset, const struct iovec *iov, unsigned count,
                   unsigned flags, struct hws_error *err)
{
    return perform_v(disk, HWS_OP_READ, offset, iov, count, flags, err);
}

int hws_disk_write(struct hws_disk *disk, uint64_t offset, size_t length, const void *buffer,
                   unsigned flags, struct hws_error *err)
{
    struct hws_request request = {.op = HWS_OP_WRITE,
                                  .offset = offset,
                                  .length = length,
                                  .buffer = (void *)buffer,
                                  .flags = flags};
    return perform(disk, &request, err);
}

int hws_disk_writev(struct hws_disk *disk, uint64_t offset, const struct iovec *iov, unsigned count,
                    unsigned flags, struct hws_error *err)
{
    return perform_v(disk, HWS_OP_WRITE, offset, iov, count, flags, err);
}

int hws_disk_zero(struct hws_disk *disk, uint64_t offset, uint64_t length, unsigned flags,
                  struct hws_error *err)
{
    struct hws_request request = {
        .op = HWS_OP_ZERO, .offset = offset, .length = length, .flags = flags};
    return perform(disk, &request, err);
}

int hws_disk_discard(struct hws_disk *disk, uint64_t offset, uint64_t length, struct hws_error *err)
{
    struct hws_request request = {.op = HWS_OP_DISCARD, .offset = offset, .length = length};
    return perform(disk, &request, err);
}

int hws_disk_flush(struct hws_disk *disk, struct hws_error *err)
{
    struct hws_request request = {.op = HWS_OP_FLUSH};
    return perform(disk, &request, err);
}

/* ---- comparing ---- */

static size_t same_bytes(const uint8_t *a, const uint8_t *b, size_t length)
{
    if (memcmp(a, b, length) == 0)
        return length;
    size_t same = 0;
    while (a[same] == b[same])
        same++;
    return same;
}

int hws_disk_compare(struct hws_disk *disk, uint64_t offset, size_t length, const void *buffer,
                     size_t *ret_same_bytes, struct hws_error *err)
{
    struct hws_request whole = {
        .op = HWS_OP_READ, .offset = offset, .length = length, .buffer = (void *)buffer};
    struct disk_request unused;
    int r = disk_request_check(disk, &whole, &unused, err);
    if (r == 0 && !ret_same_bytes)
        r = hws_fail(err, EINVAL, "a place for the result is needed");
    if (r < 0)
        return r;
    size_t piece = MIN(length, COMPARE_BYTES), at = 0, same = 0;
    autofree uint8_t *bytes = piece ? aligned_alloc(4096, align_up(piece, (size_t)4096)) : NULL;
    if (piece && !bytes)
        return hws_fail(err, ENOMEM, "no memory for %zu bytes to compare with", piece);
    while (at < length && same == at) {
        size_t now = MIN(length - at, piece);
        r = hws_disk_read(disk, offset + at, now, bytes, 0, err);
        if (r < 0)
            return r;
        same += same_bytes((const uint8_t *)buffer + at, bytes, now);
        at += now;
    }
    *ret_same_bytes = same;
    return 0;
}
