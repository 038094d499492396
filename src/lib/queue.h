/*
 * Inside the library: a queue of asynchronous requests. queue.c is the user's side; queue_thread.c
 * and queue_caller.c are the two ways in which the work is done.
 *
 *   free -> submit -> [inbox] -> coroutine -> done -> ready -> reap -> free
 *    |         user's thread   |   worker's side   |    user's thread    |
 *
 * With a thread, `inbox` and `done` are stacks that one side pushes a whole batch on and the other
 * takes as a whole. Who works for a caller uses neither: what ends goes to `ready` at once.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef LIB_QUEUE_H
#define LIB_QUEUE_H

#include "lib/disk.h"
#include "lib/thread.h"

/* What was promised about the descriptor; user's side. */
enum queue_event {
    QUEUE_ARMED,   /* the worker writes to it at the next completion, and may have done so */
    QUEUE_CLEAR,   /* not readable, and nobody will write to it */
    QUEUE_READABLE /* readable, by us */
};

struct queue_slot {
    struct queue_slot *next;
    struct hws_queue *queue;
    uint64_t tag;
    int result;
    struct disk_request request;
};

struct hws_queue {
    struct hws_disk *disk;
    const struct queue_way *way;
    struct queue_slot *slot; /* all of them */
    unsigned depth;

    /* user's side */
    struct queue_slot *free;
    struct queue_slot *ready, **ready_end; /* completed, in order */
    unsigned pending;                      /* submitted and not fetched */
    int event_fd;
    enum queue_event event;

    bool fd_used; /* somebody may wait for the descriptor */

    _Atomic bool closing; /* what has not begun is cancelled */

    /* with a thread */
    struct rt_queue *thread;
    struct queue_slot *finished, **finished_end; /* not published yet; worker's side */
    struct rt_later publish;
    struct rt_doorbell *doorbell;
    _Alignas(64) _Atomic(struct queue_slot *) inbox; /* newest first */
    _Alignas(64) _Atomic(struct queue_slot *) done;  /* newest first */
    _Atomic bool armed;                              /* a completion writes to event_fd */

    /* with the caller */
    struct lib_thread *caller;
    unsigned running; /* coroutines */
    int poll_fd;      /* epoll over the ring, event_fd and the thread's timer; -1: none yet */
    bool inside;      /* a call on this queue */
    bool something;   /* has completed: what a wait serves until */
};

/* One of the two ways. All but `start` on a queue that queue_check() has passed. */
struct queue_way {
    int (*start)(struct hws_queue *queue, struct hws_error *err);
    /* Waits until nothing is in flight, and frees what start() made. */
    int (*stop)(struct hws_queue *queue, struct hws_error *err);
    int (*check)(const struct hws_queue *queue);
    /* @first: slots in order of submission. */
    void (*submit)(struct hws_queue *queue, struct queue_slot *first);
    /* Moves what has completed to `ready`; waits at most @timeout_ns where there is nothing (0:
     * does not, negative: for ever). @return 0, -EINTR. */
    int (*collect)(struct hws_queue *queue, int64_t timeout_ns);
    /* Nothing is ready: has the descriptor tell of what comes, or makes ready what has come. */
    void (*arm)(struct hws_queue *queue);
    /* Has the descriptor tell whether there is more to fetch. */
    void (*mark)(struct hws_queue *queue);
    int (*descriptor)(struct hws_queue *queue);
    int (*buffers)(struct hws_queue *queue, const struct iovec *buffers, unsigned count);
};

extern const struct queue_way queue_with_thread, queue_with_caller;

/** Carries out one slot's request, and leaves the result there. */
void co_queue_request(struct queue_slot *slot);

/** Appends a completed slot to `ready`. */
void queue_ready(struct hws_queue *queue, struct queue_slot *slot);

/** Makes the event descriptor readable, or reads it empty. */
void queue_event_set(struct hws_queue *queue);
void queue_event_clear(struct hws_queue *queue);

#endif
