/*
 * Files of the real runtimes: opening (confined where asked), what direct I/O wants, locks, and
 * every operation by blocking system calls, for the worker threads.
 *
 * Copy offload needs no FICLONERANGE of its own: copy_file_range(2) shares extents wherever the
 * file system can, and copies inside the kernel elsewhere.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "rt/real.h"
#include <linux/fs.h>
#include <linux/magic.h>
#include <linux/openat2.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <sys/uio.h>
#include <time.h>

/* Direct I/O of this alignment works on every file system and disk known. */
#define DIRECT_ALIGNMENT_SAFE 4096u

#define OPEN_ATTEMPTS         16

/* ---- opening ---- */

/* A read of @alignment bytes at that offset tells whether the file system minds: checked before
 * anything is read, and harmless. */
static bool direct_read_works(int fd, uint32_t alignment)
{
    _Alignas(DIRECT_ALIGNMENT_SAFE) char block[DIRECT_ALIGNMENT_SAFE];
    static_assert(sizeof(block) == DIRECT_ALIGNMENT_SAFE, "");
    return pread(fd, block, alignment, alignment) == (ssize_t)alignment;
}

static uint32_t probe_direct(int fd, uint64_t size_bytes)
{
    for (uint32_t alignment = 512; alignment < DIRECT_ALIGNMENT_SAFE; alignment *= 2)
        if (size_bytes >= 2 * (uint64_t)alignment && direct_read_works(fd, alignment))
            return alignment;
    return DIRECT_ALIGNMENT_SAFE;
}

/* What O_DIRECT wants of offsets and addresses. */
static void find_alignment(struct real_file *f, uint64_t size_bytes)
{
    int fd = f->file.fd;
#ifdef STATX_DIOALIGN
    struct statx sx;
    if (statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &sx) == 0 && (sx.stx_mask & STATX_DIOALIGN) &&
        is_power_of_2(sx.stx_dio_offset_align) && is_power_of_2(sx.stx_dio_mem_align)) {
        f->file.offset_alignment = sx.stx_dio_offset_align;
        f->memory_alignment = sx.stx_dio_mem_align;
        return;
    }
#endif
    int block_bytes;
    if (f->is_block_device && ioctl(fd, BLKSSZGET, &block_bytes) == 0 && block_bytes > 0 &&
        is_power_of_2((uint64_t)block_bytes)) {
        f->file.offset_alignment = f->memory_alignment = (uint32_t)block_bytes;
        return;
    }
    f->file.offset_alignment = f->memory_alignment = probe_direct(fd, size_bytes);
}

/* A file system whose files are pages of memory. */
static bool is_in_memory(int fd)
{
    struct statfs fs;
    return fstatfs(fd, &fs) == 0 && (fs.f_type == TMPFS_MAGIC || fs.f_type == RAMFS_MAGIC);
}

/* @return whether the file of /sys is there. */
static bool read_rotational(dev_t device, const char *way, bool *ret)
{
    char path[80], digit = '0';
    snprintf(path, sizeof(path), "/sys/dev/block/%u:%u/%squeue/rotational", major(device),
             minor(device), way);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    *ret = read(fd, &digit, 1) == 1 && digit == '1';
    close(fd);
    return true;
}

bool rt_file_is_rotational(const struct rt_file *file)
{
    struct stat st;
    bool rotational = false;
    if (file->fd < 0 || fstat(file->fd, &st) < 0)
        return false;
    dev_t device = S_ISBLK(st.st_mode) ? st.st_rdev : st.st_dev;
    if (!read_rotational(device, "", &rotational))
        (void)read_rotational(device, "../", &rotational); /* of a partition: its disk's */
    return rotational;
}

/* Makes a file of @fd, which it owns from here when it succeeds. */
static int new_file(int fd, struct real_file **ret)
{
    struct stat st;
    if (fstat(fd, &st))
        return -errno;
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0)
        return -errno;
    struct real_file *f = calloc(1, sizeof(*f));
    if (!f)
        return -ENOMEM;
    f->file = (struct rt_file){.ops = &rt_threads_ops, .fd = fd, .offset_alignment = 1};
    f->memory_alignment = 1;
    f->is_block_device = S_ISBLK(st.st_mode);
    f->is_regular = S_ISREG(st.st_mode);
    f->is_socket = S_ISSOCK(st.st_mode);
    f->direct = (flags & O_DIRECT) && (f->is_block_device || f->is_regular);
    f->in_memory = f->is_regular && is_in_memory(fd);
    if (f->direct)
        find_alignment(f, (uint64_t)st.st_size);
    *ret = f;
    return 0;
}

int rt_file_adopt(int fd, struct rt_file **ret)
{
    struct real_file *f;
    int result = new_file(fd, &f);
    if (result < 0)
        return result;
    /* Devices, pipes and the like: a read of a non-blocking one waits by polling, neither in a
     * thread of the kernel's nor of ours. Sockets can do that a call at a time. */
    if (!f->is_regular && !f->is_block_device && !f->is_socket) {
        int flags = fcntl(fd, F_GETFL);
        if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK)) {
            result = -errno;
            free(f);
            return result;
        }
    }
    *ret = &f->file;
    return 0;
}

/* What follows @folder in @path, by the text alone; NULL where @path does not go on below it. */
static const char *below(const char *path, const char *folder)
{
    size_t length = strlen(folder);
    if (strcmp(folder, ".") == 0 && path[0] != '/')
        return path;
    while (length > 0 && folder[length - 1] == '/')
        length--;
    if (strncmp(path, folder, length) || path[length] != '/')
        return NULL;
    path += length;
    while (*path == '/')
        path++;
    return *path ? path : NULL;
}

/* The same after all symbolic links in both but the last name's own; to be freed. */
static char *below_resolved(const char *path, const char *folder)
{
    const char *slash = strrchr(path, '/');
    const char *name = slash ? slash + 1 : path;
    autofree char *parent = slash ? strndup(path, (size_t)(name - path)) : strdup(".");
    autofree char *real_parent = parent ? realpath(parent, NULL) : NULL;
    autofree char *real_folder = realpath(folder, NULL);
    autofree char *whole = NULL;
    if (!real_folder || !real_parent || *name == '\0')
        return NULL;
    if (asprintf(&whole, "%s/%s", real_parent, name) < 0) {
        whole = NULL;
        return NULL;
    }
    const char *rest = below(whole, real_folder);
    return rest ? strdup(rest) : NULL;
}

/* Both paths start at the working folder. Here only the common part is taken off; it is the kernel
 * that confines the rest. @return a descriptor or -errno; -EXDEV when @path leads out of @folder.
 */
static int open_beneath(const char *path, int flags, mode_t mode, const char *folder)
{
    autofree char *resolved = NULL;
    autofd int folder_fd = open(folder, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (folder_fd < 0)
        return -errno;
    const char *rest = below(path, folder);
    if (!rest)
        rest = resolved = below_resolved(path, folder);
    if (!rest)
        return -EXDEV;
    struct open_how how = {
        .flags = (uint64_t)flags,
        .mode = flags & (O_CREAT | __O_TMPFILE) ? mode : 0,
        .resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS,
    };
    /* -EAGAIN: something was renamed meanwhile, so that the kernel cannot tell. */
    int fd = -1;
    for (int i = 0; i < OPEN_ATTEMPTS && fd < 0; i++) {
        fd = (int)syscall(SYS_openat2, folder_fd, rest, &how, sizeof(how));
        if (fd < 0 && errno != EINTR && errno != EAGAIN)
            break;
    }
    return fd < 0 ? -errno : fd;
}

static int perform_open(struct rt_io *io)
{
    const struct rt_open *how = io->open.how;
    /* Non-blocking: a named pipe under an image's name must not hold a worker for ever. */
    int flags = how->flags | O_CLOEXEC | O_NOCTTY | O_NONBLOCK;
    autofd int fd = -1;
    if (how->beneath) {
        fd = open_beneath(io->path, flags, how->mode, how->beneath);
        if (fd == -EXDEV)
            return hws_fail(io->err, EXDEV, "'%s' leads outside of the allowed folder '%s'",
                            io->path, how->beneath);
        if (fd == -ENOSYS)
            return hws_fail(io->err, ENOSYS,
                            "cannot open '%s' confined to '%s': openat2 is refused here", io->path,
                            how->beneath);
        errno = fd < 0 ? -fd : 0;
    } else {
        fd = open(io->path, flags, how->mode);
    }
    if (fd < 0) {
        int code = errno;
        if (code == EINVAL && (flags & O_DIRECT))
            return hws_fail(io->err, code,
                            "cannot open '%s': its file system has no direct I/O; use a cache mode "
                            "without it",
                            io->path);
        return hws_fail_errno(io->err, code, "cannot open '%s'", io->path);
    }
    struct real_file *f;
    int result = new_file(fd, &f);
    if (result < 0)
        return hws_fail_errno(io->err, -result, "cannot use '%s'", io->path);
    steal_fd(&fd);
    if (f->is_regular || f->is_block_device)
        (void)fcntl(f->file.fd, F_SETFL, how->flags & (O_DIRECT | O_APPEND | O_NOATIME));
    io->open.ret = &f->file;
    return 0;
}

void real_file_close(struct rt_file *file)
{
    struct real_file *f = real_file(file);
    /* A ring may keep the kernel's open file for a moment longer, but not our locks. */
    if (f->locked)
        (void)real_file_lock(file, 0, 0, RT_UNLOCK);
    uring_file_closing(f);
    close(file->fd);
    free(f);
}

/* ---- locks ---- */

int real_file_lock(struct rt_file *file, uint64_t start, uint64_t length, enum rt_lock lock)
{
    static const short type[] = {
        [RT_UNLOCK] = F_UNLCK, [RT_LOCK_SHARED] = F_RDLCK, [RT_LOCK_EXCLUSIVE] = F_WRLCK};
    struct flock fl = {.l_type = type[lock],
                       .l_whence = SEEK_SET,
                       .l_start = (off_t)start,
                       .l_len = (off_t)length};
    if (lock != RT_UNLOCK)
        real_file(file)->locked = true;
    if (fcntl(file->fd, F_OFD_SETLK, &fl) == 0)
        return 0;
    return errno == EACCES ? -EAGAIN : -errno;
}

int real_file_lock_test(struct rt_file *file, uint64_t start, uint64_t length)
{
    struct flock fl = {
        .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = (off_t)start, .l_len = (off_t)length};
    if (fcntl(file->fd, F_OFD_GETLK, &fl))
        return -errno;
    return fl.l_type == F_UNLCK ? 0 : -EAGAIN;
}

/* ---- operations ---- */

static int64_t failed_or(int64_t result)
{
    return result < 0 ? -errno : result;
}

static uint64_t birth_of(const struct real_file *f)
{
    struct statx sx;
    if (!f->is_regular || statx(f->file.fd, "", AT_EMPTY_PATH, STATX_BTIME, &sx) < 0 ||
        !(sx.stx_mask & STATX_BTIME))
        return 0;
    return (uint64_t)sx.stx_btime.tv_sec * 1000000000 + sx.stx_btime.tv_nsec;
}

static int64_t perform_stat(struct rt_io *io)
{
    const struct real_file *f = real_file(io->file);
    struct stat st;
    if (fstat(io->file->fd, &st))
        return -errno;
    uint64_t size_bytes = (uint64_t)st.st_size;
    if (f->is_block_device && ioctl(io->file->fd, BLKGETSIZE64, &size_bytes))
        return -errno;
    *io->stat = (struct rt_stat){
        .size_bytes = size_bytes,
        .allocated_bytes = f->is_block_device ? size_bytes : (uint64_t)st.st_blocks * 512,
        .device = f->is_block_device ? st.st_rdev : st.st_dev,
        .inode = f->is_block_device ? 0 : st.st_ino,
        .birth_ns = birth_of(f),
        .is_block_device = f->is_block_device,
        .is_regular = f->is_regular,
        .offset_alignment = f->file.offset_alignment,
        .memory_alignment = f->memory_alignment,
    };
    return 0;
}

static int64_t perform_copy_range(struct rt_io *io)
{
    loff_t from = (loff_t)io->offset, to = (loff_t)io->copy.to_offset;
    ssize_t copied =
        copy_file_range(io->file->fd, &from, io->copy.to->fd, &to, (size_t)io->length, 0);
    if (copied >= 0)
        return copied;
    /* A seccomp filter, or a kind of file that cannot. */
    if (errno == ENOSYS || errno == EINVAL || errno == EPERM)
        return -EOPNOTSUPP;
    return -errno;
}

static int64_t perform_seek(struct rt_io *io)
{
    off_t found = lseek(io->file->fd, (off_t)io->offset, io->flags);
    if (found >= 0)
        return found;
    return errno == EINVAL ? -EOPNOTSUPP : -errno;
}

static int64_t perform_rename(struct rt_io *io)
{
    if (rename(io->path, io->to_path))
        return hws_fail_errno(io->err, errno, "cannot rename '%s' to '%s'", io->path, io->to_path);
    const char *slash = strrchr(io->to_path, '/');
    autofree char *folder =
        slash ? strndup(io->to_path, (size_t)(slash - io->to_path) + 1) : strdup(".");
    if (!folder)
        return hws_fail(io->err, ENOMEM, "no memory to make the renaming of '%s' durable",
                        io->to_path);
    autofd int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 || fsync(fd))
        return hws_fail_errno(io->err, errno, "cannot make the renaming of '%s' durable",
                              io->to_path);
    return 0;
}

static int64_t perform_unlink(struct rt_io *io)
{
    if (unlink(io->path))
        return hws_fail_errno(io->err, errno, "cannot remove '%s'", io->path);
    return 0;
}

static int64_t perform_stream(struct rt_io *io)
{
    int fd = io->file->fd;
    if (real_file(io->file)->is_socket) {
        struct msghdr message = {.msg_iov = (struct iovec *)io->iov, .msg_iovlen = io->iov_count};
        return failed_or(io->op == RT_OP_READ_STREAM
                             ? recvmsg(fd, &message, MSG_DONTWAIT)
                             : sendmsg(fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL));
    }
    return failed_or(io->op == RT_OP_READ_STREAM ? readv(fd, io->iov, (int)io->iov_count)
                                                 : writev(fd, io->iov, (int)io->iov_count));
}

/* Tries that a file is spared after one that failed: what lies on a disk fails mostly. */
#define READ_REST 15

int real_file_try_read(struct rt_file *file, uint64_t offset, void *bytes, size_t length)
{
    struct real_file *f = real_file(file);
    struct iovec iov = {bytes, length};
    ssize_t n;
    if (!f->is_regular || f->direct)
        return -EAGAIN;
    if (f->in_memory) {
        n = pread(file->fd, bytes, length, (off_t)offset);
        return n == (ssize_t)length ? 0 : -EAGAIN;
    }
    uint8_t rest = atomic_load_explicit(&f->read_rest, memory_order_relaxed);
    if (rest || atomic_load_explicit(&f->nowait_refused, memory_order_relaxed)) {
        atomic_store_explicit(&f->read_rest, (uint8_t)(rest - (rest > 0)), memory_order_relaxed);
        return -EAGAIN;
    }
    n = preadv2(file->fd, &iov, 1, (off_t)offset, RWF_NOWAIT);
    if (likely(n == (ssize_t)length))
        return 0;
    if (n < 0 && errno == EOPNOTSUPP)
        atomic_store_explicit(&f->nowait_refused, true, memory_order_relaxed);
    atomic_store_explicit(&f->read_rest, READ_REST, memory_order_relaxed);
    return -EAGAIN;
}

/*
 * A buffered write to a local disk mostly ends in the page cache, in less time than it takes to
 * wake a thread. Some file systems (XFS, btrfs) say so: with RWF_NOWAIT they write or refuse, and
 * io_uring then needs no thread. ext4 refuses each time, and io_uring hands every write to one.
 * There the plain call is made here, until it turns out to wait (for pages to be read, or dirty
 * ones to go). On network file systems every write may wait, and threads let many do so at a time.
 */
enum write_way { WRITE_UNKNOWN, WRITE_BY_RING, WRITE_PLAINLY };

#define WRITE_SLOW_NS       12000000 /* more than two ticks of the coarse clock */
#define WRITE_REST          64
#define WRITE_AT_ONCE_BYTES MiB

/* Read from memory, whatever the machine's clock costs. */
static uint64_t coarse_clock_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

/* If the first write succeeds without waiting, the ring does it again: the same bytes. */
static enum write_way find_write_way(struct real_file *f, const struct rt_io *io)
{
    struct statfs fs;
    enum write_way way = WRITE_BY_RING;
    if (fstatfs(f->file.fd, &fs) == 0 && fs.f_type == EXT4_SUPER_MAGIC &&
        pwritev2(f->file.fd, io->iov, (int)io->iov_count, (off_t)io->offset, RWF_NOWAIT) < 0 &&
        errno == EOPNOTSUPP)
        way = WRITE_PLAINLY;
    atomic_store_explicit(&f->write_way, (uint8_t)way, memory_order_relaxed);
    return way;
}

bool real_file_write_at_once(struct rt_io *io)
{
    struct real_file *f = real_file(io->file);
    if (!f->is_regular || f->direct || io->flags || io->length > WRITE_AT_ONCE_BYTES)
        return false;
    enum write_way way = atomic_load_explicit(&f->write_way, memory_order_relaxed);
    if (unlikely(way == WRITE_UNKNOWN))
        way = find_write_way(f, io);
    if (way != WRITE_PLAINLY)
        return false;
    uint8_t rest = atomic_load_explicit(&f->write_rest, memory_order_relaxed);
    if (unlikely(rest)) {
        atomic_store_explicit(&f->write_rest, (uint8_t)(rest - 1), memory_order_relaxed);
        return false;
    }
    uint64_t start_ns = coarse_clock_ns();
    io->result = real_file_perform(io);
    if (unlikely(coarse_clock_ns() - start_ns > WRITE_SLOW_NS))
        atomic_store_explicit(&f->write_rest, WRITE_REST, memory_order_relaxed);
    return true;
}

int64_t real_file_perform(struct rt_io *io)
{
    int fd = io->file ? io->file->fd : -1;
    switch (io->op) {
    case RT_OP_READ:
        if (likely(io->iov_count == 1 && !io->flags)) /* the cheaper call */
            return failed_or(pread(fd, io->iov->iov_base, io->iov->iov_len, (off_t)io->offset));
        return failed_or(preadv2(fd, io->iov, (int)io->iov_count, (off_t)io->offset, io->flags));
    case RT_OP_WRITE:
        if (likely(io->iov_count == 1 && !io->flags))
            return failed_or(pwrite(fd, io->iov->iov_base, io->iov->iov_len, (off_t)io->offset));
        return failed_or(pwritev2(fd, io->iov, (int)io->iov_count, (off_t)io->offset, io->flags));
    case RT_OP_FDATASYNC:
        return failed_or(fdatasync(fd));
    case RT_OP_FALLOCATE:
        return failed_or(fallocate(fd, io->flags, (off_t)io->offset, (off_t)io->length));
    case RT_OP_TRUNCATE:
        return failed_or(ftruncate(fd, (off_t)io->offset));
    case RT_OP_COPY_RANGE:
        return perform_copy_range(io);
    case RT_OP_SEEK:
        return perform_seek(io);
    case RT_OP_STAT:
        return perform_stat(io);
    case RT_OP_OPEN:
        return perform_open(io);
    case RT_OP_RENAME:
        return perform_rename(io);
    case RT_OP_UNLINK:
        return perform_unlink(io);
    case RT_OP_READ_STREAM:
    case RT_OP_WRITE_STREAM:
        return perform_stream(io);
    default:
        return -EOPNOTSUPP;
    }
}
