/*
 * Requests that do not block: submitted in batches, their completions fetched in batches.
 *
 *   hws_queue_submit() -> in flight -> completed -> hws_queue_reap()
 *                                          |
 *                      hws_queue_fd() is readable: for poll, epoll or any event loop
 *
 * A queue belongs to one disk; a disk may have several, on several threads. A queue is used by one
 * thread at a time: calls on one queue never overlap (the owner sees to that, as with a FILE that
 * nobody locks). There are two kinds:
 *
 *   with a thread   (default) the work is done by a thread of the library's own
 *   HWS_QUEUE_CALLER  it is done inside calls of the thread that made the queue, and of no other
 *                   (-EPERM): no hand-over and no wake-ups, the least CPU time a request. While
 *                   requests are in flight that thread must come back to hws_queue_reap() or
 *                   _wait() whenever the descriptor is readable: other threads' requests on the
 *                   disk may wait for them. Any blocking call of that thread on a disk serves its
 *                   queues too
 *
 * Completions come in any order. Buffers, and arrays of iovecs, belong to the request until its
 * completion was fetched; data is read into them and written from them directly, where they are
 * aligned as hws_disk_limits() says. Pipes, sockets and signals of the program are not touched.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef HAWSER_QUEUE_H
#define HAWSER_QUEUE_H

#include "hawser/disk.h"

#ifdef __cplusplus
extern "C" {
#endif

/** A queue of requests. Opaque. */
struct hws_queue;

/** Requests in flight at most that a queue can be made for. */
#define HWS_QUEUE_DEPTH_MAX 4096

/** Flag of a queue: its work is done inside calls of the thread that made it. */
#define HWS_QUEUE_CALLER (1u << 0)

/** How a queue is made. Zero-initialise, then set struct_bytes. */
struct hws_queue_options {
    size_t struct_bytes; /* sizeof(struct hws_queue_options) */
    uint32_t depth;      /* requests that are submitted and not fetched, at most; 0: 128 */
    uint32_t flags;      /* HWS_QUEUE_CALLER or 0 */
};

/** What a request does. */
#define HWS_OP_READ    1u
#define HWS_OP_WRITE   2u
#define HWS_OP_ZERO    3u
#define HWS_OP_DISCARD 4u
#define HWS_OP_FLUSH   5u

/** One request. 64 bytes; zero-initialise, so that `reserved` is 0. */
struct hws_request {
    uint64_t tag;            /* comes back with the completion */
    uint64_t offset;         /* bytes; 0 with HWS_OP_FLUSH */
    uint64_t length;         /* bytes; not used with `iov` */
    void *buffer;            /* reads and writes, where iov_count is 0 */
    const struct iovec *iov; /* reads and writes, where iov_count is not 0 */
    uint32_t iov_count;      /* at most HWS_IOV_MAX */
    uint32_t op;             /* HWS_OP_READ ... */
    uint32_t flags;          /* HWS_FUA ..., as of the blocking call */
    uint32_t reserved[3];    /* 0 */
};

/** How a request ended. 16 bytes. */
struct hws_completion {
    uint64_t tag;
    int64_t result; /* 0 or -errno */
};

/** Makes a queue on @disk. @options NULL: all zero. @ret ended by hws_queue_close(). Thread-safe.
 */
int hws_queue_open(struct hws_disk *disk, const struct hws_queue_options *options,
                   struct hws_queue **ret, struct hws_error *err);

/**
 * Waits for what is in flight, so that no buffer is in use any more, and frees @queue (may be
 * NULL). Requests that have not begun do not begin; completions that were not fetched are lost.
 * @return 0; else the queue stays: -EPERM where it was made with HWS_QUEUE_CALLER by another thread
 * that is alive, or before fork(); -EDEADLK in a callback; -ENOMEM, -EMFILE where I/O cannot start
 * on this thread.
 */
int hws_queue_close(struct hws_queue *queue, struct hws_error *err);

/**
 * A descriptor that is readable (POLLIN, level-triggered) while there are completions to be
 * fetched, or, with HWS_QUEUE_CALLER, work to be done by hws_queue_reap(). It may be readable
 * without either. It is the queue's: only wait on it. Never blocks.
 */
int hws_queue_fd(struct hws_queue *queue);

/**
 * Submits the first of @count requests, in order, as many as the queue's depth leaves room for, and
 * wakes its thread at most once. A wrong request is taken and completes with -EINVAL. Does not wait
 * for them; with HWS_QUEUE_CALLER it does what can be done at once.
 * @return how many were taken, 0 where the queue is full; or -EPERM, -EDEADLK, -EINVAL.
 */
int hws_queue_submit(struct hws_queue *queue, const struct hws_request *requests, unsigned count);

/**
 * Fetches up to @max completions, without waiting.
 * @return how many, 0 where there are none now; or -EPERM, -EDEADLK, -EINVAL.
 */
int hws_queue_reap(struct hws_queue *queue, struct hws_completion *ret, unsigned max);

/**
 * As hws_queue_reap(), but waits for at least one.
 * @timeout_ns nanoseconds; negative: for ever.
 * @return how many; 0 at the timeout, or at once where nothing is in flight; -EINTR where a signal
 * handler ran (with HWS_QUEUE_CALLER and no timeout it goes on waiting); -EPERM, -EDEADLK, -EINVAL.
 */
int hws_queue_wait(struct hws_queue *queue, struct hws_completion *ret, unsigned max,
                   int64_t timeout_ns);

/** Requests that were submitted and whose completions were not fetched. Never blocks. */
unsigned hws_queue_pending(const struct hws_queue *queue);

/**
 * Tells the queue about @count buffers that requests will use again and again: transfers of one
 * piece inside of them then skip the kernel's pinning. They must stay mapped until the queue is
 * closed or told of others (@count 0: none); nothing may be in flight (-EBUSY). Memory that the
 * kernel does not want to register (RLIMIT_MEMLOCK) is no error: requests work without it. With
 * HWS_QUEUE_CALLER they are those of the thread: the last call counts for all of its queues.
 */
int hws_queue_buffers(struct hws_queue *queue, const struct iovec *buffers, unsigned count,
                      struct hws_error *err);

#ifdef __cplusplus
}
#endif
#endif
