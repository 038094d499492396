/*
 * The file backend: images in regular files and on block devices.
 *
 * - Requests go to the runtime as they come: the buffers of the export are those of the kernel's
 * I/O.
 * - O_DIRECT (cache mode none, or direct=on): the limits tell the core what alignment the device
 *   wants; the core pads, so guests may use any.
 * - A failed flush stays failed. The kernel drops dirty pages that it could not write and reports
 *   that once; a later fdatasync() that succeeds says nothing about them. So after the first
 * failure every flush fails with the same error until the image is opened anew.
 * - Image locks are those of QEMU's tools (lock.h). Block devices are opened for writing with
 * O_EXCL: a device that is mounted or part of another one is not written to behind its user's back.
 *
 *     file.c    table, open, transfer, flush, resize        zero.c    zeroes, holes, discard
 *     map.c     where data and holes are                    create.c  making and removing files
 *
 * Any queue thread may call the data path; what may race is atomic or behind the map's mutex.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "backend/file/file.h"
#include "base/log.h"
#include <sys/uio.h>

/* ---- opening ---- */

static bool wants_direct(const struct block_node *node, const struct file_options *o)
{
    if (o->direct == FILE_DIRECT_AUTO)
        return block_policy_of(node)->cache == BLOCK_CACHE_NONE ||
               block_policy_of(node)->cache == BLOCK_CACHE_DIRECTSYNC;
    return o->direct == FILE_DIRECT_ON;
}

/* Metadata is written below the roots, which know of the mode; here it holds for all. */
static int sync_flag(const struct block_node *node, bool writable)
{
    enum block_cache cache = block_policy_of(node)->cache;
    bool through = cache == BLOCK_CACHE_WRITETHROUGH || cache == BLOCK_CACHE_DIRECTSYNC;
    return writable && through ? O_DSYNC : 0;
}

/* O_NONBLOCK keeps a FIFO from hanging the open; on files it would make io_uring refuse to wait. */
static void clear_nonblock(struct rt_file *handle)
{
    int fd = rt_file_fd(handle);
    int flags = fd < 0 ? -1 : fcntl(fd, F_GETFL);
    if (flags >= 0 && (flags & O_NONBLOCK) && fcntl(fd, F_SETFL, flags & ~O_NONBLOCK) < 0)
        log_warning("clearing O_NONBLOCK: %s", strerror(errno));
}

/*
 * Opens f->path and looks at it. @ret_stat is filled. On failure nothing stays open.
 */
static int co_open_handle(struct block_node *node, bool writable, struct rt_file **ret,
                          struct rt_stat *ret_stat, struct hws_error *err)
{
    struct file *f = node->state;
    struct rt_open how = {
        .flags = (writable ? O_RDWR : O_RDONLY) | (f->direct ? O_DIRECT : 0) | O_NONBLOCK |
                 sync_flag(node, writable),
        .beneath = node->beneath,
    };
    struct rt_file *handle = NULL;

    int r = co_open(f->path, &how, &handle, err);
    if (r == -EINVAL && f->direct)
        return hws_fail(err, EINVAL,
                        "opening '%s': the file system refuses direct I/O; use another cache mode "
                        "than 'none', or direct=off",
                        f->path);
    if (r < 0)
        return r;
    clear_nonblock(handle);
    r = co_stat(handle, ret_stat);
    if (r < 0)
        hws_fail_errno(err, -r, "looking at '%s'", f->path);
    else if (!ret_stat->is_regular && !ret_stat->is_block_device)
        r = hws_fail(err, EINVAL, "'%s' is neither a regular file nor a block device", f->path);
    if (r < 0)
        rt_file_close(handle);
    else
        *ret = handle;
    return r;
}

/*
 * Claims a block device for this host: a second open with O_EXCL, which fails while the device is
 * mounted or part of another one, takes the place of the first.
 */
static int co_claim_device(struct block_node *node, struct hws_error *err)
{
    struct file *f = node->state;
    struct rt_open how = {
        .flags = O_RDWR | O_EXCL | (f->direct ? O_DIRECT : 0) | sync_flag(node, true),
        .beneath = node->beneath,
    };
    struct rt_file *claimed = NULL;
    struct rt_stat stat;

    int r = co_open(f->path, &how, &claimed, err);
    if (r == -EBUSY)
        return hws_fail(err, EBUSY,
                        "the block device '%s' is in use on this host (mounted, or part of another "
                        "device); release it, open it read-only, or use locking=off",
                        f->path);
    if (r < 0)
        return r;
    r = co_stat(claimed, &stat);
    if (r < 0 || !stat.is_block_device) {
        rt_file_close(claimed);
        return hws_fail_errno(err, r < 0 ? -r : ENODEV, "opening '%s' again", f->path);
    }
    rt_file_close(f->handle);
    f->handle = claimed;
    return 0;
}

/* What a node that is open like this uses; all share reading and nothing else. */
static unsigned permissions(const struct block_node *node, bool read_only)
{
    if (read_only)
        return IMAGE_READ;
    return IMAGE_READ | IMAGE_WRITE | (node->open_flags & BLOCK_OPEN_RESIZE ? IMAGE_RESIZE : 0);
}

static int co_take_locks(struct block_node *node, bool read_only, struct hws_error *err)
{
    struct file *f = node->state;
    int r = co_image_lock_set(&f->lock, f->handle, permissions(node, read_only),
                              IMAGE_WRITE | IMAGE_RESIZE, f->path, err);
    if (r == 0) {
        f->locking = true;
        return 0;
    }
    if (r == -EAGAIN || f->locking_option == FILE_LOCKING_ON)
        return r;
    log_warning("'%s' is used without image locks, which its file system does not have: %s",
                f->path, strerror(-r));
    f->locking = false;
    return 0;
}

static void set_limits(struct block_node *node)
{
    struct file *f = node->state;

    if (f->direct) {
        node->limits.request_alignment = f->stat.offset_alignment;
        node->limits.memory_alignment = f->stat.memory_alignment;
    }
    /* Less than a block frees nothing. Any logical block size that Linux has divides a page. */
    node->limits.discard_alignment = 4096;
    node->limits.rotational = rt_file_is_rotational(f->handle);
    if (f->stat.is_block_device)
        node->limits.zero_alignment = 4096;
    node->write_flags = BLOCK_FUA;
    node->zero_flags = BLOCK_MAY_UNMAP | BLOCK_NO_FALLBACK;
    atomic_store(&node->size_bytes, f->stat.size_bytes);
}

static void release(struct file *f)
{
    if (f->handle && f->locking)
        image_lock_drop(&f->lock, f->handle);
    f->handle = rt_file_close(f->handle);
    free(f->path);
    f->path = NULL;
}

static int co_file_open(struct block_node *node, const void *options, struct hws_error *err)
{
    const struct file_options *o = options;
    struct file *f = node->state;
    bool force_share = node->open_flags & BLOCK_OPEN_NO_LOCK;

    if (force_share && !node->read_only)
        return hws_fail(err, EINVAL, "'%s': --force-share is for reading; open the image read-only",
                        o->filename);
    f->path = strdup(o->filename);
    if (!f->path)
        return hws_fail(err, ENOMEM, "out of memory");
    f->direct = wants_direct(node, o);
    f->locking_option = force_share ? FILE_LOCKING_OFF : o->locking;
    f->ignore_flush = block_policy_of(node)->cache == BLOCK_CACHE_UNSAFE;
    f->writable = !node->read_only;

    int r = co_open_handle(node, f->writable, &f->handle, &f->stat, err);
    if (r == 0)
        r = block_identify(node, f->stat.device, f->stat.inode, err);
    if (r == 0)
        block_identify_birth(node, f->stat.birth_ns);
    if (r == 0 && f->locking_option != FILE_LOCKING_OFF) {
        if (f->writable && f->stat.is_block_device)
            r = co_claim_device(node, err);
        if (r == 0)
            r = co_take_locks(node, node->read_only, err);
    }
    if (r < 0) {
        release(f);
        return r;
    }
    file_map_init(&f->map, f->locking);
    set_limits(node);
    return 0;
}

/*
 * With direct I/O the last block of a file that ends inside it was written whole; the file gets its
 * size back.
 */
static int co_trim_tail(struct block_node *node, struct hws_error *err)
{
    struct file *f = node->state;
    uint64_t size = atomic_load(&node->size_bytes);
    struct rt_stat stat;

    if (!f->writable || !f->direct || !f->stat.is_regular ||
        is_aligned(size, f->stat.offset_alignment))
        return 0;
    int r = co_stat(f->handle, &stat);
    if (r == 0 && stat.size_bytes == align_up(size, f->stat.offset_alignment))
        r = co_truncate(f->handle, size);
    return r < 0 ? hws_fail_errno(err, -r, "trimming '%s' to its size", f->path) : 0;
}

/* The core has flushed before. */
static int co_file_close(struct block_node *node, struct hws_error *err)
{
    struct file *f = node->state;
    int r = co_trim_tail(node, err);

    file_map_destroy(&f->map);
    release(f);
    return r;
}

/* ---- transfer ---- */

static int co_file_read(struct block_node *node, uint64_t offset, struct sgl buffer, unsigned flags)
{
    struct file *f = node->state;
    ssize_t got = co_pread(f->handle, offset, buffer);

    (void)flags;
    if (unlikely(got < 0))
        return (int)got;
    /* The end of a file that is no multiple of the alignment, or that somebody has cut short. */
    if (unlikely((size_t)got < buffer.length))
        sgl_fill(sgl_slice(buffer, (size_t)got, buffer.length - (size_t)got), 0);
    return 0;
}

static int file_try_read(struct block_node *node, uint64_t offset, void *bytes, size_t length)
{
    struct file *f = node->state;
    return rt_file_try_read(f->handle, offset, bytes, length);
}

/* The first failure of making data durable; see the head of this file. */
static int keep_flush_error(struct block_node *node, int error)
{
    struct file *f = node->state;
    int none = 0;

    if (atomic_compare_exchange_strong(&f->flush_error, &none, error))
        log_error("flushing '%s' failed: %s; flushes fail from now on until it is opened again",
                  f->path, strerror(-error));
    return error;
}

static int co_file_write(struct block_node *node, uint64_t offset, struct sgl buffer,
                         unsigned flags)
{
    struct file *f = node->state;
    bool durable = (flags & BLOCK_FUA) && !f->ignore_flush;

    if (durable && atomic_load_explicit(&f->flush_error, memory_order_relaxed))
        return atomic_load(&f->flush_error);
    int r = co_pwrite(f->handle, offset, buffer, durable ? RWF_DSYNC : 0);
    file_map_forget(&f->map, offset, buffer.length, false);
    /* A write that is durable at once has taken the kernel's report of earlier lost pages with it.
     */
    if (unlikely(r < 0) && durable)
        return keep_flush_error(node, r);
    return r;
}

static int co_file_flush(struct block_node *node)
{
    struct file *f = node->state;
    int failed = atomic_load_explicit(&f->flush_error, memory_order_relaxed);

    if (unlikely(failed))
        return failed;
    if (f->ignore_flush)
        return 0;
    int r = co_fdatasync(f->handle);
    return likely(r == 0) ? 0 : keep_flush_error(node, r);
}

/* ---- status ---- */

static int co_file_status(struct block_node *node, uint64_t offset, uint64_t length,
                          struct block_extent *ret)
{
    struct file *f = node->state;
    uint64_t size = atomic_load(&node->size_bytes);
    uint64_t unit = MAX(node->limits.request_alignment, 1u);
    struct file_extent extent = {offset, offset + length, true};

    if (!f->stat.is_block_device && !file_refused(f, FILE_NO_SEEK)) {
        int r = co_file_map_find(&f->map, f->handle, offset, size, &extent);
        if (r == -EINVAL || r == -EOPNOTSUPP || r == -ENOSYS) {
            file_refuse(f, FILE_NO_SEEK);
            extent = (struct file_extent){offset, offset + length, true};
        } else if (r < 0) {
            return r;
        }
    }
    /* Answers come in whole units: a unit with any data is data. */
    uint64_t end = MIN(extent.end, offset + length);
    if (end < size && !is_aligned(end, unit)) {
        if (!extent.data && align_down(end, unit) <= offset)
            extent.data = true;
        end = extent.data ? align_up(end, unit) : align_down(end, unit);
    }
    *ret = (struct block_extent){
        .length = MIN(end - offset, length),
        .flags = BLOCK_STATUS_ALLOCATED | BLOCK_STATUS_MAPPED |
                 (extent.data ? BLOCK_STATUS_DATA : BLOCK_STATUS_ZERO),
        .host_offset = offset,
        .file = node,
    };
    return 0;
}

/* ---- copy ---- */

static int64_t co_file_copy_range(struct block_node *from, uint64_t from_offset,
                                  struct block_node *to, uint64_t to_offset, uint64_t length)
{
    struct file *source = from->state, *target = to->state;

    if (from->driver != to->driver || file_refused(target, FILE_NO_COPY) ||
        source->stat.is_block_device || target->stat.is_block_device)
        return -ENOTSUP;
    ssize_t copied = co_copy_range(source->handle, from_offset, target->handle, to_offset, length);
    if (copied > 0)
        file_map_forget(&target->map, to_offset, (uint64_t)copied, true);
    switch (copied) {
    case -EOPNOTSUPP:
    case -ENOSYS:
    case -EPERM: /* immutable, or refused by a seccomp profile */
        file_refuse(target, FILE_NO_COPY);
        return -ENOTSUP;
    case -EXDEV:  /* only this pair of files */
    case -EINVAL: /* ranges that overlap, or a file system that says it this way */
    case -ETXTBSY:
    case 0: /* the source ends here */
        return -ENOTSUP;
    default:
        return copied;
    }
}

/* ---- control ---- */

static int co_resize_device(struct block_node *node, uint64_t size_bytes, struct hws_error *err)
{
    struct file *f = node->state;
    struct rt_stat stat;

    int r = co_stat(f->handle, &stat);
    if (r < 0)
        return hws_fail_errno(err, -r, "looking at '%s'", f->path);
    if (size_bytes > stat.size_bytes)
        return hws_fail(err, ENOSPC, "the block device '%s' has %llu bytes; grow it first", f->path,
                        (unsigned long long)stat.size_bytes);
    /* A smaller image on a larger device is the business of the format above. */
    atomic_store(&node->size_bytes, size_bytes);
    return 0;
}

static int co_file_resize(struct block_node *node, uint64_t size_bytes, struct hws_error *err)
{
    struct file *f = node->state;

    if (f->stat.is_block_device)
        return co_resize_device(node, size_bytes, err);
    int r = co_truncate(f->handle, size_bytes);
    if (r < 0)
        return hws_fail_errno(err, -r, "setting the size of '%s' to %llu bytes", f->path,
                              (unsigned long long)size_bytes);
    atomic_store(&node->size_bytes, size_bytes);
    file_map_forget(&f->map, 0, BLOCK_SIZE_MAX, true);
    return 0;
}

/* A read-only descriptor becomes a writable one of the same file. The locks move over. */
static int co_reopen_writable(struct block_node *node, struct hws_error *err)
{
    struct file *f = node->state;
    struct rt_file *handle = NULL;
    struct rt_stat stat;

    int r = co_open_handle(node, true, &handle, &stat, err);
    if (r < 0)
        return r;
    if (stat.device != f->stat.device || stat.inode != f->stat.inode) {
        rt_file_close(handle);
        return hws_fail(err, ESTALE, "'%s' is another file than the one that is open", f->path);
    }
    /* Locks belong to a descriptor: our own old ones would forbid the new ones. */
    struct image_lock held = f->lock;
    if (f->locking)
        image_lock_drop(&f->lock, f->handle);
    r = f->locking ? co_image_lock_set(&f->lock, handle, held.used, held.unshared, f->path, err)
                   : 0;
    if (r < 0) {
        rt_file_close(handle);
        if (co_image_lock_set(&f->lock, f->handle, held.used, held.unshared, f->path, NULL) < 0)
            log_warning("the image lock of '%s' was lost to another process", f->path);
        return r;
    }
    rt_file_close(f->handle);
    f->handle = handle;
    f->writable = true;
    return 0;
}

/* The descriptor stays writable when the right to write is given up; only the locks tell others. */
static int co_file_set_read_only(struct block_node *node, bool read_only, struct hws_error *err)
{
    struct file *f = node->state;

    if (!read_only && !f->writable) {
        int r = co_reopen_writable(node, err);
        if (r < 0)
            return r;
    }
    return f->locking ? co_take_locks(node, read_only, err) : 0;
}

static int co_file_info(struct block_node *node, json_t *info, struct hws_error *err)
{
    struct file *f = node->state;
    struct rt_stat stat;

    int r = co_stat(f->handle, &stat);
    if (r < 0)
        return hws_fail_errno(err, -r, "looking at '%s'", f->path);
    if (json_object_set_new(info, "actual-size", json_integer((json_int_t)stat.allocated_bytes)) ||
        json_object_set_new(info, "block-device", json_boolean(stat.is_block_device)) ||
        json_object_set_new(info, "direct", json_boolean(f->direct)) ||
        json_object_set_new(info, "locked", json_boolean(f->locking)))
        return hws_fail(err, ENOMEM, "out of memory");
    return 0;
}

/* ---- the driver ---- */

static const char *const switch_names[] = {"auto", "on", "off", NULL};

static const struct option_desc file_table[] = {
    {"filename", OPTION_STRING, offsetof(struct file_options, filename),
     "path of the file or block device", .required = true},
    {"direct", OPTION_ENUM, offsetof(struct file_options, direct),
     "bypass the page cache; auto: as the cache mode says", "auto", .choices = switch_names},
    {"locking", OPTION_ENUM, offsetof(struct file_options, locking),
     "image locks; auto: where the file system has them", "auto", .choices = switch_names},
    OPTION_END,
};

const struct block_driver file_driver = {
    .name = "file",
    .help = "a regular file or a block device of this host",
    .kind = BLOCK_BACKEND,
    .grows = true,
    .text_option = "filename",
    .state_bytes = sizeof(struct file),
    .options = file_table,
    .options_bytes = sizeof(struct file_options),
    .create_options = file_create_table,
    .create_options_bytes = sizeof(struct file_create_options),
    .co_open = co_file_open,
    .co_close = co_file_close,
    .co_read = co_file_read,
    .try_read = file_try_read,
    .co_write = co_file_write,
    .co_write_zeroes = co_file_write_zeroes,
    .co_discard = co_file_discard,
    .co_flush = co_file_flush,
    .co_status = co_file_status,
    .co_copy_range = co_file_copy_range,
    .co_resize = co_file_resize,
    .co_create = co_file_create,
    .co_remove = co_file_remove,
    .co_info = co_file_info,
    .co_set_read_only = co_file_set_read_only,
};
