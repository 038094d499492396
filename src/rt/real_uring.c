/*
 * The runtime on io_uring: one ring a queue thread. Everything that a round of coroutines submits
 * goes to the kernel in the one io_uring_enter() that also waits.
 *
 * The ring belongs to its thread (SINGLE_ISSUER) and does its completion work inside that call
 * (DEFER_TASKRUN), where the kernel has both (6.1); older ones get COOP_TASKRUN or a plain ring.
 * user_data is the struct rt_io, or one of the small numbers below. What rings cannot do, or what
 * is rare, goes to the workers.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "rt/uring.h"
#include <sys/eventfd.h>

#define FEATURES_NEEDED (IORING_FEAT_NODROP | IORING_FEAT_EXT_ARG | IORING_FEAT_SUBMIT_STABLE)

/* Longer transfers leave the thread free for others. */
#define INLINE_BYTES_MAX (256 * KiB)

/* user_data that is no struct rt_io */
enum { DATA_NONE, DATA_KICK, DATA_SMALLEST_POINTER };

/* ---- setting up ---- */

/* @ret_features may be NULL. */
static int ring_init(struct io_uring *ring, unsigned entries, unsigned flags,
                     unsigned *ret_features)
{
    struct io_uring_params params = {.flags = flags};
    int result = io_uring_queue_init_params(entries, ring, &params);
    if (result < 0)
        return result;
    /* A child that has them mapped keeps the ring, and the files registered with it, open. */
    (void)io_uring_ring_dontfork(ring);
    if (ret_features)
        *ret_features = params.features;
    if ((params.features & FEATURES_NEEDED) == FEATURES_NEEDED)
        return 0;
    io_uring_queue_exit(ring);
    return -EOPNOTSUPP;
}

static bool has_operations(struct io_uring *ring)
{
    static const int needed[] = {
        IORING_OP_READ,       IORING_OP_WRITE,       IORING_OP_READV,       IORING_OP_WRITEV,
        IORING_OP_READ_FIXED, IORING_OP_WRITE_FIXED, IORING_OP_FSYNC,       IORING_OP_FALLOCATE,
        IORING_OP_POLL_ADD,   IORING_OP_POLL_REMOVE, IORING_OP_ASYNC_CANCEL};
    struct io_uring_probe *probe = io_uring_get_probe_ring(ring);
    bool all = probe;
    for (size_t i = 0; all && i < ARRAY_LEN(needed); i++)
        all = io_uring_opcode_supported(probe, needed[i]);
    io_uring_free_probe(probe);
    return all;
}

int rt_uring_probe(struct rt_real *real)
{
    static const unsigned choices[] = {
        IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN,
        IORING_SETUP_COOP_TASKRUN,
        0,
    };
    const struct rt_options *o = &real->rt.options;
    unsigned always = o->uring_commands ? IORING_SETUP_SQE128 : 0;
    int result = -EINVAL;
    for (size_t i = 0; i < ARRAY_LEN(choices) && result == -EINVAL; i++) {
        struct io_uring ring;
        real->ring_flags = always | choices[i];
        result = ring_init(&ring, 4, real->ring_flags, NULL);
        if (result < 0)
            continue;
        if (!has_operations(&ring))
            result = -EOPNOTSUPP;
        io_uring_queue_exit(&ring);
    }
    return result;
}

static int queue_init(struct rt_queue *q)
{
    struct uring_queue *u = calloc(1, sizeof(*u));
    if (!u)
        return -ENOMEM;
    u->told_fd = -1;
    u->event_fd = eventfd(0, EFD_CLOEXEC);
    int result = u->event_fd < 0 ? -errno : 0;
    unsigned features = 0;
    if (result == 0)
        result =
            ring_init(&u->ring, q->rt->options.ring_entries, rt_real(q->rt)->ring_flags, &features);
    if (result < 0) {
        if (u->event_fd >= 0)
            close(u->event_fd);
        free(u);
        return result;
    }
    /* Saves looking up the ring's descriptor at each call; without it things work as well. */
    (void)io_uring_register_ring_fd(&u->ring);
    q->impl = u;
    uring_files_init(q, features);
    return 0;
}

/* ---- completions ---- */

static void reap(struct uring_queue *u)
{
    struct io_uring_cqe *cqe;
    unsigned head, count = 0;
    io_uring_for_each_cqe(&u->ring, head, cqe)
    {
        count++;
        if (cqe->user_data == DATA_KICK) {
            u->kick_armed = false;
        } else if (cqe->user_data >= DATA_SMALLEST_POINTER) {
            struct rt_io *io = (struct rt_io *)(uintptr_t)cqe->user_data;
            bool more = cqe->flags & IORING_CQE_F_MORE;
            u->in_flight -= !more;
            if (unlikely(io->op == RT_OP_WATCH))
                watch_event(io, cqe->res, more);
            else
                rt_io_complete(io, cqe->res);
        }
    }
    io_uring_cq_advance(&u->ring, count);
}

/* A free entry. Where the submission queue is full, hands it over; where the kernel takes no more
 * before completions are fetched, fetches them. */
static struct io_uring_sqe *get_sqe(struct rt_queue *q)
{
    struct uring_queue *u = q->impl;
    struct io_uring_sqe *sqe;
    while (!(sqe = io_uring_get_sqe(&u->ring))) {
        rt_count(&q->count.system_calls, 1);
        int result = io_uring_submit(&u->ring);
        assert(result >= 0 || result == -EINTR || result == -EAGAIN || result == -EBUSY ||
               result == -ENOMEM);
        if (result < 0) {
            (void)io_uring_get_events(&u->ring);
            reap(u);
        }
    }
    return sqe;
}

static void arm_kick(struct rt_queue *q)
{
    struct uring_queue *u = q->impl;
    if (u->kick_armed)
        return;
    struct io_uring_sqe *sqe = get_sqe(q);
    io_uring_prep_read(sqe, u->event_fd, &u->kicks, sizeof(u->kicks), 0);
    io_uring_sqe_set_data64(sqe, DATA_KICK);
    u->kick_armed = true;
}

/* What comes from here on is told of. */
static void be_told_again(struct uring_queue *u)
{
    eventfd_t count;
    (void)!eventfd_read(u->told_fd, &count);
}

static void wait(struct rt_queue *q, uint64_t deadline_ns)
{
    struct uring_queue *u = q->impl;
    struct io_uring_cqe *cqe;
    int result;
    if (deadline_ns == 0) {
        if (u->told_fd >= 0)
            be_told_again(u);
        else if (u->in_flight == 0 && io_uring_sq_ready(&u->ring) == 0)
            return;
        result = io_uring_submit_and_get_events(&u->ring);
    } else {
        arm_kick(q);
        if (deadline_ns == RT_FOREVER) {
            result = io_uring_submit_and_wait(&u->ring, 1);
        } else {
            uint64_t now = rt_clock_ns(), left = deadline_ns > now ? deadline_ns - now : 0;
            struct __kernel_timespec timeout = {.tv_sec = (int64_t)(left / 1000000000),
                                                .tv_nsec = (long long)(left % 1000000000)};
            result = io_uring_submit_and_wait_timeout(&u->ring, &cqe, 1, &timeout, NULL);
        }
    }
    rt_count(&q->count.system_calls, 1);
    assert(result >= 0 || result == -EINTR || result == -EAGAIN || result == -EBUSY ||
           result == -ENOMEM || result == -ETIME);
    reap(u);
}

static void kick(struct rt_queue *q)
{
    struct uring_queue *u = q->impl;
    eventfd_write(u->event_fd, 1);
    /* The ring's word of it would be one event descriptor's by another: kernels lose that. */
    int told_fd = atomic_load_explicit(&u->told_fd, memory_order_acquire);
    if (unlikely(told_fd >= 0))
        eventfd_write(told_fd, 1);
}

/* What is there already when a lent queue is left was told of before, and is told again. */
static void rest(struct rt_queue *q)
{
    struct uring_queue *u = q->impl;
    if (u->told_fd < 0)
        arm_kick(q);
    if (u->told_fd < 0 && io_uring_sq_ready(&u->ring) == 0)
        return;
    rt_count(&q->count.system_calls, 1);
    int result =
        u->told_fd < 0 ? io_uring_submit(&u->ring) : io_uring_submit_and_get_events(&u->ring);
    assert(result >= 0 || result == -EINTR || result == -EAGAIN || result == -EBUSY ||
           result == -ENOMEM);
    if (u->told_fd >= 0 && io_uring_cq_ready(&u->ring) > 0)
        eventfd_write(u->told_fd, 1);
}

/* The ring's own descriptor does not wake pollers when work is put off until its thread calls. */
static int descriptor(struct rt_queue *q)
{
    struct uring_queue *u = q->impl;
    if (u->told_fd >= 0)
        return u->told_fd;
    int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    int result = fd < 0 ? -errno : io_uring_register_eventfd(&u->ring, fd);
    if (result < 0) {
        if (fd >= 0)
            close(fd);
        return result;
    }
    u->told_fd = fd;
    return fd;
}

static void queue_fini(struct rt_queue *q)
{
    struct uring_queue *u = q->impl;
    assert(u->in_flight == 0);
    uring_files_fini(q);
    /* The ring dies in the background; the pending read of the event descriptor must not outlive
     * the memory that it would write to. */
    if (u->kick_armed)
        eventfd_write(u->event_fd, 1);
    while (u->kick_armed) {
        (void)io_uring_submit_and_wait(&u->ring, 1);
        reap(u);
    }
    uring_buffers_forget(q);
    io_uring_queue_exit(&u->ring);
    close(u->event_fd);
    if (u->told_fd >= 0)
        close(u->told_fd);
    free(u);
}

/* ---- submitting ---- */

static void prepare_transfer(const struct uring_queue *u, struct io_uring_sqe *sqe,
                             const struct rt_io *io)
{
    int fd = io->file->fd;
    bool reads = io->op == RT_OP_READ;
    int buffer = io->iov_count == 1 ? uring_find_buffer(u, io->iov) : -1;
    void *base = io->iov[0].iov_base;
    unsigned length = (unsigned)io->length;
    if (buffer >= 0 && reads)
        io_uring_prep_read_fixed(sqe, fd, base, length, io->offset, buffer);
    else if (buffer >= 0)
        io_uring_prep_write_fixed(sqe, fd, base, length, io->offset, buffer);
    else if (io->iov_count == 1 && reads)
        io_uring_prep_read(sqe, fd, base, length, io->offset);
    else if (io->iov_count == 1)
        io_uring_prep_write(sqe, fd, base, length, io->offset);
    else if (reads)
        io_uring_prep_readv(sqe, fd, io->iov, io->iov_count, io->offset);
    else
        io_uring_prep_writev(sqe, fd, io->iov, io->iov_count, io->offset);
    sqe->rw_flags = io->flags;
}

static void prepare_stream(struct io_uring_sqe *sqe, struct rt_io *io)
{
    bool reads = io->op == RT_OP_READ_STREAM;
    int fd = io->file->fd;
    if (real_file(io->file)->is_socket) {
        io->message =
            (struct msghdr){.msg_iov = (struct iovec *)io->iov, .msg_iovlen = io->iov_count};
        if (reads)
            io_uring_prep_recvmsg(sqe, fd, &io->message, 0);
        else
            io_uring_prep_sendmsg(sqe, fd, &io->message, MSG_NOSIGNAL);
    } else if (io->iov_count == 1 && reads) {
        io_uring_prep_read(sqe, fd, io->iov[0].iov_base, (unsigned)io->length, (uint64_t)-1);
    } else if (io->iov_count == 1) {
        io_uring_prep_write(sqe, fd, io->iov[0].iov_base, (unsigned)io->length, (uint64_t)-1);
    } else if (reads) {
        io_uring_prep_readv(sqe, fd, io->iov, io->iov_count, (uint64_t)-1);
    } else {
        io_uring_prep_writev(sqe, fd, io->iov, io->iov_count, (uint64_t)-1);
    }
}

static void prepare_command(struct io_uring_sqe *sqe, const struct rt_io *io)
{
    io_uring_prep_rw(IORING_OP_URING_CMD, sqe, io->file->fd, (void *)(uintptr_t)io->command.address,
                     io->command.length, 0);
    sqe->cmd_op = io->command.opcode;
    memset(sqe->cmd, 0, RT_URING_COMMAND_BYTES);
    memcpy(sqe->cmd, io->command.bytes, io->command.byte_count);
}

static bool ring_can(enum rt_opcode op)
{
    switch (op) {
    case RT_OP_READ:
    case RT_OP_WRITE:
    case RT_OP_FDATASYNC:
    case RT_OP_FALLOCATE:
    case RT_OP_POLL:
    case RT_OP_WATCH:
    case RT_OP_READ_STREAM:
    case RT_OP_WRITE_STREAM:
    case RT_OP_COMMAND:
        return true;
    default:
        return false;
    }
}

/* The ring hands what it does on a memory file system to a kernel thread, since such files do not
 * know how to say that they would wait. The plain call costs less than a wake-up. */
static bool is_faster_inline(const struct rt_io *io)
{
    switch (io->op) {
    case RT_OP_READ:
    case RT_OP_WRITE:
        return real_file(io->file)->in_memory && io->length <= INLINE_BYTES_MAX;
    case RT_OP_FDATASYNC:
    case RT_OP_FALLOCATE:
        return real_file(io->file)->in_memory;
    default:
        return false;
    }
}

static bool submit(struct rt_queue *q, struct rt_io *io)
{
    struct uring_queue *u = q->impl;
    if (is_faster_inline(io)) {
        rt_count(&q->count.system_calls, 1);
        io->result = real_file_perform(io);
        return true;
    }
    if (io->op == RT_OP_WRITE && real_file_write_at_once(io)) {
        rt_count(&q->count.system_calls, 1);
        return true;
    }
    if (!ring_can(io->op))
        return workers_submit(&rt_real(q->rt)->workers, io);
    if (io->op == RT_OP_COMMAND && !q->rt->options.uring_commands) {
        io->result = -EOPNOTSUPP;
        return true;
    }
    struct io_uring_sqe *sqe = get_sqe(q);
    switch (io->op) {
    case RT_OP_FDATASYNC:
        io_uring_prep_fsync(sqe, io->file->fd, IORING_FSYNC_DATASYNC);
        break;
    case RT_OP_FALLOCATE:
        io_uring_prep_fallocate(sqe, io->file->fd, io->flags, io->offset, io->length);
        break;
    case RT_OP_POLL:
        io_uring_prep_poll_add(sqe, io->fd, (unsigned)io->flags);
        break;
    case RT_OP_WATCH:
        io_uring_prep_poll_multishot(sqe, io->fd, (unsigned)io->flags);
        break;
    case RT_OP_READ_STREAM:
    case RT_OP_WRITE_STREAM:
        prepare_stream(sqe, io);
        break;
    case RT_OP_COMMAND:
        prepare_command(sqe, io);
        break;
    default:
        prepare_transfer(u, sqe, io);
        break;
    }
    if (io->file)
        uring_use_slot(q, io->file, sqe);
    io_uring_sqe_set_data(sqe, io);
    u->in_flight++;
    return false;
}

static void cancel(struct rt_queue *q, struct rt_io *io)
{
    struct io_uring_sqe *sqe = get_sqe(q);
    /* Removing a poll fails while one of its events is being told; a multishot poll would go on. */
    if (io->op == RT_OP_WATCH)
        io_uring_prep_cancel64(sqe, (uint64_t)(uintptr_t)io, 0);
    else
        io_uring_prep_poll_remove(sqe, (uint64_t)(uintptr_t)io);
    io_uring_sqe_set_data64(sqe, DATA_NONE);
}

const struct rt_ops rt_uring_ops = {
    .name = "io_uring",
    .free = real_free,
    .queue_init = queue_init,
    .queue_fini = queue_fini,
    .submit = submit,
    .cancel = cancel,
    .wait = wait,
    .kick = kick,
    .rest = rest,
    .descriptor = descriptor,
    .now_ns = real_now_ns,
    .random_u64 = real_random_u64,
    .file_close = real_file_close,
    .file_lock = real_file_lock,
    .file_lock_test = real_file_lock_test,
    .file_try_read = real_file_try_read,
    .buffers_register = uring_buffers_register,
    .buffers_forget = uring_buffers_forget,
};
