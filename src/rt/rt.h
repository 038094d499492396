/*
 * The runtime: queue threads, coroutines, and every effect that the engine has on the world.
 *
 * A runtime is one of three implementations behind one table (rt/ops.h): io_uring (real_uring.c),
 * a thread pool where io_uring is refused (real_threads.c), and the deterministic simulator
 * (sim.c). Code above this layer never calls the kernel for time, randomness or storage I/O by
 * itself, so the simulator runs the same engine with faults, crashes and reordered writes.
 *
 * A queue is one OS thread with one event ring. A coroutine belongs to the queue that it was
 * spawned on and runs only there. Functions named co_* may suspend and are called from coroutines
 * only.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef RT_RT_H
#define RT_RT_H

#include "base/common.h"
#include "base/list.h"
#include "base/sgl.h"
#include "hawser/error.h"
#include <fcntl.h>
#include <sys/types.h>

struct rt;
struct rt_queue;
struct rt_file;
struct co;

enum rt_kind {
    RT_AUTO, /* io_uring, or threads where the kernel or a seccomp profile refuses it */
    RT_URING,
    RT_THREADS,
};

struct rt_options {
    enum rt_kind kind;
    unsigned ring_entries; /* submission slots a queue, power of two; 0: 128 */
    size_t stack_bytes;    /* coroutine stack; 0: 64 KiB. A guard page lies below it */
    unsigned workers_max; /* worker threads for blocking and CPU work; 0: online CPUs, at least 2 */
    bool uring_commands;  /* rings take 128-byte entries, so that co_uring_command() works */
};

/* ---- life ---- */

/**
 * Makes a runtime. @options may be NULL. Threads start only when used, so an idle one is cheap.
 * @return 0 or -errno: with RT_URING, what the kernel said when it refused the ring.
 */
HWS_MUST_CHECK int rt_create(const struct rt_options *options, struct rt **ret,
                             struct hws_error *err);

/** All queues must have stopped. @rt may be NULL. @return NULL. */
struct rt *rt_free(struct rt *rt);

/** "io_uring", "threads" or "sim": which implementation this is. */
const char *rt_name(const struct rt *rt);

typedef void co_fn(void *arg);

/**
 * The calling thread becomes a queue thread, runs @fn as a coroutine, and serves until @fn has
 * returned and every other coroutine of this queue has ended.
 * @return 0, or -errno when the queue could not be set up.
 */
HWS_MUST_CHECK int rt_run(struct rt *rt, co_fn *fn, void *arg);

/** Starts a queue thread. @name at most 15 bytes, shown by ps and gdb. Any thread may call this. */
HWS_MUST_CHECK int rt_queue_start(struct rt *rt, const char *name, struct rt_queue **ret,
                                  struct hws_error *err);

/**
 * Suspends until every coroutine of the queue @q has ended and its thread is joined, then frees it.
 * Called from a coroutine of another queue.
 */
void co_queue_stop(struct rt_queue *q);

/** The queue that the calling thread serves; asserts that it serves one. */
struct rt_queue *rt_self(void);

/** The runtime of the calling queue thread. */
struct rt *rt_current(void);

/* ---- queues of threads that have other things to do ---- */

/**
 * Lends the calling thread to a queue of @rt that runs only between rt_lent_enter() and
 * rt_lent_leave() of this thread; at other times its coroutines stand still. For libraries: calls
 * run where they are made, without a hand-over. @return 0 or -errno; -EOPNOTSUPP in the simulator.
 */
HWS_MUST_CHECK int rt_lent_start(struct rt *rt, struct rt_queue **ret);

/** Ends it, serving until all of its coroutines have ended. On its thread, outside of it. */
void rt_lent_stop(struct rt_queue *q);

/** Is the calling thread inside of some queue, lent or not? */
bool rt_serves(void);

/** The calling thread is inside of @q from here: rt_spawn() and rt_lent_serve*() may be called. */
void rt_lent_enter(struct rt_queue *q);

/** Serves until *@done, waiting where there is nothing to do. Only coroutines of @q set it. */
void rt_lent_serve(struct rt_queue *q, const bool *done);

/** Runs what can go on now, without waiting. */
void rt_lent_serve_ready(struct rt_queue *q);

/**
 * Leaves @q. What is in flight goes on inside the kernel.
 * @ret_wake_ns may be NULL: when rt_lent_serve_ready() is due for a timer; UINT64_MAX: none is.
 */
void rt_lent_leave(struct rt_queue *q, uint64_t *ret_wake_ns);

/**
 * Readable while @q is not entered and something waits for rt_lent_serve_ready(), timers apart, and
 * now and then without that. To be asked for before what it shall tell of. @return it, or -errno.
 */
int rt_lent_descriptor(struct rt_queue *q);

/**
 * The number of the calling queue: those of a runtime are counted from 0 in the order of their
 * start. For counters that each queue has of its own.
 */
unsigned rt_queue_index(void);

/* ---- coroutines ---- */

/**
 * Starts a coroutine on @q (NULL: the calling queue). From its own queue thread it is put at the
 * end of the run list; from another thread it goes through the mailbox. @return 0 or -ENOMEM.
 */
HWS_MUST_CHECK int rt_spawn(struct rt_queue *q, co_fn *fn, void *arg);

/** The running coroutine. */
struct co *co_self(void);

/** True inside a coroutine. */
bool co_running(void);

/** Suspends until somebody calls co_wake(). Wake-ups are not counted: guard with your own state. */
void co_suspend(void);

/** Makes a suspended coroutine runnable on its own queue. Any thread; exactly once a co_suspend().
 */
void co_wake(struct co *co);

/** Lets other runnable coroutines and completed I/O of this queue go first. */
void co_yield (void);

/* ---- without a coroutine ---- */

/**
 * Something to do once what is runnable now has run, and before the thread waits or submits: what
 * is worth doing once for many completions (one system call that tells of them all).
 */
struct rt_later {
    struct list link;
    void (*fn)(struct rt_later *later); /* on the queue's thread; may not suspend, may spawn */
};

void rt_later_init(struct rt_later *later, void (*fn)(struct rt_later *later));

/** Has @later run once by the calling queue; asked for several times, it runs once. */
void rt_later(struct rt_later *later);

/** What other threads ring to have something done by a queue. */
struct rt_doorbell;

/** @fn(@arg) may spawn, and may not suspend. @return NULL: no memory; ended by rt_doorbell_free().
 */
HWS_MUST_CHECK struct rt_doorbell *rt_doorbell_new(void (*fn)(void *arg), void *arg);

/** Has @fn called on the thread of @q. Any thread; once, until @fn has begun. */
void rt_doorbell_ring(struct rt_queue *q, struct rt_doorbell *bell);

/** Nobody has rung it, but where @fn was called since. @bell may be NULL. */
void rt_doorbell_free(struct rt_doorbell *bell);

/* ---- time and chance ---- */

/** Monotonic nanoseconds; simulated time in the simulator. */
uint64_t rt_now_ns(void);

/** Nanoseconds since 1970, UTC: for dates that are recorded, never for measuring. */
uint64_t rt_wall_ns(void);

/** Random bits for identifiers (from getrandom(), or the simulator's seed). */
uint64_t rt_random_u64(void);

void co_sleep_ns(uint64_t duration_ns);

/* ---- work off the queue thread ---- */

/**
 * Runs @fn(@arg) on a worker thread and suspends until it returns. For heavy CPU work (compression,
 * hashing) and calls that block. @fn must not call co_* or rt_self(). In the simulator it runs
 * inline.
 * @return what @fn returned.
 */
int co_work(int (*fn)(void *arg), void *arg);

/* ---- files ---- */

struct rt_open {
    int flags;   /* O_RDONLY, O_RDWR, O_CREAT, O_EXCL, O_TRUNC, O_DIRECT; O_CLOEXEC is added */
    mode_t mode; /* with O_CREAT */
    const char *beneath; /* not NULL: path must resolve to a place below this folder (openat2) */
};

struct rt_stat {
    uint64_t size_bytes;
    uint64_t allocated_bytes;
    uint64_t device, inode; /* identity, for loops and double opens */
    uint64_t birth_ns; /* when it was made: tells a number of an inode used again; 0: unknown */
    bool is_block_device;
    bool is_regular;
    uint32_t offset_alignment; /* of offset and length; 1 without O_DIRECT */
    uint32_t memory_alignment; /* of buffer addresses; 1 without O_DIRECT */
};

/** Opens a file. @ret owned by the caller: rt_file_close(). Errors name the path. */
HWS_MUST_CHECK int co_open(const char *path, const struct rt_open *how, struct rt_file **ret,
                           struct hws_error *err);

/** Takes over an open descriptor (a socket, /dev/fuse, a passed image). Not in the simulator. */
HWS_MUST_CHECK int rt_file_adopt(int fd, struct rt_file **ret);

/** Closes. No I/O may be in flight. @file may be NULL. @return NULL. Any queue thread. */
struct rt_file *rt_file_close(struct rt_file *file);

/** The descriptor, -1 in the simulator. Still owned by @file. */
int rt_file_fd(const struct rt_file *file);

HWS_MUST_CHECK int co_stat(struct rt_file *file, struct rt_stat *ret);

/**
 * Does it lie on a disk that turns, as the kernel says of it? False where the kernel does not say
 * (network and memory file systems), and in the simulator. Reads a file of /sys. Any thread.
 */
bool rt_file_is_rotational(const struct rt_file *file);

/**
 * Reads at @offset, whole or up to the end of the file.
 * @return bytes read (fewer than buffer.length only at the end of file), or -errno.
 */
HWS_MUST_CHECK ssize_t co_pread(struct rt_file *file, uint64_t offset, struct sgl buffer);

/**
 * Reads what takes no waiting (pages in memory), into @bytes; never suspends, and needs no
 * coroutine. @return 0 with all of it, or -EAGAIN: whatever keeps it, co_pread() deals with it.
 */
HWS_MUST_CHECK int rt_file_try_read(struct rt_file *file, uint64_t offset, void *bytes,
                                    size_t length);

/** Writes all of @buffer at @offset. @flags RWF_DSYNC or 0. @return 0 or -errno. */
HWS_MUST_CHECK int co_pwrite(struct rt_file *file, uint64_t offset, struct sgl buffer, int flags);

/** fdatasync: data and the metadata needed to read it are durable on return. */
HWS_MUST_CHECK int co_fdatasync(struct rt_file *file);

/** fallocate(2) with @mode; -EOPNOTSUPP where the file system has not got it. */
HWS_MUST_CHECK int co_fallocate(struct rt_file *file, int mode, uint64_t offset, uint64_t length);

HWS_MUST_CHECK int co_truncate(struct rt_file *file, uint64_t size_bytes);

/**
 * Copies between files inside the kernel: reflink where offsets allow, else copy_file_range.
 * @return bytes copied (may be short), or -errno (-EOPNOTSUPP, -EXDEV: copy by hand).
 */
HWS_MUST_CHECK ssize_t co_copy_range(struct rt_file *from, uint64_t from_offset, struct rt_file *to,
                                     uint64_t to_offset, uint64_t length);

/** lseek with @whence SEEK_DATA or SEEK_HOLE. @return the offset, or -errno (-ENXIO past the end).
 */
HWS_MUST_CHECK int64_t co_seek(struct rt_file *file, uint64_t offset, int whence);

/** Renames a file over another and makes the folder durable. For atomic replacement of small files.
 */
HWS_MUST_CHECK int co_rename(const char *from, const char *to, struct hws_error *err);

HWS_MUST_CHECK int co_unlink(const char *path, struct hws_error *err);

enum rt_lock { RT_UNLOCK, RT_LOCK_SHARED, RT_LOCK_EXCLUSIVE };

/** Open-file-description lock, without waiting. @return 0, -EAGAIN when another holds it, -errno.
 */
HWS_MUST_CHECK int rt_file_lock(struct rt_file *file, uint64_t start, uint64_t length,
                                enum rt_lock lock);

/** Would an exclusive lock by us conflict with somebody else's? @return 0, -EAGAIN, -errno. */
HWS_MUST_CHECK int rt_file_lock_test(struct rt_file *file, uint64_t start, uint64_t length);

/* ---- descriptors that are not files (real runtimes only) ---- */

/** Suspends until @fd has one of @events (POLLIN, POLLOUT). @return events, or -errno. */
HWS_MUST_CHECK int co_poll(int fd, unsigned events);

/**
 * As co_poll(), but gives up after @timeout_ns (0: waits for ever). @return events, 0 on timeout,
 * -errno.
 */
HWS_MUST_CHECK int co_poll_timeout(int fd, unsigned events, uint64_t timeout_ns);

struct rt_watch;

/**
 * Calls @fn(@arg) on the calling queue whenever @fd is readable, as a rt_later does, until
 * co_watch_stop(). Costs no system call an event. @fn may spawn, and may not suspend.
 * @ret_edge true: @fn is called once for each event, whether or not somebody reads; false: again
 * and again until somebody reads.
 */
HWS_MUST_CHECK int rt_watch_start(int fd, void (*fn)(void *arg), void *arg, struct rt_watch **ret,
                                  bool *ret_edge);

/**
 * The other side has shut down, or the descriptor has failed: no event may follow, even where the
 * one that told of it told of data too. So who is called reads until there is nothing more. On the
 * queue of rt_watch_start().
 */
bool rt_watch_has_ended(const struct rt_watch *watch);

/** On the queue of rt_watch_start(). Afterwards @fn is not called any more. NULL: nothing. */
void co_watch_stop(struct rt_watch *watch);

/** read/write once on a stream or character device (no offset). @return bytes or -errno. */
HWS_MUST_CHECK ssize_t co_read_stream(struct rt_file *file, struct sgl buffer);
HWS_MUST_CHECK ssize_t co_write_stream(struct rt_file *file, struct sgl buffer);

#define RT_URING_COMMAND_BYTES 80

/**
 * IORING_OP_URING_CMD with @opcode and the 80 bytes @command of a 128-byte entry, as FUSE and ublk
 * use them; @address and @length fill the entry's addr and len fields. @return the completion's
 * result. -EOPNOTSUPP where the runtime was not made with uring_commands or is not io_uring.
 */
HWS_MUST_CHECK int co_uring_command(struct rt_file *file, uint32_t opcode, const void *command,
                                    size_t command_bytes, uint64_t address, uint32_t length);

/**
 * Tells the calling queue about long-lived I/O buffers. Transfers of one contiguous piece inside
 * them then skip the kernel's pinning. The memory must stay until rt_buffers_forget() or the queue
 * ends. Registration that the kernel refuses (memory limits) is not an error: I/O works without it.
 */
void rt_buffers_register(const struct iovec *buffers, unsigned count);
void rt_buffers_forget(void);

/* ---- counters ---- */

struct rt_counters {
    uint64_t operations;   /* I/O operations submitted */
    uint64_t system_calls; /* io_uring_enter calls, or worker hand-overs */
    uint64_t switches;     /* coroutine resumes */
    uint64_t coroutines;   /* alive now */
};

/** A snapshot for statistics; any thread. @q NULL: the calling queue. */
struct rt_counters rt_queue_counters(const struct rt_queue *q);

#endif
