/*
 * Zeroes and holes without writing: fallocate(2) on files and block devices.
 *
 *     wanted                    first            then             then
 *     zeroes, may deallocate    PUNCH_HOLE       ZERO_RANGE       the core writes zeroes
 *     zeroes, stay allocated    ZERO_RANGE       PUNCH + allocate the core writes zeroes
 *     discard                   PUNCH_HOLE       BLKDISCARD       nothing: it is a hint
 *
 * What a file system does not have is asked for once.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "backend/file/file.h"
#include <linux/falloc.h>
#include <linux/fs.h>
#include <sys/ioctl.h>

/*
 * One fallocate with memory. @return 0, -ENOTSUP when it is not possible here (now or ever),
 * -errno.
 */
static int co_try_fallocate(struct file *f, unsigned refused_bit, int mode, uint64_t offset,
                            uint64_t length)
{
    if (file_refused(f, refused_bit))
        return -ENOTSUP;
    int r = co_fallocate(f->handle, mode, offset, length);
    switch (r) {
    case -EOPNOTSUPP:
    case -ENOSYS:
    case -ENODEV:
        file_refuse(f, refused_bit);
        return -ENOTSUP;
    case -EINVAL: /* a range that the device's blocks do not fit */
    case -EPERM:  /* sealed or append-only */
    case -EBUSY:
        return -ENOTSUP;
    default:
        return r;
    }
}

static int co_punch(struct file *f, uint64_t offset, uint64_t length)
{
    return co_try_fallocate(f, FILE_NO_PUNCH, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset,
                            length);
}

static int co_zero_range(struct file *f, uint64_t offset, uint64_t length)
{
    /* KEEP_SIZE: never grow a file whose last block is cut short. */
    return co_try_fallocate(f, FILE_NO_ZERO_RANGE, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE,
                            offset, length);
}

/* For file systems without ZERO_RANGE (tmpfs): a hole, then blocks for it. */
static int co_punch_and_allocate(struct file *f, uint64_t offset, uint64_t length)
{
    if (f->stat.is_block_device || file_refused(f, FILE_NO_ALLOCATE))
        return -ENOTSUP;
    int r = co_punch(f, offset, length);
    if (r < 0)
        return r;
    return co_try_fallocate(f, FILE_NO_ALLOCATE, FALLOC_FL_KEEP_SIZE, offset, length);
}

int co_file_write_zeroes(struct block_node *node, uint64_t offset, uint64_t length, unsigned flags)
{
    struct file *f = node->state;
    int r = -ENOTSUP;

    if (flags & BLOCK_MAY_UNMAP)
        r = co_punch(f, offset, length);
    if (r == -ENOTSUP)
        r = co_zero_range(f, offset, length);
    if (r == -ENOTSUP && !(flags & BLOCK_MAY_UNMAP))
        r = co_punch_and_allocate(f, offset, length);
    file_map_forget(&f->map, offset, length, true);
    return r;
}

struct discard_call {
    int fd;
    uint64_t range[2];
};

static int discard_device(void *arg)
{
    struct discard_call *call = arg;
    return ioctl(call->fd, BLKDISCARD, call->range) < 0 ? -errno : 0;
}

static int co_discard_device(struct file *f, uint64_t offset, uint64_t length)
{
    struct discard_call call = {rt_file_fd(f->handle), {offset, length}};

    if (call.fd < 0 || file_refused(f, FILE_NO_DISCARD))
        return 0;
    int r = co_work(discard_device, &call);
    if (r == -EOPNOTSUPP || r == -ENOTTY)
        file_refuse(f, FILE_NO_DISCARD);
    return r == -EIO ? r : 0; /* anything else: it does not fit the device, and is left */
}

int co_file_discard(struct block_node *node, uint64_t offset, uint64_t length)
{
    struct file *f = node->state;
    int r = co_punch(f, offset, length);

    if (r == -ENOTSUP)
        r = f->stat.is_block_device ? co_discard_device(f, offset, length) : 0;
    file_map_forget(&f->map, offset, length, true);
    return r;
}
