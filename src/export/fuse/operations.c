/*
 * What each FUSE request does to the root. The file system has one inode, the regular file that is
 * its root; whatever asks for names in it is answered ENOSYS, which the kernel remembers.
 *
 * The kernel is trusted to be itself, but lengths and offsets that a user can choose (a seek, a
 * hole to punch) are bounded here. The file has a fixed size: nothing written past the end makes it
 * grow.
 *
 * Thread: any queue of the export, one coroutine a request.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "export/fuse/internal.h"
#include <linux/falloc.h>
#include <sys/stat.h>

/** Extents that one LSEEK looks at before it lets others run. */
#define SEEK_BURST 64

union fixed {
    struct fuse_init_in init;
    struct fuse_getattr_in getattr;
    struct fuse_setattr_in setattr;
    struct fuse_open_in open;
    struct fuse_read_in read;
    struct fuse_write_in write;
    struct fuse_fsync_in fsync;
    struct fuse_fallocate_in fallocate;
    struct fuse_lseek_in lseek;
};

typedef int co_operation(struct fuse_export *export, struct fuse_request *request,
                         const union fixed *in);

static void answer(struct fuse_request *request, const void *data, size_t length)
{
    assert(length <= FUSE_PAYLOAD_BYTES);
    memcpy(request->payload, data, length);
    request->answer_bytes = length;
}

/* ---- the connection ---- */

static uint64_t offered_flags(const struct fuse_init_in *in, size_t fixed_bytes)
{
    uint64_t flags = in->flags;
    if ((flags & FUSE_INIT_EXT) && fixed_bytes >= offsetof(struct fuse_init_in, unused))
        flags |= (uint64_t)in->flags2 << 32;
    return flags;
}

static int co_init(struct fuse_export *export, struct fuse_request *request, const union fixed *in)
{
    const struct fuse_init_in *init = &in->init;
    struct fuse_init_out out = {.major = FUSE_VERSION_MAJOR, .minor = FUSE_VERSION_MINOR};
    if (init->major > FUSE_VERSION_MAJOR) {
        answer(request, &out, sizeof(out)); /* the kernel asks again with our major version */
        return 0;
    }
    if (init->major < FUSE_VERSION_MAJOR || init->minor < FUSE_VERSION_MINOR_LEAST) {
        fuse_export_became_ready(export, -EPROTO);
        return -EPROTO;
    }
    uint64_t wanted = FUSE_ASYNC_READ | FUSE_ASYNC_DIO | FUSE_BIG_WRITES | FUSE_PARALLEL_DIROPS |
                      FUSE_MAX_PAGES | FUSE_INIT_EXT | FUSE_DIRECT_IO_ALLOW_MMAP;
    if (export->ring_wanted)
        wanted |= FUSE_OVER_IO_URING;
    uint64_t offered = offered_flags(init, request->fixed_bytes);
    uint64_t flags = wanted & offered;
    out.max_readahead = init->max_readahead;
    out.flags = (uint32_t)flags;
    out.flags2 = (uint32_t)(flags >> 32);
    out.max_background = FUSE_BACKGROUND_MAX;
    out.congestion_threshold = FUSE_BACKGROUND_MAX * 3 / 4;
    out.max_write = FUSE_PAYLOAD_BYTES;
    out.max_pages = FUSE_PAYLOAD_PAGES;
    out.time_granularity_ns = 1;
    export->kernel_minor = init->minor;
    export->over_ring = (flags & FUSE_OVER_IO_URING) != 0;
    export->negotiated = true;
    answer(request, &out, sizeof(out));
    return 0;
}

static int co_nothing(struct fuse_export *export, struct fuse_request *request,
                      const union fixed *in)
{
    return 0;
}

static int co_forget(struct fuse_export *export, struct fuse_request *request,
                     const union fixed *in)
{
    request->no_answer = true;
    return 0;
}

/* ---- attributes ---- */

static void answer_attributes(struct fuse_export *export, struct fuse_request *request)
{
    uint64_t size = block_root_size(export->root);
    struct fuse_attr_out out = {
        .valid_s = 1,
        .attr = {.inode = FUSE_NODE_ROOT,
                 .size = size,
                 .blocks = div_round_up(size, 512),
                 .links = 1,
                 .block_size = FUSE_BLOCK_BYTES},
    };
    rt_mutex_lock(&export->guard);
    out.attr.mode = S_IFREG | export->mode;
    out.attr.uid = export->uid;
    out.attr.gid = export->gid;
    rt_mutex_unlock(&export->guard);
    answer(request, &out, sizeof(out));
}

static int co_getattr(struct fuse_export *export, struct fuse_request *request,
                      const union fixed *in)
{
    answer_attributes(export, request);
    return 0;
}

/* Ownership and permissions live as long as the export; times are not kept. */
static int co_setattr(struct fuse_export *export, struct fuse_request *request,
                      const union fixed *in)
{
    const struct fuse_setattr_in *set = &in->setattr;
    if ((set->valid & FATTR_SIZE) && set->size != block_root_size(export->root))
        return -EPERM; /* an image is resized through its engine, not by truncate(2) */
    rt_mutex_lock(&export->guard);
    if (set->valid & FATTR_MODE)
        export->mode = set->mode & 0777;
    if (set->valid & FATTR_UID)
        export->uid = set->uid;
    if (set->valid & FATTR_GID)
        export->gid = set->gid;
    rt_mutex_unlock(&export->guard);
    answer_attributes(export, request);
    return 0;
}

static int co_statfs(struct fuse_export *export, struct fuse_request *request,
                     const union fixed *in)
{
    struct fuse_statfs_out out = {
        .blocks = div_round_up(block_root_size(export->root), FUSE_BLOCK_BYTES),
        .files = 1,
        .block_size = FUSE_BLOCK_BYTES,
        .fragment_size = FUSE_BLOCK_BYTES,
        .name_length = 255,
    };
    answer(request, &out, sizeof(out));
    return 0;
}

/*
 * FOPEN_DIRECT_IO keeps the page cache out of the way: a loop device has its own above, the image's
 * file its own below, and other exports of the same root see every write at once. Writers run in
 * parallel; the root orders what overlaps where it must.
 */
static int co_open_file(struct fuse_export *export, struct fuse_request *request,
                        const union fixed *in)
{
    if (export->read_only && (in->open.flags & O_ACCMODE) != O_RDONLY)
        return -EROFS;
    struct fuse_open_out out = {
        .open_flags = FOPEN_DIRECT_IO | FOPEN_PARALLEL_DIRECT_WRITES | FOPEN_NOFLUSH,
    };
    answer(request, &out, sizeof(out));
    return 0;
}

/* ---- data ---- */

static int co_read(struct fuse_export *export, struct fuse_request *request, const union fixed *in)
{
    uint64_t size = block_root_size(export->root);
    uint64_t offset = in->read.offset;
    if (in->read.size > FUSE_PAYLOAD_BYTES)
        return -EINVAL;
    if (offset >= size)
        return 0;
    size_t length = MIN(in->read.size, size - offset);
    struct iovec iov;
    int r = co_root_read(export->root, offset, sgl_one(&iov, request->payload, length), 0);
    if (r < 0)
        return r;
    request->answer_bytes = length;
    return 0;
}

static int co_write(struct fuse_export *export, struct fuse_request *request, const union fixed *in)
{
    uint64_t size = block_root_size(export->root);
    uint64_t offset = in->write.offset;
    if (export->read_only)
        return -EROFS;
    if (in->write.size > request->payload_bytes)
        return -EINVAL;
    if (offset >= size)
        return in->write.size ? -ENOSPC : 0;
    size_t length = MIN(in->write.size, size - offset);
    unsigned flags = in->write.flags & O_DSYNC ? BLOCK_FUA : 0; /* O_SYNC contains O_DSYNC */
    struct iovec iov;
    int r = co_root_write(export->root, offset, sgl_one(&iov, request->payload, length), flags);
    if (r < 0)
        return r;
    struct fuse_write_out out = {.size = (uint32_t)length};
    answer(request, &out, sizeof(out));
    return 0;
}

static int co_fsync(struct fuse_export *export, struct fuse_request *request, const union fixed *in)
{
    return export->read_only ? 0 : co_root_flush(export->root);
}

/*
 * A punched hole reads as zeroes, which a mere discard does not promise: both modes are
 * write-zeroes, a hole with leave to deallocate. A loop device sends its discards as holes.
 */
static int co_fallocate_file(struct fuse_export *export, struct fuse_request *request,
                             const union fixed *in)
{
    const uint32_t mode = in->fallocate.mode;
    const uint64_t size = block_root_size(export->root);
    uint64_t offset = in->fallocate.offset, length = in->fallocate.length;
    unsigned flags;
    if (export->read_only)
        return -EROFS;
    switch (mode) {
    case FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE:
        flags = BLOCK_MAY_UNMAP;
        break;
    case FALLOC_FL_ZERO_RANGE:
        if (!range_fits(offset, length, size))
            return -EPERM; /* would grow the file */
        flags = 0;
        break;
    case FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE:
        flags = 0;
        break;
    default:
        return -EOPNOTSUPP;
    }
    if (offset >= size)
        return 0;
    length = MIN(length, size - offset);
    return length ? co_root_write_zeroes(export->root, offset, length, flags) : 0;
}

static bool is_hole(const struct block_extent *extent)
{
    return (extent->flags & BLOCK_STATUS_ZERO) || !(extent->flags & BLOCK_STATUS_DATA);
}

static int co_lseek_file(struct fuse_export *export, struct fuse_request *request,
                         const union fixed *in)
{
    const uint64_t size = block_root_size(export->root);
    const bool want_hole = in->lseek.whence == SEEK_HOLE;
    struct fuse_lseek_out out = {.offset = in->lseek.offset};
    if (in->lseek.whence != SEEK_HOLE && in->lseek.whence != SEEK_DATA)
        return -EINVAL;
    if (out.offset >= size)
        return -ENXIO;
    for (unsigned n = 1; out.offset < size; n++) {
        struct block_extent extent;
        int r = co_root_status(export->root, out.offset, size - out.offset, &extent);
        if (r < 0)
            return r;
        if (is_hole(&extent) == want_hole)
            break;
        out.offset += extent.length;
        if (n % SEEK_BURST == 0)
            co_yield ();
    }
    if (out.offset >= size && !want_hole)
        return -ENXIO; /* holes up to the end; the end itself counts as a hole */
    out.offset = MIN(out.offset, size);
    answer(request, &out, sizeof(out));
    return 0;
}

/* ---- the table ---- */

static const struct {
    co_operation *run;
    size_t fixed_bytes; /* least size of the fixed part */
    size_t fixed_max;   /* how much of it this version knows; 0: fixed_bytes */
} operations[] = {
    [FUSE_FORGET] = {co_forget, 0},
    [FUSE_GETATTR] = {co_getattr, sizeof(struct fuse_getattr_in)},
    [FUSE_SETATTR] = {co_setattr, sizeof(struct fuse_setattr_in)},
    [FUSE_OPEN] = {co_open_file, sizeof(struct fuse_open_in)},
    [FUSE_READ] = {co_read, sizeof(struct fuse_read_in)},
    [FUSE_WRITE] = {co_write, sizeof(struct fuse_write_in)},
    [FUSE_STATFS] = {co_statfs, 0},
    [FUSE_RELEASE] = {co_nothing, 0},
    [FUSE_FSYNC] = {co_fsync, sizeof(struct fuse_fsync_in)},
    [FUSE_FLUSH] = {co_nothing, 0}, /* close(2) promises no durability */
    [FUSE_INIT] = {co_init, FUSE_INIT_IN_LEAST_BYTES, sizeof(struct fuse_init_in)},
    [FUSE_DESTROY] = {co_nothing, 0},
    [FUSE_BATCH_FORGET] = {co_forget, 0},
    [FUSE_FALLOCATE] = {co_fallocate_file, sizeof(struct fuse_fallocate_in)},
    [FUSE_LSEEK] = {co_lseek_file, sizeof(struct fuse_lseek_in)},
};

/* What the kernel takes as an error lies between -511 and 0. */
static int wire_error(int r)
{
    return r <= -512 || r > 0 ? -EIO : r;
}

void co_fuse_serve(struct fuse_export *export, struct fuse_request *request)
{
    const uint32_t opcode = request->header.opcode;
    int r = -ENOSYS; /* INTERRUPT too: then the kernel sends no more of them */
    request->answer_bytes = 0;
    request->no_answer = false;
    if (opcode < ARRAY_LEN(operations) && operations[opcode].run) {
        union fixed in;
        size_t least = operations[opcode].fixed_bytes;
        size_t take = MIN(MAX(least, operations[opcode].fixed_max), request->fixed_bytes);
        if (request->fixed_bytes < least) {
            r = -EINVAL;
        } else {
            memset(&in, 0, sizeof(in));
            memcpy(&in, request->fixed, take);
            r = operations[opcode].run(export, request, &in);
        }
    }
    request->error = wire_error(r);
    if (request->error)
        request->answer_bytes = 0;
}
