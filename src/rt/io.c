/*
 * The I/O functions of rt/rt.h: each fills in one struct rt_io on the coroutine's stack, submits it
 * to the implementation, and suspends until it is complete. What all implementations share is here:
 * going on after short transfers, and cutting long vectors.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "rt/co.h"
#include <limits.h>
#include <poll.h>
#include <sys/random.h>
#include <sys/uio.h>
#include <time.h>

/* Pieces that are copied to the stack at once, when the caller's array cannot be used as it is. */
#define PIECES_INLINE 64

/* The kernel moves at most this much a call; a multiple of every block size. */
#define TRANSFER_MAX (1 * GiB)

/* A file that is short of resources (-EAGAIN) is asked again this often, with a pause between. */
#define AGAIN_MAX      100
#define AGAIN_PAUSE_NS 1000000

/* After so many operations that never waited, others get their turn. */
#define INLINE_STREAK_MAX 64

static int64_t perform(struct rt_io *io)
{
    struct rt_queue *q = rt_self();
    io->co = co_self();
    rt_count(&q->count.operations, 1);
    if (!q->rt->ops->submit(q, io)) {
        q->inline_streak = 0;
        co_suspend();
    } else if (++q->inline_streak >= INLINE_STREAK_MAX) {
        q->inline_streak = 0;
        co_yield ();
    }
    return io->result;
}

/* ---- time and chance ---- */

/* A thread that serves no queue (a worker, the program's own) has the kernel's time and chance. */
uint64_t rt_clock_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

uint64_t rt_entropy_u64(void)
{
    uint64_t bits;
    while (getrandom(&bits, sizeof(bits), 0) != sizeof(bits))
        ;
    return bits;
}

uint64_t rt_now_ns(void)
{
    struct rt *rt = queue_current_rt();
    return rt ? rt->ops->now_ns(rt) : rt_clock_ns();
}

uint64_t rt_wall_ns(void)
{
    struct rt *rt = queue_current_rt();
    struct timespec now;
    if (rt && rt->ops->wall_ns)
        return rt->ops->wall_ns(rt);
    clock_gettime(CLOCK_REALTIME, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

uint64_t rt_random_u64(void)
{
    struct rt *rt = queue_current_rt();
    return rt ? rt->ops->random_u64(rt) : rt_entropy_u64();
}

int co_work(int (*fn)(void *arg), void *arg)
{
    struct rt_io io = {.op = RT_OP_WORK, .work = {.fn = fn, .arg = arg}};
    return (int)perform(&io);
}

/* ---- transfers ---- */

/* The next operation's worth of @list, from its front: the caller's own array where it fits
 * exactly, else a copy of some pieces in @inline_iov, cut so that what follows stays aligned. */
static void next_batch(struct rt_io *io, struct sgl list, struct iovec *inline_iov)
{
    char *flat = sgl_flat(list);
    if (flat) {
        inline_iov[0] = (struct iovec){flat, MIN(list.length, (size_t)TRANSFER_MAX)};
        io->iov = inline_iov;
        io->iov_count = 1;
        io->length = inline_iov[0].iov_len;
        return;
    }
    if (list.count > PIECES_INLINE && list.count <= IOV_MAX && list.skip == 0 &&
        list.length <= TRANSFER_MAX && sgl_of(list.iov, list.count).length == list.length) {
        io->iov = list.iov;
        io->iov_count = list.count;
        io->length = list.length;
        return;
    }
    size_t bytes;
    list.length = MIN(list.length, (size_t)TRANSFER_MAX);
    io->iov = inline_iov;
    io->iov_count = sgl_export(list, inline_iov, PIECES_INLINE, &bytes);
    size_t rest = bytes < list.length ? bytes % io->file->offset_alignment : 0;
    if (rest > 0 && rest < bytes) {
        list.length = bytes - rest;
        io->iov_count = sgl_export(list, inline_iov, PIECES_INLINE, &bytes);
    }
    io->length = bytes;
}

/* @return bytes moved; less than buffer.length at the end of file only. Or -errno. */
static ssize_t transfer(struct rt_io *io, struct sgl buffer)
{
    struct iovec inline_iov[PIECES_INLINE];
    uint64_t start = io->offset;
    size_t done = 0;
    unsigned again = 0;
    while (done < buffer.length) {
        io->offset = start + done;
        next_batch(io, sgl_slice(buffer, done, buffer.length - done), inline_iov);
        int64_t result = perform(io);
        if (result == -EINTR || (result == -EAGAIN && again++ < AGAIN_MAX)) {
            if (result == -EAGAIN)
                co_sleep_ns(AGAIN_PAUSE_NS);
            continue;
        }
        if (result < 0)
            return result;
        if (result == 0)
            break;
        assert((uint64_t)result <= io->length);
        done += (size_t)result;
        /* A direct read that stopped off a block boundary stopped at the end of the file; going on
         * from there would be refused. */
        if (io->op == RT_OP_READ && (uint64_t)result < io->length &&
            (start + done) % io->file->offset_alignment)
            break;
    }
    return (ssize_t)done;
}

ssize_t co_pread(struct rt_file *file, uint64_t offset, struct sgl buffer)
{
    struct rt_io io = {.op = RT_OP_READ, .file = file, .offset = offset};
    return transfer(&io, buffer);
}

int rt_file_try_read(struct rt_file *file, uint64_t offset, void *bytes, size_t length)
{
    return file->ops->file_try_read ? file->ops->file_try_read(file, offset, bytes, length)
                                    : -EAGAIN;
}

int co_pwrite(struct rt_file *file, uint64_t offset, struct sgl buffer, int flags)
{
    struct rt_io io = {.op = RT_OP_WRITE, .file = file, .offset = offset, .flags = flags};
    ssize_t done = transfer(&io, buffer);
    if (done < 0)
        return (int)done;
    return (size_t)done == buffer.length ? 0 : -ENOSPC;
}

/* ---- the rest of a file ---- */

int co_fdatasync(struct rt_file *file)
{
    struct rt_io io = {.op = RT_OP_FDATASYNC, .file = file};
    return (int)perform(&io);
}

int co_fallocate(struct rt_file *file, int mode, uint64_t offset, uint64_t length)
{
    struct rt_io io = {
        .op = RT_OP_FALLOCATE, .file = file, .offset = offset, .length = length, .flags = mode};
    int result;
    do
        result = (int)perform(&io);
    while (result == -EINTR);
    return result;
}

int co_truncate(struct rt_file *file, uint64_t size_bytes)
{
    struct rt_io io = {.op = RT_OP_TRUNCATE, .file = file, .offset = size_bytes};
    return (int)perform(&io);
}

ssize_t co_copy_range(struct rt_file *from, uint64_t from_offset, struct rt_file *to,
                      uint64_t to_offset, uint64_t length)
{
    struct rt_io io = {.op = RT_OP_COPY_RANGE,
                       .file = from,
                       .offset = from_offset,
                       .length = MIN(length, TRANSFER_MAX),
                       .copy = {.to = to, .to_offset = to_offset}};
    return (ssize_t)perform(&io);
}

int64_t co_seek(struct rt_file *file, uint64_t offset, int whence)
{
    struct rt_io io = {.op = RT_OP_SEEK, .file = file, .offset = offset, .flags = whence};
    return perform(&io);
}

int co_stat(struct rt_file *file, struct rt_stat *ret)
{
    struct rt_io io = {.op = RT_OP_STAT, .file = file, .stat = ret};
    return (int)perform(&io);
}

int co_open(const char *path, const struct rt_open *how, struct rt_file **ret,
            struct hws_error *err)
{
    struct rt_io io = {.op = RT_OP_OPEN, .path = path, .err = err, .open = {.how = how}};
    int result = (int)perform(&io);
    if (result == 0)
        *ret = io.open.ret;
    return result;
}

int co_rename(const char *from, const char *to, struct hws_error *err)
{
    struct rt_io io = {.op = RT_OP_RENAME, .path = from, .to_path = to, .err = err};
    return (int)perform(&io);
}

int co_unlink(const char *path, struct hws_error *err)
{
    struct rt_io io = {.op = RT_OP_UNLINK, .path = path, .err = err};
    return (int)perform(&io);
}

struct rt_file *rt_file_close(struct rt_file *file)
{
    if (file)
        file->ops->file_close(file);
    return NULL;
}

int rt_file_fd(const struct rt_file *file)
{
    return file->fd;
}

int rt_file_lock(struct rt_file *file, uint64_t start, uint64_t length, enum rt_lock lock)
{
    return file->ops->file_lock(file, start, length, lock);
}

int rt_file_lock_test(struct rt_file *file, uint64_t start, uint64_t length)
{
    return file->ops->file_lock_test(file, start, length);
}

/* ---- descriptors that are not files ---- */

struct poll_timer {
    struct timer timer;
    struct rt_queue *queue;
    struct rt_io *io;
};

static void fire_poll(struct timer *timer)
{
    struct poll_timer *poll = container_of(timer, struct poll_timer, timer);
    poll->queue->rt->ops->cancel(poll->queue, poll->io);
}

int co_poll_timeout(int fd, unsigned events, uint64_t timeout_ns)
{
    struct rt_io io = {.op = RT_OP_POLL, .fd = fd, .flags = (int)events};
    if (timeout_ns == 0)
        return (int)perform(&io);
    struct rt_queue *q = rt_self();
    struct poll_timer poll = {.queue = q, .io = &io};
    uint64_t deadline_ns;
    if (add_overflows(rt_now_ns(), timeout_ns, &deadline_ns))
        deadline_ns = RT_FOREVER;
    timer_arm(&q->timers, &poll.timer, deadline_ns, fire_poll);
    int result = (int)perform(&io);
    bool expired = !timer_armed(&poll.timer);
    timer_cancel(&q->timers, &poll.timer);
    return result == -ECANCELED && expired ? 0 : result;
}

int co_poll(int fd, unsigned events)
{
    return co_poll_timeout(fd, events, 0);
}

/* One transfer without an offset; where a non-blocking descriptor has nothing, waits until it has.
 */
static ssize_t stream(struct rt_io *io, struct sgl buffer, unsigned events)
{
    struct iovec inline_iov[PIECES_INLINE];
    if (buffer.length == 0)
        return 0;
    next_batch(io, buffer, inline_iov);
    for (;;) {
        int64_t result = perform(io);
        if (result == -EINTR)
            continue;
        if (result != -EAGAIN)
            return result;
        int ready = co_poll(io->file->fd, events);
        if (ready < 0)
            return ready;
    }
}

ssize_t co_read_stream(struct rt_file *file, struct sgl buffer)
{
    struct rt_io io = {.op = RT_OP_READ_STREAM, .file = file};
    return stream(&io, buffer, POLLIN);
}

ssize_t co_write_stream(struct rt_file *file, struct sgl buffer)
{
    struct rt_io io = {.op = RT_OP_WRITE_STREAM, .file = file};
    return stream(&io, buffer, POLLOUT);
}

int co_uring_command(struct rt_file *file, uint32_t opcode, const void *command,
                     size_t command_bytes, uint64_t address, uint32_t length)
{
    assert(command_bytes <= RT_URING_COMMAND_BYTES);
    struct rt_io io = {.op = RT_OP_COMMAND,
                       .file = file,
                       .command = {.bytes = command,
                                   .byte_count = command_bytes,
                                   .opcode = opcode,
                                   .address = address,
                                   .length = length}};
    return (int)perform(&io);
}

/* ---- buffers ---- */

void rt_buffers_register(const struct iovec *buffers, unsigned count)
{
    struct rt_queue *q = rt_self();
    if (q->rt->ops->buffers_register)
        q->rt->ops->buffers_register(q, buffers, count);
}

void rt_buffers_forget(void)
{
    struct rt_queue *q = rt_self();
    if (q->rt->ops->buffers_forget)
        q->rt->ops->buffers_forget(q);
}
