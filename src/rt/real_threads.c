/*
 * The runtime without io_uring: workers do the file I/O that may block; the queue thread does what
 * does not (reads from the page cache, sockets, devices) and waits in ppoll().
 *
 * All waiting polls of a queue are laid out for each ppoll(): there are few (a connection or a
 * device each), and several coroutines may wait for one descriptor, which epoll does not allow.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "rt/real.h"
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/uio.h>
#include <time.h>

struct threads_queue {
    int event_fd;
    struct list polls; /* struct rt_io, link */
    unsigned poll_count, capacity;
    struct pollfd *set; /* [0]: event_fd, then the polls in their order */
};

static int queue_init(struct rt_queue *q)
{
    struct threads_queue *t = calloc(1, sizeof(*t));
    if (!t)
        return -ENOMEM;
    t->capacity = 8;
    t->set = calloc(t->capacity, sizeof(*t->set));
    t->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    list_init(&t->polls);
    if (!t->set || t->event_fd < 0) {
        int result = t->set ? -errno : -ENOMEM;
        if (t->event_fd >= 0)
            close(t->event_fd);
        free(t->set);
        free(t);
        return result;
    }
    t->set[0] = (struct pollfd){.fd = t->event_fd, .events = POLLIN};
    q->impl = t;
    return 0;
}

static void queue_fini(struct rt_queue *q)
{
    struct threads_queue *t = q->impl;
    assert(list_empty(&t->polls));
    close(t->event_fd);
    free(t->set);
    free(t);
}

static bool finish(struct rt_io *io, int64_t result)
{
    io->result = result;
    return true;
}

static bool submit_poll(struct threads_queue *t, struct rt_io *io)
{
    if (t->poll_count + 1 == t->capacity) {
        struct pollfd *more = realloc(t->set, 2 * t->capacity * sizeof(*more));
        if (!more)
            return finish(io, -ENOMEM);
        t->set = more;
        t->capacity *= 2;
    }
    list_push_back(&t->polls, &io->link);
    t->poll_count++;
    return false;
}

/* A read from the page cache costs less than handing it over. Direct reads would block here. */
static bool read_cached(struct rt_io *io)
{
    struct real_file *f = real_file(io->file);
    if (f->direct || f->nowait_refused)
        return false;
    ssize_t got = preadv2(f->file.fd, io->iov, (int)io->iov_count, (off_t)io->offset, RWF_NOWAIT);
    if (got >= 0)
        return finish(io, got);
    if (errno == EOPNOTSUPP)
        atomic_store_explicit(&f->nowait_refused, true, memory_order_relaxed);
    return false;
}

static bool submit(struct rt_queue *q, struct rt_io *io)
{
    struct threads_queue *t = q->impl;
    switch (io->op) {
    case RT_OP_POLL:
    case RT_OP_WATCH:
        return submit_poll(t, io);
    case RT_OP_COMMAND:
        return finish(io, -EOPNOTSUPP);
    case RT_OP_READ_STREAM:
    case RT_OP_WRITE_STREAM:
        /* Does not block: see rt_file_adopt(). */
        if (!real_file(io->file)->is_regular)
            return finish(io, real_file_perform(io));
        break;
    case RT_OP_READ:
        if (read_cached(io))
            return true;
        break;
    case RT_OP_WRITE:
        if (real_file_write_at_once(io))
            return true;
        break;
    default:
        break;
    }
    rt_count(&q->count.system_calls, 1);
    return workers_submit(&rt_real(q->rt)->workers, io);
}

static void end_poll(struct threads_queue *t, struct rt_io *io, int64_t result)
{
    list_del(&io->link);
    t->poll_count--;
    if (io->op == RT_OP_WATCH)
        watch_event(io, result, false);
    else
        rt_io_complete(io, result);
}

static void cancel(struct rt_queue *q, struct rt_io *io)
{
    assert(io->op == RT_OP_POLL || io->op == RT_OP_WATCH);
    end_poll(q->impl, io, -ECANCELED);
}

static void lay_out(struct threads_queue *t)
{
    unsigned index = 1;
    list_for_each (node, &t->polls) {
        const struct rt_io *io = list_entry(node, struct rt_io, link);
        t->set[index++] = (struct pollfd){.fd = io->fd, .events = (short)io->flags};
    }
}

static void wait(struct rt_queue *q, uint64_t deadline_ns)
{
    struct threads_queue *t = q->impl;
    /* A lent queue's kicks are read even so: its thread waits for them to come. */
    if (deadline_ns == 0 && t->poll_count == 0 && !q->lent)
        return;
    struct timespec timeout = {0};
    if (deadline_ns != 0 && deadline_ns != RT_FOREVER) {
        uint64_t now = rt_clock_ns(), left = deadline_ns > now ? deadline_ns - now : 0;
        timeout.tv_sec = (time_t)(left / 1000000000);
        timeout.tv_nsec = (long)(left % 1000000000);
    }
    lay_out(t);
    int ready = ppoll(t->set, 1 + t->poll_count, deadline_ns == RT_FOREVER ? NULL : &timeout, NULL);
    if (ready <= 0)
        return; /* nothing, or a signal */
    if (t->set[0].revents) {
        eventfd_t kicks;
        eventfd_read(t->event_fd, &kicks);
    }
    unsigned index = 1;
    list_for_each_safe (node, &t->polls) {
        const struct pollfd *p = &t->set[index++];
        if (p->revents & POLLNVAL)
            end_poll(t, list_entry(node, struct rt_io, link), -EBADF);
        else if (p->revents)
            end_poll(t, list_entry(node, struct rt_io, link), (unsigned short)p->revents);
    }
}

static void kick(struct rt_queue *q)
{
    struct threads_queue *t = q->impl;
    eventfd_write(t->event_fd, 1);
}

/* Kicks stay in event_fd; workers begin at once. What is polled for is not in there. */
static void rest(struct rt_queue *q)
{
}

static int descriptor(struct rt_queue *q)
{
    const struct threads_queue *t = q->impl;
    return t->event_fd;
}

const struct rt_ops rt_threads_ops = {
    .name = "threads",
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
};
