/*
 * Inside the io_uring runtime: a queue's ring, and what is registered with it.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef RT_URING_H
#define RT_URING_H

#include "rt/real.h"
#include <liburing.h>

/* Files that a ring knows; others are used by their descriptors. */
#define URING_SLOTS 256u

struct uring_queue {
    struct io_uring ring;
    int event_fd;
    uint64_t kicks; /* read from event_fd by the ring */
    bool kick_armed;
    _Atomic int told_fd; /* what the ring tells of completions (a lent queue's descriptor), or -1 */
    uint64_t in_flight;  /* rt_io given to the ring and not completed */
    struct iovec *buffers; /* registered, by address; NULL: none */
    unsigned buffer_count;
    int number;                               /* index in real_file.ring; -1: registers no files */
    uint64_t slots_free[URING_SLOTS / 64];    /* a bit each */
    struct real_file *slot_file[URING_SLOTS]; /* NULL: free, or being dropped */
    struct rt_mail drop[URING_SLOTS];         /* from who closes the file */
};

/** Readies @q for registered files, where the kernel is good at them. */
void uring_files_init(struct rt_queue *q, unsigned features);

/** No file refers to @q any more. */
void uring_files_fini(struct rt_queue *q);

/** Makes @sqe use the registered file in place of the descriptor, registering it when it is busy.
 */
void uring_use_slot(struct rt_queue *q, struct rt_file *file, struct io_uring_sqe *sqe);

void uring_buffers_register(struct rt_queue *q, const struct iovec *buffers, unsigned count);
void uring_buffers_forget(struct rt_queue *q);

/** Index of the registered buffer that @piece lies in whole, or -1. */
int uring_find_buffer(const struct uring_queue *u, const struct iovec *piece);

#endif
