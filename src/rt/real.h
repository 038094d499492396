/*
 * Inside the real runtimes (io_uring and threads): files behind descriptors, and the worker pool
 * that both hand blocking calls to.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef RT_REAL_H
#define RT_REAL_H

#include "rt/co.h"

/* ---- files (real_file.c) ---- */

/* Queues of a process that may register files with their rings; others use descriptors. */
#define REAL_FILE_RINGS 16

struct real_file {
    struct rt_file file;
    uint32_t memory_alignment;
    bool is_block_device, is_regular, is_socket;
    bool direct;                 /* O_DIRECT */
    bool in_memory;              /* tmpfs and the like: system calls do not wait for a disk */
    _Atomic bool nowait_refused; /* RWF_NOWAIT: not on this file system */
    _Atomic uint8_t write_way;   /* enum write_way in real_file.c */
    _Atomic uint8_t write_rest;  /* writes that go the long way, since one was slow */
    _Atomic uint8_t read_rest;   /* reads that are not tried at once, since some had to wait */
    _Atomic bool locked;         /* rt_file_lock() took something */
    _Atomic unsigned rings;      /* bit n: ring[n].slot is set */
    struct real_file_ring {
        uint16_t slot; /* of the file in ring n, from 1; 0: not registered */
        uint16_t uses; /* by ring n's thread only */
    } ring[REAL_FILE_RINGS];
};

static inline struct real_file *real_file(struct rt_file *file)
{
    return container_of(file, struct real_file, file);
}

/**
 * Writes into the page cache at once, where that costs less than handing the write to a thread.
 * @return whether @io is complete.
 */
bool real_file_write_at_once(struct rt_io *io);

/** Carries out @io by blocking system calls. @return its result. Any thread. */
int64_t real_file_perform(struct rt_io *io);

/** Drops @f from all rings (uring_fixed.c). */
void uring_file_closing(struct real_file *f);

void real_file_close(struct rt_file *file);
int real_file_lock(struct rt_file *file, uint64_t start, uint64_t length, enum rt_lock lock);
int real_file_try_read(struct rt_file *file, uint64_t offset, void *bytes, size_t length);
int real_file_lock_test(struct rt_file *file, uint64_t start, uint64_t length);

/* ---- workers (workers.c) ---- */

struct workers {
    pthread_mutex_t mutex;
    pthread_cond_t more;    /* something to do, or the end */
    pthread_cond_t gone;    /* a thread went */
    struct list pending;    /* struct rt_io, link */
    unsigned threads, idle; /* threads alive; of them waiting */
    unsigned limit, pending_count;
    bool stopping;
    bool to_join; /* the thread that went last is joined by the next to go */
    pthread_t last;
};

void workers_init(struct workers *workers, unsigned limit);

/** No work is pending. Waits for the threads to end. */
void workers_fini(struct workers *workers);

/** Hands @io to a worker, which performs and completes it. As rt_ops.submit. */
bool workers_submit(struct workers *workers, struct rt_io *io);

/* ---- the two implementations ---- */

struct rt_real {
    struct rt rt;
    struct workers workers;
    unsigned ring_flags; /* of io_uring_setup(), as this kernel takes them */
};

static inline struct rt_real *rt_real(struct rt *rt)
{
    return container_of(rt, struct rt_real, rt);
}

extern const struct rt_ops rt_uring_ops, rt_threads_ops;

/** Finds out which ring this kernel gives us. @return 0 and real->ring_flags, or -errno. */
int rt_uring_probe(struct rt_real *real);

uint64_t real_now_ns(struct rt *rt);
uint64_t real_random_u64(struct rt *rt);
void real_free(struct rt *rt);

#endif
