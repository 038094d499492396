/*
 * Inside the runtime: what an implementation fills in, and what it may use. Only src/rt includes
 * it.
 *
 *   co_pread() ... (io.c)   one struct rt_io on the coroutine's stack
 *        | ops->submit()
 *   real_uring.c | real_threads.c | sim.c
 *        | rt_io_complete(), any thread
 *   co_wake() (queue.c)     run list of the coroutine's queue, or its mailbox
 *
 * A queue thread goes round: mail -> run list -> timers -> ops->wait() (which submits and reaps).
 * An implementation that schedules by itself (the simulator: many virtual queues on one thread)
 * sets ops->serve and uses the queue_*() steps at the end of this file.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef RT_OPS_H
#define RT_OPS_H

#include "rt/rt.h"
#include "rt/timer.h"
#include <pthread.h>
#include <stdatomic.h>
#include <sys/socket.h>

#define RT_FOREVER UINT64_MAX

enum rt_opcode {
    RT_OP_READ,         /* file, offset, iov */
    RT_OP_WRITE,        /* file, offset, iov, flags: RWF_* */
    RT_OP_FDATASYNC,    /* file */
    RT_OP_FALLOCATE,    /* file, offset, length, flags: mode */
    RT_OP_TRUNCATE,     /* file, offset: the new size */
    RT_OP_COPY_RANGE,   /* file, offset, length -> copy.to, copy.to_offset */
    RT_OP_SEEK,         /* file, offset, flags: whence */
    RT_OP_STAT,         /* file, stat */
    RT_OP_OPEN,         /* path, open; the answer in open.ret */
    RT_OP_RENAME,       /* path, to_path */
    RT_OP_UNLINK,       /* path */
    RT_OP_WORK,         /* work.fn(work.arg) */
    RT_OP_POLL,         /* fd, flags: events */
    RT_OP_WATCH,        /* fd, flags: events; completes by watch_event(), many times or once */
    RT_OP_READ_STREAM,  /* file, iov */
    RT_OP_WRITE_STREAM, /* file, iov */
    RT_OP_COMMAND,      /* file, command */
};

/*
 * One operation, on the stack of the coroutine that waits for it. result is what the function of
 * the public header returns: >= 0 or -errno. Reads and writes may be short; io.c goes on.
 */
struct rt_io {
    enum rt_opcode op;
    int flags;
    struct rt_file *file;
    uint64_t offset;
    uint64_t length; /* of all iov, or of the range */
    const struct iovec *iov;
    unsigned iov_count;
    int fd; /* RT_OP_POLL */
    const char *path;
    const char *to_path;
    struct hws_error *err; /* open, rename, unlink: filled by the implementation; may be NULL */
    union {
        struct {
            const struct rt_open *how;
            struct rt_file *ret;
        } open;
        struct {
            struct rt_file *to;
            uint64_t to_offset;
        } copy;
        struct {
            int (*fn)(void *arg);
            void *arg;
        } work;
        struct {
            const void *bytes;
            size_t byte_count;
            uint64_t address;
            uint32_t opcode;
            uint32_t length;
        } command;
        struct rt_stat *stat;
        struct msghdr message; /* a stream's, the implementation's */
    };
    int64_t result;
    struct co *co;
    struct list link; /* the implementation's, from submit() to rt_io_complete() */
    uint64_t scratch; /* the implementation's */
};

struct rt_ops {
    const char *name;

    /* Frees what is behind @rt, and @rt. All queues have ended. */
    void (*free)(struct rt *rt);

    /* On the queue's own thread. queue_init may set q->impl. */
    int (*queue_init)(struct rt_queue *q);
    void (*queue_fini)(struct rt_queue *q);

    /* Starts @io. @return true when it is complete at once, with io->result set. Otherwise calls
     * rt_io_complete() exactly once, later, never from inside submit(). */
    bool (*submit)(struct rt_queue *q, struct rt_io *io);

    /* Asks that @io (a poll or watch) complete soon with -ECANCELED, if it has not completed. Own
     * thread. NULL where submit() refuses polls. */
    void (*cancel)(struct rt_queue *q, struct rt_io *io);

    /* Hands over what was submitted and completes what is done. Waits for a completion or a kick
     * until @deadline_ns (0: does not wait). NULL with serve. */
    void (*wait)(struct rt_queue *q, uint64_t deadline_ns);

    /* Makes a wait() of @q return. Any thread; @q stays valid. NULL: nothing to do. */
    void (*kick)(struct rt_queue *q);

    /* NULL: the standard loop of queue.c. Otherwise runs until queue_finished(@q). */
    void (*serve)(struct rt_queue *q);

    /* NULL: an OS thread a queue. Otherwise rt_queue_start() makes no thread but calls this (after
     * queue_init); the implementation serves @q and calls queue_end() once queue_finished(). */
    int (*queue_start)(struct rt_queue *q);

    /* Of a lent queue (lent.c), which is left: a kick or a completion makes descriptor() readable
     * from here on, and what was submitted is handed over. NULL: queues cannot be lent. */
    void (*rest)(struct rt_queue *q);
    int (*descriptor)(struct rt_queue *q);

    uint64_t (*now_ns)(struct rt *rt);
    uint64_t (*wall_ns)(struct rt *rt); /* NULL: the kernel's */
    uint64_t (*random_u64)(struct rt *rt);

    void (*file_close)(struct rt_file *file);
    int (*file_lock)(struct rt_file *file, uint64_t start, uint64_t length, enum rt_lock lock);
    int (*file_lock_test)(struct rt_file *file, uint64_t start, uint64_t length);

    /* rt_file_try_read(). NULL: everything waits. */
    int (*file_try_read)(struct rt_file *file, uint64_t offset, void *bytes, size_t length);

    /* Optional: long-lived buffers of the calling queue. */
    void (*buffers_register)(struct rt_queue *q, const struct iovec *buffers, unsigned count);
    void (*buffers_forget)(struct rt_queue *q);
};

/* First member of an implementation's own struct. */
struct rt {
    const struct rt_ops *ops;
    struct rt_options options; /* rt_init() puts the defaults in */
    _Atomic unsigned queues;   /* alive, to assert in rt_free() */
    _Atomic unsigned started;  /* ever */
};

/* First member of an implementation's own struct. */
struct rt_file {
    const struct rt_ops *ops;
    int fd;                    /* -1 in the simulator */
    uint32_t offset_alignment; /* io.c cuts long vectors at multiples of it; at least 1 */
};

/* Something for a queue thread to do, sent from any thread; see queue_post(). */
struct rt_mail {
    struct rt_mail *next;
    void (*deliver)(struct rt_queue *q, struct rt_mail *mail);
};

struct rt_queue {
    struct rt *rt;
    void *impl; /* the implementation's */
    char name[16];
    unsigned index;       /* rt_queue_index() */
    struct list runnable; /* struct co, run_link */
    struct list round;    /* of those, what the standard loop still runs in this round */
    struct co *running;   /* NULL in the scheduler */
    struct list later;    /* struct rt_later, in the order of rt_later() */
    struct timers timers;
    uint64_t alive;     /* coroutines, started and not yet ended */
    struct list stacks; /* free stacks; see co.c */
    unsigned stacks_free;
    unsigned inline_streak; /* operations complete at once, in a row */
    struct co *stopper;     /* suspended in co_queue_stop() */
    pthread_t thread;
    bool threaded; /* thread is to be joined */
    bool lent;     /* runs inside of calls of its thread only (lent.c) */
    bool stopping; /* ends with its last coroutine. Own thread only */
    struct rt_mail stop_mail;
    int start_result;
    void *started; /* sem_t of rt_queue_start() */

    /* Other threads: */
    _Alignas(64) _Atomic(struct rt_mail *) mailbox; /* newest first */
    _Atomic bool sleeping;                          /* the next post must kick */
    _Atomic unsigned posters;                       /* threads inside queue_post() */

    /* Written by the queue thread (relaxed), read by any: */
    struct {
        _Atomic uint64_t operations, system_calls, switches, coroutines;
    } count;
};

/* ---- for implementations ---- */

/** Puts @options (may be NULL) with defaults filled in, and @ops, into a zeroed @rt. */
void rt_init(struct rt *rt, const struct rt_ops *ops, const struct rt_options *options);

/** Ends @io: sets its result and wakes its coroutine. Any thread; @io is gone afterwards. */
void rt_io_complete(struct rt_io *io, int64_t result);

/** A RT_OP_WATCH: @result is events or -errno; @more: it stays submitted. Own thread. */
void watch_event(struct rt_io *io, int64_t result, bool more);

/** The kernel's monotonic clock, and its random bits. */
uint64_t rt_clock_ns(void);
uint64_t rt_entropy_u64(void);

/** Adds to a counter that only the queue thread writes. */
static inline void rt_count(_Atomic uint64_t *counter, uint64_t more)
{
    atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + more,
                          memory_order_relaxed);
}

/* ---- the standard loop and the life of a queue, for lent.c ---- */

/** A queue that nobody serves yet; NULL: no memory. queue_free() ends what queue_end() left. */
struct rt_queue *queue_new(struct rt *rt, const char *name);
void queue_free(struct rt_queue *q);

/** The standard loop, until queue_finished(@q), or *@until (may be NULL). @q is entered. */
void queue_serve(struct rt_queue *q, const bool *until);

/** Resumes what is runnable now, each once. @q is entered. */
void queue_run_round(struct rt_queue *q);

/* ---- steps of a scheduler, for ops->serve ---- */

/** The calling thread serves @q from here (NULL: none). @return the queue that it served before. */
struct rt_queue *queue_enter(struct rt_queue *q);

/** Delivers the mailbox: coroutines woken or spawned by other queues get on the run list. */
void queue_deliver(struct rt_queue *q);

/** Fires the timers that are due at @now_ns. */
void queue_fire_timers(struct rt_queue *q, uint64_t now_ns);

/** When the next timer is due; RT_FOREVER without one. */
uint64_t queue_next_timer_ns(const struct rt_queue *q);

/** Number of runnable coroutines, by walking the list. */
unsigned queue_runnable(const struct rt_queue *q);

/** Takes the @index-th coroutine off the run list and resumes it until it suspends. @q is entered.
 */
void queue_run(struct rt_queue *q, unsigned index);

/** Runs what rt_later() asked for. @q is entered. @return whether there was anything. */
bool queue_run_later(struct rt_queue *q);

/** True when the queue is to end: stopping, no coroutine alive, no mail. */
bool queue_finished(const struct rt_queue *q);

/** Waits until no other thread is inside queue_post() for @q, and delivers the last mail. */
void queue_settle(struct rt_queue *q);

/** queue_fini, then wakes who waits in co_queue_stop(). @q is gone afterwards. */
void queue_end(struct rt_queue *q);

/** Sends @mail to @q: delivered on its thread. Any thread, never blocks. */
void queue_post(struct rt_queue *q, struct rt_mail *mail);

#endif
